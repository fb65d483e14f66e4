"""The sharding plan: which part of the model is gathered when, over the processes that share it (FSDP2).

A block is gathered for its own forward and backward pass only; embedding, last norm and LM head stay together with the
whole, because tied weights must. `configs/accelerate/fsdp2.yaml` says the same to accelerate.
"""

from typing import Any, cast

from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel


def shard(model: PreTrainedModel, accelerator: Accelerator) -> PreTrainedModel:
    """Spread parameters, gradients and moments over all processes, in place; each part goes to its device by itself.

    Parameters are gathered in float32 and computed with in the accelerator's precision: the run is the one that
    replicated processes do.

    Raises ValueError where there is a single process.
    """
    if accelerator.num_processes == 1:
        raise ValueError("sharding: full needs several processes; launch with torchrun or accelerate, or use none")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in cast(Any, model.base_model).layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model
