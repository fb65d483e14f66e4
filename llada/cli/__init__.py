"""`llada <command>`: parse, build, call. Each command lives in its own module."""

import os
import sys

import typer

from llada.cli.generate import generate
from llada.cli.prepare import prepare
from llada.cli.train import pretrain, sft

app = typer.Typer(help="Masked diffusion language models.", no_args_is_help=True, pretty_exceptions_enable=False)
for command in (prepare, pretrain, sft, generate):
    app.command()(command)


def main() -> None:
    """The console script: a mistake of the user is one message and exit code 2, never a traceback."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars, too
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"llada: {error}", file=sys.stderr)
        sys.exit(2)
