"""`--json` of the commands that make data and models: one object, nothing else, and what is in the files."""

import json
import math

import pytest
from console import llada

from llada.train.journal import read_log
from llada.train.rehearsal import Rehearsal

FOUND = Rehearsal(
    8, 8, [1.0], 0.1, 10, 0.1, 40, 100, resumed_exactly=None, heldout_rows=0, bound=None, steps=1, seconds=1
)


@pytest.fixture
def printed(monkeypatch, capsys):
    """What a command prints with --json, which is one line of JSON."""

    def run(*command: object):
        capsys.readouterr()
        llada(monkeypatch, *command, "--json")
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON

    return run


def test_prepare_tells_sizes_and_what_it_left_out(corpus, prepared, tmp_path, printed):
    rows = "".join(json.dumps({"text": file.read_text()}) + "\n" for file in sorted(corpus.iterdir()))
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n' + rows)
    told = printed("prepare", tmp_path / "rows.jsonl", tmp_path / "d", "--tokenizer", prepared / "tokenizer",
                   "--heldout", 0.1, "--bad-rows", "skip")  # fmt: skip
    assert told.keys() == {"output", "splits", "left_out"}
    assert told["output"] == str(tmp_path / "d")
    for split in ("train", "heldout"):
        index = json.loads((tmp_path / "d" / split / "index.json").read_text())
        assert told["splits"][split] == {name: index[name] for name in ("documents", "tokens", "text_bytes")}
    assert told["left_out"]["empty"]["count"] == 1
    assert "rows.jsonl" in told["left_out"]["empty"]["first"]


def test_prepare_tells_of_instructions(tmp_path, printed):
    told = printed("prepare", "instructions", tmp_path / "d", "--families", "parity,compare", "--count", 3)
    sizes = {split: len((tmp_path / "d" / f"{split}.jsonl").read_text().splitlines()) for split in ("train", "test")}
    assert told == {
        "output": str(tmp_path / "d"),
        "splits": {split: {"conversations": size} for split, size in sizes.items()},
        "families": ["parity", "compare"],
        "left_out": {},
    }


@pytest.mark.parametrize("how", ["measured", "not asked", "too large"])
def test_plan_tells_what_its_report_shows(how, prepared, pretrain_yaml, tmp_path, printed, monkeypatch, capsys):
    if how == "too large":
        monkeypatch.setattr("llada.train.plan.available_memory", lambda: 1000)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("llada.train.plan.probe", lambda parts, devices: 0.5)
    command = ["plan", pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", "ema=0.9", "--devices", 2]
    command += ["--no-probe"] if how == "not asked" else []
    told = printed(*command)
    llada(monkeypatch, *command)
    said = capsys.readouterr().out
    assert f"{told['parameters']:,} ({told['parameters_outside_blocks']:,} outside the blocks)" in said
    assert told["parameters_trained"] == told["parameters"]
    assert f"{told['rows']:,} rows; the run goes through them {told['epochs']:.2f} times" in said
    assert f"{told['tokens_per_step']:,} a step, {told['tokens']:,} in 20 steps" in said
    assert f"{told['flops_per_step']:.3g} FLOPs a step, {told['flops']:.3g} in all" in said
    assert sum(told["memory_bytes"].values()) == told["memory_bytes_per_device"]
    assert all(f"memory: {name}" in said for name in told["memory_bytes"])
    assert (told["config"], told["devices"], told["steps"]) == (str(pretrain_yaml), 2, 20)
    if how == "not asked":
        assert told["time"] is None
    elif how == "too large":
        assert told["time"]["memory_bytes_free"] == 1000 < told["time"]["memory_bytes_needed"]
        assert {told["time"][key] for key in ("seconds_per_step", "seconds", "flops_per_second_per_device")} == {None}
    else:
        assert (told["time"]["seconds_per_step"], told["time"]["seconds"]) == (0.5, 10.0)
        assert told["time"]["flops_per_second_per_device"] == pytest.approx(told["flops_per_step"] / 2 / 0.5)


def test_training_tells_its_last_step_and_the_bound(prepared, pretrain_yaml, tmp_path, printed):
    run = tmp_path / "run"
    told = printed("pretrain", pretrain_yaml, f"data={prepared}", f"output={run}", "steps=3", "ema=0.9")
    last = read_log(run)[-1]
    assert told["bound_stderr"] > 0
    assert told == {
        "model": str(run / "model"),
        "steps": 3,
        "log": last,
        "bound": last["bound"],
        "bound_stderr": last["bound_stderr"],
    }


def test_fine_tuning_without_held_out_rows_tells_no_bound(pretrained, tmp_path, printed):
    rows = [json.dumps({"prompt": f"Say {i}.", "completion": f"{i}"}) for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "sft.yaml").write_text("max_length: 100\nsteps: 1\nbatch_size: 4\noptim: {learning_rate: 0.01}\n")
    told = printed("sft", tmp_path / "sft.yaml", f"init={pretrained / 'model'}", f"train={tmp_path / 'rows.jsonl'}",
                   f"output={tmp_path / 'run'}")  # fmt: skip
    assert (told["steps"], told["bound"], told["bound_stderr"]) == (1, None, None)
    assert told["model"] == str(tmp_path / "run" / "model")


def test_dry_run_tells_what_it_found(prepared, pretrain_yaml, tmp_path, printed):
    told = printed("pretrain", pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", "--dry-run")
    assert tuple(told) == Rehearsal._fields
    assert len(told["losses"]) == 2
    assert told["resumed_exactly"] is True
    assert (told["steps"], told["heldout_rows"]) == (20, 2)
    assert told["seconds"] == pytest.approx(20 * told["seconds_per_step"])
    assert 0 < told["checkpoint_bytes"] < told["disk_bytes_needed"] < told["disk_bytes_free"]
    assert 0 < told["rows_looked_through"] <= told["rows"]
    assert str(Rehearsal(**told)).count("\n") == 6


def test_report_of_a_dry_run_tells_what_could_not_be_tried():
    assert "resume: the checkpoint loads" in str(FOUND)
    assert "held-out" not in str(FOUND)
    told = str(FOUND._replace(resumed_exactly=False))
    assert "not the same bits: the kernels here are not reproducible" in told


def test_loss_that_is_not_finite_is_null(prepared, pretrain_yaml, tmp_path, printed, monkeypatch):
    monkeypatch.setattr("llada.train.rehearsal.rehearse", lambda config: FOUND._replace(losses=[1.0, math.inf]))
    command = ["pretrain", pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", "--dry-run"]
    assert printed(*command)["losses"] == [1.0, None]
