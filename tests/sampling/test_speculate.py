"""Greedy speculation: the output of one step after another, exactly, in fewer calls (T21 of the specification)."""

import math
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
import torch
from tables import MASK, Table, canvases, final, settled

from llada.sampling import orders
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.schedules import cosine_counts, given_counts
from llada.sampling.speculate import greedy_speculation

NOISE = (0.0, 0.3, 1.0)
PLANS = [
    {},
    {"steps": 1},
    {"steps": 2},
    {"steps": 3},
    {"steps": 7},
    {"steps": 4, "counts": cosine_counts},
    {"counts": given_counts([2, 0, 1, 2]), "steps": 4},
    {"counts": lambda masks, steps: torch.ones(len(masks), 1, dtype=torch.long), "steps": 3},
    {"blocks": [slice(0, 2), slice(2, 5)]},
    {"blocks": [slice(2, 5), slice(0, 1)], "steps": 2},
    {"order": orders.entropy, "steps": 3},
    {"order": orders.random},
    {"order": orders.random, "blocks": [slice(0, 3), slice(3, 5)]},
    {"order": orders.excluding(orders.confidence, [0, 1])},
]


def plan(seed: int) -> dict[str, Any]:
    return PLANS[seed % len(PLANS)] | {"uniforms": row_uniforms(seed, torch.ones(4, 5))}


@cache
def greedily(seed: int) -> list[State]:
    """What greedy decoding does."""
    return list(denoise(Table(seed, NOISE[seed % 3]), canvases(seed), MASK, **plan(seed)))


@pytest.mark.parametrize("depth", [1, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 3, 4))])
def test_t21_greedy_speculation_is_greedy_decoding_on_300_random_tables(depth):
    saved = 0
    for seed in range(300):
        table, expected = Table(seed, NOISE[seed % 3]), greedily(seed)
        rounds = list(greedy_speculation(table, canvases(seed), MASK, depth=depth, **plan(seed)))
        assert torch.equal(final(rounds, canvases(seed)), final(expected, canvases(seed))), (seed, plan(seed))
        assert settled(rounds, canvases(seed)) == settled(expected, canvases(seed))
        assert [int(r.canvases.sum()) for r in rounds] == table.calls
        assert [r.index for r in rounds] == list(range(len(rounds)))
        saved += len(expected) - len(rounds)
        assert (sum(r.active.long() for r in rounds) <= sum(state.active.long() for state in expected)).all()
    assert saved == 0 if depth == 1 else saved > 50


def test_chain_of_one_canvas_has_the_very_states_of_denoise():
    for seed in range(50):
        rounds = list(greedy_speculation(Table(seed, NOISE[seed % 3]), canvases(seed), MASK, depth=1, **plan(seed)))
        for given, expected in zip(rounds, greedily(seed), strict=True):
            for name in (known.name for known in fields(State)):
                mine, other = getattr(given, name), getattr(expected, name)
                assert torch.equal(mine, other) if isinstance(other, torch.Tensor) else mine == other, name


@pytest.mark.parametrize(("depth", "calls"), [(1, 5), (2, 3), (3, 3), (4, 2), (9, 2)])
def test_greedy_drafts_that_all_come_true_take_a_call_per_depth_steps_and_one(depth, calls):
    rounds = list(greedy_speculation(Table(0, 0.0), torch.full((2, 5), MASK), MASK, depth=depth))
    assert len(rounds) == calls == 1 + math.ceil(4 / depth)
