"""Rows of data as users bring them: text, JSON Lines, JSON, Parquet, folders of these, Hugging Face data sets.

Text, JSON Lines and JSON may be compressed (`.gz`). Rows are read one after the other, and none but the present one is
in memory; only a `.json` file, which holds one list, is read as a whole.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from llada.data.bad_rows import BadRowError
from llada.data.sources import Source, check_exists, files, is_saved, load

BLOCK = 2**20  # bytes read at once of a text file that is cut at a separator


class Record(NamedTuple):
    where: str  # for messages and names: the file and the line or row in it
    fields: dict[str, Any]  # column → value


# A row that was found but not yet looked at: what is skipped costs no parsing.
Unread = Callable[[], Record]


def read_records(source: str | os.PathLike[str], *, text_field: str = "text", split: str = "train") -> Iterator[Record]:
    """Every row of a source (`llada.data.sources`); a file of no known format is text, one row with one column.

    `split` chooses among the splits of a Hugging Face data set and says nothing about files. That the source exists is
    checked at once, its contents as they are read; the first row that cannot be read raises BadRowError.
    """
    return _raising(scan_records(Source(os.fspath(source), text_field, split)))


def _raising(rows: Iterable[Record | BadRowError]) -> Iterator[Record]:
    for row in rows:
        if isinstance(row, BadRowError):
            raise row
        yield row


def scan_records(source: Source, skip: int = 0) -> Iterator[Record | BadRowError]:
    """Every row of the source after the first `skip`, and in place of one that cannot be read, why.

    A damaged file (gzip, Parquet, a .json file that is no list) has no rows to go on with: it raises ValueError.
    """
    check_exists(source)
    if source.is_dataset or is_saved(Path(source.name)):
        return _dataset_rows(load(source), source.name, skip)
    return _read(islice(_unread(source), skip, None))


def string_field(record: Record, field: str) -> str:
    """The string in one column of a row; what else is there is named in the error."""
    if field not in record.fields:
        raise BadRowError(
            "without the column",
            f"{record.where}: there is no field {field!r}; the fields are {', '.join(record.fields) or 'none'}",
        )
    value = record.fields[field]
    if not isinstance(value, str):
        raise BadRowError(
            "of the wrong type", f"{record.where}: the field {field!r} must be a string, not {type(value).__name__}"
        )
    return value


def _read(rows: Iterable[Unread]) -> Iterator[Record | BadRowError]:
    for row in rows:
        try:
            yield row()
        except BadRowError as bad:
            yield bad


def _dataset_rows(dataset: Any, name: str, skip: int) -> Iterator[Record]:
    for number, row in enumerate(dataset.skip(skip) if skip else dataset, start=skip + 1):
        yield Record(f"{name}, row {number}", dict(row))


def _unread(source: Source) -> Iterator[Unread]:
    for path in files(Path(source.name)):
        name = path.name.lower()
        if name.endswith(".parquet"):
            yield from _parquet_rows(path)
        elif name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(path)
        elif name.endswith((".json", ".json.gz")):
            yield from _json_items(path)
        elif source.separator is None:
            yield partial(_whole_file, path, source)
        else:
            yield from _pieces(path, source, source.separator.encode())


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with cast(IO[bytes], gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}; copy or compress it again") from error


def _decode(content: bytes, path: Path, offset: int) -> str:
    try:
        # utf-8-sig drops the byte order mark that some editors put first; it is not part of the text
        return content.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start + (len(content) - len(error.object))
        raise BadRowError(
            "not UTF-8",
            f"{path} is not UTF-8 text: byte {at} is 0x{error.object[error.start]:02x}; convert the file, or remove it "
            "if it is binary",
        ) from error


def _whole_file(path: Path, source: Source) -> Record:
    with _open(path) as file:
        content = file.read(-1 if source.longest is None else source.longest + 1)
    return _text(str(path), content, path, 0, source)


def _pieces(path: Path, source: Source, separator: bytes) -> Iterator[Unread]:
    """The text between separators; blank space after the last one is no row. Too long ones are not held in memory."""
    longest = source.longest
    with _open(path) as file:
        held, offset, number = b"", 0, 1
        dropped = 0  # bytes of the present piece
        while block := file.read(BLOCK):
            *ended, held = (held + block).split(separator)
            for content in ended:
                yield partial(_text, f"{path}, piece {number}", content, path, offset, source, dropped)
                offset, number, dropped = offset + len(content) + len(separator), number + 1, 0
            if longest is not None and len(held) > longest + len(separator):
                drop = len(held) - len(separator) + 1  # the rest may be the beginning of a separator
                held, offset, dropped = held[drop:], offset + drop, dropped + drop
        if held.strip() or dropped:
            yield partial(_text, f"{path}, piece {number}", held, path, offset, source, dropped)


def _text(where: str, content: bytes, path: Path, offset: int, source: Source, dropped: int = 0) -> Record:
    if source.longest is not None and dropped + len(content) > source.longest:
        raise too_long(where, source.longest)
    return Record(where, {source.text_field: _decode(content, path, offset)})


def too_long(where: str, longest: int) -> BadRowError:
    """What is wrong with a row of more than `longest` bytes of text."""
    return BadRowError(
        "too long",
        f"{where} has more than {longest} bytes of text: cut it (text files with --separator), or raise "
        "--longest-document and with it the memory that is used",
    )


def _json_lines(path: Path) -> Iterator[Unread]:
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip() not in (b"", b"\xef\xbb\xbf"):
                yield partial(_json_line, line, path, number, offset)
            offset += len(line)


def _json_line(line: bytes, path: Path, number: int, offset: int) -> Record:
    where = f"{path}, line {number}"
    return _record(_parse(_decode(line, path, offset), where), where)


def _json_items(path: Path) -> Iterator[Unread]:
    with _open(path) as file:
        content = _parse(_decode(file.read(), path, 0), str(path))
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: a .json file must hold one list of objects, not {type(content).__name__}; give one object per "
            "line as .jsonl, or plain text as .txt"
        )
    for number, item in enumerate(content, start=1):
        yield partial(_record, item, f"{path}, item {number}")


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRowError("not JSON", f"{where}: this is not JSON: {error}") from error


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise BadRowError(
            "of the wrong type", f"{where}: an object with named fields is needed, not {type(value).__name__}"
        )
    return Record(where, value)


def _parquet_rows(path: Path) -> Iterator[Unread]:
    from datasets import load_dataset

    try:
        # streamed: a second copy of the file in the cache would serve nobody
        rows = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            yield partial(Record, f"{path}, row {number}", dict(row))
    except Exception as error:  # datasets and pyarrow raise many types for a damaged file
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
