"""The pool: a ThreadPoolExecutor of daemon workers that loses nothing when threads run out."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from concurrent.futures import Future, wait
from typing import Any

import pytest

from background_tasks import pool as pool_module
from background_tasks.pool import DaemonPool
from background_tasks.primitives import Primitives
from tests.conftest import Gate
from tests.interleaving import World


def test_submit_returns_a_future() -> None:
    """As with any executor: results and exceptions come through it."""
    with DaemonPool(2) as pool:
        good, bad = pool.submit(pow, 2, 3), pool.submit(int, "x")

        assert good.result(10) == 8
        assert isinstance(bad.exception(10), ValueError)
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def test_workers_are_daemons_and_few(gate: Gate) -> None:
    """No more threads than allowed, none while one is idle, and none that holds the exit."""
    pool = DaemonPool(2, "probe")
    for _ in range(3):
        pool.submit(int).result(10)
    futures = [pool.submit(gate) for _ in range(5)]
    gate.wait_entered()
    gate.wait_entered()

    workers = [thread for thread in threading.enumerate() if thread.name.startswith("probe")]
    assert [worker.daemon for worker in workers] == [True, True]
    gate.leave.set()
    assert not wait(futures, 10).not_done
    pool.shutdown()
    assert not any(worker.is_alive() for worker in workers)


def test_hand_over_uses_idle_workers_only(gate: Gate) -> None:
    """It says False when there is none, and starts no thread."""
    pool = DaemonPool(1)
    assert not pool.hand_over(gate)

    pool.submit(gate)
    gate.wait_entered()
    assert not pool.hand_over(gate)
    gate.leave.set()
    pool.shutdown()
    assert not pool.hand_over(gate)


def test_hand_over_to_an_idle_worker() -> None:
    """An idle worker takes the work."""
    ran = threading.Event()
    idle = threading.Event()
    pool = DaemonPool(1)
    pool._idle = _Telling(idle)  # type: ignore[assignment]
    pool.submit(int).result(10)
    assert idle.wait(10)

    assert pool.hand_over(ran.set)

    assert ran.wait(10)
    pool.shutdown()


@pytest.mark.parametrize("seed", range(20))
def test_shutdown_meets_a_worker_at_the_last_work(seed: int) -> None:
    """Either takes it; neither waits for it."""
    world = World(seed, restless=0.3)
    pool = DaemonPool(1, primitives=world.primitives())
    futures: list[Future[int]] = []

    def shut_down() -> None:
        futures.extend(pool.submit(int) for _ in range(2))
        pool.shutdown(cancel_futures=True)

    world.thread(shut_down).start()
    world.run()

    assert all(future.done() for future in futures)


def test_submit_after_shutdown() -> None:
    """It is refused, as by any executor."""
    pool = DaemonPool(1)
    pool.shutdown()

    with pytest.raises(RuntimeError, match="the pool was shut down"):
        pool.submit(int)


def test_work_never_comes_behind_the_end() -> None:
    """Both are queued under one lock: work behind the end would be taken by nobody."""
    held: list[bool] = []

    class Watched(queue.SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            held.append(pool._hiring.locked())
            super().put(item, block, timeout)

    pool = DaemonPool(1, primitives=Primitives(queue=Watched))
    future = pool.submit(int)
    assert future.result(10) == 0
    pool.shutdown(wait=False)

    assert held[:2] == [True, True]
    assert pool.join(10)


def test_shutdown_can_cancel_what_is_queued(gate: Gate) -> None:
    """What has not started is cancelled; what runs goes on."""
    pool = DaemonPool(1)
    running = pool.submit(gate)
    gate.wait_entered()
    queued = [pool.submit(int) for _ in range(3)]

    pool.shutdown(wait=False)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.leave.set()
    pool.shutdown()

    assert all(future.cancelled() for future in queued)
    assert running.done()
    assert not running.cancelled()


def test_a_cancelled_future_is_not_run(gate: Gate) -> None:
    """A queued call that is cancelled never happens."""
    calls: list[int] = []
    pool = DaemonPool(1)
    pool.submit(gate)
    gate.wait_entered()
    queued = pool.submit(calls.append, 1)

    assert queued.cancel()
    gate.leave.set()
    pool.shutdown()

    assert calls == []


def test_join_has_a_timeout(gate: Gate) -> None:
    """It says whether the workers have ended, and does not wait for its own thread."""
    pool = DaemonPool(1)
    pool.submit(gate)
    gate.wait_entered()
    pool.shutdown(wait=False)

    assert not pool.join(0)
    gate.leave.set()
    assert pool.join(None)


def test_join_from_a_worker_does_not_wait_for_itself() -> None:
    """A task may wait for the other workers."""
    pool = DaemonPool(1)

    assert pool.submit(pool.join, 10).result(10)

    pool.shutdown()


def test_no_thread_and_no_worker_queues_nothing() -> None:
    """When not even the first thread can be started, submit raises and the work never runs."""
    pool = DaemonPool(1, primitives=Primitives(thread=_NoThread))
    calls: list[int] = []

    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.submit(calls.append, 1)

    pool.shutdown()
    assert calls == []


def test_a_busy_worker_is_no_substitute_for_a_thread(gate: Gate) -> None:
    """Nothing is queued behind one that may never be free when no second can be started."""
    made: list[threading.Thread] = []

    def first_only(**options: Any) -> threading.Thread:
        made.append(threading.Thread(**options) if not made else _NoThread())
        return made[-1]

    pool = DaemonPool(2, primitives=Primitives(thread=first_only))
    pool.submit(gate)
    gate.wait_entered()
    calls: list[int] = []

    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.submit(calls.append, 1)

    gate.leave.set()
    pool.shutdown()
    assert calls == []


def test_the_workers_of_a_forgotten_pool_go_home() -> None:
    """They know its queue only, so nothing keeps it alive."""
    pool = DaemonPool(1, "forgotten")
    pool.submit(int).result(10)
    (worker,) = [t for t in threading.enumerate() if t.name.startswith("forgotten")]
    gone = weakref.ref(pool)

    del pool
    gc.collect()

    worker.join(10)
    assert not worker.is_alive()
    assert gone() is None


def test_an_idle_worker_keeps_nothing_alive() -> None:
    """Arguments and results of the last call can be collected while it waits."""
    pool = DaemonPool(1)
    argument = Thing()
    pool.submit(id, argument).result(10)
    gone = weakref.ref(argument)

    del argument
    pool.submit(int).result(10)

    assert gone() is None
    pool.shutdown()


def test_a_call_that_raises_costs_no_worker() -> None:
    """Not even when telling of it failed, too; nor does a callback of a future."""
    pool = DaemonPool(1)
    pool.start(_exit)
    again = pool.submit(threading.get_ident)
    again.add_done_callback(_exit)
    worker = again.result(10)

    assert pool.submit(threading.get_ident).result(10) == worker
    pool.shutdown()


def test_a_worker_that_cannot_say_that_it_is_idle() -> None:
    """It waits for work all the same."""
    pool = DaemonPool(1)
    pool._idle = _NoMemory()  # type: ignore[assignment]
    worker = pool.submit(threading.get_ident).result(10)

    assert pool.submit(threading.get_ident).result(10) == worker
    pool.shutdown()


def test_shut_down_while_its_lock_is_held(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up, as in a signal handler it has to; whoever holds it sends all home."""
    monkeypatch.setattr(pool_module, "PATIENCE", 0.005)
    pool = DaemonPool(1)
    pool.submit(gate)
    gate.wait_entered()

    class Interrupted(queue.SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if item is int:
                pool.shutdown()
                told.append(pool.join(None))
            real.put(item)

    told: list[bool] = []
    real = pool._work
    pool._work = Interrupted()
    pool.start(int)
    gate.leave.set()

    assert told == [False]
    assert pool.join(10)
    with pytest.raises(RuntimeError, match="was shut down"):
        pool.start(int)


class Thing:
    """Something that can be referred to weakly."""


class _NoThread(threading.Thread):
    """What a system without threads left gives."""

    def __init__(self, **options: object) -> None:
        super().__init__()

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


class _Telling:
    """Stands for the tokens of idle workers and says when the first comes in."""

    def __init__(self, came: threading.Event) -> None:
        self._came = came
        self._tokens: list[None] = []

    def append(self, token: None) -> None:
        self._tokens.append(token)
        self._came.set()

    def pop(self) -> None:
        self._tokens.pop()


class _NoMemory:
    """Tokens of idle workers for which there is no memory."""

    def append(self, _: None) -> None:
        raise MemoryError

    def pop(self) -> None:
        raise IndexError


def _exit(*_: object) -> None:
    raise SystemExit


def test_a_worker_that_has_died_is_replaced(gate: Gate) -> None:
    """Of what a profiler raises in it, say; those that live are kept, and their work goes on."""
    names: list[str] = []

    class Mortal(threading.Thread):
        def run(self) -> None:
            names.append(self.name)
            if len(names) != 2:
                super().run()

    pool = DaemonPool(2, "worker", primitives=Primitives(thread=Mortal))
    pool.start(gate)
    gate.wait_entered()
    lost = pool.submit(int)  # by its worker; whoever comes next takes its work
    pool._workers[1].join(10)

    assert pool.submit(lambda: 1).result(10) == 1

    assert lost.result(10) == 0
    assert names == ["worker-0", "worker-1", "worker-2"]
    gate.leave.set()
    pool.shutdown()


def test_interrupted_while_it_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn of another thread is not touched, and nothing is queued."""
    pool = DaemonPool(1)
    pool._hiring[None] = other = object()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_module, "looks_free", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.submit(int)

    assert pool._hiring[None] is other
    pool._hiring.clear()
    pool.shutdown()
