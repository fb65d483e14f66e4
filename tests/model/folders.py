"""Folders of checkpoints, written and edited."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM

from llada import LLaDAForMaskedLM, load_pretrained


def tokens(rows: int, length: int, *, vocabulary: int = 40) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def edit_config(folder: Path, *, remove: tuple[str, ...] = (), **values) -> None:
    kept = {key: value for key, value in read_config(folder).items() if key not in remove}
    (folder / "config.json").write_text(json.dumps({**kept, **values}))


def write_llama_layout(model: LLaDAForMaskedLM, folder: Path, *, rotary: dict, **changes) -> None:
    folder.mkdir(exist_ok=True)
    config = model.config
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.weight_tying:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = {
        "architectures": ["ILLaDAForMaskedDiffusion"],
        "model_type": "illada",
        "auto_map": {"AutoModel": "modeling_illada.ILLaDAModel"},
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_hidden_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_sequence_length,
        "tie_word_embeddings": config.weight_tying,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "pretraining_tp": 1,
        "dtype": "float32",
        "transformers_version": "4.57.1",
        "use_cache": True,
        **rotary,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(values))


ROTARY = {
    "top level": {"rope_theta": 12345.0, "rope_scaling": None},
    "rope_parameters": {"rope_parameters": {"rope_theta": 12345.0, "rope_type": "default"}},
    "both": {"rope_theta": 12345.0, "rope_parameters": {"rope_theta": 12345.0, "rope_type": "default"}},
}
BOTH_LOADERS = pytest.mark.parametrize(
    "load", [load_pretrained, AutoModelForMaskedLM.from_pretrained], ids=["ours", "auto"]
)
