"""The folder of a run: who may write into it, and whether an interrupted run there can go on."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from llada.config import ConfigError
from llada.durable import check_is_folder, followed, partial_path, publish_file
from llada.train.agreement import on_main
from llada.train.checkpoints import newest_valid, set_aside
from llada.train.config import TrainConfig
from llada.train.journal import read_log

# What may change between a run and its continuation: the weights of every step stay what they would have been, or
# (length and end of the learning rate's schedule) the change is what the user asks for. Paths may change because the
# rows behind them are compared.
_CHANGEABLE = {
    *("data", "train", "heldout", "init", "output", "overwrite"),
    *("steps", "optim.decay", "optim.final"),
    *("micro_batch_size", "workers", "sharding", "gradient_checkpointing", "compile", "max_skips", "spike_threshold"),
    *("checkpoint_every", "checkpoint_keep", "trackers", "evaluate_every", "evaluate_draws", "evaluate_rows"),
}


class Output(NamedTuple):
    """The folder of a run, claimed."""

    folder: Path
    checkpoint: Path | None  # from which to go on
    finished: bool  # nothing is left to do

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"


def check_output(config: TrainConfig, inputs: list[str], *, resume: bool) -> None:
    """Raise ConfigError where the folder cannot be this run's; nothing is written."""
    output = Path(config.output)
    try:
        check_is_folder(output)
    except FileExistsError as error:
        raise ConfigError(f"output: {error}") from None
    for name in inputs:
        if followed(Path(name)).is_relative_to(followed(output)):
            raise ConfigError(f"output={config.output!r} holds the input {name!r}, which would be overwritten")
    if resume and config.overwrite:
        raise ConfigError("--resume goes on with the run in the output folder, overwrite=true removes it; choose one")
    unfinished = partial_path(output / "config.json")  # of a kill while the configuration was written
    if not output.exists() or set(output.iterdir()) <= {unfinished}:
        return
    if resume:
        _check_same_run(config, output)
    elif not config.overwrite:
        raise ConfigError(
            f"output={config.output!r} exists and is not empty; choose another, go on with its run (--resume), or set "
            "overwrite=true"
        )


def claim_output(config: TrainConfig, accelerator: Accelerator, *, resume: bool) -> Output:
    """The output folder with the run's configuration in it, and the checkpoint to go on from; the main process looks.

    Without `resume` the folder is emptied. With it, checkpoints that are damaged are set aside as `*.invalid`, and the
    reason is printed. Raises ConfigError where all of them are, and where a finished run has none to go on from.
    """
    folder = Path(config.output)

    def claim() -> Output:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint, finished = None, False
            if resume:
                checkpoint = _newest(folder / "checkpoints")
                finished = checkpoint is None and _is_finished(config, folder)
                begins = "the run has ended already" if finished else "nothing to go on from: starting"
                print(f"llada: {f'going on from {checkpoint}' if checkpoint else begins}", file=sys.stderr)
            else:
                for old in folder.iterdir():
                    shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            publish_file(folder / "config.json", config.model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            raise ConfigError(f"output={config.output!r}: {error}") from error
        return Output(folder, checkpoint, finished)

    return on_main(accelerator, claim)


def _is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether a run without checkpoints has ended; ConfigError where it has, and more steps are asked for."""
    done = len(read_log(folder)) if (folder / "log.jsonl").is_file() else 0
    if not (folder / "model").is_dir() or done == 0:
        return False
    if done < config.steps and json.loads((folder / "config.json").read_bytes())["steps"] == done:
        raise ConfigError(
            f"the run in {config.output!r} ended after {done} steps without a checkpoint to go on from; choose another "
            "output, and checkpoint_every for runs that may become longer"
        )
    return done >= config.steps


def _newest(checkpoints: Path) -> Path | None:
    newest, skipped = newest_valid(checkpoints)
    for path, reason in skipped:
        print(f"llada: skipped {path}: {reason}", file=sys.stderr)
    if newest is None and skipped:
        raise ConfigError(
            f"none of the {len(skipped)} checkpoints in {checkpoints} can be used ({skipped[0].path.name}: "
            f"{skipped[0].reason}); start again with overwrite=true"
        )
    for path, _ in skipped:
        set_aside(path)
    for leftover in checkpoints.glob("step-*.partial"):
        shutil.rmtree(leftover)
    return newest


def _check_same_run(config: TrainConfig, output: Path) -> None:
    """Raise ConfigError where the folder holds another run, or this one with a setting that must not change."""
    try:
        old = _flat(json.loads((output / "config.json").read_bytes()))
    except FileNotFoundError:
        raise ConfigError(f"output={config.output!r} is not empty and holds no run; choose another folder") from None
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{output / 'config.json'} cannot be read: {error}") from None
    values = config.model_dump(mode="json")
    new = values | _flat(values)  # a group under its own name, too, where the run had none
    changed = [
        f"{key} was {value!r}, is {new.get(key)!r}"
        for key, value in old.items()  # a setting that it does not know is newer than the run, and has its default
        if new.get(key) != value and key not in _CHANGEABLE
    ]
    if changed:
        raise ConfigError(
            f"the run in {config.output!r} cannot go on with other settings: {'; '.join(changed)}. Put them back, or "
            "choose another output"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
