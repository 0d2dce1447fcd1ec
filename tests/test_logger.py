"""The log: nothing configured on import, JSON lines on request, one line a change."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from freezegun import freeze_time

from background_tasks import (
    ChangeKind,
    EventTrigger,
    Execution,
    Gate,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Task,
    Trigger,
    configure_logging,
    current_execution,
)
from background_tasks.logger import log, log_or_print, logger, lost_lines
from background_tasks.primitives import REAL
from tests.conftest import Watch

LONG_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """Put the library's logger back as it was."""
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_nothing_is_configured_on_import() -> None:
    """There is a NullHandler and no level of its own."""
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    assert logger.level == logging.NOTSET
    assert logger.propagate


def test_lines_of_a_run_that_fails_at_first() -> None:
    """Each change of the run is one JSON line with stable fields."""
    lines = io.StringIO()
    configure_logging(level="DEBUG", stream=lines)
    scheduler = Scheduler(1)
    task = Task("fetch", _fail, triggers=[OneTimeTrigger(0)], retry_policy=RetryPolicy(1))
    scheduler.add_task(task)
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    assert scheduler.stop()

    records = [json.loads(line) for line in lines.getvalue().splitlines()]

    assert [(r["event.name"], r["severity_text"]) for r in records] == [
        ("background_tasks.task.added", "DEBUG"),
        ("background_tasks.run.released", "DEBUG"),
        ("background_tasks.run.started", "DEBUG"),
        ("background_tasks.attempt.failed", "DEBUG"),
        ("background_tasks.run.retrying", "WARNING"),
        ("background_tasks.run.started", "DEBUG"),
        ("background_tasks.attempt.failed", "DEBUG"),
        ("background_tasks.run.failed", "ERROR"),
        ("background_tasks.task.removed", "DEBUG"),
        ("background_tasks.stopped", "INFO"),
    ]
    assert [r["message"] for r in records][3:] == [
        "attempt failed",
        "run retrying",
        "run started",
        "attempt failed",
        "run failed",
        "task removed",
        "scheduler stopped",
    ]
    failed = records[7]
    assert failed["logger"] == "background_tasks"
    assert failed["background_tasks.task.name"] == "fetch"
    assert failed["background_tasks.run.attempt"] == 2
    assert failed["exception.type"] == "OSError"
    assert failed["exception.message"] == "no route"
    assert "in _fail" in failed["exception.stacktrace"]
    assert failed["background_tasks.run.duration_s"] >= 0
    assert failed["timestamp"].endswith("+00:00")


def test_arguments_events_and_results_are_not_logged() -> None:
    """They may be secret."""
    lines = io.StringIO()
    configure_logging(level=logging.DEBUG, stream=lines)
    scheduler = Scheduler(1)
    changed = EventTrigger()
    task = Task("t", lambda key: key, args=["hush-args"], triggers=[changed])
    scheduler.add_task(task)
    changed.fire("hush-event")
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    assert scheduler.stop()

    assert "hush" not in lines.getvalue()
    assert "hush" not in repr(task) + repr(task.execution_hist) + repr(changed)


def test_a_run_that_stands_for_others_says_so() -> None:
    """How many occurrences were missed is in the line, and that it had not been started yet."""
    lines = io.StringIO()
    configure_logging(level="DEBUG", stream=lines)
    with freeze_time("2026-03-01") as frozen:
        scheduler = Scheduler(1)
        grace = timedelta(seconds=5)
        every = PeriodicTrigger(interval=60)
        scheduler.add_task(Task("t", int, triggers=[every], misfire_grace=grace))
        frozen.tick(150)
        scheduler.run_tasks()
        scheduler.stop()

    skipped, missed = map(json.loads, lines.getvalue().splitlines()[1:3])

    assert skipped["event.name"] == "background_tasks.occurrence.skipped"
    assert skipped["background_tasks.skipped"] == 1
    assert skipped["background_tasks.reason"] == "the run of a later one stands for it"
    assert missed["event.name"] == "background_tasks.run.missed"
    assert missed["background_tasks.run.missed"] == 1
    assert missed["background_tasks.run.lateness_s"] == 30
    assert "background_tasks.run.queue_time_s" not in missed


def test_the_lines_of_a_run_name_its_span() -> None:
    """At the top, where those who join logs and traces look for it."""
    lines = io.StringIO()
    configure_logging(stream=lines)

    @contextmanager
    def traced(execution: Execution) -> Iterator[None]:
        execution.set_span("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
        yield

    scheduler = Scheduler(1, around=[traced])
    scheduler.run_task(scheduler.add_task(Task("t", int)).id)

    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert line["span_id"] == "b7ad6b7169203331"


def test_a_line_says_what_came_of_a_run_and_of_an_occurrence() -> None:
    """In the words of the metrics, with the span that the attempt had."""
    lines = io.StringIO()
    configure_logging(level="DEBUG", stream=lines)

    def trace(execution: Execution) -> AbstractContextManager[None]:
        execution.set_span("a" * 32, "b" * 16, "01")
        return nullcontext()

    with freeze_time("2026-03-01") as frozen:
        scheduler = Scheduler(1, around=[trace])
        task = scheduler.add_task(Task("t", _fail, triggers=[PeriodicTrigger(interval=60)]))
        task.enabled = False
        frozen.tick(60)
        scheduler.run_tasks()
        scheduler.run_task(task.id)
        scheduler.stop()

    by_name = {line["event.name"]: line for line in map(json.loads, lines.getvalue().splitlines())}

    skipped = by_name["background_tasks.occurrence.skipped"]
    assert skipped["background_tasks.disposition"] == "skipped"
    assert skipped["background_tasks.reason"] == "its task is disabled"
    failed = by_name["background_tasks.run.failed"]
    assert failed["background_tasks.run.outcome"] == "failure"
    assert failed["error.type"] == "OSError"
    assert [failed[name] for name in ("trace_id", "span_id", "trace_flags")] == [
        "a" * 32,
        "b" * 16,
        "01",
    ]
    assert "background_tasks.run.outcome" not in by_name["background_tasks.attempt.failed"]


def test_lines_as_ecs_has_them() -> None:
    """By one argument; what a run took is in nanoseconds."""
    lines = io.StringIO()
    configure_logging(stream=lines, naming="ecs")
    scheduler = Scheduler(1)
    scheduler.run_task(scheduler.add_task(Task("t", int)).id)
    scheduler.stop()

    succeeded, stopped = map(json.loads, lines.getvalue().splitlines())

    assert succeeded["event.action"] == "background_tasks.run.succeeded"
    assert succeeded["log.level"] == "info"
    assert succeeded["event.outcome"] == "success"
    took = succeeded["background_tasks.run.duration_s"]
    assert succeeded["event.duration"] == pytest.approx(1e9 * took)
    assert isinstance(succeeded["event.duration"], int)
    assert stopped["message"] == "scheduler stopped"
    assert "event.outcome" not in stopped


@pytest.mark.parametrize(
    ("naming", "error", "message"),
    [
        ("ECS", ValueError, 'naming must be "otel" or "ecs", got \'ECS\''),
        (None, TypeError, "naming must be a str, got None"),
    ],
)
def test_a_naming_that_there_is_not(naming: Any, error: type[Exception], message: str) -> None:
    """It is refused, and nothing is configured."""
    before = list(logger.handlers)

    with pytest.raises(error, match=message):
        configure_logging(naming=naming)

    assert logger.handlers == before


def test_what_has_to_be_seen_is_printed_where_there_is_no_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To standard error, with its fields; not while a handler of anybody's is there."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)

    log_or_print(logging.ERROR, "run abandoned", {"background_tasks.task.name": "a\nb"})
    assert err.getvalue() == "background_tasks: run abandoned: task.name='a\\nb'\n"

    monkeypatch.setattr(root, "handlers", [logging.Handler()])
    log_or_print(logging.ERROR, "run abandoned", {})
    assert err.getvalue().count("\n") == 1


def test_nothing_is_printed_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything raised where nobody could see it."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    logger.setLevel(logging.CRITICAL)
    log_or_print(logging.ERROR, "run abandoned", {})
    logger.setLevel(logging.NOTSET)
    monkeypatch.setattr(logger, "propagate", False)
    assert err.getvalue() == ""

    err.close()
    log_or_print(logging.ERROR, "run abandoned", {})
    monkeypatch.setattr(sys, "stderr", None)
    log_or_print(logging.ERROR, "run abandoned", {})


def test_configured_twice_writes_once() -> None:
    """The second call replaces the first's handler."""
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(level="warning", stream=second)

    logger.info("too quiet")
    logger.warning("loud")

    assert first.getvalue() == ""
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["loud"]


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream, lines go there."""
    configure_logging()

    logger.info("here")

    assert json.loads(capsys.readouterr().err)["message"] == "here"


def test_a_handler_that_raises_harms_nobody() -> None:
    """Logging never stops a run."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    logger.addHandler(Broken())
    logger.setLevel(logging.DEBUG)
    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", int))

    assert scheduler.run_task(task.id).status == "SUCCESS"
    log(logging.INFO, "still here", {})


@pytest.mark.parametrize(
    "error",
    [RuntimeError("disk full"), RecursionError(), MemoryError(), SystemExit(1), GeneratorExit()],
    ids=repr,
)
@pytest.mark.parametrize("where", ["handler", "filter"])
def test_what_logging_raises_is_counted(error: BaseException, where: str) -> None:
    """Whatever it is: the caller goes on, the scheduler ticks on, and it is known how often."""
    logger.addHandler(_raising(error, where))
    logger.setLevel(logging.INFO)
    before = lost_lines()

    log(logging.INFO, "lost", {})
    assert lost_lines() == before + 1

    ran = threading.Semaphore(0)
    with Scheduler(1, tick_interval=0.01) as scheduler:
        scheduler.add_task(Task("t", ran.release, triggers=[PeriodicTrigger(interval=0.001)]))
        for _ in range(3):
            assert ran.acquire(timeout=10)
    assert lost_lines() > before + 3


def test_ctrl_c_in_the_log_goes_to_the_caller() -> None:
    """In the main thread, where Python raises it; a handler's own in another thread is lost."""
    logger.addHandler(_raising(KeyboardInterrupt(), "handler"))
    logger.setLevel(logging.INFO)
    before = lost_lines()
    other = threading.Thread(target=log, args=[logging.INFO, "lost", {}])
    other.start()
    other.join(10)
    assert lost_lines() == before + 1

    with pytest.raises(KeyboardInterrupt):
        log(logging.INFO, "interrupted", {})


def test_a_handler_that_blocks_blocks_one_thread_only() -> None:
    """Runs go on, methods return, and nothing is told twice or out of order."""
    entered, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(vars(record)["event.name"].removeprefix("background_tasks."))
            if not entered.is_set():
                entered.set()
                leave.wait(10)

    logger.addHandler(Blocking())
    logger.setLevel(logging.INFO)
    scheduler = Scheduler(2)
    starting = threading.Thread(target=scheduler.start)
    starting.start()
    assert entered.wait(10)
    ran = threading.Event()
    task = scheduler.add_task(Task("t", ran.set))
    scheduler.release_task(task.id)
    assert scheduler.stats().tasks == 1

    assert ran.wait(10)
    assert seen == ["started"]
    leave.set()
    starting.join(10)
    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)
    assert seen == ["started", "run.succeeded", "stopped"]


def test_a_handler_may_call_the_scheduler() -> None:
    """Nothing is logged under a lock: it may look, add, release and remove."""
    said: list[object] = []

    class Calling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if vars(record)["event.name"] == "background_tasks.run.succeeded" and not said:
                other = scheduler.add_task(Task("other", int))
                said.append(scheduler.run_task(other.id).status)
                scheduler.release_task(other.id)
                scheduler.remove_task(other.id)
                said.append(len(scheduler.tasks))
                said.append(scheduler.stop(0))

    logger.addHandler(Calling())
    logger.setLevel(logging.INFO)
    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", int))

    scheduler.run_task(task.id)

    assert said == ["SUCCESS", 1, True]
    assert scheduler.stop(10)


class OwnedLock:
    """A lock that knows which thread holds it."""

    def __init__(self) -> None:
        """Start free."""
        self._lock = threading.Lock()
        self.owner: int | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, or say that it is taken."""
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self.owner = threading.get_ident()
        return taken

    def release(self) -> None:
        """Let it go."""
        self.owner = None
        self._lock.release()

    def locked(self) -> bool:
        """Return whether it is taken."""
        return self._lock.locked()

    def __enter__(self) -> None:
        """Take it."""
        self.acquire()

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        self.release()


def test_nothing_is_logged_under_the_lock() -> None:
    """Whatever is said, by whichever thread: the handler could call the scheduler each time."""
    said: list[str] = []

    class Calling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert lock.owner != threading.get_ident(), record.getMessage()
            said.append(f"{record.getMessage()}, {scheduler.stats().tasks}")

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
            raise AssertionError

    logger.addHandler(Calling())
    logger.setLevel(logging.DEBUG)
    before = lost_lines()
    scheduler = Scheduler(
        2,
        tick_interval=0.01,
        gates=[Gate(lambda: 1, close=2, reopen=1)],
        _primitives=replace(REAL, lock=OwnedLock),
    )
    lock = scheduler._lock
    scheduler.add_listener(lambda _: _fail())  # each time a line of its own
    with scheduler:
        _do_everything(scheduler)

    kinds = {line.partition(",")[0] for line in said}
    assert kinds == {
        "listener failed",
        "scheduler started",
        "task added",
        "task removed",
        "task quarantined",
        "occurrence skipped",
        "run released",
        "run started",
        "run overdue",
        "attempt failed",
        "run retrying",
        "run cancelled",
        "run timed_out",
        "run succeeded",
        "run failed",
        "run missed",
        "run dropped",
        "scheduler stopped",
    }
    assert lost_lines() == before


def _do_everything(scheduler: Scheduler) -> None:
    """Have runs come to each of their ends, and tasks to theirs."""
    add, watch = scheduler.add_task, Watch(scheduler)
    fired = EventTrigger(coalesce=True)
    failing = add(Task("fails", _fail, retry_policy=RetryPolicy(1), triggers=[fired]))
    fired.fire()
    watch.wait_for(ChangeKind.RUN_FAILED)
    failing.enabled = False
    scheduler.release_task(failing.id)
    scheduler.cancel(failing.id)
    scheduler.release_task(failing.id)
    scheduler.remove_task(failing.id)
    add(Task("late", int, triggers=[OneTimeTrigger(at=LONG_AGO)], misfire_grace=1))
    add(Task("slow", _wait_for_the_end, timeout=0.01, triggers=[OneTimeTrigger(0)]))
    watch.wait_for(ChangeKind.RUN_TIMED_OUT)
    every = PeriodicTrigger(interval=0.01, start=LONG_AGO, run_immediately=True)
    add(Task("every", int, triggers=[every], enabled=False))
    watch.wait_for(ChangeKind.OCCURRENCE_SKIPPED)
    scheduler.run_task(add(Task("good", int)).id)
    add(Task("broken", int, triggers=[Broken()]))
    watch.wait_for(ChangeKind.TASK_QUARANTINED)
    assert scheduler.wait_idle(10)


def _wait_for_the_end() -> None:
    execution = current_execution()
    assert execution is not None
    assert execution.wait(10)


class Broken(Trigger):
    """A trigger that cannot say whether it is ready."""

    def is_ready(self) -> bool:
        """Raise."""
        raise OSError("no route")

    def reset(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("naming", ["otel", "ecs"])
def test_no_line_is_lost_under_load(naming: str) -> None:
    """Each change that a listener is told is one line, however many threads make them."""
    lines = io.StringIO()
    configure_logging(level="DEBUG", stream=lines, naming=naming)
    scheduler = Scheduler(4)
    watch = Watch(scheduler)
    before = lost_lines()
    with scheduler:
        tasks = [scheduler.add_task(Task(f"t{i}", _fail, max_instances=4)) for i in range(4)]

        def ask() -> None:
            for task in tasks * 25:
                scheduler.release_task(task.id)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert scheduler.wait_idle(10)
    assert scheduler.wait_idle(10)

    key = "event.name" if naming == "otel" else "event.action"
    written = [json.loads(line)[key] for line in lines.getvalue().splitlines()]
    assert written == [f"background_tasks.{kind}" for kind in watch.kinds()]
    assert written.count("background_tasks.run.failed") == 400
    assert lost_lines() == before


def test_a_listener_that_cannot_be_named_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Its failure is logged all the same, whatever its attributes and its repr raise."""

    class Nameless:
        def __getattribute__(self, name: str) -> object:
            if name == "__qualname__":
                raise SystemExit("no name")
            return super().__getattribute__(name)

        def __repr__(self) -> str:
            raise SystemExit("no repr")

        def __call__(self, change: object) -> None:
            raise ValueError("broken")

    scheduler = Scheduler(1)
    scheduler.add_listener(Nameless())

    assert scheduler.stop()

    failed = vars(caplog.records[-1])
    assert failed["background_tasks.listener"] == "<Nameless that cannot be shown>"
    assert failed["exception.message"] == "broken"


def test_values_that_are_no_json_are_shown() -> None:
    """A field that JSON does not know is written as a short text."""
    lines = io.StringIO()
    configure_logging(stream=lines)

    log(logging.INFO, "odd", {"thing": {1, 2}.__class__})

    assert json.loads(lines.getvalue())["thing"] == "<class 'set'>"


def _raising(error: BaseException, where: str) -> logging.Handler:
    """Return a handler that raises *error*, or whose filter does."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise error

    if where == "handler":
        return Raising()
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(lambda record: _raise(error))
    return handler


def _raise(error: BaseException) -> bool:
    raise error


def _fail() -> None:
    raise OSError("no route")
