"""Any text and any tokens: encoded and decoded unchanged, in one piece or in many."""

from bad_values import TEXTS, numbers_of_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.data.chat import TextStream, decode_response, encode_chat, encode_prompt
from llada.data.conversations import ROLES
from llada.data.tokenizer import SPECIAL_TOKENS, encode

PIECES = st.one_of(
    TEXTS, st.sampled_from([*SPECIAL_TOKENS, "\u200f", "\u2066", "\x85", "\u2028", "\ufeff", "\r\n", "x" * 9999])
)
CONTENTS = st.lists(PIECES, max_size=4).map("".join)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": CONTENTS}), max_size=4)


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@numbers_of_cases(60, 1500)
def test_texts_are_encoded_and_come_back_or_are_refused(cases, tokenizer):
    special = set(tokenizer.all_special_ids)

    @settings(max_examples=cases)
    @given(CONTENTS)
    def check(text: str) -> None:
        try:
            ids = encode(tokenizer, text)
        except ValueError:
            assert not is_unicode(text)
            return
        assert is_unicode(text)
        assert special.isdisjoint(ids)
        assert tokenizer.decode(ids) == text
        assert decode_response(tokenizer, ids) == text

    check()


@numbers_of_cases(40, 1000)
def test_conversations_are_encoded_and_come_back_or_are_refused(cases, tokenizer):
    ends = tokenizer.convert_tokens_to_ids([SPECIAL_TOKENS.end_header, SPECIAL_TOKENS.eot])

    @settings(max_examples=cases)
    @given(MESSAGES)
    def check(messages: list[dict[str, str]]) -> None:
        try:
            if messages and messages[-1]["role"] == "assistant":
                ids = encode_chat(tokenizer, messages).x0
            else:
                ids = encode_prompt(tokenizer, messages)
        except ValueError:
            blank = [message for message in messages if not message["content"].strip()]
            assert not messages or blank or not all(is_unicode(message["content"]) for message in messages)
            return
        assert ids.count(ends[1]) == len(messages)
        for message in messages:
            ids = ids[ids.index(ends[0]) + 1 + len(encode(tokenizer, "\n\n")) :]  # what follows the header
            assert tokenizer.decode(ids[: ids.index(ends[1])]) == message["content"].strip()

    check()


@numbers_of_cases(60, 1500)
def test_pieces_of_a_stream_are_the_whole_text(cases, tokenizer):
    @settings(max_examples=cases)
    @given(st.lists(st.lists(st.integers(0, len(tokenizer) - 1), max_size=5), max_size=8))
    def check(parts: list[list[int]]) -> None:
        stream = TextStream(tokenizer)
        told = "".join(stream.add(part) for part in parts) + stream.end()
        assert told == decode_response(tokenizer, [token for part in parts for token in part])

    check()
