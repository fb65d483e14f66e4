"""`llada chat`: talk with a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llada.cli.asking import Delay, Device, Fields, Sampler, Seed, load, streamed

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from llada.cli.session import Session
    from llada.sampling.denoise import State


def chat(
    model: Annotated[Path, typer.Argument(help="folder of a fine-tuned model")],
    sampler: Sampler = "low_confidence",
    set_: Fields = None,
    system: Annotated[str | None, typer.Option(help="what the model is told before all else")] = None,
    watch: Annotated[bool, typer.Option(help="show the canvas as it is revealed; of no effect in a pipe")] = True,
    delay: Delay = 0.0,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Talk with a model; /help tells what can be typed.

    llada chat runs/quickstart/sft/model --set gen_length=32
    """
    import sys

    from rich.console import Console

    from llada.cli.session import Session

    if delay and not watch:
        raise ValueError("--delay has no effect with --no-watch; leave one of them out")
    if sys.stdin.isatty():
        import readline  # noqa: F401  # arrow keys and history, where the system has it
    loaded = load(model, sampler, set_, device)
    session = Session(*loaded, seed=seed)
    if system:
        session.take(f"/system {system}")
    console = Console(highlight=False)
    if console.is_terminal:
        console.print("/help tells what can be typed; Ctrl-C stops an answer, Ctrl-D leaves.", style="dim")
    while (line := _line(console)) is not None:
        try:
            effect = session.take(line)
            if effect.text:
                console.print(effect.text, style="dim", markup=False)
            if effect.ends:
                return
            if effect.asks:
                _answer(session, console, watch=watch, delay=delay)
        except (ValueError, OSError, FloatingPointError) as error:
            console.print(f"llada: {error}", style="bold", markup=False)


def _line(console: Console) -> str | None:
    """What is typed next; None at the end of input."""
    try:
        return input(_prompt(console))
    except EOFError:
        if console.is_terminal:
            console.print()
        return None
    except KeyboardInterrupt:
        console.print("\nCtrl-D or /quit leaves.", style="dim")
        return ""


def _prompt(console: Console) -> str:
    """Given to `input`, so that line editing knows of it; what lies between \\1 and \\2 takes no room there."""
    import sys

    if not console.is_terminal:
        return ""
    plain = not sys.stdin.isatty() or console.no_color or console.is_dumb_terminal
    return "> " if plain else "\001\033[1m\002> \001\033[0m\002"


def _answer(session: Session, console: Console, *, watch: bool, delay: float) -> None:
    from llada.show import terminal

    watched = watch and console.is_terminal

    def shown(states: Iterator[State], canvas: Tensor, start: int) -> Iterator[State]:
        if not watched:
            return streamed(states, start, session.tokenizer)
        mask = session.model.config.mask_token_id
        return terminal.watch(states, canvas, mask, session.tokenizer, console, start=start, delay=delay)

    try:
        out = session.answer(shown)
    except KeyboardInterrupt:
        console.print("stopped; nothing of it is kept, and the question can be said again", style="dim")
        return
    text = session.messages[-1]["content"]
    empty = console.is_terminal and not text.strip()
    if empty:
        console.print("(an empty answer)", style="dim")
    elif watched or session.sampler.longest is not None:  # without states, nothing is printed yet
        console.print(text, markup=False, soft_wrap=True)
    if console.is_terminal:
        console.print(f"{int(out.forward_passes)} forward passes", style="dim")
