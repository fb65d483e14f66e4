"""The reverse process of LLaDA (arXiv:2502.09992, algorithms 4 and 5): from [MASK] to text, one loop for all samplers.

Every step predicts the tokens of a window, drafts one at each masked position, and decides which are visible next.
Each of these is a function that the caller gives; the loop yields what happened after every prediction, so that
streaming, traces and early exit are the caller's.

Shapes: B batch, L length, W window, N predicted positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llada.sampling.drafts import Draft, Edit, greedy
from llada.sampling.orders import Drafts, Order, confidence
from llada.sampling.predictors import Predict, check_possible, check_vocabulary, logits_at
from llada.sampling.reveals import Reveal, Rule, Step, spread, top_k
from llada.sampling.schedules import Counts, even_counts
from llada.sampling.uniforms import RowUniforms, Stream, moment
from llada.whole import check_whole


@dataclass(frozen=True)
class State:
    """The canvas after one step, and how it came about."""

    canvas: Tensor  # (B, L) tokens, [MASK] where nothing is revealed yet; a new tensor in every state
    block: slice  # the window W of the canvas that the step looked at
    index: int  # of the step, counted through all blocks
    draft: Tensor  # (B, W) tokens proposed; where nothing was predicted, the tokens that stand there
    score: Tensor  # (B, W) by which they were ordered; -inf where nothing was predicted
    probability: Tensor  # float64 (B, W) of drafts and edits at temperature 1; 1 where a token stays as it was
    visible: Tensor  # (B, W) bool, revealed after the step
    active: Tensor  # (B,) bool, rows that were predicted; a rule may mask tokens again in others


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
    first_step: int = 0,
    writable: Tensor | None = None,
    stop_token_id: int | None = None,
    uniforms: RowUniforms | None = None,
) -> Iterator[State]:
    """Fill every [MASK] of the canvas inside the blocks; yield one `State` per prediction.

    Args:
        predict: (canvas, block) → logits (B, W, V), or a `Predictor`, which is asked for logits only where they are
            used. [MASK] itself is never drafted, whatever its logit.
        canvas: (B, L) tokens; what is not [MASK] at the start stays as it is.
        blocks: windows, completed one after another: several make the sampler semi-autoregressive; None: everything
            at once. Masks beyond the window are visible to the model as [MASK].
        steps: predictions per block; None: as many as the row with most masks has, one token each. A row is done with
            a block when all its masks there are revealed, unless the rule asks for every step.

    Other args:
        draft, order, reveal, counts: see `llada.sampling.drafts`, `.orders`, `.reveals`, `.schedules`.
        edit: what replaces revealed tokens, and for how many steps after the last mask of a block.
        first_step: where the first block begins to count its steps. What a run remembers (the earlier steps of KLASS,
            the probabilities of Mask-Predict) is not there.
        writable: bool (B, L), what may be written and masked again, all else stays as it is; None: what is [MASK] at
            the start.
        stop_token_id: a row is finished when this token is revealed and nothing before it is masked, or where tokens
            are edited when it is done with the block; the rest of the row is filled with it.
        uniforms: the source of randomness; None: seed 0, row and column numbers.

    Raises ValueError for blocks outside of the canvas, for no steps, and where no token is possible at a position;
    FloatingPointError where the logits are not numbers.
    """
    _check_canvas(canvas, mask_token_id, writable)
    blocks = [slice(0, canvas.shape[1])] if blocks is None else blocks
    _check(blocks, canvas.shape[1], steps, first_step)
    uniforms = row_uniforms(0, torch.ones_like(canvas)) if uniforms is None else uniforms
    writable = canvas == mask_token_id if writable is None else writable
    rule = reveal if isinstance(reveal, Rule) else Rule(reveal)
    everywhere = rule.everywhere or edit is not None
    held = torch.ones(canvas.shape, dtype=torch.float64, device=canvas.device)  # (B, L)
    stopped = torch.zeros(len(canvas), dtype=torch.bool, device=canvas.device)
    index, V = first_step, 0
    for number, block in enumerate(blocks):
        masks = ((canvas[:, block] == mask_token_id) & writable[:, block]).sum(dim=1)
        done = first_step if number == 0 else 0
        most = int(masks.max()) if len(masks) else 0  # sync, once per block
        block_steps = most if steps is None else steps
        plan = counts(masks, max(block_steps - done, 1))  # (B, steps)
        earlier: tuple[Step, ...] = ()
        changed = torch.ones_like(stopped)
        edits = torch.zeros_like(masks)  # (B,) steps spent on edits alone
        for turn in range(done, block_steps + (edit.extra_steps if edit else 0)):
            present, free, now = canvas[:, block], writable[:, block], moment(number, turn)
            masked = (present == mask_token_id) & free
            unfilled = masked.any(dim=1)
            active = (free.any(dim=1) if rule.every_step else unfilled) & (turn < block_steps)
            if edit is not None:
                revises = ~active & ~unfilled & free.any(dim=1) & changed & (edits < edit.extra_steps)
                active, edits = active | revises, edits + revises
            active = active & ~stopped
            if not active.any():  # sync
                break
            predicted = (masked | free if everywhere else masked) & active[:, None]
            logits = _logits(predict, canvas, block, mask_token_id, predicted, V)  # (N, V)
            V = logits.shape[1]
            token = draft(logits, uniforms(block, now, Stream.DRAFT)[predicted])  # (N,)
            token = torch.where(masked[predicted], token, present[predicted])
            numbers = uniforms(block, now, Stream.ORDER)[predicted]
            drafts = Drafts(logits, token, predicted.nonzero()[:, 1], present.shape[1], numbers)
            check_possible(drafts.log_normaliser)  # sync; before the token, which is none of them if logits are NaN
            if edit is not None:
                drafts = replace(drafts, token=torch.where(masked[predicted], token, edit.replaced(drafts)))
            step = Step(
                drafts=drafts,
                predicted=predicted,
                draft=present.masked_scatter(predicted, drafts.token),
                score=spread(order(drafts), predicted, -torch.inf),
                masked=masked & active[:, None],
                count=plan[:, min(turn - done, plan.shape[1] - 1)],
                writable=free,
                held=held[:, block],
                uniforms=uniforms(block, now, Stream.REVEAL),
                index=min(turn, max(block_steps - 1, 0)),  # steps for edits alone are as the last one
                steps=block_steps,
                canvas=canvas,
                block=block,
                earlier=earlier,
            )
            visible = torch.where(active[:, None] & free, rule(step), ~masked)
            if rule.lookback:  # without its own past, or every step of the block would stay in memory
                earlier = (*earlier, replace(step, earlier=()))[-rule.lookback :]
            probability = step.probability.double().masked_fill(~masked & (step.draft == present), 1.0)
            after = torch.where(visible, step.draft, mask_token_id)
            changed = (after != present).any(dim=1)
            held = _put(held, block, torch.where(step.masked & visible, probability, step.held))
            canvas = _put(canvas, block, after)
            if stop_token_id is not None:
                ends = None
                if edit is not None:  # tokens before the stop token may still change
                    ends = stopped | (active & visible.all(dim=1) & (~changed | (edits >= edit.extra_steps)))
                canvas, stopped = fill_after_stop(canvas, writable, mask_token_id, stop_token_id, ends)
            yield State(canvas, block, index, step.draft, step.score, probability, visible, predicted.any(dim=1))
            index += 1
            del logits, drafts, step  # before the next logits are there


def row_uniforms(seed: int | Tensor, attention_mask: Tensor, first_row: int | Tensor = 0) -> RowUniforms:
    """The random numbers of rows `first_row`, ... of a request whose padding is where `attention_mask` (B, L) is 0.

    The seed is one for all rows, or int64 (B,), one for each.
    """
    rows = row_numbers(first_row, attention_mask.shape[0]).to(attention_mask.device)
    return RowUniforms(row_seeds(seed, len(rows)).to(rows.device), rows, attention_mask.long().cumsum(dim=1) - 1)


def row_numbers(first_row: int | Tensor, count: int) -> Tensor:
    """The numbers of so many rows, int64 (B,): from the first one on, or, where a tensor is given, just these."""
    if isinstance(first_row, Tensor):
        return _one_each("first_row", first_row, count, "the number of the first row")
    check_whole("first_row", first_row, -(2**63), 2**63 - count)
    return torch.arange(first_row, first_row + count)


def row_seeds(seed: int | Tensor, count: int) -> Tensor:
    """The seeds of so many rows, int64 (B,): one for all, or, where a tensor is given, just these."""
    if isinstance(seed, Tensor):
        return _one_each("seed", seed, count, "one seed for all rows")
    check_whole("seed", seed, -(2**63), 2**63)
    return torch.full((count,), seed, dtype=torch.int64)


def _one_each(name: str, values: Tensor, count: int, otherwise: str) -> Tensor:
    """A number for each row. Raises ValueError, which names the argument, for another shape or type."""
    if values.shape != (count,) or values.dtype != torch.int64:
        raise ValueError(
            f"{name} is {values.dtype} {tuple(values.shape)}; give {otherwise}, or int64 ({count},), one number for "
            "each row"
        )
    return values


def _logits(
    predict: Predict, canvas: Tensor, block: slice, mask_token_id: int, predicted: Tensor, vocabulary: int
) -> Tensor:
    """Logits (N, V) at the predicted positions, bool (B, W), without [MASK]; `vocabulary` is V where it is known."""
    if vocabulary and not predicted.any():  # sync; not every network takes an empty batch
        return torch.empty(0, vocabulary, device=canvas.device)
    logits = logits_at(predict, canvas, block, predicted)
    check_vocabulary(logits, mask_token_id)
    logits[:, mask_token_id] = -torch.inf
    return logits


def _put(whole: Tensor, block: slice, part: Tensor) -> Tensor:
    """A copy of `whole` with a window replaced."""
    whole = whole.clone()
    whole[:, block] = part
    return whole


def fill_after_stop(
    canvas: Tensor, writable: Tensor, mask_token_id: int, stop_token_id: int, ends: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Write the stop token after the first one that has no mask before it, where the sampler may write at all.

    Only in rows that may end, bool (B,); None: all. Also which rows have stopped, (B,).
    """
    masks_before = ((canvas == mask_token_id) & writable).cumsum(dim=1)
    stopped = ((canvas == stop_token_id) & writable & (masks_before == 0)).cumsum(dim=1) > 0
    if ends is not None:
        stopped = stopped & ends[:, None]
    return torch.where(stopped & writable, stop_token_id, canvas), stopped.any(dim=1)


def _check_canvas(canvas: Tensor, mask_token_id: int, writable: Tensor | None) -> None:
    """Raise ValueError for tokens that cannot be filled in."""
    if not isinstance(canvas, Tensor) or canvas.dim() != 2 or canvas.dtype != torch.int64:
        raise ValueError(f"canvas is {_kind(canvas)}; it must be tokens (batch, length) of torch.int64")
    check_whole("mask_token_id", mask_token_id, 0, 2**63)
    if writable is None:
        return
    if not isinstance(writable, Tensor) or writable.dtype != torch.bool or writable.shape != canvas.shape:
        raise ValueError(f"writable is {_kind(writable)}; it must be torch.bool {tuple(canvas.shape)}")


def _kind(given: object) -> str:
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"


def _check(blocks: Sequence[slice], length: int, steps: int | None, first_step: int) -> None:
    """Raise ValueError for what cannot be a run."""
    for block in blocks:
        start, stop, step = block.indices(length)
        if step != 1 or start > stop or (block.stop is not None and block.stop > length):
            raise ValueError(f"{block} is no window of a canvas of {length} tokens; give slice(start, stop)")
    check_whole("first_step", first_step, -(2**63))
    if steps is not None:
        check_whole("steps", steps, -(2**63))
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1, or None for one token a step")
    if first_step < 0 or (steps is not None and first_step >= steps):
        raise ValueError(f"first_step={first_step} must be one of the {steps} steps, which begin with 0")
