"""Held-out texts as requests: rows of token shards, documents, or the replies of conversations."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llada.data.bad_rows import BadRowError
from llada.data.chat import chat_row
from llada.data.conversations import Conversation, is_conversation, scan_conversations
from llada.data.documents import read_documents
from llada.data.records import read_records
from llada.data.tokenizer import encode
from llada.data.tokens import TokenRows
from llada.eval.scoring import Request, request_of
from llada.eval.texts import encode_pair


class Row(NamedTuple):
    """What is drawn as one: its parts are of one text, and so resemble each other."""

    requests: list[Request]

    @property
    def tokens(self) -> int:
        """So many are scored."""
        return sum(len(request.answer) for request in self.requests)


def read_rows(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    rows: int | None = None,
    raw: bool = False,
) -> list[Row]:
    """The first `rows` rows of a source; None: all of them.

    A folder of token shards gives rows of `length` tokens, each by itself. Documents (`llada.data.documents`) end with
    the end of sequence and are cut into pieces of at most `length` tokens, each by itself. Of conversations
    (`llada.data.conversations`) every reply of the assistant is scored, given all before it.

    Args:
        length: tokens that both models hold.
        raw: a question and its answer are scored as the texts they are, without the chat layout.

    Raises ValueError for a row that cannot be used, and where there are fewer than `rows`.
    """
    found = list(islice(_reader(source, raw)(source, tokenizer, length), rows))
    if rows is not None and len(found) < rows:
        raise ValueError(f"{source} holds {len(found)} rows, fewer than rows={rows}; ask for fewer")
    return found


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 (hex) of all tokens that are given and scored."""
    content = hashlib.sha256()
    for request in (request for row in rows for request in row.requests):
        for part in request:
            content.update(len(part).to_bytes(8) + part.numpy().tobytes())
    return content.hexdigest()


def _reader(source: str, raw: bool) -> Callable[[str, PreTrainedTokenizerBase, int], Iterator[Row]]:
    """What reads a source, by what it holds."""
    if (prepared := Path(source, "heldout", "index.json")).is_file():
        raise ValueError(f"{source} is prepared data of several splits; name one of them: {prepared.parent}")
    shards = Path(source, "index.json").is_file()
    first = None if shards else next(read_records(source), None)
    if first is not None and is_conversation(first):
        return _pairs if raw else _replies
    if raw:
        raise ValueError(f"--raw has no effect on {source}, which holds no questions and answers; leave it out")
    return _shards if shards else _documents


def _shards(source: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[Row]:
    rows = TokenRows(source, length, tokenizer=cast(PreTrainedTokenizerFast, tokenizer))
    for i in range(len(rows)):
        yield Row([request_of([], torch.from_numpy(rows[i]["x0"]))])


def _documents(source: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[Row]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for document in read_documents(source):
        ids = [*encode(tokenizer, document.text), *end]
        yield Row([request_of([], ids[i : i + length]) for i in range(0, len(ids), length)])


def _replies(source: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[Row]:
    for talk in _talks(source):
        row = chat_row(talk, source, tokenizer, sys.maxsize)
        x0, maskable = torch.from_numpy(row["x0"]), torch.from_numpy(row["maskable"]).int()
        _check_length(talk, len(x0), length)
        edges = maskable.diff(prepend=maskable.new_zeros(1), append=maskable.new_zeros(1)).nonzero()[:, 0]
        yield Row([request_of(x0[:start], x0[start:stop]) for start, stop in edges.view(-1, 2).tolist()])


def _pairs(source: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[Row]:
    for talk in _talks(source):
        if [message["role"] for message in talk.messages] != ["user", "assistant"]:
            raise ValueError(f"{talk.where}: --raw is for one question and its answer; leave it out")
        pair = encode_pair(tokenizer, *(message["content"] for message in talk.messages))
        _check_length(talk, sum(map(len, pair)), length)
        if not pair[1]:
            raise ValueError(f"{talk.where}: the answer is empty; give one, or drop the row")
        yield Row([request_of(*pair)])


def _talks(source: str) -> Iterator[Conversation]:
    for item in scan_conversations(source):
        if isinstance(item, BadRowError):
            raise item
        yield item


def _check_length(talk: Conversation, tokens: int, length: int) -> None:
    if tokens > length:
        raise ValueError(
            f"{talk.where} has {tokens} tokens, more than the {length} that are asked for or that both models hold: "
            "shorten or drop it"
        )
