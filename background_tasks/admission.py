"""What may run now: lanes, declared resources and gates; no lock, thread or clock.

`Admission` stands in for `Ready` where a scheduler has any of these. Runs that ask for the same
wait in one heap, so a decision looks at the first run of each *kind*, not at all that wait: it
takes the best of those firsts that nothing keeps from starting.

A run that does not fit steps aside for one that does. That is not for ever: when it was kept
waiting by resources for ``max_defer`` seconds, nothing that needs any of them starts before it,
and it is the first to get them. A run that was held by gates for so long is let through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from background_tasks import checks
from background_tasks.errors import InvalidValueError
from background_tasks.heap import Entry
from background_tasks.ready import Ready
from background_tasks.run import Run
from background_tasks.task import Demand, Task, priority_of

__all__ = ["Admission", "Rules"]

_ROUNDING = 1 + 1e-9  # 0.1 + 0.2 is no more than 0.3
_NOTHING: frozenset[str] = frozenset()
_Kind = tuple[Demand | None, bool]  # and whether gates hold it
_NO_SLOT, _RESERVED, _LACKING, _KEPT, _GATED = "no slot", "reserved", "lacking", "kept", "gated"
_Obstacle = tuple[str, str]  # one of these and the name of the resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a scheduler may run at once, beside its number of slots.

    Attributes:
        lanes: Slots that are reserved, by the name of the lane: whole numbers.
        capacity: What there is of each resource, by its name: numbers above 0.
        has_gates: Whether there are gates.
        ungated_priority: Tasks of this priority and above pass gates; None is no task.
        max_defer: Seconds after which a run that was held up goes first.
    """

    lanes: Mapping[str, int] = field(default_factory=dict)
    capacity: Mapping[str, float] = field(default_factory=dict)
    has_gates: bool = False
    ungated_priority: int | None = None
    max_defer: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what breaks a rule; keep copies."""
        put = object.__setattr__
        put(self, "lanes", checks.amounts("lanes", self.lanes))
        for name, slots in self.lanes.items():
            checks.whole(f"lanes[{name!r}]", slots, least=1)
        put(self, "capacity", checks.amounts("capacity", self.capacity))
        if self.ungated_priority is not None:
            priority_of(self.ungated_priority, "ungated_priority")

    @property
    def is_trivial(self) -> bool:
        """True when the number of slots is all there is to obey."""
        return not (self.lanes or self.capacity or self.has_gates)

    def check_slots(self, slots: int) -> None:
        """Refuse lanes that leave no slot for tasks without one."""
        if sum(self.lanes.values()) >= slots:
            raise InvalidValueError(
                f"lanes must leave one of the {slots} slots to tasks without a lane,"
                f" got {checks.shown(dict(self.lanes))}"
            )

    def check_task(self, task: Task) -> None:
        """Refuse a task that could never start."""
        if task.lane is not None and task.lane not in self.lanes:
            raise InvalidValueError(
                f"lane must be one of the scheduler's, {sorted(self.lanes)}, got {task.lane!r}"
            )
        for name, amount in task.resources.items():
            if amount > self.capacity.get(name, 0):
                raise InvalidValueError(
                    f"resources must fit into the scheduler's capacity,"
                    f" {checks.shown(dict(self.capacity))}, got {name!r}: {amount!r}"
                )


class Admission:
    """Runs in dispatch order, of which those come out that nothing keeps from starting."""

    # Instants are stamps: float seconds, see `Ready.stamp`.
    def __init__(self, rules: Rules, *, slots: int, aging: float) -> None:
        """Start empty, with all gates open."""
        self._rules = rules
        self._aging = aging
        self._stamps = Ready(aging)
        self._now = 0.0  # the latest stamp
        self._numbers = itertools.count(1).__next__  # of all kinds together: ties in release order
        self._kinds: dict[_Kind, Ready] = {}
        self._running = 0
        self._in_lane = dict.fromkeys(rules.lanes, 0)  # running runs of each lane
        self._common = slots - sum(rules.lanes.values())  # free ones of the slots for everybody
        self._used: dict[str, float] = dict.fromkeys(rules.capacity, 0)
        self._holders = dict.fromkeys(rules.capacity, 0)  # how many runs use it
        self._deferred: dict[Run, float] = {}  # since when they were kept waiting by resources
        self._closed: tuple[str, ...] = ()  # the readings of closed gates
        self._closed_since = math.inf

    # As `Ready`

    def __len__(self) -> int:
        """Return how many runs it holds."""
        return sum(map(len, self._kinds.values()))

    def stamp(self, now: datetime) -> float:
        """Return *now* as a stamp; never below an earlier one."""
        self._now = self._stamps.stamp(now)
        return self._now

    def instant_of(self, stamp: float) -> datetime:
        """Return the instant of an earlier stamp, by the clock as it stands now."""
        return self._stamps.instant_of(stamp)

    def push(self, stamp: float, priority: int, run: Run) -> Entry:
        """Put *run* in; return its entry, for `cancel`."""
        kind = self._kind(run.task)
        queue = self._kinds.get(kind)
        if queue is None:
            self._kinds = {kind: queue for kind, queue in self._kinds.items() if len(queue)}
            queue = self._kinds[kind] = Ready(self._aging, self._numbers)
        return queue.push(stamp, priority, run)

    def cancel(self, entry: Entry) -> None:
        """Take out the run of *entry*, whose task has the priority that it was put in with."""
        if entry[-1] is not None:
            self._kinds[self._kind(entry[-1].task)].cancel(entry)

    def first(self, n: int) -> list[Entry]:
        """Return copies of the first *n* entries, in order, and leave them in."""
        found = [entry for queue in self._kinds.values() for entry in queue.first(n)]
        return sorted(found)[:n]

    def startable(self) -> int:
        """Return how many slots could be of use: none if nothing may start as things stand."""
        return 0 if self._best(self._now) is None else len(self)

    def pop_at(self, now: datetime) -> Run | None:
        """Take out the best run that may start now; None when there is none."""
        entry = self._best(self.stamp(now))
        if entry is None:
            return None
        run: Run = entry[-1]
        self.cancel(entry)
        self._deferred.pop(run, None)
        return run

    # What is in use

    def started(self, task: Task) -> None:
        """Count a run of *task* as running: an attempt of it begins."""
        self._running += 1
        lane = task.lane
        if lane is None:
            self._common -= 1
        else:
            if self._in_lane[lane] >= self._rules.lanes[lane]:
                self._common -= 1
            self._in_lane[lane] += 1
        for name, amount in task.resources.items():
            self._used[name] += amount
            self._holders[name] += 1

    def ended(self, task: Task) -> None:
        """Count a run of *task* as running no longer."""
        self._running -= 1
        lane = task.lane
        if lane is None:
            self._common += 1
        else:
            self._in_lane[lane] -= 1
            if self._in_lane[lane] >= self._rules.lanes[lane]:
                self._common += 1
        for name, amount in task.resources.items():
            self._holders[name] -= 1
            # Not what is left of sums of floats, once there is nothing left.
            self._used[name] = self._used[name] - amount if self._holders[name] else 0

    def add_slots(self, more: int) -> None:
        """Have so many common slots more; fewer when negative."""
        self._common += more

    def set_gates(self, closed: tuple[str, ...], now: datetime) -> None:
        """Take note of the readings of the gates that are closed."""
        if closed and not self._closed:
            self._closed_since = self.stamp(now)
        self._closed = closed

    # What may start

    def _kind(self, task: Task) -> _Kind:
        passes = self._rules.ungated_priority
        is_gated = self._rules.has_gates and (passes is None or task._priority < passes)
        return task._demand, is_gated

    def _best(self, now: float) -> Entry | None:
        """Return the best entry that may start; note which were kept waiting by resources."""
        first = self._overdue(now)
        kept = _NOTHING
        if first is not None:
            if self._obstacle(first, now, kept) is None:
                return first.entry
            kept = frozenset(first.task.resources)
        best: Entry | None = None
        for queue in self._kinds.values():
            entry = queue.head()
            if entry is None or (best is not None and best < entry):
                continue
            obstacle = self._obstacle(entry[-1], now, kept)
            if obstacle is None:
                best = entry
            elif obstacle[0] in (_LACKING, _KEPT):
                self._deferred.setdefault(entry[-1], now)
        return best

    def _overdue(self, now: float) -> Run | None:
        """Return the run that resources have kept waiting longest, if that was for too long."""
        while self._deferred:
            run, since = next(iter(self._deferred.items()))
            if run.task._head is run and run.entry is not None:
                return run if now - since >= self._rules.max_defer else None
            del self._deferred[run]  # it was dropped or its task disabled
        return None

    def _obstacle(self, run: Run, now: float, kept: frozenset[str]) -> _Obstacle | None:
        """Return what keeps *run* from starting, None when nothing does.

        Args:
            run: A run that waits.
            now: The present.
            kept: Resources that are kept for another run.
        """
        demand, is_gated = self._kind(run.task)
        lane = None if demand is None else demand.lane
        if self._common <= 0 and (lane is None or self._in_lane[lane] >= self._rules.lanes[lane]):
            reserved = any(n < self._rules.lanes[name] for name, n in self._in_lane.items())
            return (_RESERVED if reserved else _NO_SLOT), ""
        if demand is not None:
            for name, amount in demand.resources:
                if self._used[name] + amount > self._rules.capacity[name] * _ROUNDING:
                    return _LACKING, name
                if name in kept:
                    return _KEPT, name
        if is_gated and self._is_held(run, now):
            return _GATED, ""
        return None

    def _is_held(self, run: Run, now: float) -> bool:
        if not self._closed or not self._running:  # one may always run
            return False
        return now - max(run.stamp, self._closed_since) < self._rules.max_defer

    def reason(self, run: Run, now: datetime) -> str:
        """Return for people what keeps *run* from starting, "" when nothing does."""
        stamp = self.stamp(now)
        first = self._overdue(stamp)
        kept = _NOTHING if first is None or first is run else frozenset(first.task.resources)
        obstacle = self._obstacle(run, stamp, kept)
        if obstacle is None:
            return ""
        what, name = obstacle
        if what == _LACKING:
            total = self._rules.capacity[name]
            return (
                f"it needs {run.task.resources[name]:g} of resource {name!r},"
                f" {total - self._used[name]:g} of {total:g} is free"
            )
        if what == _KEPT and first is not None:
            return f"resource {name!r} is kept for {first.task.name!r}, which waited too long"
        if what == _GATED:
            return f"closed gate: {'; '.join(self._closed)}"
        return "no slot is free" if what == _NO_SLOT else "the free slots are reserved for a lane"
