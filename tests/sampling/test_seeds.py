"""Seeds of requests."""

import pytest
import torch

from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate


@pytest.mark.parametrize("name", ["low_confidence", "random", "speculative", "daedal"])
def test_each_row_of_a_batch_may_have_a_seed_of_its_own(model, name):
    """So that requests of several users are generated together, and each is what it would have been alone."""
    shortest = {"gen_length": 8} | ({"longest": 16} if name == "daedal" else {"temperature": 1.0})
    sampler = SamplerConfig.named(name, **shortest)
    prompt, seeds = torch.tensor([[7, 8], [9, 7], [7, 8]]), torch.tensor([3, -4, 2**62])
    one = torch.zeros(3, dtype=torch.long)
    together = generate(model, prompt, sampler=sampler, seed=seeds, first_row=one).sequences
    for row, seed in enumerate(seeds.tolist()):
        alone = generate(model, prompt[row : row + 1], sampler=sampler, seed=seed).sequences[0]
        assert torch.equal(together[row, : len(alone)], alone)
    with pytest.raises(ValueError, match=r"seed is torch.int64 \(3,\); give one seed for all rows, or int64 \(2,\)"):
        generate(model, prompt[:2], sampler=sampler, seed=seeds)
