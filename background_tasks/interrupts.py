"""What is for whoever called us: Ctrl-C, and what a signal handler raises.

Python raises these in the main thread wherever that is: in a listener, in a function that is being
called, in the middle of our own code. So they are no error of what they come up in.
"""

from __future__ import annotations

import threading
from types import FrameType

__all__ = ["hand_on", "interrupt_of", "is_interrupt", "is_main_thread"]

_VARARGS = 0x04  # inspect.CO_VARARGS


def is_interrupt(error: BaseException) -> bool:
    """Return True for Ctrl-C, and for what a signal handler has raised, in the main thread.

    A handler is known by what Python gives it: the frame that it interrupts, which is the one
    before it in the traceback. One that is written in C has no frame there: of such only
    KeyboardInterrupt is known, which the default handler of SIGINT raises.
    """
    if not is_main_thread():
        return False
    return isinstance(error, KeyboardInterrupt) or _was_in_a_handler(error)


def is_main_thread() -> bool:
    """Return whether the calling thread is the one in which Python calls signal handlers."""
    return threading.get_ident() == threading.main_thread().ident


def hand_on(error: BaseException) -> None:
    """Raise *error* again if it is for whoever called us."""
    if is_interrupt(error):
        raise error


def interrupt_of(error: BaseException) -> BaseException | None:
    """Return the interrupt that *error* is, or that one of `threading` was made of; or None.

    A Condition that is interrupted says instead that its lock is not held.
    """
    before = error.__context__
    if is_interrupt(error):
        return error
    return before if before is not None and is_interrupt(before) else None


def _was_in_a_handler(error: BaseException) -> bool:
    before: FrameType | None = None
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if before is not None and _was_given(frame, before):
            return True
        before, step = frame, step.tb_next
    return False


def _was_given(frame: FrameType, other: FrameType) -> bool:
    """Return whether *frame* is that of a call with the *other* among its arguments."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _VARARGS)
    names = code.co_varnames[:count]
    if not names:
        return False
    values = frame.f_locals
    # No generators: CPython 3.12.1 and 3.13.0 crash when there is no memory for one.
    for name in names:
        value = values.get(name)
        for each in value if type(value) is tuple else (value,):
            if each is other:
                return True
    return False
