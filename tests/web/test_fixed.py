"""Fixed words: what their lines mean, and the tokens they take."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.data.tokenizer import SMALLEST_VOCABULARY, encode, train_tokenizer
from llada.web.fixed import Fixed, place, read_fixed

BYTES = train_tokenizer(["the model reads"], SMALLEST_VOCABULARY)  # a token for each byte
MASK = BYTES.mask_token_id


def placed(lines: str, gen_length: int = 10):
    return place(BYTES, read_fixed(lines), gen_length, MASK)


def test_only_the_blank_after_the_colon_is_no_text():
    assert read_fixed("0: The\n\n-1:.\n +4 :  a: b ") == [Fixed(0, "The", 1), Fixed(-1, ".", 3), Fixed(4, " a: b ", 4)]


def test_words_stand_where_they_are_told_to_and_masks_elsewhere():
    answer = placed("0: The\n-1: end")
    assert answer.tokens == [*encode(BYTES, "The"), *[MASK] * 4, *encode(BYTES, "end")]
    assert answer.end == 10
    assert placed("-4: end") == ([*[MASK] * 4, *encode(BYTES, "end"), *[MASK] * 3], 7)
    assert placed("") == ([MASK] * 10, 0)


def test_a_control_token_that_is_spelled_out_is_text():
    assert MASK not in placed("0: <|mdm_mask|>", 12).tokens


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-12, 12), st.text("ab", min_size=1, max_size=4)), max_size=4), st.integers(1, 10))
def test_what_is_accepted_is_honoured_and_what_is_refused_collides(words, gen_length):
    """By an oracle that marks single positions."""
    taken: list[int] = []
    for position, text in words:
        start = position if position >= 0 else gen_length + position - len(text) + 1
        taken += range(start, start + len(text))
    fits = len(set(taken)) == len(taken) and all(0 <= position < gen_length for position in taken)
    lines = "\n".join(f"{position}: {text}" for position, text in words)
    if not fits:
        with pytest.raises(ValueError, match="fixed words, line"):
            placed(lines, gen_length)
        return
    tokens = placed(lines, gen_length).tokens
    letters = iter("".join(text for _, text in words))
    assert {position: tokens[position] for position in taken} == {p: encode(BYTES, next(letters))[0] for p in taken}
    assert all(tokens[position] == MASK for position in range(gen_length) if position not in taken)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0: a\nThe", "fixed words, line 2: 'The' has no position; write for example `0: The`"),
        ("1.5: The", "line 1: '1.5: The' has no position"),
        ("3:", "line 1: '3:' has no text; write it after the colon"),
        ("8: The", "'The' is 3 tokens, which at 8 take the positions 8 to 10; the answer has 0 to 9: move them"),
        ("-9: The", "'The' is 3 tokens, which at -9 take the positions -1 to 1; the answer has 0 to 9"),
        ("0: The\n2: end", "line 2: 'end' is 3 tokens, which at 2 take the positions 2 to 4, of which line 1 takes"),
    ],
)
def test_words_that_cannot_stand_there_are_refused(lines, message):
    with pytest.raises(ValueError, match="fixed words") as error:
        placed(lines)
    assert message in str(error.value)
