"""The likeliest tokens of a prediction, as a sampler makes it: the alternatives to what was drafted.

Shapes: B batch, W window, N predicted positions, V vocabulary, K alternatives.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from llada.sampling.predictors import Predict, Predictor, forbid, logits_at


class Likeliest:
    """Keeps the K likeliest tokens of the last prediction; those of the prediction before are forgotten.

    The probabilities are at temperature 1 and without [MASK], as a sampler's are. Positions that were not predicted
    have [MASK] with probability 0. Raises ValueError where K is not positive, or more than the vocabulary has.
    """

    def __init__(self, count: int, mask_token_id: int):
        if count < 1:
            raise ValueError(f"{count} alternatives are none; ask for 1 or more, or do not keep them")
        self.count, self._mask_token_id = count, mask_token_id
        self.tokens = torch.zeros(0, 0, count, dtype=torch.long)  # (B, W, K)
        self.probability = torch.zeros(0, 0, count, dtype=torch.float64)  # (B, W, K), descending

    def of(self, predict: Predict) -> Predict:
        """The same prediction, watched."""
        return _Watched(predict, self)

    def keep(self, logits: Tensor, wanted: Tensor) -> None:
        """Logits (N, V) at the wanted positions, bool (B, W)."""
        if self.count >= logits.shape[-1]:
            raise ValueError(
                f"{self.count} alternatives are more than the {logits.shape[-1] - 1} tokens of the vocabulary beside "
                "[MASK]; ask for fewer"
            )
        best = forbid(logits, [self._mask_token_id]).double().softmax(dim=-1).topk(self.count, dim=-1)
        self.tokens = logits.new_full((*wanted.shape, self.count), self._mask_token_id, dtype=torch.long)
        self.probability = logits.new_zeros((*wanted.shape, self.count), dtype=torch.float64)
        self.tokens[wanted], self.probability[wanted] = best.indices, best.values


@dataclass(frozen=True)
class _Watched(Predictor):
    predict: Predict
    likeliest: Likeliest

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        logits = logits_at(self.predict, canvas, block, wanted)
        self.likeliest.keep(logits, wanted)
        return logits

    def of_rows(self, rows: Tensor) -> Self:
        raise ValueError("alternatives cannot be kept while steps are tried ahead; leave out speculation")
