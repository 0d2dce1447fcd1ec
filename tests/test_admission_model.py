"""What may run now, in systems made up at random, against an oracle that sorts a plain list.

A system has slots, lanes, resources, a gate, tasks of all sorts and things that happen to them.
The oracle keeps every run that waits, sorts them by their keys at each decision and takes the
first that nothing keeps from starting. After each step:

- the run that the engine starts is the oracle's, and none where the oracle has none;
- what is used is no more than there is, of slots, lanes and resources;
- where a run could start, a slot is on its way to start it;
- a run that waited too long for resources is passed by none that needs any of them;
- the counters add up.

The one thing that the oracle does not make up for itself is since when a run has been kept waiting
by resources. The engine may say it a little early (see `_Oracle.overdue`), so it is held against
two bounds: not before the run was ready, not after the first time that another was preferred.

ADMISSION_SYSTEMS is for more systems than the suite has time for.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from background_tasks.admission import Rules
from background_tasks.engine import Engine
from background_tasks.mending import mend
from background_tasks.resources import NO_COST
from background_tasks.run import Outcome, Run
from background_tasks.task import Status, Task
from tests.driver import MANY, at, reading

_SYSTEMS = int(os.environ.get("ADMISSION_SYSTEMS", "500"))
_STEPS = 50
_BATCHES = 10


@dataclass(eq=False)
class _Waiting:
    """One run that waits, as the oracle sees it."""

    id: int
    stamp: float = 0.0
    number: int = 0  # in which turn it became the first of its task
    preferred: float = math.inf  # when another one was first preferred to it


@dataclass(eq=False)
class _Kept:
    """What the oracle keeps of a task."""

    task: Task
    priority: int
    enabled: bool = True
    running: int = 0
    head: _Waiting | None = None
    queue: list[_Waiting] = field(default_factory=list)

    @property
    def may_run(self) -> bool:
        """Whether one more of its runs may start."""
        return self.enabled and self.running < self.task.max_instances


class _Oracle:
    """Says which run is next, slowly."""

    def __init__(self, rules: Rules, *, slots: int, aging: float) -> None:
        self.rules = rules
        self.slots = slots
        self.aging = aging
        self.now = 0.0
        self.tasks: dict[int, _Kept] = {}
        self.active: list[Task] = []  # of each run that holds a slot
        self.closed_since: float | None = None
        self.count = itertools.count().__next__
        self.turn = itertools.count().__next__
        self.skipped = 0

    def ask(self, kept: _Kept) -> None:
        """Release a run."""
        waiting = _Waiting(self.count())
        if kept.running >= kept.task.max_instances and kept.task.overlap == "skip":
            self.skipped += 1
            return
        self.queue(kept, waiting)

    def queue(self, kept: _Kept, waiting: _Waiting) -> None:
        """Put a run at the end of its task's queue."""
        kept.queue.append(waiting)
        self.promote(kept)

    def promote(self, kept: _Kept) -> None:
        """Let the first of the task's runs be its candidate, if it may run."""
        if kept.head is None and kept.queue and kept.may_run:
            kept.head = kept.queue.pop(0)
            kept.head.stamp, kept.head.number = self.now, self.turn()
            kept.head.preferred = math.inf

    def enable(self, kept: _Kept, enabled: bool) -> None:
        """Let a task run or hold it."""
        if kept.enabled == enabled:
            return
        kept.enabled = enabled
        if not enabled and kept.head is not None:
            kept.queue.insert(0, kept.head)
            kept.head = None
        self.promote(kept)

    def prioritise(self, kept: _Kept, priority: int) -> None:
        """Give a task another priority."""
        was_gated = self.is_gated(kept)
        kept.priority = priority
        if kept.head is not None:
            kept.head.number = self.turn()
            if self.is_gated(kept) != was_gated:  # of another kind, which may have waited less
                kept.head.preferred = math.inf

    def started(self, kept: _Kept) -> None:
        """Note that the task's candidate runs."""
        kept.head = None
        kept.running += 1
        self.active.append(kept.task)
        self.promote(kept)

    def ended(self, kept: _Kept, again: _Waiting | None) -> None:
        """Note that a run of the task ended, or is tried *again* at once."""
        kept.running -= 1
        self.active.remove(kept.task)
        if again is not None:
            kept.queue.append(again)
        self.promote(kept)

    def lane_use(self) -> Counter[str | None]:
        """Return how many runs there are of each lane."""
        return Counter(task.lane for task in self.active)

    def common_use(self) -> int:
        """Return how many of the slots for everybody are taken."""
        lanes = self.rules.lanes
        return sum(
            count if lane is None else max(0, count - lanes[lane])
            for lane, count in self.lane_use().items()
        )

    def used(self, name: str) -> float:
        """Return how much of a resource is taken."""
        return math.fsum(task.resources.get(name, 0) for task in self.active)

    def has_slot(self, task: Task) -> bool:
        """Whether a slot is free that the task may use."""
        if self.common_use() < self.slots - sum(self.rules.lanes.values()):
            return True
        return task.lane is not None and self.lane_use()[task.lane] < self.rules.lanes[task.lane]

    def fits(self, task: Task) -> bool:
        """Whether what the task needs is free."""
        return all(
            self.used(name) + amount <= self.rules.capacity[name] + 1e-6
            for name, amount in task.resources.items()
        )

    def is_gated(self, kept: _Kept) -> bool:
        """Whether the task stops at a closed gate."""
        passes = self.rules.ungated_priority
        return self.rules.has_gates and (passes is None or kept.priority < passes)

    def is_held(self, kept: _Kept) -> bool:
        """Whether a closed gate holds the task's candidate."""
        assert kept.head is not None
        if self.closed_since is None or not self.active or not self.is_gated(kept):
            return False
        return self.now < max(kept.head.stamp, self.closed_since) + self.rules.max_defer

    def key(self, kept: _Kept) -> Any:
        """Return what the candidates are sorted by."""
        assert kept.head is not None
        if self.aging == math.inf:
            return -kept.priority, kept.head.stamp, kept.head.number
        return kept.head.stamp - self.aging * kept.priority, kept.head.number

    def candidates(self) -> list[_Kept]:
        """Return the tasks with a run to start, of each kind one, best first.

        That is the best; if gates hold it, the one that waits longest.
        """
        kinds: dict[object, list[_Kept]] = {}
        for each in self.tasks.values():
            if each.head:
                kinds.setdefault((each.task._demand, self.is_gated(each)), []).append(each)
        return sorted(map(self.stand_in, kinds.values()), key=self.key)

    def stand_in(self, of_kind: list[_Kept]) -> _Kept:
        """Return the one of those that need the same that is looked at."""
        best = min(of_kind, key=self.key)
        eldest = min(of_kind, key=self.age)
        return eldest if self.is_held(best) and not self.is_held(eldest) else best

    def overdue(self, since: dict[int, float]) -> list[_Kept]:
        """Return whose runs waited too long for resources, by *since* when each has waited.

        Of those that need the same, the one that waits longest.
        """
        by_kind: dict[object, tuple[float, float, int, _Kept]] = {}
        for kept in self.tasks.values():
            head = kept.head
            if head is None:
                continue
            assert since.get(head.id, math.inf) <= max(head.preferred, head.stamp)
            if self.now - since.get(head.id, math.inf) >= self.rules.max_defer:
                kind = (kept.task._demand, self.is_gated(kept))
                found = (since[head.id], head.stamp, head.number, kept)
                by_kind[kind] = min(found, by_kind.get(kind, found), key=lambda each: each[1:3])
        return [kept for *_, kept in sorted(by_kind.values(), key=self.turn_of)]

    @staticmethod
    def age(kept: _Kept) -> tuple[float, int]:
        """Return what those that need the same are sorted by when they waited too long."""
        assert kept.head is not None
        return kept.head.stamp, kept.head.number

    @staticmethod
    def turn_of(found: tuple[float, float, int, _Kept]) -> tuple[float, float, int]:
        """Return what those that waited too long are sorted by."""
        assert found[3].head is not None
        return found[0], found[1], found[3].head.id

    def next(self, since: dict[int, float]) -> _Kept | None:
        """Return whose run must start next; None when none may."""
        taken: set[str] = set()
        found: list[_Kept] = []
        late = self.overdue(since)
        for each in late:
            is_free = self.fits(each.task) and not taken & set(each.task.resources)
            if self.has_slot(each.task) and is_free and not self.is_held(each):
                found.append(each)
            taken |= set(each.task.resources)
        kinds = {(each.task._demand, self.is_gated(each)) for each in late}
        for each in self.candidates():
            if (each.task._demand, self.is_gated(each)) in kinds:
                continue
            is_free = self.fits(each.task) and not taken & set(each.task.resources)
            if self.has_slot(each.task) and is_free and not self.is_held(each):
                found.append(each)
        return min(found, key=self.key, default=None)

    def note_preferred(self, chosen: _Kept | None, since: dict[int, float]) -> None:
        """Note of which candidates resources alone have made that they are not the chosen."""
        late = self.overdue(since)
        taken = {name for each in late for name in each.task.resources}
        for each in self.candidates():
            if each is chosen:
                return
            head = each.head
            assert head is not None
            lacks = not self.fits(each.task) or taken & set(each.task.resources)
            if self.has_slot(each.task) and lacks and chosen not in late:
                head.preferred = min(head.preferred, self.now)


class _System:
    """An engine and an oracle to which the same happens."""

    def __init__(self, seed: int) -> None:
        draw = self.draw = random.Random(seed)
        slots = draw.randint(1, 5)
        lanes = dict.fromkeys(("quick", "mail")[: draw.randint(0, min(2, slots - 1))], 1)
        capacities: list[dict[str, float]] = [
            {},
            {"db": 2},
            {"db": 2, "mem": 1},
            {"db": 1, "mem": 3},
        ]
        capacity = draw.choice(capacities)
        has_gates = draw.random() < 0.5
        rules = Rules(
            lanes=lanes,
            capacity=capacity,
            has_gates=has_gates,
            ungated_priority=draw.choice([None, 0, 2]),
            max_defer=draw.choice([0.1, 2.0, 10.0, 1e9]),
        )
        aging = draw.choice([0.0, 1.0, 5.0, math.inf])
        self.engine = Engine(
            max_running_tasks=slots,
            aging=aging,
            on_time=timedelta(seconds=1),
            rules=None if rules.is_trivial else rules,
        )
        self.oracle = _Oracle(rules, slots=slots, aging=aging)
        self.noon = self.engine._ready.stamp(at(0))
        self.slots = slots
        self.coming = 0  # slots that are claimed and have not arrived
        self.runs: list[Run] = []
        self.inline: list[Run] = []
        self.retrying: list[tuple[float, int, Run]] = []
        for _ in range(draw.randint(1, 6)):
            self.add()

    def since(self) -> dict[int, float]:
        """Return since when runs were kept waiting, as the engine says."""
        admission = self.engine._admission
        if admission is None:
            return {}
        return {
            run.execution.id: max(run.stamp, kind.put_off_since) - self.noon
            for kind in admission._kinds.values()
            for run in kind.places
            if kind.put_off_since < math.inf
        }

    def add(self) -> None:
        """Add a task."""
        draw, rules = self.draw, self.oracle.rules
        resources = {
            name: draw.choice([amount, amount / 2, 0.1, 0.3])
            for name, amount in rules.capacity.items()
            if draw.random() < 0.6
        }
        task = Task(
            "t",
            int,
            priority=draw.randint(-2, 3),
            max_instances=draw.randint(1, 3),
            overlap=draw.choice(["queue", "queue", "skip"]),
            lane=draw.choice([None, None, *rules.lanes]),
            resources=resources,
        )
        rules.check_task(task)
        self.engine.add(task, at(self.oracle.now))
        self.oracle.tasks[task.id] = _Kept(task, task.priority)

    def step(self) -> None:
        """Let one thing happen, then claim slots as the scheduler does."""
        deeds = [self.ask, self.ask, self.go, self.arrive, self.arrive, self.finish, self.finish]
        rare = [self.prioritise, self.enable, self.turn_gate, self.renew, self.run_inline]
        self.draw.choice([*deeds, *deeds, *rare, self.mend])()
        self.coming += self.engine.claim_slots()
        self.check()

    def any_task(self) -> _Kept | None:
        """Return one of the tasks."""
        return self.draw.choice(list(self.oracle.tasks.values())) if self.oracle.tasks else None

    def ask(self) -> None:
        """Ask for some runs of a task."""
        kept = self.any_task()
        for _ in range(self.draw.randint(1, 3)):
            if kept is not None:
                self.engine.request(kept.task, None, at(self.oracle.now))
                self.oracle.ask(kept)

    def go(self) -> None:
        """Let time pass; retries come due."""
        self.oracle.now += self.draw.choice([0.0, 0.25, 1.0, 2.0, 5.0])
        for entry in sorted(self.retrying, key=lambda each: each[:2]):
            due, _, run = entry
            if due <= self.oracle.now:
                self.retrying.remove(entry)
                kept = self.oracle.tasks.get(run.task.id)
                if kept is not None:
                    self.oracle.queue(kept, _Waiting(run.execution.id))
        self.engine.release(at(self.oracle.now), MANY)

    def arrive(self) -> None:
        """Let a slot that was claimed arrive."""
        if self.coming:
            self.coming -= 1
            self.take()

    def take(self) -> None:
        """Let a slot look for a run."""
        since = self.since()  # before: it forgets the one that it starts
        run = self.engine.take(at(self.oracle.now))
        expected = self.oracle.next(since)
        if expected is None or expected.head is None:
            assert run is None
            self.engine.slots -= 1
            return
        assert run is not None
        assert (run.task, run.execution.id) == (expected.task, expected.head.id)
        self.oracle.note_preferred(expected, since)
        self.oracle.started(expected)
        self.runs.append(run)

    def finish(self) -> None:
        """Let a run end; its slot looks for another."""
        if not self.runs:
            return
        run = self.runs.pop(self.draw.randrange(len(self.runs)))
        now = self.oracle.now
        delay = self.draw.choice([None, None, None, 0.0, 1.0, 4.0])
        kept = self.oracle.tasks.get(run.task.id)
        error = "" if delay is None else "no"
        self.engine.finish(run, Outcome(at(now), NO_COST, error=error, retry_after=delay))
        again = None if delay != 0 else _Waiting(run.execution.id)
        if kept is None:
            self.oracle.active.remove(run.task)
        else:
            self.oracle.ended(kept, again)
            if delay:
                order = -run.task.priority * MANY * MANY + self.oracle.turn()
                self.retrying.append((now + delay, order, run))
        self.take()

    def prioritise(self) -> None:
        """Change a priority."""
        kept = self.any_task()
        if kept is not None and not any(run.task is kept.task for *_, run in self.retrying):
            priority = self.draw.randint(-2, 3)
            self.engine.set_priority(kept.task, priority)
            self.oracle.prioritise(kept, priority)

    def enable(self) -> None:
        """Enable or disable a task."""
        kept = self.any_task()
        if kept is not None:
            enabled = self.draw.random() < 0.6
            self.engine.set_enabled(kept.task, enabled, at(self.oracle.now))
            self.oracle.enable(kept, enabled)

    def turn_gate(self) -> None:
        """Close the gate or open it."""
        now = self.oracle.now
        is_closed = self.draw.random() < 0.6
        self.engine.set_gates([], [reading(31.0)] if is_closed else [], at(now))
        if not is_closed:
            self.oracle.closed_since = None
        elif self.oracle.closed_since is None:
            self.oracle.closed_since = now

    def renew(self) -> None:
        """Remove a task and add another."""
        kept = self.any_task()
        if kept is not None and self.draw.random() < 0.5:
            self.engine.remove(kept.task.id, at(self.oracle.now))
            del self.oracle.tasks[kept.task.id]
            self.retrying = [each for each in self.retrying if each[-1].task is not kept.task]
        self.add()

    def mend(self) -> None:
        """Make the books add up, which they do already."""
        for run in self.runs + self.inline:
            run.thread = 1
        assert mend(self.engine, at(self.oracle.now)) == 0

    def run_inline(self) -> None:
        """Let a caller of run_task begin or end a run."""
        now = at(self.oracle.now)
        if self.inline and self.draw.random() < 0.6:
            run = self.inline.pop()
            kept = self.oracle.tasks.get(run.task.id)
            self.engine.finish(run, Outcome(now, NO_COST))
            if kept is not None:
                kept.running -= 1
                self.oracle.promote(kept)
        elif (kept := self.any_task()) is not None:
            self.inline.append(self.engine.take_inline(kept.task, None, now))
            self.oracle.count()
            kept.running += 1

    def check(self) -> None:
        """See that everything is as it must be."""
        oracle, rules = self.oracle, self.oracle.rules
        assert len(oracle.active) == len(self.runs)
        assert self.engine.slots == len(self.runs) + self.coming <= self.slots
        assert oracle.common_use() <= self.slots - sum(rules.lanes.values())
        for name, amount in rules.capacity.items():
            assert oracle.used(name) <= amount + 1e-6
        may_start = oracle.next(self.since()) is not None
        assert self.coming > 0 or not may_start
        if may_start and self.engine.slots < self.slots:
            assert self.engine.claim_slots() == 0
        self.check_counts()

    def check_counts(self) -> None:
        """See that the counters add up and are the oracle's."""
        stats = self.engine.stats()
        ended = stats.succeeded + stats.failed + stats.missed + stats.dropped
        assert stats.released == ended + stats.pending + stats.running
        assert stats.missed == self.oracle.skipped
        assert stats.running == len(self.runs) + len(self.inline)
        waiting = sum(len(each.queue) + bool(each.head) for each in self.oracle.tasks.values())
        assert stats.pending == waiting + len(self.retrying)
        admission = self.engine._admission
        if admission is not None:
            assert len(admission) == sum(bool(each.head) for each in self.oracle.tasks.values())

    def drain(self) -> None:
        """Open the gate and enable all; let everything come to its end."""
        self.engine.set_gates([], [], at(self.oracle.now))
        self.oracle.closed_since = None
        for kept in self.oracle.tasks.values():
            self.engine.set_enabled(kept.task, True, at(self.oracle.now))
            self.oracle.enable(kept, True)
        while self.inline:
            self.run_inline()
        self.coming += self.engine.claim_slots()
        self.check()
        while self.engine.stats().pending or self.runs or self.coming:
            self.draw.choice([self.go, self.arrive, self.finish])()
            self.coming += self.engine.claim_slots()
            self.check()
        for kept in self.oracle.tasks.values():
            history = {run.status for run in kept.task.execution_hist}
            assert history <= {Status.SUCCESS, Status.FAILED, Status.MISSED}
        admission = self.engine._admission
        if admission is not None:
            assert admission._running == 0
            assert set(admission._used.values()) <= {0}
            assert set(admission._in_lane.values()) <= {0}
            assert admission._common == self.slots - sum(self.oracle.rules.lanes.values())


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_the_engine_does_what_the_oracle_says(batch: int) -> None:
    """Step by step, whatever happens, to the end."""
    for seed in range(batch, _SYSTEMS, _BATCHES):
        system = _System(seed)
        for _ in range(_STEPS):
            system.step()
        system.drain()
