"""Chains of canvases that are predicted in one call: each is the one before it and what is guessed to come next.

Speculation (arXiv:2510.00294, arXiv:2211.17192) keeps the beginning of a chain that turns out true.

Shapes: B batch, L length, W window, V vocabulary, R rows that are not finished, D chain, N canvases of all chains.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llada.sampling.denoise import State
from llada.sampling.orders import Drafts, Order, confidence
from llada.sampling.predictors import Predict, Predictor, check_possible, check_vocabulary, forbid


@dataclass(frozen=True, kw_only=True)
class Round(State):
    """The canvas after one call of the predictor, and every token that the call has settled.

    The score and the probability of a token are those it had when it was settled, given the tokens before it.
    """

    canvases: Tensor  # (B,) how many of the row's were predicted in the call; 0 in rows that took no part


@dataclass(frozen=True)
class Call:
    """One call of the predictor: chains of canvases of rows (R,), N of which were predicted."""

    canvas: Tensor  # (B, L) before it
    block: slice
    mask_token_id: int
    rows: Tensor  # (R,) of the batch
    chain: Tensor  # (R, D, W)
    chosen: Tensor  # (R, D) bool, the canvases that were predicted
    row: Tensor  # (N,) of R, to which chain each belongs
    logits: Tensor  # (N, W, V), [MASK] at -inf

    @cached_property
    def place(self) -> Tensor:
        """Where each canvas of the chains is among the N, (R, D)."""
        return places(self.chosen)

    @cached_property
    def window(self) -> Tensor:
        """What was predicted, (N, W)."""
        return self.chain[self.chosen]

    def settling(self, right: Tensor) -> Tensor:
        """Which of the N settles each position, (R, W), where so many (R,) canvases after the first are true.

        That is the last true one in which it is masked.
        """
        true = torch.arange(self.chain.shape[1], device=right.device) <= right[:, None]  # (R, D)
        masks = ((self.chain == self.mask_token_id) & true[..., None]).sum(dim=1)  # (R, W)
        return self.place.gather(1, (masks - 1).clamp(min=0))

    def after(self, window: Tensor) -> Tensor:
        """The canvas (B, L) with these windows (R, W)."""
        canvas = self.canvas.clone()
        canvas[self.rows, self.block] = window.to(canvas.dtype)
        return canvas

    def round(self, index: int, after: Tensor, by: Tensor, draft: Tensor, visible: Tensor, score: Tensor) -> Round:
        """What came of it, from parts (R, W): `by` are the predictions of `settling`."""
        columns = torch.arange(by.shape[1], device=by.device)
        before, now = self.canvas[:, self.block], after[:, self.block]
        probability = scores(confidence, self.logits[by, columns], draft, score)
        shown = before[self.rows] != self.mask_token_id
        score, probability = score.masked_fill(shown, -torch.inf), probability.double().masked_fill(shown, 1.0)
        unscored = torch.full_like(now, -torch.inf, dtype=score.dtype)
        nothing = torch.zeros_like(now[:, 0])  # (B,)
        return Round(
            canvas=after,
            block=self.block,
            index=index,
            draft=now.index_copy(0, self.rows, draft.to(now.dtype)),
            score=unscored.index_copy(0, self.rows, score),
            probability=torch.ones_like(unscored, dtype=torch.float64).index_copy(0, self.rows, probability),
            visible=(before != self.mask_token_id).index_copy(0, self.rows, visible),
            active=nothing.bool().index_fill(0, self.rows, True),
            canvases=nothing.index_copy(0, self.rows, self.chosen.sum(dim=1).to(nothing.dtype)),
        )


def predict_chains(
    predict: Predict, canvas: Tensor, block: slice, rows: Tensor, chain: Tensor, wanted: Tensor, mask_token_id: int
) -> Call:
    """Predict the first canvas of each chain (R, D, W), and of the others those that are wanted and not complete.

    Raises ValueError where no token is possible at a masked position, and FloatingPointError where logits are no
    numbers there.
    """
    chosen = wanted & (chain == mask_token_id).any(dim=-1)
    chosen[:, 0] = True
    row = chosen.nonzero()[:, 0]  # sync
    stack = canvas[rows[row]]  # (N, L)
    stack[:, block] = chain[chosen].to(canvas.dtype)
    mine = predict.of_rows(rows[row]) if isinstance(predict, Predictor) else predict
    logits = mine(stack, block)
    check_vocabulary(logits, mask_token_id)
    logits = forbid(logits, [mask_token_id])
    check_possible(logits.amax(dim=-1)[stack[:, block] == mask_token_id])
    return Call(canvas, block, mask_token_id, rows, chain, chosen, row, logits)


def chains(window: Tensor, draft: Tensor, rank: Tensor, totals: Tensor) -> Tensor:
    """The windows (R, D, W) in which the first `totals` (R, D) positions of the order show their drafts."""
    return torch.where(rank[:, None] < totals[..., None], draft[:, None], window[:, None])


def places(chosen: Tensor) -> Tensor:
    """Where each chosen entry is found in what was indexed with `chosen`."""
    return (chosen.flatten().long().cumsum(dim=0) - 1).view_as(chosen)


def scores(order: Order, logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """What an order says of the drafts of whole windows, (N, W), with their logits (N, W, V)."""
    N, W = draft.shape
    place = torch.arange(W, device=draft.device).expand(N, W)
    drafts = Drafts(logits.flatten(0, 1), draft.flatten(), place.flatten(), W, uniforms.flatten())
    return order(drafts).view(N, W)
