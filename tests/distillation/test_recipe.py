from __future__ import annotations

import pytest

from xaibench.distillation.recipe import Recipe, resolve_precision
from xaibench.errors import ConfigError, UnknownNameError, XaibenchError


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs must be above 0 and finite, got 0"),
        ({"lr": float("nan")}, ConfigError, "lr must be above 0 and finite, got nan"),
        ({"weight_decay": -1.0}, ConfigError, "weight_decay must be at least 0"),
        ({"views": -1}, ConfigError, "views must be at least 0"),
        ({"batch_size": 1}, ConfigError, "batch_size must be at least 2"),
        ({"schedule": "cosin"}, UnknownNameError, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"augment": "flip"}, UnknownNameError, "unknown augment 'flip': did you mean 'crop-flip'"),
        ({"precision": "bf16"}, UnknownNameError, "unknown precision 'bf16': did you mean 'bf16-mixed'"),
    ],
)
def test_impossible_recipes_are_refused(options: dict[str, object], error: type[XaibenchError], message: str) -> None:
    with pytest.raises(error, match=message):
        Recipe(**options)  # type: ignore[arg-type]


def test_the_smallest_batch_is_a_whole_one_where_the_last_is_dropped() -> None:
    assert [Recipe(batch_size=8).smallest_batch, Recipe(batch_size=8, drop_last=True).smallest_batch] == [2, 8]


def test_views_say_which_pixels_an_epoch_shows() -> None:
    fresh, two, still = Recipe(), Recipe(views=2), Recipe(augment="none", views=5)
    assert (fresh.cached_views, two.cached_views, still.cached_views) == (0, 2, 1)
    assert [fresh.view(e) for e in range(4)] == [0, 1, 2, 3]
    assert [two.view(e) for e in range(4)] == [0, 1, 0, 1]
    assert [still.view(e) for e in range(4)] == [0, 0, 0, 0]
    assert Recipe(views=9, epochs=3).cached_views == 3
    assert resolve_precision("32-true") == "32-true"
    assert resolve_precision("auto") in ("32-true", "bf16-mixed", "16-mixed")
