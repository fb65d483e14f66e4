"""Likelihood of an answer under a masked diffusion model: estimates of a bound, with their standard errors.

The bound is the negative ELBO of LLaDA (arXiv:2502.09992, eq. 3 and 6): with k ~ U{1..A} of the answer's A tokens
masked, `A/k * sum_masked log p` is on average at most log p(answer | prompt), for every mask predictor. For what is
exact see `llada.eval.exact`.

Most of what is left of the variance is which tokens happen to be masked where few are, hard ones or easy ones. How hard
each is, the other evaluations of the answer tell, and by that each evaluation is corrected (`balanced`).

Shapes: A answer length, n evaluations.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from llada.estimate import Estimate
from llada.eval.scoring import Question, Request, log_probs, request_of
from llada.sampling.predictors import MaskPredictor
from llada.train.objective import floored, forward_process, stratified, stratified_counts
from llada.whole import check_whole


class Masks(NamedTuple):
    """Masks of an answer, and what the masked log-probabilities under each are multiplied with."""

    masked: Tensor  # (n, A) bool
    weight: Tensor  # float64 (n,), one over the probability with which a token is masked
    corrected: bool = False  # whether evaluations are corrected by each other (`balanced`)


# Answer length, evaluations, randomness → masks in ascending order of their strata
Estimator = Callable[[int, int, torch.Generator], Masks]


def exact_count(length: int, samples: int, generator: torch.Generator) -> Masks:
    """Exactly k masked tokens, k stratified over 1..A, weight A/k (LLaDA, arXiv:2502.09992, eq. 6): the default.

    Unbiased for every number of evaluations, as the strata are whole numbers: rounding a grid of them is not. With the
    correction it takes fewer evaluations for an equal error, never more (scripts/bench_likelihood.py).
    """
    start = int(torch.randint(1, length + 1, (), generator=generator))
    counts = stratified_counts(start, samples, length).sort().values
    return Masks(_masked(length, samples, generator, counts=counts), length / counts.double(), corrected=True)


def one_over_t(length: int, samples: int, generator: torch.Generator) -> Masks:
    """Each token masked with probability t, stratified over (0, 1] and at least 1e-3, weight 1/t (eq. 3).

    For comparison: it needs many times the evaluations, and the floor, without which its variance is infinite, moves
    the mean by about a thousandth.
    """
    t = floored(stratified(torch.rand((), generator=generator, dtype=torch.float64), samples), 1e-3).sort().values
    return Masks(_masked(length, samples, generator, t=t), 1 / t)


def every_mask(length: int) -> Masks:
    """All 2^A - 1 masks, weighted such that the sum over them is the bound itself."""
    masked = (torch.arange(1, 2**length)[:, None] >> torch.arange(length) & 1).bool()
    counts = masked.sum(dim=1)
    same = torch.tensor([math.comb(length, k) for k in range(length + 1)], dtype=torch.float64)
    return Masks(masked, 1 / (counts * same[counts]))


ESTIMATORS: dict[str, Estimator] = {"exact_count": exact_count, "one_over_t": one_over_t}


def log_likelihood(
    model: MaskPredictor,
    prompt: Tensor | Sequence[int],
    answer: Tensor | Sequence[int],
    samples: int = 128,
    seed: int = 0,
    *,
    precision: float | None = None,
    max_samples: int | None = None,
    estimator: Estimator = exact_count,
    batch_size: int = 32,
    cfg_scale: float = 0.0,
) -> Estimate:
    """A lower bound on log p(answer | prompt) in nats, estimated.

    Args:
        model: its call returns `.logits` (B, L, V); its `.config` has `mask_token_id`.
        prompt, answer: tokens (P,) and (A,).
        samples: network evaluations. Where there are no more masks than that, 2^A - 1 (one for a single token), each
            is evaluated once and the value is exact.
        seed: of the masks, together with the tokens, so that requests do not depend on their order; two models are
            given the same masks.

    Other args:
        precision: take as many rounds of `samples` as bring the standard error down to this, in nats, within
            `max_samples` evaluations (None: 8192, or one round of more). To stop by what was seen moves the value a
            little; a fixed number does not.
        estimator: see `ESTIMATORS`.
        batch_size: evaluations at once; changes nothing but the time.
        cfg_scale: classifier-free guidance by the prompt, w of the paper; a score then, not a bound.

    Raises ValueError where the answer is empty or holds [MASK], where prompt and answer do not fit the model, and for
    less than two evaluations unless they are exact; FloatingPointError where the logits are not numbers.
    """
    most = _most_samples(samples, precision, max_samples)
    request = request_of(prompt, answer)
    rounds, exact = rounds_of_masks(request, samples, seed, estimator), enumerable(request, samples)
    values: list[Tensor] = []
    while True:
        masks = [(request, next(rounds))]
        values += values_under(model, masks, batch_size=batch_size, cfg_scale=cfg_scale)
        found = combined(values, exact=exact)
        enough = precision is None or found.stderr <= precision
        if exact or enough or found.samples + samples > most:
            return found


def _most_samples(samples: int, precision: float | None, max_samples: int | None) -> int:
    """The bound on evaluations. Raises ValueError for a precision that is none, for a bound without one or below it."""
    check_whole("samples", samples, 1)
    if precision is None and max_samples is not None:
        raise ValueError(f"max_samples={max_samples} has no effect without precision; give that, or samples alone")
    if precision is not None and not (isinstance(precision, Real) and precision > 0):
        raise ValueError(f"precision={precision} must be above 0, in nats")
    if max_samples is None:
        return max(8192, samples)
    check_whole("max_samples", max_samples, 1)
    if max_samples < samples:
        raise ValueError(f"max_samples={max_samples} is less than a round of samples={samples}; give fewer samples")
    return max_samples


def log_likelihoods(
    model: MaskPredictor,
    requests: Iterable[Request],
    samples: int = 128,
    seed: int = 0,
    *,
    precision: float | None = None,
    max_samples: int | None = None,
    estimator: Estimator = exact_count,
    batch_size: int = 32,
    cfg_scale: float = 0.0,
) -> Iterator[Estimate]:
    """`log_likelihood` of many requests, which share batches; the same values up to rounding.

    With a precision they do not, as each then has to be seen before it is known how much of it is asked.
    """
    if precision is not None:
        for request in requests:
            yield log_likelihood(
                model,
                *request,
                samples,
                seed,
                precision=precision,
                max_samples=max_samples,
                estimator=estimator,
                batch_size=batch_size,
                cfg_scale=cfg_scale,
            )
        return
    _most_samples(samples, precision, max_samples)
    requests = list(requests)
    masks = ((request, next(rounds_of_masks(request, samples, seed, estimator))) for request in requests)
    values = values_under(model, masks, batch_size=batch_size, cfg_scale=cfg_scale)
    for request, value in zip(requests, values, strict=True):
        yield combined([value], exact=enumerable(request, samples))


def rolling_log_likelihood(
    model: MaskPredictor,
    document: Tensor | Sequence[int],
    window: int,
    context: int,
    samples: int = 128,
    seed: int = 0,
    *,
    precision: float | None = None,
    batch_size: int = 32,
) -> Estimate:
    """A lower bound on log p of a long document: windows of tokens, each given up to `context` tokens before it.

    Every token is scored once, in its window; the sum is a bound for the model that writes window after window. A
    precision is that of the sum, to which all windows contribute alike.
    """
    tokens = torch.as_tensor(document)
    if window < 1 or context < 0:
        raise ValueError(f"window={window} must be at least 1 and context={context} at least 0 tokens")
    starts = range(0, len(tokens), window)
    requests = [request_of(tokens[max(0, i - context) : i], tokens[i : i + window]) for i in starts]
    if not requests:
        raise ValueError("the document is empty; give at least one token")
    each = None if precision is None else precision / math.sqrt(len(requests))
    parts = list(log_likelihoods(model, requests, samples, seed, precision=each, batch_size=batch_size))
    stderr = math.sqrt(sum(part.stderr**2 for part in parts))
    return Estimate(sum(part.value for part in parts), stderr, sum(part.samples for part in parts))


def perplexity(likelihood: Estimate, tokens: int) -> Estimate:
    """An upper bound on the perplexity per token, exp(-log p / tokens), from a lower bound on log p of `tokens`.

    Infinite where that is more than a float holds.
    """
    if tokens < 1:
        raise ValueError(f"tokens={tokens} must be at least 1")
    try:
        value = math.exp(-likelihood.value / tokens)
    except OverflowError:  # above 709 nats per token
        return Estimate(math.inf, math.inf, likelihood.samples)
    return Estimate(value, value * likelihood.stderr / tokens, likelihood.samples)


def enumerable(request: Request, samples: int) -> bool:
    """Whether there are no more masks than evaluations, so that each is evaluated once and the value is exact."""
    return len(request.answer) < 60 and 2 ** len(request.answer) - 1 <= samples


def rounds_of_masks(request: Request, samples: int, seed: int, estimator: Estimator) -> Iterator[Masks]:
    """The masks of one round of evaluations after another, a function of the seed and the request; or all, once."""
    A = len(request.answer)
    check_whole("seed", seed, -(2**63), 2**63)
    if enumerable(request, samples):
        yield every_mask(A)
        return
    if samples < 2:
        raise ValueError(
            f"samples={samples} of an answer of {A} tokens: a standard error needs at least 2 evaluations; only a "
            "single token is exact with one"
        )
    content = ",".join(map(str, (seed, len(request.prompt), *request.prompt.tolist(), *request.answer.tolist())))
    number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:7])
    generator = torch.Generator().manual_seed(number)
    while True:
        yield estimator(A, samples, generator)


def values_under(
    model: MaskPredictor, masks: Iterable[tuple[Request, Masks]], *, batch_size: int = 32, cfg_scale: float = 0.0
) -> Iterator[Tensor]:
    """Of each request, what each evaluation says of the bound, float64 (n,)."""
    waiting: list[Masks] = []

    def questions() -> Iterator[Question]:
        for request, one in masks:
            waiting.append(one)
            yield Question(request, one.masked)

    for found in log_probs(model, questions(), batch_size=batch_size, cfg_scale=cfg_scale):
        one = waiting.pop(0)
        yield balanced(found, one) if one.corrected and found.isfinite().all() else found.sum(dim=1) * one.weight


def balanced(log_p: Tensor, masks: Masks) -> Tensor:
    """The weighted sums of log-probabilities (n, A), each corrected for how hard the tokens are that it masks, (n,).

    How much harder a token is than those masked with it, c, is the mean over the *other* evaluations, and one more that
    finds no difference. As their masks are drawn without regard to this one, and every token is masked with probability
    1/weight, `weight * sum_masked c - sum c` is 0 on average: what is subtracted biases nothing (a control variate that
    leaves one out, as in VIMCO, arXiv:1602.06725, section 2.5).
    """
    masked = masks.masked.double()
    level = log_p.sum(dim=1, keepdim=True) / masked.sum(dim=1, keepdim=True)
    easier = (log_p - level) * masked  # (n, A)
    by_others = (easier.sum(dim=0) - easier) / (masked.sum(dim=0) - masked + 1)  # (n, A)
    return ((log_p - by_others) * masked).sum(dim=1) * masks.weight + by_others.sum(dim=1)


def _masked(
    length: int, samples: int, generator: torch.Generator, t: Tensor | None = None, counts: Tensor | None = None
) -> Tensor:
    """Masks of an answer by the forward process of training, bool (n, A)."""
    uniforms = torch.rand(samples, length, generator=generator, dtype=torch.float64)
    x0 = torch.zeros(samples, length, dtype=torch.long)
    return forward_process(x0, 1, t, counts=counts, uniforms=uniforms).masked


def combined(rounds: Sequence[Tensor], *, exact: bool) -> Estimate:
    """The mean of all evaluations and its standard error, from rounds of stratified ones; exact: their sum."""
    samples = sum(map(len, rounds))
    if exact:
        return Estimate(float(rounds[0].sum()), 0.0, samples)
    value = float(torch.cat(list(rounds)).mean())
    if math.isinf(value):  # a token that the model holds to be impossible
        return Estimate(value, math.inf, samples)
    # The variance over all would count what stratification removes. Neighbours are of the same or of neighbouring
    # strata, so half of a squared difference is the variance within them. Few masks vary the most: each evaluation is
    # compared with the one of fewer masks, and the first, which has none, with the second, so that none is understated.
    squares = 0.0
    for values in rounds:
        halves = values.diff().square() / 2
        squares += float(halves.sum() + halves[0]) / len(values) / len(rounds)
    return Estimate(value, math.sqrt(squares / samples), samples)
