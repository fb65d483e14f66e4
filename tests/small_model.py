"""A model with random weights, small enough to be asked thousands of times, that takes conversations."""

import torch
from transformers import PreTrainedTokenizerFast

from llada.data.tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.build import model_config, new_model


def small_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the model reads a row of tokens"], SMALLEST_VOCABULARY)


def small_model(tokenizer: PreTrainedTokenizerFast) -> LLaDAForMaskedLM:
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = new_model(model_config(sizes, 160, tokenizer), tokenizer, causal=False)
    assert isinstance(made, LLaDAForMaskedLM)
    assert isinstance(made.config, LLaDAConfig)
    return made.eval().double()  # so that other batch sizes and paddings round to the same tokens
