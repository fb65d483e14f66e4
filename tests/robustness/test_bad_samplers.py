"""Any options and any tokens: `generate` and `infill` refuse them with ValueError, or keep what they promise."""

from typing import Any

import pytest
import torch
from bad_values import numbers_of_cases, samplers, valid_samplers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llada.sampling.config import SamplerConfig
from llada.sampling.generate import Generation, generate, infill
from llada.sampling.orders import ORDERS
from llada.sampling.reveals import REVEALS

pytestmark = pytest.mark.usefixtures("backgrounds")
MASK, EOS = 0, 2
PAD = EOS
TOKEN = st.integers(1, 261)
ODD_TOKEN = st.sampled_from([7, 8, MASK, -1, 262, 2**40])
SEED = st.integers(0, 99)
ODD_SEED = st.sampled_from([-(2**63), 2**63 - 1, 2**63, 10**30, 1.5])


@st.composite
def batches(draw: st.DrawFn, token: st.SearchStrategy[int]) -> tuple[Tensor, Tensor]:
    """Rows of unequal lengths, padded on the left; (B, L) tokens and attention mask."""
    rows = draw(st.lists(st.lists(token, max_size=6), max_size=3))
    L = max(map(len, rows), default=0)
    tokens = torch.tensor([[PAD] * (L - len(row)) + row for row in rows], dtype=torch.long).reshape(len(rows), L)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return tokens, (torch.arange(L) >= L - lengths[:, None]).long()


PROMPTS = st.one_of(batches(TOKEN), batches(TOKEN), batches(TOKEN), batches(ODD_TOKEN))


def alone(batch: Tensor, padding: Tensor, row: int) -> Tensor:
    """A row of the batch without its padding, (1, P)."""
    return batch[row : row + 1, int((padding[row] == 0).sum()) :]


def promised(out: Generation) -> None:
    assert not (out.sequences == MASK).any()
    assert ((out.sequences >= 0) & (out.sequences < 262)).all()
    for each in (out.forward_passes, out.query_tokens, out.tokens_per_forward):
        assert each.shape == out.sequences.shape[:1]
        assert (each >= 0).all()
    assert (out.query_tokens >= out.forward_passes).all()


@numbers_of_cases(40, 10_000)
def test_options_that_go_together_are_never_refused(cases, block_causal):
    done: set[str] = set()

    @settings(max_examples=cases)
    @given(valid_samplers(), SEED, st.booleans())
    def check(fields: dict[str, Any], seed: int, fills: bool) -> None:
        if fills:
            sampler = SamplerConfig(**{key: value for key, value in fields.items() if key != "block_length"})
            promised(infill(block_causal, torch.tensor([[7, *[MASK] * 4, 9]]), None, sampler, seed))
        else:
            promised(generate(block_causal, torch.tensor([[7, 8]]), None, SamplerConfig(gen_length=4, **fields), seed))
        done.update((fields["reveal"], fields.get("order", ""), fields["cache"]))

    check()
    assert done - {""} >= {*REVEALS, *ORDERS, "none", "prefix", "dual", "delayed", "block_causal"}


@numbers_of_cases(90, 2500)
def test_generate_refuses_or_keeps_what_it_promises(cases, model, block_causal):
    done: list[str] = []

    @settings(max_examples=cases)
    @given(samplers(), PROMPTS, st.one_of(SEED, SEED, SEED, ODD_SEED), st.booleans())
    def check(fields: dict[str, Any], batch: tuple[Tensor, Tensor], seed: int, blocks: bool) -> None:
        network, (prompt, padding) = block_causal if blocks else model, batch
        try:
            sampler = SamplerConfig(**fields)
            out = generate(network, prompt, padding, sampler, seed)
        except ValueError:
            return
        done.append(sampler.reveal)
        P, length = prompt.shape[1], out.sequences.shape[1] - prompt.shape[1]
        promised(out)
        assert torch.equal(out.sequences[:, :P], prompt)
        assert length == sampler.gen_length if sampler.longest is None else length <= sampler.longest
        assert torch.equal(generate(network, prompt, padding, sampler, seed).sequences, out.sequences)
        for row in range(len(prompt)):
            given_row = alone(prompt, padding, row)
            if not given_row.numel():
                continue  # nothing but masks: all of them are predicted alike, and rounding chooses the first
            one = generate(network, given_row, None, sampler, seed, first_row=row).sequences[0, given_row.shape[1] :]
            assert out.sequences[row, P:].tolist() == one.tolist() + [EOS] * (length - len(one))

    check()
    print("RAN", len(done), cases, len(set(done)))


@numbers_of_cases(60, 1500)
def test_infill_refuses_or_keeps_what_it_promises(cases, model, block_causal):
    done: list[str] = []
    token = st.one_of(TOKEN, st.just(MASK), st.just(MASK))

    @settings(max_examples=cases)
    @given(samplers(), batches(token), st.integers(0, 99), st.booleans())
    def check(fields: dict[str, Any], batch: tuple[Tensor, Tensor], seed: int, blocks: bool) -> None:
        network, (canvas, padding) = block_causal if blocks else model, batch
        try:
            sampler = SamplerConfig(**{key: value for key, value in fields.items() if key != "gen_length"})
            out = infill(network, canvas, padding, sampler, seed)
        except ValueError:
            return
        done.append(sampler.reveal)
        promised(out)
        assert torch.equal(out.sequences[canvas != MASK], canvas[canvas != MASK])
        assert torch.equal(infill(network, canvas, padding, sampler, seed).sequences, out.sequences)
        for row in range(len(canvas)):
            given_row = alone(canvas, padding, row)
            if (given_row == MASK).all():
                continue  # as above
            one = infill(network, given_row, None, sampler, seed, first_row=row).sequences[0]
            assert out.sequences[row, canvas.shape[1] - len(one) :].tolist() == one.tolist()

    check()
    print("RAN", len(done), cases, len(set(done)))
