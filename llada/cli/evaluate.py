"""`llada evaluate`: the tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llada.cli.asking import AsJSON

if TYPE_CHECKING:
    from rich.table import Table

Dtype = Literal["auto", "float64", "float32", "bfloat16", "float16"]
Device = Annotated[str | None, typer.Option(help="such as cpu; a GPU where there is one, if not given")]


def evaluate(
    model: Annotated[str, typer.Argument(help="folder of a trained model, or a hub id")],
    tasks: Annotated[
        str | None, typer.Option(help="of lm_eval, separated by commas; all of a preset if left out")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="name of a file in configs/evaluate, or a .yaml file")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: samples, shots, sampler.steps, ...")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="folder with task files of your own")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="put questions in the chat layout")] = False,
    limit: Annotated[int | None, typer.Option(help="the first documents of each task", min=1)] = None,
    output: Annotated[Path | None, typer.Option(help="folder for results; the same line goes on in it")] = None,
    batch_size: Annotated[int, typer.Option(help="rows at a time; changes nothing but the time", min=1)] = 32,
    seed: Annotated[int, typer.Option(help="of masks and samplers")] = 0,
    device: Device = None,
    dtype: Annotated[Dtype, typer.Option(help="of the weights; auto: as they were saved")] = "auto",
    allow_code_execution: Annotated[bool, typer.Option(help="run what the model writes, for tasks that do")] = False,
    as_json: AsJSON = False,
) -> None:
    """Measure a model on the tasks of lm-evaluation-harness.

    llada evaluate runs/sft/model --tasks gsm8k --chat --set sampler.gen_length=256 --output runs/eval
    """
    import os
    from functools import partial

    from llada.cli.console import table_console
    from llada.config import apply_overrides
    from llada.eval import evaluation
    from llada.eval.arguments import Source
    from llada.eval.presets import Preset, TaskSettings
    from llada.eval.processes import Processes, load

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if preset is None and not names:
        raise ValueError("nothing to evaluate: give --tasks or --preset")
    chosen = Preset(tasks={name: TaskSettings() for name in names}) if preset is None else Preset.named(preset)
    chosen = chosen.only(names) if names else chosen
    if set_:
        changed = {
            name: apply_overrides(how.model_dump(exclude_unset=True), set_) for name, how in chosen.tasks.items()
        }
        chosen = chosen.replace(tasks=changed)
    chosen = chosen.replace(chat=True) if chat else chosen
    if allow_code_execution:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    manager = evaluation.manager_of(chosen.tasks, include_path)
    processes = Processes(device)
    processes.first_alone(partial(evaluation.check_tasks, chosen, manager, allow_code=allow_code_execution))
    loaded, tokenizer = load(Source(pretrained=model, dtype=dtype), processes)
    how = {"batch_size": batch_size, "seed": seed, "limit": limit, "allow_code": allow_code_execution}
    command = shlex.join(("llada", *sys.argv[1:]))
    found = evaluation.evaluate(loaded, tokenizer, chosen, manager, processes, output=output, command=command, **how)
    if as_json and found:
        typer.echo(json.dumps({"tasks": found}, default=evaluation.plain))
    elif found:
        table_console().print(_table(found))


def _table(found: dict[str, Any]) -> Table:
    """A row for each metric of each task."""
    from rich.table import Table

    table = Table("task", "metric", "value", "± documents", "estimates")
    for result in found.values():
        for name, values in result["results"].items():
            about = ", ".join(f"{key} {value:.3g}" for key, value in result["estimates"].get(name, {}).items())
            for metric, value in values.items():
                label, _, kind = metric.partition(",")
                if kind and not label.endswith("_stderr"):
                    error = values.get(f"{label}_stderr,{kind}")
                    shown = f"{error:.4g}" if isinstance(error, float) else ""
                    table.add_row(name, metric.removesuffix(",none"), f"{value:.5g}", shown, about)
                    name = about = ""
    return table
