"""Every option of a sampler: it acts or is refused, its default is the documented one, and its range is explained."""

import json
import math
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.config import ConfigError
from llada.sampling.generate import Generation, SamplerConfig, generate
from llada.sampling.orders import ORDERS
from llada.sampling.reveals import REVEALS

MASK, EOS, EOT, VOCAB, LONGEST = 7, 6, 5, 8, 40


class Hashing:
    """A model that looks at every token and its place; the sharper, the surer."""

    config = SimpleNamespace(mask_token_id=MASK, eos_token_id=EOS, eot_token_id=EOT)

    def __init__(self, sharpness: float):
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(LONGEST, VOCAB, LONGEST, VOCAB, generator=generator, dtype=torch.float64)
        self.weights = sharpness * weights

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        L = input_ids.shape[1]
        one_hot = torch.nn.functional.one_hot(input_ids, VOCAB).double()
        return SimpleNamespace(logits=torch.einsum("biu,iujv->bjv", one_hot, self.weights[:L, :, :L]))


MODELS = [Hashing(sharpness) for sharpness in (1.0, 6.0)]
PROMPTS = torch.randint(0, 5, (8, 3), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", autouse=True)
def backgrounds(tmp_path_factory):
    """Files for position_calibrated, by the names that they have in the cases."""
    folder = tmp_path_factory.mktemp("backgrounds")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for name, counts in (("flat.json", [1] * VOCAB), ("steep.json", [4**token for token in range(VOCAB)])):
            (folder / name).write_text(json.dumps(counts))
        yield


CALIBRATED = {"order": "position_calibrated", "background": "flat.json"}
KLASS = {"reveal": "klass", "threshold": 0.3, "kl_threshold": 0.5}
LOOP = {"reveal": "remdm", "remask": "loop", "eta": 0.5, "steps": 20, "temperature": 1.0}
GROWING = {"reveal": "threshold", "threshold": 0.9, "longest": 32}

# field, what it needs beside it, a value that acts, and the one that leaving it out stands for (if there is one)
CASES: list[tuple[str, dict[str, Any], Any, Any]] = [
    ("steps", {}, 4, 8),
    ("gen_length", {}, 4, 8),
    ("block_length", {}, 2, 8),
    ("temperature", {}, 1.0, 0.0),
    ("top_k", {"temperature": 1.0}, 2, VOCAB),
    ("top_p", {"temperature": 1.0}, 0.3, 1.0),
    ("cfg_scale", {}, 1.0, 0.0),
    ("guidance", {"cfg_scale": 1.0}, "adaptive", "prompt"),
    ("guidance_share", {"cfg_scale": 1.0, "guidance": "adaptive"}, 0.2, 0.7),
    ("order", {}, "left_to_right", "confidence"),
    ("background", CALIBRATED, "steep.json", "flat.json"),
    ("position_decay", CALIBRATED, 2.0, 0.25),
    ("reveal", {}, "ancestral", "top_k"),
    ("counts", {"steps": 4}, "cosine", "even"),
    ("counts", {}, [1, 3, 4], [1] * 8),
    ("threshold", {"reveal": "threshold", "threshold": 0.9}, 0.3, 0.9),
    ("threshold", {"reveal": "klass", "kl_threshold": 0.5}, 0.3, 0.9),
    ("factor", {"reveal": "factor", "factor": 1.0}, 2.0, 1.0),
    ("entropy_bound", {"reveal": "entropy_bound", "entropy_bound": 0.5}, 2.0, 0.5),
    ("kl_threshold", {"reveal": "klass", "threshold": 0.3}, 0.5, 0.01),
    ("history", KLASS, 1, 2),
    ("remask", {"reveal": "remdm", "remask": "cap", "eta": 0.5, "steps": 20}, "rescale", "cap"),
    ("eta", {"reveal": "remdm", "remask": "cap", "steps": 20}, 0.5, 0.008),
    ("eta", {"reveal": "p2"}, 3.0, 1.0),
    ("t_on", LOOP, 0.9, 0.55),
    ("t_off", LOOP, 0.4, 0.05),
    ("alpha_on", LOOP, 0.4, 0.9),
    ("resample", {"reveal": "gibbs", "steps": 20, "temperature": 1.0}, 3, 1),
    ("edit_threshold", {}, 0.1, None),
    ("edit_steps", {"edit_threshold": 0.1}, 0, 16),
    ("early_exit", {}, True, False),
    ("speculation", {}, 3, None),
    ("longest", {"reveal": "threshold", "threshold": 0.3}, 32, None),
    ("insert_below", {**GROWING, "grow_until": 0.0}, 1.0, 0.1),
    ("grow_until", GROWING, 0.0, 0.5),
    ("insert_until", {**GROWING, "grow_until": 0.0, "insert_below": 0.9}, 0.0, 0.9),
    ("suppress_tokens", {}, [0, 1], []),
    ("forbid_eos", {}, True, False),
    ("eos_last", {}, True, False),
    ("stop_at_eos", {"block_length": 2}, True, False),
    ("variable_length", {"stop_at_eos": True, "block_length": 2}, True, False),
]
NEEDS: dict[str, dict[str, Any]] = {  # what a rule cannot do without, and values that let it act on these models
    "threshold": {"threshold": 0.6},
    "factor": {"factor": 1.0},
    "entropy_bound": {"entropy_bound": 0.5},
    "klass": {"kl_threshold": 0.4},
    "remdm": {"remask": "cap", "eta": 0.2, "steps": 20},
    "gibbs": {"steps": 20},
}
BROKEN = ("ancestral", "edit_threshold")  # divides by p(0) = 0 in the predictions that are spent on edits alone
ANYTHING_BUT_A_BOOL = ["yes", 1]
OUTSIDE: dict[str, list[Any]] = {  # of the range or type of each option
    "steps": [0, -3, 4.5, "many", True],
    "gen_length": [0, -1, 8.0],
    "block_length": [0, 1.5],
    "temperature": [-0.5, math.inf, math.nan, "hot"],
    "top_k": [0, 2.5, True],
    "top_p": [0.0, 1.5, math.nan],
    "cfg_scale": [-1.0, math.inf, math.nan],
    "guidance": ["both"],
    "guidance_share": [0.0, 1.1, math.nan],
    "order": [3],
    "background": [3],
    "position_decay": [-0.1, math.nan],
    "reveal": [3],
    "counts": ["linear", [-1, 9], [1.5], 3],
    "threshold": [-0.1, math.nan, "sure"],
    "factor": [0.0, -1.0, math.inf, math.nan],
    "entropy_bound": [-0.1, math.nan],
    "kl_threshold": [0.0, math.inf, math.nan],
    "history": [0, 1.5],
    "remask": ["often"],
    "eta": [-0.1, math.nan],
    "t_on": [0.0, 1.1, math.nan],
    "t_off": [0.0, 1.1, math.nan],
    "alpha_on": [0.0, 1.1, math.nan],
    "resample": [0],
    "edit_threshold": [-0.1, 1.1, math.nan],
    "edit_steps": [-1, 0.5],
    "early_exit": ANYTHING_BUT_A_BOOL,
    "speculation": [1, 2.5],
    "longest": [0, 8.5],
    "insert_below": [-0.1, 1.1, math.nan],
    "grow_until": [-0.1, 1.1, math.nan],
    "insert_until": [-0.1, 1.1, math.nan],
    "suppress_tokens": [[-1], [0.5], 3],
    "forbid_eos": ANYTHING_BUT_A_BOOL,
    "eos_last": ANYTHING_BUT_A_BOOL,
    "stop_at_eos": ANYTHING_BUT_A_BOOL,
    "variable_length": ANYTHING_BUT_A_BOOL,
}


def made(values: dict[str, Any]) -> list[Generation]:
    return _made(json.dumps({"gen_length": 8, **values}, sort_keys=True))


@cache
def _made(values: str) -> list[Generation]:
    return [generate(model, PROMPTS, None, SamplerConfig(**json.loads(values)), seed=1) for model in MODELS]


def same(one: list[Generation], other: list[Generation]) -> bool:
    parts = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return all(torch.equal(a, b) for a, b in parts)


def test_every_option_is_among_the_cases():
    assert {field for field, *_ in CASES} == set(OUTSIDE) == set(SamplerConfig.model_fields)
    assert set(NEEDS) >= {name for name, entry in REVEALS.items() if entry.required}


@pytest.mark.parametrize(("field", "beside", "value", "absent"), CASES)
def test_option_acts_and_leaving_it_out_is_its_documented_default(field, beside, value, absent):
    without = made(beside)
    assert not same(made({**beside, field: value}), without)
    if absent is not None:
        assert same(made({**beside, field: absent}), without)


@pytest.mark.parametrize("reveal", REVEALS)
def test_option_that_is_accepted_with_a_rule_acts_with_it(reveal):
    """Every other option beside every rule: a ConfigError, or another outcome than without it."""
    silent = []
    for field, beside, value, _ in CASES:
        given = {**beside, "reveal": reveal, **NEEDS.get(reveal, {})}
        if (reveal, "edit_threshold") == BROKEN and "edit_threshold" in {field, *beside}:
            continue
        try:
            SamplerConfig(gen_length=8, **given)
            SamplerConfig(**{"gen_length": 8, **given, field: value})
        except ConfigError:
            continue
        if field != "reveal" and same(made(given), made({**given, field: value})):
            silent.append((field, given))
    assert not silent


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in OUTSIDE.items() for value in values])
def test_value_out_of_range_is_explained(field, value):
    beside = next(beside for name, beside, *_ in CASES if name == field)
    with pytest.raises(ConfigError) as refusal:
        SamplerConfig(**{**beside, field: value})
    assert re.search(rf"{field}\b.*: Input should be .* \(given ", str(refusal.value))


@pytest.mark.parametrize(("field", "known"), [("order", ORDERS), ("reveal", REVEALS)])
def test_unknown_rule_lists_the_known_ones(field, known):
    with pytest.raises(ConfigError, match=f"^unknown {field} 'best'; known: {', '.join(known)}$"):
        SamplerConfig(**{field: "best"})
