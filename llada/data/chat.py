"""Conversations → token ids and which of them are the response, the supervised fine-tuning data of arXiv 2502.09992,
section 2.3.

The layout is that of the official chat models: bos, then for every message
`<|start_header_id|>role<|end_header_id|>`, a blank line, the stripped content, `<|eot_id|>`. Ids are made of pieces: a
header is control tokens, what people wrote is text, so that no content can imitate a header.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from llada.data.records import Record, read_records, string_field
from llada.data.tokenizer import SPECIAL_TOKENS, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]  # each {"role": ..., "content": ...}

ROLES = ("system", "user", "assistant")


class ChatRow(NamedTuple):
    x0: list[int]  # (L,)
    maskable: list[bool]  # (L,) true on what the assistant says and on the eot that ends it


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> ChatRow:
    """A whole conversation, which must end with the assistant's reply, as training data.

    Equal to what the chat template gives, except that control tokens spelled out in a message stay text. Every message
    of the assistant is maskable.
    """
    _check(messages)
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("there is no message from the assistant, so nothing to learn: add its reply")
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"the last message must be from the assistant, not from {messages[-1]['role']!r}: add its reply"
        )
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and not message["content"].strip():
            raise ValueError(f"message {number}, from the assistant, is empty: give a reply or drop the conversation")
    return _encode(tokenizer, messages)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """A conversation that waits for the assistant: its ids (L,), ending with the assistant's header.

    Followed by the ids of the reply and eot, it equals `encode_chat` of the conversation with the reply.
    """
    _check(messages)
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message is already from the assistant: end with what it should reply to")
    return _encode(tokenizer, messages).x0 + _header(tokenizer, "assistant")


def _check(messages: Messages) -> None:
    if not messages:
        raise ValueError("the conversation has no messages: give at least one")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} must be a role and a content, not {type(message).__name__}")
        if message.get("role") not in ROLES:
            raise ValueError(f"message {number} has the role {message.get('role')!r}; allowed are {', '.join(ROLES)}")
        if "content" not in message:
            raise ValueError(f"message {number}, from {message['role']!r}, has no content: give a string")
        if not isinstance(message["content"], str):
            raise ValueError(
                f"message {number}, from {message['role']!r}: the content must be a string, not "
                f"{type(message['content']).__name__}"
            )


def _encode(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> ChatRow:
    x0 = [_control(tokenizer, SPECIAL_TOKENS.bos)]
    maskable = [False]
    for message in messages:
        header = _header(tokenizer, message["role"])
        said = [*encode(tokenizer, message["content"].strip()), _control(tokenizer, SPECIAL_TOKENS.eot)]
        x0 += header + said
        maskable += [False] * len(header) + [message["role"] == "assistant"] * len(said)
    return ChatRow(x0, maskable)


def _header(tokenizer: PreTrainedTokenizerBase, role: str) -> list[int]:
    return [
        _control(tokenizer, SPECIAL_TOKENS.start_header),
        *encode(tokenizer, role),
        _control(tokenizer, SPECIAL_TOKENS.end_header),
        *encode(tokenizer, "\n\n"),
    ]


def _control(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(token_id, int) or token_id == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token}, which the chat layout needs: add it as a special token")
    return token_id


class ChatRows:
    """Encoded conversations of at most `max_length` tokens; row i is {"x0": int64 (l,), "maskable": bool (l,)}.

    A longer one is an error, or with `too_long="skip"` left out and counted in `skipped`. Rows keep their own length:
    the training collator pads them with EOS, which is part of what is learnt.
    """

    def __init__(
        self,
        conversations: Iterable[Messages],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        too_long: Literal["error", "skip"] = "error",
    ):
        if too_long not in ("error", "skip"):
            raise ValueError(f"too_long={too_long!r}; allowed are 'error' and 'skip'")
        self.skipped = 0
        self._rows: list[dict[str, np.ndarray]] = []
        for number, messages in enumerate(conversations, start=1):
            try:
                row = encode_chat(tokenizer, messages)
            except ValueError as error:
                raise ValueError(f"conversation {number}: {error}") from error
            if len(row.x0) <= max_length:
                # int64 is what models take; a conversation is small enough to keep it so
                self._rows.append({"x0": np.array(row.x0, np.int64), "maskable": np.array(row.maskable, np.bool_)})
            elif too_long == "error":
                raise ValueError(
                    f"conversation {number} has {len(row.x0)} tokens, more than max_length={max_length}: shorten it, "
                    "raise max_length, or leave such rows out with too_long='skip'"
                )
            else:
                self.skipped += 1
        if not self._rows:
            raise ValueError(
                f"there are no conversations to train on ({self.skipped} were longer than max_length={max_length})"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return self._rows[i]


def read_conversations(source: str | os.PathLike[str], *, split: str = "train") -> Iterator[list[dict[str, str]]]:
    """The conversations of a source (see `llada.data.records`), in any of the `SHAPES`, told apart by their columns."""
    return _conversations(read_records(source, split=split), os.fspath(source))


def _conversations(records: Iterable[Record], source: str) -> Iterator[list[dict[str, str]]]:
    found = False
    for record in records:
        found = True
        for columns, read in SHAPES.items():
            if record.fields.keys() >= set(columns):
                yield read(record)
                break
        else:
            accepted = "; ".join(" + ".join(columns) for columns in SHAPES)
            raise ValueError(
                f"{record.where}: this is no conversation; accepted columns are {accepted}; found "
                f"{', '.join(record.fields) or 'none'}"
            )
    if not found:
        raise ValueError(f"{source} holds no conversations: give a source with at least one")


def _from_messages(record: Record) -> list[dict[str, str]]:
    return _turns(record, "messages", "role", "content", {role: role for role in ROLES})


def _from_sharegpt(record: Record) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
    return _turns(record, "conversations", "from", "value", roles)


def _turns(record: Record, column: str, role: str, content: str, roles: dict[str, str]) -> list[dict[str, str]]:
    turns: Any = record.fields[column]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{record.where}: {column} must be a list with at least one message")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get(content), str):
            raise ValueError(
                f"{record.where}: message {number} of {column} must have {role!r} and the string {content!r}"
            )
        if turn.get(role) not in roles:
            raise ValueError(
                f"{record.where}: message {number} of {column} is from {turn.get(role)!r}; "
                f"allowed are {', '.join(roles)}"
            )
        messages.append({"role": roles[turn[role]], "content": turn[content]})
    return messages


def _from_completion(record: Record) -> list[dict[str, str]]:
    return _pair(string_field(record, "prompt"), string_field(record, "completion"))


def _from_alpaca(record: Record) -> list[dict[str, str]]:
    prompt = string_field(record, "instruction")
    if record.fields.get("input") not in (None, ""):  # the column may be missing or empty: then there is only the task
        prompt += "\n\n" + string_field(record, "input")
    return _pair(prompt, string_field(record, "output"))


def _pair(prompt: str, reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


SHAPES = {
    ("messages",): _from_messages,
    ("conversations",): _from_sharegpt,
    ("prompt", "completion"): _from_completion,
    ("instruction", "output"): _from_alpaca,
}


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of generated tokens, up to the first end of turn or end of sequence."""
    ends = (tokenizer.eos_token_id, tokenizer.get_vocab().get(SPECIAL_TOKENS.eot))
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(list(ids[:length]), skip_special_tokens=True))
