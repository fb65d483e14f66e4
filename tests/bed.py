"""The exact test bed: a small distribution, its oracle predictor, a deliberately inconsistent one, and enumeration.

Everything is float64. Sequences, masks and states are enumerated, so expected values are exact, not sampled.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bed:
    """A distribution over sequences of `length` tokens out of `vocab`; the mask is the id `vocab`."""

    weights: tuple[int, ...]  # of every sequence, in lexicographic order
    length: int
    vocab: int

    @property
    def mask(self) -> int:
        return self.vocab

    @cached_property
    def sequences(self) -> Tensor:
        """All sequences, (V^L, L)."""
        return torch.tensor(list(itertools.product(range(self.vocab), repeat=self.length)))

    @cached_property
    def p(self) -> Tensor:
        """Their probabilities, (V^L,)."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return weights / weights.sum()

    def index(self, sequences: Tensor) -> Tensor:
        """Lexicographic index of complete sequences (..., L)."""
        powers = self.vocab ** torch.arange(self.length - 1, -1, -1)
        return (sequences * powers).sum(dim=-1)

    def oracle(self, canvas: Tensor) -> Tensor:
        """Exact log-conditionals of every position given the visible tokens, (B, L, V + 1)."""
        visible = canvas != self.mask
        agrees = ((canvas[:, None] == self.sequences) | ~visible[:, None]).all(dim=-1)  # (B, V^L)
        joint = agrees * self.p
        one_hot = torch.nn.functional.one_hot(self.sequences, self.vocab).double()  # (V^L, L, V)
        conditional = torch.einsum("bs,slv->blv", joint, one_hot) / joint.sum(dim=1)[:, None, None]
        return self._with_mask_logit(conditional.log())

    def bad(self, canvas: Tensor) -> Tensor:
        """No joint distribution has these conditionals: q_i ∝ cond_i^(1 + 0.3 k) (1 + 0.2 v (i + 1)), k masks."""
        conditional = self.oracle(canvas)[..., : self.vocab]
        k = (canvas == self.mask).sum(dim=1)[:, None, None].double()
        i = torch.arange(self.length)[:, None].double()
        v = torch.arange(self.vocab)[None].double()
        skewed = (1 + 0.3 * k) * conditional + (1 + 0.2 * v * (i + 1)).log()
        return self._with_mask_logit(skewed.log_softmax(dim=-1))

    def _with_mask_logit(self, logits: Tensor) -> Tensor:
        """A large logit for the mask: whoever forgets to exclude it goes visibly wrong."""
        junk = torch.full_like(logits[..., :1], 7.0)
        return torch.cat((logits, junk), dim=-1)

    def masks(self) -> Tensor:
        """All sets of masked positions but the empty one, bool (2^L - 1, L)."""
        return torch.tensor(list(itertools.product((False, True), repeat=self.length))[1:])

    def masked_nll(self, predictor, x: Tensor, masked: Tensor) -> Tensor:
        """S(x, M): the sum of -log p(x_i | visible) over masked i, for each of several masks, (M,)."""
        canvas = torch.where(masked, self.mask, x)
        logp = predictor(canvas)[..., : self.vocab].log_softmax(dim=-1)
        nll = -logp.gather(-1, x.expand_as(canvas)[..., None])[..., 0]
        return torch.where(masked, nll, 0.0).sum(dim=1)

    def a_k(self, predictor, x: Tensor) -> Tensor:
        """A_k, k = 1..L: the mean of S over the masks of size k."""
        masks = self.masks()
        s = self.masked_nll(predictor, x, masks)
        return torch.stack([s[masks.sum(dim=1) == k].mean() for k in range(1, self.length + 1)])

    def nelbo(self, predictor, x: Tensor) -> Tensor:
        """The negative ELBO, sum_k A_k / k."""
        return (self.a_k(predictor, x) / torch.arange(1, self.length + 1)).sum()

    def g(self, predictor, x: Tensor, probability: Tensor) -> Tensor:
        """G(p): the mean of S over independent masks of probability p, for each p given."""
        k = torch.arange(1, self.length + 1)
        choose = torch.tensor([math.comb(self.length, int(n)) for n in k], dtype=torch.float64)
        p = probability.double()[..., None]
        return (choose * p**k * (1 - p) ** (self.length - k) * self.a_k(predictor, x)).sum(dim=-1)


def _weights(length: int, vocab: int) -> tuple[int, ...]:
    """Weights without structure: products of positions and tokens, modulo a prime."""
    sequences = itertools.product(range(vocab), repeat=length)
    return tuple((sum((2 * i + 3) * v**2 + 5 * v * s[i - 1] for i, v in enumerate(s)) % 19) + 1 for s in sequences)


BED = Bed(
    tuple(
        (7 * a + 3 * b + 5 * c + 11 * a * b + 2 * b * c + 13 * a * c + 1) % 17 + 1
        for a, b, c in itertools.product(range(3), repeat=3)
    ),
    length=3,
    vocab=3,
)
BEDS = {"L3V3": BED, "L4V2": Bed(_weights(4, 2), 4, 2), "L2V5": Bed(_weights(2, 5), 2, 5)}
STAR = torch.tensor([2, 1, 0])  # x*, the sequence of most published values
