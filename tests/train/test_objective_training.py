"""The objectives in training: recorded losses, independence of the micro-batch, and held-out measures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bed import BED
from bed_model import Draws
from enumerated import MASKED, bed_noise, predicted
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import tiny

from llada.train.batches import Batches
from llada.train.loop import evaluate, fit
from llada.train.objectives import (
    OBJECTIVES,
    Call,
    Noise,
)
from llada.train.optim import adamw

# Five steps and a held-out bound with its standard error, recorded when the ELBO was the only objective.
RECORDED = {
    "pretraining count": ([3.964438, 3.1183548, 3.2653456, 3.3507252, 2.9793813], [3.1490966, 0.070214]),
    "pretraining bernoulli": ([3.813278, 1.5814769, 2.97912, 3.053302, 2.6679649], [2.4177998, 0.2430049]),
    "sft count": ([4.1126866, 3.1624327, 2.8938451, 2.8434834, 2.0586855], [3.4440085, 0.0850085]),
    "sft bernoulli": ([5.0138288, 3.1545026, 3.0188951, 3.584197, 2.4605534], [3.7166013, 0.5515722]),
}


@pytest.mark.parametrize("case", RECORDED)
def test_seeded_losses_of_the_elbo_are_what_they_were(case):
    stage, _, masking = case.partition(" ")
    data, per = (Tokens(), "token") if stage == "pretraining" else (Conversations(), "row")
    noise = Noise(MASK, PAD, seed=3, masking=masking, random_length=0.3 if stage == "pretraining" else 0.0)
    model = tiny()
    logs = list(fit(model, Batches(data, 8, noise, 3), adamw(model), learning_rate=lambda s: 0.01, steps=5, per=per))
    measured = evaluate(model, data, noise, draws=2)
    losses, bound = RECORDED[case]
    assert [log.loss for log in logs] == pytest.approx(losses, rel=1e-4)
    assert measured[:2] == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("masking", ["count", "bernoulli"])
@pytest.mark.parametrize("data", [Tokens(), Conversations()], ids=["pretraining", "fine-tuning"])
def test_every_objective_trains_and_does_not_depend_on_the_micro_batch(name, masking, data):
    noise = Noise(MASK, PAD, masking=masking, block_length=3, random_length=0.3 if isinstance(data, Tokens) else 0.0)
    ended = []
    for micro in (None, 3):
        model = tiny(block_length=3 if name == "block_diffusion" else None).double()
        batches = Batches(data, 8, noise, micro, objective=OBJECTIVES[name])
        logs = list(fit(model, batches, adamw(model), learning_rate=lambda s: 0.01, steps=2))
        ended.append([log.loss for log in logs] + [float(p.detach().sum()) for p in model.parameters()])
        assert logs[0].read >= logs[0].tokens * OBJECTIVES[name].reads
    assert ended[0] == pytest.approx(ended[1], abs=1e-6)


def test_objectives_differ():
    seen = set()
    for name in MASKED:
        model = tiny(block_length=3).double()
        batches = Batches(Tokens(), 8, Noise(MASK, PAD, block_length=3), objective=OBJECTIVES[name])
        (log,) = fit(model, batches, adamw(model), learning_rate=lambda s: 0.0, steps=1)
        seen.add(round(log.loss, 6))
    assert len(seen) == len(MASKED)


def test_complementary_sets_ask_every_token_once():
    for masking in ("count", "bernoulli"):
        noise = Noise(MASK, PAD, masking=masking)
        data = Conversations()
        (batch,) = next(Batches(data, 8, noise, objective=OBJECTIVES["complementary"]).micro_batches(0, 1, 0, 1))
        xt = batch.call.inputs["input_ids"]
        assert xt.shape[0] == 16
        masks = (xt == MASK).view(8, 2, -1)
        assert not masks.all(dim=1).any()
        assert torch.equal(masks.sum(dim=(1, 2)), batch.lengths)
        assert len(batch.call.targets) == int(batch.lengths.sum())


@pytest.mark.parametrize("name", ["uniform", "puma", "cart", "complementary", "complementary_mean"])
def test_held_out_rows_are_not_measured_by_what_is_no_bound_or_not_the_best(name):
    with pytest.raises(ValueError, match="measured by a bound on their likelihood: elbo, block_diffusion, autoregr"):
        evaluate(tiny(), Tokens(), Noise(MASK, PAD), objective=OBJECTIVES[name])


def test_block_diffusion_needs_the_length_of_a_block():
    with pytest.raises(ValueError, match=r"needs noise\.block_length"):
        evaluate(tiny(), Tokens(), Noise(MASK, PAD), objective=OBJECTIVES["block_diffusion"])


class Perfect(torch.nn.Module):
    """The bed's oracle, called as a LLaDA is."""

    def __init__(self, noise: Noise):
        super().__init__()
        self.noise = noise

    def forward(self, **inputs):
        call = Call(inputs, torch.empty(0), torch.empty(0), torch.empty(0))
        return SimpleNamespace(logits=predicted(BED, "oracle", call, self.noise))


@pytest.mark.parametrize(("name", "block_length"), [("elbo", None), ("block_diffusion", 2), ("block_diffusion", 1)])
def test_measure_of_a_perfect_model_is_the_entropy(name, block_length):
    """False alarm below 1e-6 (five standard errors)."""
    noise = bed_noise(block_length=block_length)
    measured = evaluate(Perfect(noise), Draws(3000), noise, objective=OBJECTIVES[name])
    assert abs(measured.value - 3.1847219884839904 / 3) < 5 * measured.stderr


def test_loss_by_share_of_masks_is_the_curve_of_the_bed():
    """a_1, a_2, a_3 of the bed at shares 1/3, 2/3 and 1; each within 0.05, about five standard errors."""
    measured = evaluate(Perfect(bed_noise()), Draws(6000), bed_noise())
    assert measured.curve.mask_ratios == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-6)
    expected = [1.029607231003069, 1.0701488522415736, 1.0849659052393474]
    assert measured.curve.losses == pytest.approx(expected, abs=0.05)


def test_loss_by_share_of_masks_agrees_with_the_bound_it_came_with():
    """Each number of masks of 16 is met once in 16 rows: the bound per token is the mean of the curve."""
    data = Tokens(count=16, length=16)
    measured = evaluate(tiny(), data, Noise(MASK, PAD), draws=1)
    assert np.mean(measured.curve.losses) == pytest.approx(measured.value, abs=1e-5)
