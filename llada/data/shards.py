"""Documents → folders of token shards, the pretraining data of arXiv 2502.09992, section 2.2.

Documents are encoded, each is closed by EOS, and all are written one after the other. A folder of shards holds
little-endian integers in `tokens-00000.bin`, `tokens-00001.bin`, ... and `index.json`, which is written last. What a
folder holds does not depend on the number of processes that encode.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llada.data.bad_rows import BadRowError, BadRows
from llada.data.documents import Document, check_text
from llada.data.encoding import encode_chunks, tokenizer_state
from llada.data.shard_writer import ShardWriter
from llada.data.token_index import FORMAT_VERSION, TokenIndex, index_json
from llada.data.tokenizer import tokenizer_hash
from llada.durable import is_taken, sync_folder, write_durably

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BATCH_CHARACTERS = 2**20  # documents are encoded together until they have this many characters
BATCH_ROWS = 2**12  # or are this many rows
SHARD_TOKENS = 2**24


class Labelled(NamedTuple):
    """A document and the split that it belongs to."""

    split: str
    document: Document


class Step(NamedTuple):
    """How far writing has come."""

    rows: int  # of the source that are written or left out
    text_bytes: int  # in them
    shard_full: bool  # a shard was filled in this step


START = Step(0, 0, False)


def write_shards(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerFast,
    folder: str | os.PathLike[str],
    *,
    shard_tokens: int = SHARD_TOKENS,
    workers: int = 1,
) -> TokenIndex:
    """Encode documents into a new folder of shards with `shard_tokens` tokens each (the last has what is left).

    Control tokens spelled out in a document stay text. A document without text is an error. The folder appears under
    its name only when it is complete and on disk; an interrupted call leaves nothing that looks like data.
    """
    target = Path(folder).absolute()  # "." alone has no name to put beside it
    if is_taken(target):
        raise ValueError(f"{target} exists and is not an empty folder: choose a new name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        writer = ShardWriter(partial, id_type(tokenizer), shard_tokens)
        for _ in write_documents(_checked(documents), tokenizer, {"": writer}, workers=workers):
            pass
        index = write_index(writer, tokenizer)
        partial.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return index


def _checked(documents: Iterable[Document]) -> Iterator[Labelled]:
    for document in documents:
        check_text(document.text, document.name)
        yield Labelled("", document)


def write_documents(
    rows: Iterable[Labelled | BadRowError],
    tokenizer: PreTrainedTokenizerBase,
    writers: Mapping[str, ShardWriter],
    *,
    workers: int = 1,
    left_out: BadRows | None = None,
    done: Step = START,
) -> Iterator[Step]:
    """Encode documents and append each to the writer of its split; a step after every few of them.

    Bad rows, and those which the tokenizer gives a mask token, are added to `left_out`; None: the first one is raised.
    `done` is what was written before.
    """
    eos, mask = _eos(tokenizer), tokenizer.mask_token_id
    for chunk, encoded in encode_chunks(_chunks(rows), _texts, tokenizer_state(tokenizer), workers):
        found = iter(encoded.split())
        pieces: dict[str, list[np.ndarray]] = {split: [] for split in writers}
        sizes = dict.fromkeys(writers, 0)
        read = 0
        for row in chunk:
            bad = row if isinstance(row, BadRowError) else None
            if not isinstance(row, BadRowError):
                ids, size = next(found), len(row.document.text.encode())
                read += size
                if mask is not None and (ids == mask).any():
                    bad = BadRowError("with the mask token", f"{row.document.name}: the tokenizer gives a mask token")
                else:
                    pieces[row.split].append(np.append(ids, eos))
                    sizes[row.split] += size
            if bad is not None:
                if left_out is None:
                    raise bad
                left_out.add(bad)
        filled = [writer.write(pieces[split], sizes[split]) for split, writer in writers.items()]
        done = Step(done.rows + len(chunk), done.text_bytes + read, any(filled))
        yield done


def _chunks(rows: Iterable[Labelled | BadRowError]) -> Iterator[list[Labelled | BadRowError]]:
    chunk, characters = [], 0
    for row in rows:
        chunk.append(row)
        characters += 0 if isinstance(row, BadRowError) else len(row.document.text)
        if characters >= BATCH_CHARACTERS or len(chunk) >= BATCH_ROWS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _texts(chunk: list[Labelled | BadRowError]) -> list[str]:
    return [row.document.text for row in chunk if not isinstance(row, BadRowError)]


def write_index(writer: ShardWriter, tokenizer: PreTrainedTokenizerFast) -> TokenIndex:
    """Finish a folder of shards; ValueError where it has no document."""
    written = writer.synced()
    writer.close()
    if written.documents == 0:
        raise ValueError("there is no text to write: there are no documents")
    index = TokenIndex(
        version=FORMAT_VERSION,
        tokenizer_hash=tokenizer_hash(tokenizer),
        dtype=id_type(tokenizer),
        vocab_size=_vocab_size(tokenizer),
        eos_token_id=_eos(tokenizer),
        documents=written.documents,
        tokens=written.tokens,
        text_bytes=written.text_bytes,
        shards=written.all_shards,
    )
    write_durably(writer.folder / "index.json", index_json(index))
    sync_folder(writer.folder)
    return index


def id_type(tokenizer: PreTrainedTokenizerBase) -> str:
    """The smallest type that holds every id of a tokenizer."""
    return "uint16" if _vocab_size(tokenizer) <= 2**16 else "uint32"


def _vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    return max(tokenizer.get_vocab().values()) + 1


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if not isinstance(tokenizer.eos_token_id, int):
        raise ValueError("the tokenizer has no eos_token, which must close every document: set one")
    return tokenizer.eos_token_id
