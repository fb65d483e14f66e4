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

import llada
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


def transformer(block_length: int | None = None) -> llada.LLaDAForMaskedLM:
    """A model that keeps keys and values; of two layers, as with one most caches are exact."""
    torch.manual_seed(0)
    config = llada.LLaDAConfig(d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=16, vocab_size=VOCAB,
                               max_sequence_length=LONGEST, mask_token_id=MASK, eos_token_id=EOS, eot_token_id=EOT,
                               block_length=block_length)  # fmt: skip
    return llada.LLaDAForMaskedLM(config).eval()


MODELS = [Hashing(sharpness) for sharpness in (1.0, 6.0)]
KEEPING = [transformer()]
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
    ("cache", {}, "dual", "none"),
    ("refresh_every", {"cache": "dual"}, 2, 8),
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
    "cache": ["all", "Dual", 3, True, None],
    "refresh_every": [0, -1, 2.5, True],
    "suppress_tokens": [[-1], [0.5], 3],
    "forbid_eos": ANYTHING_BUT_A_BOOL,
    "eos_last": ANYTHING_BUT_A_BOOL,
    "stop_at_eos": ANYTHING_BUT_A_BOOL,
    "variable_length": ANYTHING_BUT_A_BOOL,
}


def made(field: str, values: dict[str, Any]) -> list[Generation]:
    """What comes out of models on which the field can act."""
    keeping = field in ("cache", "refresh_every")
    return _made(json.dumps({"gen_length": 8, **values}, sort_keys=True), keeping)


@cache
def _made(values: str, keeping: bool) -> list[Generation]:
    models, sampler = KEEPING if keeping else MODELS, SamplerConfig(**json.loads(values))
    return [generate(model, PROMPTS, None, sampler, seed=1) for model in models]


def same(one: list[Generation], other: list[Generation]) -> bool:
    parts = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return all(torch.equal(a, b) for a, b in parts)


def test_every_option_is_among_the_cases():
    assert {field for field, *_ in CASES} == set(OUTSIDE) == set(SamplerConfig.model_fields)
    assert set(NEEDS) >= {name for name, entry in REVEALS.items() if entry.required}


@pytest.mark.parametrize(("field", "beside", "value", "absent"), CASES)
def test_option_acts_and_leaving_it_out_is_its_documented_default(field, beside, value, absent):
    without = made(field, beside)
    assert not same(made(field, {**beside, field: value}), without)
    if absent is not None:
        assert same(made(field, {**beside, field: absent}), without)


@pytest.mark.parametrize("reveal", REVEALS)
def test_option_that_is_accepted_with_a_rule_acts_with_it(reveal):
    """Every other option beside every rule: a ConfigError, or another outcome than without it."""
    silent = []
    for field, beside, value, _ in CASES:
        given = {**beside, "reveal": reveal, **NEEDS.get(reveal, {})}
        try:
            SamplerConfig(gen_length=8, **given)
            SamplerConfig(**{"gen_length": 8, **given, field: value})
        except ConfigError:
            continue
        if field != "reveal" and same(made(field, given), made(field, {**given, field: value})):
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


GUIDED = {"cfg_scale": 0.5, "guidance": "adaptive"}
GROWN = {"reveal": "threshold", "threshold": 0.9, "gen_length": 8, "longest": 16}
APPENDED = {"stop_at_eos": True, "variable_length": True}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refresh_every": 8}, "refresh_every has no effect without a cache; set cache$"),
        ({"refresh_every": 1}, "refresh_every has no effect without a cache"),
        ({"cache": "none", "refresh_every": 8}, "refresh_every has no effect without a cache"),
        *[
            (
                {"cache": name, "refresh_every": 1},
                f"refresh_every=1 computes everything in every step, which is cache: none, not {name}$",
            )
            for name in ("prefix", "dual", "delayed")
        ],
        ({"cache": "dual", **GUIDED}, "guidance: adaptive hides other tokens in every step, .*; set cache: none$"),
        ({"cache": "block_causal", "refresh_every": 4}, "refresh_every has no effect on cache: block_causal, which is"),
        ({"cache": "block_causal", **GUIDED}, "guidance: adaptive hides other tokens in every step"),
        ({"cache": "dual", "speculation": 3}, "a cache goes with neither speculation nor longest, whose canvases"),
        ({"cache": "block_causal", "speculation": 3}, "a cache goes with neither speculation nor longest"),
        ({"cache": "delayed", **GROWN}, "a cache goes with neither speculation nor longest"),
        ({"edit_threshold": 0.5, "eos_last": True}, "eos_last does not go with edit_threshold, which may"),
        (
            {"gen_length": 8, "block_length": 8, **APPENDED},
            "variable_length has no effect on a single block of block_length=8 tokens$",
        ),
    ],
)
def test_what_does_not_go_together_is_explained(fields, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**fields)


@pytest.mark.parametrize("name", ["prefix", "dual", "delayed", "block_causal"])
def test_model_that_keeps_no_keys_and_values_is_refused_with_a_cache(name):
    message = f"cache: {name} needs a model that keeps keys and values, as LLaDAForMaskedLM does; Hashing cannot$"
    with pytest.raises(ValueError, match=message):
        generate(MODELS[0], PROMPTS, None, SamplerConfig(gen_length=8, cache=name))


def test_cache_for_block_causal_attention_is_refused_for_a_bidirectional_model():
    sampler = SamplerConfig(gen_length=8, cache="block_causal")
    message = r"cache: block_causal needs a model whose attention is block-causal .*; for others .* take dual"
    with pytest.raises(ValueError, match=message):
        generate(KEEPING[0], PROMPTS, None, sampler)
    generate(transformer(block_length=4), PROMPTS, None, sampler)
