"""What the executions of a task cost: totals, means and maxima, by hand."""

from __future__ import annotations

import pytest

from background_tasks import Resources, Scheduler, Summary, Task, Usage
from background_tasks.usage import NOTHING, Tally, usage_of

# One attempt's cost, by hand: wall, CPU user and system, faults, switches, blocks.
ONE = (2.0, 1.0, 0.5, 10, 1, 4, 2, 8, 16)
OTHER = (1.0, 0.25, 0.75, 30, 0, 2, 3, 0, 0)


def test_no_runs() -> None:
    """Nothing in sum, and nothing is divided by it."""
    assert usage_of([], NOTHING) == Usage(Summary(), Summary())


def test_total_mean_and_maximum() -> None:
    """Of two runs, by hand."""
    usage = usage_of([ONE, OTHER], NOTHING)

    assert usage.history == usage.since_added
    assert usage.history.runs == 2
    assert usage.history.total == Resources(3.0, 1.25, 1.25, 40, 1, 6, 5, 8, 16)
    assert usage.history.mean == Resources(1.5, 0.625, 0.625, 20, 0.5, 3, 2.5, 4, 8)
    assert usage.history.maximum == Resources(2.0, 1.0, 0.75, 30, 1, 4, 3, 8, 16)


def test_runs_that_were_measured_differently() -> None:
    """What is known of one is not lost beside one of which less is known, in any order."""
    long, short = (*ONE, 100, 200, 5000), (4.0, 0.0, 0.0)

    for order in ([long, short], [short, long], [long, (*OTHER, None, None, None)]):
        usage = usage_of(order, NOTHING).history
        assert usage.total[9:] == (100, 200, None)
        assert usage.mean[9:] == (50, 100, 2500)
        assert usage.maximum[9:] == (100, 200, 5000)


def test_what_left_the_history_still_counts() -> None:
    """Since the task was added; the history is what is in it."""
    tally = Tally()
    tally.add(ONE)

    usage = usage_of([OTHER], tally.totals())

    assert usage.history.total == Resources(*OTHER)
    assert usage.since_added.total == Resources(3.0, 1.25, 1.25, 40, 1, 6, 5, 8, 16)
    assert usage.since_added.runs == 2


@pytest.mark.parametrize("number", [7, 8, 9, 20])
def test_many_that_left_the_history(number: int) -> None:
    """However many are added at once: none is lost and none counts twice."""
    tally = Tally()
    for place in range(number):
        tally.add(ONE if place % 2 else OTHER)
    totals = tally.totals()

    ones, others = number // 2, number - number // 2
    assert totals.runs == number
    assert totals.sums == tuple(ones * a + others * b for a, b in zip(ONE, OTHER, strict=True))
    assert totals.maxima == tuple(map(max, ONE, OTHER))


def test_many_that_were_measured_differently() -> None:
    """Among eight that are added at once, too."""
    tally = Tally()
    for place in range(11):
        tally.add((4.0, 0.0, 0.0) if place % 2 else (*ONE, None, None, 5000))
    totals = tally.totals()

    assert (totals.runs, totals.sums[0], totals.sums[3]) == (11, 6 * 2.0 + 5 * 4.0, 60)
    assert totals.maxima == (4.0, *ONE[1:], None, None, 5000)


@pytest.mark.parametrize(("history", "kept"), [(2, 2), (0, 0), (100, 5)])
def test_the_usage_of_a_task(history: int, kept: int) -> None:
    """All of its runs count since it was added, and those in the history by themselves."""
    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", int, history=history))
    for _ in range(5):
        scheduler.run_task(task.id)

    assert task.usage.history.runs == kept
    assert task.usage.since_added.runs == 5
    assert task.usage.since_added.total.wall > 0


def test_the_usage_of_a_task_that_was_not_added() -> None:
    """Nothing has run."""
    assert Task("t", int).usage == Usage()


def test_runs_that_never_started_cost_nothing() -> None:
    """One that was dropped is no run that took no time."""
    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", int, history=1))
    scheduler.release_task(task.id)
    scheduler.cancel(task.id)
    scheduler.run_task(task.id)

    assert task.usage.since_added.runs == 1


def test_plain_values() -> None:
    """By name, down to the last."""
    usage = usage_of([(1.0, 0.5, 0.25)], NOTHING).to_dict()

    assert usage["history"]["total"]["cpu_user"] == 0.5
    assert usage["since_added"]["runs"] == 1
    assert list(Resources().to_dict()) == list(Resources._fields)
    assert Summary().to_dict()["runs"] == 0
