"""What the benchmarks share: models of one size, and time and memory measured side by side."""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedModel

import llada
from llada.model.baseline import new_autoregressive

MASK, EOS = 3, 1
T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """What one way to do something gave and took."""

    result: T
    seconds: float  # of its fastest run
    memory: float | None  # MiB, peak of its last run above what was in use before; None where the system does not tell


def side_by_side(runs: Mapping[str, Callable[[], T]], repeats: int, device: str) -> dict[str, Measured[T]]:
    """Run all in turn, `repeats` times over, so that what else the machine does meanwhile befalls them alike."""
    measured: dict[str, Measured[T]] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            base = _memory_in_use(device)
            begun = time.perf_counter()
            result = run()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds, extra = time.perf_counter() - begun, _peak_above(base, device)
            if name in measured:
                seconds = min(seconds, measured[name].seconds)
            measured[name] = Measured(result, seconds, extra)
    return measured


def config(vocabulary: int, length: int = 1024) -> llada.LLaDAConfig:
    """The sizes at which the project states its targets: 25 M parameters besides the embeddings."""
    return llada.LLaDAConfig(
        d_model=512,
        n_layers=8,
        n_heads=8,
        mlp_hidden_size=1408,
        vocab_size=vocabulary,
        mask_token_id=MASK,
        eos_token_id=EOS,
        max_sequence_length=length,
    )


def masked_model(vocabulary: int, device: str, length: int = 1024) -> llada.LLaDAForMaskedLM:
    """A LLaDA with random weights."""
    torch.manual_seed(0)
    return llada.LLaDAForMaskedLM(config(vocabulary, length)).to(torch.device(device))  # pyright: ignore


def causal_model(vocabulary: int, device: str) -> PreTrainedModel:
    """An autoregressive model of the same sizes with random weights."""
    torch.manual_seed(0)
    return new_autoregressive(config(vocabulary)).to(torch.device(device))  # pyright: ignore


def _memory_in_use(device: str) -> float:
    """MiB in use now; the peak is counted from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if sys.platform != "linux":
        return 0.0
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is given back, and counts again when it is used
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _peak_above(base: float, device: str) -> float | None:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20 - base
    return _resident("VmHWM") - base if sys.platform == "linux" else None


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
