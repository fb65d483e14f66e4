"""Runs with their traces: one predictor, and samplers that change tokens in every way."""

from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor

from llada.sampling.denoise import State, denoise
from llada.sampling.drafts import categorical, replacing
from llada.sampling.orders import random
from llada.sampling.reveals import gibbs, mask_predict, remdm
from llada.sampling.trace import Recorder, Trace

V, L, MASK, STOP = 6, 12, 5, 4
PROMPT = 3


class Coupled:
    """Logits of every position are sums over the tokens at all others: whatever changes moves all predictions."""

    config = SimpleNamespace(mask_token_id=MASK, eos_token_id=STOP, max_position_embeddings=None)
    weights = torch.randn(V, L, L, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def __call__(self, canvas: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weights[canvas, torch.arange(L)].sum(dim=1) / 3)


def predict(canvas: Tensor, block: slice) -> Tensor:
    return Coupled()(canvas).logits[:, block]


def start(rows: int = 4) -> Tensor:
    """Different prompts, and masks behind them; the second row is shorter and has a given token among its masks."""
    canvas = torch.randint(0, 4, (rows, L), generator=torch.Generator().manual_seed(rows))
    canvas[:, PROMPT:] = MASK
    canvas[1:2, 7:9] = 1
    return canvas


HALVES = [slice(PROMPT, 8), slice(8, L)]
RUNS = {
    "greedy": {},
    "several at a time": {"steps": 4, "draft": categorical(1.0), "order": random},
    "blocks": {"blocks": HALVES, "steps": 3, "draft": categorical(1.0)},
    "stop token": {"blocks": HALVES, "steps": 3, "draft": categorical(1.0), "stop_token_id": STOP},
    "stop token late": {"draft": categorical(1.0), "order": random, "stop_token_id": STOP},
    "mask_predict": {"steps": 4, "reveal": mask_predict},
    "remdm": {"steps": 8, "draft": categorical(1.0), "reveal": remdm("rescale", 0.5)},
    "gibbs": {"steps": 20, "draft": categorical(1.0), "reveal": gibbs(2)},
    "edits": {"steps": 3, "edit": replacing(0.4, extra_steps=4)},
}


def recorded(canvas: Tensor | None = None, **options) -> tuple[list[State], Trace]:
    canvas = start() if canvas is None else canvas
    recorder = Recorder(canvas, MASK)
    return list(recorder.watch(denoise(predict, canvas, MASK, **options))), recorder.trace


@cache
def run(name: str) -> tuple[list[State], Trace]:
    return recorded(**RUNS[name])


def masks(rows: int, length: int = L) -> Tensor:
    return torch.full((rows, length), MASK)
