"""What is played under many orders of the threads; see `tests.stage`.

One function a scenario: what there is, what threads do to it, and what must be true in the end.
"""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from background_tasks import (
    AlreadyAddedError,
    Change,
    ChangeKind,
    EventTrigger,
    Execution,
    Gate,
    LostWorkerError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Status,
    Task,
    TaskNotFoundError,
    Trigger,
    current_execution,
    pool,
    reporter,
    scheduler,
)
from tests.stage import FOR_EVER, Elsewhere, Failing, Latch, Nearby, Stage, scenario

__all__ = ["Polled"]

_TWICE = RetryPolicy(max_retries=2)


class Polled(Trigger):
    """A trigger of the user's: ready so many times, and *act* is done whenever it is asked."""

    def __init__(
        self, stage: Stage, ready: int = 1, act: Callable[[str], object] = lambda _: None
    ) -> None:
        """Be asked nothing yet."""
        self._left = ready
        self._act = stage.user_code(act)

    def is_ready(self) -> bool:
        """Say so, so many times."""
        self._act("is_ready")
        self._left -= 1
        return self._left >= 0

    def reset(self) -> None:
        """Only act."""
        self._act("reset")

    def next_fire_time(self) -> datetime | None:
        """Be asked at every tick."""
        self._act("next_fire_time")
        return None


def _running() -> Execution:
    execution = current_execution()
    assert execution is not None
    return execution


def _ended(task: Task) -> list[Status]:
    return [run.status for run in task.execution_hist]


# The lifecycle


@scenario(within=1.5)
def start_twice(stage: Stage) -> None:
    """Three threads start it at once: one of them does, and one thread ticks."""
    made = stage.open()
    beat = stage.add(triggers=[PeriodicTrigger(0.25)])

    stage.together(made.start, made.start, made.start)
    stage.rest()

    assert stage.alive() == 1
    stage.world.sleep(1.1)
    if stage.is_exact:
        assert _ended(beat) == ["SUCCESS"] * 4
    assert made.stop()
    assert not stage.hears or stage.kinds(ChangeKind.STARTED) == 1


@scenario()
def stop_twice(stage: Stage) -> None:
    """Two threads stop it while a task runs: both wait for its end, and one stop is told."""
    made = stage.open()
    held = Latch(stage)
    stage.add_event(held).fire()
    made.start()
    held.wait_entered()

    def stop() -> None:
        assert made.stop()
        assert made.running_tasks_count() == 0

    threads = stage.begin(stop, stop)
    held.let_go()

    for thread in threads:
        thread.join()
    assert stage.alive() == 0
    assert not stage.hears or stage.kinds(ChangeKind.STOPPED) == 1


@scenario()
def stop_before_start(stage: Stage) -> None:
    """A stop and a start at once leave it in one of the two states, whole."""
    made = stage.open()
    channel = stage.add_event()

    stage.together(made.stop, made.start, channel.fire)
    made.resume()
    stage.rest()

    assert stage.alive() == 1
    assert made.wait_idle()
    assert _ended(stage.tasks[0]) == ["SUCCESS"]


@scenario()
def stop_inside_a_task(stage: Stage) -> None:
    """It waits for the other tasks there and returns False; outside it returns True."""
    made = stage.open()
    held = Latch(stage)
    answers: list[bool] = []
    other = stage.add_event(held)
    asks = stage.add_event(lambda: answers.append(made.stop()))
    made.start()
    other.fire()
    held.wait_entered()

    stage.together(asks.fire, held.let_go)

    assert made.stop()
    assert answers in ([False], [])  # the second: the director's stop came first


@scenario()
def two_tasks_that_stop(stage: Stage) -> None:
    """They do not wait for each other."""
    made = stage.open(3)
    answers: list[bool] = []
    channels = [stage.add_event(lambda: answers.append(made.stop())) for _ in range(3)]
    made.start()

    stage.together(*(channel.fire for channel in channels))
    stage.rest()

    assert answers
    assert not any(answers)


@scenario(is_prompt=False)
def a_stop_meets_a_retry_in_a_task(stage: Stage) -> None:
    """A task that waits in run_task for a retry is not waited for, from that moment on."""
    made = stage.open(2)
    answers: list[bool] = []
    fails = stage.add(
        Failing(OSError("no")), retry_policy=RetryPolicy(max_retries=1, delay=FOR_EVER)
    )
    waits = stage.add_event(partial(made.run_task, fails.id))
    stops = stage.add_event(lambda: answers.append(made.stop()))
    made.start()

    stage.together(waits.fire, stops.fire)
    stage.rest()

    assert answers == [False]
    made.remove_task(fails.id)


@scenario(is_prompt=False)
def stop_races_start_and_resume(stage: Stage) -> None:
    """However they come, in the end it works on: nothing is lost, and one thread ticks."""
    made = stage.open(stage.draw.randint(1, 3))
    channel = stage.add_event()
    deeds: list[Callable[[], object]] = [made.stop, made.start, made.resume, channel.fire]
    deeds.append(partial(made.stop, 0))

    stage.together(*(stage.draw.choice(deeds) for _ in range(4)))
    stage.together(channel.fire, made.resume, *(stage.draw.choice(deeds) for _ in range(3)))
    made.resume()
    stage.rest()

    assert stage.alive() == 1
    assert channel.waiting == 0
    assert made.wait_idle()


@scenario(
    racy={scheduler: ("_turn", "_wake_in_time")}, by_instruction=1, restless=(0.4, 0.8), ranked=0
)
def a_tick_meets_an_unlock(stage: Stage) -> None:
    """The wait of the ticking thread ends just when another thread lets go of the lock."""
    made = stage.open()
    stage.add(triggers=[PeriodicTrigger(0.01)])
    made.start()

    def look() -> None:
        for _ in range(3):
            stage.world.sleep(0.01)
            made.stats()

    stage.together(look, look)


@scenario(
    is_prompt=False,
    racy={scheduler: ("_give_back", "_man", "_take_unmanned", "release_task")},
    by_instruction=0,
    restless=(0.02, 0.05),
    ranked=0.9,
)
def hand_over_races_stop_and_resume(stage: Stage) -> None:
    """A slot that was claimed before the stop is started after the resume, without a tick."""
    made = stage.open()
    task = stage.add()
    made.start()

    def stop_and_resume() -> None:
        made.stop(0)
        made.resume()

    stage.together(partial(made.release_task, task.id), stop_and_resume)
    stage.rest()

    assert _ended(task) == ["SUCCESS"]


@scenario(is_prompt=False)
def restart_with_pending_runs(stage: Stage) -> None:
    """Runs and retries that wait for the end of a stop are kept by it and made after it."""
    made = stage.open(1)
    held = Latch(stage)
    first = stage.add(held)
    waits = stage.add()
    fails = stage.add(Failing(OSError("no")), retry_policy=RetryPolicy(max_retries=1, delay=0.1))
    made.start()
    made.release_task(fails.id)
    stage.rest()
    made.release_task(first.id)
    held.wait_entered()
    made.release_task(waits.id)

    stage.together(partial(made.stop, 0), held.let_go)
    made.stop()
    stage.together(made.start, made.resume)

    assert made.wait_idle()
    assert _ended(first) == _ended(waits) == _ended(fails) == ["SUCCESS"]
    assert fails.execution_hist[0].attempts == 2


@scenario(within=2.5)
def stop_times_out(stage: Stage) -> None:
    """A stop waits no longer than it is told, whoever else stops."""
    made = stage.open()
    held = Latch(stage)
    stage.add_event(held).fire()
    made.start()
    held.wait_entered()

    def stop() -> None:
        before = stage.world.time
        assert not made.stop(0.4)
        assert not stage.is_exact or 0.4 <= stage.world.time - before < 0.5

    stage.together(stop, stop)
    held.let_go()

    assert made.stop()


@scenario(within=0.5)
def stop_with_cancel(stage: Stage) -> None:
    """Tasks that wait are woken and end as CANCELLED."""
    made = stage.open()
    tasks = [stage.add(lambda: _running().wait(FOR_EVER)) for _ in range(2)]
    made.start()
    stage.together(*(partial(made.release_task, task.id) for task in tasks))
    stage.rest()

    stage.together(partial(made.stop, cancel=True), partial(made.stop, cancel=True))

    assert [_ended(task) for task in tasks] == [["CANCELLED"]] * 2


@scenario(is_prompt=False)
def nested_blocks(stage: Stage) -> None:
    """``with`` in several threads: the first to leave stops it, and none hangs."""
    made = stage.open()
    channel = stage.add_event()

    def enter() -> None:
        with made:
            channel.fire()

    stage.together(enter, enter, enter)
    stage.world.settle()

    assert stage.alive() == 0
    made.resume()
    assert made.wait_idle()
    assert _ended(stage.tasks[0]) == ["SUCCESS"] * 3


# The registry


@scenario()
def add_from_many_threads(stage: Stage) -> None:
    """IDs are given once each; a task that two threads add is added by one of them."""
    made = stage.open()
    both = stage.task(triggers=[OneTimeTrigger(0.02)])
    refused: list[AlreadyAddedError] = []
    ids: list[int] = []
    made.start()

    def add_both() -> None:
        try:
            made.add_task(both)
        except AlreadyAddedError as error:
            refused.append(error)

    def add_own() -> None:
        ids.append(stage.add(triggers=[OneTimeTrigger(0.01)]).id)

    stage.together(add_both, add_own, add_both, add_own)
    stage.world.sleep(0.1)
    stage.rest()

    assert len(refused) == 1
    assert sorted([*ids, both.id]) == [0, 1, 2]
    assert not stage.is_exact or made.tasks == {}


@scenario()
def an_earlier_one_is_added(stage: Stage) -> None:
    """The thread that waits for a later time is woken for it."""
    made = stage.open()
    stage.add(triggers=[PeriodicTrigger(FOR_EVER)])
    made.start()

    def add() -> None:
        stage.add(triggers=[OneTimeTrigger(stage.draw.choice((0, 0.001, 0.03)))])

    stage.together(add, add)
    stage.world.sleep(0.1)
    stage.rest()

    assert not stage.is_exact or [_ended(task) for task in stage.tasks[1:]] == [["SUCCESS"]] * 2


@scenario()
def remove_while_running(stage: Stage) -> None:
    """What runs is recorded; what waits is dropped; nothing brings it back."""
    made = stage.open()
    held = Latch(stage)
    task = stage.add(held, retry_policy=_TWICE)
    made.start()
    made.release_task(task.id)
    made.release_task(task.id)
    held.wait_entered()

    remove = partial(made.remove_task, task.id)
    stage.together(remove, held.let_go, remove)
    stage.rest()

    assert made.wait_idle()
    assert _ended(task) in (["SUCCESS", "SUCCESS"], ["SUCCESS", "DROPPED"], ["DROPPED", "SUCCESS"])


@scenario()
def remove_while_queued(stage: Stage) -> None:
    """Runs that wait for a slot are dropped, and the next task's start at once."""
    made = stage.open(1)
    held = Latch(stage)
    first, gone, after = stage.add(held), stage.add(priority=5), stage.add()
    made.start()
    made.release_task(first.id)
    held.wait_entered()
    for task in (gone, after, gone):
        made.release_task(task.id)

    stage.together(partial(made.remove_task, gone.id), held.let_go)
    stage.rest()

    assert set(_ended(gone)) <= {"SUCCESS", "DROPPED"}
    assert _ended(after) == ["SUCCESS"]


@scenario(is_prompt=False)
def remove_while_retrying(stage: Stage) -> None:
    """A run between its attempts is dropped, or runs once more: not both."""
    made = stage.open()
    delay = stage.draw.choice((0, 0.02))
    errors = [OSError("no")] * 3
    task = stage.add(Failing(*errors), retry_policy=RetryPolicy(max_retries=3, delay=delay))
    made.start()
    made.release_task(task.id)
    stage.world.sleep(0.02)

    stage.together(partial(made.remove_task, task.id), partial(made.wait_idle))
    stage.rest()

    assert _ended(task)[0] in ("DROPPED", "SUCCESS", "FAILED")
    assert made.stats().pending == 0


@scenario(is_prompt=False)
def one_shots_go_away(stage: Stage) -> None:
    """A task of one-shots goes once it has run, retries included, whoever removes it too."""
    made = stage.open()
    tasks = [
        stage.add(
            Failing(OSError("no")),
            triggers=[OneTimeTrigger(0), OneTimeTrigger(0.01)],
            retry_policy=RetryPolicy(max_retries=1, delay=0.01),
        )
        for _ in range(2)
    ]
    remove = partial(made.remove_task, tasks[0].id)

    stage.together(made.start, remove, made.run_tasks)
    stage.world.sleep(0.1)

    assert made.wait_idle()
    assert made.tasks == {}
    assert not stage.hears or stage.kinds(ChangeKind.TASK_REMOVED) == 2


@scenario(is_prompt=False)
def disable_while_queued(stage: Stage) -> None:
    """After it was disabled none of its runs starts; enabled again all of them do."""
    made = stage.open(2)
    starts = 0

    def count() -> None:
        nonlocal starts
        starts += 1

    task = stage.add(count, max_instances=2)
    made.start()

    def release() -> None:
        for _ in range(2):
            made.release_task(task.id)

    def disable() -> None:
        task.enabled = False
        stage.until(lambda: task._running == 0)
        before = starts
        stage.world.pause()
        assert starts == before

    stage.together(release, disable, release)
    stage.rest()
    task.enabled = True
    stage.rest()

    assert _ended(task) == ["SUCCESS"] * 4


@scenario(is_prompt=False)
def enable_and_disable_by_turns(stage: Stage) -> None:
    """Events wait while it is disabled, and none is lost."""
    made = stage.open()
    channel = stage.add_event(enabled=stage.chance(0.5))
    task = stage.tasks[0]
    made.start()

    def switch() -> None:
        for _ in range(2):
            task.enabled = not task.enabled

    stage.together(switch, channel.fire, switch, channel.fire)
    task.enabled = True
    stage.rest()

    assert _ended(task) == ["SUCCESS"] * 2


@scenario()
def priorities_change_while_queued(stage: Stage) -> None:
    """Who waits starts in the order of the priorities at that moment."""
    made = stage.open(1)
    held = Latch(stage)
    order: list[int] = []
    first = stage.add(held)
    tasks = [stage.add(partial(order.append, number)) for number in range(3)]
    made.start()
    made.release_task(first.id)
    held.wait_entered()

    def set_priority(task: Task, priority: int) -> None:
        task.priority = priority

    release = [partial(made.release_task, task.id) for task in tasks]
    prefer = [partial(set_priority, tasks[number], 100 * number) for number in range(3)]
    stage.together(*release, *prefer)
    held.let_go()
    stage.rest()

    assert order == [2, 1, 0]


# Cancelling, timeouts and runs that do not end


@scenario()
def cancel_races_the_end(stage: Stage) -> None:
    """One record says how each run ended, and `cancel` counts what it has cancelled."""
    made = stage.open()
    held = Latch(stage)
    task = stage.add(held, max_instances=2)
    made.start()
    for _ in range(3):
        made.release_task(task.id)
    counts: list[int] = []
    held.wait_entered()

    def cancel() -> None:
        counts.append(made.cancel(task.id))

    stage.together(cancel, held.let_go, cancel)
    assert made.wait_idle()

    assert _ended(task).count(Status.CANCELLED) == sum(counts)
    assert set(_ended(task)) <= {"SUCCESS", "CANCELLED"}


@scenario()
def cancel_wakes_who_waits(stage: Stage) -> None:
    """A function in `Execution.wait` goes on at once, whenever the cancel comes."""
    made = stage.open()
    task = stage.add(lambda: _running().wait(FOR_EVER))
    made.start()

    def cancel() -> None:
        stage.until(lambda: stage.calls > 0)
        assert made.cancel(task.id) == 1

    stage.together(cancel, partial(made.release_task, task.id))
    stage.rest()

    assert _ended(task) == ["CANCELLED"]


@scenario()
def cancel_between_attempts(stage: Stage) -> None:
    """Of a cancel and a due retry one comes first; the run ends once."""
    made = stage.open()
    task = stage.add(Failing(OSError("no")), retry_policy=RetryPolicy(max_retries=1, delay=0.0101))
    made.start()
    made.release_task(task.id)
    stage.world.sleep(0.01)

    stage.together(partial(made.cancel, task.id), partial(stage.world.sleep, 0.0001))
    stage.world.sleep(0.05)
    assert made.wait_idle()

    assert _ended(task) in (["CANCELLED"], ["SUCCESS"])


@scenario()
def timeout_races_the_end(stage: Stage) -> None:
    """An attempt that ends when its timeout passes is TIMED_OUT or not, once."""
    made = stage.open()
    task = stage.add(lambda: stage.world.sleep(0.02), timeout=0.02)
    made.start()

    stage.together(*(partial(made.release_task, task.id) for _ in range(2)))

    assert made.wait_idle()
    assert len(_ended(task)) == 2
    assert set(_ended(task)) <= {"SUCCESS", "TIMED_OUT"}


@scenario()
def timeout_wakes_who_waits(stage: Stage) -> None:
    """`Execution.wait` ends with the timeout of the task; the retry has one of its own."""
    made = stage.open()

    def wait() -> None:
        _running().wait(FOR_EVER)
        _running().raise_if_cancelled()

    task = stage.add(wait, timeout=0.05, retry_policy=RetryPolicy(max_retries=1))
    made.start()

    stage.together(partial(made.release_task, task.id), made.run_tasks)

    assert made.wait_idle()
    assert _ended(task) == ["TIMED_OUT"]
    assert task.execution_hist[0].attempts == 2


@scenario(within=1)
def stuck_and_replaced(stage: Stage) -> None:
    """The slot of a stuck run is replaced while it is stuck, and not longer."""
    made = stage.open(1, stuck_after=0.05, replacements=1)
    held = Latch(stage)
    stuck, other = stage.add(held, timeout=0.05), stage.add()
    made.start()
    made.release_task(stuck.id)
    held.wait_entered()
    stage.together(partial(made.release_task, other.id), partial(stage.world.sleep, 0.2))
    stage.rest()

    assert not stage.is_exact or _ended(other) == ["SUCCESS"]
    stage.together(held.let_go, *(partial(made.release_task, other.id) for _ in range(2)))
    assert made.wait_idle()
    assert _ended(stuck) == ["TIMED_OUT"] or not stage.is_exact
    stage.most = 1  # from here on
    stage.together(*(partial(made.release_task, other.id) for _ in range(2)))
    assert made.wait_idle()


# Waiting


@scenario()
def wait_idle_in_many_threads(stage: Stage) -> None:
    """All are woken when the last run has ended, and what was told before it is told by then."""
    made = stage.open()
    held = Latch(stage)
    channel = stage.add_event(held)
    stage.add_event(retry_policy=_TWICE, act=Failing(OSError("no"))).fire()
    channel.fire()
    made.start()
    held.wait_entered()

    def wait() -> None:
        assert made.wait_idle()
        assert not stage.hears or stage.kinds(ChangeKind.RUN_SUCCEEDED) == 2

    stage.together(wait, wait, held.let_go, wait)


@scenario()
def wait_idle_inside_tasks(stage: Stage) -> None:
    """Tasks that wait for all others do not wait for each other."""
    made = stage.open(3)
    answers: list[bool] = []
    channels = [stage.add_event(lambda: answers.append(made.wait_idle())) for _ in range(2)]
    channels.append(stage.add_event())
    made.start()

    stage.together(*(channel.fire for channel in channels))

    assert made.wait_idle()
    assert answers == [True, True]


@scenario()
def wait_idle_waits_for_what_runs_fire(stage: Stage) -> None:
    """A run that fires another before it ends leaves no moment in which all is idle."""
    made = stage.open(stage.draw.randint(1, 2))
    last = stage.add_event()
    middle = stage.add_event(last.fire)
    first = stage.add_event(middle.fire)
    made.start()

    def fire_and_wait() -> None:
        first.fire()
        assert made.wait_idle()
        assert stage.calls % 3 == 0 or len(threads) > 1

    threads = [fire_and_wait] * stage.draw.randint(1, 2)
    stage.together(*threads)

    assert stage.calls == 3 * len(threads)


# In the calling thread


def _hold_a_slot(stage: Stage) -> Latch:
    """Have a task run until it is let go: while one runs, not every change wakes who waits."""
    held = Latch(stage)
    stage.scheduler.release_task(stage.add(held).id)
    held.wait_entered()
    return held


@scenario(is_prompt=False)
def run_task_while_removed(stage: Stage) -> None:
    """A run of run_task that waits for its retry ends when its task is removed."""
    made = stage.open()
    task = stage.add(
        Failing(OSError("no")), retry_policy=RetryPolicy(max_retries=1, delay=FOR_EVER)
    )
    made.start()
    ended: list[Status] = []
    held = _hold_a_slot(stage)

    def run() -> None:
        try:
            ended.append(made.run_task(task.id).status)
        except TaskNotFoundError:
            ended.append(Status.DROPPED)

    stage.together(run, partial(made.remove_task, task.id))

    assert ended in (["DROPPED"], ["FAILED"])
    held.let_go()


@scenario(is_prompt=False)
def run_task_cancelled(stage: Stage) -> None:
    """Cancelled while it waits for its retry it ends at once."""
    made = stage.open()
    task = stage.add(
        Failing(OSError("no")), retry_policy=RetryPolicy(max_retries=1, delay=FOR_EVER)
    )
    ended: list[Status] = []
    made.start()
    held = _hold_a_slot(stage)

    def cancel() -> None:
        stage.until(lambda: stage.calls == 2 and not task._running)
        assert made.cancel(task.id) == 1

    stage.together(lambda: ended.append(made.run_task(task.id).status), cancel)

    assert ended == ["CANCELLED"]
    held.let_go()


@scenario()
def run_task_beside_slots(stage: Stage) -> None:
    """It needs neither a slot nor a free instance, and counts as any run."""
    made = stage.open(1)
    held = Latch(stage)
    task = stage.add(held)
    made.start()
    made.release_task(task.id)
    held.wait_entered()

    threads = stage.begin(*[partial(made.run_task, task.id)] * 2)
    held.wait_entered(3)
    stage.together(partial(made.release_task, task.id), held.let_go)
    for thread in threads:
        thread.join()

    assert made.wait_idle()
    assert _ended(task) == ["SUCCESS"] * 4


@scenario()
def run_task_inside_a_task(stage: Stage) -> None:
    """Tasks that run one another, and stop inside of that: no thread waits for itself."""
    made = stage.open(2)
    answers: list[bool] = []
    inner = stage.add(lambda: answers.append(stage.draw.choice((made.stop, made.wait_idle))()))
    outer = [stage.add_event(partial(made.run_task, inner.id)) for _ in range(2)]
    made.start()

    stage.together(*(channel.fire for channel in outer))
    stage.rest()

    assert made.stop()
    assert len(answers) == len(inner.execution_hist)


@scenario()
def run_tasks_from_many_threads(stage: Stage) -> None:
    """What is due is released once, whoever ticks, also when nobody has started it."""
    made = stage.open()
    tasks = [stage.add(triggers=[OneTimeTrigger(0)]) for _ in range(3)]
    channel = stage.add_event()
    channel.fire()
    released: list[int] = []

    def tick() -> None:
        released.append(made.run_tasks())

    works = [tick, tick, tick, made.start] if stage.chance(0.3) else [tick, tick, tick]
    stage.together(*works)

    assert made.wait_idle()
    assert (made.start not in works and sum(released) == 4) or sum(released) <= 4
    assert [_ended(task) for task in tasks] == [["SUCCESS"]] * 3


@scenario(racy={reporter: ("tell", "_try_to_tell", "_tell_all")}, by_instruction=1)
def changes_that_meet(stage: Stage) -> None:
    """Of threads that make a change each one tells it: nobody leaves it to one that has left."""
    stage.open()

    stage.together(stage.add, stage.add, stage.add)
    stage.world.settle()

    assert not stage.hears or stage.kinds(ChangeKind.TASK_ADDED) == 3


@scenario(racy={reporter: ("tell", "_help")}, by_instruction=0.5, within=20, is_prompt=False)
def a_slow_listener(stage: Stage) -> None:
    """It holds up nobody for long, and is told all by the time that the scheduler is idle."""
    made = stage.open(2)
    made.add_listener(lambda _: stage.world.sleep(0.06))
    held_up: list[float] = []

    def add() -> None:
        before = stage.world.time
        for _ in range(stage.draw.randint(1, 3)):
            stage.add().priority = 1
        held_up.append(stage.world.time - before)

    made.start()
    channel = stage.add_event()
    stage.together(add, add, channel.fire, add)
    assert made.wait_idle()
    if stage.chance(0.8):
        # As long as the thread that helps waits for more, or a little less.
        stage.world.sleep(1.0 - stage.draw.choice((0, 1e-5, 1e-4)) * stage.draw.random())
    stage.together(add, channel.fire)
    assert made.wait_idle()

    assert not stage.hears or stage.kinds(ChangeKind.TASK_ADDED) == len(stage.tasks)
    assert not stage.hears or stage.kinds(ChangeKind.RUN_SUCCEEDED) == 2
    # Once for longer than a tenth of a second, and when others have left a last change.
    assert not stage.is_exact or max(held_up) < 0.5


# Events


@scenario(is_prompt=False)
def fire_races_stop(stage: Stage) -> None:
    """An event is run before the stop, or waits for the resume: never both, never neither."""
    made = stage.open(stage.draw.randint(1, 2))
    channel = stage.add_event()
    made.start()

    stage.together(channel.fire, made.stop, channel.fire)
    before = stage.calls
    stage.world.settle()
    assert stage.calls == before
    made.resume()
    stage.rest()

    assert _ended(stage.tasks[0]) == ["SUCCESS"] * 2


@scenario()
def fire_races_remove(stage: Stage) -> None:
    """An event is one record at most, and none is left in the channel."""
    made = stage.open()
    channel = stage.add_event()
    task = stage.tasks[0]
    taken: list[bool] = []
    made.start()

    def fire() -> None:
        taken.append(channel.fire())

    stage.together(fire, partial(made.remove_task, task.id), fire)

    assert made.wait_idle()
    assert not channel.fire()
    assert channel.waiting == 0
    # A call that is overtaken by the removal may refuse an event whose run was made before that.
    assert len(taken) == 2
    assert len(_ended(task)) <= 2
    assert set(_ended(task)) <= {"SUCCESS", "DROPPED"}


@scenario(is_prompt=False)
def fire_races_disable(stage: Stage) -> None:
    """An event that meets a disabled task waits, and runs when it is enabled."""
    made = stage.open()
    channel = stage.add_event()
    task = stage.tasks[0]
    made.start()

    def switch() -> None:
        task.enabled = False
        task.enabled = True

    stage.together(channel.fire, switch, channel.fire)
    stage.rest()

    assert _ended(task) == ["SUCCESS"] * 2


@scenario(by_instruction=0.5)
def fire_races_add(stage: Stage) -> None:
    """An event that was fired while its task was added is run, at once."""
    made = stage.open()
    channel = EventTrigger()
    task = stage.task(triggers=[channel])
    made.start()

    stage.together(channel.fire, partial(made.add_task, task))
    stage.rest()

    assert _ended(task) == ["SUCCESS"]


@scenario(by_instruction=0.5)
def fire_while_all_slots_are_busy(stage: Stage) -> None:
    """Each event is released at once, whoever else fires just then."""
    made = stage.open(1)
    held = Latch(stage)
    first = stage.add_event(held)
    channels = [stage.add_event() for _ in range(3)]
    made.start()
    first.fire()
    held.wait_entered()

    stage.together(*(channel.fire for channel in channels))
    stage.rest()

    assert made.stats().pending == 3
    held.let_go()
    assert made.wait_idle()


@scenario(by_instruction=0.5)
def fire_at_one_channel(stage: Stage) -> None:
    """A signal that comes while others are taken is taken as well, or rings again."""
    made = stage.open(1)
    held = Latch(stage)
    channel = stage.add_event(held)
    made.start()

    stage.together(channel.fire, channel.fire, channel.fire)
    stage.rest()

    assert made.stats().released == 3
    held.let_go()
    assert made.wait_idle()


@scenario(is_prompt=False, by_instruction=0.4)
def fire_that_is_merged(stage: Stage) -> None:
    """With ``coalesce`` events make one run while it waits, with the payload of the last."""
    made = stage.open(1)
    held = Latch(stage)
    busy = stage.add_event(held)
    channel = EventTrigger(coalesce=True)
    seen: list[object] = []
    task = stage.add(lambda: seen.append(_running().event), triggers=[channel])
    made.start()
    busy.fire()
    held.wait_entered()

    stage.together(*(partial(channel.fire, number) for number in (1, 2)))
    stage.together(partial(channel.fire, 3), held.let_go)
    assert made.wait_idle()

    assert seen[-1] == 3
    assert len(seen) <= 3
    assert len(_ended(task)) + sum(run.missed for run in task.execution_hist) <= 3


@scenario(by_instruction=0.3)
def fire_at_a_bounded_channel(stage: Stage) -> None:
    """No more wait than may, and `fire` says the truth about each."""
    made = stage.open(1)
    held = Latch(stage)
    channel = EventTrigger(maxsize=2)
    task = stage.add(held, triggers=[channel])
    made.start()
    taken: list[bool] = []

    def fire() -> None:
        taken.append(channel.fire())
        taken.append(channel.fire())

    stage.together(fire, fire)
    stage.rest()

    assert taken.count(True) in (2, 3)  # one may have begun to run before the last
    assert made.stats().released == taken.count(True)
    held.let_go()
    assert made.wait_idle()
    assert _ended(task) == ["SUCCESS"] * taken.count(True)


@scenario(interrupting=0.01)
def fire_in_an_interrupt(stage: Stage) -> None:
    """A signal handler or finalizer fires in the middle of anything, and nothing waits for it."""
    made = stage.open()
    channel = stage.add_event()
    own = stage.add_event()
    left = 4
    taken: list[bool] = []

    def interrupt() -> None:
        nonlocal left
        if left:
            left -= 1
            taken.append(channel.fire())

    stage.world.interrupt = interrupt
    made.start()
    stage.together(own.fire, made.run_tasks, made.stats, partial(made.release_task, 1))
    stage.world.interrupt = None
    stage.rest()

    assert _ended(stage.tasks[0]) == ["SUCCESS"] * len(taken)
    assert all(taken)


@scenario(within=1)
def fire_after_a_while(stage: Stage) -> None:
    """With a worker idle `fire` hands the run over itself, not through the ticking thread."""
    made = stage.open(stage.draw.randint(1, 2))
    channel = stage.add_event()
    made.start()
    channel.fire()
    stage.rest()

    for _ in range(3):
        before = stage.turns_of_the_ticker()
        channel.fire()
        stage.rest()
        assert not stage.is_exact or stage.turns_of_the_ticker() == before

    assert not stage.is_exact or len(_ended(stage.tasks[0])) == 4


@scenario(ranked=0.3)
def a_worker_is_promised_once(stage: Stage) -> None:
    """A run does not wait behind another one for its worker while it could have its own."""
    made = stage.open(2)
    held = Latch(stage)
    quick, long, other = stage.add_event(), stage.add_event(held), stage.add_event()
    made.start()

    stage.together(quick.fire, quick.fire, made.run_tasks)
    stage.together(long.fire, quick.fire)
    held.wait_entered()
    stage.rest()
    other.fire()
    stage.rest()

    assert _ended(stage.tasks[2]) == ["SUCCESS"]
    held.let_go()


@scenario(within=2, is_prompt=False)
def a_queue_as_a_channel(stage: Stage) -> None:
    """What is put into a queue of the user's is run at a tick, each item once."""
    made = stage.open()
    given: queue.Queue[object] = queue.Queue()
    channel = EventTrigger(given, maxsize=stage.draw.choice((0, 2)))
    seen: list[object] = []
    task = stage.add(lambda: seen.append(_running().event), triggers=[channel])
    made.start()

    stage.together(partial(given.put, 1), partial(given.put, 2), made.run_tasks, channel.is_ready)
    made.run_tasks()
    assert made.wait_idle()
    made.run_tasks()
    assert made.wait_idle()

    assert sorted(map(str, seen)) == ["1", "2"]
    assert len(_ended(task)) == 2


# What may run


class Crowd:
    """Functions of which a number is inside at once, and the most that ever were."""

    def __init__(self, stage: Stage) -> None:
        """Be empty."""
        self._stage = stage
        self.inside = 0
        self.most = 0

    def __call__(self) -> None:
        """Be the function of a task: stay a while."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        self._stage.world.sleep(0.01)
        self.inside -= 1


@scenario()
def max_instances(stage: Stage) -> None:
    """No more runs of a task at once than it allows, and no fewer."""
    made = stage.open(3)
    crowd = Crowd(stage)
    task = stage.add(crowd, max_instances=2)
    made.start()

    stage.together(*[partial(made.release_task, task.id)] * 4)

    assert made.wait_idle()
    assert _ended(task) == ["SUCCESS"] * 4
    assert crowd.most == 2 or (crowd.most < 2 and not stage.is_exact)


@scenario()
def overlap_skip(stage: Stage) -> None:
    """Runs that come while another runs are recorded as MISSED."""
    made = stage.open(2)
    held = Latch(stage)
    channel = stage.add_event(held, overlap="skip")
    made.start()
    channel.fire()
    held.wait_entered()

    stage.together(channel.fire, held.let_go, channel.fire)
    stage.rest()

    ended = _ended(stage.tasks[0])
    assert len(ended) == 3
    assert set(ended) <= {"SUCCESS", "MISSED"}


@scenario(within=2, is_prompt=False, slow=0)
def missed_all(stage: Stage) -> None:
    """What a stop made it miss is run, oldest first, once."""
    made = stage.open(2)
    task = stage.add(triggers=[PeriodicTrigger(0.1)], missed="all")
    made.start()
    made.stop()
    stage.world.sleep(0.35)

    stage.together(made.resume, made.run_tasks, made.resume)
    assert made.wait_idle()
    task.enabled = False
    assert made.wait_idle()

    dues = [run.scheduled_at for run in task.execution_hist]
    assert dues == sorted(dues, key=str)
    assert len(set(dues)) == len(dues)
    assert not stage.is_exact or len(dues) == 3


@scenario()
def lanes(stage: Stage) -> None:
    """A reserved slot is free for its lane, whatever waits for the common ones."""
    made = stage.open(2, lanes={"urgent": 1})
    held = Latch(stage)
    common = stage.add(held, max_instances=2)
    urgent = stage.add(lane="urgent")
    made.start()

    release, hurry = partial(made.release_task, common.id), partial(made.release_task, urgent.id)
    stage.together(release, release, hurry, hurry)
    stage.rest()

    assert (held.entered, _ended(urgent)) == (1, ["SUCCESS"] * 2)
    held.let_go()
    assert made.wait_idle()


@scenario()
def capacity(stage: Stage) -> None:
    """No more is in use than there is, and what is given back is used at once."""
    made = stage.open(3, capacity={"db": 2})
    crowd = Crowd(stage)
    tasks = [stage.add(crowd, resources={"db": 1}) for _ in range(3)]
    large = stage.add(Crowd(stage), resources={"db": 2})
    made.start()

    stage.together(*(partial(made.release_task, task.id) for task in [*tasks, large]))

    assert made.wait_idle()
    assert crowd.most <= 2
    assert all(_ended(task) == ["SUCCESS"] for task in stage.tasks)


@scenario(is_prompt=False)
def remove_what_others_wait_for(stage: Stage) -> None:
    """Runs that stepped aside for one that needs more start when that is removed."""
    made = stage.open(3, capacity={"db": 2}, max_defer=0.001)
    held = Latch(stage)
    first = stage.add(held, resources={"db": 1})
    large, small = stage.add(resources={"db": 2}), stage.add(resources={"db": 1})
    made.start()
    made.release_task(first.id)
    held.wait_entered()
    made.release_task(large.id)
    stage.world.sleep(0.002)

    stage.together(partial(made.release_task, small.id), partial(made.remove_task, large.id))
    stage.rest()

    assert _ended(large) == ["DROPPED"]
    assert _ended(small) == ["SUCCESS"]
    held.let_go()


@scenario(within=5)
def gates_close_and_open(stage: Stage) -> None:
    """While a gate is closed one run at most is inside; when it opens the rest goes on."""
    reading = 1.0
    asked: list[float] = []

    def sensor() -> float:
        stage.check(not made._lock.is_mine(), "the lock is held over a sensor")
        asked.append(stage.world.time)
        return reading

    made = stage.open(3, gates=[Gate(sensor, close=10, reopen=8)])
    crowd = Crowd(stage)
    tasks = [stage.add(crowd) for _ in range(3)]
    reading = 100.0
    stage.together(made.start, made.run_tasks, made.run_tasks)
    stage.world.settle()  # it has been read by then

    release = [partial(made.release_task, task.id) for task in tasks]
    stage.together(*release, made.run_tasks)
    assert made.wait_idle()

    assert crowd.most == 1
    reading = 1.0
    stage.world.sleep(1.1)
    stage.together(*release)
    assert made.wait_idle()
    if stage.is_exact:  # or a thread may be late by more than the second between two readings
        assert crowd.most > 1
        assert all(later - earlier > 0.99 for earlier, later in itertools.pairwise(asked))


@scenario(within=5)
def a_sensor_that_stops(stage: Stage) -> None:
    """A sensor may use the scheduler, in whichever thread it is asked; one that fails is open."""
    deeds: list[Callable[[], object]] = []

    def sensor() -> float:
        if deeds:
            deeds.pop()()
        raise OSError("no reading")

    made = stage.open(gates=[Gate(sensor, close=10, reopen=8)])
    channel = stage.add_event()
    deeds += stage.draw.sample((made.stop, made.resume, made.run_tasks), 2)

    stage.together(made.start, channel.fire, made.run_tasks)
    deeds.clear()
    stage.world.settle()  # or the last stop may still come
    made.resume()
    stage.until(lambda: stage.calls == 1)


# An executor


@scenario(is_prompt=False)
def an_executor_refuses(stage: Stage) -> None:
    """Runs that it does not take were not begun: they wait, and run once it is mended."""
    executor = Elsewhere(stage)
    made = stage.open(executor=executor)
    tasks = [stage.add() for _ in range(3)]
    made.start()

    def break_it() -> None:
        executor.is_broken = True

    stage.together(break_it, *(partial(made.release_task, task.id) for task in tasks))
    stage.rest()
    executor.is_broken = False
    made.stop()
    stage.together(made.resume, made.resume)

    assert made.wait_idle()
    assert [_ended(task) for task in tasks] == [["SUCCESS"]] * 3
    assert stage.calls == executor.taken == 3


@scenario(is_prompt=False, within=1.5)
def an_executor_is_renewed(stage: Stage) -> None:
    """A factory makes another one for one that breaks; what was lost with it is LOST, once."""
    executors: list[Elsewhere] = []

    def make() -> Elsewhere:
        stage.world.point()
        executors.append(Elsewhere(stage, fatal=[] if executors else [2]))
        return executors[-1]

    made = stage.open(3, executor=make)
    tasks = [stage.add() for _ in range(3)]
    made.start()

    stage.together(*(partial(made.release_task, task.id) for task in tasks))
    assert made.wait_idle()

    ended = [status for task in tasks for status in _ended(task)]
    assert len(ended) == 3
    assert Status.LOST in ended
    assert set(ended) <= {"SUCCESS", "LOST"}
    assert sum(not each.is_broken for each in executors) <= 1


@scenario(is_prompt=False)
def an_executor_loses_runs(stage: Stage) -> None:
    """A run that is lost is tried again if its policy names that."""
    made = stage.open(executor=Elsewhere(stage, lost=[1, 2]))
    policy = RetryPolicy(max_retries=2, retry_on=(LostWorkerError,))
    tasks = [stage.add(retry_policy=policy), stage.add()]
    made.start()

    stage.together(*(partial(made.release_task, task.id) for task in tasks))
    assert made.wait_idle()

    assert _ended(tasks[0]) == ["SUCCESS"]
    assert _ended(tasks[1]) in (["SUCCESS"], ["LOST"])


@scenario()
def tasks_that_stop_in_an_executor(stage: Stage) -> None:
    """They are inside of a task there, too, and do not wait for themselves or each other."""
    made = stage.open(3, executor=Nearby(stage))
    answers: list[bool] = []
    asks = [lambda: answers.append(made.stop()), lambda: answers.append(not made.wait_idle())]
    channels = [stage.add_event(stage.draw.choice(asks)) for _ in range(2)]
    made.start()

    stage.together(*(channel.fire for channel in channels))
    stage.rest()

    assert answers
    assert not any(answers)


# What goes wrong


@scenario(within=5, is_prompt=False)
def triggers_that_raise(stage: Stage) -> None:
    """Its task is disabled, with the reason, and no other is harmed."""
    made = stage.open()
    where = stage.draw.choice(("is_ready", "reset", "next_fire_time"))

    def fail(asked: str) -> None:
        if asked == where:
            raise stage.draw.choice((ValueError, SystemExit, KeyboardInterrupt))("bad")

    bad = stage.add(triggers=[Polled(stage, act=fail)])
    good = stage.add(triggers=[PeriodicTrigger(0.3)])

    def enable() -> None:
        bad.enabled = True

    stage.together(made.start, enable, made.run_tasks)
    stage.world.sleep(2.2)

    if stage.is_exact:
        assert bad.quarantine is not None
        assert not bad.enabled
        assert len(_ended(good)) >= 7


class Alarm(Trigger):
    """A trigger of the user's that knows when it is to be asked: now and then."""

    def __init__(self, stage: Stage, interval: float) -> None:
        """Be ready each so many seconds."""
        self._now = stage.world.wall_time
        self._interval = timedelta(seconds=interval)
        self._due = self._now()

    def is_ready(self) -> bool:
        """Say whether it is time."""
        return self._now() >= self._due

    def reset(self) -> None:
        """Go on to the next time."""
        self._due = self._now() + self._interval

    def next_fire_time(self) -> datetime | None:
        """Say when."""
        return self._due


@scenario(slow=0)
def a_custom_trigger_comes_due(stage: Stage) -> None:
    """A trigger of the user's is asked when it is due, also when a slot comes upon it first."""
    made = stage.open(3)
    task = stage.add(triggers=[Alarm(stage, stage.draw.choice((0.00001, 0.00003)))])
    others = [stage.add() for _ in range(2)]

    stage.together(made.start, *(partial(made.release_task, other.id) for other in others * 2))
    stage.world.sleep(0.0005)
    stage.rest()
    task.enabled = False
    stage.rest()

    assert task.execution_hist


@scenario(within=5, is_prompt=False)
def a_trigger_is_removed_while_asked(stage: Stage) -> None:
    """Its task may go, be disabled or be stopped in the middle of it, by itself as well."""
    made = stage.open()

    def act(asked: str) -> None:
        if stage.chance(0.5):
            task.enabled = stage.chance(0.5)
        if stage.chance(0.3):
            made.remove_task(task.id)
        if stage.chance(0.2):
            raise ValueError("bad")

    task = stage.task(triggers=[Polled(stage, ready=3, act=act), Polled(stage, ready=1)])
    made.start()
    made.add_task(task)

    stage.together(partial(made.remove_task, task.id), made.run_tasks, made.start)
    stage.world.sleep(1.5)

    assert made.tasks == {}
    assert made.wait_idle()


@scenario()
def listeners_that_raise(stage: Stage) -> None:
    """Whatever they raise, runs are unharmed and other listeners are told."""
    made = stage.open()
    heard: list[Change] = []

    def fail(change: Change) -> None:
        raise stage.draw.choice((ValueError, SystemExit, KeyboardInterrupt))("bad")

    made.add_listener(fail)
    made.add_listener(heard.append)
    channel = stage.add_event(Failing(OSError("no")), retry_policy=_TWICE)

    stage.together(made.start, channel.fire, channel.fire)

    assert made.wait_idle()
    assert _ended(stage.tasks[0]) == ["SUCCESS"] * 2
    ends = [change.execution for change in heard if change.kind is ChangeKind.RUN_SUCCEEDED]
    assert len(ends) == 2


@scenario()
def a_listener_that_stops(stage: Stage) -> None:
    """It waits for no run that waits for the others, and for the listeners, itself."""
    made = stage.open(2)
    answers: list[bool] = []

    def stop(change: Change) -> None:
        if change.kind is ChangeKind.RUN_RELEASED:
            answers.append(stage.draw.choice((made.stop, partial(made.wait_idle, 0.03)))())

    waits = stage.add(made.wait_idle)
    made.start()
    made.release_task(waits.id)
    made.add_listener(stage.user_code(stop))

    stage.together(partial(made.release_task, stage.add().id), made.run_tasks)
    stage.rest()

    assert answers


@scenario()
def listeners_come_and_go(stage: Stage) -> None:
    """One that is added or taken away meanwhile misses nothing that began after it came."""
    made = stage.open()
    channel = stage.add_event()
    heard: list[Change] = []
    made.start()

    def come_and_go() -> None:
        made.add_listener(lambda change: None)()

    def listen() -> None:
        remove = made.add_listener(heard.append)
        channel.fire("heard")
        assert made.wait_idle()
        remove()

    stage.together(come_and_go, listen, come_and_go)

    kinds = [each.kind for each in heard if each.execution and each.execution.event == "heard"]
    assert kinds == [ChangeKind.RUN_RELEASED, ChangeKind.RUN_STARTED, ChangeKind.RUN_SUCCEEDED]


@scenario()
def log_handlers_that_raise(stage: Stage) -> None:
    """Whatever they raise, runs are unharmed."""
    made = stage.open()

    def fail(record: object) -> None:
        raise stage.draw.choice((ValueError, RecursionError, SystemExit))("bad")

    stage.handle(fail)
    channel = stage.add_event()

    stage.together(made.start, channel.fire, channel.fire)

    assert made.wait_idle()
    assert _ended(stage.tasks[0]) == ["SUCCESS"] * 2


@scenario()
def tasks_that_raise_anything(stage: Stage) -> None:
    """A slot outlives what ends a thread elsewhere, and each run is recorded."""
    made = stage.open(stage.draw.randint(1, 2))
    errors = (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("bad"))
    tasks = [stage.add(Failing(error), retry_policy=_TWICE) for error in errors]
    made.start()

    stage.together(*(partial(made.release_task, task.id) for task in tasks))

    assert made.wait_idle()
    assert [_ended(task) for task in tasks] == [["FAILED"]] * 4


@scenario(is_prompt=False)
def retries_race_a_stop(stage: Stage) -> None:
    """A retry that comes due while it stops waits for the resume; attempts are not lost."""
    made = stage.open()
    policy = RetryPolicy(max_retries=2, delay=stage.draw.choice((0, 0.0001)))
    task = stage.add(Failing(OSError("one"), OSError("two")), retry_policy=policy)
    made.start()

    stage.together(
        partial(made.release_task, task.id), made.stop, partial(stage.world.sleep, 0.001)
    )
    made.resume()

    assert made.wait_idle()
    assert _ended(task) == ["SUCCESS"]
    assert task.execution_hist[0].attempts == 3


# Faults from outside


def _refuse_start(stage: Stage, name: str, refused: int) -> Callable[[str], bool]:
    """Return what refuses the start of that number of the threads that are named so."""
    starts = itertools.count(1)
    return lambda started: started.rstrip("-0123456789") == name and next(starts) == refused


@scenario(within=2.5, is_prompt=False)
def no_thread_for_a_worker(stage: Stage) -> None:
    """Whichever start fails, nothing is lost and nothing is run twice."""
    made = stage.open(3)
    stage.world.refuse = _refuse_start(stage, "background_tasks-slot", stage.seed % 4 + 1)
    held = Latch(stage)
    channels = [stage.add_event(held), stage.add_event(), stage.add_event()]
    made.start()

    stage.together(*(channel.fire for channel in channels), made.run_tasks)
    stage.world.sleep(1.1)
    stage.together(*(channel.fire for channel in channels))
    stage.world.sleep(1.1)

    if stage.is_exact:  # one that does not end keeps nobody else from it
        assert [_ended(task) for task in stage.tasks[1:]] == [["SUCCESS"] * 2] * 2
    held.let_go()
    assert made.wait_idle()
    assert [_ended(task) for task in stage.tasks] == [["SUCCESS"] * 2] * 3


@scenario(racy={pool: ("_work", "_queue")}, by_instruction=0.5, within=3)
def no_thread_for_a_while(stage: Stage) -> None:
    """What could not have a thread once has one later: it waits behind no run that goes on."""
    made = stage.open(2)
    stage.world.refuse = _refuse_start(stage, "background_tasks-slot", 2)
    held = Latch(stage)
    quick, also = stage.add(), stage.add()
    long, other = stage.add(held), stage.add()
    made.start()

    stage.together(*(partial(made.release_task, task.id) for task in (quick, also, quick)))
    made.release_task(long.id)
    held.wait_entered()
    made.release_task(other.id)
    stage.world.sleep(1.1)

    assert not stage.is_exact or _ended(other) == ["SUCCESS"]
    held.let_go()


@scenario()
def no_thread_for_the_ticker(stage: Stage) -> None:
    """The start that fails leaves it as it was; the next one starts it."""
    made = stage.open()
    stage.world.refuse = _refuse_start(stage, "background_tasks", 1)
    channel = stage.add_event()
    channel.fire()
    failures: list[RuntimeError] = []

    def start() -> None:
        try:
            made.start()
        except RuntimeError as error:
            failures.append(error)

    stage.together(start, start)
    made.start()
    stage.rest()

    assert len(failures) == 1
    assert stage.alive() == 1


@scenario(within=4, is_prompt=False)
def the_clock_is_set_forward(stage: Stage) -> None:
    """It is noticed within a tick: one run stands for what was jumped over."""
    made = stage.open()
    task = stage.add(triggers=[PeriodicTrigger(10)])
    made.start()

    def set_clock() -> None:
        stage.world.wall_ahead += 65

    stage.together(set_clock, made.run_tasks, partial(made.release_task, task.id))
    stage.world.sleep(1.5)

    made.stop()
    if stage.is_exact:
        timed = [run for run in task.execution_hist if run.missed]
        assert [run.missed for run in timed] == [5]


@scenario(within=25, is_prompt=False)
def the_clock_is_set_back(stage: Stage) -> None:
    """It stalls nothing: each waits no longer than its interval or delay."""
    made = stage.open()
    beat = stage.add(triggers=[PeriodicTrigger(2)])
    once = stage.add(triggers=[OneTimeTrigger(3)])
    fails = stage.add(Failing(OSError("no")), retry_policy=RetryPolicy(max_retries=1, delay=2))
    made.start()
    made.release_task(fails.id)

    def set_clock() -> None:
        stage.world.wall_ahead -= 3600

    stage.together(set_clock, made.run_tasks, made.run_tasks)
    stage.world.sleep(5.2)

    if stage.is_exact:
        assert len(_ended(beat)) in (2, 3)
        assert _ended(once) == _ended(fails) == ["SUCCESS"]


@scenario(slow=1, within=None, is_prompt=False)
def a_slow_world(stage: Stage) -> None:
    """Waits that time out while others are at it change no outcome."""
    made = stage.open()
    channel = stage.add_event(retry_policy=_TWICE, act=Failing(OSError("no")))
    timed = stage.add(triggers=[PeriodicTrigger(0.5)], missed="all")
    made.start()

    stage.together(channel.fire, partial(made.wait_idle, 0.1), channel.fire, made.run_tasks)
    timed.enabled = False

    assert made.wait_idle()
    assert _ended(stage.tasks[0]) == ["SUCCESS"] * 2


@scenario(interrupting=0.02, is_prompt=False)
def an_interrupt_anywhere(stage: Stage) -> None:
    """Whatever a thread does when a handler fires: start, stop, add, remove, cancel, wait."""
    made = stage.open()
    channel, other = stage.add_event(), stage.add_event()
    left = 6
    taken: list[bool] = []

    def interrupt() -> None:
        nonlocal left
        if left:
            left -= 1
            taken.append(channel.fire())

    deeds: list[Callable[[], object]] = [
        made.start,
        made.stop,
        made.resume,
        partial(made.remove_task, 1),
        partial(made.cancel, 0),
        partial(made.wait_idle, 0.01),
        partial(made.run_task, 0),
        other.fire,
        stage.add,
    ]
    stage.world.interrupt = interrupt
    stage.together(*(stage.draw.choice(deeds) for _ in range(4)))
    stage.world.interrupt = None
    made.resume()
    stage.rest()

    assert made.wait_idle()
    by_event = [run for run in stage.tasks[0].execution_hist if run.event is True]
    assert len(by_event) == len(taken)
    assert all(taken)
