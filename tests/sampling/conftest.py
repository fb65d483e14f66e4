"""Models and files that the published samplers need, by the name of the sampler."""

import json

import pytest

import llada


@pytest.fixture(scope="module")
def bidirectional(golden_folder):
    model, _ = llada.load_pretrained(golden_folder / "tiny-mha")
    return model.double()  # so that other batch sizes and paddings round to the same tokens


@pytest.fixture(scope="module")
def block_causal(golden_folder):
    model, _ = llada.load_pretrained(golden_folder / "tiny-mha")
    model.config.block_length = 5  # no divisor of the blocks of the tests
    return model.double()


@pytest.fixture
def model(name, bidirectional, block_causal):
    """One that the named sampler takes."""
    return block_causal if name == "block_causal_cache" else bidirectional


@pytest.fixture(scope="module")
def background(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("background") / "counts.json"
    file.write_text(json.dumps([(7 * token) % 31 for token in range(256)]))
    return str(file)
