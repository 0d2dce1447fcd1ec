"""What may run now: lanes, declared resources and gates; no lock, thread or clock.

`Admission` stands in for `Ready` where a scheduler has any of these. Runs that ask for the same
are of one kind and wait in one heap, so a decision looks at one run of each kind, not at all that
wait: of these it takes the best that nothing keeps from starting.

A run that does not fit steps aside for one that does. That is not for ever: when it was put off
for ``max_defer`` seconds it is *overdue*, stands for its kind in place of the best, and whatever
needs one of its resources stays behind it. A run that gates have held for so long is let through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from background_tasks import checks
from background_tasks.errors import InvalidValueError
from background_tasks.heap import Entry, Heap
from background_tasks.ready import Ready
from background_tasks.run import Run
from background_tasks.task import Demand, Task, priority_of

__all__ = ["Admission", "Rules"]

_FEW = 64  # kinds; not worth sweeping
_ROUNDING = 1 + 1e-9  # 0.1 + 0.2 is no more than 0.3
_NOTHING: frozenset[str] = frozenset()
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


class _Kind:
    """The runs that wait and need the same.

    ``queue`` has them by key, ``elders`` by how long they wait: entries ``[stamp, number, run]``.
    """

    __slots__ = ("demand", "elders", "is_gated", "names", "places", "put_off_since", "queue")

    def __init__(self, demand: Demand | None, is_gated: bool, queue: Ready) -> None:
        self.demand = demand
        self.is_gated = is_gated
        self.names = frozenset(name for name, _ in demand.resources) if demand else _NOTHING
        self.queue = queue
        self.elders = Heap()
        self.places: dict[Run, Entry] = {}  # in elders
        self.put_off_since = math.inf  # resources have kept it waiting; until it is seen empty

    def add(self, stamp: float, priority: int, run: Run) -> Entry:
        entry = self.queue.push(stamp, priority, run)
        if self.names or self.is_gated:
            self.places[run] = self.elders.push_entry([stamp, entry[1], run])
        return entry

    def sweep(self, keep: Callable[[Entry], bool]) -> set[int]:
        left = self.queue.sweep(keep)
        self.elders, self.places = Heap(), {}
        if self.names or self.is_gated:
            for _, number, run in self.queue.first(len(self.queue)):
                self.places[run] = self.elders.push_entry([run.stamp, number, run])
        return left

    def remove(self, entry: Entry) -> None:
        place = self.places.pop(entry[-1], None)
        if place is not None:
            self.elders.cancel(place)
        self.queue.cancel(entry)

    def first(self) -> Run | None:
        """Return the best of them."""
        entry = self.queue.head()
        return None if entry is None else entry[-1]

    def eldest(self) -> Run | None:
        """Return the one that waits longest, where that can matter."""
        entry = self.elders.head()
        return None if entry is None else entry[-1]


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
        self._kinds: dict[tuple[Demand | None, bool], _Kind] = {}
        self._many = _FEW  # kinds, at which to sweep
        self.recount(slots, ())
        self._closed: tuple[str, ...] = ()  # the readings of closed gates
        self._closed_since = 0.0

    # As `Ready`

    def __len__(self) -> int:
        """Return how many runs it holds."""
        return sum(len(kind.queue) for kind in self._kinds.values())

    def stamp(self, now: datetime) -> float:
        """Return *now* as a stamp; never below an earlier one."""
        self._now = self._stamps.stamp(now)
        return self._now

    def instant_of(self, stamp: float) -> datetime:
        """Return the instant of an earlier stamp, by the clock as it stands now."""
        return self._stamps.instant_of(stamp)

    def push(self, stamp: float, priority: int, run: Run) -> Entry:
        """Put *run* in; return its entry, for `cancel`."""
        what = self._what(run.task)
        kind = self._kinds.get(what)
        if kind is None:
            self._sweep()
            kind = self._kinds[what] = _Kind(*what, Ready(self._aging, self._numbers))
        return kind.add(stamp, priority, run)

    def _sweep(self) -> None:
        """Forget the kinds of which nothing waits, when there are twice as many as at the last."""
        if len(self._kinds) >= self._many:
            self._kinds = {what: kind for what, kind in self._kinds.items() if len(kind.queue)}
            self._many = max(_FEW, 2 * len(self._kinds))

    def cancel(self, entry: Entry) -> None:
        """Take out the run of *entry*, whose task has the priority that it was put in with."""
        if entry[-1] is not None:
            self._kinds[self._what(entry[-1].task)].remove(entry)

    def sweep(self, keep: Callable[[Entry], bool]) -> set[int]:
        """Throw out the runs that *keep*, told the entry of each, says no to; see `Heap.sweep`."""
        return {each for kind in self._kinds.values() for each in kind.sweep(keep)}

    def first(self, n: int) -> list[Entry]:
        """Return copies of the first *n* entries and leave them in: what is overdue, the rest."""
        entries = {id(e[-1]): e for kind in self._kinds.values() for e in kind.queue.first(n)}
        firsts = [list(run.entry) for _, run in self._overdue() if run.entry is not None]
        for entry in firsts:
            entries.pop(id(entry[-1]), None)
        return [*firsts, *sorted(entries.values())][:n]

    def startable(self) -> int:
        """Return how many slots could be of use as things stand: none if nothing may start."""
        return sum(self._fitting(self._kind_of(run)) for run in self._candidates())

    def pop_at(self, now: datetime) -> Run | None:
        """Take out the best run that may start now; None when there is none."""
        self.stamp(now)
        entries = [run.entry for run in self._candidates() if run.entry is not None]
        if not entries:
            return None
        entry = min(entries)
        run: Run = entry[-1]
        self.cancel(entry)
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

    def recount(self, slots: int, running: Iterable[Task]) -> None:
        """Count anew what is in use: of so many slots, by one run of each of *running*."""
        rules = self._rules
        self._running = 0
        self._in_lane = dict.fromkeys(rules.lanes, 0)  # running runs of each lane
        self._common = slots - sum(rules.lanes.values())  # free ones of the slots for everybody
        self._used: dict[str, float] = dict.fromkeys(rules.capacity, 0)
        self._holders = dict.fromkeys(rules.capacity, 0)  # how many runs use it
        for task in running:
            self.started(task)

    def add_slots(self, more: int) -> None:
        """Have so many common slots more; fewer when negative."""
        self._common += more

    def set_gates(self, closed: tuple[str, ...]) -> None:
        """Take note of the readings of the gates that are closed."""
        if closed and not self._closed:
            self._closed_since = self._now
        self._closed = closed

    # What may start

    def _what(self, task: Task) -> tuple[Demand | None, bool]:
        passes = self._rules.ungated_priority
        is_gated = self._rules.has_gates and (passes is None or task._priority < passes)
        return task._demand, is_gated

    def _kind_of(self, run: Run) -> _Kind:
        return self._kinds[self._what(run.task)]

    def _candidates(self) -> Iterator[Run]:
        """Yield of each kind the run that stands for it, if nothing keeps it from starting.

        Takes note of the kinds that resources keep waiting.
        """
        kept: set[str] = set()
        for kind, run in self._overdue():
            if not kept & kind.names and self._obstacle(kind, run, _NOTHING) is None:
                yield run
            kept |= kind.names
        for kind in self._kinds.values():
            stand_in = self._stand_in(kind)
            if stand_in is None:
                kind.put_off_since = math.inf
                continue
            obstacle = self._obstacle(kind, stand_in, frozenset(kept))
            if obstacle is None:
                yield stand_in
            elif obstacle[0] in (_LACKING, _KEPT):
                kind.put_off_since = min(kind.put_off_since, self._now)

    def _stand_in(self, kind: _Kind) -> Run | None:
        """Return the best run of a kind, or the eldest if gates hold the best and not that."""
        first = kind.first()
        if first is not None and kind.is_gated and self._is_held(first):
            eldest = kind.eldest()
            if eldest is not None and not self._is_held(eldest):
                return eldest
        return first

    def _overdue(self) -> list[tuple[_Kind, Run]]:
        """Return the kinds whose eldest run was put off for too long, with it; longest first."""
        found: list[tuple[float, float, _Kind, Run]] = []
        for kind in self._kinds.values():
            if kind.put_off_since <= self._now:
                run = kind.eldest()
                if run is not None:
                    since = max(run.stamp, kind.put_off_since)
                    if self._now - since >= self._rules.max_defer:
                        found.append((since, run.stamp, kind, run))
        found.sort(key=lambda each: (each[0], each[1], each[3].execution.id))
        return [(kind, run) for _, _, kind, run in found]

    def _obstacle(self, kind: _Kind, run: Run, kept: frozenset[str]) -> _Obstacle | None:
        """Return what keeps *run* from starting, None when nothing does.

        Args:
            kind: Its kind.
            run: A run that waits.
            kept: Resources that are kept for other runs.
        """
        lane = None if kind.demand is None else kind.demand.lane
        if self._common <= 0 and (lane is None or self._in_lane[lane] >= self._rules.lanes[lane]):
            reserved = any(n < self._rules.lanes[name] for name, n in self._in_lane.items())
            return (_RESERVED if reserved else _NO_SLOT), ""
        for name, amount in kind.demand.resources if kind.demand else ():
            if self._used[name] + amount > self._rules.capacity[name] * _ROUNDING:
                return _LACKING, name
            if name in kept:
                return _KEPT, name
        if kind.is_gated and self._is_held(run):
            return _GATED, ""
        return None

    def _is_held(self, run: Run) -> bool:
        """Return whether closed gates hold a run that they may hold."""
        if not self._closed or not self._running:  # one may always run
            return False
        return self._now - max(run.stamp, self._closed_since) < self._rules.max_defer

    def _fitting(self, kind: _Kind) -> int:
        """Return how many runs of a kind, of which one may start, there is room for."""
        if kind.is_gated and self._closed:
            return 1  # more may be let through, each when it is looked at
        rooms = [
            int((self._rules.capacity[name] * _ROUNDING - self._used[name]) / amount)
            for name, amount in (kind.demand.resources if kind.demand else ())
        ]
        return max(1, min(len(kind.queue), *rooms)) if rooms else len(kind.queue)

    # What is said of it

    def reason(self, run: Run) -> str:
        """Return for people what keeps *run* from starting, "" when nothing does."""
        kind = self._kind_of(run)
        kept: dict[str, Run] = {}
        for late, first in self._overdue():
            if first is run:
                break
            kept |= {name: first for name in late.names if name not in kept}
        obstacle = self._obstacle(kind, run, frozenset(kept))
        return "" if obstacle is None else self._text(run, *obstacle, kept)

    def _text(self, run: Run, what: str, name: str, kept: Mapping[str, Run]) -> str:
        if what == _LACKING:
            total = self._rules.capacity[name]
            free = max(0.0, total - self._used[name])
            return (
                f"it needs {_amount(run.task.resources[name])} of resource {name!r},"
                f" {_amount(free)} of {_amount(total)} is free"
            )
        if what == _KEPT:
            return f"resource {name!r} is kept for {kept[name].task.name!r}, which waited too long"
        if what == _GATED:
            return f"closed gate: {'; '.join(self._closed)}"
        return "no slot is free" if what == _NO_SLOT else "the free slots are reserved for a lane"


def _amount(value: float) -> str:
    return f"{value:.12g}"
