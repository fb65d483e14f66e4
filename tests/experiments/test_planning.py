"""Sudoku in several orders: its data, its judge with a model that knows all grids, and a whole run."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from grids import is_solved
from small_experiments import SMALL

from llada.config import ConfigError, load_config
from llada.data.shards import START, Step
from llada.data.tokenizer import train_tokenizer
from llada.experiments.experiment import named, perform
from llada.experiments.planning import EXPERIMENT, gain, solved
from llada.experiments.sudoku import Box, random_puzzles, solutions
from llada.experiments.sudoku_corpus import sudoku_corpus, text_of, tokens_of
from llada.sampling.config import SamplerConfig

BOX = Box(2, 2)


def settings(*overrides):
    return load_config(EXPERIMENT.settings, "configs/experiment/planning.yaml", [*SMALL["planning"], *overrides])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["1234"], 262)


def test_blank_cells_are_masked_and_nothing_else(tokenizer):
    grid = next(solutions(BOX.blank, BOX))
    puzzle = (0, *grid[1:7], 0, *grid[8:])
    asked, whole = tokens_of([puzzle, grid], tokenizer)
    assert (asked == tokenizer.mask_token_id).nonzero()[:, 0].tolist() == [0, 7]
    assert (asked != whole).sum() == 2
    assert tokenizer.decode(whole) == text_of(grid) + tokenizer.eos_token


@pytest.mark.parametrize("box", [[2, 2], [2, 3]], ids=str)
def test_solutions_of_puzzles_are_not_trained_on_where_there_are_others(box):
    shape, small = Box(*box), box == [2, 2]
    puzzles = random_puzzles(shape, 8 if small else 20, 30, random.Random(0))
    corpus = sudoku_corpus(puzzles, box, None if small else 200, seed=0)
    rows = list(corpus.rows(START))
    train, heldout = ({row.document.text for row in rows if row.split == split} for split in ("train", "heldout"))
    assert heldout == {text_of(puzzle.solution) for puzzle in puzzles}
    if small:
        assert len(train) == 288
        assert heldout < train
    else:
        assert len([row for row in rows if row.split == "train"]) == 200
        assert not heldout & train
        assert all(is_solved(tuple(map(int, text)), shape) for text in train)
    assert list(corpus.rows(Step(7, 0, False))) == rows[7:]


class Knowing(torch.nn.Module):
    """The exact conditionals of uniformly distributed grids; or nothing, with `told` False."""

    def __init__(self, tokenizer, told=True):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=tokenizer.mask_token_id)
        self.device, self.told = torch.device("cpu"), told
        self.grids = tokens_of(list(solutions(BOX.blank, BOX)), tokenizer)

    def forward(self, input_ids, attention_mask=None):
        masked = input_ids == self.config.mask_token_id
        agrees = ((input_ids[:, None] == self.grids) | masked[:, None]).all(dim=2) | (not self.told)
        counts = torch.zeros(*input_ids.shape, 262)
        for token in self.grids.unique().tolist():
            counts[..., token] = (agrees.float() @ (self.grids == token).float()) + 1e-9
        return SimpleNamespace(logits=counts.log())


@pytest.mark.parametrize("order", ["random", "left_to_right", "margin"])
def test_who_knows_all_grids_solves_every_puzzle_in_any_order(tokenizer, order):
    puzzles = random_puzzles(BOX, 5, 20, random.Random(0))
    asked, expected = (tokens_of(grids, tokenizer) for grids in zip(*puzzles, strict=True))
    for steps in (None, 1):
        sampler = SamplerConfig(order=order, steps=steps)
        assert solved(Knowing(tokenizer), asked, expected, sampler) == [True] * 20
    assert not any(solved(Knowing(tokenizer, told=False), asked, expected, SamplerConfig(order=order)))


def test_gain_is_the_mean_of_paired_differences():
    first, other = [1, 0, 0, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 1, 0]
    found = {"won": 3, "lost": 1}
    differences = torch.tensor(other, dtype=torch.float64) - torch.tensor(first)
    mean, stderr = gain(found, 8)
    assert mean == float(differences.mean())
    assert stderr == pytest.approx(float(differences.std(correction=0)) / math.sqrt(8))


def test_orders_differ_most_where_the_first_is_better_by_most():
    def orders(won, lost):
        first = {"order": "margin", "solved": 90, "won": 0, "lost": 0}
        return [first, {"order": "random", "solved": 90 + won - lost, "won": won, "lost": lost}]

    curve = [{"step": step, "orders": orders(*found)} for step, found in ((1, (2, 0)), (2, (1, 50)), (3, (1, 1)))]
    measured = {"puzzles": 100, "cells": 16, "givens": 8, "trained_on_solutions": False, "curve": curve}
    told = EXPERIMENT.finding(measured)
    assert "after 2 steps of training, where orders differ most, solves 41.0% in the order random and 90.0% " in told
    assert "a difference of -49.0%" in told


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["box=[2, 2, 2]"], "at most 2 items"),
        (["box=[1, 4]"], "greater than or equal to 2"),
        (["box=[2, 5]", "grids=9"], r"box=\[2, 5\] makes 10 values; there are digits for 9"),
        (["givens=16"], "givens=16 leave nothing to fill in of 16 cells"),
        (["grids=100"], r"grids has no effect with box: \[2, 2\], of whose 288 grids all are trained on; remove it"),
        (["box=[2, 3]"], r"box=\[2, 3\] needs grids, the number of them to train on"),
        (["measure_at=[4, 2]"], r"measure_at=\[4, 2\] must ascend"),
        (["measure_at=[1, 101]"], r"have no common divisor above 1, .* give multiples of a larger number"),
        (["orders=[random, margn]"], "unknown order 'margn'; known: .*margin"),
        (["orders=[random, position_calibrated]"], "unknown order 'position_calibrated'"),
        (["orders=[random, random]"], r"orders=\['random', 'random'\] name one twice"),
    ],
)
def test_wrong_settings_are_refused(overrides, told):
    with pytest.raises(ConfigError, match=told):
        settings(*overrides)


@pytest.fixture(scope="module")
def performed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planning")
    return folder, perform("planning", settings(), folder)


def test_run_counts_puzzles_in_every_order(performed):
    _, record = performed
    measured = record["measured"]
    assert [one["step"] for one in measured["curve"]] == [2, 4]
    assert [one["cells"] for one in measured["together"]] == [1, 4]
    for one in measured["curve"] + measured["together"]:
        random_order, margin = one["orders"]
        assert (random_order["won"], random_order["lost"]) == (0, 0)
        assert margin["solved"] - random_order["solved"] == margin["won"] - margin["lost"]
    assert measured["together"][0]["orders"] == measured["curve"][-1]["orders"]
    assert "whose solutions the training has seen, as there are only 288 grids" in named("planning").finding(measured)
    assert "in the order margin and" in named("planning").finding(measured)
    assert named("planning").table(measured).row_count == 4


def test_interrupted_experiment_goes_on_without_training_again(performed, monkeypatch):
    folder, record = performed
    (folder / "result.json").unlink()
    monkeypatch.setattr("llada.train.run.fit", lambda *_, **__: iter(()))
    assert perform("planning", settings(), folder)["measured"] == record["measured"]
    assert json.loads((folder / "result.json").read_text())["measured"] == record["measured"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("measure_at=[1, 4]", "has no checkpoint of step 1; it was made with another measure_at: remove it, or"),
        ("batch_size=4", "cannot go on with other settings: batch_size was 8, is 4"),
        ("givens=9", "was begun with something else: source: puzzles was "),
    ],
)
def test_folder_of_other_settings_is_refused(performed, override, told):
    folder, _ = performed
    (folder / "result.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=told):
        perform("planning", settings(override), folder)
