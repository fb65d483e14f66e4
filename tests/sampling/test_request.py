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
        (torch.tensor([[1, 2]], dtype=torch.int32), r"not torch.int32; give int64, as tokens.long\(\) is"),
        (torch.tensor([[True]]), "token ids must be integers, not torch.bool"),
        (torch.tensor([[1j]]), "token ids must be integers, not torch.complex64"),
        (torch.tensor(1), r"the tokens have shape \(\); it must be \(batch, length\)"),
        ([[1, 2]], r"the tokens are a list; give a tensor, such as torch.tensor\(\[ids\]\)"),
    ],
)
@pytest.mark.parametrize("entry", [generate, infill])
def test_tokens_must_be_those_of_the_model(bidirectional, entry, prompt, message):
    sampler = SamplerConfig(gen_length=4) if entry is generate else SamplerConfig()
    with pytest.raises(ValueError, match=message):
        entry(bidirectional, prompt, sampler=sampler)


@pytest.mark.parametrize(
    ("attention_mask", "message"),
    [
        (torch.tensor([[0, 2]]), "attention_mask must be 1 at tokens and 0 at padding, and nothing else"),
        (torch.tensor([[0.5, 1.0]]), "attention_mask must be 1 at tokens and 0"),
        (torch.tensor([[-1, 0]]), "attention_mask must be 1 at tokens and 0"),
        ([[1, 1]], "attention_mask is a list; give a tensor"),
    ],
)
@pytest.mark.parametrize("entry", [generate, infill])
def test_padding_is_said_by_zeros_and_ones(bidirectional, entry, attention_mask, message):
    sampler = SamplerConfig(gen_length=4) if entry is generate else SamplerConfig()
    with pytest.raises(ValueError, match=message):
        entry(bidirectional, torch.tensor([[1, 2]]), attention_mask, sampler)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 1.5, None, "1"])
@pytest.mark.parametrize("name", ["seed", "first_row"])
def test_seed_and_first_row_are_whole_numbers_of_64_bits(bidirectional, name, number):
    message = f"{name}={number!r} must be a whole number from -9223372036854775808 to 922337203685477580"
    with pytest.raises(ValueError, match=message):
        generate(bidirectional, torch.tensor([[1, 2]]), None, SamplerConfig(gen_length=4), **{name: number})
