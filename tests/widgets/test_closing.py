"""Panels that are closed, or that cannot be made, leave nothing behind; and nothing can be asked of them."""

import asyncio
import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from ipywidgets.widgets.widget import _instances

from xaibench.errors import ConfigError, XaibenchError
from xaibench.widgets import panel as module
from xaibench.widgets.explorer import Explorer, explore
from xaibench.widgets.panel import Panel
from xaibench.widgets.run_panel import RunPanel
from xaibench.widgets.subspaces import SubspacePanel
from xaibench.widgets.training import TrainingPanel

PLAIN = "batch_size=16,augment=none,precision=32-true"


@pytest.fixture
def left():
    """left() -> the kinds of the widgets that were made since the test began and are still there."""
    before = set(_instances)
    return lambda: [type(one).__name__ for key, one in _instances.items() if key not in before]


def test_options_of_methods_that_were_chosen_before_are_freed(left, tiny_pair, tiny_task):
    panel = TrainingPanel(tiny_pair, tiny_task, device="cpu")
    for text in ("kd", "subdistill", "fitnet", "kd"):
        panel.method = text
    panel.close()
    assert left() == []


def test_a_run_panel_without_scores_is_freed(left, tiny_run, tmp_path):
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    for name in ("scores.csv", "summary.csv", "table.csv"):
        (folder / name).unlink()
    panel = RunPanel(folder)
    assert panel.error
    panel.part = "training"
    panel.close()
    assert left() == []


def test_a_table_whose_columns_have_changed_is_freed(left, tiny_run):
    panel = RunPanel(tiny_run)
    panel.refresh()
    panel._scores.renew(("lrp", "ig"))
    panel.close()
    assert left() == []


def test_a_training_that_ends_after_its_explorer_was_closed_says_so_and_keeps_its_student(left, tiny_pair, tiny_task):
    async def main():
        explorer = Explorer(tiny_pair, tiny_task.test.take([0, 1]))
        await asyncio.wait_for(explorer.settled(), 60)
        panel = TrainingPanel(
            tiny_pair, tiny_task, method="kd", epochs=2, recipe=PLAIN, every=0, device="cpu", explorer=explorer
        )
        panel.start()
        explorer.close()
        await asyncio.wait_for(panel.settled(), 60)
        assert (panel.state, list(panel.students)) == ("finished", ["kd/seed0"])
        assert panel.error == "this Explorer was closed: open another one"
        assert explorer.comparison.students == ("student",)
        panel.close()

    asyncio.run(main())
    assert left() == []


def test_a_clicked_score_does_not_move_an_explorer_that_was_closed(left, tiny_run):
    explorer = Explorer(tiny_run)
    panel = RunPanel(tiny_run, explorer=explorer)
    explorer.close()
    panel._scores.click(panel.results.methods[0], "lrp")
    assert panel.error == "this Explorer was closed: open another one"
    panel.close()
    assert left() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda pair, task, run: Explorer(run, image="nowhere"),
        lambda pair, task, run: Explorer(pair, task.test, sort="least alike"),
        lambda pair, task, run: RunPanel(run, part="nowhere"),
        lambda pair, task, run: TrainingPanel(pair, task, epochs=0),
        lambda pair, task, run: SubspacePanel(pair, task, direction=0),
    ],
)
def test_a_panel_that_cannot_be_made_leaves_no_widget(left, tiny_pair, tiny_task, tiny_run, make):
    with pytest.raises(XaibenchError):
        make(tiny_pair, tiny_task, tiny_run)
    assert left() == []


def test_nothing_can_be_asked_of_a_closed_panel(left, tiny_pair, tiny_task, tiny_run, tmp_path):
    pictures, run = explore(tiny_pair, tiny_task.test), RunPanel(tiny_run)
    training = TrainingPanel(tiny_pair, tiny_task, method="kd", epochs=1, recipe=PLAIN, folder=tmp_path, device="cpu")
    training.start()
    files = sorted(tmp_path.rglob("*"))
    for panel in (pictures, run, training):
        panel.close()
    image = torch.zeros(tiny_task.test.shape, dtype=torch.uint8)
    for ask in (
        pictures.explain_all,
        lambda: pictures.add_image(image, "mine"),
        lambda: pictures.add_student("other", tiny_pair.student),
        run.refresh,
        run.ask,
        lambda: run.show_images(run.results.methods[0], "lrp"),
        training.start,
        training.resume,
    ):
        with pytest.raises(ConfigError, match="was closed: open another one"):
            ask()
    assert left() == []
    assert sorted(tmp_path.rglob("*")) == files
    assert pictures.comparison.students == ("student",)


def test_a_closed_panel_is_not_kept_for_its_cell(monkeypatch):
    monkeypatch.setattr(module, "_cell", lambda: ("cell-of-a-closed-panel", 1))
    panel = Panel()
    known = weakref.ref(panel)
    panel.close()
    del panel
    gc.collect()
    assert known() is None
