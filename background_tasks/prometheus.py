"""Metrics for Prometheus: ``prometheus_client.REGISTRY.register(Collector(scheduler))``.

Needs the extra ``prometheus``. Opens no socket: what serves the registry is the application's, for
example ``prometheus_client.start_http_server(9464, addr="127.0.0.1")``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from background_tasks.errors import MissingExtraError
from background_tasks.metrics import BOUNDS, INSTRUMENTS, Buckets, Instrument, Labels, Metrics, Row

try:
    from prometheus_client import registry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
except ImportError:
    raise MissingExtraError(
        "metrics for Prometheus need prometheus_client: pip install 'background-tasks[prometheus]'"
    ) from None

if TYPE_CHECKING:
    from background_tasks.scheduler import Scheduler

__all__ = ["Collector"]

_UP_TO = [*map(str, BOUNDS), "+Inf"]


class Collector(registry.Collector):
    """The metrics of one scheduler for a registry of prometheus_client.

    Counts from when it is made. A registry takes one: their metrics have the same names. It may be
    asked from any thread.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        """Listen to *scheduler* until `close`."""
        self._buckets = {each: Buckets() for each in INSTRUMENTS if each.kind == "histogram"}
        self._metrics = Metrics(scheduler, self._record)

    def close(self) -> None:
        """End listening; what was counted stays."""
        self._metrics.close()

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values: a registry asks for their names."""
        for instrument in INSTRUMENTS:
            if instrument.kind == "histogram":
                yield _of_buckets(instrument, Buckets())
            else:
                yield _of_numbers(instrument, ())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; called at each scrape."""
        for instrument in INSTRUMENTS:
            if instrument.kind == "histogram":
                yield _of_buckets(instrument, self._buckets[instrument])
            else:
                yield _of_numbers(instrument, self._metrics.read(instrument))

    def _record(self, instrument: Instrument, labels: Labels, value: float) -> None:
        self._buckets[instrument].record(labels, value)


def _of_numbers(instrument: Instrument, rows: Iterable[Row]) -> Metric:
    is_counter = instrument.kind == "counter"
    family = (CounterMetricFamily if is_counter else GaugeMetricFamily)(
        instrument.prometheus, instrument.about, labels=instrument.labels
    )
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _of_buckets(instrument: Instrument, buckets: Buckets) -> Metric:
    family = HistogramMetricFamily(
        instrument.prometheus, instrument.about, labels=instrument.labels
    )
    for labels, counts, total in buckets.read():
        family.add_metric(labels, list(zip(_UP_TO, counts, strict=True)), total)
    return family
