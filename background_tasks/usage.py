"""What the executions of a task cost: `Usage`, in total, on average and at most."""

from __future__ import annotations

from collections.abc import Iterable
from operator import add
from typing import Any, NamedTuple

from background_tasks.plain import to_dict
from background_tasks.resources import Cost, Resources, joined

__all__ = ["NO_TALLY", "Summary", "Tally", "Usage", "tallied", "usage_of"]


class Summary(NamedTuple):
    """What several executions cost.

    Attributes:
        runs: How many there were, without those that never started.
        total: The sum; its ``process_rss`` is None, since sizes of a process have no sum.
        mean: The sum by their number.
        maximum: The largest value of each kind, not all of one execution.
    """

    runs: int = 0
    total: Resources = Resources()
    mean: Resources = Resources()
    maximum: Resources = Resources()

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return to_dict(self)


class Usage(NamedTuple):
    """What the executions of a task cost, see `Summary`.

    Attributes:
        history: Those in its history.
        since_added: All that have ended since the task was added.
    """

    history: Summary = Summary()
    since_added: Summary = Summary()

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return to_dict(self)


class Tally(NamedTuple):
    """What a `Summary` is made from: how many runs, and sums and maxima by the place in a Cost."""

    runs: int = 0
    sums: Cost = ()
    maxima: Cost = ()


NO_TALLY = Tally()


def tallied(tally: Tally, cost: Cost) -> Tally:
    """Return *tally* with one more execution."""
    runs, sums, maxima = tally
    if len(cost) == len(sums):
        try:
            most = tuple([a if a > b else b for a, b in zip(maxima, cost, strict=True)])
            return Tally(runs + 1, tuple(map(add, sums, cost)), most)
        except TypeError:  # one of them is None; not asked before, which takes longer
            pass
    return Tally(runs + 1, joined(sums, cost, add), joined(maxima, cost, max))


def usage_of(history: Iterable[Cost], before: Tally) -> Usage:
    """Return the usage of a task with that *history*, *before* which there was more."""
    recent, everything = NO_TALLY, before
    for cost in history:
        recent, everything = tallied(recent, cost), tallied(everything, cost)
    return Usage(_summary(recent), _summary(everything))


def _summary(tally: Tally) -> Summary:
    if not tally.runs:
        return Summary()
    means: list[Any] = [None if each is None else each / tally.runs for each in tally.sums]
    return Summary(
        runs=tally.runs,
        total=Resources(*tally.sums)._replace(process_rss=None),
        mean=Resources(*means),
        maximum=Resources(*tally.maxima),
    )
