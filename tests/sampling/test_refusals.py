"""Everything that generate and its samplers refuse, with what to do."""

from types import SimpleNamespace

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


class Foreign:
    """A model from elsewhere that says of every canvas what a function makes of its tokens."""

    def __init__(self, logits, mask_token_id: int = 3, eos_token_id: object = None):
        self.logits, self.config = logits, SimpleNamespace(mask_token_id=mask_token_id, eos_token_id=eos_token_id)

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits(input_ids))


def even(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, 4)


SHAPES = {
    "longer": lambda tokens: even(tokens).repeat(1, 2, 1),
    "shorter": lambda tokens: even(tokens)[:, 1:],
    "more rows": lambda tokens: even(tokens).repeat(2, 1, 1),
    "fewer rows": lambda tokens: even(tokens)[1:],
    "flat": lambda tokens: even(tokens).flatten(0, 1),
    "with a dimension more": lambda tokens: even(tokens)[..., None],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fields", [{}, {"cfg_scale": 1.0}, {"speculation": 2}], ids=str)
def test_logits_of_another_shape_are_refused(shape, fields):
    made = SHAPES[shape]
    with pytest.raises(
        ValueError, match=r"the model gives logits \(.*\) for \(2, 5\) tokens; they must be \(batch, le"
    ):
        generate(Foreign(made), torch.ones(2, 1).long(), None, SamplerConfig(gen_length=4, **fields))
    canvas = torch.full((2, 5), 3)
    with pytest.raises(ValueError, match=r"the model gives logits"):
        next(denoise(lambda tokens, block: made(tokens[:, block]), canvas, 3))


@pytest.mark.parametrize("fields", [{}, {"cfg_scale": 1.0, "guidance": "adaptive"}, {"speculation": 2}], ids=str)
def test_mask_token_without_logits_is_refused(fields):
    sampler = SamplerConfig(gen_length=4, **fields)
    with pytest.raises(ValueError, match="mask_token_id=4 is none of the 4 tokens that have logits"):
        generate(Foreign(even, 4), torch.ones(1, 1).long(), None, sampler)
    with pytest.raises(ValueError, match="mask_token_id=-1 must be a whole number from 0"):
        generate(Foreign(even, -1), torch.ones(1, 1).long(), None, sampler)
    with pytest.raises(ValueError, match="mask_token_id=9 is none of the 4"):
        next(denoise(lambda tokens, block: even(tokens[:, block]), torch.full((1, 2), 9), 9))


def test_several_ends_of_sequence_are_counted_and_refused_where_one_is_needed():
    model, prompt = (
        Foreign(lambda tokens: even(tokens) + torch.tensor([0, 0, 1, 0]), eos_token_id=[1, 2]),
        torch.ones(1, 1),
    )
    assert generate(model, prompt.long(), None, SamplerConfig(gen_length=4)).tokens_per_forward.tolist() == [0.25]
    for option in ("forbid_eos", "eos_last", "stop_at_eos"):
        with pytest.raises(ValueError, match=rf"{option} needs one model.config.eos_token_id, not \[1, 2\]; set it"):
            generate(model, prompt.long(), None, SamplerConfig(gen_length=4, **{option: True}))


@pytest.mark.parametrize("sampler", [{"steps": 2}, "random"])
def test_sampler_of_another_type_is_refused(sampler):
    for entry in (generate, infill):
        with pytest.raises(ValueError, match=r"sampler is .*; give a SamplerConfig, such as SamplerConfig.named"):
            entry(Foreign(even), torch.ones(1, 1).long(), None, sampler)


@pytest.mark.parametrize(
    ("canvas", "options", "message"),
    [
        (
            torch.zeros(3).long(),
            {},
            r"canvas is torch.int64 \(3,\); it must be tokens \(batch, length\) of torch.int64",
        ),
        (torch.zeros(1, 3).int(), {}, r"canvas is torch.int32 \(1, 3\)"),
        ([[0, 0]], {}, "canvas is a list"),
        (torch.zeros(1, 3).long(), {"writable": torch.ones(1, 3)}, r"writable is torch.float32 \(1, 3\); it must be"),
        (torch.zeros(1, 3).long(), {"writable": torch.ones(3).bool()}, r"writable is torch.bool \(3,\); it must be"),
    ],
)
def test_canvas_that_cannot_be_filled_in_is_refused(canvas, options, message):
    with pytest.raises(ValueError, match=message):
        next(denoise(lambda tokens, block: even(tokens[:, block]), canvas, 0, **options))


def test_texts_too_long_to_infill_are_told_what_can_be_shortened(golden):
    model, _ = golden
    with pytest.raises(ValueError, match=r"exceed the model's .*; shorten the text, or the gaps in it"):
        infill(model, torch.full((1, 5000), MASK))


def test_sampler_is_named_by_a_path(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 4")
    assert SamplerConfig.named(tmp_path / "mine.yaml") == SamplerConfig(steps=4)
    with pytest.raises(ConfigError, match="unknown sampler 3; known: "):
        SamplerConfig.named(3)


@pytest.mark.parametrize("guidance", ["prompt", "adaptive"])
def test_guidance_by_logits_of_another_vocabulary_is_refused(guidance):
    sizes = iter([4, 1])
    model = Foreign(lambda tokens: torch.zeros(*tokens.shape, next(sizes)))
    with pytest.raises(ValueError, match="logits of 4 tokens with the prompt and of 1 without; both must be of one"):
        generate(model, torch.ones(1, 1).long(), None, SamplerConfig(gen_length=4, cfg_scale=1.0, guidance=guidance))
