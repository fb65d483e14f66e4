"""Optimisers with their parameter groups, and learning rates as pure functions of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adamw(
    model: nn.Module, *, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8
) -> list[Optimizer]:
    """AdamW over the trainable parameters; only matrices are decayed, not norms and biases.

    The learning rate is set before every step by the loop.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [AdamW([group for group in groups if group["params"]], lr=0.0, betas=betas, eps=eps, fused=True)]


def muon(
    model: PreTrainedModel, *, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8
) -> list[Optimizer]:
    """Muon (Jordan et al., 2024) over the matrices inside the blocks, AdamW over embedding, LM head, norms and biases.

    Muon's updates are scaled to the size of AdamW's (arXiv:2502.16982, §2.2), so both take one learning rate.
    """
    outside = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    head = model.get_output_embeddings()
    outside |= set() if head is None else set(head.parameters())
    inside = [p for p in model.parameters() if p.requires_grad and p.dim() == 2 and p not in outside]
    momentum = Muon(inside, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    chosen = set(inside)
    rest = nn.ParameterList([p for p in model.parameters() if p not in chosen])
    return [momentum, *adamw(rest, weight_decay=weight_decay, betas=betas, eps=eps)]


OPTIMIZERS = {"adamw": adamw, "muon": muon}


def warmup_stable_decay(
    step: int, *, peak: float, steps: int, warmup: int = 0, decay: int = 0, final: float = 0.0
) -> float:
    """Linear from 0 to `peak` in `warmup` steps, constant, then linear to `final` in the last `decay` steps.

    The schedule of LLaDA (arXiv:2502.09992, §2.2). Step 0 is the first update and has rate peak / warmup.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    remaining = steps - 1 - step
    return peak if remaining >= decay else final + (peak - final) * remaining / decay


def cosine(step: int, *, peak: float, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Linear warm-up, then half a cosine from `peak` to `final` at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
