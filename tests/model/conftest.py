from collections.abc import Callable
from typing import Any

import pytest
import torch

from llada import LLaDAConfig, LLaDAForMaskedLM

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
