"""Alternatives: the likeliest tokens of each prediction, kept beside the run without changing it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generation_states, infill, infill_states
from llada.sampling.likeliest import Likeliest
from llada.sampling.trace import Kind, Recorder, Trace

V, L, MASK = 7, 10, 6


class Coupled:
    """Logits of every position are sums over the tokens at all others."""

    config = SimpleNamespace(mask_token_id=MASK, eos_token_id=None, max_position_embeddings=None)
    weights = torch.randn(V, L, L, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def __call__(self, canvas: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weights[canvas, torch.arange(L)].sum(dim=1) / 3)


MODEL, PROMPT = Coupled(), torch.tensor([[0, 1], [2, 3], [4, 5]])
CANVAS = torch.nn.functional.pad(PROMPT, (0, L - 2), value=MASK)


def record(count: int | None, **fields) -> tuple[Trace, list[Tensor]]:
    """A trace, and the canvases that its predictions saw."""
    likeliest = None if count is None else Likeliest(count, MASK)
    recorder = Recorder(CANVAS, MASK, likeliest)
    sampler = SamplerConfig(gen_length=L - 2, temperature=1.0, **fields)
    states = generation_states(MODEL, PROMPT, None, sampler, seed=4, likeliest=likeliest)
    canvases = [CANVAS, *(state.canvas for state in recorder.watch(states))]
    return recorder.trace, canvases


@pytest.mark.parametrize("fields", [{}, {"steps": 4}, {"block_length": 4}, {"block_length": 2, "steps": 4}])
def test_alternatives_are_the_likeliest_tokens_of_what_the_model_saw(fields):
    trace, canvases = record(3, **fields)
    assert trace.alternatives.shape == (len(trace.step), 3)
    for step, row, position, others, p in zip(
        trace.step, trace.row, trace.position, trace.alternatives, trace.alternative_probability, strict=True
    ):
        logits = MODEL(canvases[step]).logits[row, position]
        expected = logits.index_fill(0, torch.tensor([MASK]), -torch.inf).softmax(dim=0).topk(3)
        assert others.tolist() == expected.indices.tolist()
        assert torch.allclose(p, expected.values)


def test_recording_them_changes_nothing_else():
    (plain, _), (with_others, _) = record(None, steps=4), record(2, steps=4)
    for name in ("canvas", "index", "step", "row", "position", "token", "kind", "probability"):
        assert torch.equal(getattr(plain, name), getattr(with_others, name))
    assert plain.alternatives.shape == (len(plain.step), 0)


def test_token_that_was_drawn_has_the_probability_that_it_has_among_the_alternatives():
    trace, _ = record(V - 1)
    place = (trace.alternatives == trace.token[:, None]).long().argmax(dim=1)
    assert torch.allclose(trace.alternative_probability.gather(1, place[:, None])[:, 0], trace.probability)
    assert torch.allclose(trace.alternative_probability.sum(dim=1), torch.ones(len(trace.step), dtype=torch.float64))


def test_what_is_no_reveal_has_none():
    trace, _ = record(2, reveal="remdm", remask="cap", eta=0.5, steps=6)
    others = trace.kind != Kind.REVEALED
    assert others.any()
    assert (trace.alternatives[others] == MASK).all()
    assert (trace.alternative_probability[others] == 0).all()
    assert (trace.alternatives[~others] != MASK).all()


def test_they_are_saved(tmp_path):
    trace, _ = record(2)
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace


def test_trace_without_changes_is_saved(tmp_path):
    trace = Recorder(CANVAS, MASK, Likeliest(2, MASK)).trace
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace


def test_infilling_has_states_and_alternatives_too():
    likeliest, sampler = Likeliest(2, MASK), SamplerConfig()
    recorder = Recorder(CANVAS, MASK, likeliest)
    *_, last = recorder.watch(infill_states(MODEL, CANVAS, None, sampler, likeliest=likeliest))
    assert torch.equal(last.canvas, infill(MODEL, CANVAS).sequences)
    assert torch.equal(recorder.trace.alternatives[:, 0], recorder.trace.token)  # greedy takes the first


@pytest.mark.parametrize(("count", "told"), [(0, "0 alternatives are none"), (7, "7 alternatives are more than the 6")])
def test_wrong_numbers_are_refused(count, told):
    with pytest.raises(ValueError, match=told):
        record(count)


def test_speculation_is_refused():
    sampler = SamplerConfig.named("free_dave", gen_length=L - 2)
    with pytest.raises(ValueError, match="leave out speculation"):
        list(generation_states(MODEL, PROMPT, None, sampler, likeliest=Likeliest(2, MASK)))
