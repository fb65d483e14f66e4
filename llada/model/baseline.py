"""The autoregressive baseline of the LLaDA paper (arXiv:2502.09992, §3.2): the same Transformer, seeing only the left.

It is a model of transformers: Llama, or with query, key and value biases Qwen2, whose output projection has none as
LLaDA's has none. Modules have the same names, so that the sizes, the number of parameters and the initial weights are
those of the LLaDA.
"""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.initialization import no_init_weights

from llada.data.tokenizer import read_tokenizer
from llada.model.checkpoint import AUTOREGRESSIVE, checkpoint_folder
from llada.model.configuration import FETCHES_CODE, LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.model.weights import check_loading_report, check_weight_files, read_json

_CONFIGS: dict[str, type[PreTrainedConfig]] = {"LlamaForCausalLM": LlamaConfig, "Qwen2ForCausalLM": Qwen2Config}
assert set(_CONFIGS) == set(AUTOREGRESSIVE)


def autoregressive_config(config: LLaDAConfig, *, bos_token_id: int | None = None) -> LlamaConfig | Qwen2Config:
    """The configuration of transformers with the sizes of a LLaDA.

    Args:
        bos_token_id: the token that the first one of a text is predicted from.

    Raises ValueError where a LLaDA has what the other has not: padding rows in its embedding, or blocks.
    """
    if config.embedding_size != config.vocab_size:
        raise ValueError(
            f"embedding_size={config.embedding_size} leaves rows that an autoregressive model would predict; leave it "
            f"out, or make it vocab_size={config.vocab_size}"
        )
    if config.block_length is not None:
        raise ValueError(f"block_length={config.block_length} has no effect on an autoregressive model; leave it out")
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_hidden_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "max_position_embeddings": config.max_sequence_length,
        "initializer_range": config.init_std,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.weight_tying,
        "bos_token_id": bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": None,  # its embedding would never be trained, and padding is the end of sequence
    }
    return Qwen2Config(**values) if config.include_qkv_bias else LlamaConfig(**values)


def new_autoregressive(config: LLaDAConfig, *, bos_token_id: int | None = None) -> PreTrainedModel:
    """A model with the weights that `LLaDAForMaskedLM(config)` would begin with; generation stops at EOS and EoT."""
    weights = LLaDAForMaskedLM(config).state_dict()
    with no_init_weights():
        model = build_model(autoregressive_config(config, bos_token_id=bos_token_id))
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    generation = model.generation_config
    assert generation is not None
    ends = [token for token in (config.eos_token_id, config.eot_token_id) if token is not None]
    generation.eos_token_id = ends or None
    generation.pad_token_id = config.pad_token_id
    return model


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The architecture that a configuration describes: a LLaDA, or the baseline."""
    if isinstance(config, LLaDAConfig):
        return LLaDAForMaskedLM(config)
    return Qwen2ForCausalLM(config) if isinstance(config, Qwen2Config) else LlamaForCausalLM(cast(LlamaConfig, config))


def read_autoregressive(path: str | Path) -> tuple[LlamaConfig | Qwen2Config, PreTrainedTokenizerBase | None]:
    """The configuration of a checkpoint in transformers' layout, and its tokenizer (None where it has none).

    Raises FileNotFoundError where there is none, and ValueError where it holds another architecture.
    """
    folder = checkpoint_folder(path)
    values = read_json(folder / "config.json")
    name = (values.get("architectures") or ["an unnamed architecture"])[0]
    if name not in _CONFIGS:
        raise ValueError(
            f"{path} holds {name}, not an autoregressive model ({', '.join(_CONFIGS)}); take a checkpoint that was "
            "trained with objective: autoregressive, or another objective"
        )
    config: Any = _CONFIGS[name].from_dict({k: v for k, v in values.items() if k not in FETCHES_CODE})
    return config, read_tokenizer(folder)


def load_autoregressive(
    path: str | Path, *, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model, in evaluation mode, and its tokenizer; as `load_pretrained` for a LLaDA, strictly and without code."""
    folder = checkpoint_folder(path)
    config, tokenizer = read_autoregressive(folder)
    check_weight_files(folder)
    loaded: Any = (Qwen2ForCausalLM if isinstance(config, Qwen2Config) else LlamaForCausalLM).from_pretrained(
        folder,
        config=config,
        dtype="auto" if dtype is None else dtype,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the report has them
    )
    model, report = loaded
    check_loading_report(path, report)
    return model.eval(), tokenizer
