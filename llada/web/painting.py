"""A canvas as HTML: colour is confidence, new tokens and new masks are marked. All text is escaped."""

from collections.abc import Mapping, Sequence
from html import escape

from transformers import PreTrainedTokenizerBase

from llada.show.frames import Frame, Mark
from llada.show.levels import LEVELS, level_of
from llada.show.pieces import END, pieces

STYLE = """
.canvas { font: 14px/2 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; min-height: 6em; }
.canvas span { border-radius: 4px; padding: 2px 1px; }
.canvas .masked { background: #8888; color: transparent; padding: 2px 4px; margin: 0 1px; user-select: none; }
.canvas .again, .legend .again { background: #d55e00; }
.canvas .fresh, .legend .fresh { outline: 2px solid var(--body-text-color, currentColor); outline-offset: -1px; }
.canvas .special { opacity: 0.7; padding: 2px 4px; }
.legend { font-size: 13px; display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; }
.legend span { border-radius: 4px; padding: 1px 6px; }
.legend .masked { background: #8888; }
.turns p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 8px; }
.turns b { opacity: 0.65; font-weight: 600; display: block; font-size: 12px; }
""" + "\n".join(
    f".canvas .level{number}, .legend .level{number} "
    f"{{ background: color-mix(in srgb, {level.colour} 55%, white); color: #111; }}"
    for number, level in enumerate(LEVELS)
)


def painted(tokenizer: PreTrainedTokenizerBase, frame: Frame, start: int = 0, counted_from: int = 0) -> str:
    """The text from position `start` on; a hint on each token names its position, from `counted_from` on as 0."""
    found = pieces(tokenizer, frame.ids, frame.hidden)
    spans = [_span(frame, place, found[place].text, found[place].special, place - counted_from)
             for place in range(start, len(found))]  # fmt: skip
    return f'<div class="canvas" data-step="{frame.step}">{"".join(spans)}</div>'


def legend() -> str:
    """What the colours mean."""
    levels = [
        f'<span class="level{number}">{f"p ≥ {level.least:g}" if level.least else "less"}</span>'
        for number, level in enumerate(LEVELS)
    ]
    marks = [f'<span class="{name}">{text}</span>' for name, text in
             (("masked", "mask"), ("again", "masked again"), ("fresh", "new"))]  # fmt: skip
    return f'<div class="legend">{"".join(levels + marks)}</div>'


def turns(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation."""
    said = [f"<p><b>{escape(message['role'])}</b>{escape(message['content'])}</p>" for message in messages]
    return f'<div class="turns">{"".join(said)}</div>'


def _span(frame: Frame, place: int, text: str, special: bool, position: int) -> str:
    mark, probability = frame.marks[place], frame.probability[place]
    hint = f"position {position}" if position >= 0 else "prompt"
    names = []
    if special:
        names, hint, text = ["special"], f"{hint}: {text}", END
    if mark in (Mark.MASKED, Mark.REMASKED):
        names, text = ["masked"] + ["again"] * (mark is Mark.REMASKED), "░"
    elif mark is not Mark.GIVEN:
        names += [f"level{level_of(probability)}"] + ["fresh"] * (mark is Mark.FRESH)
        hint += f", step {frame.revealed_at[place]}, probability {probability:.3f}"
    shown = escape(text).replace("\n", "↵\n")
    return f'<span class="{" ".join(names)}" title="{escape(hint)}">{shown}</span>'
