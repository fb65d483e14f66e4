"""The settings of a sampler for the number of tokens that a request asks for."""

import math
from typing import Any

from llada.sampling.config import GROWTH, SamplerConfig
from llada.sampling.reveals import REVEALS


def continuing(chosen: SamplerConfig, fields: dict[str, Any], most: int) -> dict[str, Any]:
    """The fields of a sampler that writes so many tokens in whole blocks, each with as many steps as the chosen one.

    What a request says itself stays as it is.
    """
    values = chosen.model_dump(exclude_unset=True) | fields
    if chosen.longest is not None:
        return values | {"longest": most, "gen_length": min(chosen.gen_length, most)}
    block = values.get("block_length")
    block = most if block is None else block
    if type(block) is not int or block < 1:
        return values  # which is refused
    values["gen_length"] = math.ceil(most / block) * block
    if chosen.steps is not None and "steps" not in fields:
        shared = chosen.steps // chosen.blocks if chosen.block_length else chosen.steps
        values["steps"] = _useful(shared, block, chosen, fields) * (values["gen_length"] // block)
    if values["gen_length"] == block and "variable_length" not in fields:
        values.pop("variable_length", None)  # it needs several blocks
    return values


def filling(chosen: SamplerConfig, fields: dict[str, Any], most: int) -> dict[str, Any]:
    """The fields of a sampler that fills a gap of so many tokens.

    Nothing is said of lengths but what a request says itself.
    """
    values = {key: value for key, value in chosen.model_dump(exclude_unset=True).items() if key not in _OF_LENGTHS}
    if chosen.steps is not None:
        values["steps"] = _useful(chosen.steps, most, chosen, fields)
    return values | fields


def _useful(steps: int, tokens: int, chosen: SamplerConfig, fields: dict[str, Any]) -> int:
    """So many steps, but no more than tokens under a rule that reveals one or more in each."""
    rule = REVEALS.get(str(fields.get("reveal", chosen.reveal)))
    return min(steps, tokens) if rule is None or rule.counted else steps


_OF_LENGTHS = {
    "gen_length",
    "block_length",
    "longest",
    "forbid_eos",
    "stop_at_eos",
    "eos_last",
    "variable_length",
    *GROWTH,
}
