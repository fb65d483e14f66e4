"""The choice of an operating point, from the command to a sampler that `llada generate` takes."""

import json

import pytest
from console import llada, refusal

import llada as library
from llada.eval.answers import answer
from llada.sampling.config import SamplerConfig


@pytest.fixture(scope="module")
def questions(tuned, tmp_path_factory):
    """Conversations whose expected answers are what the model says, one token a step."""
    model, tokenizer = library.load_pretrained(tuned / "model")
    sampler = SamplerConfig(gen_length=8, forbid_eos=True, suppress_tokens=tokenizer.all_special_ids)
    asked = [[{"role": "user", "content": f"{word} {n}"}] for word in ("Add", "the model", "Say") for n in range(14)]
    replies = answer(model, tokenizer, asked, sampler)
    rows = [[*a, {"role": "assistant", "content": r.text}] for a, r in zip(asked, replies, strict=True)]
    file = tmp_path_factory.mktemp("task") / "questions.jsonl"
    file.write_text(
        "".join(json.dumps({"messages": messages}) + "\n" for messages in rows if messages[1]["content"].strip())
    )
    assert len(file.read_text().splitlines()) > 36
    return file


GRID = ["--set", "gen_length=8", "--set", "forbid_eos=true", "--steps", "8,4", "--thresholds", "0.5",
        "--block-lengths", "whole,4", "--caches", "none,dual", "--rows", 36, "--tolerance", 0.2]  # fmt: skip


def test_chosen_sampler_is_shown_kept_and_taken_by_generate(tuned, questions, tmp_path, monkeypatch, capsys):
    output, results = tmp_path / "fast.yaml", tmp_path / "results.json"
    files = ["--output", output, "--results", results]
    llada(monkeypatch, "tune", tuned / "model", questions, *GRID, "--by", "passes", *files)
    said = capsys.readouterr().out
    assert "12 samplers × 36 rows; left out are 0 combinations that make no sampler and 0 that compute" in said
    assert said.count("\n →") == 1
    assert "of 18 rows that it was not chosen by" in said
    measured = json.loads(results.read_text())["measurements"]
    assert len(measured) == 12
    chosen = SamplerConfig.named(str(output))
    assert chosen.model_dump() in [SamplerConfig(**one["sampler"]).model_dump() for one in measured]
    first = output.read_text().splitlines()[0]
    assert first.startswith(f"# llada tune {tuned / 'model'} {questions} --set gen_length=8")
    assert "of 18 rows that it was not chosen by" in first
    llada(monkeypatch, "generate", tuned / "model", "Say 3", "--sampler", output)
    passes = capsys.readouterr().err.splitlines()[-1]
    assert passes.endswith("forward passes)")

    again = tmp_path / "again.yaml"  # from the file of results, without the network
    monkeypatch.setattr("llada.eval.measure.answer", None)
    llada(
        monkeypatch,
        "tune",
        tuned / "model",
        questions,
        *GRID,
        "--by",
        "passes",
        "--results",
        results,
        "--output",
        again,
    )
    assert capsys.readouterr().out == said
    assert SamplerConfig.named(str(again)) == chosen
    kept = results.read_bytes()
    llada(monkeypatch, "tune", tuned / "model", questions, *GRID, "--by", "passes", "--results", results, "--json")
    told = json.loads(capsys.readouterr().out)
    assert results.read_bytes() == kept
    assert (told["samplers"], told["refused"], told["repeated"]) == (12, 0, 0)
    rows = [line for line in said.splitlines() if "%–" in line and "of 18 rows" not in line]
    assert len(told["table"]) == len(rows)
    for row, line in zip(told["table"], rows, strict=True):
        assert f"{row['right']:.1%} ({row['low']:.1%}–{row['high']:.1%})" in line
        assert f"{row['loses_at_most']:.1%}" in line
        assert f" {row['forward_passes']:.2f} " in line
        assert f" {1000 * row['seconds']:.1f} " in line
        assert line.rstrip().endswith(f"{row['tokens_per_second']:.0f}  {' '.join(row['front_of'])}".rstrip())
    (row,) = [row for row in told["table"] if row["chosen"]]
    assert SamplerConfig(**row["sampler"]).model_dump() == chosen.model_dump()
    assert told["chosen"]["sampler"] == row["sampler"]
    assert f"{told['chosen']['right']:.1%} right ({told['chosen']['low']:.1%}" in said
    assert (told["chosen"]["rows"], told["chosen"]["no_part_in_choice"], told["chosen"]["shown"]) == (18, True, True)
    assert sum(row["best"] for row in told["table"]) == 1

    llada(monkeypatch, "tune", tuned / "model", questions, *GRID, "--no-split", "--results", results)
    assert "of 36 rows that it was chosen by, which flatters it" in capsys.readouterr().out
    kept = output.read_bytes()
    message = refusal(monkeypatch, capsys, "tune", tuned / "model", questions, *GRID, *files)
    assert "fast.yaml exists; choose another name or remove it" in message
    assert output.read_bytes() == kept
    message = refusal(monkeypatch, capsys, "tune", tuned / "model", questions, *GRID, "--results", results, "--seed", 1)
    assert "was measured with other settings: seed 0, not 1" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--check", "nearly"], "unknown check 'nearly'"),
        (["--rows", 5000], "fewer than rows=5000"),
        (["--rows", 9], "not even equal answers show a loss"),
        (["--tolerance", 0.01], "give 381 rows or more to choose by"),
        (["--steps", "8,many"], "--steps '8,many' is no list of numbers"),
        (["--thresholds", "high"], "--thresholds 'high' is no list of numbers"),
        (["--block-lengths", "all"], "--block-lengths 'all' is no list of numbers"),
        (["--caches", "duel"], "there is no sampler to try: cache: Input should be"),
        (["--steps", "9"], "steps=9 makes no sampler"),
        (["--steps", "", "--thresholds", ""], "there is no sampler to try"),
        (["--set", "reveal=klass"], "reveal: klass is not swept"),
        (["--set", "gen_length=120", "--steps", "120"], "120 of answer exceed the model's 128"),
        (["--sampler", "best"], "unknown sampler 'best'; known: "),
        (["--thresholds", "0.5,nan"], "--thresholds '0.5,nan' is no list of numbers separated by commas"),
        (["--sampler", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--set", "steps=x"], "--set steps=x: steps: Input should be a valid integer"),
        (["--output", "nowhere/fast.yaml"], "there is no folder nowhere; make it first"),
        (["--results", "nowhere/results.json"], "there is no folder nowhere; make it first"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(more, message, tuned, questions, monkeypatch, capsys):
    assert message in refusal(monkeypatch, capsys, "tune", tuned / "model", questions, *GRID, *more)


def test_empty_task_and_model_without_tokenizer_are_refused(
    tuned, questions, tmp_path, golden_folder, monkeypatch, capsys
):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert "holds no conversations" in refusal(monkeypatch, capsys, "tune", tuned / "model", empty, *GRID)
    message = refusal(monkeypatch, capsys, "tune", golden_folder / "tiny-mha", questions, *GRID)
    assert "has no tokenizer, so it cannot answer conversations" in message


def test_batch_size_seed_and_check_reach_the_measurements(tuned, questions, tmp_path, monkeypatch, capsys):
    few = ["--set", "gen_length=8", "--steps", "2", "--thresholds", "", "--block-lengths", "whole", "--caches", "none"]
    few += ["--rows", 36, "--tolerance", 0.2, "--set", "temperature=1.0"]
    stored = []
    for more in (["--seed", 0], ["--seed", 1, "--batch-size", 5, "--check", "contains", "--device", "cpu"]):
        file = tmp_path / f"{len(stored)}.json"
        llada(monkeypatch, "tune", tuned / "model", questions, *few, *more, "--results", file)
        stored.append(json.loads(file.read_text())["subject"])
    names = ("seed", "batch_size", "check")
    assert [[one[name] for name in names] for one in stored] == [[0, 64, "exact"], [1, 5, "contains"]]
