from __future__ import annotations

import json
import math

import pytest
import torch

from xaibench.attribution.checks import Validity, at_most, map_checks
from xaibench.errors import ExplanationError


def test_nan_never_passes() -> None:
    assert at_most("a", 1.0, 1.0).passed
    assert not at_most("a", 1.01, 1.0).passed
    assert not at_most("a", math.nan, 1.0).passed


def test_nothing_checked_is_not_valid() -> None:
    assert not Validity(()).valid
    with pytest.raises(ExplanationError, match="no check was made"):
        Validity(()).require()


def test_require_names_every_failed_check_with_its_number() -> None:
    validity = Validity((at_most("fine", 0, 1), at_most("sum", 255.0, 1e-3, "hint"), at_most("count", 3, 0)))
    with pytest.raises(ExplanationError) as caught:
        validity.require("LRP of Net")
    message = str(caught.value)
    assert message == ("LRP of Net is not valid: sum is 255, at most 0.001 passes (hint); count is 3, at most 0 passes")


def test_json_round_trip_keeps_nan_and_inf() -> None:
    validity = Validity((at_most("a", math.nan, 1.0, "n"), at_most("b", math.inf, 2.0)), (1, 3))
    back = Validity.from_dict(json.loads(json.dumps(validity.to_dict(), allow_nan=False)))
    assert math.isnan(back.checks[0].value)
    assert back.checks[1:] == validity.checks[1:]
    assert back.flagged == (1, 3)


def test_take_renumbers_flagged() -> None:
    assert Validity((), (1, 3)).take([3, 0, 1]).flagged == (0, 2)


def test_map_checks_count_broken_and_empty_maps() -> None:
    maps = torch.ones(4, 1, 2, 2)
    assert [c.value for c in map_checks(maps)] == [0, 0]
    maps[0, 0, 0, 0] = torch.nan
    maps[1] = 0
    broken, empty = map_checks(maps)
    assert (broken.value, broken.passed) == (1, False)
    assert (empty.value, empty.passed) == (1, True)
    assert not map_checks(torch.zeros(2, 1, 2, 2))[1].passed
