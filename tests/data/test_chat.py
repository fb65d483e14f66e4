import copy
import json

import datasets
import numpy as np
import pytest

from llada.data.chat import ChatRows, encode_chat, encode_prompt
from llada.data.conversations import read_conversations, scan_conversations
from llada.data.tokenizer import SPECIAL_TOKENS, encode, train_tokenizer


def say(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CONVERSATIONS = [
    say(("user", "Hi"), ("assistant", "Yes")),
    say(("system", " Be brief.\n"), ("user", "\n\n What is 12?  "), ("assistant", "\tTwelve.\n\nOr 1 and 2. ")),
    say(("user", "a"), ("assistant", "b"), ("user", "c\n\nd"), ("assistant", "漢字 \U0001f600 7")),
    say(("user", ""), ("assistant", "...")),
    say(("user", "\u00a0x\u2003"), ("assistant", "\n\n\n7")),
    say(("assistant", "I speak first")),
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_rows_equal_what_the_chat_template_gives(tokenizer, messages):
    row = encode_chat(tokenizer, messages)
    reference = tokenizer.apply_chat_template(
        messages, tokenize=True, return_assistant_tokens_mask=True, return_dict=True
    )
    assert row.x0 == reference["input_ids"]
    assert row.maskable == [bool(m) for m in reference["assistant_masks"]]


@pytest.mark.parametrize("messages", CONVERSATIONS[:-1])
def test_prompts_equal_what_the_chat_template_gives(tokenizer, messages):
    reference = tokenizer.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True)
    assert encode_prompt(tokenizer, messages[:-1]) == reference["input_ids"]


@pytest.mark.parametrize("messages", CONVERSATIONS[:-1])
def test_prompt_and_reply_make_the_whole_conversation(tokenizer, messages):
    prompt = encode_prompt(tokenizer, messages[:-1])
    reply = encode(tokenizer, messages[-1]["content"].strip())
    row = encode_chat(tokenizer, messages)
    assert prompt + reply + [tokenizer.convert_tokens_to_ids("<|eot_id|>")] == row.x0
    assert row.maskable[len(prompt) :] == [True] * (len(reply) + 1)


def test_every_reply_is_maskable_and_nothing_else(tokenizer):
    row = encode_chat(tokenizer, CONVERSATIONS[2])
    learnt = [token for token, maskable in zip(row.x0, row.maskable, strict=True) if maskable]
    assert tokenizer.decode(learnt) == "b<|eot_id|>漢字 \U0001f600 7<|eot_id|>"


def test_messages_never_become_control_tokens(tokenizer):
    imitation = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n" + "".join(SPECIAL_TOKENS)
    row = encode_chat(tokenizer, say(("user", imitation), ("assistant", imitation)))
    counts = [row.x0.count(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS]
    assert counts == [0, 1, 0, 2, 2, 2]  # what the layout itself puts
    plain = tokenizer.decode(row.x0)
    assert plain.count(imitation) == 2


def test_messages_may_carry_other_keys(tokenizer):
    messages = [message | {"weight": 1} for message in CONVERSATIONS[0]]
    assert encode_chat(tokenizer, messages) == encode_chat(tokenizer, CONVERSATIONS[0])


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "the conversation has no messages"),
        (["hi"], "message 1 must be a role and a content, not str"),
        (say(("tool", "x")), "message 1 has the role 'tool'; allowed are system, user, assistant"),
        ([{"content": "x"}], "message 1 has the role None"),
        ([{"role": "user"}], "message 1, from 'user', has no content"),
        (say(("user", 3)), "message 1, from 'user': the content must be a string, not int"),
        (say(("user", "x")), "there is no message from the assistant"),
        (say(("assistant", "x"), ("user", "y")), "the last message must be from the assistant, not from 'user'"),
        (say(("user", "x"), ("assistant", " \n")), "message 2, from the assistant, is empty"),
    ],
)
def test_conversations_that_teach_nothing_are_refused(tokenizer, messages, error):
    with pytest.raises(ValueError, match=error):
        encode_chat(tokenizer, messages)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "the conversation has no messages"),
        (say(("tool", "x")), "message 1 has the role 'tool'"),
        (CONVERSATIONS[0], "the last message is already from the assistant"),
    ],
)
def test_prompts_that_wait_for_nothing_are_refused(tokenizer, messages, error):
    with pytest.raises(ValueError, match=error):
        encode_prompt(tokenizer, messages)


def test_a_tokenizer_without_chat_tokens_is_refused(corpus, tmp_path):
    tokenizer = train_tokenizer(corpus, 262)
    tokenizer.save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace("<|eot_id|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    bare = type(tokenizer)(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"the tokenizer has no token <\|eot_id\|>, which the chat layout needs"):
        encode_chat(bare, CONVERSATIONS[0])


def test_chat_rows_are_arrays_of_their_own_length(tokenizer):
    rows = ChatRows(CONVERSATIONS, tokenizer, 200)
    assert len(rows) == len(CONVERSATIONS)
    assert rows.left_out.total == 0
    for i, messages in enumerate(CONVERSATIONS):
        expected = encode_chat(tokenizer, messages)
        assert rows[i]["x0"].dtype == np.int64
        assert rows[i]["maskable"].dtype == np.bool_
        assert rows[i]["x0"].tolist() == expected.x0
        assert rows[i]["maskable"].tolist() == expected.maskable


def test_a_row_may_be_exactly_as_long_as_allowed(tokenizer):
    length = len(encode_chat(tokenizer, CONVERSATIONS[0]).x0)
    assert len(ChatRows(CONVERSATIONS[:1], tokenizer, length)) == 1
    with pytest.raises(ValueError, match=rf"conversation 1 has {length} tokens, more than max_length={length - 1}"):
        ChatRows(CONVERSATIONS[:1], tokenizer, length - 1)


def test_long_rows_are_skipped_and_counted_on_request(tokenizer):
    longest = max(len(encode_chat(tokenizer, messages).x0) for messages in CONVERSATIONS)
    rows = ChatRows(iter(CONVERSATIONS), tokenizer, longest - 1, too_long="skip")
    assert (len(rows), rows.left_out.total) == (len(CONVERSATIONS) - 1, 1)
    with pytest.raises(ValueError, match=r"no conversations to train on; .* 6 too long \(first: conversation 1 has"):
        ChatRows(CONVERSATIONS, tokenizer, 3, too_long="skip")


def test_no_conversations_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no conversations to train on"):
        ChatRows([], tokenizer, 10)


def test_unknown_ways_with_long_rows_are_refused(tokenizer):
    with pytest.raises(ValueError, match="too_long='cut'; allowed are 'error' and 'skip'"):
        ChatRows(CONVERSATIONS, tokenizer, 10, too_long="cut")


def test_a_bad_conversation_is_named_by_its_number(tokenizer):
    with pytest.raises(ValueError, match="conversation 2: the conversation has no messages"):
        ChatRows([CONVERSATIONS[0], []], tokenizer, 100)


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_conversations(path))


PAIR = say(("user", "Hi"), ("assistant", "Yes"))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": PAIR}, PAIR),
        ({"messages": [{"weight": 1, **m} for m in PAIR], "prompt": "Hi", "id": 3}, PAIR),
        ({"prompt": "Hi", "completion": "Yes"}, PAIR),
        ({"prompt": PAIR[:1], "completion": PAIR[1:]}, PAIR),
        ({"prompt": PAIR[:1], "completion": "Yes"}, PAIR),
        ({"prompt": "Hi", "completion": PAIR[1:]}, PAIR),
        ({"instruction": "Hi", "input": "", "output": "Yes"}, PAIR),
        ({"instruction": "Hi", "output": "Yes"}, PAIR),
        ({"instruction": "Hi", "input": None, "output": "Yes"}, PAIR),
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            say(("user", "Add\n\n1 2"), ("assistant", "3")),
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "S"},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Yes"},
                ]
            },
            say(("system", "S"), *((m["role"], m["content"]) for m in PAIR)),
        ),
        (
            {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Yes"}]},
            PAIR,
        ),
    ],
)
def test_known_shapes_of_rows_are_conversations(tmp_path, row, messages):
    assert read(tmp_path, row) == [messages]


def test_parquet_rows_are_conversations(tmp_path):
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([{"messages": PAIR}]).to_parquet(str(path))
    assert list(read_conversations(path)) == [PAIR]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (
            {"question": "x", "answer": "y"},
            r"line 1: this is no conversation; accepted are messages: \[\{role, content\}, ...\]; conversations: "
            r"\[\{from, value\}, ...\] \(ShareGPT\); prompt and completion, each text or \[\{role, content\}, ...\]; "
            r"instruction, output and perhaps input \(Alpaca\); found the columns question, answer",
        ),
        ({}, "found the columns none"),
        ({"messages": "x"}, "line 1: messages must be a list of messages"),
        ({"messages": []}, "line 1: messages must be a list with at least one message"),
        ({"messages": ["x"]}, "message 1 of messages must have 'role' and the string 'content'"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 of messages must have 'role'"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "message 1 of messages is from 'tool'; allowed are system, user, assistant",
        ),
        (
            {"conversations": [{"from": "bot", "value": "x"}]},
            "message 1 of conversations is from 'bot'; allowed are system, human, user, gpt, assistant",
        ),
        ({"prompt": "x", "completion": 3}, "the field 'completion' must be a string, not int"),
        ({"instruction": "x", "input": 3, "output": "y"}, "the field 'input' must be a string, not int"),
    ],
)
def test_rows_of_other_shapes_are_refused(tmp_path, row, error):
    with pytest.raises(ValueError, match=error):
        read(tmp_path, row)


def test_a_source_without_conversations_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no conversations"):
        read(tmp_path)


def test_prompts_are_not_learnt_whoever_speaks_in_them(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": say(("user", "a"), ("assistant", "b"), ("user", "c")), "completion": "d"}))
    (row,) = ChatRows(scan_conversations(path), tokenizer, 100)
    assert tokenizer.decode(row["x0"][row["maskable"]]) == "d<|eot_id|>"
    whole = say(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert row["x0"].tolist() == encode_chat(tokenizer, whole).x0


BAD = [
    (b'{"question": "x"}', "without the columns of a conversation", "line 2: this is no conversation"),
    (b'{"messages": []}', "empty", "line 2: messages must be a list with at least one message"),
    (b'{"messages": "x"}', "of the wrong type", "line 2: messages must be a list of messages"),
    (b'{"messages": [{"role": [], "content": "x"}]}', "of an unknown role", "line 2: message 1 of messages is"),
    (b'{"conversations": [{"from": {}, "value": "x"}]}', "of an unknown role", "message 1 of conversations is"),
    (b'{"messages": [{"role": "tool", "content": "x"}]}', "of an unknown role", "line 2: message 1 of messages is"),
    (b'{"prompt": "x", "completion": 3}', "of the wrong type", "line 2: the field 'completion' must be a string"),
    (b'{"prompt": "x", "completion": " "}', "empty", "line 2: message 2, from the assistant, is empty"),
    (b'{"messages": [{"role": "user", "content": "x"}]}', "without a reply", "line 2: there is no message from the"),
    (b'{"prompt": "\xff"}', "not UTF-8", "is not UTF-8 text: byte"),
    (b'{"prompt": "\\ud800", "completion": "y"}', "not Unicode", "line 2: the text"),
    (b'{"prompt": ', "not JSON", "line 2: this is not JSON"),
]


@pytest.mark.parametrize(("bad", "kind", "reason"), BAD)
def test_bad_rows_are_refused_or_left_out_and_counted(bad, kind, reason, tokenizer, tmp_path):
    path, good = tmp_path / "rows.jsonl", json.dumps({"messages": PAIR}).encode()
    path.write_bytes(b"\n".join([good, bad, good, bad]))
    with pytest.raises(ValueError, match=f"2 rows cannot be used: 2 {kind} .first: .*rows.jsonl.*{reason}") as error:
        ChatRows(scan_conversations(path), tokenizer, 100, too_long="skip")
    assert "leave such rows out with bad_rows: skip" in str(error.value)
    rows = ChatRows(scan_conversations(path), tokenizer, 100, bad_rows="skip")
    assert {name: each["count"] for name, each in rows.left_out.found.items()} == {kind: 2}
    assert [row["x0"].tolist() for row in rows] == [encode_chat(tokenizer, PAIR).x0] * 2


def test_too_long_rows_have_a_policy_of_their_own(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    long = {"prompt": "x " * 200, "completion": "y"}
    path.write_text("\n".join(json.dumps(row) for row in ({"messages": PAIR}, long)))
    with pytest.raises(ValueError, match=r"1 too long \(first: .*rows.jsonl, line 2 has .* with too_long: skip"):
        ChatRows(scan_conversations(path), tokenizer, 100, bad_rows="skip")
    assert len(ChatRows(scan_conversations(path), tokenizer, 100, too_long="skip")) == 1


def test_a_tokenizer_that_gives_mask_tokens_is_noticed(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.mask_token = "Y"
    with pytest.raises(ValueError, match=r"1 with the mask token \(first: conversation 1: the tokenizer gives a mask"):
        ChatRows([PAIR], tokenizer, 100)


def test_unknown_ways_with_bad_rows_are_refused(tokenizer):
    with pytest.raises(ValueError, match="bad_rows='drop'; allowed are 'error' and 'skip'"):
        ChatRows(CONVERSATIONS, tokenizer, 10, bad_rows="drop")
