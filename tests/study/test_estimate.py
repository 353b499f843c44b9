import pytest

from xaibench.study import estimate
from xaibench.study.config import StudyConfig
from xaibench.study.folder import Study


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


@pytest.mark.parametrize(
    ("axis", "values", "pairs"),
    [
        ("train.batch_size", [16, 32], 2),
        ("train.precision", ["32-true", "bf16-mixed"], 2),
        ("student.layers", [["layer3:layer3"], ["layer4:layer4"]], 2),
        ("data.fraction", [0.1, 0.2], 1),
        ("train.lr", [0.1, 0.2], 1),
        ("explain.images", [10, 20], 1),
    ],
)
def test_what_takes_other_time_is_timed_by_itself(monkeypatch, tmp_path, axis, values, pairs):
    timed = []

    def measure(config, *_):
        timed.append(config)
        return estimate._Times({"kd": 0.0}, 0.0, 0.0)

    monkeypatch.setattr(estimate, "_measure", measure)
    config = StudyConfig.from_dict({"methods": ["kd"], "vary": {axis: values}})
    rows = estimate.cells(Study(tmp_path, config), "cpu")
    assert len(timed) == pairs
    assert rows["images"].gt(20).all()  # those trained on, whatever the axis is called
