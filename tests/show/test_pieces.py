"""Pieces: the texts of all tokens together are the text, with any tokenizer."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llada.data.tokenizer import encode, train_tokenizer
from llada.show.pieces import pieces

TEXT = "Ein Wort, 漢字 und 👩‍🚀 — naïve café\n\nand\ttwo  blanks"


@pytest.fixture(scope="module")
def byte_level():
    return train_tokenizer([TEXT, "words of a text"], 270)


def test_texts_together_are_the_text(byte_level):
    ids = encode(byte_level, TEXT)
    found = pieces(byte_level, ids, [False] * len(ids))
    assert "".join(piece.text for piece in found) == TEXT
    assert all("\ufffd" not in piece.text for piece in found)


def test_character_of_several_tokens_stands_at_the_last(byte_level):
    ids = encode(byte_level, "漢")
    assert len(ids) == 3
    assert [piece.text for piece in pieces(byte_level, ids, [False] * 3)] == ["", "", "漢"]


def test_hidden_tokens_part_the_text(byte_level):
    ids = encode(byte_level, "漢字")
    found = pieces(byte_level, ids, [False, True, False, False, False, False])
    assert [piece.text for piece in found] == ["\ufffd", "", "", "", "", "\ufffd字"]


def test_bytes_that_are_no_text_are_shown_and_end(byte_level):
    byte = encode(byte_level, "漢")[0]
    found = pieces(byte_level, [byte] * 6 + encode(byte_level, "a"), [False] * 7)
    assert found[-1].text.endswith("a")
    assert "\ufffd" in "".join(piece.text for piece in found)


def test_control_tokens_are_said_to_be_such(byte_level):
    ids = [*encode(byte_level, "a"), byte_level.eos_token_id, *encode(byte_level, "b")]
    found = pieces(byte_level, ids, [False] * 3)
    assert [piece.special for piece in found] == [False, True, False]
    assert [piece.text for piece in found] == ["a", "<|endoftext|>", "b"]


def test_any_canvas_gives_one_piece_for_each_token(byte_level):
    draws = random.Random(0)
    for _ in range(200):
        ids = [draws.randrange(len(byte_level)) for _ in range(12)]
        hidden = [draws.random() < 0.3 for _ in ids]
        found = pieces(byte_level, ids, hidden)
        assert len(found) == 12
        assert all(piece.text == "" for piece, masked in zip(found, hidden, strict=True) if masked)


def test_tokens_that_begin_words_keep_their_blank():
    """A tokenizer like those of SentencePiece, which writes a blank as ▁ and drops the one a text begins with."""
    vocabulary = [("<unk>", 0.0), ("▁the", -1.0), ("▁cat", -1.0), ("s", -1.0), ("▁", -2.0)]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    found = pieces(tokenizer, [1, 2, 3, 2], [False, False, False, False])
    assert [piece.text for piece in found] == [" the", " cat", "s", " cat"]
    assert [piece.text for piece in pieces(tokenizer, [1, 2, 3], [True, False, False])] == ["", " cat", "s"]
