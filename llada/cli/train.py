"""`llada pretrain` and `llada sft`: one YAML file is one run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada.cli.asking import AsJSON
from llada.config import load_config

if TYPE_CHECKING:
    from llada.train.config import TrainConfig

Config = Annotated[Path, typer.Argument(help="YAML file of the run")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="values to change, dotted keys")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the newest valid checkpoint, or start")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="two steps, a save and a resume; leaves nothing behind")]


def pretrain(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: AsJSON = False,
) -> None:
    """Train a model from scratch.

    llada pretrain configs/pretrain/quickstart.yaml seed=1
    """
    from llada.train.config import PretrainConfig

    _train(load_config(PretrainConfig, config, overrides or ()), resume, dry_run, as_json)


def sft(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: AsJSON = False,
) -> None:
    """Fine-tune a checkpoint on conversations.

    llada sft configs/sft/quickstart.yaml init=runs/pretrain/model
    """
    from llada.train.config import SFTConfig

    _train(load_config(SFTConfig, config, overrides or ()), resume, dry_run, as_json)


def _train(config: TrainConfig, resume: bool, dry_run: bool, as_json: bool) -> None:
    from accelerate import PartialState

    from llada.train.rehearsal import Rehearsal, rehearse
    from llada.train.run import train

    if resume and dry_run:
        raise ValueError("--dry-run tries a save and a resume itself; leave --resume out")
    done = rehearse(config) if dry_run else train(config, resume=resume)
    if not PartialState().is_main_process:
        return
    if isinstance(done, Rehearsal):
        losses = [loss if math.isfinite(loss) else None for loss in done.losses]
        typer.echo(json.dumps(done._asdict() | {"losses": losses}) if as_json else str(done))
    else:
        typer.echo(json.dumps(outcome(done)) if as_json else f"model written to {done}")


def outcome(model: Path) -> dict[str, Any]:
    """What a run has come to, as `--json` prints it.

    Keys: `model`, the folder; `steps`, how many were done; `log`, the last line of log.jsonl; `bound` in nats per
    token of the held-out rows and its standard error `bound_stderr`, null where there are no such rows.
    """
    from llada.train.journal import read_log

    last = read_log(model.parent)[-1]
    bound = {key: last.get(key) for key in ("bound", "bound_stderr")}
    return {"model": str(model), "steps": last["step"], "log": last} | bound
