"""The metrics as Prometheus scrapes them: from a real server on loopback, read by a parser."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from background_tasks import MissingExtraError, RetryPolicy, Scheduler, Task
from background_tasks.metrics import INSTRUMENTS
from background_tasks.prometheus import Collector
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate

Value = Callable[..., float | None]


@pytest.fixture
def inline() -> Iterator[InlineScheduler]:
    """Return a scheduler without threads, stopped after the test."""
    with InlineScheduler() as made:
        yield made


def registered(scheduler: Scheduler) -> tuple[CollectorRegistry, Collector]:
    """Return a registry with the metrics of *scheduler*."""
    registry, collector = CollectorRegistry(), Collector(scheduler)
    registry.register(collector)
    return registry, collector


def values_of(text: str) -> Value:
    """Return what looks a sample up by its name, without the common prefix, and its labels."""
    samples = {
        (sample.name.removeprefix("background_tasks_"), frozenset(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((name, frozenset(labels.items())))


def fail() -> None:
    """Raise."""
    raise ConnectionError("no route")


def test_a_scrape_of_a_busy_scheduler(gate: Gate) -> None:
    """Over HTTP, with runs that have ended, one that runs and one that waits."""
    with Scheduler(1) as scheduler:
        registry, _ = registered(scheduler)
        good = scheduler.add_task(Task("good", int))
        bad = scheduler.add_task(Task("bad", fail, retry_policy=RetryPolicy(2)))
        for task in (good, good, bad):
            scheduler.run_task(task.id)
        busy = scheduler.add_task(Task("busy", gate))
        for _ in range(2):
            scheduler.release_task(busy.id)
        gate.wait_entered()
        server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
        try:
            with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
                value = values_of(answer.read().decode())
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    assert value("runs_total", task="good", outcome="success", error_type="") == 2
    assert value("runs_total", task="bad", outcome="failure", error_type="ConnectionError") == 1
    assert value("retries_total", task="bad") == 2
    assert value("occurrences_total", task="busy", disposition="started", reason="") == 1
    assert value("due_total") == 5
    assert (value("running", task="busy"), value("running", task="good")) == (1, 0)
    assert (value("pending"), value("slots"), value("stuck")) == (1, 1, 0)
    assert value("run_duration_seconds_count", task="good", outcome="success") == 2
    assert value("run_duration_seconds_bucket", task="good", outcome="success", le="+Inf") == 2
    assert value("run_queue_time_seconds_count", task="bad") == 1
    assert value("run_lateness_seconds_sum", task="good") == 0
    assert (value("run_cpu_time_seconds_total", task="good", mode="user") or 0) >= 0
    last = good.execution_hist[-1].ended_at
    assert last is not None
    assert value("task_last_success_timestamp_seconds", task="good") == last.timestamp()
    assert value("task_last_success_timestamp_seconds", task="bad") is None


def test_every_metric_is_there_from_the_start(inline: InlineScheduler) -> None:
    """With its type and what it is, before anything has happened."""
    registry, _ = registered(inline)

    found = {
        family.name: (family.type, family.documentation)
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }

    types = {"updown": "gauge"}
    assert found == {
        each.prometheus: (types.get(each.kind, each.kind), each.about) for each in INSTRUMENTS
    }


def test_openmetrics_is_valid_too(inline: InlineScheduler) -> None:
    """Its parser is stricter: buckets must add up, names and types fit."""
    registry, _ = registered(inline)
    inline.run_task(inline.add_task(Task('a \\ "quoted" name', int)).id)

    text = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]

    families = list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    names = {sample.labels.get("task") for family in families for sample in family.samples}
    assert names == {None, 'a \\ "quoted" name'}


def test_counts_outlive_their_task(inline: InlineScheduler) -> None:
    """A removed task's counters go on standing where they stood."""
    registry, _ = registered(inline)
    task = inline.add_task(Task("t", int))
    inline.run_task(task.id)
    inline.remove_task(task.id)

    value = values_of(generate_latest(registry).decode())

    assert value("runs_total", task="t", outcome="success", error_type="") == 1


def test_the_alert_for_an_occurrence_that_is_lost_can_be_written(inline: InlineScheduler) -> None:
    """What was due is either an occurrence or pending: the README's expression is never true."""
    registry, _ = registered(inline)
    task = inline.add_task(Task("t", int))
    inline.run_task(task.id)
    for _ in range(3):
        inline.release_task(task.id)

    families = {
        family.name: sum(sample.value for sample in family.samples)
        for family in registry.collect()
        if family.type != "histogram"
    }

    lost = families["background_tasks_due"] - families["background_tasks_occurrences"]
    assert lost - families["background_tasks_pending"] == 0
    assert lost == 3


def test_a_registry_takes_one(inline: InlineScheduler) -> None:
    """A second one's metrics would have the same names: it is refused where it is registered."""
    registry, collector = registered(inline)

    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(Collector(inline))

    registry.unregister(collector)
    registry.register(Collector(inline))


def test_closed_it_hears_nothing_more(inline: InlineScheduler) -> None:
    """What was counted can still be scraped."""
    registry, collector = registered(inline)
    task = inline.add_task(Task("t", int))
    inline.run_task(task.id)

    collector.close()
    inline.run_task(task.id)

    value = values_of(generate_latest(registry).decode())
    assert value("runs_total", task="t", outcome="success", error_type="") == 1


def test_without_prometheus_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the module is imported, which nothing else of the package does."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "background_tasks.prometheus")

    with pytest.raises(MissingExtraError, match=r"pip install 'background-tasks\[prometheus\]'"):
        import background_tasks.prometheus  # noqa: F401
