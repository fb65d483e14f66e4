"""Whom experiments ask: a model that learns a lesson, or a checkpoint and a file of questions."""

import json

import pytest
from lessons import LESSON

from llada.config import ConfigError, load_config
from llada.eval.measure import Timed
from llada.experiments.asking import Asking, summary
from llada.experiments.experiment import named, perform
from llada.experiments.student import student

SMALL = {"lesson": LESSON, "questions": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Questions with their answers, and a model that has learnt some."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rows = [{"prompt": f"{number}+1", "completion": f"So {number + 1}"} for number in range(4)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = student([(row["prompt"], row["completion"]) for row in rows], Asking(**SMALL).taught.recipe, folder)
    made.model.save_pretrained(folder / "model")
    made.tokenizer.save_pretrained(folder / "model")
    return folder


def test_summary_of_two_answers():
    told = summary(Timed([True, False], [4, 2], [40, 20], [10, 6], 2.0))
    assert (told["right"], told["rows"]) == (1, 2)
    assert (told["passes"], told["positions"], told["tokens"]) == (3, 30, 8)
    assert told["tokens_stderr"] == pytest.approx(2.0)  # 8 ^ 1/2 / 2 ^ 1/2
    assert told["interval"][0] < 0.5 < told["interval"][1]


@pytest.mark.parametrize("name", ["steps", "order"])
def test_a_checkpoint_is_asked_as_a_model_of_the_lesson_is(checkpoint, tmp_path, name):
    given = {"model": str(checkpoint / "model"), "task": str(checkpoint / "task.jsonl"), "check": "contains"}
    sampler = {"samplers": {"low confidence": {}}, "gen_length": 8, "questions": 4}
    varied = {"steps": [2], "thresholds": [0.5], "threshold_sampler": {}} if name == "steps" else {}
    settings = named(name).settings(**given, **sampler, **varied)
    measured = perform(name, settings, tmp_path / name)["measured"]
    assert named(name).finding(measured).endswith(".")
    assert not (tmp_path / "models").exists()  # nothing was trained
    if name == "steps":
        assert [one["rows"] for line in measured["lines"].values() for one in line] == [4, 4]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "given are neither; give a lesson, or lesson=null model=FOLDER task=FILE"),
        ({"model": "m"}, "given are model; give"),
        ({"lesson": LESSON, "task": "t"}, "given are lesson and task; give"),
        ({"lesson": LESSON, "check": "exact"}, "check has no effect on a lesson"),
        ({"lesson": "\ud800"}, r"lesson: .*\\ud800: no such file"),
    ],
)
def test_one_of_both_is_asked(values, told):
    with pytest.raises(ConfigError, match=told):
        Asking(**{"questions": 2} | values)


def test_what_trains_its_own_model_refuses_a_checkpoint():
    with pytest.raises(ConfigError, match="trains its own model; give a lesson"):
        Asking(questions=2, model="m", task="t").taught  # noqa: B018


def test_a_key_of_the_lesson_can_be_changed_though_it_is_in_a_file_of_its_own():
    path = "configs/experiment/steps.yaml"
    usual, changed = (
        load_config(named("steps").settings, path, given).lesson
        for given in ((), ("lesson.recipe.training.steps=5000",))
    )
    assert changed.recipe.training == usual.recipe.training | {"steps": 5000}
    assert changed.terms == usual.terms
