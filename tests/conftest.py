"""Settings of every test: one thread, no network, no denormal numbers; reference vectors; a small prepared corpus."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from console import llada
from safetensors.torch import load_file
from torch import Tensor

torch.set_num_threads(1)
torch.set_flush_denormal(True)  # barely trained models are slow otherwise


class Golden(NamedTuple):
    """What the original implementations compute with a small random model (tests/golden/tiny-mha)."""

    folder: Path  # a checkpoint in the official layout
    settings: dict[str, Any]  # special ids and the settings of each case
    tensors: dict[str, Tensor]


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> Golden:
    folder = golden_folder / "tiny-mha"
    settings = json.loads((folder / "reference.json").read_text())
    return Golden(folder, settings, load_file(folder / "reference.safetensors"))


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


@pytest.fixture(scope="module")
def undescribed_machine():
    """lm_eval describes the machine in every result, for which it calls pip and other programs: a second each time."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield
