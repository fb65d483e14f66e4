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
from itertools import count as count_up
from typing import NamedTuple

import torch
from torch import Tensor

from llada.sampling.chains import Round, chains, places, predict_chains, scores
from llada.sampling.denoise import fill_after_stop, row_uniforms
from llada.sampling.drafts import inverse_cdf, tempered
from llada.sampling.orders import Order, confidence, max_probability
from llada.sampling.predictors import Predict
from llada.sampling.reveals import rank_by_score
from llada.sampling.schedules import Counts, even_counts
from llada.sampling.uniforms import RowUniforms, Stream, moment


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
    stop_token_id: int | None = None,
    uniforms: RowUniforms | None = None,
) -> Iterator[Round]:
    """Fill the canvas exactly as `denoise` does with greedy drafts and `top_k`, in at most as many calls.

    FreeDave (arXiv:2510.00294). Yields one `Round` per call. Each row advances at its own pace, by 1 step in the first
    call of a block and by 1 to `depth` steps in the others; a block ends with its slowest row.

    Args:
        predict: (canvas (N, L), block) → logits (N, W, V), for any N: a chain has up to `depth` canvases for each row.
            One that knows its batch must be a `Predictor`.
        depth: of the chain, at least 1; 1 gains nothing.
        canvas, mask_token_id, blocks, steps, order, counts, stop_token_id, uniforms: as for
            `llada.sampling.denoise.denoise`.
    """
    _check_depth(depth)
    uniforms = row_uniforms(0, torch.ones_like(canvas)) if uniforms is None else uniforms
    writable = canvas == mask_token_id
    stopped = torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)
    index = count_up()
    for number, block in enumerate([slice(0, canvas.shape[1])] if blocks is None else blocks):
        masks = (canvas[:, block] == mask_token_id).sum(dim=1)
        most = int(masks.max()) if len(masks) else 0  # sync, once per block
        block_steps = most if steps is None else steps
        plan = counts(masks, max(block_steps, 1))  # (B, steps)
        done = torch.zeros_like(masks)  # (B,) steps of each row in this block
        rows = ((masks > 0) & (block_steps > 0) & ~stopped).nonzero()[:, 0]  # (R,)
        chain = canvas[rows][:, None, block]  # (R, D, W), at first the present canvas alone
        while len(rows):
            step = done[rows, None] + torch.arange(chain.shape[1], device=rows.device)  # (R, D)
            call = predict_chains(predict, canvas, block, rows, chain, step < block_steps, mask_token_id)
            numbers = _at_steps(uniforms, block, rows[call.row], number, step[call.chosen])
            draft, score, rank = _plan(call.logits, call.window, order, numbers, mask_token_id)  # (N, W)
            count = _planned(plan[rows], step)[call.chosen]  # (N,)
            truth = torch.where(rank < count[:, None], draft, call.window)  # (N, W) what a step makes of each
            agrees = torch.zeros_like(call.chosen)
            agrees[call.chosen] = (truth == chain.roll(-1, dims=1)[call.chosen]).all(dim=-1)
            right = (agrees[:, :-1] & call.chosen[:, 1:]).long().cumprod(dim=1).sum(dim=1)  # (R,) guesses that are true
            last = call.place.gather(1, right[:, None])[:, 0]  # (R,) of N
            by = call.settling(right)
            visible = truth[last] != mask_token_id

            done = done.index_add(0, rows, right + 1)
            after = call.after(truth[last])
            if stop_token_id is not None:
                after, stopped = fill_after_stop(after, writable, mask_token_id, stop_token_id)
            yield call.round(next(index), after, by, draft[last], visible, score.gather(0, by))
            canvas = after

            goes_on = ~visible.all(dim=1) & (done[rows] < block_steps) & ~stopped[rows]
            rows, last = rows[goes_on], last[goes_on]
            # too long a chain does no harm, but takes memory
            step = done[rows, None] - 1 + torch.arange(min(depth, block_steps), device=rows.device)
            chain = chains(call.window[last], draft[last], rank[last], _planned(plan[rows], step).cumsum(dim=1))


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
    stop_token_id: int | None = None,
    uniforms: RowUniforms | None = None,
) -> Iterator[Round]:
    """Draw the masked tokens one after another, each given those before it, in fewer calls (arXiv:2211.17192, alg. 1).

    A turn drafts tokens for the first `depth` masked positions of the order, independently, from one prediction q. A
    call for the canvases with the first, the first two, ... of them gives the distribution p that the next one should
    have been drawn from. Drafts are accepted with probability min(1, p / q) until one is not; that one is drawn anew
    from (p - q)+, and the turn ends. Where all are accepted, the call was the next turn's prediction, too.

    Yields one `Round` per call: the drafts that it has accepted, or the one drawn anew; and if it is the prediction of
    a turn, the turn's first draft, which is always right.

    Args:
        predict: (canvas (N, L), block) → logits (N, W, V), for any N: a chain has up to `depth` canvases for each row.
            One that knows its batch must be a `Predictor`.
        canvas: (B, L) tokens; what is not [MASK] at the start stays as it is.
        depth: drafts in a turn, at least 1; a call settles up to so many tokens.
        temperature: of the tokens, above 0; the order sees the logits at temperature 1.

    Other args:
        blocks: windows, completed one after another; None: everything at once.
        order: ranks the positions at the start of a turn. It is shown the likeliest tokens in place of the drafts, so
            it cannot depend on what is drawn.
        keep_order: False: a turn also ends, at no cost, where the order would by now go to another position.
        stop_token_id: as for `llada.sampling.denoise.denoise`.
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
    writable = canvas == mask_token_id
    stopped = torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)
    index = count_up()
    for number, block in enumerate([slice(0, canvas.shape[1])] if blocks is None else blocks):
        rows = ((canvas[:, block] == mask_token_id).any(dim=1) & ~stopped).nonzero()[:, 0]  # (R,)
        turn = _no_drafts(canvas[rows][:, block])
        calls = count_up()  # a row takes part in all of a block until it is finished, so their number is its own
        while len(rows):
            now = moment(number, next(calls))
            call = predict_chains(predict, canvas, block, rows, turn.chain, turn.drafted, mask_token_id)
            each = torch.arange(len(rows), device=rows.device)

            # which drafts stay; the first one of a turn does, as it was drawn from its own distribution
            drafted, at, q = turn.drafted[:, 1:], turn.at[:, 1:], turn.q[:, 1:]  # (R, D - 1)
            here, where = call.place[:, :-1][drafted], at[drafted]  # (M,) of N, of W
            p, q = _softmax(call.logits[here, where], temperature), _softmax(q[drafted], temperature)  # (M, V)
            token = turn.chain[:, -1].gather(1, at)[drafted]
            numbers = uniforms(block, now, Stream.ACCEPT)[rows].gather(1, at)[drafted]
            accepted, follows = drafted.clone(), drafted.clone()
            accepted[drafted] = accepts(p, q, token, numbers)
            if not keep_order:
                again = _plan(call.logits, call.window, order, turn.numbers[call.row], mask_token_id)[2]
                follows[drafted] = again[here, where] == 0
            right = (accepted & follows).long().cumprod(dim=1).sum(dim=1)  # (R,)

            # the first one that was rejected is replaced
            wrong = follows & ~accepted & (torch.arange(at.shape[1], device=rows.device) == right[:, None])
            rejects = wrong.any(dim=1)
            pair = places(drafted)[wrong]
            numbers = uniforms(block, now, Stream.REPLACE)[rows].gather(1, at)[wrong]
            reached = turn.chain[each, right]  # (R, W)
            reached[rejects, at[wrong]] = replacement(p[pair], q[pair], numbers)

            # where the canvas that was reached has been predicted, another turn begins
            predicted = call.chosen[each, right] & ~rejects
            logits = call.logits[call.place[each, right]]  # (R, W, V)
            numbers = uniforms(block, now, Stream.SPECULATIVE_ORDER)[rows]
            likeliest, score, rank = _plan(logits, reached, order, numbers, mask_token_id)
            at = rank.argsort(dim=1)[:, :depth]  # (R, D)
            drafted = (reached == mask_token_id).gather(1, at) & predicted[:, None]
            q, token = logits[each[:, None], at], likeliest.gather(1, at)
            drawn = uniforms(block, now, Stream.SPECULATIVE_DRAFT)[rows].gather(1, at)
            token[drafted] = inverse_cdf(q[drafted], drawn[drafted], temperature)
            draft = likeliest.scatter(1, at, token)
            chain = chains(reached, draft, rank, drafted.cumsum(dim=1))

            kept = (turn.chain[:, 0] == mask_token_id) & (reached != mask_token_id)  # by the order of the turn before
            visible = chain[:, 0] != mask_token_id
            after = call.after(chain[:, 0])
            if stop_token_id is not None:
                after, stopped = fill_after_stop(after, writable, mask_token_id, stop_token_id)
            yield call.round(
                next(index), after, call.settling(right), draft, visible, torch.where(kept, turn.score, score)
            )
            canvas = after

            goes_on = ~visible.all(dim=1) & ~stopped[rows]
            rows = rows[goes_on]
            turn = _Turn(*(part[goes_on] for part in (chain, drafted, at, q, score, numbers)))


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


class _Turn(NamedTuple):
    """Drafts of rows (R,), the first of which is settled, and how they came about."""

    chain: Tensor  # (R, D, W) the window with the first draft, the first two, ...; as it is where there are none
    drafted: Tensor  # (R, D) bool, which drafts there are
    at: Tensor  # (R, D) their positions
    q: Tensor  # (R, D, V) logits that they were drawn from
    score: Tensor  # (R, W) of the order
    numbers: Tensor  # (R, W) that the order was given


def _no_drafts(window: Tensor) -> _Turn:
    """Windows (R, W) of which nothing is known yet."""
    none, unused = torch.zeros_like(window[:, :1]).long(), torch.zeros_like(window, dtype=torch.float64)
    return _Turn(window[:, None].long(), none.bool(), none, unused[:, :1, None], unused, unused)


def _plan(
    logits: Tensor, window: Tensor, order: Order, uniforms: Tensor, mask_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest token at each masked position, the present one elsewhere; its score; its place in the order."""
    masked = window == mask_token_id
    draft = torch.where(masked, logits.argmax(dim=-1), window)
    score = scores(order, logits, draft, uniforms)
    return draft, score, rank_by_score(score, masked)


def _planned(plan: Tensor, step: Tensor) -> Tensor:
    """How many tokens the plan (R, steps) reveals at these steps (R, D); after its last one as many as there."""
    return plan.gather(1, step.clamp(max=plan.shape[1] - 1))


def _at_steps(uniforms: RowUniforms, block: slice, rows: Tensor, number: int, steps: Tensor) -> Tensor:
    """The order's numbers, float64 (N, W), for rows (N,) at different steps (N,) of a block of `denoise`."""
    numbers = torch.zeros(len(rows), block.stop - block.start, dtype=torch.float64, device=rows.device)
    for step in steps.unique().tolist():  # sync; rows drift apart by few steps
        numbers[steps == step] = uniforms(block, moment(number, step), Stream.ORDER)[rows[steps == step]]
    return numbers


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities in float64, as `inverse_cdf` draws from them."""
    return tempered(logits, temperature).softmax(dim=-1)


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1, the canvases of a chain")
