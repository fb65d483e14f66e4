"""Dropout without a random state: which features a row loses is a function of the row's place in training alone.

torch's own dropout draws from one stream, so that what a row loses depends on the rows beside it, and a resumed run on
where the stream stood. Here every row brings a key, and a hash of key, layer, position and feature decides.

Shapes: B rows of a micro-batch, L length, D features.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llada.splitmix import mixed, shifted
from llada.train.objectives import Call, Noise, Objective, Padded

_INPUT = "dropout_keys"  # the argument of the model's call


class RowDropout(nn.Module):
    """Dropout by the keys of rows, which the model's call brings; nothing in evaluation."""

    def __init__(self, p: float, number: int):
        super().__init__()
        self.p = p
        self.number = number  # of the layer
        self.keys: Tensor | None = None  # (B,) int64

    def forward(self, states: Tensor) -> Tensor:
        """`states` (B, L, D) with a share `p` of them zero and the others larger by 1 / (1 - p)."""
        if not self.training:
            return states
        if self.keys is None:
            raise ValueError(f"dropout needs the rows' keys: call the model in training with {_INPUT}=...")
        kept = uniforms(self.keys, self.number, *states.shape[1:]) >= self.p
        return states * (kept / (1 - self.p)).to(states.dtype)


def uniforms(keys: Tensor, number: int, length: int, features: int) -> Tensor:
    """Numbers in [0, 1), (B, L, D) float32, by a hash of where they are."""
    position = torch.arange(length, device=keys.device)[:, None]
    feature = torch.arange(features, device=keys.device)
    row = mixed((keys << 32) + number)
    return shifted(mixed(row[:, None, None] + (position << 32) + feature), 40).float() / 2**24


def use_row_dropout(model: nn.Module, layers: Iterable[nn.ModuleDict], name: str, p: float) -> None:
    """Put it in the place of the dropout `name` in each layer, and have the model's call take `dropout_keys`."""
    for number, layer in enumerate(layers):
        layer[name] = RowDropout(p, number)
    model.register_forward_pre_hook(_hand_over, with_kwargs=True)


def keyed(objective: Objective) -> Objective:
    """The objective, with a key for every row in the call."""
    return objective._replace(ask=partial(_ask, objective.ask))


def _hand_over(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    keys = kwargs.pop(_INPUT, None)
    for module in model.modules():
        if isinstance(module, RowDropout):
            module.keys = keys
    return args, kwargs


def _ask(ask: Any, padded: Padded, noise: Noise) -> Call:
    call = ask(padded, noise)
    keys = padded.uniforms[:, 0].contiguous().view(torch.int32).long()  # drawn for the row's place in training
    copies = len(call.inputs["input_ids"]) // len(keys)  # of a row that the objective has read more than once
    keys = (keys[:, None] * copies + torch.arange(copies)).flatten()
    return call._replace(inputs={**call.inputs, _INPUT: keys})
