"""What a run will take, before it is started: parameters, tokens, arithmetic, memory, time.

Numbers of parameters and bytes are counted on the model's description without making it. Activations follow what
autograd keeps per token and block with fused attention, which a test compares with what it does keep. Time is
measured: a few steps of the real run, whose result is thrown away.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice, pairwise
from statistics import mean
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.optim import Muon
from transformers import PreTrainedConfig, PreTrainedModel

from llada.model.baseline import build_model
from llada.model.configuration import LLaDAConfig
from llada.model.head import linear_cross_entropy_bytes
from llada.train.build import Parts, place, pool_of, processes
from llada.train.config import PretrainConfig, SFTConfig, TrainConfig, lora_of
from llada.train.loop import TakesTargets
from llada.train.lora import adapt
from llada.train.objectives import ELBO
from llada.train.optim import OPTIMIZERS
from llada.train.run import steps_of
from llada.train.state import Position


class Plan(NamedTuple):
    """What a run takes."""

    parameters: int
    outside_blocks: int  # of them, embedding, LM head and last norm
    trained: int  # of them; fewer where the run has adapters
    rows: int  # of training data
    epochs: float
    tokens_per_step: int  # with padding
    tokens: int
    flops_per_step: float
    memory: Mapping[str, int]  # bytes per device, by what they are for

    @property
    def total_memory(self) -> int:
        return sum(self.memory.values())


def plan(parts: Parts, devices: int = 1) -> Plan:
    """Count what a run takes on so many devices."""
    config, batches = parts.config, parts.batches
    with torch.device("meta"):
        model = build_model(parts.model_config)
        if lora := lora_of(config):
            adapt(model, **lora.model_dump())
    parameters, trained = _sizes(model)
    blocks = _sizes(_blocks(model))[0]
    pool = pool_of(parts)
    counted = batches if pool is None else replace(batches, objective=ELBO)  # whose masks need no model
    steps = counted.micro_batches(0, 1, 0, min(config.steps, 8))
    read = [batch.call.inputs["input_ids"].numel() for micro_batches in steps for batch in micro_batches]
    tokens_per_step = sum(read) // min(config.steps, 8)
    rows_per_slot = config.steps if pool is None else float(pool.stages.passed(config.steps))
    longest = config.length if isinstance(config, PretrainConfig) else cast(SFTConfig, config).max_length
    attended = longest * batches.objective.halves
    return Plan(
        parameters=parameters,
        outside_blocks=parameters - blocks,
        trained=trained,
        rows=len(batches.rows),
        epochs=rows_per_slot * config.batch_size / len(batches.rows),
        tokens_per_step=tokens_per_step,
        tokens=tokens_per_step * config.steps,
        flops_per_step=tokens_per_step
        * training_flops(parts.model_config, blocks, attended, recompute=config.gradient_checkpointing,
                         asked=batches.objective.asks, adapters=trained if lora else None),
        memory=_memory(config, model, min(config.micro_batch_size or config.batch_size, config.batch_size // devices),
                       longest * batches.objective.reads, devices),
    )  # fmt: skip


def probe(parts: Parts, devices: int = 1, steps: int = 3) -> float:
    """Seconds of a step, measured on this device with the share of one of so many, communication not counted."""
    alone = share_of_one(parts, devices)
    run = place(alone, processes(alone.config))
    times = [time.perf_counter(), *(time.perf_counter() for _ in islice(steps_of(run, Position()), steps + 1))]
    taken = [after - before for before, after in pairwise(times)]
    return mean(taken[1:] or taken)  # the first step also warms up


def share_of_one(parts: Parts, devices: int) -> Parts:
    """The run that a single device with its share of the rows would do, not sharded."""
    config = parts.config
    share = config.batch_size // devices
    micro = min(config.micro_batch_size or share, share)
    smaller = config.replace(batch_size=share, micro_batch_size=micro, sharding="none")
    return replace(parts, config=smaller, batches=replace(parts.batches, batch_size=share, micro_batch_size=micro))


def duration(seconds: float) -> str:
    """A length of time for people."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def available_memory() -> int:
    """Bytes that are free on this process's device."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def training_flops(
    config: PreTrainedConfig,
    block_parameters: int,
    length: int,
    *,
    recompute: bool = False,
    asked: float = 0.5,
    adapters: int | None = None,
) -> float:
    """Floating-point operations of a training step per token: twice as many backward as forward.

    With so many parameters of `adapters` among those of the blocks, all else is frozen, and takes as many backward as
    forward. The LM head runs on the share of the positions that are `asked`: the masked half of them, or all in the
    autoregressive baseline. `recompute`: the blocks run forward once more, but for their last matrix, whose result the
    backward pass does not need where it has no adapter.
    """
    blocks = 2 * block_parameters + 4 * length * config.hidden_size * config.num_hidden_layers
    head = 2 * config.hidden_size * _vocabulary(config) * asked
    last = 2 * config.hidden_size * config.intermediate_size * config.num_hidden_layers if adapters is None else 0
    again = blocks - last if recompute else 0
    spared = 0 if adapters is None else 2 * (block_parameters - adapters) + head  # gradients of frozen weights
    return 3 * (blocks + head) - spared + again


def activation_bytes(
    config: PreTrainedConfig,
    tokens: int,
    *,
    half: bool = False,
    recompute: bool = False,
    adapted: int = 0,
    documents: int = 0,
) -> int:
    """Bytes that autograd keeps of the blocks for a backward pass over so many tokens, without padding.

    `half`: matrices in bfloat16 under autocast, beside their float32 masters; `recompute`: gradient checkpointing, so
    one block at a time and the inputs of all; `adapted`: the ranks of a block's adapters together, at the most, which
    is where all projections have one; `documents`: the length of rows in which each sees its own document, by a mask
    that every block keeps as numbers, with keys and values repeated for all heads.
    """
    d, f, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    kv = config.num_key_value_heads * d // heads
    wide, narrow = (4 * d + heads + 2, 7 * d + 2 * kv + 4 * f) if half else (8 * d + 2 * kv + 4 * f + heads + 2, 0)
    block = 4 * wide + 2 * narrow
    if documents:
        block += (2 if half else 4) * (documents + 2 * (d - kv))
    if adapted:  # the frozen norms keep nothing; in half precision attention's result is there twice
        block += 2 * adapted - 6 * d if half else 4 * adapted - 8 * d
    return tokens * (block + 4 * d * (config.num_hidden_layers - 1) if recompute else block * config.num_hidden_layers)


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    return cast(Any, model.base_model).layers


def _sizes(module: nn.Module) -> tuple[int, int]:
    """The numbers of parameters, and of those that are trained."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _vocabulary(config: PreTrainedConfig) -> int:
    return config.embedding_size if isinstance(config, LLaDAConfig) else config.vocab_size


def _memory(config: TrainConfig, model: PreTrainedModel, rows: int, length: int, devices: int) -> dict[str, int]:
    parameters, trained = _sizes(model)
    block = _sizes(_blocks(model)[0])[0]
    outside = parameters - block * len(_blocks(model))
    optimizers = OPTIMIZERS[config.optim.optimizer](model)
    moments = sum(
        parameter.numel() * (1 if isinstance(optimizer, Muon) else 2)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    shares = devices if config.sharding == "full" else 1
    half = config.mixed_precision == "bf16"
    tokens = rows * length
    recompute = config.gradient_checkpointing
    adapted = 0 if (lora := lora_of(config)) is None else lora.rank * len(lora.targets)
    masks = isinstance(config, PretrainConfig) and (config.document_mask or config.split > 0)
    memory = {
        "weights": 4 * parameters // shares,
        "gradients": 4 * trained // shares,
        "optimiser": 4 * moments // shares,
        # what is frozen is shared with it, if whole
        "average": 4 * (trained if shares == 1 else parameters) // shares if config.ema is not None else 0,
        "gathered weights": 2 * 4 * (block + outside) if shares > 1 else 0,  # used and fetched ahead
        "half-precision copies": 2 * (parameters if shares == 1 else block + outside) if half else 0,
        "activations": activation_bytes(
            model.config, tokens, half=half, recompute=recompute, adapted=adapted, documents=length if masks else 0
        ),
        "logits": _head_bytes(model, tokens, half),  # every position may be asked
    }
    return {name: size for name, size in memory.items() if size}


def _head_bytes(model: PreTrainedModel, tokens: int, half: bool) -> int:
    vocabulary = _vocabulary(model.config)
    if isinstance(model, TakesTargets):
        return linear_cross_entropy_bytes(tokens, model.config.hidden_size, vocabulary, half=half)
    return tokens * vocabulary * (10 if half else 8)  # all logits and their gradient
