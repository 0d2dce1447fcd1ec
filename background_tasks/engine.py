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
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, cast

from background_tasks.agenda import Agenda
from background_tasks.changes import Change, ChangeKind
from background_tasks.checks import seconds_text
from background_tasks.heap import Entry
from background_tasks.ready import Ready
from background_tasks.resources import Resources
from background_tasks.task import Execution, Status, Task
from background_tasks.trigger import (
    EventTrigger,
    OneTimeTrigger,
    TimedTrigger,
    Trigger,
)

__all__ = ["MAX_CATCH_UP", "Arm", "Engine", "Outcome", "Run", "Stats", "TaskState"]

# Bound once: looking a member up on its class costs ten times as much on Python 3.10.
_RUNNING, _RETRYING = Status.RUNNING, Status.RETRYING
_SUCCESS, _FAILED, _MISSED, _DROPPED = (
    Status.SUCCESS,
    Status.FAILED,
    Status.MISSED,
    Status.DROPPED,
)
_RELEASED, _STARTED = ChangeKind.RUN_RELEASED, ChangeKind.RUN_STARTED
_SUCCEEDED_LEVEL = ChangeKind.RUN_SUCCEEDED.level
_QUIET_LEVEL = _RELEASED.level  # that of a release and of a start

_ENDS = {
    _SUCCESS: ChangeKind.RUN_SUCCEEDED,
    _FAILED: ChangeKind.RUN_FAILED,
    _MISSED: ChangeKind.RUN_MISSED,
    _DROPPED: ChangeKind.RUN_DROPPED,
}
_NO_TIME = timedelta(0)
_STEP = timedelta(seconds=1)  # back; below it a clock is slewed rather than set
MAX_CATCH_UP = 1000  # occurrences; more missed ones are counted, not run, with missed="all"


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        ended_at: When.
        resources: What it cost.
        results: What the function returned.
        error: The error as text, "" when it returned.
        traceback: The traceback as text.
        retry_after: Seconds until the next attempt; None is no further one.
    """

    ended_at: datetime
    resources: Resources
    results: object = None
    error: str = ""
    traceback: str = ""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters since the scheduler was made, removed tasks included, and what is there now.

    ``released == succeeded + failed + missed + cancelled + dropped + pending + running``.

    Attributes:
        released: Runs that were released.
        succeeded: Runs that ended in SUCCESS.
        failed: Runs that ended in FAILED.
        missed: Runs that ended in MISSED.
        cancelled: Runs that were cancelled; there is no way to do that yet.
        dropped: Runs that ended in DROPPED.
        pending: Runs that wait for their turn or for a retry.
        running: Runs whose function is being called.
        retries: Attempts after the first.
        skipped: Occurrences that made no run of their own: they passed while the task was
            disabled, or a late or waiting run stands for them.
        tasks: Tasks that are registered.
    """

    released: int = 0
    succeeded: int = 0
    failed: int = 0
    missed: int = 0
    cancelled: int = 0
    dropped: int = 0
    pending: int = 0
    running: int = 0
    retries: int = 0
    skipped: int = 0
    tasks: int = 0


class _Kind(NamedTuple):
    """What a class of triggers is."""

    is_timed: bool
    is_event: bool
    is_one_time: bool
    is_custom: bool  # not of ours, or with a method of its own for one of `_ASKED`


_ASKED = ("is_ready", "reset", "next_fire_time")


@lru_cache(maxsize=1024)
def _kind_of(trigger: type[Trigger]) -> _Kind:
    """Return what *trigger* is: once a class, since abstract ones are slow to ask."""
    ours = next((kind for kind in (TimedTrigger, EventTrigger) if issubclass(trigger, kind)), None)
    return _Kind(
        is_timed=ours is TimedTrigger,
        is_event=ours is EventTrigger,
        is_one_time=issubclass(trigger, OneTimeTrigger),
        is_custom=any(getattr(trigger, name) is not getattr(ours, name, None) for name in _ASKED),
    )


class TaskState:
    """What the engine knows about a task beside what the Task says."""

    __slots__ = (
        "arms",
        "head",
        "is_one_time",
        "is_removed",
        "pending",
        "running",
        "task",
        "waiting",
    )

    def __init__(self, task: Task) -> None:
        """Start with nothing running and nothing waiting."""
        self.task = task
        self.is_one_time = bool(task.triggers)
        self.arms: tuple[Arm, ...] = tuple([self._arm(trigger) for trigger in task.triggers])
        self.head: Run | None = None  # the run in the ready heap
        self.pending: deque[Run] | None = None  # behind it; None when empty: a deque costs 0.6 kB
        self.running = 0
        self.waiting = 0  # runs that are pending, ready or wait for a retry
        self.is_removed = False

    def _arm(self, trigger: Trigger) -> Arm:
        kind = _kind_of(type(trigger))
        self.is_one_time = self.is_one_time and kind.is_one_time
        return Arm(self, trigger, kind)

    @property
    def may_run(self) -> bool:
        """True when one more of its runs may start now."""
        return self.task._enabled and self.running < self.task.max_instances

    @property
    def is_done(self) -> bool:
        """True when all it had are OneTimeTriggers, now spent, and nothing of it runs or waits."""
        if not self.is_one_time or self.running or self.waiting:
            return False
        for arm in self.arms:  # not all(): a generator costs 0.3 us, once a run  # noqa: SIM110
            if arm.timed is None or arm.timed.due is not None:
                return False
        return True


class Arm:
    """One trigger of one task.

    Attributes:
        state: The task's.
        trigger: The trigger.
        timed: The trigger again if it is a TimedTrigger, else None.
        signals: The trigger again if it is an EventTrigger, else None.
        is_custom: Whether the trigger's own methods are to be asked, outside of the lock.
        entry: Where it lies in the agenda, None when it does not.
        waiting: The last run it released that has not started yet.
        is_asked: A thread is asking it right now.
        is_rung: It lies in ``rung``. Written without the lock, by ``EventTrigger.fire``.
    """

    __slots__ = (
        "entry",
        "is_asked",
        "is_custom",
        "is_rung",
        "signals",
        "state",
        "timed",
        "trigger",
        "waiting",
    )

    def __init__(self, state: TaskState, trigger: Trigger, kind: _Kind) -> None:
        """Start out of the agenda."""
        self.state = state
        self.trigger = trigger
        self.timed = cast(TimedTrigger, trigger) if kind.is_timed else None
        self.signals = cast(EventTrigger, trigger) if kind.is_event else None
        self.is_custom = kind.is_custom
        self.entry: Entry | None = None
        self.waiting: Run | None = None
        self.is_asked = False
        self.is_rung = False


class Run:
    """What the engine knows of an execution that has not ended."""

    __slots__ = ("arm", "deadline", "delay", "entry", "execution", "is_inline", "stamp", "state")

    def __init__(self, state: TaskState, arm: Arm | None, execution: Execution) -> None:
        """Start without a place in a heap."""
        self.state = state
        self.arm = arm
        self.execution = execution
        self.entry: Entry | None = None  # in the ready heap, or in the agenda while it retries
        self.deadline: Entry | None = None  # in the agenda, for the timeout of this attempt
        self.delay = _NO_TIME  # how long it waits for its retry
        self.stamp = 0.0  # when it could first have started, once it is in the ready heap
        self.is_inline = False  # runs in the caller of run_task: no slot, no place in a queue


class _Deadline:
    """The end of the time that one attempt of a run was given."""

    __slots__ = ("run",)

    def __init__(self, run: Run) -> None:
        self.run = run


def _either(given: timedelta | None, otherwise: timedelta) -> timedelta:
    return otherwise if given is None else given


class Engine:
    """The decisions of one scheduler."""

    def __init__(self, *, max_running_tasks: int, aging: float, on_time: timedelta) -> None:
        """Start empty and not paused.

        Args:
            max_running_tasks: How many slots there are.
            aging: Seconds a point of priority; see `ready`.
            on_time: A run released no later than this is not late for ``missed="skip"``.
        """
        self.states: dict[int, TaskState] = {}
        self.last_task_id = -1
        self.is_paused = False
        self.slots = 0  # slots that are claimed
        self.running = 0  # runs whose function is being called, inline ones included
        self.live: dict[int, Run] = {}  # runs that have started and not ended, by execution ID
        self.rung: deque[Arm] = deque()  # arms of EventTriggers with signals; appended to unlocked
        self.changes: deque[Change] = deque()  # to be told; popped from unlocked
        self.level = 0  # changes below it interest nobody and are not noted
        self._max = max_running_tasks
        self._on_time = on_time
        self._agenda = Agenda()
        self._ready = Ready(aging)
        self._inline = 0  # of `running`, those that need no slot
        self._polled: dict[Arm, None] = {}  # custom arms that are asked at each tick
        self._to_ask: list[Arm] = []  # custom arms whose time has come
        self._asked = 0  # arms that a thread is asking
        self._waiting = 0  # runs that are pending, ready or wait for a retry
        self._held = 0  # of these, those of disabled tasks
        self._last_run_id = -1
        self._latest: datetime | None = None  # the latest instant seen
        self._counted = dict.fromkeys((_SUCCESS, _FAILED, _MISSED, _DROPPED), 0)
        self._released = 0
        self._retries = 0
        self._skipped = 0

    # The registry

    def add(self, task: Task, now: datetime) -> TaskState:
        """Register *task* under the next ID; arm its triggers of our kinds.

        Its custom triggers, `custom_arms`, are the caller's to ask.
        """
        state = TaskState(task)
        self.last_task_id += 1
        task._id = self.last_task_id
        self.states[task._id] = state
        self.note(ChangeKind.TASK_ADDED, now, state)
        for arm in state.arms:
            self._arm_anew(arm, now)
        return state

    def arm_all(self, now: datetime) -> None:
        """Arm every trigger of our kinds anew; those that are spent stay so."""
        for state in self.states.values():
            for arm in state.arms:
                self._arm_anew(arm, now)

    def custom_arms(self, states: Iterable[TaskState]) -> list[Arm]:
        """Claim the custom arms of *states*: the caller asks them, then calls `rearmed`."""
        return [
            self._claimed(arm)
            for state in states
            for arm in state.arms
            if arm.is_custom and not arm.is_asked
        ]

    def remove(self, task_id: int, now: datetime) -> None:
        """Take a task out. What waits of it is dropped; what runs goes on and is recorded."""
        state = self.states.pop(task_id)
        state.is_removed = True
        if not state.task._enabled:
            self._held -= state.waiting
        if state.waiting:
            self._demote(state)
            for run in self._waiting_runs(state):
                self._drop(run, now)
        for arm in state.arms:
            self._disarm(arm)
            self._polled.pop(arm, None)
            if arm.signals is not None:
                arm.signals.close()
        state.pending, state.arms = None, ()  # no circle of references is left
        self.note(ChangeKind.TASK_REMOVED, now, state)

    def set_enabled(self, state: TaskState, enabled: bool, now: datetime) -> None:
        """Let the task run, or hold it. Lifts a quarantine."""
        task = state.task
        if enabled == task._enabled:
            return
        task._enabled = enabled
        task._quarantine = None
        if enabled:
            self._held -= state.waiting
            self._promote(state, now)
            for arm in state.arms:
                self._take_up(arm)
        else:
            self._held += state.waiting
            self._demote(state)

    def set_priority(self, state: TaskState, priority: int) -> None:
        """Give the task another priority; what waits of it moves, its stamp stays."""
        state.task._priority = priority
        head = state.head
        if head is not None and head.entry is not None:
            self._ready.cancel(head.entry)
            head.entry = self._ready.push(head.stamp, priority, head)
        waiting: list[Arm | Run] = [*state.arms, *self._between_attempts(state)]
        for item in waiting:
            if item.entry is not None:
                due = item.entry[0]
                self._agenda.cancel(item.entry)
                item.entry = self._agenda.push(due, priority, item)

    def quarantine(self, state: TaskState, reason: str, now: datetime) -> None:
        """Disable a task whose trigger cannot be trusted; *reason* stays on it."""
        if state.is_removed:
            return
        self.set_enabled(state, False, now)
        state.task._quarantine = reason
        self.note(ChangeKind.TASK_QUARANTINED, now, state, reason=reason)

    # Triggers

    def _arm_anew(self, arm: Arm, now: datetime) -> None:
        if arm.is_custom:
            if arm.timed is not None and not arm.is_asked:  # or its reset after that were lost
                arm.timed.arm_custom(now)
        elif arm.timed is not None:
            arm.timed.arm(now)
            self._enter(arm)
        else:
            self._take_up(arm)

    def _enter(self, arm: Arm) -> None:
        """Put *arm* into the agenda at its trigger's due time, and nowhere else."""
        self._disarm(arm)
        self._polled.pop(arm, None)
        due = None if arm.timed is None else arm.timed.due
        if due is not None:
            arm.entry = self._agenda.push(due, arm.state.task._priority, arm)

    def _disarm(self, arm: Arm) -> None:
        if arm.entry is not None:
            self._agenda.cancel(arm.entry)
            arm.entry = None

    def _take_up(self, arm: Arm) -> None:
        """See that *arm* is looked at again: it was added, or its task was enabled."""
        signals = arm.signals
        if signals is not None and not arm.is_custom:
            if signals.waiting:
                self.ring(arm)
            if signals.trigger is not None:
                self._poll(arm)
        elif arm.is_custom and arm.entry is None:
            self._poll(arm)

    def _poll(self, arm: Arm) -> None:
        if not arm.is_asked:
            self._polled[arm] = None

    def ring(self, arm: Arm) -> None:
        """Note that *arm*'s EventTrigger has signals. May be called without the lock.

        The flag is cleared before the signals are taken, so a signal that comes in between is
        either taken or rings again.
        """
        if not arm.is_rung:
            arm.is_rung = True
            self.rung.append(arm)

    @property
    def has_to_ask(self) -> bool:
        """True when the time of a custom arm has come and nobody has claimed it."""
        return bool(self._to_ask)

    def to_ask(self, *, poll: bool) -> list[Arm]:
        """Claim the custom arms whose time has come and, with *poll*, those asked every tick.

        The caller asks each with no lock held, then calls `answered` and `rearmed`.
        """
        arms, self._to_ask = self._to_ask, []
        if poll and not self.is_paused:
            arms += [arm for arm in self._polled if arm.state.task._enabled]
        return [self._claimed(arm) for arm in arms]

    def _claimed(self, arm: Arm) -> Arm:
        self._polled.pop(arm, None)
        self._disarm(arm)
        arm.is_asked = True
        self._asked += 1
        return arm

    def answered(self, arm: Arm, now: datetime) -> None:
        """Release a run of *arm*, which said that it is ready; its trigger is to be reset next."""
        state = arm.state
        if state.is_removed:
            return
        if arm.signals is None:
            self._release(state, arm, now, now)
        elif not arm.is_custom:
            self.ring(arm)
        elif (signal := arm.signals.take_signal()) is not None:
            event, at = signal
            self._release(state, arm, at, now, event=event)
        else:
            self._release(state, None, now, now)

    def rearmed(self, arm: Arm, due: datetime | None, now: datetime) -> None:
        """Give *arm* back after it was asked: to be asked again at *due*, or at every tick."""
        arm.is_asked = False
        self._asked -= 1
        if arm.state.is_removed:
            return
        if due is None and arm.timed is not None:
            planned = arm.timed.due  # of mode "delay", and its run has ended meanwhile
            due = planned if planned is not None and planned > now else None
        if due is None:
            self._poll(arm)
        else:
            arm.entry = self._agenda.push(due, arm.state.task._priority, arm)
        self._clear_away(arm.state, now)

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
        self._watch_clock(now)
        released = 0
        if self.is_paused:
            return released
        for _ in range(most):
            item = self._agenda.pop_due(now)
            if item is None:
                break
            released += self._come_due(item, now)
        return released + self.release_signals(now, most)

    def release_signals(self, now: datetime, most: int) -> int:
        """Release the signals that wait, *most* at most; return how many.

        Enters no lock of anybody's, so it may run in a signal handler.
        """
        released = 0
        while released < most and self.rung and not self.is_paused:
            released += self._take_signals(self.rung.popleft(), now, most - released)
        return released

    def _come_due(self, item: object, now: datetime) -> int:
        if isinstance(item, Arm):
            return self._come_round(item, now)
        if isinstance(item, Run):
            item.entry = None
            self._queue(item, now)
            return 1
        assert isinstance(item, _Deadline)
        self._overdue(item.run, now)
        return 0

    def _come_round(self, arm: Arm, now: datetime) -> int:
        """Act on an arm whose due time has come; return how many runs it released."""
        arm.entry = None
        trigger, state = arm.timed, arm.state
        if trigger is None or arm.is_custom:
            (self._to_ask.append if state.task._enabled else self._poll)(arm)
            return 0
        if not state.task._enabled:
            count, _ = trigger.take(now)
            self._skipped += count
            released = 0
            trigger.ended(now)  # with no run to end, "delay" counts from here
        elif state.task.missed == "all":
            released = self._catch_up(arm, trigger, now)
        else:
            released = self._stand_for_all(arm, trigger, now)
        if trigger.due is not None:
            self._enter(arm)
        elif state.task._enabled and not released:
            self._clear_away(state, now)  # a one-shot that was skipped
        return released

    def _stand_for_all(self, arm: Arm, trigger: TimedTrigger, now: datetime) -> int:
        """Make one run, at most, of all occurrences up to *now*."""
        state, task = arm.state, arm.state.task
        count, at = trigger.take(now)
        late = now - at
        if arm.waiting is not None:
            arm.waiting.execution.missed += count
            self._skipped += count
            return 0
        if task.missed == "skip" and late > _either(task.misfire_grace, self._on_time):
            self._skipped += count
            trigger.ended(now)
            return 0
        self._skipped += count - 1
        return self._release_timely(state, arm, at, now, missed=count - 1)

    def _catch_up(self, arm: Arm, trigger: TimedTrigger, now: datetime) -> int:
        """Make a run of each occurrence up to *now*; those beyond MAX_CATCH_UP are counted."""
        released = 0
        for _ in range(MAX_CATCH_UP):
            if trigger.due is None or trigger.due > now:
                break
            released += self._release_timely(arm.state, arm, trigger.take_one(), now)
        else:
            if trigger.due is not None and trigger.due <= now:
                count, _ = trigger.take(now)
                self._skipped += count
                if arm.waiting is not None:
                    arm.waiting.execution.missed += count
        return released

    def _release_timely(
        self, state: TaskState, arm: Arm, at: datetime, now: datetime, missed: int = 0
    ) -> int:
        """Release a run that was due *at*, or record it as MISSED; return how many to run."""
        grace = state.task.misfire_grace
        if grace is None or now - at <= grace:
            self._release(state, arm, at, now, missed=missed)
            return 1
        execution = self._execution(state, at, now, None, missed)
        self._end(Run(state, arm, execution), _MISSED, now)
        return 0

    def _take_signals(self, arm: Arm, now: datetime, most: int) -> int:
        """Make a run of each signal that waits, *most* at most; return how many."""
        arm.is_rung = False  # before any is taken, see `ring`
        state, trigger = arm.state, arm.signals
        assert trigger is not None
        if state.is_removed or not state.task._enabled:
            return 0  # the signals wait in the channel
        released = 0
        while released < most and (signal := trigger.take_signal()) is not None:
            event, at = signal
            if trigger.coalesce and arm.waiting is not None:
                arm.waiting.execution.event = event
                arm.waiting.execution.missed += 1
                self._skipped += 1
            else:
                self._release(state, arm, at, now, event=event)
                released += 1
        if trigger.waiting:
            self.ring(arm)
        return released

    def request(self, state: TaskState, event: object, now: datetime) -> None:
        """Release a run of the task because somebody asked for one."""
        self._release(state, None, now, now, event=event)

    def _release(
        self,
        state: TaskState,
        arm: Arm | None,
        at: datetime,
        now: datetime,
        *,
        event: object = None,
        missed: int = 0,
    ) -> None:
        run = Run(state, arm, self._execution(state, at, now, event, missed))
        if arm is not None:
            arm.waiting = run
        self._wait(state, 1)
        self._queue(run, now)
        if self.level <= _QUIET_LEVEL:
            self.note(_RELEASED, now, state, run)

    def _execution(
        self, state: TaskState, at: datetime, now: datetime, event: object, missed: int
    ) -> Execution:
        self._released += 1
        self._last_run_id += 1
        task = state.task
        return Execution(
            event=event,
            id=self._last_run_id,
            task_id=task.id,
            task_name=task.name,
            scheduled_at=at,
            released_at=now,
            missed=missed,
        )

    # Who waits

    def _wait(self, state: TaskState, more: int) -> None:
        """Count *more* runs of the task as waiting; fewer when negative."""
        state.waiting += more
        self._waiting += more
        if not state.task._enabled and not state.is_removed:
            self._held += more

    def _queue(self, run: Run, now: datetime) -> None:
        """Put a run at the end of its task's queue."""
        state = run.state
        if state.head is None and state.pending is None and state.may_run:
            self._make_head(run, now)
            return
        if state.pending is None:
            state.pending = deque()
        state.pending.append(run)
        self._promote(state, now)

    def _promote(self, state: TaskState, now: datetime) -> None:
        """Put the first pending run of the task into the ready heap, if it may run."""
        if state.head is None and state.pending is not None and state.may_run:
            self._make_head(state.pending.popleft(), now)
            if not state.pending:
                state.pending = None

    def _make_head(self, run: Run, now: datetime) -> None:
        state = run.state
        state.head = run
        run.stamp = self._ready.stamp(now)
        run.entry = self._ready.push(run.stamp, state.task._priority, run)

    def _demote(self, state: TaskState) -> None:
        """Take the task's run out of the ready heap and put it first of those that wait."""
        run = state.head
        if run is None or run.entry is None:
            return
        self._ready.cancel(run.entry)
        run.entry = state.head = None
        if state.pending is None:
            state.pending = deque()
        state.pending.appendleft(run)

    def _waiting_runs(self, state: TaskState) -> list[Run]:
        """Return the task's pending runs, none of which is ready, and those between attempts."""
        return [*(state.pending or ()), *self._between_attempts(state)]

    def _between_attempts(self, state: TaskState) -> list[Run]:
        """Return the task's runs that wait for the delay of their retry."""
        if not state.waiting:
            return []  # without a look at all that live: a one-shot that goes comes by here
        return [
            run
            for run in self.live.values()
            if run.state is state
            and run.execution.status is _RETRYING
            and (run.is_inline or (run.entry is not None and run is not state.head))
        ]

    # Slots

    def claim_slots(self) -> int:
        """Claim as many further slots as there is work for; return how many."""
        if self.is_paused:
            return 0
        useful = self.running - self._inline + len(self._ready)
        more = min(self._max, useful) - self.slots
        if more <= 0:
            return 0
        self.slots += more
        return more

    def give_back_slot(self) -> None:
        """Return a claimed slot: it goes home, or could not be started."""
        self.slots -= 1

    def take(self, now: datetime) -> Run | None:
        """Start the best ready run and return it; None when there is none, or while paused."""
        if self.is_paused:
            return None
        run: Run | None = self._ready.pop()
        if run is None:
            return None
        state = run.state
        state.head = run.entry = None
        self._wait(state, -1)
        self._begin(run, now)
        if state.pending is not None:
            self._promote(state, now)
        return run

    def take_inline(self, state: TaskState, event: object, now: datetime) -> Run:
        """Start a run of the task outside of slots, queues and ``max_instances``."""
        run = Run(state, None, self._execution(state, now, now, event, 0))
        run.is_inline = True
        if self.level <= _QUIET_LEVEL:
            self.note(_RELEASED, now, state, run)
        self._begin(run, now)
        return run

    def retry_inline(self, run: Run, now: datetime) -> bool:
        """Start the next attempt of a run of `take_inline`; False when its task was removed."""
        if run.execution.status is not _RETRYING:
            return False
        self._wait(run.state, -1)
        self._begin(run, now)
        return True

    def _begin(self, run: Run, now: datetime) -> None:
        state, execution = run.state, run.execution
        state.running += 1
        self.running += 1
        self._inline += run.is_inline
        execution.status = _RUNNING
        execution.cancelled = False
        execution.attempts += 1
        if execution.attempts == 1:
            execution.started_at = now
            self.live[execution.id] = run
            if run.arm is not None:
                self._stop_waiting(run, run.arm)
        else:
            self._retries += 1
        if state.task.timeout is not None:
            run.deadline = self._agenda.push(now + state.task.timeout, 0, _Deadline(run))
        if self.level <= _QUIET_LEVEL:
            self.note(_STARTED, now, state, run)

    def _stop_waiting(self, run: Run, arm: Arm) -> None:
        """Let the arm that released *run* release another that waits."""
        if arm.waiting is run:
            arm.waiting = None
        if arm.signals is not None:
            arm.signals.give_permit()

    # The end of an attempt and of a run

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Record how an attempt ended: the run is over, or waits for its next attempt."""
        state, execution, now = run.state, run.execution, outcome.ended_at
        state.running -= 1
        self.running -= 1
        self._inline -= run.is_inline
        if run.deadline is not None:
            self._agenda.cancel(run.deadline)
            run.deadline = None
        execution.resources = (
            outcome.resources
            if execution.attempts == 1
            else execution.resources.plus(outcome.resources)
        )
        execution.error, execution.traceback = outcome.error, outcome.traceback
        if not outcome.error:
            if state.task.keep_results:
                execution.results = outcome.results
            self._end(run, _SUCCESS, now)
        elif outcome.retry_after is None or state.is_removed:
            self._end(run, _FAILED, now)
        else:
            self._plan_retry(run, outcome.retry_after, now)
        if state.pending is not None:
            self._promote(state, now)

    def _plan_retry(self, run: Run, delay: float, now: datetime) -> None:
        state = run.state
        run.execution.status = _RETRYING
        self._wait(state, 1)
        if delay and not run.is_inline:  # one of run_task waits in its caller
            run.delay = timedelta(seconds=delay)
            run.entry = self._agenda.push(now + run.delay, state.task._priority, run)
        self.note(
            ChangeKind.RUN_RETRYING,
            now,
            state,
            run,
            reason=f"next attempt in {round(delay, 3)} seconds",
        )
        if not delay and not run.is_inline:
            self._queue(run, now)

    def _end(self, run: Run, status: Status, now: datetime) -> None:
        """Put the run's one terminal record into the history."""
        state, execution, arm = run.state, run.execution, run.arm
        execution.status = status
        execution.ended_at = now
        self.live.pop(execution.id, None)
        self._counted[status] += 1
        task = state.task
        if task.history:
            if task._history is None:
                task._history = []
            task._history.append(execution)
            if len(task._history) > task.history:
                del task._history[0]
        if self.level <= _SUCCEEDED_LEVEL or status is not _SUCCESS:
            self.note(_ENDS[status], now, state, run)
        if state.is_removed:
            return
        if arm is not None:
            self._note_end(arm, now)
        self._clear_away(state, now)

    def _note_end(self, arm: Arm, now: datetime) -> None:
        """Let the trigger of a run know that the run has ended: "delay" counts from here."""
        is_planned = arm.timed is not None and arm.timed.ended(now)
        if is_planned and not arm.is_asked:  # or `rearmed` will put it there
            self._enter(arm)

    def _clear_away(self, state: TaskState, now: datetime) -> None:
        """Remove a task of one-shots that will not run again."""
        if state.is_done and not state.is_removed:
            self.remove(state.task.id, now)

    def _drop(self, run: Run, now: datetime) -> None:
        """End a run whose task is removed."""
        if run.entry is not None:
            self._agenda.cancel(run.entry)
            run.entry = None
        if run.arm is not None and run.execution.attempts == 0:
            self._stop_waiting(run, run.arm)
        self._wait(run.state, -1)
        self._end(run, _DROPPED, now)

    def _overdue(self, run: Run, now: datetime) -> None:
        run.deadline = None
        run.execution.cancelled = True
        timeout = seconds_text(run.state.task.timeout or _NO_TIME)
        reason = f"runs longer than its timeout of {timeout} seconds"
        self.note(ChangeKind.RUN_OVERDUE, now, run.state, run, reason=reason)

    # Time

    def _watch_clock(self, now: datetime) -> None:
        """See to it that a clock set back stalls nothing."""
        if self._latest is not None and self._latest - now > _STEP:
            for state in self.states.values():
                for arm in state.arms:
                    trigger = None if arm.is_custom else arm.timed
                    if trigger is not None and trigger.clock_went_back(now):
                        self._enter(arm)
            for run in self.live.values():
                self._bring_forward(run, now)
        self._latest = now

    def _bring_forward(self, run: Run, now: datetime) -> None:
        """Let no retry wait for longer than its delay, no attempt run past its timeout."""
        waits = run.execution.status is _RETRYING and run is not run.state.head
        if waits and run.entry is not None and run.entry[0] > now + run.delay:
            self._agenda.cancel(run.entry)
            run.entry = self._agenda.push(now + run.delay, run.state.task._priority, run)
        timeout = run.state.task.timeout
        if run.deadline is not None and timeout is not None and run.deadline[0] > now + timeout:
            deadline = run.deadline[-1]
            self._agenda.cancel(run.deadline)
            run.deadline = self._agenda.push(now + timeout, 0, deadline)

    # What there is

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
        if any(arm.state.task._enabled for arm in tuple(self.rung)):
            return True
        return any(
            not isinstance(item, _Deadline) and item.state.task._enabled
            for item in self._agenda.due_items(now)
        )

    def stats(self) -> Stats:
        """Return the counters."""
        counted = self._counted
        return Stats(
            released=self._released,
            succeeded=counted[_SUCCESS],
            failed=counted[_FAILED],
            missed=counted[_MISSED],
            dropped=counted[_DROPPED],
            pending=self._waiting,
            running=self.running,
            retries=self._retries,
            skipped=self._skipped,
            tasks=len(self.states),
        )

    def first_due(self, n: int) -> list[tuple[datetime, Task, Trigger | None]]:
        """Return the first *n* due times with their tasks; the trigger is None for a retry.

        Deadlines are left out.
        """
        found: list[tuple[datetime, Task, Trigger | None]] = []
        for due, _, _, item in self._agenda.first(n + len(self.live)):
            if isinstance(item, Arm):
                found.append((due, item.state.task, item.trigger))
            elif isinstance(item, Run):
                found.append((due, item.state.task, None))
        return found[:n]

    def note(
        self,
        kind: ChangeKind,
        now: datetime,
        state: TaskState | None = None,
        run: Run | None = None,
        *,
        reason: str = "",
    ) -> None:
        """Leave a change to be told, unless nobody wants to hear of it."""
        if kind.level < self.level:
            return
        self.changes.append(
            Change(
                kind=kind,
                at=now,
                task_id=None if state is None else state.task.id,
                task_name="" if state is None else state.task.name,
                execution=None if run is None else run.execution.copy(),
                reason=reason,
            )
        )
