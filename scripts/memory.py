"""The peak of memory between two moments, for the benchmarks."""

import ctypes
import sys
from pathlib import Path

import torch


def start(device: str) -> float:
    """MiB in use now; the peak is counted from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if sys.platform != "linux":
        return 0.0
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is given back, and counts again when it is used
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak(device: str, base: float) -> float | None:
    """MiB above `base` at most since then; None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20 - base
    return _resident("VmHWM") - base if sys.platform == "linux" else None


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
