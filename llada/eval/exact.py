"""Likelihoods of short answers that are exact, for every mask predictor, consistent or not.

The sampler that reveals one token at a time in random order defines a distribution; `exact_log_likelihood` is its
logarithm, of which the bound of LLaDA falls short (any-order models, arXiv:2110.02037). A sampler that chooses the next
position by looking at what is visible defines another one; `ordered_log_likelihood` is its logarithm.

The bound itself is exact in `llada.eval.likelihood.log_likelihood` from 2^A - 1 evaluations on.

Shapes: A answer length, n masks of an answer, N masked positions, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llada.estimate import Estimate
from llada.eval.likelihood import every_mask
from llada.eval.scoring import Question, Request, check_request, device_of, log_probs, request_of
from llada.sampling.orders import ORDERS, Drafts, Order
from llada.sampling.predictors import MaskPredictor, check_possible, check_vocabulary, logits_at, plain

LONGEST = 16  # tokens: 65535 evaluations
FIXED = {"left_to_right": 1, "right_to_left": -1}  # the stride through the positions
ADAPTIVE = tuple(
    name for name, entry in ORDERS.items() if not (entry.drawn or entry.required or name in ("random", *FIXED))
)


def exact_log_likelihood(
    model: MaskPredictor, prompt: Tensor | Sequence[int], answer: Tensor | Sequence[int], *, batch_size: int = 32
) -> Estimate:
    """log p(answer | prompt) of the sampler that reveals one token at a time in random order, in nats.

    By the recursion `g(visible) = mean over masked i of p(x_i | visible) g(visible and i)` over all 2^A - 1 masks.

    Raises ValueError for answers of more than 16 tokens, and as `log_likelihood`.
    """
    request = _short(request_of(prompt, answer))
    masks, found = _under_every_mask(model, request, batch_size)
    A = masks.shape[1]
    number = 2 ** torch.arange(A)
    log_g = torch.zeros(2**A, dtype=torch.float64)  # by the set of masked positions
    for k in range(1, A + 1):
        some = masks.sum(dim=1) == k
        index = (masks[some] * number).sum(dim=1, keepdim=True)  # (n, 1)
        after = log_g[index - number * masks[some]]  # (n, A), one position less
        terms = (found[some] + after).masked_fill(~masks[some], -torch.inf)
        log_g[index[:, 0]] = terms.logsumexp(dim=1) - math.log(k)
    return Estimate(float(log_g[-1]), 0.0, len(masks))


def exact_upper_bound(
    model: MaskPredictor,
    prompt: Tensor | Sequence[int],
    answer: Tensor | Sequence[int],
    beta: float | None = None,
    *,
    batch_size: int = 32,
) -> Estimate:
    """An upper bound on `exact_log_likelihood`: `sum_i 1/beta log E p(x_i | tokens before i in a random order)^beta`.

    The EUBO of SPG (arXiv:2510.09541). It is a bound for beta >= A, by Hölder's inequality, and for smaller ones it can
    fail; None: A. Raises ValueError for beta below A, and as `exact_log_likelihood`.
    """
    request = _short(request_of(prompt, answer))
    A = len(request.answer)
    beta = float(A) if beta is None else beta
    if beta < A:
        raise ValueError(f"beta={beta} gives no upper bound for an answer of {A} tokens; it must be at least {A}")
    masks, found = _under_every_mask(model, request, batch_size)
    same = torch.tensor([A * math.comb(A - 1, k) for k in range(A)], dtype=torch.float64)[masks.sum(dim=1) - 1]
    terms = (beta * found - same.log()[:, None]).masked_fill(~masks, -torch.inf)  # (n, A)
    return Estimate(float(terms.logsumexp(dim=0).sum() / beta), 0.0, len(masks))


def ordered_log_likelihood(
    model: MaskPredictor,
    prompt: Tensor | Sequence[int],
    answer: Tensor | Sequence[int],
    order: str | Sequence[int] = "left_to_right",
    *,
    batch_size: int = 32,
) -> Estimate:
    """log p(answer | prompt) of the sampler that reveals one token at a time in this order, in nats: the chain rule.

    Args:
        order: `left_to_right`, `right_to_left`, the answer's positions in another order, or what looks at the
            predictions of the model: `max_probability`, `margin`, `entropy`. An order that looks at the answer, as the
            confidence in the true token does, is refused: what it gives is not the likelihood of anything (over all
            answers it can sum to more than 1).

    Takes A evaluations, at once where the order is known before.
    """
    request = request_of(prompt, answer)
    check_request(model, request)
    A = len(request.answer)
    if isinstance(order, str) and order in ADAPTIVE:
        return Estimate(_adaptively(model, request, ORDERS[order].make()), 0.0, A)
    if isinstance(order, str) and order not in FIXED:
        raise ValueError(_refusal(order))
    positions = torch.tensor(range(A)[:: FIXED[order]] if isinstance(order, str) else order)
    if sorted(positions.tolist()) != list(range(A)):
        raise ValueError(f"order={positions.tolist()} must name each of the answer's positions 0..{A - 1} once")
    rank = positions.argsort()  # when each position comes
    masked = rank >= torch.arange(A)[:, None]
    found = next(log_probs(model, [Question(request, masked)], batch_size=batch_size))
    return Estimate(float(found[torch.arange(A), positions].sum()), 0.0, A)


@torch.no_grad()
def _adaptively(model: MaskPredictor, request: Request, order: Order) -> float:
    """The chain rule where each position is chosen by looking at the predictions."""
    P, A = len(request.prompt), len(request.answer)
    truth = request.answer.to(device_of(model))
    canvas = torch.cat((request.prompt, torch.full((A,), model.config.mask_token_id)))[None].to(truth.device)
    block, total = slice(P, P + A), 0.0
    for _ in range(A):
        masked = canvas[:, block] == model.config.mask_token_id  # (1, A)
        logits = logits_at(plain(model), canvas, block, masked)  # (N, V)
        check_vocabulary(logits, model.config.mask_token_id)
        logits[:, model.config.mask_token_id] = -torch.inf
        place = masked.nonzero()[:, 1]  # (N,)
        drafts = Drafts(logits, logits.argmax(dim=-1), place, A, torch.full(place.shape, 0.5, dtype=torch.float64))
        check_possible(drafts.log_normaliser)
        first = int(order(drafts).sort(descending=True, stable=True).indices[0])  # of equal ones the leftmost; sync
        position = int(place[first])
        total += float(logits[first].double().log_softmax(dim=-1)[truth[position]])
        canvas[0, P + position] = truth[position]
    return total


def _short(request: Request) -> Request:
    A = len(request.answer)
    if A > LONGEST:
        raise ValueError(f"an answer of {A} tokens has 2^{A} - 1 masks; at most {LONGEST} tokens can be enumerated")
    return request


def _under_every_mask(model: MaskPredictor, request: Request, batch_size: int) -> tuple[Tensor, Tensor]:
    """All masks, bool (n, A), and the log-probabilities of the masked tokens under each, (n, A)."""
    check_request(model, request)
    masks = every_mask(len(request.answer)).masked
    return masks, next(log_probs(model, [Question(request, masks)], batch_size=batch_size))


def _refusal(order: str) -> str:
    known = ", ".join((*FIXED, *ADAPTIVE))
    if order == "random":
        return f"order='random' is a mean over orders, which exact_log_likelihood gives; here: {known}"
    if order in ORDERS:
        return f"order={order!r} looks at the answer's own tokens, so that it gives no likelihood; use one of {known}"
    return f"unknown order {order!r}; use one of {known}, or the answer's positions in an order of their own"
