"""A text with gaps → token ids with [MASK] in them, for infilling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llada.data.tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GAP = "___"


def encode_gaps(tokenizer: PreTrainedTokenizerBase, text: str, gap: int, mask_token_id: int) -> list[int]:
    """The ids of the text (L,), with `gap` masks for each ___. Raises ValueError where there is none to fill."""
    if GAP not in text:
        raise ValueError(f"the text has no gap; mark each with {GAP}, or continue the text instead")
    if gap < 1:
        raise ValueError(f"a gap of {gap} masks leaves nothing to fill; give 1 or more")
    first, *others = (encode(tokenizer, part) for part in text.split(GAP))
    return first + [token for part in others for token in (*[mask_token_id] * gap, *part)]
