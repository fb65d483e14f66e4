"""A trace as pictures: the order of revealing in colours (arXiv:2502.09992, figure 4), and the canvas step by step."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from transformers import PreTrainedTokenizerBase

from llada.show.frames import Frame, Mark
from llada.show.pieces import END, pieces

ACROSS = 64.0  # width of a line, in characters
_GIVEN, _MASKED = "#e8e8e8", "#444444"


def written(tokenizer: PreTrainedTokenizerBase, frame: Frame) -> list[str]:
    """What stands in the box of each token."""
    found = []
    for piece, hidden in zip(pieces(tokenizer, frame.ids, frame.hidden), frame.hidden, strict=True):
        text = END if piece.special else piece.text
        found.append("" if hidden else text.replace("\n", "↵").replace("\t", "⇥"))
    return found


def boxes(axis: Axes, texts: Sequence[str], colours: Sequence[Any]) -> None:
    """Tokens as boxes in lines, each in its colour and as wide as its text."""
    for text, colour, (x, y, width) in zip(texts, colours, _places(texts), strict=True):
        axis.add_patch(Rectangle((x, y), width - 0.12, 0.86, facecolor=colour, edgecolor="none"))
        r, g, b, _ = to_rgba(colour)
        dark = 0.299 * r + 0.587 * g + 0.114 * b < 0.5
        axis.text(x + width / 2, y + 0.45, text, ha="center", va="center", family="monospace", fontsize=8,
                  color="white" if dark else "black", parse_math=False)  # fmt: skip
    axis.set(xlim=(0, ACROSS), ylim=(lines_of(texts), 0), xticks=[], yticks=[])
    axis.set_frame_on(False)


def order_figure(tokenizer: PreTrainedTokenizerBase, frame: Frame, title: str = "") -> Figure:
    """Every token in the colour of the step that fixed it; grey: what was given, dark: [MASK]."""
    norm, texts = Normalize(1, max([2, *frame.revealed_at])), written(tokenizer, frame)
    figure = Figure(figsize=(9.6, max(1.9, 0.9 + 0.26 * lines_of(texts))), layout="constrained")
    axis = figure.add_subplot()
    boxes(axis, texts, [_colour(frame, place, norm) for place in range(len(frame.ids))])
    axis.set_title(title, fontsize=9, loc="left")
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axis, label="step that fixed the token", shrink=0.9)
    return figure


def animate(
    tokenizer: PreTrainedTokenizerBase, shown: Sequence[Frame], path: Path, *, frames_per_second: float = 8.0
) -> None:
    """Write the frames as an animation, a GIF or a WebP by the path's suffix; the last one stays for two seconds."""
    norm = Normalize(1, max([2, *shown[-1].revealed_at]))
    texts = [written(tokenizer, frame) for frame in shown]
    lines = max(map(lines_of, texts))
    figure = Figure(figsize=(9.0, 0.5 + 0.26 * lines), dpi=90)
    axis = figure.add_axes((0.01, 0.02, 0.98, 0.88))

    def draw(number: int) -> list[Any]:
        frame = shown[number]
        axis.clear()
        boxes(axis, texts[number], [_colour(frame, place, norm) for place in range(len(frame.ids))])
        axis.set_ylim(lines, 0)
        axis.set_title(f"step {frame.step} of {shown[-1].step}", fontsize=9, loc="left")
        return []

    last = [len(shown) - 1] * math.ceil(2 * frames_per_second)
    animation = FuncAnimation(figure, draw, [*range(len(shown)), *last], blit=False)  # pyright: ignore[reportArgumentType]
    animation.save(str(path), writer=PillowWriter(fps=frames_per_second))  # pyright: ignore[reportArgumentType]


def lines_of(texts: Sequence[str]) -> int:
    """So many lines `boxes` takes for them."""
    return max((y for _, y, _ in _places(texts)), default=0) + 1


def width_of(texts: Sequence[str]) -> float:
    """So wide the longest line of `boxes` is for them."""
    return max((x + width for x, _, width in _places(texts)), default=0.0)


def _places(texts: Sequence[str]) -> Iterator[tuple[float, int, float]]:
    """Left end, line and width of each text's box."""
    x, y = 0.0, 0
    for text in texts:
        width = max(1.0, len(text) * 0.9) + 0.6
        if x + width > ACROSS:
            x, y = 0.0, y + 1
        yield x, y, width
        x += width


def _colour(frame: Frame, place: int, norm: Normalize) -> Any:
    if frame.hidden[place]:
        return _MASKED
    return _GIVEN if frame.marks[place] is Mark.GIVEN else colormaps["viridis"](norm(frame.revealed_at[place]))
