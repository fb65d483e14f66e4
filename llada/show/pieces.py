"""What each token of a canvas adds to the text, so that text can be coloured token by token."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

END = "·"  # shown for a control token
_BEFORE = 4  # tokens that are decoded together with the next, as some tokenizers write a token by the one before it
_UNFINISHED = "\ufffd"  # what bytes that are no character yet are decoded to
_LONGEST = 4  # bytes of a character, and tokens where each is a byte


class Piece(NamedTuple):
    text: str  # "" where a later token ends the character, and for [MASK]
    special: bool = False  # a control token, such as the end of sequence


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], hidden: Sequence[bool]) -> list[Piece]:
    """One for each token (L,); what is hidden has no text, and parts what is before it from what follows.

    All texts together are the text of the tokens. A character of several tokens stands at the last of them.
    """
    special = set(tokenizer.all_special_ids)
    found: list[Piece] = []
    run: list[int] = []  # visible tokens since the last hidden or special one
    written = 0  # of them, have their text
    for place, (token, masked) in enumerate(zip(ids, hidden, strict=True)):
        if masked or token in special:
            found.append(Piece("" if masked else str(tokenizer.decode([token])), special=not masked))
            run, written = [], 0
            continue
        run.append(token)
        last = place + 1 == len(ids) or hidden[place + 1] or ids[place + 1] in special
        text = _text(tokenizer, run, written)
        if text.endswith(_UNFINISHED) and not last and len(run) - written < _LONGEST:
            found.append(Piece(""))
            continue
        found.append(Piece(text))
        written = len(run)
    return found


def _text(tokenizer: PreTrainedTokenizerBase, run: Sequence[int], written: int) -> str:
    """What the tokens from `written` on add to those before them."""
    start = max(0, written - _BEFORE)
    before, whole = (str(tokenizer.decode(list(run[start:end]))) for end in (written, len(run)))
    text = whole.removeprefix(before) if whole.startswith(before) else str(tokenizer.decode(list(run[written:])))
    begins_word = str(tokenizer.convert_ids_to_tokens(int(run[0]))).startswith("▁")
    if written == 0 and begins_word and not text.startswith(" "):  # SentencePiece drops the blank a text begins with
        return " " + text
    return text
