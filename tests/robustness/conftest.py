"""Bad input of every kind: the settings of hypothesis, and a small model with random weights."""

from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, settings
from small_model import small_model, small_tokenizer

settings.register_profile(
    "bad input",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=False,
)
settings.load_profile("bad input")


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Users have them, and hypothesis makes them."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return small_model(tokenizer)


@pytest.fixture(scope="session")
def block_causal(model):
    """The same weights, with attention for which cache: block_causal is."""
    changed = deepcopy(model)
    changed.config.block_length = 4
    return changed
