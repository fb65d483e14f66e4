"""One pass for all blocks (T26 of the specification)."""

import numpy as np
import pytest
import torch
from test_batches import MASK, PAD, Tokens
from test_loop import tiny

from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Place, collate
from llada.train.objectives import (
    OBJECTIVES,
    Noise,
    Padded,
    block_diffusion_attention,
    cross_entropy,
    group_sums,
    weighted,
)


@pytest.mark.parametrize(("block_length", "pairs"), [(1, 156), (2, 168), (4, 192), (12, 288)])
def test_t26_numbers_of_pairs(block_length, pairs):
    allowed = block_diffusion_attention(torch.ones(3, 12, dtype=torch.bool), block_length)
    assert allowed.shape == (1, 1, 24, 24)
    assert int(allowed.sum()) == pairs


@pytest.fixture
def block_model() -> LLaDAForMaskedLM:
    return tiny(n_layers=2, block_length=4).double().eval()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("block_length", [1, 2, 4, 5, 12])
def test_t26_one_pass_gives_the_logits_of_a_pass_per_block(implementation, block_length):
    model = tiny(n_layers=2, block_length=block_length, max_sequence_length=12).double().eval()
    model.set_attn_implementation(implementation)
    x0 = torch.randint(2, 20, (2, 12))
    real = torch.ones(2, 12, dtype=torch.bool)
    uniforms = torch.rand(2, 12)
    noise = Noise(MASK, PAD, block_length=block_length)
    call = OBJECTIVES["block_diffusion"].ask(Padded(x0, real, real, torch.rand(2), uniforms), noise)
    together = model(**call.inputs).logits
    at = call.inputs["logits_at"]
    xt = call.inputs["input_ids"][:, :12]
    alone = torch.empty(2, 12, 20, dtype=torch.float64)
    for start in range(0, 12, block_length):
        stop = min(start + block_length, 12)
        canvas = torch.cat((x0[:, :start], xt[:, start:stop]), dim=1)
        alone[:, start:stop] = model(canvas).logits[:, start:stop]  # as it is when text is generated
    torch.testing.assert_close(together, alone[at // 24, at % 24], rtol=0, atol=1e-12)


def test_t26_a_clean_token_is_unknown_to_its_own_block_and_those_before(block_model):
    x0 = torch.randint(2, 20, (1, 12))
    real = torch.ones(1, 12, dtype=torch.bool)
    call = OBJECTIVES["block_diffusion"].ask(
        Padded(x0, real, real, torch.tensor([0.6]), torch.rand(1, 12)), Noise(MASK, PAD, block_length=4)
    )
    inputs = {**call.inputs, "logits_at": None}
    changed = inputs["input_ids"].clone()
    changed[0, 12 + 5] = 2 + (changed[0, 12 + 5] - 1) % 18  # in the second block
    difference = (block_model(**inputs).logits - block_model(**{**inputs, "input_ids": changed}).logits)[0, :12].abs()
    assert not difference[:8].any()
    assert (difference[8:].amax(dim=1) > 1e-6).all()


def test_padding_of_a_shorter_row_changes_nothing_about_it(block_model):
    rows = [{"x0": np.arange(2, 2 + n)} for n in (6, 11)]
    noise = Noise(MASK, PAD, block_length=4)
    objective = OBJECTIVES["block_diffusion"]
    together = collate([(Place(0, i, None), row) for i, row in enumerate(rows)], noise, 2, objective).call
    loss = weighted(group_sums(cross_entropy(block_model(**together.inputs).logits, together), together), together)
    sums = group_sums(cross_entropy(block_model(**together.inputs).logits, together), together)[0, :2]
    xt, masked = together.inputs["input_ids"][:1, :6], together.inputs["input_ids"][0, :6] == MASK
    x0 = torch.tensor(rows[0]["x0"])
    for block, (start, stop) in enumerate([(0, 4), (4, 6)]):
        canvas = torch.cat((x0[None, :start], xt[:, start:stop]), dim=1)
        logp = block_model(canvas).logits[0].log_softmax(dim=-1)
        expected = -sum(logp[i, x0[i]].item() for i in range(start, stop) if masked[i])
        assert sums[block].item() == pytest.approx(expected, abs=1e-9)
    assert loss.isfinite().all()


def test_t_of_every_block_is_uniform_and_blocks_of_a_row_differ():
    """Over a batch that is stratified, each block sees every number of masks equally often."""
    data = Tokens(count=16, length=8)
    noise = Noise(MASK, PAD, block_length=4)
    rows = [(Place(0, i, None), data[i]) for i in range(16)]
    call = collate(rows, noise, 16, OBJECTIVES["block_diffusion"]).call
    counts = torch.bincount(call.group, minlength=32).view(16, 2)
    assert counts[:, 0].bincount(minlength=5)[1:].tolist() == [4, 4, 4, 4]
    assert counts[:, 1].bincount(minlength=5)[1:].tolist() == [4, 4, 4, 4]
    assert (counts[:, 0] - counts[:, 1]).abs().tolist() == [2] * 16
