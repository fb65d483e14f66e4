"""Texts of an evaluation task → token ids: contexts, continuations, and conversations that went through a template.

lm-evaluation-harness hands conversations over as one text. So that a message which spells out a control token does not
become one, such spellings are marked when the conversation is rendered, and only unmarked ones are control tokens.
"""

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from llada.data.tokenizer import encode

MARK = "\ufdd0"  # a noncharacter, which Unicode reserves for use within a program; no text has it


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> str:
    """A conversation by the tokenizer's chat template, marked as such; without a prompt its last message goes on."""
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; evaluate without one, or save a chat model's tokenizer")
    marked = []
    for number, message in enumerate(messages, start=1):
        if MARK in message["content"]:
            raise ValueError(f"message {number} holds U+FDD0, which is no character; remove it")
        content = _controls(tokenizer).sub(lambda found: found[0][0] + MARK + found[0][1:], message["content"])
        marked.append({"role": message["role"], "content": content})
    text = tokenizer.apply_chat_template(
        marked,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    return MARK + str(text)


def encode_context(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text, in which control tokens stay text, or of a rendered conversation, where they are tokens."""
    if not text.startswith(MARK):
        return encode(tokenizer, text)
    ids: list[int] = []
    for number, piece in enumerate(_controls(tokenizer).split(text[1:])):  # every other piece is a control token
        ids += encode(tokenizer, piece.replace(MARK, "")) if number % 2 == 0 else [tokenizer.get_vocab()[piece]]
    return ids


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of a context and of what follows it.

    Blanks at the end of a context go to the continuation, where a tokenizer joins them to a word, as in the original;
    those at the end of a chat header stay. Where the two would share a token, each is encoded by itself.
    """
    if context.startswith(MARK):
        return encode_context(tokenizer, context), encode(tokenizer, continuation)
    kept = context.rstrip()
    before, whole = encode(tokenizer, kept), encode(tokenizer, context + continuation)
    if whole[: len(before)] == before:
        return before, whole[len(before) :]
    return before, encode(tokenizer, context[len(kept) :] + continuation)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    return min((text.partition(stop)[0] for stop in stops), key=len, default=text)


def decode_until(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Sequence[str]) -> str:
    """The text of tokens up to the first stop string, which may be a control token, without control tokens."""
    text = cut(str(tokenizer.decode(list(ids), skip_special_tokens=False)), stops)
    return _controls(tokenizer).sub("", text)


def _controls(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")")
