"""A task step by step: what the page shows after each step, and in the end what came out and what it cost."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.generate import Generation, account, generate
from llada.sampling.likeliest import Likeliest
from llada.sampling.predictors import Meter
from llada.sampling.trace import Recorder, Trace
from llada.show.frames import Frame, Frames, probability_of, recorded
from llada.show.page import Told, alternatives_of, page
from llada.web.painting import painted
from llada.web.task import Task


class Outcome(NamedTuple):
    text: str
    cost: str
    trace: Trace | None  # None: the sampler has no steps to record


class Moment(NamedTuple):
    """What the page shows."""

    canvas: str  # HTML
    status: str  # plain text
    outcome: Outcome | None = None  # at the end


def run(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    seed: int,
    *,
    alternatives: int = 0,
    delay: float = 0.0,
) -> Iterator[Moment]:
    """The moments of a task, one before the first step, one after each, and one with the outcome.

    An answer that finds its own length has the last one only, as its canvas grows.

    Args:
        alternatives: likeliest tokens of each position to keep in the trace.
        delay: seconds to wait after each step.
    """
    mask = model.config.mask_token_id
    if task.sampler.longest is not None:
        yield _grown(model, tokenizer, task, seed)
        return
    meter = Meter.of(task.canvas)
    likeliest = Likeliest(alternatives, mask) if alternatives else None
    recorder = Recorder(task.canvas, mask, likeliest)
    frames = Frames(task.canvas[0].cpu(), mask)

    def shown(frame: Frame) -> str:
        return painted(tokenizer, frame, task.start, task.prompt)

    states = recorder.watch(task.states(model, seed, meter, likeliest))
    canvas, status, state = shown(frames.first), "no step", None
    yield Moment(canvas, status)
    for state in states:
        frame = frames.after(state.canvas[0].cpu(), probability_of(state, 0))
        canvas, passes = shown(frame), int(meter.evaluations)  # sync
        status = f"step {frame.step}, {passes} forward passes, {frame.masks} masks left"
        yield Moment(canvas, status)
        time.sleep(delay)
    out = account(iter(() if state is None else (state,)), task.canvas, model, meter)
    text = task.text(tokenizer, out.sequences[0].tolist())
    yield Moment(canvas, f"done: {status}", Outcome(text, cost_of(out), recorder.trace))


def cost_of(out: Generation) -> str:
    """What an answer of one row cost, in words."""
    return (
        f"{int(out.forward_passes)} forward passes, {int(out.query_tokens)} positions computed, "
        f"{float(out.tokens_per_forward):.2f} tokens per forward pass"
    )


def page_of(tokenizer: PreTrainedTokenizerBase, trace: Trace, title: str) -> str:
    """The page that `llada trace render` makes."""
    return page(tokenizer, [Told(title, list(recorded(trace)), alternatives_of(trace, 0))])


def _grown(model: LLaDAForMaskedLM, tokenizer: PreTrainedTokenizerBase, task: Task, seed: int) -> Moment:
    out = generate(model, task.canvas[:, : task.prompt], None, task.sampler, seed)
    frame = Frames(out.sequences[0].cpu(), model.config.mask_token_id).first
    text = task.text(tokenizer, out.sequences[0].tolist())
    status = "done: its canvas grows, so there are no steps to show or to keep"
    return Moment(painted(tokenizer, frame, task.start, task.prompt), status, Outcome(text, cost_of(out), None))
