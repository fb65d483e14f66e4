"""The objectives by name, against the exact test bed: every mask of a row is enumerated, so expectations are exact."""

import itertools

import numpy as np
import pytest
import torch
from bed import BED, BEDS, STAR
from enumerated import MASKED, bed_noise, everything, losses, predicted
from test_batches import MASK, PAD
from torch import Tensor

from llada.train.batches import Place, collate
from llada.train.objectives import (
    OBJECTIVES,
    Noise,
    Padded,
    cross_entropy,
    group_sums,
    weighted,
)


@pytest.mark.parametrize("predictor", ["oracle", "bad"])
@pytest.mark.parametrize("name", ["elbo", "complementary"])
def test_a2_a8_mean_is_the_bound_of_any_predictor(name, predictor):
    for x in BED.sequences[::5]:
        expected = float(BED.nelbo(getattr(BED, predictor), x))
        assert float(losses(name, predictor, x).mean()) == pytest.approx(expected, abs=1e-12)


def test_a8_variance_is_worse_than_that_of_two_draws():
    assert float(losses("elbo").var(correction=0)) == pytest.approx(0.453449, abs=1e-6)
    assert float(losses("complementary").mean()) == pytest.approx(3.614771481960214, abs=1e-12)
    assert float(losses("complementary").var(correction=0)) == pytest.approx(1.8160, abs=1e-4)


def test_a8_means_of_both_sets():
    a = BED.a_k(BED.bad, STAR)
    sizes = [[3], [1, 2], [2, 1], [3]]
    expected = np.mean([np.mean([3 / k * float(a[k - 1]) for k in each]) for each in sizes])
    assert float(losses("complementary_mean", "bad").mean()) == pytest.approx(expected, abs=1e-12)
    assert expected != pytest.approx(float(BED.nelbo(BED.bad, STAR)), abs=1e-2)


def test_a6_uniform_weights_have_their_closed_form():
    """With t ~ U(0, 1) each number of masks 0..L is equally likely; exact counts leave out 0."""
    mean = float(losses("uniform", "bad").mean())
    assert mean * 3 / 4 == pytest.approx(2.150485, abs=1e-6)
    assert mean == pytest.approx(float(BED.a_k(BED.bad, STAR).mean()), abs=1e-12)


def test_a6_uniform_weights_with_independent_masks():
    """By midpoints in t, whose error falls with the square of their number."""
    x0 = STAR.expand(2000 * 8, 3)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))  # a token is masked where its number is 0
    t = ((torch.arange(2000) + 0.5) / 2000).double().repeat_interleave(8)
    whole = torch.ones_like(x0, dtype=torch.bool)
    noise = bed_noise(masking="bernoulli", eps=1e-9)
    call = OBJECTIVES["uniform"].ask(Padded(x0, whole, whole, t, corners.repeat(2000, 1)), noise)
    each = weighted(group_sums(cross_entropy(predicted(BED, "bad", call, noise), call), call), call)
    masked = 3 - corners.sum(dim=1).repeat(2000)
    probability = t**masked * (1 - t) ** (3 - masked) / 2000
    assert float((each * probability).sum()) == pytest.approx(2.150485, abs=1e-5)


def test_a6_cart_weights_every_mask_by_its_neighbours():
    x0 = torch.tensor([[2, 1, 0, 1]])
    whole = torch.ones(1, 4, dtype=torch.bool)
    padded = Padded(x0, whole, whole, torch.tensor([0.74]), torch.tensor([[0.9, 0.1, 0.2, 0.3]]))
    call = OBJECTIVES["cart"].ask(padded, Noise(9, 9))
    logits = torch.randn(3, 5, dtype=torch.float64)
    loss = weighted(group_sums(cross_entropy(logits, call), call), call)
    surprise = -logits.log_softmax(dim=-1)[torch.arange(3), x0[0, 1:]]
    assert loss.item() == pytest.approx(float((torch.tensor([0.15, 0.105, 0.0735]) * surprise).sum()), abs=1e-7)


def test_cart_does_not_count_padding_as_context():
    rows = [{"x0": np.arange(2, 2 + n)} for n in (4, 9)]
    noise = Noise(MASK, PAD, seed=2)
    together = collate([(Place(0, i, None), row) for i, row in enumerate(rows)], noise, 2, OBJECTIVES["cart"]).call
    alone = collate([(Place(0, 0, None), rows[0])], noise, 2, OBJECTIVES["cart"]).call
    assert torch.equal(together.weights[0, :4], alone.weights[0])
    assert not together.weights[0, 4:].any()


@pytest.mark.parametrize("name", MASKED)
def test_the_true_conditionals_are_where_every_gradient_vanishes(name):
    """The mean over the data and all masks of the gradient with respect to a table of logits, for each canvas seen."""
    noise = bed_noise(block_length=2)
    table: dict[tuple, Tensor] = {}
    for x, p in zip(BED.sequences, BED.p, strict=True):
        call = OBJECTIVES[name].ask(everything(x, 12), noise)
        logits = predicted(BED, "oracle", call, noise).requires_grad_()
        (gradient,) = torch.autograd.grad(
            weighted(group_sums(cross_entropy(logits, call), call), call).mean() * p, logits
        )
        if "position_ids" in call.inputs:
            L = 3
            at = call.inputs["logits_at"]
            row, position = at // (2 * L), at % (2 * L)
            canvas = torch.where(torch.arange(L) // 2 < (position // 2)[:, None], call.inputs["input_ids"][row, L:],
                                 call.inputs["input_ids"][row, :L])  # fmt: skip
            canvas = torch.where(torch.arange(L) // 2 > (position // 2)[:, None], BED.mask, canvas)
        else:
            row, position = call.inputs["logits_at"] // 3, call.inputs["logits_at"] % 3
            canvas = call.inputs["input_ids"][row]
        for seen, place, each in zip(canvas.tolist(), position.tolist(), gradient, strict=True):
            key = (*seen, place)
            table[key] = table.get(key, torch.zeros(3, dtype=torch.float64)) + each
    assert len(table) >= 17
    assert max(float(each.abs().max()) for each in table.values()) < 1e-12


@pytest.mark.parametrize("block_length", [1, 2, 3, 4])
@pytest.mark.parametrize("name", BEDS)
def test_a9_blocks_of_any_length_give_a_perfect_model_the_likelihood(name, block_length):
    bed = BEDS[name]
    for x, p in list(zip(bed.sequences, bed.p, strict=True))[::4]:
        each = losses("block_diffusion", x=x, bed=bed, grid=12, block_length=block_length)
        assert float(each.mean()) == pytest.approx(-float(p.log()), abs=1e-12)


def test_a9_blocks_of_one_token_are_autoregressive_without_variance():
    each = losses("block_diffusion", "bad", block_length=1)
    assert float(each.var()) < 1e-24
    chain = [STAR.tolist()[:i] + [BED.mask] * (3 - i) for i in range(3)]
    logp = BED.bad(torch.tensor(chain))[:, :, :3].log_softmax(dim=-1)
    assert float(each[0]) == pytest.approx(-sum(float(logp[i, i, STAR[i]]) for i in range(3)), abs=1e-12)


def test_a9_one_block_is_the_elbo():
    assert torch.allclose(losses("block_diffusion", "bad", block_length=3), losses("elbo", "bad"), rtol=0, atol=1e-12)


def test_a9_blocks_without_anything_maskable_cost_nothing():
    rows = [{"x0": np.arange(2, 10), "maskable": np.arange(8) >= 5}]
    noise = Noise(MASK, PAD, block_length=2)
    call = collate([(Place(0, 0, 8), rows[0])], noise, 1, OBJECTIVES["block_diffusion"]).call
    assert call.weights[0, :2].tolist() == [0, 0]
    assert call.weights[0, 2] == 1  # one of its two tokens is maskable
    assert (call.inputs["input_ids"][0, :5] == torch.arange(2, 7)).all()
