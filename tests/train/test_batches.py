"""Batches: the same samples with the same noise, however they are cut and whoever prepares them."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Batch, Batches, Place, collate
from llada.train.noise import split_point
from llada.train.objectives import OBJECTIVES, Noise, cross_entropy, group_sums, weighted

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


def test_a_row_with_a_part_to_be_learnt_is_not_cut():
    with pytest.raises(
        ValueError, match=r"row 7 of epoch 2 has a maskable part, which random_length=1.0 could cut off"
    ):
        collate([(Place(2, 7, None), Conversations()[0])], Noise(MASK, PAD, random_length=1.0), 8)


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=25 exceeds the 24 rows"):
        Batches(Tokens(), 25, Noise(MASK, PAD))


def test_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="cannot be shared equally by 3 processes"):
        next(Batches(Tokens(), 8, Noise(MASK, PAD)).micro_batches(0, 3, 0, 1))


# Documents that share a row


def packed(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    x0 = np.random.default_rng(seed).integers(2, 20, sum(lengths))
    return {"x0": x0, "documents": np.repeat(np.arange(len(lengths)), lengths)}


@pytest.fixture(scope="module")
def model() -> LLaDAForMaskedLM:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 48}
    config = LLaDAConfig(vocab_size=20, mask_token_id=MASK, eos_token_id=PAD, **sizes)
    return LLaDAForMaskedLM(config).double()


def alone(model, batch: Batch, row: int, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a part of a row without what is around it, and what it adds to the loss of the ELBO."""
    xt, masked = batch.call.inputs["input_ids"][row : row + 1, part], masked_of(batch)[row, part]
    logits = model(xt).logits[0]
    targets = clean_of(batch)[row, part][masked]
    loss = torch.nn.functional.cross_entropy(logits[masked], targets, reduction="sum") * batch.call.weights[row, 0]
    return logits, loss


def logits_of(model, batch: Batch) -> torch.Tensor:
    """At every position, (B, L, V)."""
    return model(batch.call.inputs["input_ids"], attention_mask=batch.call.inputs["attention_mask"]).logits


def same_call(one: Batch, other: Batch) -> bool:
    """Whether input tokens, targets and weights are equal."""
    pairs = [(one.call.inputs["input_ids"], other.call.inputs["input_ids"])]
    pairs += [(one.call.targets, other.call.targets), (one.call.weights, other.call.weights)]
    return all(torch.equal(a, b) for a, b in pairs)


def gradient(model, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("masking", ["count", "bernoulli"])
@pytest.mark.parametrize("random_length", [0.0, 1.0])
def test_documents_that_share_a_row_are_as_if_alone(model, masking, random_length):
    """Logits, loss and gradient of rows of several documents, with padding or without, are those of the documents."""
    rows = [packed([3, 5, 1, 7], seed=1), packed([16], seed=2), packed([2, 14], seed=3), packed([1] * 16, seed=4)]
    noise = Noise(MASK, PAD, masking=masking, random_length=random_length)
    batch = collate([(Place(0, i, None), row) for i, row in enumerate(rows)], noise, 4)
    visible, length = batch.call.inputs["attention_mask"], batch.call.inputs["input_ids"].shape[1]
    assert (visible.dtype, visible.shape) == (torch.bool, (4, 1, length, length))
    logits = logits_of(model, batch)
    found = cross_entropy(model(**batch.call.inputs).logits, batch.call)
    loss = weighted(group_sums(found, batch.call), batch.call).sum()
    losses = []
    for row, given in enumerate(rows):
        length, start = int(batch.lengths[row]), 0
        while start < length:
            same = given["documents"][:length] == given["documents"][start]
            part = slice(start, start + int(same.sum()))
            expected, part_loss = alone(model, batch, row, part)
            torch.testing.assert_close(logits[row, part], expected, rtol=0, atol=1e-12)
            losses.append(part_loss)
            start = part.stop
    assert len(losses) > 8 if not random_length else len(losses) >= 4
    torch.testing.assert_close(loss, sum(losses), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(model, loss), gradient(model, sum(losses)), rtol=0, atol=1e-10)


def test_without_the_mask_documents_see_each_other(model):
    """So the test above would fail without the mask."""
    batch = collate([(Place(0, 0, None), packed([8, 8]))], Noise(MASK, PAD), 1)
    seen = model(batch.call.inputs["input_ids"]).logits
    assert (seen[0, :8] - alone(model, batch, 0, slice(8))[0]).abs().max() > 1e-4


def test_rows_of_one_document_need_no_mask():
    for random_length in (0.0, 1.0):
        noise = Noise(MASK, PAD, random_length=random_length)
        plain, numbered = (
            collate([(Place(0, i, None), {"x0": Tokens()[i]["x0"]} | more) for i in range(8)], noise, 8)
            for more in ({}, {"documents": np.zeros(10, np.int64)})
        )
        assert (plain.call.inputs["attention_mask"] is None) == (random_length == 0)
        assert same_call(plain, numbered)
        plain, numbered = plain.call.inputs, numbered.call.inputs
        visible = plain["attention_mask"]
        assert visible is numbered["attention_mask"] or torch.equal(visible, numbered["attention_mask"])


def test_split_cuts_some_rows_in_two_and_changes_nothing_else(model):
    places = [Place(0, i, None) for i in range(24)]
    rows = [Tokens()[i] for i in range(24)]
    plain = collate(list(zip(places, rows, strict=True)), Noise(MASK, PAD, seed=2), 24)
    noise = Noise(MASK, PAD, seed=2, split=0.5)
    cut = collate(list(zip(places, rows, strict=True)), noise, 24)
    assert same_call(cut, plain)
    logits, points = logits_of(model, cut), []
    for i in range(24):
        point = split_point(2, 0, i, 10, 0.5)
        points.append(point)
        parts = [slice(10)] if point is None else [slice(point), slice(point, 10)]
        for part in parts:
            torch.testing.assert_close(logits[i, part], alone(model, cut, i, part)[0], rtol=0, atol=1e-12)
    assert 5 < points.count(None) < 19


def test_split_and_documents_go_together(model):
    batch = collate([(Place(0, 0, None), packed([4, 6]))], Noise(MASK, PAD, split=1.0), 1)
    point = split_point(0, 0, 0, 10, 1.0)
    bounds = sorted({0, 4, point, 10})
    logits = logits_of(model, batch)
    for start, stop in pairwise(bounds):
        expected, _ = alone(model, batch, 0, slice(start, stop))
        torch.testing.assert_close(logits[0, start:stop], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("processes", "micro", "workers"), [(2, None, 0), (1, 3, 2), (4, 1, 0)])
def test_split_does_not_depend_on_who_makes_the_batch(processes, micro, workers):
    def seen(batches: Batches, processes: int) -> list[tuple]:
        streams = [list(batches.micro_batches(rank, processes, 0, 6)) for rank in range(processes)]
        found = [b for step in range(6) for stream in streams for b in stream[step]]
        everything = torch.ones(10, 10, dtype=torch.bool)
        return [
            (place, (everything if visible is None else visible[i, 0]).tolist())
            for b in found
            for visible in [b.call.inputs["attention_mask"]]
            for i, place in enumerate(b.places)
        ]

    noise = Noise(MASK, PAD, seed=4, split=0.3)
    reference = seen(Batches(Tokens(), 8, noise), 1)
    assert seen(Batches(Tokens(), 8, noise, micro, workers), processes) == reference
    assert reference[:24] != reference[24:]  # another epoch, other cuts


def test_split_points_are_uniform():
    """Chi-square with 8 degrees of freedom below 30 (false alarm 2e-4); their number within 4.5 standard deviations."""
    points = [split_point(0, 0, i, 10, 0.3) for i in range(6000)]
    found = np.array([point for point in points if point is not None])
    assert abs(len(found) - 1800) < 4.5 * np.sqrt(6000 * 0.21)
    counts = np.bincount(found, minlength=11)[1:10]
    assert counts.sum() == len(found)  # never an empty part
    assert ((counts - len(found) / 9) ** 2).sum() / (len(found) / 9) < 30
    assert split_point(0, 0, 0, 1, 1.0) is None


@pytest.mark.parametrize("name", ["uniform", "complementary", "complementary_mean"])
def test_other_objectives_hide_documents_too(model, name):
    batch = collate(
        [(Place(0, i, None), packed([4, 6], seed=i)) for i in range(4)], Noise(MASK, PAD), 4, OBJECTIVES[name]
    )
    logits = logits_of(model, batch)
    for row in range(len(logits)):
        for part in (slice(4), slice(4, 10)):
            expected = model(batch.call.inputs["input_ids"][row : row + 1, part]).logits[0]
            torch.testing.assert_close(logits[row, part], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["cart", "block_diffusion", "autoregressive"])
def test_objectives_that_cannot_hide_documents_say_so(name):
    noise = Noise(MASK, PAD, bos_token_id=2, block_length=2)
    with pytest.raises(ValueError, match=f"rows of several documents .* are not for {name}"):
        collate([(Place(0, 0, None), packed([4, 6]))], noise, 1, OBJECTIVES[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": 2.0}, "batch_size=2.0 must be a whole number"),
        ({"micro_batch_size": 0}, "micro_batch_size=0 must be a whole number of at least 1"),
        ({"micro_batch_size": -1}, "micro_batch_size=-1 must be"),
        ({"workers": -1}, "workers=-1 must be a whole number of at least 0"),
    ],
)
def test_sizes_of_no_batch_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(Tokens(), **{"batch_size": 4, "noise": Noise(MASK, PAD)} | options)


X0 = np.arange(2, 6)


@pytest.mark.parametrize("eos_padding", [True, False])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x0": X0 + 0.5}, r"x0 is float64 \(4,\); it must be integer \(4,\)"),
        ({"x0": np.ones((2, 2), int)}, r"x0 is int64 \(2, 2\); it must be integer \(4,\)"),
        ({"x0": X0, "maskable": np.ones(3, bool)}, r"maskable is bool \(3,\); it must be bool \(4,\), one for each"),
        ({"x0": X0, "maskable": np.ones(4)}, r"maskable is float64 \(4,\); it must be bool"),
        ({"x0": X0, "documents": np.zeros(3, int)}, r"documents is int64 \(3,\); it must be integer \(4,\)"),
        ({"x0": X0, "documents": np.zeros(4)}, r"documents is float64 \(4,\); it must be integer"),
    ],
)
def test_row_whose_parts_do_not_fit_is_named(row, message, eos_padding):
    with pytest.raises(ValueError, match="row 7 of epoch 2: " + message):
        collate([(Place(2, 7, None), row)], Noise(MASK, PAD, eos_padding=eos_padding), 1)
