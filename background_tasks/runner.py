"""One attempt: calls a task's function with no lock held and says how it ended.

Whatever the function raises ends here. Of an error only text is kept, since an exception holds
on to every local of every frame it passed.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType, TracebackType

from background_tasks.checks import error_text
from background_tasks.primitives import REAL, Primitives
from background_tasks.resources import read, spent
from background_tasks.run import Outcome
from background_tasks.task import Execution, Retry, Task, running_events, running_execution

__all__ = ["attempt", "stack_text"]

_FRAMES = 20  # the innermost ones; a RecursionError has thousands
_LONGEST_TRACEBACK = 16_000  # characters
_NOT_DONE = (CoroutineType, GeneratorType, AsyncGeneratorType)


def attempt(
    execution: Execution, task: Task, executor: Executor | None, primitives: Primitives
) -> Outcome:
    """Call the function of *task* once, in this thread or in *executor*; never raises.

    The call has a context of its own, so what it sets in context variables is gone after it. In
    the caller of ``run_task`` the context is a copy of the caller's.
    """
    before = read()
    try:
        results = copy_context().run(_call, execution, task, executor, primitives)
    except BaseException as error:  # SystemExit and KeyboardInterrupt included: the slot lives on
        cost = spent(before, read())
        return Outcome(
            primitives.utc_now(),
            cost,
            error=error_text(error),
            traceback=_traceback_text(error),
            retry_after=_retry_after(error, task, execution.attempts),
        )
    return Outcome(primitives.utc_now(), spent(before, read()), results)


def _call(
    execution: Execution, task: Task, executor: Executor | None, primitives: Primitives
) -> object:
    running_execution.set(execution)
    if primitives is not REAL:
        running_events.set(primitives.event)
    if executor is None:
        results = task.function(*task.args, **task.kwargs)
    else:
        results = executor.submit(task.function, *task.args, **task.kwargs).result()
    if isinstance(results, _NOT_DONE):
        _refuse(results)
    return results


def _refuse(results: object) -> None:
    """Close what would have to be awaited or iterated, and say so."""
    close: Callable[[], object] | None = getattr(results, "close", None)
    if close is not None:
        close()
    raise TypeError(
        f"the function of a task must do its work before it returns, got a"
        f" {type(results).__name__}, which nobody would run"
    )


def _retry_after(error: BaseException, task: Task, attempts: int) -> float | None:
    """Return the seconds until the next attempt after *error*, None when there is to be none."""
    policy = task.retry_policy
    if attempts > policy.max_retries:
        return None
    if isinstance(error, Retry):
        if error.after is not None:
            return error.after
    elif not isinstance(error, policy.retry_on):
        return None
    return policy.delay_before(attempts, random.random())


def _traceback_text(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(
            type(error), error, _beyond_us(error.__traceback__), limit=-_FRAMES
        )
    except BaseException as second:  # no memory, or an error that is not what it seems
        return f"<traceback cannot be shown: {type(second).__name__}>"
    return "".join(lines)[-_LONGEST_TRACEBACK:]


def stack_text(frame: FrameType | None) -> str:
    """Return the stack that ends in *frame*, from the function of the task on."""
    if frame is None:
        return "a thread that has gone"
    frames = traceback.extract_stack(frame)
    ours = [place for place, each in enumerate(frames) if each.filename == __file__]
    theirs = frames[ours[-1] + 1 :] if ours else frames
    return "".join(traceback.format_list(theirs[-_FRAMES:]))[-_LONGEST_TRACEBACK:]


def _beyond_us(frames: TracebackType | None) -> TracebackType | None:
    """Return *frames* without those of this module, which come first."""
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames
