"""The picture: what a run, an addition and idling cost, against the number of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.plan import PEERS
from tests.benchmarks.report import Results

__all__ = ["Points", "draw", "points"]

Points = dict[str, list[tuple[int, float]]]  # contestant -> (number of tasks, cost), in order

_DRAWN = ("ours", "pool", "heap+", *PEERS)  # a colour each, the same in all panels
_PANELS = (
    ("burst", "wall_a_run_us", "burst: wall a run, µs"),
    ("add", "running_us", "add while running: a task, µs"),
    ("idle", "cpu_ms", "idle: CPU in 10 s, ms"),
)


def draw(results: Sequence[Results], path: Path) -> bool:
    """Write the picture as SVG; False when matplotlib is not installed."""
    try:
        matplotlib: Any = import_module("matplotlib")
    except ImportError:
        return False
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(15, 4.8), layout="constrained")
    for panel, (scenario, name, title) in zip(axes, _PANELS, strict=True):
        _fill(panel, points(results, scenario, name), title)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def points(results: Sequence[Results], scenario: str, figure: str) -> Points:
    """Return the median cost by contestant and number of tasks, of all cases of *scenario*."""
    found: dict[str, dict[int, list[float]]] = {}
    for each in results:
        if each.case.scenario != scenario:
            continue
        for entry in each.case.entries:
            values = [v for v in each.figures(entry.label, figure) if not math.isnan(v)]
            sizes = found.setdefault(entry.contestant, {})
            sizes.setdefault(int(entry.parameters["n"]), []).extend(values)
    return {
        contestant: [(n, median(values)) for n, values in sorted(sizes.items()) if values]
        for contestant, sizes in found.items()
    }


def _fill(panel: Any, lines: Points, title: str) -> None:
    for contestant in (name for name in _DRAWN if name in lines):
        line, is_ours = lines[contestant], contestant == "ours"
        panel.plot(
            [n for n, _ in line],
            [cost for _, cost in line],
            marker="o",
            color="black" if is_ours else f"C{_DRAWN.index(contestant)}",
            linewidth=2.5 if is_ours else 1.2,
            linestyle="--" if contestant in ("pool", "heap+") else "-",
            label=contestant,
        )
    panel.set(title=title, xlabel="tasks", xscale="log", yscale="log")
    panel.grid(visible=True, which="major", alpha=0.3)
    if lines:
        panel.legend(fontsize="small")
