"""Everything that generate and its samplers refuse, with what to do."""

import pytest
import torch
from golden_model import MASK, Constant, load_golden, prompts
from torch import Tensor

from llada.config import ConfigError
from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate, infill
from llada.sampling.predictors import suppressed

golden = pytest.fixture(scope="module")(load_golden)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [slice(0, 2), slice(2, 4)]}, r"slice\(2, 4, None\) is no window of a canvas of 3 tokens"),
        ({"blocks": [slice(0, 3, 2)]}, "is no window"),
        ({"blocks": [slice(2, 1)]}, "is no window"),
        ({"steps": 0}, "steps=0 must be at least 1, or None"),
        ({"first_step": -1}, "first_step=-1 must be one of"),
        ({"first_step": 2, "steps": 2}, "first_step=2 must be one of the 2 steps"),
    ],
)
def test_impossible_run_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        next(denoise(lambda c, b: torch.zeros(1, 3, 4)[:, b], torch.zeros(1, 3, dtype=torch.long), 0, **options))


def test_position_at_which_no_token_is_possible_is_explained():
    def predict(canvas: Tensor, block: slice) -> Tensor:
        return torch.zeros(1, 3, 4)[:, block]

    canvas = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="no token is possible at some position: all are suppressed, or none is"):
        next(denoise(suppressed(predict, [1, 2, 3]), canvas, 0))  # what is left is [MASK]
    with pytest.raises(ValueError, match=r"suppressed tokens \[4, -1\] are none of the 4 of the vocabulary"):
        next(denoise(suppressed(predict, [1, 4, -1]), canvas, 0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"steps": 15, "gen_length": 16, "block_length": 8},
            "steps=15 cannot be shared equally by 2 blocks of 8 tokens",
        ),
        ({"gen_length": 10, "block_length": 4}, "gen_length=10 cannot be cut into blocks of block_length=4"),
        ({"gen_length": 8, "block_length": 16}, "cannot be cut into blocks"),
        ({"gen_length": 8, "steps": 9}, "steps=9 exceeds gen_length=8"),
        ({"order": "confidense"}, "unknown order 'confidense'; known: confidence, .*random"),
        ({"reveal": "topk"}, "unknown reveal 'topk'; known: top_k"),
        ({"forbid_eos": True, "stop_at_eos": True}, "stop_at_eos has no effect with forbid_eos"),
        ({"temprature": 1.0}, "unknown key 'temprature'; did you mean 'temperature'"),
        ({"temperature": -0.5}, "temperature: .* greater than or equal to 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"steps": "many"}, "steps: .* valid integer"),
        ({"steps": 2**20 + 1}, "steps: .* less than or equal to 1048576"),
        ({"gen_length": 10**30}, "gen_length: .* less than or equal to 1048576"),
        ({"reveal": "gibbs", "steps": 8, "resample": 10**30}, "resample: .* less than or equal to 1048576"),
        ({"cache": "dual", "refresh_every": 10**30}, "refresh_every: .* less than or equal to 1048576"),
        ({"edit_threshold": 0.5, "edit_steps": 10**12}, "edit_steps: .* less than or equal to 1048576"),
        ({"counts": [10**30]}, "counts.* less than or equal to 1048576"),
        ({"speculation": 10**12}, "speculation: .* less than or equal to 1048576"),
        ({"cfg_scale": 1e308}, "cfg_scale: .* less than or equal to 1000000"),
        ({"gen_length": 0}, "gen_length: .* greater than or equal to 1"),
    ],
)
def test_impossible_sampler_is_explained(values, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**values)


def test_unknown_sampler_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown sampler 'greedy'; known: adaptive_guidance, .*, threshold, "):
        SamplerConfig.named("greedy")


def test_named_samplers_have_the_settings_of_their_papers():
    assert SamplerConfig.named("semi_autoregressive").block_length == 32
    assert SamplerConfig.named("random").order == "random"


def test_refusals_of_generate(golden):
    model, _ = golden
    with pytest.raises(ValueError, match=r"the prompt holds \[MASK\] tokens; llada\.infill"):
        generate(model, torch.tensor([[1, MASK]]), None, SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="must be \\(batch, length\\)"):
        generate(model, torch.tensor([1, 2]), None, SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="differ in shape"):
        generate(model, prompts(1), torch.ones(1, 5), SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="padding must be on the left"):
        generate(model, prompts(1), torch.tensor([[1, 1, 1, 1, 1, 0]]), SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="token ids must be integers"):
        generate(model, torch.ones(1, 2), None, SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="stop_at_eos has no effect on infilling"):
        infill(model, prompts(1), sampler=SamplerConfig(stop_at_eos=True))
    with pytest.raises(ValueError, match="steps=5 cannot be shared equally by 2 blocks of 3 tokens"):
        infill(model, prompts(1), sampler=SamplerConfig(steps=5, block_length=3))
    with pytest.raises(ValueError, match="gen_length has no effect on infilling"):
        infill(model, prompts(1), sampler=SamplerConfig(gen_length=8))
    with pytest.raises(ConfigError, match="steps=200 exceeds gen_length=128"):
        generate(model, prompts(1), None, SamplerConfig(steps=200))


def test_model_without_the_tokens_a_sampler_needs_is_refused():
    silent = Constant(torch.zeros(3), mask_token_id=None)
    with pytest.raises(ValueError, match="mask_token_id is not set"):
        generate(silent, torch.tensor([[1]]), None, SamplerConfig(gen_length=2))
    for option in ("forbid_eos", "eos_last", "stop_at_eos"):
        with pytest.raises(ValueError, match=f"{option} needs model.config.eos_token_id"):
            generate(Constant(torch.zeros(3)), torch.tensor([[1]]), None, SamplerConfig(gen_length=2, **{option: True}))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_speculation_explains_a_position_at_which_no_token_is_possible(golden, temperature):
    model, _ = golden
    sampler = SamplerConfig(
        gen_length=4,
        speculation=2,
        order="random",
        temperature=temperature,
        suppress_tokens=list(range(model.config.vocab_size)),
    )
    with pytest.raises(ValueError, match="no token is possible at some position: all are suppressed"):
        generate(model, prompts(1), None, sampler)


def test_speculation_as_deep_as_it_may_be_takes_no_more_memory_than_steps_need(golden):
    model, _ = golden
    deep, plain = (SamplerConfig(gen_length=4, speculation=depth) for depth in (2**20, 4))
    assert torch.equal(*(generate(model, prompts(1), None, sampler).sequences for sampler in (deep, plain)))
