"""What the pool of progressive unmasking holds when: stages, splits, resumption, and rows of every kind."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from pools import PUMA, Seen, hashed, pool_of, seen, told
from test_batches import MASK, PAD, Conversations, Tokens, packed
from torch import Tensor, nn

from llada.train.batches import Batch, Batches, Place
from llada.train.dropout import keyed
from llada.train.noise import share_uniforms, slot_order
from llada.train.objectives import Noise
from llada.train.puma import Pool, Stages


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
