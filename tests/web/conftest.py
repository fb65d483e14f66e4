"""The small model that the page is tried with, as an object and as a folder."""

import pytest
from small_model import small_model, small_tokenizer

from llada.model.modeling import LLaDAForMaskedLM


@pytest.fixture(scope="session")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer) -> LLaDAForMaskedLM:
    return small_model(tokenizer)


@pytest.fixture(scope="session")
def served(model, tokenizer, tmp_path_factory):
    """The folder of the same model."""
    folder = tmp_path_factory.mktemp("served") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
