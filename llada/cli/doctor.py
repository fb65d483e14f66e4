"""`llada doctor`: is everything there, and does it work."""

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False) -> None:
    """Check the installation, the devices, and a tiny run from training to text: llada doctor"""
    import json

    from rich.table import Table

    from llada.checkup import Health, checkup
    from llada.cli.console import table_console

    findings = []
    table = Table("", "", "what was found", "what to do", box=None)
    colours = {Health.GOOD: "green", Health.POOR: "yellow", Health.BAD: "red"}
    for finding in checkup():
        findings.append(finding)
        mark = f"[{colours[finding.health]}]{finding.health.value}[/]"
        table.add_row(mark, finding.what, finding.found, finding.advice)
    if as_json:
        typer.echo(json.dumps([finding._asdict() | {"health": finding.health.value} for finding in findings]))
    else:
        table_console(140).print(table)
    if any(finding.health is Health.BAD for finding in findings):
        raise typer.Exit(1)
