"""`--dry-run`: two steps of a run, a save and a resume, to learn in a minute what would break in the night."""

import hashlib
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from llada.config import ConfigError
from llada.train.agreement import on_main
from llada.train.batches import Rows, chosen
from llada.train.build import Run, inputs_of, parts, place, processes
from llada.train.checkpoints import checkpoint_path
from llada.train.config import TrainConfig
from llada.train.loop import evaluate
from llada.train.lora import is_adapted
from llada.train.output import check_output
from llada.train.plan import duration
from llada.train.run import steps_of
from llada.train.state import restore, save


def rehearse(config: TrainConfig) -> str:
    """Try a run, leave nothing behind, and say what was tried and what it needs.

    Takes part in the processes it was launched in. Raises ConfigError where the disk is too small, and whatever the run
    would raise.
    """
    accelerator = processes(config)
    check_output(config, inputs_of(config), resume=False)
    run = place(parts(config), accelerator)
    output = Path(config.output).absolute()
    disk = next(folder for folder in (output, *output.parents) if folder.is_dir())
    folder = on_main(accelerator, lambda: Path(tempfile.mkdtemp(prefix=".dry-run-", dir=disk)))
    try:
        report = "\n".join(_rehearsal(run, folder, disk))
        accelerator.wait_for_everyone()  # not where one has failed: the others will not come
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(folder)
    return report


def _rehearsal(run: Run, folder: Path, disk: Path) -> list[str]:
    config, batches = run.parts.config, run.parts.batches
    lines = [f"data: {_checked(batches.rows, batches.noise.mask_token_id)}"]
    logs = steps_of(run, run.begun)
    done, seconds, begun = [], 0.0, time.monotonic()
    for log in islice(logs, 2):
        done.append(log)
        seconds, begun = time.monotonic() - begun, time.monotonic()  # the first step also warms up
    losses = ", ".join(f"{log.loss:.3f}" for log in done)
    lines.append(f"{len(done)} steps: loss {losses}; the last took {seconds:.2f} s")

    position = run.begun._replace(step=len(done))
    begun = time.monotonic()
    save(folder, run.trained, run.parts.tokenizer, position, keep=1, accelerator=run.accelerator)
    checkpoint = checkpoint_path(folder, position.step)
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    lines.append(f"save: {size / 1e6:.1f} MB in {time.monotonic() - begun:.2f} s")
    result = sum(p.numel() * p.element_size() for p in run.trained.model.parameters()) * (1 + (config.ema is not None))
    result = result if is_adapted(run.trained.model) else size
    lines.append(on_main(run.accelerator, lambda: _disk(config, size, result, shutil.disk_usage(disk).free)))

    after = [_weights(run.trained.model) for _ in islice(logs, 1)]  # none where the run has two steps
    restore(checkpoint, run.trained, run.begun)
    again = [_weights(run.trained.model) for _ in islice(steps_of(run, position), 1)]
    same = "the same bit for bit" if after == again else "not the same bits: the kernels here are not reproducible"
    lines.append(f"resume: the next step is {same}" if after else "resume: the checkpoint loads")

    if run.parts.heldout is not None:
        few = range(min(len(run.parts.heldout), 2 * run.accelerator.num_processes))
        rows = chosen(run.parts.heldout, few)
        noise, objective = run.parts.measure
        bound = evaluate(run.trained.model, rows, noise, objective=objective, batch_size=1, accelerator=run.accelerator)
        lines.append(f"held-out bound of {len(few)} rows: {bound.value:.3f} nats per token")
    return [*lines, f"whole run: about {duration(seconds * config.steps)} for {config.steps} steps, evaluation aside"]


def _checked(rows: Rows, mask_token_id: int, most: int = 20_000) -> str:
    """Look through rows for the mask token, which training refuses; ConfigError names the first that has it."""
    for index in range(min(len(rows), most)):
        row: Any = rows[index]
        if ((row["x0"] == mask_token_id) & row.get("maskable", True)).any():
            raise ConfigError(f"row {index} of the training data holds the mask token; prepare the data without it")
    return f"{len(rows)} rows, {min(len(rows), most)} of them looked through"


def _disk(config: TrainConfig, checkpoint: int, result: int, free: int) -> str:
    """Whether the disk takes the checkpoints that stay, the one being written, and the result."""
    needed = checkpoint * (config.checkpoint_keep + 1) + result
    if needed > free:
        raise ConfigError(
            f"the run needs {needed / 1e9:.1f} GB for {config.checkpoint_keep} checkpoints, the one being written and "
            f"the result, but {free / 1e9:.1f} GB are free; make room, or lower checkpoint_keep"
        )
    return f"disk: {needed / 1e6:.0f} MB needed, {free / 1e9:.1f} GB free"


def _weights(model: nn.Module) -> str:
    """A digest of this process's parameters."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        digest.update(local.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
