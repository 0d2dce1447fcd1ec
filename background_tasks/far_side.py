"""What runs in another process or on another machine, and the plain data it hands back.

An executor's worker imports this module, and with it the package, but nothing that is not in the
standard library. It never raises, and no exception, class or result of the user's travels back as
such: one that the near side cannot make again would cost some executors the whole pool.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from background_tasks.calls import call_function, traceback_text
from background_tasks.checks import error_text
from background_tasks.resources import NO_COST, Cost, meter_of
from background_tasks.task import Execution, Retry

__all__ = ["Report", "call_there", "kind_of", "unpacked"]

_LARGEST_RESULT = 10_000_000  # bytes when pickled; a guess: the history keeps a hundred
_LEFT_BEHIND = "its result was left behind: "


class Report(NamedTuple):
    """How a call ended over there; sent as a plain tuple.

    Attributes:
        error: The error as text, "" when it returned.
        traceback: The traceback as text.
        kinds: The names of the error's class and of its bases, see `kind_of`.
        after: The seconds that a `Retry` asks for.
        results: What it returned, pickled; None is nothing.
        note: Why its result was left behind, "" when it was not.
        cost: What it cost over there.
    """

    error: str = ""
    traceback: str = ""
    kinds: tuple[str, ...] = ()
    after: float | None = None
    results: bytes | None = None
    note: str = ""
    cost: Cost = NO_COST


def call_there(
    token: str,
    execution: Execution,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    keep_results: bool,
    extras: tuple[str, ...] = (),
) -> tuple[Any, ...]:
    """Call ``function(*args, **kwargs)`` and return a `Report` as a plain tuple; never raises.

    Args:
        token: Tells this call from all others, for an executor that takes calls with equal
            arguments for one and the same, as Dask's does unless told otherwise.
        execution: A copy of the run, for ``current_execution``.
        function: The function of the task.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        keep_results: Whether what it returns is to be sent back.
        extras: What is to be measured beside the usual, as far as this machine can.
    """
    meter = meter_of(extras)
    before = meter.read()
    try:
        results = call_function(execution, function, args, kwargs)
    except BaseException as error:  # SystemExit and KeyboardInterrupt included
        return tuple(_report_of(error, meter.spent(before, meter.read())))
    cost = meter.spent(before, meter.read())
    data, note = _packed(results) if keep_results else (None, "")
    return tuple(Report(results=data, note=note, cost=cost))


def _report_of(error: BaseException, cost: Cost) -> Report:
    return Report(
        error=error_text(error),
        traceback=traceback_text(error),
        kinds=tuple(map(kind_of, type(error).__mro__)),
        after=getattr(error, "after", None) if isinstance(error, Retry) else None,
        cost=cost,
    )


def kind_of(kind: type) -> str:
    """Return the name that a class has on both sides: that of its module and its own.

    A process that was spawned calls the script that was started by another name.
    """
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _packed(results: object) -> tuple[bytes | None, str]:
    """Return *results* pickled and "", or None and why not."""
    if results is None:
        return None, ""
    try:
        data = pickle.dumps(results)
    except BaseException as error:  # a foreign __reduce__ may raise anything
        return None, f"{_LEFT_BEHIND}{error_text(error)}"
    if len(data) > _LARGEST_RESULT:
        return None, f"{_LEFT_BEHIND}{len(data)} bytes are more than {_LARGEST_RESULT}"
    return data, ""


def unpacked(report: Report) -> tuple[object, str]:
    """Return what the function returned, and why that was left behind, if it was."""
    if report.results is None:
        return None, report.note
    try:
        return pickle.loads(report.results), ""
    except BaseException as error:  # a foreign __setstate__ may raise anything
        return None, f"{_LEFT_BEHIND}{error_text(error)}"
