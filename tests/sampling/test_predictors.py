"""What predictors are asked for: the positions and rows that are wanted, whatever is wrapped around the model."""

import pytest
import torch
from counted import ALL, CANVAS, MASK, VOCAB, WANTED, WRAPPED, Lean, Padded, bare, load_golden
from torch import Tensor, nn

from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate
from llada.sampling.predictors import (
    LeanModel,
    logits_at,
    plain,
)

golden = pytest.fixture(scope="module")(load_golden)


def padding_of(canvas: Tensor) -> Tensor:
    padding = torch.ones_like(canvas)
    padding[::2, 0] = 0
    return padding


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", [Padded, Lean])
@pytest.mark.parametrize("beyond_window", [True, False])
def test_logits_of_wanted_positions_are_those_of_all_and_belong_to_the_caller(name, model, beyond_window):
    network = model()
    predict = ALL[name](plain(network, padding_of(CANVAS), beyond_window=beyond_window))
    for block, wanted in ((slice(2, 10), WANTED), (slice(3, 7), WANTED[:, 1:5])):
        whole = predict(CANVAS, block)
        assert whole.shape == (6, block.stop - block.start, VOCAB)
        network.rows.clear()
        logits = predict.at(CANVAS, block, wanted)
        assert set(network.rows) == {int(wanted.any(dim=1).sum())}
        assert torch.equal(logits, whole[wanted])
        logits.fill_(0.0)
        assert torch.equal(predict.at(CANVAS, block, wanted), whole[wanted])


@pytest.mark.parametrize("name", ALL)
def test_predictor_of_chosen_rows_is_that_of_a_batch_of_these_rows(name):
    predict, block = ALL[name](plain(Padded(), padding_of(CANVAS))), slice(2, 10)
    whole = predict(CANVAS, block)
    rows = torch.tensor([4, 0, 0, 5, 3])
    some = predict.of_rows(rows)
    assert type(some) is type(predict)
    assert torch.equal(some(CANVAS[rows], block), whole[rows])
    assert torch.equal(some.at(CANVAS[rows], block, WANTED[rows]), whole[rows][WANTED[rows]])
    again = torch.tensor([3, 1])
    assert torch.equal(some.of_rows(again)(CANVAS[rows[again]], block), whole[rows[again]])


@pytest.mark.parametrize("name", WRAPPED)
def test_bare_function_can_be_wrapped_and_only_chosen_rows_of_it_cannot_be_had(name):
    model = plain(Padded(), padding_of(CANVAS))
    wrapped, usual, block = WRAPPED[name](bare(model)), WRAPPED[name](model), slice(2, 10)
    assert torch.equal(wrapped.at(CANVAS, block, WANTED), usual.at(CANVAS, block, WANTED))
    assert torch.equal(logits_at(bare(usual), CANVAS, block, WANTED), usual.at(CANVAS, block, WANTED))
    ours, theirs = (list(denoise(one, CANVAS, MASK, blocks=[block])) for one in (wrapped, usual))
    assert len(ours) == len(theirs)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(
        TypeError, match=r"chosen rows of its batch, .* make it a llada\.sampling\.predictors\.Predictor"
    ):
        wrapped.of_rows(torch.tensor([0]))


def test_model_that_can_is_asked_for_wanted_positions_only():
    assert isinstance(Lean(), LeanModel)
    assert not isinstance(Padded(), LeanModel)
    model = Lean()
    plain(model).at(CANVAS, slice(2, 10), WANTED)
    ((row, column),) = model.asked
    goes_on = WANTED.any(dim=1).nonzero()[:, 0]
    assert torch.equal(torch.stack((goes_on[row], column - 2), dim=1), WANTED.nonzero())


SAMPLED = {
    "blocks": SamplerConfig(gen_length=12, block_length=4, temperature=0.7),
    "threshold": SamplerConfig(gen_length=12, reveal="threshold", threshold=0.02),
    "guided": SamplerConfig(gen_length=12, steps=6, temperature=0.7, cfg_scale=0.5),
    "adaptive": SamplerConfig(gen_length=12, steps=6, temperature=0.7, cfg_scale=0.5, guidance="adaptive"),
    "p2": SamplerConfig(gen_length=12, steps=6, temperature=0.7, reveal="p2"),
    "remdm": SamplerConfig(gen_length=12, steps=16, temperature=0.7, reveal="remdm", remask="rescale", eta=0.5),
    "edits": SamplerConfig(gen_length=12, reveal="threshold", threshold=0.02, edit_threshold=0.01, edit_steps=2),
    "variable": SamplerConfig(gen_length=12, block_length=4, stop_at_eos=True, variable_length=True),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_lm_head_runs_at_predicted_positions_only_and_the_tokens_are_those_of_all_logits(golden, name):
    model, _ = golden
    prompt = torch.randint(0, 200, (3, 6), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(prompt)
    attention_mask[1, :2] = 0
    heads: list[tuple[int, ...]] = []

    class Dense:
        config = model.config

        def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None):
            return model(input_ids, attention_mask=attention_mask)

    assert isinstance(model, LeanModel)
    assert not isinstance(Dense(), LeanModel)
    model.double()
    dense = generate(Dense(), prompt, attention_mask, SAMPLED[name], seed=3)
    handle = model.lm_head.register_forward_hook(lambda head, given, logits: heads.append(tuple(logits.shape[:-1])))
    lean = generate(model, prompt, attention_mask, SAMPLED[name], seed=3)
    handle.remove()
    model.float()
    assert all(torch.equal(a, b) for a, b in zip(lean, dense, strict=True))
    assert all(len(shape) == 1 for shape in heads)  # positions, not rows and columns
    if name == "blocks":
        assert heads == [(3 * masks,) for masks in (4, 3, 2, 1)] * 3


def test_logits_of_the_model_at_some_positions_are_its_logits(golden):
    model, _ = golden
    canvas = torch.randint(0, 200, (6, 10), generator=torch.Generator().manual_seed(0))
    for padding in (None, padding_of(canvas)):
        for beyond_window in (True, False):
            predict = plain(model, padding, beyond_window=beyond_window)
            shown = canvas if beyond_window else canvas[:, :8]
            expected = model(shown, attention_mask=None if padding is None else padding[:, : shown.shape[1]]).logits
            found = predict.at(canvas, slice(2, 8), WANTED[:, :6])
            assert torch.allclose(found, expected[:, 2:8][WANTED[:, :6]], atol=1e-5)


def test_wrapper_around_a_model_is_called_and_not_passed_by(golden):
    """What torch.compile and FSDP return has the attributes of the model inside, and acts when it is called."""

    class Wrapper(nn.Module):
        def __init__(self, inside: nn.Module):
            super().__init__()
            self.inside, self.calls = inside, 0

        def __getattr__(self, name: str):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inside"), name)

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.inside(*args, **kwargs)

    wrapper = Wrapper(golden[0])
    generate(wrapper, torch.tensor([[1, 2]]), None, SamplerConfig(gen_length=4))
    assert wrapper.calls == 4
