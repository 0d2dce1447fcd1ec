"""What was once wrong with lanes, resources, gates, skips and what is said of them."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from background_tasks import EventTrigger, Gate, Scheduler, Task, Trigger
from background_tasks.outlook import Bound, waiting
from background_tasks.task import Execution, Status
from background_tasks.testing import Clock, InlineScheduler
from tests.driver import MANY, NOON, Driver, at, known

# Starvation


def test_every_run_that_waited_too_long_is_passed_by_none() -> None:
    """Not only the first of them: the second needs something else, and is passed for ever."""
    driver = Driver(slots=9, capacity={"db": 1, "mem": 2}, max_defer=300.0)
    db = driver.add("db", resources={"db": 1})
    big, small = driver.add("big", resources={"mem": 2}), driver.add("small", resources={"mem": 1})
    driver.ask(db, small, db, big)  # the first "db" holds it for hours
    assert driver.start() == ["db", "small"]

    for now in range(100, 300, 100):  # two of "small" that take turns: one always runs
        driver.go(now)
        driver.ask(small)
        assert driver.start() == ["small"]
        driver.end("small")
    driver.go(300)
    driver.ask(small)
    assert driver.start() == []
    driver.end("small")

    assert driver.start() == ["big"]


def test_those_behind_one_of_the_same_demand_wait_no_longer() -> None:
    """Two that need the same came at once: after 300 s neither is passed any more."""
    driver = Driver(slots=9, capacity={"db": 2}, max_defer=300.0)
    small = driver.add("small", resources={"db": 1})
    first, second = (driver.add(name, resources={"db": 2}) for name in ("first", "second"))
    driver.ask(small, first, second)
    assert driver.start() == ["small"]
    driver.go(300)
    driver.end("small")
    assert driver.start() == ["first"]
    driver.ask(small)
    driver.go(310)
    driver.engine.set_priority(small, 100)
    driver.end("first")

    assert driver.start() == ["second"]


def test_each_run_has_its_own_time_at_a_gate() -> None:
    """One of higher priority that came later does not hide one that was held for too long."""
    driver = Driver(slots=9, aging=5.0, has_gates=True, max_defer=300.0)
    driver.ask(driver.add("running"))
    driver.start()
    driver.close()
    driver.ask(driver.add("low"))
    driver.go(10)
    driver.ask(driver.add("high", priority=3))
    driver.go(300)

    assert driver.engine.claim_slots() > 0
    assert driver.start() == ["low"]


def test_disabled_in_between_its_wait_begins_anew() -> None:
    """Also when it was not the first of those that were kept waiting."""
    driver = Driver(slots=9, capacity={"db": 2, "mem": 1}, max_defer=10.0)
    mem = driver.add("mem", resources={"mem": 1})
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(mem, small, mem, big)
    assert driver.start() == ["mem", "small"]
    driver.engine.set_enabled(big, False, at(0))
    driver.go(100)
    driver.engine.set_enabled(big, True, at(100))
    driver.end("mem")
    assert driver.start() == ["mem"]
    driver.ask(small)

    assert driver.start() == ["small"]


# What is left behind, and what breaks


def test_removed_runs_are_forgotten() -> None:
    """While the first that was kept waiting still is, those behind it that go leave nothing."""
    driver = Driver(slots=9, capacity={"db": 1, "mem": 1})
    db, mem = driver.add("db", resources={"db": 1}), driver.add("mem", resources={"mem": 1})
    driver.ask(db, mem, db)
    driver.start()
    for _ in range(1000):
        gone = driver.add("gone", resources={"mem": 1})
        driver.ask(gone)
        driver.start()
        driver.engine.remove(gone.id, at(0))

    admission = driver.engine._admission
    assert admission is not None
    assert sum(len(kind.places) for kind in admission._kinds.values()) <= 100


def test_a_capacity_that_is_no_float() -> None:
    """It is refused, or works; the slot that looks for a run does not die of it."""
    try:
        driver = Driver(capacity={"x": 10**400})
    except ValueError:
        return
    driver.ask(driver.add("t", resources={"x": 1}))

    assert driver.start() == ["t"]


def test_a_sum_of_floats_that_is_all_there_is() -> None:
    """Nothing is left, rather than less than nothing."""
    driver = Driver(slots=9, capacity={"share": 0.3})
    for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.1)):
        driver.ask(driver.add(name, resources={"share": share}))
    driver.start()

    assert driver.waiting() == ["c: it needs 0.1 of resource 'share', 0 of 0.3 is free"]


def test_large_amounts_are_told_in_full() -> None:
    """Megabytes and bytes are large numbers, and people compare them."""
    driver = Driver(capacity={"bytes": 16_000_000})
    task = driver.add("t", resources={"bytes": 10_000_001})
    driver.ask(task, task)
    driver.start()

    assert driver.waiting() == [
        "t: it needs 10000001 of resource 'bytes', 5999999 of 16000000 is free"
    ]


def test_skipped_signals_are_taken_a_few_at_a_time() -> None:
    """The lock is not held for all of them, nor is a signal handler."""
    driver = Driver()
    changed = EventTrigger()
    task = driver.add("t", max_instances=1, overlap="skip", triggers=[changed])
    driver.ask(task)
    driver.start()
    for _ in range(10_000):
        changed.fire()
    driver.engine.ring(task._arms[0])

    driver.engine.release(at(0), 64)

    assert driver.engine.stats().missed <= 64


def test_a_skipped_run_of_a_custom_trigger_is_not_released() -> None:
    """run_tasks leaves it out of what was released, as it does for any other trigger."""
    scheduler = InlineScheduler()
    counts: list[int] = []
    trigger = _Once()
    task = scheduler.add_task(
        Task(
            "t",
            lambda: counts.append(_again(trigger, scheduler)),
            overlap="skip",
            triggers=[trigger],
        )
    )
    scheduler.release_task(task.id)
    scheduler.run_tasks()

    assert scheduler.stats().missed == 1
    assert counts == [0]


# Gates


def test_a_slow_sensor_does_not_make_time_go_faster() -> None:
    """What a gate closes at may be an instant that the engine has passed."""
    driver = Driver(has_gates=True)
    first = driver.engine._ready.stamp(at(0))
    driver.go(5)  # others go on while the sensor takes 5 s
    driver.now = 0
    driver.close()
    driver.go(6)

    assert driver.engine._ready.stamp(at(6)) - first == 6


def test_the_scheduler_thread_does_not_spin_while_another_samples() -> None:
    """A sensor that takes long, asked by run_tasks, costs no CPU of the scheduler's thread."""
    entered, leave = threading.Event(), threading.Event()
    looks: list[int] = []

    def slow() -> float:
        if threading.current_thread().name == "caller":
            entered.set()
            assert leave.wait(10)
        return 0.0

    enough = threading.Event()
    scheduler = Scheduler(1, tick_interval=3600, gates=[Gate(slow, close=30, reopen=24)])
    tick = scheduler._tick_once

    def count(*, poll: bool) -> int:
        looks.append(1)
        if len(looks) > 200:
            enough.set()
        return tick(poll=poll)

    scheduler._gates._next = 0.0
    caller = threading.Thread(target=scheduler.run_tasks, name="caller")
    caller.start()
    assert entered.wait(10)
    scheduler._gates._next = 0.0  # a second later
    scheduler._tick_once = count  # type: ignore[method-assign] # to count
    scheduler.start()
    is_spinning = enough.wait(0.5)
    leave.set()
    caller.join(10)
    assert scheduler.stop(timeout=10)

    assert not is_spinning


def test_a_sensor_may_move_the_clock() -> None:
    """In a test a sensor may take its time; the clock still gets to its end."""
    clock = Clock()
    looks: list[int] = []

    def slow() -> float:
        if clock.monotonic() == 1:
            clock.advance(seconds=3)
        return 31.0

    class Counting(InlineScheduler):
        def run_tasks(self) -> int:
            looks.append(1)
            if len(looks) > 1000:
                raise SystemError("the clock does not get on")
            return super().run_tasks()

    def work() -> None:
        scheduler.release_task(held.id)
        clock.advance(seconds=10)

    scheduler = Counting(clock=clock, gates=[Gate(slow, close=30, reopen=24)])
    held = scheduler.add_task(Task("held", int))
    scheduler.release_task(scheduler.add_task(Task("work", work)).id)
    scheduler.run_tasks()

    assert len(looks) < 1000


# What is said


@pytest.mark.parametrize("status", [Status.MISSED, Status.DROPPED])
def test_what_never_ran_has_no_length(status: Status) -> None:
    """A task of which there are only records without a run is one that nobody knows."""
    missed, other = Task("missed", int), known(Task("other", int), 10.0)
    missed._id, other._id = 0, 1
    missed._history = [Execution(status=status)]

    found = Bound([missed, other], [], now=NOON, slots=1, aging=5.0)

    assert found._lengths[0] == 10.0


def test_a_task_that_nobody_knows_is_as_long_as_what_runs() -> None:
    """The longest of the others is that of what runs now, too."""
    one, other = known(Task("one", int), 10.0), Task("other", int)
    one._id, other._id = 0, 1
    running = Execution(task_id=0, status=Status.RUNNING, started_at=NOON)

    found = Bound([one, other], [running], now=at(50), slots=1, aging=5.0)

    assert found._lengths[1] == 50.0


def test_no_bound_for_what_may_still_lack_a_resource() -> None:
    """That it waits for a slot first does not make the resource come any sooner."""
    driver = Driver(slots=2, capacity={"db": 1})
    settings: dict[str, Any] = {"resources": {"db": 1}, "priority": 3}
    longs = [known(driver.add("long", **settings), 1000.0) for _ in range(4)]
    short, db = known(driver.add("short"), 1.0), driver.add("db", resources={"db": 1})
    driver.ask(known(db, 1.0), longs[0], short)
    driver.engine.set_enabled(db, False, at(0))
    assert driver.start() == ["long", "short"]
    driver.engine.set_enabled(db, True, at(0))
    driver.ask(*longs[1:])

    assert "short" not in _promises(driver, slots=2)
    assert "db" not in _promises(driver, slots=2)


def test_ready_is_in_order_also_of_what_waited_too_long() -> None:
    """What goes first whatever its priority stands first."""
    driver = Driver(slots=9, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    driver.start()
    driver.go(10)
    driver.engine.set_priority(small, 10)
    driver.ask(small)

    expected = [line.partition(":")[0] for line in driver.waiting()]
    driver.end("small")

    assert driver.start() + [run.task.name for run in driver.running][1:] == ["big"]
    assert expected == ["big", "small"]


def test_a_bound_by_the_clock_of_a_test() -> None:
    """With a Clock a run is as long as the clock says, also in what is promised of the next."""
    clock = Clock()
    scheduler = InlineScheduler(1, clock=clock)
    scheduler.start()
    task = scheduler.add_task(Task("t", lambda: clock.advance(seconds=100)))
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    scheduler.release_task(task.id)

    (found,) = scheduler.ready()

    assert found.released_at is not None
    assert found.latest_start is not None
    assert found.latest_start >= found.released_at + timedelta(seconds=100)


def test_slots_are_claimed_for_no_more_than_may_start() -> None:
    """One that may start among a hundred that may not is work for one slot."""
    driver = Driver(slots=50, capacity={"db": 1})
    for _ in range(100):
        driver.ask(driver.add("db", resources={"db": 1}))

    assert driver.engine.claim_slots() == 1


class _Once(Trigger):
    """A trigger of the user's that is ready when it is told."""

    ready = True

    def is_ready(self) -> bool:
        """Return whether it is."""
        return self.ready

    def reset(self) -> None:
        """Be ready no more."""
        self.ready = False


def _again(trigger: _Once, scheduler: Scheduler) -> int:
    trigger.ready = True
    return scheduler.run_tasks()


def _promises(driver: Driver, *, slots: int) -> dict[str, Any]:
    """Return what is promised of each that waits, by name."""
    engine, now = driver.engine, at(driver.now)
    running = [run.execution for run in engine.live.values()]
    bound = Bound(engine.tasks.values(), running, now=now, slots=slots, aging=5.0)
    found = waiting(engine.waiting(MANY, now), bound, "")
    return {each.task_name: each.latest_start for each in found if each.latest_start}
