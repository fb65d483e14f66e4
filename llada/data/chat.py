"""Conversations → token ids and which of them are the response, the supervised fine-tuning data of arXiv 2502.09992,
section 2.3.

The layout is that of the official chat models: bos, then for every message
`<|start_header_id|>role<|end_header_id|>`, a blank line, the stripped content, `<|eot_id|>`. Ids are made of pieces: a
header is control tokens, what people wrote is text, so that no content can imitate a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from llada.data.bad_rows import BadRowError, BadRows
from llada.data.conversations import ROLES, Conversation, Messages
from llada.data.tokenizer import SPECIAL_TOKENS, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        raise BadRowError(
            "without a reply", "there is no message from the assistant, so nothing to learn: add its reply"
        )
    if messages[-1]["role"] != "assistant":
        raise BadRowError(
            "without a reply",
            f"the last message must be from the assistant, not from {messages[-1]['role']!r}: add its reply",
        )
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and not message["content"].strip():
            raise BadRowError(
                "empty", f"message {number}, from the assistant, is empty: give a reply or drop the conversation"
            )
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
        raise BadRowError("empty", "the conversation has no messages: give at least one")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise BadRowError(
                "of the wrong type", f"message {number} must be a role and a content, not {type(message).__name__}"
            )
        if message.get("role") not in ROLES:
            raise BadRowError(
                "of an unknown role",
                f"message {number} has the role {message.get('role')!r}; allowed are {', '.join(ROLES)}",
            )
        if "content" not in message:
            raise BadRowError(
                "of the wrong type", f"message {number}, from {message['role']!r}, has no content: give a string"
            )
        if not isinstance(message["content"], str):
            raise BadRowError(
                "of the wrong type",
                f"message {number}, from {message['role']!r}: the content must be a string, not "
                f"{type(message['content']).__name__}",
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

    A longer one is an error, or with `too_long="skip"` left out, and so is with `bad_rows` one that teaches nothing or
    cannot be read; `left_out` counts them. An error counts all of them, too. Rows keep their own length: the training
    collator pads them with EOS, which is part of what is learnt.
    """

    def __init__(
        self,
        conversations: Iterable[Messages | Conversation | BadRowError],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        too_long: Literal["error", "skip"] = "error",
        bad_rows: Literal["error", "skip"] = "error",
    ):
        for name, value in (("too_long", too_long), ("bad_rows", bad_rows)):
            if value not in ("error", "skip"):
                raise ValueError(f"{name}={value!r}; allowed are 'error' and 'skip'")
        self.left_out, refused = BadRows(), BadRows()
        self._rows: list[dict[str, np.ndarray]] = []
        for number, item in enumerate(conversations, start=1):
            try:
                self._rows.append(chat_row(item, f"conversation {number}", tokenizer, max_length))
            except BadRowError as bad:
                policy = too_long if bad.kind == "too long" else bad_rows
                (refused if policy == "error" else self.left_out).add(bad)
        if refused.total:
            options = "too_long: skip" if set(refused.found) == {"too long"} else "bad_rows: skip"
            raise ValueError(f"{refused}. Mend them, or leave such rows out with {options}")
        if not self._rows:
            raise ValueError(f"there are no conversations to train on; {self.left_out}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return self._rows[i]


def chat_row(
    item: Messages | Conversation | BadRowError, where: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, np.ndarray]:
    """A row as `ChatRows` has it. Raises BadRowError for one that is none; `where` names one that does not itself."""
    if isinstance(item, BadRowError):
        raise item
    where, messages, prompt = item if isinstance(item, Conversation) else (where, item, 0)
    try:
        row = encode_chat(tokenizer, messages)
        if prompt:
            given = len(_encode(tokenizer, messages[:prompt]).x0)
            row = row._replace(maskable=[False] * given + row.maskable[given:])
    except BadRowError as bad:
        raise BadRowError(bad.kind, f"{where}: {bad}") from bad
    if len(row.x0) > max_length:
        raise BadRowError(
            "too long",
            f"{where} has {len(row.x0)} tokens, more than max_length={max_length}: shorten it, or raise max_length",
        )
    if tokenizer.mask_token_id in row.x0:
        raise BadRowError("with the mask token", f"{where}: the tokenizer gives a mask token")
    # int64 is what models take; a conversation is small enough to keep it so
    return {"x0": np.array(row.x0, np.int64), "maskable": np.array(row.maskable, np.bool_)}


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, at_least: int = 0) -> str:
    """The text of generated tokens, up to the first end of turn or end of sequence after `at_least` tokens."""
    ends = _ends(tokenizer)
    length = next((i for i, token in enumerate(ids) if token in ends and i >= at_least), len(ids))
    return _decode(tokenizer, ids[:length])


class TextStream:
    """The text of `decode_response`, piece by piece while the tokens come: joined, the pieces are that text.

    What the next token may still change is held back: a character of which some bytes are missing, and the last
    spaces where the tokenizer takes out those before punctuation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._ends, self._special = _ends(tokenizer), frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = []
        self._given = 0  # characters
        self._ended = False

    def add(self, ids: Sequence[int]) -> str:
        """The text that the next tokens have made certain; after an end of turn or of sequence there is none."""
        for token in ids:
            if self._ended or token in self._ends:
                return self.end()
            self._ids.append(token)
        return self._new(self._certain())

    def end(self) -> str:
        """What was held back; no text follows."""
        self._ended = True
        return self._new(_decode(self._tokenizer, self._ids))

    def _certain(self) -> str:
        count = len(self._ids)
        while count and self._runs_on(self._ids[count - 1]):
            count -= 1
        text = _decode(self._tokenizer, self._ids[:count]).rstrip("\N{REPLACEMENT CHARACTER}")
        return text[:-_CLEANED] if self._tokenizer.clean_up_tokenization_spaces else text

    def _runs_on(self, token: int) -> bool:
        """Whether the token is part of a run of bytes, all of which a byte that does not fit makes unreadable."""
        return token in self._special or bool(_BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token))))

    def _new(self, text: str) -> str:
        piece = text[self._given :]
        self._given += len(piece)
        return piece


_BYTE = re.compile("<0x[0-9A-F]{2}>")  # tokens of sentencepiece for what its vocabulary does not have
_CLEANED = 8  # characters at the end of a text that the cleaning of spaces may change; what it looks for has four


def _ends(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    """The ids after which nothing is said; None for one that the tokenizer does not have."""
    return tokenizer.eos_token_id, tokenizer.get_vocab().get(SPECIAL_TOKENS.eot)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
