"""Whether a scheduler does its work: `Health`, and the `Pulse` by which that is told.

Pure: the scheduler hands in both clocks and what it has read under its lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from background_tasks.outlook import Waiting
from background_tasks.plain import to_dict

__all__ = ["Findings", "Health", "Pulse", "health_of"]

_MINUTE = 60.0  # seconds that lags are kept
_GRAIN = 0.5  # seconds; of the lags that lie closer together the longest is kept
_TICKS = 3  # so many ticks and a second without a look around are no delay any more: a guess
_MANY_UNTOLD = 1_000  # a guess; each takes some 500 bytes
_LATEST = 1.0  # seconds; a loop that is later than this, or a tick, is too late: a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What ``Scheduler.health`` found.

    Attributes:
        is_healthy: Whether there is nothing to complain of: what a liveness probe asks.
        reasons: What there is, for people; empty when it is healthy.
        is_alive: Whether the scheduler runs, its thread included.
        last_tick: When its thread last looked around, an aware UTC datetime; None before.
        loop_lag_p50: Seconds that its thread is late, in the last minute: how much longer than it
            meant to it waited, or how long one look around took. The median.
        loop_lag_p99: The same, 99 of 100 are no longer.
        oldest_wait: Seconds since the release of a run that waits for its turn, the first in line
            of its task, which is enabled: the longest of all tasks; 0.0 when none waits.
        stuck: How many runs were asked to give up and go on.
        quarantined: The names of the tasks that were disabled because a trigger raised.
        untold: How many changes listeners and the log have not been told of yet.
        late_bounds: How many runs have waited longer than `background_tasks.ready` promises, of
            the first hundred that wait.
    """

    is_healthy: bool
    reasons: tuple[str, ...] = ()
    is_alive: bool = False
    last_tick: datetime | None = None
    loop_lag_p50: float = 0.0
    loop_lag_p99: float = 0.0
    oldest_wait: float = 0.0
    stuck: int = 0
    quarantined: tuple[str, ...] = ()
    untold: int = 0
    late_bounds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return to_dict(self)


class Pulse:
    """When the scheduler thread last looked around, and how late it was in the last minute."""

    def __init__(self) -> None:
        """Have no beat yet."""
        self.last_tick: datetime | None = None
        self._at = -math.inf  # monotonic
        self._lags: deque[tuple[float, float]] = deque(maxlen=round(_MINUTE / _GRAIN))

    def beat(self, now: datetime, at: float, lag: float) -> None:
        """Note a look around at *now*, monotonic *at*, that was *lag* seconds late."""
        self.last_tick, self._at = now, at
        lags = self._lags
        if lags and at - lags[-1][0] < _GRAIN:
            if lag > lags[-1][1]:
                lags[-1] = lags[-1][0], lag
        else:
            lags.append((at, lag))

    def age(self, at: float) -> float:
        """Return the seconds since the last one at monotonic *at*; infinite without any."""
        return at - self._at

    def lags(self, at: float) -> list[float]:
        """Return the lags of the minute up to monotonic *at*, shortest first."""
        return sorted(lag for when, lag in self._lags if when > at - _MINUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a scheduler has read of itself.

    Attributes:
        obstacle: Why nothing runs: "not started", "stopped", or its thread has died; else "".
        executor: What is wrong with the executor, else "".
        tick: Its ``tick_interval`` in seconds.
        last_tick: That of its pulse.
        age: Seconds since then.
        lags: Those of the last minute, shortest first.
        oldest_wait: As in `Health`.
        waiting: The first runs that wait.
        stuck: The names of the tasks of runs that are stuck.
        quarantined: The names of tasks that are quarantined.
        untold: As in `Health`.
    """

    obstacle: str
    executor: str
    tick: float
    last_tick: datetime | None
    age: float
    lags: list[float]
    oldest_wait: float
    waiting: list[Waiting]
    stuck: tuple[str, ...]
    quarantined: tuple[str, ...]
    untold: int


def health_of(found: Findings, now: datetime) -> Health:
    """Return what the findings mean at *now*."""
    late = [each for each in found.waiting if _is_late(each, now)]
    reasons = tuple(_reasons(found, late))
    return Health(
        is_healthy=not reasons,
        reasons=reasons,
        is_alive=not found.obstacle,
        last_tick=found.last_tick,
        loop_lag_p50=_percentile(found.lags, 50),
        loop_lag_p99=_percentile(found.lags, 99),
        oldest_wait=found.oldest_wait,
        stuck=len(found.stuck),
        quarantined=found.quarantined,
        untold=found.untold,
        late_bounds=len(late),
    )


def _is_late(waiting: Waiting, now: datetime) -> bool:
    return waiting.latest_start is not None and waiting.latest_start < now


def _reasons(found: Findings, late: list[Waiting]) -> Iterable[str]:
    if found.obstacle:
        yield found.obstacle
    elif math.isfinite(found.age) and found.age > _TICKS * found.tick + 1:
        yield f"its thread has not looked around for {found.age:.1f} seconds"
    if found.executor:
        yield found.executor
    lag = _percentile(found.lags, 99)
    if lag > max(_LATEST, found.tick):
        yield f"its thread is up to {lag:.1f} seconds late"
    if found.stuck:
        yield f"runs that are stuck: {_listed(found.stuck)}"
    if found.quarantined:
        yield f"tasks in quarantine: {_listed(found.quarantined)}"
    if found.untold > _MANY_UNTOLD:
        yield f"{found.untold} changes are not told yet: a listener or a log handler is slow"
    if late:
        names = tuple(each.task_name for each in late)
        yield f"runs that wait longer than they should: {_listed(names)}"


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _percentile(values: list[float], percent: int) -> float:
    """Return the nearest-rank percentile of *values*, which are sorted; 0.0 of none."""
    if not values:
        return 0.0
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)]
