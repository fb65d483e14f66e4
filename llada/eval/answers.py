"""Answers of a fine-tuned model to instructions, and how many are right."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llada.data.chat import decode_response, encode_prompt
from llada.eval.checks import exact
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate
from llada.sampling.predictors import MaskPredictor
from llada.sampling.request import eos_token

Messages = Sequence[Mapping[str, str]]


class Answer(NamedTuple):
    """What the model said to one conversation."""

    text: str
    forward_passes: int
    query_tokens: int  # positions that were computed in these passes
    tokens: int  # generated ones, up to and with the first EOS


class Completion(NamedTuple):
    """What the model wrote after one prompt."""

    ids: list[int]  # all generated tokens
    forward_passes: int
    query_tokens: int
    tokens: int


def answer(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Messages],
    sampler: SamplerConfig,
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Answer]:
    """One reply to each conversation, which must end with the user's turn."""
    prompts = (encode_prompt(tokenizer, messages) for messages in conversations)
    pad = padding_token(model, tokenizer)
    completions = complete(model, prompts, sampler, pad_token_id=pad, batch_size=batch_size, seed=seed)
    return [Answer(decode_response(tokenizer, ids), *costs) for ids, *costs in completions]


def complete(
    model: LLaDAForMaskedLM,
    prompts: Iterable[Sequence[int]],
    sampler: SamplerConfig,
    *,
    pad_token_id: int,
    batch_size: int = 64,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Completion]:
    """What follows each prompt, in batches that are padded on the left.

    Args:
        rows: the number of each prompt, by which it gets its random numbers; None: its place.
    """
    prompts, start = iter(prompts), 0
    while batch := list(islice(prompts, batch_size)):
        prompt, attention_mask = left_padded(batch, pad_token_id)
        prompt, attention_mask = prompt.to(model.device), attention_mask.to(model.device)
        numbers = start if rows is None else torch.tensor(rows[start : start + len(batch)])
        out = generate(model, prompt, attention_mask, sampler, seed, first_row=numbers)
        costs = (each.tolist() for each in (out.forward_passes, out.query_tokens, out.tokens))
        for ids, *cost in zip(out.sequences[:, prompt.shape[1] :].tolist(), *costs, strict=True):
            yield Completion(ids, *cost)
        start += len(batch)


def answer_autoregressively(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Messages],
    longest: int,
    *,
    batch_size: int = 64,
) -> list[Answer]:
    """The same by a causal model of transformers: its likeliest tokens, up to `longest`, with its KV cache."""
    pad = padding_token(model, tokenizer)
    settings = GenerationConfig(
        max_new_tokens=longest, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=pad
    )
    answers = []
    for start in range(0, len(conversations), batch_size):
        prompts = [encode_prompt(tokenizer, messages) for messages in conversations[start : start + batch_size]]
        prompt, attention_mask = left_padded(prompts, pad)
        with torch.no_grad():
            sequences = model.generate(  # pyright: ignore[reportCallIssue]  # a mixin that the type does not name
                prompt.to(model.device), attention_mask=attention_mask.to(model.device), generation_config=settings
            )
        for tokens, reply in zip(map(len, prompts), sequences[:, prompt.shape[1] :].tolist(), strict=True):
            new = reply.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in reply else len(reply)
            answers.append(Answer(decode_response(tokenizer, reply[:new]), new, tokens + new - 1, new))
    return answers


def padding_token(model: MaskPredictor, tokenizer: PreTrainedTokenizerBase) -> int:
    """What prompts are padded with, which no model sees: the end of sequence where the tokenizer has nothing for it.

    Raises ValueError where the model has no end of sequence either.
    """
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else eos_token(model, "padding")


def left_padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token lists as one batch: prompts (B, P) and attention mask (B, P), 0 at the padding on the left."""
    P = max(map(len, prompts))
    rows = [[pad_token_id] * (P - len(tokens)) + list(tokens) for tokens in prompts]
    mask = [[0] * (P - len(tokens)) + [1] * len(tokens) for tokens in prompts]
    return torch.tensor(rows, dtype=torch.long), torch.tensor(mask)


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Share of answers equal to what was expected, blanks around them apart."""
    if not expected:
        raise ValueError("there are no answers to compare")
    return sum(exact(a, e) for a, e in zip(answers, expected, strict=True)) / len(expected)
