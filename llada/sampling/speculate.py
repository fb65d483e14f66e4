"""Speculative decoding of masked predictors: several steps in one prediction, with the output of one after another.

What the present prediction would reveal in the next steps is written down as a chain of canvases, the whole chain is
predicted in one batch, and as much of it is kept as one step at a time would have given. Greedy decoding keeps its
output token by token (FreeDave, arXiv:2510.00294), sampling keeps its law (the rule of speculative sampling,
arXiv:2211.17192, alg. 1, along an order of positions). Both predict more canvases in fewer calls.

Both suppose that a canvas is predicted alike in every batch; networks in low precision do so only nearly.

Shapes: B batch, L length, W window, V vocabulary, R rows that are not finished, D chain, N canvases of all chains,
M drafts that are verified.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_up

import torch
from torch import Tensor

from llada.sampling.denoise import row_uniforms
from llada.sampling.drafts import inverse_cdf
from llada.sampling.orders import Order, confidence, max_probability
from llada.sampling.predictors import Predict, RowPredictor, forbid
from llada.sampling.reveals import rank_by_score
from llada.sampling.schedules import Counts, even_counts
from llada.sampling.uniforms import RowUniforms, Stream, moment


@dataclass(frozen=True)
class Round:
    """The canvas after one round, and what it took to come here."""

    canvas: Tensor  # (B, L) tokens, [MASK] where nothing is revealed yet; a new tensor in every round
    block: slice  # the window W of the canvas that the round looked at
    accepted: Tensor  # (B,) tokens revealed in this round; 0 in rows that took no part
    predictions: int  # calls of the predictor since the start, one after another
    forwards: int  # canvases that were predicted in them


def greedy_speculation(
    predict: Predict,
    canvas: Tensor,
    mask_token_id: int,
    *,
    depth: int,
    blocks: Sequence[slice] | None = None,
    steps: int | None = None,
    order: Order = confidence,
    counts: Counts = even_counts,
    uniforms: RowUniforms | None = None,
) -> Iterator[Round]:
    """Fill the canvas exactly as `denoise` does with greedy drafts and `top_k`, in at most as many calls.

    FreeDave (arXiv:2510.00294). Yields one `Round` per prediction of the chains; each row advances at its own pace, by
    1 to `depth` steps a round, and a block ends with its slowest row.

    Args:
        predict: (canvas (N, L), block) → logits (N, W, V), for any N: a chain has up to `depth` canvases for each row.
            One that knows its batch must be a `RowPredictor`.
        depth: of the chain, at least 1; 1 gains nothing.
        canvas, mask_token_id, blocks, steps, order, counts, uniforms: as for `llada.sampling.denoise.denoise`.
    """
    _check_depth(depth)
    uniforms = row_uniforms(0, torch.ones_like(canvas)) if uniforms is None else uniforms
    predictions = forwards = 0
    for number, block in enumerate([slice(0, canvas.shape[1])] if blocks is None else blocks):
        masks = (canvas[:, block] == mask_token_id).sum(dim=1)
        most = int(masks.max()) if len(masks) else 0  # sync, once per block
        block_steps = most if steps is None else steps
        plan = counts(masks, max(block_steps, 1))  # (B, steps)
        done = torch.zeros_like(masks)  # (B,) steps of each row in this block
        rows = ((masks > 0) & (block_steps > 0)).nonzero()[:, 0]  # (R,)
        if len(rows) == 0:
            continue
        window = canvas[rows][:, block]
        logits = _predict(predict, canvas[rows], block, rows, mask_token_id)
        numbers = _at_steps(uniforms, block, rows, number, done[rows])
        draft, rank = _plan(logits, window, order, numbers, mask_token_id)  # (R, W), what each row goes on with
        predictions, forwards = predictions + 1, forwards + len(rows)
        while len(rows):
            step = done[rows, None] + torch.arange(depth + 1, device=rows.device)  # (R, D + 1)
            count = plan[rows].gather(1, step.clamp(max=plan.shape[1] - 1))  # too long a chain does no harm
            chain = _chain(window, draft, rank, count[:, :-1].cumsum(dim=1))  # (R, D, W)
            unfinished = (chain == mask_token_id).any(dim=-1) & (step[:, 1:] < block_steps)  # (R, D)
            ahead, of = _stack(canvas[rows], block, chain, unfinished, rows)
            logits = _predict(predict, ahead, block, of, mask_token_id) if len(of) else logits[:0]
            predictions, forwards = predictions + (len(of) > 0), forwards + len(of)
            present = ahead[:, block]
            numbers = _at_steps(uniforms, block, of, number, step[:, 1:][unfinished])
            draft, rank = _plan(logits, present, order, numbers, mask_token_id)  # (N, W), the true ones
            truth = torch.where(rank < count[:, 1:][unfinished][:, None], draft, present)
            agrees = unfinished.clone()
            agrees[unfinished] = (truth == chain.roll(-1, dims=1)[unfinished]).all(dim=-1)
            further = agrees[:, :-1].long().cumprod(dim=1).sum(dim=1)  # (R,), after the first step, which is true
            last = torch.arange(len(rows), device=rows.device), further
            after = canvas.clone()
            after[rows, block] = chain[last]
            yield _round(canvas, after, block, mask_token_id, predictions, forwards)
            canvas, done = after, done.index_add(0, rows, further + 1)
            goes_on = unfinished[last]
            kept = _place(unfinished)[last][goes_on]
            rows, window, draft, rank = rows[goes_on], present[kept], draft[kept], rank[kept]


def exact_speculation(
    predict: Predict,
    canvas: Tensor,
    mask_token_id: int,
    *,
    depth: int,
    temperature: float = 1.0,
    blocks: Sequence[slice] | None = None,
    order: Order = max_probability,
    keep_order: bool = True,
    uniforms: RowUniforms | None = None,
) -> Iterator[Round]:
    """Draw the masked tokens one after another, each given those before it, in fewer calls (arXiv:2211.17192, alg. 1).

    A round drafts tokens for the first `depth` masked positions of the order, independently, from one prediction q. A
    call for the canvases with the first, the first two, ... of them gives the distribution p that the next one should
    have been drawn from. Drafts are accepted with probability min(1, p / q) until one is not; that one is drawn anew
    from (p - q)+, and the round ends. Where all are accepted, the call was the next round's prediction, too.

    Args:
        predict: (canvas (N, L), block) → logits (N, W, V), for any N: a chain has up to `depth` canvases for each row.
            One that knows its batch must be a `RowPredictor`.
        canvas: (B, L) tokens; what is not [MASK] at the start stays as it is.
        depth: drafts in a round, at least 1; from 2 on a round that keeps its order reveals at least 2 tokens, if left.
        temperature: of the tokens, above 0; the order sees the logits at temperature 1.

    Other args:
        blocks: windows, completed one after another; None: everything at once.
        order: ranks the positions at the start of a round. It is shown the likeliest tokens in place of the drafts, so
            it cannot depend on what is drawn.
        keep_order: False: a round also ends, at no cost, where the order would by now go to another position.
        uniforms: the source of randomness; None: seed 0, row and column numbers.

    Every token has exactly the distribution that the predictor gives it when all before it are visible. The law is that
    of `denoise` with one token a step for any predictor if the order does not look at the logits or is not kept. An
    order that does, and is kept, goes other ways than there: a model whose conditionals agree with each other has the
    same law along all of them, another one has not quite, and the deeper the fewer calls.
    """
    _check_depth(depth)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; greedy_speculation is the limit of 0")
    uniforms = row_uniforms(0, torch.ones_like(canvas)) if uniforms is None else uniforms
    predictions = forwards = 0
    for number, block in enumerate([slice(0, canvas.shape[1])] if blocks is None else blocks):
        known = torch.zeros(0, dtype=torch.long, device=canvas.device)  # rows whose logits the last round left
        logits = None
        for now in (moment(number, turn) for turn in count_up()):
            masked = (canvas[:, block] == mask_token_id).any(dim=1)
            unknown = masked.index_fill(0, known, False).nonzero()[:, 0]  # sync
            rows = torch.cat((known, unknown))  # (R,)
            if len(rows) == 0:
                break
            if len(unknown):
                fresh = _predict(predict, canvas[unknown], block, unknown, mask_token_id)
                logits = fresh if logits is None else torch.cat((logits, fresh))
                predictions, forwards = predictions + 1, forwards + len(unknown)
            assert logits is not None  # every row is known or was just predicted

            window = canvas[rows][:, block]
            turns = uniforms(block, now, Stream.SPECULATIVE_ORDER)  # (B, W)
            rank = _plan(logits, window, order, turns[rows], mask_token_id)[1]
            at = rank.argsort(dim=1)[:, :depth]  # (R, D) positions
            each = torch.arange(len(rows), device=rows.device)  # (R,)
            place = torch.arange(at.shape[1], device=rows.device)  # (D,)
            drafted = place < (window == mask_token_id).sum(dim=1, keepdim=True)  # (R, D); the others are visible
            q = logits[each[:, None], at]  # (R, D, V)
            numbers = uniforms(block, now, Stream.SPECULATIVE_DRAFT)[rows].gather(1, at)
            token = window.gather(1, at)
            token[drafted] = inverse_cdf(q[drafted], numbers[drafted], temperature)

            chain = _chain(window, window.scatter(1, at, token), rank, place[None] + 1)  # (R, D, W)
            unfinished = (chain == mask_token_id).any(dim=-1)  # (R, D)
            ahead, of = _stack(canvas[rows], block, chain, unfinished, rows)
            logits = _predict(predict, ahead, block, of, mask_token_id) if len(of) else logits[:0]  # (N, W, V)
            predictions, forwards = predictions + (len(of) > 0), forwards + len(of)

            verified = drafted[:, 1:]  # (R, D - 1): the first draft was drawn from its own distribution
            before, where = _place(unfinished)[:, :-1][verified], at[:, 1:][verified]  # (M,) of N, of W
            p, q = _softmax(logits[before, where], temperature), _softmax(q[:, 1:][verified], temperature)  # (M, V)
            numbers = uniforms(block, now, Stream.ACCEPT)[rows].gather(1, at)[:, 1:]
            accepted, follows = verified.clone(), verified.clone()
            accepted[verified] = accepts(p, q, token[:, 1:][verified], numbers[verified])
            if not keep_order:
                again = _plan(logits, ahead[:, block], order, turns[of], mask_token_id)[1]
                follows[verified] = again[before, where] == 0
            right = (accepted & follows).long().cumprod(dim=1).sum(dim=1)  # (R,) drafts that stay after the first

            wrong = follows & ~accepted & (place[:-1] == right[:, None])  # (R, D - 1) where rejection ends a chain
            rejects = wrong.any(dim=1)
            numbers = uniforms(block, now, Stream.REPLACE)[rows].gather(1, at)[:, 1:]
            pair = _place(verified)[wrong]
            last = each, right
            reached = chain[last]
            reached[rejects, at[:, 1:][wrong]] = replacement(p[pair], q[pair], numbers[wrong])
            after = canvas.clone()
            after[rows, block] = reached
            yield _round(canvas, after, block, mask_token_id, predictions, forwards)
            canvas = after
            goes_on = unfinished[last] & ~rejects
            known, logits = rows[goes_on], logits[_place(unfinished)[last][goes_on]]


def accepts(p: Tensor, q: Tensor, token: Tensor, uniforms: Tensor) -> Tensor:
    """Whether tokens (M,) drawn from q (M, V) are kept as tokens of p: with probability min(1, p / q), bool (M,)."""
    p_token, q_token = (given.gather(-1, token[:, None])[:, 0] for given in (p, q))
    return uniforms * q_token < p_token


def replacement(p: Tensor, q: Tensor, uniforms: Tensor) -> Tensor:
    """The tokens (M,) in place of rejected ones: drawn from (p - q)+, normalised."""
    excess = (p - q).clamp(min=0)
    # Only rounding rejects where p is q; then p itself has the right law, and (p - q)+ has none.
    weight = torch.where(excess.any(dim=-1, keepdim=True), excess, p)
    return inverse_cdf(weight.log(), uniforms)


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1, the canvases of a chain")


def _predict(predict: Predict, canvas: Tensor, block: slice, rows: Tensor, mask_token_id: int) -> Tensor:
    """Logits (N, W, V) of canvases that belong to these rows of the batch, [MASK] at -inf."""
    mine = predict.of_rows(rows) if isinstance(predict, RowPredictor) else predict
    return forbid(mine(canvas, block), [mask_token_id])


def _plan(logits: Tensor, window: Tensor, order: Order, uniforms: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The likeliest token at each masked position, the present one elsewhere, and the places in the order, (N, W)."""
    masked = window == mask_token_id
    draft = torch.where(masked, logits.argmax(dim=-1), window)
    return draft, rank_by_score(order(logits, draft, uniforms), masked)


def _chain(window: Tensor, draft: Tensor, rank: Tensor, totals: Tensor) -> Tensor:
    """The windows (R, D, W) in which the first `totals` (R or 1, D) positions of the order show their drafts."""
    return torch.where(rank[:, None] < totals[..., None], draft[:, None], window[:, None])


def _stack(here: Tensor, block: slice, chain: Tensor, chosen: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen (R, D) windows of chains in their canvases, (N, L), and the rows of the batch they belong to, (N,)."""
    row = chosen.nonzero()[:, 0]  # sync
    canvas = here[row]
    canvas[:, block] = chain[chosen]
    return canvas, rows[row]


def _place(chosen: Tensor) -> Tensor:
    """Where each chosen entry is found in what was indexed with `chosen`."""
    return (chosen.flatten().long().cumsum(dim=0) - 1).view_as(chosen)


def _at_steps(uniforms: RowUniforms, block: slice, rows: Tensor, number: int, steps: Tensor) -> Tensor:
    """The order's numbers, float64 (N, W), for rows (N,) at different steps (N,) of a block of `denoise`."""
    numbers = torch.zeros(len(rows), block.stop - block.start, dtype=torch.float64, device=rows.device)
    for step in steps.unique().tolist():  # sync; rows drift apart by few steps
        numbers[steps == step] = uniforms(block, moment(number, step), Stream.ORDER)[rows[steps == step]]
    return numbers


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities in float64, as `inverse_cdf` draws from them."""
    return (logits.double() / temperature).softmax(dim=-1)


def _round(before: Tensor, after: Tensor, block: slice, mask_token_id: int, predictions: int, forwards: int) -> Round:
    accepted = ((before == mask_token_id) & (after != mask_token_id)).sum(dim=1)
    return Round(after, block, accepted, predictions, forwards)
