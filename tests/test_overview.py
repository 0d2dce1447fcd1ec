"""What each task is at and did: the values, the table of them, and what a scheduler shows of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from background_tasks import (
    EventTrigger,
    Execution,
    InvalidValueError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    TaskOverview,
    Trigger,
)
from background_tasks.overview import most_notable, overview, overview_table
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)
NEVER_RAN = TaskOverview(
    task_id=0,
    task_name="look",
    priority=0,
    state="idle",
    reason="",
    next_at=None,
    is_on_event=False,
    running=0,
    waiting=0,
    runs=0,
    is_cut=False,
    failures=0,
    retries=0,
    last_status=None,
    last_ended_at=None,
    durations=(),
    late_mean=None,
    late_max=None,
    cpu=0.0,
)


def task(*triggers: Trigger, history: int = 100) -> Task:
    """Return a task that is only looked at."""
    made = Task("look", lambda: None, triggers=triggers, history=history)
    made._id = 0
    return made


def execution(
    status: Status,
    attempts: int,
    *,
    number: int = 0,
    late: float = 0.0,
    queued: float = 0.0,
    wall: float = 1.0,
    cpu: float = 0.0,
    error: str = "",
) -> Execution:
    """Return one that was due at noon, released *late* and started *queued* seconds after that."""
    released = NOON + timedelta(seconds=late)
    return Execution(
        id=number,
        status=status,
        attempts=attempts,
        error=error,
        scheduled_at=NOON,
        released_at=released,
        started_at=released + timedelta(seconds=queued) if attempts else None,
        _cost=(wall, cpu, 0.0),
    )


# One task


def test_overview_of_a_task_that_never_ran() -> None:
    """There is nothing to tell, and no 0 is told instead."""
    assert overview(task(), [], [], None) == NEVER_RAN


def test_overview_counts_runs_attempts_and_lateness() -> None:
    """Two failures before a success, one that runs again, one on time, one not started."""
    ended = [
        execution(Status.SUCCESS, 3, late=0.25, queued=0.5, wall=4, cpu=0.25),
        execution(Status.SUCCESS, 1, number=2, late=0.125, queued=0.125, wall=2, cpu=0.125),
        execution(Status.MISSED, 0, number=3, late=60),
    ]
    live = [execution(Status.RUNNING, 2, number=1, queued=0.5, cpu=0.5)]

    found = overview(task(), ended, live, NOON)

    assert (found.runs, found.failures, found.retries, found.running) == (4, 3, 3, 1)
    assert (found.last_status, found.durations) == (Status.MISSED, (4.0, 2.0))
    assert (found.late_mean, found.late_max, found.cpu) == (0.5, 0.75, 0.875)
    assert (found.state, found.next_at) == ("running", NOON)


@pytest.mark.parametrize(
    ("status", "attempts", "failures", "retries"),
    [
        (Status.SUCCESS, 1, 0, 0),
        (Status.SUCCESS, 2, 1, 1),
        (Status.FAILED, 1, 1, 0),
        (Status.FAILED, 3, 3, 2),
        (Status.TIMED_OUT, 1, 1, 0),
        (Status.RETRYING, 1, 1, 0),
        (Status.RUNNING, 1, 0, 0),
        (Status.RUNNING, 2, 1, 1),
        (Status.DROPPED, 1, 1, 0),
        (Status.MISSED, 0, 0, 0),
        (Status.CANCELLED, 0, 0, 0),
        (Status.CANCELLED, 2, 1, 1),
    ],
)
def test_overview_counts_failures_and_retries(
    status: Status, attempts: int, failures: int, retries: int
) -> None:
    """Each attempt that went wrong is a failure; the first attempt is no retry."""
    found = overview(task(), [execution(status, attempts)], [], None)

    assert (found.failures, found.retries, found.last_status) == (failures, retries, status)


def test_a_cancelled_run_that_raised_has_failed() -> None:
    """As one does that heeds the request with an error."""
    run = execution(Status.CANCELLED, 1, error="TaskCancelledError: the run was cancelled")

    assert overview(task(), [run], [], None).failures == 1


def test_the_last_run_is_the_one_released_last() -> None:
    """It may have ended before another."""
    ended = [execution(Status.FAILED, 1, number=2), execution(Status.SUCCESS, 1, number=1)]
    ended[1].ended_at = NOON

    found = overview(task(), ended, [], None)

    assert (found.last_status, found.last_ended_at) == (Status.FAILED, NOON)


def test_overview_keeps_the_last_sixty_durations() -> None:
    """That is what a line shows."""
    ended = [execution(Status.SUCCESS, 1, number=each, wall=each) for each in range(70)]

    found = overview(task(), ended, [], None)

    assert (len(found.durations), found.durations[0], found.durations[-1]) == (60, 10.0, 69.0)


def test_overview_marks_a_history_that_is_full() -> None:
    """There may have been more runs than are kept."""
    ended = [execution(Status.SUCCESS, 1)] * 2

    assert overview(task(history=2), ended, [], None).is_cut
    assert not overview(task(history=3), ended, [], None).is_cut


def test_overview_is_plain() -> None:
    """Its instants as text, its status as its name, its durations as a list."""
    ended = [execution(Status.SUCCESS, 1, wall=2)]
    found = overview(task(EventTrigger()), ended, [], NOON).to_dict()

    assert found["next_at"] == "2026-05-01T12:00:00+00:00"
    assert (found["last_status"], found["durations"]) == ("SUCCESS", [2.0])
    assert found["is_on_event"] is True


# What a scheduler says


def fail() -> None:
    """Raise."""
    raise ValueError("text")


def _run_one(scheduler: Scheduler, made: Task) -> None:
    scheduler.release_task(made.id)
    scheduler.run_tasks()


def _disable(_: Scheduler, made: Task) -> None:
    made.enabled = False


@pytest.mark.parametrize(
    ("function", "prepare", "state"),
    [
        pytest.param(int, lambda *_: None, "idle", id="idle"),
        pytest.param(fail, _run_one, "retrying", id="retrying"),
        pytest.param(int, lambda s, made: s.release_task(made.id), "waiting", id="waiting"),
        pytest.param(int, _disable, "disabled", id="disabled"),
    ],
)
def test_the_state_of_a_task(
    function: Callable[[], object], prepare: Callable[[Scheduler, Task], object], state: str
) -> None:
    """One word says what it is at."""
    scheduler = InlineScheduler(1)
    policy = RetryPolicy(max_retries=1, delay=60)
    made = scheduler.add_task(Task("t", function, retry_policy=policy))

    prepare(scheduler, made)

    (found,) = scheduler.overview()
    assert found.state == state


def test_the_state_of_a_task_that_runs(scheduler: Scheduler, gate: Gate) -> None:
    """It is running, whatever waits behind."""
    made = scheduler.add_task(Task("t", gate, max_instances=2))
    for _ in range(3):
        scheduler.release_task(made.id)
    scheduler.run_tasks()
    gate.wait_entered()
    gate.wait_entered()

    (found,) = scheduler.overview()

    assert (found.state, found.running, found.waiting) == ("running", 2, 1)
    assert "  2 running  " in scheduler.table()


def test_the_state_of_a_task_whose_trigger_raised() -> None:
    """The reason is beside it."""

    class Raising(Trigger):
        def is_ready(self) -> bool:
            raise ValueError("broken")

        def reset(self) -> None:
            pass

    scheduler = InlineScheduler(1)
    scheduler.add_task(Task("t", int, triggers=[Raising()]))
    scheduler.run_tasks()

    (found,) = scheduler.overview()

    assert found.state == "quarantined"
    assert found.reason == "its trigger Raising raised ValueError: broken"


def test_the_state_of_a_task_that_is_gone(scheduler: Scheduler) -> None:
    """It is registered nowhere, but whoever has it may look."""
    made = scheduler.add_task(Task("t", int))
    scheduler.remove_task(made.id)

    assert scheduler.overview() == []
    assert overview(made, made.execution_hist, [], None).state == "removed"


def test_next_at_is_the_soonest_of_triggers_and_retries() -> None:
    """Whichever of them it is."""
    scheduler = InlineScheduler(1)
    start = scheduler.clock.now()
    triggers = [PeriodicTrigger(interval=60), OneTimeTrigger(delay=5), EventTrigger()]
    policy = RetryPolicy(max_retries=1, delay=10)
    scheduler.add_task(Task("t", fail, triggers=triggers, retry_policy=policy))

    seen = [scheduler.overview()[0].next_at]
    scheduler.clock.advance(seconds=5)
    seen.append(scheduler.overview()[0].next_at)
    scheduler.clock.advance(seconds=10)
    seen.append(scheduler.overview()[0].next_at)

    assert seen == [start + timedelta(seconds=each) for each in (5, 15, 60)]


def test_a_retry_that_is_due_has_no_time(scheduler: Scheduler, gate: Gate) -> None:
    """It waits for a slot, as a run does that was released."""
    long = scheduler.add_task(Task("long", gate, priority=1, max_instances=2))

    def fail_and_give_way() -> None:
        scheduler.release_task(long.id)
        fail()

    policy = RetryPolicy(max_retries=1)
    failing = scheduler.add_task(Task("failing", fail_and_give_way, retry_policy=policy))
    for each in (failing, long):
        scheduler.release_task(each.id)
    scheduler.run_tasks()
    gate.wait_entered()
    gate.wait_entered()

    _, found = scheduler.overview()

    assert (found.state, found.next_at) == ("retrying", None)


def test_of_many_tasks_the_notable_are_shown() -> None:
    """Those that are quarantined, whose last run failed or that run now, in their order."""
    names = ["idle", "well", "failed", "running", "missed", "quarantined"]
    tasks = [Task(name, int) for name in names]
    for number, each in enumerate(tasks):
        each._id = number
    tasks[1]._history = [execution(Status.FAILED, 1), execution(Status.SUCCESS, 1)]
    tasks[2]._history = [execution(Status.SUCCESS, 1), execution(Status.LOST, 1)]
    tasks[3]._running = 1
    tasks[4]._history = [execution(Status.MISSED, 0)]
    tasks[5]._quarantine = "broken"

    shown = {n: [each.name for each in most_notable(tasks, n)] for n in range(5)}

    assert shown == {
        0: [],
        1: ["quarantined"],
        2: ["failed", "quarantined"],
        3: ["failed", "running", "quarantined"],
        4: ["idle", "failed", "running", "quarantined"],
    }
    assert most_notable(tasks, 6) == tasks


@pytest.mark.parametrize("look", [Scheduler.overview, Scheduler.table])
def test_a_negative_number_of_tasks_is_refused(
    scheduler: Scheduler, look: Callable[[Scheduler, int], object]
) -> None:
    """The message states the rule and the value."""
    with pytest.raises(InvalidValueError, match="n must be at least 0, got -1"):
        look(scheduler, -1)


# The table

TABLE = """\
Scheduler new: 4 tasks, 0 of 2 running, 1 pending
ID  task           state     next fire         runs  failures  retries  last      last  late start  late start   CPU
                             (UTC)                                      status    took        mean         max     s
--  -------------  --------  ----------------  ----  --------  -------  -------  -----  ----------  ----------  ----
 0  import orders  idle      00:02:00.000         1         0        0  SUCCESS  2.5 s      0.0 ms      0.0 ms  0.00
 1  monthly        disabled  2026-02-01 06:00     0         0        0  -            -           -           -  0.00
 2  on a change    waiting   on event             0         0        0  -            -           -           -  0.00
 3  once           idle      -                    0         0        0  -            -           -           -  0.00"""  # noqa: E501


def test_the_table_of_a_scheduler() -> None:
    """A line about all, then one for each task; ``str`` and ``print`` give the same."""
    scheduler = InlineScheduler(2)
    clock = scheduler.clock

    def slow() -> None:
        clock.advance(seconds=2.5)

    monthly = PeriodicTrigger(cron_expr="0 6 1 2 *")
    scheduler.add_task(Task("import orders", slow, triggers=[PeriodicTrigger(interval=60)]))
    scheduler.add_task(Task("monthly", int, triggers=[monthly], enabled=False))
    changed = scheduler.add_task(Task("on a change", int, triggers=[EventTrigger()]))
    scheduler.add_task(Task("once", int))
    clock.advance(seconds=60)
    scheduler.release_task(changed.id)

    assert scheduler.table() == TABLE
    assert str(scheduler) == TABLE
    assert repr(scheduler) == "<Scheduler new: 4 tasks, 0 of 2 running, 1 pending>"


def test_the_table_of_a_scheduler_without_tasks(scheduler: Scheduler) -> None:
    """There is a line about it all the same."""
    assert scheduler.table() == "Scheduler new: 0 tasks, 0 of 2 running, 0 pending"


def test_a_table_says_what_it_leaves_out(scheduler: Scheduler) -> None:
    """A hundred lines are what one reads."""
    for _ in range(102):
        scheduler.add_task(Task("t", int))

    lines = str(scheduler).splitlines()

    assert (len(lines), lines[-1]) == (105, "and 2 tasks more")
    assert scheduler.table(0).splitlines()[1:] == ["and 102 tasks more"]


def test_a_table_marks_runs_that_are_not_counted() -> None:
    """With a plus."""
    (line,) = overview_table(
        [overview(task(history=1), [execution(Status.SUCCESS, 1)], [], None)], NOON
    ).splitlines()[3:]

    assert re.split(r"\s{2,}", line.strip()) == [
        "0", "look", "idle", "-", "1+", "0", "0", "SUCCESS", "1.0 s", "0.0 ms", "0.0 ms", "0.00",
    ]  # fmt: skip
