"""One attempt: what is called, and what is kept of its end."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from background_tasks import Execution, Retry, RetryPolicy, Task, current_execution
from background_tasks.runner import Runner

_setting: contextvars.ContextVar[str] = contextvars.ContextVar("_setting", default="untouched")


def run(task: Task, attempts: int = 1) -> Any:
    """Make one attempt of *task*, as the so-manieth."""
    return Runner().attempt(Execution(attempts=attempts), task)


def test_arguments_and_result() -> None:
    """The function gets its args and kwargs, and its result is kept."""
    outcome = run(Task("t", dict, args=[[("a", 1)]], kwargs={"b": 2}))

    assert (outcome.results, outcome.error, outcome.retry_after) == ({"a": 1, "b": 2}, "", None)


def test_current_execution() -> None:
    """Inside of the function it is the run's own; outside there is none."""
    execution = Execution(event="e", attempts=1)

    outcome = Runner().attempt(execution, Task("t", current_execution))

    assert outcome.results is execution
    assert current_execution() is None


def test_context_variables_do_not_leak() -> None:
    """What a task sets is gone after it."""
    run(Task("t", _setting.set, args=["leaked"]))

    assert _setting.get() == "untouched"


def test_traceback_starts_at_the_function() -> None:
    """The frames of this library are left out, the task's own are there."""
    outcome = run(Task("t", _fail))

    assert outcome.error == "ValueError: deep down"
    assert "in _fail" in outcome.traceback
    assert "background_tasks/" not in outcome.traceback


def test_traceback_of_a_recursion_is_short() -> None:
    """Only the innermost frames are kept."""
    outcome = run(Task("t", _recurse))

    assert outcome.error.startswith("RecursionError")
    assert len(outcome.traceback) <= 16_000


def test_long_errors_are_cut() -> None:
    """A message of megabytes is not kept whole."""
    outcome = run(Task("t", _raise, args=[ValueError("x" * 1_000_000)]))

    assert len(outcome.error) <= 2_100
    assert len(outcome.traceback) <= 16_000


def test_an_error_that_cannot_be_shown() -> None:
    """One whose __str__ raises, even SystemExit, is recorded all the same."""
    outcome = run(Task("t", _raise, args=[Unshowable()]))

    assert outcome.error == "Unshowable: <cannot be shown>"
    assert "Unshowable" in outcome.traceback


def test_a_traceback_that_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is recorded even when formatting its traceback fails, for want of memory say."""

    def fail(*args: object, **kwargs: object) -> list[str]:
        raise MemoryError

    monkeypatch.setattr("background_tasks.calls.traceback.format_exception", fail)

    outcome = run(Task("t", _fail))

    assert outcome.error == "ValueError: deep down"
    assert outcome.traceback == "<traceback cannot be shown: MemoryError>"


def test_nothing_of_a_failed_call_is_kept_alive() -> None:
    """The locals of the function that raised can be collected at once."""
    kept: list[weakref.ref[Big]] = []

    def fail() -> None:
        big = Big()
        kept.append(weakref.ref(big))
        raise ValueError("with a big local")

    gc.disable()
    try:
        run(Task("t", fail))

        assert kept[0]() is None
    finally:
        gc.enable()


async def _coroutine() -> None:
    pass


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda: _coroutine(), "coroutine"),
        (lambda: _generator(), "generator"),
        (lambda: _async_generator(), "async_generator"),
    ],
    ids=["coroutine", "generator", "async generator"],
)
def test_a_result_that_nobody_would_run(function: Any, kind: str) -> None:
    """It is closed, without a warning, and the attempt has failed."""
    outcome = run(Task("t", function))

    assert outcome.error.startswith("TypeError: the function of a task must do its work")
    assert f"got a {kind}," in outcome.error


@pytest.mark.parametrize(
    ("policy", "error", "attempts", "expected"),
    [
        (RetryPolicy(), ValueError(), 1, None),
        (RetryPolicy(2, 5), ValueError(), 1, 5.0),
        (RetryPolicy(2, 5), ValueError(), 2, 5.0),
        (RetryPolicy(2, 5), ValueError(), 3, None),
        (RetryPolicy(2, 5, backoff=2), ValueError(), 2, 10.0),
        (RetryPolicy(2, 5), SystemExit(), 1, None),
        (RetryPolicy(2, 5, retry_on=(SystemExit,)), SystemExit(), 1, 5.0),
        (RetryPolicy(2, 5, retry_on=(OSError,)), ValueError(), 1, None),
        (RetryPolicy(2, 5, retry_on=(OSError,)), ConnectionError(), 1, 5.0),
        (RetryPolicy(2, 5, retry_on=(OSError,)), Retry(after=7), 1, 7.0),
        (RetryPolicy(2, 5, retry_on=(OSError,)), Retry(), 1, 5.0),
        (RetryPolicy(2, 5), Retry(after=7), 3, None),
        (RetryPolicy(), Retry(after=7), 1, None),
    ],
)
def test_retry_after(
    policy: RetryPolicy, error: BaseException, attempts: int, expected: float | None
) -> None:
    """The policy says whether, and with Retry the function says when."""
    outcome = run(Task("t", _raise, args=[error], retry_policy=policy), attempts)

    assert outcome.retry_after == expected


def test_jitter_is_drawn_for_each_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the jitter is added when half is drawn."""
    monkeypatch.setattr("background_tasks.runner.random.random", lambda: 0.5)
    policy = RetryPolicy(1, delay=5, jitter=2)

    outcome = run(Task("t", _fail, retry_policy=policy))

    assert outcome.retry_after == 6.0


class Big:
    """Something that can be referred to weakly."""


class Unshowable(Exception):  # noqa: N818 - it is no use as an error
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise SystemExit("not me")


def _fail() -> None:
    raise ValueError("deep down")


def _recurse() -> None:
    _recurse()


def _raise(error: BaseException) -> None:
    raise error
