"""The executor of a scheduler: who made it, whether it is broken, and when there is another.

`Outside` sends calls to it and says how they ended. An executor that takes no call any more is
told from a call that cannot be sent: what the first refuses was not begun and may wait, the second
has failed.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from background_tasks import checks
from background_tasks.checks import error_text
from background_tasks.clock import monotonic
from background_tasks.errors import ExecutorBrokenError, InvalidTypeError
from background_tasks.interrupts import hand_on, is_interrupt
from background_tasks.primitives import PATIENCE, Primitives, looks_free
from background_tasks.task import Task

__all__ = ["Outside", "is_unsent"]

_RENEWAL = 60.0  # seconds from one new executor to the next; a guess
# What a call that cannot be pickled, or loaded over there, fails with.
_UNSENT = (
    pickle.PickleError, TypeError, AttributeError, ImportError, RecursionError, ValueError,
)  # fmt: skip


def is_unsent(error: BaseException) -> bool:
    """Return True if *error* says that a call could not be sent, not that its worker was lost."""
    return isinstance(error, _UNSENT)


class Outside:
    """The executor that was given, or those that a factory makes, one after the other."""

    # Locking
    #   _making guards _executor. It is held while the factory is called, so that only one is
    #   made: a factory that waits for runs of this scheduler waits for ever. The scheduler's lock
    #   is never held when it is taken. `retry` writes the other two without it, and does not block.
    def __init__(self, given: object, primitives: Primitives) -> None:
        """Take an Executor, or a function of no arguments that makes one; do not call it yet.

        Raises:
            TypeError: *given* is neither.
        """
        self._factory: Callable[[], Executor] | None = None
        self._executor: Any = None  # an Executor; None when one is to be made
        if checks.has_method(given, "submit"):
            self._executor = given
        elif callable(given):
            checks.call("executor", given, (), {})
            self._factory = given
        else:
            raise InvalidTypeError(
                f"executor must be a concurrent.futures.Executor or a function that makes one,"
                f" got {checks.shown(given)}"
            )
        self._monotonic = primitives.monotonic
        self._pause = primitives.pause
        self._new_lock = primitives.lock
        self._making = self._new_lock()
        self._of_the_parent: list[Executor | None] = []
        self._has_broken = False
        self._next_at = -math.inf  # no other is made before

    def executor(self) -> Executor:
        """Return the executor of this moment; the factory makes it, if need be.

        Raises:
            ExecutorBrokenError: There is none: the factory fails, or its last one broke lately.
        """
        with self._making:
            if self._executor is None:
                if self._monotonic() < self._next_at:
                    raise ExecutorBrokenError("it broke, and another is made in a minute at most")
                self._executor = self._make()
            return self._executor  # type: ignore[no-any-return] # it was made or given

    def _make(self) -> Any:
        before, self._next_at = self._has_broken, self._monotonic() + _RENEWAL
        try:
            made = None if self._factory is None else self._factory()
        except BaseException as error:  # SystemExit included: whoever asks lives on
            hand_on(error)
            raise ExecutorBrokenError(f"none can be made: {error_text(error)}") from error
        if not checks.has_method(made, "submit"):
            raise ExecutorBrokenError(
                f"the factory must return an Executor, got {checks.shown(made)}"
            )
        if not before:
            self._next_at = -math.inf  # the first to break is replaced at once
        return made

    def submit(
        self, executor: Executor, function: Callable[..., object], *args: object
    ) -> Future[Any]:
        """Have *executor*, which `executor` returned, call *function*.

        Raises:
            ExecutorBrokenError: It takes no call any more; this one was not begun.
            Exception: The call cannot be sent.
        """
        try:
            return executor.submit(function, *args)
        except BaseException as error:
            if is_unsent(error) or is_interrupt(error):
                raise
            self.broke(executor)
            raise ExecutorBrokenError(error_text(error)) from error

    def broke(self, executor: Executor | None) -> bool:
        """Take note that *executor* is broken; return False when another has its place already."""
        with self._making:
            if executor is None or self._executor is not executor:
                return False
            if self._factory is None:
                return True
            self._executor = None
            self._has_broken = True
        _shut_down(executor)
        return True

    def renew(self) -> str | None:
        """Make another executor if it is time; return "" when there is one.

        Returns:
            Why there is none, if that is news; None when nothing was tried.
        """
        if self._factory is None or (self._executor is None and self._is_early()):
            return None
        try:
            self.executor()
        except ExecutorBrokenError as error:
            return str(error)
        return ""

    def _is_early(self) -> bool:
        return self._monotonic() < self._next_at

    def retry(self) -> None:
        """Let another be made at once, though one broke lately."""
        self._has_broken = False
        self._next_at = -math.inf

    def forked(self) -> None:
        """In a forked child: have another made, since the threads of this one are in the parent.

        It is kept, not shut down or forgotten: that might reach what the parent has of it. One
        that was given is used on: some can be, as a Dask client's, and there is no other.
        """
        self._making = self._new_lock()
        if self._factory is not None:
            self._of_the_parent.append(self._executor)
            self._executor = None
            self.retry()

    def close(self) -> None:
        """Shut down what the factory made; the next call has it make another.

        Not where another call is at it for a second: a signal handler may have interrupted it.
        """
        if self._factory is None or not looks_free(
            self._making, self._pause, monotonic() + PATIENCE
        ):
            return
        with self._making:
            executor, self._executor = self._executor, None
            self.retry()
        if executor is not None:
            _shut_down(executor)

    def is_here(self, executor: Executor) -> bool:
        """Return True if *executor* calls functions in threads of this process."""
        # Threads with an interpreter each, from Python 3.14 on, share as little as processes.
        apart = _loaded("interpreter", "InterpreterPoolExecutor")
        return isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, apart)

    def check_task(self, task: Task) -> None:
        """Refuse a task that cannot be sent, if that can be told already.

        Raises:
            TypeError: It cannot be pickled, and a ProcessPoolExecutor pickles it.
        """
        if not self._is_stock_pool():
            return  # others pickle more than `pickle` can, lambdas for one
        try:
            pickle.dumps((task.function, task.args, task.kwargs))
        except Exception as error:
            raise InvalidTypeError(
                f"function, args and kwargs must be such that a ProcessPoolExecutor can pickle"
                f" them: {error_text(error)}"
            ) from error

    def _is_stock_pool(self) -> bool:
        pool = _loaded("process", "ProcessPoolExecutor")
        if self._factory is None:
            return isinstance(self._executor, pool)
        made: object = self._factory
        while isinstance(made, functools.partial):
            made = made.func
        return isinstance(made, type) and issubclass(made, pool)


def _loaded(module: str, name: str) -> Any:
    """Return a class of ``concurrent.futures``; () if nobody has loaded it, which takes time."""
    return getattr(sys.modules.get(f"concurrent.futures.{module}"), name, ())


def _shut_down(executor: Executor) -> None:
    """Let go of an executor that is ours."""
    with contextlib.suppress(Exception):  # it may be broken: there is nothing more to be done
        executor.shutdown(wait=False)
