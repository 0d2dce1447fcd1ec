"""Mistakes that are put into the package, to see that the scenarios find them.

Each is a change of the source of one function. One that cannot be made any more, because that
source has changed, is an error: then it is to be written anew.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from background_tasks import EventTrigger, Execution, Scheduler, pool
from background_tasks.engine import Engine
from background_tasks.outside import Outside
from background_tasks.pool import DaemonPool
from background_tasks.reporter import Reporter
from background_tasks.scheduler import _Whole

__all__ = ["MISTAKES", "Mistake"]


_UNDER_LOCK = "with self._lock: "
_ASK = "ready = [arm for arm in arms if self._is_ready(arm)]"
_ATTEMPT = "outcome = self._runner.attempt(run.execution, run.task)"
_SAMPLE = "news = self._gates.sample(at, self._primitives.utc_now())"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A change of a function, and the scenario that finds it.

    Attributes:
        what: What is wrong then.
        found_by: The name of the scenario.
        owner: The class or module that has the function.
        function: Its name.
        changes: Pairs of a text that stands in its source once, and what is put in its place.
    """

    what: str
    found_by: str
    owner: type | ModuleType
    function: str
    changes: tuple[tuple[str, str], ...]

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the package make it until the end of the test."""
        original: Any = vars(self.owner)[self.function]
        source = textwrap.dedent(inspect.getsource(original))
        for before, after in self.changes:
            assert source.count(before) == 1, f"{before!r} stands not once in {self.function}"
            source = source.replace(before, after)
        tree = ast.parse(source)
        ast.increment_lineno(tree, original.__code__.co_firstlineno - 1)  # so it is traced as ever
        made: dict[str, Any] = {}
        exec(compile(tree, original.__code__.co_filename, "exec"), original.__globals__, made)
        monkeypatch.setattr(self.owner, self.function, made[self.function])


MISTAKES = (
    # User code under the lock
    Mistake(
        "listeners are told before the lock is let go",
        "start_twice",
        _Whole,
        "__exit__",
        (("self._spare = None", "scheduler._tell()"),),
    ),
    Mistake(
        "triggers are asked under the lock",
        "a_trigger_is_removed_while_asked",
        Scheduler,
        "_ask",
        ((_ASK, _UNDER_LOCK + _ASK),),
    ),
    Mistake(
        "functions are called under the lock",
        "max_instances",
        Scheduler,
        "_work",
        ((_ATTEMPT, _UNDER_LOCK + _ATTEMPT),),
    ),
    Mistake(
        "sensors are asked under the lock",
        "gates_close_and_open",
        Scheduler,
        "_sample_gates",
        ((_SAMPLE, _UNDER_LOCK + _SAMPLE),),
    ),
    # Wake-ups that are lost
    Mistake(
        "the ticking thread is not woken for something earlier",
        "an_earlier_one_is_added",
        Scheduler,
        "_wake_in_time",
        (("ticker.wake()", "pass"),),
    ),
    Mistake(
        "what the ticking thread waits for is read twice",
        "a_tick_meets_an_unlock",
        Scheduler,
        "_wake_in_time",
        (("due < until", "due < ticker.until"),),
    ),
    Mistake(
        "the timer is cleared after the look around",
        "an_earlier_one_is_added",
        Scheduler,
        "_turn",
        (
            ("ticker.timer.clear()", "pass"),
            ("was_called = ", "ticker.timer.clear(); was_called = "),
        ),
    ),
    Mistake(
        "a slot is given back without another look",
        "hand_over_races_stop_and_resume",
        Scheduler,
        "_give_back",
        (("self._ticker.wake()", "pass"),),
    ),
    Mistake(
        "the ticking thread is not woken when no worker is idle",
        "fire_while_all_slots_are_busy",
        Scheduler,
        "_dispatch_signals",
        (("ticker.wake()", "pass"),),
    ),
    Mistake(
        "signals are looked at once",
        "fire_while_all_slots_are_busy",
        Scheduler,
        "_attend",
        (("while engine.rung", "if engine.rung"),),
    ),
    Mistake(
        "nobody looks at signals after letting the lock go",
        "fire_while_all_slots_are_busy",
        Scheduler,
        "_after_lock",
        (("if engine.rung:", "if False:"),),
    ),
    Mistake(
        "a trigger reads its owner once",
        "fire_races_add",
        EventTrigger,
        "fire",
        (("owner = self._owner  # it may", "pass  # it may"),),
    ),
    Mistake(
        "what was fired before the task was added is not looked at",
        "fire_races_add",
        Scheduler,
        "_register",
        (("if arm._arm_signals.waiting:", "if False:"),),
    ),
    Mistake(
        "a trigger looks only once whether it is closed",
        "fire_races_remove",
        EventTrigger,
        "fire",
        (("if self._closed:  # meanwhile", "if False:  # meanwhile"),),
    ),
    Mistake(
        "a trigger is marked as looked at after its signals were taken",
        "fire_at_one_channel",
        Engine,
        "_take_signals",
        (
            ("arm._arm_is_rung = False", "pass"),
            ("if trigger.waiting:", "arm._arm_is_rung = False\n    if False:"),
        ),
    ),
    Mistake(
        "changes are looked at once",
        "changes_that_meet",
        Reporter,
        "tell",
        (("while self._changes and self._bell is None", "for _ in range(bool(self._changes))"),),
    ),
    Mistake(
        "the ticking thread waits though a slot came upon a trigger to ask",
        "a_custom_trigger_comes_due",
        Scheduler,
        "_plan_wait",
        (("or self._engine.has_to_ask", ""),),
    ),
    Mistake(
        "a worker is idle only once it has got work",
        "fire_after_a_while",
        pool,
        "_work",
        (
            ("work = queue.get()\n    queue", "idle.append(None)\n    queue"),
            ("idle.append(None)\n            except", "work = queue.get()\n            except"),
        ),
    ),
    Mistake(
        "a stop does not wake the ticking thread",
        "stop_twice",
        Scheduler,
        "_halt",
        (("ticker.wake()", "pass"),),
    ),
    Mistake(
        "who begins to wait inside a task tells nobody",
        "a_stop_meets_a_retry_in_a_task",
        Scheduler,
        "_wait_until",
        (("self._notify()  # another", "pass  # another"),),
    ),
    Mistake(
        "a waiter is cleared after the lock was let go",
        "wait_idle_in_many_threads",
        Scheduler,
        "_wait_until",
        (
            ("waiter.clear()", "pass"),
            ("waiter.wait(left)", "waiter.clear(); waiter.wait(left)"),
        ),
    ),
    Mistake(
        "the last run ends and wakes nobody",
        "wait_idle_in_many_threads",
        Scheduler,
        "_follow_up",
        (("self._notify()", "pass"),),
    ),
    Mistake(
        "nobody is woken when the listeners have been told",
        "wait_idle_in_many_threads",
        Scheduler,
        "_was_told",
        (("if self._waiters", "if False"),),
    ),
    Mistake(
        "idle does not mean that the listeners have been told",
        "wait_idle_in_many_threads",
        Scheduler,
        "_is_idle",
        ((" and not self._reporter.is_busy", ""),),
    ),
    Mistake(
        "a removal wakes nobody",
        "run_task_while_removed",
        Scheduler,
        "remove_task",
        (("self._wake_waiters()", "pass"),),
    ),
    Mistake(
        "a cancel wakes nobody",
        "run_task_cancelled",
        Scheduler,
        "cancel",
        (("self._wake_waiters()", "pass"),),
    ),
    Mistake(
        "a task that is enabled claims no slot",
        "disable_while_queued",
        Scheduler,
        "change_task",
        (("self._claim_while_ticking()", "0"),),
    ),
    Mistake(
        "a removal claims no slot for who stepped aside",
        "remove_what_others_wait_for",
        Scheduler,
        "remove_task",
        (("self._claim_while_ticking()", "0"),),
    ),
    Mistake(
        "a wait looks for a cancel before there is something to ring",
        "cancel_wakes_who_waits",
        Execution,
        "wait",
        (
            ("if not self.cancel_reason:", "if not before:"),
            ("length = ", "before = self.cancel_reason\n    length = "),
        ),
    ),
    # Threads that wait for themselves or for each other
    Mistake(
        "a task waits for its own run",
        "stop_inside_a_task",
        Scheduler,
        "_wait_until",
        (("own = self._own_runs()", "own = 0"),),
    ),
    Mistake(
        "a task waits for others that wait as well",
        "two_tasks_that_stop",
        Scheduler,
        "_wait_until",
        (("condition(self._exempt if", "condition(own if"),),
    ),
    Mistake(
        "a listener waits for a task that waits for it",
        "a_listener_that_stops",
        Scheduler,
        "_wait_until",
        (("own or self._reporter.is_mine", "own"),),
    ),
    Mistake(
        "the ticking thread waits for its own end",
        "from_a_trigger",
        Scheduler,
        "_join",
        (("ticker.thread.ident != me", "True"),),
    ),
    Mistake(
        "a run in an executor's thread is nobody's own",
        "tasks_that_stop_in_an_executor",
        Scheduler,
        "_own_runs",
        (("int(self._is_inside_elsewhere())", "0"),),
    ),
    Mistake(
        "a worker that goes home does not send the next one home",
        "max_instances",
        pool,
        "_work",
        (("queue.put(None)", "pass"),),
    ),
    # Slots and threads that are counted wrong
    Mistake(
        "work is queued behind the word to go home",
        "hand_over_races_stop_and_resume",
        DaemonPool,
        "_queue",
        (("if self._is_shut_down:\n            raise", "if False:\n            raise"),),
    ),
    Mistake(
        "a slot that is not handed over is not given back",
        "a_worker_is_promised_once",
        Scheduler,
        "_dispatch_signals",
        (("del self._slots[slot]", "pass"),),
    ),
    Mistake(
        "one slot that is not taken is kept",
        "no_thread_for_a_worker",
        Scheduler,
        "_give_back",
        (("unmanned: _Slot | None = slot", "unmanned: object = self._take_unmanned()"),),
    ),
    Mistake(
        "a second start starts a second thread",
        "start_twice",
        Scheduler,
        "_begin",
        (("if before is _State.RUNNING:", "if False:"),),
    ),
    Mistake(
        "a start that failed counts as one",
        "no_thread_for_the_ticker",
        Scheduler,
        "_undo_begin",
        (("self._state = before", "pass"),),
    ),
    # What others have changed meanwhile
    Mistake(
        "a trigger whose task is gone is quarantined",
        "a_trigger_is_removed_while_asked",
        Scheduler,
        "_quarantine",
        (("if arm._arm_task is not None:", "if True:"),),
    ),
    Mistake(
        "two threads ask the sensors one after the other",
        "gates_close_and_open",
        Scheduler,
        "_sample_gates",
        ((" or not self._gates.due(at):\n", ":\n"),),
    ),
    Mistake(
        "two threads make an executor each",
        "an_executor_is_renewed",
        Outside,
        "executor",
        (("with self._making:", "if True:"),),
    ),
)
