"""Every decision of the engine, with the time passed by hand and no thread anywhere."""

from __future__ import annotations

import logging
import math
import random
from contextvars import Context, copy_context
from datetime import datetime, timedelta, timezone
from queue import Queue
from typing import Any

import pytest
from freezegun import freeze_time

from background_tasks import engine as engine_module
from background_tasks.admission import Rules
from background_tasks.changes import Change, ChangeKind
from background_tasks.engine import Engine
from background_tasks.mending import forked
from background_tasks.resources import NO_COST, Resources
from background_tasks.run import Outcome, Run
from background_tasks.task import Status, Task
from background_tasks.trigger import (
    Arm,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Signal,
    Trigger,
    trigger_of,
)

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)
MANY = 100  # more than any test releases in one go
RELEASED, STARTED = ChangeKind.RUN_RELEASED, ChangeKind.RUN_STARTED
SKIPPED = ChangeKind.OCCURRENCE_SKIPPED
RESERVED = "the free slots are reserved for a lane"


# The registry


def test_ids_count_from_zero() -> None:
    """Each task gets the next ID, and an ID is never given again."""
    engine = _engine()
    tasks = [_add(engine), _add(engine)]
    engine.remove(1, _at(0))

    assert [task.id for task in tasks] == [0, 1]
    assert _add(engine).id == 2
    assert engine.last_task_id == 2
    assert sorted(engine.tasks) == [0, 2]


def test_adding_arms_the_timers() -> None:
    """The first run is one interval after the task was added."""
    engine = _engine()

    _add(engine, PeriodicTrigger(10), now=5)

    assert engine.next_due() == _at(15)


def test_adding_takes_up_signals_fired_before() -> None:
    """What was fired before the task was added is released."""
    engine = _engine()
    trigger = EventTrigger()
    trigger.fire("early")
    _add(engine, trigger)

    assert engine.release(_at(0), MANY) == 1
    assert _start(engine).execution.event == "early"


def test_starting_anew_counts_anew() -> None:
    """arm_all counts an interval from then, and a timer comes due once, not twice."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))

    engine.arm_all(_at(4))

    assert engine.release(_at(13), MANY) == 0
    assert engine.release(_at(14), MANY) == 1


def test_starting_anew_leaves_spent_triggers_spent() -> None:
    """A one-time trigger that fired does not fire again."""
    engine = _engine()
    _add(engine, OneTimeTrigger(1), PeriodicTrigger(100))
    _succeed(engine, _released(engine, now=1))

    engine.arm_all(_at(50))

    assert engine.next_due() == _at(150)


def test_starting_anew_takes_up_signals_once() -> None:
    """A signal that waits is released once, however often it is rung."""
    engine = _engine()
    trigger = EventTrigger()
    _add(engine, trigger)
    trigger.fire()

    engine.arm_all(_at(0))
    engine.arm_all(_at(0))

    assert engine.release(_at(0), MANY) == 1


def test_removing_drops_what_waits() -> None:
    """A ready and a pending run end as DROPPED and never start."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, "ready", _at(0))
    engine.request(task, "pending", _at(0))

    engine.remove(0, _at(1))

    assert [(e.event, e.status) for e in task.execution_hist] == [
        ("ready", Status.DROPPED),
        ("pending", Status.DROPPED),
    ]
    assert task.execution_hist[0].ended_at == _at(1)
    assert engine.take(_at(1)) is None
    assert engine.is_idle(_at(1))


def test_removing_lets_a_running_run_finish() -> None:
    """What runs goes on and is recorded on the task that is gone, after what was dropped."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.request(task, None, _at(0))
    engine.remove(0, _at(1))

    _succeed(engine, run, now=2)

    assert _history(task) == [Status.DROPPED, Status.SUCCESS]
    assert engine.stats().running == 0
    assert 0 not in engine.tasks


def test_removing_takes_the_retries_away() -> None:
    """A run that fails after its task was removed is not tried again."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.remove(0, _at(1))

    _fail(engine, run, now=2, retry_after=5)

    assert _history(task) == [Status.FAILED]
    assert engine.next_due() is None


@pytest.mark.parametrize("delay", [0, 5], ids=["ready again", "waits for its delay"])
def test_removing_drops_a_retry(delay: float) -> None:
    """A run between two attempts ends as DROPPED, once."""
    engine = _engine()
    task = _add(engine)
    _fail(engine, _requested(engine, task), retry_after=delay)

    engine.remove(0, _at(1))

    assert _history(task) == [Status.DROPPED]
    assert engine.next_due() is None
    assert engine.take(_at(9)) is None
    assert not engine.live


def test_removing_drops_a_retry_behind_others() -> None:
    """A retry that waits behind a ready run ends as DROPPED, once."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.request(task, None, _at(0))
    _fail(engine, run, retry_after=0)

    engine.remove(0, _at(1))

    assert _history(task) == [Status.DROPPED, Status.DROPPED]
    assert engine.stats().dropped == 2


def test_removing_disarms_timers() -> None:
    """Nothing of a removed task comes due."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10), OneTimeTrigger(5))

    engine.remove(0, _at(1))

    assert engine.next_due() is None
    assert engine.release(_at(100), MANY) == 0


def test_removing_leaves_no_circle_of_references() -> None:
    """The arm of a removed task holds on neither to it nor to the run it released."""
    engine = _engine()
    (arm,) = _add(engine, PeriodicTrigger(10))._arms
    engine.release(_at(10), MANY)
    assert arm._arm_run is not None

    engine.remove(0, _at(11))

    assert arm._arm_run is None
    assert arm._arm_task is None


def test_removing_closes_the_channel() -> None:
    """Signals that wait are dropped with their task, later ones are refused."""
    engine = _engine()
    task = _add(engine, EventTrigger())
    assert _fire(engine, task)

    engine.remove(0, _at(1))

    assert not _fire(engine, task)
    assert engine.release(_at(1), MANY) == 0
    assert engine.is_idle(_at(1))


def test_removing_a_disabled_task_leaves_nothing_held() -> None:
    """What the task held back is dropped, and the counts are right for those that stay."""
    engine = _engine()
    other, task = _add(engine), _add(engine, enabled=False)
    engine.request(task, None, _at(0))
    engine.remove(task.id, _at(0))

    assert engine.is_idle(_at(0))
    engine.request(other, None, _at(0))

    assert engine.stats().pending == 1
    assert not engine.is_idle(_at(0))


def test_what_an_error_has_lost_counts_as_dropped() -> None:
    """As many as are missing, and none where the books add up."""
    engine = _engine()
    task = _add(engine)
    for _ in range(5):
        engine.request(task, None, _at(0))
    engine.count_missing()
    assert engine.stats().dropped == 0

    engine._waiting -= 2
    engine.count_missing()

    assert engine.stats().dropped == 2


def test_a_stuck_run_without_a_slot_is_not_replaced() -> None:
    """There is none to replace: it was called by run_task."""
    engine = Engine(
        max_running_tasks=1,
        aging=5.0,
        on_time=timedelta(seconds=1),
        stuck_after=timedelta(seconds=10),
        replacements=1,
    )
    task = _add(engine, timeout=5)
    run = engine.take_inline(task, None, _at(0))
    for seconds in (5, 15):
        engine.release(_at(seconds), MANY)

    assert engine.stats().stuck == 1
    for _ in range(2):
        engine.request(_add(engine), None, _at(15))
    assert engine.claim_slots() == 1

    engine.finish(run, Outcome(_at(16), NO_COST))
    assert engine.stats().stuck == 0
    assert engine.claim_slots() == 0


def test_what_is_counted_elsewhere() -> None:
    """The stats have it as it is."""
    engine = _engine()
    engine.internal_errors = 3

    assert (engine.stats(2).internal_errors, engine.stats(2).listener_failures) == (3, 2)
    assert engine.stats().listener_failures == 0


# Timers


def test_nothing_is_released_before_it_is_due() -> None:
    """A microsecond early is early; the due instant itself is not."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))

    assert engine.release(_at(10) - timedelta(microseconds=1), MANY) == 0
    assert engine.take(_at(10)) is None
    assert engine.release(_at(10), MANY) == 1
    assert engine.take(_at(10)) is not None


def test_a_run_knows_when_it_was_due() -> None:
    """The execution tells when it was due, noticed, started and ended."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), name="report")
    run = _released(engine, now=10.5)
    _succeed(engine, run, now=12, results="done")

    execution = task.execution_hist[0]

    assert (execution.scheduled_at, execution.released_at) == (_at(10), _at(10.5))
    assert (execution.started_at, execution.ended_at) == (_at(10.5), _at(12))
    assert (execution.task_id, execution.task_name, execution.attempts) == (0, "report", 1)
    assert (execution.status, execution.results) == (Status.SUCCESS, "done")


def test_interval_runs_again_and_again() -> None:
    """Each occurrence makes a run of its own when the one before has ended."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10))

    for now in (10, 20, 30):
        _succeed(engine, _released(engine, now=now))

    assert [e.scheduled_at for e in task.execution_hist] == [_at(10), _at(20), _at(30)]
    assert engine.stats().skipped == 0


def test_late_interval_runs_once() -> None:
    """One late run stands for all occurrences that were missed, and says how many."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))

    run = _released(engine, now=35)

    assert run.execution.scheduled_at == _at(30)
    assert run.execution.missed == 2
    assert engine.stats().skipped == 2
    assert engine.next_due() == _at(40)


def test_no_second_run_waits() -> None:
    """While a run waits, further occurrences are counted on it."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))
    assert engine.release(_at(10), MANY) == 1

    assert engine.release(_at(45), MANY) == 0

    assert engine.stats().pending == 1
    assert engine.stats().skipped == 3
    assert _start(engine, now=45).execution.missed == 3


def test_one_run_waits_behind_a_running_one() -> None:
    """While a run is running one further run waits, with the rest counted on it."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))
    first = _released(engine, now=10)

    assert [engine.release(_at(now), MANY) for now in (20, 30, 40)] == [1, 0, 0]
    _succeed(engine, first, now=41)

    assert _start(engine, now=41).execution.missed == 2


def test_missed_all_runs_each_oldest_first() -> None:
    """With missed="all" each occurrence makes a run, the oldest first."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10), missed="all", max_instances=3)

    assert engine.release(_at(35), MANY) == 3

    runs = [_start(engine, now=35) for _ in range(3)]
    assert [run.execution.scheduled_at for run in runs] == [_at(10), _at(20), _at(30)]
    assert engine.stats().skipped == 0


def test_missed_all_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Occurrences beyond MAX_CATCH_UP are counted on the last run, not run."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", 2)
    engine = _engine()
    _add(engine, PeriodicTrigger(10), missed="all", max_instances=2)

    assert engine.release(_at(55), MANY) == 2

    assert [_start(engine).execution.missed for _ in range(2)] == [0, 3]
    assert engine.stats().skipped == 3
    assert engine.next_due() == _at(60)


def test_a_thousand_are_made_up() -> None:
    """With missed="all" a thousand occurrences are run, as the README promises."""
    engine = _engine()
    _add(engine, PeriodicTrigger(1), missed="all")

    assert engine.release(_at(1500), MANY) == 1000
    assert engine.stats().skipped == 500


def test_missed_all_up_to_the_bound_counts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly MAX_CATCH_UP occurrences are all run and none is counted."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", 2)
    engine = _engine()
    _add(engine, PeriodicTrigger(10), missed="all")

    assert engine.release(_at(25), MANY) == 2
    assert engine.stats().skipped == 0


def test_missed_all_beyond_grace_and_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is left to stand for them, those beyond MAX_CATCH_UP are still counted."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", 2)
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), missed="all", misfire_grace=1)

    assert engine.release(_at(55), MANY) == 0

    assert _history(task) == [Status.MISSED, Status.MISSED]
    assert engine.stats().skipped == 3


def test_one_that_is_due_now_is_beyond_the_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted with the others, not left for the next tick."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", 2)
    engine = _engine()
    _add(engine, PeriodicTrigger(10), missed="all")

    assert engine.release(_at(30), MANY) == 2

    assert engine.stats().skipped == 1
    assert not engine.has_due(_at(30))


def test_what_is_beyond_the_bound_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that still waits stands for what was counted before and what is counted now."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", 2)
    engine = _engine()
    _add(engine, PeriodicTrigger(10), missed="all", misfire_grace=1)
    engine.release(_at(10), MANY)
    for now in (55, 95):  # of 20 to 50 and of 60 to 90 two each are MISSED
        engine.release(_at(now), MANY)

    assert _start(engine, now=95).execution.missed == 4


@pytest.mark.parametrize(
    ("now", "released", "skipped"),
    [
        pytest.param(30, 1, 2, id="on time"),
        pytest.param(31, 1, 2, id="just on time"),
        pytest.param(31.1, 0, 3, id="late"),
    ],
)
def test_missed_skip_runs_none_that_is_late(now: float, released: int, skipped: int) -> None:
    """With missed="skip" a late occurrence is counted; one that is on time runs."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), missed="skip")

    assert engine.release(_at(now), MANY) == released

    assert engine.stats().skipped == skipped
    assert _history(task) == []
    assert engine.next_due() == _at(40)


def test_grace_says_what_is_late_for_skip() -> None:
    """With missed="skip" a run within misfire_grace is not late."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10), missed="skip", misfire_grace=5)

    assert engine.release(_at(14), MANY) == 1
    assert engine.release(_at(26), MANY) == 0


def test_no_grace_at_all_is_late_for_skip() -> None:
    """With missed="skip" and a grace of 0 anything late is counted, as with a larger grace."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), missed="skip", misfire_grace=0)

    assert engine.release(_at(10.5), MANY) == 0

    assert _history(task) == []
    assert engine.stats().skipped == 1


@pytest.mark.parametrize(
    ("now", "released", "history"),
    [(15, 1, []), (15.001, 0, [Status.MISSED])],
    ids=["just in time", "too late"],
)
def test_misfire_grace(now: float, released: int, history: list[Status]) -> None:
    """A run released later than the grace is recorded as MISSED instead of being run."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), misfire_grace=5)

    assert engine.release(_at(now), MANY) == released

    assert _history(task) == history
    assert engine.stats().pending == released


def test_a_missed_run_is_a_whole_record() -> None:
    """It says when it was due and for how many more it stands, and it never started."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), misfire_grace=1)
    engine.release(_at(25), MANY)

    execution = task.execution_hist[0]

    assert (execution.scheduled_at, execution.released_at) == (_at(20), _at(25))
    assert execution.ended_at == _at(25)
    assert (execution.missed, execution.attempts, execution.started_at) == (1, 0, None)
    assert engine.stats().missed == 1
    assert engine.stats().released == 1


def test_grace_holds_for_each_when_all_are_made_up() -> None:
    """With missed="all" those beyond the grace are MISSED and the others run."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), missed="all", misfire_grace=10)

    assert engine.release(_at(35), MANY) == 1

    assert _history(task) == [Status.MISSED, Status.MISSED]
    assert _start(engine).execution.scheduled_at == _at(30)


def test_release_looks_at_so_many() -> None:
    """It stops after *most* due times and says that there is more."""
    engine = _engine()
    for _ in range(3):
        _add(engine, PeriodicTrigger(10))

    assert engine.release(_at(10), 2) == 2
    assert engine.has_due(_at(10))
    assert engine.release(_at(10), 2) == 1
    assert not engine.has_due(_at(10))


def test_urgent_comes_first_among_those_due_together() -> None:
    """A batch takes the most urgent of those due at one instant."""
    engine = _engine()
    for priority in (0, 9, 5):
        _add(engine, PeriodicTrigger(10), priority=priority)

    engine.release(_at(10), 2)

    assert [_start(engine).task.priority for _ in range(2)] == [9, 5]


def test_nothing_is_released_while_paused() -> None:
    """Timers, retries and signals wait until it goes on."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))
    _fire(engine, _add(engine, EventTrigger()))
    engine.is_paused = True

    assert engine.release(_at(10), MANY) == 0
    assert not engine.has_due(_at(10))
    engine.is_paused = False
    assert engine.release(_at(10), MANY) == 2


def test_trigger_with_an_end_comes_to_rest() -> None:
    """Beyond its end a trigger is never due again."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, end=_at(15)))

    assert engine.release(_at(10), MANY) == 1
    assert engine.next_due() is None


# Mode "delay"


def test_delay_counts_from_the_end() -> None:
    """The next run is due one interval after the last one has ended."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, mode="delay"))
    run = _released(engine, now=10)
    assert engine.next_due() is None

    _succeed(engine, run, now=17)

    assert engine.next_due() == _at(27)


def test_delay_counts_from_the_last_attempt() -> None:
    """Between the attempts of a run nothing else of the trigger is due."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, mode="delay"))
    _fail(engine, _released(engine, now=10), now=11, retry_after=3)
    assert engine.next_due() == _at(14)

    _fail(engine, _released(engine, now=14), now=15)

    assert engine.next_due() == _at(25)


@pytest.mark.parametrize(
    "settings",
    [{"missed": "skip"}, {"misfire_grace": 1}, {"misfire_grace": 1, "missed": "all"}],
    ids=["skipped", "MISSED", "MISSED of all"],
)
def test_delay_goes_on_when_there_is_no_run(settings: dict[str, Any]) -> None:
    """Where a late occurrence makes no run the next is counted from when that was decided."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, mode="delay"), **settings)

    assert engine.release(_at(15), MANY) == 0

    assert engine.next_due() == _at(25)


def test_delay_goes_on_while_disabled() -> None:
    """An occurrence that passes while the task is disabled does not end the trigger."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, mode="delay"), enabled=False)

    assert engine.release(_at(12), MANY) == 0

    assert engine.next_due() == _at(22)
    assert engine.stats().skipped == 1


def test_delay_with_all_missed_makes_one_run() -> None:
    """With no grid there is one occurrence to make up, not many."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, mode="delay"), missed="all")

    assert engine.release(_at(100), MANY) == 1
    assert engine.next_due() is None


# Disabled tasks


def test_timers_pass_while_disabled() -> None:
    """Occurrences are counted as skipped, and the grid goes on."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10))
    engine.set_enabled(task, False, _at(0))
    assert engine.release(_at(35), MANY) == 0

    engine.set_enabled(task, True, _at(36))

    assert engine.stats().skipped == 3
    assert engine.release(_at(39), MANY) == 0
    assert engine.release(_at(40), MANY) == 1


def test_events_wait_while_disabled() -> None:
    """Signals stay in the channel and run, in order, when the task is enabled."""
    engine = _engine()
    task = _add(engine, EventTrigger(), enabled=False, max_instances=2)
    _fire(engine, task, "first")
    _fire(engine, task, "second")
    assert engine.release(_at(0), MANY) == 0
    assert engine.is_idle(_at(0))

    engine.set_enabled(task, True, _at(1))

    assert engine.release(_at(1), MANY) == 2
    assert [_start(engine).execution.event for _ in range(2)] == ["first", "second"]


def test_a_ready_run_is_held_while_disabled() -> None:
    """It goes back to the front of its task's queue and runs first when enabled."""
    engine = _engine()
    task = _add(engine)
    for event in ("a", "b"):
        engine.request(task, event, _at(0))

    engine.set_enabled(task, False, _at(1))
    assert engine.take(_at(1)) is None
    assert engine.stats().pending == 2
    assert engine.is_idle(_at(1))
    engine.set_enabled(task, True, _at(2))

    assert _start(engine).execution.event == "a"


def test_the_only_run_is_held_while_disabled() -> None:
    """A ready run with none behind it is kept, too."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, None, _at(0))

    engine.set_enabled(task, False, _at(1))
    engine.set_enabled(task, True, _at(2))

    assert engine.take(_at(2)) is not None
    assert engine.take(_at(2)) is None


def test_requests_wait_while_disabled() -> None:
    """A run that is asked for waits until the task is enabled."""
    engine = _engine()
    task = _add(engine, enabled=False)
    engine.request(task, "asked", _at(0))
    assert engine.take(_at(0)) is None

    engine.set_enabled(task, True, _at(1))

    assert _start(engine).execution.event == "asked"


def test_a_request_is_due_when_it_is_made() -> None:
    """That is when its run was to start, and when it was released."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, None, _at(3))

    execution = _start(engine, now=9).execution

    assert (execution.scheduled_at, execution.released_at) == (_at(3), _at(3))


@pytest.mark.parametrize("how", ["request", "take_inline", "signal", "custom signal"])
def test_a_run_knows_the_context_it_was_asked_in(how: str) -> None:
    """Until it ends, so that the history keeps no context alive."""
    engine, origin = _engine(), copy_context()
    trigger = _CustomEvent() if how == "custom signal" else EventTrigger()
    task = _add(engine, trigger)
    if how == "take_inline":
        run = engine.take_inline(task, None, _at(0), origin)
    else:
        if how == "request":
            engine.request(task, None, _at(0), origin)
        else:
            trigger.bind(_Bell(engine, task._arms[0], _at(0), origin))
            trigger.fire()
        if how == "custom signal":
            engine.answered(task._arms[0], _at(0))
        run = _released(engine, now=0)

    assert run.execution._origin is origin
    _succeed(engine, run, now=1)
    assert task.execution_hist[0]._origin is None


def test_a_retry_waits_while_disabled() -> None:
    """A retry that comes due meanwhile runs when the task is enabled."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.set_enabled(task, False, _at(1))
    _fail(engine, run, now=2, retry_after=5)
    engine.release(_at(7), MANY)
    assert engine.take(_at(7)) is None
    assert engine.is_idle(_at(7))

    engine.set_enabled(task, True, _at(8))

    assert engine.take(_at(8)) is run


def test_disabling_lets_a_running_run_finish() -> None:
    """What runs goes on."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)

    engine.set_enabled(task, False, _at(1))
    _succeed(engine, run, now=2)

    assert _history(task) == [Status.SUCCESS]


def test_enabling_twice_counts_once() -> None:
    """Setting what is set already changes nothing, in either direction."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, None, _at(0))
    for enabled in (True, False, False, True, True):
        engine.set_enabled(task, enabled, _at(0))

    assert not engine.is_idle(_at(0))
    _succeed(engine, _start(engine))
    assert engine.is_idle(_at(0))


# Priority and order


def test_urgent_goes_first() -> None:
    """Of two runs released together the one of higher priority starts first."""
    engine = _engine()
    low, high = _add(engine, priority=-1), _add(engine, priority=1)
    for task in (low, high):
        engine.request(task, None, _at(0))

    assert _start(engine).task is high
    assert _start(engine).task is low


def test_waiting_outweighs_priority() -> None:
    """With five seconds a point, five seconds of waiting make up for one."""
    engine = _engine(aging=5.0)
    low, high = _add(engine), _add(engine, priority=1)
    engine.request(low, None, _at(0))
    engine.request(high, None, _at(6))

    assert _start(engine, now=6).task is low


def test_own_backlog_earns_nothing() -> None:
    """A run counts as waiting from when it could have started, not from its release."""
    engine = _engine(aging=5.0)
    flood, other = _add(engine), _add(engine)
    for _ in range(2):
        engine.request(flood, None, _at(0))
    first = _start(engine, now=0)
    engine.request(other, None, _at(8))
    _succeed(engine, first, now=9)

    assert _start(engine, now=9).task is other


def test_new_priority_moves_a_ready_run() -> None:
    """A run that is ready is found under its task's new priority."""
    engine = _engine(aging=math.inf)
    first, second = _add(engine), _add(engine)
    for task in (first, second):
        engine.request(task, None, _at(0))

    engine.set_priority(second, 1)

    assert _start(engine).task is second
    assert _start(engine).task is first
    assert engine.take(_at(0)) is None


def test_new_priority_keeps_the_stamp() -> None:
    """What a run has waited so far still counts under its new priority."""
    engine = _engine(aging=5.0)
    old, young = _add(engine), _add(engine)
    engine.request(old, None, _at(0))
    engine.request(young, None, _at(4))

    engine.set_priority(old, 0)

    assert _start(engine, now=100).task is old


def test_new_priority_moves_timers() -> None:
    """Among timers due together the new priority counts."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10), priority=1)
    task = _add(engine, PeriodicTrigger(10), EventTrigger())

    engine.set_priority(task, 2)
    engine.release(_at(10), 1)

    assert _start(engine, now=10).task is task
    assert task.priority == 2


def test_new_priority_moves_a_retry() -> None:
    """Among what is due together a retry counts with its task's new priority."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10), priority=1)
    task = _add(engine)
    _fail(engine, _requested(engine, task), retry_after=10)

    engine.set_priority(task, 2)
    engine.release(_at(10), 1)

    assert _start(engine, now=10).task is task


# Instances


def test_one_instance_at_a_time() -> None:
    """By default the second run of a task waits until the first has ended."""
    engine = _engine()
    task = _add(engine)
    first = _requested(engine, task)
    engine.request(task, None, _at(0))
    assert engine.take(_at(0)) is None

    _succeed(engine, first, now=1)

    assert engine.take(_at(1)) is not None


def test_as_many_instances_as_allowed() -> None:
    """With max_instances=2 two run at once and the third waits."""
    engine = _engine()
    task = _add(engine, max_instances=2)
    for _ in range(3):
        engine.request(task, None, _at(0))

    runs = [engine.take(_at(0)) for _ in range(3)]

    assert [run is not None for run in runs] == [True, True, False]
    assert task._running == 2
    assert engine.stats().pending == 1


def test_a_retry_that_waits_is_no_instance() -> None:
    """While a run waits for its retry the next run of the task may start."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.request(task, "next", _at(0))

    _fail(engine, run, now=1, retry_after=60)

    assert _start(engine, now=1).execution.event == "next"


# Retries


def test_retry_after_its_delay() -> None:
    """The next attempt is due after the delay and is the same execution."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task, now=0)

    _fail(engine, run, now=1, retry_after=5)

    assert run.execution.status == Status.RETRYING
    assert engine.release(_at(5.9), MANY) == 0
    assert engine.release(_at(6), MANY) == 1
    assert engine.take(_at(6)) is run
    assert (run.execution.attempts, run.execution.started_at) == (2, _at(0))
    assert engine.stats().retries == 1


def test_retry_at_once() -> None:
    """Without a delay the next attempt is ready at once."""
    engine = _engine()
    run = _requested(engine, _add(engine))

    _fail(engine, run, now=1, retry_after=0)

    assert engine.next_due() is None
    assert engine.take(_at(1)) is run


def test_retry_at_once_waits_its_turn() -> None:
    """Without a delay the next attempt goes behind the runs of its task that wait."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.request(task, "waited", _at(0))

    _fail(engine, run, now=1, retry_after=0)

    second = _start(engine, now=1)
    assert second.execution.event == "waited"
    _succeed(engine, second, now=2)
    assert engine.take(_at(2)) is run


def test_last_attempt_fails() -> None:
    """Without a further attempt the run ends as FAILED, with its error and traceback."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)

    _fail(engine, run, now=3)

    execution = task.execution_hist[0]
    assert execution.status == Status.FAILED
    assert (execution.error, execution.traceback) == ("ValueError: no", "Traceback: no")
    assert (execution.results, execution.ended_at) == (None, _at(3))


def test_retry_succeeds() -> None:
    """A run of which the second attempt returns is a SUCCESS, recorded once."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    _fail(engine, run, retry_after=0)

    _succeed(engine, _start(engine), results="at last")

    assert [e.results for e in task.execution_hist] == ["at last"]
    assert _history(task) == [Status.SUCCESS]
    assert engine.stats().failed == 0


def test_error_goes_when_a_retry_succeeds() -> None:
    """A run that succeeded in the end has no error: a reader need not ask for its status."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    _fail(engine, run, retry_after=0)
    assert run.execution.error == "ValueError: no"

    _succeed(engine, _start(engine))

    assert (run.execution.error, run.execution.traceback) == ("", "")


def test_attempts_add_up() -> None:
    """The resources of an execution are the sum over its attempts."""
    engine = _engine()
    run = _requested(engine, _add(engine))
    for retry_after in (0.0, None):
        cost = (1.0, 0.25, 0.5)
        engine.finish(run, Outcome(_at(1), cost, error="no", retry_after=retry_after))
        engine.take(_at(1))

    assert run.execution.resources == Resources(2.0, 0.5, 1.0)


def test_a_run_is_live_until_it_ends() -> None:
    """It is live while it runs and between its attempts, not before and not after."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, None, _at(0))
    assert not engine.live
    run = _start(engine)
    assert engine.live == {0: run}
    _fail(engine, run, retry_after=0)
    assert engine.live == {0: run}

    _succeed(engine, _start(engine))

    assert not engine.live


# Timeout


def test_timeout_asks_the_run_to_give_up() -> None:
    """After its timeout an attempt is cancelled, and that is noted once."""
    engine = _engine()
    run = _requested(engine, _add(engine, timeout=5), now=1)
    engine.release(_at(5.9), MANY)
    assert not run.execution.cancelled

    assert engine.release(_at(6), MANY) == 0
    engine.release(_at(60), MANY)

    assert run.execution.cancelled
    assert run.execution.status == Status.RUNNING
    overdue = [c for c in engine.changes if c.kind is ChangeKind.RUN_OVERDUE]
    assert [(c.at, c.reason) for c in overdue] == [
        (_at(6), "runs longer than its timeout of 5 seconds")
    ]


def test_a_run_in_time_is_not_overdue() -> None:
    """Once it has ended its timeout is forgotten."""
    engine = _engine()
    run = _requested(engine, _add(engine, timeout=5))

    _succeed(engine, run, now=4)

    assert engine.next_due() is None
    assert not run.execution.cancelled


def test_each_attempt_has_its_time() -> None:
    """A further attempt is not cancelled before it has had its own timeout."""
    engine = _engine()
    run = _requested(engine, _add(engine, timeout=5))
    engine.release(_at(5), MANY)
    _fail(engine, run, now=6, retry_after=0)

    _start(engine, now=6)

    assert not run.execution.cancelled
    assert engine.next_due() == _at(11)


def test_a_run_of_a_removed_task_is_overdue_too() -> None:
    """The function is still asked to give up."""
    engine = _engine()
    run = _requested(engine, _add(engine, timeout=5))
    engine.remove(0, _at(1))

    engine.release(_at(5), MANY)

    assert run.execution.cancelled


# One-time tasks


@pytest.mark.parametrize("succeeds", [True, False])
def test_one_time_task_goes_when_it_has_run(succeeds: bool) -> None:
    """A task whose triggers are spent is removed after its run, whatever came of it."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5))
    run = _released(engine, now=5)
    assert 0 in engine.tasks

    (_succeed if succeeds else _fail)(engine, run, now=6)

    assert not engine.tasks
    assert len(task.execution_hist) == 1
    assert engine.changes[-1].kind is ChangeKind.TASK_REMOVED


def test_one_time_task_stays_for_its_retries() -> None:
    """It is removed after the last attempt, not before."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5))
    _fail(engine, _released(engine, now=5), now=5, retry_after=1)
    assert 0 in engine.tasks

    _succeed(engine, _released(engine, now=6), now=6)

    assert not engine.tasks
    assert _history(task) == [Status.SUCCESS]


def test_one_time_task_stays_for_its_other_trigger() -> None:
    """It is removed when all its triggers are spent."""
    engine = _engine()
    _add(engine, OneTimeTrigger(5), OneTimeTrigger(9))
    _succeed(engine, _released(engine, now=5), now=5)
    assert 0 in engine.tasks

    _succeed(engine, _released(engine, now=9), now=9)

    assert not engine.tasks


def test_one_time_task_stays_for_what_waits() -> None:
    """A run that was asked for meanwhile is run before the task goes."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5))
    run = _released(engine, now=5)
    engine.request(task, None, _at(5))
    _succeed(engine, run, now=6)
    assert 0 in engine.tasks

    _succeed(engine, _start(engine), now=6)

    assert not engine.tasks


def test_one_time_task_stays_for_what_runs() -> None:
    """It goes with the end of the last of several runs."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5), max_instances=2)
    runs = [_released(engine, now=5), _requested(engine, task, now=5)]
    _succeed(engine, runs[0], now=6)
    assert 0 in engine.tasks

    _succeed(engine, runs[1], now=7)

    assert not engine.tasks


def test_one_time_task_that_ran_when_asked_stays() -> None:
    """A run that was asked for does not use up the trigger."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5))

    _succeed(engine, _requested(engine, task))

    assert 0 in engine.tasks
    assert engine.next_due() == _at(5)


@pytest.mark.parametrize("other", [PeriodicTrigger(60), EventTrigger()], ids=repr)
def test_task_with_another_trigger_stays(other: Trigger) -> None:
    """A task of which only some triggers are one-time ones is not removed."""
    engine = _engine()
    _add(engine, OneTimeTrigger(5), other)

    _succeed(engine, _released(engine, now=5))

    assert 0 in engine.tasks


def test_task_without_triggers_stays() -> None:
    """A task that runs when asked is never spent."""
    engine = _engine()

    _succeed(engine, _requested(engine, _add(engine)))

    assert 0 in engine.tasks


def test_one_time_task_that_was_missed_goes() -> None:
    """A trigger whose run was missed is spent all the same."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5), misfire_grace=1)

    engine.release(_at(60), MANY)

    assert _history(task) == [Status.MISSED]
    assert not engine.tasks
    assert engine.next_due() is None


def test_one_time_task_that_was_skipped_goes() -> None:
    """With missed="skip" a trigger that was late is spent all the same."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(5), missed="skip")

    engine.release(_at(60), MANY)

    assert not engine.tasks
    assert _history(task) == []
    assert engine.stats().skipped == 1
    assert (engine.changes[-1].kind, engine.changes[-1].at) == (ChangeKind.TASK_REMOVED, _at(60))


def test_one_time_task_whose_time_passed_disabled_stays() -> None:
    """It never ran: it is kept, spent, to be asked for a run."""
    engine = _engine()
    _add(engine, OneTimeTrigger(5), enabled=False)

    engine.release(_at(5), MANY)

    assert 0 in engine.tasks
    assert engine.stats().skipped == 1
    assert engine.next_due() is None


def test_one_time_task_goes_when_its_last_trigger_is_skipped() -> None:
    """A task that has run, and all whose triggers are spent, is gone."""
    engine = _engine()
    _add(engine, OneTimeTrigger(5), OneTimeTrigger(9), missed="skip")
    _succeed(engine, _released(engine, now=5))

    engine.release(_at(60), MANY)

    assert not engine.tasks


# Quarantine


def test_quarantine_disables_and_says_why() -> None:
    """The task is disabled with the reason on it, and that is noted as an error."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, None, _at(0))

    engine.quarantine(task, "its trigger raised", _at(1))

    assert not task.enabled
    assert task.quarantine == "its trigger raised"
    assert engine.take(_at(1)) is None
    assert engine.changes[-1] == Change(
        kind=ChangeKind.TASK_QUARANTINED,
        at=_at(1),
        task_id=0,
        task_name="task",
        priority=0,
        enabled=False,
        reason="its trigger raised",
    )


def test_enabling_lifts_a_quarantine() -> None:
    """Once enabled the task runs, and the reason is gone."""
    engine = _engine()
    task = _add(engine)
    engine.request(task, None, _at(0))
    engine.quarantine(task, "its trigger raised", _at(1))

    engine.set_enabled(task, True, _at(2))

    assert task.quarantine is None
    assert engine.take(_at(2)) is not None


def test_a_removed_task_is_not_quarantined() -> None:
    """Its trigger raised too late to matter."""
    engine = _engine()
    task = _add(engine)
    engine.remove(0, _at(0))
    told = len(engine.changes)

    engine.quarantine(task, "its trigger raised", _at(1))

    assert task.quarantine is None
    assert len(engine.changes) == told


# Custom triggers


def test_custom_trigger_is_asked_every_tick() -> None:
    """It is claimed when added, and once given back it is asked at each poll."""
    engine = _engine()
    task = _add(engine, _Custom())
    (arm,) = engine.custom_arms([task])
    assert engine.to_ask(poll=True) == []

    engine.rearmed(arm, None, _at(0))

    assert engine.to_ask(poll=False) == []
    assert engine.to_ask(poll=True) == [arm]
    assert engine.to_ask(poll=True) == []


def test_custom_trigger_that_is_ready_makes_a_run() -> None:
    """A run is released when it says that it is ready."""
    engine, task, arm = _with_custom()
    engine.to_ask(poll=True)

    engine.answered(arm, _at(3))
    engine.rearmed(arm, None, _at(0))

    run = _start(engine, now=3)
    assert run.task is task
    assert run.execution.scheduled_at == _at(3)
    assert engine.take(_at(3)) is None


def test_custom_trigger_with_a_time_is_asked_then() -> None:
    """One that knows when it is due is not asked before."""
    engine, _, arm = _with_custom(due=10)
    assert engine.to_ask(poll=True) == []
    assert engine.next_due() == _at(10)

    assert engine.release(_at(10), MANY) == 0

    assert engine.to_ask(poll=False) == [arm]
    assert engine.next_due() is None


def test_custom_trigger_is_not_asked_while_disabled() -> None:
    """It is asked at the first poll after its task was enabled."""
    engine, task, arm = _with_custom()
    engine.set_enabled(task, False, _at(0))
    assert engine.to_ask(poll=True) == []

    engine.set_enabled(task, True, _at(1))

    assert engine.to_ask(poll=True) == [arm]


def test_custom_trigger_due_while_disabled_is_asked_later() -> None:
    """Its time passes, and it is asked at the first poll after its task was enabled."""
    engine, task, arm = _with_custom(due=10)
    engine.set_enabled(task, False, _at(0))
    engine.release(_at(10), MANY)
    assert engine.to_ask(poll=True) == []

    engine.set_enabled(task, True, _at(11))

    assert engine.to_ask(poll=True) == [arm]


def test_custom_trigger_that_waits_is_not_polled_when_enabled() -> None:
    """One whose time is still to come is not asked because its task was enabled."""
    engine, task, _ = _with_custom(due=10)
    engine.set_enabled(task, False, _at(0))

    engine.set_enabled(task, True, _at(1))

    assert engine.to_ask(poll=True) == []


def test_custom_trigger_is_not_asked_while_paused() -> None:
    """Nothing is asked of the user's triggers after a stop."""
    engine, _, _ = _with_custom()
    engine.is_paused = True

    assert engine.to_ask(poll=True) == []


def test_custom_trigger_being_asked_is_left_alone() -> None:
    """While a thread asks it, neither enabling nor a start has it asked by another."""
    engine, task, _ = _with_custom()
    engine.to_ask(poll=True)

    engine.set_enabled(task, False, _at(0))
    engine.set_enabled(task, True, _at(0))

    assert engine.to_ask(poll=True) == []
    assert engine.custom_arms([task]) == []


def test_custom_trigger_due_while_it_is_asked_is_not_asked_twice() -> None:
    """A start resets it: until that is done its old due time has nobody else ask it."""
    engine, task, arm = _with_custom(due=10)
    assert engine.custom_arms([task]) == [arm]

    engine.release(_at(10), MANY)

    assert engine.to_ask(poll=True) == []


def test_custom_trigger_without_a_time_forgets_the_old_one() -> None:
    """One that had a due time and names none now is asked once a tick, not twice."""
    engine, task, arm = _with_custom(due=10)
    engine.custom_arms([task])
    engine.rearmed(arm, None, _at(0))

    engine.release(_at(10), MANY)

    assert engine.to_ask(poll=True) == [arm]


def test_custom_delay_is_asked_when_it_is_due() -> None:
    """The end of its run plans the next: it is asked then, once, and not before."""
    engine, arm = _with_custom_delay()
    engine.rearmed(arm, None, _at(10))
    _succeed(engine, _start(engine, now=10), now=12)
    assert engine.to_ask(poll=True) == []

    engine.release(_at(22), MANY)

    assert engine.to_ask(poll=True) == [arm]


@pytest.mark.parametrize("due", [None, 22], ids=["asked before the end", "asked after the end"])
def test_custom_delay_is_asked_once_however_quick_its_run(due: float | None) -> None:
    """A run that ends while its trigger is still in hand does not have it asked twice."""
    engine, arm = _with_custom_delay()
    _succeed(engine, _start(engine, now=10), now=12)
    engine.rearmed(arm, None if due is None else _at(due), _at(12))
    assert engine.to_ask(poll=True) == []

    engine.release(_at(22), MANY)

    assert engine.to_ask(poll=True) == [arm]
    engine.release(_at(22), MANY)
    assert engine.to_ask(poll=True) == []


def test_custom_trigger_that_is_due_and_not_ready_is_asked_at_the_next_tick() -> None:
    """One that says no although its time has come is not asked over and over at one tick."""
    engine = _engine()
    with freeze_time(NOON):
        task = _add(engine, _CustomPeriodic(10))
        (arm,) = engine.custom_arms([task])
        trigger_of(arm).reset()
    engine.rearmed(arm, _at(10), _at(0))
    engine.release(_at(10), MANY)
    assert engine.to_ask(poll=True) == [arm]

    engine.rearmed(arm, None, _at(10))  # it is not ready, and its due time has passed

    assert not engine.has_due(_at(10))
    assert engine.to_ask(poll=True) == [arm]


def test_custom_trigger_that_is_due_is_work_until_it_was_asked() -> None:
    """A slot may come upon its due time; somebody else is to ask it."""
    engine, task, arm = _with_custom(due=10)
    engine.release(_at(10), 1)

    assert engine.has_to_ask
    assert not engine.is_idle(_at(10))
    assert engine.to_ask(poll=False) == [arm]
    assert not engine.has_to_ask
    assert task.enabled


def test_custom_trigger_being_asked_is_not_armed_anew() -> None:
    """A start meanwhile does not swallow the reset that follows its release."""
    engine = _engine()
    with freeze_time(NOON):
        task = _add(engine, _CustomOnce(at=NOON))
        (arm,) = engine.custom_arms([task])
        trigger_of(arm).reset()  # that of being armed
        engine.arm_all(_at(0))
        engine.answered(arm, _at(0))

        trigger_of(arm).reset()

    assert trigger_of(arm).next_fire_time() is None


def test_custom_one_time_task_goes_however_quick_its_run() -> None:
    """It is removed although its run ended before its trigger was reset."""
    engine = _engine()
    task = _add(engine, _CustomOnce(at=NOON))
    (arm,) = engine.custom_arms([task])
    trigger_of(arm).reset()  # that of being armed
    engine.answered(arm, _at(0))
    _succeed(engine, _start(engine))

    trigger_of(arm).reset()
    engine.rearmed(arm, None, _at(1))

    assert not engine.tasks
    assert (engine.changes[-1].kind, engine.changes[-1].at) == (ChangeKind.TASK_REMOVED, _at(1))


@pytest.mark.parametrize(("missed", "waiting"), [("once", 1), ("skip", 1), ("all", 3)])
def test_runs_of_a_custom_timer_do_not_pile_up(missed: str, waiting: int) -> None:
    """As with any timer one waiting run stands for those to come, unless all are wanted."""
    engine = _engine()
    task = _add(engine, _CustomPeriodic(10), missed=missed)
    (arm,) = engine.custom_arms([task])
    engine.answered(arm, _at(0))
    run = _start(engine)

    answers = [engine.answered(arm, _at(when)) for when in (10, 20, 30)]
    _succeed(engine, run)

    assert sum(answers) == waiting
    assert _start(engine).execution.missed == 3 - waiting
    stats = engine.stats()
    assert (stats.pending, stats.skipped) == (waiting - 1, 3 - waiting)


def test_custom_trigger_of_a_removed_task_is_given_up() -> None:
    """An answer that comes after the removal makes no run, and it is never asked again."""
    engine, _, arm = _with_custom()
    engine.to_ask(poll=True)
    engine.remove(0, _at(0))

    assert engine.answered(arm, _at(1)) == 0
    engine.rearmed(arm, _at(5), _at(0))

    assert engine.take(_at(1)) is None
    assert engine.next_due() is None
    assert engine.is_idle(_at(1))


def test_removing_takes_a_polled_trigger_away() -> None:
    """It is not asked any more."""
    engine, _, _ = _with_custom()

    engine.remove(0, _at(0))

    assert engine.to_ask(poll=True) == []


def test_rearming_twice_leaves_one_time() -> None:
    """A second due time replaces the first."""
    engine, task, arm = _with_custom(due=10)
    engine.custom_arms([task])

    engine.rearmed(arm, _at(20), _at(0))

    assert engine.release(_at(10), MANY) == 0
    assert engine.to_ask(poll=True) == []
    assert engine.next_due() == _at(20)


def test_starting_anew_leaves_custom_triggers_to_the_caller() -> None:
    """arm_all resets nothing that has code of the user's in it."""
    engine = _engine()
    _add(engine, _CustomPeriodic(10))

    engine.arm_all(_at(0))

    assert engine.next_due() is None


def test_subclass_that_changes_nothing_is_ours() -> None:
    """It is armed as its base is, and nobody asks it."""
    engine = _engine()
    task = _add(engine, _Renamed(10))

    assert engine.custom_arms([task]) == []
    assert engine.next_due() == _at(10)


def test_custom_event_trigger_hands_over_a_signal() -> None:
    """A subclass of EventTrigger that says it is ready runs with its next signal."""
    engine = _engine()
    trigger = _CustomEvent(maxsize=1)
    with freeze_time(_at(0)):
        trigger.fire("payload")
    task = _add(engine, trigger)
    (arm,) = engine.custom_arms([task])

    engine.answered(arm, _at(1))

    assert not trigger.fire("no room while that waits")
    execution = _start(engine, now=2).execution
    assert (execution.event, execution.scheduled_at) == ("payload", _at(0))
    assert trigger.fire("next")


def test_custom_event_trigger_may_be_ready_without_a_signal() -> None:
    """It runs with no payload, due when it was asked."""
    engine = _engine()
    task = _add(engine, _CustomEvent())
    (arm,) = engine.custom_arms([task])

    engine.answered(arm, _at(1))

    execution = _start(engine).execution
    assert (execution.event, execution.scheduled_at) == (None, _at(1))


def test_custom_event_trigger_keeps_its_maxsize() -> None:
    """A run without a signal does not make room for one more signal."""
    engine = _engine()
    trigger = _CustomEvent(maxsize=1)
    task = _add(engine, trigger)
    (arm,) = engine.custom_arms([task])
    engine.answered(arm, _at(1))
    _start(engine)

    assert trigger.fire()
    assert not trigger.fire()


def test_queue_of_the_users_is_looked_at_every_tick() -> None:
    """It is asked at each poll, and what it gave makes runs with the next release."""
    engine = _engine()
    channel: Queue[object] = Queue()
    trigger = EventTrigger(channel)
    task = _add(engine, trigger)
    channel.put("item")
    (arm,) = engine.to_ask(poll=True)
    assert trigger.collect(_at(1))

    assert engine.answered(arm, _at(1)) == 0
    engine.rearmed(arm, None, _at(0))

    assert engine.release(_at(1), MANY) == 1
    assert _start(engine).execution.event == "item"
    assert engine.to_ask(poll=True) == list(task._arms)


# Events


def test_each_signal_makes_a_run_in_order() -> None:
    """Signals run one after the other with their payloads, due when they were fired."""
    engine = _engine()
    task = _add(engine, EventTrigger())
    for number in (1, 2, 3):
        assert _fire(engine, task, number, now=number)
    assert engine.release(_at(5), MANY) == 3

    runs = []
    for _ in range(3):
        runs.append(_start(engine, now=5))
        _succeed(engine, runs[-1], now=5)

    assert [run.execution.event for run in runs] == [1, 2, 3]
    assert [run.execution.scheduled_at for run in runs] == [_at(1), _at(2), _at(3)]


def test_maxsize_counts_until_the_start() -> None:
    """A signal takes its room in the channel until its run starts, released or not."""
    engine = _engine()
    task = _add(engine, EventTrigger(maxsize=2))
    assert _fire(engine, task)
    assert _fire(engine, task)
    engine.release(_at(0), MANY)
    assert not _fire(engine, task)

    _start(engine)

    assert _fire(engine, task)
    assert not _fire(engine, task)


def test_a_retry_gives_no_further_room() -> None:
    """Room is made by the first start of a run, not by its retries."""
    engine = _engine()
    task = _add(engine, EventTrigger(maxsize=1))
    _fire(engine, task)
    _fail(engine, _released(engine), retry_after=0)

    _start(engine)

    assert _fire(engine, task)
    assert not _fire(engine, task)


def test_a_bell_that_rings_is_not_rung() -> None:
    """However often a channel is rung, it is looked at once."""
    engine = _engine()
    task = _add(engine, EventTrigger())

    for _ in range(3):
        engine.ring(task._arms[0])

    assert list(engine.rung) == list(task._arms)


def test_coalesced_signals_share_a_run() -> None:
    """While one waits a further one takes its place: one run, with the later payload."""
    engine = _engine()
    task = _add(engine, EventTrigger(coalesce=True))
    _fire(engine, task, "first")
    assert engine.release(_at(0), MANY) == 1
    _fire(engine, task, "second")
    assert engine.release(_at(1), MANY) == 0

    execution = _start(engine).execution

    assert (execution.event, execution.missed) == ("second", 1)
    assert engine.stats().skipped == 1
    assert engine.take(_at(1)) is None


def test_coalescing_ends_with_the_start() -> None:
    """A signal fired while the run is running makes a run of its own."""
    engine = _engine()
    task = _add(engine, EventTrigger(coalesce=True))
    _fire(engine, task, "first")
    first = _released(engine)
    _fire(engine, task, "second")

    assert engine.release(_at(1), MANY) == 1
    _succeed(engine, first, now=1)
    assert _start(engine, now=1).execution.event == "second"


def test_signals_come_in_batches() -> None:
    """A release takes so many signals, and the rest with the next."""
    engine = _engine()
    task = _add(engine, EventTrigger())
    for number in range(5):
        _fire(engine, task, number)

    assert [engine.release(_at(0), 2) for _ in range(4)] == [2, 2, 1, 0]
    assert engine.stats().pending == 5


def test_a_batch_is_shared() -> None:
    """The bound of a batch holds for all triggers together."""
    engine = _engine()
    tasks = [_add(engine, EventTrigger()) for _ in range(3)]
    for task in tasks:
        _fire(engine, task)
        _fire(engine, task)

    assert engine.release_signals(_at(0), 3) == 3
    assert engine.has_due(_at(0))
    assert engine.release_signals(_at(0), 9) == 3
    assert not engine.has_due(_at(0))


def test_a_batch_takes_one_of_each() -> None:
    """A trigger with one signal counts as one."""
    engine = _engine()
    for task in [_add(engine, EventTrigger()) for _ in range(3)]:
        _fire(engine, task)

    assert [engine.release_signals(_at(0), 2) for _ in range(3)] == [2, 1, 0]


def test_a_signal_missed_no_grace() -> None:
    """An event is never too late: the grace is for what has a due time."""
    engine = _engine()
    task = _add(engine, EventTrigger(), misfire_grace=1)
    _fire(engine, task, now=0)

    assert engine.release(_at(60), MANY) == 1


# Slots


def test_slots_as_there_is_work() -> None:
    """As many slots are claimed as there are runs that are ready, once."""
    engine = _engine(slots=4)
    for _ in range(2):
        engine.request(_add(engine), None, _at(0))

    assert engine.claim_slots() == 2
    assert engine.claim_slots() == 0
    assert engine.slots == 2


def test_never_more_slots_than_allowed() -> None:
    """However much is ready, max_running_tasks slots are claimed."""
    engine = _engine(slots=2)
    for _ in range(5):
        engine.request(_add(engine), None, _at(0))

    assert engine.claim_slots() == 2
    assert engine.claim_slots() == 0


def test_a_busy_slot_is_no_free_one() -> None:
    """With one run in a slot and one ready a second slot is claimed."""
    engine = _engine(slots=2)
    tasks = [_add(engine), _add(engine)]
    engine.request(tasks[0], None, _at(0))
    assert engine.claim_slots() == 1
    _start(engine)

    engine.request(tasks[1], None, _at(0))

    assert engine.claim_slots() == 1


def test_a_slot_given_back_is_free() -> None:
    """It can be claimed again."""
    engine = _engine(slots=1)
    engine.request(_add(engine), None, _at(0))
    engine.claim_slots()

    engine.slots -= 1

    assert engine.slots == 0
    assert engine.claim_slots() == 1


def test_an_inline_run_takes_no_slot() -> None:
    """Beside an inline run, a ready run gets a slot and no other slot is claimed."""
    engine = _engine(slots=2)
    engine.take_inline(_add(engine), None, _at(0))
    engine.request(_add(engine), None, _at(0))

    assert engine.claim_slots() == 1


def test_nothing_starts_while_paused() -> None:
    """No slot is claimed and no run taken after a stop, and the run is kept."""
    engine = _engine()
    engine.request(_add(engine), None, _at(0))
    engine.is_paused = True

    assert engine.claim_slots() == 0
    assert engine.take(_at(0)) is None
    engine.is_paused = False
    assert engine.take(_at(0)) is not None


def test_a_retry_is_kept_while_paused() -> None:
    """A run that fails after the stop is tried again when it goes on."""
    engine = _engine()
    run = _requested(engine, _add(engine))
    engine.is_paused = True
    _fail(engine, run, retry_after=0)

    engine.is_paused = False

    assert engine.take(_at(0)) is run


# Inline runs


def test_inline_run_waits_for_nothing() -> None:
    """It runs although the task is disabled and busy and the engine paused."""
    engine = _engine(slots=1)
    task = _add(engine)
    _requested(engine, task)
    engine.set_enabled(task, False, _at(0))
    engine.is_paused = True

    run = engine.take_inline(task, "event", _at(1))

    assert run.execution.status == Status.RUNNING
    assert (run.execution.event, run.execution.started_at) == ("event", _at(1))
    assert engine.running == 2


def test_inline_run_is_recorded() -> None:
    """It is in the history and the counters as any other."""
    engine = _engine()
    task = _add(engine)

    _succeed(engine, engine.take_inline(task, None, _at(0)), now=1)

    execution = task.execution_hist[0]
    assert (execution.scheduled_at, execution.released_at) == (_at(0), _at(0))
    assert (execution.missed, execution.attempts) == (0, 1)
    assert _history(task) == [Status.SUCCESS]
    assert engine.stats().succeeded == 1
    assert engine.running == 0


def test_inline_retry_waits_in_its_caller() -> None:
    """It is in no queue: its caller starts the next attempt, whatever the priority."""
    engine = _engine()
    run = engine.take_inline(_add(engine), None, _at(0))
    _fail(engine, run, now=1, retry_after=5)
    engine.set_priority(run.task, 7)
    assert engine.next_due() is None
    assert engine.take(_at(9)) is None
    assert engine.stats().pending == 1

    assert engine.retry_inline(run, _at(6))

    assert run.execution.attempts == 2
    assert engine.stats().pending == 0
    assert engine.running == 1


def test_inline_retry_at_once_is_in_no_queue() -> None:
    """Without a delay, too, its caller starts the next attempt."""
    engine = _engine()
    run = engine.take_inline(_add(engine), None, _at(0))

    _fail(engine, run, retry_after=0)

    assert engine.take(_at(0)) is None
    assert engine.retry_inline(run, _at(0))


def test_inline_retry_ends_with_its_task() -> None:
    """When the task was removed meanwhile the run is DROPPED and not started again."""
    engine = _engine()
    task = _add(engine)
    run = engine.take_inline(task, None, _at(0))
    _fail(engine, run, retry_after=5)

    engine.remove(0, _at(1))

    assert not engine.retry_inline(run, _at(5))
    assert _history(task) == [Status.DROPPED]


def test_queue_goes_on_after_an_inline_run() -> None:
    """What waited for a free instance meanwhile may start."""
    engine = _engine()
    task = _add(engine)
    inline = engine.take_inline(task, None, _at(0))
    engine.request(task, None, _at(0))
    assert engine.take(_at(0)) is None

    _succeed(engine, inline, now=1)

    assert engine.take(_at(1)) is not None


@pytest.mark.parametrize("signals", [0, 2])
def test_a_fork_leaves_signals_in_their_channel(signals: int) -> None:
    """Whatever the thread that fired had come to, they are looked at when the child starts."""
    engine = _engine()
    trigger = EventTrigger()
    task = _add(engine, trigger)
    for number in range(signals):
        trigger.fire(number)
    (arm,) = task._arms
    arm._arm_is_rung = True  # and not in `rung` yet: the other thread was about to put it there

    forked(engine, _at(0))

    assert len(engine.rung) == bool(signals)
    assert engine.release(_at(1), MANY) == signals


# A clock set back


@pytest.mark.parametrize("mode", ["rate", "delay"])
def test_clock_set_back_does_not_stall_an_interval(mode: str) -> None:
    """The next run is at most one interval away, an hour back or not."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10, mode=mode))
    engine.release(_at(5), MANY)

    engine.release(_at(-3600), MANY)

    assert engine.next_due() == _at(-3590)


def test_clock_set_back_does_not_stall_a_delay() -> None:
    """A one-time trigger waits no longer than its delay; an instant stays that instant."""
    engine = _engine()
    _add(engine, OneTimeTrigger(10))
    _add(engine, OneTimeTrigger(at=_at(20)))
    engine.release(_at(5), MANY)

    engine.release(_at(-3600), MANY)

    assert [due for due, _, _ in engine.first_due(2)] == [_at(-3590), _at(20)]


def test_clock_slewed_moves_nothing() -> None:
    """A second back is within what a clock is slewed by."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))
    engine.release(_at(0), MANY)

    engine.release(_at(-1), MANY)

    assert engine.next_due() == _at(10)


def test_clock_set_back_does_not_stall_a_retry() -> None:
    """A retry waits no longer than its delay from when that is noticed."""
    engine = _engine()
    _fail(engine, _requested(engine, _add(engine)), now=0, retry_after=10)
    engine.release(_at(4), MANY)

    engine.release(_at(-3600), MANY)

    assert engine.next_due() == _at(-3590)


def test_clock_set_back_does_not_stall_a_deadline() -> None:
    """A run has no more than its timeout from when that is noticed, and no less."""
    engine = _engine()
    run = _requested(engine, _add(engine, timeout=10), now=0)
    engine.release(_at(4), MANY)
    engine.release(_at(-3600), MANY)
    assert not run.execution.cancelled

    engine.release(_at(-3590), MANY)

    assert run.execution.cancelled


def test_clock_set_back_spares_what_began_after_it() -> None:
    """A run that started after the clock was set back has its whole timeout."""
    engine = _engine()
    task = _add(engine, timeout=60)
    engine.release(_at(3600), MANY)
    run = _requested(engine, task, now=0)

    engine.release(_at(1), MANY)

    assert not run.execution.cancelled
    assert engine.next_due() == _at(60)


def test_clock_set_back_spares_a_retry_planned_after_it() -> None:
    """A retry that was planned after the clock was set back waits for its whole delay."""
    engine = _engine()
    task = _add(engine)
    engine.release(_at(3600), MANY)
    _fail(engine, _requested(engine, task, now=0), now=0, retry_after=60)

    engine.release(_at(1), MANY)

    assert engine.next_due() == _at(60)


@pytest.mark.parametrize("waits", ["ready", "pending"])
def test_clock_set_back_leaves_a_retry_in_its_queue(waits: str) -> None:
    """A retry whose turn is to come stays where it is, and is run once."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task, now=0)
    if waits == "pending":
        engine.request(task, None, _at(0))
    _fail(engine, run, retry_after=0)
    engine.release(_at(0), MANY)

    engine.release(_at(-3600), MANY)

    assert engine.next_due() is None
    runs = []
    while (taken := engine.take(_at(-3600))) is not None:
        runs.append(taken)
        _succeed(engine, taken)
    assert runs.count(run) == 1


def test_clock_set_back_has_custom_triggers_asked_again() -> None:
    """The due time that a trigger of the user's named may be far off now: the next tick asks."""
    engine, _, arm = _with_custom(due=10)
    engine.release(_at(5), MANY)

    engine.release(_at(-3600), MANY)

    assert engine.next_due() is None
    assert engine.to_ask(poll=True) == [arm]


def test_clock_set_back_moves_a_subclass_of_ours() -> None:
    """An interval with an is_ready of its own waits no longer than itself, too."""

    class Mine(PeriodicTrigger):
        def is_ready(self) -> bool:
            return super().is_ready()

    engine = _engine()
    trigger = Mine(60)
    task = _add(engine, trigger)
    (arm,) = engine.custom_arms([task])
    engine.rearmed(arm, trigger.due, _at(0))
    engine.release(_at(5), MANY)

    engine.release(_at(-3600), MANY)

    assert trigger.due == _at(-3540)
    assert engine.to_ask(poll=True) == [arm]


def test_clock_set_back_before_the_first_release() -> None:
    """What was planned when the task was added counts as seen."""
    engine = _engine()
    _add(engine, PeriodicTrigger(60), now=0)

    engine.release(_at(-3600), MANY)

    assert engine.next_due() == _at(-3540)


@pytest.mark.parametrize("what", ["delay", "retry", "timeout"])
def test_clock_set_back_while_a_run_ends_or_starts(what: str) -> None:
    """An instant read before a release that came first with an earlier one plans nothing late."""
    engine = _engine()
    trigger = PeriodicTrigger(60, mode="delay", run_immediately=True)
    _add(engine, trigger, timeout=60 if what == "timeout" else None)
    engine.release(_at(0), MANY)
    run = _start(engine, 0)
    engine.release(_at(-3600), MANY)
    if what == "delay":
        _succeed(engine, run, 1)
    elif what == "retry":
        _fail(engine, run, 1, retry_after=60)
    else:
        _fail(engine, run, 1, retry_after=0)
        _start(engine, 1)

    engine.release(_at(-3599), MANY)

    assert engine.next_due() == _at(-3539)


@pytest.mark.parametrize(("hours", "due"), [(3, 24), (3.5, 0)])
def test_clock_set_back_by_more_than_three_hours(hours: float, due: float) -> None:
    """Then a fixed cron time comes again, however long ago its last run was."""
    engine = _engine()
    _add(engine, PeriodicTrigger(cron_expr="0 12 * * *"), now=-60)
    engine.release(_at(0), MANY)
    engine.release(_at(3600), MANY)

    engine.release(_at(3600 - hours * 3600), MANY)

    assert engine.next_due() == _at(due * 3600)


def test_clock_set_back_moves_nobody_to_the_front() -> None:
    """A run released after the clock was set back does not pass those that waited."""
    engine = _engine()
    first, second = _add(engine), _add(engine)
    engine.request(first, None, _at(0))
    engine.request(second, None, _at(-3600))

    assert _start(engine, now=-3600).task is first


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([(0, 100), (3600, 100)], ["forward by 3600.0"]),  # set, or suspended
        ([(0, 100), (3605, 105)], ["forward by 3600.0"]),
        ([(0, 100), (-3595, 105)], ["back by 3600.0"]),
        ([(0, 100), (1, 100)], ["forward by 1.0"]),
        ([(0, 100), (0.999, 100), (1.998, 100)], []),  # slewed
        ([(0, 100), (60, 160), (120, 220)], []),
        ([(0, 100), (0, 160), (0, 220)], []),  # frozen
        ([(0, 100), (0, 160), (60, 161)], ["forward by 59.0"]),  # frozen, then moved
        ([(0, 100), (3600, 101), (3601, 102), (3602, 103)], ["forward by 3599.0"]),  # once
        ([(0, 100), (60, 101), (0, 102)], ["forward by 59.0", "back by 61.0"]),
    ],
)
def test_a_jump_of_the_wall_clock(readings: list[tuple[float, float]], expected: list[str]) -> None:
    """One warning a jump says which way and how far, held against a clock that nobody sets."""
    engine = _engine()

    for wall, monotonic in readings:
        engine.compare_clocks(_at(wall), monotonic)

    assert [change.reason for change in engine.changes] == [
        f"the wall clock was set {each} seconds" for each in expected
    ]
    assert {change.kind for change in engine.changes} <= {ChangeKind.CLOCK_JUMPED}


def test_clock_set_forward_makes_no_storm() -> None:
    """A day ahead, an interval of ten seconds makes one run."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))

    assert engine.release(_at(86_400), MANY) == 1
    assert engine.release(_at(86_400), MANY) == 0


# A run that is lost, or that the executor does not take


def test_a_lost_run_ends_as_lost() -> None:
    """It has a status and a change of its own, and counts as failed, too."""
    engine = _engine()
    task = _add(engine)

    _lose(engine, _requested(engine, task))

    assert _history(task) == [Status.LOST]
    assert engine.changes[-1].kind is ChangeKind.RUN_LOST
    stats = engine.stats()
    assert (stats.released, stats.failed, stats.lost) == (1, 1, 1)


def test_a_lost_attempt_may_be_retried() -> None:
    """Then it is no end."""
    engine = _engine()
    task = _add(engine)

    _lose(engine, _requested(engine, task), retry_after=5)
    _succeed(engine, _released(engine, 5))

    assert _history(task) == [Status.SUCCESS]
    assert engine.stats().lost == 0


@pytest.mark.parametrize("lanes", [{}, {"quick": 1}], ids=["no lane", "a lane"])
@pytest.mark.parametrize(
    ("settings", "more"), [({}, 0), ({"replacements": 1}, 1), ({"replacements": 2}, 2)]
)
def test_stuck_runs_are_replaced_one_by_one(
    settings: dict[str, int], more: int, lanes: dict[str, int]
) -> None:
    """By no more slots than was asked for, by none unless it was; with lanes as without."""
    engine = Engine(
        max_running_tasks=2 + len(lanes),
        aging=5.0,
        on_time=timedelta(seconds=1),
        rules=Rules(lanes=lanes) if lanes else None,
        stuck_after=timedelta(seconds=10),
        **settings,
    )
    stuck, other = _add(engine, max_instances=2), _add(engine, name="other", max_instances=MANY)
    runs = [_requested(engine, stuck) for _ in range(2)]
    engine.claim_slots()
    engine.cancel(stuck, _at(0))
    engine.release(_at(10), MANY)
    for _ in range(5):
        engine.request(other, None, _at(10))

    (first,) = engine.waiting(1, _at(10))
    assert (first.reason == "") == (more > 0)
    started = 0
    while engine.claim_slots() and engine.take(_at(10)) is not None:
        started += 1

    assert started == more
    (first,) = engine.waiting(1, _at(10))
    assert first.reason == (RESERVED if lanes else "no slot is free")
    assert engine.newly_stuck == runs


def test_a_stuck_run_is_told_with_its_stack() -> None:
    """Once its thread's stack was read, and only while it is stuck."""
    engine = _engine()
    run = _requested(engine, _add(engine, timeout=5))
    engine.release(_at(5), MANY)
    engine.release(_at(15), MANY)

    engine.note_stuck(run, "in line 7", _at(16))
    change = engine.changes.pop()
    _succeed(engine, run, now=17)
    engine.note_stuck(run, "in line 7", _at(18))

    assert (change.kind, change.at, change.task_name) == (ChangeKind.RUN_STUCK, _at(16), "task")
    assert change.execution is not None
    assert change.execution.id == run.execution.id
    assert change.reason == "timed out, and does not give up; it is at:\nin line 7"
    assert engine.changes[-1].kind is ChangeKind.RUN_TIMED_OUT


@pytest.mark.parametrize("timeout", [None, 100])
def test_clock_set_back_has_a_cancelled_run_stuck_no_later(timeout: float | None) -> None:
    """It had ten seconds to give up, by whatever clock."""
    engine = _engine()
    task = _add(engine, timeout=timeout)
    _requested(engine, task)
    engine.cancel(task, _at(0))

    engine.release(_at(-3600), MANY)

    assert engine.next_due() == _at(-3590)


def test_a_refused_run_waits_as_if_it_had_not_started() -> None:
    """It is the next of its task, before those that came later, and starts once runs may."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task, event="first")
    engine.request(task, "second", _at(1))

    _refuse(engine, run)

    assert (run.execution.status, run.execution.started_at) == (Status.PENDING, None)
    assert (run.execution.attempts, engine.live, engine.running) == (0, {}, 0)
    assert engine.stats().pending == 2
    assert engine.take(_at(2)) is None
    engine.let_go()
    assert _start(engine, 2).execution.event == "first"
    assert engine.stats().retries == 0


def test_a_refused_run_goes_before_one_that_is_ready() -> None:
    """Where two of a task may run at once the second is ready when the first comes back."""
    engine = _engine()
    task = _add(engine, max_instances=2)
    run = _requested(engine, task, event="first")
    engine.request(task, "second", _at(0))

    _refuse(engine, run)
    engine.let_go()

    assert [_start(engine).execution.event for _ in range(2)] == ["first", "second"]


def test_a_refused_retry_stays_a_retry() -> None:
    """Its earlier attempts and its error are kept, and the attempt is not counted."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    _fail(engine, run, retry_after=1)
    _released(engine, 1)

    _refuse(engine, run)

    assert (run.execution.status, run.execution.attempts) == (Status.RETRYING, 1)
    assert run.execution.error == "ValueError: no"
    assert engine.stats().retries == 0
    engine.let_go()
    assert _start(engine, 2).execution.attempts == 2


def test_a_refused_run_stands_for_later_occurrences() -> None:
    """What its timer makes meanwhile is counted on it."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))
    run = _released(engine, 10)
    _refuse(engine, run)

    released = engine.release(_at(20), MANY)

    assert (released, run.execution.missed) == (0, 1)


def test_a_refused_run_stands_beside_one_that_waits() -> None:
    """If its timer has released another meanwhile, that one stands for what follows."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10))
    run = _released(engine, 10)
    engine.release(_at(20), MANY)
    _refuse(engine, run)
    engine.release(_at(30), MANY)

    engine.let_go()
    _succeed(engine, _start(engine, 30))
    _succeed(engine, _start(engine, 30))

    assert [execution.missed for execution in task.execution_hist] == [0, 1]


def test_a_refused_signal_lets_no_second_one_wait() -> None:
    """A channel of one signal holds one, however often its run is begun."""
    engine = _engine()
    task = _add(engine, EventTrigger(maxsize=1))
    _fire(engine, task)
    _refuse(engine, _released(engine, 0))
    engine.let_go()
    _start(engine)

    assert [_fire(engine, task), _fire(engine, task)] == [True, False]


def test_a_refused_run_of_a_disabled_task_waits_for_it() -> None:
    """It is held with the others, and counted among them."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.set_enabled(task, False, _at(1))

    _refuse(engine, run)
    engine.let_go()

    assert engine.take(_at(1)) is None
    assert engine.is_idle(_at(1))
    engine.set_enabled(task, True, _at(2))
    assert _start(engine, 2) is run


def test_a_refused_run_of_a_removed_task_is_dropped() -> None:
    """As all that waits of it."""
    engine = _engine()
    task = _add(engine)
    run = _requested(engine, task)
    engine.remove(task.id, _at(1))

    _refuse(engine, run)

    assert _history(task) == [Status.DROPPED]
    assert engine.stats().pending == 0
    assert (engine.changes[-1].kind, engine.changes[-1].at) == (ChangeKind.RUN_DROPPED, _at(1))


def test_a_refused_inline_run_has_failed() -> None:
    """Its caller waits for its end."""
    engine = _engine()
    task = _add(engine)

    _refuse(engine, engine.take_inline(task, None, _at(0)))

    assert _history(task) == [Status.FAILED]


def test_a_broken_executor_is_noted_once() -> None:
    """The runs that find it broken after the first add nothing."""
    engine = _engine()
    runs = [_requested(engine, _add(engine)) for _ in range(3)]

    for run in runs:
        _refuse(engine, run)

    kinds = [change.kind for change in engine.changes]
    assert kinds.count(ChangeKind.EXECUTOR_BROKEN) == 1


def test_what_waits_says_that_the_executor_is_broken() -> None:
    """And no slot is claimed for it."""
    engine = _engine()
    engine.hold("the executor is broken", _at(0))
    engine.request(_add(engine), None, _at(0))

    (pending,) = engine.waiting(1, _at(0))

    assert pending.reason == "the executor is broken"
    assert engine.claim_slots() == 0


def test_a_new_executor_is_noted() -> None:
    """Once, and runs may start; trouble in making it is noted each time, and they may not."""
    engine = _engine()
    engine.hold("the executor is broken", _at(0))
    engine.request(_add(engine), None, _at(0))

    engine.renewed("none can be made", _at(1))
    assert engine.take(_at(1)) is None
    engine.renewed("", _at(2))
    engine.renewed("", _at(2))

    assert _start(engine, 2)
    kinds = [(c.kind, c.reason) for c in engine.changes if "executor" in c.kind]
    assert kinds == [
        (ChangeKind.EXECUTOR_BROKEN, "the executor is broken"),
        (ChangeKind.EXECUTOR_BROKEN, "none can be made"),
        (ChangeKind.EXECUTOR_RENEWED, ""),
    ]


@pytest.mark.parametrize("seed", range(200))
def test_nothing_is_lost_whatever_is_refused(seed: int) -> None:
    """In any order with other changes each run has one end, and all that waits can start."""
    draw = random.Random(seed)
    engine = _engine(slots=3)
    tasks = [
        _add(engine, PeriodicTrigger(3), name="timer", max_instances=2),
        _add(engine, EventTrigger(maxsize=3), name="events"),
        _add(engine, OneTimeTrigger(20), name="once"),
        _add(engine, name="asked for", overlap="skip", timeout=5),
    ]
    under_way: list[Run] = []

    for now in range(60):
        engine.release(_at(now), MANY)
        task = draw.choice(tasks)
        if not task._is_removed:
            _change_somehow(engine, task, draw, now)
        while (run := engine.take(_at(now))) is not None:
            under_way.append(run)
        draw.shuffle(under_way)
        for _ in range(draw.randrange(len(under_way) + 1)):
            _finish_somehow(engine, under_way.pop(), draw, now)
        _check_sums(engine, tasks, under_way)

    for task in tasks:
        if not task._is_removed:
            engine.set_enabled(task, True, _at(60))
    engine.let_go()
    while under_way or engine.has_waiting:
        while (run := engine.take(_at(60))) is not None:
            under_way.append(run)
        _succeed(engine, under_way.pop(), 60)
    retries = engine.stats().pending
    assert retries == sum(run.execution.status is Status.RETRYING for run in engine.live.values())


# Idle


def test_new_engine_is_idle() -> None:
    """Nothing runs and nothing waits; a timer that is not due is no work."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))

    assert engine.is_idle(_at(9))
    assert not engine.is_idle(_at(10))


def test_idle_from_release_to_end() -> None:
    """It is not idle while a run is ready, runs or waits for its retry."""
    engine = _engine()
    engine.request(_add(engine), None, _at(0))
    assert not engine.is_idle(_at(0))
    run = _start(engine)
    assert not engine.is_idle(_at(0))
    _fail(engine, run, retry_after=5)
    assert not engine.is_idle(_at(0))

    _succeed(engine, _released(engine, now=5), now=6)

    assert engine.is_idle(_at(6))


def test_idle_but_for_the_caller() -> None:
    """Runs that wait for the others themselves do not count."""
    engine = _engine()
    _requested(engine, _add(engine))

    assert not engine.is_idle(_at(0))
    assert engine.is_idle(_at(0), exempt=1)


def test_a_fired_signal_is_work() -> None:
    """It is not idle between a signal and its release."""
    engine = _engine()
    _fire(engine, _add(engine, EventTrigger()))

    assert not engine.is_idle(_at(0))


def test_a_ring_without_a_signal_is_no_work() -> None:
    """Another thread has taken the signal between the two; nobody would tell that it is idle."""
    engine = _engine()
    task = _add(engine, EventTrigger())
    _fire(engine, task)
    _succeed(engine, _released(engine, now=1), now=1)

    engine.ring(task._arms[0])

    assert engine.is_idle(_at(1))


def test_asking_a_trigger_is_work() -> None:
    """It is not idle while a trigger of the user's is being asked."""
    engine, _, arm = _with_custom()
    engine.to_ask(poll=True)
    assert not engine.is_idle(_at(0))

    engine.rearmed(arm, None, _at(0))

    assert engine.is_idle(_at(0))


def test_paused_is_idle_when_nothing_runs() -> None:
    """What waits, and what is overdue, is not waited for after a stop."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10))
    task = _add(engine)
    run = _requested(engine, task)
    engine.request(task, None, _at(0))
    engine.is_paused = True
    assert not engine.is_idle(_at(60))

    _succeed(engine, run)

    assert engine.is_idle(_at(60))


def test_a_disabled_task_is_not_waited_for() -> None:
    """An overdue timer of a disabled task is no work, before the next tick either."""
    engine = _engine()
    _add(engine, PeriodicTrigger(10), enabled=False)

    assert engine.is_idle(_at(10))


def test_signals_of_a_disabled_task_are_not_waited_for() -> None:
    """A signal that waits for its task to be enabled is no work, before a tick either."""
    engine = _engine()
    _fire(engine, _add(engine, EventTrigger(), enabled=False))

    assert engine.is_idle(_at(0))


# Counters, history and what comes next


def test_counters_add_up() -> None:
    """Each run is in one counter, those of a removed task too."""
    engine = _engine()
    gone = _add(engine)
    engine.request(gone, None, _at(0))
    engine.remove(0, _at(0))
    task = _add(engine, PeriodicTrigger(10), misfire_grace=1, max_instances=2)
    engine.release(_at(15), MANY)
    _succeed(engine, _requested(engine, task))
    _fail(engine, _requested(engine, task))
    _fail(engine, _requested(engine, task), retry_after=60)
    _requested(engine, task)
    engine.request(task, None, _at(15))

    stats = engine.stats()

    assert (stats.released, stats.tasks, stats.retries, stats.skipped) == (7, 1, 0, 0)
    assert (stats.succeeded, stats.failed, stats.missed, stats.dropped) == (1, 1, 1, 1)
    assert (stats.pending, stats.running) == (2, 1)


def test_history_keeps_the_last() -> None:
    """Only the last *history* executions stay, oldest first."""
    engine = _engine()
    task = _add(engine, history=2)

    for event in "abc":
        _succeed(engine, _requested(engine, task, event=event))

    assert [execution.event for execution in task.execution_hist] == ["b", "c"]


def test_no_history_is_kept_when_none_is_wanted() -> None:
    """With history=0 runs are counted and noted, not kept."""
    engine = _engine()
    task = _add(engine, history=0)

    _succeed(engine, _requested(engine, task))

    assert task.execution_hist == []
    assert engine.stats().succeeded == 1
    assert engine.changes[-1].kind is ChangeKind.RUN_SUCCEEDED


def test_results_are_left_out_when_not_wanted() -> None:
    """With keep_results=False what the function returned is not kept."""
    engine = _engine()
    task = _add(engine, keep_results=False)

    _succeed(engine, _requested(engine, task), results="large")

    assert task.execution_hist[0].results is None


def test_first_due_names_timers_and_retries() -> None:
    """Soonest first, with the trigger, or None for a retry; deadlines are left out."""
    engine = _engine()
    timer = PeriodicTrigger(30)
    task = _add(engine, timer)
    other = _add(engine, timeout=1, max_instances=2)
    _requested(engine, other)
    _fail(engine, _requested(engine, other), retry_after=20)

    assert engine.first_due(5) == [(_at(20), other, None), (_at(30), task, timer)]
    assert engine.first_due(1) == [(_at(20), other, None)]
    assert engine.first_due(0) == []


# Changes


def test_life_of_a_run_is_told() -> None:
    """Each change of a task and its run is noted, in order."""
    engine = _engine()
    task = _add(engine, OneTimeTrigger(1))
    _fail(engine, _released(engine, now=1), now=2, retry_after=0.5)
    _succeed(engine, _released(engine, now=3), now=4)

    assert [(change.kind, change.at) for change in engine.changes] == [
        (ChangeKind.TASK_ADDED, _at(0)),
        (RELEASED, _at(1)),
        (STARTED, _at(1)),
        (ChangeKind.ATTEMPT_FAILED, _at(2)),
        (ChangeKind.RUN_RETRYING, _at(2)),
        (STARTED, _at(3)),
        (ChangeKind.RUN_SUCCEEDED, _at(4)),
        (ChangeKind.TASK_REMOVED, _at(4)),
    ]
    assert engine.changes[4].reason == "next attempt in 0.5 seconds"
    assert task.id == 0


def test_ends_are_told() -> None:
    """FAILED, MISSED and DROPPED each have their change."""
    engine = _engine()
    task = _add(engine, PeriodicTrigger(10), misfire_grace=1)
    engine.release(_at(15), MANY)
    _fail(engine, _requested(engine, task))
    engine.request(task, None, _at(15))
    engine.remove(0, _at(16))

    kinds = [change.kind for change in engine.changes if change.kind not in (RELEASED, STARTED)]

    assert kinds == [
        ChangeKind.TASK_ADDED,
        ChangeKind.RUN_MISSED,
        ChangeKind.ATTEMPT_FAILED,
        ChangeKind.RUN_FAILED,
        ChangeKind.RUN_DROPPED,
        ChangeKind.TASK_REMOVED,
    ]


def test_a_change_shows_that_moment() -> None:
    """The execution in a change is a copy that later changes do not touch."""
    engine = _engine()
    run = _requested(engine, _add(engine), now=1)
    _succeed(engine, run, now=2)

    seen = [change.execution.status for change in engine.changes if change.execution is not None]

    assert seen == [Status.PENDING, Status.RUNNING, Status.SUCCESS]


@pytest.mark.parametrize(
    ("settings", "skipped", "reason"),
    [
        ({"enabled": False}, 3, "its task is disabled"),
        ({"missed": "skip"}, 3, "it is late"),
        ({}, 2, "the run of a later one stands for it"),
        ({"missed": "all"}, 2, "more were missed than are made up for"),
    ],
)
def test_occurrences_without_a_run_are_told(
    settings: dict[str, Any], skipped: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many there were, of which task, and why."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", 1)
    engine = _engine()
    _add(engine, PeriodicTrigger(10), **settings)

    engine.release(_at(35), MANY)

    (change,) = (each for each in engine.changes if each.kind is SKIPPED)
    assert (change.at, change.task_name) == (_at(35), "task")
    assert (change.skipped, change.reason) == (skipped, reason)


def test_signals_that_merge_into_a_waiting_run_are_told() -> None:
    """As occurrences that the run of a later one stands for, or one that waits already."""
    engine = _engine()
    task = _add(engine, EventTrigger(coalesce=True))
    for now in (1, 2):
        for _ in range(3):
            _fire(engine, task, now=now)
        engine.release(_at(now), MANY)

    told = [each for each in engine.changes if each.kind is SKIPPED]

    assert [(each.at, each.task_name, each.skipped, each.reason) for each in told] == [
        (_at(1), "task", 2, "the run of a later one stands for it"),
        (_at(2), "task", 3, "a run that waits stands for it"),
    ]
    assert _start(engine).execution.missed == 5


def test_whoever_listens_to_everything_is_told_everything() -> None:
    """The level is the lowest that is still told."""
    engine = _engine()
    engine.level = logging.DEBUG
    task = _add(engine, PeriodicTrigger(10))
    _fail(engine, _released(engine, now=25))
    _succeed(engine, engine.take_inline(task, None, _at(26)), now=27)

    kinds = [change.kind for change in engine.changes]

    assert kinds == [
        ChangeKind.TASK_ADDED,
        SKIPPED,
        RELEASED,
        STARTED,
        ChangeKind.ATTEMPT_FAILED,
        ChangeKind.RUN_FAILED,
        RELEASED,
        STARTED,
        ChangeKind.RUN_SUCCEEDED,
    ]


def test_each_change_names_its_task_and_its_run() -> None:
    """From the first release to the last attempt, of runs with and without a slot."""
    engine = _engine()
    task = _add(engine)
    _fail(engine, _requested(engine, task), retry_after=1.23456)
    engine.take_inline(task, None, _at(0))
    engine.quarantine(task, "no", _at(0))

    assert {(change.task_id, change.task_name) for change in engine.changes} == {(0, "task")}
    runs = [None if each.execution is None else each.execution.id for each in engine.changes]
    assert runs == [None, 0, 0, 0, 0, 1, 1, None]
    assert engine.changes[4].reason == "next attempt in 1.235 seconds"


def test_a_note_is_told_with_the_end() -> None:
    """What else there is to say of an attempt that went well."""
    engine = _engine()
    run = _requested(engine, _add(engine))

    engine.finish(run, Outcome(_at(1), NO_COST, note="its results were lost"))

    assert engine.changes[-1].reason == "its results were lost"


def test_change_of_the_scheduler_names_no_task() -> None:
    """A change of no task has no task and no execution."""
    engine = _engine()

    engine.note(ChangeKind.STOPPED, _at(1))

    assert list(engine.changes) == [Change(kind=ChangeKind.STOPPED, at=_at(1))]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (
            logging.DEBUG,
            [
                RELEASED,
                STARTED,
                ChangeKind.RUN_SUCCEEDED,
                RELEASED,
                STARTED,
                ChangeKind.TASK_REMOVED,
            ],
        ),
        (logging.INFO, [ChangeKind.RUN_SUCCEEDED]),
        (logging.WARNING, []),
    ],
)
def test_what_interests_nobody_is_not_noted(level: int, expected: list[ChangeKind]) -> None:
    """Changes below the level are left out, those of inline runs and of tasks too."""
    engine = _engine()
    task = _add(engine)
    engine.changes.clear()
    engine.level = level

    _succeed(engine, _requested(engine, task))
    run = engine.take_inline(task, None, _at(0))
    engine.remove(0, _at(0))
    seen = [change.kind for change in engine.changes]
    _fail(engine, run)

    assert seen == expected
    assert engine.changes[-1].kind is ChangeKind.RUN_FAILED


# What the tests share


class _Custom(Trigger):
    """A trigger of the user's, with just the two methods."""

    def is_ready(self) -> bool:
        """Return True always."""
        return True

    def reset(self) -> None:
        """Do nothing."""


class _CustomPeriodic(PeriodicTrigger):
    """A trigger of ours with a method of the user's."""

    def is_ready(self) -> bool:
        """Return True always."""
        return True


class _CustomOnce(OneTimeTrigger):
    """A one-time trigger with a method of the user's."""

    def is_ready(self) -> bool:
        """Return True until it has fired."""
        return not self.is_spent


class _CustomEvent(EventTrigger):
    """An event trigger with a method of the user's."""

    def is_ready(self) -> bool:
        """Return True always."""
        return True


class _Renamed(PeriodicTrigger):
    """A subclass that changes nothing."""


class _Bell:
    """What an EventTrigger rings: the engine, at a time given by hand."""

    def __init__(
        self, engine: Engine, arm: Arm, now: datetime, origin: Context | None = None
    ) -> None:
        self._engine = engine
        self._arm = arm
        self._now = now
        self._origin = origin

    def signalled(self, trigger: EventTrigger) -> None:
        """Ring."""
        self._engine.ring(self._arm)

    def signal(self, event: object) -> Signal:
        """Make it one of the time that was given."""
        return event, self._now, self._origin


def _at(seconds: float) -> datetime:
    """Return the instant so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def _engine(*, slots: int = 4, aging: float = 5.0) -> Engine:
    return Engine(max_running_tasks=slots, aging=aging, on_time=timedelta(seconds=1))


def _add(
    engine: Engine, *triggers: Trigger, now: float = 0, name: str = "task", **settings: Any
) -> Task:
    task = Task(name, int, triggers=triggers, **settings)
    engine.add(task, _at(now))
    return task


def _with_custom(due: float | None = None) -> tuple[Engine, Task, Arm]:
    """Return an engine with a custom trigger that was reset and is not being asked."""
    engine = _engine()
    task = _add(engine, _Custom())
    (arm,) = engine.custom_arms([task])
    engine.rearmed(arm, None if due is None else _at(due), _at(0))
    return engine, task, arm


def _with_custom_delay() -> tuple[Engine, Arm]:
    """Return an engine at 10 s with a custom delay of 10 s that was released and reset."""
    engine = _engine()
    with freeze_time(NOON) as frozen:
        task = _add(engine, _CustomPeriodic(10, mode="delay"))
        (arm,) = engine.custom_arms([task])
        trigger_of(arm).reset()  # that of being armed
        frozen.move_to(_at(10))
        engine.answered(arm, _at(10))
        trigger_of(arm).reset()
    assert trigger_of(arm).next_fire_time() is None
    return engine, arm


def _fire(engine: Engine, task: Task, event: object = True, now: float = 0) -> bool:
    """Fire the task's only trigger as the scheduler would be told of it."""
    trigger = task.triggers[0]
    assert isinstance(trigger, EventTrigger)
    if task._arms:
        trigger.bind(_Bell(engine, task._arms[0], _at(now)))
    return trigger.fire(event)


def _when(engine: Engine, now: float | None) -> datetime:
    """Return the instant that *now* means: by default that of the last change, if there is one."""
    if now is not None:
        return _at(now)
    return engine.changes[-1].at if engine.changes else NOON


def _start(engine: Engine, now: float | None = None) -> Run:
    """Start the best ready run."""
    run = engine.take(_when(engine, now))
    assert run is not None
    return run


def _released(engine: Engine, now: float | None = None) -> Run:
    """Release what is due and start the best of it."""
    engine.release(_when(engine, now), MANY)
    return _start(engine, now)


def _requested(
    engine: Engine, task: Task, now: float | None = None, *, event: object = None
) -> Run:
    """Ask for a run of the task and start the best ready run."""
    engine.request(task, event, _when(engine, now))
    return _start(engine, now)


def _succeed(engine: Engine, run: Run, now: float | None = None, *, results: object = None) -> None:
    engine.finish(run, Outcome(_when(engine, now), NO_COST, results))


def _fail(
    engine: Engine, run: Run, now: float | None = None, *, retry_after: float | None = None
) -> None:
    engine.finish(
        run,
        Outcome(
            _when(engine, now),
            NO_COST,
            error="ValueError: no",
            traceback="Traceback: no",
            retry_after=retry_after,
        ),
    )


def _lose(
    engine: Engine, run: Run, now: float | None = None, *, retry_after: float | None = None
) -> None:
    error = "LostWorkerError: BrokenProcessPool"
    outcome = Outcome(
        _when(engine, now), NO_COST, error=error, retry_after=retry_after, is_lost=True
    )
    engine.finish(run, outcome)


def _refuse(engine: Engine, run: Run, now: float | None = None) -> None:
    """Have an executor not take the run that was just started."""
    outcome = Outcome(
        _when(engine, now),
        NO_COST,
        error="ExecutorBrokenError",
        is_refused=True,
        obstacle="the executor is broken",
    )
    engine.finish(run, outcome)


def _change_somehow(engine: Engine, task: Task, draw: random.Random, now: float) -> None:
    """Do to the task, or to the engine, what may happen while runs are under way."""
    what = draw.randrange(12)
    if what == 0:
        engine.set_enabled(task, not task.enabled, _at(now))
    elif what == 1 and draw.random() < 0.2:
        engine.remove(task.id, _at(now))
    elif what == 2:
        engine.set_priority(task, draw.randrange(3))
    elif what < 6:
        engine.let_go()
    elif task.triggers and isinstance(task.triggers[0], EventTrigger):
        _fire(engine, task, now, now)
    else:
        engine.request(task, None, _at(now))


def _finish_somehow(engine: Engine, run: Run, draw: random.Random, now: float) -> None:
    how = draw.randrange(4)
    if how == 0:
        _succeed(engine, run, now)
    elif how == 1:
        _fail(engine, run, now, retry_after=draw.choice([None, 0, 2]))
    elif how == 2:
        _lose(engine, run, now, retry_after=draw.choice([None, 0, 2]))
    else:
        _refuse(engine, run, now)


def _check_sums(engine: Engine, tasks: list[Task], under_way: list[Run]) -> None:
    """Check that each run is in one place, and that the counters say so."""
    stats = engine.stats()
    ended = [execution.id for task in tasks for execution in task.execution_hist]
    assert len(ended) == len(set(ended))
    assert len(ended) == stats.succeeded + stats.failed + stats.missed + stats.dropped
    assert stats.released == len(ended) + stats.pending + stats.running
    assert stats.running == len(under_way)
    for task in tasks:
        events = [execution.event for execution in task.execution_hist if execution.event]
        assert len(events) == len(set(events))
        assert task._running == sum(run.task is task for run in under_way)


def _history(task: Task) -> list[Status]:
    return [execution.status for execution in task.execution_hist]
