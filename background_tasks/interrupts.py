"""What is for whoever called us: Ctrl-C, and what a signal handler raises.

Python raises these in the main thread wherever that is: in a listener, in a function that is being
called, in the middle of our own code. So they are no error of what they come up in.
"""

from __future__ import annotations

import functools
import signal
import threading
from types import CodeType

__all__ = ["hand_on", "is_interrupt", "is_main_thread"]


def is_interrupt(error: BaseException) -> bool:
    """Return True for Ctrl-C, and for what a signal handler has raised, in the main thread.

    A handler is known by its frame in the traceback, so a function that is one counts as one
    whoever calls it. One that is written in C leaves no frame: of such only KeyboardInterrupt is
    known, which the default handler of SIGINT raises.
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


def _was_in_a_handler(error: BaseException) -> bool:
    try:
        handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    except Exception:  # there is no memory to find out; CPython may call that a SystemError
        return False
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code in handlers:
            return True
        step = step.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    """Return the code that Python runs for a handler; None if there is none in Python."""
    if not callable(handler):
        return None  # SIG_DFL and the like: members of an Enum, whose class can be called
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)  # of a method
    for each in (function, type(function).__call__):
        code = getattr(each, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
