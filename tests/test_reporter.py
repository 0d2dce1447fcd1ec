"""Who tells changes when that takes long: a thread that does nothing else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from background_tasks import Change, ChangeKind, PeriodicTrigger, Scheduler, Task
from background_tasks import reporter as reporter_module
from background_tasks.primitives import Primitives
from background_tasks.reporter import Reporter
from background_tasks.testing import InlineScheduler

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)
TELLER = "background_tasks-teller"
ME = threading.current_thread().name


def changes(number: int) -> list[Change]:
    """Return so many, numbered."""
    return [Change(ChangeKind.TASK_ADDED, NOON, task_id=place) for place in range(number)]


class Told:
    """A reporter with a listener that takes a while, by a clock of its own."""

    def __init__(
        self, seconds: float, number: int, *, queue: type[deque[Change]] = deque, **others: Any
    ) -> None:
        """Have *number* changes to be told, each of which takes *seconds*."""
        self.changes = queue(changes(number))
        self.seconds = seconds
        self.told: list[tuple[int | None, str]] = []
        self.done = threading.Event()
        self._time = 0.0
        self.reporter = Reporter(self.changes, Primitives(monotonic=lambda: self._time, **others))
        self.reporter.add(self._hear)

    def tell(self) -> bool:
        """Tell."""
        return self.reporter.tell(self._note)

    def _note(self) -> None:
        if not self.changes:
            self.done.set()

    def _hear(self, change: Change) -> None:
        self._time += self.seconds
        self.told.append((change.task_id, threading.current_thread().name))


def wait_for_the_teller() -> None:
    """Wait until the thread that helps has ended, if there is one."""
    for thread in threading.enumerate():
        if thread.name == TELLER:
            thread.join(10)


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "_LINGER", 0.001)


def test_what_is_quick_is_told_at_once() -> None:
    """By the thread that comes, all of it: a program with one thread sees it on return."""
    told = Told(0.003, 30)

    assert told.tell()

    assert told.told == [(place, ME) for place in range(30)]
    assert not told.done.is_set()


def test_what_takes_long_is_left_to_another_thread() -> None:
    """After a tenth of a second, in order."""
    told = Told(0.06, 5)

    assert told.tell()
    assert told.done.wait(10)

    assert told.told == [(0, ME), (1, ME), (2, TELLER), (3, TELLER), (4, TELLER)]


def test_the_last_change_needs_no_help() -> None:
    """However long it took."""
    told = Told(9.0, 1)

    assert told.tell()

    assert told.told == [(0, ME)]
    assert TELLER not in {thread.name for thread in threading.enumerate()}


def test_while_it_helps_nobody_else_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes is told there, too, until nothing has come for a while; then as before."""
    monkeypatch.setattr(reporter_module, "_LINGER", 10.0)
    told = Told(0.06, 3)
    assert told.tell()
    assert told.done.wait(10)
    told.done.clear()

    told.changes.extend(changes(2))
    assert not told.tell()
    assert told.done.wait(10)
    assert told.told[3:] == [(0, TELLER), (1, TELLER)]

    monkeypatch.setattr(reporter_module, "_LINGER", 0.001)
    told.done.clear()
    told.changes.extend(changes(1))
    told.tell()
    wait_for_the_teller()
    told.changes.extend(changes(1))
    assert told.tell()
    assert told.told[-1] == (0, ME)


class Late(deque[Change]):
    """Changes of which one comes just after the thread that helps has seen that there is none."""

    meanwhile: Callable[[], object] | None = None

    def __bool__(self) -> bool:
        """Say whether there are any."""
        there_are = len(self) > 0
        meanwhile = self.meanwhile
        if not there_are and meanwhile is not None and _comes_from("_help"):
            self.meanwhile = None
            self.append(changes(1)[0])
            meanwhile()  # as whoever has made it does
        return there_are


def _comes_from(name: str) -> bool:
    return sys._getframe(2).f_code.co_name == name


def test_what_comes_when_it_has_just_looked() -> None:
    """It is not left: whoever made it has left it to the thread that is about to end."""
    told = Told(0.06, 3, queue=Late)
    again = threading.Event()
    assert isinstance(told.changes, Late)

    def meanwhile() -> None:
        assert not told.tell()
        again.set()

    told.changes.meanwhile = meanwhile
    told.tell()
    assert again.wait(10)
    wait_for_the_teller()

    assert [place for place, _ in told.told] == [0, 1, 2, 0]
    assert not told.changes


def test_where_there_is_no_thread() -> None:
    """It is told all the same, by the thread that is there."""

    def refuse(**_: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    told = Told(0.06, 5, thread=refuse)

    assert told.tell()

    assert told.told == [(place, ME) for place in range(5)]


def test_where_there_is_no_memory_for_one() -> None:
    """The error is the caller's to report; what is left is told next time."""

    def refuse(**_: object) -> threading.Thread:
        raise MemoryError

    told = Told(0.06, 3, thread=refuse)

    with pytest.raises(MemoryError):
        told.tell()
    assert told.tell()

    assert told.told == [(place, ME) for place in range(3)]


def test_an_error_in_the_thread_that_helps() -> None:
    """It ends without a word on standard error; others tell again."""
    told = Told(0.06, 4)
    asked = iter([None])

    def note() -> None:
        next(asked)
        raise MemoryError

    told.reporter.tell(note)
    wait_for_the_teller()
    told.changes.extend(changes(1))
    assert told.tell()

    assert [place for place, _ in told.told] == [0, 1, 2, 3, 0]
    assert told.told[-1] == (0, ME)


def test_while_another_thread_is_at_it() -> None:
    """The one that helps waits until that rings; it goes without a word if there is another."""
    told = Told(0.06, 2)
    telling = told.reporter._telling
    telling[None] = (0,)

    class Bell:
        rings = iter([True, False])

        def clear(self) -> None:
            pass

        def wait(self, _: float) -> bool:
            telling.clear()
            return next(self.rings)

    told.reporter._help(Bell(), told._note)

    assert told.told == [(0, ME), (1, ME)]
    assert told.done.is_set()


def test_the_end_of_a_process_waits_no_longer_than_it_may() -> None:
    """Whoever is telling then."""
    waits: list[float] = []
    scheduler = Scheduler(1, _primitives=Primitives(monotonic=lambda: 0.0, pause=waits.append))
    scheduler._reporter._telling[None] = (0,)

    scheduler._wait_told(0.0)
    assert waits == []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        scheduler._reporter._telling.clear()

    scheduler._primitives = Primitives(monotonic=lambda: 0.0, pause=pause)
    scheduler._wait_told(1.0)

    assert len(waits) == 1


def test_those_that_wait_cannot_be_woken(
    internal_errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of memory: it is said, and they look by themselves at the next tick."""

    def fail() -> None:
        raise MemoryError

    scheduler = Scheduler(1)
    scheduler._waiters[threading.Event()] = 0
    monkeypatch.setattr(scheduler, "_notify", fail)

    scheduler._was_told()

    assert internal_errors == ["MemoryError"]
    internal_errors.clear()
    scheduler._waiters.clear()


def test_a_listener_of_an_inline_scheduler_that_moves_the_clock() -> None:
    """No thread ever runs there."""
    seen: list[ChangeKind] = []
    with InlineScheduler() as scheduler:

        def hear(change: Change) -> None:
            seen.append(change.kind)
            if change.kind is ChangeKind.RUN_RELEASED:
                scheduler.clock.advance(seconds=1)

        scheduler.add_listener(hear)
        task = scheduler.add_task(Task("t", int))
        scheduler.release_task(task.id)
        scheduler.run_tasks()

    assert seen.count(ChangeKind.RUN_SUCCEEDED) == 1
    assert seen[-1] is ChangeKind.STOPPED


def test_a_slow_listener_keeps_no_slot() -> None:
    """While it is told of one change after the other, tasks run in all slots."""
    leave, told = threading.Event(), threading.Semaphore(0)
    ran = [threading.Semaphore(0) for _ in range(3)]

    def listen(_: Change) -> None:
        told.release()
        leave.wait(0.11)

    with Scheduler(3, tick_interval=0.01) as scheduler:
        scheduler.add_listener(listen)
        for each in ran:
            trigger = PeriodicTrigger(interval=0.001)
            scheduler.add_task(Task("t", each.release, triggers=[trigger]))
        for each in ran:
            for _ in range(20):
                assert each.acquire(timeout=10)
        assert scheduler.health().untold > 0
        for task in scheduler.tasks.values():
            task.enabled = False
        leave.set()
        assert scheduler.wait_idle(10)
        assert scheduler.health().untold == 0


def test_the_end_of_a_process_waits_until_all_is_told() -> None:
    """As long as for tasks: what has happened is told, whoever tells it."""
    program = """
        import time
        from background_tasks import ChangeKind, Scheduler, Task

        def hear(change):
            time.sleep(0.03)
            if change.kind is ChangeKind.RUN_SUCCEEDED:
                print(change.task_name, flush=True)

        scheduler = Scheduler(2)
        scheduler.add_listener(hear)
        scheduler.start()
        for name in "abcdef":
            scheduler.release_task(scheduler.add_task(Task(name, int)).id)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == list("abcdef")
