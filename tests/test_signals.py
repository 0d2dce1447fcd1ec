"""Signals of the commands: caught, in order, and given back."""

from __future__ import annotations

import signal
import threading
from queue import Empty, SimpleQueue

import pytest

from background_tasks.signals import caught, wait_for


def test_signals_are_caught_in_a_context_only() -> None:
    """What was installed before is back afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    with caught() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        received = [wait_for(signals, 10), wait_for(signals, 10)]

    assert received == [signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_are_let_alone_outside_of_the_main_thread() -> None:
    """Python allows handlers in the main thread only; the demo runs without."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def look() -> None:
        with caught() as signals:
            seen.append(signal.getsignal(signal.SIGTERM))
            seen.append(signals.empty())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)

    assert seen == [before, True]


def test_a_foreign_handler_becomes_the_default() -> None:
    """One that was not installed from Python is None here, and cannot be put back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda number, handler: installed.append(handler))
        installed: list[object] = []
        with caught():
            pass

    assert installed[2:] == [signal.SIG_DFL, signal.SIG_DFL]
    assert signal.getsignal(signal.SIGTERM) is before


def test_wait_ends_when_the_time_is_up() -> None:
    """No signal is None."""
    assert wait_for(SimpleQueue(), 0.001) is None


def test_a_signal_that_comes_just_before_the_wait_is_seen() -> None:
    """Its handler is called when a wait ends, which therefore is never a long one."""
    waited: list[float] = []

    class Late(SimpleQueue[int]):
        def get(self, block: bool = True, timeout: float | None = None) -> int:
            assert timeout is not None
            waited.append(timeout)
            if len(waited) < 3:
                raise Empty
            return 15

    assert wait_for(Late(), 3600) == 15
    assert waited == [0.5, 0.5, 0.5]


def test_wait_takes_any_time() -> None:
    """More seconds than a lock can wait are as many as it can."""
    signals: SimpleQueue[int] = SimpleQueue()
    signals.put(15)

    assert wait_for(signals, 1e300) == 15
