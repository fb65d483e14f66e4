"""A trace as one HTML file: a slider over the steps, and of every token its step, probability and alternatives.

The file needs no network and no other file. Texts of the model are data in it, never markup.
"""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from llada.sampling.trace import Kind, Trace
from llada.show.frames import Frame, steps_of
from llada.show.pieces import pieces

Alternatives = Mapping[tuple[int, int], Sequence[tuple[int, float]]]  # (step, position) → tokens and probabilities


class Told(NamedTuple):
    """One row of a trace, to be shown beside others."""

    title: str
    frames: Sequence[Frame]
    alternatives: Alternatives


def page(tokenizer: PreTrainedTokenizerBase, traces: Sequence[Told]) -> str:
    """The HTML of one trace, or of several side by side."""
    data = [{"title": told.title, "steps": told.frames[-1].step, "tokens": _events(tokenizer, told)} for told in traces]
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":  # none of which JSON needs, and which HTML could take for its own
        text = text.replace(character, f"\\u{ord(character):04x}")
    template = files("llada.show").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("/*DATA*/", text)


def _events(tokenizer: PreTrainedTokenizerBase, told: Told) -> list[list[list[Any]]]:
    """Of every token what it was, from the step on at which it became that."""
    events: list[list[list[Any]]] = [[] for _ in told.frames[0].ids]
    before: list[tuple[Any, ...] | None] = [None] * len(events)
    for frame in told.frames:
        hidden = frame.hidden
        for place, piece in enumerate(pieces(tokenizer, frame.ids, hidden)):
            text = None if hidden[place] else piece.text
            fixed = frame.revealed_at[place]
            now = (frame.ids[place], text, fixed)
            if now == before[place]:
                continue
            before[place] = now
            others = told.alternatives.get((fixed, place), ())
            named = [[str(tokenizer.decode([token])), round(p, 6)] for token, p in others]
            events[place].append([frame.step, text, _number(frame.probability[place]), fixed, piece.special, named])
    return events


def _number(probability: float) -> float | None:
    """None for that of a mask, which is not a number, as JSON has none such."""
    return None if math.isnan(probability) else round(probability, 6)


def alternatives_of(trace: Trace, row: int) -> Alternatives:
    """What a row of a trace kept beside the tokens that were revealed, by step from 1 and position."""
    found: dict[tuple[int, int], list[tuple[int, float]]] = {}
    number = steps_of(trace, row).cumsum(dim=0).tolist()  # steps that the row took no part in are no frames
    of_row = (trace.row == row) & (trace.kind == Kind.REVEALED)
    columns = (trace.step, trace.position, trace.alternatives, trace.alternative_probability)
    for step, position, tokens, p in zip(*(column[of_row].tolist() for column in columns), strict=True):
        found[number[step], position] = list(zip(tokens, p, strict=True))
    return found
