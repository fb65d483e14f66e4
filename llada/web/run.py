"""A task step by step: what the page shows after each step, and in the end what came out and what it cost."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.generate import Generation, account, generation_of, growing_states
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

    An answer that finds its own length has none before its first step and no trace, as its canvas grows.

    Args:
        alternatives: likeliest tokens of each position to keep in the trace.
        delay: seconds to wait after each step.
    """
    mask = model.config.mask_token_id
    if task.sampler.longest is not None:
        yield from _growing(model, tokenizer, task, seed, delay)
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


def _growing(
    model: LLaDAForMaskedLM, tokenizer: PreTrainedTokenizerBase, task: Task, seed: int, delay: float
) -> Iterator[Moment]:
    prompt, mask = task.canvas[:, : task.prompt], model.config.mask_token_id
    meter, sequence, canvas = Meter.of(prompt), prompt, ""
    for grown in growing_states(model, prompt, task.sampler, seed, meter=meter):
        sequence = grown.sequence[None]
        canvas = painted(tokenizer, Frames(sequence[0].cpu(), mask).first, task.start, task.prompt)
        masks = int((sequence == mask).sum())
        yield Moment(canvas, f"{int(meter.evaluations)} forward passes, {masks} masks left")
        time.sleep(delay)
    generated = torch.arange(sequence.shape[1], device=sequence.device)[None] >= task.prompt
    out = generation_of(model, sequence, generated, meter)
    text = task.text(tokenizer, sequence[0].tolist())
    yield Moment(canvas, "done: its canvas grows, so there are no steps to keep", Outcome(text, cost_of(out), None))
