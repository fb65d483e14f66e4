"""Writing a model for others: the official layout, whole or not at all, checked by reading it again."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llada.durable import check_folder, followed, partial_folder, publish_folder, write_durably
from llada.model.baseline import load_autoregressive
from llada.model.checkpoint import load_pretrained
from llada.model.modeling import LLaDAForMaskedLM

LARGEST_FILE = "50GB"  # of weights, so that those of most models are in one


class Written(NamedTuple):
    """What is in the folder."""

    parameters: int
    files: list[str]


@torch.no_grad()
def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    files: Mapping[str, bytes],
    *,
    max_shard_size: str | None = None,
) -> Written:
    """Write weights, configuration, tokenizer and other files; then read them, and compare logits bit for bit.

    Args:
        files: what else belongs to the model, such as README.md, by name.
        max_shard_size: of a file of weights, such as "5GB"; None: `LARGEST_FILE`.

    Raises FileExistsError where `output` has anything in it, and ValueError for a size that is none and where what is
    read again predicts otherwise; nothing has the name then.
    """
    check_folder(output)
    if max_shard_size is not None and not re.fullmatch(r"[1-9]\d{0,8}[KMGT]B", max_shard_size):
        raise ValueError(f"max_shard_size={max_shard_size!r} must be a whole number of KB, MB, GB or TB, such as 5GB")
    output = followed(output)  # of a link to an empty folder, the folder
    filled = partial_folder(output)
    try:
        model.save_pretrained(filled, max_shard_size=max_shard_size or LARGEST_FILE)
        tokenizer.save_pretrained(filled)
        for name, content in files.items():
            write_durably(filled / name, content)
        read = load_pretrained if isinstance(model, LLaDAForMaskedLM) else load_autoregressive
        again, its_tokenizer = read(filled)
    except BaseException:
        shutil.rmtree(filled, ignore_errors=True)
        raise
    canvas = _canvas(model.config.vocab_size)
    difference = float((_logits(model, canvas) - _logits(again, canvas)).abs().max())
    if difference or its_tokenizer is None or its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"what was written to {filled} does not predict as the model does: logits differ by up to {difference:g}; "
            "it is left there to be looked at, and nothing is published"
        )
    if output.exists():
        output.rmdir()
    publish_folder(filled, output)
    return Written(sum(p.numel() for p in model.parameters()), sorted(p.name for p in output.iterdir()))


def _canvas(vocabulary: int) -> Tensor:
    """Some tokens (2, 16), the same every time."""
    return torch.randint(vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))


def _logits(model: PreTrainedModel, canvas: Tensor) -> Tensor:
    return model.eval()(canvas.to(model.device)).logits.float().cpu()
