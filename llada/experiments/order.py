"""The order of revealing (arXiv:2502.09992, figure 4): each token in the colour of the step at which it was fixed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.data.chat import encode_prompt
from llada.eval.answers import left_padded, padding_token
from llada.experiments.asking import AskingSamplers, sampler_of
from llada.experiments.experiment import Experiment
from llada.experiments.student import Student
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import canvas_of, generation_states
from llada.sampling.request import end_tokens
from llada.sampling.trace import Kind, Recorder, Trace
from llada.sampling.trace_measures import ar_ness
from llada.show.picture import ACROSS, boxes, lines_of, width_of
from llada.show.pieces import END


class Settings(AskingSamplers):
    shown: Annotated[int, Field(ge=0)] = 0  # the number of the question that is drawn

    @model_validator(mode="after")
    def _is_a_question(self) -> Self:
        if self.shown >= self.questions:
            raise ValueError(f"shown={self.shown} must be below questions={self.questions}")
        return self

    def every(self) -> dict[str, SamplerConfig]:
        """By name."""
        return {name: sampler_of(fields, {"gen_length": self.gen_length}) for name, fields in self.samplers.items()}


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """The steps of one answer's tokens, and how far all answers were written from left to right, by sampler."""
    model, task = settings.student(folder), settings.asked()
    prompts = [encode_prompt(model.tokenizer, asked) for asked in task.conversations]
    samplers = {name: _measured(model, prompts, sampler, settings) for name, sampler in settings.every().items()}
    return {"prompt": task.conversations[settings.shown][-1]["content"], "samplers": samplers}


def _measured(
    student: Student, prompts: Sequence[Sequence[int]], sampler: SamplerConfig, settings: Settings
) -> dict[str, Any]:
    (model, tokenizer, _), shown = student, {}
    pad, ends = padding_token(model, tokenizer), torch.tensor(end_tokens(model))
    local, leftmost = [], []
    for start in range(0, len(prompts), settings.batch_size):
        padded = left_padded(prompts[start : start + settings.batch_size], pad)
        prompt, attention_mask = (part.to(model.device) for part in padded)
        recorder = Recorder(canvas_of(model, prompt, sampler), model.config.mask_token_id)
        for _ in recorder.watch(generation_states(model, prompt, attention_mask, sampler, first_row=start)):
            pass
        how = ar_ness(of_answers(recorder.trace, prompt.shape[1], ends), 1)
        local += _known(how.local_at_k)
        leftmost += _known(how.global_at_k)
        if 0 <= (row := settings.shown - start) < len(prompt):
            shown = shown_answer(recorder.trace, row, prompt.shape[1], tokenizer, ends)
    return shown | {"local": local, "leftmost": leftmost}


def of_answers(trace: Trace, start: int, ends: Tensor) -> Trace:
    """The same without the first end after `start` and what is behind it, where the order tells nothing of a text."""
    behind = torch.isin(trace.final, ends)
    behind[:, :start] = False
    behind = behind.cumsum(dim=1) > 0
    kept = ~behind[trace.row, trace.position]
    columns = ("step", "row", "position", "token", "kind", "probability", "alternatives", "alternative_probability")
    canvas = trace.canvas.masked_scatter(behind, trace.final[behind])
    return replace(trace, canvas=canvas, **{name: getattr(trace, name)[kept] for name in columns})


def _known(values: Tensor) -> list[float]:
    """Of the answers with enough tokens."""
    return values[~values.isnan()].tolist()


def shown_answer(
    trace: Trace, row: int, start: int, tokenizer: PreTrainedTokenizerBase, ends: Tensor
) -> dict[str, list[Any]]:
    """The answer of a row, its ends empty, and of every token the step that fixed it, from 1; 0: none did."""
    ids = trace.final[row, start:].tolist()
    last = trace.last(*Kind)[row, start:]
    fixed = (last >= 0) & (trace.kind[last] != Kind.REMASKED)
    steps = torch.where(fixed, trace.step[last] + 1, 0).tolist()
    known = ends.tolist()
    return {"tokens": ["" if token in known else tokenizer.decode([token]) for token in ids], "steps": steps}


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each sampler."""
    shown = Table("", "answer", "reveals at the leftmost mask", "next to the one before")
    for name, one in measured["samplers"].items():
        shown.add_row(name, "".join(one["tokens"]), _share(one["leftmost"]), _share(one["local"]))
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """How far from left to right each is."""
    told = [f"{name} {_share(one['leftmost'])}" for name, one in measured["samplers"].items()]
    return (
        "Share of the tokens of an answer, without its end, that were revealed while they were the leftmost mask (mean "
        f"of {len(next(iter(measured['samplers'].values()))['leftmost'])} answers): {', '.join(told)}."
    )


def _share(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "unknown"  # answers without a token
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1%} ± {2 * error:.1%}"


def draw(measured: Mapping[str, Any]) -> Figure:
    """One answer by each sampler, every token in the colour of its step; a dot is an end of turn or of sequence."""
    samplers = measured["samplers"]
    texts = {
        name: [END if text == "" else text.replace(" ", "␣") for text in one["tokens"]]
        for name, one in samplers.items()
    }
    norm = Normalize(1, max(max(one["steps"]) for one in samplers.values()))
    height = sum(0.45 + 0.27 * lines_of(text) for text in texts.values())
    width = max(map(width_of, texts.values()))
    figure = Figure(figsize=(1.2 + 8 * width / ACROSS, 0.7 + height), layout="constrained")
    figure.suptitle(f"{measured['prompt']}    ({END} is an end)", fontsize=10, family="monospace")
    axes = [figure.add_subplot(len(samplers), 1, number + 1) for number in range(len(samplers))]
    for axis, (name, one) in zip(axes, samplers.items(), strict=True):
        boxes(axis, texts[name], [colormaps["viridis"](norm(step)) for step in one["steps"]])
        axis.set_xlim(0, width)
        axis.set_title(f"{name}; leftmost mask first: {_share(one['leftmost'])}", loc="left", fontsize=9)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label="step that fixed the token", shrink=0.8)
    return figure


EXPERIMENT = Experiment(
    question="In which order are tokens revealed?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
