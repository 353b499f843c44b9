from __future__ import annotations

import io

import pytest
from rich.console import Console

from xaibench.progress import progress, show_progress


def test_silent_unless_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3) as advance:
        advance()
        advance(2, note="done")
    assert capfd.readouterr() == ("", "")


def test_shown_with_description_count_and_note() -> None:
    text = io.StringIO()
    with show_progress(Console(file=text, force_terminal=True, width=120)), progress("work", 3) as advance:
        advance(2, note="loss 0.5")
    assert "work" in text.getvalue()
    assert "2/3" in text.getvalue()
    assert "loss 0.5" in text.getvalue()


def test_bars_go_to_stderr_and_stop_with_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), show_progress(), progress("work", 1):
        raise ZeroDivisionError
    out, err = capfd.readouterr()
    assert out == ""
    assert "work" in err
    with progress("later", 1) as advance:
        advance()
    assert capfd.readouterr() == ("", "")
