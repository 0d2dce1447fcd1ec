"""Fixtures for pytest: ``pytest_plugins = ["background_tasks.pytest_plugin"]`` in a conftest.py.

The only user of pytest, so that `background_tasks.testing` serves unittest as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from background_tasks.errors import MissingExtraError
from background_tasks.testing import Clock, InlineScheduler

try:
    import pytest
except ImportError:
    raise MissingExtraError(
        "these fixtures need pytest: pip install 'background-tasks[testing]'"
    ) from None

__all__ = ["inline_scheduler", "scheduler_clock"]


@pytest.fixture
def scheduler_clock() -> Clock:
    """Return a clock that stands at the beginning of 2026, UTC, until the test moves it."""
    return Clock()


@pytest.fixture
def inline_scheduler(scheduler_clock: Clock) -> Iterator[InlineScheduler]:
    """Return a scheduler of four slots that lives by `scheduler_clock`; stopped after the test."""
    with InlineScheduler(clock=scheduler_clock) as scheduler:
        yield scheduler
