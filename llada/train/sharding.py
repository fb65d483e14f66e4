"""The sharding plan: which part of the model is gathered when, over the processes that share it (FSDP2).

A block is gathered for its own forward and backward pass only; embedding, last norm and LM head stay together with the
whole, because tied weights must. `configs/accelerate/fsdp2.yaml` says the same to accelerate.
"""

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from llada.model.modeling import LLaDAForMaskedLM


def shard(model: LLaDAForMaskedLM, accelerator: Accelerator) -> LLaDAForMaskedLM:
    """Spread parameters, gradients and moments over all processes, in place.

    With bf16 the gathered parameters are bfloat16; the shards that the optimiser sees and the sums of gradients stay
    float32.

    Raises ValueError where there is a single process.
    """
    if accelerator.num_processes == 1:
        raise ValueError("sharding: full needs several processes; launch with torchrun or accelerate, or use none")
    half = accelerator.mixed_precision == "bf16"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    model.to(accelerator.device)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model
