"""Measures what the plan says and reports: ``python -m tests.benchmarks [--quick] [--only NAME]``.

Prints tables, writes ``build/bench.json`` and ``build/bench.svg``, and ends with what falls short
of the targets. The exit code is 0 whatever was measured: a stopwatch is no test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.picture import draw
from tests.benchmarks.plan import Case, Entry, plan, targets
from tests.benchmarks.report import (
    Results,
    as_json,
    shortfalls,
    table,
    verdict_table,
    verdicts,
)

_PACKAGES = ("background-tasks", "croniter", "APScheduler", "scheduler", "schedule", "huey")
_LONGEST = 120.0  # seconds that one measurement may take


def main() -> None:
    """Measure, print and write."""
    options = _options()
    cases = [c for c in plan(quick=options.quick) if _is_wanted(c, options.only)]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    loops = [_loop_ms()]
    results = []
    for case in cases:
        results.append(_measured(case, began))
        print(table(results[-1]), end="\n\n", flush=True)
    loops.append(_loop_ms())
    judged = verdicts(targets(), {each.case.name: each for each in results})
    print(verdict_table(judged), end="\n\n")
    print(shortfalls(judged), end="\n\n")
    seconds = time.monotonic() - began
    report = {**_circumstances(options.quick, seconds, loops), **as_json(results, judged)}
    (out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    written = [out / "bench.json"] + [out / "bench.svg"] * draw(results, out / "bench.svg")
    before, after = loops
    print(f"{seconds:.0f} s; a fixed loop took {before:.1f} ms before and {after:.1f} ms after")
    print("Written:", *written)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes instead of ten")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="begins of names")
    parser.add_argument("--out", default="build", metavar="FOLDER", help="where files are written")
    return parser.parse_args()


def _is_wanted(case: Case, only: list[str]) -> bool:
    return not only or any(case.name.startswith(name) for name in only)


def _measured(case: Case, began: float) -> Results:
    """Measure all rounds of a case, telling a terminal which."""
    results = Results(case)
    for number in range(1, case.rounds + 1):
        if sys.stderr.isatty():
            seconds = time.monotonic() - began
            print(f"{seconds:4.0f} s: {case.name}, round {number}", end="\r", file=sys.stderr)
        results.rounds.append(_round(case, results.errors))
    return results


def _round(case: Case, errors: list[str]) -> dict[str, dict[str, float | None]]:
    """Measure each entry once, in a process of its own, one after the other."""
    figures: dict[str, dict[str, float | None]] = {}
    started: dict[str, subprocess.Popen[str]] = {}
    for entry in case.entries:
        started[entry.label] = _start(case, entry)
        if not case.together:
            _collect(started, figures, errors)
    _collect(started, figures, errors)
    return figures


def _start(case: Case, entry: Entry) -> subprocess.Popen[str]:
    arguments = [case.scenario, entry.contestant, json.dumps(entry.parameters)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.one", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _collect(
    started: dict[str, subprocess.Popen[str]],
    figures: dict[str, dict[str, float | None]],
    errors: list[str],
) -> None:
    """Wait for the processes that were started, and take their figures."""
    for label, process in started.items():
        try:
            out, err = process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            errors.append(f"{label}: took longer than {_LONGEST:.0f} s")
            continue
        if process.returncode == 0:
            figures[label] = json.loads(out)
        else:
            errors.append(f"{label}: {(err.strip() or 'failed').splitlines()[-1]}")
    started.clear()


def _circumstances(quick: bool, seconds: float, loops: list[float]) -> dict[str, object]:
    """Return on what, of what and when it was measured; no name of a host or a person."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "seconds": round(seconds),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "fixed_loop_ms": [round(loop, 2) for loop in loops],
        },
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _loop_ms() -> float:
    """Return how long a fixed loop takes, the best of five: how fast the machine is just now."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(100_000):
            pass
        took.append(time.perf_counter() - began)
    return min(took) * 1e3


if __name__ == "__main__":
    main()
