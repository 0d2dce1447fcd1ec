"""Ours while somebody watches: what logs, metrics and traces cost.

Each imports what it needs itself, so that the others do not pay for it.
"""

from __future__ import annotations

import os

from background_tasks import configure_logging
from tests.benchmarks.contestants import Ours

__all__ = ["WATCHED"]


class _Listened(Ours):
    """With a listener that does nothing: what all of the others pay, too, but for the log."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler.add_listener(lambda _: None)


class _Logged(Ours):
    """With JSON lines, one a run, thrown away."""

    def __init__(self) -> None:
        super().__init__()
        configure_logging(stream=open(os.devnull, "w"))  # noqa: SIM115 - as long as the process


class _LoggedWhole(Ours):
    """With JSON lines of each change, three a run."""

    def __init__(self) -> None:
        super().__init__()
        configure_logging(level="DEBUG", stream=open(os.devnull, "w"))  # noqa: SIM115 - likewise


class _Collected(Ours):
    """With a collector for Prometheus; scraping is not measured."""

    def __init__(self) -> None:
        from background_tasks.prometheus import Collector

        super().__init__()
        Collector(self.scheduler)


class _Measured(Ours):
    """With metrics for OpenTelemetry and its SDK, which are not exported."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        from background_tasks.telemetry import measure

        super().__init__()
        measure(self.scheduler, MeterProvider([InMemoryMetricReader()]))


class _TracedInVain(Ours):
    """With traces for OpenTelemetry and no SDK."""

    def __init__(self) -> None:
        from background_tasks.telemetry import traced

        super().__init__(around=[traced()])


class _Traced(Ours):
    """With traces for OpenTelemetry and its SDK, which are thrown away in batches."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from background_tasks.telemetry import traced

        exporter = InMemorySpanExporter()
        exporter.shutdown()  # takes no span any more
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        super().__init__(around=[traced(provider)])


WATCHED: dict[str, type[Ours]] = {
    "ours, a listener": _Listened,
    "ours, a line a run": _Logged,
    "ours, all lines": _LoggedWhole,
    "ours, Prometheus": _Collected,
    "ours, metrics, SDK": _Measured,
    "ours, traces, no SDK": _TracedInVain,
    "ours, traces, SDK": _Traced,
}
