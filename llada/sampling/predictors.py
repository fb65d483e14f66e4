"""Predictors: canvas (B, L) and a window of it → logits (B, W, V). Wrapping one gives another.

A model is anything whose call returns `.logits` (B, L, V), unshifted, and whose `.config` has `mask_token_id`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Predict = Callable[[Tensor, slice], Tensor]


class MaskPredictor(Protocol):
    """What the samplers ask of a model."""

    config: Any  # has mask_token_id; eos_token_id, eot_token_id and max_position_embeddings where they exist

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> Any:
        """An object with `.logits` (B, L, V), unshifted."""
        ...


def plain(model: MaskPredictor, attention_mask: Tensor | None = None) -> Predict:
    """The model as it is; `attention_mask` (B, L) is 0 at padding."""

    @torch.no_grad()
    def predict(canvas: Tensor, block: slice) -> Tensor:
        return model(canvas, attention_mask=attention_mask).logits[:, block]

    return predict


def guided(predict: Predict, prompt: Tensor, mask_token_id: int, scale: float) -> Predict:
    """Unsupervised classifier-free guidance (SMDM, arXiv:2410.18514): `un + (scale + 1) (cond - un)`.

    The unconditional prediction sees the canvas with its `prompt` (bool (B, L)) masked. Scale 0 is the conditional,
    -1 the unconditional prediction. Costs two network evaluations.
    """

    def predict_guided(canvas: Tensor, block: slice) -> Tensor:
        conditional = predict(canvas, block)
        unconditional = predict(canvas.masked_fill(prompt, mask_token_id), block)
        return unconditional + (scale + 1) * (conditional - unconditional)

    return predict_guided


def suppressed(predict: Predict, tokens: list[int]) -> Predict:
    """Never draft one of `tokens`: their probability is 0 and the others share it."""

    def predict_suppressed(canvas: Tensor, block: slice) -> Tensor:
        logits = predict(canvas, block)
        return logits.index_fill(-1, torch.tensor(tokens, device=logits.device), -torch.inf)

    return predict_suppressed
