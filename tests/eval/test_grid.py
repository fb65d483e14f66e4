"""The grid against all combinations, and what it takes for the same against the tokens that are computed."""

from itertools import product

import pytest
import torch

import llada
from llada.config import ConfigError
from llada.eval.grid import grid
from llada.sampling.config import SamplerConfig


def base(**fields) -> SamplerConfig:
    return SamplerConfig(**{"gen_length": 16} | fields)


def tried(fields: dict) -> list[tuple]:
    return [(one.steps, one.threshold, one.block_length, one.cache) for one in grid(base(**fields)).samplers]


LISTS = {
    "steps": [16, 8, 5, 2],
    "thresholds": [0.5, 0.9],
    "block_lengths": [None, 8, 4, 16],
    "caches": ["none", "dual"],
}


def test_grid_has_every_combination_that_makes_a_sampler_once():
    found = grid(base(temperature=0.5, eos_last=True), **LISTS)
    paces = [{"steps": n} for n in LISTS["steps"]] + [{"reveal": "threshold", "threshold": p} for p in (0.5, 0.9)]
    made, refused = set(), 0
    for pace, block_length, cache in product(paces, LISTS["block_lengths"], LISTS["caches"]):
        try:
            one = base(temperature=0.5, eos_last=True, **pace, block_length=block_length, cache=cache)
        except ConfigError:
            refused += 1
        else:
            made.add((one.reveal, one.steps, one.threshold, one.block_length or 16, one.cache))
    # one step in a block: the cache keeps nothing
    made -= {("top_k", 2, None, 8, "dual")}
    assert {(s.reveal, s.steps, s.threshold, s.block_length or 16, s.cache) for s in found.samplers} == made
    assert len(found.samplers) == len(made)
    assert found.refused == refused > 0
    assert found.repeated == 6 * 4 * 2 - refused - len(made)
    assert all(s.temperature == 0.5 and s.eos_last and s.gen_length == 16 for s in found.samplers)


@pytest.mark.parametrize(
    ("gen_length", "steps", "block_lengths"),
    [(16, {16, 8, 4, 2}, {None, 8, 4}), (12, {12, 6, 3, 1}, {None, 6, 3}), (7, {7, 3, 1}, {None}), (1, {1}, {None})],
)
def test_defaults_follow_the_length_of_an_answer(gen_length, steps, block_lengths):
    samplers = grid(SamplerConfig(gen_length=gen_length)).samplers
    assert {s.steps for s in samplers} - {None} == steps
    assert {s.threshold for s in samplers} - {None} == {0.7, 0.9, 0.95}
    assert {s.block_length for s in samplers} == block_lengths
    assert {s.cache for s in samplers if s.blocks > 1} <= {"none", "prefix", "dual"}


@pytest.mark.parametrize(
    ("fields", "steps", "thresholds", "block_lengths", "caches"),
    [
        ({"steps": 4}, {4}, {None}, {None, 8, 4}, {"none", "prefix", "dual"}),
        ({"reveal": "threshold", "threshold": 0.6}, {None}, {0.6}, {None, 8, 4}, {"none", "prefix", "dual"}),
        ({"steps": 4, "block_length": 8}, {4}, {None}, {8}, {"none", "prefix", "dual"}),
        ({"steps": 4, "block_length": 8, "cache": "delayed"}, {4}, {None}, {8}, {"delayed"}),
        ({"steps": 4, "cache": "none"}, {4}, {None}, {None, 8, 4}, {"none"}),
    ],
)
def test_what_the_base_sets_is_kept(fields, steps, thresholds, block_lengths, caches):
    columns = zip(*tried(fields), strict=True)
    assert [set(column) for column in columns] == [steps, thresholds, block_lengths, caches]


def test_lists_replace_what_the_base_sets():
    found = grid(base(steps=4, block_length=8), steps=[2], thresholds=[0.8], block_lengths=[None], caches=["none"])
    assert [(s.steps, s.threshold, s.block_length) for s in found.samplers] == [(2, None, None), (None, 0.8, None)]


@pytest.mark.parametrize(
    ("fields", "one", "other"),
    [
        ({"steps": 4}, "prefix", "dual"),
        ({"reveal": "threshold", "threshold": 0.01}, "prefix", "dual"),
        ({"steps": 2, "block_length": 8}, "none", "prefix"),
        ({"steps": 2, "block_length": 8}, "none", "dual"),
        ({"steps": 2, "block_length": 8}, "none", "delayed"),
        ({"steps": 1}, "none", "prefix"),
    ],
)
def test_samplers_that_are_left_out_as_repeated_compute_the_same(golden_folder, fields, one, other):
    model, _ = llada.load_pretrained(golden_folder / "tiny-mha")
    found = grid(base(**fields), block_lengths=[fields.get("block_length")], caches=[one, other])
    assert (len(found.samplers), found.repeated) == (1, 1)
    prompt = torch.randint(200, (3, 9), generator=torch.Generator().manual_seed(0))
    outs = [llada.generate(model, prompt, sampler=base(**fields | {"cache": cache})) for cache in (one, other)]
    assert torch.equal(outs[0].sequences, outs[1].sequences)
    assert torch.equal(outs[0].query_tokens, outs[1].query_tokens)


def test_samplers_that_compute_something_else_are_kept(golden_folder):
    model, _ = llada.load_pretrained(golden_folder / "tiny-mha")
    prompt = torch.randint(200, (2, 9), generator=torch.Generator().manual_seed(0))
    found = grid(base(steps=8, block_length=8), caches=["none", "prefix", "dual", "delayed"])
    costs = [tuple(llada.generate(model, prompt, sampler=s).query_tokens.tolist()) for s in found.samplers]
    assert len(set(costs)) == len(costs) == 4


def test_edits_after_the_only_step_of_a_block_use_the_cache():
    found = grid(base(edit_threshold=0.9, steps=2, block_length=8), caches=["none", "prefix", "dual"])
    assert len(found.samplers) == 3


@pytest.mark.parametrize(
    ("fields", "lists", "message"),
    [
        ({"reveal": "klass"}, {}, "reveal: klass is not swept"),
        ({}, {"caches": ["none", "duel"]}, "cache=duel makes no sampler: cache: Input should be 'none', 'prefix'"),
        ({}, {"steps": [16, 17]}, "steps=17 makes no sampler: steps=17 exceeds gen_length=16"),
        ({}, {"steps": [0]}, "steps=0 makes no sampler"),
        ({}, {"block_lengths": [None, 5]}, "block_length=5 makes no sampler: .* cannot be cut into blocks"),
        ({}, {"thresholds": [-0.5]}, "threshold=-0.5 makes no sampler"),
        ({"order": "entropy"}, {"thresholds": [0.9]}, "threshold=0.9 makes no sampler: .* compares scores"),
        ({"speculation": 3}, {"caches": ["none", "dual"]}, "cache=dual makes no sampler: a cache goes with neither"),
        ({}, {"steps": [], "thresholds": []}, "there is no sampler to try; give steps or thresholds"),
        ({}, {"caches": ["duel"]}, "there is no sampler to try: cache: Input should be 'none'"),
        ({}, {"caches": []}, "there is no sampler to try; give steps"),
        (
            {"refresh_every": 2, "cache": "dual"},
            {"caches": ["none"]},
            "there is no sampler to try: refresh_every has no effect",
        ),
    ],
)
def test_lists_that_cannot_act_are_refused(fields, lists, message):
    with pytest.raises(ConfigError, match=message):
        grid(base(**fields), **lists)


def test_usual_values_that_do_not_fit_are_left_out_and_counted():
    found = grid(base(speculation=3))
    assert {(s.cache, s.threshold) for s in found.samplers} == {("none", None)}
    assert found.refused > 0


def test_base_of_an_order_without_probabilities_has_steps_alone():
    assert {s.threshold for s in grid(base(order="entropy")).samplers} == {None}
