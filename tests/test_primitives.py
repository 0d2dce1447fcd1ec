"""The event that threads wait for: as that of threading, but for whom it may interrupt."""

from __future__ import annotations

import signal
import threading

import pytest

from background_tasks.primitives import Event


def test_set_ends_a_wait() -> None:
    """Those to come, too, until it is cleared."""
    event = Event()
    assert not event.wait(0)

    event.set()
    event.set()

    assert [event.wait(), event.wait(0), event.wait(10)] == [True, True, True]
    event.clear()
    event.clear()
    assert not event.wait(0)
    event.set()
    assert event.wait(-1)


@pytest.mark.parametrize("timeout", [None, 10])
def test_set_wakes_all_that_wait(timeout: float | None) -> None:
    """One wakes the next."""
    event, begun = Event(), threading.Barrier(4)
    woken: list[bool] = []

    def wait() -> None:
        begun.wait(10)
        woken.append(event.wait(timeout))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    event.set()
    for thread in threads:
        thread.join(10)

    assert woken == [True] * 3


def test_set_may_interrupt_any_other_call() -> None:
    """A thousand signals at whatever instruction of a wait, a clear and a set: none hangs."""
    event = Event()
    shots = 0

    def shoot(*_: object) -> None:
        nonlocal shots
        shots += 1
        event.set()

    before = signal.signal(signal.SIGALRM, shoot)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        while shots < 1000:
            event.clear()
            event.wait(0.01)
            event.set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert event.wait(0)
