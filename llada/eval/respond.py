"""Asking a model many things at once, in batches of like length; each response is kept as soon as it is there."""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from llada.eval.answers import complete, padding_token
from llada.eval.arguments import Demand, Settings
from llada.eval.greedy import is_greedy
from llada.eval.likelihood import log_likelihoods, rolling_log_likelihood
from llada.eval.responses import Response
from llada.eval.scoring import Request
from llada.eval.texts import decode_until
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.request import end_tokens

Keep = Callable[[str, Response], None]  # (key of the request, response)
WorkKind = Literal["likelihoods", "greedy answers", "likelihoods of texts", "texts"]


class Pair(NamedTuple):
    """An answer to be scored."""

    request: Request
    dropped: int  # tokens of its context that the model has no room for


class Prompt(NamedTuple):
    """A text to be continued."""

    ids: list[int]
    dropped: int
    how: Demand


def answer(
    kind: WorkKind,
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    asked: Mapping[str, Any],
    settings: Settings,
    keep: Keep,
) -> None:
    """What each kind of request is answered by, on what is asked under each key."""
    if kind == "likelihoods":
        score(model, asked, settings, keep)
    elif kind == "greedy answers":
        decode(model, asked, settings, keep)
    elif kind == "likelihoods of texts":
        score_texts(model, asked, settings, keep)
    else:
        write(model, tokenizer, asked, settings, keep)


def score(model: LLaDAForMaskedLM, pairs: Mapping[str, Pair], settings: Settings, keep: Keep) -> None:
    """The likelihood of each answer."""
    longest_first = dict(sorted(pairs.items(), key=lambda item: -sum(map(len, item[1].request))))
    bounds = log_likelihoods(
        model,
        [pair.request for pair in longest_first.values()],
        settings.samples,
        settings.seed,
        precision=settings.precision,
        batch_size=settings.batch_size,
        cfg_scale=settings.sampler.cfg_scale,
    )
    for (key, pair), bound in zip(longest_first.items(), bounds, strict=True):
        found = {"value": bound.value, "stderr": bound.stderr, "evaluations": bound.samples}
        keep(key, found | {"dropped": pair.dropped})


def score_texts(model: LLaDAForMaskedLM, texts: Mapping[str, list[int]], settings: Settings, keep: Keep) -> None:
    """The likelihood of each text: whole where it fits, otherwise of halves of `max_length`, given those before."""
    max_length = settings.max_length or int(model.config.max_position_embeddings)
    how: dict[str, Any] = {"samples": settings.samples, "seed": settings.seed, "precision": settings.precision}
    for key, ids in texts.items():
        window = max_length if len(ids) <= max_length else max(1, max_length // 2)
        bound = rolling_log_likelihood(model, ids, window, max_length - window, **how, batch_size=settings.batch_size)
        keep(key, {"value": bound.value, "stderr": bound.stderr, "evaluations": bound.samples, "tokens": len(ids)})


def decode(model: LLaDAForMaskedLM, pairs: Mapping[str, Pair], settings: Settings, keep: Keep) -> None:
    """Whether greedy decoding writes each answer."""

    def length(key: str) -> int:
        return len(pairs[key].request.answer)

    for _, group in groupby(sorted(pairs, key=length), length):
        keys = list(group)
        for start in range(0, len(keys), settings.batch_size):
            batch = keys[start : start + settings.batch_size]
            requests = [pairs[key].request for key in batch]
            for key, found in zip(batch, is_greedy(model, requests, cfg_scale=settings.sampler.cfg_scale), strict=True):
                keep(key, {"greedy": found})


def write(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Prompt],
    settings: Settings,
    keep: Keep,
) -> None:
    """A text after each prompt; the keys, which are hexadecimal, are what its random numbers are made of."""
    ends, pad = end_tokens(model), padding_token(model, tokenizer)

    def sampler(key: str) -> str:
        return prompts[key].how.sampler.model_dump_json()

    ordered = sorted(prompts, key=lambda key: (sampler(key), -len(prompts[key].ids)))
    for _, group in groupby(ordered, sampler):
        keys = list(group)
        completions = complete(
            model,
            [prompts[key].ids for key in keys],
            prompts[keys[0]].how.sampler,
            pad_token_id=pad,
            batch_size=settings.batch_size,
            seed=settings.seed,
            rows=[int(key[:15], 16) for key in keys],
        )
        for key, one in zip(keys, completions, strict=True):
            how, dropped = prompts[key].how, prompts[key].dropped
            length = next((i for i, token in enumerate(one.ids) if token in ends), len(one.ids))
            kept = one.ids[:length][: how.most]
            keep(
                key,
                {
                    "text": decode_until(tokenizer, kept, how.until),
                    "ids": kept,
                    "ended": length < len(one.ids),
                    "cut": len(kept) < length,
                    "forward_passes": one.forward_passes,
                    "dropped": dropped,
                },
            )
