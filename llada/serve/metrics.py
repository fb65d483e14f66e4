"""Counters of a server in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        self._passes = Counter("llada_forward_passes", "calls of the network, summed over answers", registry=registry)
        for name, text, value in (
            ("llada_waiting", "answers that are not begun", lambda: scheduler.waiting),
            ("llada_running", "answers that are generated now", lambda: scheduler.running),
            ("llada_batches", "batches that were begun", lambda: scheduler.batches),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def count(self, reply: Reply) -> None:
        """What a request took, also one that was given up."""
        usage = reply.usage
        self._prompt.inc(usage["prompt_tokens"])
        self._answers.inc(usage["completion_tokens"])
        self._passes.inc(sum(choice.forward_passes for choice in reply.choices))

    def text(self) -> bytes:
        """All of them, a line each."""
        return generate_latest(self._registry)
