"""From a configuration to the parts of a training run: processes, data, model, optimisers. Nothing is written.

All that a setting means where it meets data, model and processes is said here, hence the length.
"""

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llada.config import ConfigError, read_yaml
from llada.data.chat import ChatRows
from llada.data.conversations import scan_conversations
from llada.data.tokenizer import read_tokenizer
from llada.data.tokens import TokenRows
from llada.model.baseline import autoregressive_config, load_autoregressive, new_autoregressive, read_autoregressive
from llada.model.checkpoint import load_pretrained, read_description
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Batches, Rows, chosen
from llada.train.config import PretrainConfig, PumaConfig, SFTConfig, TrainConfig, lora_of
from llada.train.dropout import keyed
from llada.train.loop import prepare
from llada.train.lora import adapt, check_installed, twin
from llada.train.mixture import Mixture
from llada.train.objectives import ELBO, OBJECTIVES, Noise, Objective
from llada.train.optim import OPTIMIZERS
from llada.train.puma import Pool, Stages
from llada.train.sharding import shard
from llada.train.state import Position, Trained, fingerprint, weights_fingerprint


@dataclass(frozen=True)
class Parts:
    """What the configuration, the data and the model's description say; the model itself is not made yet."""

    config: TrainConfig
    model_config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    batches: Batches
    heldout: Rows | None  # what is measured
    per: Literal["token", "row"]  # what the loss is averaged over

    @property
    def measure(self) -> tuple[Noise, Objective]:
        """How held-out rows are measured: by a bound, with the numbers of masks exact, and responses alone.

        Nothing follows a response, unless the model has seen none without the one end of sequence.
        """
        noise, objective = self.batches.noise, self.batches.objective
        plain = Noise(
            noise.mask_token_id,
            noise.pad_token_id,
            bos_token_id=noise.bos_token_id,
            eos_padding=noise.eos_padding or not objective.masks,
            block_length=noise.block_length,
        )
        return plain, objective if objective.measures else ELBO


@dataclass(frozen=True)
class Run:
    """Parts, placed on the devices of their processes."""

    parts: Parts
    accelerator: Accelerator
    wrapped: nn.Module  # the model as it is called in training
    trained: Trained
    begun: Position  # before the first step


def inputs_of(config: TrainConfig) -> list[str]:
    """The files and folders that a run reads."""
    if isinstance(config, PretrainConfig):
        return config.folders
    assert isinstance(config, SFTConfig)
    return [config.init, config.train, *([config.heldout] if config.heldout else [])]


def processes(config: TrainConfig) -> Accelerator:
    """The processes that take part. Raises ConfigError where they are not as many as were launched."""
    torch.set_flush_denormal(True)  # near-zero Adam moments make CPUs several times slower
    for tracker in config.trackers:
        if find_spec(tracker) is None:
            raise ConfigError(f"trackers: {tracker} is not installed; `pip install {tracker}`, or leave it out")
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        cpu=not torch.accelerator.is_available(),  # accelerate joins several CPU processes only when told so
        log_with=list(config.trackers) or None,
        project_dir=config.output,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],  # else gradients exist twice
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise ConfigError(f"{expected} processes were launched, but {accelerator.num_processes} take part")
    if config.sharding == "full" and accelerator.num_processes == 1:
        raise ConfigError("sharding: full needs several processes; launch with torchrun, or set sharding=none")
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM) or (
        accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2
    ):
        raise ConfigError(
            f"accelerate's configuration asks for {accelerator.distributed_type.value}, which is not supported: it "
            "would take the optimiser step, and the checks before it, out of our hands; use sharding=full, or "
            "configs/accelerate/fsdp2.yaml"
        )
    if accelerator.is_fsdp2 and (config.sharding == "full" or config.ema is not None):
        raise ConfigError(
            "accelerate's configuration shards the model already, without an average; set sharding=none and no ema, or "
            "leave the sharding to sharding=full under configs/accelerate/ddp.yaml"
        )
    if accelerator.is_fsdp2 and lora_of(config):
        raise ConfigError(
            "accelerate's configuration shards the model, which is not tried with lora; use sharding=full under "
            "configs/accelerate/ddp.yaml"
        )
    set_seed(config.seed)
    return accelerator


def parts(config: TrainConfig) -> Parts:
    """Read the data, and how large the model is."""
    return _pretraining(config) if isinstance(config, PretrainConfig) else _fine_tuning(cast(SFTConfig, config))


def place(parts: Parts, accelerator: Accelerator) -> Run:
    """Make model and optimisers and put them on their devices, replicated or sharded."""
    config, model = parts.config, _model(parts)
    begun = Position(data=fingerprint(parts.batches.rows))
    if lora := lora_of(config):
        begun = begun._replace(base=weights_fingerprint(model))
        adapt(model, **lora.model_dump(), base=cast(SFTConfig, config).init, seed=config.seed)
    if config.gradient_checkpointing:
        with warnings.catch_warnings():  # the newest transformers have another name for it, the older ones only this
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable()
    average = None if config.ema is None else twin(model)
    if config.sharding == "full":
        shard(model, accelerator)
        average = None if average is None else shard(average, accelerator)
    elif average is not None:
        average.to(accelerator.device)
    if config.compile:  # block by block: all have the same code, so it is compiled once
        for block in cast(Any, model.base_model).layers:
            block.compile()
    optim = config.optim
    build = OPTIMIZERS[optim.optimizer]
    raw: list[Optimizer] = build(model, weight_decay=optim.weight_decay, betas=(optim.beta1, optim.beta2))
    wrapped, optimizers = prepare(model, raw, accelerator)
    return Run(parts, accelerator, wrapped, Trained(model, optimizers, average, pool_of(parts)), begun)


def pool_of(parts: Parts) -> Pool | None:
    """A pool for the batches of `puma`; None with another objective."""
    if parts.config.objective != "puma":
        return None
    puma = parts.config.puma or PumaConfig()
    growth = {} if puma.growth is None else puma.growth.model_dump()
    return Pool(parts.batches, Stages(puma.stages, **growth), puma.threshold)


def model_config(model: Mapping[str, Any] | str, length: int, tokenizer: PreTrainedTokenizerBase) -> LLaDAConfig:
    """Sizes, or those of a YAML file, with the vocabulary of the tokenizer; rows of `length` where they name none."""
    sizes = dict(read_yaml(model)) if isinstance(model, str) else dict(model)
    named = sizes.get("vocab_size")
    if isinstance(named, int) and len(tokenizer) > named:
        raise ConfigError(
            f"model.vocab_size={sizes['vocab_size']} is smaller than the tokenizer's {len(tokenizer)} tokens"
        )
    tokens = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "eot_token_id": tokenizer.get_vocab().get("<|eot_id|>"),
    }
    for name in tokens.keys() & sizes.keys() - {"vocab_size"}:
        if sizes[name] != tokens[name]:
            raise ConfigError(f"model.{name}={sizes[name]} is not the tokenizer's {tokens[name]}; leave it out")
    values = {"max_sequence_length": length, **tokens, **sizes}
    if "self" in sizes:  # what Python would take for the object
        raise ConfigError("unknown key 'model.self'; a LLaDA has no such setting; remove it")
    try:
        return LLaDAConfig(**values)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def _pretraining(config: PretrainConfig) -> Parts:
    for folder in config.folders:
        if not (Path(folder) / "tokenizer" / "tokenizer_config.json").is_file():
            raise ConfigError(f"data={folder!r} has no tokenizer; write it with `llada prepare SOURCE {folder}`")
    tokenizer = cast(PreTrainedTokenizerFast, read_tokenizer(Path(config.folders[0]) / "tokenizer"))
    sizes = model_config(config.model, config.length, tokenizer)
    if (config.document_mask or config.split) and sizes.block_length is not None:
        raise ConfigError("document_mask and split are for attention without blocks; set model.block_length=null")
    described: PreTrainedConfig = sizes
    if config.objective == "autoregressive":
        try:
            described = autoregressive_config(sizes, bos_token_id=_first_token(tokenizer))
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
    rows = partial(TokenRows, length=config.length, tokenizer=tokenizer, documents=config.document_mask)
    train, heldout = ([rows(Path(folder) / split) for folder in config.folders] for split in ("train", "heldout"))
    if isinstance(config.data, str):
        return _parts(config, described, tokenizer, train[0], heldout[0], "token")
    try:
        mixed, measured = (Mixture(corpora, list(config.data.values())) for corpora in (train, heldout))
    except ValueError as error:
        raise ConfigError(f"data: {error}") from None
    once = chosen(measured, measured.without_repetition().tolist())
    return _parts(config, described, tokenizer, mixed, once, "token", mixed.order)


def _fine_tuning(config: SFTConfig) -> Parts:
    if config.lora is not None:
        check_installed()
    causal = config.objective == "autoregressive"
    described, tokenizer = read_autoregressive(config.init) if causal else read_description(config.init)
    if tokenizer is None:
        raise ConfigError(f"init={config.init!r} has no tokenizer, which fine-tuning needs")
    if not config.eos_padding and config.max_length >= described.max_position_embeddings:
        raise ConfigError(
            f"max_length={config.max_length} and the end of sequence after it do not fit into the model's "
            f"max_sequence_length={described.max_position_embeddings}; lower max_length"
        )
    if config.block_length is not None:
        cast(LLaDAConfig, described).block_length = config.block_length
    options = {"max_length": config.max_length, "too_long": config.too_long, "bad_rows": config.bad_rows}
    train, heldout = (
        None if source is None else ChatRows(scan_conversations(source), tokenizer, **options)
        for source in (config.train, config.heldout)
    )
    for source, rows in ((config.train, train), (config.heldout, heldout)):
        if rows is not None and rows.left_out.total and os.environ.get("RANK", "0") == "0":
            print(f"llada: left out of {source}: {rows.left_out}", file=sys.stderr)
    assert train is not None
    return _parts(config, described, tokenizer, train, heldout, config.per)


def _model(parts: Parts) -> PreTrainedModel:
    config, causal = parts.config, parts.config.objective == "autoregressive"
    if isinstance(config, SFTConfig):
        model = (load_autoregressive if causal else load_pretrained)(config.init, dtype=torch.float32)[0]  # masters
        if config.block_length is not None:
            model.config.block_length = config.block_length
        return model
    config = cast(PretrainConfig, config)
    return new_model(model_config(config.model, config.length, parts.tokenizer), parts.tokenizer, causal=causal)


def new_model(sizes: LLaDAConfig, tokenizer: PreTrainedTokenizerBase, *, causal: bool) -> PreTrainedModel:
    """With random weights: a LLaDA, or the autoregressive model of its sizes."""
    return new_autoregressive(sizes, bos_token_id=_first_token(tokenizer)) if causal else LLaDAForMaskedLM(sizes)


def _first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What a text begins with; the end of the text before it, where the tokenizer has no token for that."""
    return cast(int | None, tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def _parts(
    config: TrainConfig,
    model_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    train: Rows,
    heldout: Rows | None,
    per: Literal["token", "row"],
    order: Callable[[int, int, int], np.ndarray] | None = None,
) -> Parts:
    if config.objective == "autoregressive":
        mask, pad = cast(int | None, tokenizer.mask_token_id), cast(int | None, tokenizer.eos_token_id)
    else:
        mask, pad = model_config.mask_token_id, model_config.pad_token_id
    if mask is None or pad is None:
        raise ConfigError("training needs a mask token and an end-of-sequence token; the model's config names them not")
    block_length = model_config.block_length if isinstance(model_config, LLaDAConfig) else None
    if config.objective == "block_diffusion" and block_length is None:
        where = "model.block_length" if isinstance(config, PretrainConfig) else "block_length"
        raise ConfigError(f"objective: block_diffusion needs the length of a block; give {where}")
    if heldout is not None and config.evaluate_rows is not None:
        heldout = chosen(heldout, range(min(config.evaluate_rows, len(heldout))))
    if heldout is not None and len(heldout) < 2:
        raise ConfigError("the held-out data has a single row; a standard error needs at least two")
    tuning = config if isinstance(config, SFTConfig) else None
    pretraining = config if isinstance(config, PretrainConfig) else None
    padding = tuning is None or tuning.eos_padding
    noise = Noise(
        mask,
        pad,
        config.seed,
        config.masking,
        config.eps,
        random_length=0.0 if pretraining is None else pretraining.random_length,
        split=0.0 if pretraining is None else pretraining.split,
        bos_token_id=_first_token(tokenizer),
        eos_padding=padding and config.objective != "autoregressive",  # what follows the first end is never generated
        mask_prompt=tuning is not None and tuning.mask_prompt,
        t_min=config.t_min,
        t_max=config.t_max,
        block_length=block_length,
    )
    objective = OBJECTIVES[config.objective]
    if (lora := lora_of(config)) and lora.dropout:
        objective = keyed(objective)
    batches = Batches(train, config.batch_size, noise, config.micro_batch_size, config.workers, objective, order)
    return Parts(config, model_config, tokenizer, batches, heldout, per)
