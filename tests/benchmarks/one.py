"""One measurement, in this process: prints its figures as one JSON object.

``python -m tests.benchmarks.one SCENARIO CONTESTANT '{"n": 10000}'``
"""

from __future__ import annotations

import json
import math
import os
import sys

from tests.benchmarks.contestants import Contestant, HeapPlusContestant, Ours, OursDefaults, Pool
from tests.benchmarks.peers import ApScheduler, ApSchedulerDefaults, DigonIO, Huey, Sched, Schedule
from tests.benchmarks.scenarios import SCENARIOS
from tests.benchmarks.watched import WATCHED

__all__ = ["CONTESTANTS", "main"]

CONTESTANTS: dict[str, type[Contestant]] = {
    "ours": Ours,
    "ours defaults": OursDefaults,
    "pool": Pool,
    "heap+": HeapPlusContestant,
    "APScheduler": ApScheduler,
    "APScheduler defaults": ApSchedulerDefaults,
    "scheduler": DigonIO,
    "schedule": Schedule,
    "sched": Sched,
    "huey": Huey,
    **WATCHED,
}


def main(scenario: str, contestant: str, parameters: str) -> None:
    """Measure and print; then leave without waiting for what a contestant still runs."""
    figures = SCENARIOS[scenario](CONTESTANTS[contestant], **json.loads(parameters))
    known = {name: None if math.isnan(value) else value for name, value in figures.items()}
    print(json.dumps(known), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
