"""Sudoku as text: grids to train on, with puzzles' solutions held out, and canvases with [MASK] at the blanks.

Shapes: B grids, L tokens of a grid.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.data.corpus import Corpus
from llada.data.documents import Document
from llada.data.shards import Labelled
from llada.data.tokenizer import encode
from llada.experiments.sudoku import Box, Grid, Puzzle, random_grid, solutions

SMALLEST = Box(2, 2)  # of its 288 grids none can be kept from training


def text_of(grid: Grid) -> str:
    """The digits of all cells, line after line."""
    return "".join(map(str, grid))


def tokens_of(grids: Sequence[Grid], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Grids with [MASK] where a cell is blank and an end of text, by which cells are told apart, (B, L)."""
    blank, mask, eos = encode(tokenizer, "0")[0], tokenizer.mask_token_id, tokenizer.eos_token_id
    rows = [[*encode(tokenizer, text_of(grid)), eos] for grid in grids]
    return torch.tensor([[mask if token == blank else token for token in row] for row in rows])


def grids_of(puzzles: Sequence[Puzzle], box: Box, grids: int | None, seed: int) -> Iterator[Grid]:
    """So many random grids without the solutions of the puzzles; None: all there are."""
    if grids is None:
        yield from solutions(box.blank, box)
        return
    rng, asked = random.Random(f"grids {seed}"), {puzzle.solution for puzzle in puzzles}
    yield from islice((grid for _ in count() if (grid := random_grid(box, rng)) not in asked), grids)


def sudoku_corpus(puzzles: Sequence[Puzzle], box: Sequence[int], grids: int | None, seed: int) -> Corpus:
    """Each grid a document; held out are the solutions of the puzzles. Arguments as for `grids_of`."""

    @cache
    def labelled() -> list[Labelled]:
        heldout = [("heldout", grid) for grid in sorted({puzzle.solution for puzzle in puzzles})]
        splits = (*heldout, *(("train", grid) for grid in grids_of(puzzles, Box(*box), grids, seed)))
        return [Labelled(split, Document(f"grid {n}", text_of(grid))) for n, (split, grid) in enumerate(splits)]

    puzzled = hashlib.sha256(repr([puzzle.given for puzzle in puzzles]).encode()).hexdigest()
    description = {"box": list(box), "puzzles": puzzled, "grids": grids, "seed": seed}
    return Corpus("sudoku", lambda done: iter(labelled()[done.rows :]), lambda: description)
