"""Metrics for Prometheus: requests counted here, everything else read from Redis when asked."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.api.state import Services
from workers.api.survey import Totals, queue_depths, teachers, totals, workers
from workers.job_records import STEPS, Job, State

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)


class Metrics:
    """One registry per application, so that two in a process do not meet."""

    def __init__(self, services: Services):
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "finstill_http_request_seconds",
            "Time to the end of a response, by route and status",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Installation(services))

    def observe(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """Count a request under its route's template: addresses with ids would never end."""
        route = getattr(scope.get("route"), "path", "none")
        self._requests.labels(scope["method"], route, str(status)).observe(seconds)

    def exposition(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)


class _Installation(Collector):
    def __init__(self, services: Services):
        self._services = services

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        jobs = self._services.jobs.all(500)
        yield _gauges("finstill_queue_depth", "Tasks waiting", "queue",
                      queue_depths(self._services))  # fmt: skip
        listening = Counter(q for worker in workers(self._services) for q in worker.queues)
        yield _gauges("finstill_workers", "Workers listening", "queue", dict(listening))
        states = Counter({state.value: 0 for state in State})
        states.update(job.state.value for job in jobs)
        yield _gauges("finstill_jobs", "The newest 500 jobs", "state", dict(states))
        yield from _labelling(totals(self._services))
        yield from _trainings(jobs)
        throttled = {t.name: t.state.get("throttled", 0) for t in teachers(self._services).items}
        yield _gauges("finstill_teacher_throttled", "Throttled replies since the pace was set up",
                      "teacher", throttled)  # fmt: skip
        models = len(self._services.predictors.loaded)
        yield GaugeMetricFamily("finstill_models_loaded", "Students in memory", value=models)


def _labelling(sums: Totals) -> Iterator[Metric]:
    answers = CounterMetricFamily("finstill_answers", "Answers to rows", labels=["source"])
    answers.add_metric(["teacher"], sums.asked)
    answers.add_metric(["cache"], sums.cached)
    yield answers
    yield CounterMetricFamily(
        "finstill_unanswered", "Rows without a usable answer", value=sums.unanswered
    )
    yield CounterMetricFamily("finstill_spend_usd", "Dollars spent", value=sums.usd)
    tokens = CounterMetricFamily("finstill_tokens", "Teacher tokens", labels=["direction"])
    tokens.add_metric(["input"], sums.input_tokens)
    tokens.add_metric(["output"], sums.output_tokens)
    yield tokens


def _trainings(jobs: list[Job]) -> Iterator[Metric]:
    seconds = GaugeMetricFamily(
        "finstill_training_step_seconds",
        "Mean step of trainings under way",
        labels=["job", "stage"],
    )
    for job in jobs:
        for stage in job.stages:
            if stage.state is State.RUNNING and stage.unit == STEPS and "seconds" in stage.info:
                seconds.add_metric([job.id, stage.name], float(stage.info["seconds"]))
    yield seconds


def _gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
