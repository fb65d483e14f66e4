"""Generate and infill: the samplers of the paper (arXiv:2502.09992, §2.4) from one configuration each.

Shapes: B batch, P prompt length, L length.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.orders import excluding
from llada.sampling.predictors import MaskPredictor, Predict, adaptively_guided, guided, plain, suppressed
from llada.sampling.reveals import REVEALS
from llada.sampling.uniforms import RowUniforms


class Generation(NamedTuple):
    """What a sampler made, and what it cost."""

    sequences: Tensor  # (B, P + gen_length) prompt and generated tokens; (B, L) for infilling
    forward_passes: Tensor  # (B,) network evaluations while the row was unfinished; guidance counts twice
    tokens_per_forward: Tensor  # (B,) generated tokens, up to and with the first EOS, per evaluation


def generate(
    model: MaskPredictor,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    *,
    first_row: int = 0,
) -> Generation:
    """Continue each prompt by `sampler.gen_length` tokens.

    Args:
        model: its call returns `.logits` (B, L, V); its `.config` has `mask_token_id`.
        prompt: tokens (B, P), P may be 0; shorter prompts are padded on the left.
        attention_mask: (B, P), 0 at padding; None: no padding.
        sampler: None: low-confidence remasking, greedy, one token per step.
        seed: row i's randomness is a function of (seed, i) alone.
        first_row: the number i of the first row, where a request is generated in several batches.

    Raises ValueError where the prompt holds [MASK] (infill does that), where prompt and answer exceed the model's
    length, and where the sampler needs an end-of-sequence token that the model's config does not name.
    """
    sampler = SamplerConfig() if sampler is None else sampler
    states = generation_states(model, prompt, attention_mask, sampler, seed, first_row=first_row)
    return collect(states, model, prompt, sampler)


def generation_states(
    model: MaskPredictor,
    prompt: Tensor,
    attention_mask: Tensor | None,
    sampler: SamplerConfig,
    seed: int = 0,
    *,
    first_row: int = 0,
) -> Iterator[State]:
    """The states of `generate`, one per prediction, to stream or record them. Arguments and errors as there."""
    sampler.check_lengths()
    canvas = _canvas(model, prompt, sampler)
    P = prompt.shape[1]
    attention_mask = _attention_mask(prompt, attention_mask)
    if ((prompt == model.config.mask_token_id) & (attention_mask == 1)).any():
        raise ValueError("the prompt holds [MASK] tokens; llada.infill fills them, generate only continues")
    padded = torch.cat((attention_mask, attention_mask.new_ones(canvas.shape[0], sampler.gen_length)), dim=1)
    size = sampler.gen_length // sampler.blocks
    blocks = [slice(P + i * size, P + (i + 1) * size) for i in range(sampler.blocks)]
    uniforms = row_uniforms(seed, padded, first_row)
    return _states(model, canvas, padded, blocks, sampler.steps_per_block, sampler, uniforms)


def infill(
    model: MaskPredictor,
    canvas: Tensor,
    attention_mask: Tensor | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
) -> Generation:
    """Fill every [MASK] of the canvas, wherever it stands; all other tokens stay.

    The canvas says how much there is to fill, so `sampler.gen_length` must not be set; `steps` None is one token per
    step, and `block_length` cuts the canvas, not the masks. Other arguments and errors as for `generate`.
    """
    sampler = SamplerConfig() if sampler is None else sampler
    if "gen_length" in sampler.model_fields_set:
        raise ValueError(
            "gen_length has no effect on infilling: the canvas says how much there is to fill; leave it out"
        )
    if sampler.stop_at_eos:
        raise ValueError("stop_at_eos has no effect on infilling: what follows an end-of-sequence token is given")
    _check_canvas(model, canvas)
    L = canvas.shape[1]
    size = sampler.block_length or max(L, 1)
    blocks = [slice(start, min(start + size, L)) for start in range(0, L, size)]
    if sampler.steps is not None and sampler.steps % max(len(blocks), 1):
        raise ValueError(f"steps={sampler.steps} cannot be shared equally by {len(blocks)} blocks of {size} tokens")
    steps = None if sampler.steps is None else sampler.steps // max(len(blocks), 1)
    if isinstance(sampler.counts, list):
        steps = len(sampler.counts)
    hidden = canvas == model.config.mask_token_id
    masks = torch.stack([hidden[:, b].sum(dim=1) for b in blocks]) if blocks else hidden.long()  # (blocks, B)
    sampler.check_fill(steps, int(masks.max()) if masks.numel() else 0)
    rule = REVEALS[sampler.reveal]
    timed = sampler.early_exit or not (rule.counted or rule.adaptive)
    if steps is None and timed and bool((masks != masks[:, :1]).any()):
        raise ValueError(
            f"reveal: {sampler.reveal} looks at the number of steps, and the rows have different numbers of masks; "
            "set steps, or fill rows one by one, so that no row depends on its neighbours"
        )
    attention_mask = _attention_mask(canvas, attention_mask)
    if ((canvas == model.config.mask_token_id) & (attention_mask == 0)).any():
        raise ValueError("the padding holds [MASK] tokens, which would be filled; pad with another token")
    uniforms = row_uniforms(seed, attention_mask)
    states = _states(model, canvas, attention_mask, blocks, steps, sampler, uniforms)
    return _account(states, canvas, model, sampler)


def collect(states: Iterator[State], model: MaskPredictor, prompt: Tensor, sampler: SamplerConfig) -> Generation:
    """Run the states of `generation_states` to their end and account for them."""
    return _account(states, _canvas(model, prompt, sampler), model, sampler)


def _states(
    model: MaskPredictor,
    canvas: Tensor,
    attention_mask: Tensor,
    blocks: list[slice],
    steps: int | None,
    sampler: SamplerConfig,
    uniforms: RowUniforms,
) -> Iterator[State]:
    """The loop with the decisions that the configuration names."""
    mask_token_id = model.config.mask_token_id
    order = sampler.make_order()
    if sampler.eos_last:
        order = excluding(order, _end_tokens(model))
    return denoise(
        _predictor(model, canvas, attention_mask, sampler),
        canvas,
        mask_token_id,
        blocks=blocks,
        steps=steps,
        draft=sampler.make_draft(),
        order=order,
        reveal=sampler.make_reveal(),
        counts=sampler.make_counts(),
        edit=sampler.make_edit(),
        edit_steps=16 if sampler.edit_steps is None else sampler.edit_steps,
        every_step=REVEALS[sampler.reveal].every_step,
        lookback=sampler.lookback,
        stop_token_id=_eos(model, "stop_at_eos") if sampler.stop_at_eos else None,
        uniforms=uniforms,
    )


def _predictor(model: MaskPredictor, canvas: Tensor, attention_mask: Tensor, sampler: SamplerConfig) -> Predict:
    """The model with the guidance and the suppressed tokens that the configuration names."""
    mask_token_id = model.config.mask_token_id
    shown = None if attention_mask.all() else attention_mask
    predict: Predict = plain(model, shown, beyond_window=not sampler.variable_length)
    given = canvas != mask_token_id
    if sampler.cfg_scale > 0 and sampler.guidance == "prompt":
        predict = guided(predict, given, mask_token_id, sampler.cfg_scale)
    elif sampler.cfg_scale > 0:
        predict = adaptively_guided(predict, given, mask_token_id, sampler.cfg_scale, sampler.guidance_share or 0.7)
    tokens = [*sampler.suppress_tokens, *([_eos(model, "forbid_eos")] if sampler.forbid_eos else [])]
    return suppressed(predict, tokens) if tokens else predict


def _account(states: Iterator[State], canvas: Tensor, model: MaskPredictor, sampler: SamplerConfig) -> Generation:
    """Run the sampler to its end and account for it."""
    generated = canvas == model.config.mask_token_id
    evaluations = 2 if sampler.cfg_scale > 0 else 1
    forward_passes = torch.zeros(canvas.shape[0], dtype=torch.long, device=canvas.device)
    for state in states:
        canvas = state.canvas
        forward_passes = forward_passes + evaluations * state.active
    eos = getattr(model.config, "eos_token_id", None)  # a mask predictor from elsewhere may have none
    ended = (canvas == eos) & generated if eos is not None else torch.zeros_like(generated)
    before_end = ended.cumsum(dim=1) - ended.long() == 0
    tokens = (generated & before_end).sum(dim=1)
    return Generation(canvas, forward_passes, tokens / forward_passes.clamp(min=1))


def _canvas(model: MaskPredictor, prompt: Tensor, sampler: SamplerConfig) -> Tensor:
    """The prompt and [MASK] for everything to be generated, (B, P + gen_length)."""
    if prompt.dim() != 2:
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}; it must be (batch, length)")
    masks = prompt.new_full((prompt.shape[0], sampler.gen_length), _mask(model))
    canvas = torch.cat((prompt, masks), dim=1)
    _check_canvas(model, canvas)
    return canvas


def _check_canvas(model: MaskPredictor, canvas: Tensor) -> None:
    _mask(model)
    if canvas.dim() != 2 or canvas.is_floating_point():
        raise ValueError(
            f"token ids must be integers of shape (batch, length), not {canvas.dtype} {tuple(canvas.shape)}"
        )
    longest = getattr(model.config, "max_position_embeddings", None)  # not every model has a limit
    if longest is not None and canvas.shape[1] > longest:
        raise ValueError(
            f"{canvas.shape[1]} tokens of prompt and answer exceed the model's {longest}; shorten one of them"
        )


def _attention_mask(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """All ones where none is given; the shape must be that of the tokens, and padding on the left."""
    if attention_mask is None:
        return torch.ones_like(tokens)
    if attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} and tokens {tuple(tokens.shape)} differ in shape"
        )
    if (attention_mask.long().diff(dim=1) < 0).any():
        raise ValueError("padding must be on the left: set tokenizer.padding_side = 'left'")
    return attention_mask.long()


def _mask(model: MaskPredictor) -> int:
    mask_token_id = model.config.mask_token_id
    if mask_token_id is None:
        raise ValueError("model.config.mask_token_id is not set; set it to the id of the tokenizer's mask token")
    return mask_token_id


def _eos(model: MaskPredictor, option: Literal["forbid_eos", "stop_at_eos", "eos_last"]) -> int:
    eos = getattr(model.config, "eos_token_id", None)  # a mask predictor from elsewhere may have none
    if eos is None:
        raise ValueError(f"{option} needs model.config.eos_token_id, which is not set")
    return eos


def _end_tokens(model: MaskPredictor) -> list[int]:
    """End of sequence, and end of turn where the vocabulary has it."""
    eot = getattr(model.config, "eot_token_id", None)  # a field of LLaDAConfig only
    return [_eos(model, "eos_last"), *([] if eot is None else [eot])]
