"""Answers of a fine-tuned model to instructions, and how many are right."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llada.data.chat import decode_response, encode_prompt
from llada.eval.checks import exact
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate

Messages = Sequence[Mapping[str, str]]


class Answer(NamedTuple):
    """What the model said to one conversation."""

    text: str
    forward_passes: int
    query_tokens: int  # positions that were computed in these passes
    tokens: int  # generated ones, up to and with the first EOS


def answer(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Messages],
    sampler: SamplerConfig,
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Answer]:
    """One reply to each conversation, which must end with the user's turn. Batches are padded on the left."""
    answers = []
    for start in range(0, len(conversations), batch_size):
        prompts = [encode_prompt(tokenizer, messages) for messages in conversations[start : start + batch_size]]
        prompt, attention_mask = left_padded(prompts, cast(int, tokenizer.pad_token_id))
        prompt, attention_mask = prompt.to(model.device), attention_mask.to(model.device)
        out = generate(model, prompt, attention_mask, sampler, seed, first_row=start)
        replies = out.sequences[:, prompt.shape[1] :].tolist()
        tokens = (out.tokens_per_forward * out.forward_passes).round().long()
        costs = (numbers.tolist() for numbers in (out.forward_passes, out.query_tokens, tokens))
        answers += [Answer(decode_response(tokenizer, r), *cost) for r, *cost in zip(replies, *costs, strict=True)]
    return answers


def answer_autoregressively(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Messages],
    longest: int,
    *,
    batch_size: int = 64,
) -> list[Answer]:
    """The same by a causal model of transformers: its likeliest tokens, up to `longest`, with its KV cache."""
    answers = []
    for start in range(0, len(conversations), batch_size):
        prompts = [encode_prompt(tokenizer, messages) for messages in conversations[start : start + batch_size]]
        prompt, attention_mask = left_padded(prompts, cast(int, tokenizer.pad_token_id))
        settings = GenerationConfig(
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.no_grad():
            sequences = model.generate(  # pyright: ignore[reportCallIssue]  # a mixin that the type does not name
                prompt.to(model.device), attention_mask=attention_mask.to(model.device), generation_config=settings
            )
        for tokens, reply in zip(map(len, prompts), sequences[:, prompt.shape[1] :].tolist(), strict=True):
            new = reply.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in reply else len(reply)
            answers.append(Answer(decode_response(tokenizer, reply[:new]), new, tokens + new - 1, new))
    return answers


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
