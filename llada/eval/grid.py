"""The samplers that are tried: how many steps or which threshold, in blocks of which length, with which cache."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from llada.config import ConfigError
from llada.sampling.config import SamplerConfig

Settings = dict[str, Any]  # fields of a SamplerConfig

SWEPT = ("steps", "reveal", "threshold", "block_length", "cache")


class Grid(NamedTuple):
    samplers: list[SamplerConfig]
    refused: int  # combinations that make no sampler
    repeated: int  # combinations that compute what another one does


def grid(
    base: SamplerConfig,
    *,
    steps: Sequence[int] | None = None,
    thresholds: Sequence[float] | None = None,
    block_lengths: Sequence[int | None] | None = None,
    caches: Sequence[str] | None = None,
) -> Grid:
    """`base` with so many steps, or with a confidence threshold in their place, in every block length and cache.

    Where a list is None, it is what `base` sets; if `base` says nothing of it, for answers of L tokens: steps L, L/2,
    L/4, L/8; thresholds 0.7, 0.9, 0.95; blocks of L, L/2, L/4 tokens, None being all of them; caches none, prefix,
    dual.

    Raises ConfigError where a value that is given or set fits no combination, and where none is left.
    """
    if base.reveal not in ("top_k", "threshold"):
        raise ConfigError(f"reveal: {base.reveal} is not swept; start from a sampler with reveal: top_k or threshold")
    L = base.gen_length
    by_threshold, by_steps = base.reveal == "threshold", base.steps is not None
    known = {
        "steps": _first(steps, [base.steps] if by_steps else [] if by_threshold else None),
        "threshold": _first(thresholds, [base.threshold] if by_threshold else [] if by_steps else None),
        "block_length": _first(block_lengths, [base.block_length] if "block_length" in base.model_fields_set else None),
        "cache": _first(caches, [base.cache] if "cache" in base.model_fields_set else None),
    }
    usual = {
        "steps": [L // n for n in (1, 2, 4, 8) if n <= L],
        "threshold": [0.7, 0.9, 0.95],
        "block_length": [None, *(L // n for n in (2, 4) if L % n == 0)],
        "cache": ["none", "prefix", "dual"],
    }
    tried = {field: usual[field] if values is None else values for field, values in known.items()}
    samplers: dict[tuple[Any, ...], SamplerConfig] = {}
    refusals: list[tuple[Settings, str]] = []
    fitting: list[Settings] = []
    for combination in _combinations(tried):
        try:
            sampler = _sampler(base, combination)
        except ConfigError as error:
            refusals.append((combination, str(error)))
        else:
            fitting.append(combination)
            samplers.setdefault(_computed(sampler), sampler)
    if not fitting and not refusals:
        raise ConfigError("there is no sampler to try; give steps or thresholds, block lengths and caches")
    if not fitting:
        raise ConfigError(f"there is no sampler to try: {refusals[0][1]}")
    for field, value in [(field, value) for field, values in known.items() for value in values or ()]:
        if not any(field in combination and combination[field] == value for combination in fitting):
            reason = next(text for combination, text in refusals if combination.get(field, ...) == value)
            raise ConfigError(f"{field}={value} makes no sampler: {reason}")
    return Grid(list(samplers.values()), len(refusals), len(fitting) - len(samplers))


def _first(given: Sequence[Any] | None, otherwise: Sequence[Any] | None) -> Sequence[Any] | None:
    return otherwise if given is None else given


def _combinations(tried: dict[str, Sequence[Any]]) -> Iterator[Settings]:
    pace = [{"steps": n} for n in tried["steps"]]
    pace += [{"reveal": "threshold", "threshold": value} for value in tried["threshold"]]
    for of_pace, block_length, cache in product(pace, tried["block_length"], tried["cache"]):
        yield {**of_pace, "block_length": block_length, "cache": cache}


def _sampler(base: SamplerConfig, combination: Settings) -> SamplerConfig:
    """The base with what is swept replaced; fields that say no more than their default are left out."""
    kept = {field: value for field, value in base.model_dump(exclude_unset=True).items() if field not in SWEPT}
    swept = {field: value for field, value in combination.items() if (field, value) != ("cache", "none")}
    swept = {f: v for f, v in swept.items() if v is not None and (f, v) != ("block_length", base.gen_length)}
    return SamplerConfig(**{**kept, "gen_length": base.gen_length, **swept})


def _computed(sampler: SamplerConfig) -> tuple[Any, ...]:
    """What tells samplers of a grid apart; those that differ in it alone by name have it in common."""
    cache = sampler.cache
    if cache == "dual" and sampler.blocks == 1:
        cache = "prefix"  # nothing follows the only block
    if cache in ("prefix", "dual", "delayed") and sampler.steps_per_block == 1 and sampler.edit_threshold is None:
        cache = "none"  # the first step of a block computes everything
    return sampler.steps, sampler.threshold, sampler.block_length, cache
