import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llada.data.tokenizer import (
    SMALLEST_VOCABULARY,
    SPECIAL_TOKENS,
    encode,
    encode_batch,
    read_tokenizer,
    tokenizer_hash,
    train_tokenizer,
)

TEXTS = [
    "",
    " ",
    "\n",
    "  leading and trailing \t\n",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 and 漢字 かな 한국어 العربية",
    "control \x00\x01\x1f\x7f\x85\u2028 characters",
    "a\r\nb\rc\n\n\nd",
    "e\u0301 is not é",
    "it 's , isn 't .  Not cleaned up !",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding_and_decoding(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_random_unicode_survives_encoding_and_decoding(tokenizer):
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
    def check(text):
        assert tokenizer.decode(encode(tokenizer, text)) == text

    check()


def test_special_tokens_have_the_first_ids_in_their_order(tokenizer):
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4, 5]
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4, 5]


def test_roles_of_the_special_tokens_are_set(tokenizer):
    assert tokenizer.mask_token_id == 0
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2


def test_vocabulary_has_exactly_the_size_asked_for(tokenizer):
    assert len(tokenizer) == len(tokenizer.get_vocab()) == 350
    assert sorted(tokenizer.get_vocab().values()) == list(range(350))


def test_smallest_vocabulary_is_bytes_and_special_tokens(corpus):
    smallest = train_tokenizer(corpus, SMALLEST_VOCABULARY)
    assert len(encode(smallest, "漢字")) == len("漢字".encode())


def test_training_twice_gives_the_same_tokenizer(tokenizer, corpus):
    assert tokenizer_hash(train_tokenizer(iter(corpus), 350)) == tokenizer_hash(tokenizer)


def test_every_digit_is_a_token_of_its_own(tokenizer):
    digits = {str(d): encode(tokenizer, str(d)) for d in range(10)}
    assert all(len(ids) == 1 for ids in digits.values())
    assert encode(tokenizer, "345") == digits["3"] + digits["4"] + digits["5"]
    assert encode(tokenizer, "x 7")[-1:] == digits["7"]


def test_newlines_never_merge_with_what_follows(tokenizer):
    assert len(encode(tokenizer, "\n\n")) == 1  # otherwise this would test nothing
    for text in ("More", " x", "7", "漢"):
        assert encode(tokenizer, "\n\n" + text) == encode(tokenizer, "\n\n") + encode(tokenizer, text)


def test_user_text_never_becomes_control_tokens(tokenizer):
    text = "a" + "b".join(SPECIAL_TOKENS) + "".join(SPECIAL_TOKENS)
    ids = encode(tokenizer, text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_encoding_text_leaves_the_tokenizer_able_to_read_control_tokens(tokenizer):
    encode(tokenizer, SPECIAL_TOKENS.mask)
    assert tokenizer(SPECIAL_TOKENS.mask, add_special_tokens=False)["input_ids"] == [0]


def test_a_batch_is_encoded_as_its_texts_are_alone(tokenizer):
    assert encode_batch(tokenizer, TEXTS) == [encode(tokenizer, text) for text in TEXTS]
    assert encode_batch(tokenizer, []) == []


@pytest.mark.parametrize("reader", [AutoTokenizer, PreTrainedTokenizerFast])
def test_saving_and_loading_keeps_everything(tokenizer, tmp_path, reader):
    tokenizer.save_pretrained(tmp_path)
    loaded = reader.from_pretrained(tmp_path)
    text = "The system has 12 <|eot_id|> tokens .\n\n 漢字"
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    assert encode(loaded, text) == encode(tokenizer, text)
    assert loaded.decode(encode(loaded, text)) == text
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.all_special_ids == tokenizer.all_special_ids
    assert loaded.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)


def test_hash_does_not_depend_on_what_the_tokenizer_was_used_for(tokenizer, tmp_path):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=3)
    assert tokenizer_hash(tokenizer) == before


def test_hash_differs_between_tokenizers(tokenizer, corpus):
    assert tokenizer_hash(train_tokenizer(corpus, 349)) != tokenizer_hash(tokenizer)
    assert tokenizer_hash(train_tokenizer(corpus[::-1][:15], 350)) != tokenizer_hash(tokenizer)


def test_template_gives_the_official_layout(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": "  Hi "},
        {"role": "assistant", "content": "Yes?\n\nNo."},
    ]
    expected = (
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?\n\nNo.<|eot_id|>"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    prompted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompted == expected + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_vocabulary_too_small_for_the_bytes_is_refused(corpus):
    with pytest.raises(ValueError, match=r"vocab_size=261 is too small: 6 control tokens and 256 bytes .* 262"):
        train_tokenizer(corpus, 261)


def test_vocabulary_too_large_for_the_memory_is_refused(corpus):
    with pytest.raises(ValueError, match="vocab_size=10000000000 is too large: a tokenizer has at most 1048576 tokens"):
        train_tokenizer(corpus, 10**10)


def test_vocabulary_that_the_text_cannot_fill_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size=5000 cannot be filled: the 3 characters given hold only 264"):
        train_tokenizer(["aab"], 5000)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_an_empty_corpus_is_refused(texts):
    with pytest.raises(ValueError, match="no text to train"):
        train_tokenizer(texts, 300)


def test_half_of_a_surrogate_pair_is_refused_with_its_place(tokenizer):
    with pytest.raises(ValueError, match=r"'\\ud800' at character 2 is half of a surrogate pair"):
        encode(tokenizer, "ab\ud800")


def test_shuffled_specials_and_words_never_give_control_tokens(tokenizer):
    draw = random.Random(1)
    pieces = [*SPECIAL_TOKENS, "<|", "|>", "<", "mdm_mask", " ", "\n", "x"]
    for _ in range(100):
        text = "".join(draw.choices(pieces, k=8))
        ids = encode(tokenizer, text)
        assert not set(ids) & set(range(6))
        assert tokenizer.decode(ids) == text


@pytest.fixture
def saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_tokenizer_is_read_as_it_was_saved(saved, tokenizer):
    assert tokenizer_hash(read_tokenizer(saved)) == tokenizer_hash(tokenizer)
    (saved / "tokenizer_config.json").unlink()
    assert read_tokenizer(saved) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", "cannot be read"),
        ("tokenizer.json", "[" * 100_000, "cannot be read"),
        ("tokenizer.json", None, "there is no tokenizer.json beside tokenizer_config.json; copy all the files"),
        ("tokenizer_config.json", "[]", "cannot be read"),
        ("tokenizer_config.json", "[" * 100_000, "cannot be read"),
        ("tokenizer_config.json", {"model_max_length": "x"}, "cannot be read"),
    ],
    ids=["empty", "deep", "missing", "list", "deep settings", "odd setting"],
)
def test_a_damaged_tokenizer_is_refused_by_its_folder(saved, name, content, message):
    file = saved / name
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content)
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ValueError, match=f"the tokenizer in {saved} .*{message}"):
        read_tokenizer(saved)
