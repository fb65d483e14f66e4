"""The randomness of training is a pure function of (seed, epoch, index)."""

import numpy as np
import torch

from llada.train.noise import epoch_order, mask_uniforms, random_length, times


def test_epoch_order_is_a_permutation_that_changes_with_seed_and_epoch():
    order = epoch_order(0, 0, 100)
    assert sorted(order) == list(range(100))
    assert np.array_equal(order, epoch_order(0, 0, 100))
    assert not np.array_equal(order, epoch_order(0, 1, 100))
    assert not np.array_equal(order, epoch_order(1, 0, 100))


def test_times_do_not_depend_on_how_the_batch_is_cut():
    whole = times(3, 1, torch.arange(32), batch_size=8)
    parts = [times(3, 1, torch.tensor([i]), batch_size=8) for i in range(32)]
    assert torch.equal(whole, torch.cat(parts))


def test_times_are_stratified_in_every_global_batch():
    t = times(0, 0, torch.arange(64), batch_size=16).reshape(4, 16)
    assert torch.equal((t * 16).floor().sort(dim=1)[0], torch.arange(16.0).expand(4, -1))
    assert len(set(t[:, 0].tolist())) == 4  # another offset in every batch


def test_times_are_uniform():
    """False alarm below 1e-6: five standard errors of the mean of 2000 independent offsets."""
    t = times(0, 0, torch.arange(2000) * 4, batch_size=4)
    assert abs(float(t.mean()) - 0.5) < 5 * (1 / 12 / 2000) ** 0.5
    assert (t >= 0).all()
    assert (t < 1).all()


def test_mask_uniforms_differ_between_samples_epochs_and_seeds():
    streams = [mask_uniforms(*key, 16) for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))]
    assert len({tuple(s.tolist()) for s in streams}) == 4
    assert torch.equal(streams[0], mask_uniforms(0, 0, 0, 16))


def test_shorter_row_sees_the_beginning_of_the_same_numbers():
    assert torch.equal(mask_uniforms(0, 0, 5, 16)[:8], mask_uniforms(0, 0, 5, 8))


def test_random_length_cuts_the_given_share_uniformly():
    """False alarm below 1e-6: five standard deviations."""
    lengths = np.array([random_length(0, 0, i, 100, 0.25) for i in range(4000)])
    cut = lengths[lengths < 100]
    assert abs(len(cut) - 0.25 * 0.99 * 4000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert abs(cut.mean() - 50) < 5 * 29 / len(cut) ** 0.5
    assert all(random_length(0, 0, i, 100, 0.0) == 100 for i in range(50))
