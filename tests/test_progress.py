from __future__ import annotations

import io
import itertools

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from xaibench.progress import progress, show_progress


def test_silent_unless_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3) as advance:
        advance()
        advance(2, note="done")
    assert capfd.readouterr() == ("", "")


def test_a_name_is_shown_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with show_progress(), progress("at [kd] :a:", 2):
        pass
    assert "at [kd] :a:" in capfd.readouterr().err


def test_a_terminal_shows_bars_with_description_count_and_note() -> None:
    text = io.StringIO()
    with show_progress(Console(file=text, force_terminal=True, width=120)), progress("work", 3) as advance:
        advance(2, note="loss 0.5")
    assert "work" in text.getvalue()
    assert "2/3" in text.getvalue()
    assert "loss 0.5" in text.getvalue()
    assert "━" in text.getvalue()


def test_a_log_has_a_line_at_the_start_every_twenty_seconds_and_at_the_end() -> None:
    text = io.StringIO()
    clock = itertools.count(0, 8).__next__  # each look at it is 8 seconds later
    with show_progress(Console(file=text, width=20), clock=lambda: float(clock())), progress("work", 7) as advance:
        assert text.getvalue().split() == ["work", "0/7", "0:00:00"]  # before the first step is done
        for i in range(7):
            advance(note=f"loss {i}")
    assert [" ".join(line.split()) for line in text.getvalue().splitlines()] == [
        "work 0/7 0:00:00",
        "work 3/7 0:00:24 0:00:32 left loss 2",
        "work 6/7 0:00:48 0:00:08 left loss 5",
        "work 7/7 0:00:56 loss 6",
    ]


def test_work_that_fails_leaves_how_far_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with show_progress(), progress("work", 2) as advance:
            advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split()[:2] for line in err.splitlines()] == [["work", "0/2"], ["work", "1/2"]]
    with progress("later", 1) as advance:
        advance()
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client, about event loops
def test_a_notebook_shows_one_text_that_is_brought_up_to_date() -> None:
    code = """
import itertools
from xaibench.progress import end_progress, progress, show_progress
ticks = itertools.count()
with show_progress(clock=lambda: float(next(ticks))):
    for name in ("first", "second"):
        with progress(name, 2) as advance:
            advance()
            advance(note="loss 0.5")
    end_progress()
    print("between")
    with progress("third", 1) as advance:
        advance()
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    seen: list[str] = []
    process = client.process_message
    client.process_message = lambda message, *rest: (  # type: ignore[method-assign]
        seen.append(message["content"].get("data", {}).get("text/plain", "")) or process(message, *rest)
    )
    client.execute()
    shown, between, third = notebook.cells[0].outputs
    first, second = (" ".join(line.split()) for line in shown["data"]["text/plain"].splitlines())
    assert first.startswith("first 2/2")
    assert second.startswith("second 2/2")
    assert second.endswith("loss 0.5")
    assert between["text"] == "between\n"
    assert third["data"]["text/plain"].split()[:2] == ["third", "1/1"]
    counts = [text.split()[1] for text in seen if text.startswith("first") and "second" not in text]
    assert counts[:3] == ["0/2", "1/2", "2/2"]  # while it was running
