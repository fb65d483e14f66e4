"""What every result is a result of, to be kept beside it and compared before it is continued."""

import hashlib
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llada import __version__
from llada.data.tokenizer import tokenizer_hash


def identity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Hashes of weights and tokenizer, dtype, device, versions."""
    device = model.device
    return {
        "model": fingerprint(model),
        "tokenizer": tokenizer_hash(cast(PreTrainedTokenizerFast, tokenizer)),
        "dtype": str(model.dtype),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "llada": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 (hex) of the configuration and of the names, types, shapes and values of all weights."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
