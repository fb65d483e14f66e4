"""`llada plan`: what a training run will take, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada.cli.asking import AsJSON
from llada.config import load_config, read_yaml

if TYPE_CHECKING:
    from llada.train import plan as planning
    from llada.train.build import Parts


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of a pretraining or fine-tuning run")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    devices: Annotated[int, typer.Option(help="that share the run", min=1)] = 1,
    probe: Annotated[bool, typer.Option(help="measure a few steps on this machine")] = True,
    as_json: AsJSON = False,
) -> None:
    """Print parameters, tokens, arithmetic, memory and time of a run.

    llada plan configs/pretrain/quickstart.yaml
    """
    from rich.console import Console
    from rich.table import Table

    from llada.train.build import parts
    from llada.train.config import PretrainConfig, SFTConfig

    tunes = "init" in read_yaml(config) or any(text.startswith("init=") for text in overrides or ())
    settings = load_config(SFTConfig if tunes else PretrainConfig, config, overrides or ())
    if settings.batch_size % devices:
        raise ValueError(f"batch_size={settings.batch_size} cannot be shared equally by {devices} devices")
    if settings.sharding == "full" and devices == 1:
        raise ValueError("sharding: full needs several devices; give --devices, or set sharding=none")
    pieces = parts(settings)
    made = figures(pieces, devices, probe=probe)
    if as_json:
        typer.echo(json.dumps({"config": str(config)} | made))
        return
    table = Table("", "", title=str(config), show_header=False)
    table.add_row("parameters", f"{made['parameters']:,} ({made['parameters_outside_blocks']:,} outside the blocks)")
    if made["parameters_trained"] < made["parameters"]:
        table.add_row("trained", f"{made['parameters_trained']:,} of them, in adapters")
    table.add_row("data", f"{made['rows']:,} rows; the run goes through them {made['epochs']:.2f} times")
    table.add_row("tokens", f"{made['tokens_per_step']:,} a step, {made['tokens']:,} in {made['steps']:,} steps")
    table.add_row("arithmetic", f"{made['flops_per_step']:.3g} FLOPs a step, {made['flops']:.3g} in all")
    for name, size in made["memory_bytes"].items():
        table.add_row(f"memory: {name}", _gigabytes(size))
    table.add_row("memory per device", _gigabytes(made["memory_bytes_per_device"]))
    Console().print(table)
    typer.echo(f"time: {_time(made['time'])}")


def figures(pieces: Parts, devices: int, *, probe: bool) -> dict[str, Any]:
    """The plan in numbers, as `--json` prints it, beside `config`.

    Keys: `devices`; `parameters`, and of them `parameters_outside_blocks` (embedding, LM head, last norm) and
    `parameters_trained`; `rows` of the data and the `epochs` through them; `tokens_per_step`, `steps`, `tokens`;
    `flops_per_step`, `flops`; `memory_bytes`, of a device, by what they are for, and `memory_bytes_per_device`, their
    sum. `time` is null without a probe; else it has `memory_bytes_free` on this machine, `memory_bytes_needed` there
    for the share of one device, and, null where these do not suffice, `seconds_per_step`, `seconds` of the whole run
    and `flops_per_second_per_device`.
    """
    from llada.train import plan as planning

    made, steps = planning.plan(pieces, devices), pieces.config.steps
    return {
        "devices": devices,
        "parameters": made.parameters,
        "parameters_outside_blocks": made.outside_blocks,
        "parameters_trained": made.trained,
        "rows": made.rows,
        "epochs": made.epochs,
        "tokens_per_step": made.tokens_per_step,
        "steps": steps,
        "tokens": made.tokens,
        "flops_per_step": made.flops_per_step,
        "flops": made.flops_per_step * steps,
        "memory_bytes": dict(made.memory),
        "memory_bytes_per_device": made.total_memory,
        "time": _probed(pieces, made, devices) if probe else None,
    }


def _probed(pieces: Parts, made: planning.Plan, devices: int) -> dict[str, Any]:
    from llada.train import plan as planning

    free = planning.available_memory()
    needed = planning.plan(planning.share_of_one(pieces, devices)).total_memory
    seconds = planning.probe(pieces, devices) if needed <= free else None
    return {
        "memory_bytes_free": free,
        "memory_bytes_needed": needed,
        "seconds_per_step": seconds,
        "seconds": None if seconds is None else seconds * pieces.config.steps,
        "flops_per_second_per_device": None if seconds is None else made.flops_per_step / devices / seconds,
    }


def _time(found: dict[str, Any] | None) -> str:
    from llada.train import plan as planning

    if found is None:
        return "not measured (--no-probe)"
    if found["seconds"] is None:
        free, needed = _gigabytes(found["memory_bytes_free"]), _gigabytes(found["memory_bytes_needed"])
        return f"not measured: {free} of memory are free here, and it takes {needed}"
    told = f"{found['seconds_per_step']:.3g} s a step on this machine"
    return f"{planning.duration(found['seconds'])}: {told}, {found['flops_per_second_per_device']:.2g} FLOP/s a device"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
