"""Writes a folder of token shards piece by piece, such that it can go on after a kill.

Ids are appended to the file of the present shard. What `synced` returned is on disk and says how to go on from there;
whatever was written after it is cut off again, and so the files are those of a writer that was never stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from llada.data.token_index import DTYPES, Shard
from llada.durable import sync_folder


class Written(NamedTuple):
    """What a folder of shards holds so far."""

    documents: int = 0
    text_bytes: int = 0
    shards: tuple[Shard, ...] = ()  # those that are full
    begun: Shard | None = None  # the one that is not

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.all_shards)

    @property
    def all_shards(self) -> tuple[Shard, ...]:
        return self.shards if self.begun is None else (*self.shards, self.begun)

    def as_json(self) -> dict[str, Any]:
        begun = None if self.begun is None else self.begun._asdict()
        return {**self._asdict(), "shards": [shard._asdict() for shard in self.shards], "begun": begun}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Written:
        begun = None if value["begun"] is None else Shard(**value["begun"])
        return cls(value["documents"], value["text_bytes"], tuple(Shard(**s) for s in value["shards"]), begun)


EMPTY = Written()


class ShardWriter:
    """Appends documents to the shards of a folder; nothing that it holds in memory grows with them."""

    def __init__(self, folder: Path, dtype: str, shard_tokens: int, written: Written = EMPTY):
        """Raises ValueError where the folder does not hold what `written` says."""
        if shard_tokens < 1:
            raise ValueError(f"shard_tokens={shard_tokens}: a shard holds at least 1 token")
        self.folder, self.dtype, self.shard_tokens = folder, DTYPES[dtype], shard_tokens
        self.documents, self.text_bytes = written.documents, written.text_bytes
        self.full = list(written.shards)
        self.unsynced: list[IO[bytes]] = []  # full shards that the disk may not have yet
        self.file: IO[bytes] | None = None  # the present shard
        self.tokens = 0  # in it
        self.sha256 = hashlib.sha256()
        for shard in written.all_shards:
            path, size = folder / shard.name, shard.tokens * self.dtype.itemsize
            if not path.is_file() or path.stat().st_size < size:
                raise ValueError(f"{path} has not the {size} bytes that were written to it: begin again")
        known = {shard.name for shard in written.all_shards}
        for path in folder.glob("tokens-*.bin"):
            if path.name not in known:
                path.unlink()
        if written.begun is not None:
            self._reopen(written.begun)

    def _reopen(self, shard: Shard) -> None:
        path = self.folder / shard.name
        os.truncate(path, shard.tokens * self.dtype.itemsize)
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256")
        if self.sha256.hexdigest() != shard.sha256:
            raise ValueError(f"{path} does not hold what was written to it: begin again")
        self.file, self.tokens = path.open("ab"), shard.tokens

    def write(self, documents: Iterable[np.ndarray], text_bytes: int) -> bool:
        """Append documents, each with its EOS, of so many bytes of text together; whether a shard became full."""
        before = len(self.full)
        pieces = list(documents)
        self.documents += len(pieces)
        self.text_bytes += text_bytes
        rest = np.concatenate([np.zeros(0, self.dtype), *pieces]).astype(self.dtype)
        while len(rest):
            if self.file is None:
                self.file = (self.folder / f"tokens-{len(self.full):05d}.bin").open("wb")
            piece, rest = np.split(rest, [self.shard_tokens - self.tokens])
            content = piece.tobytes()
            self.file.write(content)
            self.sha256.update(content)
            self.tokens += len(piece)
            if self.tokens == self.shard_tokens:
                self.full.append(self._present(self.file))
                self.unsynced.append(self.file)
                self.file, self.tokens, self.sha256 = None, 0, hashlib.sha256()
        return len(self.full) > before

    def _present(self, file: IO[bytes]) -> Shard:
        return Shard(Path(file.name).name, self.tokens, self.sha256.hexdigest())

    def synced(self) -> Written:
        """What is in the folder, once the disk has it."""
        for file in self.unsynced + ([] if self.file is None else [self.file]):
            file.flush()
            os.fsync(file.fileno())
        self._release()
        sync_folder(self.folder)
        begun = None if self.file is None else self._present(self.file)
        return Written(self.documents, self.text_bytes, tuple(self.full), begun)

    def _release(self) -> None:
        for file in self.unsynced:
            file.close()
        self.unsynced = []

    def close(self) -> None:
        """Let the files go, synced or not."""
        self._release()
        if self.file is not None:
            self.file.close()
