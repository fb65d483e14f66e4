"""The tokenizer of a LLaDA: byte-level BPE with the control tokens and the chat layout of the official models
(arXiv 2502.09992).

Every byte is in the alphabet, so any text survives encoding and decoding unchanged. Numbers are cut into single digits
and runs of newlines stand alone: a digit is the same token wherever it is written, and the blank line between a chat
header and the message never merges with the message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llada.data.bad_rows import BadRowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


class SpecialTokens(NamedTuple):
    """The control tokens, in the order of their ids: the first field is token 0."""

    mask: str = "<|mdm_mask|>"  # [MASK]
    bos: str = "<|startoftext|>"  # opens a conversation
    eos: str = "<|endoftext|>"  # ends a document, pads a batch
    eot: str = "<|eot_id|>"  # ends a message
    start_header: str = "<|start_header_id|>"  # opens the header that names who speaks
    end_header: str = "<|end_header_id|>"  # closes it


SPECIAL_TOKENS = SpecialTokens()
# Tokenizers that are what their tokenizer.json says. AutoTokenizer would put that of the model's type in their place,
# for the baseline with biases the one of Qwen2, which cuts a text into other words.
_GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256
LARGEST_VOCABULARY = 2**20  # room for so many is taken at once

# What transformers reports as assistant tokens is what stands inside the generation block: the reply and its eot.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] | trim ~ '<|eot_id|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] | trim ~ '<|eot_id|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of exactly `vocab_size` tokens, control tokens included, learnt from `texts`.

    The same texts give the same tokenizer. Raises where `vocab_size` leaves no room for the bytes and the control
    tokens, or where the texts have too few different words to fill it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size > LARGEST_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size} is too large: a tokenizer has at most {LARGEST_VOCABULARY} tokens here"
        )
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: {len(SPECIAL_TOKENS)} control tokens and 256 bytes need at least "
            f"{SMALLEST_VOCABULARY}"
        )
    characters = 0

    def counted(texts: Iterable[str]) -> Iterator[str]:
        nonlocal characters
        for text in texts:
            characters += len(text)
            yield text

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(counted(texts), trainer)
    if characters == 0:
        raise ValueError("there is no text to train a tokenizer on: give at least one text that is not empty")
    reached = tokenizer.get_vocab_size()
    if reached != vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} cannot be filled: the {characters} characters given hold only {reached} "
            f"different tokens; ask for at most {reached} or give more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        mask_token=SPECIAL_TOKENS.mask,
        bos_token=SPECIAL_TOKENS.bos,
        eos_token=SPECIAL_TOKENS.eos,
        pad_token=SPECIAL_TOKENS.eos,
        extra_special_tokens=[SPECIAL_TOKENS.eot, SPECIAL_TOKENS.start_header, SPECIAL_TOKENS.end_header],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer in a folder, if it has one; ValueError where it cannot be read or encodes nothing."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    described = folder / "tokenizer_config.json"
    if not described.is_file():
        return None
    try:
        settings = json.loads(described.read_text(encoding="utf-8"))
        generic = isinstance(settings, dict) and settings.get("tokenizer_class") in _GENERIC_TOKENIZERS
        if generic and not (folder / "tokenizer.json").is_file():
            raise ValueError("there is no tokenizer.json beside tokenizer_config.json; copy all the files")
        # no remote code, said explicitly, because by default AutoTokenizer asks on the terminal whether to run it
        found = (
            PreTrainedTokenizerFast.from_pretrained(folder)
            if generic
            else AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        )
        if not isinstance(found.model_max_length, int | float):
            raise ValueError(f"model_max_length={found.model_max_length!r} must be a number")
        encode(found, "a")  # some settings are read only then
        return found
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise ValueError(f"the tokenizer in {folder} cannot be read: {error}") from error


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of `text` alone: nothing is added, and a control token spelled out in the text stays ordinary text."""
    return encode_batch(tokenizer, [text])[0]


def encode_batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of every text, in one call of the tokenizer."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRowError(
                "not Unicode",
                f"the text {text[error.start : error.start + 1]!a} at character {error.start} is half of a surrogate "
                "pair, which is not valid Unicode: repair or drop the text",
            ) from error
    if not texts:
        return []
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,  # a document may be longer than the model's context: it is cut into rows later
    )["input_ids"]


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 (hex) of everything that decides which ids a text gets: equal hashes mean interchangeable token files."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    decisive = {key: state[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
