"""One attempt: has a task's function called with no lock held and says how it ended.

In the thread of the slot, in a thread of an executor's, or on the far side of one, from where only
plain data comes back.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from typing import cast

from background_tasks.calls import call_function, traceback_text
from background_tasks.checks import error_text
from background_tasks.errors import ExecutorBrokenError, LostWorkerError
from background_tasks.far_side import Report, call_there, kind_of, unpacked
from background_tasks.outside import Outside, is_unsent
from background_tasks.primitives import REAL, Primitives
from background_tasks.resources import Cost, read, spent
from background_tasks.run import Outcome
from background_tasks.task import Execution, Retry, RetryPolicy, Task

__all__ = ["attempt"]


def attempt(
    execution: Execution, task: Task, outside: Outside | None, primitives: Primitives
) -> Outcome:
    """Call the function of *task* once, in this thread or *outside*; never raises."""
    if outside is None:
        return _attempt_here(execution, task, primitives)
    return _attempt_outside(execution, task, outside, primitives)


def _attempt_here(execution: Execution, task: Task, primitives: Primitives) -> Outcome:
    before = read()
    try:
        events = None if primitives is REAL else primitives.event
        results = call_function(execution, task.function, task.args, task.kwargs, events)
    except BaseException as error:  # SystemExit and KeyboardInterrupt included: the slot lives on
        return _failure(error, task, execution, primitives, spent(before, read()))
    return Outcome(primitives.utc_now(), spent(before, read()), results)


def _failure(
    error: BaseException, task: Task, execution: Execution, primitives: Primitives, cost: Cost
) -> Outcome:
    is_asked = isinstance(error, Retry)
    return Outcome(
        primitives.utc_now(),
        cost,
        error=error_text(error),
        traceback=traceback_text(error),
        retry_after=_retry_after(
            task.retry_policy,
            execution.attempts,
            is_wanted=is_asked or isinstance(error, task.retry_policy.retry_on),
            after=getattr(error, "after", None) if is_asked else None,
        ),
    )


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


# With an executor


def _attempt_outside(
    execution: Execution, task: Task, outside: Outside, primitives: Primitives
) -> Outcome:
    start = primitives.monotonic()
    executor = None
    try:
        executor = outside.executor()
        if outside.is_here(executor):
            here = outside.submit(executor, _attempt_here, execution, task, primitives)
            return cast(Outcome, here.result())
        there = outside.submit(executor, call_there, *_call_of(execution, task))
        return _outcome_of(Report(*there.result()), task, execution, primitives)
    except BaseException as error:  # no error of the function's: these come as reports
        cost = primitives.monotonic() - start, 0.0, 0.0
        outcome = _failure(error, task, execution, primitives, cost)
        if isinstance(error, ExecutorBrokenError):
            return _refused(outcome, error)
        if is_unsent(error):
            return outcome
        is_broken = isinstance(error, BrokenExecutor) and outside.broke(executor)
        return _lost(outcome, task, execution, error, is_broken=is_broken)


def _call_of(execution: Execution, task: Task) -> tuple[object, ...]:
    """Return the arguments of `call_there`."""
    token = os.urandom(16).hex()
    return token, execution.copy(), task.function, task.args, task.kwargs, task.keep_results


def _outcome_of(
    report: Report, task: Task, execution: Execution, primitives: Primitives
) -> Outcome:
    """Return what came back from the far side as an outcome."""
    if not report.error:
        results, note = unpacked(report)
        return Outcome(primitives.utc_now(), report.cost, results, note=note)
    policy = task.retry_policy
    kinds: tuple[type, ...] = (Retry, *policy.retry_on)
    return Outcome(
        primitives.utc_now(),
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


def _refused(outcome: Outcome, error: ExecutorBrokenError) -> Outcome:
    """Make *outcome* that of an attempt that was not begun."""
    return replace(outcome, is_refused=True, obstacle=f"the executor is broken: {error}")


def _lost(
    outcome: Outcome, task: Task, execution: Execution, error: BaseException, *, is_broken: bool
) -> Outcome:
    """Make *outcome* that of an attempt of which nobody knows how it ended."""
    policy = task.retry_policy
    return replace(
        outcome,
        error=f"{LostWorkerError.__name__}: {outcome.error}",
        retry_after=_retry_after(
            policy, execution.attempts, is_wanted=LostWorkerError in policy.retry_on
        ),
        is_lost=True,
        obstacle=f"the executor is broken: {outcome.error}" if is_broken else "",
    )
