"""Forks: the child has a stopped, usable scheduler and one warning, the parent ticks on."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from background_tasks import (
    ChangeKind,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    current_execution,
)
from background_tasks import process as process_module
from background_tasks.clock import monotonic, utc_now
from background_tasks.cron import renew_locks, schedule_of, zone_of
from background_tasks.primitives import Primitives
from background_tasks.process import _after_fork_in_parent, _before_fork, _held
from background_tasks.scheduler import _State
from tests.conftest import Gate, Watch

_FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


# Real forks


@_FORKS
def test_sixty_forks_of_a_busy_scheduler() -> None:
    """No child hangs or finds a torn scheduler, and the parent goes on after each."""
    result = _program(
        """
        ran = threading.Semaphore(0)
        changed = EventTrigger(maxsize=20)
        every = [PeriodicTrigger(interval=0.001) for _ in range(6)]
        cron = PeriodicTrigger(cron_expr="* * * * * *")
        scheduler = Scheduler(3, tick_interval=0.001)
        scheduler.add_listener(lambda change: None)

        class Polled(Trigger):
            def is_ready(self): return True
            def reset(self): pass

        def fail(): raise ValueError("again")
        def work(): ran.release()
        for trigger in every:
            scheduler.add_task(Task("busy", work, triggers=[trigger], history=3))
        scheduler.add_task(Task("fed", work, triggers=[changed], history=3))
        scheduler.add_task(Task("polled", work, triggers=[Polled()], history=3))
        scheduler.add_task(Task("failing", fail, triggers=[PeriodicTrigger(interval=0.02)],
                                retry_policy=RetryPolicy(3, delay=0.001)))

        over = threading.Event()
        def hammer():
            while not over.is_set():
                changed.fire()
                cron.next_runs(1)
                scheduler.stats()
        hammering = threading.Thread(target=hammer, daemon=True)

        def child():
            global ran
            ran = threading.Semaphore(0)  # somebody may hold the lock inside of the old one
            sys.setswitchinterval(0.005)
            assert repr(scheduler).startswith("<Scheduler stopped:"), repr(scheduler)
            assert [line.levelname for line in lines] == ["WARNING"], lines
            assert "stopped in a forked child" in lines[0].getMessage()
            add_up()
            stats = scheduler.stats()
            assert stats.running == 0
            assert not any(run.status == "RUNNING" for runs in scheduler.running.values()
                           for run in runs)
            assert scheduler.wait_idle(10) and scheduler.stop(10)
            cron.next_runs(1)
            done = threading.Semaphore(0)
            fresh = EventTrigger()
            scheduler.add_task(Task("new", done.release, triggers=[fresh], priority=1000))
            for begin in (scheduler.start, scheduler.resume):
                begin()
                fresh.fire()
                assert done.acquire(timeout=20)
                for _ in range(20):
                    assert ran.acquire(timeout=20)
                assert scheduler.stop(20)
                add_up()
            assert len(lines) == 1, lines

        def add_up():
            s = scheduler.stats()
            ended = s.succeeded + s.failed + s.missed + s.cancelled + s.dropped
            assert s.released == ended + s.pending + s.running, s

        sys.setswitchinterval(1e-6)  # so that forks come in the middle of everything
        scheduler.start()
        hammering.start()
        broken = 0
        for _ in range(60):
            broken += in_child(child) != 0
            while ran.acquire(blocking=False):
                pass
            assert ran.acquire(timeout=20)
        assert not lines
        over.set()
        hammering.join()
        assert scheduler.stop(20)
        add_up()
        print("broken:", broken)
        """
    )

    assert (result.stdout, result.stderr, result.returncode) == ("broken: 0\n", "", 0)


@_FORKS
def test_a_task_that_forks() -> None:
    """A child that returns from the function ends there; the run is the parent's."""
    result = _program(
        """
        def fork():
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                print(repr(scheduler), flush=True)
                return "child"
            return os.waitpid(pid, 0)[1]

        scheduler = Scheduler(1)
        with scheduler:
            task = scheduler.add_task(Task("forking", fork))
            scheduler.release_task(task.id)
            assert scheduler.wait_idle(20)
        print(task.execution_hist[0].results, scheduler.stats().succeeded)
        """
    )

    stopped = "<Scheduler stopped: 1 tasks, 0 of 1 running, 0 pending>"
    assert (result.stdout, result.stderr) == (f"{stopped}\n0 1\n", "")


@_FORKS
def test_a_trigger_that_forks() -> None:
    """A child that returns to the scheduler thread ends there."""
    result = _program(
        """
        class Forking(Trigger):
            status = None
            def is_ready(self):
                if self.status is None:
                    self.status = -1
                    pid = os.fork()
                    if pid == 0:
                        signal.alarm(20)
                        return True
                    self.status = os.waitpid(pid, 0)[1]
                    return True
                return False
            def reset(self): pass

        forking = Forking()
        ran = threading.Event()
        with Scheduler(1, tick_interval=0.01) as scheduler:
            scheduler.add_task(Task("t", ran.set, triggers=[forking]))
            assert ran.wait(20)
        print(forking.status)
        """
    )

    assert (result.stdout, result.stderr) == ("0\n", "")


@_FORKS
def test_multiprocessing_from_a_task() -> None:
    """The child of a forked Process can start the scheduler it has inherited."""
    result = _program(
        """
        import multiprocessing
        context = multiprocessing.get_context("fork")

        def child():
            ran = threading.Event()
            task = scheduler.add_task(Task("there", ran.set))
            with scheduler:
                scheduler.release_task(task.id)
                assert ran.wait(20)

        def parent():
            process = context.Process(target=child)
            process.start()
            process.join()
            return process.exitcode

        scheduler = Scheduler(1)
        with scheduler:
            task = scheduler.add_task(Task("here", parent))
            scheduler.release_task(task.id)
            assert scheduler.wait_idle(20)
        print(task.execution_hist[0].results)
        """
    )

    assert (result.stdout, result.stderr) == ("0\n", "")


@_FORKS
@pytest.mark.parametrize("method", ["start", "resume", "run_tasks"])
def test_a_fork_that_nobody_tells_of(method: str) -> None:
    """As by uWSGI: the child notices when it starts the scheduler, though locks were held."""
    result = _program(
        f"""
        import ctypes
        scheduler = Scheduler(1)
        cron = PeriodicTrigger(cron_expr="0 0 1 1 *")
        scheduler.add_task(Task("t", int, triggers=[cron]))
        ran = threading.Event()
        task = scheduler.add_task(Task("there", ran.set))
        scheduler.release_task(task.id)
        scheduler._acquire()
        cron._schedule._lock.acquire()
        pid = ctypes.PyDLL(None).fork()  # past the hooks
        if pid == 0:
            signal.alarm(20)
            scheduler.{method}()
            assert ran.wait(10) and scheduler.stop(10) and cron.next_runs(1)
            os._exit(7)
        cron._schedule._lock.release()
        scheduler._unlock()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), scheduler.state)
        """
    )

    assert (result.stdout, result.stderr) == ("7 new\n", "")


@_FORKS
def test_a_signal_handler_that_forks_in_the_middle() -> None:
    """Of each line of what is done with the scheduler: the child has whole books, and goes on."""
    result = _program(
        """
        from background_tasks import engine, process, scheduler as module
        process.PATIENCE = 0.001
        files = {engine.__file__, module.__file__, process.__file__}
        count = at = 0

        def use():
            task = scheduler.add_task(Task("new", int, triggers=[OneTimeTrigger(delay=0)]))
            scheduler.release_task(asked.id)
            scheduler.cancel(asked.id)
            scheduler.remove_task(task.id)

        def trace(frame, event, arg):
            global count
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                count += 1
                if count == at:
                    sys.settrace(None)
                    statuses.append(in_child(child))
            return trace

        def child():
            s = scheduler.stats()
            ended = s.succeeded + s.failed + s.missed + s.cancelled + s.dropped
            assert s.released == ended + s.pending + s.running, s
            assert s.running == 0 and scheduler.state == "stopped"
            ran = threading.Event()
            scheduler.start()
            scheduler.release_task(scheduler.add_task(Task("there", ran.set)).id)
            assert ran.wait(20) and scheduler.wait_idle(20) and scheduler.stop(20)

        scheduler = Scheduler(1)
        asked = scheduler.add_task(Task("asked", int))
        scheduler.start()
        statuses = []
        while len(statuses) == at // 7:
            at += 7
            count = 0
            sys.settrace(trace)
            use()
            sys.settrace(None)
            assert scheduler.wait_idle(20)
        assert scheduler.stop(20)
        print(len(statuses) > 20, set(statuses))
        """
    )

    assert (result.stdout, result.stderr) == ("True {0}\n", "")


@_FORKS
def test_a_scheduler_that_does_not_run_gives_no_warning() -> None:
    """One that was not started, or was stopped, is in the child what it was."""
    result = _program(
        """
        new, stopped = Scheduler(1), Scheduler(1)
        stopped.start()
        stopped.stop()

        def child():
            assert not lines
            assert repr(new).startswith("<Scheduler new:")
            assert repr(stopped).startswith("<Scheduler stopped:")
            task = new.add_task(Task("t", int))
            new.release_task(task.id)
            new.run_tasks()
            assert new.wait_idle(20) and new.stop(20)
            assert task.execution_hist[0].status == "SUCCESS"

        print(in_child(child))
        """
    )

    assert (result.stdout, result.stderr) == ("0\n", "")


# What the child does, in this process


def test_what_ran_in_the_parent_is_dropped(gate: Gate) -> None:
    """The child records it so, counts it so, and runs what waited behind it once started."""
    scheduler = Scheduler(1, tick_interval=0.01, capacity={"db": 1})
    task = scheduler.add_task(Task("t", gate, timeout=60, resources={"db": 1}))
    scheduler.start()
    scheduler.release_task(task.id)
    scheduler.release_task(task.id)
    gate.wait_entered()

    scheduler._forked()

    stats = scheduler.stats()
    assert (stats.released, stats.dropped, stats.running, stats.pending) == (2, 1, 0, 1)
    (dropped,) = task.execution_hist
    assert dropped.status == Status.DROPPED
    assert (
        dropped.error
        == "BackgroundTasksError: the process was forked while it ran: it goes on in the parent"
    )
    assert scheduler.running == {}
    gate.leave.set()
    scheduler.resume()
    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)
    assert [run.status for run in task.execution_hist] == [Status.DROPPED, Status.SUCCESS]


def test_run_task_in_a_child_that_its_task_forked(scheduler: Scheduler) -> None:
    """It returns the execution, which was dropped, and counts nothing twice."""
    task = scheduler.add_task(Task("t", scheduler._forked))

    execution = scheduler.run_task(task.id)

    assert execution.status == Status.DROPPED
    assert (scheduler.stats().dropped, scheduler.stats().running) == (1, 0)


def test_a_retry_that_a_caller_waited_for_is_dropped() -> None:
    """Its caller is not there; a retry that nobody waits for stays pending."""
    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", _fail, retry_policy=RetryPolicy(1, delay=3600)))
    watch = Watch(scheduler)
    waiting = threading.Thread(target=scheduler.run_task, args=[task.id])
    waiting.start()
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    watch.wait_for(ChangeKind.RUN_RETRYING, 2)
    (waiter,) = scheduler._waiters

    scheduler._forked()

    assert [run.status for run in task.execution_hist] == [Status.DROPPED]
    assert (scheduler.stats().dropped, scheduler.stats().pending) == (1, 1)
    (left,) = scheduler.running[task.id]
    assert left.status == Status.RETRYING
    scheduler._waiters[waiter] = 0  # here, its thread is there after all
    waiter.set()
    waiting.join(10)
    assert scheduler.stop(10)


def test_a_signal_that_was_being_fired_is_seen() -> None:
    """Though the thread that rang had come half way only."""
    ran = threading.Event()
    changed = EventTrigger()
    scheduler = Scheduler(1)
    scheduler.add_task(Task("t", ran.set, triggers=[changed]))
    changed._arm_is_rung = True
    changed.fire()
    assert not scheduler._engine.rung

    scheduler._forked()
    scheduler.run_tasks()

    assert ran.wait(10)
    assert scheduler.stop(10)


def test_a_trigger_that_was_being_asked_is_asked_again() -> None:
    """The thread that asked it is not there to give it back."""
    ready = [True]

    class Ready(Trigger):
        def is_ready(self) -> bool:
            return bool(ready)

        def reset(self) -> None:
            pass

    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", int, triggers=[Ready(), EventTrigger()]))
    scheduler._engine.to_ask(poll=True)
    assert scheduler.run_tasks() == 0

    scheduler._forked()

    assert scheduler.run_tasks() == 1
    ready.clear()
    assert scheduler.wait_idle(10)
    assert len(task.execution_hist) == 1
    assert scheduler.stop(10)


def test_the_parent_tells_what_has_happened(caplog: pytest.LogCaptureFixture) -> None:
    """The child tells none of it again: one warning is all, and none when it did not run."""
    scheduler = Scheduler(1)
    heard: list[Any] = []
    scheduler.add_listener(heard.append)
    scheduler._engine.note(ChangeKind.STARTED, utc_now())

    scheduler._forked()
    scheduler.stats()
    assert heard == []
    assert caplog.records == []

    scheduler._state = _State.RUNNING
    scheduler._forked()
    scheduler.stats()
    (record,) = caplog.records
    assert heard == []
    assert (record.levelno, vars(record)["event.name"]) == (
        logging.WARNING,
        "background_tasks.forked",
    )
    assert record.getMessage() == (
        "scheduler stopped in a forked child: start it there if it should run"
    )


def test_a_fork_writes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Another thread may have held the lock of the log: the child says it when it is used."""
    scheduler = Scheduler(1)
    scheduler.start()
    assert scheduler.stop()
    scheduler._state = _State.RUNNING

    scheduler._forked()
    assert caplog.records == []

    scheduler.stats()
    scheduler.stats()
    scheduler._warn_of_fork()  # of two threads at once the second finds that it was said
    (record,) = caplog.records
    assert "stopped in a forked child" in record.getMessage()


@pytest.mark.parametrize("making", [False, True])
def test_the_executor_of_a_factory_is_made_anew(making: bool) -> None:
    """The threads of the old one are in the parent, as may be the one that was making it."""
    made: list[ThreadPoolExecutor] = []

    def make() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(1))
        return made[-1]

    scheduler = Scheduler(1, executor=make)
    task = scheduler.add_task(Task("t", int))
    assert scheduler.run_task(task.id).status is Status.SUCCESS
    assert scheduler._outside is not None
    if making:
        scheduler._outside._making.acquire()

    scheduler._forked()

    assert scheduler.run_task(task.id).status is Status.SUCCESS
    assert len(made) == 2
    for each in made:
        each.shutdown()


def test_the_executor_that_was_given_is_used_on() -> None:
    """There is no other, and one of a cluster works in a child, too."""
    with ThreadPoolExecutor(1) as given:
        scheduler = Scheduler(1, executor=given)
        scheduler._forked()

        task = scheduler.add_task(Task("t", int))
        assert scheduler.run_task(task.id).status is Status.SUCCESS


def test_locks_that_were_held_in_the_parent_are_free() -> None:
    """Those of the scheduler, of its log and of cron schedules."""
    scheduler = Scheduler(1)
    schedule = schedule_of("0 6 * * *", zone_of("UTC"))
    for lock in (scheduler._lock, schedule._lock):
        assert lock.acquire(timeout=10)
    for turn in (scheduler._sampling, scheduler._reporter._telling):
        turn[None] = 0

    scheduler._forked()
    renew_locks()

    assert scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(cron_expr="0 6 * * *")]))
    assert schedule.next_after(utc_now())
    assert scheduler.stop(10)


def test_a_child_that_nobody_has_told_of_the_fork(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It becomes one when the scheduler is started there, and once."""
    monkeypatch.setattr(process_module, "_all", lambda: [scheduler])
    scheduler.start()
    monkeypatch.setattr(process_module, "_pid", 0)

    scheduler.start()
    scheduler.start()

    assert [record.getMessage() for record in caplog.records] == [
        "scheduler stopped in a forked child: start it there if it should run"
    ]
    assert scheduler.state == "running"


def test_all_schedulers_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only those whose locks were taken before the fork."""
    first, second = Scheduler(1), Scheduler(1)
    monkeypatch.setattr(process_module, "_all", lambda: [first, second])
    _before_fork()

    process_module._after_fork_in_child()

    assert _held.schedulers == []
    assert not first._lock.locked()
    assert not second._lock.locked()
    assert first.stop(10)
    assert second.stop(10)


# What the parent does


def test_the_lock_is_held_while_it_forks(scheduler: Scheduler) -> None:
    """So the child finds nothing half changed; a signal fired meanwhile is not overlooked."""
    ran = threading.Event()
    changed = EventTrigger()
    scheduler.add_task(Task("t", ran.set, triggers=[changed]))
    scheduler.start()

    _before_fork()
    assert scheduler._lock.locked()
    assert changed.fire()
    _after_fork_in_parent()

    assert ran.wait(10)


def test_a_lock_that_is_held_does_not_keep_the_process_from_forking(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork in the middle of a critical section gives up waiting for its end."""
    monkeypatch.setattr(process_module, "PATIENCE", 0.01)
    scheduler._acquire()

    _before_fork()
    assert (scheduler, []) in _held.schedulers
    _after_fork_in_parent()

    assert scheduler._lock.locked()
    scheduler._unlock()


# No threads left


@pytest.mark.parametrize("failing", range(1, 8))
@pytest.mark.parametrize("times", [1, 3])
def test_threads_that_cannot_be_started(failing: int, times: int) -> None:
    """Whichever start fails, so many times in a row: each run is made, and made once."""
    starts = iter(range(1, 1000))

    class Scarce(threading.Thread):
        def start(self) -> None:
            if failing <= next(starts) < failing + times:
                raise RuntimeError("can't start new thread")
            super().start()

    ran: list[object] = []
    changed = EventTrigger()
    primitives = Primitives(thread=Scarce)
    scheduler = Scheduler(4, tick_interval=0.001, _primitives=primitives)
    scheduler.add_task(Task("fed", lambda: ran.append(_event()), triggers=[changed]))
    for _ in range(5):
        scheduler.add_task(Task("once", ran.append, args=["once"], triggers=[OneTimeTrigger(0)]))
    for number in range(5):
        changed.fire(number)
    _start_at_last(scheduler)

    assert scheduler.wait_idle(20)
    assert scheduler.stop(20)

    assert [number for number in ran if number != "once"] == list(range(5))
    assert ran.count("once") == 5
    stats = scheduler.stats()
    assert (stats.released, stats.succeeded, stats.pending) == (10, 10, 0)


def _start_at_last(scheduler: Scheduler) -> None:
    """Start it, again and again while there is no thread for it."""
    for _ in range(10):
        try:
            scheduler.start()
        except RuntimeError:
            continue
        return


def _fail() -> None:
    raise OSError("as always")


def _event() -> object:
    execution = current_execution()
    assert execution is not None
    return execution.event


def _program(body: str) -> subprocess.CompletedProcess[str]:
    """Run *body* in a process of its own, where forks do no harm."""
    head = """
    import logging, os, signal, sys, threading, traceback
    from background_tasks import *

    class Kept(logging.Handler):
        def emit(self, record): lines.append(record)
    lines = []
    kept = Kept(logging.WARNING)
    kept.addFilter(lambda record: "run" not in vars(record)["event.name"])
    logging.getLogger("background_tasks").addHandler(kept)

    def in_child(work):
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1]
        code = 1
        signal.alarm(40)  # a child that hangs is killed, and counted as broken
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    """
    return subprocess.run(
        # Python 3.12 and later warn of any fork of a process with threads, which is what we test.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _joined(head, body)],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def _joined(*parts: str) -> str:
    return "".join(map(textwrap.dedent, parts))


def test_a_stop_in_a_signal_handler_while_it_forks_is_heard() -> None:
    """It could not have the lock, which is held for the fork: it is carried out after it."""
    scheduler = Scheduler(1)
    scheduler.start()

    scheduler._hold(monotonic() + 10, [])
    scheduler._stops.append(False)  # what stop leaves when it has waited in vain
    scheduler._let_go()

    assert scheduler.state == "stopped"
    assert scheduler.stop(10)


def test_a_fork_waits_for_who_holds_the_lock() -> None:
    """It is let go in a moment, and then it is the one's that forks."""
    scheduler = Scheduler(1, _primitives=Primitives(pause=lambda _: scheduler._lock.release()))
    scheduler._acquire()

    taken: list[bool] = []
    scheduler._hold(monotonic() + 10, taken)
    assert taken[-1:] == [True]
    scheduler._let_go()

    assert not scheduler._lock.locked()
