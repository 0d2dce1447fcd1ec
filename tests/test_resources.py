"""What an execution cost: sums, differences and the counters of one thread."""

from __future__ import annotations

import threading
import time

import pytest

from background_tasks import Resources, resources
from background_tasks.resources import NO_COST, added, read, spent


def _burn(seconds: float) -> None:
    """Use that much CPU time of the calling thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_nothing_costs_nothing() -> None:
    """Without arguments every counter is zero."""
    assert Resources() == Resources(*NO_COST) == (0.0, 0.0, 0.0)


def test_cpu_is_both_modes() -> None:
    """CPU time is that in user mode and that in the kernel."""
    assert Resources(wall=9.0, cpu_user=1.5, cpu_system=0.25).cpu == 1.75


def test_a_sum_adds_each_counter() -> None:
    """Two attempts cost the sum of each counter."""
    assert added((1.0, 0.5, 0.25), (2.0, 0.125, 0.5)) == (3.0, 0.625, 0.75)


def test_spent_is_the_difference() -> None:
    """What was used between two readings is the difference of each counter."""
    before, after = (100.0, 1.0, 0.5), (103.5, 1.25, 0.625)

    assert spent(before, after) == (3.5, 0.25, 0.125)


def test_the_cpu_time_of_this_thread_is_counted() -> None:
    """A thread that computes is charged for it, in wall time too."""
    before = read()

    _burn(0.05)

    used = Resources(*spent(before, read()))
    assert used.cpu > 0.02
    assert used.wall > 0.02


def test_the_cpu_time_of_another_thread_is_not_counted() -> None:
    """What another thread computes is not charged to the one that waits for it."""
    before = read()
    other = threading.Thread(target=_burn, args=(0.1,))

    other.start()
    other.join(10)

    assert not other.is_alive()
    assert Resources(*spent(before, read())).cpu < 0.05


def test_without_separate_modes_all_is_user_time() -> None:
    """Where the platform does not tell the modes apart, all CPU time is user time."""
    reading = resources._read_thread_time(lambda: 1.5)

    assert reading[1:] == (1.5, 0.0)


@pytest.mark.parametrize("field", ["wall", "cpu_user", "cpu_system"])
def test_a_cost_cannot_be_changed(field: str) -> None:
    """A recorded cost is frozen."""
    with pytest.raises(AttributeError):
        setattr(Resources(), field, 1.0)
