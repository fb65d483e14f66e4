"""Asking for a line of a text that was read: a mask predictor fills in the gap, an autoregressive model goes on."""

from string import Formatter
from typing import Any, Literal, NamedTuple, cast

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from llada.data.chat import encode_prompt
from llada.data.tokenizer import SPECIAL_TOKENS
from llada.experiments.student import Baseline, Student
from llada.sampling.generate import infill

READ = "Recite."  # what such texts answer
RECITE = [{"role": "user", "content": READ}]


class Fact(NamedTuple):
    first: str
    second: str


class Cut(NamedTuple):
    """The tokens of a text around the line that is missing."""

    before: list[int]
    line: list[int]  # with the blank that its first token may hold
    after: list[int]


def cut(tokenizer: PreTrainedTokenizerBase, text: str, fact: Fact, missing: Literal["first", "second"]) -> Cut:
    """A text of the fact is encoded whole, as it was read, and cut at the tokens that hold any of the missing line."""
    lines = fact._asdict()
    start = 0
    for literal, name, _, _ in Formatter().parse(text):
        start += len(literal)
        if name == missing:
            break
        start += len(lines[name]) if name else 0
    encoded = tokenizer(text.format(**lines), return_offsets_mapping=True, add_special_tokens=False)
    end = start + len(lines[missing])
    inside = [low < end and high > start for low, high in encoded["offset_mapping"]]
    ids, first = cast(list[int], encoded["input_ids"]), inside.index(True)
    last = first + sum(inside)
    return Cut(ids[:first], ids[first:last], ids[last:])


def fill(masked: Student, text: str, fact: Fact, direction: str) -> str:
    """The missing line of a text, as the mask predictor fills it in, one token per step."""
    tokenizer = masked.tokenizer
    parts = cut(tokenizer, text, fact, "second" if direction == "forward" else "first")
    start = encode_prompt(tokenizer, RECITE) + parts.before
    gap = [masked.model.config.mask_token_id] * len(parts.line)
    end = cast(list[int], tokenizer.convert_tokens_to_ids([SPECIAL_TOKENS.eot]))
    canvas = torch.tensor([[*start, *gap, *parts.after, *end]], device=masked.model.device)
    return str(tokenizer.decode(infill(masked.model, canvas).sequences[0, len(start) : len(start) + len(gap)]))


def go_on(causal: Baseline, text: str, fact: Fact, direction: str) -> str:
    """What the autoregressive model writes after the line that is given and what joins it to the next."""
    lines = fact if direction == "forward" else Fact(fact.second, fact.first)  # the reversal begins with the second
    tokenizer = causal.tokenizer
    parts = cut(tokenizer, text, lines, "second")
    prompt = encode_prompt(tokenizer, RECITE) + parts.before
    how = GenerationConfig(max_new_tokens=len(parts.line), do_sample=False, pad_token_id=tokenizer.pad_token_id)
    ids = torch.tensor([prompt], device=causal.model.device)
    out = cast(Any, causal.model).generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
    return str(tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True))
