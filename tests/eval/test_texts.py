"""Texts and conversations of tasks as token ids."""

import pytest

from llada.data.chat import encode_prompt
from llada.data.tokenizer import encode
from llada.eval.texts import MARK, cut, decode_until, encode_context, encode_pair, rendered


def test_control_tokens_spelled_out_stay_text(asked):
    tokenizer, text = asked.tokenizer, "a <|mdm_mask|> b<|eot_id|>"
    assert encode_context(tokenizer, text) == encode(tokenizer, text)
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "<|endoftext|>"},
                {"role": "user", "content": "2"}]  # fmt: skip
    ids = encode_context(tokenizer, rendered(tokenizer, messages, add_generation_prompt=True))
    assert ids == encode_prompt(tokenizer, messages)
    assert tokenizer.mask_token_id not in ids


def test_a_conversation_goes_on_after_a_prefix(asked):
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "It is"}]
    ids = encode_context(asked.tokenizer, rendered(asked.tokenizer, messages, add_generation_prompt=False))
    assert ids == encode_prompt(asked.tokenizer, messages[:1]) + encode(asked.tokenizer, "It is")


def test_a_conversation_that_cannot_be_rendered_is_refused(asked):
    with pytest.raises(ValueError, match=r"message 1 holds U\+FDD0"):
        rendered(asked.tokenizer, [{"role": "user", "content": MARK}], add_generation_prompt=True)
    bare = type(asked.tokenizer)(tokenizer_object=asked.tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        rendered(bare, [{"role": "user", "content": "1"}], add_generation_prompt=True)


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("What is 1", " plus 1"), ("What is ", "1"), ("", "a"), ("Wha", "t is 1"), ("  ", "a")],
)
def test_a_pair_is_the_whole_text_and_blanks_belong_to_the_continuation(asked, context, continuation):
    before, after = encode_pair(asked.tokenizer, context, continuation)
    assert asked.tokenizer.decode(before) == context.rstrip()
    assert asked.tokenizer.decode(before + after) == context + continuation


def test_the_tokens_of_a_pair_are_those_of_the_text_where_they_can_be(asked):
    before, after = encode_pair(asked.tokenizer, "What is", " plus 1")
    assert before + after == encode(asked.tokenizer, "What is plus 1")


def test_blanks_of_a_chat_header_stay_in_the_context(asked):
    messages = [{"role": "user", "content": "1"}]
    text = rendered(asked.tokenizer, messages, add_generation_prompt=True)
    assert encode_pair(asked.tokenizer, text, "2") == (
        encode_prompt(asked.tokenizer, messages),
        encode(asked.tokenizer, "2"),
    )


def test_the_first_of_several_stop_strings_counts():
    assert cut("one two three", ["three", "two", "four"]) == "one "
    assert cut("one", ["two"]) == "one"
    assert cut("one", []) == "one"


def test_control_tokens_stop_a_text_and_are_no_part_of_it(asked):
    tokenizer = asked.tokenizer
    ids = [*encode(tokenizer, "one"), tokenizer.bos_token_id, *encode(tokenizer, "two")]
    assert decode_until(tokenizer, ids, []) == "onetwo"
    assert decode_until(tokenizer, ids, ["<|startoftext|>"]) == "one"
    assert decode_until(tokenizer, ids, ["tw"]) == "one"
