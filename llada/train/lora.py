"""Low-rank adapters (LoRA, arXiv:2106.09685), by peft: a projection becomes W x + alpha / rank · B A x, with W frozen.

The adapted model stays the model it was, with peft's layers in the place of some projections, so that the loop, the
evaluation and the checkpoints need not know. peft is an optional extra: it is imported where adapters are asked for.
"""

import copy
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from llada.config import ConfigError
from llada.model.baseline import build_model
from llada.train.dropout import use_row_dropout

_NAME = "default"  # of the adapter; peft's
_PREFIX = "base_model.model."  # of a tensor's name in a file, for the two modules that peft puts around a model
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


def check_installed() -> None:
    """Raise ConfigError where peft is missing."""
    if find_spec("peft") is None:
        raise ConfigError("lora: peft is not installed; `pip install 'llada-lm[lora]'`, or leave lora out")


def adapt(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    dropout: float = 0.0,
    targets: Sequence[str],
    base: str = "",
    seed: int = 0,
) -> None:
    """Freeze a model and put adapters on the projections of its blocks that are named so, in place.

    B is zero, so that training begins with the model as it was. With dropout, its call takes `dropout_keys`, too
    (`llada.train.dropout`).

    Args:
        base: where the model is from, for who finds the adapter alone.
        seed: of A.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        base_model_name_or_path=base or None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(lora, model, _NAME)
    if dropout:
        layers = [cast(Any, module).lora_dropout for module in model.modules() if "lora_dropout" in module._modules]
        use_row_dropout(model, layers, _NAME, dropout)


def is_adapted(model: PreTrainedModel) -> bool:
    """Whether only adapters of the model are trained."""
    return "peft_config" in vars(model)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of what is trained; frozen weights are the same, not a second time in memory."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def merged(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """An ordinary model with W + alpha / rank · B A for weights, from the tensors of the adapted `model`."""
    from peft import LoraModel

    with torch.device("meta"):
        whole = build_model(model.config)
        adapters = LoraModel(whole, cast(Any, model).peft_config[_NAME], _NAME)
    whole.load_state_dict({name: value.cpu() for name, value in tensors.items()}, assign=True)
    adapters.merge_and_unload(safe_merge=True)  # safe: not in the tensors, which may be those of `model`
    return whole


def adapter_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of an adapted model's tensors that belong to the adapter, under peft's names for files."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, dict(tensors), _NAME, save_embedding_layers=False)
    return {_PREFIX + name: value for name, value in found.items()}


def write_adapter(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write the adapter in peft's format into a new folder: `peft.PeftModel.from_pretrained(base, folder)` reads it."""
    folder.mkdir(exist_ok=True)
    held = {name: value.contiguous() for name, value in adapter_tensors(model, tensors).items()}
    save_file(held, folder / _WEIGHTS, metadata={"format": "pt"})
    config = copy.copy(cast(Any, model).peft_config[_NAME])
    config.inference_mode = True  # as in peft's own files, for who loads one
    config.target_modules = sorted(config.target_modules)  # a set, which would be written in any order
    config.save_pretrained(folder)


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors that `write_adapter` wrote."""
    return load_file(folder / _WEIGHTS)


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter in a folder, of peft's format, merged into its weights.

    Raises FileNotFoundError where the folder has none, and ValueError where it does not fit the model.
    """
    check_installed()
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {_CONFIG}, so it is not the folder of an adapter")
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), model, _NAME)
    tensors = {name.removeprefix(_PREFIX): value for name, value in read_adapter(folder).items()}
    outcome = set_peft_model_state_dict(model, tensors, _NAME)
    unread = list(outcome.unexpected_keys)
    missing = [name for name in outcome.missing_keys if ".lora_" in name]
    if unread or missing:
        raise ValueError(
            f"the adapter in {folder} does not fit the model: it has {unread[:3]} too much and {missing[:3]} too "
            "little; take the model that it was trained on"
        )
    return merged(model, model.state_dict())
