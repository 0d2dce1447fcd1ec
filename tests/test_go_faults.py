"""The faults of the Go original, each with a test that fails on its behaviour.

The names G1 to G14 are those of the fault list this library was specified with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from freezegun import freeze_time

from background_tasks import (
    ChangeKind,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    current_execution,
)
from tests.conftest import Gate, Watch

START = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def test_g1_the_ticker_never_waits_for_a_slot(gate: Gate) -> None:
    """With all slots taken, tasks can be added, counted and released; nothing deadlocks."""
    with Scheduler(1) as scheduler:
        busy = scheduler.add_task(Task("busy", gate, triggers=[OneTimeTrigger(delay=0)]))
        gate.wait_entered()

        other = scheduler.add_task(Task("other", int))
        scheduler.release_task(other.id)

        assert scheduler.running_tasks_count() == 1
        assert scheduler.stats().pending == 1
        assert list(scheduler.running) == [busy.id]
        gate.leave.set()
        assert scheduler.wait_idle(10)
        assert len(other.execution_hist) == 1


def test_g2_no_event_is_lost_when_slots_are_full(gate: Gate) -> None:
    """Signals that come while no slot is free each make their run later, in order."""
    seen: list[object] = []
    changed = EventTrigger()
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("busy", gate, triggers=[OneTimeTrigger(delay=0)]))
        scheduler.add_task(Task("reload", lambda: seen.append(_event()), triggers=[changed]))
        gate.wait_entered()

        for number in range(5):
            assert changed.fire(number)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert seen == [0, 1, 2, 3, 4]


def test_g2_an_event_waits_while_the_scheduler_is_stopped() -> None:
    """A signal fired while stopped makes its run after the resume."""
    seen: list[object] = []
    changed = EventTrigger()
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("reload", lambda: seen.append(_event()), triggers=[changed]))
        assert scheduler.stop()
        assert changed.fire("meanwhile")
        assert seen == []

        scheduler.resume()
        assert scheduler.wait_idle(10)

    assert seen == ["meanwhile"]


def test_g3_two_ready_triggers_do_not_overlap(gate: Gate) -> None:
    """With two triggers due at once the runs come one after the other."""
    with Scheduler(4) as scheduler:
        two = [OneTimeTrigger(delay=0), OneTimeTrigger(delay=0)]
        scheduler.add_task(Task("t", gate, triggers=two))
        gate.wait_entered()

        assert scheduler.running_tasks_count() == 1
        assert scheduler.stats().pending == 1
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert gate.runs == 2


def test_g4_an_interval_does_not_drift() -> None:
    """Each tick comes 0.7 s late; the due times stay on the minute for two hours."""
    with freeze_time(START) as frozen:
        scheduler = Scheduler(1)
        task = Task("t", int, triggers=[PeriodicTrigger(interval=60)], history=1000)
        scheduler.add_task(task)

        for minute in range(1, 121):
            frozen.move_to(START + timedelta(minutes=minute, seconds=0.7))
            assert scheduler.run_tasks() == 1
            assert scheduler.wait_idle(10)
        assert scheduler.stop(10)

    due = [run.scheduled_at for run in task.execution_hist]
    assert due == [START + timedelta(minutes=minute) for minute in range(1, 121)]


def test_g5_a_malformed_cron_expression_says_so() -> None:
    """It is refused where it is written, not silently never run."""
    with pytest.raises(ValueError, match=r"'61 \* \* \* \*': the minute field cannot be '61'"):
        PeriodicTrigger(cron_expr="61 * * * *")


def test_g6_jitter_is_drawn_once_a_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked, a fire keeps the delay it drew."""
    draws = iter([0.5, 0.0, 0.0, 0.0])
    monkeypatch.setattr("background_tasks.trigger.random.random", lambda: next(draws))
    with freeze_time(START) as frozen:
        trigger = PeriodicTrigger(interval=60, jitter=20)

        for _ in range(69):
            assert not trigger.is_ready()
            frozen.tick(1)
        frozen.tick(1)

        assert trigger.is_ready()


def test_g7_a_task_added_disabled_stays_disabled(scheduler: Scheduler) -> None:
    """add_task does not enable it."""
    task = Task("t", int, triggers=[OneTimeTrigger(delay=0)], enabled=False)
    scheduler.add_task(task)

    assert scheduler.run_tasks() == 0
    assert not task.enabled
    assert task.execution_hist == []


def test_g8_stop_twice_and_start_twice() -> None:
    """The second of each does nothing: no crash, one ticking thread."""
    scheduler = Scheduler(1)
    before = threading.active_count()
    scheduler.start()
    scheduler.start()
    assert threading.active_count() == before + 1

    assert scheduler.stop()
    assert scheduler.stop()
    assert threading.active_count() == before


def test_g8_start_after_stop_runs_again() -> None:
    """A scheduler can be started anew."""
    ran = threading.Semaphore(0)
    scheduler = Scheduler(1)
    scheduler.add_task(Task("t", ran.release, triggers=[PeriodicTrigger(interval=0.01)]))
    for _ in range(3):
        scheduler.start()
        assert ran.acquire(timeout=10)
        assert scheduler.stop()


def test_g9_nothing_starts_after_stop_returned(gate: Gate) -> None:
    """What waited when stop was called waits on, also once a slot gets free."""
    scheduler = Scheduler(1)
    scheduler.start()
    scheduler.add_task(Task("busy", gate, triggers=[OneTimeTrigger(delay=0)]))
    gate.wait_entered()
    waiting = scheduler.add_task(Task("waiting", int))
    scheduler.release_task(waiting.id)

    assert not scheduler.stop(timeout=0)
    gate.leave.set()
    assert scheduler.stop(timeout=10)

    assert waiting.execution_hist == []
    assert scheduler.stats().pending == 1


def test_g9_stop_waits_for_running_tasks(gate: Gate) -> None:
    """Stop gives up while a task runs, and succeeds once it has ended."""
    scheduler = Scheduler(1)
    scheduler.start()
    task = scheduler.add_task(Task("slow", gate, triggers=[OneTimeTrigger(delay=0)]))
    gate.wait_entered()

    assert not scheduler.stop(timeout=0)
    gate.leave.set()
    assert scheduler.stop(timeout=10)

    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]


def test_g10_a_retry_holds_no_slot() -> None:
    """While a failed run waits an hour for its retry the one slot serves others."""
    with freeze_time(START), Scheduler(1) as scheduler:
        watch = Watch(scheduler)
        failing = Task("failing", _fail, retry_policy=RetryPolicy(1, delay=3600))
        other = Task("other", int)
        for task in (failing, other):
            scheduler.add_task(task)
            scheduler.release_task(task.id)

        watch.wait_for(ChangeKind.RUN_SUCCEEDED)
        assert scheduler.running_tasks_count() == 0
        (waiting,) = scheduler.running[failing.id]
        assert (waiting.status, waiting.attempts) == (Status.RETRYING, 1)


def test_g10_no_wait_after_the_last_failure() -> None:
    """With the retries used up the run ends at once, without another delay."""
    with freeze_time(START) as frozen:
        scheduler = Scheduler(1)
        task = Task("t", _fail, triggers=[OneTimeTrigger(0)], retry_policy=RetryPolicy(1, 60))
        scheduler.add_task(task)
        watch = Watch(scheduler)
        scheduler.run_tasks()
        watch.wait_for(ChangeKind.RUN_RETRYING)
        frozen.tick(60)

        scheduler.run_tasks()
        assert scheduler.wait_idle(10)
        assert scheduler.stop(10)

    (run,) = task.execution_hist
    assert (run.status, run.attempts) == (Status.FAILED, 2)
    assert run.ended_at == START + timedelta(seconds=60)


def test_g11_the_history_is_bounded(scheduler: Scheduler) -> None:
    """Only the last executions are kept, and what is given out is a copy of the list."""
    task = scheduler.add_task(Task("t", int, history=3))
    for _ in range(5):
        scheduler.run_task(task.id)

    task.execution_hist.clear()

    assert [run.id for run in task.execution_hist] == [2, 3, 4]


def test_g12_enabled_is_changed_through_the_scheduler(scheduler: Scheduler) -> None:
    """Disabling holds a run that waits already; enabling lets it go."""
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)

    task.enabled = False
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    assert task.execution_hist == []

    task.enabled = True
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    assert len(task.execution_hist) == 1


def test_g13_a_clock_set_back_costs_no_runs() -> None:
    """An hour back after an hour: the runs go on within one interval."""
    with freeze_time(START) as frozen:
        scheduler = Scheduler(1)
        task = Task("t", int, triggers=[PeriodicTrigger(interval=60)], history=1000)
        scheduler.add_task(task)
        for step in [60] * 59 + [-3600] + [60] * 60:
            frozen.tick(step)
            scheduler.run_tasks()
            assert scheduler.wait_idle(10)
        assert scheduler.stop(10)

    assert len(task.execution_hist) == 119


def test_g14_a_task_of_only_one_shots_goes_when_it_has_run(scheduler: Scheduler) -> None:
    """It is removed after its last one-shot has run, and not before."""
    with freeze_time(START) as frozen:
        task = Task("t", int, triggers=[OneTimeTrigger(delay=1), OneTimeTrigger(delay=2)])
        scheduler.add_task(task)
        left = []
        for _ in range(2):
            frozen.tick(1)
            scheduler.run_tasks()
            assert scheduler.wait_idle(10)
            left.append(list(scheduler.tasks))

    assert left == [[task.id], []]
    assert len(task.execution_hist) == 2


def test_g14_it_stays_until_its_retries_are_done(scheduler: Scheduler) -> None:
    """A one-shot that fails is not removed before its last attempt."""
    with freeze_time(START) as frozen:
        task = Task("t", _fail, triggers=[OneTimeTrigger(0)], retry_policy=RetryPolicy(1, 60))
        scheduler.add_task(task)
        watch = Watch(scheduler)
        scheduler.run_tasks()
        watch.wait_for(ChangeKind.RUN_RETRYING)
        assert list(scheduler.tasks) == [task.id]
        frozen.tick(60)
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    assert scheduler.tasks == {}


def test_a_raising_task_harms_nobody() -> None:
    """Exceptions of every kind are recorded, and the same slot runs the next task."""
    errors = [ValueError("v"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Own("own")]
    with Scheduler(1) as scheduler:
        tasks = [scheduler.add_task(Task("t", _raiser(error))) for error in errors]
        last = scheduler.add_task(Task("last", int))
        for task in (*tasks, last):
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert [task.execution_hist[0].error for task in tasks] == [
        "ValueError: v",
        "SystemExit: 3",
        "KeyboardInterrupt",
        "GeneratorExit",
        "Own: own",
    ]
    assert [run.status for run in last.execution_hist] == [Status.SUCCESS]


def test_a_task_removed_while_it_runs_stays_removed(gate: Gate) -> None:
    """Its run finishes and is recorded on the Task; no retry and no trigger brings it back."""
    scheduler = Scheduler(1)
    with scheduler:
        task = Task(
            "t",
            _then_fail(gate),
            triggers=[PeriodicTrigger(interval=0.001)],
            retry_policy=RetryPolicy(5, 0),
        )
        scheduler.add_task(task)
        gate.wait_entered()

        scheduler.remove_task(task.id)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert scheduler.tasks == {}
    assert [run.status for run in task.execution_hist][-1] == Status.FAILED
    assert gate.runs == 1


def test_event_and_results_are_filled(scheduler: Scheduler) -> None:
    """An execution says what asked for it and what came of it."""
    task = scheduler.add_task(Task("t", lambda: 42))

    execution = scheduler.run_task(task.id, event={"path": "app.toml"})

    assert (execution.event, execution.results) == ({"path": "app.toml"}, 42)


class Own(BaseException):
    """An exception that is no Exception."""


def _event() -> object:
    execution = current_execution()
    assert execution is not None
    return execution.event


def _fail() -> None:
    raise OSError("as always")


def _raiser(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def _then_fail(gate: Gate) -> Callable[[], None]:
    def fail() -> None:
        gate()
        raise OSError("at the end")

    return fail
