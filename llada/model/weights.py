"""Weights on disk: the official tensor names, and a loader that refuses anything but a complete checkpoint.

Inside, modules have transformers' Llama names; on disk, the official LLaDA names. The second published dense layout
(iLLaDA, arXiv:2606.25331) has the Llama names on disk, too, and so needs no renaming.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

# Official name → ours, inside a block and outside. The head comes before the blocks: `ff_out` names both the LM head
# and the down projection on disk.
_OUTSIDE = {
    r"model\.transformer\.ff_out": "lm_head",
    r"transformer\.wte": "embed_tokens",
    r"transformer\.ln_f": r"(?<!\w)norm",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def register_weight_names() -> None:
    """Tell transformers how official tensor names and ours map onto each other, for loading and for saving."""
    outside = [WeightRenaming(official, ours) for official, ours in _OUTSIDE.items()]
    inside = [
        WeightRenaming(rf"transformer\.blocks\.(\d+)\.{official}", rf"layers\.(\d+)\.{ours}")
        for official, ours in _INSIDE.items()
    ]
    register_checkpoint_conversion_mapping("llada", [*outside, *inside], overwrite=True)


def check_weight_files(folder: Path) -> None:
    """Raise ValueError where a safetensors file of the folder is missing, truncated or outside the folder.

    A folder has either `model.safetensors` or an index with its shards. Only headers are read.
    """
    for file in _weight_files(folder):
        if not file.is_file():
            raise ValueError(f"{folder} lacks the weight file {file.name}, which its index names; copy all the files")
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            raise ValueError(f"{file} ({size} bytes) is truncated or not a safetensors file: {error}") from None


def check_loading_report(path: str | Path, report: dict[str, Any]) -> None:
    """Raise ValueError where transformers' loading report has a missing, unexpected or misshapen tensor."""
    problems = [
        *(f"missing {name}" for name in sorted(report["missing_keys"])),
        *(f"unexpected {name}" for name in sorted(report["unexpected_keys"])),
        *(f"{name} has shape {tuple(has)}, not {tuple(must)}" for name, has, must in sorted(report["mismatched_keys"])),
        *(str(message) for message in report.get("error_msgs", ())),
    ]
    if problems:
        listed = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{path} does not hold the weights that its config.json describes: {listed}")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError names the file and what is wrong with it."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object, but holds a {type(values).__name__}")
    return values


def _weight_files(folder: Path) -> list[Path]:
    index_file = folder / "model.safetensors.index.json"
    if not index_file.exists():
        single = folder / "model.safetensors"
        if not single.exists():
            raise ValueError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
        return [single]
    names = read_json(index_file).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index_file} has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise ValueError(f"{index_file} names the file {name!r}; it may name only .safetensors files beside itself")
    return [folder / name for name in sorted(set(names.values()))]
