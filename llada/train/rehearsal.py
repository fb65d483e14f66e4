"""`--dry-run`: two steps of a run, a save and a resume, to learn in a minute what would break in the night."""

import hashlib
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

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


class Rehearsal(NamedTuple):
    """What was tried, and what the run needs; `--dry-run --json` prints it, a loss that is not finite as null."""

    rows: int  # of training data
    rows_looked_through: int
    losses: list[float]  # of the steps that were done
    seconds_per_step: float  # the last one's
    checkpoint_bytes: int
    save_seconds: float
    disk_bytes_needed: int  # for the checkpoints that stay, the one being written, and the result
    disk_bytes_free: int
    resumed_exactly: bool | None  # whether the step after a resume has the same bits; None where the run has no more
    heldout_rows: int  # that were measured; 0 where there are none
    bound: float | None  # of these, in nats per token
    steps: int  # of the whole run
    seconds: float  # of the whole run, about; evaluation aside

    def __str__(self) -> str:
        """The same for people."""
        resumed = {
            None: "the checkpoint loads",
            True: "the next step is the same bit for bit",
            False: "the next step is not the same bits: the kernels here are not reproducible",
        }
        losses = ", ".join(f"{loss:.3f}" for loss in self.losses)
        lines = [
            f"data: {self.rows} rows, {self.rows_looked_through} of them looked through",
            f"{len(self.losses)} steps: loss {losses}; the last took {self.seconds_per_step:.2f} s",
            f"save: {self.checkpoint_bytes / 1e6:.1f} MB in {self.save_seconds:.2f} s",
            f"disk: {self.disk_bytes_needed / 1e6:.0f} MB needed, {self.disk_bytes_free / 1e9:.1f} GB free",
            f"resume: {resumed[self.resumed_exactly]}",
            f"whole run: about {duration(self.seconds)} for {self.steps} steps, evaluation aside",
        ]
        if self.bound is not None:
            lines.insert(-1, f"held-out bound of {self.heldout_rows} rows: {self.bound:.3f} nats per token")
        return "\n".join(lines)


def rehearse(config: TrainConfig) -> Rehearsal:
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
        found = _rehearsal(run, folder, disk)
        accelerator.wait_for_everyone()  # not where one has failed: the others will not come
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(folder)
    return found


def _rehearsal(run: Run, folder: Path, disk: Path) -> Rehearsal:
    config, batches = run.parts.config, run.parts.batches
    looked = _checked(batches.rows, batches.noise.mask_token_id)
    logs = steps_of(run, run.begun)
    losses, seconds, begun = [], 0.0, time.monotonic()
    for log in islice(logs, 2):
        losses.append(log.loss)
        seconds, begun = time.monotonic() - begun, time.monotonic()  # the first step also warms up

    position = run.begun._replace(step=len(losses))
    begun = time.monotonic()
    save(folder, run.trained, run.parts.tokenizer, position, keep=1, accelerator=run.accelerator)
    checkpoint = checkpoint_path(folder, position.step)
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    save_seconds = time.monotonic() - begun
    result = sum(p.numel() * p.element_size() for p in run.trained.model.parameters()) * (1 + (config.ema is not None))
    result = result if is_adapted(run.trained.model) else size
    needed, free = on_main(run.accelerator, lambda: _disk(config, size, result, shutil.disk_usage(disk).free))

    after = [_weights(run.trained.model) for _ in islice(logs, 1)]  # none where the run has two steps
    restore(checkpoint, run.trained, run.begun)
    again = [_weights(run.trained.model) for _ in islice(steps_of(run, position), 1)]
    rows, bound = _measured(run)
    return Rehearsal(
        rows=len(batches.rows),
        rows_looked_through=looked,
        losses=losses,
        seconds_per_step=seconds,
        checkpoint_bytes=size,
        save_seconds=save_seconds,
        disk_bytes_needed=needed,
        disk_bytes_free=free,
        resumed_exactly=after == again if after else None,
        heldout_rows=rows,
        bound=bound,
        steps=config.steps,
        seconds=seconds * config.steps,
    )


def _measured(run: Run) -> tuple[int, float | None]:
    """How many held-out rows were tried, and their bound."""
    if run.parts.heldout is None:
        return 0, None
    few = range(min(len(run.parts.heldout), 2 * run.accelerator.num_processes))
    noise, objective = run.parts.measure
    bound = evaluate(
        run.trained.model,
        chosen(run.parts.heldout, few),
        noise,
        objective=objective,
        batch_size=1,
        accelerator=run.accelerator,
    )
    return len(few), bound.value


def _checked(rows: Rows, mask_token_id: int, most: int = 20_000) -> int:
    """Look through so many rows for the mask token, which training refuses; ConfigError names the first that has it."""
    for index in range(min(len(rows), most)):
        row: Any = rows[index]
        if ((row["x0"] == mask_token_id) & row.get("maskable", True)).any():
            raise ConfigError(f"row {index} of the training data holds the mask token; prepare the data without it")
    return min(len(rows), most)


def _disk(config: TrainConfig, checkpoint: int, result: int, free: int) -> tuple[int, int]:
    """The bytes that the checkpoints that stay, the one being written and the result need, and those that are free."""
    needed = checkpoint * (config.checkpoint_keep + 1) + result
    if needed > free:
        raise ConfigError(
            f"the run needs {needed / 1e9:.1f} GB for {config.checkpoint_keep} checkpoints, the one being written and "
            f"the result, but {free / 1e9:.1f} GB are free; make room, or lower checkpoint_keep"
        )
    return needed, free


def _weights(model: nn.Module) -> str:
    """A digest of this process's parameters."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        digest.update(local.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
