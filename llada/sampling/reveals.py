"""Reveal rules: which positions of the window are visible after a step. What a rule leaves out is [MASK] afterwards.

A rule has the signature `(Step) -> visible (B, W)`; rules with parameters are made by a function. Those that reveal
several tokens at once ignore how these depend on each other, and those that mask again by looking at tokens are
optimisers rather than samplers; the README's table has what each misses on a small distribution. All rules stand in
one file, because each is a few lines on the same `Step` and they are read by comparing them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llada.sampling.orders import Drafts, confidence, entropy_of
from llada.sampling.predictors import Predict, logits_at


@dataclass(frozen=True)
class Step:
    """What a reveal rule knows about one step. Rows that take no part in it are there, too, and stay as they are."""

    drafts: Drafts  # of the N predicted positions, row by row
    predicted: Tensor  # (B, W) bool: the masked ones, and the other writable ones for a rule with `everywhere`
    draft: Tensor  # (B, W) the token proposed at each position; the present one where there is none
    score: Tensor  # (B, W) of the order, higher first; -inf where nothing was predicted
    masked: Tensor  # (B, W) bool, [MASK] before the step
    count: Tensor  # (B,) tokens that the schedule reveals in this step
    writable: Tensor  # (B, W) bool, what the sampler may write, and so mask again
    held: Tensor  # (B, W) probability with which a visible token was once revealed; 1 elsewhere
    uniforms: Tensor  # (B, W) fresh random numbers in (0, 1)
    index: int  # of the step in its block, from 0
    steps: int  # of the block
    canvas: Tensor  # (B, L) before the step
    block: slice  # where the window W lies in it
    earlier: tuple["Step", ...] = ()  # the latest steps of the block, oldest first, as many as were asked for

    def spread(self, values: Tensor, elsewhere: float) -> Tensor:
        """Values (N,) of the predicted positions in the window, (B, W)."""
        return spread(values, self.predicted, elsewhere)

    @cached_property
    def probability(self) -> Tensor:
        """Of the drafts at temperature 1, (B, W); 1 where nothing was predicted."""
        return self.spread(confidence(self.drafts), 1.0)

    @cached_property
    def rank(self) -> Tensor:
        """Place of each masked position in the order, from 0; ties go to the leftmost, visible ones come last."""
        return rank_by_score(self.score, self.masked)

    @property
    def left(self) -> Tensor:
        """Masks before the step, (B, 1)."""
        return self.masked.sum(dim=1, keepdim=True)


Reveal = Callable[[Step], Tensor]


@dataclass(frozen=True)
class Rule:
    """A reveal rule that asks more of the loop than the predictions at masked positions."""

    visible: Reveal
    everywhere: bool = False  # predictions at visible positions that are writable, too
    every_step: bool = False  # goes on when nothing is masked
    lookback: int = 0  # earlier steps of the block that it is shown

    def __call__(self, step: Step) -> Tensor:
        return self.visible(step)


def top_k(step: Step) -> Tensor:
    """Reveal the `count` masked positions of highest score (LLaDA, arXiv:2502.09992, alg. 4 and 5)."""
    return ~step.masked | (step.rank < step.count[:, None])


def threshold(minimum: float) -> Reveal:
    """Every position with a score of at least `minimum`, and the best one in any case (Fast-dLLM, arXiv:2505.22618).

    Safe for greedy drafts where n tokens have probabilities above 1 - e and (n + 1) e <= 1.
    """
    return lambda step: ~step.masked | (step.score >= minimum) | (step.rank == 0)


def factor(bound: float) -> Reveal:
    """The longest prefix of the order, n tokens, with (n + 1) (1 - the n-th score) < bound (arXiv:2505.22618)."""

    def visible(step: Step) -> Tensor:
        passes = (step.rank + 2) * (1 - step.score.double()) < bound
        return ~step.masked | _prefix(step, passes)

    return visible


def entropy_bound(bound: float) -> Reveal:
    """The longest prefix of the order whose entropies without their largest sum to at most `bound` (arXiv:2505.24857).

    In nats. That sum bounds how much the tokens revealed together depend on each other.
    """

    def visible(step: Step) -> Tensor:
        entropies = step.spread(entropy_of(step.drafts.logits).double(), 0.0)
        ordered = torch.zeros_like(entropies).scatter_(1, step.rank, entropies)
        excess = ordered.cumsum(dim=1) - ordered.cummax(dim=1).values
        return ~step.masked | _prefix(step, excess.gather(1, step.rank) <= bound)

    return visible


def ancestral(step: Step) -> Tensor:
    """Each masked position independently with probability (t - s) / t: the reverse process with a linear schedule.

    t = 1 - j/N before step j of N and s after it (arXiv:2406.07524, eq. 6). Some steps reveal nothing. For another
    noise schedule, give `ancestral_steps` its times.
    """
    return ancestral_steps(lambda time: time)(step)


def ancestral_steps(mask_probability: Callable[[float], float]) -> Reveal:
    """`ancestral` with the mask probability p(t) of a noise schedule: reveals with probability (p(t) - p(s)) / p(t)."""

    def visible(step: Step) -> Tensor:
        p, p_next = (mask_probability((step.steps - j) / step.steps) for j in (step.index, step.index + 1))
        return ~step.masked | (step.uniforms < (p - p_next) / p)

    return visible


def klass(minimum: float = 0.9, divergence: float = 0.01, history: int = 2) -> Rule:
    """Tokens that are sure and have settled, or else the `count` best (KLASS, arXiv:2511.05664).

    Settled: for the last `history` steps the prediction moved by less than `divergence` nats from one to the next, and
    the likeliest token's probability is above `minimum`.

    Where fewer than `count` have settled the best others join them; the authors' code reveals the settled ones alone,
    and may end with tokens still masked.
    """

    def visible(step: Step) -> Tensor:
        usual = top_k(step)
        if len(step.earlier) < history:
            return usual
        seen = (*step.earlier[-history:], step)  # what is masked now was so, and predicted, in the earlier ones
        predictions = [given.drafts.logits[step.masked[given.predicted]].log_softmax(dim=-1) for given in seen]
        sure = predictions[-1].amax(dim=-1).exp() > minimum
        for before, after in pairwise(predictions):
            moved = (after.exp() * (after - before).masked_fill(after == -math.inf, 0.0)).sum(dim=-1)
            sure &= moved < divergence
        settled = step.masked.masked_scatter(step.masked, sure) & (step.score > -torch.inf)  # not what is to be last
        others = rank_by_score(step.score, step.masked & ~settled)
        missing = step.count[:, None] - settled.sum(dim=1, keepdim=True)
        return ~step.masked | settled | (others < missing)

    return Rule(visible, lookback=history)


def mask_predict(step: Step) -> Tensor:
    """Reveal everything, then mask the floor(n (N - j) / N) least probable tokens again (arXiv:1904.09324, §3.1).

    j of N steps are done after this one, and n positions are writable; before the last step it is one token at least,
    as in the authors' code. Tokens keep the probability that they had when they were predicted.
    """
    n = step.writable.sum(dim=1, keepdim=True)
    masked_after = n * (step.steps - step.index - 1) // step.steps
    if step.index + 1 < step.steps:
        masked_after = torch.maximum(masked_after, n.clamp(max=1))
    probability = torch.where(step.masked, step.probability.double(), step.held)
    return _all_but_lowest(probability, step.writable, masked_after)


def p2(eta: float = 1.0, planner: Predict | None = None, kappa: Callable[[float], float] = lambda done: done) -> Rule:
    """Path planning (P2, arXiv:2502.03540): keep the tokens that a planner trusts, wherever they are.

    After j of N steps floor(n (1 - kappa(j / N))) of the n writable positions are masked: those of lowest score, which
    is log p of the draft at masked positions and `eta` log p of the token, as the planner sees it, at visible ones.

    Args:
        eta: 0: never mask again; 1: the two kinds of positions compete on equal terms; above: revise more.
        planner: predicts the completed draft; None: the model's own logits at visible positions (self-planning). Its
            [MASK] counts like any token unless it is `suppressed`.
        kappa: increasing from 0 to 1.
    """

    def visible(step: Step) -> Tensor:
        drafts = step.drafts
        if planner is not None:
            completed = step.canvas.clone()
            completed[:, step.block] = step.draft
            drafts = replace(drafts, logits=logits_at(planner, completed, step.block, step.predicted))
        drafted, trusted = (step.spread(seen.log_probability, 0.0) for seen in (step.drafts, drafts))
        score = torch.where(step.masked, drafted, eta * trusted if eta else torch.zeros_like(drafted))
        n = step.writable.sum(dim=1, keepdim=True)
        masked_after = (n.double() * (1 - kappa((step.index + 1) / step.steps)) + 1e-9).long()
        return _all_but_lowest(score, step.writable, masked_after)

    return Rule(visible, everywhere=True)


Variant = Literal["cap", "rescale", "conf", "loop"]


def remdm(
    variant: Variant = "cap", eta: float = 0.008, *, t_on: float = 0.55, t_off: float = 0.05, alpha_on: float = 0.9
) -> Rule:
    """Remasking diffusion (ReMDM, arXiv:2503.00307, §3 and 4): the reverse process that also masks again.

    From t to s a visible token is masked with probability sigma, a masked one revealed with probability
    `(alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)`: how many are masked is distributed as in `ancestral`, for any
    sigma up to sigma_max = min(1, (1 - alpha_s) / alpha_t), but for "conf", which masks more.

    Args:
        variant: "cap": sigma = min(eta, sigma_max); "rescale": eta sigma_max; "conf": that, times a softmax over the
            visible tokens that favours those revealed with a low probability; "loop": ancestral until `t_on`, then
            sigma = eta at a constant share `alpha_on` of visible tokens until `t_off`, then ancestral to the end.
    """
    if eta > 1:
        raise ValueError(
            f"eta={eta} must be at most 1: it is a probability of masking again, or a share of the largest"
        )
    if not 0 < t_off < t_on < 1 or not 0 < alpha_on < 1:
        raise ValueError(f"t_off={t_off} < t_on={t_on} and alpha_on={alpha_on} must lie between 0 and 1")

    def mask_probability(time: float) -> float:
        if variant != "loop":
            return time
        if time > t_on:
            return 1 - (1 - time) * alpha_on / (1 - t_on)
        return 1 - alpha_on if time > t_off else time * (1 - alpha_on) / t_off

    def visible(step: Step) -> Tensor:
        t, s = ((step.steps - j) / step.steps for j in (step.index, step.index + 1))  # rounded once, t_off is met
        alpha_t, alpha_s = 1 - mask_probability(t), 1 - mask_probability(s)
        largest = 1.0 if alpha_t == 0 else min(1.0, (1 - alpha_s) / alpha_t)
        sigma = {
            "cap": min(eta, largest),
            "rescale": eta * largest,
            "conf": eta * largest,
            "loop": min(eta, largest) if t_off < t <= t_on else 0.0,
        }[variant]
        masking = torch.full_like(step.held, sigma)
        unmasking = torch.full_like(step.held, (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t))
        if variant == "conf":
            seen = step.writable & ~step.masked
            share = (-step.held).masked_fill(~seen, -torch.inf).softmax(dim=1)
            masking = sigma * torch.where(seen, share, 0.0)
            unmasking = torch.full_like(unmasking, (alpha_s - alpha_t) / (1 - alpha_t))  # no masked token has a share
        revealed = step.masked & (step.uniforms < unmasking)
        kept = ~step.masked & ((step.uniforms >= masking) | ~step.writable)
        return revealed | kept

    return Rule(visible, every_step=True)


def gibbs(size: int = 1) -> Reveal:
    """Fill, then mask `size` random tokens and fill them again, as long as steps are left (arXiv:1902.04094, §3).

    One token is revealed in a step. Which tokens are masked does not depend on them, so a perfect model's
    distribution stays what it is; masking the doubtful ones instead would not keep it.
    """

    def visible(step: Step) -> Tensor:
        after = ~step.masked | (step.rank == 0)
        gaps = step.writable.sum(dim=1, keepdim=True).clamp(max=size)
        chosen = rank_by_score(step.uniforms, step.writable) < size
        again = after.all(dim=1, keepdim=True) & (step.steps - step.index - 1 >= gaps)  # enough are left to fill them
        return torch.where(again, ~(chosen & step.writable), after)

    return visible


def early_exit(reveal: Reveal, gaps: tuple[float, float, float] = (7.5, 5.0, 2.5)) -> Reveal:
    """Reveal all that is left once the model is sure of it (Prophet, arXiv:2508.19982).

    That is where the likeliest token's logit exceeds the second's by `gaps` on average over the masked positions, for
    the first, second and last third of the steps; elsewhere `reveal` decides. What is revealed is what was drafted:
    the likeliest tokens, as in the paper, at temperature 0.
    """

    def visible(step: Step) -> Tensor:
        two = step.drafts.logits.topk(2, dim=-1).values
        gap = torch.nan_to_num(two[:, 0] - two[:, 1], posinf=max(gaps))  # a single possible token is just sure enough
        gap = step.spread(gap, 0.0).masked_fill(~step.masked, 0.0).sum(dim=1, keepdim=True)
        least = gaps[min(int(3 * step.index / step.steps), 2)]
        sure = (step.left > 0) & (gap >= least * step.left)
        return torch.where(sure, torch.ones_like(step.masked), reveal(step))

    return replace(reveal, visible=visible) if isinstance(reveal, Rule) else visible


def spread(values: Tensor, chosen: Tensor, elsewhere: float) -> Tensor:
    """Values (N,) at the chosen positions, bool (B, W), and another one elsewhere."""
    whole = torch.full(chosen.shape, elsewhere, dtype=values.dtype, device=values.device)
    return whole.masked_scatter(chosen, values)


def rank_by_score(score: Tensor, among: Tensor) -> Tensor:
    """Place of each position by descending score, those of `among` first; ties go to the leftmost."""
    finite = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~among, -torch.inf)
    order = finite.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _prefix(step: Step, passes: Tensor) -> Tensor:
    """The masked positions of the order's longest prefix in which all pass, and the first one in any case."""
    fails = torch.zeros_like(step.rank).scatter_(1, step.rank, (~passes).long())
    fails[:, 0] = 0
    return step.masked & (fails.cumsum(dim=1).gather(1, step.rank) == 0)


def _all_but_lowest(score: Tensor, writable: Tensor, count: Tensor) -> Tensor:
    """Everything but the `count` (B, 1) writable positions of lowest score; of equal ones the leftmost stay."""
    rank = rank_by_score(score.double(), writable)
    return ~writable | (rank < writable.sum(dim=1, keepdim=True) - count)


class RevealEntry(NamedTuple):
    """A reveal rule of the configuration: what makes it, which fields it takes, and what it asks of the loop."""

    make: Callable[..., Reveal]
    fields: Mapping[str, str] = {}  # of the configuration, and what `make` calls them
    required: tuple[str, ...] = ()
    ordered: bool = True  # looks at the scores of the order
    counted: bool = False  # how many tokens a step reveals comes from `counts`
    adaptive: bool = False  # the number of steps comes from the predictions
    probabilities: bool = False  # compares the scores of the order with a probability
    remasking: bool = False  # may mask a token again


REVEALS: dict[str, RevealEntry] = {
    "top_k": RevealEntry(lambda: top_k, counted=True),
    "threshold": RevealEntry(threshold, {"threshold": "minimum"}, ("threshold",), adaptive=True, probabilities=True),
    "factor": RevealEntry(factor, {"factor": "bound"}, ("factor",), adaptive=True, probabilities=True),
    "entropy_bound": RevealEntry(entropy_bound, {"entropy_bound": "bound"}, ("entropy_bound",), adaptive=True),
    "klass": RevealEntry(
        klass,
        {"threshold": "minimum", "kl_threshold": "divergence", "history": "history"},
        counted=True,
    ),
    "ancestral": RevealEntry(lambda: ancestral, ordered=False),
    "mask_predict": RevealEntry(lambda: mask_predict, ordered=False, remasking=True),
    "remdm": RevealEntry(
        remdm,
        {"remask": "variant", "eta": "eta", "t_on": "t_on", "t_off": "t_off", "alpha_on": "alpha_on"},
        ("remask",),
        ordered=False,
        remasking=True,
    ),
    "p2": RevealEntry(p2, {"eta": "eta"}, ordered=False, remasking=True),
    "gibbs": RevealEntry(gibbs, {"resample": "size"}, ("steps",), remasking=True),
}
