"""Progressive unmasking on the exact test bed, and what is revealed."""

import math

import numpy as np
import pytest
import torch
from bed import BEDS
from bed_model import BedModel, models, total
from pools import PUMA, pool_of, told
from test_batches import Tokens
from test_loop import tiny
from torch import Tensor, nn

from llada.eval.exact import ordered_log_likelihood
from llada.train.batches import Batches
from llada.train.loop import fit
from llada.train.objectives import Noise, largest_log_probability
from llada.train.puma import Pool, Stages, reveal, still_masked


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
