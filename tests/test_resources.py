"""What one execution cost: sums, differences and the counters of one thread."""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from background_tasks import (
    InvalidTypeError,
    InvalidValueError,
    Resources,
    Scheduler,
    Status,
    Task,
    resources,
)
from background_tasks.resources import BASIC, NO_COST, Meter, added, meter_of

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MANY = 2000
# One attempt's cost, by hand: wall, CPU user and system, faults, switches, blocks.
_ONE = (2.0, 1.0, 0.5, 10, 1, 4, 2, 8, 16)
_OTHER = (1.0, 0.25, 0.75, 30, 0, 2, 3, 0, 0)


def burn(seconds: float) -> None:
    """Use that much CPU time of the calling thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def touch_pages() -> None:
    """Touch new pages, and give them back."""
    with mmap.mmap(-1, _MANY * _PAGE) as memory:
        for page in range(_MANY):
            memory[page * _PAGE] = 1


def switch() -> None:
    """Give the CPU away two hundred times: wait a moment for a lock that nobody lets go."""
    held = threading.Lock()
    held.acquire()
    for _ in range(200):
        held.acquire(timeout=0.001)


def write(path: Path) -> None:
    """Write a megabyte and have it reach the disk."""
    with path.open("wb", buffering=0) as file:
        for _ in range(16):
            file.write(b"x" * 65536)
        os.fsync(file.fileno())


def cost_of(work: Callable[[], object], meter: Meter = BASIC) -> Resources:
    """Return what *work* costs the calling thread."""
    before = meter.read()
    work()
    return Resources(*meter.spent(before, meter.read()))


def test_nothing_costs_nothing() -> None:
    """Without arguments times are zero, and what was not measured is None."""
    assert Resources() == Resources(*NO_COST)
    assert Resources()[:3] == (0.0, 0.0, 0.0)
    assert set(Resources()[3:]) == {None}


def test_cpu_is_both_modes() -> None:
    """CPU time is that in user mode and that in the kernel."""
    assert Resources(wall=9.0, cpu_user=1.5, cpu_system=0.25).cpu == 1.75


def test_a_sum_adds_each_counter() -> None:
    """Two attempts cost the sum of each counter."""
    assert added(_ONE, _OTHER) == (3.0, 1.25, 1.25, 40, 1, 6, 5, 8, 16)


def test_a_sum_with_an_attempt_that_was_measured_less() -> None:
    """One that was lost with its worker adds its time; what the other has measured stays."""
    assert added(_ONE, (1.0, 0.0, 0.0)) == (3.0, 1.0, 0.5, 10, 1, 4, 2, 8, 16)
    assert added((1.0, 0.0, 0.0), _ONE) == (3.0, 1.0, 0.5, 10, 1, 4, 2, 8, 16)


def test_the_memory_of_the_process_is_not_added() -> None:
    """Of two attempts it is the larger; bytes are added, also where one of them is not known."""
    one, other = (*_ONE, 100, None, 7000), (*_OTHER, 11, 22, 5000)

    assert added(one, other)[9:] == (111, 22, 7000)


# Each kind of work is found where it belongs, and nowhere else.


def test_cpu_time_is_counted() -> None:
    """Of a thread that computes; it faults no pages for it and waits for nobody."""
    used = cost_of(lambda: burn(0.05))

    assert 0.04 < used.cpu < 1
    assert used.wall > 0.04
    assert used.minor_faults is not None
    assert used.minor_faults < _MANY / 10
    assert used.voluntary_switches is not None
    assert used.voluntary_switches < 50
    assert used.blocks_written == 0


def test_page_faults_are_counted() -> None:
    """One for each page that is touched first; no context switch, no block."""
    used = cost_of(touch_pages)

    assert used.minor_faults is not None
    assert used.minor_faults >= _MANY
    assert used.minor_faults < _MANY * 1.5
    assert used.major_faults == 0
    assert used.voluntary_switches is not None
    assert used.voluntary_switches < 50
    assert used.blocks_written == 0


def test_context_switches_are_counted() -> None:
    """Each wait is one, unless its time was up before it had begun; nothing else is charged."""
    used = cost_of(switch)

    assert used.voluntary_switches is not None
    assert used.voluntary_switches >= 100
    assert used.minor_faults is not None
    assert used.minor_faults < _MANY / 10
    assert used.blocks_written == 0


def test_bytes_are_counted(tmp_path: Path) -> None:
    """What is written is written, what is read is read, each by the thread that does it."""
    meter, path = meter_of(("io",)), tmp_path / "file"

    written = cost_of(lambda: write(path), meter)
    read = cost_of(path.read_bytes, meter)
    idle = cost_of(lambda: None, meter)

    assert (written.bytes_read, written.bytes_written) == (0, 16 * 65536)
    assert (read.bytes_read, read.bytes_written) == (16 * 65536, 0)
    assert (idle.bytes_read, idle.bytes_written) == (0, 0)
    assert written.process_rss is None


def test_blocks_are_those_that_the_kernel_counts(tmp_path: Path) -> None:
    """Where the file system counts them: a megabyte is 2,048 blocks; one in memory has none."""
    used = cost_of(lambda: write(tmp_path / "file"))

    assert used.blocks_written is not None
    assert used.blocks_written == 0 or 2048 <= used.blocks_written < 4096
    assert used.blocks_read is not None


def test_what_another_thread_does_is_not_counted(tmp_path: Path) -> None:
    """None of it: neither its time nor its pages, switches and bytes."""

    def work() -> None:
        burn(0.1)
        touch_pages()
        write(tmp_path / "file")

    def wait() -> None:
        other = threading.Thread(target=work)
        other.start()
        other.join(10)
        assert not other.is_alive()

    used = cost_of(wait, meter_of(("io",)))

    assert used.cpu < 0.05
    assert used.minor_faults is not None
    assert used.minor_faults < _MANY / 10
    assert used.bytes_written == 0


def test_a_run_is_charged_for_all_of_it(tmp_path: Path) -> None:
    """The same through a scheduler: on the execution, in its slot's thread, and on its task."""

    def work() -> None:
        burn(0.02)
        touch_pages()
        switch()
        write(tmp_path / "file")

    with Scheduler(1, resources=("io", "rss")) as scheduler:
        task = scheduler.add_task(Task("busy", work))
        scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    used = task.execution_hist[0].resources
    assert used.cpu > 0.015
    assert used.minor_faults is not None
    assert used.minor_faults >= _MANY
    assert used.voluntary_switches is not None
    assert used.voluntary_switches >= 100
    assert used.bytes_written == 16 * 65536
    assert used.process_rss is not None
    assert used.process_rss > 1_000_000
    assert task.usage.since_added.total == used._replace(process_rss=None)
    assert task.usage.history.maximum == used


# Where less is counted


def test_without_separate_modes_all_is_user_time() -> None:
    """Where the platform counts CPU time only, that is user time and the rest is not known."""
    before = resources._read_thread_time(lambda: 1.5)
    after = (before[0] + 2.0, 1.75)

    assert Resources(*resources._spent_time(before, after)) == Resources(2.0, 0.25, 0.0)


def test_what_is_asked_for_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a platform that counts less than Linux."""
    small = Meter(lambda: (0.0, 0.0), lambda before, after: (2.0, 0.25, 0.0))
    monkeypatch.setattr(resources, "BASIC", small)

    used = cost_of(lambda: None, meter_of(("io", "rss")))

    assert used[:3] == (2.0, 0.25, 0.0)
    assert set(used[3:9]) == {None}
    assert (used.bytes_read, used.bytes_written) == (0, 0)
    assert used.process_rss is not None


@pytest.mark.parametrize("extras", [("io",), ("rss",)])
def test_a_file_that_cannot_be_opened_harms_no_run(
    extras: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When too many files are open, say, the value is not known."""

    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(resources, "_files", resources._Files())
    monkeypatch.setattr(os, "open", fail)

    used = cost_of(lambda: None, meter_of(extras))

    assert set(used[9:]) == {None}


def test_each_thread_keeps_files_of_its_own_and_closes_them() -> None:
    """They are opened once a thread, and gone with it."""
    fds = Path("/proc/self/fd")
    meter = meter_of(("io", "rss"))
    during: list[int] = []

    def work() -> None:
        cost_of(lambda: None, meter)
        before = len(list(fds.iterdir()))
        cost_of(lambda: None, meter)
        during.append(len(list(fds.iterdir())) - before)

    before = len(list(fds.iterdir()))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)

    assert during == [0]
    assert len(list(fds.iterdir())) == before


def test_a_task_that_closes_what_is_not_its_own(tmp_path: Path) -> None:
    """Its runs and later ones are unharmed, and so is what it opens under the same number."""
    kept: list[Any] = []
    (tmp_path / "file").write_text("neither numbers nor so many")

    def hostile() -> None:
        for each in resources._files.by_path.values():
            os.close(each.number)
        kept.extend(open(tmp_path / "file") for _ in range(4))  # noqa: SIM115 - it stays open

    with Scheduler(1, resources=("io", "rss")) as scheduler:
        tasks = [scheduler.add_task(Task("t", each)) for each in (int, hostile, int, int)]
        for task in tasks:
            scheduler.release_task(task.id)
            assert scheduler.wait_idle(10)

    runs = [task.execution_hist[0] for task in tasks]
    assert [run.status for run in runs] == [Status.SUCCESS] * 4
    assert [run.resources.bytes_read is None for run in runs] == [False, True, False, False]
    assert runs[1].resources.process_rss is None
    for file in kept:
        assert file.read()
        file.close()


def test_a_forked_child_forgets_the_files_of_its_parent() -> None:
    """They are about the parent's thread."""
    cost_of(lambda: None, meter_of(("io",)))
    assert resources._files.by_path

    resources._forget_files()

    assert not resources._files.by_path


# What a scheduler is asked to measure


@pytest.mark.parametrize(
    ("given", "extras"),
    [("io", ("io",)), (["rss", "io", "io"], ("io", "rss")), ((), ()), ({"rss"}, ("rss",))],
)
def test_resources_of_a_scheduler(given: Any, extras: tuple[str, ...]) -> None:
    """One name, or several in any collection."""
    assert resources.extras_of(given) == extras


@pytest.mark.parametrize("given", ["memory", ("io", "cpu"), [3]])
def test_resources_that_there_are_not(given: Any) -> None:
    """The message names them and those that there are."""
    with pytest.raises(InvalidValueError, match='resources must be "io", "rss" or both, got'):
        Scheduler(1, resources=given)


@pytest.mark.parametrize("given", [None, True, 3])
def test_resources_of_another_kind(given: Any) -> None:
    """They are refused, with the value."""
    with pytest.raises(InvalidTypeError, match=f"in a tuple, got {given}"):
        Scheduler(1, resources=given)


def test_resources_that_the_system_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused where they are asked for, not found missing later."""
    monkeypatch.setitem(resources._FILES, "io", "/nowhere/io")

    with pytest.raises(InvalidValueError, match='"io" needs /nowhere/io, which is not here'):
        Scheduler(1, resources="io")


@pytest.mark.parametrize("field", ["wall", "cpu_user", "process_rss"])
def test_a_cost_cannot_be_changed(field: str) -> None:
    """A recorded cost is frozen."""
    with pytest.raises(AttributeError):
        setattr(Resources(), field, 1.0)


def test_a_history_is_no_work_for_the_collector() -> None:
    """A cost is a plain tuple of numbers, which the collector leaves alone once it has seen it."""
    before = BASIC.read()
    cost = BASIC.spent(before, BASIC.read())

    assert type(cost) is tuple
    assert all(type(each) in (int, float) for each in cost)
    assert sys.getsizeof(cost) <= 120
