"""Rows do not depend on their neighbours, with and without a cache."""

from itertools import zip_longest

import pytest
import torch
from golden_model import GOLDEN, MASK, SAMPLERS, load_golden, prompts
from torch import Tensor

import llada
from llada.sampling.generate import SamplerConfig, generate, generation_states, infill

golden = pytest.fixture(scope="module")(load_golden)


@pytest.mark.parametrize("name", SAMPLERS)
def test_row_does_not_depend_on_its_neighbours(golden, name):
    model = golden[0].double()
    together = generate(model, prompts(3), None, SAMPLERS[name], seed=5)
    fewer = generate(model, prompts(3)[:2], None, SAMPLERS[name], seed=5)
    model.float()
    assert torch.equal(together.sequences[:2], fewer.sequences)
    assert torch.equal(together.forward_passes[:2], fewer.forward_passes)


@pytest.mark.parametrize("name", SAMPLERS)
def test_row_does_not_depend_on_padding(golden, name):
    model = golden[0].double()
    prompt = prompts(2)
    alone = generate(model, prompt, None, SAMPLERS[name], seed=9)
    padded = torch.cat((torch.full((2, 5), 17), prompt), dim=1)
    attention_mask = torch.cat((torch.zeros(2, 5), torch.ones_like(prompt)), dim=1).long()
    beside = generate(model, padded, attention_mask, SAMPLERS[name], seed=9)
    model.float()
    assert torch.equal(beside.sequences[:, 5:], alone.sequences)
    assert torch.equal(beside.tokens_per_forward, alone.tokens_per_forward)


CACHES = ["prefix", "dual", "delayed", "block_causal"]
KEEPING = {
    "drawn": {"temperature": 0.9},
    "few steps": {"temperature": 0.9, "steps": 4, "order": "random"},
    "adaptive": {"reveal": "threshold", "threshold": 0.1, "temperature": 0.9},
    "guided": {"temperature": 0.7, "cfg_scale": 0.5},
    "refreshed": {"temperature": 0.9, "refresh_every": 3},
    "edited": {"temperature": 0.9, "edit_threshold": 0.05, "edit_steps": 3},
    "masked again": {
        "reveal": "remdm",
        "remask": "cap",
        "eta": 0.3,
        "steps": 24,
        "temperature": 1.0,
        "refresh_every": 3,
    },
    "stops": {"temperature": 0.9, "stop_at_eos": True},
    "appended": {"temperature": 0.9, "stop_at_eos": True, "variable_length": True},
}
RAGGED = torch.tensor([[1] * 5, [0] * 2 + [1] * 3, [0] * 5])


def keeping(cache: str, fields: str) -> SamplerConfig:
    options = dict(KEEPING[fields])
    if cache == "block_causal":
        options.pop("refresh_every", None)  # refused: it is exact
    return SamplerConfig(gen_length=8, block_length=4, cache=cache, **options)


@pytest.fixture(scope="module")
def models():
    """By cache, one that it is for; in float64, so that other batch sizes round to the same tokens."""
    bidirectional, block_causal = (llada.load_pretrained(GOLDEN)[0].double() for _ in range(2))
    block_causal.config.block_length = 5  # other blocks than the sampler's, and other ones in each row
    return {cache: block_causal if cache == "block_causal" else bidirectional for cache in CACHES}


@pytest.mark.parametrize("fields", KEEPING)
@pytest.mark.parametrize("cache", CACHES)
def test_with_a_cache_rows_of_a_ragged_batch_are_what_they_are_alone(models, cache, fields):
    model, sampler, prompt = models[cache], keeping(cache, fields), prompts(3, 5)
    together = generate(model, prompt, RAGGED, sampler, seed=3)
    for i, padding in enumerate((0, 2, 5)):
        alone = generate(model, prompt[i : i + 1, padding:], None, sampler, seed=3, first_row=i)
        assert torch.equal(alone.sequences[0], together.sequences[i, padding:])
        assert alone.forward_passes[0] == together.forward_passes[i]
        if padding == 0:  # which costs positions
            assert alone.query_tokens[0] == together.query_tokens[i]


def test_the_rows_of_these_tests_end_at_different_times(models):
    """Or they would show less than they say."""
    for fields in ("adaptive", "stops", "appended"):
        out = generate(models["dual"], prompts(3, 5), RAGGED, keeping("dual", fields), seed=3)
        assert len(set(out.forward_passes.tolist())) > 1


@pytest.mark.parametrize("fields", ["drawn", "guided", "appended"])
@pytest.mark.parametrize("cache", CACHES)
def test_with_a_cache_interleaved_requests_do_not_touch_each_other(models, cache, fields):
    requests = [(prompts(2), 1), (prompts(3, 9), 2)]
    apart = [generate(models[cache], prompt, None, keeping(cache, fields), seed) for prompt, seed in requests]
    running = [
        generation_states(models[cache], prompt, None, keeping(cache, fields), seed) for prompt, seed in requests
    ]
    last: list[Tensor] = [prompt for prompt, _ in requests]
    for states in zip_longest(*running):
        last = [canvas if state is None else state.canvas for state, canvas in zip(states, last, strict=True)]
    assert all(torch.equal(canvas, alone.sequences) for canvas, alone in zip(last, apart, strict=True))


@pytest.mark.parametrize("fields", KEEPING)
def test_the_block_causal_cache_changes_nothing_but_the_cost(models, fields):
    sampler = keeping("block_causal", fields)
    kept, none = (
        generate(models["block_causal"], prompts(3, 5), RAGGED, given, seed=3)
        for given in (sampler, sampler.replace(cache="none", refresh_every=None))
    )
    assert torch.equal(kept.sequences, none.sequences)
    assert torch.equal(kept.forward_passes, none.forward_passes)
    assert (kept.query_tokens < none.query_tokens).all()


@pytest.mark.parametrize("cache", CACHES)
def test_infilling_keeps_keys_and_values_of_rows_that_wait_for_their_block(models, cache):
    """Rows have masks in different blocks, one in none."""
    canvas = prompts(4, 12)
    canvas[0, 1:3] = canvas[1, [4, 6, 11]] = canvas[2, 8:] = MASK
    sampler = SamplerConfig(block_length=4, cache=cache, temperature=0.9, cfg_scale=0.5)
    together = infill(models[cache], canvas, None, sampler, seed=1)
    assert (together.sequences != MASK).all()
    for i in range(4):
        alone = infill(models[cache], canvas[i : i + 1], None, sampler, seed=1, first_row=i)
        assert all(torch.equal(ours[0], theirs[i]) for ours, theirs in zip(alone, together, strict=True))


@pytest.mark.parametrize("fields", [{}, {"reveal": "threshold", "threshold": 0.3, "longest": 12}])
def test_rows_can_have_numbers_of_their_own(models, fields):
    sampler, numbers = SamplerConfig(gen_length=4, temperature=1.0, **fields), torch.tensor([5, 2**61 + 3])
    prompt = prompts(3, 5)[:1]
    both = generate(models["dual"], prompt.repeat(2, 1), sampler=sampler, first_row=numbers).sequences
    assert not torch.equal(both[0], both[1])
    for i, number in enumerate(numbers.tolist()):
        alone = generate(models["dual"], prompt, sampler=sampler, first_row=number).sequences[0]
        assert torch.equal(both[i, : len(alone)], alone)
    with pytest.raises(
        ValueError, match=r"first_row is torch.int64 \(2,\); give the number of the first row, or int64"
    ):
        generate(models["dual"], prompt, sampler=sampler, first_row=numbers)
