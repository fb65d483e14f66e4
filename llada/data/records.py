"""Rows of data as users bring them: text, JSON Lines, JSON, Parquet, folders of these, Hugging Face data sets.

A source is a path, or `hf:` and what `datasets.load_dataset` should open: `hf:owner/name`, `hf:owner/name/config` or
`hf:` and a local folder (`hf:./folder`). A folder written by `Dataset.save_to_disk` is recognised. In any other folder
all files are read, in the order of their names, hidden ones (`.name`) excepted.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HUB_PREFIX = "hf:"


class Record(NamedTuple):
    where: str  # for messages and names: the file and the line or row in it
    fields: dict[str, Any]  # column → value


def read_records(source: str | os.PathLike[str], *, text_field: str = "text", split: str = "train") -> Iterator[Record]:
    """Every row of `source`; a file of no known format is text, and one row whose `text_field` is the whole file.

    `split` chooses among the splits of a Hugging Face data set and says nothing about files. That the source exists is
    checked at once, its contents as they are read.
    """
    name = os.fspath(source)
    if name.startswith(HUB_PREFIX):
        return _rows(_load(name.removeprefix(HUB_PREFIX), split), name)
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {name!r}: give a path that exists, or {HUB_PREFIX}owner/name for a data set "
            "of the Hugging Face hub"
        )
    if not path.is_dir():
        return _read_file(path, text_field)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _rows(_load_saved(path, split), name)
    return _read_folder(path, text_field)


def string_field(record: Record, field: str) -> str:
    """The string in one column of a row; what else is there is named in the error."""
    if field not in record.fields:
        raise ValueError(
            f"{record.where}: there is no field {field!r}; the fields are {', '.join(record.fields) or 'none'}"
        )
    value = record.fields[field]
    if not isinstance(value, str):
        raise ValueError(f"{record.where}: the field {field!r} must be a string, not {type(value).__name__}")
    return value


def _read_folder(folder: Path, text_field: str) -> Iterator[Record]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            yield from _read_file(Path(parent, name), text_field)


def _read_file(path: Path, text_field: str) -> Iterator[Record]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _read_parquet(path)
    elif name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_json_lines(path)
    elif name.endswith(".json"):
        yield from _read_json(path)
    else:
        yield Record(str(path), {text_field: _decode(path.read_bytes(), path, 0)})


def _decode(content: bytes, path: Path, offset: int) -> str:
    try:
        # utf-8-sig drops the byte order mark that some editors put first; it is not part of the text
        return content.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start + (len(content) - len(error.object))
        raise ValueError(
            f"{path} is not UTF-8 text: byte {at} is 0x{error.object[error.start]:02x}; convert the file, or remove it "
            "if it is binary"
        ) from error


def _read_json_lines(path: Path) -> Iterator[Record]:
    offset = 0
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(_lines(file, path), start=1):
            text = _decode(line, path, offset)
            offset += len(line)
            if text.strip():
                yield _record(_parse(text, f"{path}, line {number}"), f"{path}, line {number}")


def _lines(file: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}; copy or compress it again") from error


def _read_json(path: Path) -> Iterator[Record]:
    content = _parse(_decode(path.read_bytes(), path, 0), str(path))
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: a .json file must hold one list of objects, not {type(content).__name__}; give one object per "
            "line as .jsonl, or plain text as .txt"
        )
    for number, item in enumerate(content, start=1):
        yield _record(item, f"{path}, item {number}")


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: this is not JSON: {error}") from error


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: an object with named fields is needed, not {type(value).__name__}")
    return Record(where, value)


def _read_parquet(path: Path) -> Iterator[Record]:
    from datasets import load_dataset

    try:
        # streamed: a second copy of the file in the cache would serve nobody
        rows = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            yield Record(f"{path}, row {number}", dict(row))
    except Exception as error:  # datasets and pyarrow raise many types for a damaged file
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def _rows(dataset: Iterable[Any], name: str) -> Iterator[Record]:
    for number, row in enumerate(dataset, start=1):
        yield Record(f"{name}, row {number}", dict(row))


def _load(name: str, split: str) -> Iterable[Any]:
    from datasets import load_dataset

    if name.startswith((".", "/", "~")):
        return load_dataset(os.path.expanduser(name), split=split)
    owner, _, rest = name.partition("/")
    repository, _, config = rest.partition("/")
    if not owner or not repository:
        raise ValueError(
            f"{HUB_PREFIX}{name} does not name a data set: write {HUB_PREFIX}owner/name, "
            f"{HUB_PREFIX}owner/name/config, or {HUB_PREFIX}./folder"
        )
    return load_dataset(f"{owner}/{repository}", config or None, split=split)


def _load_saved(folder: Path, split: str) -> Iterable[Any]:
    from datasets import DatasetDict, load_from_disk

    dataset = load_from_disk(str(folder))
    if not isinstance(dataset, DatasetDict):
        return dataset
    if split not in dataset:
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(map(str, dataset))}")
    return dataset[split]
