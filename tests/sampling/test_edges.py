"""Every published sampler where there is little or no room: nothing given, nothing to do, nothing left."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import llada
from llada.config import config_folder, read_yaml
from llada.sampling.generate import SamplerConfig, generate, infill
from llada.sampling.predictors import MaskPredictor

FILES = {file.stem: read_yaml(file) for file in sorted((config_folder() / "sampling").glob("*.yaml"))}
REFUSED = [name for name, values in FILES.items() if {"stop_at_eos", "gen_length"} & values.keys()]  # by infill
INFILLING = [name for name in FILES if name not in REFUSED]
CACHED = [name for name, values in FILES.items() if "cache" in values]
LENGTH = 8


def short(name: str, background: str, **values: Any) -> SamplerConfig:
    """The named sampler for a few tokens, in blocks of four where it has blocks."""
    sizes = {"block_length": LENGTH // 2, "steps": min(FILES[name].get("steps", 0), 12), "gen_length": LENGTH,
             "longest": LENGTH}  # fmt: skip
    values = {field: size for field, size in sizes.items() if field in FILES[name]} | values
    if FILES[name].get("order") == "position_calibrated":
        values["background"] = background
    return SamplerConfig.named(name, **values)


def prompts(rows: int, length: int) -> Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(rows))


class Places:
    """Looks at every token and its place in the row, padding not counted.

    To a transformer with rotary embeddings all positions of a canvas of masks are the same, and rounding would decide.
    """

    config = SimpleNamespace(mask_token_id=205, eos_token_id=204)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(LENGTH, 206, LENGTH, 206, generator=generator, dtype=torch.float64)

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        place = (present.cumsum(dim=1) - 1).clamp(min=0)
        seen = (self.weights[place, input_ids] * present[..., None, None]).sum(dim=1)  # (B, places, V)
        return SimpleNamespace(logits=seen[torch.arange(len(place))[:, None], place])


@pytest.fixture(scope="module")
def places() -> Places:
    return Places()


@pytest.mark.parametrize("name", [name for name in FILES if name not in CACHED])
def test_empty_prompt_and_one_of_padding_alone_are_the_same(places, background, name):
    padding_alone_is_nothing(places, short(name, background, gen_length=LENGTH))


@pytest.mark.parametrize("name", CACHED)
def test_empty_prompt_and_one_of_padding_alone_are_the_same_to_a_cache(model, background, name):
    """To a transformer, as `Places` keeps nothing; drawn from left to right, which rounding does not decide."""
    rule = {"reveal": "top_k", "threshold": None, "order": "left_to_right", "temperature": 1.0}
    padding_alone_is_nothing(model, short(name, background, gen_length=LENGTH, **rule))


def padding_alone_is_nothing(model: MaskPredictor, sampler: SamplerConfig) -> None:
    nothing = generate(model, prompts(2, 0), None, sampler)
    padding = generate(model, prompts(2, 3), torch.zeros(2, 3).long(), sampler)
    assert torch.equal(padding.sequences, torch.cat((prompts(2, 3), nothing.sequences), dim=1))
    assert torch.equal(padding.forward_passes, nothing.forward_passes)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("padding", [0, 3])
def test_empty_prompt_is_no_error(model, background, name, padding):
    sampler = short(name, background, gen_length=LENGTH)
    out = generate(model, prompts(2, padding), torch.zeros(2, padding).long(), sampler)
    assert out.sequences.shape == (2, padding + LENGTH)
    assert not (out.sequences == model.config.mask_token_id).any()
    assert (out.forward_passes > 0).all()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 3])
def test_empty_batch_is_no_error(model, background, name, length):
    sampler = short(name, background, gen_length=LENGTH)
    out = generate(model, prompts(0, length), None, sampler)
    assert len(out.sequences) == len(out.forward_passes) == len(out.tokens_per_forward) == 0


@pytest.mark.parametrize("name", FILES)
def test_mask_in_the_prompt_is_refused(model, background, name):
    prompt = prompts(2, 3)
    prompt[1, 2] = model.config.mask_token_id
    with pytest.raises(ValueError, match=r"the prompt holds \[MASK\] tokens; llada\.infill fills them, generate only"):
        generate(model, prompt, None, short(name, background, gen_length=LENGTH))


@pytest.mark.parametrize("name", FILES)
def test_answer_takes_all_the_room_that_the_prompt_leaves_and_no_more(model, background, name):
    sampler, room = short(name, background, gen_length=LENGTH), model.config.max_sequence_length
    out = generate(model, prompts(1, room - LENGTH), None, sampler)
    assert out.sequences.shape == (1, room)
    assert not (out.sequences == model.config.mask_token_id).any()
    for prompt in (prompts(1, room - LENGTH + 1), prompts(1, room)):
        message = f"{prompt.shape[1] + LENGTH} tokens of prompt and answer exceed the model's {room}; shorten"
        with pytest.raises(ValueError, match=message):
            generate(model, prompt, None, sampler)


@pytest.mark.parametrize("name", INFILLING)
def test_infilling_masks_alone_is_generating_from_nothing(model, background, name):
    canvas = torch.full((2, LENGTH), model.config.mask_token_id)
    filled = infill(model, canvas, sampler=short(name, background), seed=3)
    made = generate(model, prompts(2, 0), None, short(name, background, gen_length=LENGTH), seed=3)
    for ours, theirs in zip(filled, made, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", INFILLING)
@pytest.mark.parametrize("shape", [(2, LENGTH), (2, 0), (0, LENGTH), (0, 0)])
def test_infilling_nothing_costs_nothing(model, background, name, shape):
    out = infill(model, prompts(*shape), sampler=short(name, background))
    assert torch.equal(out.sequences, prompts(*shape))
    assert out.forward_passes.tolist() == [0] * shape[0]
    assert out.tokens_per_forward.tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("name", INFILLING)
def test_infilling_leaves_a_row_without_masks_beside_others_alone(model, background, name):
    """Rules that look at the number of steps are given it: the rows have different numbers of masks."""
    canvas = prompts(3, LENGTH)
    canvas[1] = model.config.mask_token_id
    canvas[2, [0, 3, LENGTH - 1]] = model.config.mask_token_id
    timed = FILES[name].get("early_exit") or FILES[name].get("reveal") in ("ancestral", "remdm", "p2")
    out = infill(model, canvas, sampler=short(name, background, **({"steps": LENGTH} if timed else {})))
    kept = canvas != model.config.mask_token_id
    assert torch.equal(out.sequences[kept], canvas[kept])
    assert not (out.sequences == model.config.mask_token_id).any()
    assert (out.forward_passes > 0).tolist() == [False, True, True]


@pytest.mark.parametrize("name", REFUSED)
def test_infilling_with_what_only_generation_has_is_refused(model, background, name):
    with pytest.raises(ValueError, match=r"(gen_length|longest|stop_at_eos) has no effect on infilling"):
        infill(model, prompts(2, LENGTH), sampler=short(name, background))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"reveal": "gibbs", "steps": LENGTH - 1},
            "steps=7 gives 7 to a block of 8 masks; gibbs reveals one token in",
        ),
        ({"counts": [2, 1]}, r"counts=\[2, 1\] reveal 3 tokens, fewer than the 8 of a block"),
        ({"counts": []}, r"counts=\[\] reveal 0 tokens, fewer than the 8 of a block"),
        ({"steps": 3, "block_length": LENGTH // 2}, "steps=3 cannot be shared equally by 2 blocks of 4 tokens"),
    ],
)
def test_steps_that_do_not_fill_the_canvas_are_explained(bidirectional, values, message):
    canvas = torch.full((1, LENGTH), bidirectional.config.mask_token_id)
    with pytest.raises(ValueError, match=message):
        infill(bidirectional, canvas, sampler=SamplerConfig(**values))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gen_length": 4, "stop_at_eos": True}, "stop_at_eos has no effect with suppress_tokens that hold"),
        (
            {"gen_length": 4, "longest": 8, "reveal": "threshold", "threshold": 0.9, "order": "max_probability"},
            "longest needs the end of sequence, .* which suppress_tokens holds; remove it there",
        ),
    ],
)
def test_waiting_for_an_end_that_is_suppressed_is_refused(golden, fields, message):
    model, _ = llada.load_pretrained(golden.folder)
    sampler = SamplerConfig(suppress_tokens=[model.config.eos_token_id], **fields)
    with pytest.raises(ValueError, match=message):
        generate(model, prompts(1, 3), sampler=sampler)


def test_canvas_that_is_longer_than_the_model_is_refused(bidirectional):
    room = bidirectional.config.max_sequence_length
    with pytest.raises(ValueError, match=f"{room + 1} tokens of prompt and answer exceed the model's {room}; shorten"):
        infill(bidirectional, prompts(1, room + 1))


def test_infilling_masks_in_the_padding_is_refused(bidirectional):
    canvas = prompts(2, LENGTH)
    canvas[0, 0] = bidirectional.config.mask_token_id
    attention_mask = torch.ones_like(canvas)
    attention_mask[0, :2] = 0
    with pytest.raises(ValueError, match=r"the padding holds \[MASK\] tokens, which would be filled; pad with another"):
        infill(bidirectional, canvas, attention_mask)
