"""What tests of what may start now share: an engine that is driven by hand, second by second."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from background_tasks import Execution, Task
from background_tasks.admission import Rules
from background_tasks.engine import Engine
from background_tasks.gates import GateReading
from background_tasks.run import Outcome, Run
from background_tasks.testing import Clock

__all__ = ["MANY", "NOON", "Driver", "at", "known", "reading", "taking"]

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)
MANY = 1000  # more than any test has of anything


class Driver:
    """An engine with rules, whose time passes when it is told; runs start and end by name."""

    def __init__(self, *, slots: int = 2, aging: float = 5.0, **rules: Any) -> None:
        """Begin at noon, with nothing in it."""
        self.engine = Engine(
            max_running_tasks=slots,
            aging=aging,
            on_time=timedelta(seconds=1),
            rules=Rules(**rules),
        )
        self.now = 0.0
        self.running: list[Run] = []

    def add(self, name: str, **settings: Any) -> Task:
        """Add a task, of which any number may run at once."""
        task = Task(name, int, **{"max_instances": MANY, **settings})
        self.engine.add(task, at(self.now))
        return task

    def ask(self, *tasks: Task) -> None:
        """Ask for a run of each."""
        for task in tasks:
            self.engine.request(task, None, at(self.now))

    def go(self, seconds: float) -> None:
        """Let it be so many seconds past noon, and release what is due."""
        self.now = seconds
        self.engine.release(at(seconds), MANY)

    def start(self, most: int = MANY) -> list[str]:
        """Start what may start, at most so many runs; return the names of their tasks."""
        started: list[str] = []
        while len(started) < most and (run := self.engine.take(at(self.now))) is not None:
            self.running.append(run)
            started.append(run.task.name)
        return started

    def end(self, *names: str, retry_after: float | None = None, cost: float = 0.0) -> None:
        """End the oldest run of each; with an error if that is to be tried again."""
        for name in names:
            run = next(run for run in self.running if run.task.name == name)
            self.running.remove(run)
            error = "" if retry_after is None else "ValueError: no"
            outcome = Outcome(at(self.now), (cost, 0.0, 0.0), error=error, retry_after=retry_after)
            self.engine.finish(run, outcome)

    def close(self, text: str = "queue 31 (closes at 30, opens at 24)") -> None:
        """Have one gate closed from now on."""
        self.engine.set_gates([], [reading(31.0)], at(self.now))
        assert str(reading(31.0)) == text

    def open(self) -> None:
        """Have all gates open from now on."""
        self.engine.set_gates([], [], at(self.now))

    def waiting(self) -> list[str]:
        """Return what waits, in order, as "name: reason"."""
        found = self.engine.waiting(MANY, at(self.now))
        return [f"{each.run.task.name}: {each.reason}" for each in found]


def at(seconds: float) -> datetime:
    """Return the instant so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def reading(value: float) -> GateReading:
    """Return the reading of a gate that is closed."""
    return GateReading(name="queue", at=NOON, value=value, close=30, reopen=24, is_closed=True)


def known(task: Task, *walls: float) -> Task:
    """Give the task a history of runs that took so many seconds each."""
    task._history = [Execution(attempts=1, _cost=(wall, 0.0, 0.0)) for wall in walls]
    return task


def taking(clock: Clock, seconds: float) -> Callable[[], None]:
    """Return a function that takes so many seconds of *clock*, in which others run."""
    return lambda: clock.advance(seconds=seconds)
