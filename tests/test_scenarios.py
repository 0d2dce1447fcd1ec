"""Scenarios under many orders of the threads, and mistakes that they must find.

Each scenario is played in SCENARIO_SEEDS worlds, 200 by default. A failure names its world; this
plays it alone, thread for thread as before::

    SCENARIO_SEED=123 pytest tests/test_scenarios.py -k test_in_many_worlds[stop_twice]
"""

from __future__ import annotations

import gc
import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from background_tasks.logger import logger
from tests import scenarios, uses
from tests.mistakes import MISTAKES, Mistake
from tests.stage import SCENARIOS, Stage

_ONLY = os.environ.get("SCENARIO_SEED")
_SEEDS = int(os.environ.get("SCENARIO_SEEDS", "200"))
# From Python 3.12 on not all instructions of a function are reported when it is first traced.
_REHEARSALS = 3
_ENOUGH = 1000  # worlds in which a mistake is found; in 200 as things stand


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Let the collector, which comes when it likes, not make one order two; log to no one."""
    gc.disable()
    logger.propagate = False
    with _one_core():
        yield
    logger.propagate = True
    gc.enable()


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep threads on one core, where they hand each other the turn four times as fast."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(before))})
    yield
    os.sched_setaffinity(0, before)


def _play(name: str, seed: int) -> Stage:
    stage = Stage(SCENARIOS[name], seed)
    try:
        stage.play()
    except Exception as error:
        raise AssertionError(
            f"world {seed} of {name}: SCENARIO_SEED={seed} pytest tests/test_scenarios.py"
            f" -k 'test_in_many_worlds[{name}]'"
        ) from error
    return stage


@pytest.mark.parametrize("name", SCENARIOS)
def test_in_many_worlds(name: str) -> None:
    """What a scenario says is true, whatever the order of the threads."""
    for seed in range(_SEEDS) if _ONLY is None else [int(_ONLY)] * (1 + _REHEARSALS):
        _play(name, seed)


def test_there_are_scenarios_enough() -> None:
    """Forty at least, of both modules."""
    assert len(SCENARIOS) >= 40
    assert {scenarios.start_twice.__name__, uses.from_a_task.__name__} <= set(SCENARIOS)


def test_everything_is_used() -> None:
    """Each public method and property has a use, and no use is of one that is gone."""
    assert {name.partition(" ")[0] for name in uses.USES} == uses.public_names()


@pytest.mark.skipif(_ONLY is not None, reason="SCENARIO_SEED plays one world only")
@pytest.mark.parametrize("place", uses.PLACES)
def test_everything_is_used_from_everywhere(place: str) -> None:
    """The worlds above leave no use out, in no place; alone it plays those that have them."""
    if not uses.MADE:
        mine = [name for name, each in SCENARIOS.items() if each.play.__module__ == uses.__name__]
        for name, seed in itertools.product(mine, range(_SEEDS)):
            _play(name, seed)
    assert {name for where, name in uses.MADE if where == place} == set(uses.USES)


def test_a_world_can_be_played_again() -> None:
    """The same number gives the same order of the threads, at the same times."""
    for name in SCENARIOS:
        for _ in range(_REHEARSALS):
            _play(name, 11)
        one, other = _play(name, 11), _play(name, 11)

        assert one.world.order == other.world.order
        assert one.world.time == other.world.time
        assert [change.kind for change in one.told] == [change.kind for change in other.told]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_is_found(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch, internal_errors: list[str]
) -> None:
    """At the latest when the suite has been played a few times with other numbers."""
    mistake.put_in(monkeypatch)

    def play_all() -> None:
        for seed in range(_ENOUGH):
            _play(mistake.found_by, seed)

    with pytest.raises(AssertionError, match=f"of {mistake.found_by}: "):
        play_all()
    internal_errors.clear()
