"""The reverse process of LLaDA (arXiv:2502.09992, algorithms 4 and 5): from [MASK] to text, one loop for all samplers.

Every step predicts all tokens of a window, drafts one at each masked position, and decides which are visible next.
Each of these is a function that the caller gives; the loop yields what happened after every prediction, so that
streaming, traces and early exit are the caller's.

Shapes: B batch, L length, W window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.sampling.drafts import Draft, greedy
from llada.sampling.orders import Order, confidence
from llada.sampling.predictors import Predict
from llada.sampling.reveals import Reveal, Step, top_k
from llada.sampling.schedules import even_counts
from llada.sampling.uniforms import RowUniforms

# Independent random numbers for the two uses within a step.
_DRAFT, _ORDER = range(2)


@dataclass(frozen=True)
class State:
    """The canvas after one step, and how it came about."""

    canvas: Tensor  # (B, L) tokens, [MASK] where nothing is revealed yet; a new tensor in every state
    block: slice  # the window W of the canvas that the step looked at
    index: int  # of the step, counted through all blocks
    draft: Tensor  # (B, W) tokens proposed
    score: Tensor  # (B, W) by which they were ordered
    visible: Tensor  # (B, W) bool, revealed after the step
    active: Tensor  # (B,) bool, rows that still had something to reveal before the step


def denoise(
    predict: Predict,
    canvas: Tensor,
    mask_token_id: int,
    *,
    blocks: Sequence[slice] | None = None,
    steps: int | None = None,
    draft: Draft = greedy,
    order: Order = confidence,
    reveal: Reveal = top_k,
    stop_token_id: int | None = None,
    uniforms: RowUniforms | None = None,
) -> Iterator[State]:
    """Fill every [MASK] of the canvas inside the blocks; yield one `State` per prediction.

    Args:
        predict: (canvas, block) → logits (B, W, V). [MASK] itself is never drafted, whatever its logit.
        canvas: (B, L) tokens; what is not [MASK] at the start stays as it is.
        blocks: windows, completed one after another: several make the sampler semi-autoregressive; None: everything
            at once. Masks beyond the window are visible to the model as [MASK].
        steps: predictions per block; None: as many as the row with most masks has, one token each. A block ends
            early when all its masks are revealed.

    Other args:
        draft, order, reveal: see `llada.sampling.drafts`, `.orders`, `.reveals`.
        stop_token_id: a row is finished when this token is revealed and nothing before it is masked; the rest of the
            row is filled with it.
        uniforms: the source of randomness; None: seed 0, row and column numbers.
    """
    if uniforms is None:
        uniforms = row_uniforms(0, torch.ones_like(canvas))
    fillable = canvas == mask_token_id
    index = 0
    for block in [slice(0, canvas.shape[1])] if blocks is None else blocks:
        masks = (canvas[:, block] == mask_token_id).sum(dim=1)
        block_steps = int(masks.max()) if steps is None else steps  # sync, once per block
        counts = even_counts(masks, max(block_steps, 1))
        for count in counts[:, :block_steps].unbind(dim=1):
            masked = canvas[:, block] == mask_token_id
            active = masked.any(dim=1)
            if not active.any():  # sync: a finished block costs no further prediction
                break
            logits = predict(canvas, block)
            logits = logits.index_fill(-1, torch.tensor([mask_token_id], device=logits.device), -torch.inf)
            drafted = draft(logits, masked, uniforms(block, index, _DRAFT))
            drafted = torch.where(masked, drafted, canvas[:, block])
            score = order(logits, drafted, uniforms(block, index, _ORDER))
            visible = reveal(Step(logits, drafted, score, masked, count))
            canvas = canvas.clone()
            canvas[:, block] = torch.where(visible, drafted, mask_token_id)
            if stop_token_id is not None:
                canvas = _fill_after_stop(canvas, fillable, mask_token_id, stop_token_id)
            yield State(canvas, block, index, drafted, score, visible, active)
            index += 1


def row_uniforms(seed: int, attention_mask: Tensor, first_row: int = 0) -> RowUniforms:
    """The random numbers of rows `first_row`, ... of a request whose padding is where `attention_mask` (B, L) is 0."""
    rows = torch.arange(attention_mask.shape[0], device=attention_mask.device) + first_row
    return RowUniforms(seed, rows, attention_mask.long().cumsum(dim=1) - 1)


def _fill_after_stop(canvas: Tensor, fillable: Tensor, mask_token_id: int, stop_token_id: int) -> Tensor:
    """Write the stop token after the first one that has no mask before it, where the sampler may write at all."""
    masks_before = (canvas == mask_token_id).cumsum(dim=1)
    stopped = ((canvas == stop_token_id) & fillable & (masks_before == 0)).cumsum(dim=1) > 0
    return torch.where(stopped & fillable, stop_token_id, canvas)
