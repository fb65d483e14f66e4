"""A trace as pictures: the order of revealing in colours (arXiv:2502.09992, figure 4), and the canvas step by step."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len
from transformers import PreTrainedTokenizerBase

from llada.show.frames import Frame, Mark
from llada.show.pieces import END, pieces

ACROSS = 64.0  # width of a line, in characters
_GIVEN, _MASKED = "#e8e8e8", "#444444"
_LINE, _TITLE, _BAR = 0.26, 0.34, 1.5  # inches: of a line, of what is above them, and of the colours at the least
# Those that are installed are asked in turn for each character. Matplotlib brings the first.
_FONTS = (
    "DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans Mono CJK JP", "Noto Sans CJK SC", "Noto Sans CJK JP",
    "WenQuanYi Zen Hei", "Source Han Sans SC", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "DejaVu Sans",
    "Noto Sans Symbols2", "Noto Emoji", "Symbola", "Segoe UI Emoji",
)  # fmt: skip


def written(tokenizer: PreTrainedTokenizerBase, frame: Frame) -> list[str]:
    """What stands in the box of each token."""
    found, all_hidden = [], frame.hidden
    for piece, hidden in zip(pieces(tokenizer, frame.ids, all_hidden), all_hidden, strict=True):
        text = END if piece.special else piece.text
        shown = text.replace("\n", "↵").replace("\t", "⇥")
        found.append("" if hidden else shown if shown.strip(" ") else "␣" * len(shown))
    return found


@cache
def fonts() -> tuple[str, ...]:
    """The families that pictures are written in, of those that are installed."""
    known = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FONTS if name in known)


def undrawn(texts: Sequence[str]) -> str:
    """The characters that none of the fonts has, each once; pictures show a box for them."""
    drawn: set[int] = set()
    for name in fonts():
        drawn |= get_font(fontManager.findfont(name)).get_charmap().keys()
    return "".join(sorted({character for text in texts for character in text if ord(character) not in drawn}))


def boxes(axis: Axes, texts: Sequence[str], colours: Sequence[Any]) -> None:
    """Tokens as boxes in lines, each in its colour and as wide as its text."""
    for text, colour, (x, y, width) in zip(texts, colours, _places(texts), strict=True):
        axis.add_patch(Rectangle((x, y), width - 0.12, 0.86, facecolor=colour, edgecolor="none"))
        r, g, b, _ = to_rgba(colour)
        dark = 0.299 * r + 0.587 * g + 0.114 * b < 0.5
        axis.text(x + width / 2, y + 0.45, text, ha="center", va="center", family=list(fonts()), fontsize=8,
                  color="white" if dark else "black", parse_math=False)  # fmt: skip
    axis.set(xlim=(0, ACROSS), ylim=(lines_of(texts), 0), xticks=[], yticks=[])
    axis.set_frame_on(False)


def order_figure(tokenizer: PreTrainedTokenizerBase, frame: Frame, title: str = "") -> Figure:
    """Every token in the colour of the step that fixed it; grey: what was given, dark: [MASK]."""
    norm, texts = Normalize(1, max([2, *frame.revealed_at])), written(tokenizer, frame)
    tall = _LINE * lines_of(texts)
    height = _TITLE + max(tall, _BAR)
    figure = Figure(figsize=(9.6, height))
    axis = figure.add_axes((0.01, 1 - (_TITLE + tall) / height, 0.88, tall / height))
    scale = figure.add_axes((0.92, 0.06, 0.015, 0.88 * max(tall, _BAR) / height))
    boxes(axis, texts, _colours(frame, norm))
    axis.set_title(title, fontsize=9, loc="left")
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), cax=scale, ticks=MaxNLocator(integer=True))
    bar.set_label("step that fixed it", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def animate(
    tokenizer: PreTrainedTokenizerBase, shown: Sequence[Frame], path: Path, *, frames_per_second: float = 8.0
) -> Iterator[Frame]:
    """Write the frames as an animation, a GIF or a WebP by the path's suffix; the last one stays for two seconds.

    Each is passed on when it is drawn; the file is there when they end.
    """
    norm = Normalize(1, max([2, *shown[-1].revealed_at]))
    texts = [written(tokenizer, frame) for frame in shown]
    lines = max(map(lines_of, texts))
    height = _TITLE + _LINE * lines
    figure = Figure(figsize=(9.0, height), dpi=90)
    axis = figure.add_axes((0.01, 0.0, 0.98, 1 - _TITLE / height))
    writer = PillowWriter(fps=frames_per_second)  # pyright: ignore[reportArgumentType]
    writer.setup(figure, str(path))
    for frame, text in zip(shown, texts, strict=True):
        axis.clear()
        boxes(axis, text, _colours(frame, norm))
        axis.set_ylim(lines, 0)
        axis.set_title(f"step {frame.step} of {shown[-1].step}", fontsize=9, loc="left")
        writer.grab_frame()
        yield frame
    for _ in range(math.ceil(2 * frames_per_second)):
        writer.grab_frame()
    writer.finish()


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
        width = max(1.0, cell_len(text) * 0.9) + 0.6
        if x + width > ACROSS:
            x, y = 0.0, y + 1
        yield x, y, width
        x += width


def _colours(frame: Frame, norm: Normalize) -> list[Any]:
    """Of each token's box."""
    return [
        _MASKED if hidden else _GIVEN if mark is Mark.GIVEN else colormaps["viridis"](norm(fixed))
        for hidden, mark, fixed in zip(frame.hidden, frame.marks, frame.revealed_at, strict=True)
    ]
