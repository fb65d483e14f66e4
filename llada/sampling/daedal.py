"""DAEDAL (arXiv:2508.00819): generation whose length the model finds itself, by its confidence in end-of-sequence.

First the answer grows until its end is believed to be inside it; then blocks are decoded by a threshold, and where the
model is at a loss, a single [MASK] becomes several. One prompt at a time, because every answer has its own length.

Shapes: L length of prompt and answer.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from llada.sampling.denoise import denoise, row_uniforms
from llada.sampling.drafts import Draft, greedy
from llada.sampling.orders import Order, max_probability
from llada.sampling.predictors import Predict, check_possible
from llada.sampling.reveals import threshold
from llada.sampling.uniforms import RowUniforms


class Grown(NamedTuple):
    """An answer of its own length, so far."""

    sequence: Tensor  # (L,) prompt and answer, with masks before the end
    forward_passes: int
    inserted: int  # tokens that the second stage made room for


def daedal(
    predict: Predict,
    prompt: Tensor,
    mask_token_id: int,
    eos_token_id: int,
    *,
    initial: int = 64,
    longest: int = 2048,
    block_length: int = 32,
    reveal_from: float = 0.9,
    insert_below: float = 0.1,
    grow_until: float = 0.5,
    insert_until: float = 0.9,
    draft: Draft = greedy,
    order: Order = max_probability,
    uniforms: RowUniforms | None = None,
) -> Iterator[Grown]:
    """Answer one prompt: the answer after each call of the predictor, the last of which is complete.

    Args:
        predict: (canvas (1, L), window) → logits (1, W, V), for canvases of any length.
        prompt: (P,) tokens.
        initial, longest: tokens of the answer at first and at most; it is never longer than `longest`.
        block_length: tokens decoded together.
        reveal_from: tokens of at least this score are revealed, and the best one in any case; above 1: one token in
            every step.

    Other args:
        insert_below: a mask whose draft has less than this score may become 8; 0: never.
        grow_until, insert_until: confidence in the end (`end_confidence`) from which the first stage stops to append 8
            masks at a time, and from which the second one no longer inserts. The first stage closes with 16 more.
        draft, order: see `llada.sampling.drafts` and `.orders`; the scores of the order must be probabilities.
        uniforms: the source of randomness for P + longest columns; None: seed 0, row 0.

    Raises ValueError where `longest` < `initial` or the prompt holds [MASK].
    """
    if not 1 <= initial <= longest:
        raise ValueError(f"initial={initial} must lie between 1 and longest={longest}")
    if block_length < 1:
        raise ValueError(f"block_length={block_length} must be at least 1")
    if prompt.dim() != 1 or (prompt == mask_token_id).any():
        raise ValueError("prompt must be the tokens (P,) of a single prompt, without [MASK]")
    P, passes, inserted = len(prompt), 0, 0
    if uniforms is None:
        uniforms = row_uniforms(0, torch.ones(1, P + longest, device=prompt.device))
    seen: list[Tensor] = []

    def watched(canvas: Tensor, window: slice) -> Tensor:
        """The predictor, keeping the logits of the whole answer for the decisions about its length."""
        seen[:] = [predict(canvas, slice(P, canvas.shape[1]))]
        return seen[0][:, window.start - P : window.stop - P]

    def masks(count: int) -> Tensor:
        return prompt.new_full((count,), mask_token_id)

    canvas = torch.cat((prompt, masks(initial)))
    while len(canvas) - P < longest:
        passes += 1
        if end_confidence(predict(canvas[None], slice(P, len(canvas)))[0], eos_token_id) >= grow_until:
            yield Grown(canvas, passes, inserted)
            break
        canvas = torch.cat((canvas, masks(min(8, longest - (len(canvas) - P)))))
        yield Grown(canvas, passes, inserted)
    canvas = torch.cat((canvas, masks(min(16, longest - (len(canvas) - P)))))

    start = P
    while start < len(canvas):
        block = slice(start, min(start + block_length, len(canvas)))
        while (canvas[block] == mask_token_id).any():
            one_step = denoise(
                watched,
                canvas[None],
                mask_token_id,
                blocks=[block],
                steps=passes + 1,
                first_step=passes,  # so that every step has random numbers of its own
                draft=draft,
                order=order,
                reveal=threshold(reveal_from),
                uniforms=uniforms,
            )
            state = next(one_step)
            passes += 1
            canvas = state.canvas[0]
            room = min(7, longest - (len(canvas) - P))
            unsure = end_confidence(seen[0][0], eos_token_id) < insert_until
            place = _most_doubtful(state.score[0], canvas[block] == mask_token_id, insert_below) if unsure else None
            if room > 0 and place is not None:
                at = block.start + place
                canvas = torch.cat((canvas[:at], masks(1 + room), canvas[at + 1 :]))
                block = slice(block.start, block.stop + room)
                inserted += room
            yield Grown(canvas, passes, inserted)
        start = block.stop


def end_confidence(logits: Tensor, eos_token_id: int, window: int = 32) -> float:
    """How sure the model is that the answer (L, V) has ended by its last positions, in [0, 1].

    The sum of the end-of-sequence probability over those of the last `window` positions at which it is the likeliest
    token, divided by `window`. Raises FloatingPointError where the logits are not numbers.
    """
    check_possible(logits[-window:].amax(dim=-1))
    p = logits[-window:].double().softmax(dim=-1)
    return float(p[:, eos_token_id][p.argmax(dim=-1) == eos_token_id].sum() / window)  # sync


def _most_doubtful(score: Tensor, masked: Tensor, below: float) -> int | None:
    """The position of least probability that is still masked, if that is below the bound."""
    doubts = score.masked_fill(~masked, torch.inf)
    place = int(doubts.argmin())  # sync
    return place if doubts[place] < below else None
