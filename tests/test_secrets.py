"""Secrets stay where they are, and nobody who can choose a text forges or hides a line of the log.

Arguments, events, results and locals may be secret; the texts of errors too, see ``redact``.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    Gate,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    configure_logging,
    current_execution,
)
from background_tasks.logger import logger
from background_tasks.testing import InlineScheduler
from tests.conftest import Elsewhere, Watch
from tests.conftest import Gate as TaskGate

SECRET = "hush-hush"


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """Put the library's logger back as it was."""
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def _work(*_: object, **__: object) -> str:
    return SECRET


def _fail(given: str, **_: object) -> None:
    local = given + "!"
    raise ValueError(f"of {len(local)} characters")


# What is shown


def test_nothing_secret_is_shown_or_told() -> None:
    """In no repr, table, dict, log line or change, whatever the run has come to."""
    lines, plain, seen = io.StringIO(), io.StringIO(), io.StringIO()
    configure_logging(level=logging.DEBUG, stream=lines)
    logger.addHandler(_with_all_fields(plain))
    scheduler = InlineScheduler()

    def look(*_: object) -> None:
        views: list[Any] = [
            scheduler, str(scheduler), scheduler.running, scheduler.tasks, scheduler.stats(),
            scheduler.upcoming(), scheduler.ready(), scheduler.health(), scheduler.overview(),
            [task.execution_hist for task in scheduler.tasks.values()],
            [task.triggers for task in scheduler.tasks.values()],
            [run.to_dict() for runs in scheduler.running.values() for run in runs],
            [each.to_dict() for each in scheduler.ready()],
            [each.to_dict() for each in scheduler.upcoming()],
            current_execution(),
        ]  # fmt: skip
        print(views, file=seen)

    def told(change: Change) -> None:
        print(change, change.to_dict(), file=seen)

    scheduler.add_listener(told)
    changed = EventTrigger()
    policy = RetryPolicy(max_retries=1, delay=60)
    hidden: dict[str, Any] = {"args": [SECRET], "kwargs": {"key": SECRET}}
    scheduler.add_task(Task("works", _work, triggers=[changed], **hidden))
    scheduler.add_task(Task("fails", _fail, triggers=[PeriodicTrigger(30)], **hidden))
    scheduler.add_task(Task("again", _fail, retry_policy=policy, **hidden))
    scheduler.add_task(Task("looks", look, args=[SECRET]))
    for task_id in range(4):
        scheduler.release_task(task_id, SECRET)
    changed.fire(SECRET)
    look()
    scheduler.clock.advance(seconds=90)
    look()
    for task_id in range(4):
        scheduler.remove_task(task_id)
    look()

    assert scheduler.stats().failed == 5
    assert scheduler.stats().succeeded == 3
    for text in (lines, plain, seen):
        assert "works" in text.getvalue()
        assert SECRET not in text.getvalue()


def _with_all_fields(stream: io.StringIO) -> logging.Handler:
    """Return a handler that writes each record as the text of all that is in it."""

    class All(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return str(vars(record))

    handler = logging.StreamHandler(stream)
    handler.setFormatter(All())
    return handler


class Unpicklable:
    """An argument that knows a secret and cannot be sent."""

    def __init__(self) -> None:
        """Know it."""
        self.key = SECRET

    def __reduce__(self) -> str:
        """Raise."""
        raise TypeError("cannot be pickled")

    def __call__(self) -> None:
        """Do nothing."""

    def method(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        """Show it, which nobody should ask for."""
        return f"Unpicklable({self.key!r})"


def _nothing() -> None:
    pass


async def _coroutine(_: object) -> None:
    pass


_REFUSED: dict[str, Callable[[], object]] = {
    "args a str": lambda: Task("t", _work, args=SECRET),
    "args a mapping": lambda: Task("t", _work, args={SECRET: 1}),
    "args of one": lambda: Task("t", _work, args=Unpicklable()),  # type: ignore[arg-type]
    "kwargs no mapping": lambda: Task("t", _work, kwargs=[SECRET]),  # type: ignore[arg-type]
    "kwargs keys": lambda: Task("t", _work, kwargs={1: SECRET}),  # type: ignore[dict-item]
    "too many": lambda: Task("t", _nothing, args=[SECRET]),
    "partial of too many": lambda: Task("t", partial(_work, SECRET), kwargs={"": 1}, args=1),  # type: ignore[arg-type]
    "method of an object": lambda: Task("t", Unpicklable().method, args=[SECRET]),
    "an object": lambda: Task("t", Unpicklable(), args=[SECRET]),
    "partial of a coroutine": lambda: Task("t", partial(_coroutine, SECRET)),
    "partial of a partial": lambda: Task("t", partial(partial(_coroutine, SECRET), "x")),
    "partial of a method": lambda: Task("t", partial(Unpicklable().method, SECRET)),  # type: ignore[call-arg]
    "unpicklable": lambda: Scheduler(
        1, executor=ProcessPoolExecutor(1)
    ).add_task(Task("t", _work, args=[Unpicklable()])),
}  # fmt: skip


@pytest.mark.parametrize("name", _REFUSED)
def test_a_refusal_shows_no_argument(name: str) -> None:
    """It names the rule and the kind of what was given."""
    with pytest.raises(TypeError) as caught:
        _REFUSED[name]()

    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


class Shy:
    """A callable that ends what asks it for its name."""

    async def __call__(self) -> None:
        """Be awaited by nobody."""

    def __getattr__(self, name: str) -> object:
        """Raise for the name."""
        raise SystemExit(SECRET) if name == "__qualname__" else AttributeError(name)


def test_a_callable_that_has_no_name_is_refused_by_its_type() -> None:
    """Whatever asking it raises."""
    with pytest.raises(TypeError, match="got the coroutine function of type 'Shy'"):
        Task("t", Shy())


# What redact sees


class Broken(Trigger):
    """One of the user's that tells a secret."""

    def is_ready(self) -> bool:
        """Raise."""
        raise ValueError(SECRET)

    def reset(self) -> None:
        """Do nothing."""


class Untold:
    """A result that tells a secret when it is to be sent."""

    def __reduce__(self) -> str:
        """Raise."""
        raise ValueError(SECRET)


def _tell() -> None:
    raise OSError(SECRET)


def _sense() -> float:
    raise OSError(SECRET)


def _make() -> Any:
    raise OSError(SECRET)


def _give() -> Untold:
    return Untold()


def _redact(text: str) -> str:
    return text.replace(SECRET, "***")


def test_the_stack_of_a_stuck_run_is_redacted(gate: TaskGate) -> None:
    """It has lines of the source, which may hold what is secret."""
    scheduler = Scheduler(1, redact=_redact, stuck_after=0.01, tick_interval=0.01)
    watch = Watch(scheduler)

    def login(secret: str) -> None:
        gate()

    with scheduler:
        scheduler.release_task(
            scheduler.add_task(Task("t", lambda: login("hush-hush"), timeout=0.01)).id
        )
        watch.wait_for(ChangeKind.RUN_STUCK)
        gate.leave.set()

    (reason,) = [each.reason for each in watch.changes if each.kind is ChangeKind.RUN_STUCK]
    assert 'login("***")' in reason
    assert SECRET not in reason


def test_every_text_of_an_error_is_redacted(internal_errors: list[str]) -> None:
    """Of a function, a listener, a trigger, a sensor, a factory and of the scheduler itself."""
    text = io.StringIO()
    logger.addHandler(_with_all_fields(text))
    logger.setLevel(logging.DEBUG)
    told: list[object] = []

    def listen(change: Change) -> None:
        told.append(change)
        _tell()

    scheduler = Scheduler(
        1, redact=_redact, gates=[Gate(_sense, close=1, reopen=0)], executor=_make
    )
    scheduler.add_listener(listen)
    scheduler.add_task(Task("broken", int, triggers=[Broken()]))
    task = scheduler.add_task(Task("t", _tell))
    execution = scheduler.run_task(task.id)
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    waiting = scheduler.ready()
    scheduler._report(RuntimeError(SECRET))
    internal_errors.clear()
    assert scheduler.stop(10)

    assert execution.status == Status.FAILED
    for where in (text.getvalue(), str(told), str(waiting), execution.error, execution.traceback):
        assert "***" in where or where == str(waiting)
        assert SECRET not in where


def test_why_a_result_was_left_behind_is_redacted() -> None:
    """It is the text of an error, though the run has succeeded."""
    told: list[Change] = []
    scheduler = Scheduler(1, redact=_redact, executor=Elsewhere())
    scheduler.add_listener(told.append)

    execution = scheduler.run_task(scheduler.add_task(Task("t", _give)).id)

    assert execution.status == Status.SUCCESS
    assert told[-1].reason == "its result was left behind: ValueError: ***"


# Lines of a log

EVIL = "x\nERROR:root:forged\r\x1b[2J\u2028\x00"
Evil = type(EVIL.replace("\x00", ""), (ValueError,), {"__module__": "m"})


class _Named(Trigger):
    def is_ready(self) -> bool:
        raise Evil(EVIL)

    def reset(self) -> None:
        pass


_Named.__name__ = _Named.__qualname__ = EVIL.replace("\x00", "")


_NAMES: dict[str, Callable[[], object]] = {
    "task": lambda: Task(EVIL, int),
    "lane of a task": lambda: Task("t", int, lane=EVIL),
    "resource of a task": lambda: Task("t", int, resources={EVIL: 1}),
    "lane": lambda: Scheduler(2, lanes={EVIL: 1}),
    "capacity": lambda: Scheduler(2, capacity={EVIL: 1}),
    "gate": lambda: Gate(_sense, name=EVIL, close=1, reopen=0),
    "unit": lambda: Gate(_sense, unit=EVIL, close=1, reopen=0),
    "decorated": lambda: Scheduler(1).task(EVIL),
}


@pytest.mark.parametrize("what", _NAMES)
def test_a_name_that_could_forge_a_line_is_refused(what: str) -> None:
    """In words that could not either."""
    with pytest.raises(ValueError, match="printable characters") as caught:
        _NAMES[what]()

    assert str(caught.value).isprintable()


@pytest.mark.parametrize("is_json", [True, False], ids=["json", "text"])
def test_no_text_forges_or_hides_a_line(is_json: bool, internal_errors: list[str]) -> None:
    """Whatever errors, their classes, triggers and listeners are called: a line each."""
    stream = io.StringIO()
    records: list[logging.LogRecord] = []
    if is_json:
        handler = configure_logging(level=logging.DEBUG, stream=stream)
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    handler.addFilter(lambda record: bool(records.append(record)) or True)  # type: ignore[func-returns-value]

    def listen(change: Change) -> None:
        raise Evil(EVIL)

    def fail() -> float:
        raise Evil(EVIL)

    listen.__qualname__ = fail.__qualname__ = fail.__name__ = EVIL
    scheduler = InlineScheduler(gates=[Gate(fail, name="gate", close=1, reopen=0)])
    scheduler.add_listener(listen)
    scheduler.add_task(Task("named", int, triggers=[_Named()]))
    scheduler.run_task(scheduler.add_task(Task("fails", fail)).id)
    scheduler.run_tasks()
    scheduler._report(Evil(EVIL))
    internal_errors.clear()

    lines = stream.getvalue().split("\n")[:-1]
    assert len(lines) == len(records) > 10
    assert not any(line.startswith("ERROR:root") for line in lines)
    if is_json:
        assert [json.loads(line)["message"] for line in lines] == [r.getMessage() for r in records]
        assert stream.getvalue().isascii()
    else:
        assert all(line.isprintable() for line in lines)


def test_what_is_shown_is_one_line() -> None:
    """Also of a task whose trigger has raised an evil error."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("named", int, triggers=[_Named()]))
    failed = scheduler.add_task(Task("fails", lambda: (_ for _ in ()).throw(Evil(EVIL))))
    scheduler.run_task(failed.id)
    scheduler.run_tasks()

    assert task.quarantine is not None
    for text in (repr(task), repr(failed.execution_hist), repr(scheduler)):
        assert text.isprintable()
    assert all(line.isprintable() for line in str(scheduler).split("\n"))
