import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llada import LLaDAConfig, LLaDAForMaskedLM
from llada.data.tokenizer import train_tokenizer

SMALL = {
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "mlp_hidden_size": 48,
    "vocab_size": 40,
    "max_sequence_length": 64,
    "mask_token_id": 5,
    "eos_token_id": 3,
}


@pytest.fixture(scope="session")
def build() -> Callable[..., LLaDAForMaskedLM]:
    """Builds a small random model, the same for the same settings."""

    def build(**changes: Any) -> LLaDAForMaskedLM:
        torch.manual_seed(0)
        return LLaDAForMaskedLM(LLaDAConfig(**{**SMALL, **changes})).eval()

    return build


@pytest.fixture
def copy(golden, tmp_path) -> Path:
    """A copy of the golden checkpoint, to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden.folder / name, folder / name)
    return folder


@pytest.fixture
def llama_model(build) -> LLaDAForMaskedLM:
    return build(weight_tying=True, rope_theta=12345.0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a few words are enough here"], 265)
