"""What is asked of the tokens that a sampler begins with."""

import pytest
import torch

from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate, infill


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.tensor([[1, 99999]]), r"token 99999 is none of the model's \d+; encode the text with its own tokenizer"),
        (torch.tensor([[1, -1]]), r"token -1 is none of the model's \d+"),
        (torch.tensor([1, 2]), r"the tokens have shape \(2,\); it must be \(batch, length\)"),
        (torch.tensor([[1.0, 2.0]]), "token ids must be integers, not torch.float32"),
    ],
)
@pytest.mark.parametrize("entry", [generate, infill])
def test_tokens_must_be_those_of_the_model(bidirectional, entry, prompt, message):
    sampler = SamplerConfig(gen_length=4) if entry is generate else SamplerConfig()
    with pytest.raises(ValueError, match=message):
        entry(bidirectional, prompt, sampler=sampler)
