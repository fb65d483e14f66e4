"""How many tokens each step reveals, and when. Counts have the signature `(masks (B,), steps) -> int (B, steps)`."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Counts = Callable[[Tensor, int], Tensor]


def even_counts(masks: Tensor, steps: int) -> Tensor:
    """Share each row's masks equally over the steps, the remainder to the first ones (LLaDA, arXiv:2502.09992, alg. 5).

    10 masks in 4 steps are 3, 3, 2, 2; 3 in 5 are 1, 1, 1, 0, 0.
    """
    step = torch.arange(steps, device=masks.device)
    return masks[:, None] // steps + (step < masks[:, None] % steps)


def cosine_counts(masks: Tensor, steps: int) -> Tensor:
    """Few tokens first, many last (MaskGIT, arXiv:2202.04200, §3.2): cos(pi/2 j/N) of them are masked after j of N.

    Never 0 before a row is finished, where its masks reach: 32 masks in 8 steps are 1, 2, 3, 4, 5, 5, 6, 6.
    """
    left = torch.cos(torch.arange(1, steps + 1, device=masks.device, dtype=torch.float64) * math.pi / 2 / steps)
    left[-1] = 0.0
    remaining = (masks[:, None] * left + 1e-9).long()  # (B, steps) masked after each step
    # one token a step at least, as long as there are any
    at_most = (masks[:, None] - torch.arange(1, steps + 1, device=masks.device)).clamp(min=0)
    remaining = torch.minimum(remaining, at_most)
    return -remaining.diff(dim=1, prepend=masks[:, None])


def given_counts(counts: Sequence[int]) -> Counts:
    """The same numbers for every row; a row with fewer masks is finished earlier.

    Raises ValueError where a row has more masks than they reveal, or the number of steps is another one.
    """

    def shared(masks: Tensor, steps: int) -> Tensor:
        planned = torch.tensor(list(counts), device=masks.device)
        if steps != len(counts):
            raise ValueError(f"counts={list(counts)} are {len(counts)} steps, not {steps}")
        if (masks > planned.sum()).any():
            raise ValueError(f"counts={list(counts)} reveal {int(planned.sum())} tokens, fewer than are masked")
        return planned.expand(len(masks), -1)

    return shared


def optimal_counts(losses: Sequence[float], steps: int) -> list[int]:
    """The numbers of tokens per step that cost least when tokens revealed together are drawn independently.

    Args:
        losses: losses[m] is the mean cross-entropy per masked token when m of them are masked, m = 0..L (losses[0]
            is not looked at): the training or held-out loss by number of masks, in nats.
        steps: 1..L.

    In a random order, revealing s of m masks at once costs `s a(m) - sum a(m - j)` of Kullback-Leibler divergence,
    the excess of a left Riemann sum of the curve (arXiv:2511.04647; arXiv:2510.25544); dynamic programming over (m,
    steps left) finds the least, of several the one with the fewest tokens first. `expected_divergence` is its value.
    """
    L = len(losses) - 1
    if not 1 <= steps <= L:
        raise ValueError(f"steps={steps} must lie between 1 and the {L} tokens of the loss curve")
    cost = _step_costs(losses)  # (L + 1, L + 1): revealing s of m
    best = torch.full((L + 1,), math.inf, dtype=torch.float64)  # of m masks in the steps left
    best[0] = 0.0
    m, s = torch.arange(L + 1)[:, None], torch.arange(L + 1)[None]
    choices = []
    for _ in range(steps):
        total = torch.where((s >= 1) & (s <= m), cost + best[(m - s).clamp(min=0)], math.inf)
        total[0, 0] = 0.0
        best, chosen = total.min(dim=1)
        choices.append(chosen)
    counts, left = [], L
    for chosen in reversed(choices):
        counts.append(int(chosen[left]))
        left -= counts[-1]
    return counts


def expected_divergence(losses: Sequence[float], counts: Sequence[int]) -> float:
    """Nats by which a random order with these counts is expected to miss the model's distribution; see above."""
    cost, left, total = _step_costs(losses), len(losses) - 1, 0.0
    for count in counts:
        total += float(cost[left, count])
        left -= count
    return total


def hitting_times(uniforms: Tensor) -> Tensor:
    """The times, descending from 1, at which the reverse process reveals its tokens one by one, (B, N).

    `t <- t u^(1/n)` with n tokens still masked (first-hitting sampler, arXiv:2409.02908, §4): exactly N events, none
    of them empty. A model that does not see the time needs only their number, so one token a step in random order
    *is* the first-hitting sampler; the mean of the j-th time is (N + 1 - j) / (N + 1).
    """
    n = torch.arange(uniforms.shape[1], 0, -1, device=uniforms.device)
    return (uniforms ** (1 / n)).cumprod(dim=1)


def _step_costs(losses: Sequence[float]) -> Tensor:
    """cost[m, s] = s a(m) - sum_{j < s} a(m - j), float64 (L + 1, L + 1); 0 where s > m."""
    a = torch.tensor([0.0, *losses[1:]], dtype=torch.float64)
    m, s = torch.arange(len(a))[:, None], torch.arange(len(a))[None]
    sums = a.cumsum(dim=0)  # of a(1)..a(m)
    return torch.where(s <= m, s * a[:, None] - (sums[:, None] - sums[(m - s).clamp(min=0)]), 0.0)


COUNTS: dict[str, Counts] = {"even": even_counts, "cosine": cosine_counts}
