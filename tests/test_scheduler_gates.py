"""Gates in a scheduler: when they are sampled, by whom, and what is told of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from background_tasks import Change, ChangeKind, Gate, PeriodicTrigger, Scheduler, Task
from background_tasks.primitives import Turn
from background_tasks.testing import Clock, InlineScheduler
from tests.conftest import Gate as Turnstile
from tests.conftest import Watch

CLOSED = "queue 31 (closes at 30, opens at 24)"


class Dial:
    """A sensor that returns what it is set to, or raises it, and counts how often it was asked."""

    def __init__(self, value: Any = 0.0) -> None:
        """Set it to *value*."""
        self.value = value
        self.asked = 0
        self.act: Callable[[], object] = int

    def __call__(self) -> float:
        """Be the sensor."""
        self.asked += 1
        self.act()
        if isinstance(self.value, BaseException):
            raise self.value
        value: float = self.value
        return value


@pytest.fixture
def dial() -> Dial:
    """Return a sensor that says 0."""
    return Dial()


# When


def test_sampled_at_most_once_a_second(dial: Dial) -> None:
    """However often it ticks, and at the first tick."""
    clock, scheduler = _made(dial)

    asked = []
    for step in (0.0, 0.0, 0.5, 0.25, 0.25, 0.999, 0.001, 10.0, 0.0):
        clock._pass_to(clock.now() + _seconds(step))
        scheduler.run_tasks()
        asked.append(dial.asked)

    assert asked == [1, 1, 1, 1, 2, 2, 3, 4, 4]


def test_a_clock_that_is_set_samples_no_more_often(dial: Dial) -> None:
    """A second is one of the clock that nobody sets."""
    clock, scheduler = _made(dial)
    scheduler.run_tasks()

    for hours in (1, -2, 5):
        clock.jump_to(clock.now() + _seconds(hours * 3600))
        scheduler.run_tasks()

    assert dial.asked == 1


def test_without_gates_nothing_is_sampled() -> None:
    """And the clock need not stop each second for it."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock, capacity={"db": 1})
    seen: list[object] = []

    def work() -> None:
        scheduler.release_task(task.id)
        seen.append(scheduler.next_due())

    task = scheduler.add_task(Task("t", work))
    scheduler.run_task(task.id)

    assert seen == [None]


def test_the_scheduler_thread_samples_each_second(dial: Dial) -> None:
    """Without anything to run, also between two looks at triggers, and stops with it."""
    often = threading.Event()
    dial.act = lambda: often.set() if dial.asked == 2 else None

    with Scheduler(1, tick_interval=3600, gates=[_gate(dial)]):
        assert often.wait(10)

    asked = dial.asked
    assert asked >= 2
    assert dial.asked == asked


def test_while_a_sensor_is_asked_no_lock_is_held(dial: Dial) -> None:
    """It may call whatever it likes, a tick included, and is not asked from within itself."""
    clock, scheduler = _made(dial)
    task = scheduler.add_task(Task("t", int))
    done: list[object] = []

    def act() -> None:
        scheduler.release_task(task.id)
        done.append(scheduler.run_tasks())
        task.priority = 3
        done.append(len(scheduler.ready()))
        done.append(scheduler.stats().succeeded)
        scheduler.remove_task(task.id)
        scheduler.run_task(scheduler.add_task(Task("other", int)).id)

    dial.act = act
    scheduler.run_tasks()

    assert done == [0, 0, 1]
    assert dial.asked == 1
    assert scheduler.stats().succeeded == 2
    clock.advance(seconds=0)


def test_a_sensor_may_stop_its_scheduler(dial: Dial) -> None:
    """In the thread that ticks, too: it does not wait for itself."""
    stopped = threading.Event()
    scheduler = Scheduler(1, gates=[_gate(dial)])

    def act() -> None:
        scheduler.stop(timeout=10)
        stopped.set()

    dial.act = act
    scheduler.start()

    assert stopped.wait(10)
    assert scheduler.stop(timeout=10)


def test_two_threads_ask_once(dial: Dial) -> None:
    """While one asks, the other goes on without."""
    entered, leave = threading.Event(), threading.Event()

    def act() -> None:
        entered.set()
        assert leave.wait(10)

    dial.act = act
    scheduler = Scheduler(1, gates=[_gate(dial)])
    ran = threading.Event()
    scheduler.release_task(scheduler.add_task(Task("t", ran.set)).id)
    other = threading.Thread(target=scheduler.run_tasks)
    other.start()
    assert entered.wait(10)

    scheduler._gates._next = 0.0  # a second has passed
    scheduler.run_tasks()
    assert ran.wait(10)
    assert dial.asked == 1
    leave.set()
    other.join(10)

    dial.act = int
    scheduler._gates._next = 0.0
    scheduler.run_tasks()
    assert dial.asked == 2
    assert scheduler.stop(timeout=10)


def test_a_thread_that_comes_late_does_not_ask_again(dial: Dial) -> None:
    """One that saw that a sample was due and then was overtaken by another's."""
    overtaken: list[int] = []

    class Overtaken(Turn):
        def setdefault(self, key: None, default: object = None) -> object:
            if not overtaken:
                overtaken.append(1)
                made._sample_gates()  # what another thread does just then
            return super().setdefault(key, default)

    made = Scheduler(1, gates=[_gate(dial)])
    made._sampling = Overtaken()
    made.run_tasks()

    assert overtaken == [1]
    assert dial.asked == 1


# What it is good for


def test_runs_wait_and_start_when_it_opens(dial: Dial) -> None:
    """One runs all the same; the others start within a second of the opening."""
    clock, scheduler = _made(dial)
    started: list[tuple[str, float]] = []

    def note(name: str) -> None:
        started.append((name, clock.monotonic()))

    def work() -> None:
        for name in ("a", "b"):
            scheduler.release_task(scheduler.add_task(Task(name, note, args=[name])).id)
        clock.advance(seconds=3)
        assert started == []
        dial.value = 25.0
        clock.advance(seconds=2)
        assert started == []
        dial.value = 24.0
        clock.advance(seconds=2)

    dial.value = 31.0
    scheduler.release_task(scheduler.add_task(Task("work", work)).id)
    scheduler.run_tasks()

    assert started == [("a", 6.0), ("b", 6.0)]


def test_held_too_long_it_runs_at_that_second(dial: Dial) -> None:
    """max_defer after it could have started, though the gate is still closed."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock, gates=[_gate(dial)], max_defer=30)
    started: list[float] = []
    waits = scheduler.add_task(Task("waits", lambda: started.append(clock.monotonic())))

    def work() -> None:
        clock.advance(seconds=5)
        scheduler.release_task(waits.id)
        clock.advance(seconds=100)

    dial.value = 31.0
    scheduler.release_task(scheduler.add_task(Task("work", work)).id)
    scheduler.run_tasks()

    assert started == [35.0]


def test_ungated_priority_in_a_scheduler(dial: Dial) -> None:
    """It passes at once."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock, gates=[_gate(dial)], ungated_priority=5)
    started: list[float] = []
    urgent = Task("urgent", lambda: started.append(clock.monotonic()), priority=5)
    scheduler.add_task(urgent)

    def work() -> None:
        scheduler.release_task(urgent.id)
        clock.advance(seconds=50)

    dial.value = 31.0
    scheduler.release_task(scheduler.add_task(Task("work", work)).id)
    scheduler.run_tasks()

    assert started == [0.0]


def test_in_live_threads(dial: Dial, gate: Turnstile) -> None:
    """A run that was held starts by itself when the gate opens."""
    dial.value = 31.0
    ran = threading.Event()
    with Scheduler(2, tick_interval=3600, gates=[_gate(dial)]) as scheduler:
        watch = Watch(scheduler)
        scheduler.release_task(scheduler.add_task(Task("first", gate)).id)
        gate.wait_entered()
        scheduler._gates._next = 0.0
        scheduler.run_tasks()
        scheduler.release_task(scheduler.add_task(Task("held", ran.set)).id)
        assert [each.reason for each in scheduler.ready()] == [f"closed gate: {CLOSED}"]

        dial.value = 0.0
        watch.wait_for(ChangeKind.GATE_OPENED)

        assert ran.wait(10)
        gate.leave.set()


def test_the_last_run_that_ends_lets_one_start(dial: Dial, gate: Turnstile) -> None:
    """Behind a closed gate runs go on one after the other, by the slot's own thread."""
    dial.value = 31.0
    with Scheduler(2, tick_interval=3600, gates=[_gate(dial)]) as scheduler:
        scheduler.run_tasks()
        task = scheduler.add_task(Task("t", gate, max_instances=3))
        for _ in range(3):
            scheduler.release_task(task.id)
        gate.wait_entered()
        assert scheduler.running_tasks_count() == 1
        gate.leave.set()

        assert scheduler.wait_idle(10)
    assert gate.runs == 3


def test_stopped_and_resumed_behind_a_gate(dial: Dial, gate: Turnstile) -> None:
    """What was held waits on, and the counts are right afterwards."""
    dial.value = 31.0
    scheduler = Scheduler(2, tick_interval=3600, gates=[_gate(dial)])
    scheduler.start()
    scheduler.run_tasks()
    task = scheduler.add_task(Task("t", gate, max_instances=3))
    for _ in range(2):
        scheduler.release_task(task.id)
    gate.wait_entered()
    assert not scheduler.stop(timeout=0)
    gate.leave.set()
    assert scheduler.stop(timeout=10)
    assert [each.reason for each in scheduler.ready()] == ["stopped"]

    scheduler.resume()
    assert scheduler.wait_idle(10)
    assert scheduler.stop(timeout=10)

    assert gate.runs == 2
    assert scheduler._engine._admission is not None
    assert scheduler._engine._admission._running == 0


# What is told


def test_each_change_is_told_once(dial: Dial) -> None:
    """Closed, opened, failed and recovered, with the reading."""
    clock, scheduler = _made(dial)
    told: list[Change] = []
    scheduler.add_listener(told.append)

    for value in (0.0, 31.0, 32.0, 25.0, 24.0, 23.0, OSError("gone"), OSError("gone"), 1.0, 1.0):
        dial.value = value
        scheduler.run_tasks()
        clock._pass_to(clock.now() + _seconds(1))

    assert [(change.kind.value, change.reason) for change in told] == [
        ("gate.closed", CLOSED),
        ("gate.opened", "queue 24 (closes at 30, opens at 24)"),
        ("gate.failed", "queue is not known, which keeps the gate open: OSError: gone"),
        ("gate.recovered", "queue 1 (closes at 30, opens at 24)"),
    ]
    assert {(change.task_id, change.task_name, change.execution) for change in told} == {
        (None, "", None)
    }


@pytest.mark.parametrize(
    "wrong",
    [
        ValueError("no"),
        SystemExit(3),
        GeneratorExit(),
        pytest.param("31", id="text"),
        pytest.param(None, id="None"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(True, id="bool"),
    ],
)
def test_a_sensor_that_fails_opens_its_gate(dial: Dial, wrong: object) -> None:
    """Whatever it raises or returns: runs start, and the scheduler lives on."""
    clock, scheduler = _made(dial)
    dial.value = 31.0
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(1)]))

    def work() -> None:
        dial.value = wrong
        clock.advance(seconds=1)
        assert len(task.execution_hist) == 1

    scheduler.release_task(scheduler.add_task(Task("work", work)).id)
    scheduler.run_tasks()
    clock.advance(seconds=3)

    assert len(task.execution_hist) == 4
    assert scheduler.stats().failed == 0


def test_one_gate_of_two_is_enough(dial: Dial) -> None:
    """Both readings are told; what waits waits for both."""
    clock = Clock()
    other = Dial(31.0)
    gates = [_gate(dial), Gate(other, name="other", close=30, reopen=24)]
    scheduler = InlineScheduler(clock=clock, gates=gates)
    seen: list[str] = []
    waits = scheduler.add_task(Task("waits", int))

    def work() -> None:
        scheduler.release_task(waits.id)
        for value in (31.0, 0.0):
            seen.append(scheduler.ready()[0].reason)
            dial.value = value
            clock.advance(seconds=1)
        other.value = 0.0
        clock.advance(seconds=1)
        seen.append(f"{scheduler.ready()}")

    scheduler.release_task(scheduler.add_task(Task("work", work)).id)
    scheduler.start()
    scheduler.run_tasks()

    alone = "closed gate: other 31 (closes at 30, opens at 24)"
    assert seen == [alone, f"closed gate: {CLOSED}; {alone.removeprefix('closed gate: ')}", "[]"]


def test_gates_are_checked() -> None:
    """What is no Gate is refused when the scheduler is made."""
    wrong: Any = [0.5]

    with pytest.raises(TypeError, match=r"^each gate must be a Gate, got 0\.5$"):
        Scheduler(1, gates=wrong)


def _gate(dial: Dial) -> Gate:
    return Gate(dial, name="queue", close=30, reopen=24)


def _made(dial: Dial) -> tuple[Clock, InlineScheduler]:
    clock = Clock()
    return clock, InlineScheduler(clock=clock, gates=[_gate(dial)])


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
