"""Sudoku in several orders: train for the worst, plan for the best (arXiv:2502.06768).

Training masks any cells, and of most such subsets no cell can be told: the model has to learn hard problems beside easy
ones, and does so worse. An order that looks at the prediction fills in first what can be told and never meets the hard
ones; a random order does. A model that had learnt everything would be right in any order.

Shapes: B puzzles, L tokens of a grid.
"""

import math
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.config import AtLeast1, Schema
from llada.data.prepare import Making, prepare_corpus
from llada.data.tokenizer import SMALLEST_VOCABULARY
from llada.eval.intervals import wilson
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.filled import filled
from llada.experiments.shares import error_bars
from llada.experiments.student import device
from llada.experiments.sudoku import Box, random_puzzles
from llada.experiments.sudoku_corpus import SMALLEST, sudoku_corpus, tokens_of
from llada.model.checkpoint import load_pretrained
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.orders import ORDERS
from llada.train.checkpoints import checkpoint_path
from llada.train.config import OptimConfig, PretrainConfig
from llada.train.journal import read_log
from llada.train.run import train

_AT_ONCE = 256  # puzzles in a batch
_KNOWN = sorted(name for name, entry in ORDERS.items() if not entry.required)


class Settings(Schema):
    """Puzzles, training and the orders, of which the first is what the others are compared with."""

    box: list[Annotated[int, Field(ge=2)]] = Field(min_length=2, max_length=2)  # cells: rows, columns
    givens: AtLeast1
    puzzles: Annotated[int, Field(ge=30)]
    grids: AtLeast1 | None = None  # to train on; all 288 where a box is of 2 x 2 cells
    model: dict[str, Any]  # sizes of a LLaDAConfig
    batch_size: AtLeast1
    optim: OptimConfig
    measure_at: list[AtLeast1] = Field(min_length=1)  # steps of training, the last one ends it
    orders: list[str] = Field(min_length=2)
    cells_per_step: list[Annotated[int, Field(ge=2)]]  # that are filled in together, too, after the last training step
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        box = Box(*self.box)
        if box.side > 9:
            raise ValueError(f"box={self.box} makes {box.side} values; there are digits for 9")
        if self.givens >= box.cells:
            raise ValueError(f"givens={self.givens} leave nothing to fill in of {box.cells} cells")
        if box == SMALLEST and self.grids is not None:
            raise ValueError("grids has no effect with box: [2, 2], of whose 288 grids all are trained on; remove it")
        if box != SMALLEST and self.grids is None:
            raise ValueError(f"box={self.box} needs grids, the number of them to train on")
        if any(a >= b for a, b in pairwise(self.measure_at)):
            raise ValueError(f"measure_at={self.measure_at} must ascend")
        if self.measure_at[-1] > 100 * self._between:
            raise ValueError(
                f"measure_at={self.measure_at} have no common divisor above {self._between}, and so many checkpoints; "
                "give multiples of a larger number"
            )
        for name in self.orders:
            if name not in _KNOWN:
                raise ValueError(f"unknown order {name!r}; known: {', '.join(_KNOWN)}")
        if len(set(self.orders)) < len(self.orders):
            raise ValueError(f"orders={self.orders} name one twice")
        return self

    @property
    def _between(self) -> int:
        return math.gcd(*self.measure_at)

    def pretraining(self, folder: Path, length: int) -> PretrainConfig:
        """The training run, with a checkpoint wherever something is measured."""
        return PretrainConfig(
            data=str(folder / "data"),
            output=str(folder / "pretrain"),
            length=length,
            random_length=0.0,
            model=self.model,
            steps=self.measure_at[-1],
            batch_size=self.batch_size,
            masking="count",
            optim=self.optim,
            seed=self.seed,
            evaluate_every=self._between,
            checkpoint_every=self._between,
            checkpoint_keep=self.measure_at[-1] // self._between,
        )


def solved(
    model: LLaDAForMaskedLM, asked: Tensor, expected: Tensor, sampler: SamplerConfig, seed: int = 0
) -> list[bool]:
    """Which puzzles (B, L) the sampler completes as expected."""
    found = filled(model, asked, sampler, at_once=_AT_ONCE, seed=seed).sequences
    return (found == expected).all(dim=1).tolist()


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Puzzles solved in each order, along the training and by the number of cells filled in together."""
    box = Box(*settings.box)
    puzzles = random_puzzles(box, settings.givens, settings.puzzles, random.Random(f"puzzles {settings.seed}"))
    corpus = sudoku_corpus(puzzles, settings.box, settings.grids, settings.seed)
    for _ in prepare_corpus(corpus, folder / "data", Making(vocab_size=SMALLEST_VOCABULARY), resume=True):
        pass
    output = train(settings.pretraining(folder, box.cells + 1), resume=True).parent
    log = {record["step"]: record for record in read_log(output)}
    curve, model, asked, expected = [], None, torch.empty(0), torch.empty(0)
    for step in settings.measure_at:
        model, tokenizer = _trained(output, step)
        asked = tokens_of([puzzle.given for puzzle in puzzles], tokenizer)
        expected = tokens_of([puzzle.solution for puzzle in puzzles], tokenizer)
        told = {name: log[step][name] for name in ("bound", "bound_stderr")}
        curve.append({"step": step, **told, "orders": _by_order(model, asked, expected, settings, cells=1)})
    assert model is not None
    return {
        "cells": box.cells,
        "givens": settings.givens,
        "puzzles": settings.puzzles,
        "temperature": settings.temperature,
        "tokens": expected.shape[1],
        "trained_on_solutions": settings.grids is None,
        "curve": curve,
        "together": [
            {"cells": 1, "orders": curve[-1]["orders"]},
            *(
                {"cells": cells, "orders": _by_order(model, asked, expected, settings, cells=cells)}
                for cells in settings.cells_per_step
            ),
        ],
    }


def _trained(output: Path, step: int) -> tuple[LLaDAForMaskedLM, PreTrainedTokenizerBase]:
    checkpoint = checkpoint_path(output / "checkpoints", step)
    if not checkpoint.is_dir():
        raise ValueError(
            f"{output} has no checkpoint of step {step}; it was made with another measure_at: remove it, or name "
            "another folder"
        )
    model, tokenizer = load_pretrained(checkpoint / "model", device=device())
    assert tokenizer is not None
    return model, tokenizer


def _by_order(
    model: LLaDAForMaskedLM, asked: Tensor, expected: Tensor, settings: Settings, *, cells: int
) -> list[dict[str, Any]]:
    """For each order the puzzles that it solves, and on which the first one differs."""
    steps = math.ceil(int((asked[0] == model.config.mask_token_id).sum()) / cells)
    found, first = [], None
    for name in settings.orders:
        sampler = SamplerConfig(order=name, steps=steps, temperature=settings.temperature)
        right = solved(model, asked, expected, sampler, settings.seed)
        first = right if first is None else first
        found.append(
            {
                "order": name,
                "solved": sum(right),
                "won": sum(a > b for a, b in zip(right, first, strict=True)),
                "lost": sum(a < b for a, b in zip(right, first, strict=True)),
            }
        )
    return found


def table(measured: Mapping[str, Any]) -> Table:
    """Shares of solved puzzles with 95 % intervals, in per cent."""
    rows, names = measured["puzzles"], [one["order"] for one in measured["curve"][0]["orders"]]
    shown = Table("", "bound, nats per grid", *names)
    for one in measured["curve"]:
        error = one["bound_stderr"] * measured["tokens"]
        bound = f"{one['bound'] * measured['tokens']:.2f} ± {error:.2f}"
        shown.add_row(f"{one['step']} training steps", bound, *(_share(order, rows) for order in one["orders"]))
    for one in measured["together"]:
        shown.add_row(f"cells together: {one['cells']}", "", *(_share(order, rows) for order in one["orders"]))
    return shown


def _share(order: Mapping[str, Any], rows: int) -> str:
    """Narrower than `percent`: every order has a column."""
    low, high = wilson(order["solved"], rows)
    return f"{order['solved'] / rows:.1%} ({100 * low:.0f}–{100 * high:.0f})"


def gain(order: Mapping[str, Any], rows: int) -> tuple[float, float]:
    """The share of puzzles that an order solves more than the first one does, with its standard error for pairs."""
    won, lost = order["won"], order["lost"]
    return (won - lost) / rows, math.sqrt(won + lost - (won - lost) ** 2 / rows) / rows


def finding(measured: Mapping[str, Any]) -> str:
    """The largest gap, in favour of either order, and the last one, with two standard errors."""
    rows, side = measured["puzzles"], math.isqrt(measured["cells"])
    last = measured["curve"][-1]
    widest = max(
        ((one["step"], order) for one in measured["curve"] for order in one["orders"][1:]),
        key=lambda found: abs(gain(found[1], rows)[0]),
    )
    step, order = widest
    first = next(one for one in measured["curve"] if one["step"] == step)["orders"][0]
    same = next(other for other in last["orders"] if other["order"] == order["order"])
    known = ", whose solutions the training has seen, as there are only 288 grids" * measured["trained_on_solutions"]
    told = (
        f"Of {rows} puzzles of {side} × {side} cells with {measured['givens']} givens{known}, a model after {step} "
        f"steps of training, where orders differ most, solves {order['solved'] / rows:.1%} in the order "
        f"{order['order']} and {first['solved'] / rows:.1%} in the order {first['order']}, a difference of "
        f"{_gained(order, rows)}."
    )
    if step == last["step"]:
        return told
    return (
        f"{told} After {last['step']} steps these are {same['solved'] / rows:.1%} and "
        f"{last['orders'][0]['solved'] / rows:.1%}, {_gained(same, rows)}."
    )


def _gained(order: Mapping[str, Any], rows: int) -> str:
    mean, stderr = gain(order, rows)
    return f"{mean:+.1%} ± {2 * stderr:.1%}"


def draw(measured: Mapping[str, Any]) -> Figure:
    """Share of solved puzzles against training, and against cells filled in together. Intervals are of 95 %."""
    figure, (left, right) = panels(2)
    rows = measured["puzzles"]
    for axis, key, results in ((left, "step", measured["curve"]), (right, "cells", measured["together"])):
        for number, name in enumerate(one["order"] for one in results[0]["orders"]):
            axis.errorbar(
                [one[key] for one in results],
                *error_bars((one["orders"][number]["solved"], rows) for one in results),
                fmt=("o-", "s-", "^-", "D--")[number % 4],  # where two coincide, both are seen
                markersize=4,
                capsize=2,
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
        axis.set(ylim=(-3, 103), ylabel="puzzles solved, %")
    side = math.isqrt(measured["cells"])
    left.set(xlabel="training steps", title=f"{side} × {side} cells, {measured['givens']} givens, one cell a step")
    right.set(xlabel="cells filled in together", title=f"after {measured['curve'][-1]['step']} training steps")
    right.set_xticks([one["cells"] for one in measured["together"]])
    left.legend()
    return figure


EXPERIMENT = Experiment(
    question="Does an order that looks at the prediction avoid the hard problems of any-order training?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
