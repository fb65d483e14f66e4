"""generate and the loop beneath: seeds, blocks, special tokens, costs and guidance."""

import pytest
import torch
from golden_model import EOS, EOT, MASK, SAMPLERS, Constant, load_golden, prompts
from torch import Tensor

from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate, generation_states, infill
from llada.sampling.orders import ORDERS, Drafts
from llada.sampling.predictors import guided, plain, suppressed
from llada.sampling.reveals import Step, top_k
from llada.sampling.schedules import even_counts

golden = pytest.fixture(scope="module")(load_golden)


def test_seed_changes_what_is_drawn_and_not_what_is_greedy(golden):
    model, _ = golden
    drawn = [generate(model, prompts(1), None, SAMPLERS["drawn"], seed=s).sequences for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    greedy = [generate(model, prompts(1), None, SAMPLERS["greedy"], seed=s).sequences for s in (0, 1)]
    assert torch.equal(*greedy)


def test_prompt_stays_and_no_mask_is_left(golden):
    out = generate(golden[0], prompts(2), None, SAMPLERS["random"]).sequences
    assert torch.equal(out[:, :6], prompts(2))
    assert not (out == MASK).any()


def test_one_block_of_the_whole_length_is_no_block(golden):
    whole = SamplerConfig(gen_length=12, block_length=12)
    assert torch.equal(
        generate(golden[0], prompts(2), None, whole).sequences,
        generate(golden[0], prompts(2), None, SamplerConfig(gen_length=12)).sequences,
    )


def test_blocks_of_one_token_go_from_left_to_right(golden):
    sampler = SamplerConfig(gen_length=6, block_length=1)
    for i, state in enumerate(generation_states(golden[0], prompts(1), None, sampler)):
        assert (state.canvas[0, 6:] != MASK).tolist() == [j <= i for j in range(6)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forbidden_end_of_sequence_never_appears(golden, temperature):
    sampler = SamplerConfig(gen_length=32, temperature=temperature, forbid_eos=True)
    free = SamplerConfig(gen_length=32, temperature=temperature)
    with_eos = generate(golden[0], prompts(8), None, free).sequences[:, 6:]
    without = generate(golden[0], prompts(8), None, sampler).sequences[:, 6:]
    assert (with_eos == EOS).any()
    assert not (without == EOS).any()


@pytest.mark.parametrize("order", [name for name, entry in ORDERS.items() if not entry.required])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_end_tokens_are_revealed_last_at_every_temperature(golden, order, temperature):
    """No end token is revealed while another draft of the window is left out."""
    sampler = SamplerConfig(gen_length=16, steps=8, temperature=temperature, eos_last=True, order=order)
    previous = torch.full((4, 16), MASK)
    for state in generation_states(golden[0], prompts(4), None, sampler):
        revealed = state.visible & (previous == MASK)
        ends = torch.isin(state.draft, torch.tensor([EOS, EOT]))
        left_out = ~state.visible & ~ends
        assert not ((revealed & ends).any(dim=1) & left_out.any(dim=1)).any()
        previous = state.canvas[:, 6:]


def test_stopping_at_the_end_of_sequence_keeps_the_tokens_before_it_and_costs_less(golden):
    free = SamplerConfig(gen_length=32, block_length=4)
    stopping = free.replace(stop_at_eos=True)
    all_of_it = generate(golden[0], prompts(8), None, free)
    stopped = generate(golden[0], prompts(8), None, stopping)
    some_stopped = False
    for whole, cut, fewer in zip(all_of_it.sequences, stopped.sequences, stopped.forward_passes, strict=True):
        ends = (whole[6:] == EOS).nonzero()[:, 0]
        first = int(ends[0]) if len(ends) else 32
        assert torch.equal(cut[: 6 + first], whole[: 6 + first])
        assert (cut[6 + first :] == EOS).all()
        some_stopped |= first < 28 and int(fewer) < 32
    assert some_stopped
    assert torch.equal(stopped.tokens_per_forward > 0, torch.ones(8, dtype=torch.bool))


def test_mask_is_never_drafted_even_where_it_is_the_likeliest():
    model = Constant(torch.tensor([9.0, 1.0, 0.0]))
    for temperature in (0.0, 1.0):
        out = generate(model, torch.tensor([[1]]), None, SamplerConfig(gen_length=64, temperature=temperature))
        assert not (out.sequences == 0).any()


def test_any_module_with_logits_and_a_mask_token_generates():
    out = generate(Constant(torch.tensor([0.0, 1.0, 5.0])), torch.tensor([[1, 1]]), None, SamplerConfig(gen_length=3))
    assert out.sequences.tolist() == [[1, 1, 2, 2, 2]]
    assert out.forward_passes.tolist() == [3]
    assert out.tokens_per_forward.tolist() == [1.0]


def test_throughput_counts_tokens_up_to_the_first_end_of_sequence():
    model = Constant(torch.tensor([0.0, 1.0, 5.0]), eos_token_id=2)
    out = generate(model, torch.tensor([[1, 2]]), None, SamplerConfig(gen_length=8, steps=2))
    assert out.tokens_per_forward.tolist() == [0.5]


def test_finished_block_costs_no_further_prediction():
    model = Constant(torch.tensor([0.0, 1.0, 5.0]))
    infill(model, torch.tensor([[1, 0, 1, 1]]), sampler=SamplerConfig(steps=8))
    assert model.calls == 1


def test_padding_of_a_prompt_must_not_look_like_what_is_generated(golden):
    prompt, present = torch.tensor([[MASK, 5]]), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match=r"the padding holds \[MASK\] tokens, which stand for what is generated"):
        generate(golden[0], prompt, present, SamplerConfig(gen_length=2))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_empty_batch_and_empty_prompt_are_no_errors(golden, shape):
    out = generate(golden[0], torch.zeros(shape, dtype=torch.long), None, SamplerConfig(gen_length=4))
    assert out.sequences.shape == (shape[0], shape[1] + 4)
    assert not (out.sequences == MASK).any()


def test_prompt_that_fills_the_model_is_generated_up_to_its_length(golden):
    longest = golden[0].config.max_sequence_length
    prompt = prompts(1, longest - 2)
    assert generate(golden[0], prompt, None, SamplerConfig(gen_length=2)).sequences.shape == (1, longest)
    with pytest.raises(ValueError, match=f"{longest + 1} tokens of prompt and answer exceed the model's {longest}"):
        generate(golden[0], prompt, None, SamplerConfig(gen_length=3))


def test_guidance_of_scale_zero_and_minus_one_are_its_two_predictions(golden):
    canvas = torch.cat((prompts(2), torch.full((2, 4), MASK)), dim=1)
    prompt, block = canvas != MASK, slice(6, 10)
    predict = plain(golden[0])
    conditional = predict(canvas, block)
    unconditional = predict(torch.full_like(canvas, MASK), block)
    assert torch.allclose(guided(predict, prompt, MASK, 0.0)(canvas, block), conditional, atol=1e-5)
    assert torch.allclose(guided(predict, prompt, MASK, -1.0)(canvas, block), unconditional, atol=1e-5)


def test_guidance_on_the_bed_has_the_published_probabilities():
    from bed import BED

    canvas = torch.tensor([[0, BED.mask, BED.mask]])
    predict = guided(lambda c, b: BED.oracle(c)[:, b], canvas != BED.mask, BED.mask, 1.0)
    p = predict(canvas, slice(0, 3))[0, 1, :3].softmax(dim=-1)
    assert p.tolist() == pytest.approx([0.2284778, 0.26301175, 0.50851046], abs=1e-7)


def test_suppressed_tokens_have_no_probability_and_the_model_is_untouched(golden):
    canvas = prompts(1)
    logits = plain(golden[0])(canvas, slice(0, 6))
    without = suppressed(plain(golden[0]), [3, 5])(canvas, slice(0, 6))
    assert torch.isneginf(without[..., [3, 5]]).all()
    others = [i for i in range(logits.shape[-1]) if i not in (3, 5)]
    assert torch.equal(without[..., others], logits[..., others])


def test_even_counts_give_the_remainder_to_the_first_steps():
    assert even_counts(torch.tensor([10, 3, 0]), 4).tolist() == [[3, 3, 2, 2], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert even_counts(torch.tensor([3]), 5).tolist() == [[1, 1, 1, 0, 0]]


def test_equal_scores_reveal_the_leftmost():
    masked = torch.tensor([[False, True, True, True]])
    step = step_of(torch.full((1, 4), -torch.inf), masked, count=torch.tensor([2]))
    assert top_k(step).tolist() == [[True, True, True, False]]


def step_of(score: Tensor, masked: Tensor, **fields) -> Step:
    """A step of which only some things matter; score and masked (B, W)."""
    B, W = score.shape
    row, place = masked.nonzero(as_tuple=True)
    numbers = torch.full(row.shape, 0.5, dtype=torch.float64)
    usual = {
        "drafts": Drafts(torch.zeros(len(row), 3, dtype=torch.float64), torch.zeros_like(row), place, W, numbers),
        "predicted": masked,
        "draft": torch.zeros(B, W, dtype=torch.long),
        "score": score,
        "masked": masked,
        "count": torch.ones(B, dtype=torch.long),
        "writable": torch.ones_like(masked),
        "held": torch.ones(B, W, dtype=torch.float64),
        "uniforms": torch.full((B, W), 0.5, dtype=torch.float64),
        "index": 0,
        "steps": W,
        "canvas": torch.zeros(B, W, dtype=torch.long),
        "block": slice(0, W),
    }
    return Step(**usual | fields)


def test_states_share_no_memory():
    canvas = torch.zeros(1, 3, dtype=torch.long)
    states = list(denoise(lambda c, b: torch.randn(1, 3, 4), canvas, 0))
    assert [int((s.canvas == 0).sum()) for s in states] == [2, 1, 0]
    assert (canvas == 0).all()
