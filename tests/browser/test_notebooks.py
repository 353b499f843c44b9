"""Notebooks with panels in JupyterLab: run from top to bottom, used, looked at, and accessible."""

import shutil

import pytest

from tests.browser.jupyter import (
    ROOT,
    jupyter_lab,
    overflowing,
    pictures,
    run_all,
    violations,
    wait_for,
    wait_until_run,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(tiny_run, tmp_path_factory):
    """The address of a JupyterLab on the notebooks, with a run to look at."""
    folder = tmp_path_factory.mktemp("lab")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder)
    with jupyter_lab(folder, shutil.copytree(tiny_run, folder / "run")) as address:
        yield address


@pytest.fixture
def opened(page, lab, tmp_path):
    """opened(name) -> the page with that notebook, run; what the notebook looks like then is kept as whole.png."""

    def show(name):
        run_all(page, lab, f"{name}.ipynb")
        wait_until_run(page)
        page.keyboard.press("Control+b")  # the file browser goes
        notebook = page.locator(".jp-NotebookPanel-notebook .jp-WindowedPanel-outer")
        height = notebook.evaluate("one => one.scrollHeight")
        page.set_viewport_size({"width": 1400, "height": height + 200})
        notebook.evaluate("one => { one.scrollTop = 0; }")
        page.screenshot(path=tmp_path / "whole.png")
        page.set_viewport_size({"width": 1400, "height": 1100})
        return page

    return show


def students(explorer):
    """Headings of the explorer's cards, but for the input and the teacher."""
    return explorer.locator(".xb-card > b").all_inner_texts()[2:]


def test_the_panels_of_03_work_together(opened, tmp_path):
    page = opened("03_decision_structure")
    explorer, panel, training = (page.locator(f".xaibench-{name}") for name in ("explorer", "run", "training"))
    assert "AT, seed 0" in students(explorer)  # the one that was trained in the notebook
    panel.locator("button[title^='LRP cosine of KD,']").click()
    wait_for(lambda: students(explorer) == ["KD, seed 0"], "the explorer did not follow the score")
    for part in ("training", "interval plots", "further questions", "tables to copy", "scores"):
        panel.get_by_role("button", name=part, exact=True).click()
        wait_for(lambda: panel.locator(".mod-active").inner_text() == part, f"no {part}")  # noqa: B023
        panel.screenshot(path=tmp_path / f"{part}.png")
        assert overflowing(panel) == []
        assert violations(page, panel) == []
    assert training.locator("img").count() == 3
    assert violations(page, training) == []
    assert page.locator(".xb-error").count() == 0


def test_own_models_of_06_are_explored(opened):
    page = opened("06_bring_your_own_models")
    explorer = page.locator(".xaibench-explorer")
    assert students(explorer) == ["student", "vit"]
    before = pictures(explorer)
    handle = explorer.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    wait_for(lambda: all(old != new for old, new in zip(before, pictures(explorer))), "the pictures did not follow")
    assert page.locator(".xb-error").count() == 0


def test_subspaces_of_02_are_looked_at(opened):
    page = opened("02_subspaces")
    panel = page.locator(".xaibench-subspaces").last
    before = pictures(panel)
    panel.get_by_label("basis", exact=True).select_option("pca")
    wait_for(lambda: pictures(panel)[-1] != before[-1], "the directions of another basis look the same")
    assert overflowing(panel) == []
    assert violations(page, panel) == []
    assert page.locator(".xb-error").count() == 0
