"""Bad input of every kind: the settings of hypothesis, and a small model with random weights."""

from copy import deepcopy

import pytest
import torch
from bad_values import write_backgrounds
from hypothesis import HealthCheck, settings
from small_model import model, served, tokenizer

__all__ = ["model", "served", "tokenizer"]

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


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory):
    """A working directory with the files that the field `background` of a sampler may name."""
    folder = tmp_path_factory.mktemp("backgrounds")
    write_backgrounds(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        yield


@pytest.fixture(scope="session")
def block_causal(model):
    """The same weights, with attention for which cache: block_causal is."""
    changed = deepcopy(model)
    changed.config.block_length = 4
    return changed
