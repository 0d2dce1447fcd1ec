"""What the tests share: a scheduler that is stopped, and a watch over threads left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from background_tasks import Scheduler

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    """Fail a test that leaves a thread of ours behind, unless it ends by itself at once."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), f"{thread.name} outlived its test"


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """Return a scheduler of two slots that was not started; it is stopped after the test."""
    made = Scheduler(2)
    yield made
    assert made.stop(timeout=10)


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


@pytest.fixture
def calls() -> Callable[[str], Callable[[], None]]:
    """Return a maker of task functions that note their name in the maker's ``made`` list."""

    def maker(name: str) -> Callable[[], None]:
        return lambda: made.append(name)

    made: list[str] = []
    maker.made = made  # type: ignore[attr-defined]
    return maker
