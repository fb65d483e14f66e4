"""Learning rates as pure functions of the step, and decay groups."""

import pytest
import torch

from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.optim import adamw, cosine, muon, warmup_stable_decay


def test_warmup_stable_decay_has_its_three_parts():
    rates = [warmup_stable_decay(s, peak=1.0, steps=10, warmup=2, decay=4, final=0.2) for s in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_warmup_stable_decay_without_its_parts_is_constant():
    assert [warmup_stable_decay(s, peak=0.3, steps=3) for s in range(3)] == [0.3] * 3


def test_cosine_goes_from_the_peak_to_the_final_rate():
    rates = [cosine(s, peak=1.0, steps=7, warmup=2, final=0.1) for s in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


def test_only_matrices_are_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    (optimizer,) = adamw(model, weight_decay=0.3)
    decayed, kept = optimizer.param_groups
    assert [p.dim() for p in decayed["params"]] == [2]
    assert [p.dim() for p in kept["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)


def test_frozen_parameters_are_left_out():
    model = torch.nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    (optimizer,) = adamw(model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_rest():
    config = LLaDAConfig(d_model=16, n_layers=2, n_heads=2, vocab_size=20, mask_token_id=0, include_qkv_bias=True)
    model = LLaDAForMaskedLM(config)
    momentum, rest = muon(model)
    names = {p: name for name, p in model.named_parameters()}
    inside = {names[p] for group in momentum.param_groups for p in group["params"]}
    outside = {names[p] for group in rest.param_groups for p in group["params"]}
    assert inside | outside == set(names.values())
    assert not inside & outside
    assert inside == {n for n in names.values() if n.endswith("_proj.weight")}
