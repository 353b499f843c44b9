import asyncio
import threading

import pytest

from xaibench.errors import ConfigError
from xaibench.widgets.worker import Worker, sentence


def test_without_an_event_loop_work_is_done_at_once():
    shown, worker = [], Worker()
    worker.run(lambda turn: 7, shown.append, shown.append)
    assert shown == [7]
    assert not worker.busy


def test_what_work_raises_is_handed_over():
    failed, worker = [], Worker()
    worker.run(lambda turn: 1 / 0, failed.append, failed.append)
    assert isinstance(failed[0], ZeroDivisionError)


def test_what_is_shown_may_ask_for_more():
    shown, worker = [], Worker()

    def show(value):
        shown.append(value)
        if value < 3:
            worker.run(lambda turn: value + 1, show, shown.append)

    worker.run(lambda turn: 1, show, shown.append)
    assert shown == [1, 2, 3]
    assert not worker.busy


def test_the_latest_request_wins_and_works_never_overlap():
    shown, inside, most = [], [0], [0]
    first_runs, go_on = threading.Event(), threading.Event()

    async def main():
        worker = Worker()
        threads = {threading.get_ident()}

        def work(number):
            def run(turn):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                assert threading.get_ident() not in threads
                try:
                    if number == 0:
                        first_runs.set()
                        assert go_on.wait(10)
                        turn.report(0.5)  # it was cancelled meanwhile
                        shown.append("a cancelled work went on")
                    return number
                finally:
                    inside[0] -= 1

            return run

        def show(value):
            assert threading.get_ident() in threads
            shown.append(value)

        worker.run(work(0), show, show)
        assert await asyncio.to_thread(first_runs.wait, 10)
        for number in range(1, 30):
            worker.run(work(number), show, show)
        go_on.set()
        await asyncio.wait_for(worker.settled(), 10)

    asyncio.run(main())
    assert shown == [29]
    assert most == [1]


def test_cancelled_work_shows_nothing_and_the_worker_is_free():
    shown, go_on = [], threading.Event()

    async def main():
        worker = Worker()
        worker.run(lambda turn: go_on.wait(10), shown.append, shown.append)
        assert worker.busy
        worker.cancel()
        assert not worker.busy
        go_on.set()
        worker.run(lambda turn: "next", shown.append, shown.append)
        await asyncio.wait_for(worker.settled(), 10)

    asyncio.run(main())
    assert shown == ["next"]


def test_progress_is_told_in_the_thread_of_the_panel():
    told = []

    async def main():
        thread = threading.get_ident()
        worker = Worker(lambda share, note: told.append((share, note, threading.get_ident() == thread)))
        worker.run(lambda turn: turn.report(0.5, "half"), lambda _: None, told.append)
        await asyncio.wait_for(worker.settled(), 10)

    asyncio.run(main())
    assert told == [(0.0, "", True), (0.5, "half", True)]


def test_what_is_shown_on_the_way_is_shown_in_the_thread_of_the_panel_while_somebody_waits():
    shown, go_on = [], threading.Event()

    async def main():
        thread, worker = threading.get_ident(), Worker()

        def work(turn):
            turn.show(lambda: shown.append(threading.get_ident() == thread))
            assert go_on.wait(10)
            turn.show(lambda: shown.append("shown after the end"))

        worker.run(work, shown.append, shown.append)
        while not shown:
            await asyncio.sleep(0)
        worker.cancel()
        go_on.set()
        worker.run(lambda turn: "next", shown.append, shown.append)
        await asyncio.wait_for(worker.settled(), 10)

    asyncio.run(main())
    assert shown == [True, "next"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("say this"), "say this"),
        (KeyError("x"), "KeyError: 'x'"),
        (KeyboardInterrupt(), "interrupted"),
        (FileNotFoundError(2, "No such file or directory", "run/a.csv"), "run/a.csv: No such file or directory"),
        (OSError("odd"), "OSError: odd"),
    ],
)
def test_an_error_becomes_a_sentence(error, text):
    assert sentence(error) == text


def test_an_interrupt_is_handed_over_and_raised_and_the_worker_is_free():
    failed, worker = [], Worker()

    def work(turn):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run(work, failed.append, failed.append)
    assert [type(error) for error in failed] == [KeyboardInterrupt]
    assert not worker.busy
    worker.run(lambda turn: 7, failed.append, failed.append)
    assert failed[1:] == [7]


def test_work_that_handles_all_errors_ends_nevertheless_when_nobody_waits():
    shown, started, go_on = [], threading.Event(), threading.Event()

    async def main():
        worker = Worker()

        def work(turn):
            started.set()
            assert go_on.wait(10)
            try:
                turn.report(0.5)
            except Exception:  # noqa: BLE001 - as libraries do
                shown.append("took its end for an error")
            shown.append("went on")

        worker.run(work, shown.append, shown.append)
        assert await asyncio.to_thread(started.wait, 10)
        worker.run(lambda turn: "next", shown.append, shown.append)
        go_on.set()
        await asyncio.wait_for(worker.settled(), 10)

    asyncio.run(main())
    assert shown == ["next"]
