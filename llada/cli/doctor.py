"""`llada doctor`: is everything there, and does it work."""

import typer

from llada.cli.asking import AsJSON


def doctor(as_json: AsJSON = False) -> None:
    """Check the installation, the devices, and a tiny run from training to text; ends with 1 where something fails.

    llada doctor
    """
    import json

    from rich.table import Column, Table
    from rich.text import Text

    from llada.checkup import Health, checkup
    from llada.cli.console import table_console

    findings = []
    console = table_console(140)
    colours = {Health.GOOD: "green", Health.POOR: "yellow", Health.BAD: "red"}
    for finding in checkup():
        findings.append(finding)
        if not as_json:  # each as it comes, as the last take some seconds
            row = Table.grid(
                Column(width=5), Column(width=14), Column(ratio=3), Column(ratio=2), padding=(0, 2), expand=True
            )
            mark = Text(finding.health.value, colours[finding.health])
            row.add_row(mark, *map(Text, (finding.what, finding.found, finding.advice)))
            console.print(row)
    if as_json:
        typer.echo(json.dumps([finding._asdict() | {"health": finding.health.value} for finding in findings]))
    if any(finding.health is Health.BAD for finding in findings):
        raise typer.Exit(1)
