"""Snapshots: all that there is to see, bounded, and nothing that may be secret."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone

import pytest

from background_tasks import (
    Execution,
    Health,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Stats,
    Status,
    Task,
)
from background_tasks.clock import utc_now
from background_tasks.snapshot import _failures, _health, _running, snapshot
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)


def failed(number: int, error: str, *, task_id: int = 3, second: float = 0) -> Execution:
    """Return a run that failed so many seconds after noon."""
    return Execution(
        id=number,
        task_id=task_id,
        task_name="fetch",
        status=Status.FAILED,
        attempts=2,
        error=error,
        traceback=f"Traceback of {number}\n{error}\n",
        started_at=NOON,
        ended_at=NOON + timedelta(seconds=second),
        event="secret",
        results="secret",
    )


def test_a_snapshot_of_a_scheduler_that_was_just_made() -> None:
    """All parts are there, all empty."""
    assert snapshot(Scheduler(3), NOON) == {
        "format": 1,
        "at": "2026-05-01T12:00:00+00:00",
        "pid": os.getpid(),
        "state": "new",
        "slots": 3,
        "stats": Stats().to_dict(),
        "health": Health(is_healthy=False, reasons=("not started",)).to_dict(),
        "running": [],
        "ready": [],
        "upcoming": [],
        "tasks": [],
        "failures": [],
    }


def test_a_snapshot_says_when_it_was_taken() -> None:
    """By the wall clock, unless it is told."""
    before = utc_now()

    at = snapshot(Scheduler(1))["at"]

    assert before <= datetime.fromisoformat(at) <= utc_now()


def test_a_snapshot_of_a_busy_scheduler(scheduler: Scheduler, gate: Gate) -> None:
    """What runs, what waits and why, what comes next, what failed, and each task."""

    def fail() -> None:
        raise ConnectionError("no route")

    runs = scheduler.add_task(Task("runs", gate, args=[], max_instances=2))
    fails = scheduler.add_task(Task("fails", fail))
    scheduler.add_task(Task("later", int, triggers=[PeriodicTrigger(interval=60)]))
    scheduler.run_task(fails.id, event="secret")
    for _ in range(3):
        scheduler.release_task(runs.id, event="secret")
    scheduler.run_tasks()
    gate.wait_entered()
    gate.wait_entered()

    seen = snapshot(scheduler)

    assert [(each["task_name"], each["status"]) for each in seen["running"]] == [
        ("runs", "RUNNING"),
        ("runs", "RUNNING"),
    ]
    assert seen["running"][0]["id"] < seen["running"][1]["id"]
    assert [(each["task_name"], each["reason"]) for each in seen["ready"]] == [
        ("runs", "not started")
    ]
    assert [each["task_name"] for each in seen["upcoming"]] == ["later"]
    assert [each["state"] for each in seen["tasks"]] == ["running", "idle", "idle"]
    (failure,) = seen["failures"]
    assert failure["traceback"].endswith("ConnectionError: no route\n")
    assert seen["stats"]["running"] == 2
    assert "secret" not in json.dumps(seen, allow_nan=False)


def test_failures_are_grouped_by_task_and_kind_of_error() -> None:
    """Each group by its latest, the latest group first."""
    found = _failures(
        [
            failed(1, "ValueError: one", second=1),
            failed(2, "OSError", second=9),
            failed(3, "ValueError: two", second=3),
            failed(4, "ValueError: other", task_id=4, second=4),
            Execution(id=5, task_id=3, status=Status.SUCCESS),
        ]
    )

    assert [(each["task_id"], each["kind"], each["count"], each["error"]) for each in found] == [
        (3, "OSError", 1, "OSError"),
        (4, "ValueError", 1, "ValueError: other"),
        (3, "ValueError", 2, "ValueError: two"),
    ]
    assert found[0] == {
        "task_id": 3,
        "task_name": "fetch",
        "kind": "OSError",
        "error": "OSError",
        "count": 1,
        "status": "FAILED",
        "attempts": 2,
        "at": "2026-05-01T12:00:09+00:00",
        "traceback": "Traceback of 2\nOSError\n",
    }


def test_a_run_that_waits_for_its_retry_has_failed() -> None:
    """It is among the failures from its first attempt on, and holds no slot."""

    def fail() -> None:
        raise ConnectionError("no route")

    scheduler = InlineScheduler(1)
    policy = RetryPolicy(max_retries=2, delay=60)
    once = [OneTimeTrigger(delay=0)]
    scheduler.add_task(Task("fails", fail, triggers=once, retry_policy=policy))
    scheduler.run_tasks()

    seen = snapshot(scheduler)

    assert seen["running"] == []
    (failure,) = seen["failures"]
    assert (failure["status"], failure["attempts"]) == ("RETRYING", 1)
    assert failure["at"] == "2026-01-01T00:00:00+00:00"


def test_a_snapshot_is_bounded() -> None:
    """Whatever there is, it stays small, and texts are cut."""
    scheduler = InlineScheduler(1)

    def fail() -> None:
        raise type("Error" + "r" * 400, (Exception,), {})("x" * 5000)

    for _ in range(300):
        task = scheduler.add_task(Task("n" * 200, fail, triggers=[PeriodicTrigger(interval=60)]))
        for _ in range(2):
            scheduler.release_task(task.id)
    scheduler.run_tasks()
    for number in range(300):
        scheduler.release_task(number)

    seen = snapshot(scheduler)

    counts = {name: len(each) for name, each in seen.items() if isinstance(each, list)}
    assert counts == {"running": 0, "ready": 50, "upcoming": 20, "tasks": 200, "failures": 20}
    assert len(seen["failures"][0]["error"]) == 300
    assert len(seen["failures"][0]["kind"]) == 300
    assert len(seen["failures"][0]["traceback"]) == 2000
    assert len(json.dumps(seen)) < 400_000


def test_what_there_is_to_complain_of_is_bounded() -> None:
    """Twenty of each kind."""
    names = tuple("n" * 200 for _ in range(300))

    found = _health(Health(is_healthy=False, reasons=("r" * 400,) * 30, quarantined=names))

    assert (len(found["reasons"]), len(found["quarantined"])) == (20, 20)
    assert {len(each) for each in found["reasons"]} == {300}


def test_the_runs_that_are_shown_are_those_that_run_longest() -> None:
    """A hundred of them, without their tracebacks: those are among the failures."""
    runs = [failed(number, "ValueError: of the attempt before") for number in range(150)]
    for each in runs:
        each.status = Status.RUNNING
        each.started_at = NOON - timedelta(seconds=each.id)
    waits = failed(200, "ValueError")
    waits.status = Status.RETRYING

    found = _running({3: [*runs, waits]})

    assert [each["id"] for each in found] == [*range(149, 49, -1)]
    assert {each["traceback"] for each in found} == {""}


@pytest.mark.parametrize("state", ["new", "running", "stopped"])
def test_a_scheduler_says_what_state_it_is_in(state: str) -> None:
    """In a word."""
    scheduler = Scheduler(1)

    if state != "new":
        scheduler.start()
    if state == "stopped":
        scheduler.stop()

    assert scheduler.state == state
    scheduler.stop()
