"""A model with random weights, small enough to be asked thousands of times, that takes conversations.

A conftest.py imports the fixtures that its folder asks for.
"""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from llada.data.tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.build import model_config, new_model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the model reads a row of tokens"], SMALLEST_VOCABULARY)


@pytest.fixture(scope="session")
def model(tokenizer) -> LLaDAForMaskedLM:
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = new_model(model_config(sizes, 160, tokenizer), tokenizer, causal=False)
    assert isinstance(made, LLaDAForMaskedLM)
    assert isinstance(made.config, LLaDAConfig)
    return made.eval().double()  # so that other batch sizes and paddings round to the same tokens


@pytest.fixture(scope="session")
def served(model, tokenizer, tmp_path_factory) -> Path:
    """The folder of the same model."""
    folder = tmp_path_factory.mktemp("served") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
