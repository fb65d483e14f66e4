"""Several processes that share an evaluation, as torchrun and `accelerate launch` start them, each with a model."""

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import gather
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.eval.arguments import Source
from llada.model.checkpoint import device_named, load_pretrained
from llada.model.modeling import LLaDAForMaskedLM

_PATIENCE = timedelta(days=1)  # that processes have with each other: one may read tasks or compute metrics for hours


def launched() -> int:
    """The number of processes that a launcher started beside this one, and this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Processes:
    """This process among all; alone where the environment names no others."""

    def __init__(self, device: str | None = None, *, alone: bool = False):
        """Args: device: where the model goes; None: a GPU where there is one. alone: whatever the environment says.

        A GPU that is not there becomes the CPU, as in lm_eval, which asks for cuda:0 on every machine. Raises
        ValueError for any other device that is not there.
        """
        wanted = "cuda" if device is None else device
        absent = wanted.partition(":")[0] == "cuda" and not torch.cuda.is_available()
        self.device = device_named("cpu" if absent else wanted)
        on_cpu = self.device.type == "cpu"
        several = launched() > 1 and not alone
        self._state = PartialState(cpu=on_cpu, timeout=_PATIENCE) if several else None
        self.rank = self._state.process_index if self._state else 0
        self.count = self._state.num_processes if self._state else 1
        if self._state and not on_cpu:
            self.device = self._state.device

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one after another; a number becomes a tensor of one."""
        found = gather(tensor) if self._state else tensor
        assert isinstance(found, Tensor)
        return found

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any]:
        """The objects of all processes, on one of them; nothing on the others."""
        if self._state is None:
            return [obj]
        found = [None] * self.count if self.rank == dst else None
        torch.distributed.gather_object(obj, found, dst=dst)
        return found or []

    def broadcast_object(self, obj: Any) -> Any:
        """The object of the first process, on all of them."""
        if self._state is None:
            return obj
        told = [obj]
        torch.distributed.broadcast_object_list(told, src=0)
        return told[0]

    def first_alone(self, action: Callable[[], object]) -> None:
        """Have the first process do it; no other one goes on before that, and all raise what it raised."""
        own: Exception | None = None
        if self.rank == 0:
            try:
                action()
            except Exception as error:
                own = error
        told = self.broadcast_object(None if own is None else sendable(own))
        if told is not None:
            raise own or told

    def barrier(self) -> None:
        if self._state is not None:
            self._state.wait_for_everyone()


def sendable(error: Exception) -> Exception:
    """The error, or another that says the same and ends a command alike, where no other process could read it."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        known = (kind for kind in (ValueError, OSError, FloatingPointError) if isinstance(error, kind))
        return next(known, RuntimeError)(f"{type(error).__name__}: {error}")


def load(source: Source, processes: Processes) -> tuple[LLaDAForMaskedLM, PreTrainedTokenizerBase]:
    """The model on the device of this process, and its tokenizer, without which nothing can be asked."""
    model, tokenizer = load_pretrained(
        source.pretrained, dtype=dtype_of(source), device=processes.device, mask_token_id=source.mask_token_id
    )
    return model, present(tokenizer, source)


def dtype_of(source: Source) -> torch.dtype | None:
    return None if source.dtype == "auto" else getattr(torch, source.dtype)


def present(tokenizer: PreTrainedTokenizerBase | None, source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer; ValueError where a checkpoint has none."""
    if tokenizer is None:
        raise ValueError(f"{source.pretrained} has no tokenizer, so it cannot be asked in text; save one beside it")
    return tokenizer
