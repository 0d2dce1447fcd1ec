"""Metrics: what has come of runs and occurrences adds up, whatever happens to their tasks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from background_tasks import (
    ChangeKind,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Task,
    Trigger,
    current_execution,
)
from background_tasks import Gate as SensorGate
from background_tasks.logger import lost_lines
from background_tasks.metrics import BOUNDS, INSTRUMENTS, Buckets, Instrument, Labels, Metrics
from background_tasks.testing import InlineScheduler
from tests.conftest import Elsewhere, Gate, Ticks, Watch

BY_NAME = {each.name.removeprefix("background_tasks."): each for each in INSTRUMENTS}


class Meter:
    """The metrics of a scheduler, and the values that were recorded on the way."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Listen to *scheduler*."""
        self.recorded: dict[str, list[tuple[Labels, float]]] = {}
        self.metrics = Metrics(scheduler, self._record)

    def __getitem__(self, name: str) -> dict[Labels, float]:
        """Return the values of the metric of that name, without the common prefix."""
        return dict(self.metrics.read(BY_NAME[name]))

    def _record(self, instrument: Instrument, labels: Labels, value: float) -> None:
        name = instrument.name.removeprefix("background_tasks.")
        self.recorded.setdefault(name, []).append((labels, value))


@pytest.fixture
def inline() -> Iterator[InlineScheduler]:
    """Return a scheduler without threads, stopped after the test."""
    with InlineScheduler() as made:
        yield made


def fail() -> None:
    """Raise."""
    raise ConnectionError("no route")


# Runs


def test_a_run_that_succeeds(inline: InlineScheduler) -> None:
    """It came, started, ended well; how late it was and how long it took is recorded."""
    meter = Meter(inline)
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))

    inline.clock.advance(seconds=120)

    assert meter["due"] == {(): 2}
    assert meter["occurrences"] == {("t", "started", ""): 2}
    assert meter["runs"] == {("t", "success", ""): 2}
    assert meter["retries"] == {}
    assert meter["run.cpu_time"].keys() == {("t", "user"), ("t", "system")}
    last = inline.clock.now().timestamp()
    assert meter["task.last_success_timestamp"] == {("t",): last}
    assert meter.recorded["run.lateness"] == [(("t",), 0.0)] * 2
    assert meter.recorded["run.queue_time"] == [(("t",), 0.0)] * 2
    assert [labels for labels, _ in meter.recorded["run.duration"]] == [("t", "success")] * 2


def test_lateness_and_queue_time_are_told_apart(inline: InlineScheduler) -> None:
    """Until it is released, and then until it has a slot; of the first attempt only."""
    meter = Meter(inline)
    task = Task("t", fail, triggers=[PeriodicTrigger(interval=60)], retry_policy=RetryPolicy(1, 5))
    inline.add_task(task)
    inline.clock.jump_to(inline.clock.now() + timedelta(seconds=62))
    task.enabled = False
    inline.release_task(task.id)
    inline.clock.advance(seconds=3)
    task.enabled = True

    assert inline.wait_idle(60)

    assert meter.recorded["run.lateness"] == [(("t",), 0.0)]
    assert meter.recorded["run.queue_time"] == [(("t",), 3.0)]


def test_a_late_release(inline: InlineScheduler) -> None:
    """The clock was set past when it was due."""
    meter = Meter(inline)
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
    inline.clock.jump_to(inline.clock.now() + timedelta(seconds=62))

    inline.run_tasks()

    assert meter.recorded["run.lateness"] == [(("t",), 2.0)]


def test_what_a_run_came_to_and_its_error(inline: InlineScheduler) -> None:
    """Each by outcome and by the type of its last error; retries apart."""
    meter = Meter(inline)
    twice = inline.add_task(Task("twice", fail, retry_policy=RetryPolicy(2, 1)))
    long = inline.add_task(
        Task("long", lambda: inline.clock.advance(seconds=9), timeout=5, max_instances=2)
    )

    inline.run_task(twice.id)
    inline.run_task(long.id)

    assert meter["runs"] == {
        ("twice", "failure", "ConnectionError"): 1,
        ("long", "timeout", ""): 1,
    }
    assert meter["retries"] == {("twice",): 2}
    assert meter["task.last_success_timestamp"] == {}


def test_a_run_that_is_cancelled_or_dropped_between_attempts(inline: InlineScheduler) -> None:
    """It had started, so it is a run, and its occurrence is not counted again."""
    meter = Meter(inline)
    patient = RetryPolicy(9, 60)
    for name in ("cancelled", "dropped"):
        task = inline.add_task(Task(name, fail, retry_policy=patient))
        inline.release_task(task.id)
        inline.run_tasks()
        (inline.cancel if name == "cancelled" else inline.remove_task)(task.id)

    assert meter["runs"] == {
        ("cancelled", "cancelled", "ConnectionError"): 1,
        ("dropped", "dropped", "ConnectionError"): 1,
    }
    assert meter["occurrences"] == {
        ("cancelled", "started", ""): 1,
        ("dropped", "started", ""): 1,
    }


def test_counts_outlive_their_task(inline: InlineScheduler) -> None:
    """And those of tasks of one name are one."""
    meter = Meter(inline)
    for _ in range(3):
        inline.add_task(Task("once", int, triggers=[OneTimeTrigger(delay=1)]))

    inline.clock.advance(seconds=1)

    assert inline.tasks == {}
    assert meter["runs"] == {("once", "success", ""): 3}
    assert meter["running"] == {("once",): 0}


# Occurrences without a run


def _disabled(inline: InlineScheduler) -> None:
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)], enabled=False))
    inline.clock.advance(seconds=120)


def _late(inline: InlineScheduler) -> None:
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)], missed="skip"))
    inline.clock.jump_to(inline.clock.now() + timedelta(seconds=150))
    inline.run_tasks()


def _late_ones(inline: InlineScheduler) -> None:
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
    inline.clock.jump_to(inline.clock.now() + timedelta(seconds=150))
    inline.run_tasks()


def _too_many(inline: InlineScheduler) -> None:
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=1)], missed="all"))
    inline.clock.jump_to(inline.clock.now() + timedelta(seconds=1002))
    inline.run_tasks()


def _waiting(inline: InlineScheduler) -> None:
    def work() -> None:
        if inline.stats().released == 1:
            inline.clock.advance(seconds=200)  # in which three more are due

    inline.add_task(Task("t", work, triggers=[PeriodicTrigger(interval=60)]))
    inline.clock.advance(seconds=60)


def _past_its_grace(inline: InlineScheduler) -> None:
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)], misfire_grace=1))
    inline.clock.jump_to(inline.clock.now() + timedelta(seconds=90))
    inline.run_tasks()


def _overlap(inline: InlineScheduler) -> None:
    def work() -> None:
        execution = current_execution()
        if execution is not None and execution.event is None:
            inline.release_task(task.id, "the second")

    task = inline.add_task(Task("t", work, overlap="skip"))
    inline.run_task(task.id)


def _removed(inline: InlineScheduler) -> None:
    task = inline.add_task(Task("t", int))
    inline.release_task(task.id)
    inline.remove_task(task.id)


def _cancelled(inline: InlineScheduler) -> None:
    task = inline.add_task(Task("t", int))
    inline.release_task(task.id)
    inline.cancel(task.id)


@pytest.mark.parametrize(
    ("happen", "expected"),
    [
        (_disabled, {("skipped", "disabled"): 2}),
        (_late, {("skipped", "late"): 2}),
        (_late_ones, {("coalesced", "later"): 1, ("started", ""): 1}),
        (_too_many, {("started", ""): 1000, ("skipped", "too_many"): 2}),
        (_waiting, {("started", ""): 2, ("coalesced", "waiting"): 2}),
        (_past_its_grace, {("skipped", "misfire_grace"): 1}),
        (_overlap, {("started", ""): 1, ("skipped", "overlap"): 1}),
        (_removed, {("dropped", "removed"): 1}),
        (_cancelled, {("dropped", "cancelled"): 1}),
    ],
)
def test_what_came_of_an_occurrence(
    inline: InlineScheduler,
    happen: Callable[[InlineScheduler], None],
    expected: dict[tuple[str, str], int],
) -> None:
    """Each that was due is counted once, by what came of it and why."""
    meter = Meter(inline)

    happen(inline)

    counted = {labels[1:]: number for labels, number in meter["occurrences"].items()}
    assert counted == expected
    assert meter["due"][()] == sum(expected.values())


# Everything adds up


@given(data=st.data())
def test_what_was_due_is_accounted_for(data: st.DataObject) -> None:
    """Whatever is done: it has come to something, or is pending; and what started, to a run."""
    with InlineScheduler(2) as inline:
        meter = Meter(inline)
        fired = EventTrigger(coalesce=True)
        triggers = [PeriodicTrigger(interval=7), fired]
        task = Task("t", fail, triggers=triggers, retry_policy=RetryPolicy(1, 5))
        late = Task("late", int, triggers=[PeriodicTrigger(interval=5)], misfire_grace=2)
        for each in (task, late):
            inline.add_task(each)
        for _ in range(data.draw(st.integers(1, 12))):
            _step(data, inline, task, fired)

            due, stats = meter["due"][()], inline.stats()
            came_to = sum(meter["occurrences"].values())
            started = sum(n for labels, n in meter["occurrences"].items() if labels[1] == "started")
            retrying = sum(len(runs) for runs in inline.running.values()) - stats.running
            assert due == came_to + stats.pending - retrying
            assert started == sum(meter["runs"].values()) + stats.running + retrying
            assert sum(meter["retries"].values()) == stats.retries


def _step(data: st.DataObject, inline: InlineScheduler, task: Task, fired: EventTrigger) -> None:
    what = data.draw(st.sampled_from(["advance", "jump", "fire", "ask", "cancel", "switch"]))
    if what == "advance":
        inline.clock.advance(seconds=data.draw(st.integers(1, 30)))
    elif what == "jump":
        inline.clock.jump_to(inline.clock.now() + timedelta(seconds=data.draw(st.integers(1, 30))))
        inline.run_tasks()
    elif what == "fire":
        fired.fire()
    elif what == "ask":
        inline.release_task(task.id)
    elif what == "cancel":
        inline.cancel(task.id)
    else:
        task.enabled = not task.enabled


def test_it_adds_up_under_load() -> None:
    """With runs that end in many threads and a reader that never waits."""
    with Scheduler(4) as scheduler:
        meter = Meter(scheduler)
        tasks = [scheduler.add_task(Task(f"t{i}", int, max_instances=4)) for i in range(4)]
        is_over = threading.Event()
        lowest: list[float] = [0]

        def look() -> None:
            while not is_over.is_set():
                seen = sum(meter["runs"].values())
                assert seen >= lowest[0]
                lowest[0] = seen
                assert sum(meter["running"].values()) <= 4

        looking = threading.Thread(target=look)
        looking.start()
        for task in tasks * 200:
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)
        is_over.set()
        looking.join(10)

    assert meter["occurrences"] == {(f"t{i}", "started", ""): 200 for i in range(4)}
    assert meter["runs"] == {(f"t{i}", "success", ""): 200 for i in range(4)}
    assert len(meter.recorded["run.duration"]) == 800
    assert meter.metrics._attempts == {}  # nothing is kept of a run that has ended


class Refusing(Elsewhere):
    """Takes no call for as long as it refuses."""

    def __init__(self) -> None:
        """Refuse."""
        self.refuses = True

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call *fn* at once, or refuse."""
        if self.refuses:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return super().submit(fn, *args, **kwargs)


def test_a_start_that_the_executor_refused_is_one_start() -> None:
    """Whether the run starts again or is dropped instead."""
    executor = Refusing()
    scheduler = Scheduler(1, executor=executor)
    meter, watch = Meter(scheduler), Watch(scheduler)
    for name in ("again", "dropped"):
        task = scheduler.add_task(Task(name, int))
        scheduler.release_task(task.id)
        executor.refuses = True
        scheduler.resume()
        watch.wait_for(ChangeKind.EXECUTOR_BROKEN)
        watch.changes.clear()
        scheduler.stop()
        if name == "dropped":
            scheduler.remove_task(task.id)
        executor.refuses = False
        scheduler.resume()
        assert scheduler.wait_idle(10)
        scheduler.stop()

    assert meter["occurrences"] == {("again", "started", ""): 1, ("dropped", "started", ""): 1}
    assert meter["runs"] == {("again", "success", ""): 1, ("dropped", "dropped", ""): 1}
    assert meter["retries"] == {}
    assert meter["internal_errors"]["executor",] == 2
    assert len(meter.recorded["run.queue_time"]) == 2


# Begin and end


def test_a_run_that_started_before_counts_when_it_ends(gate: Gate) -> None:
    """So that what started and what ended still add up."""
    with Scheduler(1) as scheduler:
        task = scheduler.add_task(Task("t", gate))
        scheduler.release_task(task.id)
        gate.wait_entered()
        meter = Meter(scheduler)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert meter["occurrences"] == {("t", "started", ""): 1}
    assert meter["runs"] == {("t", "success", ""): 1}


def test_what_is_now(gate: Gate) -> None:
    """Runs by task, those that wait, and the slots: asked of the scheduler at each look."""
    with Scheduler(2) as scheduler:
        meter = Meter(scheduler)
        task = scheduler.add_task(Task("t", gate, max_instances=2))
        for _ in range(3):
            scheduler.release_task(task.id)
        for _ in range(2):
            gate.wait_entered()

        assert meter["running"] == {("t",): 2}
        assert (meter["pending"], meter["slots"], meter["stuck"]) == ({(): 1}, {(): 2}, {(): 0})

        gate.leave.set()
        assert scheduler.wait_idle(10)
        assert (meter["running"], meter["pending"]) == ({("t",): 0}, {(): 0})


def test_the_heartbeat() -> None:
    """When the scheduler's thread last looked around, and whether it is well."""
    scheduler = Scheduler(1, tick_interval=0.001)
    meter = Meter(scheduler)
    assert (meter["last_tick_timestamp"], meter["healthy"]) == ({}, {(): 0})
    assert "tick.duration" not in meter.recorded

    with scheduler:
        Ticks(scheduler).wait_for_one()
        last = scheduler.health().last_tick
        assert last is not None
        assert meter["last_tick_timestamp"][()] >= last.timestamp()
        assert meter["healthy"] == {(): 1}
        meter.metrics.close()
    ticks = meter.recorded["tick.duration"]
    assert {labels for labels, _ in ticks} == {()}
    assert all(0 <= seconds < 10 for _, seconds in ticks)

    with scheduler:
        Ticks(scheduler).wait_for_one()
    assert len(meter.recorded["tick.duration"]) == len(ticks)


def _raise(error: BaseException) -> Callable[..., Any]:
    def raiser(*_: object) -> Any:
        raise error

    return raiser


class Broken(Trigger):
    """A trigger that raises."""

    is_ready = _raise(RuntimeError("no sensor"))
    reset = _raise(RuntimeError("no sensor"))


def test_what_fails_that_is_no_task(internal_errors: list[str]) -> None:
    """Counted by where it was, each from 0 on."""
    gate = SensorGate(_raise(OSError("no sensor")), name="queue", close=2, reopen=1)
    scheduler = InlineScheduler(gates=[gate])
    end = scheduler.add_listener(_raise(ValueError("ours")))
    meter = Meter(scheduler)
    lost = lost_lines()
    expected = dict.fromkeys(("scheduler", "listener", "trigger", "gate", "executor"), 0)
    assert meter["internal_errors"] == {(where,): 0 for where in expected} | {("log",): lost}

    scheduler.add_task(Task("t", int))
    end()
    scheduler.add_task(Task("bad", int, triggers=[Broken()]))
    scheduler.run_tasks()
    scheduler._report(ValueError("ours"))

    expected |= {"scheduler": 1, "listener": 1, "trigger": 1, "gate": 1}
    assert meter["internal_errors"] == {(key,): each for key, each in expected.items()} | {
        ("log",): lost
    }
    internal_errors.clear()


def test_a_log_that_fails(
    inline: InlineScheduler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line that is lost is counted."""
    caplog.set_level(logging.DEBUG, "background_tasks")
    meter = Meter(inline)
    before = meter["internal_errors"]["log",]

    with monkeypatch.context() as patch:
        patch.setattr(caplog.handler, "emit", _raise(OSError("the disk is full")))
        inline.add_task(Task("t", int))

    assert meter["internal_errors"]["log",] == before + 1


def test_a_tick_that_cannot_be_told() -> None:
    """It is as any listener that raises: the scheduler goes on."""
    ran = threading.Event()
    scheduler = Scheduler(1, tick_interval=0.001)
    Metrics(scheduler, _raise(ValueError("no meter")))
    with scheduler:
        Ticks(scheduler).wait_for_one()
        scheduler.add_task(Task("t", ran.set, triggers=[OneTimeTrigger(delay=0)]))
        assert ran.wait(10)

    assert scheduler.stats().listener_failures > 0


def test_a_run_that_waits_for_its_retry_does_not_run(inline: InlineScheduler) -> None:
    """It is pending."""
    meter = Meter(inline)
    task = inline.add_task(Task("t", fail, retry_policy=RetryPolicy(1, 60)))
    inline.release_task(task.id)
    inline.run_tasks()

    assert (meter["running"], meter["pending"]) == ({("t",): 0}, {(): 1})


def test_closed_it_hears_nothing_more(inline: InlineScheduler) -> None:
    """What was counted stays."""
    meter = Meter(inline)
    task = inline.add_task(Task("t", int))
    inline.run_task(task.id)

    meter.metrics.close()
    inline.run_task(task.id)

    assert meter["runs"] == {("t", "success", ""): 1}


# Bounds


def test_names_beyond_the_first_thousand_are_other(inline: InlineScheduler) -> None:
    """One-shots with names of their own do not fill the memory of whoever reads."""
    meter = Meter(inline)
    for number in range(1_002):
        inline.run_task(inline.add_task(Task(f"t{number}", int)).id)

    runs = meter["runs"]
    assert len(runs) == 1_001
    assert runs[("t999", "success", "")] == 1
    assert runs[("other", "success", "")] == 2
    assert ("t1000", "success", "") not in runs


def test_types_of_errors_are_bounded_too(inline: InlineScheduler) -> None:
    """Beyond the first hundred, and those whose names are no names, they are other."""
    meter = Meter(inline)
    names = [*(f"E{number}" for number in range(101)), "odd\n", "\ud800", "long" * 51]

    def raise_next() -> None:
        raise type(names.pop(), (Exception,), {})

    task = inline.add_task(Task("t", raise_next))
    while names:
        inline.run_task(task.id)

    errors = {labels[2]: number for labels, number in meter["runs"].items()}
    assert len(errors) == 101
    assert errors["other"] == 4
    assert errors["E100"] == 1


# Distributions


@pytest.mark.parametrize(
    ("value", "first"),
    [(0.0, 0), (0.005, 0), (0.0051, 1), (1.0, 7), (3600.0, 15), (3600.1, 16), (1e9, 16)],
)
def test_a_value_lies_in_each_bucket_that_reaches_it(value: float, first: int) -> None:
    """Bounds included; the last one has no end."""
    buckets = Buckets()
    buckets.record(("t",), value)

    assert buckets.read() == [(("t",), [0] * first + [1] * (17 - first), value)]


def test_buckets_add_up_by_labels() -> None:
    """Each is at most so long; the last is how many there are."""
    buckets = Buckets()
    for value in (0.001, 0.002, 0.3, 5000.0):
        buckets.record(("a",), value)
    buckets.record(("b",), 1.0)

    (_, counts, total), (labels, others, _) = buckets.read()

    assert counts == [2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert total == pytest.approx(5000.303)
    assert (labels, others[-1]) == (("b",), 1)
    assert len(counts) == len(BOUNDS) + 1


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda each: each.name)
def test_a_metric_is_named_as_it_should_be(instrument: Instrument) -> None:
    """Below one prefix, in base units, with a unit where there is one."""
    assert instrument.name.startswith("background_tasks.")
    assert instrument.prometheus.endswith("_seconds") == (instrument.unit == "s")
    assert instrument.unit in ("s", "1") or instrument.unit.startswith("{")
    assert not instrument.prometheus.endswith("_total")
    assert instrument.about.endswith(".")
