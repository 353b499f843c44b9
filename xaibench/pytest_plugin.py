"""pytest fixtures for explanations; loaded by pytest itself. Nothing heavy is imported before a fixture is used."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

_LONGEST = 200  # characters of a test's name in that of a file, of which file systems take 255 bytes

if TYPE_CHECKING:
    from xaibench.run.folder import Run
    from xaibench.similarity.similarity_report import SimilarityReport


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("xaibench", "explanations of teacher and student")
    group.addoption(
        "--xaibench-pictures",
        metavar="DIR",
        type=Path,
        help="folder for pictures of failed explains_alike checks (default: xaibench-failures in the temp folder)",
    )
    group.addoption("--xaibench-run", metavar="DIR", type=Path, help="run folder that the xaibench_run fixture opens")


@pytest.fixture
def explains_alike(request: pytest.FixtureRequest) -> Callable[..., SimilarityReport]:
    """`xaibench.testing.assert_explains_alike`, which saves the picture of a failure under this test's name."""
    from xaibench.testing import assert_explains_alike, failure_folder

    try:
        folder = request.config.getoption("--xaibench-pictures") or failure_folder()
    except OSError:  # there is no temporary folder: the assertion says so below the scores
        folder = None
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-")
    calls = itertools.count(1)

    @functools.wraps(assert_explains_alike)
    def check(*args: Any, **options: Any) -> SimilarityReport:
        __tracebackhide__ = True
        call = next(calls)
        if folder is not None:
            options.setdefault("picture", folder / f"{name[-_LONGEST:]}{f'-{call}' * (call > 1)}.png")
        return assert_explains_alike(*args, **options)

    return check


@pytest.fixture(scope="session")
def xaibench_run(pytestconfig: pytest.Config) -> Run:
    """The run folder given by --xaibench-run, opened; skips the test where none is given."""
    folder = pytestconfig.getoption("--xaibench-run")
    if folder is None:
        pytest.skip("no run folder: give one with --xaibench-run DIR")
    from xaibench.run.folder import open_run

    return open_run(folder)
