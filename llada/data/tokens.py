"""Documents → memory-mapped token shards → rows of one length, the pretraining data of arXiv 2502.09992, section 2.2.

Documents are encoded, each is closed by EOS, and all are written one after the other; a row is a slice of that stream
and knows nothing of where documents begin. A folder of shards holds little-endian integers in `tokens-00000.bin`,
`tokens-00001.bin`, ... and `index.json`, which is written last.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llada.data.records import read_records, string_field
from llada.data.token_index import (
    DTYPES,
    FORMAT_VERSION,
    Shard,
    TokenIndex,
    index_json,
    read_index,
)
from llada.data.tokenizer import encode_batch, tokenizer_hash
from llada.durable import sync_folder, write_durably

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_CHARACTERS = 2**20  # documents are encoded together until they have this many characters


class Document(NamedTuple):
    name: str  # where it comes from
    text: str


def read_documents(
    source: str | os.PathLike[str], *, text_field: str = "text", split: str = "train"
) -> Iterator[Document]:
    """The documents of a source (see `llada.data.records`): each text file, or `text_field` of each row."""
    records = read_records(source, text_field=text_field, split=split)
    return _documents(records, os.fspath(source), text_field)


def _documents(records: Iterable[Any], source: str, text_field: str) -> Iterator[Document]:
    found = False
    for record in records:
        found = True
        yield Document(record.where, string_field(record, text_field))
    if not found:
        raise ValueError(f"{source} holds no documents: give a source with at least one")


def write_shards(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerFast,
    folder: str | os.PathLike[str],
    *,
    shard_tokens: int = 2**24,
) -> TokenIndex:
    """Encode documents into a new folder of shards with `shard_tokens` tokens each (the last has what is left).

    Control tokens spelled out in a document stay text. Documents without text are left out. The folder appears under
    its name only when it is complete and on disk; an interrupted call leaves nothing that looks like data.
    """
    target = Path(folder).absolute()  # "." alone has no name to put beside it
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens={shard_tokens}: a shard holds at least 1 token")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder: choose a new name, or remove it first")
    eos_token_id = tokenizer.eos_token_id
    if not isinstance(eos_token_id, int):
        raise ValueError("the tokenizer has no eos_token, which must close every document: set one")
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        count = text_bytes = 0
        writer = _ShardWriter(partial, DTYPES[dtype], shard_tokens)
        for batch in _batches(documents):
            for document, ids in zip(batch, _encode_documents(tokenizer, batch), strict=True):
                writer.write([*ids, eos_token_id])
                count += 1
                text_bytes += len(document.text.encode())
        writer.close()
        if count == 0:
            raise ValueError("there is no text to write: every document is empty, or there are no documents")
        index = TokenIndex(
            version=FORMAT_VERSION,
            tokenizer_hash=tokenizer_hash(tokenizer),
            dtype=dtype,
            vocab_size=vocab_size,
            eos_token_id=eos_token_id,
            documents=count,
            tokens=sum(shard.tokens for shard in writer.shards),
            text_bytes=text_bytes,
            shards=tuple(writer.shards),
        )
        write_durably(partial / "index.json", index_json(index))
        sync_folder(partial)
        partial.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return index


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, characters = [], 0
    for document in documents:
        if document.text:
            batch.append(document)
            characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_documents(tokenizer: PreTrainedTokenizerFast, batch: list[Document]) -> list[list[int]]:
    try:
        return encode_batch(tokenizer, [document.text for document in batch])
    except ValueError:
        for document in batch:  # one of them is at fault: find it and say which
            try:
                encode_batch(tokenizer, [document.text])
            except ValueError as error:
                raise ValueError(f"{document.name}: {error}") from error
        raise


class _ShardWriter:
    """Fills one shard file after the other; at most one shard is held in memory."""

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int):
        self.folder, self.dtype, self.shard_tokens = folder, dtype, shard_tokens
        self.shards: list[Shard] = []
        self.pieces: list[np.ndarray] = []
        self.held = 0

    def write(self, ids: list[int]) -> None:
        rest = np.array(ids, dtype=self.dtype)
        while len(rest):
            piece, rest = np.split(rest, [self.shard_tokens - self.held])
            self.pieces.append(piece)
            self.held += len(piece)
            if self.held == self.shard_tokens:
                self.close()

    def close(self) -> None:
        if self.held == 0:
            return
        content = np.concatenate(self.pieces).tobytes()
        name = f"tokens-{len(self.shards):05d}.bin"
        write_durably(self.folder / name, content)
        self.shards.append(Shard(name, self.held, hashlib.sha256(content).hexdigest()))
        self.pieces, self.held = [], 0


def verify_shards(folder: str | os.PathLike[str]) -> TokenIndex:
    """Read every shard of a folder and compare its SHA-256 with the index, which is returned."""
    index = read_index(folder)
    for shard in index.shards:
        with Path(folder, shard.name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            raise ValueError(
                f"the shard {Path(folder, shard.name)} has SHA-256 {found} instead of {shard.sha256}: its content "
                "changed; copy it again, or prepare the data again"
            )
    return index


class TokenRows:
    """The stream of a folder of shards, cut into rows of `length` tokens; what is left at the end is dropped.

    Row i is {"x0": int64 (length,)}. Shards are mapped into memory when first read, in each process anew. With a
    `tokenizer`, one that did not make these shards is refused.
    """

    def __init__(
        self, folder: str | os.PathLike[str], length: int, *, tokenizer: PreTrainedTokenizerFast | None = None
    ):
        if length < 1:
            raise ValueError(f"length={length}: a row has at least 1 token")
        self.folder, self.length = Path(folder), length
        self.index = read_index(folder)
        if tokenizer is not None and (given := tokenizer_hash(tokenizer)) != self.index.tokenizer_hash:
            raise ValueError(
                f"{self.folder} was written with another tokenizer (hash {self.index.tokenizer_hash[:12]}, given "
                f"{given[:12]}): use that tokenizer, or prepare the data again with this one"
            )
        if len(self) == 0:
            raise ValueError(
                f"{self.folder} has {self.index.tokens} tokens, less than one row of {length}: use shorter rows or "
                "more text"
            )
        self._ends = list(accumulate(shard.tokens for shard in self.index.shards))
        self._maps: dict[int, np.memmap] = {}

    def __len__(self) -> int:
        return self.index.tokens // self.length

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} does not exist: the rows are 0 to {len(self) - 1}")
        position, stop = i * self.length, (i + 1) * self.length
        pieces = []
        while position < stop:  # a row may begin in one shard and end in another
            shard = bisect_right(self._ends, position)
            start = self._ends[shard] - self.index.shards[shard].tokens
            end = min(stop, self._ends[shard])
            pieces.append(self._map(shard)[position - start : end - start])
            position = end
        return {"x0": np.concatenate(pieces).astype(np.int64)}  # (length,)

    def _map(self, shard: int) -> np.memmap:
        if shard not in self._maps:
            path = self.folder / self.index.shards[shard].name
            self._maps[shard] = np.memmap(path, dtype=DTYPES[self.index.dtype], mode="r")
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a pickled map would carry the whole file to the other process
