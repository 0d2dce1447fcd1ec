"""The two readers of time obey frozen time, or do not, as each promises."""

from __future__ import annotations

import sys
import sysconfig
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
import time_machine
from freezegun import freeze_time

from background_tasks import clock


def _now_that_fails(times: int) -> Callable[[timezone], datetime]:
    """Return a stand-in for datetime.now that raises IndexError so many times first."""
    errors = [IndexError("list index out of range")] * times

    def now(zone: timezone) -> datetime:
        if errors:
            raise errors.pop()
        return datetime(2026, 1, 15, tzinfo=zone)

    return now


def _replace_now(monkeypatch: pytest.MonkeyPatch, now: Callable[[timezone], datetime]) -> None:
    fake = SimpleNamespace(datetime=SimpleNamespace(now=now))
    monkeypatch.setattr(clock, "datetime", fake)


def test_the_wall_time_is_aware_and_in_utc() -> None:
    """The wall time has the offset of UTC and lies between two readings of the real clock."""
    before = datetime.now(timezone.utc)

    now = clock.utc_now()

    assert now.utcoffset() == timedelta(0)
    assert before <= now <= datetime.now(timezone.utc)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems than Linux wait otherwise")
def test_waits_go_by_a_clock_that_nobody_sets() -> None:
    """Those for locks and events, since Python 3.10 where glibc has sem_clockwait."""
    assert sysconfig.get_config_var("HAVE_SEM_CLOCKWAIT") == 1


def test_freezegun_is_obeyed() -> None:
    """The wall time stands still where freezegun put it, and moves with it."""
    with freeze_time("2025-11-02T05:30:00Z") as frozen:
        assert clock.utc_now() == datetime(2025, 11, 2, 5, 30, tzinfo=timezone.utc)

        frozen.tick(90)

        assert clock.utc_now() == datetime(2025, 11, 2, 5, 31, 30, tzinfo=timezone.utc)


def test_time_machine_is_obeyed() -> None:
    """The wall time stands still where time-machine put it."""
    with time_machine.travel("2025-11-02T05:30:00Z", tick=False):
        assert clock.utc_now() == datetime(2025, 11, 2, 5, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize("times", [1, 100])
def test_a_freeze_that_is_taken_down_is_read_again(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """An IndexError of freezegun is no answer: the clock is read until it gives one."""
    _replace_now(monkeypatch, _now_that_fails(times))

    assert clock.utc_now() == datetime(2026, 1, 15, tzinfo=timezone.utc)


def test_a_clock_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 101 readings the IndexError is raised instead of tried away for ever."""
    _replace_now(monkeypatch, _now_that_fails(101))

    with pytest.raises(IndexError):
        clock.utc_now()


def test_durations_are_real_while_time_is_frozen() -> None:
    """The monotonic clock is the real one, between two readings of it, under freezegun too."""
    with freeze_time("2025-11-02T05:30:00Z"):
        before = time.clock_gettime(time.CLOCK_MONOTONIC)

        now = clock.monotonic()

        assert before <= now <= time.clock_gettime(time.CLOCK_MONOTONIC)
