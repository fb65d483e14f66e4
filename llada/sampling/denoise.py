"""The reverse process of LLaDA (arXiv:2502.09992, algorithms 4 and 5): from [MASK] to text, one loop for all samplers.

Every step predicts all tokens of a window, drafts one at each masked position, and decides which are visible next.
Each of these is a function that the caller gives; the loop yields what happened after every prediction, so that
streaming, traces and early exit are the caller's.

Shapes: B batch, L length, W window, R rows that are not finished.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llada.sampling.drafts import Draft, Edit, greedy
from llada.sampling.orders import Order, confidence
from llada.sampling.predictors import Predict, RowPredictor, forbid
from llada.sampling.reveals import Reveal, Step, top_k
from llada.sampling.schedules import Counts, even_counts
from llada.sampling.uniforms import RowUniforms, Stream, moment


@dataclass(frozen=True)
class State:
    """The canvas after one step, and how it came about."""

    canvas: Tensor  # (B, L) tokens, [MASK] where nothing is revealed yet; a new tensor in every state
    block: slice  # the window W of the canvas that the step looked at
    index: int  # of the step, counted through all blocks
    draft: Tensor  # (B, W) tokens proposed; in rows that took no part, the tokens that stand there
    score: Tensor  # (B, W) by which they were ordered; -inf in rows that took no part
    probability: Tensor  # (B, W) of drafts and edits at temperature 1; 1 where a token stays as it was
    visible: Tensor  # (B, W) bool, revealed after the step
    active: Tensor  # (B,) bool, rows that took part in the step


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
    counts: Counts = even_counts,
    edit: Edit | None = None,
    edit_steps: int = 0,
    every_step: bool = False,
    lookback: int = 0,
    first_step: int = 0,
    writable: Tensor | None = None,
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
        draft, order, reveal, counts: see `llada.sampling.drafts`, `.orders`, `.reveals`, `.schedules`.
        edit: what replaces revealed tokens, see `llada.sampling.drafts`; after the last mask of a block it has up to
            `edit_steps` further predictions, until it changes nothing.
        every_step: the reveal rule may mask tokens again when none is masked, so no block ends early.
        lookback: how many earlier steps of the block the reveal rule is shown.
        first_step: predictions done before on the first block, to go on from a canvas that was left there.
        writable: bool (B, L), what may be written and masked again; None: what is [MASK] at the start.
        stop_token_id: a row is finished when this token is revealed and nothing before it is masked; the rest of the
            row is filled with it.
        uniforms: the source of randomness; None: seed 0, row and column numbers.

    Rows that are finished are left out of the predictions where `predict` can do that (`RowPredictor`).
    """
    if uniforms is None:
        uniforms = row_uniforms(0, torch.ones_like(canvas))
    writable = canvas == mask_token_id if writable is None else writable
    held = torch.ones(canvas.shape, dtype=torch.float64, device=canvas.device)  # (B, L)
    stopped = torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)
    index = first_step
    for number, block in enumerate([slice(0, canvas.shape[1])] if blocks is None else blocks):
        done = first_step if number == 0 else 0
        masks = (canvas[:, block] == mask_token_id).sum(dim=1)
        most = int(masks.max()) if len(masks) else 0  # sync, once per block
        block_steps = most if steps is None else steps
        plan = counts(masks, max(block_steps - done, 1))  # (B, steps)
        earlier: tuple[Step, ...] = ()
        rows = torch.arange(len(canvas), device=canvas.device)  # (R,)
        changed = torch.ones_like(stopped)
        edits = torch.zeros_like(masks)  # (B,) predictions spent on edits alone
        for step in range(done, block_steps + edit_steps):
            masked = canvas[:, block] == mask_token_id
            goes_on = masked.any(dim=1) if step < block_steps else torch.zeros_like(stopped)
            if every_step and step < block_steps:
                goes_on = writable[:, block].any(dim=1)
            if edit is not None:
                edits_on = (
                    ~goes_on & changed & writable[:, block].any(dim=1) & ~masked.any(dim=1) & (edits < edit_steps)
                )
                edits = edits + (edits_on & ~stopped)
                goes_on = goes_on | edits_on
            active = goes_on & ~stopped
            before, rows = rows, active.nonzero()[:, 0]  # sync: a finished row or block costs no further prediction
            if len(rows) == 0:
                break
            now = moment(number, step)
            here = canvas[rows]  # (R, L)
            logits = forbid(_predict(predict, here, canvas, block, rows), [mask_token_id])
            present, masked_here = here[:, block], masked[rows]
            if len(rows) < len(before):  # the rows of the earlier steps are those of this one
                earlier = tuple(one.of_rows(torch.isin(before, rows)) for one in earlier)
            drafted = draft(logits, masked_here, uniforms(block, now, Stream.DRAFT)[rows])
            drafted = torch.where(masked_here, drafted, present)
            if edit is not None:
                drafted = torch.where(masked_here, drafted, edit(logits, present, writable[rows][:, block]))
            given = Step(
                logits=logits,
                draft=drafted,
                score=order(logits, drafted, uniforms(block, now, Stream.ORDER)[rows]),
                masked=masked_here,
                count=plan[rows, min(step - done, plan.shape[1] - 1)],
                writable=writable[rows][:, block],
                held=held[rows][:, block],
                uniforms=uniforms(block, now, Stream.REVEAL)[rows],
                index=step,
                steps=block_steps,
                canvas=here,
                block=block,
                rows=rows if len(rows) < len(canvas) else None,
                earlier=earlier,
            )
            visible = reveal(given)
            # without its own past, or every step of the block would stay in memory
            earlier = (*earlier, replace(given, earlier=()))[-lookback:] if lookback else ()
            probability = given.probability.masked_fill(~masked_here & (drafted == present), 1.0)
            after = torch.where(visible, drafted, mask_token_id)
            changed = torch.zeros_like(stopped).index_put((rows,), (after != present).any(dim=1))
            canvas = _put(canvas, rows, block, after)
            held = _put(held, rows, block, torch.where(masked_here & visible, probability, given.held))
            if stop_token_id is not None:
                canvas, stopped = _fill_after_stop(canvas, writable, mask_token_id, stop_token_id)
            window = canvas[:, block]
            yield State(
                canvas=canvas,
                block=block,
                index=index,
                draft=_put(window, rows, slice(None), drafted),
                score=_put(
                    torch.full_like(window, -torch.inf, dtype=given.score.dtype), rows, slice(None), given.score
                ),
                probability=_put(torch.ones_like(window, dtype=torch.float64), rows, slice(None), probability),
                visible=_put(~masked, rows, slice(None), visible),
                active=active,
            )
            index += 1


def row_uniforms(seed: int, attention_mask: Tensor, first_row: int = 0) -> RowUniforms:
    """The random numbers of rows `first_row`, ... of a request whose padding is where `attention_mask` (B, L) is 0."""
    rows = torch.arange(attention_mask.shape[0], device=attention_mask.device) + first_row
    return RowUniforms(seed, rows, attention_mask.long().cumsum(dim=1) - 1)


def _predict(predict: Predict, here: Tensor, canvas: Tensor, block: slice, rows: Tensor) -> Tensor:
    """Logits (R, W, V) of the rows that go on; the others are predicted, too, only where it cannot be helped."""
    if len(rows) == len(canvas):
        return predict(canvas, block)
    return predict.of_rows(rows)(here, block) if isinstance(predict, RowPredictor) else predict(canvas, block)[rows]


def _put(whole: Tensor, rows: Tensor, block: slice, part: Tensor) -> Tensor:
    """A copy of `whole` with some rows of a window replaced."""
    whole = whole.clone()
    window = whole[:, block]
    window[rows] = part.to(whole.dtype)
    return whole


def _fill_after_stop(canvas: Tensor, writable: Tensor, mask_token_id: int, stop_token_id: int) -> tuple[Tensor, Tensor]:
    """Write the stop token after the first one that has no mask before it, where the sampler may write at all.

    Also which rows have stopped, (B,).
    """
    masks_before = (canvas == mask_token_id).cumsum(dim=1)
    stopped = ((canvas == stop_token_id) & writable & (masks_before == 0)).cumsum(dim=1) > 0
    return torch.where(stopped & writable, stop_token_id, canvas), stopped.any(dim=1)
