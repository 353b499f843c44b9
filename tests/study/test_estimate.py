import pytest

from xaibench.study import estimate


class Clock:
    """Time that passes by work alone: `once` and `step` seconds."""

    def __init__(self, once, step):
        self.once, self.step, self.now, self.calls = once, step, 0.0, []

    def monotonic(self):
        return self.now

    def work(self, steps):
        self.calls.append(steps)
        self.now += self.once + self.step * steps


@pytest.mark.parametrize(
    ("once", "step", "calls", "seconds"),
    [
        (0.05, 0.01, [1, 2, 200], 0.01),
        (3.0, 2.0, [1, 2, 3], 2.0),  # many steps would take long
        (0.0, 0.5, [1, 2, 20], 0.5),
        (3.0, 20.0, [1], 23.0),  # a single one does: with what is done once
    ],
)
def test_a_step_is_timed_without_what_is_done_once_and_in_no_more_steps_than_needed(
    monkeypatch, once, step, calls, seconds
):
    clock = Clock(once, step)
    monkeypatch.setattr(estimate, "time", clock)
    assert estimate._a_step(clock.work, 200) == pytest.approx(seconds)
    assert clock.calls == calls
