"""`llada pretrain` and `llada sft`: one YAML file is one run."""

from pathlib import Path
from typing import Annotated

import typer

from llada.config import load_config

Config = Annotated[Path, typer.Argument(help="YAML file of the run")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="values to change, dotted keys")]


def pretrain(config: Config, overrides: Overrides = None) -> None:
    """Train a model from scratch: llada pretrain configs/pretrain/quickstart.yaml seed=1"""
    from llada.train import run
    from llada.train.config import PretrainConfig

    typer.echo(f"model written to {run.pretrain(load_config(PretrainConfig, config, overrides or ()))}")


def sft(config: Config, overrides: Overrides = None) -> None:
    """Fine-tune a checkpoint on conversations: llada sft configs/sft/quickstart.yaml init=runs/pretrain/model"""
    from llada.train import run
    from llada.train.config import SFTConfig

    typer.echo(f"model written to {run.sft(load_config(SFTConfig, config, overrides or ()))}")
