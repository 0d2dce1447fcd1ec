"""Random systems of tasks in virtual time: the real engine, no thread, no clock, no sleep.

A `System` says what there is and what happens when; `simulate` lets an engine decide and slots
that need no thread carry it out. What a run waited is counted in books of the simulation's own, so
an engine that stamps its runs wrongly is found out.

All times are whole seconds, lengths and priorities whole numbers: no rounding anywhere, so a wait
is compared with its bound exactly.

``python -m tests.simulation 100000`` prints what so many systems come to.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from background_tasks.engine import Engine
from background_tasks.resources import NO_COST
from background_tasks.run import Outcome, Run
from background_tasks.task import Task
from background_tasks.trigger import Arm, EventTrigger, Signal

__all__ = [
    "KINDS",
    "Deed",
    "Findings",
    "StampedAtRelease",
    "Step",
    "System",
    "TaskPlan",
    "Wait",
    "random_system",
    "script",
    "simulate",
    "study",
]

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_NOTHING_IS_TOLD = 100  # above the level of every change
_MANY = 1000  # more than is ever due at one instant
_FAILING = 3  # each run whose number this divides fails its first attempt, if its task retries


# What there is


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What a task of a system is made from.

    Attributes:
        length: Seconds that each of its attempts takes.
        priority: What it begins with.
        max_instances: How many of its runs may run at once.
        has_event: Whether its runs come of an EventTrigger; otherwise they are asked for.
        retry_after: Seconds to the second attempt of a run that fails; None: no run fails.
    """

    length: int
    priority: int = 0
    max_instances: int = 1
    has_event: bool = False
    retry_after: int | None = None


class Deed(NamedTuple):
    """What happens from outside at one moment.

    Attributes:
        at: Seconds from the start.
        what: "release" a run, set the "priority", or "enable": 0 or 1.
        task: The number of the task.
        value: What is set.
    """

    at: int
    what: str
    task: int
    value: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Slots, tasks and what happens to them."""

    name: str
    slots: int
    aging: int
    tasks: tuple[TaskPlan, ...]
    deeds: tuple[Deed, ...]

    @property
    def has_overlap(self) -> bool:
        """Whether two runs of one task may run at once."""
        return any(task.max_instances > 1 for task in self.tasks)


class Wait(NamedTuple):
    """How long a run waited.

    Attributes:
        task: The number of its task.
        since: When it was the first of its task's queue and could have run.
        until: When it started, or could no longer because its task was disabled.
        lowest: The lowest priority that its own task had meanwhile.
        highest: The highest priority that any task had meanwhile.
    """

    task: int
    since: int
    until: int
    lowest: int
    highest: int

    def in_slots(self, system: System) -> int:
        """Return the wait in seconds, times the slots: a whole number, as its bounds are."""
        return (self.until - self.since) * system.slots

    def bound(self, system: System) -> int:
        """Return the longest that is promised, times the slots.

        ``aging * (highest - lowest) + sum of the other tasks' lengths / slots + longest length``.
        """
        longest = max(task.length for task in system.tasks)
        return self.bound_without_overlap(system) + system.slots * longest

    def bound_without_overlap(self, system: System) -> int:
        """Return the same without the longest length, of which nothing is left.

        For a system in which no two runs of one task run at once.
        """
        others = sum(task.length for n, task in enumerate(system.tasks) if n != self.task)
        return system.slots * system.aging * (self.highest - self.lowest) + others


class Step(NamedTuple):
    """One thing that happened, and the runs that started because of it.

    Attributes:
        at: Seconds from the start.
        what: What was done from outside, or the ID of the run that ended.
        starts: The IDs of the runs that started, in order.
    """

    at: int
    what: Deed | int
    starts: list[int]


class StampedAtRelease(Engine):
    """An engine that leaves the re-stamp out: a run's stamp is when it was released.

    So it grows old while it waits behind the others of its own task.
    """

    def _make_head(self, run: Run, now: datetime) -> None:
        super()._make_head(run, now)
        assert run.entry is not None
        assert run.execution.released_at is not None
        self._ready.cancel(run.entry)
        run.stamp -= (now - run.execution.released_at).total_seconds()
        run.entry = self._ready.push(run.stamp, run.task._priority, run)


# What happens


class _Bell:
    """What an EventTrigger rings: the engine."""

    def __init__(self, simulation: _Simulation, arm: Arm) -> None:
        self._simulation = simulation
        self._arm = arm

    def signalled(self, trigger: EventTrigger) -> None:
        self._simulation.engine.ring(self._arm)

    def signal(self, event: object) -> Signal:
        return event, self._simulation.instant, None


@dataclass(slots=True)
class _Page:
    """What the books say of one task."""

    priority: int
    waiting: int = 0  # runs in its queue
    running: int = 0
    enabled: bool = True
    since: int | None = None  # when the first of its queue could have run; None: it cannot now
    lowest: int = 0  # its own priority since then
    highest: int = 0  # anybody's priority since then


class _Simulation:
    """One system at work."""

    def __init__(self, system: System, engine_type: type[Engine], tie: random.Random) -> None:
        self.system = system
        self.engine = engine_type(
            max_running_tasks=system.slots, aging=float(system.aging), on_time=timedelta(seconds=1)
        )
        self.engine.level = _NOTHING_IS_TOLD
        self.now = 0
        self.instant = _START
        self.waits: list[Wait] = []
        self.steps: list[Step] = []
        self.starts: list[int] = []  # of the step under way
        self.idle = 0  # slots that are claimed and run nothing
        self.retries: list[tuple[int, int]] = []  # when, of which task
        self.tie = tie  # what happens at one instant happens in any order
        self.tasks: list[Task] = []
        self.triggers: list[EventTrigger | None] = []
        self.numbers: dict[Task, int] = {}
        self.pages = [_Page(plan.priority) for plan in system.tasks]
        self.agenda: list[tuple[int, float, int, Deed | Run | None]] = []
        self.entered = 0
        for number, plan in enumerate(system.tasks):
            self._add(number, plan)
        for deed in system.deeds:
            self._plan(deed.at, deed)

    def _add(self, number: int, plan: TaskPlan) -> None:
        trigger = EventTrigger() if plan.has_event else None
        task = Task(
            f"task {number}",
            int,
            triggers=[trigger] if trigger else [],
            priority=plan.priority,
            max_instances=plan.max_instances,
            history=0,
        )
        self.engine.add(task, _START)
        if trigger is not None:
            trigger.bind(_Bell(self, task._arms[0]))
        self.tasks.append(task)
        self.triggers.append(trigger)
        self.numbers[task] = number

    def _plan(self, at: int, item: Deed | Run | None) -> None:
        self.entered += 1
        heapq.heappush(self.agenda, (at, self.tie.random(), self.entered, item))

    def run(self) -> list[Wait]:
        """Do all there is to do, until nothing is left; return every wait."""
        while self.agenda:
            at, _, _, item = heapq.heappop(self.agenda)
            if at != self.now:
                self.now, self.instant = at, _START + timedelta(seconds=at)
            if self.retries:
                self._release_retries()
            self.starts = []
            if type(item) is Run:
                self._end(item)
                self.steps.append(Step(at, item.execution.id, self.starts))
            elif type(item) is Deed:
                self._do(item)
                self.steps.append(Step(at, item, self.starts))
            self._dispatch()
        assert [page for page in self.pages if page.enabled and page.waiting] == []
        return self.waits

    def _release_retries(self) -> None:
        """Release the runs whose next attempt is due."""
        due = 0
        while self.retries and self.retries[0][0] <= self.now:
            _, number = heapq.heappop(self.retries)
            self.pages[number].waiting += 1
            due += 1
        assert self.engine.release(self.instant, _MANY) == due
        for number in range(len(self.pages)):
            self._note(number)

    def _do(self, deed: Deed) -> None:
        task, page = self.tasks[deed.task], self.pages[deed.task]
        if deed.what == "release":
            self._release(deed.task)
        elif deed.what == "priority":
            self.engine.set_priority(task, deed.value)
            page.priority = deed.value
            page.lowest = min(page.lowest, deed.value)
            for each in self.pages:
                each.highest = max(each.highest, deed.value)
        else:
            self.engine.set_enabled(task, bool(deed.value), self.instant)
            page.enabled = bool(deed.value)
            if page.enabled:  # its signals waited for that
                page.waiting += self.engine.release_signals(self.instant, _MANY)
        self._note(deed.task)

    def _release(self, number: int) -> None:
        trigger = self.triggers[number]
        if trigger is None:
            self.engine.request(self.tasks[number], None, self.instant)
            self.pages[number].waiting += 1
        else:
            trigger.fire()
            self.pages[number].waiting += self.engine.release_signals(self.instant, _MANY)

    def _dispatch(self) -> None:
        """Let slots take runs until there is none that is ready, or no slot that is free."""
        self.idle += self.engine.claim_slots()
        while self.idle:
            run = self.engine.take(self.instant)
            if run is None:
                self.engine.slots -= 1
                self.idle -= 1
            else:
                self.idle -= 1
                self._start(run)
                self.idle += self.engine.claim_slots()

    def _start(self, run: Run) -> None:
        number = self.numbers[run.task]
        page = self.pages[number]
        assert page.since is not None, "a run started that could not"
        self._keep(number)
        page.waiting -= 1
        page.running += 1
        self._note(number)
        self.starts.append(run.execution.id)
        self._plan(self.now + self.system.tasks[number].length, run)

    def _end(self, run: Run) -> None:
        """End an attempt; its slot is free."""
        number = self.numbers[run.task]
        page, delay = self.pages[number], self.system.tasks[number].retry_after
        page.running -= 1
        self.idle += 1
        is_over = run.execution.attempts > 1 or run.execution.id % _FAILING or delay is None
        if is_over or delay is None:
            self.engine.finish(run, Outcome(self.instant, NO_COST))
        else:
            self.engine.finish(run, Outcome(self.instant, NO_COST, error="E", retry_after=delay))
            if delay:
                heapq.heappush(self.retries, (self.now + delay, number))
                self._plan(self.now + delay, None)
            else:
                page.waiting += 1
        self._note(number)

    # The books

    def _note(self, number: int) -> None:
        """Begin or end the wait of the task's first run, if what has happened does."""
        page = self.pages[number]
        may_run = page.enabled and page.running < self.system.tasks[number].max_instances
        if not (page.waiting and may_run):
            if page.since is not None:
                self._keep(number)
        elif page.since is None:
            page.since = self.now
            page.lowest = page.priority
            page.highest = max(each.priority for each in self.pages)

    def _keep(self, number: int) -> None:
        """Write down the wait that ends now."""
        page = self.pages[number]
        if page.since is not None and page.since < self.now:
            self.waits.append(Wait(number, page.since, self.now, page.lowest, page.highest))
        page.since = None


def simulate(system: System, engine_type: type[Engine] = Engine, *, seed: int = 0) -> list[Wait]:
    """Return every wait that is longer than nothing; *seed* orders what happens at one instant."""
    return _Simulation(system, engine_type, random.Random(seed)).run()


def script(system: System, *, seed: int = 0) -> list[Step]:
    """Return all that happens in a system, in order; none of its runs may fail."""
    assert all(task.retry_after is None for task in system.tasks)
    simulation = _Simulation(system, Engine, random.Random(seed))
    simulation.run()
    return simulation.steps


# Systems at random


class _Draft:
    """A system while it is being made up."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.slots = draw.choice((1, 1, 2, 3, 4))
        self.aging = draw.choice((0, 1, 2, 5, 10))
        self.widest = draw.choice((1, 1, 2, 4))  # instances of a task at once
        self.tasks: list[TaskPlan] = []
        self.deeds: list[Deed] = []

    def task(self, length: int, priority: int, *, has_event: bool | None = None) -> int:
        """Add a task; return its number. By default its runs come of events or not, at random."""
        is_chance = self.draw.random() < 0.5
        self.tasks.append(
            TaskPlan(
                length=length,
                priority=priority,
                max_instances=self.draw.randint(1, self.widest),
                has_event=is_chance if has_event is None else has_event,
                retry_after=self.draw.choice((None, None, None, 0, 4)),
            )
        )
        return len(self.tasks) - 1

    def releases(self, number: int, runs: int, until: int) -> None:
        """Let so many runs be released, evenly at random."""
        for _ in range(runs):
            self.deeds.append(Deed(self.draw.randint(0, until), "release", number))

    def load(self, number: int, percent: float, until: int) -> None:
        """Let a task alone need that much of all slots."""
        work = until * self.slots * percent / 100
        self.releases(number, max(1, round(work / self.tasks[number].length)), until)

    def priorities(self, changes: int, until: int) -> None:
        """Let priorities be changed at random."""
        for _ in range(changes):
            number = self.draw.randrange(len(self.tasks))
            at, value = self.draw.randint(0, until), self.draw.randint(-3, 3)
            self.deeds.append(Deed(at, "priority", number, value))

    def pauses(self, pauses: int, until: int) -> None:
        """Let tasks be disabled for a while at random."""
        for _ in range(pauses):
            number = self.draw.randrange(len(self.tasks))
            at = self.draw.randint(0, until)
            self.deeds.append(Deed(at, "enable", number, 0))
            self.deeds.append(Deed(at + self.draw.randint(0, 20), "enable", number, 1))

    def system(self, name: str) -> System:
        """Return it as it is; all tasks are enabled in the end."""
        end = max(deed.at for deed in self.deeds) + 1
        enabling = [Deed(end, "enable", number, 1) for number in range(len(self.tasks))]
        return System(
            name=name,
            slots=self.slots,
            aging=self.aging,
            tasks=tuple(self.tasks),
            deeds=tuple(sorted([*self.deeds, *enabling])),
        )


def _anything(draft: _Draft) -> None:
    """Tasks of all sizes, a load that can or cannot be borne, some disabled for a while."""
    draw = draft.draw
    tasks, load = draw.randint(2, 8), draw.randint(50, 150)
    for _ in range(tasks):
        number = draft.task(draw.randint(1, 12), draw.randint(-3, 3))
        draft.load(number, load / tasks, 60)
    draft.pauses(draw.choice((0, 0, 2, 6)), 60)


def _flood(draft: _Draft) -> None:
    """Events of one to three tasks at three times what the slots can do, and some mice."""
    draw = draft.draw
    floods = draw.randint(1, 3)
    for _ in range(floods):
        number = draft.task(draw.randint(2, 6), draw.randint(0, 3), has_event=True)
        draft.load(number, 300 / floods, 40)
    for _ in range(draw.randint(1, 4)):
        draft.releases(draft.task(1, draw.randint(-3, 3)), draw.randint(1, 3), 60)


def _elephants_and_mice(draft: _Draft) -> None:
    """A few tasks that run for long, and many that are done at once."""
    draw = draft.draw
    for _ in range(draw.randint(1, 4)):
        number = draft.task(draw.randint(30, 100), draw.randint(-3, 3))
        draft.releases(number, draw.randint(1, 4), 200)
    for _ in range(draw.randint(2, 6)):
        draft.releases(draft.task(1, draw.randint(-3, 3)), draw.randint(2, 12), 200)


def _at_once(draft: _Draft) -> None:
    """Everything at the same few instants, in any order."""
    draw = draft.draw
    for _ in range(draw.randint(2, 8)):
        number = draft.task(draw.randint(1, 8), draw.choice((0, 0, 0, -1, 1)))
        for at in (0, 7, 30):
            draft.deeds += [Deed(at, "release", number)] * draw.randint(0, 4)


def _restless(draft: _Draft) -> None:
    """A flood or a mixture in which priorities change all the time."""
    draft.draw.choice((_anything, _flood))(draft)
    draft.priorities(draft.draw.randint(5, 40), 60)


def _pushed_back(draft: _Draft) -> None:
    """A run that is passed by a flood of the highest priority, and whose own falls as it waits."""
    draw = draft.draw
    highest = draw.randint(0, 3)
    mouse = draft.task(draw.randint(1, 9), highest)
    draft.deeds.append(Deed(10, "release", mouse))
    for fall in range(draw.randint(0, 4)):
        draft.deeds.append(Deed(11 + 4 * fall, "priority", mouse, highest - 1 - fall))
    floods = draft.slots + draw.randint(1, 3)
    for _ in range(floods):
        number = draft.task(draw.randint(2, 5), highest, has_event=True)
        draft.load(number, 300 / floods, 50)


_MAKERS = {
    "anything": _anything,
    "flood": _flood,
    "elephants and mice": _elephants_and_mice,
    "at once": _at_once,
    "restless": _restless,
    "pushed back": _pushed_back,
}
KINDS = tuple(_MAKERS)


def random_system(seed: int) -> System:
    """Return the system of that number; the kinds take turns."""
    kind = KINDS[seed % len(KINDS)]
    draft = _Draft(random.Random(seed))
    _MAKERS[kind](draft)
    return draft.system(f"{kind} {seed}")


# What is found


@dataclass(slots=True)
class Findings:
    """What a number of systems came to.

    Attributes:
        systems: How many.
        waits: How many runs did not start at once.
        broken: Those that waited longer than promised, with their systems.
        broken_without_overlap: As above, by the bound of systems in which no task overlaps.
        worst: The largest share of its bound that a wait reached, by the kind of system.
        worst_without_overlap: As above, by the other bound.
    """

    systems: int = 0
    waits: int = 0
    broken: list[tuple[System, Wait]] = field(default_factory=list)
    broken_without_overlap: list[tuple[System, Wait]] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)
    worst_without_overlap: dict[str, float] = field(default_factory=dict)


def study(seeds: Iterable[int], engine_type: type[Engine] = Engine) -> Findings:
    """Simulate the systems of those numbers and compare every wait with its bound."""
    found = Findings()
    for seed in seeds:
        system = random_system(seed)
        kind = KINDS[seed % len(KINDS)]
        found.systems += 1
        for wait in simulate(system, engine_type, seed=seed):
            found.waits += 1
            waited, bound = wait.in_slots(system), wait.bound(system)
            found.worst[kind] = max(found.worst.get(kind, 0.0), waited / bound)
            if waited > bound:
                found.broken.append((system, wait))
            if system.has_overlap:
                continue
            bound = wait.bound_without_overlap(system)
            worst = found.worst_without_overlap
            worst[kind] = max(worst.get(kind, 0.0), waited / bound if bound else float(waited))
            if waited > bound:
                found.broken_without_overlap.append((system, wait))
    return found


def _print(title: str, found: Findings) -> None:
    print(f"{title}: {found.systems} systems, {found.waits} waits, {len(found.broken)} too long")
    for kind in KINDS:
        tight = found.worst_without_overlap.get(kind, 0.0)
        print(f"  {kind:20} worst {found.worst.get(kind, 0.0):8.4f}   no overlap {tight:8.4f}")
    if found.broken:
        system, wait = min(found.broken, key=lambda pair: len(pair[0].deeds))
        print(f"  {wait} of {wait.in_slots(system)}, bound {wait.bound(system)}: {system}")


if __name__ == "__main__":
    _systems = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
    _print("The engine", study(_systems))
    _print("Stamped at release", study(_systems, StampedAtRelease))
