"""Predictors: canvas (B, L) and a window of it → logits (B, W, V). Wrapping one gives another.

A model is anything whose call returns `.logits` (B, L, V), unshifted, and whose `.config` has `mask_token_id`. A
predictor that is a `RowPredictor` can be narrowed to some rows of its batch, so that finished ones cost nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Predict = Callable[[Tensor, slice], Tensor]


class MaskPredictor(Protocol):
    """What the samplers ask of a model."""

    config: Any  # has mask_token_id; eos_token_id, eot_token_id and max_position_embeddings where they exist

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> Any:
        """An object with `.logits` (B, L, V), unshifted."""
        ...


def forbid(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Logits (..., V) under which some tokens have probability 0."""
    return logits.index_fill(-1, torch.tensor(tokens, device=logits.device), -torch.inf)


@runtime_checkable
class RowPredictor(Protocol):
    """A predictor of a batch that can be had for some rows of it."""

    def __call__(self, canvas: Tensor, block: slice, /) -> Tensor: ...

    def of_rows(self, rows: Tensor) -> Self: ...


@dataclass(frozen=True)
class plain:  # noqa: N801  # used like a function
    """The model as it is; `attention_mask` (B, L) is 0 at padding.

    Without `beyond_window` the model is not shown what follows the window: later blocks do not exist yet.
    """

    model: MaskPredictor
    attention_mask: Tensor | None = None
    beyond_window: bool = True

    @torch.no_grad()
    def __call__(self, canvas: Tensor, block: slice) -> Tensor:
        end = canvas.shape[1] if self.beyond_window else block.stop
        shown = None if self.attention_mask is None else self.attention_mask[:, :end]
        return self.model(canvas[:, :end], attention_mask=shown).logits[:, block]

    def of_rows(self, rows: Tensor) -> Self:
        return self if self.attention_mask is None else replace(self, attention_mask=self.attention_mask[rows])


@dataclass(frozen=True)
class guided:  # noqa: N801
    """Unsupervised classifier-free guidance (SMDM, arXiv:2410.18514): `un + (scale + 1) (cond - un)`.

    The unconditional prediction sees the canvas with its `prompt` (bool (B, L)) masked. Scale 0 is the conditional,
    -1 the unconditional prediction. Costs two network evaluations.
    """

    predict: Predict
    prompt: Tensor
    mask_token_id: int
    scale: float

    def __call__(self, canvas: Tensor, block: slice) -> Tensor:
        conditional = self.predict(canvas, block)
        unconditional = self.predict(canvas.masked_fill(self.prompt, self.mask_token_id), block)
        return unconditional + (self.scale + 1) * (conditional - unconditional)

    def of_rows(self, rows: Tensor) -> Self:
        return replace(self, predict=_of_rows(self.predict, rows), prompt=self.prompt[rows])


@dataclass(frozen=True)
class adaptively_guided:  # noqa: N801
    """Adaptive guidance (A-CFG, arXiv:2505.20199): the unconditional prediction lacks what the model doubts.

    Of the tokens generated so far, the `share` (rounded up) to which the conditional prediction gives the least
    probability are masked for the unconditional one. Costs two network evaluations.
    """

    predict: Predict
    given: Tensor  # bool (B, L), the prompt and all else that was not generated
    mask_token_id: int
    scale: float
    share: float

    def __call__(self, canvas: Tensor, block: slice) -> Tensor:
        everywhere = self.predict(canvas, slice(0, canvas.shape[1]))
        generated = ~self.given & (canvas != self.mask_token_id)
        log_p = forbid(everywhere, [self.mask_token_id]).log_softmax(dim=-1)
        log_p = log_p.gather(-1, canvas.clamp(max=everywhere.shape[-1] - 1)[..., None])[..., 0]
        doubt = log_p.masked_fill(~generated, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        lowest = doubt < (generated.sum(dim=1, keepdim=True) * self.share).ceil()
        unconditional = self.predict(canvas.masked_fill(generated & lowest, self.mask_token_id), block)
        return unconditional + (self.scale + 1) * (everywhere[:, block] - unconditional)

    def of_rows(self, rows: Tensor) -> Self:
        return replace(self, predict=_of_rows(self.predict, rows), given=self.given[rows])


@dataclass(frozen=True)
class suppressed:  # noqa: N801
    """Never draft one of `tokens`: their probability is 0 and the others share it."""

    predict: Predict
    tokens: list[int]

    def __call__(self, canvas: Tensor, block: slice) -> Tensor:
        return forbid(self.predict(canvas, block), self.tokens)

    def of_rows(self, rows: Tensor) -> Self:
        return replace(self, predict=_of_rows(self.predict, rows))


@dataclass(frozen=True)
class restricted:  # noqa: N801
    """Draft only tokens that are `allowed`, bool (L, V) or (B, L, V), at each position of the canvas.

    Raises ValueError where a position has none.
    """

    predict: Predict
    allowed: Tensor

    def __post_init__(self):
        if not self.allowed.any(dim=-1).all():
            raise ValueError("allowed leaves no token at some position; allow one, or write it into the canvas")

    def __call__(self, canvas: Tensor, block: slice) -> Tensor:
        return self.predict(canvas, block).masked_fill(~self.allowed[..., block, :], -torch.inf)

    def of_rows(self, rows: Tensor) -> Self:
        allowed = self.allowed[rows] if self.allowed.dim() == 3 else self.allowed
        return replace(self, predict=_of_rows(self.predict, rows), allowed=allowed)


def _of_rows(predict: Predict, rows: Tensor) -> Predict:
    if isinstance(predict, RowPredictor):
        return predict.of_rows(rows)
    raise TypeError(
        f"{predict!r} cannot be narrowed to rows of its batch, and something around it can; give it an of_rows method"
    )
