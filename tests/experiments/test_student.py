"""Models of experiments: made once, shared, and gone on with where they were left."""

import json

import pytest
import torch
from lessons import RECIPE

from llada.experiments.student import Recipe, baseline, student
from llada.train.run import train

PAIRS = [("One?", "1"), ("Two?", "2"), ("Three?", "3")]


def folders(path):
    return sorted(child.name for child in path.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder, student(PAIRS, Recipe(**RECIPE), folder), baseline(PAIRS, Recipe(**RECIPE), folder)


def test_both_have_the_same_size_data_and_compute(made):
    _, masked, causal = made
    sizes = [sum(p.numel() for p in one.model.parameters()) for one in (masked, causal)]
    assert sizes[0] == sizes[1]
    assert masked.log["step"] == causal.log["step"] == 2
    assert masked.log["tokens"] == causal.log["tokens"] > 0
    assert masked.tokenizer.get_vocab() == causal.tokenizer.get_vocab()


def test_second_call_trains_nothing(made, monkeypatch):
    folder, masked, _ = made
    before = folders(folder)
    monkeypatch.setattr("llada.train.run.steps_of", None)
    again = student(PAIRS, Recipe(**RECIPE), folder)
    assert folders(folder) == before
    assert all(torch.equal(a, b) for a, b in zip(masked.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("pairs", "values"),
    [
        (PAIRS[:2], {}),
        (PAIRS, {"training": RECIPE["training"] | {"steps": 1}}),
        (PAIRS, {"model": RECIPE["model"] | {"d_model": 32}}),
        (PAIRS, {"masked": {}}),
    ],
)
def test_what_is_asked_otherwise_is_another_model(made, pairs, values):
    folder = made[0]
    before = folders(folder)
    student(pairs, Recipe(**RECIPE | values), folder)
    assert len(folders(folder)) == len(before) + 1


def test_interrupted_training_goes_on(made, tmp_path, monkeypatch):
    def stopped(config, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llada.experiments.student.train", stopped)
        with pytest.raises(KeyboardInterrupt):
            student(PAIRS, Recipe(**RECIPE), tmp_path)
    (place,) = tmp_path.iterdir()
    assert (place / "start").is_dir()
    assert not (place / "run").exists()
    assert next(json.loads(line)["prompt"] for line in (place / "train.jsonl").read_text().splitlines()) == "One?"
    monkeypatch.setattr("llada.experiments.student.train", train)
    after = student(PAIRS, Recipe(**RECIPE), tmp_path)
    expected = made[1].model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(expected, after.model.parameters(), strict=True))


def test_seed_decides_the_weights_and_leaves_the_callers_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = student(PAIRS, Recipe(**RECIPE | {"training": RECIPE["training"] | {"seed": 1}}), tmp_path)
    other = student(PAIRS, Recipe(**RECIPE | {"training": RECIPE["training"] | {"seed": 2}}), tmp_path)
    assert not torch.equal(*(each.model.get_input_embeddings().weight for each in (one, other)))
    assert expected.shape == (3,)


def test_what_one_of_the_two_is_told_alone_holds_for_its_first_weights(tmp_path):
    """The tokens that it has room for and its seed, where the recipe names them for it and not for both."""
    sizes = {name: size for name, size in RECIPE["model"].items() if name != "max_sequence_length"}
    brief = {name: value for name, value in RECIPE["training"].items() if name != "max_length"}
    own = {"max_length": 64, "seed": 5}
    apart = {"model": sizes, "training": brief, "masked": RECIPE["masked"] | own, "autoregressive": {"max_length": 48}}
    both = {"model": sizes, "training": brief | own}
    one, other, changed = (
        start_of(Recipe(**RECIPE | values), tmp_path / name)
        for name, values in (
            ("apart", apart),
            ("both", both),
            ("changed", both | {"masked": RECIPE["masked"] | {"seed": 6}}),
        )
    )
    assert one == other != changed
    (config,) = (tmp_path / "apart").glob("*/start/config.json")
    assert json.loads(config.read_text())["max_sequence_length"] == 64


def start_of(recipe, folder):
    """The weights before training."""
    student(PAIRS, recipe, folder)
    return next(folder.glob("*/start/model.safetensors")).read_bytes()
