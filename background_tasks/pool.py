"""The bounded ThreadPoolExecutor that runs the slots, with daemon workers.

The stock executor joins its threads when the interpreter exits, so a task that never returns
would keep the process for ever; a ``submit`` that cannot start a thread leaves the work queued
all the same, to run a second time later. Here workers are daemons, and a worker is started before
the work is queued. Only public methods are overridden.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty
from typing import Any, ParamSpec, TypeVar

from background_tasks.clock import monotonic
from background_tasks.primitives import PATIENCE, REAL, Primitives, Turn, looks_free

__all__ = ["DaemonPool"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Submitted = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]
_Work = _Submitted | Callable[[], object]  # from submit, from start


class DaemonPool(ThreadPoolExecutor):
    """At most *max_workers* daemon threads, started when needed and kept until `shutdown`."""

    # Locking
    #   _hiring is held to start a thread and to queue work, so that no work comes behind the None
    #   of `shutdown`; never while work runs. `shutdown`, which a signal handler may call in the
    #   middle of that, gives up after a second: whoever holds it looks at _is_shut_down after
    #   letting go.
    #   _idle holds a token for each worker that waits for work and is not promised any; it is
    #   appended to and popped from only, which is atomic, so `hand_over` needs no lock.
    def __init__(
        self, max_workers: int, thread_name_prefix: str = "", primitives: Primitives = REAL
    ) -> None:
        """Start no thread yet."""
        super().__init__(max_workers, thread_name_prefix)
        self._size = max_workers
        self._name = thread_name_prefix
        self._primitives = primitives
        self._work: Any = primitives.queue()
        self._idle: deque[None] = deque()
        self._hiring = Turn()
        self._workers: list[Any] = []
        self._hired = 0  # how many there were
        self._is_shut_down = False
        self._is_told = False  # that it is time to go home
        weakref.finalize(self, self._work.put, None).atexit = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a worker call ``fn(*args, **kwargs)``; does not wait for it.

        Raises:
            RuntimeError: It was shut down; or no worker is idle, fewer are there than may be, and
                no thread can be started. Then the work is not queued.
        """
        future: Future[_T] = Future()
        self._queue((future, fn, args, kwargs))
        return future

    def start(self, fn: Callable[[], object]) -> None:
        """Have a worker call *fn*; as `submit`, without a Future: what it raises is nobody's.

        Raises:
            RuntimeError: As for `submit`.
        """
        self._queue(fn)  # a Future costs 3 us, and nobody would look at it

    def _queue(self, work: _Work) -> None:
        mine = object()
        try:
            self._await_turn(mine, math.inf)
            if self._is_shut_down:
                raise RuntimeError("the pool was shut down")
            if not self._promise():
                self._hire()
            self._work.put(work)
        finally:
            if self._hiring[None] is mine:
                del self._hiring[None]
            if self._is_shut_down:
                self._send_home(0)

    def _await_turn(self, mine: object, end: float) -> bool:
        """Have _hiring be *mine*; False when it cannot be until monotonic *end*."""
        while self._hiring.setdefault(None, mine) is not mine:
            if not looks_free(self._hiring, self._primitives.pause, end):
                return False
        return True

    def hand_over(self, fn: Callable[[], object]) -> bool:
        """Have an idle worker call *fn* as `start` does; False when there is none.

        Takes no lock and starts no thread, so it may be called in a signal handler; but not
        while another thread may call `shutdown`, after which nobody would take the work.
        """
        if not self._promise():
            return False
        self._work.put(fn)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers go home once the queue is empty; with *wait*, until they have."""
        self._is_shut_down = True
        if cancel_futures:
            self._cancel_queued()
        self._send_home(PATIENCE)
        super().shutdown(wait=False)
        if wait:
            self.join(None)

    def _send_home(self, patience: float) -> None:
        """Let the workers go home, unless another holds the lock, who does it after letting go."""
        mine = object()
        try:
            if self._await_turn(mine, monotonic() + patience):
                self._work.put(None)
                self._is_told = True
        finally:
            if self._hiring[None] is mine:
                del self._hiring[None]

    def join(self, timeout: float | None) -> bool:
        """Wait for the workers to end, but for the calling one; return whether they have.

        Not if it interrupts who would tell them to.
        """
        if self._is_shut_down and not self._is_told:
            return False
        monotonic, me = self._primitives.monotonic, self._primitives.get_ident()
        end = None if timeout is None else monotonic() + timeout
        workers = [worker for worker in tuple(self._workers) if worker.ident != me]
        for worker in workers:
            worker.join(None if end is None else max(0.0, end - monotonic()))
        return not any(worker.is_alive() for worker in workers)

    def forked(self) -> None:
        """In a forked child, where no worker is left: let the one that forked, if any, go home."""
        self._work.put(None)

    def _promise(self) -> bool:
        """Reserve an idle worker for the work that the caller queues next."""
        if self._is_shut_down:
            return False
        try:
            self._idle.pop()
        except IndexError:
            return False
        return True

    def _hire(self) -> None:
        """Start one worker more, if there may be one more; _hiring is held."""
        if len(self._workers) >= self._size:
            # One dies of what a profiler raises in it, and the like; its work is started again.
            self._workers = [worker for worker in self._workers if worker.is_alive()]
        if len(self._workers) >= self._size:
            return
        worker = self._primitives.thread(
            target=_work,
            args=(self._work, self._idle),
            name=f"{self._name}-{self._hired}",
            daemon=True,
        )
        # If it cannot be started, those that are there are no substitute: they may never be free.
        worker.start()
        self._workers.append(worker)
        self._hired += 1

    def _cancel_queued(self) -> None:
        with contextlib.suppress(Empty):  # which it may be at once: workers take from it, too
            while True:
                work: _Work | None = self._work.get(False)
                if isinstance(work, tuple):  # None tells workers to go home; one more follows
                    work[0].cancel()


def _work(queue: Any, idle: deque[None]) -> None:
    """Call what comes out of *queue* until None does; leave that for the next worker.

    Knows the pool's queue only, not the pool, so that a pool nobody refers to can go.
    """
    work: _Work | None = queue.get()
    while work is not None:
        try:
            if isinstance(work, tuple):
                _call(*work)
            else:
                work()
        except BaseException:  # of a done-callback, or for want of memory
            pass  # whoever can tell has told; the worker is needed
        work = None  # or an idle worker would keep the last arguments alive
        try:
            work = queue.get(False)
        except BaseException:  # Empty, or no memory to say so
            try:  # noqa: SIM105 - what suppresses takes memory, too
                idle.append(None)
            except MemoryError:
                pass  # then it is not known to be idle
            work = queue.get()
    queue.put(None)


def _call(
    future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(fn(*args, **kwargs))
    except BaseException as error:
        future.set_exception(error)
        # The exception's frames refer to this frame's `future`, and it to them.
        del future
