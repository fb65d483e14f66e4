"""A small corpus, prepared and trained once for all tests of the commands."""

import random
from pathlib import Path

import pytest
from console import llada

WORDS = [
    "the",
    "model",
    "reads",
    "a",
    "token",
    "and",
    "writes",
    "it",
    "back",
    "into",
    "every",
    "row",
    "of",
    "one",
    "table",
]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    for i in range(60):
        text = ". ".join(" ".join(rng.choices(WORDS, k=8)) for _ in range(12))
        (folder / f"{i:02}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def prepared(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "prepare", corpus, folder, "--vocab-size", 300, "--heldout", 0.1)
    return folder


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
