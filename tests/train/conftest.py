"""A short pretraining run in which everything that a checkpoint must hold is in use."""

import pytest


@pytest.fixture(scope="session")
def settings(prepared) -> dict:
    return {
        "data": str(prepared),
        "length": 32,
        "random_length": 0.2,
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32},
        "steps": 9,
        "batch_size": 8,
        "micro_batch_size": 4,
        "masking": "count",
        "ema": 0.9,
        "optim": {"learning_rate": 0.01, "warmup": 2, "decay": 3, "optimizer": "muon"},
        "checkpoint_every": 2,
        "evaluate_every": 3,
        "evaluate_rows": 8,
    }
