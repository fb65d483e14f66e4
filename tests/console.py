"""Running the console script inside the test process."""

import sys

from llada.cli import main


def llada(monkeypatch, *arguments: object) -> None:
    """Run the console script in this process."""
    monkeypatch.setattr(sys, "argv", ["llada", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
