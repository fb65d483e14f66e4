"""`llada <command>`: parse, build, call. Each command lives in its own module."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from llada import __version__
from llada.cli import trace
from llada.cli.chat import chat
from llada.cli.compare import compare
from llada.cli.doctor import doctor
from llada.cli.evaluate import evaluate
from llada.cli.experiment import experiment
from llada.cli.export import export
from llada.cli.generate import generate
from llada.cli.infill import infill
from llada.cli.plan import plan
from llada.cli.prepare import prepare
from llada.cli.serve import serve
from llada.cli.train import pretrain, sft
from llada.cli.tune import tune
from llada.cli.ui import ui
from llada.train.signals import EXIT_CODE, Interrupted

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
_PANELS = {
    "Data and training": (prepare, plan, pretrain, sft),
    "Sampling": (generate, infill, chat, tune, trace.app),
    "Measuring": (evaluate, compare, experiment),
    "Sharing": (export, serve, ui),
    "This installation": (doctor,),
}
for panel, members in _PANELS.items():
    for member in members:
        if isinstance(member, typer.Typer):
            app.add_typer(member, name="trace", rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(member)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"llada {__version__}")
        raise typer.Exit


@app.callback()
def llada(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print the version and leave")
    ] = False,
) -> None:
    """Masked diffusion language models: train, sample, measure.

    llada generate runs/quickstart/sft/model "Which is larger, 12 or 31?" --set gen_length=32
    """


def main() -> None:
    """The console script; a mistake of the user is one message, never a traceback.

    Exit codes: 0 done; 1 `llada doctor` found something that fails, and elsewhere a failure that is not foreseen; 2
    refused, with a message; 3 not finite: loss or gradient of a training that diverged, or logits of a model that is
    sampled or measured; 75 stopped by a signal and saved, so that the same command with --resume goes on; 130 stopped
    by Ctrl-C where nothing is trained, without a message.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars, too
    try:
        app()
    except (ValueError, OSError) as error:
        _exit(error, 2)
    except FloatingPointError as error:
        _exit(error, 3)
    except Interrupted as stop:
        _exit(stop, EXIT_CODE)


def _exit(message: Exception, code: int) -> NoReturn:
    print(f"llada: {message}", file=sys.stderr)
    sys.exit(code)
