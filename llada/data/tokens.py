"""Memory-mapped token shards → rows of one length, the pretraining data of arXiv 2502.09992, section 2.2.

A row is a slice of the stream of all documents of a folder, which `llada.data.shards` writes; it begins and ends
wherever that falls.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llada.data.token_index import DTYPES, TokenIndex, read_index
from llada.data.tokenizer import tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
    `tokenizer`, one that did not make these shards is refused. With `documents`, {"documents": int64 (length,)} beside
    it numbers the documents of the row from 0; the EOS that closes a document belongs to it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        length: int,
        *,
        tokenizer: PreTrainedTokenizerFast | None = None,
        documents: bool = False,
    ):
        if length < 1:
            raise ValueError(f"length={length}: a row has at least 1 token")
        self.folder, self.length, self.documents = Path(folder), length, documents
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
        x0 = np.concatenate(pieces).astype(np.int64)  # (length,)
        if x0.max() >= self.index.vocab_size:
            self._refuse(i * self.length + int(x0.argmax()), int(x0.max()))
        if not self.documents:
            return {"x0": x0}
        ends = (x0 == self.index.eos_token_id).astype(np.int64)
        return {"x0": x0, "documents": ends.cumsum() - ends}

    def _refuse(self, position: int, token: int) -> NoReturn:
        """Raise ValueError for a token of the stream that is none of the vocabulary."""
        name = self.index.shards[bisect_right(self._ends, position)].name
        raise ValueError(
            f"the shard {self.folder / name} holds the token {token}, which is none of the {self.index.vocab_size} of "
            "its tokenizer: its content changed; copy it again, or prepare the data again"
        )

    def _map(self, shard: int) -> np.memmap:
        if shard not in self._maps:
            path = self.folder / self.index.shards[shard].name
            self._maps[shard] = np.memmap(path, dtype=DTYPES[self.index.dtype], mode="r")
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a pickled map would carry the whole file to the other process
