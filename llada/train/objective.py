"""The objective of LLaDA (arXiv:2502.09992, eq. 3): masked cross-entropy weighted by 1/t.

A clean sequence x0 is masked token by token with probability t; a predictor that sees only the rest is asked for the
masked tokens. `sum_masked CE / t` is an unbiased estimate of an upper bound on -log p(x0) (the negative ELBO), for
t ~ U(0, 1) and masks drawn independently, and equally for k ~ U{1..L} and a uniform set of k masks with t = k/L.
Pretraining and fine-tuning are the same loss: in fine-tuning only the response is `maskable` and `lengths` counts it.

Shapes: B batch, L length, V vocabulary, N masked positions of the batch in row-major order.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llada.whole import check_whole


class Noised(NamedTuple):
    """A partly masked batch."""

    xt: Tensor  # (B, L) tokens with [MASK] where masked
    masked: Tensor  # (B, L) bool
    t: Tensor  # (B,) probability with which a maskable token was masked; k/n where exactly k of n were


def forward_process(
    x0: Tensor,
    mask_token_id: int,
    t: Tensor | None = None,
    maskable: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    counts: Tensor | None = None,
    uniforms: Tensor | None = None,
    eps: float = 1e-3,
) -> Noised:
    """Mask each maskable token of a row independently with the row's probability t.

    Args:
        x0: clean tokens (B, L).
        mask_token_id: the token that stands for "masked"; x0 must not contain it where it is maskable.
        t: (B,) in (0, 1]; None: stratified over the batch and uniform for each row, then floored by `eps`.
        maskable: bool (B, L), what may be masked (the response, in fine-tuning); None: everything.
        generator: where the randomness comes from.

    Other args:
        counts: int (B,), mask exactly so many maskable tokens of a row instead; then t = counts / number of maskable.
        uniforms: float (B, L) in [0, 1), used instead of `generator`: a token is masked where its number is below t,
            or among the `counts` smallest.
        eps: floor of a drawn t, t = (1 - eps) t' + eps. Without a floor the variance of the loss is infinite.

    Raises ValueError for arguments of another shape or type, for an x0 that holds [MASK] where it is maskable, for t
    outside (0, 1], for t together with counts, and for counts that a row cannot give.
    """
    _check_tokens("x0", x0)
    B, L = x0.shape
    check_whole("mask_token_id", mask_token_id, 0, 2**63)
    if t is not None and counts is not None:
        raise ValueError("give either t (independent masks) or counts (exactly so many masks), not both")
    if maskable is None:
        maskable = torch.ones_like(x0, dtype=torch.bool)
    if uniforms is None:
        uniforms = torch.rand(B, L, generator=generator, device=x0.device)
    _check_tensor("maskable", maskable, (B, L), torch.bool)
    _check_tensor("uniforms", uniforms, (B, L), None)
    if not (isinstance(eps, Real) and 0 <= eps < 1):
        raise ValueError(f"eps={eps} must be at least 0 and below 1: it is the least probability of a mask")
    if ((x0 == mask_token_id) & maskable).any():
        raise ValueError(f"x0 holds mask_token_id={mask_token_id} where it is maskable; give clean tokens")
    if counts is not None:
        available = maskable.sum(dim=1)
        _check_tensor("counts", counts, (B,), torch.int64)
        if ((counts < 1) | (counts > available)).any():
            raise ValueError(
                f"counts={counts.tolist()} must lie between 1 and the maskable tokens {available.tolist()}"
            )
        masked = lowest(uniforms, maskable, counts)
        t = counts.double() / available  # exact, so that the bound is
    else:
        if t is None:
            offset = torch.rand((), generator=generator, device=x0.device)
            t = floored(stratified(offset, B), eps)
        _check_times("t", t, B)
        masked = (uniforms < t[:, None]) & maskable
    return Noised(torch.where(masked, mask_token_id, x0), masked, t)


def lowest(uniforms: Tensor, maskable: Tensor, counts: Tensor) -> Tensor:
    """The maskable positions with the smallest `counts` numbers of each row, bool (B, L)."""
    order = uniforms.masked_fill(~maskable, math.inf).argsort(dim=1, stable=True)
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, ranks)
    return rank < counts[:, None]


def elbo_loss(
    logits: Tensor, x0: Tensor, noised: Noised, lengths: Tensor | int, weight: Tensor | None = None
) -> Tensor:
    """Mean over rows of `sum_masked CE / (t * length)`, in nats per token: the loss of pretraining and fine-tuning.

    Args:
        logits: (B, L, V), or (N, V) at the masked positions alone.
        x0: clean tokens (B, L).
        lengths: (B,) or one number, the tokens of each row that count: L in pretraining; in fine-tuning the response
            with its end-of-sequence padding.
        weight: (B,), instead of 1/t: the weight of another schedule (`Schedule.weight`).

    Raises ValueError for arguments of another shape or type, for a batch without rows, and for lengths, weights or t
    that cannot be.
    """
    _check_tokens("x0", x0)
    one = isinstance(lengths, Real)
    if not one and not (isinstance(lengths, Tensor) and lengths.shape in ((), x0.shape[:1])):
        raise ValueError(f"lengths is {_kind(lengths)}; it must be one number, or a tensor {tuple(x0.shape[:1])}")
    if len(x0) == 0:
        raise ValueError("x0 has no rows, so there is no mean over them")
    if not (0 < lengths < 2**63 if one else (lengths > 0).all()):  # sync, of a tensor
        raise ValueError(f"lengths={lengths} must be above 0 and below 2**63: they divide the loss")
    return (row_nelbo(logits, x0, noised, weight) / lengths).mean()


def row_nelbo(logits: Tensor, x0: Tensor, noised: Noised, weight: Tensor | None = None) -> Tensor:
    """One estimate per row of the bound on -log p(x0), in nats: `sum_masked CE / t`, (B,), float32 or wider.

    Unbiased for every predictor; a row without a mask gives 0. Arguments and errors as for `elbo_loss`.
    """
    _check_noised(logits, x0, noised, weight)
    losses = masked_cross_entropy(logits, x0, noised.masked)  # (N,)
    rows = noised.masked.nonzero()[:, 0]  # sync: N is data-dependent
    sums = losses.new_zeros(x0.shape[0]).index_add(0, rows, losses)
    return sums * (1 / noised.t if weight is None else weight).to(sums.dtype)


def _check_noised(logits: Tensor, x0: Tensor, noised: Noised, weight: Tensor | None) -> None:
    """Raise ValueError for what would be broadcast, or belongs to other tokens."""
    _check_tokens("x0", x0)
    B, L = x0.shape
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise ValueError(f"logits is {_kind(logits)}; it must be floating point of shape (..., vocabulary)")
    _check_tensor("noised.masked", noised.masked, (B, L), torch.bool)
    if weight is None:
        _check_times("noised.t", noised.t, B)
    else:
        _check_tensor("weight", weight, (B,), None)
        if not ((weight >= 0) & (weight < math.inf)).all():  # sync
            raise ValueError(f"weight={weight.tolist()} must be at least 0 and finite")
    positions = tuple(logits.shape[:-1])
    if positions not in ((B, L), (int(noised.masked.sum()),)):  # sync
        raise ValueError(
            f"logits {tuple(logits.shape)} do not fit tokens {(B, L)} of which {int(noised.masked.sum())} are masked; "
            "give them at all positions, or at the masked ones"
        )


def _check_times(name: str, t: Tensor, rows: int) -> None:
    _check_tensor(name, t, (rows,), None)
    if not ((t > 0) & (t <= 1)).all():  # sync; NaN is neither
        raise ValueError(f"{name}={t.tolist()} must lie in (0, 1]: it divides the loss")


def _check_tokens(name: str, tokens: Tensor) -> None:
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise ValueError(f"{name} is {_kind(tokens)}; it must be tokens (batch, length) of torch.int64")


def _check_tensor(name: str, given: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    """Raise ValueError unless it has this shape and type, None: any of floating point; broadcasting is an error."""
    fits = isinstance(given, Tensor) and (given.is_floating_point() if dtype is None else given.dtype == dtype)
    if not fits or given.shape != shape:
        raise ValueError(f"{name} is {_kind(given)}; it must be {dtype or 'floating point'} of shape {shape}")


def _kind(given: object) -> str:
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)


def masked_cross_entropy(logits: Tensor, x0: Tensor, masked: Tensor) -> Tensor:
    """-log p(x0_i | xt) at the masked positions, (N,), at least float32. Logits as for `elbo_loss`."""
    if logits.dim() == 3:
        logits = logits[masked]
    return F.cross_entropy(widened(logits), x0[masked], reduction="none")


def widened(logits: Tensor) -> Tensor:
    """At least float32, as sums over a vocabulary need."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def stratified(offset: Tensor, count: int) -> Tensor:
    """`(offset + i/count) mod 1` for i < count: one point in each of `count` strata, each uniform if the offset is.

    One shared offset (VDM, arXiv:2107.00630, appendix I.1), so that no row is tied to a stratum.
    """
    return (offset + torch.arange(count, device=offset.device, dtype=offset.dtype) / count) % 1


def floored(t: Tensor, eps: float) -> Tensor:
    """`(1 - eps) t + eps`: keeps 1/t bounded at the price of a bias of about eps times the bound."""
    return (1 - eps) * t + eps


def stratified_counts(start: int, count: int, length: int) -> Tensor:
    """`count` numbers of masks in 1..length, evenly spread from `start`; each is uniform if `start` is.

    Integer arithmetic throughout: rounding a float grid makes some numbers likelier than others and biases the bound.
    """
    return (start - 1 + torch.arange(count) * length // count) % length + 1


def count_at(t: Tensor, available: Tensor) -> Tensor:
    """The number of masks, in 1..available, that belongs to t in [0, 1): uniform if t is, 0 where none is available."""
    return (1 + (available * t).long()).clamp(max=available)


class Schedule(NamedTuple):
    """The probability alpha(t) that a token is still visible at time t, with alpha(0) = 1 and alpha(1) = 0.

    The bound does not depend on the schedule, only the variance of its estimate does (MD4, arXiv:2406.04329).
    """

    alpha: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]  # d alpha / dt
    inverse: Callable[[Tensor], Tensor]  # alpha → t

    def mask_probability(self, t: Tensor) -> Tensor:
        return 1 - self.alpha(t)

    def weight(self, t: Tensor) -> Tensor:
        """What multiplies the masked cross-entropy at time t: -alpha'(t) / (1 - alpha(t)); 1/t for `linear`."""
        return -self.slope(t) / (1 - self.alpha(t))

    def reveal_probability(self, t: Tensor, s: Tensor) -> Tensor:
        """Probability that a token masked at time t is visible at s < t; also the weight of a discrete step."""
        return (self.alpha(s) - self.alpha(t)) / (1 - self.alpha(t))


def polynomial(power: float) -> Schedule:
    """alpha(t) = 1 - t^power."""
    return Schedule(
        alpha=lambda t: 1 - t**power,
        slope=lambda t: -power * t ** (power - 1),
        inverse=lambda alpha: (1 - alpha) ** (1 / power),
    )


SCHEDULES: dict[str, Schedule] = {
    "linear": Schedule(alpha=lambda t: 1 - t, slope=lambda t: -torch.ones_like(t), inverse=lambda alpha: 1 - alpha),
    "cosine": Schedule(
        alpha=lambda t: 1 - torch.cos(math.pi / 2 * (1 - t)),
        slope=lambda t: -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t)),
        inverse=lambda alpha: 1 - 2 / math.pi * torch.acos(1 - alpha),
    ),
    "quadratic": polynomial(2.0),
}


def cart_weight(masked: Tensor, q: float = 0.3, *, visible: Tensor | None = None) -> Tensor:
    """Context-adaptive token weights (CART; Dream, arXiv:2508.15487): more for masks that have visible neighbours.

    `w_i = sum over visible j of q (1 - q)^(|i - j| - 1) / 2` at masked i, 0 elsewhere; float32 (B, L). A row that is
    masked everywhere gets weight 0 everywhere. Not a likelihood bound. `visible` is bool (B, L), where padding is not;
    None: what is not masked.
    """
    visible = ~masked if visible is None else visible
    L = masked.shape[1]
    position = torch.arange(L, device=masked.device)
    distance = (position[:, None] - position[None]).abs()
    kernel = torch.where(distance > 0, q * (1 - q) ** (distance - 1).float() / 2, 0.0)
    return visible.float() @ kernel * masked
