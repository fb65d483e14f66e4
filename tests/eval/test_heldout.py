"""Held-out texts as what is scored: shards, documents and replies, each as it is trained on."""

import json
from types import SimpleNamespace

import pytest
import torch

from llada.data.chat import encode_chat, encode_prompt
from llada.data.tokenizer import encode, read_tokenizer
from llada.data.tokens import TokenRows
from llada.eval.heldout import digest, read_rows
from llada.eval.texts import encode_pair

TURNS = [("system", "Be brief."), ("user", "What is 1?"), ("assistant", "1"), ("user", "And 2?"), ("assistant", "two")]
TALK = [{"role": role, "content": content} for role, content in TURNS]


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return read_tokenizer(prepared / "tokenizer")


def write(path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def scored(row) -> list[tuple[list[int], list[int]]]:
    return [(request.prompt.tolist(), request.answer.tolist()) for request in row.requests]


def test_shards_give_rows_of_one_length(prepared, tokenizer):
    shards = TokenRows(prepared / "heldout", 16)
    rows = read_rows(str(prepared / "heldout"), tokenizer, 16)
    assert [scored(row) for row in rows] == [[([], shards[i]["x0"].tolist())] for i in range(len(shards))]
    assert (
        read_rows(str(prepared / "heldout"), tokenizer, 16, rows=2)[1].requests[0].answer.tolist()
        == scored(rows[1])[0][1]
    )


def test_documents_end_and_are_cut_into_pieces(tokenizer, tmp_path):
    texts = ["the model reads", "a token " * 30]
    source = write(tmp_path / "texts.jsonl", *({"text": text} for text in texts))
    for row, text in zip(read_rows(source, tokenizer, 16), texts, strict=True):
        pieces = [answer for prompt, answer in scored(row) if not prompt]
        assert len(pieces) == len(row.requests)
        joined = [token for piece in pieces for token in piece]
        assert joined == [*encode(tokenizer, text), tokenizer.eos_token_id]
        assert all(len(piece) == 16 for piece in pieces[:-1])
        assert row.tokens == len(joined)


def test_every_reply_is_scored_given_all_before_it(tokenizer, tmp_path):
    source = write(tmp_path / "talk.jsonl", {"messages": TALK}, {"prompt": TALK[1:4], "completion": TALK[4:]})
    first, second = read_rows(source, tokenizer, 128)
    whole = encode_chat(tokenizer, TALK).x0
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    replies = [[*encode(tokenizer, content), end] for content in ("1", "two")]
    prompts = [encode_prompt(tokenizer, TALK[:2]), encode_prompt(tokenizer, TALK[:4])]
    assert scored(first) == list(zip(prompts, replies, strict=True))
    assert prompts[1] + replies[1] == whole
    assert scored(second) == [(encode_prompt(tokenizer, TALK[1:4]), replies[1])]  # what the prompt holds is given


def test_question_and_answer_can_be_scored_as_texts(tokenizer, tmp_path):
    rows = [{"prompt": "the model ", "completion": "reads a token"}, {"instruction": "a", "output": " row"}]
    source = write(tmp_path / "pairs.jsonl", *rows)
    found = read_rows(source, tokenizer, 64, raw=True)
    assert scored(found[0]) == [encode_pair(tokenizer, "the model ", "reads a token")]
    assert scored(found[1]) == [encode_pair(tokenizer, "a", " row")]


def test_digest_tells_what_is_given_from_what_is_scored():
    def of(*parts):
        return SimpleNamespace(requests=[(torch.tensor(prompt), torch.tensor(answer)) for prompt, answer in parts])

    digests = [digest([of(([1, 2], [3]))]), digest([of(([1], [2, 3]))]), digest([of(([1, 2], [4]))])]
    assert len({*digests}) == 3
    assert digest([of(([1, 2], [3]))]) == digests[0]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"messages": TALK[:2]}, {}, "line 1: there is no message from the assistant"),
        ({"messages": TALK}, {"length": 20}, "line 1 has .* tokens, more than the 20 that are .*: shorten"),
        ({"messages": TALK}, {"raw": True}, "line 1: --raw is for one question and its answer; leave it out"),
        (
            {"prompt": "a " * 40, "completion": "b"},
            {"raw": True, "length": 20},
            "line 1 has .* tokens, more than the 20 that",
        ),
        ({"prompt": "a", "completion": ""}, {"raw": True}, "line 1: the answer is empty; give one, or drop the row"),
        ({"prompt": 3, "completion": "b"}, {"raw": True}, "line 1: the field 'prompt' must be a string, not int"),
        ({"text": "a"}, {"raw": True}, "--raw has no effect on .*, which holds no questions and answers; leave it"),
        ({"text": ""}, {}, "line 1: the text is empty"),
        ({"body": "a"}, {}, "line 1: there is no field 'text'; the fields are body"),
        ({"text": "a"}, {"rows": 2}, "holds 1 rows, fewer than rows=2; ask for fewer"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(tokenizer, tmp_path, row, options, message):
    source = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(ValueError, match=message):
        read_rows(source, tokenizer, options.pop("length", 64), **options)


def test_sources_without_rows_are_refused(prepared, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"data is prepared data of several splits; name one of them: .*heldout"):
        read_rows(str(prepared), tokenizer, 16)
    with pytest.raises(ValueError, match="holds no documents: give a source with at least one"):
        read_rows(write(tmp_path / "empty.jsonl"), tokenizer, 16)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_rows(str(tmp_path / "nowhere"), tokenizer, 16)
    with pytest.raises(ValueError, match="less than one row of 1000000"):
        read_rows(str(prepared / "heldout"), tokenizer, 1000000)


def test_shards_of_another_tokenizer_are_refused(prepared, asked):
    with pytest.raises(ValueError, match="was written with another tokenizer"):
        read_rows(str(prepared / "heldout"), asked.tokenizer, 16)
