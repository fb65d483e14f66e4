"""What a checkpoint holds: the model, the optimisers, and where in the run it stands. No random state: there is none.

Everything random in training is a function of the step (`llada.train.noise`), so weights, moments and a step number
are the whole state, and with `puma` what is masked of its rows. A checkpoint of replicated processes (one process, DDP)
is safetensors and JSON:

    model/                   the model in the official layout with its tokenizer; `llada generate` takes it as it is
    optimizer.safetensors    the optimisers' tensors as `parameter/key`
    ema/                     the averaged model, where there is one
    pool.safetensors         which tokens are masked in each slot of the pool (`llada.train.puma`), where there is one
    state.json               the position

Where adapters are trained (`llada.train.lora`), `model/` is without weights, and `adapter/` and `ema_adapter/` hold the
adapters in peft's format; the model below them is the one that the run began with.

A sharded model (FSDP2) is written by all processes through torch's distributed checkpoints into `shards/` instead,
whose metadata is a pickle: load only your own. Either kind resumes at any number of processes, sharded or not.

Saving and restoring stand in one file, since each of these parts is written and read by the same names.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llada.durable import partial_folder, partial_path, publish_folder, write_durably
from llada.model.baseline import build_model, load_autoregressive, read_autoregressive
from llada.model.checkpoint import load_pretrained, read_description
from llada.model.configuration import LLaDAConfig
from llada.train.agreement import on_main, together
from llada.train.batches import Rows
from llada.train.checkpoints import CheckpointError, begin, checkpoint_path, commit
from llada.train.lora import adapter_tensors, is_adapted, merged, read_adapter, write_adapter
from llada.train.puma import Pool

ADAPTER_OF = {"model": "adapter", "ema": "ema_adapter"}  # the folder of its adapters alone
_POOL = "pool.safetensors"


class Position(NamedTuple):
    """Where in the run a checkpoint stands."""

    step: int = 0  # updates done
    tokens: int = 0  # that counted in the loss so far
    read: int = 0  # tokens that the network has read so far
    seconds: float = 0.0  # of training so far
    skipped: int = 0  # steps left out because loss or gradient was not finite
    log_bytes: int = 0  # length of log.jsonl up to this step
    data: str = ""  # fingerprint of the training rows
    base: str = ""  # fingerprint of the weights below adapters


class Trained(NamedTuple):
    """What changes while training runs."""

    model: PreTrainedModel  # not wrapped; its parameters may be sharded, or frozen below adapters
    optimizers: Sequence[Optimizer]
    average: PreTrainedModel | None = None  # exponential moving average of the weights
    pool: Pool | None = None  # of `puma`


def fingerprint(rows: Rows) -> str:
    """A short name for a data set: its size and the content of 64 rows spread over it."""
    digest = hashlib.sha256(str(len(rows)).encode())
    for index in np.linspace(0, len(rows) - 1, 64).astype(int):
        for name, values in sorted(rows[int(index)].items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def weights_fingerprint(model: nn.Module) -> str:
    """A short name for a model's weights: their names, shapes, and 64 values of each spread over it."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        spread = torch.linspace(0, parameter.numel() - 1, 64, dtype=torch.float64).long()
        values = parameter.detach().flatten()[spread].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def save(
    root: Path,
    trained: Trained,
    tokenizer: PreTrainedTokenizerBase,
    position: Position,
    *,
    keep: int,
    accelerator: Accelerator,
) -> None:
    """Write a checkpoint into `root`, from all processes together; the newest `keep` remain.

    Raises CheckpointError on every process where one of them fails; older checkpoints are then untouched.
    """
    folder = partial_path(checkpoint_path(root, position.step))
    masks = None if trained.pool is None else gather_object(trained.pool.masks())  # of all processes' slots

    def fill() -> None:
        if is_sharded(trained.model):
            with _shard_errors():
                save_shards(_tensors(trained), checkpoint_id=folder / "shards")
        if not accelerator.is_main_process:
            return
        if is_sharded(trained.model):
            trained.model.config.save_pretrained(folder / "model")
        else:
            _write_whole(folder, trained)
        if masks is not None:
            save_file({"masked": pad_sequence(masks, batch_first=True)}, folder / _POOL)
        tokenizer.save_pretrained(folder / "model")
        write_durably(folder / "state.json", json.dumps(position._asdict(), indent=1).encode())

    try:
        on_main(accelerator, lambda: begin(root, position.step))
        together(accelerator, fill)
        on_main(accelerator, lambda: commit(folder, root, position.step, keep))
    except Exception as error:
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {position.step} could not be written to {root}: {error}. Those before it are "
            "untouched: mend this and go on with --resume"
        ) from error


def restore(checkpoint: Path, trained: Trained, begun: Position) -> Position:
    """Give model, optimisers and average the values of a checkpoint, in place; where the run stood.

    Raises CheckpointError where the checkpoint is of another model, optimiser or format, or of a run that has not
    `begun` with the same data and weights.
    """
    try:
        position = Position(**json.loads((checkpoint / "state.json").read_bytes()))
        if position.data != begun.data:
            raise CheckpointError("the training data is not what it was trained on; bring the same rows back")
        if position.base != begun.base:
            raise CheckpointError("init does not hold the weights that its adapters were trained on; bring them back")
        _check_model(checkpoint, trained.model)
        if (checkpoint / "shards").is_dir():
            _read_shards(checkpoint / "shards", trained)
        else:
            _read_whole(checkpoint, trained)
        if trained.pool is not None:
            trained.pool.resume(list(load_file(checkpoint / _POOL)["masked"]), position.step)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint} cannot be gone on from: {error}") from error
    return position


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, accelerator: Accelerator
) -> None:
    """Write weights, configuration and tokenizer in the official layout, whole or not at all; replaces `folder`.

    Adapters are merged into the weights.
    """
    gathered = _gathered(model) if is_sharded(model) else None

    def write() -> None:
        whole = model
        if is_adapted(model):
            whole = merged(model, model.state_dict() if gathered is None else gathered)
        elif gathered is not None:
            with torch.device("meta"):
                whole = build_model(model.config)
            whole.load_state_dict(gathered, assign=True)
        if whole is not model:
            whole.generation_config = model.generation_config
            whole.tie_weights()
        filled = partial_folder(folder)
        whole.save_pretrained(filled)
        tokenizer.save_pretrained(filled)
        publish_folder(filled, folder)

    on_main(accelerator, write)


def save_adapter(model: PreTrainedModel, folder: Path, accelerator: Accelerator) -> None:
    """Write the adapters of a model in peft's format, whole or not at all; replaces `folder`."""
    tensors = _gathered(model, ignore_frozen=True) if is_sharded(model) else model.state_dict()

    def write() -> None:
        filled = partial_folder(folder)
        write_adapter(model, tensors, filled)
        publish_folder(filled, folder)

    on_main(accelerator, write)


def is_sharded(model: nn.Module) -> bool:
    """Whether processes hold parts of the parameters (FSDP2)."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def _gathered(model: PreTrainedModel, *, ignore_frozen: bool = False) -> dict[str, Tensor]:
    """The tensors of a sharded model, whole; on the main process, the others have none."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=ignore_frozen)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def _optimizer_tensors(trained: Trained) -> dict[str, Tensor]:
    """The state of all optimisers as parameter/key → tensor."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in trained.model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for optimizer in trained.optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _tensors(trained: Trained) -> dict[str, Tensor]:
    """Everything under one name each, as torch's distributed checkpoints take it."""
    average = {} if trained.average is None else _changing(trained.average)
    return {
        **{f"model/{name}": value for name, value in _changing(trained.model).items()},
        **{f"optimizer/{name}": value for name, value in _optimizer_tensors(trained).items()},
        **{f"ema/{name}": value for name, value in average.items()},
    }


def _changing(model: PreTrainedModel) -> dict[str, Tensor]:
    """What training changes: all tensors, or those of the adapters."""
    tensors = model.state_dict()
    return adapter_tensors(model, tensors) if is_adapted(model) else tensors


def _write_whole(folder: Path, trained: Trained) -> None:
    for name, model in (("model", trained.model), ("ema", trained.average)):
        if model is None:
            continue
        if is_adapted(model):
            write_adapter(model, model.state_dict(), folder / ADAPTER_OF[name])
        else:
            model.save_pretrained(folder / name)
    if is_adapted(trained.model):
        trained.model.config.save_pretrained(folder / "model")
    save_file(_optimizer_tensors(trained), folder / "optimizer.safetensors")


def _read_whole(checkpoint: Path, trained: Trained) -> None:
    for name, model in (("model", trained.model), ("ema", trained.average)):
        if model is None:
            continue
        if is_adapted(model):
            held = read_adapter(checkpoint / ADAPTER_OF[name])
        else:
            held = (load_pretrained if _masks(model) else load_autoregressive)(checkpoint / name)[0].state_dict()
        _copy(held, _changing(model))
    _set_optimizers(trained, load_file(checkpoint / "optimizer.safetensors"))


@contextmanager
def _shard_errors() -> Iterator[None]:
    """torch's distributed checkpoints raise something that is no Exception."""
    try:
        yield
    except CheckpointException as error:
        raise CheckpointError("; ".join(f"process {rank}: {e}" for rank, (e, _) in error.failures.items())) from error


def _masks(model: PreTrainedModel) -> bool:
    """Whether it is a LLaDA; else it is the autoregressive baseline."""
    return isinstance(model.config, LLaDAConfig)


def _check_model(checkpoint: Path, model: PreTrainedModel) -> None:
    """Raise CheckpointError where the checkpoint's model is described otherwise than the run's."""
    read = read_description if _masks(model) else read_autoregressive
    saved, ours = (config.to_dict() for config in (read(checkpoint / "model")[0], model.config))
    unimportant = {"transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"}
    changed = [name for name in sorted(saved.keys() | ours.keys()) if saved.get(name) != ours.get(name)]
    if told := [f"{n} was {saved.get(n)!r}, is {ours.get(n)!r}" for n in changed if n not in unimportant]:
        raise CheckpointError(f"it holds another model: {'; '.join(told)}")


def _copy(source: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, target in targets.items():
            if source[name].dtype != target.dtype:
                raise CheckpointError(f"{name} was saved as {source[name].dtype}, but is trained as {target.dtype}")
            target.copy_(_shared_like(source[name], target))


def _read_shards(shards: Path, trained: Trained) -> None:
    metadata: Mapping[str, Any] = FileSystemReader(shards).read_metadata().state_dict_metadata
    parameters = dict(trained.model.named_parameters())
    targets = {name: value for name, value in _tensors(trained).items() if not name.startswith("optimizer/")}
    held: dict[str, Tensor] = {}
    for name, entry in metadata.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer" and isinstance(entry, TensorStorageMetadata):
            parameter = parameters[rest.rpartition("/")[0]]
            dtype = entry.properties.dtype
            same = entry.size == parameter.shape
            held[rest] = torch.zeros_like(parameter, dtype=dtype) if same else torch.zeros(entry.size, dtype=dtype)
    with _shard_errors():
        load_shards(targets | {f"optimizer/{name}": value for name, value in held.items()}, checkpoint_id=shards)
    _set_optimizers(trained, held)


def _set_optimizers(trained: Trained, tensors: Mapping[str, Tensor]) -> None:
    held: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        held[parameter][key] = value
    names = {parameter: name for name, parameter in trained.model.named_parameters()}
    for optimizer in trained.optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            mine = held.pop(names[parameter], {})
            optimizer.state[parameter] = {key: _shared_like(value, parameter) for key, value in mine.items()}
    if held:
        raise CheckpointError(f"its optimiser holds tensors of {', '.join(held)}, which this run does not train")


def _shared_like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value` on the parameter's device, and spread over the processes as the parameter is where shapes agree."""
    value = value.detach()
    if isinstance(value, DTensor):
        return value
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value
