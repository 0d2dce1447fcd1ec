"""The Scheduler's methods, one by one; races and real threads are in test_threads."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from queue import Queue

import pytest
from freezegun import freeze_time

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    Execution,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    TaskNotFoundError,
    Trigger,
    current_execution,
)
from tests.conftest import Gate, Watch

START = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def test_ids_count_from_zero(scheduler: Scheduler) -> None:
    """The first task has the ID 0; the last one given is told."""
    assert scheduler.last_task_id == -1

    tasks = [scheduler.add_task(Task("t", int)) for _ in range(3)]

    assert [task.id for task in tasks] == [0, 1, 2]
    assert scheduler.last_task_id == 2


def test_an_id_is_never_given_twice(scheduler: Scheduler) -> None:
    """Removing the last task does not free its ID."""
    scheduler.remove_task(scheduler.add_task(Task("a", int)).id)

    assert scheduler.add_task(Task("b", int)).id == 1


def test_tasks_is_a_snapshot(scheduler: Scheduler) -> None:
    """Changing what is returned changes nothing."""
    task = scheduler.add_task(Task("t", int))

    scheduler.tasks.clear()

    assert scheduler.tasks == {0: task}
    assert scheduler.get_task(0) is task


def test_running_is_a_snapshot(gate: Gate) -> None:
    """It holds copies of what runs, and changing them changes nothing."""
    with Scheduler(1) as scheduler:
        task = scheduler.add_task(Task("t", gate, triggers=[OneTimeTrigger(delay=0)]))
        gate.wait_entered()

        (execution,) = scheduler.running[task.id]
        execution.status = Status.FAILED

        assert scheduler.running[task.id][0].status is Status.RUNNING
        assert scheduler.running_tasks_count() == 1
        gate.leave.set()
        assert scheduler.wait_idle(10)
        assert scheduler.running == {}


def test_remove_drops_what_waits(scheduler: Scheduler) -> None:
    """Pending runs of a removed task end as DROPPED, on its history and in the counters."""
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    scheduler.release_task(task.id)

    scheduler.remove_task(task.id)

    assert [run.status for run in task.execution_hist] == [Status.DROPPED, Status.DROPPED]
    stats = scheduler.stats()
    assert (stats.released, stats.dropped, stats.pending, stats.tasks) == (2, 2, 0, 0)


def test_remove_drops_what_a_trigger_released(gate: Gate) -> None:
    """Runs released by signals, too, while another task has the only slot."""
    changed = EventTrigger()
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("busy", gate, triggers=[OneTimeTrigger(delay=0)]))
        gate.wait_entered()
        task = scheduler.add_task(Task("t", int, triggers=[changed]))
        changed.fire("a")
        changed.fire("b")
        assert scheduler.stats().pending == 2

        scheduler.remove_task(task.id)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert [(run.event, run.status) for run in task.execution_hist] == [
        ("a", Status.DROPPED),
        ("b", Status.DROPPED),
    ]


def test_remove_twice_does_nothing(scheduler: Scheduler) -> None:
    """An ID that is gone already is no error, also when others were added since."""
    task = scheduler.add_task(Task("a", int))
    scheduler.remove_task(task.id)
    kept = scheduler.add_task(Task("b", int))

    scheduler.remove_task(task.id)

    assert scheduler.tasks == {kept.id: kept}


def test_get_task_after_removal(scheduler: Scheduler) -> None:
    """A task that is gone is not found, and the error carries the ID."""
    task = scheduler.add_task(Task("t", int))
    scheduler.remove_task(task.id)

    with pytest.raises(TaskNotFoundError, match="the task with the ID 0 is gone") as caught:
        scheduler.get_task(task.id)

    assert caught.value.task_id == 0


def test_run_task_returns_its_execution(scheduler: Scheduler) -> None:
    """It runs in the calling thread, without a slot and though the task is disabled."""
    seen: list[int] = []
    task = Task("t", lambda: seen.append(threading.get_ident()), enabled=False)
    scheduler.add_task(task)

    execution = scheduler.run_task(task.id, event="by hand")

    assert seen == [threading.get_ident()]
    assert execution.status is Status.SUCCESS
    assert execution.event == "by hand"
    assert task.execution_hist == [execution]


def test_run_task_retries_and_does_not_raise(scheduler: Scheduler) -> None:
    """All attempts are made in the call, the delays between them waited for."""
    attempts: list[int] = []

    def fail() -> None:
        execution = current_execution()
        assert execution is not None
        attempts.append(execution.attempt)
        raise OSError(f"attempt {execution.attempt}")

    task = scheduler.add_task(Task("t", fail, retry_policy=RetryPolicy(2, delay=0.001)))

    execution = scheduler.run_task(task.id)

    assert attempts == [1, 2, 3]
    assert (execution.status, execution.attempts) == (Status.FAILED, 3)
    assert execution.error == "OSError: attempt 3"


def test_run_task_of_a_task_that_removes_itself(scheduler: Scheduler) -> None:
    """A task removed while it runs by hand is not tried again."""

    def remove_and_fail() -> None:
        scheduler.remove_task(task.id)
        raise OSError("after that")

    task = scheduler.add_task(Task("t", remove_and_fail, retry_policy=RetryPolicy(3, delay=60)))

    execution = scheduler.run_task(task.id)

    assert (execution.status, execution.attempts) == (Status.FAILED, 1)


def test_removal_ends_the_wait_of_run_task_for_a_retry(scheduler: Scheduler) -> None:
    """A run that waits an hour for its retry is dropped, and run_task returns."""
    task = scheduler.add_task(Task("t", _fail, retry_policy=RetryPolicy(1, delay=3600)))
    watch = Watch(scheduler)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(scheduler.run_task, task.id)
        watch.wait_for(ChangeKind.RUN_RETRYING)

        scheduler.remove_task(task.id)

        execution = future.result(10)
    assert (execution.status, execution.attempts) == (Status.DROPPED, 1)
    assert scheduler.stats().dropped == 1


def test_release_task_waits_its_turn(gate: Gate) -> None:
    """A run that is asked for takes a slot, by priority, as any other."""
    order: list[str] = []
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("busy", gate, triggers=[OneTimeTrigger(delay=0)]))
        gate.wait_entered()
        for name, priority in (("low", 0), ("high", 5), ("middle", 1)):
            task = Task(name, order.append, args=[name], priority=priority)
            scheduler.release_task(scheduler.add_task(task).id)

        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert order == ["high", "middle", "low"]


def test_priority_changed_while_a_run_waits(gate: Gate) -> None:
    """Setting it moves the run that waits."""
    order: list[str] = []
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("busy", gate, triggers=[OneTimeTrigger(delay=0)]))
        gate.wait_entered()
        tasks = [scheduler.add_task(Task(name, order.append, args=[name])) for name in "abc"]
        for task in tasks:
            scheduler.release_task(task.id)

        tasks[2].priority = 3
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert order == ["c", "a", "b"]
    assert tasks[2].priority == 3


def test_a_removed_task_can_still_be_changed(scheduler: Scheduler) -> None:
    """It is changed for its own sake; nothing of it runs any more."""
    task = scheduler.add_task(Task("t", int))
    scheduler.remove_task(task.id)

    task.enabled = False
    task.priority = 5

    assert (task.enabled, task.priority) == (False, 5)


def test_a_burst_is_released_in_batches(scheduler: Scheduler) -> None:
    """However many are due together, one tick releases them all, the urgent first."""
    order: list[int] = []
    with freeze_time(START) as frozen:
        for number in range(300):
            once = OneTimeTrigger(delay=1)
            task = Task("t", order.append, args=[number], triggers=[once], priority=number)
            scheduler.add_task(task)
        frozen.tick(1)

        assert scheduler.run_tasks() == 300
        assert scheduler.wait_idle(10)

    assert sorted(order) == list(range(300))
    assert order[0] in (299, 298)


def test_never_more_than_max_running_tasks(gate: Gate) -> None:
    """With three slots and ten ready runs three run."""
    with Scheduler(3) as scheduler:
        for _ in range(10):
            scheduler.add_task(Task("t", gate, triggers=[OneTimeTrigger(delay=0)]))
        for _ in range(3):
            gate.wait_entered()

        assert scheduler.running_tasks_count() == 3
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert gate.runs == 10


def test_max_instances(gate: Gate) -> None:
    """Two runs of a task may overlap when it says so, and no third."""
    with Scheduler(4) as scheduler:
        task = scheduler.add_task(Task("t", gate, max_instances=2))
        for _ in range(3):
            scheduler.release_task(task.id)
        gate.wait_entered()
        gate.wait_entered()

        assert (scheduler.stats().running, scheduler.stats().pending) == (2, 1)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert gate.runs == 3


def test_a_start_happens_when_due_not_at_the_next_tick() -> None:
    """With an hour between ticks a one-shot of 10 ms does not wait for one."""
    ran = threading.Event()
    with Scheduler(1, tick_interval=3600) as scheduler:
        scheduler.add_task(Task("t", ran.set, triggers=[OneTimeTrigger(delay=0.01)]))

        assert ran.wait(10)


def test_a_retry_happens_when_due_not_at_the_next_tick() -> None:
    """The same for a retry, which comes from a slot's thread."""
    ran = threading.Event()

    def second_time() -> None:
        execution = current_execution()
        assert execution is not None
        if execution.attempt == 1:
            raise OSError("not yet")
        ran.set()

    with Scheduler(1, tick_interval=3600) as scheduler:
        trigger = OneTimeTrigger(delay=0)
        policy = RetryPolicy(1, delay=0.01)
        scheduler.add_task(Task("t", second_time, triggers=[trigger], retry_policy=policy))

        assert ran.wait(10)


def test_resume_keeps_the_triggers_as_they_were() -> None:
    """What became due while stopped is one late run; the grid is the old one."""
    with freeze_time(START) as frozen:
        scheduler = Scheduler(1)
        task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
        scheduler.start()
        assert scheduler.stop()
        frozen.tick(150)
        assert scheduler.run_tasks() == 0

        scheduler.resume()
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)
        assert scheduler.stop()

    (run,) = task.execution_hist
    assert (run.scheduled_at, run.missed) == (START + timedelta(seconds=120), 1)


def test_start_after_a_stop_arms_anew() -> None:
    """What became due while stopped is forgotten: intervals count from the new start."""
    with freeze_time(START) as frozen:
        scheduler = Scheduler(1)
        task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
        scheduler.start()
        assert scheduler.stop()
        frozen.tick(150)

        scheduler.start()
        assert [entry.at for entry in scheduler.upcoming(1)] == [START + timedelta(seconds=210)]
        assert scheduler.stop()

    assert task.execution_hist == []


def test_start_after_a_stop_keeps_spent_one_shots_and_pending_runs() -> None:
    """A one-shot that has fired does not fire again; what waited still runs."""
    scheduler = Scheduler(1)
    task = Task("t", int, triggers=[OneTimeTrigger(delay=0), EventTrigger()])
    scheduler.add_task(task)
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    assert scheduler.stop()
    scheduler.release_task(task.id)

    scheduler.start()
    assert scheduler.wait_idle(10)
    assert scheduler.stop()

    assert len(task.execution_hist) == 2


def test_stop_inside_a_task_waits_for_the_others(gate: Gate) -> None:
    """It returns False, since the caller itself runs on, and only when the other has ended."""
    said: list[bool] = []
    asked = threading.Event()

    def stop() -> None:
        asked.set()
        said.append(scheduler.stop())

    scheduler = Scheduler(2)
    scheduler.start()
    scheduler.add_task(Task("other", gate, triggers=[OneTimeTrigger(delay=0)]))
    gate.wait_entered()
    scheduler.add_task(Task("stopper", stop, triggers=[OneTimeTrigger(delay=0)]))
    assert asked.wait(10)
    assert said == []
    gate.leave.set()

    assert scheduler.stop(timeout=10)
    assert said == [False]


def test_two_tasks_that_stop_do_not_wait_for_each_other() -> None:
    """Both calls return although each caller is a running task."""
    both = threading.Barrier(2)

    def stop() -> None:
        both.wait(10)
        assert scheduler.stop() is False

    scheduler = Scheduler(2)
    scheduler.start()
    tasks = [
        scheduler.add_task(Task("t", stop, triggers=[OneTimeTrigger(delay=0)])) for _ in range(2)
    ]
    assert both.parties == 2
    watch = Watch(scheduler)
    watch.wait_for(ChangeKind.RUN_SUCCEEDED, 2)

    assert scheduler.stop(timeout=10)
    assert [task.execution_hist[0].status for task in tasks] == [Status.SUCCESS] * 2


def test_stop_in_a_listener_does_not_wait_for_a_task_that_waits_for_it() -> None:
    """The task waits until the listeners have been told; the stop says that it goes on."""
    answers: list[bool] = []
    stopped: list[bool] = []
    entered, told = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert told.wait(10)
        answers.append(scheduler.wait_idle(5))

    def stop(change: Change) -> None:
        if change.kind is ChangeKind.TASK_ADDED:
            told.set()
            stopped.append(scheduler.stop(10))

    with Scheduler(2) as scheduler:
        scheduler.release_task(scheduler.add_task(Task("waits", wait)).id)
        assert entered.wait(10)
        scheduler.add_listener(stop)
        scheduler.add_task(Task("more", int))

    assert answers == [True]
    assert stopped == [False]


def test_wait_idle_inside_a_task_does_not_wait_for_itself() -> None:
    """Its own run does not count."""
    scheduler = Scheduler(2)
    task = scheduler.add_task(Task("t", lambda: scheduler.wait_idle(10)))
    scheduler.release_task(task.id)
    scheduler.run_tasks()

    assert scheduler.wait_idle(10)
    assert [run.results for run in task.execution_hist] == [True]
    assert scheduler.stop(10)


def test_wait_idle_times_out(gate: Gate) -> None:
    """It says False when something still runs."""
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("t", gate, triggers=[OneTimeTrigger(delay=0)]))
        gate.wait_entered()

        assert not scheduler.wait_idle(timeout=0)
        assert not scheduler.wait_idle(timeout=timedelta(milliseconds=1))
        gate.leave.set()
        assert scheduler.wait_idle()


def test_wait_idle_waits_for_an_overdue_trigger(scheduler: Scheduler) -> None:
    """What a tick has yet to release counts as well."""
    with freeze_time(START) as frozen:
        scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=5)]))
        assert scheduler.wait_idle(0)

        frozen.tick(5)
        assert not scheduler.wait_idle(0)
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)


def test_a_stopped_scheduler_is_not_waited_for(scheduler: Scheduler) -> None:
    """Pending runs of a stopped scheduler, or of a disabled task, do not keep it from idle."""
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    assert not scheduler.wait_idle(0)

    task.enabled = False
    assert scheduler.wait_idle(0)
    task.enabled = True
    scheduler.stop()

    assert scheduler.wait_idle(0)


def test_task_decorator(scheduler: Scheduler) -> None:
    """The function is registered under its name and returned unchanged."""

    @scheduler.task(interval=60, priority=5, retry_policy=RetryPolicy(1))
    def refresh() -> str:
        """Refresh the cache.

        Every minute.
        """
        return "done"

    (task,) = scheduler.tasks.values()
    assert (task.name, task.description, task.priority) == ("refresh", "Refresh the cache.", 5)
    assert [repr(trigger) for trigger in task.triggers] == ["PeriodicTrigger(interval=60)"]
    assert refresh() == "done"


def test_task_decorator_with_other_triggers(scheduler: Scheduler) -> None:
    """Cron, delay and given triggers are put together."""
    changed = EventTrigger()

    @scheduler.task(
        "named", cron_expr="@daily", timezone="Europe/Berlin", delay=5, triggers=[changed]
    )
    def work() -> None:
        pass

    (task,) = scheduler.tasks.values()
    assert task.name == "named"
    assert [repr(trigger) for trigger in task.triggers] == [
        "<EventTrigger, 0 waiting>",
        "PeriodicTrigger(cron_expr='@daily', timezone='Europe/Berlin')",
        "OneTimeTrigger(delay=5)",
    ]


def test_upcoming_merges_in_order(scheduler: Scheduler) -> None:
    """The next fires of all tasks, soonest first, each timer as often as it comes up."""
    with freeze_time(START):
        scheduler.add_task(Task("slow", int, triggers=[PeriodicTrigger(interval=50)]))
        scheduler.add_task(Task("fast", int, triggers=[PeriodicTrigger(interval=20)]))
        scheduler.add_task(Task("once", int, triggers=[OneTimeTrigger(delay=30), EventTrigger()]))

        entries = scheduler.upcoming(6)

    assert [((entry.at - START).seconds, entry.task_name) for entry in entries] == [
        (20, "fast"),
        (30, "once"),
        (40, "fast"),
        (50, "slow"),
        (60, "fast"),
        (80, "fast"),
    ]


def test_upcoming_says_why_not() -> None:
    """Not started, stopped and disabled are told; a retry is one."""
    with freeze_time(START):
        scheduler = Scheduler(1)
        task = Task("t", _fail, retry_policy=RetryPolicy(1, delay=5))
        scheduler.add_task(task)
        watch = Watch(scheduler)
        scheduler.release_task(task.id)
        scheduler.run_tasks()
        watch.wait_for(ChangeKind.RUN_RETRYING)

        (entry,) = scheduler.upcoming(5)
        assert (entry.at, entry.is_retry) == (START + timedelta(seconds=5), True)
        assert entry.reason == "not started"
        scheduler.stop()
        assert scheduler.upcoming(1)[0].reason == "stopped"
        scheduler.start()
        assert scheduler.upcoming(1)[0].reason == ""
        task.enabled = False
        assert scheduler.upcoming(1)[0].reason == "disabled"
        assert scheduler.stop(10)


def test_stats_add_up(scheduler: Scheduler) -> None:
    """Each released run is in one of the sums; a removed task stays in them."""
    good, bad = scheduler.add_task(Task("good", int)), scheduler.add_task(Task("bad", _fail))
    for task in (good, bad, good):
        scheduler.release_task(task.id)
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    scheduler.remove_task(good.id)
    scheduler.release_task(bad.id)

    stats = scheduler.stats()

    assert (stats.released, stats.succeeded, stats.failed, stats.pending) == (4, 2, 1, 1)


def test_listener_hears_the_life_of_a_run(scheduler: Scheduler) -> None:
    """Each change once and in order, with the run as it stood then."""
    changes: list[Change] = []
    end = scheduler.add_listener(changes.append)
    policy = RetryPolicy(1)
    task = scheduler.add_task(Task("t", _fail, retry_policy=policy))
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    end()
    scheduler.remove_task(task.id)

    assert [(change.kind.value, _status(change)) for change in changes] == [
        ("task.added", None),
        ("run.released", "PENDING"),
        ("run.started", "RUNNING"),
        ("attempt.failed", "RUNNING"),
        ("run.retrying", "RETRYING"),
        ("run.started", "RUNNING"),
        ("attempt.failed", "RUNNING"),
        ("run.failed", "FAILED"),
    ]


def test_a_raising_listener_harms_nobody(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the next listener is told, the run goes on."""
    heard: list[Change] = []
    scheduler.add_listener(_exit)
    scheduler.add_listener(heard.append)

    task = scheduler.add_task(Task("t", int))
    execution = scheduler.run_task(task.id)

    assert execution.status is Status.SUCCESS
    assert len(heard) == 4
    failures = [record for record in caplog.records if record.getMessage() == "listener failed"]
    assert len(failures) == 4


def test_a_listener_may_call_back(scheduler: Scheduler) -> None:
    """From a listener the scheduler's methods work, waiting for idle included."""
    said: list[object] = []

    def listen(change: Change) -> None:
        if change.kind is ChangeKind.RUN_SUCCEEDED:
            said.append((scheduler.wait_idle(10), scheduler.stop(10), len(scheduler.tasks)))

    scheduler.add_listener(listen)
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=0)]))
    scheduler.run_tasks()

    assert scheduler.wait_idle(10)
    assert said == [(True, True, 0)]


def test_a_custom_trigger_is_asked_every_tick() -> None:
    """The scheduler thread asks it, and resets it after each release."""
    trigger = Knob()
    ran = threading.Semaphore(0)
    with Scheduler(1, tick_interval=0.001) as scheduler:
        scheduler.add_task(Task("t", ran.release, triggers=[trigger]))
        for _ in range(3):
            trigger.turns += 1
            assert ran.acquire(timeout=10)
        assert scheduler.wait_idle(10)

    assert trigger.resets == 1 + 3  # add_task, each release


def test_a_custom_trigger_that_knows_its_time(scheduler: Scheduler) -> None:
    """It is asked when it said, not before."""
    with freeze_time(START) as frozen:
        trigger = Hourly()
        task = scheduler.add_task(Task("t", int, triggers=[trigger]))
        asked = [trigger.asked]
        for _ in range(4):
            frozen.tick(timedelta(minutes=30))
            scheduler.run_tasks()
            assert scheduler.wait_idle(10)
            asked.append(trigger.asked)

    assert asked == [0, 0, 1, 1, 2]
    assert len(task.execution_hist) == 2


def test_a_custom_trigger_that_is_due_but_not_ready(scheduler: Scheduler) -> None:
    """It is asked again at the next tick, and not quarantined."""
    with freeze_time(START) as frozen:
        trigger = Hourly()
        trigger.ready = False
        task = scheduler.add_task(Task("t", int, triggers=[trigger]))
        frozen.tick(timedelta(hours=1))
        assert scheduler.run_tasks() == 0
        assert trigger.asked == 1

        trigger.ready = True
        assert scheduler.run_tasks() == 1
        assert scheduler.wait_idle(10)

    assert task.enabled


def test_what_a_listener_is_told_cannot_be_changed(scheduler: Scheduler) -> None:
    """By none of them: all have the same; it goes through a pickle as it is."""
    told: list[Change] = []
    scheduler.add_listener(told.append)
    run = scheduler.run_task(scheduler.add_task(Task("t", int)).id)

    execution = told[-1].execution
    assert execution is not None
    with pytest.raises(AttributeError, match="the execution of a change cannot be changed, got a"):
        execution.status = Status.FAILED
    assert isinstance(execution, Execution)
    assert repr(execution) == repr(run)
    for other in (pickle.loads(pickle.dumps(execution)), copy.copy(execution)):
        assert other.to_dict() == run.to_dict() == execution.to_dict()
        with pytest.raises(AttributeError):
            other.results = 1


@pytest.mark.parametrize("method", ["is_ready", "reset", "next_fire_time"])
def test_a_raising_trigger_is_quarantined(scheduler: Scheduler, method: str) -> None:
    """Its task is disabled with the reason on it; the others go on."""
    trigger = Knob()
    setattr(trigger, f"{method}_error", RuntimeError("broken"))
    trigger.turns += 1
    bad = scheduler.add_task(Task("bad", int, triggers=[trigger]))
    good = scheduler.add_task(Task("good", int, triggers=[OneTimeTrigger(delay=0)]))

    scheduler.run_tasks()
    assert scheduler.wait_idle(10)

    assert not bad.enabled
    assert bad.quarantine == "its trigger Knob raised RuntimeError: broken"
    assert len(good.execution_hist) == 1


def test_a_trigger_that_removes_its_task_and_raises(scheduler: Scheduler) -> None:
    """There is nothing left to quarantine; the call that asked it goes on."""
    trigger = Knob()
    task = scheduler.add_task(Task("gone", int, triggers=[trigger]))
    trigger.turns += 1

    def remove_and_raise() -> bool:
        scheduler.remove_task(task.id)
        raise RuntimeError("broken")

    trigger.is_ready = remove_and_raise  # type: ignore[method-assign]
    assert scheduler.run_tasks() == 0

    assert scheduler.tasks == {}
    assert task.quarantine is None


def test_enabling_lifts_a_quarantine(scheduler: Scheduler) -> None:
    """Once it is enabled again its trigger is asked again."""
    trigger = Knob()
    trigger.is_ready_error = RuntimeError("broken")
    trigger.turns += 1
    task = scheduler.add_task(Task("t", int, triggers=[trigger]))
    scheduler.run_tasks()
    trigger.is_ready_error = None

    task.enabled = True
    assert scheduler.run_tasks() == 1
    assert scheduler.wait_idle(10)

    assert task.quarantine is None
    assert len(task.execution_hist) == 1


@pytest.mark.parametrize(
    "lie",
    [START, START - timedelta(days=1), START.replace(tzinfo=None), "tomorrow", float("nan")],
    ids=["now", "past", "naive", "str", "nan"],
)
def test_a_lying_trigger_is_quarantined(scheduler: Scheduler, lie: object) -> None:
    """A next time that does not lie ahead, or is none, is not looped on."""
    with freeze_time(START):
        trigger = Hourly(first=lie)
        task = scheduler.add_task(Task("t", int, triggers=[trigger]))

    assert not task.enabled
    assert task.quarantine is not None
    assert "next_fire_time()" in task.quarantine


@pytest.mark.parametrize("delay", [0, 5], ids=["due when added", "due later"])
def test_a_one_shot_with_a_condition_of_the_users(scheduler: Scheduler, delay: int) -> None:
    """A subclass of a trigger of ours keeps its due time; is_ready is asked from then on."""
    with freeze_time(START) as frozen:
        trigger = WithCondition(delay)
        task = scheduler.add_task(Task("t", int, triggers=[trigger]))
        frozen.tick(delay)
        assert scheduler.run_tasks() == 0
        assert scheduler.tasks == {task.id: task}

        trigger.is_met = True
        assert scheduler.run_tasks() == 1
        assert scheduler.wait_idle(10)

    assert scheduler.tasks == {}
    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]


def test_events_with_a_condition_of_the_users(scheduler: Scheduler) -> None:
    """A subclass of EventTrigger with its own is_ready is asked, and signals wait meanwhile."""
    seen: list[object] = []
    gated = GatedEvents()
    scheduler.start()
    scheduler.add_task(Task("t", lambda: seen.append(_event()), triggers=[gated]))
    gated.fire("a")
    assert scheduler.run_tasks() == 0

    gated.is_open = True
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)

    assert seen == ["a"]


def test_a_queue_of_the_users_is_a_channel(scheduler: Scheduler) -> None:
    """Each item put into it makes a run, in order, at the next tick."""
    channel: Queue[str] = Queue()
    seen: list[object] = []
    task = Task("t", lambda: seen.append(_event()), triggers=[EventTrigger(channel)])
    scheduler.add_task(task)
    channel.put("a")
    channel.put("b")

    assert scheduler.run_tasks() == 2
    assert scheduler.wait_idle(10)
    channel.put("c")
    assert scheduler.run_tasks() == 1
    assert scheduler.wait_idle(10)

    assert seen == ["a", "b", "c"]


def test_fired_before_it_was_added(scheduler: Scheduler) -> None:
    """The signal waits for the task to be added and run."""
    changed = EventTrigger()
    assert changed.fire("early")
    task = scheduler.add_task(Task("t", int, triggers=[changed]))

    assert scheduler.run_tasks() == 1
    assert scheduler.wait_idle(10)
    assert [run.event for run in task.execution_hist] == ["early"]


def test_fire_after_the_task_was_removed(scheduler: Scheduler) -> None:
    """The signal is not taken: nobody would ever run it."""
    changed = EventTrigger()
    scheduler.remove_task(scheduler.add_task(Task("t", int, triggers=[changed])).id)

    assert not changed.fire()


def test_timeout_sets_cancelled() -> None:
    """The function can see that its time is over; it is warned of and not killed."""
    over = threading.Event()
    with Scheduler(1) as scheduler:
        watch = Watch(scheduler)

        def slow() -> bool:
            execution = current_execution()
            assert execution is not None
            assert over.wait(10)
            return execution.cancelled

        task = Task("t", slow, triggers=[OneTimeTrigger(delay=0)], timeout=0.001)
        scheduler.add_task(task)
        watch.wait_for(ChangeKind.RUN_OVERDUE)
        over.set()
        assert scheduler.wait_idle(10)

    (run,) = task.execution_hist
    assert (run.status, run.results) == (Status.TIMED_OUT, True)


def test_executor_is_where_functions_are_called() -> None:
    """A given executor runs them; the lifecycle stays the same, and it is not shut down."""
    with ThreadPoolExecutor(1, thread_name_prefix="elsewhere") as executor:
        with Scheduler(2, executor=executor) as scheduler:
            good = scheduler.add_task(Task("good", _thread_name))
            bad = scheduler.add_task(Task("bad", _fail, retry_policy=RetryPolicy(1)))
            for task in (good, bad):
                scheduler.release_task(task.id)
            assert scheduler.wait_idle(10)
        assert executor.submit(int).result(10) == 0

    assert str(good.execution_hist[0].results).startswith("elsewhere")
    assert (bad.execution_hist[0].status, bad.execution_hist[0].attempts) == (Status.FAILED, 2)


def test_repr_says_how_it_stands(scheduler: Scheduler) -> None:
    """A tired person sees the state and the load."""
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)

    assert repr(scheduler) == "<Scheduler new: 1 tasks, 0 of 2 running, 1 pending>"


def test_max_running_tasks(scheduler: Scheduler) -> None:
    """What it was made with can be read."""
    assert scheduler.max_running_tasks == 2


def test_resources_of_an_execution(scheduler: Scheduler) -> None:
    """Wall and CPU seconds of the run are recorded; some systems count CPU in steps of 10 ms."""
    task = scheduler.add_task(Task("t", _burn, args=[0.1]))

    execution = scheduler.run_task(task.id)

    assert execution.resources.wall >= 0.1
    assert 0.05 < execution.resources.cpu < 0.2


def _burn(seconds: float) -> None:
    """Use so much CPU time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Knob(Trigger):
    """A trigger with only the two methods; ready when it was turned."""

    def __init__(self) -> None:
        """Start unturned, and without calling the base: nothing asks users to."""
        self.turns = 0
        self.answered = False
        self.resets = 0
        self.is_ready_error: Exception | None = None
        self.reset_error: Exception | None = None
        self.next_fire_time_error: Exception | None = None

    def is_ready(self) -> bool:
        """Return whether it was turned."""
        _raise(self.is_ready_error)
        self.answered = self.turns > 0
        return self.answered

    def reset(self) -> None:
        """Turn it back by one after a release; there is nothing to do when it is armed."""
        _raise(self.reset_error)
        self.turns -= self.answered
        self.answered = False
        self.resets += 1

    def next_fire_time(self) -> datetime | None:
        """Know nothing."""
        _raise(self.next_fire_time_error)
        return None


class WithCondition(OneTimeTrigger):
    """A one-shot that waits for a condition, too."""

    is_met = False

    def is_ready(self) -> bool:
        """Return True once it is due and the condition is met."""
        return super().is_ready() and self.is_met


class GatedEvents(EventTrigger):
    """Events that are held back until a gate is open."""

    is_open = False

    def is_ready(self) -> bool:
        """Return True once a signal waits and the gate is open."""
        return super().is_ready() and self.is_open


class Hourly(Trigger):
    """A trigger of a user's that knows when it is due."""

    def __init__(self, first: object = None) -> None:
        """Be due an hour from being armed, or say *first*."""
        self.due = first
        self.ready = True
        self.asked = 0

    def is_ready(self) -> bool:
        """Count the questions."""
        self.asked += 1
        return self.ready

    def reset(self) -> None:
        """Be due an hour later."""
        if self.due is None or self.asked:
            self.due = datetime.now(timezone.utc) + timedelta(hours=1)

    def next_fire_time(self) -> datetime | None:
        """Return the hour."""
        return self.due  # type: ignore[return-value]


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _exit(change: Change) -> None:
    raise SystemExit(f"heard {change.kind}")


def _fail() -> None:
    raise OSError("as always")


def _event() -> object:
    execution = current_execution()
    assert execution is not None
    return execution.event


def _status(change: Change) -> str | None:
    return None if change.execution is None else change.execution.status.value


def _thread_name() -> str:
    return threading.current_thread().name


def test_upcoming_may_be_the_first_of_each_task(scheduler: Scheduler) -> None:
    """One that runs often does not hide the others."""
    with freeze_time(START):
        scheduler.add_task(Task("slow", int, triggers=[PeriodicTrigger(interval=50)]))
        often = [PeriodicTrigger(interval=20), PeriodicTrigger(interval=30)]
        scheduler.add_task(Task("fast", int, triggers=often))

        entries = scheduler.upcoming(6, first_only=True)

    assert [((entry.at - START).seconds, entry.task_name) for entry in entries] == [
        (20, "fast"),
        (50, "slow"),
    ]
