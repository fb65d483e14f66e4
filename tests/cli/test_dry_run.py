"""`--dry-run`: it does what a run does, says what it found, and leaves nothing behind."""

import collections

import pytest
from console import llada
from transformers import AutoTokenizer

from llada.data.tokens import TokenRows


def dry_run(monkeypatch, prepared, pretrain_yaml, output, *more) -> None:
    llada(monkeypatch, "pretrain", pretrain_yaml, f"data={prepared}", f"output={output}", "--dry-run", *more)


def test_dry_run_reports_and_leaves_nothing_behind(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    dry_run(monkeypatch, prepared, pretrain_yaml, tmp_path / "a" / "run", "ema=0.9")
    said = capsys.readouterr().out
    assert "2 steps: loss " in said
    assert "save: " in said
    assert "resume: the next step is the same bit for bit" in said
    assert "held-out bound of 2 rows" in said
    assert "for 20 steps" in said
    assert list(tmp_path.iterdir()) == []


def test_run_of_a_single_step_can_be_tried(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    dry_run(monkeypatch, prepared, pretrain_yaml, tmp_path / "run", "steps=1", "optim.warmup=0")
    assert "1 steps: loss" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["elbo", "puma"])
def test_fine_tuning_can_be_tried(objective, pretrained, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "prepare", "instructions", tmp_path / "data", "--count", 5)
    (tmp_path / "sft.yaml").write_text("max_length: 100\nsteps: 10\nbatch_size: 8\noptim: {learning_rate: 0.01}\n")
    llada(monkeypatch, "sft", tmp_path / "sft.yaml", f"init={pretrained / 'model'}", f"output={tmp_path / 'run'}",
          f"train={tmp_path / 'data' / 'train.jsonl'}", f"objective={objective}", "--dry-run")  # fmt: skip
    assert "the same bit for bit" in capsys.readouterr().out


def refused(monkeypatch, capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        dry_run(monkeypatch, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_disk_that_is_too_small_is_found(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("llada.train.rehearsal.shutil.disk_usage", lambda path: usage(10, 0, 1_000_000))
    assert "0.0 GB are free; make room" in refused(monkeypatch, capsys, prepared, pretrain_yaml, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_mask_token_in_the_data_is_found(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    read = TokenRows.__getitem__
    mask = AutoTokenizer.from_pretrained(prepared / "tokenizer").mask_token_id

    def with_mask(self, index):
        row = read(self, index)
        if index == 30:
            row["x0"][5] = mask
        return row

    monkeypatch.setattr(TokenRows, "__getitem__", with_mask)
    message = refused(monkeypatch, capsys, prepared, pretrain_yaml, tmp_path / "run")
    assert "row 30 of the training data holds the mask token" in message


def test_resume_and_dry_run_exclude_each_other(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    message = refused(monkeypatch, capsys, prepared, pretrain_yaml, tmp_path / "run", "--resume")
    assert "leave --resume out" in message
