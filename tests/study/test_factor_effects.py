"""Effects of factors over a study's students, by hand."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from benchmarks.factor_effects import QUANTITIES, complete, effects


def grid() -> pd.DataFrame:
    cells = product(("a", "b"), (1, 2), ("mean", "bn"), (1, 2, 3))
    return pd.DataFrame(cells, columns=["init", "images", "method", "seed"])


def test_a_seed_that_lacks_a_student_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    left = complete(grid().drop(index=4), ["init", "images"])  # bn of seed 2 in one cell
    assert left["seed"].unique().tolist() == [1, 3]
    assert len(left) == 16
    assert "seeds 2" in capsys.readouterr().out
    assert len(complete(grid(), ["init", "images"])) == 24


@pytest.mark.parametrize(
    ("factors", "says"),
    [(["inti"], "no factor 'inti'"), (["seed"], "'seed' has 3 levels"), (["init"], "24 students are not one for each")],
)
def test_what_is_no_grid_of_two_levels_is_refused(factors: list[str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        complete(grid(), factors)


def test_effects_are_those_that_were_put_in() -> None:
    rows = []
    for init, images, method, seed in product(("a", "b"), (1, 2), ("mean", "bn"), (1, 2, 3)):
        bn, other = method == "bn", init == "b"
        value = 0.3 + 0.1 * bn + 0.05 * other - 0.02 * (bn and other) + 0.01 * seed * (images == 2)
        rows.append((init, images, method, seed, *[value] * len(QUANTITIES)))
    students = pd.DataFrame(rows, columns=["init", "images", "method", "seed", *QUANTITIES])
    found = effects(students, ["init", "images"]).set_index(["quantity", "effect"]).loc["accuracy"]
    assert found["mean"].to_dict() == pytest.approx(
        {
            "bn - mean": 0.09,
            "init on this difference": -0.02,
            "init on mean": 0.05,
            "init on bn": 0.03,
            "images on this difference": 0,
            "images on mean": 0.02,
            "images on bn": 0.02,
        }
    )
    assert found.loc["bn - mean", ["above 0", "of"]].tolist() == [12, 12]
    over_seeds = found.loc["images on mean"]  # 0.01, 0.02, 0.03: t with two degrees of freedom
    assert over_seeds["high"] - over_seeds["mean"] == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
