"""What is left behind: after many tasks and many lives of a scheduler, nothing.

LEAK_TASKS, LEAK_CYCLES and LEAK_DAYS allow more than the suite has time for, as `make soak` does.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from background_tasks import (
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Task,
)
from background_tasks.testing import InlineScheduler

TASKS = int(os.environ.get("LEAK_TASKS", "3000"))
CYCLES = int(os.environ.get("LEAK_CYCLES", "50"))
DAYS = int(os.environ.get("LEAK_DAYS", "1"))
# Bytes; what caches of the interpreter and of logging grow by at most. What measures coverage keeps
# more for each thread.
_SLACK = 30_000 if sys.gettrace() is None else 300_000


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log nothing: pytest keeps each record."""
    monkeypatch.setattr(logging.getLogger("background_tasks"), "disabled", True)


def _grown(work: Callable[[], object]) -> int:
    """Return by how many bytes memory is larger after *work*, which was done once before."""
    tracemalloc.start()  # before the first time, so that what replaces it does not count as more
    try:
        work()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_one_shots_leave_nothing() -> None:
    """Each is gone when it has run: from the registry, the heaps and the memory."""
    with Scheduler(4) as scheduler:

        def burst() -> None:
            for _ in range(TASKS):
                scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=0)]))
            assert scheduler.wait_idle(600)

        grown = _grown(burst)

        stats, engine = scheduler.stats(), scheduler._engine
        assert (scheduler.tasks, scheduler.running) == ({}, {})
        assert (stats.succeeded, stats.pending, stats.running) == (2 * TASKS, 0, 0)
        assert (len(engine._ready), len(engine._agenda), len(engine._polled)) == (0, 0, 0)
        assert not engine.changes
    assert grown < _SLACK


def test_one_shots_that_are_removed_leave_nothing() -> None:
    """Before their time has come, too."""
    scheduler = Scheduler(1)

    def add_and_remove() -> None:
        for _ in range(TASKS):
            task = scheduler.add_task(
                Task("t", int, triggers=[OneTimeTrigger(delay=1000), EventTrigger(maxsize=10)])
            )
            scheduler.remove_task(task.id)

    assert _grown(add_and_remove) < _SLACK
    assert scheduler.tasks == {}


def test_failures_and_cancels_leave_nothing() -> None:
    """Retries, time-outs and events that are dropped with their task."""
    scheduler = InlineScheduler()

    def fail(event: EventTrigger) -> None:
        raise ValueError(event)

    def go_wrong() -> None:
        for _ in range(TASKS // 10):
            event = EventTrigger()
            task = Task(
                "t",
                fail,
                args=[event],
                triggers=[event],
                timeout=5,
                retry_policy=RetryPolicy(max_retries=2, delay=10),
            )
            scheduler.add_task(task)
            event.fire()
            event.fire()
            scheduler.clock.advance(seconds=10)
            scheduler.cancel(task.id)
            event.fire()
            scheduler.clock.advance(seconds=1)
            scheduler.remove_task(task.id)

    assert _grown(go_wrong) < _SLACK
    assert (scheduler.tasks, scheduler.running) == ({}, {})


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc to count in")
def test_lives_of_a_scheduler_leave_nothing() -> None:
    """Threads end with each stop, no file stays open, and the memory is as it was."""
    scheduler = Scheduler(2)
    event = EventTrigger()
    task = scheduler.add_task(Task("t", int, triggers=[event], history=1))

    def live() -> None:
        for _ in range(CYCLES):
            scheduler.start()
            event.fire()
            assert scheduler.wait_idle(60)
            assert scheduler.stop(timeout=60)

    live()
    threads, descriptors = threading.active_count(), _descriptors()
    grown = _grown(live)

    assert (threading.active_count(), _descriptors()) == (threads, descriptors)
    assert scheduler.stats().succeeded == 3 * CYCLES
    assert len(task.execution_hist) == 1
    assert grown < _SLACK


def test_schedulers_that_nobody_keeps_are_gone() -> None:
    """A stopped one is collected with its tasks, and the exit does not look for it."""
    with Scheduler(1) as scheduler:
        task = scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=1000)]))
    seen: list[Callable[[], object]] = [weakref.ref(scheduler), weakref.ref(task)]

    del scheduler, task
    gc.collect()

    assert [each() for each in seen] == [None, None]


class _Witness:
    """Something whose end can be seen."""


@pytest.mark.parametrize("outcome", ["returns it", "takes it", "fails with it"])
def test_what_a_run_used_is_collectable_at_once(outcome: str) -> None:
    """Result, argument or a local of a function that failed: with the collector off."""
    witness = _Witness()
    seen = weakref.ref(witness)

    def work(*given: object) -> object:
        held = given or (_Witness(),)
        if outcome == "fails with it":
            raise ValueError("no")
        return held if outcome == "returns it" else None

    scheduler = InlineScheduler()
    gc.disable()
    try:
        task = Task("t", work, args=[witness], keep_results=False)
        scheduler.add_task(task)
        scheduler.run_task(task.id)
        scheduler.remove_task(task.id)
        del task, witness

        assert seen() is None
    finally:
        gc.enable()


def test_virtual_days_of_many_tasks_leave_nothing() -> None:
    """Day after day of many tasks, some of which fail: histories are full and no more comes.

    Each runs 32 times a day, so that what is summed up sixteen at a time is as far again.
    """
    scheduler = InlineScheduler()
    count = max(1, min(1000, 40 * DAYS))

    def work(number: int) -> None:
        if number % 10 == 0:
            raise ValueError(number)

    for number in range(count):
        policy = RetryPolicy(max_retries=1, delay=60)
        scheduler.add_task(
            Task(
                f"task {number}",
                work,
                args=[number],
                triggers=[PeriodicTrigger(timedelta(minutes=45))],
                retry_policy=policy,
                history=5,
            )
        )

    grown = _grown(lambda: scheduler.clock.advance(days=DAYS))

    stats = scheduler.stats()
    assert stats.released == count * 64 * DAYS == stats.succeeded + stats.failed + stats.pending
    assert stats.failed == pytest.approx(stats.released / 10, rel=0.1)
    assert grown < _SLACK
