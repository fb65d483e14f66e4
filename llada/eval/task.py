"""A task: conversations that wait for an answer, and the answers that are expected."""

import os
from itertools import islice
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from llada.data.chat import encode_prompt
from llada.data.conversations import Messages, read_conversations
from llada.eval.checks import CHECKS


class Task(NamedTuple):
    conversations: list[Messages]  # (N,) each ends with what is to be answered
    expected: list[str]  # (N,)
    check: str  # a name of CHECKS, by which an answer is right


def read_task(source: str | os.PathLike[str], check: str = "exact", *, rows: int | None = None) -> Task:
    """The first `rows` conversations that `llada sft` would read from the source; None: all of them.

    Raises ValueError where there are fewer, where a conversation does not end with an answer to something, and where an
    expected answer is not right by the check itself.
    """
    if check not in CHECKS:
        raise ValueError(f"unknown check {check!r}; known: {', '.join(CHECKS)}")
    if rows is not None and rows < 1:
        raise ValueError(f"rows={rows}: give 1 or more")
    conversations, expected = [], []
    for number, messages in enumerate(islice(read_conversations(source), rows), start=1):
        answer = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        if not answer.strip():
            raise ValueError(f"{source}, conversation {number}: it does not end with the assistant's answer; add it")
        if not CHECKS[check](answer, answer):
            raise ValueError(
                f"{source}, conversation {number}: the expected answer {answer!r} is itself not right by the check "
                f"{check!r}; choose another check ({', '.join(CHECKS)}) or correct the answer"
            )
        conversations.append(messages[:-1])
        expected.append(answer)
    if rows is not None and len(expected) < rows:
        raise ValueError(f"{source} holds {len(expected)} conversations, fewer than rows={rows}; ask for fewer rows")
    return Task(conversations, expected, check)


def check_prompts(task: Task, tokenizer: PreTrainedTokenizerBase, longest: int, most: int) -> None:
    """Raise ValueError for a prompt that, with `longest` tokens of answer, exceeds `most`, or is no prompt at all."""
    for number, messages in enumerate(task.conversations, start=1):
        try:
            length = len(encode_prompt(tokenizer, messages))
        except ValueError as error:
            raise ValueError(f"conversation {number}: {error}") from error
        if length + longest > most:
            raise ValueError(
                f"conversation {number}: {length} tokens of prompt and {longest} of answer exceed the model's {most}; "
                "leave it out, shorten it, or set a smaller gen_length (or longest)"
            )
