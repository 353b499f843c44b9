from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.options import check_types, format_options, parse_options


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "plain"


@dataclass(frozen=True)
class Rich:
    name: ClassVar[str] = "rich"
    steps: int = 50
    weight: float = 1.0
    shuffle: bool = False
    label: str = "black"
    mode: Literal["mean", "peer_bn"] = "mean"
    limit: int | None = None
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Strict:
    size: int
    name: ClassVar[str] = "strict"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError("size must not be negative")


TABLE: dict[str, type] = {"plain": Plain, "rich": Rich, "strict": Strict}


def parse(text: str) -> object:
    return parse_options(text, TABLE, "thing")


def test_values_take_the_type_of_their_field() -> None:
    text = "rich: steps=7, weight=1e-3, shuffle=TRUE, label=a:b=c, mode=peer_bn, limit=3, widths=4+5+6, pair=1+2"
    assert parse(text) == Rich(7, 1e-3, True, "a:b=c", "peer_bn", 3, (4, 5, 6), (1.0, 2.0))
    assert isinstance(parse("rich:weight=2").weight, float)  # type: ignore[attr-defined]
    assert parse("rich:limit=none").limit is None  # type: ignore[attr-defined]
    assert parse("rich:widths=").widths == ()  # type: ignore[attr-defined]
    assert parse("plain") == Plain()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("rihc", UnknownNameError, "unknown thing 'rihc': did you mean 'rich'"),
        ("", UnknownNameError, "unknown thing ''"),
        ("rich:step=3", UnknownNameError, "unknown option of thing 'rich' 'step': did you mean 'steps'"),
        ("rich:name=3", UnknownNameError, "unknown option of thing 'rich' 'name'"),
        ("plain:a=1", ConfigError, "takes no options, got 'a'"),
        ("rich:steps", ConfigError, "'steps' is not of the form key=value"),
        ("rich:", ConfigError, "'' is not of the form key=value"),
        ("rich:=3", ConfigError, "not of the form key=value"),
        ("rich:steps=1,steps=2", ConfigError, "'steps' is given twice"),
        ("rich:steps=1.5", ConfigError, "option 'steps' of thing 'rich' must be a whole number, got '1.5'"),
        ("rich:weight=much", ConfigError, "must be a number, got 'much'"),
        ("rich:shuffle=maybe", ConfigError, "must be true or false, got 'maybe'"),
        ("rich:limit=few", ConfigError, "must be a whole number or none, got 'few'"),
        ("rich:mode=peer", UnknownNameError, "did you mean 'peer_bn'"),
        ("rich:pair=1", ConfigError, r"must be tuple\[float, float\], written a\+b, got '1'"),
        ("strict", ConfigError, "lacks the option 'size': write strict:size=VALUE"),
        ("strict:size=-1", ConfigError, "size must not be negative"),
    ],
)
def test_errors_are_one_line_with_the_remedy(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused() -> None:
    for wrong in (None, 3, Rich()):
        with pytest.raises(ConfigError, match="thing must be a text, got"):
            parse(wrong)  # type: ignore[arg-type]


def test_given_fields_are_set_and_cannot_stand_in_the_text() -> None:
    assert parse_options("rich:steps=7", TABLE, "thing", {"label": "white"}) == Rich(steps=7, label="white")
    assert parse_options("strict", TABLE, "thing", {"size": 3}) == Strict(3)
    with pytest.raises(UnknownNameError, match="unknown option of thing 'rich' 'label'"):
        parse_options("rich:label=black", TABLE, "thing", {"label": "white"})
    with pytest.raises(ConfigError, match="thing 'strict' takes no options, got 'size': write just 'strict'"):
        parse_options("strict:size=4", TABLE, "thing", {"size": 3})


def test_fields_left_out_of_the_text_may_hold_anything() -> None:
    assert format_options(Rich(steps=7, label="a,b"), without=("label",)) == "rich:steps=7"
    assert "label" not in format_options(Rich(label="a,b"), full=True, without=("label",))
    assert format_options(Strict(3), without=("size",)) == "strict"


def test_large_numbers_in_a_tuple_survive_its_plus_signs() -> None:
    text = format_options(Rich(pair=(1e30, -2e-30)))
    assert text == "rich:pair=1e30+-2e-30"
    assert parse(text) == Rich(pair=(1e30, -2e-30))


def test_format_states_what_differs_from_the_defaults_or_everything() -> None:
    assert format_options(Rich()) == "rich"
    assert format_options(Rich(steps=7, shuffle=True, pair=(0.5, 2.0))) == "rich:steps=7,shuffle=true,pair=0.5+2"
    assert format_options(Rich(), full=True).startswith("rich:steps=50,weight=1,shuffle=false,label=black,")
    assert format_options(Strict(3)) == "strict:size=3"
    assert format_options(Rich(weight=2, pair=(0, 2))) == format_options(parse("rich:weight=2,pair=0+2"))


@pytest.mark.parametrize("label", ["a,b", " padded"])
def test_format_refuses_what_text_cannot_hold(label: str) -> None:
    with pytest.raises(ConfigError, match="cannot be written as text"):
        format_options(Rich(label=label))


def test_options_written_in_python_have_the_types_of_their_fields() -> None:
    for value in (Rich(), Rich(limit=3, weight=2), Rich(steps=np.int64(3)), Rich(pair=(0, 0.5), widths=()), Plain()):
        check_types(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10.5}, r"Rich\.steps must be a whole number, got 10\.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": 2**70}, r"steps must be a whole number, got 11805.* \(more than 64 bits\)"),
        ({"weight": "a"}, "weight must be a number, got 'a'"),
        ({"weight": None}, "weight must be a number, got None"),
        ({"shuffle": 1}, "shuffle must be True or False, got 1"),
        ({"label": 1}, "label must be a text, got 1"),
        ({"mode": "peer"}, r"mode must be one of 'mean', 'peer_bn', got 'peer'"),
        ({"limit": "none"}, r"limit must be a whole number or None, got 'none'"),
        ({"widths": [1, 2]}, r"widths must be tuple\[int, \.\.\.\], got \[1, 2\]"),
        ({"widths": (1, 2.5)}, r"got \(1, 2\.5\)"),
        ({"pair": (1.0,)}, r"pair must be tuple\[float, float\], got \(1\.0,\)"),
    ],
)
def test_options_of_another_type_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_types(Rich(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


rich = st.builds(
    Rich,
    steps=st.integers(),
    weight=st.floats(allow_nan=False),
    shuffle=st.booleans(),
    label=st.text("abcXYZ./:= -", max_size=8).map(str.strip),
    mode=st.sampled_from(["mean", "peer_bn"]),
    limit=st.none() | st.integers(),
    widths=st.lists(st.integers(), max_size=4).map(tuple),
    pair=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
)


@settings(deadline=None, max_examples=25)
@given(value=rich, full=st.booleans())
def test_parsing_inverts_formatting(value: Rich, full: bool) -> None:
    assert parse(format_options(value, full=full)) == value
