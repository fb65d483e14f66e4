"""The loop: the gradient of the global batch for every split, learning, evaluation, and its guard."""

import math

import pytest
import torch
from accelerate import Accelerator
from bed import BED
from bed_model import Draws
from test_batches import MASK, PAD, Conversations, Tokens
from torch import nn

from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Batches
from llada.train.loop import evaluate, fit
from llada.train.objectives import Noise
from llada.train.optim import adamw


def tiny(seed: int = 0, **sizes) -> LLaDAForMaskedLM:
    torch.manual_seed(seed)
    return LLaDAForMaskedLM(
        LLaDAConfig(
            **{"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32, "vocab_size": 20, **sizes},
            mask_token_id=MASK,
            eos_token_id=PAD,
        )
    )


class Recorded(torch.optim.SGD):
    """An optimiser that keeps the gradients it was given."""

    def step(self, closure=None):
        self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(closure)


def gradient(data, noise: Noise, per: str, micro_batch_size: int | None) -> tuple[float, list[torch.Tensor]]:
    model = tiny().double()
    optimizer = Recorded(model.parameters(), lr=0.0)
    batches = Batches(data, 12, noise, micro_batch_size)
    (log,) = fit(model, batches, [optimizer], learning_rate=lambda step: 0.0, steps=1, per=per, max_grad_norm=math.inf)
    return log.loss, optimizer.gradients


@pytest.mark.parametrize(
    ("data", "per", "random_length"),
    [
        (Tokens(), "token", 0.0),
        (Tokens(), "token", 0.7),
        (Conversations(), "row", 0.0),
        (Conversations(), "token", 0.0),
    ],
    ids=["pretraining", "random lengths", "fine-tuning", "fine-tuning per token"],
)
@pytest.mark.parametrize("micro_batch_size", [1, 2, 5, 8])
def test_loss_and_gradient_do_not_depend_on_the_micro_batch(data, per, random_length, micro_batch_size):
    noise = Noise(MASK, PAD, random_length=random_length)
    loss, gradients = gradient(data, noise, per, None)
    split_loss, split_gradients = gradient(data, noise, per, micro_batch_size)
    assert split_loss == pytest.approx(loss, rel=1e-6)  # logged in float32
    for a, b in zip(gradients, split_gradients, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_model_learns_and_the_log_describes_it():
    model, noise = tiny(), Noise(MASK, PAD)
    data = Tokens(count=16)
    before = evaluate(model, data, noise, draws=4)
    logs = list(fit(model, Batches(data, 8, noise), adamw(model), learning_rate=lambda s: 0.01 + s * 1e-6, steps=120))
    after = evaluate(model, data, noise, draws=4)
    assert [log.step for log in logs] == list(range(1, 121))
    assert logs[7].learning_rate == pytest.approx(0.010007)
    assert all(log.tokens == 80 and log.grad_norm > 0 for log in logs)
    assert after.value < before.value - 0.5


def test_gradient_is_clipped_to_the_norm():
    model = tiny()
    optimizer = Recorded(model.parameters(), lr=0.0)
    (log,) = fit(model, Batches(Tokens(), 8, Noise(MASK, PAD)), [optimizer], learning_rate=lambda s: 0.0, steps=1,
                 max_grad_norm=1e-3)  # fmt: skip
    norm = torch.stack([g.norm() for g in optimizer.gradients]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert log.grad_norm > 1e-2


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_loss_stops_before_the_update_and_names_the_samples(poison):
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[3] = poison
    before = [p.clone() for p in model.parameters()]
    logs = fit(model, Batches(Tokens(), 8, Noise(MASK, PAD)), adamw(model), learning_rate=lambda s: 0.1, steps=2)
    with pytest.raises(FloatingPointError, match=r"step 1: loss .* nothing was updated.*Rows of the data: "):
        next(logs)
    assert all(torch.equal(a, b) or not a.isfinite().all() for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "tokens"}, "per='tokens' is unknown; average the loss over each 'token' or each 'row'"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0 must be above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0 must be above 0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm=nan must be above 0"),
        ({"start": -1}, "start=-1 must be a whole number of at least 0"),
        ({"steps": 1.5}, "steps=1.5 must be a whole number of at least 0"),
        ({"learning_rate": lambda s: math.nan}, r"learning_rate\(0\) is nan; it must be a number from 0 to 1e6"),
        ({"learning_rate": lambda s: -1e-3}, r"learning_rate\(0\) is -0.001; it must be"),
        ({"learning_rate": lambda s: 1e300}, r"learning_rate\(0\) is 1e\+300; it must be"),
        ({"learning_rate": lambda s: None}, r"learning_rate\(0\) is None; it must be"),
    ],
)
def test_updates_that_would_mean_nothing_are_refused_before_the_first_one(options, message):
    model = tiny()
    before = [p.clone() for p in model.parameters()]
    logs = fit(model, Batches(Tokens(), 8, Noise(MASK, PAD)), adamw(model),
               **{"learning_rate": lambda s: 0.1, "steps": 1} | options)  # fmt: skip
    with pytest.raises(ValueError, match=message):
        next(logs)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Oracle(nn.Module):
    """The test bed's perfect model with the interface of ours; its mask id is the bed's."""

    def forward(self, input_ids, attention_mask=None, logits_at=None):
        logits = BED.oracle(input_ids)[..., : BED.vocab]
        from types import SimpleNamespace

        return SimpleNamespace(logits=logits.flatten(0, 1)[logits_at])


def test_held_out_bound_of_a_perfect_model_is_the_entropy_within_its_standard_error():
    """False alarm below 1e-6 (five standard errors); the standard error itself is checked by repetition."""
    noise = Noise(BED.mask, BED.mask)
    entropy_per_token = 3.1847219884839904 / 3
    bound = evaluate(Oracle(), Draws(4000), noise, draws=2)
    assert abs(bound.value - entropy_per_token) < 5 * bound.stderr
    assert bound.samples == 8000
    assert 0.002 < bound.stderr < 0.01


def test_held_out_bound_does_not_depend_on_the_batch_size():
    model, data, noise = tiny(), Conversations(), Noise(MASK, PAD)
    one, many = (evaluate(model, data, noise, batch_size=size, draws=2) for size in (1, 7))
    assert one.value == pytest.approx(many.value, abs=1e-6)
    assert one.stderr == pytest.approx(many.stderr, abs=1e-6)


def test_evaluation_leaves_the_training_mode_as_it_was():
    model = tiny().train()
    evaluate(model, Tokens(), Noise(MASK, PAD))
    assert model.training


def test_evaluation_needs_two_rows():
    with pytest.raises(ValueError, match="at least 2 rows"):
        evaluate(tiny(), Tokens(count=1), Noise(MASK, PAD))


@pytest.mark.parametrize(("name", "value"), [("batch_size", -1), ("batch_size", 0), ("draws", 0), ("draws", 1.5)])
def test_evaluation_of_no_rows_at_once_or_no_masks_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be a whole number of at least 1"):
        evaluate(tiny(), Tokens(count=2), Noise(MASK, PAD), **{name: value})


def test_held_out_loss_that_is_no_number_is_an_error_that_names_the_rows():
    model = tiny().train()
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    with pytest.raises(FloatingPointError, match=r"held-out rows \[0, 1, 2\] is not a number; look at the weights"):
        evaluate(model, Tokens(count=3), Noise(MASK, PAD))
    assert model.training


def test_held_out_token_that_is_impossible_makes_the_bound_infinite():
    class Sure(Oracle):
        def forward(self, input_ids, attention_mask=None, logits_at=None):
            out = super().forward(input_ids, attention_mask, logits_at)
            out.logits[:, 0] = -math.inf
            return out

    bound = evaluate(Sure(), Draws(50), Noise(BED.mask, BED.mask))
    assert (bound.value, bound.stderr) == (math.inf, math.inf)


def test_gradient_checkpointing_changes_nothing_about_the_loop():
    losses = []
    for checkpointing in (False, True):
        model = tiny(n_layers=2)
        if checkpointing:
            model.gradient_checkpointing_enable()
        logs = fit(model, Batches(Tokens(), 8, Noise(MASK, PAD)), adamw(model), learning_rate=lambda s: 0.01, steps=3,
                   accelerator=Accelerator())  # fmt: skip
        losses.append([log.loss for log in logs])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
