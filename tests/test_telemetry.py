"""Traces and metrics for OpenTelemetry, as the SDK's exporters in memory get them."""

from __future__ import annotations

import functools
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    MissingExtraError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    configure_logging,
    current_execution,
)
from background_tasks.logger import logger
from background_tasks.metrics import BOUNDS, INSTRUMENTS
from background_tasks.task import Execution
from background_tasks.telemetry import measure, traced
from background_tasks.testing import InlineScheduler
from tests.conftest import Elsewhere, Ticks


class Traces:
    """A tracer provider whose spans are kept, those that were ended first in front."""

    def __init__(self, **settings: Any) -> None:
        """Keep them in memory."""
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **settings)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that have ended."""
        return self.exporter.get_finished_spans()


@pytest.fixture
def traces() -> Iterator[Traces]:
    """Return traces that are shut down after the test."""
    made = Traces()
    yield made
    made.provider.shutdown()


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """Put the library's logger back as it was."""
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def fail() -> None:
    """Raise."""
    raise ConnectionError("no route")


def run(scheduler: Scheduler, function: Callable[..., object], **settings: Any) -> Execution:
    """Return the execution of a task made for it."""
    return scheduler.run_task(scheduler.add_task(Task("t", function, **settings)).id)


def ids_of(span: ReadableSpan | trace.Span) -> tuple[str, str]:
    """Return the IDs of a span as hexadecimal digits."""
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def is_sampled(flags: str) -> bool:
    """Return whether trace flags of two hexadecimal digits say that the trace is sampled."""
    assert len(flags) == 2
    return bool(int(flags, 16) & trace.TraceFlags.SAMPLED)


# Spans


def test_an_attempt_is_a_span(traces: Traces) -> None:
    """With a name, no parent, and what is known of the run; never its arguments."""
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    execution = run(scheduler, json.dumps, args=["hush"])

    (span,) = traces.spans
    assert span.name == "run t"
    assert span.kind is trace.SpanKind.INTERNAL
    assert span.parent is None
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.events == ()
    assert execution.scheduled_at is not None
    assert span.attributes == {
        "background_tasks.task.name": "t",
        "background_tasks.task.id": 0,
        "background_tasks.run.id": 0,
        "background_tasks.run.attempt": 1,
        "background_tasks.run.lateness_s": 0.0,
        "background_tasks.run.queue_time_s": 0.0,
        "background_tasks.run.scheduled_at": execution.scheduled_at.isoformat(),
        "code.function.name": "json.dumps",
    }
    assert ids_of(span) == (execution.trace_id, execution.span_id)
    assert is_sampled(execution.trace_flags)
    scope = span.instrumentation_scope
    assert scope is not None
    assert scope.name == "background_tasks"


def test_spans_of_the_function_are_children(traces: Traces) -> None:
    """It is the current span there, and only there."""
    inner = traces.provider.get_tracer("mine")
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    def work() -> None:
        with inner.start_as_current_span("inner"):
            pass

    run(scheduler, work)

    child, parent = traces.spans
    assert child.name == "inner"
    assert child.parent == parent.get_span_context()
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("way", ["fire", "release_task", "run_task"])
def test_a_run_is_linked_to_where_it_was_asked_for(traces: Traces, way: str) -> None:
    """To the span that was current there; it is not its child."""
    fired = EventTrigger()
    with Scheduler(1, around=[traced(traces.provider)]) as scheduler:
        task = scheduler.add_task(Task("t", int, triggers=[fired]))
        with traces.provider.get_tracer("mine").start_as_current_span("request") as request:
            if way == "fire":
                fired.fire()
            else:
                getattr(scheduler, way)(task.id)
        assert scheduler.wait_idle(10)

    (span,) = [each for each in traces.spans if each.name == "run t"]
    (link,) = span.links
    assert link.context == request.get_span_context()
    assert link.attributes == {"background_tasks.link": "origin"}
    assert span.parent is None
    assert span.context is not None
    assert span.context.trace_id != request.get_span_context().trace_id


def test_a_run_that_time_released_is_linked_to_nothing(traces: Traces) -> None:
    """Nor is one that was asked for outside of any span."""
    with Scheduler(1, around=[traced(traces.provider)]) as scheduler:
        scheduler.add_task(Task("timer", int, triggers=[OneTimeTrigger(0)]))
        scheduler.run_task(scheduler.add_task(Task("asked", int)).id)
        assert scheduler.wait_idle(10)

    assert [len(span.links) for span in traces.spans] == [0, 0]


def test_the_start_of_a_retry_has_no_span_of_another_attempt(traces: Traces) -> None:
    """A listener is told of it before its own span begins, and of its end with that."""
    scheduler = Scheduler(1, around=[traced(traces.provider)])
    told: list[Change] = []
    scheduler.add_listener(told.append)

    run(scheduler, fail, retry_policy=RetryPolicy(1))

    by_kind = {
        kind: [each.execution.span_id for each in told if each.kind is kind and each.execution]
        for kind in (ChangeKind.RUN_STARTED, ChangeKind.ATTEMPT_FAILED)
    }
    assert by_kind[ChangeKind.RUN_STARTED] == ["", ""]
    assert by_kind[ChangeKind.ATTEMPT_FAILED] == [ids_of(span)[1] for span in traces.spans]


def test_a_retry_is_linked_to_the_attempt_before(traces: Traces) -> None:
    """Each attempt has a span of its own in a trace of its own; the run has the last one's."""
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    execution = run(scheduler, fail, retry_policy=RetryPolicy(2))

    first, second, third = traces.spans
    assert [link.context for link in second.links] == [first.get_span_context()]
    assert [link.context for link in third.links] == [second.get_span_context()]
    assert third.links[0].attributes == {"background_tasks.link": "retry"}
    assert first.links == ()
    assert [(span.attributes or {})["background_tasks.run.attempt"] for span in traces.spans] == [
        1,
        2,
        3,
    ]
    assert ids_of(third) == (execution.trace_id, execution.span_id)


def test_an_attempt_that_fails_says_so(traces: Traces) -> None:
    """Type and message, as in the history; neither frames nor their locals."""
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    run(scheduler, fail)

    (span,) = traces.spans
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "ConnectionError: no route"
    assert (span.attributes or {})["error.type"] == "ConnectionError"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes == {
        "exception.type": "ConnectionError",
        "exception.message": "no route",
    }


def test_secrets_are_taken_out_of_spans(traces: Traces) -> None:
    """What leaves the process is what ``redact`` made of it; the type of the error stays."""

    def redact(text: str) -> str:
        return text.replace("route", "***")

    scheduler = Scheduler(1, around=[traced(traces.provider, redact=redact)])

    run(scheduler, fail)

    (span,) = traces.spans
    assert span.status.description == "ConnectionError: no ***"
    assert (span.events[0].attributes or {})["exception.message"] == "no ***"
    assert (span.attributes or {})["error.type"] == "ConnectionError"


def test_an_attempt_elsewhere_is_a_span_here(traces: Traces) -> None:
    """With the function's name, and the type of the error that it raised there."""
    scheduler = Scheduler(1, around=[traced(traces.provider)], executor=Elsewhere())

    execution = run(scheduler, fail)

    (span,) = traces.spans
    attributes = span.attributes or {}
    assert attributes["error.type"] == "ConnectionError"
    assert attributes["code.function.name"] == f"{__name__}.fail"
    assert span.status.description == "ConnectionError: no route"
    assert ids_of(span) == (execution.trace_id, execution.span_id)


def test_an_attempt_that_was_asked_to_give_up_says_why(traces: Traces) -> None:
    """A success of the function is none of the run then."""
    with Scheduler(1, around=[traced(traces.provider)]) as scheduler:

        def work() -> None:
            execution = current_execution()
            assert execution is not None
            scheduler.cancel(execution.task_id)

        execution = run(scheduler, work)

    (span,) = traces.spans
    assert execution.status == Status.CANCELLED
    assert (span.attributes or {})["background_tasks.run.cancel_reason"] == "cancelled"


class Callable_:  # noqa: N801 - the built-in name is taken
    """Something that can be called."""

    def __call__(self) -> None:
        """Do nothing."""

    def method(self) -> None:
        """Do nothing either."""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (fail, f"{__name__}.fail"),
        (functools.partial(functools.partial(fail)), f"{__name__}.fail"),
        (Callable_(), f"{__name__}.Callable_"),
        (Callable_().method, f"{__name__}.Callable_.method"),
        (int, "builtins.int"),
    ],
)
def test_the_function_is_named(traces: Traces, function: Callable[..., object], name: str) -> None:
    """With its module, so that it can be found."""
    run(Scheduler(1, around=[traced(traces.provider)]), function)

    assert (traces.spans[0].attributes or {})["code.function.name"] == name


def test_an_execution_made_by_hand_is_a_span_too(traces: Traces) -> None:
    """What is not known of it is left out."""
    with traced(traces.provider)(Execution(task_name="t")):
        pass

    (span,) = traces.spans
    left_out = {"background_tasks.run.scheduled_at", "code.function.name"}
    assert left_out & set(span.attributes or {}) == set()
    assert span.name == "run t"


def test_a_trace_that_is_not_sampled_has_its_ids_all_the_same() -> None:
    """So that logs and further spans belong together; a retry's link says that it is not."""
    traces = Traces(sampler=ALWAYS_OFF)
    links: list[Any] = []

    class Looking(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> Any:
            links.extend(kwargs.get("links") or args[5] or ())
            return ALWAYS_OFF.should_sample(*args, **kwargs)

        def get_description(self) -> str:
            return "looking"

    traces.provider.sampler = Looking()
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    execution = run(scheduler, fail, retry_policy=RetryPolicy(1))

    assert traces.spans == ()
    assert len(execution.trace_id) == 32
    assert not is_sampled(execution.trace_flags)
    assert [is_sampled(f"{link.context.trace_flags:02x}") for link in links] == [False]
    traces.provider.shutdown()


@pytest.mark.parametrize("provider", [None, trace.NoOpTracerProvider()], ids=["none", "no-op"])
def test_without_an_sdk_nothing_is_traced(provider: trace.TracerProvider | None) -> None:
    """The function is called as ever."""
    scheduler = Scheduler(1, around=[traced(provider)])

    execution = run(scheduler, trace.get_current_span)

    assert (execution.status, execution.trace_id) == (Status.SUCCESS, "")
    assert execution.results is trace.INVALID_SPAN


def test_an_sdk_may_be_set_up_late() -> None:
    """After `traced` and `measure`, as the global one, which a process sets once."""
    code = (
        "from background_tasks import Scheduler, Task\n"
        "from background_tasks.telemetry import measure, traced\n"
        "s = Scheduler(1, around=[traced()])\n"
        "measure(s)\n"
        "from opentelemetry import metrics, trace\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "reader = InMemoryMetricReader()\n"
        "metrics.set_meter_provider(MeterProvider([reader]))\n"
        "trace.set_tracer_provider(TracerProvider())\n"
        "run = s.run_task(s.add_task(Task('t', int)).id)\n"
        "names = reader.get_metrics_data().to_json()\n"
        "print(len(run.trace_id), 'background_tasks.runs' in names, 'run.duration' in names)\n"
    )

    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == ("32 True True\n", "")


class Broken(SpanProcessor):
    """Raises when spans start or end."""

    def __init__(self, when: str, error: BaseException) -> None:
        """Raise *error* on "start" or "end"."""
        self._when, self._error = when, error

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Raise, or not."""
        if self._when == "start":
            raise self._error

    def on_end(self, span: ReadableSpan) -> None:
        """Raise, or not."""
        if self._when == "end":
            raise self._error


@pytest.mark.parametrize("when", ["start", "end"])
@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit("broken")])
def test_broken_telemetry_stops_no_run(
    traces: Traces, caplog: pytest.LogCaptureFixture, when: str, error: BaseException
) -> None:
    """It is logged, the attempt is what it was, and no span stays the current one."""
    traces.provider.add_span_processor(Broken(when, error))
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    assert run(scheduler, int).status == Status.SUCCESS
    assert run(scheduler, fail).error == "ConnectionError: no route"

    told = [each for each in caplog.records if each.getMessage() == "telemetry failed"]
    assert len(told) == 2
    assert vars(told[0])["exception.message"] == "broken"
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_lines_of_a_run_and_of_its_function_name_its_span(traces: Traces) -> None:
    """Those of the user's own logger as those of the library."""
    lines = io.StringIO()
    configure_logging(stream=lines)
    scheduler = Scheduler(1, around=[traced(traces.provider)])

    execution = run(scheduler, lambda: logging.getLogger("background_tasks.mine").info("said"))

    said, succeeded = map(json.loads, lines.getvalue().splitlines())
    assert (said["message"], succeeded["message"]) == ("said", "run succeeded")
    for line in (said, succeeded):
        assert (line["trace_id"], line["span_id"]) == (execution.trace_id, execution.span_id)
        assert is_sampled(line["trace_flags"])


def test_each_attempt_in_each_thread_has_its_own(traces: Traces) -> None:
    """Spans of runs at the same time do not mix."""
    inner = traces.provider.get_tracer("mine")

    def work(number: int) -> None:
        with inner.start_as_current_span(f"inner {number}"):
            pass

    with Scheduler(4, around=[traced(traces.provider)]) as scheduler:
        for number in range(40):
            task = scheduler.add_task(Task(str(number), work, args=[number]))
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    outer = {
        each.context.span_id: each.name
        for each in traces.spans
        if each.context is not None and each.name.startswith("run ")
    }
    parents = {
        each.name: outer[each.parent.span_id] for each in traces.spans if each.parent is not None
    }
    assert parents == {f"inner {number}": f"run {number}" for number in range(40)}


# Metrics


class Readings:
    """The metrics as a reader of the SDK gets them."""

    def __init__(self) -> None:
        """Make a provider."""
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def read(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data = self._reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics
        return {
            metric.name: metric
            for resource in found
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str) -> dict[frozenset[tuple[str, object]], float]:
        """Return the values of one by its attributes."""
        metric = self.read()[f"background_tasks.{name}"]
        return {
            frozenset(point.attributes.items()): point.value for point in metric.data.data_points
        }


@pytest.fixture
def readings() -> Iterator[Readings]:
    """Return readings whose provider is shut down after the test."""
    made = Readings()
    yield made
    made.provider.shutdown()


@pytest.fixture
def inline() -> Iterator[InlineScheduler]:
    """Return a scheduler without threads, stopped after the test."""
    with InlineScheduler() as made:
        yield made


def labels(**attributes: object) -> frozenset[tuple[str, object]]:
    """Return attributes as keys; "__" stands for a dot, and the prefix goes without saying."""
    return frozenset(
        (f"background_tasks.{name.replace('__', '.')}", value) for name, value in attributes.items()
    )


def test_the_metrics_of_a_scheduler(inline: InlineScheduler, readings: Readings) -> None:
    """Counters and what is now, at each reading; an attribute that says nothing is left out."""
    measure(inline, readings.provider)
    good = inline.add_task(Task("good", int, triggers=[PeriodicTrigger(interval=60)]))
    bad = inline.add_task(Task("bad", fail, retry_policy=RetryPolicy(1)))
    inline.clock.advance(seconds=120)
    inline.run_task(bad.id)
    inline.release_task(good.id)

    assert readings.values("due") == {labels(): 4}
    assert readings.values("occurrences") == {
        labels(task__name="good", disposition="started"): 2,
        labels(task__name="bad", disposition="started"): 1,
    }
    assert readings.values("runs") == {
        labels(task__name="good", run__outcome="success"): 2,
        labels(task__name="bad", run__outcome="failure") | {("error.type", "ConnectionError")}: 1,
    }
    assert readings.values("retries") == {labels(task__name="bad"): 1}
    assert readings.values("pending") == {labels(): 1}
    assert readings.values("slots") == {labels(): 4}
    assert readings.values("stuck") == {labels(): 0}
    assert readings.values("running") == {labels(task__name=n): 0 for n in ("good", "bad")}
    assert readings.values("run.cpu_time").keys() == {
        labels(task__name=name) | {("cpu.mode", mode)}
        for name in ("good", "bad")
        for mode in ("user", "system")
    }
    at = inline.clock.now().timestamp()
    assert readings.values("task.last_success_timestamp") == {labels(task__name="good"): at}


def test_the_distributions_of_a_scheduler(inline: InlineScheduler, readings: Readings) -> None:
    """In buckets that fit seconds, which those of the SDK by default do not."""
    measure(inline, readings.provider)
    inline.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
    inline.clock.advance(seconds=180)

    read = readings.read()
    for name in ("duration", "lateness", "queue_time"):
        (point,) = read[f"background_tasks.run.{name}"].data.data_points
        assert point.count == 3
        assert point.explicit_bounds == BOUNDS
        assert point.bucket_counts[0] == 3
    (point,) = read["background_tasks.run.duration"].data.data_points
    assert frozenset(point.attributes.items()) == labels(task__name="t", run__outcome="success")


def test_each_metric_has_its_name_and_unit(readings: Readings) -> None:
    """Those of the table that Prometheus has, too."""
    with Scheduler(1, tick_interval=0.001) as scheduler:
        end = measure(scheduler, readings.provider)
        run(scheduler, fail, retry_policy=RetryPolicy(1))
        run(scheduler, int)
        Ticks(scheduler).wait_for_one()
        read = readings.read()
        end()

    found = {name: (metric.unit, metric.description) for name, metric in read.items()}

    assert found == {each.name: (each.unit, each.about) for each in INSTRUMENTS}


def test_ended_it_tells_nothing_more(inline: InlineScheduler, readings: Readings) -> None:
    """Twice is fine."""
    end = measure(inline, readings.provider)
    task = inline.add_task(Task("t", int))
    inline.run_task(task.id)
    before = readings.read()["background_tasks.run.duration"].data.data_points[0].count

    end()
    end()
    inline.run_task(task.id)

    read = readings.read()
    assert read["background_tasks.run.duration"].data.data_points[0].count == before == 1
    assert "background_tasks.slots" not in read


def test_without_an_sdk_nothing_is_measured(inline: InlineScheduler) -> None:
    """The scheduler goes on as ever."""
    end = measure(inline)

    assert inline.run_task(inline.add_task(Task("t", int)).id).status == Status.SUCCESS
    end()


def test_without_the_api_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the module is imported, which nothing else of the package does."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "background_tasks.telemetry")

    with pytest.raises(MissingExtraError, match=r"pip install 'background-tasks\[otel\]'"):
        import background_tasks.telemetry  # noqa: F401
