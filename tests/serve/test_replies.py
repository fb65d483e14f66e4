"""Text in pieces, and where it is cut."""

import random

import pytest

from llada.data.chat import decode_response
from llada.data.tokenizer import encode
from llada.serve.replies import Choice, begun
from llada.serve.scheduler import Progress

TEXT = "ein Ü und 漢字 — 🎈 END of it END. "


def told(tokenizer, ids: list[int], stops: list[str], seed: int) -> tuple[Choice, list[str]]:
    """The pieces of an answer that is told in random steps."""
    choice, pieces, rng, count = Choice(tokenizer, stops), [], random.Random(seed), 0
    while choice.finish_reason is None:
        before, count = count, min(count + rng.randint(0, 4), len(ids))
        finish = "length" if count == len(ids) else None
        pieces.append(choice.add(Progress(ids[before:count], finish, count, 2 * count)))
    return choice, pieces


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_text_however_it_comes(tokenizer, seed):
    ids = encode(tokenizer, TEXT)
    choice, pieces = told(tokenizer, ids, [], seed)
    assert "".join(pieces) == TEXT
    assert (choice.tokens, choice.finish_reason, choice.forward_passes) == (len(ids), "length", len(ids))
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("stops", [["END"], ["字", "END"], ["🎈 E"], [" of it END.", "ENDE"], ["ein"]], ids=range(5))
def test_text_ends_before_the_first_stop(tokenizer, stops, seed):
    choice, pieces = told(tokenizer, encode(tokenizer, TEXT), stops, seed)
    expected = min((TEXT.partition(stop)[0] for stop in stops if stop in TEXT), key=len)
    assert "".join(pieces) == expected
    assert choice.finish_reason == "stop"
    up_to = min(TEXT.index(stop) + len(stop) for stop in stops if stop in TEXT)
    assert choice.tokens == len(encode(tokenizer, TEXT[:up_to]))


def test_end_of_a_text_that_cannot_be_read_is_told_in_the_end(tokenizer):
    ids = encode(tokenizer, "ab漢")[:-1]
    _, pieces = told(tokenizer, ids, [], 0)
    assert "".join(pieces) == decode_response(tokenizer, ids) != "ab"


@pytest.mark.parametrize(
    ("text", "stops", "count"),
    [
        ("abc", ["cd"], 1),
        ("abc", ["bcd", "cx"], 2),
        ("abc", ["x"], 0),
        ("abc", [], 0),
        ("", ["abc"], 0),
        ("aa", ["aab"], 2),
    ],
)
def test_begun_is_the_longest_beginning_of_a_stop(text, stops, count):
    assert begun(text, stops) == count
