"""Loading a LLaDA: either dense layout, from a folder or a hub id, whole or not at all.

The official layout has LLaDA's own tensor and configuration names. The second layout (iLLaDA, arXiv:2606.25331) has
transformers' Llama names; its configuration goes through one small map here, its tensors need none. No remote code is
ever run, and only safetensors and JSON files are read.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llada.data.tokenizer import read_tokenizer
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.model.weights import read_json

# Mask tokens of the published vocabularies, none of which says so in its tokenizer files; and the end of a turn.
_MASK_TOKENS = ("<|mdm_mask|>", "<[MASK]>")
_END_OF_TURN = "<|eot_id|>"
_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # that accelerate makes
# What the baseline is (`llada.model.baseline`): no LLaDA, although it has the names of the second layout.
AUTOREGRESSIVE = ("LlamaForCausalLM", "Qwen2ForCausalLM")
# Llama settings without an effect here, and those with the only value that a LLaDA can have.
_LLAMA_IGNORED = {"model_type", "architectures", "auto_map", "use_cache", "pretraining_tp", "attn_implementation"}
_LLAMA_ONLY = {"mlp_bias": False, "rope_scaling": None}


def load_pretrained(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    mask_token_id: int | None = None,
) -> tuple[LLaDAForMaskedLM, PreTrainedTokenizerBase | None]:
    """The model, in evaluation mode, and its tokenizer (None where the folder has none).

    Args:
        path: a folder with config.json and safetensors, or a hub id ("owner/name").
        dtype: of the weights; None: as they were saved. Fine-tuning wants torch.float32.
        device: a device, "auto", or a device map; None: the CPU.
        attn_implementation: "sdpa" (default), "eager", "flash_attention_2", ...
        mask_token_id: where neither config.json nor the tokenizer says which token is [MASK].

    Raises FileNotFoundError where there is no such folder, and ValueError where a file is damaged, a tensor is
    missing, superfluous or misshapen, the architecture is not implemented, or the device is not there.
    """
    if device is not None and not isinstance(device, dict) and device not in _DEVICE_MAPS:
        device = device_named(device)
    folder = checkpoint_folder(path)
    config, tokenizer = read_description(folder, mask_token_id=mask_token_id)
    model = LLaDAForMaskedLM.from_pretrained(
        folder,
        config=config,
        dtype="auto" if dtype is None else dtype,
        device_map=device,
        attn_implementation=attn_implementation,
    )
    return model.eval(), tokenizer


def device_named(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ValueError, which names those there are, where this machine has none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if accelerator is None else torch.accelerator.device_count()
    try:
        device = torch.device(name)
    except RuntimeError:  # no kind of device that torch knows
        device = None
    if device is not None and (
        device.type == "cpu"
        or (accelerator is not None and device.type == accelerator.type and (device.index or 0) < count)
    ):
        return device
    there = ", ".join(["cpu", *(f"{accelerator}:{number}" for number in range(count))])
    raise ValueError(f"device {str(name)!r} is not on this machine; there is {there}")


def read_description(
    path: str | Path, *, mask_token_id: int | None = None
) -> tuple[LLaDAConfig, PreTrainedTokenizerBase | None]:
    """The configuration of a checkpoint and its tokenizer, without its weights; as for `load_pretrained`."""
    folder = checkpoint_folder(path)
    values = read_json(folder / "config.json")
    if is_autoregressive(folder):
        raise ValueError(
            f"{path} holds an autoregressive model ({values['architectures'][0]}), not a mask predictor; load it with "
            "transformers' AutoModelForCausalLM, and train it with objective: autoregressive"
        )
    tokenizer = read_tokenizer(folder)
    return _config(folder, values, tokenizer, mask_token_id), tokenizer


def is_autoregressive(path: str | Path) -> bool:
    """Whether a checkpoint is one of the baseline (`llada.model.baseline`), as its config.json says."""
    values = read_json(checkpoint_folder(path) / "config.json")
    architectures = values.get("architectures")
    return isinstance(architectures, list) and any(name in architectures for name in AUTOREGRESSIVE)


def checkpoint_folder(path: str | Path) -> Path:
    """The folder of a checkpoint, downloaded where `path` is a hub id; FileNotFoundError where there is none."""
    folder = Path(path)
    if folder.is_dir():
        if (folder / "model" / "config.json").is_file():
            raise FileNotFoundError(f"{folder} is the folder of a run; its model is {folder / 'model'}")
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} has no config.json, so it is not a checkpoint")
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not folder.parent.is_dir():
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    raise FileNotFoundError(f"{path} is neither a folder nor a hub id of the form owner/name")


def _config(
    folder: Path, values: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, mask_token_id: int | None
) -> LLaDAConfig:
    kind = values.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise ValueError(f"{folder}/config.json: model_type={kind!r} must be a name, such as 'llada'")
    values = values if "d_model" in values else _from_llama(values)
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    if mask_token_id is not None:
        values["mask_token_id"] = mask_token_id
    elif values.get("mask_token_id") is None:
        named = [tokenizer.mask_token] if tokenizer is not None and tokenizer.mask_token else []
        values["mask_token_id"] = next((vocabulary[t] for t in (*named, *_MASK_TOKENS) if t in vocabulary), None)
    if values["mask_token_id"] is None:
        raise ValueError(f"{folder} does not say which token is [MASK]; give load_pretrained(..., mask_token_id=...)")
    if values.get("eot_token_id") is None:
        values["eot_token_id"] = vocabulary.get(_END_OF_TURN)
    return LLaDAConfig.from_dict(values)


def _from_llama(values: dict[str, Any]) -> dict[str, Any]:
    """Configuration values of the Llama-named layout under LLaDA's names."""
    if "hidden_size" not in values:
        raise ValueError("config.json has neither d_model (LLaDA's layout) nor hidden_size (the Llama-named layout)")
    for name, allowed in _LLAMA_ONLY.items():
        if values.get(name, allowed) != allowed:
            raise ValueError(f"{name}={values[name]!r} in config.json is not implemented; only {allowed!r} is")
    values = {name: value for name, value in values.items() if name not in _LLAMA_IGNORED | _LLAMA_ONLY.keys()}
    rotary = values.pop("rope_parameters", None) or {}
    if not isinstance(rotary, dict):
        raise ValueError(f"rope_parameters={rotary!r} in config.json must be an object")
    if rotary.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type={rotary['rope_type']!r} in config.json is not implemented; only 'default' is")
    if "rope_theta" in rotary:
        values["rope_theta"] = rotary["rope_theta"]
    head_dim = values.pop("head_dim", None)
    heads, width = values.get("num_attention_heads"), values["hidden_size"]
    if head_dim is not None and not (
        isinstance(head_dim, int) and isinstance(heads, int) and head_dim * heads == width
    ):
        raise ValueError(f"head_dim={head_dim} in config.json must be hidden_size / num_attention_heads")
    return values
