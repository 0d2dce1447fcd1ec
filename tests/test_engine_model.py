"""A model that drives the engine through every interleaving and checks what it promises.

Hypothesis picks steps: tasks come and go, time passes, the clock is set, the engine is ticked,
slots take runs and finish them, triggers of the user's are asked and raise, gates close, the
executor breaks, the process forks. After each step what the engine says and holds is compared with
what the model has noted by itself.

MODEL_EXAMPLES and MODEL_STEPS allow for more than the suite does, or less; each run with more is a
different one.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from itertools import count
from queue import Queue
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from background_tasks import engine as engine_module
from background_tasks.admission import Rules
from background_tasks.changes import Change, ChangeKind
from background_tasks.engine import Deadline, Engine, _may_run
from background_tasks.gates import GateReading
from background_tasks.mending import forked, mend
from background_tasks.run import Outcome, Run
from background_tasks.task import WAS_STOPPED, Execution, Status, Task
from background_tasks.trigger import (
    Arm,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Signal,
    TimedTrigger,
    Trigger,
    trigger_of,
)

_EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "300"))
_STEPS = int(os.environ.get("MODEL_STEPS", "50"))
_START = datetime(2025, 6, 1, tzinfo=timezone.utc)
_FIRST_STAMP = (_START - datetime(2000, 1, 1, tzinfo=timezone.utc)).total_seconds()
_ON_TIME = timedelta(seconds=1)
_EVERYTHING = 10**6
_HESITANT = 30  # seconds; custom triggers of so many say no once before they say yes
_CATCH_UP = 5  # in place of MAX_CATCH_UP, so that it is reached
_T = TypeVar("_T")

_ENDS = {
    ChangeKind.RUN_SUCCEEDED: Status.SUCCESS,
    ChangeKind.RUN_FAILED: Status.FAILED,
    ChangeKind.RUN_LOST: Status.LOST,
    ChangeKind.RUN_MISSED: Status.MISSED,
    ChangeKind.RUN_DROPPED: Status.DROPPED,
    ChangeKind.RUN_CANCELLED: Status.CANCELLED,
    ChangeKind.RUN_TIMED_OUT: Status.TIMED_OUT,
}
_STATUSES = {  # in which a run is when something is told of it
    **_ENDS,
    ChangeKind.RUN_RELEASED: Status.PENDING,
    ChangeKind.RUN_STARTED: Status.RUNNING,
    ChangeKind.RUN_OVERDUE: Status.RUNNING,
    ChangeKind.RUN_STUCK: Status.RUNNING,
    ChangeKind.ATTEMPT_FAILED: Status.RUNNING,
    ChangeKind.RUN_RETRYING: Status.RETRYING,
}


_OF_THE_SCHEDULER = {
    ChangeKind.CLOCK_JUMPED,
    ChangeKind.GATE_CLOSED,
    ChangeKind.GATE_OPENED,
    ChangeKind.EXECUTOR_BROKEN,
    ChangeKind.EXECUTOR_RENEWED,
}


def test_engine_keeps_its_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in whatever order, no promise of the engine is broken."""
    monkeypatch.setattr(engine_module, "MAX_CATCH_UP", _CATCH_UP)

    run_state_machine_as_test(
        EngineModel,
        settings=settings(
            max_examples=_EXAMPLES,
            stateful_step_count=_STEPS,
            derandomize=_EXAMPLES * _STEPS <= 300 * 50,
        ),
    )


# The triggers of the model: those of the package that count what is taken from them


class _Interval(PeriodicTrigger):
    """A PeriodicTrigger that counts its occurrences."""

    taken = 0

    def take(self, now: datetime) -> tuple[int, datetime]:
        passed, latest = super().take(now)
        self.taken += passed
        return passed, latest

    def take_one(self) -> datetime:
        self.taken += 1
        return super().take_one()


class _Once(OneTimeTrigger):
    """A OneTimeTrigger that counts its occurrences."""

    taken = 0

    def take_one(self) -> datetime:
        self.taken += 1
        return super().take_one()


class _Event(EventTrigger):
    """An EventTrigger that notes its signals, each with a payload of its own."""

    def __init__(self, channel: Queue[object] | None, *, maxsize: int, coalesce: bool) -> None:
        super().__init__(channel, maxsize=maxsize, coalesce=coalesce)
        self.queued: deque[object] = deque()  # still in the user's queue
        self.accepted: list[object] = []
        self.released: list[object] = []
        self.started: list[object] = []
        self.passed: set[object] = set()  # of runs that were skipped or cancelled before a start
        self.taken = 0

    def take_signal(self) -> Signal | None:
        signal = super().take_signal()
        self.taken += signal is not None
        return signal

    def count_merged(self) -> int:
        merged = super().count_merged()
        self.taken += merged
        return merged

    @property
    def waiting_signals(self) -> int:
        return len(self.accepted) - len(self.started) - len(self.passed)

    @property
    def in_channel(self) -> list[object]:
        return [event for event, _, _ in self._signals]


class _Polled(Trigger):
    """A trigger of the user's that is asked at every tick."""

    ready = False

    def is_ready(self) -> bool:
        return self.ready

    def reset(self) -> None:
        self.ready = False


class _Planned(Trigger):
    """A trigger of the user's that knows when it is due."""

    def __init__(self, model: EngineModel, period: timedelta) -> None:
        self._model = model
        self._period = period
        self._due = model.now + period

    def is_ready(self) -> bool:
        return self._due <= self._model.now

    def reset(self) -> None:
        self._due = self._model.now + self._period

    def next_fire_time(self) -> datetime | None:
        return self._due


class _CustomDelay(PeriodicTrigger):
    """A trigger of ours in mode "delay" with methods of the user's."""

    def __init__(self, model: EngineModel, seconds: float) -> None:
        super().__init__(seconds, mode="delay")
        self._model = model
        self._hesitates = seconds == _HESITANT

    def is_ready(self) -> bool:
        """Say no the first time when it is due, if it is one that hesitates."""
        hesitates = self._is_due() and self._hesitates
        self._hesitates = self._hesitates and not hesitates
        return self._is_due() and not hesitates

    def _is_due(self) -> bool:
        return self._due is not None and self._due <= self._model.now

    def reset(self) -> None:
        if self._is_due():
            self.take(self._model.now)
        elif not self._armed:
            self.arm(self._model.now)


class _CustomOnce(OneTimeTrigger):
    """A one-time trigger with methods of the user's."""

    def __init__(self, model: EngineModel, seconds: float) -> None:
        super().__init__(seconds)
        self._model = model
        self._hesitates = seconds == _HESITANT

    def is_ready(self) -> bool:
        """Say no the first time when it is due, if it is one that hesitates."""
        hesitates = self._is_due() and self._hesitates
        self._hesitates = self._hesitates and not hesitates
        return self._is_due() and not hesitates

    def _is_due(self) -> bool:
        return self._due is not None and self._due <= self._model.now

    def reset(self) -> None:
        if self._is_due():
            self.take(self._model.now)
        elif not self._armed:
            self.arm(self._model.now)


class _Bell:
    """What an _Event rings: the engine."""

    def __init__(self, model: EngineModel, arm: Arm) -> None:
        self._model = model
        self._arm = arm

    def signalled(self, trigger: EventTrigger) -> None:
        self._model.engine.ring(self._arm)

    def signal(self, event: object) -> Signal:
        return event, self._model.now, None


@dataclass(frozen=True)
class _Moment:
    """When something was, by two clocks that are never set back.

    Attributes:
        real: What has really passed.
        shown: That and what the engine's clock was set forward by: no less than it can tell.
    """

    real: timedelta
    shown: timedelta


@dataclass
class _Attempt:
    """What the model notes of an attempt."""

    began: _Moment
    ended: _Moment | None = None
    retry_after: timedelta | None = None
    asked: _Moment | None = None  # to give up
    is_stuck: bool = False


@dataclass
class _Life:
    """What the model notes of a run from what it is told."""

    task_id: int
    attempts: list[_Attempt] = field(default_factory=list)
    end: Status | None = None


# What the steps are made of

_seconds = st.sampled_from([5, 30, 300])
_triggers = st.one_of(
    st.tuples(st.sampled_from(["rate", "delay", "once"]), _seconds),
    st.tuples(st.sampled_from(["planned", "custom delay", "custom once"]), _seconds),
    st.tuples(st.sampled_from(["event", "coalesce", "queue"]), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("polled"), st.just(0)),
)
_which = st.integers(0, 99)
_priorities = st.integers(-2, 2)
_OUTCOMES: dict[str, dict[str, Any]] = {
    "succeeds": {},
    "fails": {"error": "no"},
    "again at once": {"error": "no", "retry_after": 0},
    "again soon": {"error": "no", "retry_after": 2.5},
    "again": {"error": "no", "retry_after": 40},
    # With an executor only:
    "lost": {"error": "no", "is_lost": True},
    "lost, again": {"error": "no", "is_lost": True, "retry_after": 2.5},
    "broken": {"error": "no", "is_lost": True, "obstacle": "it died"},
    "refused": {"error": "no", "is_refused": True, "obstacle": "it is gone", "retry_after": 2.5},
}
# One move of a slot or a caller: None begins something, the others end the oldest or the newest.
_Move = tuple[int, str] | None
_ENDINGS = ("succeeds", *_OUTCOMES, "refused")
_MOVES: list[_Move] = [*[None] * 10, *((which, how) for which in (0, -1) for how in _ENDINGS)]
_moves = st.lists(st.sampled_from(_MOVES), min_size=1, max_size=6)
_MOST_TASKS = 6
_CALLS = ("is_ready", "reset", "next_fire_time")  # of triggers of the user's
_CHANGES: tuple[str | int, ...] = (
    *("enable", "enable", "enable", "disable", "disable", "quarantine"),
    *("remove", "remove", "cancel"),
    *(-2, 0, 2),  # other priorities
    *_CALLS,  # in which a trigger of the task's raises when it is next called
)
_changes = st.sampled_from([(which, what) for which in range(_MOST_TASKS) for what in _CHANGES])
_passing = st.sampled_from([0, 0, 2.5, 4.5, 5, 15, 60, 1000])  # seconds
_steps = st.sampled_from([0, 0, -2, -4000, 3, 4000])  # seconds that the clock is set forward
_TROUBLE = "none can be made"
_mends = st.sampled_from(["", "", _TROUBLE, "resumed"])
_LANE, _RESOURCE, _CAPACITY = "quick", "db", 2
_PATIENT = 1e9  # seconds; how long a run is put off is held against a list of all elsewhere
_DEFERRED = 50  # seconds; where there are gates and no resources
_STUCK_AFTER = timedelta(seconds=5)
_ENOUGH = 1000  # rounds; far more than it takes to do all there is to do


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a task of the model is made from."""

    triggers: list[tuple[str, int]]
    missed: str
    max_instances: int
    priority: int
    misfire_grace: int | None
    timeout: int | None
    enabled: bool
    overlap: str
    lane: str | None
    needs: int  # of the one resource there is
    early: int  # signals fired before it is added


_plans = st.builds(
    _Plan,
    triggers=st.one_of(*[st.lists(_triggers, min_size=1, max_size=2)] * 4, st.just([])),
    missed=st.sampled_from(["once", "all", "skip"]),
    max_instances=st.integers(1, 3),
    priority=_priorities,
    misfire_grace=st.sampled_from([None, 0, 20]),
    timeout=st.sampled_from([None, 15]),
    enabled=st.sampled_from([True, True, True, False]),
    overlap=st.sampled_from(["queue", "queue", "queue", "skip"]),
    lane=st.sampled_from([None, None, _LANE]),
    needs=st.sampled_from([0, 0, 1, 2]),
    early=st.integers(0, 2),
)


class EngineModel(RuleBasedStateMachine):
    """The scheduler's part, played by Hypothesis, and the engine's books, kept twice."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(max_running_tasks=1, aging=5.0, on_time=_ON_TIME)
        self.now = _START
        self.elapsed = timedelta(0)  # what has really passed, whatever the clock was set to
        self.aging = 5.0
        self.slots = 1
        self.limits: Rules | None = None
        self.replacements = 0
        self.has_executor = False
        self.obstacle = ""  # why the executor takes no call
        self.gate_is_closed = False
        self.closed_at = timedelta(0)  # by the clock that is shown
        self.shown = timedelta(0)  # what has passed and what the clock was set forward by
        self.set_by = 0.0  # seconds that the clock was set forward by since the last tick
        self.was_set_back = False  # since the last tick
        self.noticed = timedelta(0)  # when a tick last saw that it was
        self.was_started = False
        self.tasks: list[Task] = []  # all that were ever added
        self.idle_slots = 0
        self.in_slots: list[Run] = []
        self.inline: list[Run] = []
        self.inline_waiting: list[Run] = []  # between two attempts
        self.claimed: list[Arm] = []  # to be asked whether they are ready
        self.to_rearm: list[tuple[Arm, bool]] = []  # whether to be reset first
        self.spoilt: set[tuple[int, str]] = set()  # triggers that raise once, by ID, and where
        self.stuck: list[Run] = []  # whose stacks are being read
        self.refused: set[Run] = set()
        self.lives: dict[int, _Life] = {}
        self.ended: list[tuple[Execution, tuple[object, ...]]] = []  # as they were at their end
        self.asked_for: set[object] = set()  # payloads of requests and inline runs
        self.signals: dict[object, _Event] = {}  # payload -> its trigger
        self.answers = 0  # runs released because a trigger of the user's was ready
        self.stood_for = 0  # times that one was ready while its run waited
        self.skipped = 0  # occurrences that it was told of as skipped
        self.stamps: dict[Run, float] = {}  # of the runs that are ready
        self.latest_stamp = -math.inf
        self.counts: Counter[ChangeKind] = Counter()
        self.retries = 0
        self.payloads = count(1)

    @initialize(
        slots=st.integers(1, 3),
        aging=st.sampled_from([0.0, 5.0, math.inf]),
        kind=st.sampled_from(["", "resources", "gates"]),
        ungated=st.sampled_from([None, 1]),
        replacements=st.sampled_from([0, 1, 1]),
        has_executor=st.booleans(),
        plans=st.lists(_plans, min_size=2, max_size=5),
    )
    def begin(
        self,
        slots: int,
        aging: float,
        kind: str,
        ungated: int | None,
        replacements: int,
        has_executor: bool,
        plans: list[_Plan],
    ) -> None:
        """Make the engine and some tasks; with one slot more for the lane, if there is one."""
        self.slots, self.aging = slots + bool(kind), aging
        self.replacements, self.has_executor = replacements, has_executor
        if kind:
            has_gates = kind == "gates"
            self.limits = Rules(
                lanes={_LANE: 1},
                capacity={} if has_gates else {_RESOURCE: _CAPACITY},
                has_gates=has_gates,
                ungated_priority=ungated,
                max_defer=_DEFERRED if has_gates else _PATIENT,
            )
        self.engine = Engine(
            max_running_tasks=self.slots,
            aging=aging,
            on_time=_ON_TIME,
            rules=self.limits,
            stuck_after=_STUCK_AFTER,
            replacements=replacements,
        )
        for plan in plans:
            self.add(plan)

    # The registry

    @precondition(lambda self: len(self.engine.tasks) < _MOST_TASKS)
    @rule(plan=_plans)
    def add(self, plan: _Plan) -> None:
        """Make a task and add it, as add_task does."""
        triggers = [self._trigger(kind, number) for kind, number in plan.triggers]
        for trigger in triggers * plan.early:
            self._signal(trigger)
        task = Task(
            f"task {len(self.tasks)}",
            int,
            triggers=triggers,
            missed=plan.missed,
            max_instances=plan.max_instances,
            priority=plan.priority,
            misfire_grace=plan.misfire_grace,
            timeout=plan.timeout,
            enabled=plan.enabled,
            overlap=plan.overlap,
            lane=plan.lane if self.limits else None,
            resources={_RESOURCE: plan.needs} if plan.needs and self._has_resources() else {},
            history=_EVERYTHING,
        )
        self.engine.add(task, self.now)
        self.tasks.append(task)
        for arm in task._arms:
            if arm._arm_signals is not None:
                arm._arm_signals.bind(_Bell(self, arm))
        self._claim_to_reset(self.engine.custom_arms([task]))
        assert task.id == len(self.tasks) - 1
        self._hear()

    def _has_resources(self) -> bool:
        return self.limits is not None and bool(self.limits.capacity)

    def _trigger(self, kind: str, number: int) -> Trigger:
        if kind in ("rate", "delay"):
            return _Interval(number, mode=kind)
        if kind == "once":
            return _Once(number)
        if kind == "planned":
            return _Planned(self, timedelta(seconds=number))
        if kind == "custom delay":
            return _CustomDelay(self, number)
        if kind == "custom once":
            return _CustomOnce(self, number)
        if kind == "polled":
            return _Polled()
        channel: Queue[object] | None = Queue() if kind == "queue" else None
        return _Event(channel, maxsize=number, coalesce=kind == "coalesce")

    @rule(changes=st.lists(_changes, min_size=1, max_size=4))
    def change(self, changes: list[tuple[int, str | int]]) -> None:
        """Change tasks, maybe some that are gone."""
        for which, what in changes:
            self._change(_pick(self.tasks[-_MOST_TASKS:], which), what)
            self._claim_slots()
            self._hear(may_remove=what in ("remove", "cancel"))

    def _change(self, task: Task, what: str | int) -> None:
        before = task.quarantine
        if what == "quarantine":
            self.engine.quarantine(task, "a trigger raised", self.now)
            assert task.quarantine == (before if task._is_removed else "a trigger raised")
        elif task._is_removed:
            return
        elif isinstance(what, int):
            self.engine.set_priority(task, what)
            assert task.priority == what
        elif what == "remove":
            self.engine.remove(task.id, self.now)
        elif what == "cancel":
            self._cancel(task)
        elif what in _CALLS:
            self.spoilt |= {(id(trigger_of(arm)), what) for arm in task._arms if arm._arm_is_custom}
        else:
            self.engine.set_enabled(task, what == "enable", self.now)
            assert task.quarantine == (None if task.enabled else before)

    def _cancel(self, task: Task) -> None:
        waiting = task._waiting
        running = [run for run in self.in_slots + self.inline if run.task is task]
        asked = [run for run in running if not run.execution.cancelled]
        assert self.engine.cancel(task, self.now) == waiting + len(asked)
        assert task._waiting == 0
        assert all(run.execution.cancelled for run in running)
        self._were_asked(asked)

    def _were_asked(self, runs: list[Run]) -> None:
        """Note that these were asked to give up."""
        for run in runs:
            self._attempt(run).asked = self._moment()

    @precondition(lambda self: self.engine.is_paused or not self.was_started)
    @rule(is_start=st.booleans())
    def start_or_resume(self, is_start: bool) -> None:
        """Go on after a stop, or start for the first time."""
        self.was_started = True
        self.engine.is_paused = False
        if is_start:
            self.engine.arm_all(self.now)
            self._claim_to_reset(self.engine.custom_arms(self.engine.tasks.values()))
        self._claim_slots()
        self._hear()

    @precondition(lambda self: self.was_started and not self.engine.is_paused)
    @rule(how=st.sampled_from(["", "", "asks", "forks"]))
    def stop(self, how: str) -> None:
        """End dispatch; maybe ask all that runs to give up, or be the child of a fork."""
        self.engine.is_paused = True
        if how == "forks":
            self._fork()
        if how == "asks":
            asked = [run for run in self.in_slots + self.inline if not run.execution.cancelled]
            self.engine.ask_all_to_end(self.now)
            assert all(run.execution.cancel_reason == WAS_STOPPED for run in asked)
            self._were_asked(asked)

    def _fork(self) -> None:
        """Become a process with no slots, callers or askers any more."""
        left = [run for run in self.inline_waiting if not run.execution.status.has_ended]
        lost = [*self.in_slots, *self.inline, *left]
        assert forked(self.engine, self.now) == len(lost)
        assert not self.engine.changes
        self.idle_slots = 0
        self.in_slots, self.inline, self.inline_waiting = [], [], []
        self.claimed, self.to_rearm, self.stuck = [], [], []
        for run in lost:
            assert run.execution.status == Status.DROPPED
            self.counts[ChangeKind.RUN_DROPPED] += 1
            self.lives[run.execution.id].end = Status.DROPPED
            self._keep(run.task, run.execution.id)
        self._claim_slots()

    # What asks for runs

    @rule(
        which=_which,
        times=st.integers(1, 3),
        is_request=st.sampled_from([True, False, False]),
        is_attended=st.booleans(),
    )
    def ask_for_runs(self, which: int, times: int, is_request: bool, is_attended: bool) -> None:
        """Request runs; or fire, put into the user's queue, make a trigger of the user's ready."""
        for _ in range(times):
            if is_request and self.engine.tasks:
                self._request(self._registered(which))
            elif self._signallers():
                self._signal(_pick(self._signallers(), which))
        if is_attended:  # by the thread that fires
            self.engine.release_signals(self.now, 64)
            self._hear(releases=True)
        self._claim_slots()

    def _request(self, task: Task) -> None:
        payload = next(self.payloads)
        self.asked_for.add(payload)
        self.engine.request(task, payload, self.now)
        self._hear()

    def _signal(self, trigger: Trigger) -> None:
        if isinstance(trigger, _Polled):
            trigger.ready = True
        elif isinstance(trigger, _Event) and isinstance(trigger.trigger, Queue):
            trigger.queued.append(next(self.payloads))
            trigger.trigger.put(trigger.queued[-1])
        elif isinstance(trigger, _Event):
            payload = next(self.payloads)
            waiting = trigger.waiting_signals
            is_full = trigger.maxsize and not trigger.coalesce and waiting >= trigger.maxsize
            assert trigger.fire(payload) == (not trigger._closed and not is_full)
            if not trigger._closed and not is_full:
                self._accept(trigger, payload)

    def _accept(self, trigger: _Event, payload: object) -> None:
        trigger.accepted.append(payload)
        self.signals[payload] = trigger

    # Time

    @rule(
        seconds=_passing,
        moves=_moves,
        is_quick=st.booleans(),
        mends=_mends,
        closes=st.sampled_from([None, None, None, True, True, False]),
        looks=st.sampled_from([0, 0, 1, _EVERYTHING]),
    )
    def go_on(
        self,
        seconds: float,
        moves: list[_Move],
        is_quick: bool,
        mends: str,
        closes: bool | None,
        looks: int,
    ) -> None:
        """Let time pass, tick, ask what is to be asked and work: an ordinary second.

        Quick work is done before the triggers that were ready are reset and stacks are read.
        """
        self._pass_time(seconds)
        if self.obstacle:
            self._mend(mends)
        self._tick(64)
        if closes is not None and self.limits is not None and self.limits.has_gates:
            self._read_gate(closes)
        while self.claimed:
            self._ask(self.claimed.pop())
        if is_quick:
            self.work(moves)
        while self.stuck:
            self._tell_stuck(self.stuck.pop())
        self._ask_all()
        self.work(moves)
        if looks:
            self._look(looks)

    @rule(seconds=_passing, step=_steps, most=st.sampled_from([64, 64, 1, 0]))
    def pass_time(self, seconds: float, step: float, most: int) -> None:
        """Let time pass, maybe set the clock then, and tick, or do not."""
        self._pass_time(seconds)
        if step:
            self._tick(64)
            self._set_clock(step)
        if most:
            self._tick(most)

    def _pass_time(self, seconds: float) -> None:
        """Let time pass; there is a tick every second, so a clock set back is seen before that."""
        if self.was_set_back:
            self._tick(64)
        passed = timedelta(seconds=seconds)
        self.now += passed
        self.elapsed += passed
        self.shown += passed

    def _set_clock(self, step: float) -> None:
        self.now += timedelta(seconds=step)
        self.set_by += step
        if step < 0:
            self.was_set_back = True
        else:
            self.shown += timedelta(seconds=step)

    def _moment(self) -> _Moment:
        return _Moment(self.elapsed, self.shown)

    def _at_least_since(self, moment: _Moment) -> timedelta:
        """Return what has passed since then for all that what is late was not late for long."""
        return self.elapsed - max(moment.real, self.noticed)

    def _at_most_since(self, moment: _Moment) -> timedelta:
        """Return what the engine may believe to have passed since then."""
        return self.shown - moment.shown

    def _tick(self, most: int) -> None:
        """Do what the scheduler does at each tick, in one hold of its lock."""
        notices = self.was_set_back
        planned = [arm for arm in self._arms() if arm._arm_is_custom]
        if notices:
            self.was_set_back, self.noticed = False, self.elapsed
        self._compare_clocks()
        delayed, before = len(self._delayed()), self.counts[ChangeKind.RUN_RELEASED]
        released = self.engine.release(self.now, most)
        if notices:
            assert not any(arm._arm_entry for arm in planned)  # when may be far off now
        if self.engine._admission is not None:
            assert self.engine._admission._now == _stamp_of(self.shown)
        self._hear(releases=True)
        self._take_stuck()
        retries = delayed - len(self._delayed())
        assert released == self.counts[ChangeKind.RUN_RELEASED] - before + retries
        self._claim_to_ask(self.engine.to_ask(poll=most > 1))
        self._claim_slots()
        if not self.engine.has_due(self.now) and not self.engine.is_paused:
            self._nothing_is_left_undone()

    def _compare_clocks(self) -> None:
        """Have the clock held against one that nobody sets, and check what is told of it."""
        seen = self.engine._compared is not None
        self.engine.compare_clocks(self.now, self.elapsed.total_seconds())
        told = [each.reason for each in self.engine.changes]
        way = "forward" if self.set_by > 0 else "back"
        expected = f"the wall clock was set {way} by {abs(self.set_by):.1f} seconds"
        assert told == ([expected] if seen and self.set_by else [])
        self.set_by = 0.0

    def _take_stuck(self) -> None:
        """Take the runs that got stuck, as the scheduler does, to read their stacks."""
        stuck, self.engine.newly_stuck = self.engine.newly_stuck, []
        for run in stuck:
            attempt = self._attempt(run)
            assert run in self.in_slots + self.inline
            assert run.is_stuck
            assert not attempt.is_stuck
            assert attempt.asked is not None
            assert self._at_most_since(attempt.asked) >= _STUCK_AFTER
            attempt.is_stuck = True
        self.stuck += stuck

    def _nothing_is_left_undone(self) -> None:
        """Check that all that was due is done, and that nothing waits for longer than it may."""
        for run in self.in_slots + self.inline:
            timeout, attempt = run.task.timeout, self._attempt(run)
            if attempt.asked is not None:
                assert attempt.is_stuck or self._at_least_since(attempt.asked) < _STUCK_AFTER
            else:
                assert timeout is None or self._at_least_since(attempt.began) < timeout
        for run in self._delayed():
            attempt = self._attempt(run)
            assert attempt.ended is not None
            assert attempt.retry_after is not None
            assert self._at_least_since(attempt.ended) < attempt.retry_after
        for arm in self._arms():
            trigger = trigger_of(arm)
            if isinstance(trigger, _Interval) and trigger.due is not None:
                assert trigger.interval is not None
                assert self.now < trigger.due <= self.now + trigger.interval
            if isinstance(trigger, EventTrigger) and arm._arm_task.enabled:
                assert not trigger.waiting

    # Triggers of the user's, asked with no lock held

    @precondition(lambda self: self.claimed or self.to_rearm)
    @rule(moves=_moves)
    def ask(self, moves: list[_Move]) -> None:
        """Ask triggers whether they are ready, and give those back that were asked."""
        for move in moves:
            which = 0 if move is None else move[0]
            if self.claimed and (move is None or not self.to_rearm):
                self._ask(self.claimed.pop(which))
            elif self.to_rearm:
                self._rearm(*self.to_rearm.pop(which))

    def _ask_all(self) -> None:
        while self.claimed:
            self._ask(self.claimed.pop())
        while self.to_rearm:
            self._rearm(*self.to_rearm.pop())

    def _call(self, arm: Arm, call: str) -> Any:
        """Call a trigger of the user's; what it raises brings its task into quarantine."""
        trigger = trigger_of(arm)
        if (id(trigger), call) not in self.spoilt:
            return (
                self._collect(trigger) if isinstance(trigger, _Event) else getattr(trigger, call)()
            )
        self.spoilt.remove((id(trigger), call))
        task, before = arm._arm_task, self._told(ChangeKind.TASK_QUARANTINED)
        if task is not None:
            self.engine.quarantine(task, f"{call} raised", self.now)
            assert (task.enabled, task.quarantine) == (False, f"{call} raised")
        self._hear()
        assert self._told(ChangeKind.TASK_QUARANTINED) == before + (task is not None)
        return None

    def _ask(self, arm: Arm) -> None:
        ready = bool(self._call(arm, "is_ready"))
        if ready:
            self._answer(arm)
        self._hear(answers=arm._arm_is_custom)
        self._claim_slots()
        self.to_rearm.append((arm, ready))

    def _answer(self, arm: Arm) -> None:
        """Say that a trigger is ready; of a timer one run may stand for all."""
        task, waits, before = arm._arm_task, arm._arm_run, self.engine.stats().skipped
        stands = arm._arm_timed is not None and waits is not None and task.missed != "all"
        missed = waits.execution.missed if waits is not None else 0
        released = self._told(ChangeKind.RUN_RELEASED)
        answered = self.engine.answered(arm, self.now)
        assert answered == self._told(ChangeKind.RUN_RELEASED) - released
        self.stood_for += stands
        assert self.engine.stats().skipped == before + stands
        assert waits is None or waits.execution.missed == missed + stands

    def _collect(self, trigger: _Event) -> bool:
        """Have *trigger* look into the user's queue, and note what it took."""
        found = trigger.collect(self.now)
        assert isinstance(trigger.trigger, Queue)
        while len(trigger.queued) > trigger.trigger.qsize():
            self._accept(trigger, trigger.queued.popleft())
        return found

    def _rearm(self, arm: Arm, reset: bool) -> None:
        task, due = arm._arm_task, None
        if arm._arm_is_custom:
            if reset:
                self._call(arm, "reset")
            due = self._call(arm, "next_fire_time")
        is_done = task is not None and not (task._running or task._waiting) and _is_one_time(task)
        self.engine.rearmed(arm, None if due is None or due <= self.now else due, self.now)
        assert task is None or task._is_removed == is_done
        assert arm._arm_entry is None or arm._arm_entry[0] > self.now
        self._hear(may_remove=is_done)

    def _claim_to_ask(self, arms: list[Arm]) -> None:
        self._check_claim(arms)
        assert all(arm._arm_task.enabled for arm in arms)
        self.claimed += arms

    def _claim_to_reset(self, arms: list[Arm]) -> None:
        self._check_claim(arms)
        self.to_rearm += [(arm, True) for arm in arms]

    def _check_claim(self, arms: list[Arm]) -> None:
        """Check that no arm is given to two threads, nor twice to one."""
        assert not set(arms) & self._in_hand()
        assert len(set(arms)) == len(arms)

    # Slots

    @precondition(lambda self: self.idle_slots or self.in_slots)
    @rule(moves=_moves)
    def work(self, moves: list[_Move]) -> None:
        """Have slots take what is ready and end what they run."""
        for move in moves:
            if self.in_slots and (move is not None or not self.idle_slots):
                which, outcome = move or (0, "succeeds")
                self._finish(self.in_slots.pop(which), outcome)
                self.idle_slots += 1
            elif self.idle_slots:
                self._take()
                self._claim_slots()

    def _take(self) -> None:
        ready = {run: self._key(run) for run in self._startable(_stamp_of(self.shown))}
        too_many = self.engine.slots > self._most()
        run = self.engine.take(self.now)
        self.idle_slots -= 1
        if run is None:
            assert self.engine.is_paused or self.obstacle or too_many or not ready
            self.engine.slots -= 1
        else:
            assert not self.engine.is_paused
            assert not self.obstacle
            assert not too_many
            assert not run.task._is_removed
            assert run.task.enabled
            assert ready[run] == min(ready.values())
            self.in_slots.append(run)
            self._begun(run)
        self._hear()

    def _most(self) -> int:
        """Return how many slots there may be: stuck runs are replaced."""
        stuck = sum(run.is_stuck for run in self.in_slots)
        return self.slots + min(stuck, self.replacements)

    def _startable(self, stamp: float) -> list[Run]:
        """Return the runs at the head of their tasks that may start as things stand.

        Lanes and resources let them, and gates; where a gate holds the best of those that need the
        same, and others have waited for so long that it does not hold them, the eldest alone.
        """
        found: list[Run] = []
        for runs in self._kinds([task._head for task in self.tasks if task._head]):
            free = [run for run in runs if not self._is_held(run, stamp)]
            if free and min(runs, key=self._place) not in free:
                free = [min(free, key=lambda run: (run.stamp, self._place(run)[1]))]
            found += [run for run in free if self._fits(run.task)]
        return found

    def _kinds(self, runs: list[Run]) -> list[list[Run]]:
        """Return *runs* in lists of those that need the same and pass the same gates."""
        kinds: dict[object, list[Run]] = {}
        for run in runs:
            kinds.setdefault((run.task._demand, self._is_gated(run)), []).append(run)
        return list(kinds.values())

    def _is_gated(self, run: Run) -> bool:
        if self.limits is None or not self.limits.has_gates:
            return False
        passes = self.limits.ungated_priority
        return passes is None or run.task.priority < passes

    def _is_held(self, run: Run, stamp: float) -> bool:
        """Return whether the gate holds a run at this stamp: one may always run."""
        if not (self._is_gated(run) and self.gate_is_closed and self.in_slots):
            return False
        return stamp - max(run.stamp, _stamp_of(self.closed_at)) < _DEFERRED

    def _place(self, run: Run) -> tuple[Any, int]:
        """Return what a run that is ready is ordered by, and its number among equals."""
        assert run.entry is not None
        return self._key(run), run.entry[1]

    def _room(self, stamp: float) -> int:
        """Return how many of the runs that may start now may start together, kind by kind."""
        used = sum(run.task.resources.get(_RESOURCE, 0) for run in self.in_slots)
        room = 0
        for runs in self._kinds(self._startable(stamp)):
            needs = runs[0].task.resources.get(_RESOURCE, 0)
            if self._is_gated(runs[0]) and self.gate_is_closed:
                room += 1  # the others are looked at when this one runs
            else:
                room += min(len(runs), int((_CAPACITY - used) // needs)) if needs else len(runs)
        return room

    def _fits(self, task: Task) -> bool:
        if self.limits is None:
            return True
        running = [run.task for run in self.in_slots]
        used = sum(each.resources.get(_RESOURCE, 0) for each in running)
        in_lane = sum(each.lane is not None for each in running)
        common = len(running) - min(in_lane, 1)
        has_slot = common < self._most() - 1 or (task.lane is not None and not in_lane)
        return has_slot and used + task.resources.get(_RESOURCE, 0) <= _CAPACITY

    def _key(self, run: Run) -> Any:
        """Return what a run that is ready is ordered by."""
        priority = run.task.priority
        if self.aging == math.inf:
            return -priority, run.stamp
        return run.stamp - self.aging * priority

    def _claim_slots(self) -> None:
        room = sum(task._head is not None for task in self.tasks)
        if self.engine._admission is not None:
            room = self._room(self.engine._admission._now)
        before = self.engine.slots
        claimed = self.engine.claim_slots()
        useful = len(self.in_slots) + room
        wanted = 0 if self.engine.is_paused or self.obstacle else min(self._most(), useful)
        assert claimed == max(0, wanted - before)
        self.idle_slots += claimed

    def _begun(self, run: Run) -> None:
        """Note that an attempt begins, and check that it may."""
        attempts = self.lives[run.execution.id].attempts
        if attempts:
            assert attempts[-1].ended is not None
            assert attempts[-1].retry_after is not None
            assert self._at_most_since(attempts[-1].ended) >= attempts[-1].retry_after
            self.retries += 1
        elif (signalled := self._signalled(run.execution)) is not None:
            signalled.started.append(run.execution.event)
        attempts.append(_Attempt(self._moment()))
        assert run.execution.attempts == len(attempts)
        assert run.execution.status == Status.RUNNING
        assert not run.execution.cancelled

    def _finish(self, run: Run, how: str) -> None:
        """End an attempt, and check what becomes of the run and of its task."""
        end = _OUTCOMES[how if self.has_executor or "is_" not in str(_OUTCOMES[how]) else "fails"]
        is_asked = run.execution.cancel_reason in ("cancelled", "stopped")
        if "is_refused" in end and not run.is_inline and not is_asked:
            self._refuse(run, end)
            return
        task, attempt = run.task, self._attempt(run)
        expected = self._expected(run, end)
        if expected is Status.RETRYING:
            attempt.retry_after = timedelta(seconds=end["retry_after"])
        attempt.ended = self._moment()
        goes = (
            not task._is_removed
            and expected != Status.RETRYING
            and task._running + task._waiting == 1
            and _is_one_time(task)
        )
        was_removed = task._is_removed
        self._end(run, end)
        assert run.execution.status == expected
        assert task._is_removed == (was_removed or goes)
        self._hear(may_remove=goes)

    def _expected(self, run: Run, end: dict[str, Any]) -> Status:
        """Return what a run is after an attempt that ends like this."""
        reason = run.execution.cancel_reason
        wants_more = "retry_after" in end and not run.task._is_removed
        if wants_more and reason in ("", "timed out"):
            return Status.RETRYING
        if "is_lost" in end:
            return Status.LOST
        if reason:
            return Status.TIMED_OUT if reason == "timed out" else Status.CANCELLED
        return Status.FAILED if end else Status.SUCCESS

    def _end(self, run: Run, end: dict[str, Any]) -> None:
        """Have the engine end an attempt, and check what it says of the executor."""
        broken = self._told(ChangeKind.EXECUTOR_BROKEN) + ("obstacle" in end and not self.obstacle)
        self.engine.finish(run, Outcome(self.now, (1.0, 0.0, 0.0), **end))
        self.obstacle = end.get("obstacle", self.obstacle)
        assert self.engine.obstacle == self.obstacle
        assert run.execution.resources.wall == run.execution.attempts
        assert self._told(ChangeKind.EXECUTOR_BROKEN) == broken

    def _refuse(self, run: Run, end: dict[str, Any]) -> None:
        """End an attempt that was none, and check that the run is as before, the first to start."""
        task, attempts = run.task, self.lives[run.execution.id].attempts
        attempts.pop()
        self.retries -= bool(attempts)
        self.refused.add(run)
        self._end(run, end)
        assert run.execution.attempts == len(attempts)
        assert not run.execution.cancelled
        if task._is_removed:
            assert run.execution.status == Status.DROPPED
        else:
            assert run.execution.status == (Status.RETRYING if attempts else Status.PENDING)
            assert (run.execution.started_at is None) == (not attempts)
            assert run is (task._head or (task._pending or [None])[0])
        self._hear()

    # The executor and the gate

    def _mend(self, how: str) -> None:
        """Have another executor made; or see whether the old one takes calls, as `resume` does."""
        if how == "resumed":
            self.engine.let_go()
        else:
            self.engine.renewed(how, self.now)
            kind = ChangeKind.EXECUTOR_BROKEN if how else ChangeKind.EXECUTOR_RENEWED
            assert [(each.kind, each.reason) for each in self.engine.changes] == [(kind, how)]
        self.obstacle = self.obstacle if how == _TROUBLE else ""
        assert self.engine.obstacle == self.obstacle
        self._hear()
        self._claim_slots()

    def _read_gate(self, closes: bool) -> None:
        """Have the engine told what the gate reads, between two ticks."""
        news = {(False, True): "closed", (True, False): "opened"}.get((self.gate_is_closed, closes))
        reading = GateReading(
            name="disk",
            at=self.now,
            value=9.0,
            close=8,
            reopen=7,
            is_closed=closes,
            news=news or "",
        )
        if news == "closed":
            self.closed_at = self.shown
        self.gate_is_closed = closes
        self.engine.set_gates([reading] if news else [], [reading] if closes else [], self.now)
        told = [(each.kind.value, each.reason) for each in self.engine.changes]
        assert told == ([(f"gate.{news}", "disk 9 (closes at 8, opens at 7)")] if news else [])
        self._hear()
        self._tick(64)

    # What is looked at and told

    def _look(self, n: int) -> None:
        """Look at what waits for its turn: in which order it would start, and why not yet."""
        heads = sorted((task._head for task in self.tasks if task._head), key=self._place)
        free = self._startable(_stamp_of(self.shown))
        found = self.engine.waiting(n, self.now)
        behind = sum(len(task._pending or ()) for task in self.tasks)
        assert [each.run for each in found][: len(heads)] == heads[:n]
        assert len(found) == min(n, len(heads) + behind)
        for each in found:
            if each.run not in heads:
                assert each.run in (each.run.task._pending or ())
                assert each.reason
            elif self.obstacle:
                assert each.reason == self.obstacle
            elif self.limits is None:
                assert (each.reason == "") == (len(self.in_slots) < self._most())
            elif each.run in free:
                assert each.reason == ""
            elif self._is_held(each.run, _stamp_of(self.shown)) and self._fits(each.run.task):
                assert each.reason.startswith("closed gate: disk 9 ")

    def _tell_stuck(self, run: Run) -> None:
        """Tell that a run is stuck, unless it has given up meanwhile."""
        self.engine.note_stuck(run, "its stack", self.now)
        told = [(each.kind, each.execution and each.execution.id) for each in self.engine.changes]
        assert told == ([(ChangeKind.RUN_STUCK, run.execution.id)] if run.is_stuck else [])
        self._hear()

    # Inline runs

    @rule(which=_which, moves=_moves)
    def run_inline(self, which: int, moves: list[_Move]) -> None:
        """Start runs in their caller, end them, or start their next attempts."""
        for move in moves:
            if self.inline and move is not None:
                self._finish_inline(self.inline.pop(move[0]), move[1])
            elif self.inline_waiting:
                self._retry_inline(self.inline_waiting.pop(0 if move is None else move[0]))
            elif self.engine.tasks and len(self.inline) < 2:
                self._run_inline(self._registered(which))

    def _run_inline(self, task: Task) -> None:
        payload = next(self.payloads)
        self.asked_for.add(payload)
        run = self.engine.take_inline(task, payload, self.now)
        self._hear()
        self._begun(run)
        self.inline.append(run)

    def _finish_inline(self, run: Run, outcome: str) -> None:
        self._finish(run, outcome)
        if run.execution.status == Status.RETRYING:
            self.inline_waiting.append(run)
        self._claim_slots()

    def _retry_inline(self, run: Run) -> None:
        attempt = self._attempt(run)
        if not run.execution.status.has_ended:  # the caller waits for its delay
            assert attempt.ended is not None
            assert attempt.retry_after is not None
            left = attempt.ended.real + attempt.retry_after - self.elapsed
            self._pass_time(max(0.0, left.total_seconds()))
        goes_on = not run.execution.status.has_ended  # its task may be gone, or it was cancelled
        assert self.engine.retry_inline(run, self.now) == goes_on
        if goes_on:
            self.inline.append(run)
            self._begun(run)
        self._hear()

    # Mending

    @rule()
    def mend(self) -> None:
        """Make the books add up, which they do already: nothing changes."""
        for run in self.in_slots + self.inline:
            run.thread = 1
        before = self.engine.stats()

        assert mend(self.engine, self.now) == 0

        assert self.engine.stats() == before
        assert not self.engine.changes

    # What the engine told

    def _hear(
        self,
        *,
        releases: bool = False,
        answers: bool = False,
        may_remove: bool = False,
    ) -> None:
        """Take in the changes since the last step, and check that each could come now."""
        while self.engine.changes:
            change = self.engine.changes.popleft()
            self.counts[change.kind] += 1
            assert change.at == self.now
            assert (change.execution is not None) == (change.kind in _STATUSES)
            assert (change.task_id is None) == (change.kind in _OF_THE_SCHEDULER)
            self.skipped += change.skipped
            if change.execution is not None:
                assert change.execution.status == _STATUSES[change.kind]
                self._hear_of_run(change, change.execution, releases=releases, answers=answers)
                _scribble(change.execution)
            elif change.kind is ChangeKind.TASK_REMOVED:
                assert change.task_id is not None
                task = self.tasks[change.task_id]
                # A one-time task goes with its last run, which may be one that was missed.
                assert may_remove or (releases and _is_one_time(task))

    def _hear_of_run(
        self, change: Change, execution: Execution, *, releases: bool, answers: bool
    ) -> None:
        assert change.task_id is not None
        task = self.tasks[change.task_id]
        life = self.lives.get(execution.id)
        if life is None:
            assert execution.id == len(self.lives)
            life = self.lives[execution.id] = _Life(change.task_id)
            self._hear_of_release(change, execution, releases=releases, answers=answers)
        assert life.task_id == change.task_id
        assert life.end is None
        if change.kind is ChangeKind.RUN_OVERDUE:
            timeout = task.timeout
            assert timeout is not None
            assert self._at_most_since(life.attempts[-1].began) >= timeout
            life.attempts[-1].asked = self._moment()
        life.end = _ENDS.get(change.kind)
        if change.kind is ChangeKind.RUN_CANCELLED and not life.attempts:
            self._pass_over(execution)
        if life.end is not None:
            self._keep(task, execution.id)

    def _keep(self, task: Task, number: int) -> None:
        """Keep the record of a run that has just ended, to see that it never changes."""
        assert task._history is not None
        kept = next(each for each in reversed(task._history) if each.id == number)
        assert kept.status == self.lives[number].end
        assert kept.ended_at == self.now
        self.ended.append((kept, _values(kept)))

    def _pass_over(self, execution: Execution) -> None:
        """Note that a signal's run will not start, which makes room for another signal."""
        trigger = self._signalled(execution)
        if trigger is not None:
            trigger.passed.add(execution.event)

    def _signalled(self, execution: Execution) -> _Event | None:
        """Return the trigger whose signal made a run; None if it has started before."""
        trigger = self.signals.get(execution.event)
        return None if trigger is None or execution.event in trigger.started else trigger

    def _told(self, kind: ChangeKind) -> int:
        """Return how many changes of a kind there were, those not heard yet too."""
        return self.counts[kind] + sum(each.kind is kind for each in self.engine.changes)

    def _hear_of_release(
        self, change: Change, execution: Execution, *, releases: bool, answers: bool
    ) -> None:
        """Check the first that is heard of a run: that it was released, or missed."""
        assert change.task_id is not None
        task = self.tasks[change.task_id]
        if execution.event in self.asked_for:
            return
        assert not task._is_removed or change.kind is ChangeKind.RUN_MISSED
        if execution.event is not None:
            self.signals[execution.event].released.append(execution.event)
            if change.kind is ChangeKind.RUN_MISSED:
                assert "skipped" in change.reason
                self._pass_over(execution)
        elif answers:
            self.answers += 1
            return
        assert releases
        assert task.enabled
        assert not self.engine.is_paused
        if execution.event is None:
            self._check_lateness(task, change, execution)

    def _check_lateness(self, task: Task, change: Change, execution: Execution) -> None:
        assert execution.scheduled_at is not None
        late = self.now - execution.scheduled_at
        assert late >= timedelta(0)
        grace = task.misfire_grace
        is_missed = (grace is not None and late > grace) or "skipped" in change.reason
        assert change.kind is (ChangeKind.RUN_MISSED if is_missed else ChangeKind.RUN_RELEASED)
        if task.missed == "skip" and not is_missed:
            assert late <= (_ON_TIME if grace is None else grace)

    # What must hold after each step

    @invariant()
    def promises_are_kept(self) -> None:
        """Compare the engine's books with the model's."""
        self._bounds_are_kept()
        self._stamps_never_fall()
        self._ended_executions_never_change()
        self._counters_add_up()
        self._each_occurrence_is_run_or_counted()
        self._no_signal_is_lost_or_doubled()
        self._whatever_waits_is_in_one_place()
        self._live_runs_are_those_that_began()
        self._nothing_is_forgotten()
        self._what_comes_next_is_told()
        self._idle_is_idle()

    def _bounds_are_kept(self) -> None:
        """No more slots than allowed, no task more often at once than allowed."""
        most = self.slots + self.replacements
        assert self.engine.slots == self.idle_slots + len(self.in_slots) <= most
        running = Counter(run.task for run in self.in_slots)
        assert all(n <= task.max_instances for task, n in running.items())
        assert len(set(self.in_slots + self.inline)) == len(self.in_slots + self.inline)

    def _stamps_never_fall(self) -> None:
        """Who may start later has no earlier stamp, and keeps it while it waits."""
        heads = {task._head: task._head.stamp for task in self.tasks if task._head}
        for run, stamp in heads.items():
            assert stamp >= self.stamps.get(run, self.latest_stamp)
        self.stamps, self.latest_stamp = heads, max([self.latest_stamp, *heads.values()])

    def _ended_executions_never_change(self) -> None:
        """What has ended is in the history once, as it was at its end."""
        for execution, values in self.ended:
            assert _values(execution) == values
        history = [e.id for task in self.tasks for e in task.execution_hist]
        assert sorted(history) == sorted(execution.id for execution, _ in self.ended)

    def _counters_add_up(self) -> None:
        """The counters are what the model has counted, and their sum is right."""
        stats = self.engine.stats()
        running = len(self.in_slots) + len(self.inline)
        assert stats.released == len(self.lives)
        assert stats.succeeded == self.counts[ChangeKind.RUN_SUCCEEDED]
        assert stats.timed_out == self.counts[ChangeKind.RUN_TIMED_OUT]
        assert stats.lost == self.counts[ChangeKind.RUN_LOST]
        assert stats.failed == self.counts[ChangeKind.RUN_FAILED] + stats.timed_out + stats.lost
        assert stats.cancelled == self.counts[ChangeKind.RUN_CANCELLED]
        assert stats.stuck == sum(run.is_stuck for run in self.in_slots + self.inline)
        assert stats.missed == self.counts[ChangeKind.RUN_MISSED]
        assert stats.dropped == self.counts[ChangeKind.RUN_DROPPED]
        assert stats.running == self.engine.running == running
        assert stats.pending == len(self._unended()) - running
        assert stats.retries == self.retries
        assert stats.tasks == len(self.engine.tasks)
        ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
        assert stats.released == ended + stats.pending + stats.running

    def _each_occurrence_is_run_or_counted(self) -> None:
        """What timers and channels gave is in a run of its own or in ``skipped``, never both."""
        triggers = (trigger for task in self.tasks for trigger in task.triggers)
        taken = sum(t.taken for t in triggers if isinstance(t, (_Interval, _Once, _Event)))
        runs = len(self.lives) - self.answers - len(self.asked_for)
        assert self.engine.stats().skipped == taken - runs + self.stood_for == self.skipped

    def _no_signal_is_lost_or_doubled(self) -> None:
        """Each signal makes one run, in order; a removed task's signals go with it."""
        for task in self.tasks:
            for trigger in task.triggers:
                if not isinstance(trigger, _Event):
                    continue
                assert trigger._closed == task._is_removed
                if trigger.coalesce:
                    self._check_latest_signal(task, trigger)
                else:
                    to_start = [each for each in trigger.accepted if each not in trigger.passed]
                    assert trigger.started == to_start[: len(trigger.started)]
                    seen = trigger.released + trigger.in_channel
                    assert seen == trigger.accepted[: len(seen)]
                    assert task._is_removed or len(seen) == len(trigger.accepted)
                    self._check_room(trigger)

    def _check_room(self, trigger: _Event) -> None:
        """Check that as many signals are let in as *maxsize* has room for."""
        if trigger._permits is not None and not trigger._closed:
            assert len(trigger._permits) == trigger.maxsize - trigger.waiting_signals

    def _check_latest_signal(self, task: Task, trigger: _Event) -> None:
        """Check that the last signal, of those that may stand for others, is not lost."""
        if task._is_removed or not trigger.accepted or trigger.accepted[-1] in trigger.passed:
            return
        arm = next(arm for arm in task._arms if trigger_of(arm) is trigger)
        last = [*trigger.started, *([arm._arm_run.execution.event] if arm._arm_run else [])]
        assert (last + trigger.in_channel)[-1] == trigger.accepted[-1]
        assert len(set(trigger.started)) == len(trigger.started)

    def _whatever_waits_is_in_one_place(self) -> None:
        """Each run that waits is ready, pending, due later or its caller's; the counts agree."""
        delayed = self._delayed()
        entries = self.engine._ready.first(_EVERYTHING)
        ready = [entry[-1] for entry in entries]
        assert all(entry[0] == self._key(entry[-1]) for entry in entries)
        assert sorted(map(id, ready)) == sorted(id(task._head) for task in self.tasks if task._head)
        for task in self.tasks:
            pending = list(task._pending or ())
            waiting = [*([task._head] if task._head else []), *pending]
            new = [run for run in waiting if run not in self.refused]
            firsts = [run.execution.id for run in new if not run.execution.attempts]
            assert firsts == sorted(firsts)
            waiting += [run for run in delayed if run.task is task]
            inline = [run for run in self.inline_waiting if run.task is task]
            waiting += [run for run in inline if not run.execution.status.has_ended]
            assert len(set(waiting)) == len(waiting) == task._waiting
            assert task._pending is None or task._pending
            assert task._running == self._running_of(task)
            assert task._head is None or (task.enabled and not task._is_removed)
            assert not (pending and _may_run(task) and task._head is None)
            assert task._is_removed == (task.id not in self.engine.tasks)
            self._check_stand_ins(task, waiting)
        waiting_now = sum(task._waiting for task in self.tasks)
        held = sum(task._waiting for task in self.tasks if not task.enabled)
        assert (self.engine._waiting, self.engine._held) == (waiting_now, held)
        assert self.engine._inline == len(self.inline)

    def _check_stand_ins(self, task: Task, waiting: list[Run]) -> None:
        """Check that where one run stands for all, one run waits, and its arm knows it.

        Beside those that were refused when the next one waited already.
        """
        for arm in task._arms:
            mine = [run for run in waiting if run.arm is arm and not run.execution.attempts]
            assert (arm._arm_run in mine) if mine else (arm._arm_run is None)
            is_timed = arm._arm_timed is not None and task.missed != "all"
            if is_timed or (arm._arm_signals is not None and arm._arm_signals.coalesce):
                assert len([run for run in mine if run not in self.refused]) <= 1

    def _live_runs_are_those_that_began(self) -> None:
        """What has started and not ended is live, nothing else."""
        began = {i for i, life in self.lives.items() if life.attempts and life.end is None}
        assert set(self.engine.live) == began

    def _nothing_is_forgotten(self) -> None:
        """Each trigger is in the agenda, looked at, asked, spent, or waits for its run's end."""
        agenda = self.engine._agenda.first(_EVERYTHING)
        due = [(entry[0], entry[-1]) for entry in agenda]
        in_agenda = [item for _, item in due if isinstance(item, Arm)]
        assert set(in_agenda) <= set(self._arms())
        assert len(set(in_agenda)) == len(in_agenda)
        for arm in self._arms():
            if arm._arm_signals is not None:
                self._check_bell(arm, arm._arm_signals)
            if arm._arm_is_custom or (arm._arm_signals is not None and arm._arm_signals.trigger):
                self._check_asked(arm, arm in in_agenda)
            elif arm._arm_timed is not None:
                self._check_timer(arm, arm in in_agenda)
        overdue = {item.run for _, item in due if isinstance(item, Deadline)}
        assert overdue == {
            run
            for run in self.in_slots + self.inline
            if (not run.is_stuck if run.execution.cancelled else run.task.timeout is not None)
        }

    def _check_bell(self, arm: Arm, trigger: EventTrigger) -> None:
        assert self.engine.rung.count(arm) == arm._arm_is_rung
        if trigger.waiting and arm._arm_task.enabled:
            assert arm._arm_is_rung

    def _check_asked(self, arm: Arm, is_planned: bool) -> None:
        places = [arm in self._in_hand(), id(arm) in self.engine._polled, is_planned]
        assert places.count(True) == 1
        assert arm._arm_is_asked == (arm in self._in_hand())

    def _check_timer(self, arm: Arm, is_planned: bool) -> None:
        trigger = trigger_of(arm)
        assert isinstance(trigger, TimedTrigger)
        assert is_planned == (trigger.due is not None)
        if arm._arm_entry is not None:
            assert arm._arm_entry[:2] == [trigger.due, -arm._arm_task.priority]
        elif isinstance(trigger, PeriodicTrigger):
            assert trigger.mode == "delay"
            assert self._unended_of(arm._arm_task)
        else:
            assert isinstance(trigger, OneTimeTrigger)
            assert trigger.is_spent

    def _what_comes_next_is_told(self) -> None:
        """first_due names timers and retries, soonest first."""
        dues = [arm._arm_entry[0] for arm in self._arms() if arm._arm_entry is not None]
        dues += [run.entry[0] for run in self._delayed() if run.entry is not None]
        first = self.engine.first_due(3)
        assert [due for due, _, _ in first] == sorted(dues)[:3]
        assert self.engine.first_due(_EVERYTHING)[:3] == first

    def _idle_is_idle(self) -> None:
        """It is idle exactly when nothing runs, waits to be run, is asked or is overdue."""
        running = bool(self.in_slots or self.inline)
        waits = any(task._waiting for task in self.tasks if task.enabled)
        quiet = self.engine.is_paused or not (waits or self._in_hand())
        if self.engine.is_idle(self.now):
            assert not running
            assert quiet
        elif not self.engine.has_due(self.now):
            assert running or not quiet

    # The end

    def teardown(self) -> None:
        """Let everything run to its end, and check that nothing is left."""
        if sys.exc_info()[0] is not None:
            return  # a step has failed: say that, not what follows from it
        self.engine.is_paused = False
        self.engine.let_go()
        self.obstacle = ""
        self.spoilt.clear()
        for task in list(self.engine.tasks.values()):
            self.engine.set_enabled(task, True, self.now)
        for _ in range(2):  # retries planned at first come due in the second round
            self._drain()
            self._pass_time(5000)
        self._drain()
        assert self.engine.is_idle(self.now)
        assert self.engine.stats().pending == self.engine.stats().running == 0
        assert all(life.end is not None for life in self.lives.values())
        assert not any(each.ready for each in self._signallers() if isinstance(each, _Polled))
        assert not any(event.in_channel for event in self._events() if not event._closed)
        self.promises_are_kept()

    def _drain(self) -> None:
        """Do all there is to do at this instant; what runs succeeds."""
        for _ in range(_ENOUGH):
            self._tick(64)
            self._ask_all()
            while self.inline_waiting:
                self._retry_inline(self.inline_waiting.pop())
            while self.inline:
                self._finish_inline(self.inline.pop(), "succeeds")
            while self.idle_slots or self.in_slots:
                self.work([(0, "succeeds")])
            self.promises_are_kept()
            if self._is_drained():
                return
        raise AssertionError("there is always more to do")

    def _is_drained(self) -> bool:
        return (
            len(self._unended()) == len(self._delayed())
            and not self.engine.has_due(self.now)
            and not any(event.queued and not event._closed for event in self._events())
        )

    # Looking

    def _registered(self, which: int) -> Task:
        return _pick(list(self.engine.tasks.values()), which)

    def _arms(self) -> list[Arm]:
        return [arm for task in self.engine.tasks.values() for arm in task._arms]

    def _events(self) -> list[_Event]:
        """Return the event triggers of all tasks, removed ones too."""
        triggers = (trigger for task in self.tasks for trigger in task.triggers)
        return [trigger for trigger in triggers if isinstance(trigger, _Event)]

    def _signallers(self) -> list[_Event | _Polled]:
        polled = (trigger_of(arm) for arm in self._arms())
        return [*self._events(), *(each for each in polled if isinstance(each, _Polled))]

    def _in_hand(self) -> set[Arm]:
        """Return the arms that are being asked."""
        return {*self.claimed, *(arm for arm, _ in self.to_rearm)}

    def _delayed(self) -> list[Run]:
        """Return the runs that wait in the agenda for their next attempt."""
        items = (entry[-1] for entry in self.engine._agenda.first(_EVERYTHING))
        return [item for item in items if isinstance(item, Run)]

    def _attempt(self, run: Run) -> _Attempt:
        return self.lives[run.execution.id].attempts[-1]

    def _unended(self) -> list[int]:
        return [number for number, life in self.lives.items() if life.end is None]

    def _unended_of(self, task: Task) -> list[int]:
        return [n for n in self._unended() if self.lives[n].task_id == task.id]

    def _running_of(self, task: Task) -> int:
        return sum(run.task is task for run in self.in_slots + self.inline)


def _pick(choices: Sequence[_T], which: int) -> _T:
    return choices[which % len(choices)]


def _stamp_of(shown: timedelta) -> float:
    """Return what the engine makes of an instant by the clock that is never set back."""
    return _FIRST_STAMP + shown.total_seconds()


def _scribble(execution: Execution) -> None:
    """Spoil what was told, which is nobody else's."""
    with pytest.raises(AttributeError):
        execution.attempts = 99
    for name, value in (("status", Status.MISSED), ("attempts", 99), ("event", "scribbled")):
        object.__setattr__(execution, name, value)


def _values(execution: Execution) -> tuple[object, ...]:
    return tuple(getattr(execution, each.name) for each in fields(execution))


def _is_one_time(task: Task) -> bool:
    """Return True for a task that had OneTimeTriggers only, all of them spent."""
    return bool(task.triggers) and all(
        isinstance(trigger, OneTimeTrigger) and trigger.is_spent for trigger in task.triggers
    )
