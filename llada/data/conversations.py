"""Conversations in the rows of a source, told apart by their columns.

`SHAPES` at the bottom lists them; a row that has the columns of several is the first of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llada.data.bad_rows import BadRowError
from llada.data.records import Record, scan_records, string_field
from llada.data.sources import Source

Messages = Sequence[Mapping[str, str]]  # each {"role": ..., "content": ...}

ROLES = ("system", "user", "assistant")


class Conversation(NamedTuple):
    where: str  # the place of its row, for messages
    messages: Messages
    prompt: int = 0  # so many messages at the beginning are not learnt, whoever says them


def read_conversations(source: str | os.PathLike[str], *, split: str = "train") -> Iterator[Messages]:
    """The conversations of a source (`llada.data.sources`), in any of the `SHAPES`, told apart by their columns.

    The first row that is none raises BadRowError.
    """
    for item in scan_conversations(source, split=split):
        if isinstance(item, BadRowError):
            raise item
        yield item.messages


def scan_conversations(source: str | os.PathLike[str], *, split: str = "train") -> Iterator[Conversation | BadRowError]:
    """The conversations of a source, and in place of a row that is none, why. ValueError where there is no row."""
    found = False
    for record in scan_records(Source(os.fspath(source), split=split)):
        found = True
        try:
            yield record if isinstance(record, BadRowError) else _conversation(record)
        except BadRowError as bad:
            yield bad
    if not found:
        raise ValueError(f"{source} holds no conversations: give a source with at least one")


def is_conversation(record: Record) -> bool:
    """Whether a row has the columns of a conversation, in any of the `SHAPES`."""
    return _shape(record) is not None


def _shape(record: Record) -> Shape | None:
    return next((shape for shape in SHAPES if record.fields.keys() >= set(shape.columns)), None)


def _conversation(record: Record) -> Conversation:
    if (shape := _shape(record)) is not None:
        return shape.read(record)
    raise BadRowError(
        "without the columns of a conversation",
        f"{record.where}: this is no conversation; accepted are {'; '.join(shape.looks for shape in SHAPES)}; found "
        f"the columns {', '.join(record.fields) or 'none'}",
    )


def _from_messages(record: Record) -> Conversation:
    return Conversation(record.where, _turns(record, "messages", "role", "content", {role: role for role in ROLES}))


def _from_sharegpt(record: Record) -> Conversation:
    roles = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
    return Conversation(record.where, _turns(record, "conversations", "from", "value", roles))


def _turns(record: Record, column: str, role: str, content: str, roles: dict[str, str]) -> list[dict[str, str]]:
    turns: Any = record.fields[column]
    if not isinstance(turns, list):
        raise BadRowError("of the wrong type", f"{record.where}: {column} must be a list of messages")
    if not turns:
        raise BadRowError("empty", f"{record.where}: {column} must be a list with at least one message")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get(content), str):
            raise BadRowError(
                "of the wrong type",
                f"{record.where}: message {number} of {column} must have {role!r} and the string {content!r}",
            )
        if turn.get(role) not in list(roles):  # in a dictionary, a list could not be looked for
            raise BadRowError(
                "of an unknown role",
                f"{record.where}: message {number} of {column} is from {turn.get(role)!r}; "
                f"allowed are {', '.join(roles)}",
            )
        messages.append({"role": roles[turn[role]], "content": turn[content]})
    return messages


def _from_completion(record: Record) -> Conversation:
    """Each of the two is text or messages; what the assistant says in the prompt is not learnt."""
    prompt, completion = (
        _turns(record, column, "role", "content", {role: role for role in ROLES})
        if isinstance(record.fields[column], list)
        else [{"role": role, "content": string_field(record, column)}]
        for column, role in (("prompt", "user"), ("completion", "assistant"))
    )
    return Conversation(record.where, [*prompt, *completion], prompt=len(prompt))


def _from_alpaca(record: Record) -> Conversation:
    prompt = string_field(record, "instruction")
    if record.fields.get("input") not in (None, ""):  # the column may be missing or empty: then there is only the task
        prompt += "\n\n" + string_field(record, "input")
    reply = string_field(record, "output")
    return Conversation(record.where, [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}])


class Shape(NamedTuple):
    """A kind of row that is a conversation."""

    columns: tuple[str, ...]  # by which it is recognised
    looks: str  # for the error that lists all of them
    read: Callable[[Record], Conversation]


SHAPES = (
    Shape(("messages",), "messages: [{role, content}, ...]", _from_messages),
    Shape(("conversations",), "conversations: [{from, value}, ...] (ShareGPT)", _from_sharegpt),
    Shape(("prompt", "completion"), "prompt and completion, each text or [{role, content}, ...]", _from_completion),
    Shape(("instruction", "output"), "instruction, output and perhaps input (Alpaca)", _from_alpaca),
)
