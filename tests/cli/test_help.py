"""What `--help` and `--version` tell of every command."""

import re

import click
import pytest
from console import llada
from typer.main import get_command
from typer.testing import CliRunner

import llada as library
from llada.cli import app


def commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    """The names of a group, of its commands and of their commands."""
    found = [names]
    for name, command in group.commands.items():
        found += commands(command, *names, name) if hasattr(command, "commands") else [(*names, name)]
    return found


@pytest.mark.parametrize("names", commands(get_command(app)), ids=" ".join)
def test_help_of_every_command_has_an_example_of_it_on_a_line_of_its_own(names, monkeypatch):
    told = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "160"})
    assert told.exit_code == 0, told.output
    assert re.search(rf"^\s*{' '.join(['llada', *names])}( .*)?$", told.output, re.MULTILINE), told.output


def test_version_is_that_of_the_package(monkeypatch, capsys):
    llada(monkeypatch, "--version")
    assert capsys.readouterr().out == f"llada {library.__version__}\n"


def test_ctrl_c_ends_a_command_with_its_code_and_without_a_word(monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("llada.checkup.checkup", stopped)
    with pytest.raises(SystemExit) as stop:
        llada(monkeypatch, "doctor")
    assert stop.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
