"""Changes that break off half way, wherever that is: the books add up again and all goes on.

A real scheduler does something in one thread, and an error comes up at one line of the engine and
what is below it; at another one in the next system, and so on until the line is not reached. That
is what a lack of memory, a mistake of ours or Ctrl-C may do.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from queue import Queue
from types import FrameType, ModuleType
from typing import Any

import pytest

from background_tasks import (
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    admission,
    agenda,
    engine,
    heap,
    ready,
    trigger,
)
from background_tasks.admission import Admission
from background_tasks.agenda import Agenda
from background_tasks.engine import Engine
from background_tasks.heap import Heap
from background_tasks.mending import forked, mend
from background_tasks.ready import Ready
from background_tasks.testing import InlineScheduler

_FILES = {module.__file__ for module in (admission, agenda, engine, heap, ready, trigger)}
_RULES: dict[str, Any] = {"lanes": {"own": 1}, "capacity": {"db": 1}}
_ALL = "MENDING" in os.environ  # each time that a line is reached, not only the first


class BrokenOffError(Exception):
    """What comes up in the middle."""


class Breaker:
    """Has an error come up at the n-th line of the engine that is reached, while it is entered.

    Attributes:
        lines: The lines that were reached, as pairs of a file and a number.
    """

    def __init__(self, at: int | None = None) -> None:
        """Count from 1; None is no line."""
        self.lines: list[tuple[str, int]] = []
        self._at = at
        self._before: Any = None

    def __enter__(self) -> Breaker:
        """Begin to count."""
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *error: object) -> None:
        """Count no more."""
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename in _FILES else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.lines) == self._at:
                sys.settrace(None)
                raise BrokenOffError
        return self._line


class Polled(Trigger):
    """One of the user's that is asked at every tick."""

    def __init__(self) -> None:
        """Not be ready."""
        self.is_due = False

    def is_ready(self) -> bool:
        """Return whether it was made so."""
        return self.is_due

    def reset(self) -> None:
        """Not be ready any more."""
        self.is_due = False


class Planned(Trigger):
    """One of the user's that knows its time: every ten seconds."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """Count by that clock."""
        self._now = now
        self.due = now()

    def is_ready(self) -> bool:
        """Return whether ten seconds have passed."""
        return self._now() >= self.due

    def reset(self) -> None:
        """Count anew."""
        self.due = self._now() + timedelta(seconds=10)

    def next_fire_time(self) -> datetime:
        """Return when it is due."""
        self.due = min(self.due, self._now() + timedelta(seconds=10))
        return self.due


@dataclass
class System:
    """A scheduler with a task of every kind, in the middle of its life."""

    rules: dict[str, Any]
    made: InlineScheduler = field(init=False)
    tasks: dict[str, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let some time pass, and something of each kind wait."""
        self.made = InlineScheduler(2, **self.rules)
        self.event, self.merged = EventTrigger(maxsize=2), EventTrigger(coalesce=True)
        self.queue: Queue[object] = Queue()
        self.polled = Polled()
        policy = RetryPolicy(1, delay=3)
        self._add("interval", PeriodicTrigger(10), missed="all")
        self._add("delay", PeriodicTrigger(10, mode="delay"), timeout=5)
        self._add("event", self.event, priority=1)
        self._add("merged", self.merged, overlap="skip")
        self._add("queued", EventTrigger(self.queue))
        self._add("polled", self.polled)
        self._add("planned", Planned(self.made.clock.now))
        self._add("once", OneTimeTrigger(delay=15))
        self._add("failing", PeriodicTrigger(10), function=_fail, retry_policy=policy)
        self._add("asked", timeout=5)
        self.made.start()
        self.made.clock.advance(seconds=10)
        for signal in (self.event, self.merged):
            signal.fire("one")
            signal.fire("two")
        self.queue.put("three")
        self.polled.is_due = True
        self.made.clock.jump_to(self.made.clock.now() + timedelta(seconds=10))

    def _add(self, name: str, *triggers: Trigger, function: Any = int, **settings: Any) -> None:
        if self.rules and name == "event":
            settings |= {"lane": "own", "resources": {"db": 1}}
        task = Task(name, function, triggers=triggers, history=1000, **settings)
        self.tasks[name] = self.made.add_task(task)

    def runs(self) -> dict[str, int]:
        """Return how many runs of each task that is there have succeeded or failed."""
        done = (Status.SUCCESS, Status.FAILED)
        return {
            name: sum(run.status in done for run in task.execution_hist)
            for name, task in self.tasks.items()
            if task in self.made.tasks.values() and task.enabled
        }

    def check(self) -> None:
        """See that the books add up, that at most one run was lost, and that all goes on."""
        assert not self.made._lock.locked()
        assert not self.made._whole.is_torn
        self._adds_up()
        assert self._lost() <= 1
        for task in self.made.tasks.values():
            # What breaks off in a trigger that is asked is an error of that trigger.
            assert task.quarantine is None or task.quarantine.endswith("raised BrokenOffError")
            task.enabled = True
        self.made.resume()
        self.made.clock.advance(seconds=15)
        before = self.runs()
        for signal in (self.event, self.merged):
            signal.fire()
        self.queue.put("four")
        self.polled.is_due = True
        for task_id in list(self.made.tasks):
            self.made.release_task(task_id)
        self.made.clock.advance(seconds=40)
        after = self.runs()
        for name in before.keys() & after.keys():
            assert after[name] - before[name] >= _EXPECTED[name], name
        assert before.keys() - after.keys() <= {"once"}
        self._adds_up()
        assert self.made._engine.slots == 0
        assert self.made.wait_idle(60)
        if not self.event._closed:  # as many signals are let in as before
            assert [self.event.fire() for _ in range(3)] == [True, True, False]

    def _lost(self) -> int:
        """Return how many runs were lost, with a record of it or without."""
        stats = self.made.stats()
        runs = (run.status for task in self.tasks.values() for run in task.execution_hist)
        return stats.lost + stats.dropped - list(runs).count(Status.DROPPED)

    def _adds_up(self) -> None:
        stats = self.made.stats()
        ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
        assert stats.released == ended + stats.pending + stats.running
        assert stats.running == 0


_EXPECTED = {  # of the runs in forty seconds, at least
    "interval": 4, "delay": 3, "event": 2, "merged": 1, "queued": 2, "polled": 2, "planned": 4,
    "once": 0, "failing": 3, "asked": 1,
}  # fmt: skip


def _fail() -> None:
    raise OSError("as always")


def _run_failing(system: System) -> None:
    system.made.run_task(system.tasks["failing"].id)


def _then(system: System, deed: Callable[[Task], object]) -> None:
    """Have a run wait for its retry, and another for its turn, then do something to the task."""
    failing = system.tasks["failing"]
    system.made.release_task(failing.id)
    system.made.run_tasks()
    system.made.release_task(failing.id)
    deed(failing)


def _switch(task: Task) -> None:
    task.enabled = False
    task.priority = 2
    task.enabled = True


def _stop_and(made: Scheduler, go_on: Callable[[], None]) -> None:
    made.stop(cancel=True)
    go_on()


def _set_back(system: System) -> None:
    system.made.clock.jump_to(system.made.clock.now() - timedelta(hours=1))
    system.made.run_tasks()


_DEEDS: dict[str, Callable[[System], object]] = {
    "tick": lambda system: system.made.run_tasks(),
    "remove": lambda system: system.made.remove_task(system.tasks["merged"].id),
    "remove failing": lambda system: _then(system, lambda task: system.made.remove_task(task.id)),
    "cancel": lambda system: system.made.cancel(system.tasks["event"].id),
    "cancel failing": lambda system: _then(system, lambda task: system.made.cancel(task.id)),
    "priority": lambda system: _then(system, lambda task: setattr(task, "priority", 3)),
    "disable": lambda system: setattr(system.tasks["event"], "enabled", False),
    "switch": lambda system: _switch(system.tasks["interval"]),
    "fire": lambda system: system.merged.fire(),
    "start": lambda system: _stop_and(system.made, system.made.start),
    "resume": lambda system: _stop_and(system.made, system.made.resume),
    "clock back": _set_back,
    "add": lambda system: system.made.add_task(
        Task("new", int, triggers=[PeriodicTrigger(10), EventTrigger(), Polled()])
    ),
    "run": lambda system: system.made.run_task(system.tasks["interval"].id),
    "run failing": _run_failing,
    "release": lambda system: system.made.release_task(system.tasks["asked"].id),
}


def _check(system: System, where: object) -> None:
    try:
        system.check()
    except Exception as error:
        raise AssertionError(f"broken off in {where}") from error


def _break_off(deed: Callable[[System], object], rules: dict[str, Any], at: int) -> None:
    """Have it broken off at the n-th line, and see what comes of that."""
    system = System(rules)
    with contextlib.suppress(BrokenOffError), Breaker(at) as breaker:
        deed(system)
    _check(system, (at, *breaker.lines[-1]))


@pytest.mark.parametrize(
    ("rules", "modules"),
    [({}, (agenda, engine, heap, ready, trigger)), (_RULES, (admission, heap))],
    ids=["slots alone", "rules"],
)
def test_broken_off_at_any_line(
    rules: dict[str, Any],
    modules: tuple[ModuleType, ...],
    internal_errors: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One run is lost at most, the books add up, and every task goes on as before."""
    caplog.set_level(logging.CRITICAL, "background_tasks")  # it would keep all there is to say
    files = {module.__file__ for module in modules}
    done: set[tuple[str, int]] = set()
    for deed in _DEEDS.values():
        with Breaker() as breaker:
            deed(System(rules))
        for at, line in enumerate(breaker.lines, 1):
            if line[0] in files and (_ALL or line not in done):
                done.add(line)
                _break_off(deed, rules, at)
    assert {file for file, _ in done} == files
    internal_errors.clear()


_METHODS = [
    (owner, name)
    for owner in (Engine, Agenda, Heap, Ready, Admission)
    for name, value in vars(owner).items()
    if inspect.isfunction(value) and not name.startswith("__")
]


def test_broken_off_at_any_call(internal_errors: list[str]) -> None:
    """The same where a method of the engine fails, in the first deed that it is needed for."""
    for owner, name in _METHODS:
        for deed in _DEEDS.values():
            system = System(_RULES)
            errors: list[Exception] = [BrokenOffError()]
            with pytest.MonkeyPatch.context() as patched, contextlib.suppress(BrokenOffError):
                patched.setattr(owner, name, _failing(getattr(owner, name), errors))
                deed(system)
            if not errors:
                _check(system, (owner, name))
                break
    internal_errors.clear()


def _failing(function: Any, errors: list[Exception]) -> Any:
    def fail(*args: object, **kwargs: object) -> object:
        if errors:
            raise errors.pop()
        return function(*args, **kwargs)

    return fail


# Torn by hand


NOON = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


def _engine(*triggers: Trigger, **settings: Any) -> tuple[Engine, Task]:
    made = Engine(max_running_tasks=1, aging=5.0, on_time=timedelta(seconds=1))
    task = Task("t", int, triggers=triggers, **settings)
    made.add(task, NOON)
    return made, task


def _tear(owner: object, name: str, deed: Callable[[], object]) -> None:
    """Have *deed* broken off where that method of *owner* is called."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(owner), name, _failing(None, [BrokenOffError()]))
        with pytest.raises(BrokenOffError):
            deed()


def test_a_run_that_has_ended_is_live_no_more() -> None:
    """It broke off between its end and the count of it: then it is counted as dropped."""
    made, task = _engine()
    run = made.take_inline(task, None, NOON)
    run.execution.status = Status.SUCCESS

    mend(made, NOON)

    assert made.live == {}
    assert (made.stats().running, made.stats().dropped) == (0, 1)
    assert (task._running, task._waiting) == (0, 0)


def test_a_head_that_was_taken_out_keeps_its_turn() -> None:
    """It is put in again with its old stamp and the new priority."""
    made, task = _engine()
    made.request(task, None, NOON)
    assert task._head is not None
    stamp = task._head.stamp
    _tear(made._ready, "push", lambda: made.set_priority(task, 7))

    mend(made, NOON + timedelta(seconds=5))

    (entry,) = made._ready.first(2)
    assert entry[-1] is task._head
    assert (task._head.stamp, task.priority, entry[0]) == (stamp, 7, stamp - 35)


def test_a_trigger_that_was_taken_out_is_planned_again() -> None:
    """For the same time."""
    made, task = _engine(PeriodicTrigger(10))
    _tear(made._agenda, "push", lambda: made.set_priority(task, 7))
    assert made.next_due() is None

    mend(made, NOON)

    assert made.next_due() == NOON + timedelta(seconds=10)


def test_a_run_that_is_nowhere_stands_for_no_other() -> None:
    """The next occurrence makes a run of its own."""
    made, task = _engine(PeriodicTrigger(10))
    _tear(made, "_queue", lambda: made.release(NOON + timedelta(seconds=10), 1))

    mend(made, NOON + timedelta(seconds=10))

    assert made.release(NOON + timedelta(seconds=20), 1) == 1
    assert made.stats().dropped == 1
    assert len(made._ready) == task._waiting == 1


def test_a_trigger_that_is_to_be_asked_is_asked_once() -> None:
    """It is not polled besides."""
    made, task = _engine(Polled())
    (arm,) = made.custom_arms([task])
    made.rearmed(arm, NOON + timedelta(seconds=1), NOON)
    made.release(NOON + timedelta(seconds=1), 1)

    mend(made, NOON + timedelta(seconds=1))

    assert made.to_ask(poll=True) == [arm]


@pytest.mark.parametrize("permits", [0, 1, 2, 3])
def test_as_many_signals_are_let_in_as_before(permits: int) -> None:
    """One waits, one more may: whatever the number of permits was."""
    changed = EventTrigger(maxsize=2)
    made, _ = _engine(changed)
    changed.fire()
    made.release(NOON, 1)
    changed._permits = deque([None] * permits)

    mend(made, NOON)

    assert [changed.fire(), changed.fire()] == [True, False]


def test_a_task_that_was_half_removed_and_is_done_is_removed_once() -> None:
    """Its last run was lost with it, which removes a task of one-shots."""
    made, task = _engine(OneTimeTrigger(delay=0))
    made.release(NOON, 1)
    run = made.take(NOON)
    assert run is not None
    _tear(made, "_disarm", lambda: made.remove(task.id, NOON))

    mend(made, NOON)

    assert made.tasks == {}
    assert [each.status for each in task.execution_hist] == [Status.LOST]


def test_what_a_fork_finds_half_done_is_mended() -> None:
    """A signal handler may fork in the middle of a change: the child has whole books."""
    made, _ = _engine(PeriodicTrigger(10))
    _tear(made, "_queue", lambda: made.release(NOON + timedelta(seconds=10), 1))

    assert forked(made, NOON + timedelta(seconds=10)) == 0

    assert made.stats().dropped == 1
    assert made.release(NOON + timedelta(seconds=20), 1) == 1
