"""The notebooks are committed without outputs and run from top to bottom."""

import shutil
import warnings
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
NOISE = ("Traceback", "Warning", "error")


def opened(path):
    import nbformat  # slow to import

    return nbformat.read(path, as_version=4)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return opened(request.param)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_is_committed_without_outputs(notebook):
    import nbformat

    nbformat.validate(notebook)
    assert code_of(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code_of(notebook))


def test_a_notebook_begins_with_words_and_ends_with_a_look_at_its_panels(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert "assert not " in notebook.cells[-1].source
    assert ".error" in notebook.cells[-1].source


@pytest.mark.parametrize(
    "path",
    [NOTEBOOKS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in NOTEBOOKS[1:])],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_and_shows_a_picture_and_a_panel(path, tiny_run, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    notebook = opened(path)
    monkeypatch.setenv("XAIBENCH_FAST", "1")
    monkeypatch.setenv("XAIBENCH_RUN", str(shutil.copytree(tiny_run, tmp_path / "run")))  # questions write into it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the Jupyter client, about event loops
        client.execute()
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", WIDGET} <= shown
    noise = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not any(word in text for text in noise for word in NOISE), noise
