"""What the executions of a task cost: `Usage`, in total, on average and at most."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import add
from typing import Any, NamedTuple

from background_tasks.plain import to_dict
from background_tasks.resources import Cost, Resources, joined

__all__ = ["NOTHING", "Summary", "Tally", "Totals", "Usage", "usage_of"]

_AT_ONCE = 16  # more take less time, but 180 bytes each


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


class Totals(NamedTuple):
    """What a `Summary` is made from: how many runs, and sums and maxima by the place in a Cost."""

    runs: int = 0
    sums: Cost = ()
    maxima: Cost = ()


NOTHING = Totals()


class Tally:
    """What the executions of a task cost that are no longer in its history."""

    __slots__ = ("_recent", "_totals")

    def __init__(self) -> None:
        """Start with none."""
        self._totals = NOTHING
        self._recent: list[Cost] = []  # those that are not in the totals yet

    def add(self, cost: Cost) -> None:
        """Count one more; sixteen at once, which takes a quarter of the time."""
        self._recent.append(cost)
        if len(self._recent) >= _AT_ONCE:
            self._totals, self._recent = self.totals(), []

    def totals(self) -> Totals:
        """Return what all of them cost."""
        return _with(self._totals, self._recent)


def _with(totals: Totals, costs: Collection[Cost]) -> Totals:
    """Return *totals* with further executions."""
    runs, sums, maxima = totals
    try:
        sums = tuple(map(sum, zip(sums, *costs, strict=True)))
        maxima = tuple(map(max, zip(maxima, *costs, strict=True)))
    except (TypeError, ValueError):  # one has a None, or is shorter; asking first takes longer
        _, sums, maxima = totals
        for cost in costs:
            sums, maxima = joined(sums, cost, add), joined(maxima, cost, max)
    return Totals(runs + len(costs), sums, maxima)


def usage_of(history: Iterable[Cost], before: Totals) -> Usage:
    """Return the usage of a task with that *history*, *before* which there was more."""
    costs = tuple(history)
    return Usage(_summary(_with(NOTHING, costs)), _summary(_with(before, costs)))


def _summary(totals: Totals) -> Summary:
    if not totals.runs:
        return Summary()
    means: list[Any] = [None if each is None else each / totals.runs for each in totals.sums]
    return Summary(
        runs=totals.runs,
        total=Resources(*totals.sums)._replace(process_rss=None),
        mean=Resources(*means),
        maximum=Resources(*totals.maxima),
    )
