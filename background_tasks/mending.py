"""Makes the books of an engine add up again after a change of it that broke off half way.

For want of memory, by a mistake of ours, by Ctrl-C in the middle of it; or because the process was
forked there. What lies in queues and heaps is believed, the counters are counted anew from it, and
what lies nowhere was lost. So the engine itself needs no care for what may break off where.

It looks at every task, so it is for errors only. Pure as the engine is, and called as that is.
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime

from background_tasks.engine import Deadline, Engine
from background_tasks.errors import BackgroundTasksError
from background_tasks.heap import Entry
from background_tasks.run import NOBODY, Run
from background_tasks.task import Status, Task
from background_tasks.trigger import Arm, Asked, EventTrigger, TimedTrigger

__all__ = ["forked", "mend"]

_BROKE = "an internal error broke off what was done with it"
_KIND = BackgroundTasksError.__name__  # the text of any error begins with what it is
_LOST = f"{_KIND}: {_BROKE}"
_FORKED = f"{_KIND}: the process was forked while it ran: it goes on in the parent"
_RUNNING, _RETRYING, _DROPPED = Status.RUNNING, Status.RETRYING, Status.DROPPED


def mend(engine: Engine, now: datetime, *, status: Status = Status.LOST, error: str = _LOST) -> int:
    """Make the books add up; end each run that was lost as *status*; return how many.

    Lost is one whose function was being called by a thread that is NOBODY now, and one that was to
    be tried again and lies nowhere. What was lost before it started is counted as dropped, with no
    record of it.
    """
    removed = [task for task in engine.tasks.values() if task._is_removed]
    for task in removed:  # half removed, to be exact: that is done again in the end
        task._is_removed = False
        for arm in task._arms:
            arm._arm_task = task
    _forget_what_has_ended(engine)
    mending = _Mending(engine, now)
    mending.line_up()
    mending.count()
    lost = [run for run in engine.live.values() if mending.is_lost(run)]
    distrusted = mending.look_at_arms()
    for run in lost:
        run.execution.error = error
        mending.end(run, status)
    for task in distrusted:
        engine.quarantine(task, _BROKE, now)
    for task in removed:
        if not task._is_removed:  # as one whose last run was lost is by now
            engine.remove(task.id, now)
    mending.promote()
    engine.count_missing()
    return len(lost)


def forked(engine: Engine, now: datetime) -> int:
    """Become what a forked child can go on with; return how many runs it had to give up.

    Only the thread that forked is there. Runs whose function was being called, and those whose
    retry a caller waited for, are DROPPED; what a thread was asking is asked again. Nothing of it
    is told: what has happened so far, the parent tells.
    """
    engine.slots = 0
    for run in engine.live.values():
        run.thread = NOBODY
    engine.unclaim(list(engine._asked.values()))
    engine.rung.clear()
    engine.newly_stuck.clear()
    dropped = mend(engine, now, status=_DROPPED, error=_FORKED)
    for run in [run for run in engine.live.values() if run.is_inline]:
        run.execution.error = _FORKED
        engine.give_up(run, now)
        dropped += 1
    engine.changes.clear()
    return dropped


def _forget_what_has_ended(engine: Engine) -> None:
    for number in [n for n, run in engine.live.items() if run.execution.status.has_ended]:
        del engine.live[number]


def _line_of(task: Task) -> list[Run]:
    """Return the runs of a task that wait for their turn, in order."""
    if task._head is None and task._pending is None:
        return []
    line = dict.fromkeys([*([task._head] if task._head else ()), *(task._pending or ())])
    return [run for run in line if run.execution.status in (Status.PENDING, _RETRYING)]


class _Mending:
    """One go at an engine: what lies where, and what is put right by that.

    Attributes:
        waiting: The runs that wait for their turn.
        ready: The ``id()`` of the entries of the ready heap.
        planned: The ``id()`` of the entries of the agenda.
    """

    def __init__(self, engine: Engine, now: datetime) -> None:
        """Sweep the heaps of *engine*: what is left in them lies where it should."""
        self.engine = engine
        self.now = now
        self.waiting = {run for task in engine.tasks.values() for run in _line_of(task)}
        self.ready = engine._ready.sweep(self._is_ready)
        self.planned = engine._agenda.sweep(self._is_planned)

    def _is_ready(self, entry: Entry) -> bool:
        """Return whether *entry*, of the ready heap, is the right one of its run."""
        run = entry[-1]
        is_head = run.task._head is run and run.task._enabled
        return is_head and run.entry is entry and run in self.waiting

    def _is_planned(self, entry: Entry) -> bool:
        """Return whether *entry*, of the agenda, is the right one of what it holds."""
        item = entry[-1]
        if type(item) is Deadline:
            return item.run.deadline is entry and item.run.execution.status is _RUNNING
        if type(item) is Run:
            is_retry = item.execution.status is _RETRYING and item.execution.id in self.engine.live
            return is_retry and item.entry is entry and item not in self.waiting
        is_there = item._arm_task is not None and item._arm_task._id in self.engine.tasks
        has_moved = isinstance(item, TimedTrigger) and item.due != entry[0]
        return is_there and item._arm_entry is entry and not has_moved

    def is_lost(self, run: Run) -> bool:
        """Return whether nobody will come back to a run that has started."""
        if run.execution.status is _RUNNING:
            return run.thread == NOBODY
        return not (run.is_inline or run in self.waiting or id(run.entry) in self.planned)

    def line_up(self) -> None:
        """Put the runs of each task that wait in line; one that is ready stays so."""
        for task in self.engine.tasks.values():
            line, head = _line_of(task), task._head
            task._head = None
            if line and line[0] is head and head.entry is not None and task._enabled:
                if id(head.entry) not in self.ready:  # it was taken out
                    head.entry = self.engine._ready.push(head.stamp, task._priority, head)
                task._head = line.pop(0)
            for run in line:
                run.entry = None
            task._pending = deque(line) if line else None

    def count(self) -> None:
        """Count anew what runs and waits."""
        engine = self.engine
        live = engine.live.values()
        running = [run for run in live if run.execution.status is _RUNNING]
        waits = {*self.waiting, *(run for run in live if run.execution.status is _RETRYING)}
        runs_of, waits_of = (Counter(run.task.id for run in runs) for runs in (running, waits))
        for task in (*engine.tasks.values(), *(run.task for run in live)):
            task._running, task._waiting = runs_of[task.id], waits_of[task.id]
        engine.running = len(running)
        engine._inline = sum(run.is_inline for run in running)
        engine._waiting = len(waits)
        engine._held = sum(task._waiting for task in engine.tasks.values() if not task._enabled)
        engine._stuck = sum(run.is_stuck for run in running)
        in_slots = [run for run in running if not run.is_inline]
        engine._replaced = min(sum(run.is_stuck for run in in_slots), engine._replacements)
        if engine._admission is not None:
            tasks = [run.task for run in in_slots]
            engine._admission.recount(engine._max + engine._replaced, tasks)

    def look_at_arms(self) -> list[Task]:
        """See that every trigger goes on; return the tasks of those that cannot even here."""
        busy = {id(run.arm) for run in (*self.waiting, *self.engine.live.values())}
        unstarted = Counter(id(run.arm) for run in self.waiting if not run.execution.attempts)
        rung = {id(arm) for arm in tuple(self.engine.rung)}  # `fire` may append to it meanwhile
        distrusted = []
        for task in list(self.engine.tasks.values()):
            for arm in task._arms:
                self._loosen(arm)
                if not isinstance(arm, TimedTrigger):
                    if id(arm) not in rung:
                        arm._arm_is_rung = False  # `ring` may have come half way
                    self._listen(arm, unstarted[id(arm)])
                elif not self._plan(arm, is_busy=id(arm) in busy):
                    distrusted.append(task)
        return distrusted

    def _loosen(self, arm: Arm) -> None:
        """Let go of what the arm should not hold on to."""
        run = arm._arm_run
        if run is not None and (run not in self.waiting or run.execution.attempts):
            arm._arm_run = None
        if arm._arm_entry is not None and id(arm._arm_entry) not in self.planned:
            arm._arm_entry = None

    def _plan(self, trigger: TimedTrigger, *, is_busy: bool) -> bool:
        """See that the agenda has a trigger that is to fire; False when that is beyond it."""
        if trigger._arm_entry is not None:
            return True
        try:
            if trigger.due is not None and trigger.due <= self.now:  # its release broke off
                count, _ = trigger.take(self.now)
                self.engine._pass_over(trigger._arm_task, count, self.now, _BROKE)
                self.engine._clear_away(trigger._arm_task, self.now)
            if trigger.due is None and not is_busy:
                trigger.ended(self.now)  # with no run to end, "delay" counts from here
        except MemoryError:
            raise
        except Exception:
            return False
        self.engine._enter(trigger)
        return True

    def _listen(self, arm: EventTrigger | Asked, unstarted: int) -> None:
        """See that an arm is asked or looked at; of its signals' runs so many have not started."""
        if arm._arm_signals is not None:
            arm._arm_signals.mend_permits(unstarted)
        if arm not in self.engine._to_ask:
            self.engine._take_up(arm)

    def end(self, run: Run, status: Status) -> None:
        """End a run that was lost, by the books as they are now."""
        if run.execution.status is _RUNNING:
            self.engine._stop_running(run)
        else:
            self.engine._wait(run.task, -1)
        self.engine._end(run, status, self.now, run.execution.error)

    def promote(self) -> None:
        """Make ready what may start."""
        for task in self.engine.tasks.values():
            self.engine._promote(task, self.now)
