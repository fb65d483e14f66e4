"""How many tokens a step reveals: published counts, and those that are given."""

import pytest
import torch

from llada.config import ConfigError
from llada.sampling.generate import SamplerConfig
from llada.sampling.schedules import cosine_counts, given_counts


def test_cosine_counts_are_the_published_ones():
    assert cosine_counts(torch.tensor([32]), 8).tolist() == [[1, 2, 3, 4, 5, 5, 6, 6]]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 16, 40])
def test_cosine_counts_reveal_everything_and_at_least_one_while_they_can(steps):
    for masks in range(33):
        counts = cosine_counts(torch.tensor([masks]), steps)[0].tolist()
        assert sum(counts) == masks
        assert all(count >= 1 for count in counts[: min(masks, steps)])


def test_given_counts_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"counts=\[2, 1\] are 2 steps, not 3"):
        given_counts([2, 1])(torch.tensor([3]), 3)
    with pytest.raises(ValueError, match=r"counts=\[2, 1\] reveal 3 tokens, fewer than are masked"):
        given_counts([2, 1])(torch.tensor([3, 4]), 2)
    with pytest.raises(ConfigError, match=r"counts=\[2, 1\] reveal 3 tokens, not the 4 of a block"):
        SamplerConfig(gen_length=8, block_length=4, counts=[2, 1])
    with pytest.raises(ConfigError, match="steps=8 contradicts the 2 counts of a block; leave steps out"):
        SamplerConfig(gen_length=8, block_length=4, counts=[3, 1], steps=8)
    assert SamplerConfig(gen_length=8, block_length=4, counts=[3, 1], steps=4).steps_per_block == 2
