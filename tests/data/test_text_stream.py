"""Pieces of a text whose tokens come one after another: together they are what `decode_response` says."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llada.data.chat import TextStream, decode_response
from llada.data.tokenizer import SPECIAL_TOKENS, encode, train_tokenizer

TEXTS = [
    "Hello, it's 漢字 \U0001f600\U0001f468\u200d\U0001f469 é!",
    "no\u00a0break . ' s n't",
    "\N{REPLACEMENT CHARACTER} \n\n7",
    "",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(size: int):
    return train_tokenizer(["the naïve 漢字 of the naïve \U0001f600 table " * 9], size)


def byte_fallback():
    """In the manner of sentencepiece: a letter is a token, all else is bytes; a run of bytes is read as a whole."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz'.,!"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *BYTES, *letters])}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token=SPECIAL_TOKENS.mask))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_special_tokens(made)


def wordpiece():
    """Its decoder puts spaces between words, and transformers takes some of them out again."""
    words = ["hello", "it", "'", "s", "n't", "##ed", ".", ",", "!", "'ve", "a", "é", "?"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *words])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS.mask))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(cleanup=False)
    return _with_special_tokens(made, clean_up_tokenization_spaces=True)


def _with_special_tokens(made: Tokenizer, **options):
    names = SPECIAL_TOKENS._asdict()
    extra = [names.pop(name) for name in ("eot", "start_header", "end_header")]
    given = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=extra, **given, **options)


@pytest.fixture(
    scope="module",
    params=[lambda: byte_level(262), lambda: byte_level(280), byte_fallback, wordpiece],
    ids=["bytes", "merges", "byte fallback", "wordpiece"],
)
def tokenizer(request):
    return request.param()


def pieces(tokenizer, ids: list[int], draws: random.Random) -> list[str]:
    """The pieces of a text that comes in parts of random lengths, some of them empty."""
    stream, told, start = TextStream(tokenizer), [], 0
    while start < len(ids):
        end = start + draws.choice([0, 1, 1, 2, 5])
        told.append(stream.add(ids[start:end]))
        start = end
    return [*told, stream.end()]


def test_pieces_of_any_tokens_are_the_text(tokenizer):
    """A thousand rows of random tokens: bytes that are no character, control tokens and ends among them."""
    draws = random.Random(0)
    for _ in range(1000):
        ids = draws.choices(range(len(tokenizer)), k=draws.randrange(30))
        assert "".join(pieces(tokenizer, ids, draws)) == decode_response(tokenizer, ids)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_pieces_of_a_text_are_the_text(tokenizer, text):
    ids, draws = encode(tokenizer, text), random.Random(1)
    for _ in range(20):
        assert "".join(pieces(tokenizer, ids, draws)) == decode_response(tokenizer, ids)


@pytest.mark.parametrize("size", [262, 280])
def test_text_comes_as_soon_as_it_is_certain(size):
    tokenizer = byte_level(size)
    stream, seen = TextStream(tokenizer), ""
    for token in encode(tokenizer, "the 漢字 table"):
        seen += stream.add([token])
        sure = tokenizer.decode(stream._ids).rstrip("\N{REPLACEMENT CHARACTER}")
        assert seen == sure
    assert seen == "the 漢字 table"
    assert stream.end() == ""


@pytest.mark.parametrize("end", [SPECIAL_TOKENS.eos, SPECIAL_TOKENS.eot])
def test_nothing_follows_an_end(tokenizer, end):
    stream = TextStream(tokenizer)
    said = stream.add([*encode(tokenizer, "a"), tokenizer.convert_tokens_to_ids(end), *encode(tokenizer, "a")])
    assert said == "a"
    assert stream.add(encode(tokenizer, "a")) == stream.end() == ""


def test_character_that_is_never_whole_comes_at_the_end():
    tokenizer = byte_level(262)
    stream = TextStream(tokenizer)
    assert stream.add(encode(tokenizer, "a漢")[:-1]) == "a"
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"
