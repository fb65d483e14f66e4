"""Counters of a server in the format of Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llada.serve.replies import Reply
from llada.serve.scheduler import Scheduler


class Metrics:
    """What has happened since the start; each server has its own."""

    def __init__(self, scheduler: Scheduler):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("llada_requests", "requests that were answered", ["path", "status"], registry=registry)
        self.seconds = Histogram("llada_request_seconds", "from a request to its end", ["path"], registry=registry)
        self._prompt = Counter("llada_prompt_tokens", "tokens of prompts", registry=registry)
        self._answers = Counter("llada_completion_tokens", "tokens of answers", registry=registry)
        registry.register(_Scheduled(scheduler))

    def count(self, reply: Reply) -> None:
        """The tokens of a request, also of one that was given up."""
        self._prompt.inc(reply.request.prompt_tokens)
        self._answers.inc(reply.written)

    def text(self) -> bytes:
        """All of them, a line each."""
        return generate_latest(self._registry)


class _Scheduled(Collector):
    """What the scheduler counts itself, as it is when it is asked for."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        now = self._scheduler
        yield GaugeMetricFamily("llada_waiting", "answers that are not begun", now.waiting)
        yield GaugeMetricFamily("llada_running", "answers that are generated now", now.running)
        yield CounterMetricFamily("llada_batches", "batches that were begun", now.batches)
        yield CounterMetricFamily(
            "llada_forward_passes", "calls of the network, summed over answers", now.forward_passes
        )
