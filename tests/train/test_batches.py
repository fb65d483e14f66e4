"""Batches: the same samples with the same noise, however they are cut and whoever prepares them."""

import numpy as np
import pytest
import torch

from llada.train.batches import Batch, Batches, Place, collate
from llada.train.objectives import Noise

MASK, PAD = 0, 1


class Tokens:
    """Rows of one length, as in pretraining."""

    def __init__(self, count: int = 24, length: int = 10):
        self.rows = np.random.default_rng(0).integers(2, 20, (count, length))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x0": self.rows[index]}


class Conversations:
    """Rows of unequal length with a response, as in fine-tuning."""

    def __init__(self, count: int = 24):
        rng = np.random.default_rng(1)
        sizes = rng.integers(4, 12, count)
        self.rows = [{"x0": rng.integers(2, 20, n), "maskable": np.arange(n) >= n // 2} for n in sizes]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.rows[index]


def masked_of(batch: Batch) -> torch.Tensor:
    """Where the batch has masks, (B, L)."""
    return batch.call.inputs["input_ids"] == MASK


def clean_of(batch: Batch) -> torch.Tensor:
    """The clean rows, (B, L)."""
    clean = batch.call.inputs["input_ids"].clone()
    clean[masked_of(batch)] = batch.call.targets
    return clean


def rows_of(batches: Batches, processes: int, start: int, stop: int) -> list[dict]:
    """Every sample of the steps in order, with its noise, from all processes together."""
    streams = [list(batches.micro_batches(rank, processes, start, stop)) for rank in range(processes)]
    rows = []
    for step in range(stop - start):
        for stream in streams:
            for b in stream[step]:
                visible = b.call.inputs["attention_mask"]
                for i, place in enumerate(b.places):
                    real = slice(0, None if visible is None else int(visible[i].sum()))
                    rows.append(
                        {
                            "place": place,
                            "x0": clean_of(b)[i, real].tolist(),
                            "xt": b.call.inputs["input_ids"][i, real].tolist(),
                            "t": float(1 / b.call.weights[i]),
                            "length": int(b.lengths[i]),
                        }
                    )
    return rows


@pytest.mark.parametrize("data", [Tokens(), Conversations()], ids=["pretraining", "fine-tuning"])
@pytest.mark.parametrize("masking", ["count", "bernoulli"])
@pytest.mark.parametrize(
    ("processes", "micro", "workers"), [(1, 1, 0), (2, None, 0), (2, 2, 0), (1, 8, 2), (2, 1, 2), (1, 3, 2), (4, 1, 0)]
)
def test_noise_and_order_do_not_depend_on_the_split(data, masking, processes, micro, workers):
    noise = Noise(MASK, PAD, seed=5, masking=masking, random_length=0.3 if isinstance(data, Tokens) else 0.0)
    reference = rows_of(Batches(data, 8, noise), 1, 0, 5)
    assert rows_of(Batches(data, 8, noise, micro, workers), processes, 0, 5) == reference


def test_starting_later_continues_the_same_stream():
    batches = Batches(Tokens(), 8, Noise(MASK, PAD, random_length=0.2))
    assert rows_of(batches, 1, 0, 7)[4 * 8 :] == rows_of(batches, 1, 4, 7)


def test_epoch_visits_every_sample_once_and_the_next_in_another_order():
    data = Tokens(count=24)
    rows = rows_of(Batches(data, 8, Noise(MASK, PAD)), 1, 0, 6)
    first, second = [r["x0"] for r in rows[:24]], [r["x0"] for r in rows[24:]]
    assert sorted(first) == sorted(second) == sorted(data.rows.tolist())
    assert first != second


def test_fine_tuning_pads_to_the_longest_row_of_the_step_and_learns_the_padding():
    data = Conversations()
    for (batch,) in Batches(data, 8, Noise(MASK, PAD)).micro_batches(0, 1, 0, 3):
        sizes = [int((row != PAD).sum()) for row in clean_of(batch)]
        assert batch.call.inputs["input_ids"].shape[1] == max(sizes)
        assert batch.call.inputs["attention_mask"] is None
        responses = [n - n // 2 for n in sizes]
        assert batch.lengths.tolist() == [r + max(sizes) - n for r, n in zip(responses, sizes, strict=True)]


def test_prompt_is_never_masked():
    data = Conversations()
    for place in range(24):
        b = collate([(Place(0, place, 14), data[place])], Noise(MASK, PAD), 1)
        assert not masked_of(b)[0, : len(data[place]["x0"]) // 2].any()


def test_random_length_hides_its_padding_from_the_model_and_from_the_loss():
    b = collate([(Place(0, i, None), Tokens()[i]) for i in range(8)], Noise(MASK, PAD, random_length=1.0), 8)
    visible = b.call.inputs["attention_mask"]
    assert torch.equal(visible.sum(dim=1), b.lengths)
    assert torch.equal(b.read, b.lengths)
    assert not (masked_of(b) & (visible == 0)).any()
    assert b.lengths.min() < 10


def test_exact_count_masks_between_one_and_all_tokens():
    b = collate([(Place(0, i, None), Tokens()[i % 24]) for i in range(200)], Noise(MASK, PAD), 200)
    counts = masked_of(b).sum(dim=1)
    assert counts.bincount(minlength=11)[1:].min() == counts.bincount(minlength=11)[1:].max() == 20
    assert torch.equal(b.call.weights[:, 0], 1 / (counts.double() / 10))
    assert torch.equal(b.call.inputs["logits_at"], masked_of(b).flatten().nonzero()[:, 0])


def test_floor_of_t_applies_to_independent_masks():
    b = collate([(Place(0, i, None), Tokens()[i]) for i in range(8)], Noise(MASK, PAD, masking="bernoulli", eps=0.9), 8)
    assert (b.call.weights <= 1 / 0.9).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x0": np.array([5, MASK, 6])}, "holds the mask token"),
        ({"x0": np.array([], dtype=np.int64)}, "nothing to learn"),
        ({"x0": np.array([5, 6]), "maskable": np.array([False, False])}, "nothing to learn"),
    ],
)
def test_bad_row_is_named(row, message):
    with pytest.raises(ValueError, match=rf"row 7 of epoch 2 .*{message}"):
        collate([(Place(2, 7, None), row)], Noise(MASK, PAD), 8)


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=25 exceeds the 24 rows"):
        Batches(Tokens(), 25, Noise(MASK, PAD))


def test_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="cannot be shared equally by 3 processes"):
        next(Batches(Tokens(), 8, Noise(MASK, PAD)).micro_batches(0, 3, 0, 1))
