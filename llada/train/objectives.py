"""What training asks of the model: an objective turns clean rows into one call of the model and the loss of its logits.

An objective is a function from rows and their random numbers to a `Call`, so that everything random is decided where
the batch is made, and the loop is the same for all of them. `OBJECTIVES` names them; those that are likelihood bounds
also measure held-out rows.

Shapes: B rows, L length, V vocabulary, N logits that are asked for, K groups of a row with a weight each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llada.train.objective import Noised, cart_weight, count_at, floored, forward_process, lowest, widened

IGNORED = -100  # a target that nothing is asked about; what F.cross_entropy leaves out by default


@dataclass(frozen=True)
class Noise:
    """How training masks, from the config."""

    mask_token_id: int
    pad_token_id: int
    seed: int = 0
    masking: Literal["count", "bernoulli"] = "count"  # exactly k ~ U{1..L} tokens, or each with probability t ~ U(0, 1)
    eps: float = 1e-3  # floor of t; only for "bernoulli"
    random_length: float = 0.0  # probability of cutting a row to a uniform length
    split: float = 0.0  # probability of cutting a row into two that do not see each other
    bos_token_id: int | None = None  # precedes a row whose first token is to be predicted; only for `autoregressive`
    eos_padding: bool = True  # responses go on with padding to the longest row of the step; False: with one EOS
    mask_prompt: bool = False  # everything is masked, what is not a response, too
    t_min: float = 0.0  # t is uniform from here
    t_max: float = 1.0  # to here; the loss is a bound only from 0 to 1
    block_length: int | None = None  # of the model; only for `block_diffusion`


class Padded(NamedTuple):
    """Clean rows as a rectangle, and the numbers that decide their masks."""

    x0: Tensor  # (B, L)
    maskable: Tensor  # (B, L) bool, what the loss is about
    real: Tensor  # (B, L) bool; what is not is hidden from the model
    t: Tensor  # (B,) between noise.t_min and t_max, stratified over the global batch
    uniforms: Tensor  # (B, L) in [0, 1)
    documents: Tensor | None = None  # (B, L) int, the document of each token, which sees that alone; None: all see all
    masked: Tensor | None = None  # (B, L) bool, what a pool has left masked; only for `puma`


class Call(NamedTuple):
    """One call of the model, and what its logits are compared with."""

    inputs: Mapping[str, Any]  # arguments of the call
    targets: Tensor  # (N,) tokens for the logits, flattened to (N, V); IGNORED where nothing is asked
    group: Tensor  # (N,) which of the B * K groups, row by row, the cross-entropy is added to
    weights: Tensor  # (B, K) of the groups; the loss of a row is the sum of its weighted groups

    def target_weights(self, of_rows: Tensor) -> Tensor:
        """What each target's cross-entropy counts, (N,), in a sum of the rows' losses with weights (B,)."""
        return (self.weights * of_rows[:, None]).flatten()[self.group]


class Objective(NamedTuple):
    """A way to train."""

    ask: Callable[[Padded, Noise], Call]
    is_bound: bool  # whether the mean loss of a row is at least its -log p(x0), t being uniform from 0 to 1
    measures: bool = False  # held-out rows, too; the others leave that to `elbo`
    masks: bool = True
    reads: int = 1  # times the network reads a token of a row
    halves: int = 1  # rows that it reads as one sequence
    asks: float = 0.5  # share of what it reads that logits are needed for


def cross_entropy(logits: Tensor, call: Call) -> Tensor:
    """Of every target, (N,), in nats, float32 or wider. Logits are (N, V) or flatten to that."""
    return F.cross_entropy(widened(logits.flatten(0, -2)), call.targets, ignore_index=IGNORED, reduction="none")


def largest_log_probability(logits: Tensor) -> Tensor:
    """At every target, (N,), in nats, float32 or wider, without a gradient. Logits are (N, V) or flatten to that."""
    wide = widened(logits.detach().flatten(0, -2))
    return wide.amax(dim=-1) - wide.logsumexp(dim=-1)


def group_sums(losses: Tensor, call: Call) -> Tensor:
    """The cross-entropy of every group, (B, K), from that of every target (N,)."""
    return losses.new_zeros(call.weights.numel()).index_add(0, call.group, losses).view(call.weights.shape)


def weighted(sums: Tensor, call: Call) -> Tensor:
    """The loss of each row, (B,), from the cross-entropy of its groups."""
    return (sums * call.weights.to(sums.dtype)).sum(dim=1)


def masked(padded: Padded, noise: Noise) -> Noised:
    """The rows as the configuration masks them."""
    if noise.masking == "count":
        counts = count_at(padded.t, padded.maskable.sum(dim=1))
        return forward_process(
            padded.x0, noise.mask_token_id, maskable=padded.maskable, counts=counts, uniforms=padded.uniforms
        )
    t = floored(padded.t, noise.eps)
    return forward_process(padded.x0, noise.mask_token_id, t, padded.maskable, uniforms=padded.uniforms)


def elbo(padded: Padded, noise: Noise) -> Call:
    """The negative ELBO (arXiv:2502.09992, eq. 3): masked cross-entropy with weight 1/t."""
    noised = masked(padded, noise)
    return _at_masks(padded, noised, 1 / noised.t[:, None])


def uniform(padded: Padded, noise: Noise) -> Call:
    """Masked cross-entropy without a weight (MaskGIT, arXiv:2202.04200): rows with many masks count for more."""
    noised = masked(padded, noise)
    return _at_masks(padded, noised, torch.ones(len(padded.x0), 1))


def puma(padded: Padded, noise: Noise) -> Call:
    """`elbo` for the masks of a pool (`llada.train.puma`): the mean cross-entropy over them, times the length."""
    if padded.masked is None:
        raise ValueError("the masks of puma come from a pool: give llada.train.puma.Pool(batches, ...) to fit")
    share = padded.masked.sum(dim=1).double() / padded.maskable.sum(dim=1)
    noised = Noised(torch.where(padded.masked, noise.mask_token_id, padded.x0), padded.masked, share)
    return _at_masks(padded, noised, 1 / share[:, None])


def cart(padded: Padded, noise: Noise) -> Call:
    """Every masked token with a weight of its own, larger where visible ones are near (`cart_weight`)."""
    _refuse_documents(padded, "cart, whose weights are of neighbours in the row")
    noised = masked(padded, noise)
    weights = cart_weight(noised.masked, visible=padded.real & ~noised.masked)
    call = _at_masks(padded, noised, weights)
    return call._replace(group=call.inputs["logits_at"])


def complementary(padded: Padded, noise: Noise, *, exact: bool = True) -> Call:
    """Each row with a set of masks and with the other maskable tokens masked: both are read, each token is asked once.

    `exact`: a set of k of n tokens, k ~ U{0..n}, has weight (n + 1) / k, or of independent masks 1/t, and half of the
    sum of both is the negative ELBO, with more variance than two draws of `elbo`. Else the mean of the cross-entropy
    over each set (Fast-dLLM v2, arXiv:2509.26328; LLaDA2.0, arXiv:2512.15745).
    """
    n = padded.maskable.sum(dim=1)
    if noise.masking == "count":
        counts = ((n + 1) * padded.t).long().clamp(max=n)
        first = lowest(padded.uniforms, padded.maskable, counts)
        share = torch.stack((counts, n - counts), dim=1) / (n + 1).double()[:, None]  # (B, 2)
    else:
        t = noise.eps + (1 - 2 * noise.eps) * padded.t  # a floor for both
        first = (padded.uniforms < t[:, None]) & padded.maskable
        share = torch.stack((t, 1 - t), dim=1)
    sets = torch.stack((first, padded.maskable & ~first), dim=1)  # (B, 2, L)
    sizes = sets.sum(dim=2)  # (B, 2)
    means = n[:, None].double() / sizes / (sizes > 0).sum(dim=1, keepdim=True)
    weights = torch.where(sizes > 0, 0.5 / share if exact else means, 0.0)
    given = {name: value for name, value in padded._asdict().items() if value is not None}
    twice = Padded(**{name: value.repeat_interleave(2, dim=0) for name, value in given.items()})
    sets = sets.flatten(0, 1)  # (2B, L)
    noised = Noised(torch.where(sets, noise.mask_token_id, twice.x0), sets, twice.t)
    return _at_masks(twice, noised, weights)


def block_diffusion(padded: Padded, noise: Noise) -> Call:
    """The bound of a model that writes block by block (BD3LM, arXiv:2503.09573, eq. 8), with masks drawn per block.

    A block is predicted from its own visible tokens and the clean blocks before it. One call does all blocks: the
    network reads masked and clean row one behind the other, and `block_diffusion_attention` says who sees whom. With
    blocks of one token it is the likelihood, from left to right, without variance; with one block it is `elbo`.
    """
    W = noise.block_length
    _refuse_documents(padded, "block_diffusion, whose blocks are of the row")
    if W is None:
        raise ValueError("block_diffusion needs noise.block_length, the model's")
    B, L = padded.x0.shape
    blocks = -(-L // W)
    # t of the blocks of a row: as far from each other as they can be, each as uniform as the row's
    own = -(-padded.real.sum(dim=1, keepdim=True) // W)  # blocks, of the row whatever it is padded to
    t = (padded.t[:, None] - noise.t_min) / (noise.t_max - noise.t_min) + torch.arange(blocks) / own
    t = (noise.t_min + (noise.t_max - noise.t_min) * (t % 1)).flatten()  # (B * blocks,)
    maskable, uniforms = (
        F.pad(value, (0, blocks * W - L)).view(B * blocks, W) for value in (padded.maskable, padded.uniforms)
    )
    n = maskable.sum(dim=1)
    if noise.masking == "count":
        counts = count_at(t, n)
        chosen = lowest(uniforms, maskable, counts)
        weights = torch.where(n > 0, n.double() / counts, 0.0)
    else:
        t = floored(t, noise.eps)
        chosen = (uniforms < t[:, None]) & maskable
        weights = torch.where(n > 0, 1 / t, 0.0)
    chosen = chosen.view(B, blocks * W)[:, :L]
    xt = torch.where(chosen, noise.mask_token_id, padded.x0)
    row, position = chosen.nonzero().unbind(dim=1)
    return Call(
        inputs={
            "input_ids": torch.cat((xt, padded.x0), dim=1),
            "attention_mask": block_diffusion_attention(padded.real, W),
            "position_ids": torch.arange(L).repeat(2)[None],
            "logits_at": row * 2 * L + position,
        },
        targets=padded.x0[chosen],
        group=row * blocks + position // W,
        weights=weights.view(B, blocks),
    )


def block_diffusion_attention(real: Tensor, block_length: int) -> Tensor:
    """Who sees whom in [masked ; clean] rows with so many real tokens, bool (B or 1, 1, 2L, 2L), queries first.

    A masked-half token sees its block in the masked half and the blocks before it in the clean half; a clean-half token
    sees its block and those before it in the clean half. Padding is on the right; it is seen by itself alone.
    """
    L = real.shape[1]
    block = (torch.arange(L) // block_length).repeat(2)
    clean = torch.arange(2 * L) >= L
    asking, seen = block[:, None], block[None]
    own = ~clean[:, None] & ~clean[None] & (asking == seen)
    before = ~clean[:, None] & clean[None] & (seen < asking)
    history = clean[:, None] & clean[None] & (seen <= asking)
    allowed = (own | before | history)[None]  # (1, 2L, 2L)
    if not real.all():
        allowed = allowed & real.repeat(1, 2)[:, None] | torch.eye(2 * L, dtype=torch.bool)  # a softmax needs one
    return allowed[:, None]


def autoregressive(padded: Padded, noise: Noise) -> Call:
    """The negative log-likelihood, token after token from the left; for a causal model, which has no masks.

    A first token that counts is predicted from `bos_token_id` alone, so that the loss is -log p of the whole row, over
    as many tokens as the bound. A conversation begins with a token that does not count, so nothing is put before it.
    Padding is on the right, where a causal model cannot see it.
    """
    _refuse_documents(padded, "autoregressive, which sees all that is on the left")
    inputs, targets, counted = padded.x0[:, :-1], padded.x0[:, 1:], padded.maskable[:, 1:]
    if padded.maskable[:, 0].any():
        if noise.bos_token_id is None:
            raise ValueError("the first token of a row counts, but there is no bos_token_id to predict it from")
        first = torch.full_like(padded.x0[:, :1], noise.bos_token_id)
        inputs, targets, counted = torch.cat((first, inputs), dim=1), padded.x0, padded.maskable
    columns = counted.any(dim=0).nonzero()[:, 0]  # (C,)
    B = len(inputs)
    return Call(
        inputs={"input_ids": inputs, "logits_to_keep": columns, "use_cache": False},
        targets=torch.where(counted, targets, IGNORED)[:, columns].flatten(),
        group=torch.arange(B).repeat_interleave(len(columns)),
        weights=torch.ones(B, 1),
    )


def _refuse_documents(padded: Padded, objective: str) -> None:
    if padded.documents is not None:
        raise ValueError(f"rows of several documents (documents, split) are not for {objective}")


def _at_masks(padded: Padded, noised: Noised, weights: Tensor) -> Call:
    """Ask a mask predictor for the masked tokens; one group a row."""
    where = noised.masked.flatten().nonzero()[:, 0]
    return Call(
        inputs={"input_ids": noised.xt, "attention_mask": _attention_mask(padded), "logits_at": where},
        targets=padded.x0.flatten()[where],
        group=where // padded.x0.shape[1],
        weights=weights,
    )


def _attention_mask(padded: Padded) -> Tensor | None:
    """(B, L), 0 at padding; or bool (B, 1, L, L), true where a position sees another; None where all see all."""
    if padded.documents is not None:
        return (padded.documents[:, :, None] == padded.documents[:, None, :])[:, None]
    return None if padded.real.all() else padded.real.long()


ELBO = Objective(elbo, is_bound=True, measures=True)
OBJECTIVES: dict[str, Objective] = {
    "elbo": ELBO,
    "uniform": Objective(uniform, is_bound=False),
    "puma": Objective(puma, is_bound=False),
    "cart": Objective(cart, is_bound=False),
    "complementary": Objective(complementary, is_bound=True, reads=2),
    "complementary_mean": Objective(partial(complementary, exact=False), is_bound=False, reads=2),
    "block_diffusion": Objective(block_diffusion, is_bound=True, measures=True, reads=2, halves=2, asks=0.25),
    "autoregressive": Objective(autoregressive, is_bound=True, measures=True, masks=False, asks=1.0),
}
