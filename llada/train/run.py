"""What `llada pretrain` and `llada sft` do: build, fit, log, evaluate, save."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import Dataset, Subset
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llada.config import ConfigError, read_yaml
from llada.data.chat import ChatRows, read_conversations
from llada.data.tokens import TokenRows
from llada.model.checkpoint import load_pretrained
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Batches, Noise, Rows
from llada.train.config import OptimConfig, PretrainConfig, SFTConfig, TrainConfig
from llada.train.loop import StepLog, evaluate, fit
from llada.train.optim import OPTIMIZERS, cosine, warmup_stable_decay


def pretrain(config: PretrainConfig) -> Path:
    """Train a model from scratch; the folder of the saved model."""
    accelerator = _start(config, inputs=[config.data])
    folder = Path(config.data)
    if not (folder / "tokenizer").is_dir():
        raise ConfigError(f"data={config.data!r} has no tokenizer; write it with `llada prepare SOURCE {config.data}`")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    train = TokenRows(folder / "train", config.length, tokenizer=tokenizer)
    heldout = TokenRows(folder / "heldout", config.length, tokenizer=tokenizer)
    model = LLaDAForMaskedLM(_model_config(config, tokenizer))
    return _train(config, accelerator, model, tokenizer, train, heldout, per="token")


def sft(config: SFTConfig) -> Path:
    """Fine-tune a checkpoint on conversations; the folder of the saved model."""
    inputs = [config.init, config.train, *([config.heldout] if config.heldout else [])]
    accelerator = _start(config, inputs)
    model, tokenizer = load_pretrained(config.init, dtype=torch.float32)  # float32 master weights
    if tokenizer is None:
        raise ConfigError(f"init={config.init!r} has no tokenizer, which fine-tuning needs")
    rows = partial(ChatRows, tokenizer=tokenizer, max_length=config.max_length, too_long=config.too_long)
    train = rows(read_conversations(config.train))
    heldout = None if config.heldout is None else rows(read_conversations(config.heldout))
    return _train(config, accelerator, model, tokenizer, train, heldout, per="row")


def _start(config: TrainConfig, inputs: list[str]) -> Accelerator:
    """The processes of this run, once it is clear that the output folder may be theirs. Nothing is written yet."""
    torch.set_flush_denormal(True)  # near-zero Adam moments make CPUs several times slower
    # accelerate joins several CPU processes only when told that there is no accelerator.
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.accelerator.is_available())
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise ConfigError(f"{expected} processes were launched, but {accelerator.num_processes} take part")
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={config.output!r} is a file; name a folder")
    if output.exists() and any(output.iterdir()) and not config.overwrite:
        raise ConfigError(f"output={config.output!r} exists and is not empty; choose another or set overwrite=true")
    for name in inputs:
        if Path(name).resolve().is_relative_to(output.resolve()):
            raise ConfigError(f"output={config.output!r} holds the input {name!r}, which would be overwritten")
    accelerator.wait_for_everyone()  # all have looked before one writes
    set_seed(config.seed)
    return accelerator


def _model_config(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> LLaDAConfig:
    """The sizes of the config with the vocabulary of the tokenizer."""
    sizes = dict(read_yaml(config.model)) if isinstance(config.model, str) else dict(config.model)
    if len(tokenizer) > sizes.get("vocab_size", len(tokenizer)):
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
    values = {"max_sequence_length": config.length, **tokens, **sizes}
    try:
        return LLaDAConfig(**values)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def _train(
    config: TrainConfig,
    accelerator: Accelerator,
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    train: Rows,
    heldout: Rows | None,
    per: Literal["token", "row"],
) -> Path:
    mask, pad = model.config.mask_token_id, model.config.pad_token_id
    if mask is None or pad is None:
        raise ConfigError("training needs a mask token and an end-of-sequence token; the model's config names them not")
    noise = Noise(
        mask,
        pad,
        seed=config.seed,
        masking=config.masking,
        eps=config.eps,
        random_length=config.random_length if isinstance(config, PretrainConfig) else 0.0,
    )
    batches = Batches(train, config.batch_size, noise, config.micro_batch_size, config.workers)
    measured: Rows | None = heldout
    if heldout is not None and config.evaluate_rows is not None:
        count = min(config.evaluate_rows, len(heldout))
        measured = cast(Rows, Subset(cast(Dataset, heldout), range(count)))
    if measured is not None and len(measured) < 2:
        raise ConfigError("the held-out data has a single row; a standard error needs at least two")
    heldout_noise = Noise(mask, pad)
    optim = config.optim
    build = OPTIMIZERS[optim.optimizer]
    optimizers = build(model, weight_decay=optim.weight_decay, betas=(optim.beta1, optim.beta2))
    output = _claim_output(config, accelerator)
    logs = fit(
        model,
        batches,
        optimizers,
        learning_rate=_learning_rate(optim, config.steps),
        steps=config.steps,
        per=per,
        max_grad_norm=optim.max_grad_norm,
        accelerator=accelerator,
    )
    tokens, seconds, resumed = 0, 0.0, time.monotonic()
    for log in _with_progress(logs, config.steps, accelerator):
        tokens, seconds = tokens + log.tokens, seconds + time.monotonic() - resumed
        record = {**log._asdict(), "tokens_per_second": tokens / seconds, "elapsed": seconds}
        if log.step == config.steps and accelerator.is_main_process:  # before anything else can fail
            save_model(accelerator.unwrap_model(model), tokenizer, output / "model")
        due = log.step == config.steps or (config.evaluate_every and log.step % config.evaluate_every == 0)
        if measured is not None and due:
            rows = config.micro_batch_size or 32
            bound = evaluate(
                model, measured, heldout_noise, batch_size=rows, draws=config.evaluate_draws, accelerator=accelerator
            )
            record |= {"bound": bound.value, "bound_stderr": bound.stderr, "bound_samples": bound.samples}
        if accelerator.is_main_process:
            with (output / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        resumed = time.monotonic()
    accelerator.wait_for_everyone()
    return output / "model"


def _claim_output(config: TrainConfig, accelerator: Accelerator) -> Path:
    """The empty output folder with the run's configuration in it; the main process makes it, just before training."""
    output = Path(config.output)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        for old in output.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        (output / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    accelerator.wait_for_everyone()
    return output


def save_model(model: LLaDAForMaskedLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights, configuration and tokenizer next to the folder, then move them there in one step."""
    partial_folder = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    model.save_pretrained(partial_folder)
    tokenizer.save_pretrained(partial_folder)
    partial_folder.rename(folder)


def read_log(output: str | Path) -> list[dict[str, Any]]:
    """The records of a run's log.jsonl, one per step."""
    lines = (Path(output) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _learning_rate(optim: OptimConfig, steps: int) -> Callable[[int], float]:
    shared = {"peak": optim.learning_rate, "steps": steps, "warmup": optim.warmup, "final": optim.final}
    if optim.schedule == "cosine":
        return lambda step: cosine(step, **shared)
    return lambda step: warmup_stable_decay(step, decay=optim.decay, **shared)


def _with_progress(logs: Iterator[StepLog], steps: int, accelerator: Accelerator) -> Iterator[StepLog]:
    """Show the latest loss on the main process, where it has a terminal."""
    with tqdm(total=steps, unit="step", disable=None if accelerator.is_main_process else True) as bar:
        for log in logs:
            bar.set_postfix(loss=f"{log.loss:.3f}", refresh=False)
            bar.update()
            yield log
