"""The end of a process, whatever the scheduler, its task and the main thread are at.

Each row is a program of its own. It says on its standard output what it has come to, and its task
waits on its standard input to be let go, so nothing here depends on how long things take.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from background_tasks import ChangeKind, RetryPolicy, Scheduler, Status, Task
from background_tasks import process as process_module
from background_tasks.process import stop_all
from tests.conftest import Gate, Watch

_PROGRAM = """
    import logging, os, signal, sys, threading
    from background_tasks import OneTimeTrigger, Scheduler, Task

    logging.basicConfig(
        format="%(levelname)s %(message)s: %(background_tasks.task.name)s", level=logging.ERROR
    )
    logging.getLogger("background_tasks").addFilter(
        lambda record: "run.failed" not in vars(record)["event.name"]
    )
    entered = threading.Event()

    def say(word):
        os.write(1, word.encode() + b"\\n")

    def let_go():
        entered.set()
        os.read(0, 1)

    def finishes():
        let_go()
        say("finished")

    def raises():
        let_go()
        say("finished")
        raise ValueError("of the task")

    def exits():
        let_go()
        say("finished")
        sys.exit(7)

    def hangs():
        entered.set()
        threading.Event().wait()

    def spins():
        entered.set()
        while True:
            pass

    task, state, end, grace = sys.argv[1:]
    scheduler = Scheduler(2, exit_grace=float(grace))
    scheduler.add_task(Task("the task", globals()[task], triggers=[OneTimeTrigger(delay=0)]))
    if state == "not started":
        scheduler.run_tasks()
    else:
        scheduler.start()
    entered.wait()
    if state == "stop asked":
        assert not scheduler.stop(timeout=0)
    if state == "stopped":
        say("stopping")
        assert scheduler.stop()
    if end == "SIGTERM handled":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        if end == "sys.exit(7)":
            sys.exit(7)
        if end == "uncaught error":
            raise RuntimeError("of main")
        if end.startswith("SIG"):
            say("waiting")
            threading.Event().wait()
    finally:
        say("main ends")
"""

_TASKS = ["finishes", "raises", "exits", "hangs", "spins"]
_STATES = ["not started", "running", "stop asked", "stopped"]
_STATUS = {
    "falls off": 0,
    "sys.exit(7)": 7,
    "uncaught error": 1,
    "SIGINT": -signal.SIGINT,
    "SIGTERM": -signal.SIGTERM,
    "SIGTERM handled": 3,
}
_LASTS = {"hangs", "spins"}  # such a task never ends
_GRACE = "0.05"  # seconds; for a task that never ends


@dataclass(frozen=True)
class Row:
    """One program: what its task does, how its scheduler stands, and how it ends."""

    task: str
    state: str
    end: str

    def __str__(self) -> str:
        """Name the test."""
        return f"{self.task}, {self.state}, {self.end}"


_ROWS = [
    row
    for row in itertools.starmap(Row, itertools.product(_TASKS, _STATES, _STATUS))
    if not (row.task in _LASTS and row.state == "stopped")  # it would wait for ever, as promised
]


@dataclass(frozen=True)
class Result:
    """What came of a program."""

    status: int
    said: list[str]
    errors: str


@pytest.fixture(scope="module")
def results() -> Iterator[dict[Row, Future[Result]]]:
    """Run all the programs, several at a time."""
    with ThreadPoolExecutor(4) as pool:
        yield {row: pool.submit(_run, row) for row in _ROWS}


@pytest.mark.parametrize("row", _ROWS, ids=str)
def test_the_end_of_a_process(row: Row, results: dict[Row, Future[Result]]) -> None:
    """Its status is its own, what can finish does, what cannot is named, nothing hangs."""
    result = results[row].result(120)

    assert result.status == _STATUS[row.end]
    is_cut_short = row.end == "SIGTERM"  # the system ends it at once: Python runs nothing more
    may_finish = row.task not in _LASTS and (row.state == "stopped" or not is_cut_short)
    assert ("finished" in result.said) == may_finish
    assert ("main ends" in result.said) == (not is_cut_short)
    lines = result.errors.splitlines()
    ours = [line for line in lines if line.startswith("ERROR")]
    named = "ERROR run abandoned at exit: its task did not end in time: the task"
    assert ours == ([named] if row.task in _LASTS and not is_cut_short else [])
    assert "background_tasks" not in result.errors  # no traceback of ours
    last = {"uncaught error": ["RuntimeError: of main"], "SIGINT": ["KeyboardInterrupt"]}
    theirs = [line for line in lines if line not in ours]
    assert theirs[-1:] == last.get(row.end, [])


_SILENT = """
    import os, threading
    from background_tasks import Scheduler, Task

    scheduler = Scheduler(1, exit_grace=0)
    entered = threading.Event()
    scheduler.add_task(Task("the task", lambda: (entered.set(), threading.Event().wait())))
    scheduler.start()
    scheduler.release_task(0)
    entered.wait()
"""


def test_a_program_without_any_log_is_told_too() -> None:
    """What is left behind is one line on standard error, though nobody configured logging."""
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(_SILENT)]

    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == ""
    assert done.stderr == (
        "background_tasks: run abandoned at exit: its task did not end in time:"
        " event.name='background_tasks.run.abandoned', task.id=0, task.name='the task', run.id=0\n"
    )


@pytest.mark.parametrize("delay", ["0", "0.001", "0.002", "0.003"])
def test_sigterm_in_the_middle_of_everything(delay: str) -> None:
    """A handler that stops and exits may interrupt any method at any line: the process ends."""
    program = """
        import signal, sys, threading, time
        from background_tasks import EventTrigger, PeriodicTrigger, Scheduler, Task

        def end(*_):
            scheduler.stop(timeout=5)
            sys.exit(3)

        scheduler = Scheduler(2, tick_interval=0.001)
        changed = EventTrigger()
        every = PeriodicTrigger(interval=0.001)
        task = scheduler.add_task(Task("t", int, triggers=[changed, every]))
        scheduler.start()
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, 0.01 + float(sys.argv[1]))
        while True:
            scheduler.release_task(task.id)
            changed.fire()
            scheduler.remove_task(scheduler.add_task(Task("new", int)).id)
            scheduler.stats()
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), delay],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert (result.returncode, result.stderr) == (3, "")


def test_the_end_of_a_process_whose_lock_is_lost(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs is named all the same: a handler raised at the very moment it was taken."""
    monkeypatch.setattr(process_module, "PATIENCE", 0.005)
    scheduler = _running(gate, 0)
    monkeypatch.setattr(process_module, "_all", lambda: [scheduler])
    scheduler._acquire()

    stop_all()

    assert [vars(line)["background_tasks.task.name"] for line in caplog.records] == ["hanging"]
    scheduler._unlock()
    gate.leave.set()
    assert scheduler.stop(10)


def test_started_after_the_end_of_the_process_began() -> None:
    """A handler that runs after ours is told that there is no thread, or has one; the end comes."""
    program = """
        import atexit

        def late():
            try:
                scheduler.start()
            except RuntimeError as error:
                print(scheduler.state, error)
            else:
                print(scheduler.state, scheduler.stop(10))

        atexit.register(late)
        from background_tasks import Scheduler
        scheduler = Scheduler(1)
        scheduler.start()
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    refused = "stopped can't create new thread at interpreter shutdown\n"
    assert result.stdout in (refused, "running True\n")
    assert (result.stderr, result.returncode) == ("", 0)


def test_ctrl_c_ends_the_wait(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is named at once, and no traceback comes of it."""
    named: list[object] = []
    monkeypatch.setattr(process_module, "log_or_print", lambda *line: named.append(line[2]))
    scheduler = _running(gate, 3600)
    calls: list[object] = []

    def interrupted(timeout: float) -> bool:
        calls.append(timeout)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(scheduler, "stop", interrupted)
    monkeypatch.setattr(process_module, "_all", lambda: [scheduler])
    stop_all()
    monkeypatch.undo()

    assert [line["background_tasks.task.name"] for line in named] == ["hanging"]  # type: ignore[index]
    assert calls[0] == 0
    gate.leave.set()
    assert scheduler.stop(10)


def test_an_error_of_ours_at_the_end_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no interrupt, so it is not taken for one."""
    scheduler = Scheduler(1)
    monkeypatch.setattr(process_module, "_all", lambda: [scheduler])

    def fail(_: float) -> None:
        raise LookupError("ours")

    monkeypatch.setattr(scheduler, "stop", fail)

    with pytest.raises(LookupError, match="ours"):
        stop_all()


def test_many_schedulers_share_the_grace(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time runs for all at once, and none starts a run while another is waited for."""
    schedulers = [_running(gate, 5), _running(gate, 5)]
    now = [0.0]
    waits: list[list[float]] = [[], []]
    for scheduler, mine in zip(schedulers, waits, strict=True):

        def waiting(timeout: float, mine: list[float] = mine) -> bool:
            mine.append(timeout)
            now[0] += timeout
            return False

        monkeypatch.setattr(scheduler, "stop", waiting)
    monkeypatch.setattr(process_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(process_module, "_all", lambda: schedulers)

    stop_all()

    monkeypatch.undo()
    assert waits == [[0, 5], [0, 0]]
    gate.leave.set()
    for scheduler in schedulers:
        assert scheduler.stop(10)


def test_a_run_that_waits_for_its_retry_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it runs, so nothing of it is left behind."""
    scheduler = Scheduler(1, exit_grace=0)
    task = scheduler.add_task(Task("t", _fail, retry_policy=RetryPolicy(1, delay=3600)))
    scheduler.release_task(task.id)
    watch = Watch(scheduler)
    scheduler.run_tasks()
    watch.wait_for(ChangeKind.RUN_RETRYING)

    stop_all()

    assert scheduler.running[task.id][0].status == Status.RETRYING
    assert "abandoned" not in caplog.text
    assert scheduler.stop(10)


def _running(gate: Gate, grace: float) -> Scheduler:
    scheduler = Scheduler(1, exit_grace=grace)
    task = scheduler.add_task(Task("hanging", gate))
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    gate.wait_entered()
    return scheduler


def _fail() -> None:
    raise OSError("as always")


def _run(row: Row) -> Result:
    with _start(row, _GRACE if row.task in _LASTS else "60") as program:
        assert program.stdin is not None and program.stdout is not None  # noqa: PT018
        said = []
        for line in program.stdout:
            said.append(line.strip())
            if said[-1] == "waiting":
                program.send_signal(getattr(signal, row.end.split()[0]))
            if said[-1] in ("main ends", "stopping") and not program.stdin.closed:
                program.stdin.close()  # lets the task go
        assert program.stderr is not None
        errors = program.stderr.read()
        return Result(program.wait(60), said, errors)


def _start(row: Row, grace: str) -> subprocess.Popen[str]:
    words = [row.task, row.state, row.end, grace]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(_PROGRAM), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )
