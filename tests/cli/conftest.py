"""A short pretraining run, done once for all tests of the commands."""

from pathlib import Path

import pytest
import torch
from console import llada

from llada.model.checkpoint import load_pretrained

PRETRAIN = """
length: 32
model: {d_model: 32, n_layers: 1, n_heads: 2, mlp_hidden_size: 64}
steps: 20
batch_size: 8
masking: count
optim: {learning_rate: 0.01, warmup: 2}
"""


@pytest.fixture(scope="session")
def pretrain_yaml(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("configs") / "pretrain.yaml"
    file.write_text(PRETRAIN, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def pretrained(prepared, pretrain_yaml, tmp_path_factory) -> Path:
    """The output folder of a short run."""
    output = tmp_path_factory.mktemp("runs") / "pretrain"
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "pretrain", pretrain_yaml, f"data={prepared}", f"output={output}", "evaluate_every=10",
              "model.max_sequence_length=128")  # fmt: skip
    return output


@pytest.fixture(scope="session")
def tuned(pretrained, tmp_path_factory) -> Path:
    """The output folder of a short fine-tuning run."""
    folder = tmp_path_factory.mktemp("sft")
    (folder / "sft.yaml").write_text(
        "max_length: 100\nsteps: 10\nbatch_size: 8\noptim: {learning_rate: 0.01, optimizer: muon, schedule: cosine}\n"
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "prepare", "instructions", folder / "data", "--count", 5)
        llada(monkeypatch, "sft", folder / "sft.yaml", f"init={pretrained / 'model'}", f"output={folder / 'run'}",
              f"train={folder / 'data' / 'train.jsonl'}", f"heldout={folder / 'data' / 'test.jsonl'}")  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="session")
def diverged(tuned, tmp_path_factory) -> Path:
    """The folder of a model whose logits are not numbers."""
    folder = tmp_path_factory.mktemp("diverged")
    model, tokenizer = load_pretrained(tuned / "model")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
