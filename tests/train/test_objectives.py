"""The objectives by name, against the exact test bed: every mask of a row is enumerated, so expectations are exact."""

import itertools
from types import SimpleNamespace

import console
import numpy as np
import pytest
import torch
from bed import BED, BEDS, STAR, Bed
from bed_model import Draws
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import tiny
from torch import Tensor
from transformers import AutoTokenizer

import llada
from llada.config import ConfigError
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Batch, Batches, Place, collate
from llada.train.build import parts
from llada.train.config import PretrainConfig, SFTConfig, TrainConfig
from llada.train.journal import read_log
from llada.train.loop import evaluate, fit
from llada.train.objectives import (
    OBJECTIVES,
    Call,
    Noise,
    Padded,
    block_diffusion_attention,
    cross_entropy,
    group_sums,
    weighted,
)
from llada.train.optim import adamw
from llada.train.run import train

# those that draw their masks; test_puma.py has the other one
MASKED = [name for name, objective in OBJECTIVES.items() if objective.masks and name != "puma"]


def bed_noise(bed: Bed = BED, **changes) -> Noise:
    return Noise(bed.mask, bed.mask, **changes)


def everything(x: Tensor, grid: int) -> Padded:
    """A row with each of `grid` times and each order of its positions, so that all sets of a size are equally often."""
    L = len(x)
    orders = torch.tensor(list(itertools.permutations(range(L))))  # (L!, L)
    t = ((torch.arange(grid) + 0.5) / grid).repeat_interleave(len(orders))
    shape = (len(t), L)
    return Padded(
        x0=x.expand(shape),
        maskable=torch.ones(shape, dtype=torch.bool),
        real=torch.ones(shape, dtype=torch.bool),
        t=t,
        uniforms=(orders.repeat(grid, 1) + 0.5) / L,
    )


def predicted(bed: Bed, predictor: str, call: Call, noise: Noise) -> Tensor:
    """The logits that the bed's predictor gives to a call, (N, V)."""
    canvas, at = call.inputs["input_ids"], call.inputs["logits_at"]
    function = getattr(bed, predictor)
    if "position_ids" not in call.inputs:
        return function(canvas).flatten(0, 1)[at][:, : bed.vocab]
    L, W = canvas.shape[1] // 2, noise.block_length
    xt, x0 = canvas[:, :L], canvas[:, L:]
    logits = torch.empty(*xt.shape, bed.vocab, dtype=torch.float64)
    for start in range(0, L, W):  # the clean blocks before, the own block as it is masked, nothing after it
        alone = torch.full_like(xt, bed.mask)
        alone[:, :start], alone[:, start : start + W] = x0[:, :start], xt[:, start : start + W]
        logits[:, start : start + W] = function(alone)[:, start : start + W, : bed.vocab]
    return logits[at // (2 * L), at % (2 * L)]


def losses(name: str, predictor: str = "oracle", x: Tensor = STAR, bed: Bed = BED, grid: int = 12, **noise) -> Tensor:
    """The loss of a row for every mask, each equally likely."""
    noise = bed_noise(bed, **noise)
    call = OBJECTIVES[name].ask(everything(x, grid), noise)
    return weighted(group_sums(cross_entropy(predicted(bed, predictor, call, noise), call), call), call)


# Values


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


# T26: one pass for all blocks


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


# In the loop

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


# Fine-tuning options


def conversations(**changes) -> Batch:
    data = Conversations()
    (batch,) = next(Batches(data, 8, Noise(MASK, PAD, **changes)).micro_batches(0, 1, 0, 1))
    return batch


def test_without_padding_in_the_loss_a_response_ends_with_one_end_of_sequence():
    data = Conversations()
    noise = Noise(MASK, PAD, eos_padding=False)
    batches = Batches(data, 8, noise)
    (batch,) = next(batches.micro_batches(0, 1, 0, 1))
    sizes = [len(data[batches.row(place)]["x0"]) for place in batch.places]
    visible = batch.call.inputs["attention_mask"]
    assert visible.sum(dim=1).tolist() == [n + 1 for n in sizes]
    assert batch.lengths.tolist() == [n - n // 2 + 1 for n in sizes]
    clean = batch.call.inputs["input_ids"].clone()
    clean[clean == MASK] = batch.call.targets
    assert all(int((row[:n] == PAD).sum()) == 0 and row[n] == PAD for row, n in zip(clean, sizes, strict=True))
    assert not ((batch.call.inputs["input_ids"] == MASK) & (visible == 0)).any()
    padded = conversations()
    assert padded.call.inputs["attention_mask"] is None
    assert (padded.lengths >= batch.lengths - 1).all()


def test_prompts_can_be_masked_too():
    data = Conversations()
    counts = []
    for mask_prompt in (False, True):
        noise = Noise(MASK, PAD, mask_prompt=mask_prompt, t_min=0.99)
        batches = Batches(data, 8, noise)
        (batch,) = next(batches.micro_batches(0, 1, 0, 1))
        sizes = [len(data[batches.row(place)]["x0"]) for place in batch.places]
        prompt = torch.arange(batch.call.inputs["input_ids"].shape[1]) < torch.tensor(sizes)[:, None] // 2
        counts.append(int(((batch.call.inputs["input_ids"] == MASK) & prompt).sum()))
        L = batch.call.inputs["input_ids"].shape[1]
        assert batch.lengths.tolist() == [L if mask_prompt else L - n // 2 for n in sizes]
    assert counts[0] == 0
    assert counts[1] > 20


@pytest.mark.parametrize("masking", ["count", "bernoulli"])
def test_t_stays_in_its_range(masking):
    data = Tokens(count=64, length=10)
    noise = Noise(MASK, PAD, masking=masking, t_min=0.3, t_max=0.8)
    call = collate([(Place(0, i, None), data[i]) for i in range(64)], noise, 64).call
    t = 1 / call.weights[:, 0]
    assert t.min() >= 0.3
    assert t.max() <= (0.8 + 1e-3 if masking == "bernoulli" else 0.81)
    assert t.max() - t.min() > 0.39
    call = collate([(Place(0, i, None), data[i]) for i in range(64)], noise, 64, OBJECTIVES["complementary"]).call
    assert call.weights[call.weights > 0].min() > 0.5 / 0.9


def test_t_of_blocks_stays_in_its_range():
    data = Tokens(count=64, length=10)
    noise = Noise(MASK, PAD, masking="bernoulli", t_min=0.3, t_max=0.8, block_length=5)
    call = collate([(Place(0, i, None), data[i]) for i in range(64)], noise, 64, OBJECTIVES["block_diffusion"]).call
    t = 1 / call.weights
    assert t.min() >= 0.3
    assert t.max() <= 0.801
    assert t.max() - t.min() > 0.4


# From the configuration


def configured(settings: dict, kind: type[TrainConfig] = PretrainConfig, **changes) -> TrainConfig:
    return kind(**settings | changes | {"output": "x"})


@pytest.fixture(scope="module")
def tuning(prepared, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tuning")
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    tokenizer.save_pretrained(folder / "model")
    model = tiny(vocab_size=len(tokenizer), max_sequence_length=200)
    model.config.mask_token_id, model.config.eos_token_id = tokenizer.mask_token_id, tokenizer.eos_token_id
    model.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as monkeypatch:
        console.llada(monkeypatch, "prepare", "instructions", folder / "data", "--count", 5)
    return {
        "init": str(folder / "model"),
        "train": str(folder / "data" / "train.jsonl"),
        "heldout": str(folder / "data" / "test.jsonl"),
        "max_length": 100,
        "steps": 3,
        "batch_size": 8,
        "optim": {"learning_rate": 0.01},
    }


@pytest.mark.parametrize("name", MASKED)
def test_objective_of_the_configuration_trains_saves_and_is_measured_by_a_bound(name, settings, tmp_path):
    blocks = {"block_length": 4} if name == "block_diffusion" else {}
    values = settings | {"objective": name, "steps": 5, "model": settings["model"] | blocks}
    train(PretrainConfig(**values, output=str(tmp_path / "run")))
    log = read_log(tmp_path / "run")
    ratios = log[-1]["mask_ratios"]
    assert ratios == sorted(ratios)
    assert 1 < len(ratios) == len(log[-1]["loss_at_mask_ratios"]) == len(log[-1]["ema_loss_at_mask_ratios"]) <= 16
    model, _ = llada.load_pretrained(tmp_path / "run" / "model")
    assert model.config.block_length == blocks.get("block_length")
    run = parts(PretrainConfig(**values, output="x"))
    assert run.batches.objective is OBJECTIVES[name]
    assert run.measure[1] is OBJECTIVES["block_diffusion" if name == "block_diffusion" else "elbo"]


def test_every_option_of_fine_tuning_reaches_the_batches(tuning):
    plain = parts(configured(tuning, SFTConfig))
    assert (plain.per, plain.batches.noise.eos_padding, plain.batches.noise.mask_prompt) == ("row", True, False)
    options = {"per": "token", "eos_padding": False, "mask_prompt": True, "t_min": 0.2, "t_max": 0.9}
    blocks = {"objective": "block_diffusion", "block_length": 8}
    changed = parts(configured(tuning, SFTConfig, **options, **blocks))
    noise = changed.batches.noise
    assert (changed.per, noise.eos_padding, noise.mask_prompt, noise.block_length) == ("token", False, True, 8)
    assert (noise.t_min, noise.t_max) == (0.2, 0.9)
    assert changed.model_config.block_length == 8
    measure = changed.measure[0]  # responses alone, and all t
    assert (measure.t_min, measure.t_max, measure.mask_prompt, measure.block_length) == (0.0, 1.0, False, 8)
    assert (plain.measure[0].eos_padding, measure.eos_padding) == (True, False)


def test_loss_of_fine_tuning_is_averaged_over_rows_or_over_tokens(tuning, tmp_path):
    losses = []
    for per in ("row", "token"):
        values = tuning | {"steps": 1, "masking": "count", "per": per, "output": str(tmp_path / per)}
        train(SFTConfig(**values))
        losses.append(read_log(tmp_path / per)[0]["loss"])
    assert losses[0] != pytest.approx(losses[1], abs=1e-3)


def test_fine_tuning_reveals_responses_step_by_step_also_with_adapters(tuning, tmp_path):
    lora = {"rank": 2, "dropout": 0.1}
    values = tuning | {"objective": "puma", "puma": {"stages": 2}, "lora": lora, "micro_batch_size": 3}
    train(SFTConfig(**values, output=str(tmp_path / "run")))
    log = read_log(tmp_path / "run")
    assert log[0]["tokens"] < log[0]["read"]
    assert log[-1]["bound"] > 0


def test_a_checkpoint_is_tuned_into_a_block_model(tuning, tmp_path):
    values = tuning | {"objective": "block_diffusion", "block_length": 8, "output": str(tmp_path / "run")}
    model, _ = llada.load_pretrained(train(SFTConfig(**values)))
    assert model.config.block_length == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_min": 0.5, "t_max": 0.5}, r"t_min=0\.5 must be below t_max=0\.5"),
        ({"t_max": 1.5}, "t_max"),
        ({"objective": "elbow"}, "objective"),
        ({"objective": "autoregressive", "t_min": 0.5}, "t_min has no effect with objective: autoregressive"),
    ],
)
def test_impossible_settings_are_refused(settings, changes, message):
    values = {name: value for name, value in settings.items() if name != "masking"}
    with pytest.raises(ConfigError, match=message):
        configured(values, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 4}, "block_length has no effect with objective: elbo"),
        ({"objective": "autoregressive", "eos_padding": True}, "eos_padding has no effect"),
        ({"objective": "autoregressive", "mask_prompt": True}, "mask_prompt has no effect"),
    ],
)
def test_impossible_settings_of_fine_tuning_are_refused(tuning, changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(tuning, SFTConfig, **changes)


def test_one_more_token_must_fit_where_responses_end_with_one(tuning):
    parts(configured(tuning, SFTConfig, eos_padding=False, max_length=199))
    with pytest.raises(ConfigError, match=r"max_length=200 and the end of sequence after it do not fit into .*=200"):
        parts(configured(tuning, SFTConfig, eos_padding=False, max_length=200))


def test_block_diffusion_without_a_length_says_where_to_give_it(settings, tuning):
    with pytest.raises(ConfigError, match=r"needs the length of a block; give model\.block_length"):
        parts(configured(settings, objective="block_diffusion"))
    with pytest.raises(ConfigError, match="needs the length of a block; give block_length"):
        parts(configured(tuning, SFTConfig, objective="block_diffusion"))


# A model that is trained so writes so


def test_block_diffusion_from_training_to_cached_sampling(tmp_path):
    data = Tokens(count=8, length=12)
    config = LLaDAConfig(
        d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=64, vocab_size=20, mask_token_id=MASK, eos_token_id=PAD,
        block_length=4, max_sequence_length=12, rope_theta=100.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LLaDAForMaskedLM(config)
    noise = Noise(MASK, PAD, block_length=4)
    objective = OBJECTIVES["block_diffusion"]
    before = evaluate(model, data, noise, objective=objective, draws=4)
    batches = Batches(data, 8, noise, objective=objective)
    list(fit(model, batches, adamw(model), learning_rate=lambda s: 0.01, steps=150))
    after = evaluate(model, data, noise, objective=objective, draws=4)
    assert after.value < 0.8 < 2 < before.value
    model.save_pretrained(tmp_path)
    loaded, _ = llada.load_pretrained(tmp_path)
    assert loaded.config.block_length == 4
    prompt = torch.tensor(data.rows[:, :4])
    sampler = llada.SamplerConfig.named("block_causal_cache", gen_length=8, block_length=4, steps=8)
    cached = llada.generate(loaded, prompt, sampler=sampler)
    whole = llada.generate(loaded, prompt, sampler=sampler.replace(cache="none"))
    assert torch.equal(cached.sequences, whole.sequences)
    assert (cached.query_tokens < whole.query_tokens).all()
    learnt = (cached.sequences[:, 4:] == torch.tensor(data.rows[:, 4:])).float().mean()
    assert learnt > 0.5
