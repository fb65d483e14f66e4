"""Text while it is written: no token that was called final changes, and the pieces are the answer."""

import pytest
import torch
from test_named import NAMES, prompts, sampler

from llada.data.chat import TextStream, decode_response
from llada.data.tokenizer import train_tokenizer
from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import State
from llada.sampling.generate import generation_states, infill, infill_states
from llada.sampling.streaming import finished_blocks

P, LENGTH = 6, 8
STREAMED = [name for name in NAMES if name != "daedal"]  # whose canvas grows at any place


@pytest.fixture(scope="module")
def tokenizers():
    """Of single bytes and of merged ones, with at least as many tokens as the models have."""
    texts = ["漢字, é, ü and ß beside naïve words: " + "the model reads a token and writes it back. " * 3]
    return [train_tokenizer(texts, size) for size in (262, 300)]


def in_two_blocks(name: str, background: str) -> SamplerConfig:
    given = sampler(name, background)
    shorter = {} if given.steps is None else {"steps": min(given.steps, LENGTH)}
    return given.replace(gen_length=LENGTH, block_length=LENGTH // 2, **shorter)


def streamed(model, chosen: SamplerConfig, rows: int = 1) -> list[tuple[State, int]]:
    """What `finished_blocks` gives, once it is shown that no token that was called final changes."""
    found = list(finished_blocks(generation_states(model, prompts(rows), None, chosen, seed=4), P))
    out, ends = found[-1][0].canvas, [end for _, end in found]
    assert not (out == model.config.mask_token_id).any()
    assert all(torch.equal(state.canvas[:, :end], out[:, :end]) for state, end in found)
    assert ends == sorted(ends)
    assert ends[-1] == P + LENGTH > ends[-2]
    return found


@pytest.mark.parametrize("name", STREAMED)
def test_pieces_are_the_answer(name, model, background, tokenizers):
    found = streamed(model, in_two_blocks(name, background), rows=2)
    assert {end for _, end in found} == {P, P + LENGTH // 2, P + LENGTH}
    out = found[-1][0].canvas[1]
    for tokenizer in tokenizers:
        stream, told, final = TextStream(tokenizer), [], P
        for state, end in found:
            told.append(stream.add(state.canvas[1, final:end].tolist()))
            final = end
        assert "".join([*told, stream.end()]) == decode_response(tokenizer, out[P:].tolist())


@pytest.mark.parametrize("name", ["low_confidence", "token_editing", "threshold", "free_dave", "speculative"])
def test_what_follows_a_stop_is_final_with_it(name, bidirectional, background, monkeypatch):
    """The second token of the answer is made the end of sequence, so that the second block is not begun."""
    chosen = in_two_blocks(name, background)
    token = int(streamed(bidirectional, chosen)[-1][0].canvas[0, P + 1])
    monkeypatch.setattr(bidirectional.config, "eos_token_id", token)
    found = streamed(bidirectional, chosen.replace(stop_at_eos=True))
    assert {end for _, end in found} == {P, P + LENGTH}
    assert (found[-1][0].canvas[0, P + LENGTH // 2 :] == token).all()


def test_filling_in_goes_on_from_left_to_right(bidirectional):
    mask = bidirectional.config.mask_token_id
    canvas = prompts(2, 12)
    canvas[:, 2:4] = canvas[:, 9:] = mask
    chosen = SamplerConfig(block_length=4)
    out = infill(bidirectional, canvas, None, chosen).sequences
    found = list(finished_blocks(infill_states(bidirectional, canvas, None, chosen), 0))
    assert [end for _, end in found] == [0, 0, 8, 8, 8, 12]
    assert all(torch.equal(state.canvas[:, :end], out[:, :end]) for state, end in found)
    assert found[-1][0] is found[-2][0]


def test_nothing_to_fill_in_has_no_blocks(bidirectional):
    states = infill_states(bidirectional, prompts(1, 4), None, SamplerConfig())
    assert list(finished_blocks(states, 0)) == []
