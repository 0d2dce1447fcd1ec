"""Traces and metrics for OpenTelemetry: `traced` and `measure`.

Needs the extra ``otel``: the API alone. What becomes of the data is for the SDK that the
application sets up; without one it is thrown away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING

from background_tasks.calls import Around
from background_tasks.checks import error_text, redacted
from background_tasks.errors import MissingExtraError, RemoteError
from background_tasks.interrupts import hand_on
from background_tasks.json_lines import error_fields
from background_tasks.logger import log
from background_tasks.metrics import BOUNDS, INSTRUMENTS, Instrument, Labels, Metrics
from background_tasks.task import Execution, running_function

try:
    from opentelemetry import context, metrics, trace
except ImportError:
    raise MissingExtraError(
        "telemetry needs the API of OpenTelemetry: pip install 'background-tasks[otel]'"
    ) from None

if TYPE_CHECKING:
    from background_tasks.scheduler import Scheduler

__all__ = ["measure", "traced"]

_SCOPE = "background_tasks"
_ERROR = 40  # of logging
_NOTHING: AbstractContextManager[None] = nullcontext()
_ATTRIBUTES = {  # what OpenTelemetry calls the labels of an instrument
    "task": "background_tasks.task.name",
    "disposition": "background_tasks.disposition",
    "reason": "background_tasks.reason",
    "outcome": "background_tasks.run.outcome",
    "error_type": "error.type",
    "mode": "cpu.mode",
    "where": "background_tasks.where",
}


# Traces


def traced(
    tracer_provider: trace.TracerProvider | None = None,
    *,
    redact: Callable[[str], str] | None = None,
) -> Around:
    """Return what makes each attempt a span: ``Scheduler(4, around=[traced()])``.

    The span is current while the function is called, so spans of the function are its children; it
    has no parent itself. It is linked to the span in which the run was asked for, with ``fire`` or
    a method of the scheduler, and one of a retry to that of the attempt before. Its IDs are in the
    Execution and in the lines of the log. Where an executor calls the function in another process
    it lasts until that is known to have ended, and is not known there.

    Args:
        tracer_provider: Where spans go; None is the global one.
        redact: Takes secrets out of the texts of errors; that of the scheduler sees them later.
    """
    tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)

    def make(execution: Execution) -> AbstractContextManager[None]:
        if tracer_provider is None and _has_no_sdk():
            return _NOTHING
        try:
            return _span_of(execution, tracer, redact)
        except BaseException as error:  # by a sampler or processor, say
            hand_on(error)
            _tell(error)
            return _NOTHING

    return make


def _has_no_sdk() -> bool:
    """Return whether spans would be thrown away; asked each time, as an SDK may be set up late."""
    return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _span_of(
    execution: Execution, tracer: trace.Tracer, redact: Callable[[str], str] | None
) -> AbstractContextManager[None]:
    span = tracer.start_span(
        f"run {execution.task_name}",
        context=context.Context(),  # no parent
        attributes=_attributes_of(execution),
        links=_links_of(execution),
    )
    ids = span.get_span_context()
    if not ids.is_valid:
        return _NOTHING  # there is no SDK
    execution.set_span(f"{ids.trace_id:032x}", f"{ids.span_id:016x}", f"{ids.trace_flags:02x}")
    return _Attempt(execution, span, redact)


def _attributes_of(execution: Execution) -> dict[str, str | int | float]:
    """Return what is known at the start; never the arguments or the event."""
    attributes: dict[str, str | int | float] = {
        "background_tasks.task.name": execution.task_name,
        "background_tasks.task.id": execution.task_id,
        "background_tasks.run.id": execution.id,
        "background_tasks.run.attempt": execution.attempts,
        "background_tasks.run.lateness_s": execution.lateness,
        "background_tasks.run.queue_time_s": execution.queue_time,
    }
    if execution.scheduled_at is not None:
        attributes["background_tasks.run.scheduled_at"] = execution.scheduled_at.isoformat()
    function = running_function.get()
    if function is not None:
        attributes["code.function.name"] = _code_name(function)
    return attributes


def _code_name(function: Callable[..., object]) -> str:
    """Return the name of a function with that of its module; of a callable object, its class's."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _links_of(execution: Execution) -> list[trace.Link]:
    """Return links to where the run was asked for, and to the attempt before this one."""
    links = []
    if execution.origin is not None:
        asked = execution.origin.run(trace.get_current_span).get_span_context()
        if asked.is_valid:
            links.append(trace.Link(asked, {"background_tasks.link": "origin"}))
    if execution._span_before[0]:
        before = _context_of(*execution._span_before)
        links.append(trace.Link(before, {"background_tasks.link": "retry"}))
    return links


def _context_of(trace_id: str, span_id: str, trace_flags: str) -> trace.SpanContext:
    return trace.SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=False,
        trace_flags=trace.TraceFlags(int(trace_flags or "00", 16)),
    )


class _Attempt(AbstractContextManager[None]):
    """Has a span be the current one during an attempt, and ends it."""

    def __init__(
        self, execution: Execution, span: trace.Span, redact: Callable[[str], str] | None
    ) -> None:
        self._execution = execution
        self._span = span
        self._redact = redact

    def __enter__(self) -> None:
        self._token = context.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        try:
            context.detach(self._token)
            if self._span.is_recording():
                self._note_end(error)
            self._span.end()
        except BaseException as trouble:  # no reason to fail the attempt
            hand_on(trouble)
            _tell(trouble)

    def _note_end(self, error: BaseException | None) -> None:
        if self._execution.cancel_reason:
            self._span.set_attribute(
                "background_tasks.run.cancel_reason", self._execution.cancel_reason
            )
        if error is None:
            return
        raw = str(error) if isinstance(error, RemoteError) else error_text(error)
        text = redacted(self._redact, raw)
        of_the_event = error_fields(text)
        self._span.set_attribute("error.type", of_the_event.pop("error.type"))
        self._span.add_event("exception", of_the_event)  # the traceback is in the history
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, text))


def _tell(error: BaseException) -> None:
    name = "background_tasks.telemetry.failed"
    log(_ERROR, "telemetry failed", {"event.name": name, **error_fields(error_text(error))})


# Metrics


def measure(
    scheduler: Scheduler, meter_provider: metrics.MeterProvider | None = None
) -> Callable[[], None]:
    """Have the metrics of *scheduler* read from now on; return a function that ends that.

    It counts from when it is called, so call it before the start. Two schedulers need a provider
    each: their metrics have the same names.

    Args:
        scheduler: Whose metrics.
        meter_provider: What reads them; None is the global one.
    """
    return _Meter(scheduler, metrics.get_meter(_SCOPE, meter_provider=meter_provider)).end


class _Meter:
    """The instruments of one scheduler."""

    def __init__(self, scheduler: Scheduler, meter: metrics.Meter) -> None:
        self._histograms = {
            each: meter.create_histogram(
                each.name, each.unit, each.about, explicit_bucket_boundaries_advisory=BOUNDS
            )
            for each in INSTRUMENTS
            if each.kind == "histogram"
        }
        self._metrics: Metrics | None = Metrics(scheduler, self._record)
        makers = {
            "counter": meter.create_observable_counter,
            "updown": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for each in INSTRUMENTS:
            if each.kind in makers:
                reader = functools.partial(self._read, each)
                makers[each.kind](each.name, [reader], each.unit, each.about)

    def end(self) -> None:
        """Tell nothing more; the instruments stay, which is how the API has it."""
        kept, self._metrics = self._metrics, None
        if kept is not None:
            kept.close()

    def _read(
        self, instrument: Instrument, _: metrics.CallbackOptions
    ) -> Iterable[metrics.Observation]:
        kept = self._metrics
        if kept is None:
            return []
        return [
            metrics.Observation(value, _named(instrument, labels))
            for labels, value in kept.read(instrument)
        ]

    def _record(self, instrument: Instrument, labels: Labels, value: float) -> None:
        self._histograms[instrument].record(value, _named(instrument, labels))


def _named(instrument: Instrument, labels: Labels) -> dict[str, str]:
    """Return *labels* as attributes, without those that say nothing."""
    pairs = zip(instrument.labels, labels, strict=True)
    return {_ATTRIBUTES[label]: value for label, value in pairs if value}
