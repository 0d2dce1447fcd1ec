"""Faults that schedulers are known for: what a task, a trigger, a listener or the system may do.

Those that belong to one module are tested with it; those of the Go original, the log, the exit
and forks have files of their own.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from importlib.metadata import requires
from pathlib import Path

import pytest

import background_tasks
from background_tasks import (
    AlreadyAddedError,
    Change,
    ChangeKind,
    EventTrigger,
    InvalidTypeError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
)
from background_tasks.clock import utc_now
from background_tasks.logger import lost_lines
from background_tasks.reporter import _fields, _log, _message
from background_tasks.testing import Clock, InlineScheduler
from tests.conftest import Gate, Watch


class Evil(BaseException):
    """An error that cannot be shown and ends what tries."""

    def __str__(self) -> str:
        """Raise."""
        raise SystemExit("evil")

    def __repr__(self) -> str:
        """Raise."""
        raise SystemExit("evil")


class Slippery(str):
    """A text that cannot be cut."""

    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        """Raise."""
        raise RuntimeError("slippery")


class SlipperyError(Exception):
    """An error whose text cannot be cut."""

    def __str__(self) -> str:
        """Return a Slippery."""
        return Slippery("x" * 5000)


class Nameless(type):
    """Makes classes that have no name."""

    def __getattribute__(cls, name: str) -> object:
        """Raise for the name."""
        if name in ("__qualname__", "__name__"):
            raise SystemExit("no name")
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=Nameless):
    """An error whose class cannot be asked its name."""


def _raiser(error: BaseException, takes: int = 0) -> Callable[..., None]:
    def fail() -> None:
        raise error

    def fail_with(_: object) -> None:
        raise error

    return fail_with if takes else fail


# The task function


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Evil(), "Evil: <cannot be shown>"),
        (SlipperyError(), "SlipperyError: " + "x" * 2000),
        (NamelessError("text"), "NamelessError: text"),
        (asyncio.CancelledError(), "CancelledError"),
        (MemoryError(), "MemoryError"),
        (StopIteration(1), "StopIteration: 1"),
    ],
    ids=["evil", "slippery", "nameless", "cancelled", "memory", "stop iteration"],
)
def test_any_error_frees_its_slot(error: BaseException, text: str) -> None:
    """It is recorded as text, whatever showing it raises, and the same slot runs the next task."""
    with Scheduler(1) as scheduler:
        bad = scheduler.add_task(Task("bad", _raiser(error)))
        good = scheduler.add_task(Task("good", int))
        for task in (bad, good):
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert bad.execution_hist[0].error == text
    assert good.execution_hist[0].status == Status.SUCCESS


def test_no_error_is_printed_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even SystemExit is recorded rather than left to the end of the thread."""
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with Scheduler(1) as scheduler:
        for error in (ValueError(), SystemExit(3), KeyboardInterrupt(), Evil()):
            scheduler.release_task(scheduler.add_task(Task("t", _raiser(error))).id)
        assert scheduler.wait_idle(10)
        assert scheduler.stats().failed == 4

    assert seen == []


def test_a_long_chain_of_causes_is_cut(scheduler: Scheduler) -> None:
    """Its end, which is the error itself, is kept."""

    def fail() -> None:
        cause = ValueError("first")
        for number in range(2000):
            error = ValueError(f"number {number}")
            error.__cause__, cause = cause, error
        raise cause

    execution = scheduler.run_task(scheduler.add_task(Task("t", fail)).id)

    assert execution.error == "ValueError: number 1999"
    assert len(execution.traceback) <= 16_000
    assert execution.traceback.endswith("ValueError: number 1999\n")


def test_arguments_are_shared_references(scheduler: Scheduler) -> None:
    """A function that changes one changes it for the next run, as documented."""
    mine: list[int] = []

    def grow(given: list[int]) -> int:
        given.append(len(given))
        return len(given)

    task = scheduler.add_task(Task("t", grow, args=[mine]))

    assert [scheduler.run_task(task.id).results for _ in range(2)] == [1, 2]


# Triggers and listeners


def test_a_trigger_that_blocks_holds_nobody_up() -> None:
    """It is asked under no lock: every method returns and other tasks run meanwhile."""
    asked, leave = threading.Event(), threading.Event()

    class Blocking(Trigger):
        def is_ready(self) -> bool:
            asked.set()
            return not leave.wait(10)

        def reset(self) -> None:
            pass

    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("blocking", int, triggers=[Blocking()]))
        assert asked.wait(10)

        ran = threading.Event()
        other = scheduler.add_task(Task("other", ran.set))
        scheduler.release_task(other.id)
        assert ran.wait(10)
        assert scheduler.stats().tasks == 2
        assert len(scheduler.upcoming()) == 0
        leave.set()


def test_a_slow_trigger_is_told_of_once_a_minute() -> None:
    """It keeps the others from being asked; 50 ms are not slow yet."""
    clock = Clock()
    took = [0.05]

    class Slow(Trigger):
        def is_ready(self) -> bool:
            clock.advance(seconds=took[0])
            return False

        def reset(self) -> None:
            pass

    scheduler = InlineScheduler(clock=clock)
    watch = Watch(scheduler)
    task = scheduler.add_task(Task("patient", int, triggers=[Slow()]))
    scheduler.run_tasks()
    assert "trigger.slow" not in watch.kinds()

    took[0] = 2.5
    for _ in range(30):  # 75 seconds of asking
        scheduler.run_tasks()

    told = [change for change in watch.changes if change.kind is ChangeKind.TRIGGER_SLOW]
    assert len(told) == 2
    assert told[0].task_id == task.id
    assert told[0].reason == "its trigger Slow took 2.500 seconds to answer"
    assert (told[1].at - told[0].at).total_seconds() >= 60


def test_a_slow_trigger_whose_task_is_gone_is_nobodys() -> None:
    """It was removed while it was asked."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock)

    class Leaving(Trigger):
        def is_ready(self) -> bool:
            clock.advance(seconds=1)
            scheduler.remove_task(0)
            return False

        def reset(self) -> None:
            pass

    watch = Watch(scheduler)
    scheduler.add_task(Task("t", int, triggers=[Leaving()]))
    scheduler.run_tasks()

    assert "trigger.slow" not in watch.kinds()


class Undecided:
    """An answer that is neither yes nor no."""

    def __bool__(self) -> bool:
        """Raise."""
        raise SystemExit("undecided")


@pytest.mark.parametrize("answer", [1, "yes", [0], int], ids=repr)
def test_a_trigger_may_answer_with_any_truth(scheduler: Scheduler, answer: object) -> None:
    """What is true means ready; one run a tick comes of it."""
    task = scheduler.add_task(Task("t", int, triggers=[_trigger(lambda: answer)]))

    assert scheduler.run_tasks() == 1
    task.enabled = False  # or it would be ready again and again
    assert scheduler.wait_idle(10)
    assert task.quarantine is None


def test_a_trigger_without_an_answer_is_quarantined(scheduler: Scheduler) -> None:
    """An answer that raises is an error of the trigger."""
    task = scheduler.add_task(Task("t", int, triggers=[_trigger(Undecided)]))

    assert scheduler.run_tasks() == 0
    assert task.quarantine == "its trigger Made raised SystemExit: undecided"


@pytest.mark.parametrize(
    "due",
    [
        float("nan"),
        float("inf"),
        -0.0,
        "tomorrow",
        datetime(2026, 1, 1),  # noqa: DTZ001
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime(2026, 1, 1, tzinfo=timezone.utc),
    ],
    ids=["nan", "inf", "zero", "text", "naive", "before time", "past"],
)
def test_a_trigger_that_lies_about_its_time_is_quarantined(
    scheduler: Scheduler, due: object
) -> None:
    """Anything but an aware datetime that lies ahead is refused; nothing spins."""
    task = scheduler.add_task(Task("t", int, triggers=[_trigger(lambda: False, due)]))

    scheduler.run_tasks()

    assert not task.enabled
    assert task.quarantine is not None
    assert task.quarantine.startswith("its trigger Made raised Invalid")


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), GeneratorExit(), Evil()])
def test_a_listener_may_raise_at_every_change(error: BaseException) -> None:
    """The run is unharmed, the worker lives on, and the other listeners are told all of it."""
    scheduler = Scheduler(1)
    scheduler.add_listener(_raiser(error, takes=1))
    watch = Watch(scheduler)
    with scheduler:
        for _ in range(2):
            task = scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=0)]))
            watch.wait_for(ChangeKind.TASK_REMOVED)
            watch.changes.clear()
            assert task.execution_hist[0].status == Status.SUCCESS


def test_a_listener_that_blocks_holds_up_one_thread_only() -> None:
    """Others leave it their changes; it is told them in order once it returns."""
    entered, leave = threading.Event(), threading.Event()
    seen: list[ChangeKind] = []

    def listen(change: Change) -> None:
        seen.append(change.kind)
        entered.set()
        leave.wait(10)

    scheduler = Scheduler(1)
    scheduler.add_listener(listen)
    starting = threading.Thread(target=scheduler.start)
    starting.start()
    assert entered.wait(10)
    task = scheduler.add_task(Task("t", int))
    scheduler.run_task(task.id)
    assert seen == [ChangeKind.STARTED]

    leave.set()
    starting.join(10)
    assert scheduler.wait_idle(10)
    assert seen[1:] == [
        ChangeKind.TASK_ADDED,
        ChangeKind.RUN_RELEASED,
        ChangeKind.RUN_STARTED,
        ChangeKind.RUN_SUCCEEDED,
    ]
    assert scheduler.stop(10)


@pytest.mark.parametrize("kind", ChangeKind)
def test_no_field_has_a_name_that_logging_takes(
    kind: ChangeKind, scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """Every change can be logged with every field on every Python."""
    caplog.set_level(logging.DEBUG, "background_tasks")
    task = scheduler.add_task(Task("t", _raiser(ValueError("text"))))
    execution = scheduler.run_task(task.id)
    execution.missed = 1
    change = Change(
        kind=kind, at=utc_now(), task_id=0, task_name="t", execution=execution, reason="why"
    )
    before = lost_lines()

    _log(change)

    assert lost_lines() == before
    assert caplog.records[-1].getMessage() == _message(change)
    assert _fields(change).items() <= vars(caplog.records[-1]).items()


# The registry and events


def test_a_task_that_runs_cannot_be_added_again(gate: Gate) -> None:
    """Nor one that was removed meanwhile: an old run never counts for a new one."""
    with Scheduler(1) as scheduler:
        task = scheduler.add_task(Task("t", gate))
        scheduler.release_task(task.id)
        gate.wait_entered()
        scheduler.remove_task(task.id)

        with pytest.raises(AlreadyAddedError):
            scheduler.add_task(task)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]


def test_a_burst_of_signals_that_merge_takes_no_memory(scheduler: Scheduler) -> None:
    """However many are fired, one waits; its run says how many it stands for."""
    changed = EventTrigger(coalesce=True)
    task = scheduler.add_task(Task("t", int, triggers=[changed]))

    for number in range(100_000):
        assert changed.fire(number)

    assert changed.waiting == 1
    assert len(scheduler._engine.rung) == 1
    assert scheduler.run_tasks() == 1
    assert scheduler.wait_idle(10)
    assert task.execution_hist[0].missed == scheduler.stats().skipped == 99_999
    assert task.execution_hist[0].event == 99_999


def test_a_scheduler_that_is_gone_leaves_a_trigger_that_takes_signals() -> None:
    """They wait for nobody, and nothing breaks."""
    changed = EventTrigger()
    scheduler = Scheduler(1)
    scheduler.add_task(Task("t", int, triggers=[changed]))
    assert scheduler.stop()
    del scheduler
    gc.collect()

    assert changed.fire()
    assert changed.waiting == 1


def test_a_task_that_is_added_while_stopped_waits(scheduler: Scheduler) -> None:
    """Nothing of it runs before the next start, which arms it."""
    ran = threading.Event()
    scheduler.start()
    assert scheduler.stop(10)
    scheduler.add_task(Task("t", ran.set, triggers=[OneTimeTrigger(delay=0)]))
    assert scheduler.run_tasks() == 0

    scheduler.start()

    assert ran.wait(10)


def test_a_task_keeps_its_triggers() -> None:
    """They are a tuple that cannot be replaced: its schedule is what it was given."""
    trigger = OneTimeTrigger(delay=60)
    task = Task("t", int, triggers=[trigger])

    with pytest.raises(AttributeError):
        task.triggers = ()  # type: ignore[misc]

    assert task.triggers == (trigger,)


# The lifecycle


def test_a_scheduler_that_nobody_keeps_runs_on() -> None:
    """Until it is stopped, as its thread keeps it."""
    ran = threading.Semaphore(0)
    scheduler = Scheduler(1, tick_interval=0.01)
    scheduler.add_task(Task("t", ran.release, triggers=[PeriodicTrigger(interval=0.001)]))
    scheduler.start()
    kept = weakref.ref(scheduler)
    del scheduler
    gc.collect()

    for _ in range(3):
        assert ran.acquire(timeout=10)
    left = kept()
    assert left is not None
    assert left.stop(10)


def test_a_retry_waits_while_stopped() -> None:
    """It is dropped by no stop, and comes after the resume."""
    scheduler = InlineScheduler()
    retry = RetryPolicy(max_retries=1, delay=60)
    task = scheduler.add_task(Task("t", _raiser(OSError("no route")), retry_policy=retry))
    scheduler.start()
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    assert scheduler.stop()
    scheduler.clock.advance(seconds=90)
    assert scheduler.stats().pending == 1

    scheduler.resume()
    scheduler.run_tasks()

    assert [(run.status, run.attempts) for run in task.execution_hist] == [("FAILED", 2)]


# Size


def test_a_tick_costs_the_same_for_any_number_of_tasks() -> None:
    """While none is due it looks at none of them."""

    def calls(tasks: int) -> int:
        scheduler = InlineScheduler()
        for _ in range(tasks):
            scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=3600)]))
        count = [0]
        before = sys.getprofile()
        sys.setprofile(lambda *_: count.__setitem__(0, count[0] + 1))
        scheduler.run_tasks()
        sys.setprofile(before)
        return count[0]

    assert calls(10) == calls(1000)


def test_an_error_in_the_body_of_with(gate: Gate) -> None:
    """It goes on to the caller once running tasks have ended."""
    ended = threading.Event()
    scheduler = Scheduler(1)

    def work() -> None:
        gate()
        ended.set()

    def body() -> None:
        with scheduler:
            scheduler.release_task(scheduler.add_task(Task("t", work)).id)
            gate.wait_entered()
            gate.leave.set()
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body"):
        body()

    assert ended.is_set()
    assert repr(scheduler).startswith("<Scheduler stopped:")


def test_cycles_of_start_and_stop_leave_nothing_behind() -> None:
    """No thread, no file and no scheduler, without the help of the collector."""
    fds = Path("/proc/self/fd")

    def cycle() -> weakref.ref[Scheduler]:
        ran = threading.Event()
        with Scheduler(2) as scheduler:
            scheduler.add_task(Task("t", ran.set, triggers=[OneTimeTrigger(delay=0)]))
            scheduler.add_task(Task("p", int, triggers=[PeriodicTrigger(interval=60)]))
            assert ran.wait(10)
        return weakref.ref(scheduler)

    cycle()
    gc.collect()
    threads, files = threading.active_count(), len(os.listdir(fds)) if fds.exists() else 0
    for _ in range(50):
        gone = cycle()

    gc.collect()
    assert gone() is None
    assert threading.active_count() == threads
    assert (len(os.listdir(fds)) if fds.exists() else 0) == files


# Security


def test_nothing_is_taken_from_the_environment() -> None:
    """But for what a terminal says of itself."""
    assert _users_of_attribute("environ", "getenv") <= {"top", "table", "frame"}


def test_pickle_is_for_executors_only() -> None:
    """What they send and bring back; nothing is stored by it."""
    assert _users_of("pickle") == {"outside", "far_side"}


def test_there_are_two_dependencies() -> None:
    """Neither is one whose old releases name a package that anybody could have registered."""
    needed = [line for line in requires("background-tasks") or () if "extra ==" not in line]

    names = sorted(re.split("[<>=]", line)[0] for line in needed)
    assert names == ["croniter", "python-json-logger"]
    assert "python-json-logger>=3.3" in needed


def test_secrets_are_taken_out_of_errors(caplog: pytest.LogCaptureFixture) -> None:
    """Before they are kept, logged or told: of a run, of a trigger and of a listener."""
    caplog.set_level(logging.DEBUG, "background_tasks")
    told: list[Change] = []

    class Broken(Trigger):
        def is_ready(self) -> bool:
            raise ValueError("password=hush of a trigger")

        def reset(self) -> None:
            pass

    def listen(change: Change) -> None:
        told.append(change)
        if change.kind is ChangeKind.RUN_FAILED:
            raise ValueError("password=hush of a listener")

    scheduler = Scheduler(1, redact=lambda text: text.replace("hush", "***"))
    scheduler.add_listener(listen)
    task = scheduler.add_task(Task("t", _raiser(ValueError("password=hush"))))
    broken = scheduler.add_task(Task("broken", int, triggers=[Broken()]))
    execution = scheduler.run_task(task.id)
    scheduler.run_tasks()

    assert execution.error == "ValueError: password=***"
    assert execution.traceback.endswith("ValueError: password=***\n")
    assert broken.quarantine == "its trigger Broken raised ValueError: password=*** of a trigger"
    assert "hush" not in "".join(str(vars(record)) for record in caplog.records)
    assert "hush" not in str(told)


@pytest.mark.parametrize(
    ("redact", "text"),
    [
        (_raiser(ValueError("hush"), takes=1), "<redacted: the redact function raised ValueError>"),
        (_raiser(Evil(), takes=1), "<redacted: the redact function raised Evil>"),
        (lambda _: None, "<redacted: the redact function returned NoneType, no str>"),
    ],
    ids=["raises", "evil", "returns nothing"],
)
def test_a_redact_function_that_fails_lets_nothing_through(
    redact: Callable[[str], str], text: str
) -> None:
    """The text is gone rather than shown, and the slot lives on."""
    scheduler = Scheduler(1, redact=redact)

    execution = scheduler.run_task(scheduler.add_task(Task("t", _raiser(OSError("hush")))).id)

    assert (execution.status, execution.error, execution.traceback) == ("FAILED", text, text)


@pytest.mark.parametrize("redact", ["text", lambda: "", 3])
def test_what_cannot_redact_is_refused(redact: Callable[[str], str]) -> None:
    """Where it is written."""
    with pytest.raises(InvalidTypeError, match="redact"):
        Scheduler(1, redact=redact)


# Interpreters

_INTERPRETERS = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
_OTHER = """
    import sys
    import {module} as interpreters

    how = sys.argv[1]
    if sys.version_info >= (3, 13):
        made = interpreters.create(how)
        run = interpreters.exec
    else:
        made = interpreters.create(isolated=how == "isolated")
        run = interpreters.run_string
    code = "import sys; sys.path[:] = " + repr(sys.path) + chr(10) + {code!r}
    failed = run(made, code)
    interpreters.destroy(made)
    assert failed is None, failed
"""
_RUN = """
from background_tasks import *
from background_tasks.testing import InlineScheduler

scheduler = Scheduler(1)
task = scheduler.add_task(Task("t", int))
said = []
try:
    scheduler.start()
    scheduler.release_task(task.id)
    said.append(scheduler.wait_idle(10))
    said.append(scheduler.stop(10))
except RuntimeError as error:
    said.append(type(error).__name__)
said.append(scheduler.run_task(task.id).status)
inline = InlineScheduler()
inline.add_task(Task("t", int, triggers=[PeriodicTrigger(cron_expr="* * * * *")]))
inline.clock.advance(minutes=3)
said.append(inline.stats().succeeded)
print(*said, scheduler.state, flush=True)
"""


def _in_another(how: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a second interpreter of a process of its own."""
    program = textwrap.dedent(_OTHER).format(module=_INTERPRETERS, code=code)
    return subprocess.run(
        [sys.executable, "-c", program, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [("isolated", "RuntimeError SUCCESS 3 new"), ("legacy", "True True SUCCESS 3 stopped")],
)
def test_a_subinterpreter(how: str, said: str) -> None:
    """One that is isolated has no thread for us: `start` says so; the rest does its work."""
    pytest.importorskip(_INTERPRETERS, reason=f"this Python has no {_INTERPRETERS}")
    if _in_another(how, "import zoneinfo").returncode:
        pytest.skip("this Python cannot import zoneinfo in a second interpreter")

    result = _in_another(how, _RUN)

    assert (result.stdout, result.stderr, result.returncode) == (said + "\n", "", 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("socket", {"status"}),  # which the application has to ask for; nothing is read from it
        *((name, set()) for name in ("http", "marshal", "shelve", "importlib", "ctypes")),
    ],
)
def test_no_module_opens_a_door(name: str, expected: set[str]) -> None:
    """No socket is opened but on purpose, nothing is stored or loaded that could be code."""
    assert _users_of(name) == expected


def test_no_module_evaluates_text() -> None:
    """Neither eval nor exec nor compile is called."""
    for path in Path(background_tasks.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__")


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in Path(background_tasks.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path.stem, node


def _users_of(name: str) -> set[str]:
    """Return the modules that import another one."""
    return {module for module, node in _nodes() if name in _imported(node)}


def _users_of_attribute(*names: str) -> set[str]:
    """Return the modules that use an attribute of one of these names."""
    nodes = ((module, node) for module, node in _nodes() if isinstance(node, ast.Attribute))
    return {module for module, node in nodes if node.attr in names}


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    return set()


def _trigger(answer: Callable[[], object], due: object = None) -> Trigger:
    class Made(Trigger):
        def is_ready(self) -> bool:
            return answer()  # type: ignore[return-value]

        def reset(self) -> None:
            pass

        def next_fire_time(self) -> datetime | None:
            return due  # type: ignore[return-value]

    return Made()
