"""One attempt: has a task's function called with no lock held and says how it ended.

In the thread of the slot, in a thread of an executor's, or on the far side of one, from where only
plain data comes back.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import replace
from typing import cast

from background_tasks.calls import Around, call_function, call_within, traceback_text
from background_tasks.checks import error_text, redacted
from background_tasks.errors import ExecutorBrokenError, LostWorkerError, RemoteError
from background_tasks.far_side import Report, call_there, kind_of, unpacked
from background_tasks.interrupts import is_interrupt
from background_tasks.outside import Outside, is_unsent
from background_tasks.primitives import REAL, Primitives
from background_tasks.resources import NO_COST, Cost, meter_of
from background_tasks.run import Outcome
from background_tasks.task import Execution, Retry, RetryPolicy, Task

__all__ = ["Runner"]


class Runner:
    """Makes the attempts of one scheduler's runs. Set once, so it may be used by any thread."""

    def __init__(
        self,
        primitives: Primitives = REAL,
        *,
        outside: Outside | None = None,
        extras: tuple[str, ...] = (),
        around: tuple[Around, ...] = (),
        redact: Callable[[str], str] | None = None,
    ) -> None:
        """Call functions in the calling thread, or *outside* of it.

        Args:
            primitives: The clock, and what waits are made of.
            outside: Where else to call them.
            extras: What is measured beside the usual, see `meter_of`.
            around: What is entered around each attempt, see `call_within`.
            redact: What the texts of errors are given to before anybody sees them.
        """
        self._primitives = primitives
        self._outside = outside
        self._extras = extras
        self._meter = meter_of(extras)
        self._around = around
        self._redact = redact
        self._events = None if primitives is REAL else primitives.event

    @property
    def has_around(self) -> bool:
        """True when something is entered around each attempt."""
        return bool(self._around)

    def attempt(self, execution: Execution, task: Task) -> Outcome:
        """Call the function of *task* once; never raises, but see ``Outcome.interrupt``."""
        outside = self._outside
        if outside is None:
            outcome = self._attempt_here(execution, task)
        else:
            outcome = self._attempt_outside(execution, task, outside)
        if self._redact is not None and (outcome.error or outcome.note):
            self._take_secrets_out(outcome)
        return outcome

    def _take_secrets_out(self, outcome: Outcome) -> None:
        outcome.error = redacted(self._redact, outcome.error)
        outcome.traceback = redacted(self._redact, outcome.traceback)
        outcome.obstacle = redacted(self._redact, outcome.obstacle)
        outcome.note = redacted(self._redact, outcome.note)

    def _attempt_here(self, execution: Execution, task: Task) -> Outcome:
        read, spent = self._meter
        before = read()
        try:
            results = call_function(
                execution, task.function, task.args, task.kwargs, self._events, self._around
            )
        except BaseException as error:  # SystemExit and KeyboardInterrupt included: the slot lives
            return self._failure(error, task, execution, spent(before, read()))
        return Outcome(self._primitives.utc_now(), spent(before, read()), results)

    def _failure(
        self, error: BaseException, task: Task, execution: Execution, cost: Cost
    ) -> Outcome:
        is_asked = isinstance(error, Retry)
        interrupt = error if is_interrupt(error) else None
        return Outcome(
            self._primitives.utc_now(),
            cost,
            error=error_text(error),
            traceback=traceback_text(error),
            retry_after=_retry_after(
                task.retry_policy,
                execution.attempts,
                is_wanted=interrupt is None
                and (is_asked or isinstance(error, task.retry_policy.retry_on)),
                after=getattr(error, "after", None) if is_asked else None,
            ),
            interrupt=interrupt,
        )

    # With an executor

    def _attempt_outside(self, execution: Execution, task: Task, outside: Outside) -> Outcome:
        try:
            executor = outside.executor()
        except BaseException as error:
            return self._undone(error, task, execution, NO_COST)

        def send() -> Outcome:
            return self._send(execution, task, outside, executor)

        if not self._around or outside.is_here(executor):
            return send()
        return self._send_within(execution, task, send)

    def _send(
        self, execution: Execution, task: Task, outside: Outside, executor: Executor
    ) -> Outcome:
        start = self._primitives.monotonic()
        try:
            if outside.is_here(executor):
                here = outside.submit(executor, self._attempt_here, execution, task)
                return cast(Outcome, here.result())
            there = outside.submit(executor, call_there, *self._call_of(execution, task))
            return self._outcome_of(Report(*there.result()), task, execution)
        except BaseException as error:  # no error of the function's: these come as reports
            cost = self._primitives.monotonic() - start, 0.0, 0.0
            is_broken = isinstance(error, BrokenExecutor) and outside.broke(executor)
            return self._undone(error, task, execution, cost, is_broken=is_broken)

    def _send_within(
        self, execution: Execution, task: Task, send: Callable[[], Outcome]
    ) -> Outcome:
        """Have what is around an attempt see how it ended, though it is made elsewhere."""
        outcome = Outcome(self._primitives.utc_now(), NO_COST)

        def call() -> None:
            nonlocal outcome
            outcome = send()
            if outcome.error:
                raise RemoteError(outcome.error)

        try:
            call_within(execution, task.function, call, self._around)
        except RemoteError:
            return outcome
        except BaseException as error:  # one of the context managers raised
            return self._failure(error, task, execution, outcome.cost)
        return Outcome(outcome.ended_at, outcome.cost) if outcome.error else outcome

    def _call_of(self, execution: Execution, task: Task) -> tuple[object, ...]:
        """Return the arguments of `call_there`."""
        call = task.function, task.args, task.kwargs, task.keep_results, self._extras
        return os.urandom(16).hex(), execution.copy(), *call

    def _outcome_of(self, report: Report, task: Task, execution: Execution) -> Outcome:
        """Return what came back from the far side as an outcome."""
        now = self._primitives.utc_now()
        if not report.error:
            results, note = unpacked(report)
            return Outcome(now, report.cost, results, note=note)
        policy = task.retry_policy
        kinds: tuple[type, ...] = (Retry, *policy.retry_on)
        return Outcome(
            now,
            report.cost,
            error=report.error,
            traceback=report.traceback,
            retry_after=_retry_after(
                policy,
                execution.attempts,
                is_wanted=any(kind_of(each) in report.kinds for each in kinds),
                after=report.after,
            ),
        )

    def _undone(
        self,
        error: BaseException,
        task: Task,
        execution: Execution,
        cost: Cost,
        *,
        is_broken: bool = False,
    ) -> Outcome:
        """Return the outcome of an attempt that the executor refused, could not send or lost."""
        outcome = self._failure(error, task, execution, cost)
        if isinstance(error, ExecutorBrokenError):
            return replace(outcome, is_refused=True, obstacle=f"the executor is broken: {error}")
        if is_unsent(error) or cost is NO_COST:  # the second: it was interrupted before it was sent
            return outcome
        return _lost(outcome, task.retry_policy, execution, is_broken=is_broken)


def _retry_after(
    policy: RetryPolicy, attempts: int, *, is_wanted: bool, after: float | None = None
) -> float | None:
    """Return the seconds until the next attempt, None when there is to be none.

    Args:
        policy: The policy of the task.
        attempts: How many there have been.
        is_wanted: Whether the error is one to be retried.
        after: The seconds that a `Retry` asks for.
    """
    if attempts > policy.max_retries or not is_wanted:
        return None
    return policy.delay_before(attempts, random.random()) if after is None else after


def _lost(
    outcome: Outcome, policy: RetryPolicy, execution: Execution, *, is_broken: bool
) -> Outcome:
    """Make *outcome* that of an attempt of which nobody knows how it ended."""
    return replace(
        outcome,
        error=f"{LostWorkerError.__name__}: {outcome.error}",
        retry_after=_retry_after(
            policy, execution.attempts, is_wanted=LostWorkerError in policy.retry_on
        ),
        is_lost=True,
        obstacle=f"the executor is broken: {outcome.error}" if is_broken else "",
    )
