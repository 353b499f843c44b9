from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from xaibench.run.config import RunConfig
from xaibench.study.schedule import work_off
from xaibench.study.tasks import Outcome, Task

CONFIG = RunConfig()


def task(name):
    return Task("student", Path("/nowhere"), CONFIG, name)


class Fake:
    """An engine that ends tasks in a given order, with given errors."""

    def __init__(self, slots, errors=(), last_first=False):
        self.slots, self.errors, self.last_first = slots, dict(errors), last_first
        self.running, self.stopped, self.most = [], False, 0

    def has_room(self):
        return len(self.running) < self.slots

    def start(self, one):
        self.running.append(one)
        self.most = max(self.most, len(self.running))

    def wait(self):
        one = self.running.pop(-1 if self.last_first else 0)
        return one, self.errors.get(one.student, Outcome())

    def stop(self):
        self.stopped = True


def done(needs, engine, possible=lambda task, failed: not list(failed)):
    return [event.task.student for event in work_off(needs, engine, possible) if event.outcome]


A, B, C, D = (task(name) for name in "abcd")
DIAMOND = {A: frozenset(), B: frozenset({A}), C: frozenset({A}), D: frozenset({B, C})}


@given(st.integers(1, 5), st.booleans())
def test_needs_end_first_and_all_is_done_once(slots, last_first):
    engine = Fake(slots, last_first=last_first)
    order = done(DIAMOND, engine)
    assert sorted(order) == list("abcd")
    assert order[0] == "a"
    assert order[-1] == "d"
    assert engine.most <= slots
    assert engine.stopped


def test_what_needs_a_failed_task_is_left_out_and_the_rest_goes_on():
    errors = {"b": Outcome("broken")}
    assert done(DIAMOND, Fake(1, errors)) == ["a", "b", "c"]
    assert done(DIAMOND, Fake(1, errors), lambda task, failed: True) == ["a", "b", "c", "d"]
    assert done(DIAMOND, Fake(2, {"a": Outcome("broken")})) == ["a"]


def test_a_hopeless_end_is_the_end():
    engine = Fake(1, {"a": Outcome("no space", hopeless=True)})
    assert done(DIAMOND, engine) == ["a"]
    assert engine.stopped


def test_who_stops_looking_stops_the_engine():
    engine = Fake(2)
    events = work_off(DIAMOND, engine, lambda task, failed: True)
    next(events)
    events.close()
    assert engine.stopped
