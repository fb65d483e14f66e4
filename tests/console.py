"""Running the console script inside the test process."""

import sys

import pytest

from llada.cli import main


def llada(monkeypatch, *arguments: object) -> None:
    """Run the console script in this process."""
    monkeypatch.setattr(sys, "argv", ["llada", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise


def refusal(monkeypatch, capsys, *arguments: object) -> str:
    """What the console script says to wrong input, without a traceback."""
    with pytest.raises(SystemExit) as stop:
        llada(monkeypatch, *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message
