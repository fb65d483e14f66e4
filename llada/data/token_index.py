"""The index of a folder of token shards: what `index.json` says, and whether the folder agrees.

It is written after everything it describes, so that a folder with an index is complete. It may come from somebody else:
nothing in it is believed before it was checked, and the files it names lie in its own folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT_VERSION = 1
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}  # by their names in the index; little-endian on disk


class Shard(NamedTuple):
    name: str  # file name inside the folder
    tokens: int
    sha256: str  # of the file, hexadecimal


@dataclass(frozen=True)
class TokenIndex:
    """What `index.json` says about a folder of shards."""

    version: int  # of this format
    tokenizer_hash: str  # of the tokenizer that made the ids
    dtype: str  # uint16 or uint32, the smallest that holds every id
    vocab_size: int  # every id is below it
    eos_token_id: int  # closes every document
    documents: int
    tokens: int  # in all shards together, EOS included
    text_bytes: int  # of the documents in UTF-8, for bits per byte
    shards: tuple[Shard, ...]


def index_json(index: TokenIndex) -> bytes:
    """The content of `index.json`."""
    described = asdict(index) | {"shards": [shard._asdict() for shard in index.shards]}
    return json.dumps(described, indent=2).encode() + b"\n"


def read_index(folder: str | os.PathLike[str]) -> TokenIndex:
    """The index of a folder of shards, after checking that the files it names are there in full."""
    folder = Path(folder)
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no tokens: there is no {path}; write_shards or `llada prepare` makes it"
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        version = content["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): prepare the data again") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this is written for {FORMAT_VERSION}: prepare the data again"
        )
    try:
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        index = TokenIndex(**content, shards=shards)
        expected = {field.name: int for field in fields(index)} | {"tokenizer_hash": str, "dtype": str, "shards": tuple}
        wrong = [name for name, kind in expected.items() if type(getattr(index, name)) is not kind]
        wrong += [str(s) for s in shards if [type(value) for value in s] != [str, int, str] or s.tokens < 1]
        if wrong or index.dtype not in DTYPES or index.tokens != sum(shard.tokens for shard in shards):
            raise ValueError(f"wrong values of {', '.join(wrong) or 'dtype or tokens'}")
        if not 0 <= index.eos_token_id < index.vocab_size <= 2 ** (8 * DTYPES[index.dtype].itemsize):
            raise ValueError("wrong values of eos_token_id or vocab_size")
        if min(index.documents, index.text_bytes) < 1:
            raise ValueError("wrong values of documents or text_bytes")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): prepare the data again") from error
    for shard in shards:
        _check_file(folder, shard, DTYPES[index.dtype].itemsize)
    return index


def _check_file(folder: Path, shard: Shard, token_bytes: int) -> None:
    if Path(shard.name).name != shard.name or shard.name in (".", ".."):
        raise ValueError(f"the index of {folder} names the shard {shard.name!r}, which is not a file of this folder")
    file = folder / shard.name
    if not file.is_file():
        raise FileNotFoundError(f"the shard {file} is missing: copy the folder again, or prepare the data again")
    size, wanted = file.stat().st_size, shard.tokens * token_bytes
    if size != wanted:
        raise ValueError(f"the shard {file} has {size} bytes instead of {wanted}: copy it again, or prepare it again")
