"""`llada experiment`: one question of the paper, measured, with its table and figure."""

from pathlib import Path
from typing import Annotated

import typer

from llada.cli.asking import AsJSON


def experiment(
    name: Annotated[str, typer.Argument(help="such as precision; each has a file in configs/experiment")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings to change, dotted keys")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="settings in another YAML file")] = None,
    output: Annotated[Path | None, typer.Option(help="folder; runs/experiments/NAME if left out")] = None,
    as_json: AsJSON = False,
) -> None:
    """Perform an experiment.

    llada experiment precision draws=1000
    """
    import json

    import torch

    from llada.cli.console import table_console
    from llada.cli.extras import needed
    from llada.config import load_config

    with needed("plot", "figures"):
        from llada.experiments.experiment import named, perform

    asked = named(name)
    settings = load_config(asked.settings, config or Path(f"configs/experiment/{name}.yaml"), overrides or ())
    folder = output or Path("runs/experiments") / name
    torch.set_flush_denormal(True)
    record = perform(name, settings, folder)
    if as_json:
        typer.echo(json.dumps(record))
        return
    console = table_console()
    console.print(asked.question, style="bold")
    console.print(asked.table(record["measured"]))
    console.print(asked.finding(record["measured"]))
    console.print(f"{record['seconds']:.0f} s; {folder / 'result.json'}, figure.png, figure.svg", soft_wrap=True)
