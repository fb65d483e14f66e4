"""A canvas in the terminal while it is revealed: colour is confidence, new tokens and new masks are marked.

Where there are no colours, letters tell: upright where the sampler was sure, italic, and faint where it was not.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.text import Span, Text
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llada.sampling.denoise import State
from llada.show.frames import Frame, Frames, Mark, probability_of
from llada.show.levels import LEVELS, level_of
from llada.show.pieces import END, pieces

MASK, REMASKED = "░", "▒"
_COLOURED = tuple(Style(color=level.colour) for level in LEVELS)
_COLOURLESS = (Style(), Style(italic=True), Style(dim=True))  # of the same levels


def painted(frame: Frame, tokenizer: PreTrainedTokenizerBase, start: int = 0, *, colours: bool = True) -> Text:
    """The text from a position on. A line break is shown as one; a control token is a dot."""
    text = Text()
    for place, piece in enumerate(pieces(tokenizer, frame.ids, frame.hidden)):
        if place < start:
            continue
        mark = frame.marks[place]
        if mark is Mark.MASKED:
            text.append(MASK, Style(dim=True))
        elif mark is Mark.REMASKED:
            text.append(REMASKED, _styles(colours)[-1] + Style(bold=True))
        else:
            shown = END if piece.special else piece.text
            text.append(shown, _style(mark, _styles(colours)[level_of(frame.probability[place])], piece.special))
    return text


def legend(frame: Frame, *, colours: bool = True) -> Text:
    """How far it is, and what the colours mean, or the letters in their place."""
    text = Text().append(f"step {frame.step}, {frame.masks} masks left   ", Style(dim=True))
    for level, style in zip(LEVELS, _styles(colours), strict=True):
        text.append(f"p ≥ {level.least:g} " if level.least else "less ", style)
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

    Of a canvas with more lines than the terminal, those are shown that hold what changed last.

    Args:
        canvas: tokens (B, L) that the sampler was given.
        start: the first position that is shown.
        delay: seconds that are waited after each step.
    """
    made, top = Frames(canvas[0].cpu(), mask_token_id), 0
    with Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop") as screen:

        def show(frame: Frame) -> None:
            nonlocal top
            colours = not console.no_color
            lines = list(painted(frame, tokenizer, start, colours=colours).wrap(console, console.width))
            below = legend(frame, colours=colours).wrap(console, console.width)
            room = max(1, console.height - len(below))
            top = _top(lines, room, top)
            screen.update(Group(*lines[top : top + room], *below), refresh=True)

        show(made.first)
        for state in states:
            show(made.after(state.canvas[0].cpu(), probability_of(state, 0)))
            time.sleep(delay)
            yield state


def _top(lines: Sequence[Text], room: int, top: int) -> int:
    """The first line to show of more than there is room for: moved as little as brings in the last one that changed."""
    changed = [number for number, line in enumerate(lines) if any(_bold(span) for span in line.spans)]
    if changed:
        top = min(max(top, changed[-1] - room + 1), changed[-1])
    return max(0, min(top, len(lines) - room))


def _bold(span: Span) -> bool:
    """Whether it is new, or masked again."""
    return isinstance(span.style, Style) and bool(span.style.bold)


def _styles(colours: bool) -> Sequence[Style]:
    return _COLOURED if colours else _COLOURLESS


def _style(mark: Mark, level: Style, special: bool) -> Style:
    if mark is Mark.GIVEN:
        return Style()
    if mark is Mark.FRESH:
        return level + Style(bold=True, underline=True, dim=False)  # faint and bold at once would be neither
    return level + Style(dim=True) if special else level
