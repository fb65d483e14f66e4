"""Words that must stand at given places of an answer: lines such as `0: The` → tokens between the masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llada.data.tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LINE = re.compile(r"\s*([+-]?[0-9]{1,9})\s*: ?(.*)", re.DOTALL)


class Fixed(NamedTuple):
    """A text and its place: where its first token stands, or below 0 its last one, with -1 at the end of the answer."""

    position: int
    text: str
    line: int  # that it was given in, from 1


def read_fixed(lines: str) -> list[Fixed]:
    """One for each line `POSITION: TEXT`; empty lines are none.

    A single blank after the colon belongs to the line, all others to the text. Raises ValueError, which names the line,
    for one without a position or a text.
    """
    found = []
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise ValueError(
                f"fixed words, line {number}: {line!r} has no position; write for example `0: The`, counted in tokens "
                "from 0, or `-1: .`, counted from the end"
            )
        if not parts[2]:
            raise ValueError(f"fixed words, line {number}: {line!r} has no text; write it after the colon")
        found.append(Fixed(int(parts[1]), parts[2], number))
    return found


class Answer(NamedTuple):
    """An answer that is to be filled in."""

    tokens: list[int]  # (L,) with masks
    end: int  # of the last fixed word, exclusive


def place(tokenizer: PreTrainedTokenizerBase, fixed: Sequence[Fixed], gen_length: int, mask_token_id: int) -> Answer:
    """An answer of `gen_length` masks, but for the tokens of the fixed words.

    Raises ValueError, which names the lines, for words that take more room than there is, and for two at one place.
    """
    tokens, lines = [mask_token_id] * gen_length, [0] * gen_length
    end = 0
    for words in fixed:
        ids = encode(tokenizer, words.text)
        start = words.position if words.position >= 0 else gen_length + words.position + 1 - len(ids)
        stop = start + len(ids)
        taken = f"fixed words, line {words.line}: {words.text!r} is {len(ids)} tokens"
        if start < 0 or stop > gen_length:
            raise ValueError(
                f"{taken}, which at {words.position} take the positions {start} to {stop - 1}; the answer has 0 to "
                f"{gen_length - 1}: move them, say less, or set a larger gen_length"
            )
        if any(lines[start:stop]):
            other = next(line for line in lines[start:stop] if line)
            raise ValueError(
                f"{taken}, which at {words.position} take the positions {start} to {stop - 1}, of which line {other} "
                "takes some already: move one of them"
            )
        tokens[start:stop], lines[start:stop] = ids, [words.line] * len(ids)
        end = max(end, stop)
    return Answer(tokens, end)
