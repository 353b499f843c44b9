import ipywidgets as widgets
import pytest

from xaibench.widgets import panel as module
from xaibench.widgets.explorer import Explorer
from xaibench.widgets.panel import Panel
from xaibench.widgets.parts import button, stack


def alive():
    return dict(widgets.widgets.widget._instances)


def test_closing_frees_what_was_never_opened(make_run, monkeypatch):
    monkeypatch.setattr(make_run, "models", ("teacher", "kd/seed0", "untrained"))  # one student: nothing to choose
    run = make_run()
    before = set(alive())
    Explorer(run).close()
    assert [type(one).__name__ for key, one in alive().items() if key not in before] == []


def test_closing_frees_every_widget(fake_run):
    before = alive()
    explorer = Explorer(fake_run)
    for part in range(len(explorer._details.box.children)):
        explorer._details.box.selected_index = part
    for key in fake_run.images.keys:
        explorer.image = key
    assert len(alive()) > len(before) + 50
    explorer.close()
    left = {key: value for key, value in alive().items() if key not in before}
    assert not left, [type(one).__name__ for one in left.values()]


def test_moving_about_makes_no_widgets(fake_run):
    explorer = Explorer(fake_run)
    explorer._details.box.selected_index = 0
    explorer.image = "test/001"
    before = len(alive())
    for _ in range(5):
        for key in fake_run.images.keys:
            explorer.image = key
    explorer.look = "overlay"
    assert len(alive()) == before


def test_a_cell_that_is_run_again_closes_its_panels(monkeypatch):
    place = ["cell-1", 1]
    monkeypatch.setattr(module, "_cell", lambda: tuple(place))
    first, second = Panel(), Panel()
    assert all(one.comm is not None for one in (first, second))
    place[1] = 2
    third = Panel()
    assert first.comm is None
    assert second.comm is None
    place[:] = ["cell-2", 3]
    Panel()
    assert third.comm is not None


def test_a_panel_says_what_went_wrong_and_escapes_it():
    panel = Panel()
    panel.error = "no file <b>here</b>"
    assert "no file &lt;b&gt;here&lt;/b&gt;" in panel._message.value
    panel.error = ""
    assert panel._message.value == ""


def test_work_that_fails_is_a_sentence_and_work_that_does_not_clears_it(caplog):
    panel, shown = Panel(), []
    panel._work(lambda turn: 1 / 0, shown.append)
    assert panel.error == "ZeroDivisionError: division by zero"
    panel._work(lambda turn: 5, shown.append)
    assert (panel.error, shown) == ("", [5])


@pytest.mark.parametrize("make", [lambda: button("press", lambda: None), lambda: stack(widgets.HTML("x"))])
def test_parts_are_plain_widgets(make):
    assert isinstance(make(), widgets.Widget)
