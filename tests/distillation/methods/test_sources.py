"""Every method has its line in the table of sources, and the documentation's table is that one."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaibench.distillation.methods import METHODS, parse_method
from xaibench.distillation.methods.sources import SOURCES, sources_of
from xaibench.distillation.methods.wrapped import Wrapped

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"


def test_every_method_has_its_line() -> None:
    assert list(SOURCES) == [name for name in SOURCES if name in METHODS]
    assert set(SOURCES) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_documentation_says_what_the_table_says(name: str) -> None:
    source = SOURCES[name]
    shown = f"{name}[METHOD]" if issubclass(METHODS[name], Wrapped) else name
    assert f"\n| `{shown}` | {source.loss} | {source.citation} |\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kd:temperature=2", ["kd"]),
        ("kd+fitnet:kd_weight=0", ["kd", "fitnet"]),
        ("influence[kd+at]:refresh=3", ["influence", "kd", "at"]),
        ("random-control[subdistill]", ["random-control", "subdistill"]),
    ],
)
def test_a_sum_and_a_wrapped_method_name_their_parts(text: str, names: list[str]) -> None:
    found = list(sources_of(parse_method(text)))
    assert [name for name, _ in found] == names
    assert all(source == SOURCES[name] for name, source in found)


def test_plain_sources_have_no_markup_and_are_else_the_same() -> None:
    for source in SOURCES.values():
        assert "`" not in source.plain.loss + source.plain.citation
    dkd = SOURCES["dkd"].plain
    assert dkd.loss == "CE + min((epoch + 1) / warmup, 1) · T² (α TCKD + β NCKD), α 1, β 8, epochs from 0"
    assert dkd.citation.endswith("; standardise: Sun et al. 2024 (CVPR), arXiv 2403.01427")
