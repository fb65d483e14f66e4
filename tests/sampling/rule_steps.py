"""Steps as reveal rules see them, made by hand, and short ways to run a rule."""

import torch
from bed import Bed
from torch import Tensor

from llada.sampling import orders, reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical
from llada.sampling.orders import Drafts
from llada.sampling.predictors import Predictor
from llada.sampling.reveals import Reveal, Step


def drafts_of(logits: Tensor, token: list[int] | None = None) -> Drafts:
    """Drafts at all positions of one window, of logits (W, V); the likeliest tokens unless others are given."""
    drafted = logits.argmax(dim=-1) if token is None else torch.tensor(token)
    W = len(logits)
    return Drafts(logits, drafted, torch.arange(W), W, torch.full((W,), 0.5, dtype=torch.float64))


def step_of(p: list, masked: list[bool] | None = None, *, everywhere: bool = False, **fields) -> Step:
    """A step of one row with the given probabilities (W, V), greedy drafts and their confidence as scores.

    Predicted is what is masked, or everything.
    """
    whole = drafts_of(fields.pop("logits", torch.tensor(p, dtype=torch.float64).log()))
    W = whole.width
    hidden = torch.ones(1, W, dtype=torch.bool) if masked is None else torch.tensor([masked])
    predicted = torch.ones_like(hidden) if everywhere else hidden
    at = predicted[0]
    drafts = Drafts(whole.logits[at], whole.token[at], whole.place[at], W, whole.uniforms[at])
    given = {
        "drafts": drafts,
        "predicted": predicted,
        "draft": whole.token[None],
        "score": reveals.spread(orders.confidence(drafts), predicted, -torch.inf),
        "masked": hidden,
        "count": torch.ones(1, dtype=torch.long),
        "writable": torch.ones(1, W, dtype=torch.bool),
        "held": torch.ones(1, W, dtype=torch.float64),
        "uniforms": torch.full((1, W), 0.5, dtype=torch.float64),
        "index": 0,
        "steps": W,
        "canvas": torch.zeros(1, W, dtype=torch.long),
        "block": slice(0, W),
    }
    return Step(**given | fields)


def shown(reveal: Reveal, step: Step) -> list[int]:
    return reveal(step)[0].nonzero()[:, 0].tolist()


def run(predict, canvas: Tensor, mask: int, **options) -> list[State]:
    return list(denoise(lambda c, block: predict(c)[:, block], canvas, mask, **options))


def table(seed: int, length: int = 8, vocab: int = 6):
    """A predictor that looks at the whole canvas: hashed logits, the last token is [MASK]."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(length, vocab, length, vocab, generator=generator, dtype=torch.float64)
    return lambda c: torch.einsum("biu,iujv->bjv", torch.nn.functional.one_hot(c, vocab).double(), weights)


def leave_one_out(bed: Bed):
    """Every token as the oracle sees it from all others."""

    def predict(canvas: Tensor, block: slice) -> Tensor:
        one_out = [torch.where(torch.arange(bed.length) == i, bed.mask, canvas) for i in range(bed.length)]
        return torch.stack([bed.oracle(one)[:, i] for i, one in enumerate(one_out)], dim=1)[:, block]

    return predict


class Asked(Predictor):
    """The predictions of a table, one row of the batch apart from the other, and the positions they are asked for."""

    def __init__(self, seed: int, asked: list[Tensor] | None = None, rows: Tensor | None = None):
        self.seed, self.asked, self.rows = seed, [] if asked is None else asked, rows

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        self.asked.append(wanted.clone())
        row = torch.arange(len(canvas)) if self.rows is None else self.rows
        return (table(self.seed)(canvas) + row[:, None, None] * table(self.seed + 1)(canvas))[:, block][wanted]

    def of_rows(self, rows: Tensor) -> "Asked":
        return Asked(self.seed, self.asked, rows if self.rows is None else self.rows[rows])


def drawn(uniforms_seed: int = 0, **options) -> list[State]:
    canvas = torch.full((4, 8), 5)
    return run(table(8), canvas, 5, draft=categorical(1.0), uniforms=row_uniforms(uniforms_seed, canvas), **options)
