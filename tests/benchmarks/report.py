"""From figures to what is printed and written: tables, targets, shortfalls, the JSON file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from tests.benchmarks.plan import BEST_PEER, PEERS, Case, Entry, Target

__all__ = [
    "Results",
    "Spread",
    "Verdict",
    "as_json",
    "shortfalls",
    "table",
    "verdict_table",
    "verdicts",
]

_MISSING = math.nan
_UNITS = ("ms", "us", "bytes", "percent")


@dataclass
class Results:
    """What was measured in one case.

    Attributes:
        case: What was to be measured.
        rounds: For each round the figures by label; a measurement that failed is missing.
        errors: What went wrong, in words.
    """

    case: Case
    rounds: list[dict[str, dict[str, float | None]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def figures(self, label: str, figure: str) -> list[float]:
        """Return the figure of each round, NaN where it is missing."""
        return [_number(done.get(label, {}).get(figure)) for done in self.rounds]

    def best_peer(self, figure: str) -> list[float]:
        """Return the least figure of a peer in each round."""
        peers = [entry.label for entry in self.case.entries if entry.contestant in PEERS]
        rounds = zip(*(self.figures(label, figure) for label in peers), strict=True)
        return [
            min((x for x in several if not math.isnan(x)), default=_MISSING) for several in rounds
        ]


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, median and maximum; NaN of nothing."""

    least: float
    middle: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Leave out what is missing."""
        known = _known(values)
        if not known:
            return cls(_MISSING, _MISSING, _MISSING)
        return cls(min(known), median(known), max(known))

    def shown(self) -> list[str]:
        """Return the three for a table."""
        return [_shown(value) for value in (self.least, self.middle, self.most)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured of it."""

    target: Target
    spread: Spread

    @property
    def fails_must(self) -> bool:
        """Whether it exceeds what it must not."""
        return self.target.must is not None and self._value > self.target.must

    @property
    def fails_aim(self) -> bool:
        """Whether it exceeds what is aimed at."""
        return self.target.aim is not None and self._value > self.target.aim

    @property
    def meets(self) -> str:
        """Return the stricter bound that it keeps, in a word."""
        if math.isnan(self._value):
            return "not measured"
        if self.fails_must or (self.fails_aim and self.target.must is None):
            return "no"
        return "must" if self.fails_aim or self.target.aim is None else "aim"

    @property
    def _value(self) -> float:
        return self.spread.most if self.target.every else self.spread.middle


def verdicts(targets: Sequence[Target], results: Mapping[str, Results]) -> list[Verdict]:
    """Judge each target whose cases were measured."""
    wanted = [t for t in targets if t.case in results and (t.base or t.case) in results]
    return [Verdict(target, Spread.of(_values(target, results))) for target in wanted]


def table(results: Results) -> str:
    """Return the figures of one case, and ours divided by those of the same round."""
    case = results.case
    rows = [
        [case.name, "figure", "min", "median", "max", "ours / it: min", "median", "max"],
    ]
    for figure in case.shown:
        for entry in case.entries:
            values = results.figures(entry.label, figure)
            if _known(values):
                row = [entry.label, _title(figure), *Spread.of(values).shown()]
                rows.append(row + _beside(results, entry, figure))
    count = f"{case.rounds} rounds" if case.rounds > 1 else "1 round"
    return "\n".join([f"{case.what} ({count})", *_aligned(rows), *_failures(results)])


def verdict_table(judged: Sequence[Verdict]) -> str:
    """Return each target with what was measured."""
    rows = [["target", "min", "median", "max", "must", "aim", "meets"]]
    for verdict in judged:
        bounds = [_bound(verdict.target.must), _bound(verdict.target.aim)]
        rows.append([_subject(verdict.target), *verdict.spread.shown(), *bounds, verdict.meets])
    return "\n".join(_aligned(rows))


def shortfalls(judged: Sequence[Verdict]) -> str:
    """Say in words what falls short of what it must, and of what is aimed at."""
    short = [v for v in judged if v.fails_must]
    almost = [v for v in judged if v.fails_aim and not v.fails_must]
    lines = [f"Falls short of what it must: {len(short)} of {len(judged)}"]
    lines += [_sentence(v, f"must be at most {_bound(v.target.must)}") for v in short]
    lines += [f"Falls short of the aim only: {len(almost)}"]
    lines += [_sentence(v, f"the aim is {_bound(v.target.aim)}") for v in almost]
    return "\n".join(lines)


def as_json(results: Sequence[Results], judged: Sequence[Verdict]) -> dict[str, object]:
    """Return all raw figures and the targets, for the file."""
    return {
        "cases": [
            {**asdict(each.case), "results": each.rounds, "errors": each.errors} for each in results
        ],
        "targets": [
            {
                **asdict(verdict.target),
                "subject": _subject(verdict.target),
                "min": _finite(verdict.spread.least),
                "median": _finite(verdict.spread.middle),
                "max": _finite(verdict.spread.most),
                "meets": verdict.meets,
            }
            for verdict in judged
        ],
    }


def _failures(results: Results) -> list[str]:
    return [f"failed: {error}" for error in results.errors]


def _values(target: Target, results: Mapping[str, Results]) -> list[float]:
    figures = results[target.case].figures(target.of, target.figure)
    if not target.against:
        return figures
    base = results[target.base or target.case]
    if target.against == BEST_PEER:
        others = base.best_peer(target.figure)
    else:
        others = base.figures(target.against, target.figure)
    return _ratios(figures, others)


def _ratios(figures: Sequence[float], others: Sequence[float]) -> list[float]:
    """Divide round by round; a case with more rounds than the other lends its first ones."""
    pairs = zip(figures, others, strict=False)
    return [ours / other if other else _MISSING for ours, other in pairs]


def _beside(results: Results, entry: Entry, figure: str) -> list[str]:
    ours = results.figures("ours", figure)
    if entry.label == "ours" or figure == "lost" or not _known(ours):
        return ["", "", ""]
    return Spread.of(_ratios(ours, results.figures(entry.label, figure))).shown()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows, first the head, with text aligned to the left and numbers to the right."""
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        is_text = any(cell[:1].isalpha() for cell in column[1:])
        columns.append([cell.ljust(width) if is_text else cell.rjust(width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _subject(target: Target) -> str:
    ours = "" if target.of == "ours" else f" of {target.of}"
    text = f"{target.case}: {_title(target.figure)}{ours}"
    if not target.against:
        return text
    against = f"{target.against} in {target.base}" if target.base else target.against
    return f"{text.removesuffix(f', {_unit(target.figure)}')} / {against}"


def _sentence(verdict: Verdict, bound: str) -> str:
    least, middle, most = verdict.spread.shown()
    return f"  {_subject(verdict.target)} is {middle} ({least} to {most}), {bound}"


def _title(figure: str) -> str:
    unit = _unit(figure)
    name = figure.removesuffix(f"_{unit}").replace("_", " ")
    return f"{name}, {unit}" if unit else name


def _unit(figure: str) -> str:
    unit = figure.rpartition("_")[2]
    return unit if unit in _UNITS else ""


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _shown(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _number(value: float | None) -> float:
    return _MISSING if value is None else value


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
