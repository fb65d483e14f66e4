"""A short pretraining run, done once for all tests of the commands."""

from pathlib import Path

import pytest
from console import llada

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
