"""Looking at results imports nothing that trains, explains or draws: each entry point in a Python of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = {"torchvision", "timm", "lightning", "lightning_fabric", "captum", "zennit"}
SCIENCE = {"scipy", "skimage", "sklearn", "ot"}
DRAWING = {"matplotlib", "ipywidgets", "IPython"}
HEAVY = TRAINING | SCIENCE | DRAWING | {"torch", "numpy", "pandas"}

COMMAND = """
import contextlib
import io
import xaibench.cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    xaibench.cli.main()
"""
READING = """
import sys
import xaibench as xb
run = xb.open_run(sys.argv[1])
run.images, run.history(run.students[0])
run.scores(), run.summary(), run.predictions(), run.validity(), run.faithfulness(), run.table()
run.attribution("teacher", run.explainers[0]).heatmaps
"""
NAMES = "import xaibench as xb; xb.METRICS, xb.METHODS, xb.parse_explainer('lrp'), xb.parse_method('subdistill')"


def imported(code: str, *arguments: object) -> set[str]:
    """Which of the heavy libraries a Python that runs `code` with these arguments has imported."""
    tail = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')"
    command = [sys.executable, "-c", code + tail, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.split())


def test_the_package_and_the_help_import_nothing_heavy() -> None:
    assert imported("import xaibench") == set()
    assert imported(COMMAND, "--help") == set()
    assert imported(COMMAND, "distill", "--help") == set()


@pytest.mark.slow
def test_names_and_options_need_torch_alone() -> None:
    assert imported(NAMES) == {"torch", "numpy"}
    assert imported(COMMAND, "info") == {"torch", "numpy"}


@pytest.mark.slow
def test_reading_a_run_needs_torch_and_pandas_alone(tiny_run: Path) -> None:
    assert imported(READING, tiny_run) == {"torch", "numpy", "pandas"}
    assert imported(COMMAND, "info", tiny_run) == {"torch", "numpy", "pandas"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import sys; import xaibench as xb; xb.explore(sys.argv[1])",
        "import xaibench as xb; xb.Explorer, xb.similarity_figure, xb.gallery",
    ],
    ids=["explorer", "what draws"],
)
def test_looking_at_a_run_imports_nothing_that_trains_or_explains(code: str, tiny_run: Path) -> None:
    found = imported(code, tiny_run)
    assert "matplotlib" in found
    assert not found & (TRAINING | SCIENCE)


@pytest.mark.slow
def test_a_figure_of_a_run_is_drawn_without_models(tiny_run: Path, tmp_path: Path) -> None:
    found = imported(COMMAND, "figure", tiny_run, "--out", tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").is_file()
    assert not found & (TRAINING | SCIENCE | {"ipywidgets", "IPython"})


def test_the_check_sees_what_is_imported() -> None:
    assert imported("import matplotlib.colors") == {"matplotlib", "numpy"}
