"""Distributions of the test bed as models."""

from types import SimpleNamespace

import torch
from bed import BED, BEDS, Bed
from torch import Tensor


class BedModel:
    """The oracle of a bed, or its inconsistent predictor; counts the sequences that it is asked for."""

    def __init__(self, bed: Bed, predictor: str):
        self.bed, self.predict, self.evaluations = bed, getattr(bed, predictor), 0
        self.config = SimpleNamespace(mask_token_id=bed.mask)

    def __call__(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        assert attention_mask is None  # all sequences of a bed have one length
        self.evaluations += len(input_ids)
        return SimpleNamespace(logits=self.predict(input_ids))


class BrokenModel:
    """A model of the bed whose logits are no numbers."""

    config = SimpleNamespace(mask_token_id=BED.mask)

    def __init__(self, odd: float):
        self.odd = odd

    def __call__(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, 4)
        logits[..., 1] = self.odd
        return SimpleNamespace(logits=logits)


class Draws:
    """Sequences of the bed as training rows."""

    def __init__(self, count: int):
        drawn = torch.multinomial(BED.p, count, replacement=True, generator=torch.Generator().manual_seed(0))
        self.rows = BED.sequences[drawn].numpy()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"x0": self.rows[index]}


def models():
    """Every bed with both predictors, as parameters of a test."""
    return [(name, predictor) for name in BEDS for predictor in ("oracle", "bad")]


def total(log_probabilities: list[float]) -> float:
    """The sum of the probabilities."""
    return float(torch.tensor(log_probabilities, dtype=torch.float64).exp().sum())
