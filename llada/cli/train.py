"""`llada pretrain` and `llada sft`: one YAML file is one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llada.config import load_config

if TYPE_CHECKING:
    from llada.train.config import TrainConfig

Config = Annotated[Path, typer.Argument(help="YAML file of the run")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="values to change, dotted keys")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the newest valid checkpoint, or start")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="two steps, a save and a resume; leaves nothing behind")]


def pretrain(config: Config, overrides: Overrides = None, resume: Resume = False, dry_run: DryRun = False) -> None:
    """Train a model from scratch: llada pretrain configs/pretrain/quickstart.yaml seed=1"""
    from llada.train.config import PretrainConfig

    _train(load_config(PretrainConfig, config, overrides or ()), resume, dry_run)


def sft(config: Config, overrides: Overrides = None, resume: Resume = False, dry_run: DryRun = False) -> None:
    """Fine-tune a checkpoint on conversations: llada sft configs/sft/quickstart.yaml init=runs/pretrain/model"""
    from llada.train.config import SFTConfig

    _train(load_config(SFTConfig, config, overrides or ()), resume, dry_run)


def _train(config: TrainConfig, resume: bool, dry_run: bool) -> None:
    from llada.train.rehearsal import rehearse
    from llada.train.run import train

    if resume and dry_run:
        raise ValueError("--dry-run tries a save and a resume itself; leave --resume out")
    if dry_run:
        typer.echo(rehearse(config))
    else:
        typer.echo(f"model written to {train(config, resume=resume)}")
