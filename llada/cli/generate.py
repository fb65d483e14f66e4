"""`llada generate`: answer or continue a prompt with a trained model."""

import typer


def generate() -> None:
    typer.echo("")
