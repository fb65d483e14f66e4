"""What is asked on the page → a canvas and the sampler that fills it.

Shapes: L length.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.data.chat import decode_response, encode_prompt
from llada.data.gaps import GAP, encode_gaps
from llada.data.tokenizer import encode
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import State
from llada.sampling.generate import canvas_of, generation_states, infill_states
from llada.sampling.likeliest import Likeliest
from llada.sampling.passes import most_passes
from llada.sampling.predictors import Meter
from llada.sampling.request import check_length, end_tokens
from llada.web.fixed import place, read_fixed

PASSES = 4096  # calls of the network for a task, as all who have the page open wait for one another
TaskKind = Literal["answer", "continue", "fill in"]


class Typed(NamedTuple):
    """What somebody typed."""

    kind: TaskKind
    text: str
    system: str = ""  # answer: what the model is told before all else
    earlier: Sequence[Mapping[str, str]] = ()  # answer: the conversation so far
    fixed: str = ""  # answer, continue: lines, see `llada.web.fixed`
    gap: int = 8  # fill in: masks for each gap


class Task(NamedTuple):
    """What is to be done."""

    kind: TaskKind
    sampler: SamplerConfig
    canvas: Tensor  # (1, L) that the sampler begins with
    prompt: int  # tokens before the answer
    before: str  # text that the answer continues
    fixed: int | None  # where the last fixed word of the answer ends, exclusive; None: there are none

    @property
    def start(self) -> int:
        """The first position that is shown."""
        return self.prompt if self.kind == "answer" else 0

    def states(
        self, model: LLaDAForMaskedLM, seed: int, meter: Meter, likeliest: Likeliest | None = None
    ) -> Iterator[State]:
        """Of the sampler. Raises ValueError for one that does not go with what is asked."""
        if self.kind == "fill in" or self.fixed is not None:
            return infill_states(
                model, self.canvas, None, self.sampler, seed, meter=meter, likeliest=likeliest, start=self.prompt
            )
        prompt = self.canvas[:, : self.prompt]
        return generation_states(model, prompt, None, self.sampler, seed, meter=meter, likeliest=likeliest)

    def text(self, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
        """What the finished canvas (L,) says; an answer ends with its turn, but not before its last fixed word."""
        if self.kind == "fill in":
            return str(tokenizer.decode(list(tokens)))
        return self.before + decode_response(tokenizer, tokens[self.prompt :], at_least=self.fixed or 0)


def messages_of(asked: Typed) -> list[Mapping[str, str]]:
    """The conversation that the model is to answer."""
    told = [{"role": "system", "content": asked.system}] if asked.system.strip() else []
    return [*told, *asked.earlier, {"role": "user", "content": asked.text}]


def task_of(
    model: LLaDAForMaskedLM, tokenizer: PreTrainedTokenizerBase, asked: Typed, values: Mapping[str, Any]
) -> Task:
    """The task, with the fields of a sampler. Filling in leaves out `gen_length`, as the text says it.

    Raises ValueError for what cannot be asked, and for what exceeds the model's length or `PASSES`.
    """
    task = _made(model, tokenizer, asked, values)
    masks = (task.canvas[0, task.prompt :] == model.config.mask_token_id).nonzero()[:, 0].tolist()
    passes = most_passes(task.sampler, range(task.sampler.longest) if task.sampler.longest else masks)
    if passes > PASSES:
        raise ValueError(
            f"this sampler may call the model {passes} times, more than the {PASSES} of the page; ask for fewer steps, "
            "or use the command line"
        )
    return task


def _made(model: LLaDAForMaskedLM, tokenizer: PreTrainedTokenizerBase, asked: Typed, values: Mapping[str, Any]) -> Task:
    mask = model.config.mask_token_id
    others = {name: value for name, value in values.items() if name != "gen_length"}

    def canvas(tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], dtype=torch.long, device=model.device)

    if not asked.text.strip() and asked.kind != "continue":
        raise ValueError("there is nothing to do yet: type a text")
    if values.get("longest") is not None and (asked.kind == "fill in" or asked.fixed.strip()):
        raise ValueError(
            "longest, with which an answer finds its length, goes with neither gaps nor fixed words, whose places are "
            "counted in a text of known length; leave it out"
        )
    if asked.kind == "fill in":
        check_length(model, asked.gap * asked.text.count(GAP))  # before so many masks are made
        tokens = encode_gaps(tokenizer, asked.text, asked.gap, mask)
        check_length(model, len(tokens))
        sampler = SamplerConfig(**others).between_texts(end_tokens(model))
        return Task(asked.kind, sampler, canvas(tokens), 0, "", None)
    answers = asked.kind == "answer"
    ids = encode_prompt(tokenizer, messages_of(asked)) if answers else encode(tokenizer, asked.text)
    before, fixed = "" if answers else asked.text, read_fixed(asked.fixed)
    if not fixed:
        sampler = SamplerConfig(**values)
        return Task(asked.kind, sampler, canvas_of(model, canvas(ids), sampler), len(ids), before, None)
    whole = SamplerConfig(**values)
    whole.check_lengths()  # blocks and steps are those of an answer without fixed words
    check_length(model, len(ids) + whole.gen_length)
    answer = place(tokenizer, fixed, whole.gen_length, mask)
    return Task(asked.kind, SamplerConfig(**others), canvas([*ids, *answer.tokens]), len(ids), before, answer.end)
