"""From a configuration to a run: the model with what is wrapped around it, and the loop with its decisions.

Shapes: B batch, L length.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from llada.sampling.cached import CACHES, Cache, CachingModel, block_causal, cached
from llada.sampling.config import SamplerConfig
from llada.sampling.daedal import Grown, daedal
from llada.sampling.denoise import State, denoise
from llada.sampling.likeliest import Likeliest
from llada.sampling.orders import excluding
from llada.sampling.predictors import MaskPredictor, Meter, Predict, adaptively_guided, guided, plain, suppressed
from llada.sampling.request import end_tokens, eos_token
from llada.sampling.speculate import exact_speculation, greedy_speculation
from llada.sampling.uniforms import RowUniforms


def states_of(
    sampler: SamplerConfig,
    model: MaskPredictor,
    canvas: Tensor,
    attention_mask: Tensor,
    blocks: list[slice],
    steps: int | None,
    uniforms: RowUniforms,
    meter: Meter,
    likeliest: Likeliest | None = None,
) -> Iterator[State]:
    """The loop that the configuration describes, on a canvas (B, L) and in blocks of so many steps each."""
    mask_token_id = model.config.mask_token_id
    predict = predictor_of(sampler, model, canvas != mask_token_id, attention_mask, meter)
    predict = predict if likeliest is None else likeliest.of(predict)
    order = sampler.make_order()
    if sampler.eos_last:
        order = excluding(order, end_tokens(model, "eos_last"))
    stop_token_id = eos_token(model, "stop_at_eos") if sampler.stop_at_eos else None
    if stop_token_id in sampler.suppress_tokens:
        raise ValueError(
            f"stop_at_eos has no effect with suppress_tokens that hold {stop_token_id}, the end of sequence"
        )
    if sampler.speculation is not None and sampler.temperature == 0:
        return greedy_speculation(
            predict,
            canvas,
            mask_token_id,
            depth=sampler.speculation,
            blocks=blocks,
            steps=steps,
            order=order,
            counts=sampler.make_counts(),
            stop_token_id=stop_token_id,
            uniforms=uniforms,
        )
    if sampler.speculation is not None:
        return exact_speculation(
            predict,
            canvas,
            mask_token_id,
            depth=sampler.speculation,
            temperature=sampler.temperature,
            blocks=blocks,
            order=order,
            keep_order=False,  # so that the law is that of one token a step, whatever the order and the model
            stop_token_id=stop_token_id,
            uniforms=uniforms,
        )
    return denoise(
        predict,
        canvas,
        mask_token_id,
        blocks=blocks,
        steps=steps,
        draft=sampler.make_draft(),
        order=order,
        reveal=sampler.make_reveal(),
        counts=sampler.make_counts(),
        edit=sampler.make_edit(),
        stop_token_id=stop_token_id,
        uniforms=uniforms,
    )


def predictor_of(
    sampler: SamplerConfig, model: MaskPredictor, given: Tensor, attention_mask: Tensor, meter: Meter
) -> Predict:
    """The model with the cache, guidance and suppressed tokens of the configuration.

    Args:
        given: bool (B, L), the prompt and all else that is not generated.
        attention_mask: (B, L), 0 at padding.
    """
    mask_token_id = model.config.mask_token_id
    padding = None if attention_mask.all() else attention_mask

    def network() -> Predict:
        beyond_window = not sampler.variable_length
        if sampler.cache == "none":
            return plain(model, padding, beyond_window, meter)
        if not isinstance(model, CachingModel):
            raise ValueError(
                f"cache: {sampler.cache} needs a model that keeps keys and values, as LLaDAForMaskedLM does; "
                f"{type(model).__name__} cannot"
            )
        return cached(
            model,
            _cache(sampler, model),
            mask_token_id,
            padding,
            refresh_every=sampler.refresh_every,
            beyond_window=beyond_window,
            meter=meter,
        )

    predict = network()
    if sampler.cfg_scale > 0 and sampler.guidance == "prompt":
        predict = guided(predict, given, mask_token_id, sampler.cfg_scale, unconditional=network())
    elif sampler.cfg_scale > 0:
        predict = adaptively_guided(predict, given, mask_token_id, sampler.cfg_scale, sampler.guidance_share or 0.7)
    tokens = [*sampler.suppress_tokens, *([eos_token(model, "forbid_eos")] if sampler.forbid_eos else [])]
    return suppressed(predict, tokens) if tokens else predict


def answer_of(
    sampler: SamplerConfig, model: MaskPredictor, prompt: Tensor, uniforms: RowUniforms, meter: Meter
) -> Iterator[Grown]:
    """An answer that finds its own length (DAEDAL) as it grows, to the prompt (P,) of a single row."""
    eos = eos_token(model, "longest")
    if eos in sampler.suppress_tokens:
        raise ValueError(f"longest needs the end of sequence, {eos}, which suppress_tokens holds; remove it there")

    def predict(canvas: Tensor, window: slice) -> Tensor:
        given = torch.arange(canvas.shape[1], device=canvas.device)[None] < len(prompt)
        return predictor_of(sampler, model, given, torch.ones_like(canvas), meter)(canvas, window)

    return daedal(
        predict,
        prompt,
        model.config.mask_token_id,
        eos,
        draft=sampler.make_draft(),
        order=sampler.make_order(),
        uniforms=uniforms,
        **sampler.growth(),
    )


def _cache(sampler: SamplerConfig, model: CachingModel) -> Cache:
    if sampler.cache != "block_causal":
        return CACHES[sampler.cache]
    length = getattr(model.config, "block_length", None)  # a field of LLaDAConfig only
    if length is None:
        raise ValueError(
            "cache: block_causal needs a model whose attention is block-causal (config.block_length); "
            "for others it would be wrong without notice: take dual, prefix or delayed"
        )
    return block_causal(length)
