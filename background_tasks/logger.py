"""The library's logger, and JSON lines for applications that ask for them.

On import nothing is configured: the logger ``background_tasks`` has a NullHandler and no level.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

from background_tasks.checks import has_method, shown, text
from background_tasks.errors import InvalidTypeError, InvalidValueError
from background_tasks.interrupts import hand_on
from background_tasks.json_lines import LIBRARY, NAMINGS, JsonLines

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["configure_logging", "log", "log_or_print", "logger", "lost_lines"]

logger = logging.getLogger(LIBRARY)
logger.addHandler(logging.NullHandler())

_HANDLER = "background_tasks.json"
_losses = itertools.count(1).__next__  # no lock, which a signal handler could find taken
_lost = 0


def log(level: int, message: str, fields: Mapping[str, object]) -> None:
    """Log a constant *message* with *fields*, whatever a handler or filter raises.

    That is counted, see `lost_lines`: there is nowhere left to report it to. An interrupt
    goes on to the caller.
    """
    try:
        logger.log(level, message, extra=fields)
    except BaseException as error:
        global _lost
        _lost = _losses()
        hand_on(error)


def log_or_print(level: int, message: str, fields: Mapping[str, object]) -> None:
    """Log as `log` does, or print it to standard error in a program that has no log at all.

    For what somebody has to see: the NullHandler keeps logging's own last resort from it.
    """
    if _has_handler():
        log(level, message, fields)
    elif logger.isEnabledFor(level) and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # it is closed: nobody can see it
            print(f"background_tasks: {message}: {_pairs(fields)}", file=sys.stderr, flush=True)


def _pairs(fields: Mapping[str, object]) -> str:
    """Return *fields* in one line, without the prefix that all have."""
    pairs = ((key.removeprefix("background_tasks."), each) for key, each in fields.items())
    return ", ".join(f"{key}={each!r}" for key, each in pairs)


def _has_handler() -> bool:
    """Return whether there is any handler that does something with a record of ours."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(not isinstance(each, logging.NullHandler) for each in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def lost_lines() -> int:
    """Return how many lines were lost in this process because a handler or filter raised."""
    return _lost


def configure_logging(
    *, level: int | str = logging.INFO, stream: TextIO | None = None, naming: str = "otel"
) -> logging.Handler:
    """Write the library's log as JSON lines, one an event; for applications, not for libraries.

    Called again it replaces what it installed before; the handlers of others are left alone, and
    lines still go to them too. Lines of your own are written as well if their logger's name begins
    with ``background_tasks.``, or if you add the handler to it.

    Args:
        level: From which level on, a number or a name such as "DEBUG".
        stream: Where to; standard error by default, or nowhere in a process that has none.
        naming: What the fields are called: "otel", as OpenTelemetry has them, or "ecs", as the
            Elastic Common Schema.

    Returns:
        The handler, so that it can be changed or removed.

    Raises:
        ValueError: No level has that name, or *naming* is another.
        TypeError: *level* is neither a number nor a name, or *stream* cannot be written to.
    """
    number = _level(level)
    out = (sys.stderr or _Nowhere()) if stream is None else stream
    if not has_method(out, "write"):
        raise InvalidTypeError(f"stream must have a write method, got {shown(stream)}")
    if text("naming", naming) not in NAMINGS:
        raise InvalidValueError(f'naming must be "otel" or "ecs", got {shown(naming)}')
    handler: logging.StreamHandler[Any] = logging.StreamHandler(out)
    handler.set_name(_HANDLER)
    handler.setFormatter(JsonLines(naming))
    for installed in list(logger.handlers):
        if installed.get_name() == _HANDLER:
            logger.removeHandler(installed)
    logger.addHandler(handler)
    logger.setLevel(number)
    return handler


class _Nowhere(io.TextIOBase):
    """Where lines go in a process whose standard error was closed."""

    def write(self, text: str) -> int:
        return len(text)


def _level(level: object) -> int:
    if isinstance(level, bool) or not isinstance(level, (int, str)):
        raise InvalidTypeError(f"level must be a number or a name, got {shown(level)}")
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or number < 0:
        raise InvalidValueError(f"level must be that of a log record, got {shown(level)}")
    return number
