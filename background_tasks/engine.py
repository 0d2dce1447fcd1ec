"""Every decision, joined: what is released, waits, runs, is tried again, ends and goes.

Pure: *now* is always an argument, and there is no thread, lock, clock, log or callback in it, so
that a model can drive it through every interleaving. Not safe to share: the scheduler calls it
under its lock. What has changed is left in ``changes`` for whoever holds no lock to tell.

The life of a run::

    due / event / request / retry due
        │ release                       (a Run in its task's own pending queue)
        ▼
    head of that queue, if the task may run once more now        (the ready heap)
        │ take                          (by a slot, at most max_running_tasks of them)
        ▼
    finish: history, or the agenda again after the delay of its retry
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

from background_tasks.admission import Admission, Rules
from background_tasks.agenda import Agenda
from background_tasks.changes import (
    IS_DISABLED,
    IS_LATE,
    ONE_FOLLOWS,
    ONE_WAITS,
    TOO_MANY,
    Change,
    ChangeKind,
)
from background_tasks.checks import seconds_text
from background_tasks.gates import GateReading
from background_tasks.heap import Entry
from background_tasks.plain import to_dict
from background_tasks.ready import Ready
from background_tasks.resources import added
from background_tasks.run import NOBODY, Outcome, Run
from background_tasks.task import TIMED_OUT, WAS_CANCELLED, WAS_STOPPED, Execution, Status, Task
from background_tasks.trigger import Arm, Signal, TimedTrigger, Trigger, arms_of, trigger_of
from background_tasks.usage import Tally

__all__ = ["MAX_CATCH_UP", "Deadline", "Engine", "Pending", "Stats"]

# Bound once: looking a member up on its class costs ten times as much on Python 3.10.
_PENDING, _RUNNING, _RETRYING = Status.PENDING, Status.RUNNING, Status.RETRYING
_SUCCESS, _FAILED, _LOST, _MISSED, _DROPPED = (
    Status.SUCCESS,
    Status.FAILED,
    Status.LOST,
    Status.MISSED,
    Status.DROPPED,
)
_CANCELLED, _TIMED_OUT = Status.CANCELLED, Status.TIMED_OUT
_RELEASED, _STARTED = ChangeKind.RUN_RELEASED, ChangeKind.RUN_STARTED
_SUCCEEDED_LEVEL = ChangeKind.RUN_SUCCEEDED.level
_QUIET_LEVEL = _RELEASED.level  # that of a release and of a start

_ENDS = {
    _SUCCESS: ChangeKind.RUN_SUCCEEDED,
    _FAILED: ChangeKind.RUN_FAILED,
    _LOST: ChangeKind.RUN_LOST,
    _MISSED: ChangeKind.RUN_MISSED,
    _DROPPED: ChangeKind.RUN_DROPPED,
    _CANCELLED: ChangeKind.RUN_CANCELLED,
    _TIMED_OUT: ChangeKind.RUN_TIMED_OUT,
}
_ENDED_WELL = {  # by cancel_reason: the function returned
    "": _SUCCESS,
    TIMED_OUT: _TIMED_OUT,
    WAS_CANCELLED: _CANCELLED,
    WAS_STOPPED: _CANCELLED,
}
_ENDED_BADLY = {**_ENDED_WELL, "": _FAILED}  # it raised
_GATE_NEWS = {
    "closed": ChangeKind.GATE_CLOSED,
    "opened": ChangeKind.GATE_OPENED,
    "failed": ChangeKind.GATE_FAILED,
    "recovered": ChangeKind.GATE_RECOVERED,
}
_NO_TIME = timedelta(0)
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)
_STEP = timedelta(seconds=1)  # below it a clock is slewed rather than set
MAX_CATCH_UP = 1000  # occurrences; more missed ones are counted, not run, with missed="all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters since the scheduler was made, removed tasks included, and what is there now.

    ``released == succeeded + failed + missed + cancelled + dropped + pending + running``.

    Attributes:
        released: Runs that were released.
        succeeded: Runs that ended in SUCCESS.
        failed: Runs that ended in FAILED, TIMED_OUT or LOST.
        lost: Of these, those that ended in LOST.
        missed: Runs that ended in MISSED.
        cancelled: Runs that ended in CANCELLED.
        dropped: Runs that ended in DROPPED.
        pending: Runs that wait for their turn or for a retry.
        running: Runs whose function is being called.
        timed_out: Of those that failed, the ones that ended in TIMED_OUT.
        stuck: Of those that run, the ones that were asked to give up and go on.
        retries: Attempts after the first.
        skipped: Occurrences that made no run of their own: they passed while the task was
            disabled, or a late or waiting run stands for them.
        tasks: Tasks that are registered.
        internal_errors: Times that the scheduler itself failed in something, for want of memory
            or by a mistake in it; each is logged and costs one run at worst.
        listener_failures: Times that a listener raised; each is logged and harms nobody.
    """

    released: int = 0
    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    missed: int = 0
    cancelled: int = 0
    dropped: int = 0
    pending: int = 0
    running: int = 0
    timed_out: int = 0
    stuck: int = 0
    retries: int = 0
    skipped: int = 0
    tasks: int = 0
    internal_errors: int = 0
    listener_failures: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return to_dict(self)


@dataclass(frozen=True, slots=True)
class Pending:
    """A run that waits for its turn.

    Attributes:
        run: The run.
        reason: What keeps it from starting, for people; "" when nothing does.
        since: When it could first have started; None for one behind another of its task.
    """

    run: Run
    reason: str
    since: datetime | None = None


class Deadline:
    """The end of the time that one attempt of a run was given."""

    __slots__ = ("run",)

    def __init__(self, run: Run) -> None:
        self.run = run


def _task_of(item: Any) -> Task | None:
    """Return the task that an item of the agenda releases a run of; None for a deadline."""
    if type(item) is Deadline:
        return None
    task: Task = item.task if type(item) is Run else item._arm_task
    return task


def _may_run(task: Task) -> bool:
    """Return whether one more of the task's runs may start now."""
    return task._enabled and task._running < task.max_instances


def _behind(task: Task) -> str:
    """Return what keeps a run that is not at the head of its task from its turn."""
    if not task._enabled:
        return IS_DISABLED
    if task._running >= task.max_instances:
        return _busy_text(task)
    return "another run of its task is first"


def _busy_text(task: Task) -> str:
    return f"max_instances of its task, {task.max_instances}, run already"


def _forget_oldest(task: Task, latest: Execution) -> None:
    """Keep of the oldest execution what it cost; that is *latest* in a task without a history."""
    oldest = task._history.pop(0) if task._history else latest
    if oldest.attempts:
        if task._tally is None:
            task._tally = Tally()
        task._tally.add(oldest._cost)


def _either(given: timedelta | None, otherwise: timedelta) -> timedelta:
    return otherwise if given is None else given


class Engine:
    """The decisions of one scheduler."""

    def __init__(
        self,
        *,
        max_running_tasks: int,
        aging: float,
        on_time: timedelta,
        rules: Rules | None = None,
        stuck_after: timedelta = timedelta(seconds=10),
        replacements: int = 0,
    ) -> None:
        """Start empty and not paused.

        Args:
            max_running_tasks: How many slots there are.
            aging: Seconds a point of priority; see `ready`.
            on_time: A run released no later than this is not late for ``missed="skip"``.
            rules: What there is to obey beside the number of slots; None is nothing.
            stuck_after: How long a run that was asked to give up may go on before it is stuck.
            replacements: How many slots more there may be, one for each stuck run.
        """
        self.tasks: dict[int, Task] = {}
        self.last_task_id = -1
        self.is_paused = False
        self.obstacle = ""  # why no run may start in a slot, for people; "" when they may
        self.slots = 0  # slots that are claimed
        self.running = 0  # runs whose function is being called, inline ones included
        self.live: dict[int, Run] = {}  # runs that have started and not ended, by execution ID
        self.rung: deque[Arm] = deque()  # arms of EventTriggers with signals; appended to unlocked
        self.changes: deque[Change] = deque()  # to be told; popped from unlocked
        self.level = 0  # changes below it interest nobody and are not noted
        self.internal_errors = 0  # counted by the scheduler
        self._max = max_running_tasks
        self._stuck_after = stuck_after
        self._replacements = replacements
        self._replaced = 0  # slots beyond _max: stuck runs that have been replaced
        self._on_time = on_time
        self._agenda = Agenda()
        self._admission: Admission | None = None  # the same object as _ready, if there are rules
        self._ready: Ready | Admission = Ready(aging)
        if rules is not None:
            self._admission = Admission(rules, slots=max_running_tasks, aging=aging)
            self._ready = self._admission
        self._inline = 0  # of `running`, those that need no slot
        self._polled: dict[int, Any] = {}  # arms that are asked at each tick, by their id()
        self._to_ask: list[Arm] = []  # custom arms whose time has come
        self._asked: dict[int, Arm] = {}  # arms that a thread is asking, by their id()
        self._waiting = 0  # runs that are pending, ready or wait for a retry
        self._held = 0  # of these, those of disabled tasks
        self._last_run_id = -1
        self._latest = _LONG_AGO  # the instant of the last release
        self._compared: tuple[datetime, float] | None = None  # both clocks, see `compare_clocks`
        self._counted = dict.fromkeys(_ENDS, 0)
        self._stuck = 0  # of `running`, those that were asked to give up and go on
        self.newly_stuck: list[Run] = []  # to be told with their stacks; taken by the scheduler
        self._retries = 0
        self._skipped = 0

    # The registry

    def add(self, task: Task, now: datetime) -> None:
        """Register *task* under the next ID; arm its triggers of our kinds.

        Its custom triggers, `custom_arms`, are the caller's to ask.
        """
        self.last_task_id += 1
        task._id = self.last_task_id
        task._arms = arms_of(task._triggers, task)
        self.tasks[task._id] = task
        self.note(ChangeKind.TASK_ADDED, now, task)
        self._saw(now)
        for arm in task._arms:
            self._arm_anew(arm, now)

    def arm_all(self, now: datetime) -> None:
        """Arm every trigger of our kinds anew; those that are spent stay so."""
        self._saw(now)
        for task in self.tasks.values():
            for arm in task._arms:
                self._arm_anew(arm, now)

    def custom_arms(self, tasks: Iterable[Task], into: list[Arm] | None = None) -> list[Arm]:
        """Claim the custom arms of *tasks*: the caller asks them, then calls `rearmed`."""
        arms = [
            arm
            for task in tasks
            for arm in task._arms
            if arm._arm_is_custom and not arm._arm_is_asked
        ]
        return self._claimed(arms, into)

    def remove(self, task_id: int, now: datetime) -> None:
        """Take a task out. What waits of it is dropped; what runs goes on and is recorded."""
        task = self.tasks[task_id]
        task._is_removed = True
        if not task._enabled:
            self._held -= task._waiting
        if task._waiting:
            self._demote(task)
            for run in self._waiting_runs(task):
                self._drop(run, now)
        for arm in task._arms:
            self._disarm(arm)
            self._polled.pop(id(arm), None)
            if arm._arm_signals is not None:
                arm._arm_signals.close()
            arm._arm_task = None
        task._pending, task._arms = None, ()  # no circle of references is left
        del self.tasks[task_id]  # last: whoever mends finds what is removed half
        if self.level <= _QUIET_LEVEL:
            self.note(ChangeKind.TASK_REMOVED, now, task)

    def forget(self, task: Task) -> None:
        """Undo an `add` that broke off."""
        if task._id is not None and self.tasks.pop(task._id, None) is not None:
            for arm in task._arms:
                self._disarm(arm)
                self._polled.pop(id(arm), None)
                if arm._arm_signals is not None:
                    arm._arm_signals.bind(None)
                arm._arm_task = None
        task._id, task._arms = None, ()

    def set_enabled(self, task: Task, enabled: bool, now: datetime) -> None:
        """Let the task run, or hold it. Lifts a quarantine."""
        if enabled == task._enabled:
            return
        task._enabled = enabled
        task._quarantine = None
        if enabled:
            self._held -= task._waiting
            self._promote(task, now)
            for arm in task._arms:
                self._take_up(arm)
        else:
            self._held += task._waiting
            self._demote(task)

    def set_priority(self, task: Task, priority: int) -> None:
        """Give the task another priority; what waits of it moves, its stamp stays."""
        head = task._head
        if head is not None and head.entry is not None:
            self._ready.cancel(head.entry)
        task._priority = priority
        if head is not None and head.entry is not None:
            head.entry = self._ready.push(head.stamp, priority, head)
        for arm in task._arms:
            if arm._arm_entry is not None:
                arm._arm_entry = self._moved(arm._arm_entry, priority)
        for run in self._between_attempts(task):
            if run.entry is not None:
                run.entry = self._moved(run.entry, priority)

    def _moved(self, entry: Entry, priority: int) -> Entry:
        """Put what *entry* holds into the agenda anew, with another priority."""
        due, item = entry[0], entry[-1]
        self._agenda.cancel(entry)
        return self._agenda.push(due, priority, item)

    def quarantine(self, task: Task, reason: str, now: datetime) -> None:
        """Disable a task whose trigger cannot be trusted; *reason* stays on it."""
        if task._is_removed:
            return
        self.set_enabled(task, False, now)
        task._quarantine = reason
        self.note(ChangeKind.TASK_QUARANTINED, now, task, reason=reason)

    # Triggers

    def _arm_anew(self, arm: Arm, now: datetime) -> None:
        if arm._arm_is_custom:
            timed = arm._arm_timed
            if timed is not None and not arm._arm_is_asked:  # or its reset after that were lost
                timed.arm_custom(now)
        elif arm._arm_timed is not None:
            arm._arm_timed.arm(now)
            self._enter(arm)
        else:
            self._take_up(arm)

    def _enter(self, arm: Any) -> None:
        """Put *arm* into the agenda at its trigger's due time, and nowhere else."""
        if arm._arm_entry is not None:
            self._disarm(arm)
        if arm._arm_is_custom:
            self._polled.pop(id(arm), None)
        due = arm._arm_timed.due
        if due is not None:
            arm._arm_entry = self._agenda.push(due, arm._arm_task._priority, arm)

    def _disarm(self, arm: Arm) -> None:
        if arm._arm_entry is not None:
            self._agenda.cancel(arm._arm_entry)
            arm._arm_entry = None

    def _take_up(self, arm: Arm) -> None:
        """See that *arm* is looked at again: it was added, or its task was enabled."""
        signals = arm._arm_signals
        if signals is not None and not arm._arm_is_custom:
            if signals.waiting:
                self.ring(arm)
            if signals.trigger is not None:
                self._poll(arm)
        elif arm._arm_is_custom and arm._arm_entry is None:
            self._poll(arm)

    def _poll(self, arm: Arm) -> None:
        if not arm._arm_is_asked:
            self._polled[id(arm)] = arm

    def ring(self, arm: Arm) -> None:
        """Note that *arm*'s EventTrigger has signals. May be called without the lock.

        The flag is cleared before the signals are taken, so a signal that comes in between is
        either taken or rings again.
        """
        if not arm._arm_is_rung:
            arm._arm_is_rung = True
            self.rung.append(arm)

    @property
    def has_waiting(self) -> bool:
        """True while runs wait for their turn."""
        return len(self._ready) > 0

    @property
    def is_polling(self) -> bool:
        """True while there is a trigger that is to be asked at every tick."""
        return bool(self._polled)

    @property
    def has_to_ask(self) -> bool:
        """True when the time of a custom arm has come and nobody has claimed it."""
        return bool(self._to_ask)

    def to_ask(self, *, poll: bool, into: list[Arm] | None = None) -> list[Arm]:
        """Claim the custom arms whose time has come and, with *poll*, those asked every tick.

        The caller asks each with no lock held, then calls `answered` and `rearmed`. They are put
        *into* a list of the caller's before they are claimed: whatever breaks off, these are to
        be unclaimed.
        """
        arms, self._to_ask = self._to_ask, []
        if poll and not self.is_paused:
            arms += [arm for arm in self._polled.values() if arm._arm_task._enabled]
        return self._claimed(arms, into)

    def _claimed(self, arms: list[Arm], into: list[Arm] | None) -> list[Arm]:
        if into is not None:
            into += arms
        for arm in arms:
            self._asked[id(arm)] = arm
            arm._arm_is_asked = True
            self._polled.pop(id(arm), None)
            self._disarm(arm)
        return arms

    def unclaim(self, arms: Iterable[Arm]) -> None:
        """Say that nobody asks *arms* after all; then they are to be mended."""
        for arm in arms:
            arm._arm_is_asked = False
            self._asked.pop(id(arm), None)

    def answered(self, arm: Arm, now: datetime) -> int:
        """Release a run of *arm*, which said that it is ready; return how many that were.

        Its trigger is to be reset next.
        """
        task = arm._arm_task
        if task is None:
            return 0
        if arm._arm_signals is None:
            if arm._arm_timed is not None and arm._arm_run is not None and task.missed != "all":
                self._stand_for(arm._arm_run, 1, now)
                return 0
            return self._release(task, arm, now, now)
        if not arm._arm_is_custom:
            self.ring(arm)  # which `release` then counts
            return 0
        if (signal := arm._arm_signals.take_signal()) is not None:
            return self._release_signal(task, arm, signal, now)
        return self._release(task, None, now, now)

    def rearmed(self, arm: Arm, due: datetime | None, now: datetime) -> None:
        """Give *arm* back after it was asked: to be asked again at *due*, or at every tick."""
        arm._arm_is_asked = False
        self._asked.pop(id(arm), None)
        if arm._arm_task is None:
            return
        if due is None and arm._arm_timed is not None:
            planned = arm._arm_timed.due  # of mode "delay", and its run has ended meanwhile
            due = planned if planned is not None and planned > now else None
        if due is None:
            self._poll(arm)
        else:
            arm._arm_entry = self._agenda.push(due, arm._arm_task._priority, arm)
        self._clear_away(arm._arm_task, now)

    # Release

    def next_due(self) -> datetime | None:
        """Return when something is next due, None when nothing is."""
        return self._agenda.next_due()

    def has_due(self, now: datetime) -> bool:
        """Return True while `release` has something to do."""
        if self.is_paused:
            return False
        due = self._agenda.next_due()
        return bool(self.rung) or (due is not None and due <= now)

    def release(self, now: datetime, most: int) -> int:
        """Release what is due at *now*; return how many runs.

        Looks at *most* due times and as many signals, so that the lock is not held for long;
        `has_due` tells whether there is more.
        """
        if now < self._latest:
            self._clock_went_back(now)
        self._latest = now
        if self._admission is not None:
            self._admission.stamp(now)  # what it holds up for a time only may be let through
        released = 0
        if self.is_paused:
            return released
        for _ in range(most):
            item = self._agenda.pop_due(now)
            if item is None:
                break
            released += self._come_due(item, now)
        return released + self.release_signals(now, most) if self.rung else released

    def release_signals(self, now: datetime, most: int) -> int:
        """Release the signals that wait, *most* at most; return how many.

        Enters no lock of anybody's, so it may run in a signal handler.
        """
        released = 0
        while most > 0 and self.rung and not self.is_paused:
            taken, made = self._take_signals(self.rung.popleft(), now, most)
            released += made
            most -= max(1, taken)
        return released

    def _come_due(self, item: Any, now: datetime) -> int:
        kind = type(item)
        if kind is Run:
            item.entry = None
            self._queue(item, now)
            return 1
        if kind is Deadline:
            self._overdue(item.run, now)
            return 0
        item._arm_entry = None
        if not item._arm_is_custom:
            return self._come_round(item, now)
        (self._to_ask.append if item._arm_task._enabled else self._poll)(item)
        return 0

    def _come_round(self, trigger: TimedTrigger, now: datetime) -> int:
        """Act on a trigger whose due time has come; return how many runs it released."""
        task: Task = trigger._arm_task
        released = 0
        if not task._enabled:
            count, _ = trigger.take(now)
            self._pass_over(task, count, now, IS_DISABLED)
            trigger.ended(now)  # with no run to end, "delay" counts from here
        elif task.missed == "all":
            released = self._catch_up(trigger, now)
        else:
            released = self._stand_for_all(trigger, now)
        if trigger._due is not None:
            self._enter(trigger)
        elif not released and task._enabled:
            self._clear_away(task, now)  # a one-shot that was skipped
        return released

    def _stand_for_all(self, trigger: TimedTrigger, now: datetime) -> int:
        """Make one run, at most, of all occurrences up to *now*."""
        task: Task = trigger._arm_task
        count, at = trigger.take(now)
        if trigger._arm_run is not None:
            self._stand_for(trigger._arm_run, count, now)
            return 0
        if task.missed == "skip" and now - at > _either(task.misfire_grace, self._on_time):
            self._pass_over(task, count, now, IS_LATE)
            trigger.ended(now)
            return 0
        if count > 1:
            self._pass_over(task, count - 1, now, ONE_FOLLOWS)
        return self._release_timely(trigger, at, now, count - 1)

    def _catch_up(self, trigger: TimedTrigger, now: datetime) -> int:
        """Make a run of each occurrence up to *now*; those beyond MAX_CATCH_UP are counted."""
        released = 0
        for _ in range(MAX_CATCH_UP):
            if trigger.due is None or trigger.due > now:
                break
            released += self._release_timely(trigger, trigger.take_one(), now, 0)
        else:
            if trigger.due is not None and trigger.due <= now:
                count, _ = trigger.take(now)
                self._pass_over(trigger._arm_task, count, now, TOO_MANY)
                if trigger._arm_run is not None:
                    trigger._arm_run.execution.missed += count
        return released

    def _stand_for(self, run: Run, count: int, now: datetime) -> None:
        """Let a run that waits stand for *count* further occurrences."""
        run.execution.missed += count
        self._pass_over(run.task, count, now, ONE_WAITS)

    def _pass_over(self, task: Task, count: int, now: datetime, reason: str) -> None:
        """Count occurrences that make no run of their own."""
        self._skipped += count
        if self.level <= _QUIET_LEVEL:
            self.note(ChangeKind.OCCURRENCE_SKIPPED, now, task, reason=reason, skipped=count)

    def _release_timely(
        self, trigger: TimedTrigger, at: datetime, now: datetime, missed: int
    ) -> int:
        """Release a run that was due *at*, or record it as MISSED; return how many to run."""
        task: Task = trigger._arm_task
        grace = task.misfire_grace
        if grace is None or now - at <= grace:
            return self._release(task, trigger, at, now, None, missed)
        execution = self._execution(task, at, now, None, missed)
        self._end(Run(task, trigger, execution), _MISSED, now)
        return 0

    def _take_signals(self, arm: Arm, now: datetime, most: int) -> tuple[int, int]:
        """Take signals that wait, *most* at most; return how many, and how many runs they made."""
        arm._arm_is_rung = False  # before any is taken, see `ring`
        task, trigger = arm._arm_task, arm._arm_signals
        assert trigger is not None
        if task is None or not task._enabled:
            return 0, 0  # the signals wait in the channel
        taken = released = 0
        while taken < most and (signal := trigger.take_signal()) is not None:
            taken += 1
            if trigger.coalesce and arm._arm_run is not None:
                waiting: Execution = arm._arm_run.execution
                waiting.event, _, waiting._origin = signal
                self._stand_for(arm._arm_run, 1 + trigger.count_merged(), now)
            else:
                released += self._release_signal(task, arm, signal, now)
        if trigger.waiting:
            self.ring(arm)
        return taken, released

    def _release_signal(self, task: Task, arm: Arm, signal: Signal, now: datetime) -> int:
        """Make a run of a signal, which may stand for others that it met in the channel."""
        event, at, origin = signal
        trigger = arm._arm_signals
        merged = trigger.count_merged() if trigger is not None and trigger.coalesce else 0
        if merged:
            self._pass_over(task, merged, now, ONE_FOLLOWS)
        return self._release(task, arm, at, now, event, merged, origin)

    def request(
        self, task: Task, event: object, now: datetime, origin: Context | None = None
    ) -> None:
        """Release a run of the task because somebody asked for one, in the context *origin*."""
        self._release(task, None, now, now, event, origin=origin)

    def _release(
        self,
        task: Task,
        arm: Arm | None,
        at: datetime,
        now: datetime,
        event: object = None,
        missed: int = 0,
        origin: Context | None = None,
    ) -> int:
        """Make a run and queue it; return 1, or 0 when it was skipped."""
        run = Run(task, arm, self._execution(task, at, now, event, missed))
        if origin is not None:
            run.execution._origin = origin
        if task._running >= task.max_instances and task.overlap == "skip":
            self._skip(run, now)
            return 0
        if arm is not None:
            arm._arm_run = run
        task._waiting += 1
        self._waiting += 1
        if not task._enabled:
            self._held += 1
        self._queue(run, now)
        if self.level <= _QUIET_LEVEL:
            self.note(_RELEASED, now, task, run)
        return 1

    def _skip(self, run: Run, now: datetime) -> None:
        """Record a run that is not to wait for another one of its task."""
        if run.arm is not None:
            self._stop_waiting(run, run.arm)
        self._end(run, _MISSED, now, f"skipped: {_busy_text(run.task)}")

    def _execution(
        self, task: Task, at: datetime, now: datetime, event: object, missed: int
    ) -> Execution:
        self._last_run_id += 1
        # By position: by name it takes 0.5 us more.
        return Execution(
            None,
            None,
            _PENDING,
            "",
            event,
            None,
            self._last_run_id,
            task._id,  # type: ignore[arg-type] # it has one since it was added
            task.name,
            at,
            now,
            0,
            missed,
        )

    # Who waits

    def _wait(self, task: Task, more: int) -> None:
        """Count *more* runs of the task as waiting; fewer when negative."""
        task._waiting += more
        self._waiting += more
        if not task._enabled and not task._is_removed:
            self._held += more

    def _queue(self, run: Run, now: datetime) -> None:
        """Put a run at the end of its task's queue."""
        task = run.task
        if task._head is None and task._pending is None and _may_run(task):
            self._make_head(run, now)
            return
        if task._pending is None:
            task._pending = deque()
        task._pending.append(run)
        self._promote(task, now)

    def _promote(self, task: Task, now: datetime) -> None:
        """Put the first pending run of the task into the ready heap, if it may run."""
        if task._head is None and task._pending is not None and _may_run(task):
            self._make_head(task._pending.popleft(), now)
            if not task._pending:
                task._pending = None

    def _make_head(self, run: Run, now: datetime) -> None:
        task = run.task
        task._head = run
        run.stamp = self._ready.stamp(now)
        run.entry = self._ready.push(run.stamp, task._priority, run)

    def _demote(self, task: Task) -> None:
        """Take the task's run out of the ready heap and put it first of those that wait."""
        run = task._head
        if run is None or run.entry is None:
            return
        self._ready.cancel(run.entry)
        run.entry = task._head = None
        if task._pending is None:
            task._pending = deque()
        task._pending.appendleft(run)

    def _waiting_runs(self, task: Task) -> list[Run]:
        """Return the task's pending runs, none of which is ready, and those between attempts."""
        return [*(task._pending or ()), *self._between_attempts(task)]

    def _between_attempts(self, task: Task) -> list[Run]:
        """Return the task's runs that wait for the delay of their retry."""
        if not task._waiting:
            return []  # without a look at all that live: a one-shot that goes comes by here
        return [
            run
            for run in self.live.values()
            if run.task is task
            and run.execution.status is _RETRYING
            and (run.is_inline or (run.entry is not None and run is not task._head))
        ]

    # Slots

    def claim_slots(self) -> int:
        """Claim as many further slots as there is work for; return how many.

        Whoever claims keeps ``slots`` right as they go home, or cannot be started.
        """
        most = self._max + self._replaced
        if self.slots >= most or self.is_paused or self.obstacle:
            return 0
        useful = self.running - self._inline
        useful += self._ready.startable()
        more = max(0, min(most, useful) - self.slots)
        self.slots += more
        return more

    def take(self, now: datetime) -> Run | None:
        """Start the best ready run and return it; None when there is none, or none may start."""
        if self.is_paused or self.obstacle or self.slots > self._max + self._replaced:
            return None  # the last: a run that was replaced has ended after all
        run: Run | None = self._ready.pop_at(now)
        if run is None:
            return None
        task = run.task
        task._head = run.entry = None
        task._waiting -= 1  # it is enabled: one that is not has no run here
        self._waiting -= 1
        self._begin(run, now)
        if task._pending is not None:
            self._promote(task, now)
        return run

    def take_inline(
        self, task: Task, event: object, now: datetime, origin: Context | None = None
    ) -> Run:
        """Start a run of the task outside of slots, queues and ``max_instances``."""
        run = Run(task, None, self._execution(task, now, now, event, 0))
        if origin is not None:
            run.execution._origin = origin
        run.is_inline = True
        if self.level <= _QUIET_LEVEL:
            self.note(_RELEASED, now, task, run)
        self._begin(run, now)
        return run

    def retry_inline(self, run: Run, now: datetime) -> bool:
        """Start the next attempt of a run of `take_inline`; False when its task was removed."""
        if run.execution.status is not _RETRYING:
            return False
        self._wait(run.task, -1)
        self._begin(run, now)
        return True

    def _begin(self, run: Run, now: datetime) -> None:
        task, execution = run.task, run.execution
        task._running += 1
        self.running += 1
        execution.status = _RUNNING
        execution.attempts += 1
        if execution.attempts == 1:
            execution.started_at = now
            self.live[execution.id] = run
            if run.arm is not None:
                self._stop_waiting(run, run.arm)
        else:
            execution.cancel_reason, execution._bell = "", None
            execution._leave_span()
            self._retries += 1
        if run.is_inline:
            self._inline += 1
        elif self._admission is not None:
            self._admission.started(task)
        if task.timeout is not None:
            self._saw(now)
            run.deadline = self._agenda.push(now + task.timeout, 0, Deadline(run))
        if self.level <= _QUIET_LEVEL:
            self.note(_STARTED, now, task, run)

    def _stop_waiting(self, run: Run, arm: Arm) -> None:
        """Let the arm that released *run* release another that waits."""
        if arm._arm_run is run:
            arm._arm_run = None
        if arm._arm_signals is not None:
            arm._arm_signals.give_permit()

    # The end of an attempt and of a run

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Record how an attempt ended: the run is over, or waits for its next attempt.

        One that its executor refused was none: its run waits for its turn again.
        """
        task, execution, now = run.task, run.execution, outcome.ended_at
        if outcome.obstacle:
            self.hold(outcome.obstacle, now)
        self._stop_running(run)
        was_cancelled = execution.cancel_reason in (WAS_CANCELLED, WAS_STOPPED)
        if outcome.is_refused and not run.is_inline and not was_cancelled:
            self._put_back(run, now)
            return
        is_first = execution.attempts == 1
        execution._cost = outcome.cost if is_first else added(execution._cost, outcome.cost)
        execution.error, execution.traceback = outcome.error, outcome.traceback
        if not outcome.error:
            if task.keep_results:
                execution.results = outcome.results
            self._end(run, _ENDED_WELL[execution.cancel_reason], now, outcome.note)
        else:
            if self.level <= _QUIET_LEVEL:
                self.note(ChangeKind.ATTEMPT_FAILED, now, task, run)
            if outcome.retry_after is None or task._is_removed or was_cancelled:
                status = _LOST if outcome.is_lost else _ENDED_BADLY[execution.cancel_reason]
                self._end(run, status, now)
            else:
                self._plan_retry(run, outcome.retry_after, now)
        if task._pending is not None:
            self._promote(task, now)

    def _stop_running(self, run: Run) -> None:
        """Count a run whose function was being called as running no longer."""
        run.thread = NOBODY
        run.task._running -= 1
        self.running -= 1
        if run.is_inline:
            self._inline -= 1
        elif self._admission is not None:
            self._admission.ended(run.task)
        if run.deadline is not None:
            self._agenda.cancel(run.deadline)
            run.deadline = None
        if run.is_stuck:
            self._come_loose(run)

    def _put_back(self, run: Run, now: datetime) -> None:
        """Undo the start of *run*: it is the next of its task again."""
        task, execution = run.task, run.execution
        execution.attempts -= 1
        if execution.attempts:
            self._retries -= 1
            execution.status = _RETRYING
        else:
            del self.live[execution.id]
            execution.status = _PENDING
            execution.started_at = None
            self._wait_again(run)
        execution.cancel_reason, execution._bell = "", None
        self._wait(task, 1)
        if task._is_removed:
            self._drop(run, now)
            return
        self._demote(task)
        if task._pending is None:
            task._pending = deque()
        task._pending.appendleft(run)
        self._promote(task, now)

    def _wait_again(self, run: Run) -> None:
        """Have *run* stand for what its arm releases meanwhile, as before its start."""
        arm = run.arm
        if arm is None:
            return
        if arm._arm_signals is not None:
            run.arm = None  # it has let another signal wait in its place
        elif arm._arm_run is None:
            arm._arm_run = run

    def hold(self, obstacle: str, now: datetime) -> None:
        """Start no run in a slot until `let_go`: the executor is broken. Noted once."""
        if not self.obstacle:
            self.note(ChangeKind.EXECUTOR_BROKEN, now, reason=obstacle)
        self.obstacle = obstacle

    def renewed(self, trouble: str, now: datetime) -> None:
        """Let runs start again: there is another executor; unless there was *trouble* with it."""
        if trouble:
            self.note(ChangeKind.EXECUTOR_BROKEN, now, reason=trouble)
        elif self.obstacle:
            self.let_go()
            self.note(ChangeKind.EXECUTOR_RENEWED, now)

    def let_go(self) -> None:
        """Let runs start again after `hold`, to see whether the executor takes them."""
        self.obstacle = ""

    def _plan_retry(self, run: Run, delay: float, now: datetime) -> None:
        task = run.task
        self._saw(now)
        run.execution.status = _RETRYING
        self._wait(task, 1)
        if delay and not run.is_inline:  # one of run_task waits in its caller
            run.delay = timedelta(seconds=delay)
            run.entry = self._agenda.push(now + run.delay, task._priority, run)
        self.note(
            ChangeKind.RUN_RETRYING,
            now,
            task,
            run,
            reason=f"next attempt in {round(delay, 3)} seconds",
        )
        if not delay and not run.is_inline:
            self._queue(run, now)

    def _end(self, run: Run, status: Status, now: datetime, reason: str = "") -> None:
        """Put the run's one terminal record into the history."""
        task, execution, arm = run.task, run.execution, run.arm
        # Counted before anything is called in which an interrupt comes up, and live until it is
        # recorded: so it ends once.
        execution.status = status
        execution.ended_at = now
        self._counted[status] += 1
        if execution._origin is not None:
            execution._origin = None
        if task.history:
            if task._history is None:
                task._history = []
            task._history.append(execution)
        if not task.history or len(task._history) > task.history:  # type: ignore[arg-type] # made
            _forget_oldest(task, execution)
        self.live.pop(execution.id, None)
        if self.level <= _SUCCEEDED_LEVEL or status is not _SUCCESS:
            self.note(_ENDS[status], now, task, run, reason=reason)
        if task._is_removed:
            return
        if arm is not None:
            self._note_end(arm, now)
        self._clear_away(task, now)

    def _note_end(self, arm: Arm, now: datetime) -> None:
        """Let the trigger of a run know that the run has ended: "delay" counts from here."""
        timed = arm._arm_timed
        if timed is None or not timed.ended(now):
            return
        self._saw(now)
        if not arm._arm_is_asked:  # or `rearmed` will put it there
            self._enter(arm)

    def _clear_away(self, task: Task, now: datetime) -> None:
        """Remove a task of one-shots that will not run again."""
        if task._running or task._waiting or task._is_removed or not task._arms:
            return
        for arm in task._arms:  # not all(): a generator costs 0.3 us, once a run
            if not arm._arm_is_spent:
                return
        self.remove(task.id, now)

    def _drop(self, run: Run, now: datetime, status: Status = _DROPPED) -> None:
        """End a run that waits: its task is removed, or it is cancelled."""
        if run.entry is not None:
            self._agenda.cancel(run.entry)
            run.entry = None
        if run.arm is not None and run.execution.attempts == 0:
            self._stop_waiting(run, run.arm)
        self._wait(run.task, -1)
        self._end(run, status, now)

    def give_up(self, run: Run, now: datetime) -> None:
        """End a run between two attempts, for which its caller no longer waits."""
        if run.execution.status is _RETRYING:
            self._drop(run, now)

    # Cancelling

    def cancel(self, task: Task, now: datetime) -> int:
        """End the runs of the task that wait, ask those that run to give up; return how many."""
        self._demote(task)
        waiting = self._waiting_runs(task)
        running = [run for run in self.live.values() if run.task is task]
        for run in waiting:
            self._drop(run, now, _CANCELLED)
        task._pending = None
        # No generator: CPython 3.12.1 and 3.13.0 crash when there is no memory for one.
        return len(waiting) + sum([self._ask_to_end(run, WAS_CANCELLED, now) for run in running])

    def ask_all_to_end(self, now: datetime) -> None:
        """Ask every run whose function is being called to give up."""
        for run in self.live.values():
            self._ask_to_end(run, WAS_STOPPED, now)

    def _ask_to_end(self, run: Run, reason: str, now: datetime) -> bool:
        """Ask a run to give up, if it runs and was not asked yet; return whether it was now."""
        execution = run.execution
        if execution.status is not _RUNNING or execution.cancel_reason:
            return False
        execution.cancel_reason = reason
        if execution._bell is not None:
            execution._bell.set()
        if run.deadline is not None:
            self._agenda.cancel(run.deadline)
        self._saw(now)
        run.deadline = self._agenda.push(now + self._stuck_after, 0, Deadline(run))
        return True

    def _overdue(self, run: Run, now: datetime) -> None:
        run.deadline = None
        if run.execution.cancel_reason:
            self._get_stuck(run)
            return
        self._ask_to_end(run, TIMED_OUT, now)
        timeout = seconds_text(run.task.timeout or _NO_TIME)
        reason = f"runs longer than its timeout of {timeout} seconds"
        self.note(ChangeKind.RUN_OVERDUE, now, run.task, run, reason=reason)

    def _get_stuck(self, run: Run) -> None:
        """Count a run that was asked to give up and did not as stuck; replace its slot."""
        run.is_stuck = True
        self._stuck += 1
        self.newly_stuck.append(run)
        self._replace_stuck()

    def _come_loose(self, run: Run) -> None:
        """Take back what `_get_stuck` did: the run has given up after all."""
        run.is_stuck = False
        self._stuck -= 1
        self._replace_stuck()

    def _replace_stuck(self) -> None:
        before = self._replaced
        in_slots = [run for run in self.live.values() if run.is_stuck and not run.is_inline]
        self._replaced = min(len(in_slots), self._replacements)
        if self._admission is not None:
            self._admission.add_slots(self._replaced - before)

    def note_stuck(self, run: Run, stack: str, now: datetime) -> None:
        """Leave it to be told that *run* is stuck, and where."""
        if run.is_stuck:
            asked = run.execution.cancel_reason
            reason = f"{asked}, and does not give up; it is at:\n{stack}"
            self.note(ChangeKind.RUN_STUCK, now, run.task, run, reason=reason)

    # Time

    def compare_clocks(self, now: datetime, monotonic: float) -> None:
        """Note once that the wall clock has jumped since the last call.

        It has when it went on by a second more or less than *monotonic*, a clock that nobody
        sets, which stands still while the machine is suspended. One that stands still, frozen by
        a test, has not.
        """
        before, self._compared = self._compared, (now, monotonic)
        if before is None or now == before[0]:
            return
        jump = (now - before[0]).total_seconds() - (monotonic - before[1])
        if abs(jump) >= _STEP.total_seconds():
            direction = "forward" if jump > 0 else "back"
            reason = f"the wall clock was set {direction} by {abs(jump):.1f} seconds"
            self.note(ChangeKind.CLOCK_JUMPED, now, reason=reason)

    def _saw(self, now: datetime) -> None:
        """Take note of an instant from which something was planned: `release` may come earlier."""
        self._latest = max(self._latest, now)

    def _clock_went_back(self, now: datetime) -> None:
        """See to it that a clock set back stalls nothing."""
        step = self._latest - now
        if step <= _STEP:
            return
        for task in self.tasks.values():
            for arm in task._arms:
                timed = arm._arm_timed
                has_moved = timed is not None and timed.clock_went_back(now, step)
                if arm._arm_is_custom:
                    self._ask_again(arm)
                elif has_moved:
                    self._enter(arm)
        for run in self.live.values():
            self._bring_forward(run, now)

    def _ask_again(self, arm: Arm) -> None:
        """Have a custom arm asked at the next tick: when it said it would be due may be far off."""
        if arm._arm_entry is not None:
            self._disarm(arm)
            self._poll(arm)

    def _bring_forward(self, run: Run, now: datetime) -> None:
        """Let no retry wait for longer than its delay, no attempt run past its timeout."""
        waits = run.execution.status is _RETRYING and run is not run.task._head
        if waits and run.entry is not None and run.entry[0] > now + run.delay:
            self._agenda.cancel(run.entry)
            run.entry = self._agenda.push(now + run.delay, run.task._priority, run)
        most = self._stuck_after if run.execution.cancel_reason else run.task.timeout
        if run.deadline is not None and most is not None and run.deadline[0] > now + most:
            deadline = run.deadline[-1]
            self._agenda.cancel(run.deadline)
            run.deadline = self._agenda.push(now + most, 0, deadline)

    # What there is

    def count_missing(self) -> None:
        """Count as dropped what was released, has not ended and is nowhere: an error lost it."""
        ended = sum(self._counted.values())
        missing = self._last_run_id + 1 - ended - self._waiting - self.running
        self._counted[_DROPPED] += max(0, missing)

    def is_idle(self, now: datetime, exempt: int = 0) -> bool:
        """Return True when nothing runs but *exempt* runs, and nothing waits or is overdue.

        What waits of disabled tasks does not count, nor does any while paused.
        """
        if self.running > exempt:
            return False
        if self.is_paused:
            return True
        is_asking = self._asked or self._to_ask
        return self._waiting == self._held and not is_asking and not self._is_overdue(now)

    def _is_overdue(self, now: datetime) -> bool:
        """Return True when a tick would release something of a task that is enabled."""
        # One that was rung just after another thread had taken its signal has none.
        rung = [arm for arm in tuple(self.rung) if arm._arm_signals and arm._arm_signals.waiting]
        tasks = [arm._arm_task for arm in rung]
        tasks += [_task_of(item) for item in self._agenda.due_items(now)]
        return any(task is not None and task._enabled for task in tasks)

    def stats(self, listener_failures: int = 0) -> Stats:
        """Return the counters, and one that is not kept here."""
        counted = self._counted
        return Stats(
            released=self._last_run_id + 1,
            succeeded=counted[_SUCCESS],
            failed=counted[_FAILED] + counted[_TIMED_OUT] + counted[_LOST],
            lost=counted[_LOST],
            missed=counted[_MISSED],
            cancelled=counted[_CANCELLED],
            timed_out=counted[_TIMED_OUT],
            stuck=self._stuck,
            dropped=counted[_DROPPED],
            pending=self._waiting,
            running=self.running,
            retries=self._retries,
            skipped=self._skipped,
            tasks=len(self.tasks),
            internal_errors=self.internal_errors,
            listener_failures=listener_failures,
        )

    def set_gates(
        self, news: Iterable[GateReading], closed: Iterable[GateReading], now: datetime
    ) -> None:
        """Take note of what the gates read: of what is news, and of those that are closed."""
        for reading in news:
            self.note(_GATE_NEWS[reading.news], now, reason=str(reading))
        if self._admission is not None:
            self._admission.set_gates(tuple(map(str, closed)))

    def waiting(self, n: int, now: datetime) -> list[Pending]:
        """Return the first *n* runs that wait for their turn, each with what keeps it from it.

        In the order in which they would start now: first of each task the one at its head, then
        those behind it.
        """
        self._ready.stamp(now)
        heads: list[Run] = [entry[-1] for entry in self._ready.first(n)]
        found = [
            Pending(run, self._reason(run), self._ready.instant_of(run.stamp)) for run in heads
        ]
        if len(found) < n:
            found += [Pending(run, _behind(run.task)) for run in self._behind_heads(n)]
        return found[:n]

    def _reason(self, run: Run) -> str:
        if self.obstacle:
            return self.obstacle
        if self._admission is not None:
            return self._admission.reason(run)
        is_full = self.running - self._inline >= self._max + self._replaced
        return "no slot is free" if is_full else ""

    def _behind_heads(self, n: int) -> list[Run]:
        """Return pending runs, the first of each task first; of no task more than *n*."""
        queues = [task._pending for task in self.tasks.values() if task._pending]
        ranked = [each for queue in queues for each in enumerate(islice(queue, n))]
        return [run for _, run in sorted(ranked, key=lambda each: (each[0], each[1].execution.id))]

    def first_due(self, n: int) -> list[tuple[datetime, Task, Trigger | None]]:
        """Return the first *n* due times with their tasks; the trigger is None for a retry.

        Deadlines are left out.
        """
        found: list[tuple[datetime, Task, Trigger | None]] = []
        for due, _, _, item in self._agenda.first(n + len(self.live)):
            task = _task_of(item)
            if task is not None:
                found.append((due, task, None if type(item) is Run else trigger_of(item)))
        return found[:n]

    def next_of(self, task: Task, retrying: Iterable[Run]) -> datetime | None:
        """Return when a trigger of *task* or one of its *retrying* runs is next due."""
        entries = [*(arm._arm_entry for arm in task._arms), *(run.entry for run in retrying)]
        keys = (entry[0] for entry in entries if entry is not None)
        # The key of a retry that is due already is a number: it lies in the ready heap.
        return min((key for key in keys if isinstance(key, datetime)), default=None)

    def note(
        self,
        kind: ChangeKind,
        now: datetime,
        task: Task | None = None,
        run: Run | None = None,
        *,
        reason: str = "",
        skipped: int = 0,
    ) -> None:
        """Leave a change to be told, unless nobody wants to hear of it."""
        if kind.level < self.level:
            return
        self.changes.append(  # by position: by name it takes 0.4 us more
            Change(
                kind,
                now,
                None if task is None else task._id,
                "" if task is None else task.name,
                None if task is None else task._priority,
                None if task is None else task._enabled,
                None if run is None else run.execution._as_told(),
                reason,
                skipped,
            )
        )
