"""``python -m background_tasks run module:scheduler``: a user's scheduler, in the foreground."""

from __future__ import annotations

import logging
import os
import pkgutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import IO, Any, TextIO

from background_tasks.checks import shown
from background_tasks.logger import configure_logging, logger
from background_tasks.scheduler import Scheduler
from background_tasks.signals import caught, wait_for
from background_tasks.snapshot import snapshot
from background_tasks.task import Status
from background_tasks.top import View, load_rich, no_view, watch

__all__ = ["run"]

_KEPT = 64_000  # bytes of what others print that are kept
_MOST_KEPT = 1_000_000  # bytes, about, from which on the oldest are dropped
_SHOWN = 100  # lines of it that are shown in the end
_MOMENT = 0.2  # seconds; what ends within them is not worth a word


class _UnusableError(Exception):
    """What was asked for on the command line cannot be had; the message says why."""


def run(target: str, *, top: bool, status: str | None, grace: float, interval: float) -> int:
    """Run the scheduler that *target* names until SIGINT or SIGTERM; return the exit status.

    Then it is stopped, and what runs is waited for. A second signal ends the process at once.
    Without a logging configuration of the module's own JSON lines go to standard error. While a
    view is on the terminal, what would be printed over it is held back: its last lines are shown
    in the end.

    Args:
        target: ``module:name`` of a Scheduler, or of a function that makes one.
        top: Show the live view; q ends it, and the scheduler with it.
        status: Where to serve its status, see `Scheduler.serve_status`; None is nowhere.
        grace: Seconds that running tasks are waited for.
        interval: Seconds from one picture of the view to the next.

    Returns:
        128 and the number of the signal, 0 after q, 2 when it could not begin.

    Raises:
        MissingExtraError: *top* needs rich, which is not installed.
        Exception: What the module raises when it is imported, or the function.
    """
    if top:
        load_rich()
    with caught() as signals, ExitStack() as stack:
        try:
            if top and no_view():
                raise _UnusableError("--top needs a terminal that can move the cursor")
            scheduler = _load(target)
            if status is not None:
                stack.enter_context(_served(scheduler, status))
        except _UnusableError as error:
            print(f"background-tasks run: {error}", file=sys.stderr)
            return 2
        _log_unless_configured()
        scheduler.start()
        try:
            received = _view(scheduler, target, interval, signals) if top else wait_for(signals)
        finally:
            _stop(scheduler, grace, signals)
    return 0 if received is None else 128 + received


# The beginning


def _load(target: str) -> Scheduler:
    """Return the scheduler that *target* names.

    It is the user's own command line, so importing the module, which runs its code, is what was
    asked for.
    """
    module, _, name = target.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise _UnusableError(f"TARGET must be module:name, got {target!r}")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())  # as python -m does, and the installed command does not
    found = _resolved(module, name)
    if isinstance(found, Scheduler):
        return found
    if not callable(found) or isinstance(found, type):
        raise _UnusableError(
            f"{target} must be a Scheduler or a function that returns one, got {shown(found)}"
        )
    made = found()
    if not isinstance(made, Scheduler):
        raise _UnusableError(f"{target}() must return a Scheduler, got {shown(made)}")
    return made


def _resolved(module: str, name: str) -> Any:
    try:
        pkgutil.resolve_name(f"{module}:")
    except ModuleNotFoundError as error:
        if error.name != module and not module.startswith(f"{error.name}."):
            raise  # one that the module itself needs
        raise _UnusableError(f"there is no module {module!r}") from None
    try:
        return pkgutil.resolve_name(f"{module}:{name}")
    except AttributeError:
        raise _UnusableError(f"the module {module!r} has no {name!r}") from None


def _served(scheduler: Scheduler, path: str) -> Any:
    try:
        return scheduler.serve_status(path)
    except (ValueError, OSError) as error:
        raise _UnusableError(f"--status: {error}") from None


def _log_unless_configured() -> None:
    handlers = [*logging.getLogger().handlers, *logger.handlers]
    if all(isinstance(each, logging.NullHandler) for each in handlers):
        configure_logging(level=logging.INFO)


# The view


def _view(
    scheduler: Scheduler, target: str, interval: float, signals: SimpleQueue[int]
) -> int | None:
    """Show the scheduler until q or a signal, whose number is returned."""
    with tempfile.TemporaryFile() as held:

        def look() -> dict[str, Any]:
            _bound(held)
            return snapshot(scheduler)

        try:
            with _screen(held) as screen:
                return watch(View(look, target), screen, interval=interval, signals=signals)
        finally:
            lines = _end_of(held).splitlines(keepends=True)
            if sys.stderr is not None:  # it is None where it was closed
                sys.stderr.write(b"".join(lines[-_SHOWN:]).decode(errors="replace"))
                sys.stderr.flush()


@contextmanager
def _screen(held: IO[bytes]) -> Iterator[TextIO]:
    """Yield the terminal alone: what others print to it goes to *held* meanwhile.

    Whoever they are: a task, a log handler, a library in C, a program that was started.
    """
    _flush()
    terminals = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
    try:
        for number in terminals:
            os.dup2(held.fileno(), number)
        encoding = sys.stdout.encoding
        with open(os.dup(terminals[1]), "w", encoding=encoding, errors="replace") as screen:
            yield screen
    finally:
        _flush()
        for number, terminal in terminals.items():
            os.dup2(terminal, number)
            os.close(terminal)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _end_of(held: IO[bytes]) -> bytes:
    number = held.fileno()
    return os.pread(number, _KEPT, max(0, os.fstat(number).st_size - _KEPT))


def _bound(held: IO[bytes]) -> None:
    """Keep no more than the end of *held* once it is large; who writes to it shares its offset."""
    number = held.fileno()
    if os.fstat(number).st_size > _MOST_KEPT:
        kept = _end_of(held)
        os.ftruncate(number, 0)
        os.lseek(number, 0, os.SEEK_SET)
        os.write(number, kept)


# The end


def _stop(scheduler: Scheduler, grace: float, signals: SimpleQueue[int]) -> None:
    """Stop, and wait for what runs; another signal ends the process at once."""

    def wait() -> None:
        scheduler.stop(grace)
        signals.put(0)

    threading.Thread(target=wait, name="background_tasks-stop", daemon=True).start()
    received = wait_for(signals, _MOMENT)
    if received is None:
        _say(f"waiting up to {grace:g} s for {_names(scheduler)}; another signal ends at once")
        received = wait_for(signals)
    if received:
        signal.signal(received, signal.SIG_DFL)
        signal.raise_signal(received)
    left = _names(scheduler)
    if left:
        scheduler._exit_grace = 0.0  # it has been waited for
        _say(f"ended without waiting any longer for {left}")


def _names(scheduler: Scheduler) -> str:
    """Return the names of the tasks that run."""
    runs = [each for runs in scheduler.running.values() for each in runs]
    return ", ".join(each.task_name for each in runs if each.status is Status.RUNNING)


def _say(text: str) -> None:
    print(f"background-tasks run: {text}", file=sys.stderr, flush=True)
