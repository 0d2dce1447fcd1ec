"""What is looked at, as plain values: complete, in JSON, and without what may be secret."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest

from background_tasks import (
    Change,
    ChangeKind,
    Execution,
    InvalidTypeError,
    RetryPolicy,
    Stats,
    Status,
    Task,
    Upcoming,
    Waiting,
)
from background_tasks.plain import to_dict
from background_tasks.testing import InlineScheduler

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)
EXECUTION = {
    "started_at": "2026-05-01T12:00:02+00:00",
    "ended_at": None,
    "status": "RUNNING",
    "error": "",
    "id": 7,
    "task_id": 3,
    "task_name": "fetch",
    "scheduled_at": "2026-05-01T12:00:00+00:00",
    "released_at": "2026-05-01T12:00:00.500000+00:00",
    "attempts": 1,
    "missed": 0,
    "traceback": "",
    "cancel_reason": "",
    "cancelled": False,
    "lateness": 0.5,
    "queue_time": 1.5,
    "trace_id": "",
    "span_id": "",
}


class Point(NamedTuple):
    """A value that is a tuple."""

    x: float
    y: float


@dataclass
class Holder:
    """A value that holds one other, and something of its own."""

    value: object
    _own: object = None


def execution() -> Execution:
    """Return one that runs, with an event and results that are nobody's business."""
    return Execution(
        id=7,
        task_id=3,
        task_name="fetch",
        status=Status.RUNNING,
        scheduled_at=NOON,
        released_at=NOON + timedelta(seconds=0.5),
        started_at=NOON + timedelta(seconds=2),
        attempts=1,
        event={"token": "secret"},
        results="secret",
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        ("text", "text"),
        (Status.SUCCESS, "SUCCESS"),
        (NOON, "2026-05-01T12:00:00+00:00"),
        (timedelta(minutes=1), 60.0),
        (Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
        (Holder(NOON, NotImplemented), {"value": "2026-05-01T12:00:00+00:00"}),
        ((1, NOON), [1, "2026-05-01T12:00:00+00:00"]),
        ([Point(1.0, 2.0)], [{"x": 1.0, "y": 2.0}]),
        ({1: timedelta(seconds=2)}, {"1": 2.0}),
        (Stats(tasks=1), Stats(tasks=1).to_dict()),
    ],
    ids=repr,
)
def test_each_kind_of_value_has_a_plain_form(value: object, expected: object) -> None:
    """One that JSON has, whatever it is inside of."""
    found = to_dict(Holder(value))

    assert found == {"value": expected}
    assert type(found["value"]) is type(expected)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("value", [object(), b"bytes", {1}, RuntimeError("secret"), [object()]])
def test_what_is_not_ours_is_refused(value: object) -> None:
    """It is not shown by accident: a field that may hold it has to be left out."""
    with pytest.raises(InvalidTypeError, match="to_dict must be given plain values, got"):
        to_dict(Holder(value))


def test_fields_are_left_out_and_properties_added() -> None:
    """As the caller says, properties last."""
    found = to_dict(execution(), leave_out=("event", "results", "error"), add=("attempt",))

    assert list(found)[-1] == "attempt"
    assert found["attempt"] == 1
    assert "error" not in found


def test_an_execution_keeps_its_event_and_results_to_itself() -> None:
    """All else is there, with what is derived from it."""
    found = execution().to_dict()

    assert found.pop("resources").keys() >= {"wall", "cpu_user", "cpu_system"}
    assert found == EXECUTION


def test_upcoming_is_plain() -> None:
    """Its instant as text."""
    assert Upcoming(at=NOON, task_id=3, task_name="fetch", is_retry=True).to_dict() == {
        "at": "2026-05-01T12:00:00+00:00",
        "task_id": 3,
        "task_name": "fetch",
        "is_retry": True,
        "reason": "",
    }


def test_waiting_is_plain() -> None:
    """Its instants as text, None for one that nobody knows."""
    waiting = Waiting(
        run_id=7, task_id=3, task_name="fetch", priority=5, released_at=NOON, reason="no slot"
    )

    assert waiting.to_dict() == {
        "run_id": 7,
        "task_id": 3,
        "task_name": "fetch",
        "priority": 5,
        "released_at": "2026-05-01T12:00:00+00:00",
        "reason": "no slot",
        "latest_start": None,
    }


def test_stats_are_plain() -> None:
    """Every counter under its name."""
    found = Stats(released=3, succeeded=2, pending=1, tasks=1).to_dict()

    assert {name: count for name, count in found.items() if count} == {
        "released": 3,
        "succeeded": 2,
        "pending": 1,
        "tasks": 1,
    }
    assert len(found) == len(Stats.__dataclass_fields__)


def test_a_change_is_plain() -> None:
    """Its execution leaves out what is secret there, too."""
    change = Change(
        kind=ChangeKind.RUN_STARTED, at=NOON, task_id=3, task_name="fetch", execution=execution()
    )

    found = change.to_dict()

    assert found.pop("execution").items() >= EXECUTION.items()
    assert found == {
        "kind": "run.started",
        "at": "2026-05-01T12:00:00+00:00",
        "task_id": 3,
        "task_name": "fetch",
        "priority": None,
        "enabled": None,
        "reason": "",
        "skipped": 0,
    }


def test_all_that_a_scheduler_shows_is_json() -> None:
    """Of one with a run that failed, one that waits for its retry and one that is to come."""

    def fail(secret: str) -> None:
        raise ValueError("no route")

    scheduler = InlineScheduler(1)
    task = scheduler.add_task(Task("fails", fail, args=["secret"]))
    scheduler.run_task(task.id, event={"token": "secret"})
    policy = RetryPolicy(max_retries=1, delay=60)
    retried = scheduler.add_task(Task("retried", fail, args=["secret"], retry_policy=policy))
    scheduler.release_task(retried.id, event="secret")
    scheduler.run_tasks()
    scheduler.release_task(task.id, event="secret")

    values: list[Any] = [scheduler.stats(), *task.execution_hist]
    values += [*scheduler.upcoming(), *scheduler.ready()]
    values += [each for runs in scheduler.running.values() for each in runs]

    shown = [each.to_dict() for each in values]

    assert len(shown) == 5
    assert "secret" not in json.dumps(shown, allow_nan=False)
