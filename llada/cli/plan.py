"""`llada plan`: what a training run will take, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llada.config import load_config, read_yaml

if TYPE_CHECKING:
    from llada.train import plan as planning
    from llada.train.build import Parts


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of a pretraining or fine-tuning run")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    devices: Annotated[int, typer.Option(help="that share the run", min=1)] = 1,
    probe: Annotated[bool, typer.Option(help="measure a few steps on this machine")] = True,
) -> None:
    """Print parameters, tokens, arithmetic, memory and time of a run: llada plan configs/pretrain/quickstart.yaml"""
    from rich.console import Console
    from rich.table import Table

    from llada.train import plan as planning
    from llada.train.build import parts
    from llada.train.config import PretrainConfig, SFTConfig

    tunes = "init" in read_yaml(config) or any(text.startswith("init=") for text in overrides or ())
    settings = load_config(SFTConfig if tunes else PretrainConfig, config, overrides or ())
    if settings.batch_size % devices:
        raise ValueError(f"batch_size={settings.batch_size} cannot be shared equally by {devices} devices")
    if settings.sharding == "full" and devices == 1:
        raise ValueError("sharding: full needs several devices; give --devices, or set sharding=none")
    pieces = parts(settings)
    made = planning.plan(pieces, devices)
    table = Table("", "", title=str(config), show_header=False)
    table.add_row("parameters", f"{made.parameters:,} ({made.outside_blocks:,} outside the blocks)")
    if made.trained < made.parameters:
        table.add_row("trained", f"{made.trained:,} of them, in adapters")
    table.add_row("data", f"{made.rows:,} rows; the run goes through them {made.epochs:.2f} times")
    table.add_row("tokens", f"{made.tokens_per_step:,} a step, {made.tokens:,} in {settings.steps:,} steps")
    flops = made.flops_per_step
    table.add_row("arithmetic", f"{flops:.3g} FLOPs a step, {flops * settings.steps:.3g} in all")
    for name, size in made.memory.items():
        table.add_row(f"memory: {name}", _gigabytes(size))
    table.add_row("memory per device", _gigabytes(made.total_memory))
    Console().print(table)
    typer.echo(f"time: {_time(pieces, made, devices) if probe else 'not measured (--no-probe)'}")


def _time(pieces: Parts, made: planning.Plan, devices: int) -> str:
    from llada.train import plan as planning

    free = planning.available_memory()
    needed = planning.plan(planning.share_of_one(pieces, devices)).total_memory
    if needed > free:
        return f"not measured: {_gigabytes(free)} of memory are free here, and it takes {_gigabytes(needed)}"
    seconds = planning.probe(pieces, devices)
    steps = pieces.config.steps
    speed = made.flops_per_step / devices / seconds
    return f"{planning.duration(seconds * steps)}: {seconds:.3g} s a step on this machine, {speed:.2g} FLOP/s a device"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
