"""What the tests share: a scheduler that is stopped, and a watch over threads left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from hypothesis import Phase, settings

from background_tasks import Change, ChangeKind, Scheduler, Task, Trigger
from background_tasks.checks import error_text

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("mutants", settings.get_profile("suite"), phases=[Phase.generate])
settings.load_profile("suite")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs that are started have it


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    """Fail a test that leaves a thread of ours behind, unless it ends by itself at once."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(("Dask-Offload", "virtual")):
            continue  # Dask and `tests.interleaving` keep them as long as the process lives
        thread.join(5)
        assert not thread.is_alive(), f"{thread.name} outlived its test"


@pytest.fixture(autouse=True)
def internal_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fail a test in which a scheduler itself failed, unless it takes that out of the list."""
    reported: list[str] = []
    report = Scheduler._report

    def note(self: Scheduler, error: BaseException) -> None:
        report(self, error)
        reported.append(error_text(error))

    monkeypatch.setattr(Scheduler, "_report", note)
    yield reported
    assert reported == []


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """Return a scheduler of two slots that was not started; it is stopped after the test."""
    made = Scheduler(2)
    yield made
    assert made.stop(timeout=10)


class Elsewhere(Executor):
    """An executor that hands over no more than another process could, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it at once."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Gate:
    """A task function that says when it was entered and stays until it is let go."""

    def __init__(self) -> None:
        """Start closed."""
        self.entered = threading.Semaphore(0)
        self.leave = threading.Event()
        self.runs = 0

    def __call__(self) -> None:
        """Be the task: say that it runs, and wait to be let go."""
        self.runs += 1
        self.entered.release()
        assert self.leave.wait(10)

    def wait_entered(self) -> None:
        """Wait until one more run has entered."""
        assert self.entered.acquire(timeout=10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Return a Gate that is opened after the test, before the scheduler is stopped."""
    made = Gate()
    yield made
    made.leave.set()


class Watch:
    """A listener that keeps the changes it is told and lets a test wait for one."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Listen to *scheduler*."""
        self.changes: list[Change] = []
        self._heard = threading.Condition()
        scheduler.add_listener(self._hear)

    def _hear(self, change: Change) -> None:
        with self._heard:
            self.changes.append(change)
            self._heard.notify_all()

    def kinds(self) -> list[str]:
        """Return the kinds of the changes so far, in order."""
        with self._heard:
            return [change.kind.value for change in self.changes]

    def wait_for(self, kind: ChangeKind, times: int = 1) -> None:
        """Wait until a change of *kind* was told so many times."""
        with self._heard:
            assert self._heard.wait_for(
                lambda: sum(change.kind is kind for change in self.changes) >= times, timeout=10
            )


class Ticks(Trigger):
    """A trigger that is never ready, asked at each tick of a scheduler's thread."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Add a task with it to *scheduler*."""
        self._asked = threading.Semaphore(0)
        scheduler.add_task(Task("ticks", int, triggers=[self]))

    def is_ready(self) -> bool:
        """Note that it was asked."""
        self._asked.release()
        return False

    def reset(self) -> None:
        """Do nothing."""

    def wait_for_one(self) -> None:
        """Wait until one whole tick is over: the next one asks."""
        for _ in range(2):
            assert self._asked.acquire(timeout=10)
