"""Keys and values of all layers, kept from one forward pass to the next and rewritten at some positions.

In a bidirectional Transformer every token's keys and values change when any token does, beyond the first layer. To keep
them is an approximation (Fast-dLLM, arXiv:2505.22618; dKV-Cache, arXiv:2505.15781), unless attention is block-causal:
then those of a block are final once it and all before it are.

Shapes: B batch, L length, R rows and S positions of a pass, K key-value heads, E head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


class KeyValues:
    """What is stored of a batch of B sequences of length L; zeros until it is written."""

    def __init__(self, batch: int, length: int):
        self.batch, self.length = batch, length
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # keys, already rotated, and values, (B, L, K, E)

    def extend(self, length: int) -> None:
        """Make room for so many more positions; what is stored stays."""
        self.length += length
        self.layers = {
            layer: (pad(key, (0, 0, 0, 0, 0, length)), pad(value, (0, 0, 0, 0, 0, length)))
            for layer, (key, value) in self.layers.items()
        }

    def span(self, rows: Tensor | None = None, columns: Tensor | None = None) -> "Span":
        """Some rows, int64 (R,), and in each of them some columns, int64 (R, S); None: all."""
        return Span(self, rows, columns)


@dataclass(frozen=True)
class Span:
    """The positions that a forward pass computes: it stores their keys and values, and attends to all that are stored.

    Raises ValueError where rows and columns do not fit.
    """

    stored: KeyValues
    rows: Tensor | None = None  # int64 (R,) of the batch, each once; None: all
    columns: Tensor | None = None  # int64 (R, S) of the sequences; None: all

    def __post_init__(self):
        batch = self.stored.batch if self.rows is None else len(self.rows)
        if self.columns is not None and (self.columns.dim() != 2 or len(self.columns) != batch):
            raise ValueError(f"columns {tuple(self.columns.shape)} must be ({batch}, positions)")

    @property
    def shape(self) -> tuple[int, int]:
        """(R, S) of the tokens."""
        rows = self.stored.batch if self.rows is None else len(self.rows)
        return rows, self.stored.length if self.columns is None else self.columns.shape[1]

    def write(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (R, K, S, E) of a layer; return those of all positions, (R, K, L, E)."""
        new = key.transpose(1, 2), value.transpose(1, 2)  # (R, S, K, E)
        if self.rows is None and self.columns is None:
            self.stored.layers[layer_idx] = new
            return key, value
        if layer_idx not in self.stored.layers:
            shape = self.stored.batch, self.stored.length, *new[0].shape[2:]
            self.stored.layers[layer_idx] = key.new_zeros(shape), value.new_zeros(shape)
        kept = self.stored.layers[layer_idx]
        rows = torch.arange(self.stored.batch, device=key.device) if self.rows is None else self.rows
        for whole, part in zip(kept, new, strict=True):
            if self.columns is None:
                whole[rows] = part
            else:
                whole[rows[:, None], self.columns] = part
        key, value = kept if self.rows is None else (kept[0][rows], kept[1][rows])
        return key.transpose(1, 2), value.transpose(1, 2)
