"""Values as a YAML file, a JSON body or a careless caller may hold them, and how many of them are tried."""

import json
import math
from typing import Any

import pytest
from hypothesis import strategies as st

from llada.config import config_folder, read_yaml
from llada.sampling.config import SamplerConfig
from llada.sampling.orders import ORDERS
from llada.sampling.reveals import REVEALS


def numbers_of_cases(few: int, many: int) -> pytest.MarkDecorator:
    """Runs a test with a few cases always, and with many under `-m slow`."""
    return pytest.mark.parametrize("cases", [few, pytest.param(many, marks=pytest.mark.slow)])


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),  # halves of surrogate pairs, too
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "\ud800",
            "\u202eabc",
            "a\u200bb",
            "é" * 300,
            "<|eot_id|>",
            "<|mdm_mask|>",
            "self",
            "1e5",
            "[" * 2000,
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.floats(),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 5e-324, 1e308, math.inf, math.nan, -0.0]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)

WHOLE = st.one_of(st.integers(1, 8), st.integers(1, 8), st.sampled_from([0, -1, 2**20 + 1, 10**30, True, None, 1.5]))
SHARE = st.one_of(
    st.floats(0, 1), st.floats(0, 1), st.sampled_from([0, 1, 5e-324, 1e-300, 1e308, -0.5, 10**400, math.inf, math.nan])
)
SWITCH = st.sampled_from([True, False, False, None, 1, "yes"])
FIELDS: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(SamplerConfig.model_fields, WHOLE) | {
    "guidance": st.sampled_from(["prompt", "adaptive", "none"]),
    "order": st.sampled_from([*ORDERS, "other"]),
    "reveal": st.sampled_from([*REVEALS, "other"]),
    "remask": st.sampled_from(["cap", "rescale", "conf", "loop", "other"]),
    "cache": st.sampled_from(["none", "prefix", "dual", "delayed", "block_causal"]),
    "counts": st.sampled_from(["even", "cosine", "odd"]) | st.lists(st.integers(0, 4), max_size=5),
    "suppress_tokens": st.lists(st.integers(0, 261), max_size=4)
    | st.sampled_from([list(range(262)), [10**30], [300], [-1], list(range(3, 262)), [2]]),
    "background": st.sampled_from(["counts.json", "few.json", "deep.json", "nowhere.json", "", "\0"]),
    **dict.fromkeys(["early_exit", "forbid_eos", "eos_last", "stop_at_eos", "variable_length"], SWITCH),
    **dict.fromkeys(
        ["temperature", "top_p", "cfg_scale", "guidance_share", "position_decay", "threshold", "factor", "eta", "t_on",
         "entropy_bound", "kl_threshold", "t_off", "alpha_on", "edit_threshold", "insert_below", "grow_until",
         "insert_until"], SHARE
    ),
}  # fmt: skip
PUBLISHED = {path.stem: read_yaml(path) for path in sorted((config_folder() / "sampling").glob("*.yaml"))}
SHORT = {"gen_length": 8, "block_length": 4, "steps": 4, "longest": 12, "speculation": 3, "edit_steps": 3}


def _shortened(fields: dict[str, Any]) -> dict[str, Any]:
    """A published sampler with lengths and steps that take no time."""
    return fields | {"gen_length": 8} | {key: value for key, value in SHORT.items() if fields.get(key) is not None}


@st.composite
def samplers(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a sampler: a published one, some of its fields changed or gone, or any combination."""
    fields = (
        _shortened(PUBLISHED[draw(st.sampled_from(sorted(PUBLISHED)))])
        if draw(st.integers(0, 4))
        else {"gen_length": 4}
    )
    if fields.get("background") is not None:
        fields["background"] = "counts.json"
    count = draw(st.sampled_from([0, 0, 1, 1, 2, 4]))
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=count, max_size=count)):
        fields[name] = draw(FIELDS[name])
        if fields[name] is None:
            del fields[name]
    return fields


@st.composite
def valid_samplers(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a sampler for 4 tokens that go with each other, of every rule, order and cache."""
    reveal = draw(st.sampled_from(sorted(REVEALS)))
    rule = REVEALS[reveal]
    fields: dict[str, Any] = {"reveal": reveal, "temperature": draw(st.sampled_from([0.0, 0.7, 2.0]))}
    fields |= {field: draw(st.sampled_from(VALID[field])) for field in rule.required if field != "steps"}
    if rule.ordered:
        orders = [name for name, entry in ORDERS.items() if entry.probability or not rule.probabilities]
        fields["order"] = draw(st.sampled_from(sorted(orders)))
        fields |= {"background": "counts.json"} if ORDERS[fields["order"]].required else {}
    blocks = draw(st.sampled_from([1, 2]))
    fields |= {"block_length": 2} if blocks == 2 else {}
    if not rule.adaptive:
        fields["steps"] = 8 if reveal == "gibbs" else draw(st.sampled_from([2, 4]))
    fields["cache"] = draw(st.sampled_from(["none", "prefix", "dual", "delayed", "block_causal"]))
    fields["cfg_scale"] = draw(st.sampled_from([0.0, 0.5]))
    fields["forbid_eos"] = draw(st.booleans())
    return fields


VALID: dict[str, list[Any]] = {
    "threshold": [0.0, 0.3, 1.0],
    "factor": [0.5, 2.0],
    "entropy_bound": [0.0, 1.0],
    "remask": ["cap", "rescale", "conf", "loop"],
}


def write_backgrounds(folder: Any) -> None:
    """The files that the field `background` of `FIELDS` names."""
    (folder / "counts.json").write_text(json.dumps([(7 * token) % 31 for token in range(262)]))
    (folder / "few.json").write_text("[1, 2]")
    (folder / "deep.json").write_text("[" * 100_000)


@st.composite
def mutated(draw: st.DrawFn, whole: Any) -> Any:
    """JSON in which one to three values are others, twice there, or gone."""
    changed = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        changed = _with_change(draw, changed)
    return changed


def _with_change(draw: st.DrawFn, value: Any) -> Any:
    """A copy with a change somewhere below, or another value altogether."""
    inside = isinstance(value, dict | list) and len(value) and draw(st.integers(0, 5))
    if not inside:
        return draw(VALUES)
    copy = value.copy()
    key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
    match draw(st.integers(0, 5)):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[draw(TEXTS)] = draw(VALUES)
        case 1:
            copy.append(copy[key])
        case _:
            copy[key] = _with_change(draw, copy[key])
    return copy
