"""Progressive unmasking: the exact test bed, what the pool holds when, the loop, and configurations."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from bed import BEDS
from bed_model import BedModel, models, total
from test_batches import MASK, PAD, Conversations, Tokens, packed
from test_loop import tiny
from torch import Tensor, nn

from llada.config import ConfigError
from llada.eval.exact import ordered_log_likelihood
from llada.train.batches import Batch, Batches, Place, Rows
from llada.train.build import parts, place, processes
from llada.train.config import PretrainConfig, PumaConfig
from llada.train.dropout import keyed
from llada.train.journal import read_log
from llada.train.loop import evaluate, fit
from llada.train.noise import share_uniforms, slot_order
from llada.train.objectives import ELBO, OBJECTIVES, Noise, largest_log_probability
from llada.train.optim import adamw
from llada.train.plan import plan
from llada.train.puma import Pool, Stages, reveal, still_masked
from llada.train.run import train

PUMA = OBJECTIVES["puma"]


def pool_of(
    rows: Rows,
    size: int = 8,
    stages: int | Stages = 4,
    micro: int | None = None,
    threshold: float | None = None,
    **noise,
) -> Pool:
    batches = Batches(rows, size, Noise(MASK, PAD, **noise), micro, objective=PUMA)
    return Pool(batches, Stages(stages) if isinstance(stages, int) else stages, threshold)


def hashed(batch: Batch) -> Tensor:
    """A confidence for every masked position that depends on what its row shows, and on nothing beside it."""
    canvas = batch.call.inputs["input_ids"]
    position = torch.arange(1, canvas.shape[1] + 1)
    seen = (canvas * position * (canvas != PAD)).sum(dim=1, keepdim=True)
    values = (seen * 37 + position * position * 101) % 97 / 97.0
    return -values.flatten()[batch.call.inputs["logits_at"]] - 0.01


def told(
    pool: Pool,
    start: int,
    stop: int,
    confidence: Callable[[Batch], Tensor] = hashed,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[list[Batch]]:
    """The micro-batches of each step, after they were told their confidences."""
    for micro_batches in pool.micro_batches(rank, processes, start, stop):
        for batch in micro_batches:
            assert batch.tell is not None
            batch.tell(confidence(batch))
        yield micro_batches


class Seen(NamedTuple):
    """A row in a step."""

    place: Place
    x0: list[int]
    masked: list[bool]
    length: int  # tokens that count
    weight: float

    @property
    def left(self) -> int:
        return sum(self.masked)


def seen(micro_batches: list[Batch], mask: int = MASK) -> list[Seen]:
    """The rows of a step in the order of their slots, without padding."""
    rows = []
    for batch in micro_batches:
        xt, real = batch.call.inputs["input_ids"], batch.call.inputs["attention_mask"]
        masked = xt == mask
        x0 = xt.clone()
        x0[masked] = batch.call.targets
        for i, where in enumerate(batch.places):
            n = xt.shape[1] if real is None or real.dim() > 2 else int(real[i].sum())
            fields = x0[i, :n].tolist(), masked[i, :n].tolist()
            rows.append(Seen(where, *fields, int(batch.lengths[i]), float(batch.call.weights[i])))
    return rows


# The exact test bed


@pytest.fixture
def one_token_per_stage(monkeypatch) -> None:
    """With K = L and r = (s + 1/4) / K, exactly s tokens are visible in stage s."""
    monkeypatch.setattr("llada.train.puma.share_uniforms", lambda seed, step, size: torch.full((size,), 0.25))


class One:
    """A single row."""

    def __init__(self, x0: Tensor):
        self.x0 = x0.numpy()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x0": self.x0}


def cost_of_reveals(bed, predictor: str, x: Tensor) -> float:
    """The cross-entropy of each token in the step after which it is revealed; the last one's in the last stage."""
    pool = Pool(Batches(One(x), 1, Noise(bed.mask, bed.mask), objective=PUMA), Stages(bed.length))
    cost, before = 0.0, None
    for (batch,) in pool.micro_batches(0, 1, 0, bed.length):
        canvas = batch.call.inputs["input_ids"]
        logits = getattr(bed, predictor)(canvas)[..., : bed.vocab].flatten(0, 1)[batch.call.inputs["logits_at"]]
        masked = canvas[0] == bed.mask
        if before is not None:
            cost += float(before[~masked].sum())
        before = torch.zeros(bed.length, dtype=torch.float64)
        before[masked] = nn.functional.cross_entropy(logits, batch.call.targets, reduction="none")
        batch.tell(largest_log_probability(logits))
    return cost + float(before.sum())


@pytest.mark.usefixtures("one_token_per_stage")
@pytest.mark.parametrize(("name", "predictor"), models())
def test_d4_tokens_cost_the_likelihood_of_the_most_probable_first(name, predictor):
    bed = BEDS[name]
    found = [-cost_of_reveals(bed, predictor, x) for x in bed.sequences]
    assert total(found) == pytest.approx(1, abs=1e-12)
    model = BedModel(bed, predictor)
    expected = [ordered_log_likelihood(model, [], x, "max_probability").value for x in bed.sequences]
    assert found == pytest.approx(expected, abs=1e-12)
    if predictor == "oracle":
        assert found == pytest.approx(bed.p.log().tolist(), abs=1e-12)


def test_loss_of_a_row_is_the_mean_cross_entropy_of_what_is_masked():
    model = tiny().double()
    losses = []
    for (batch,) in told(pool_of(Tokens(), micro=None), 0, 3):
        logits = model(batch.call.inputs["input_ids"]).logits.flatten(0, 1)[batch.call.inputs["logits_at"]]
        each = nn.functional.cross_entropy(logits, batch.call.targets, reduction="none")
        rows = batch.call.inputs["logits_at"] // 10
        losses.append(torch.stack([each[rows == i].mean() for i in range(8)]).mean().item())
    logs = fit(model, pool_of(Tokens()), [torch.optim.SGD(model.parameters())], learning_rate=lambda s: 0.0, steps=1)
    assert [log.loss for log in logs] == pytest.approx(losses[:1], rel=1e-6)  # logged in float32


# What is revealed


def random_rows(count: int = 200, length: int = 9) -> tuple[Tensor, Tensor]:
    """Masks and a log-probability at each of them, without ties."""
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(count, length, generator=generator) < 0.6
    masked[:, 4] = True
    confidences = -(torch.randperm(int(masked.sum()), generator=generator) + 1) / 100.0
    return masked, confidences


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_the_surest_positions_are_revealed(threshold):
    masked, confidences = random_rows()
    left = torch.arange(200) % 9 + 1
    after = reveal(masked, confidences, left, threshold)
    score = torch.full(masked.shape, -math.inf)
    score[masked] = confidences
    sure = 0
    for row in range(200):
        have = masked[row].nonzero()[:, 0].tolist()
        ranked = sorted(have, key=lambda i: -float(score[row, i]))
        above = 0 if threshold is None else sum(float(score[row, i].exp()) > threshold for i in have)
        shown = min(max(len(have) - int(left[row]), above), len(have) - 1)
        assert set(after[row].nonzero()[:, 0].tolist()) == set(ranked[shown:])
        sure += above > max(0, len(have) - int(left[row]))
    assert (sure > 20) == (threshold is not None)


def test_of_equal_confidences_the_leftmost_are_revealed():
    masked = torch.tensor([[False, True, True, True, True], [True, True, True, True, True]])
    confidences = torch.tensor([-1.0, -0.5, -1.0, -1.0, *[-2.0] * 5])
    after = reveal(masked, confidences, torch.tensor([2, 3]))
    assert after.tolist() == [[False, False, False, True, True], [False, False, True, True, True]]


def test_confidences_that_rounding_alone_tells_apart_are_equal():
    """A row that is masked everywhere: every position sees the same, and sums round in another way."""
    noise = torch.tensor([0.0, 3e-7, -2e-7, 4e-7, 1e-7])
    assert reveal(torch.ones(1, 5, dtype=torch.bool), -1.2345 + noise, torch.tensor([3])).tolist() == [
        [False, False, True, True, True]
    ]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_not_a_number_counts_as_the_lowest(bad):
    masked = torch.tensor([[True, False, True, True]])
    after = reveal(masked, torch.tensor([bad, bad, -3.0]), torch.tensor([2]))
    assert after.tolist() == [[True, False, True, False]]
    assert reveal(masked, torch.full((3,), bad), torch.tensor([1])).tolist() == [[False, False, False, True]]


def test_one_position_stays_masked_whatever_the_threshold_says():
    masked = torch.tensor([[True, True, True], [False, True, False]])
    after = reveal(masked, torch.tensor([-1e-4, -3e-3, -2e-2, -1e-5]), torch.tensor([3, 1]), 0.5)
    assert after.tolist() == [[False, False, True], [False, True, False]]


def test_so_much_is_masked():
    t = torch.tensor([1.0, 0.96, 0.94, 0.5, 0.04, 1e-9, 0.3], dtype=torch.float64)
    lengths = torch.tensor([10, 10, 10, 10, 10, 10, 1])
    assert still_masked(t, lengths).tolist() == [10, 10, 9, 5, 1, 1, 1]


# Stages


def check_course(pool: Pool, stop: int, threshold: bool = False) -> list[list[Seen]]:
    """Follow the rows of a pool: order, stages, counts, tokens; the rows of every step."""
    noise, B = pool.batches.noise, pool.batches.batch_size
    offsets = slot_order(noise.seed, B)
    history = [seen(step) for step in told(pool, 0, stop)]
    for step, rows in enumerate(history):
        K, along = pool.stages.at(step), sum((Fraction(1, pool.stages.at(i)) for i in range(step)), Fraction(0))
        uniforms = share_uniforms(noise.seed, step, B)
        for slot, row in enumerate(rows):
            number, part = divmod(along + Fraction(int(offsets[slot]), B), 1)
            epoch, batch = divmod(int(number), pool.batches.per_epoch)
            assert (row.place.epoch, row.place.index) == (epoch, batch * B + slot)
            stage = int(part * K)
            share = (stage + float(uniforms[slot])) / K
            assert stage / K <= share < (stage + 1) / K
            visible = min(round(share * row.length), row.length - 1)
            before = history[step - 1][slot] if step else None
            if before is not None and before.place == row.place:
                assert not any(now and not then for now, then in zip(row.masked, before.masked, strict=True))
                visible = max(visible, row.length - before.left)
            assert row.left == row.length - visible if not threshold else 1 <= row.left <= row.length - visible
            assert row.weight == pytest.approx(row.length / row.left)
    return history


@pytest.mark.parametrize("stages", [1, 3, 4, 10, 25])
def test_rows_go_through_their_stages_and_are_replaced(stages):
    data = Tokens(count=24, length=10)
    history = check_course(pool_of(data, 8, stages, seed=3), 3 * stages + 2)
    for slot in range(8):
        places = [rows[slot].place for rows in history]
        changes = [step for step in range(1, len(places)) if places[step] != places[step - 1]]
        assert all(later - earlier == stages for earlier, later in pairwise(changes))
        assert len(changes) in (3, 4) if stages > 1 else len(changes) == 4
        for rows in history:  # true tokens, of the row that is there
            assert rows[slot].x0 == data.rows[pool_of(data, 8, stages, seed=3).row(rows[slot].place)].tolist()


def test_slots_are_spread_evenly_over_the_stages_also_while_they_become_more():
    stages = Stages(2, add=1, every=7, to=4)
    pool = pool_of(Tokens(count=40), 12, stages)
    assert [stages.at(step) for step in (0, 6, 7, 13, 14, 99)] == [2, 2, 3, 3, 4, 4]
    check_course(pool, 30)
    offsets = slot_order(0, 12)
    for step in range(30):
        K = stages.at(step)
        along = [(stages.passed(step) + Fraction(int(i), 12)) % 1 for i in offsets]
        assert np.bincount([int(part * K) for part in along], minlength=K).tolist() == [12 // K] * K


def test_rows_that_passed_are_the_sum_of_what_a_step_passes():
    for stages in (Stages(5), Stages(2, 3, 4, 11), Stages(12, 3, 30, 42)):
        for step in (0, 1, 3, 4, 5, 17, 400):
            assert stages.passed(step) == sum((Fraction(1, stages.at(i)) for i in range(step)), Fraction(0))
    assert Stages(12, 3, 30_000, 42).at(10**6) == 42
    assert Stages(12, 3, 30_000, 42).passed(10**6) > 10**6 / 42


def test_fewer_stages_show_more_rows():
    def rows(stages: int) -> int:
        return len({row.place for step in told(pool_of(Tokens(), 8, stages), 0, 12) for row in seen(step)})

    assert (rows(3), rows(12)) == (8 + 8 * 4 - 8 // 3 - 1, 15)


def test_confidences_decide_what_is_revealed():
    def left_to_right(batch: Batch) -> Tensor:
        return -(batch.call.inputs["logits_at"] % 10).float() - 1

    first, second = (
        [row.masked for step in told(pool_of(Tokens()), 0, 6, by) for row in seen(step)]
        for by in (hashed, left_to_right)
    )
    assert first[:8] == second[:8]  # the first reveal is random
    assert first != second
    counts = [sum(masked) for masked in first]
    assert counts == [sum(masked) for masked in second]


def test_threshold_reveals_more_and_never_all():
    plain = check_course(pool_of(Tokens()), 12)
    eager = check_course(pool_of(Tokens(), threshold=0.7), 12, threshold=True)
    assert [[row.place for row in rows] for rows in plain] == [[row.place for row in rows] for rows in eager]
    assert sum(row.left for rows in eager for row in rows) < sum(row.left for rows in plain for row in rows) - 30


def test_first_reveal_of_a_row_is_random_and_seeded():
    """Of 600 rows each position is as often masked as the others: chi-square below 30 (9 degrees of freedom: 4e-4)."""
    data = Tokens(count=600, length=10)
    (rows,) = [seen(step) for step in told(pool_of(data, 600, 4), 0, 1)]
    (again,) = [seen(step) for step in told(pool_of(data, 600, 4), 0, 1)]
    (other,) = [seen(step) for step in told(pool_of(data, 600, 4, seed=1), 0, 1)]
    assert rows == again
    assert [row.masked for row in rows] != [row.masked for row in other]
    masked = np.array([row.masked for row in rows]).sum(axis=0)
    expected = masked.sum() / 10
    assert ((masked - expected) ** 2 / expected / (1 - expected / 600)).sum() < 30


def test_shares_are_uniform_and_slots_ahead_in_a_random_order():
    """Chi-square with 19 degrees of freedom below 50 (false alarm 1.3e-4)."""
    drawn = torch.cat([share_uniforms(0, step, 100) for step in range(100)])
    counts = torch.histc(drawn, 20, 0, 1)
    assert float(((counts - 500) ** 2 / 500).sum()) < 50
    assert not torch.equal(share_uniforms(0, 1, 8), share_uniforms(1, 1, 8))
    assert sorted(slot_order(0, 50).tolist()) == list(range(50))
    assert slot_order(0, 50).tolist() != slot_order(1, 50).tolist()


# Splits and resumption


@pytest.mark.parametrize("data", [Tokens(), Conversations()], ids=["pretraining", "fine-tuning"])
@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize(("processes", "micro"), [(1, 3), (2, None), (2, 1), (4, 2)])
def test_masks_do_not_depend_on_the_split(data, threshold, processes, micro):
    options = {"threshold": threshold, "random_length": 0.3 if isinstance(data, Tokens) else 0.0, "seed": 5}
    reference = [seen(step) for step in told(pool_of(data, **options), 0, 9)]
    pools = [pool_of(data, micro=micro, **options) for _ in range(processes)]
    streams = [told(pool, 0, 9, hashed, rank, processes) for rank, pool in enumerate(pools)]
    for expected, parts_of_step in zip(reference, zip(*streams, strict=True), strict=True):
        assert [row for part in parts_of_step for row in seen(part)] == expected


@pytest.mark.parametrize(("processes", "then"), [(1, 1), (2, 1), (1, 4), (4, 2)])
def test_pool_goes_on_from_its_masks_at_another_number_of_processes(processes, then):
    options = {"stages": Stages(3, 1, 4, 5), "random_length": 0.3}
    reference = [seen(step) for step in told(pool_of(Tokens(), **options), 0, 11)]
    masks = []
    for rank in range(processes):
        pool = pool_of(Tokens(), **options)
        list(told(pool, 0, 6, hashed, rank, processes))
        masks += pool.masks()
    assert len(masks) == 8
    for rank in range(then):
        pool = pool_of(Tokens(), **options)
        pool.resume([nn.functional.pad(mask, (0, 5)) for mask in masks], 6)  # as it comes from a file
        share = slice(rank * 8 // then, (rank + 1) * 8 // then)
        for expected, step in zip(reference[6:], told(pool, 6, 11, hashed, rank, then), strict=True):
            assert seen(step) == expected[share]
        assert len(pool.masks()) == 8 // then


def test_pool_says_what_it_lacks():
    with pytest.raises(ValueError, match="the masks of the pool are those of step 0, not 3; resume it there"):
        next(pool_of(Tokens()).micro_batches(0, 1, 3, 5))
    stream = pool_of(Tokens(), micro=4).micro_batches(0, 1, 0, 5)
    first, _ = next(stream)
    first.tell(hashed(first))
    with pytest.raises(RuntimeError, match="step 0 has not told the confidences of 1 micro-batches"):
        next(stream)
    with pytest.raises(ValueError, match="cannot be shared equally by 3 processes"):
        next(pool_of(Tokens()).micro_batches(0, 3, 0, 1))
    with pytest.raises(ValueError, match=r"the masks of puma come from a pool: give llada\.train\.puma\.Pool"):
        next(Batches(Tokens(), 8, Noise(MASK, PAD), objective=PUMA).micro_batches(0, 1, 0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, r"Stages\(first=0, .*\): first and every must be at least 1"),
        ({"stages": Stages(3, 1, 0, 9)}, r"every=0, .* must be at least 1"),
        ({"stages": Stages(3, 1, 5, 3)}, r"to=3\): .* with add, to must be above first"),
        ({"threshold": 1.0}, r"threshold=1\.0 must lie between 0 and 1"),
        ({"threshold": 0.0}, r"threshold=0\.0 must lie between 0 and 1"),
    ],
)
def test_impossible_pools_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pool_of(Tokens(), **options)


# Rows of every kind


@pytest.mark.parametrize("options", [{}, {"eos_padding": False}, {"mask_prompt": True}])
def test_conversations_are_padded_and_masked_as_elsewhere(options):
    """A row has the padding of the step that it would belong to, and only what may be masked is."""
    data = Conversations(count=40)
    pool = pool_of(data, 8, 3, **options)
    elsewhere = Batches(data, 8, Noise(MASK, PAD, **options))
    plain = {row.place: row for step in elsewhere.micro_batches(0, 1, 0, 5) for row in seen(step)}
    unequal = False
    for step in check_course(pool, 12):
        for row in step:
            assert (row.x0, row.length) == (plain[row.place].x0, plain[row.place].length)
            prompt = len(data[pool.row(row.place)]["x0"]) // 2
            assert "mask_prompt" in options or not any(row.masked[:prompt])
        unequal |= len({row.place.length for row in step}) > 1
    assert unequal == ("eos_padding" not in options)


@pytest.mark.parametrize("options", [{"split": 0.5}, {"random_length": 0.5}, {}])
def test_documents_splits_and_lengths_are_those_of_the_place(options):
    class Documents(Tokens):
        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            return packed([4, 6], seed=index)

    def visible(step: list[Batch]) -> dict[Place, list]:
        return {
            where: batch.call.inputs["attention_mask"][i, ..., :10, :10].tolist()
            for batch in step
            for i, where in enumerate(batch.places)
        }

    elsewhere = Batches(Documents(), 8, Noise(MASK, PAD, **options))
    expected = {k: v for step in elsewhere.micro_batches(0, 1, 0, 4) for k, v in visible(step).items()}
    for step in told(pool_of(Documents(), 8, 3, **options), 0, 9):
        for where, attention in visible(step).items():
            assert attention == expected[where]


def test_dropout_loses_other_features_at_every_step():
    pool = pool_of(Tokens())
    pool.batches = Batches(Tokens(), 8, Noise(MASK, PAD), objective=keyed(PUMA))
    keys = [batch.call.inputs["dropout_keys"] for (batch,) in told(pool, 0, 6)]
    assert len(torch.cat(keys).unique()) == 48


# In the loop


class Logits(nn.Module):
    """A model that does not take targets, and counts its calls."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, input_ids, attention_mask=None, logits_at=None):
        self.calls += 1
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask=attention_mask, logits_at=logits_at).logits)


@pytest.mark.parametrize("threshold", [None, 0.06])
@pytest.mark.parametrize("data", [Tokens(), Conversations()], ids=["pretraining", "fine-tuning"])
def test_model_of_targets_and_model_of_logits_train_alike_at_any_micro_batch(data, threshold):
    ended = []
    for micro, wrap in ((None, False), (3, False), (8, True)):
        model = tiny().double()
        taught = Logits(model) if wrap else model
        pool = pool_of(data, 8, 4, micro, threshold, random_length=0.3 if isinstance(data, Tokens) else 0.0)
        logs = list(fit(taught, pool, adamw(model), learning_rate=lambda s: 0.01, steps=6))
        assert not wrap or taught.calls == 6  # one forward pass a step
        ended.append([log.loss for log in logs] + [float(p.detach().sum()) for p in model.parameters()])
        assert all(log.read >= log.tokens > 0 for log in logs)
    assert ended[1] == pytest.approx(ended[0], abs=1e-6)
    assert ended[2] == pytest.approx(ended[0], abs=1e-6)


def test_pool_is_told_what_the_model_says():
    """The masks after two steps are those that the model's own logits ask for."""
    model = tiny().double()
    pool = pool_of(Tokens(), 8, 4)
    list(fit(model, pool, [torch.optim.SGD(model.parameters())], learning_rate=lambda s: 0.0, steps=2))

    def confidence(batch: Batch) -> Tensor:
        return largest_log_probability(model(**batch.call.inputs).logits)

    by_hand = pool_of(Tokens(), 8, 4)
    list(told(by_hand, 0, 2, confidence))
    assert [mask.tolist() for mask in pool.masks()] == [mask.tolist() for mask in by_hand.masks()]
    other = pool_of(Tokens(), 8, 4)
    list(told(other, 0, 2))
    assert [mask.tolist() for mask in pool.masks()] != [mask.tolist() for mask in other.masks()]


def test_steps_left_out_do_not_stop_the_pool():
    class Poisoned(Logits):
        def forward(self, *arguments, **options):
            out = super().forward(*arguments, **options)
            return SimpleNamespace(logits=out.logits * (torch.nan if self.calls in (3, 4) else 1.0))

    model = Poisoned(tiny())
    pool = pool_of(Tokens(), 8, 4, micro=8)
    logs = list(fit(model, pool, adamw(model), learning_rate=lambda s: 0.01, steps=7, max_skips=2))
    assert [log.non_finite is None for log in logs] == [True, True, False, False, True, True, True]
    assert len(logs[2].non_finite or ()) == 8
    assert all(mask.any() for mask in pool.masks())


def test_model_learns():
    model, data, noise = tiny(), Tokens(count=16), Noise(MASK, PAD)
    before = evaluate(model, data, noise, draws=4)
    list(fit(model, pool_of(data), adamw(model), learning_rate=lambda s: 0.01, steps=60))
    assert evaluate(model, data, noise, draws=4).value < before.value - 0.5


# From the configuration


@pytest.fixture
def settings_of_puma(settings) -> dict:
    return {name: value for name, value in settings.items() if name != "masking"} | {"objective": "puma"}


def pool_from(settings: dict, **changes) -> Pool:
    config = PretrainConfig(**settings | changes, output="x")
    pool = place(parts(config), processes(config)).trained.pool
    assert pool is not None
    return pool


def test_options_reach_the_pool(settings_of_puma):
    plain = pool_from(settings_of_puma)
    assert (plain.stages, plain.threshold) == (Stages(12), None)
    growth = {"add": 2, "every": 5, "to": 9}
    changed = pool_from(settings_of_puma, puma={"stages": 3, "growth": growth, "threshold": 0.8})
    assert (changed.stages, changed.threshold) == (Stages(3, 2, 5, 9), 0.8)
    paper = pool_from(settings_of_puma, puma={"growth": {}})
    assert paper.stages == Stages(12, 3, 30_000, 42)


def test_run_trains_is_measured_by_the_bound_and_depends_on_every_option(settings_of_puma, tmp_path):
    ended = {}
    for name, puma in {
        "plain": {"stages": 3},
        "stages": {"stages": 4},
        "growth": {"stages": 3, "growth": {"add": 2, "every": 3, "to": 5}},
        "threshold": {"stages": 3, "threshold": 0.01},
    }.items():
        values = settings_of_puma | {"puma": puma, "steps": 7, "checkpoint_every": None, "evaluate_every": None}
        train(PretrainConfig(**values, output=str(tmp_path / name)))
        log = read_log(tmp_path / name)
        assert log[-1]["bound"] > 0
        assert len(log[-1]["mask_ratios"]) > 1
        ended[name] = log[-1]["loss"]
    assert len(set(ended.values())) == 4
    run = parts(PretrainConfig(**settings_of_puma, output="x"))
    assert run.batches.objective is PUMA
    assert run.measure[1] is ELBO


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masking": "count"}, "masking has no effect with objective: puma, which masks what the model is least sure"),
        ({"eps": 0.01}, "eps has no effect with objective: puma"),
        ({"t_min": 0.1}, "t_min has no effect with objective: puma"),
        ({"workers": 2}, "workers has no effect with objective: puma"),
        ({"objective": "elbo", "puma": {}}, "puma has no effect with objective: elbo; remove it, or set"),
        ({"puma": {"stages": 0}}, "puma.stages: Input should be greater than or equal to 1"),
        ({"puma": {"threshold": 1.0}}, "puma.threshold: Input should be less than 1"),
        ({"puma": {"growth": {"to": 12}}}, r"puma\.growth\.to=12 must be above puma\.stages=12"),
        ({"puma": {"stage": 3}}, "unknown key 'puma.stage'; did you mean 'stages'"),
    ],
)
def test_impossible_settings_are_refused(settings_of_puma, changes, message):
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(**settings_of_puma | changes, output="x")


def test_defaults_are_the_papers():
    assert PumaConfig().model_dump() == {"stages": 12, "growth": None, "threshold": None}


def test_plan_counts_that_rows_stay(settings_of_puma, settings):
    values = {"steps": 24, "evaluate_every": None, "random_length": 0.0}
    made = plan(parts(PretrainConfig(**settings_of_puma | values, puma={"stages": 6}, output="x")))
    plain = plan(parts(PretrainConfig(**settings | values, output="x")))
    assert made.epochs == pytest.approx(plain.epochs / 6)
    assert made.tokens_per_step == plain.tokens_per_step
    assert made.flops_per_step == plain.flops_per_step
