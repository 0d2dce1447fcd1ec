"""Whether a scheduler does its work: what is complained of, and what is not."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from background_tasks import ChangeKind, Health, OneTimeTrigger, Scheduler, Task, Trigger, Waiting
from background_tasks.health import Findings, Pulse, health_of
from background_tasks.outlook import oldest_wait
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate, Watch
from tests.interleaving import World

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)
GOOD = Findings(
    obstacle="",
    executor="",
    tick=1.0,
    last_tick=NOON,
    age=0.5,
    lags=[0.001, 0.002, 0.003],
    oldest_wait=0.0,
    waiting=[],
    stuck=(),
    quarantined=(),
    untold=0,
)


def waits(name: str, latest_start: datetime | None) -> Waiting:
    """Return a run that waits."""
    return Waiting(
        run_id=0,
        task_id=0,
        task_name=name,
        priority=0,
        released_at=NOON,
        latest_start=latest_start,
    )


# What the findings mean


def test_nothing_to_complain_of() -> None:
    """One boolean, and the figures."""
    health = health_of(GOOD, NOON)

    assert health == Health(
        is_healthy=True,
        is_alive=True,
        last_tick=NOON,
        loop_lag_p50=0.002,
        loop_lag_p99=0.003,
    )
    assert health.reasons == ()


EARLY, LATE = NOON + timedelta(seconds=1), NOON - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"obstacle": "stopped"}, ["stopped"]),
        ({"obstacle": "stopped", "age": 900.0}, ["stopped"]),
        ({"age": 4.0}, []),
        ({"age": 4.5}, ["its thread has not looked around for 4.5 seconds"]),
        ({"age": 30.0, "tick": 10.0}, []),
        ({"age": math.inf}, []),
        ({"executor": "the executor is broken: X"}, ["the executor is broken: X"]),
        ({"lags": [1.0] * 9}, []),
        ({"lags": [0.1] * 98 + [1.5, 2.0]}, ["its thread is up to 1.5 seconds late"]),
        ({"lags": [0.1] * 99 + [2.0]}, []),
        ({"lags": [2.0], "tick": 5.0}, []),
        ({"stuck": ("a",)}, ["runs that are stuck: a"]),
        ({"quarantined": ("a", "b", "c")}, ["tasks in quarantine: a, b, c"]),
        ({"quarantined": tuple("abcde")}, ["tasks in quarantine: a, b, c and 2 more"]),
        ({"waiting": [waits("a", EARLY), waits("b", None), waits("c", NOON)]}, []),
        ({"untold": 1000}, []),
        (
            {"untold": 1001},
            ["1001 changes are not told yet: a listener or a log handler is slow"],
        ),
        ({"waiting": [waits("a", LATE)]}, ["runs that wait longer than they should: a"]),
        ({"stuck": ("a",), "quarantined": ("b",)}, 2),
    ],
)
def test_what_is_complained_of(change: dict[str, Any], reasons: list[str] | int) -> None:
    """Each for itself, at its boundary; several at once."""
    health = health_of(replace(GOOD, **change), NOON)

    if isinstance(reasons, int):
        assert len(health.reasons) == reasons
    else:
        assert list(health.reasons) == reasons
    assert health.is_healthy is not bool(reasons)


def test_the_figures_of_what_is_complained_of() -> None:
    """Numbers for a chart, beside the text for people."""
    found = replace(
        GOOD,
        stuck=("a", "a"),
        quarantined=("b",),
        waiting=[waits("a", LATE), waits("b", LATE)],
        oldest_wait=7.5,
        untold=9,
    )

    health = health_of(found, NOON)

    assert (health.stuck, health.quarantined, health.late_bounds) == (2, ("b",), 2)
    assert (health.oldest_wait, health.untold) == (7.5, 9)
    assert health.to_dict()["last_tick"] == "2026-05-01T12:00:00+00:00"


# The pulse


def test_a_pulse_keeps_a_minute() -> None:
    """Older lags are forgotten; the last look around is not."""
    pulse = Pulse()
    pulse.beat(NOON, 100.0, 0.5)
    pulse.beat(NOON, 130.0, 0.25)

    assert pulse.lags(160.0) == [0.25]
    assert pulse.lags(159.0) == [0.25, 0.5]
    assert pulse.age(190.0) == 60.0
    assert pulse.last_tick == NOON


def test_a_pulse_keeps_the_longest_of_those_close_together() -> None:
    """So that however fast it beats, it keeps few and loses none that matters."""
    pulse = Pulse()
    for at, lag in [(10.0, 0.001), (10.1, 0.03), (10.2, 0.002), (10.6, 0.004)]:
        pulse.beat(NOON, at, lag)

    assert pulse.lags(11.0) == [0.004, 0.03]


def test_a_pulse_keeps_little_however_fast_it_beats() -> None:
    """Two a second, so that a busy minute takes no more memory than 15 kB."""
    pulse = Pulse()
    for number in range(100_000):
        pulse.beat(NOON, number / 1000, 0.001)

    assert len(pulse.lags(100.0)) <= 120


def test_a_pulse_that_never_beat() -> None:
    """Nothing is known."""
    assert Pulse().last_tick is None
    assert Pulse().age(100.0) == math.inf
    assert Pulse().lags(100.0) == []
    assert health_of(replace(GOOD, lags=[]), NOON).loop_lag_p99 == 0.0


# Of a scheduler


def test_a_scheduler_that_was_never_started_and_one_that_stopped() -> None:
    """Neither is alive, and each says why."""
    scheduler = Scheduler(1)
    assert scheduler.health().reasons == ("not started",)

    scheduler.start()
    scheduler.stop()

    health = scheduler.health()
    assert (health.is_healthy, health.is_alive, health.reasons) == (False, False, ("stopped",))


def test_a_scheduler_at_work_is_healthy() -> None:
    """From its first look around on, and it says when that was."""
    ran = threading.Event()
    with Scheduler(1) as scheduler:
        scheduler.add_task(Task("t", ran.set, triggers=[OneTimeTrigger(delay=0)]))
        assert ran.wait(10)
        assert scheduler.wait_idle(10)
        health = scheduler.health()

    assert (health.is_healthy, health.is_alive, health.reasons) == (True, True, ())


def test_lag_is_what_a_wait_and_a_look_around_take_too_long() -> None:
    """Of a thread that is called late, and of one that a trigger of the user's holds up."""
    world = World(0)
    seen: list[Health] = []

    class Slow(Trigger):
        def is_ready(self) -> bool:
            world.sleep(3)
            return False

        def reset(self) -> None:
            pass

    scheduler = Scheduler(1, _primitives=world.primitives())

    def direct() -> None:
        scheduler.start()
        world.sleep(10)
        seen.append(scheduler.health())
        scheduler.add_task(Task("t", int, triggers=[Slow()]))
        world.sleep(20)
        seen.append(scheduler.health())
        scheduler.stop()

    world.thread(direct).start()
    world.run()

    before, after = seen
    assert before.is_healthy
    assert before.loop_lag_p99 < 0.01
    assert after.loop_lag_p99 == pytest.approx(3, abs=0.01)
    assert after.reasons == ("its thread is up to 3.0 seconds late",)


def test_a_thread_that_has_died_is_told() -> None:
    """Whatever ended it: a liveness probe is for what nobody thought of."""
    scheduler = Scheduler(1)
    scheduler.start()
    ticker = scheduler._ticker
    assert ticker is not None
    ticker.is_over = True
    ticker.timer.set()
    ticker.thread.join(10)

    assert scheduler.health().reasons == ("its thread has died",)
    assert not scheduler.health().is_alive
    assert scheduler.stop(10)


def test_stuck_runs_are_told(gate: Gate) -> None:
    """By the name of the task, until the run ends."""
    with Scheduler(1, stuck_after=0, tick_interval=0.01) as scheduler:
        watch = Watch(scheduler)
        scheduler.release_task(scheduler.add_task(Task("hangs", gate)).id)
        gate.wait_entered()
        scheduler.cancel(0)
        watch.wait_for(ChangeKind.RUN_STUCK)

        health = scheduler.health()
        gate.leave.set()
        assert scheduler.wait_idle(10)
        after = scheduler.health()

    assert "runs that are stuck: hangs" in health.reasons
    assert health.stuck == 1
    assert after.stuck == 0


def test_quarantined_tasks_are_told() -> None:
    """Until they are enabled again."""

    class Broken(Trigger):
        def is_ready(self) -> bool:
            raise ValueError("no")

        def reset(self) -> None:
            pass

    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("bad", int, triggers=[Broken()]))
    scheduler.run_tasks()

    assert scheduler.health().quarantined == ("bad",)
    task.enabled = True
    assert scheduler.health().quarantined == ()


class Broken(Executor):
    """An executor that takes nothing."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Refuse."""
        raise BrokenExecutor("its processes are gone")


def test_a_broken_executor_is_told() -> None:
    """While nothing can run."""
    with Scheduler(1, executor=Broken()) as scheduler:
        watch = Watch(scheduler)
        scheduler.release_task(scheduler.add_task(Task("t", int)).id)
        watch.wait_for(ChangeKind.EXECUTOR_BROKEN)
        reasons = scheduler.health().reasons

    assert reasons == ("the executor is broken: BrokenExecutor: its processes are gone",)


def test_how_long_the_oldest_waits(gate: Gate) -> None:
    """At the head of its task or behind a run of it; of enabled tasks only."""
    with Scheduler(1) as scheduler:
        first = scheduler.add_task(Task("first", gate))
        for _ in range(2):
            scheduler.release_task(first.id)
        gate.wait_entered()
        behind = first._pending
        assert behind is not None
        soon = behind[0].execution.released_at + timedelta(seconds=5)
        other = scheduler.add_task(Task("other", int))
        scheduler.release_task(other.id)

        assert oldest_wait([first, other], soon) == 5.0
        assert 4.0 < oldest_wait([other], soon) < 5.0
        assert oldest_wait([other], NOON) == 0.0
        first.enabled = False
        assert 4.0 < oldest_wait([first, other], soon) < 5.0
        assert scheduler.health().oldest_wait > 0
        first.enabled = True
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert oldest_wait([first, other], soon) == 0.0


def test_a_run_that_is_taken_while_we_look() -> None:
    """It waits no longer."""
    task = Task("t", int)
    task._pending = deque()

    assert oldest_wait([task], NOON) == 0.0
