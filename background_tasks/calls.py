"""One call of a task's function, where it runs: in a thread here or on the far side.

Whoever makes the call catches what it raises. Of an error only text is kept, since an exception
holds on to every local of every frame it passed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from functools import partial
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType, TracebackType

from background_tasks.interrupts import hand_on
from background_tasks.task import (
    Execution,
    running_events,
    running_execution,
    running_function,
)

__all__ = ["Around", "call_function", "call_within", "stack_text", "traceback_text"]

_FRAMES = 20  # the innermost ones; a RecursionError has thousands
_LONGEST_TRACEBACK = 16_000  # characters
# Makes what is to be around an attempt, which is of the run that is given to it.
Around = Callable[[Execution], AbstractContextManager[object]]
_NOT_DONE = (CoroutineType, GeneratorType, AsyncGeneratorType)


def call_function(
    execution: Execution,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    events: Callable[[], object] | None = None,
    around: Iterable[Around] = (),
) -> object:
    """Return ``function(*args, **kwargs)``, called for *execution*.

    The call has a context of its own, so what it sets in context variables is gone after it. In
    the caller of ``run_task`` the context is a copy of the caller's. *events* makes what
    ``Execution.wait`` waits on; None is `Event`. *around* is as in `call_within`.

    Raises:
        TypeError: What it returned would have to be awaited or iterated.
        BaseException: What it raised.
    """
    if not around:
        return copy_context().run(_call, execution, function, args, kwargs, events)
    # No closure: what one needs of this function would cost every call 0.1 us.
    call = partial(_call, execution, function, args, kwargs, events)
    return copy_context().run(_within, execution, function, call, around)


def call_within(
    execution: Execution,
    function: Callable[..., object],
    call: Callable[[], object],
    around: Iterable[Around],
) -> object:
    """Return ``call()``, made inside the context managers that *around* makes, the first outermost.

    In a context of its own. *call* has *function* called somewhere. None is returned when one of
    the context managers swallows what *call* raised.
    """
    return copy_context().run(_within, execution, function, call, around)


def _within(
    execution: Execution,
    function: Callable[..., object],
    call: Callable[[], object],
    around: Iterable[Around],
) -> object:
    running_execution.set(execution)
    running_function.set(function)
    with ExitStack() as stack:
        for make in around:
            stack.enter_context(make(execution))
        return call()
    return None  # one of them swallowed the error


def _call(
    execution: Execution,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    events: Callable[[], object] | None,
) -> object:
    running_execution.set(execution)
    if events is not None:
        running_events.set(events)
    results = function(*args, **kwargs)
    if results is not None and isinstance(results, _NOT_DONE):
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


def traceback_text(error: BaseException) -> str:
    """Return the traceback of *error* from the function on: its last 16,000 characters."""
    try:
        lines = traceback.format_exception(
            type(error), error, _beyond_us(error.__traceback__), limit=-_FRAMES
        )
    except BaseException as second:  # no memory, or an error that is not what it seems
        hand_on(second)
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
    """Return *frames* without those up to the function's own; all of them if it is not there."""
    first = frames
    while first is not None and not _is_ours(first):
        first = first.tb_next
    if first is None:
        return frames
    while first is not None and _is_ours(first):
        first = first.tb_next
    return first


def _is_ours(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename == __file__
