"""A canvas in the terminal while it is revealed: colour is confidence, new tokens and new masks are marked."""

import time
from collections.abc import Iterable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.sampling.denoise import State
from llada.show.frames import Frame, Frames, Mark, probability_of
from llada.show.levels import LEVELS, level_of
from llada.show.pieces import END, pieces

MASK, REMASKED = "░", "▒"


def painted(frame: Frame, tokenizer: PreTrainedTokenizerBase, start: int = 0) -> Text:
    """The text from a position on. A line break is shown as one; a control token is a dot."""
    text = Text()
    for place, piece in enumerate(pieces(tokenizer, frame.ids, frame.hidden)):
        if place < start:
            continue
        mark = frame.marks[place]
        if mark is Mark.MASKED:
            text.append(MASK, Style(dim=True))
        elif mark is Mark.REMASKED:
            text.append(REMASKED, Style(color=LEVELS[-1][1], bold=True))
        else:
            shown = END if piece.special else piece.text
            text.append(shown, _style(mark, frame.probability[place], dim=piece.special))
    return text


def legend(frame: Frame) -> Text:
    """How far it is, and what the colours mean."""
    text = Text(f"step {frame.step}, {frame.masks} masks left   ", Style(dim=True))
    for least, colour in LEVELS:
        text.append(f"p ≥ {least:g} " if least else "less ", Style(color=colour))
    text.append(f"  {MASK} mask  {REMASKED} masked again  ", Style(dim=True))
    return text.append("new", Style(bold=True, underline=True))


def watch(
    states: Iterable[State],
    canvas: Tensor,
    mask_token_id: int,
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
    *,
    start: int = 0,
    delay: float = 0.0,
) -> Iterator[State]:
    """The same states, the first row of each shown in place; when they end, nothing of it is left on the screen.

    Args:
        canvas: tokens (B, L) that the sampler was given.
        start: the first position that is shown.
        delay: seconds that are waited after each step.
    """
    made = Frames(canvas[0].cpu(), mask_token_id)
    with Live(console=console, transient=True, auto_refresh=False, vertical_overflow="visible") as screen:

        def show(frame: Frame) -> None:
            screen.update(Group(painted(frame, tokenizer, start), legend(frame)), refresh=True)

        show(made.first)
        for state in states:
            show(made.after(state.canvas[0].cpu(), probability_of(state, 0)))
            time.sleep(delay)
            yield state


def _style(mark: Mark, probability: float, *, dim: bool) -> Style:
    if mark is Mark.GIVEN:
        return Style()
    fresh = mark is Mark.FRESH
    return Style(color=LEVELS[level_of(probability)].colour, bold=fresh, underline=fresh, dim=dim and not fresh)
