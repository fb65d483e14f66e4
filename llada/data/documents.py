"""The documents of a corpus: each a text with the place where it was found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from llada.data.bad_rows import BadRowError
from llada.data.records import Record, scan_records, string_field, too_long
from llada.data.sources import Source


class Document(NamedTuple):
    name: str  # where it comes from
    text: str


def read_documents(
    source: str | os.PathLike[str], *, text_field: str = "text", split: str = "train"
) -> Iterator[Document]:
    """The documents of a source (`llada.data.sources`): each text file, or `text_field` of each row.

    The first row that is none raises BadRowError.
    """
    found = False
    for document in scan_documents(Source(os.fspath(source), text_field, split)):
        if isinstance(document, BadRowError):
            raise document
        found = True
        yield document
    if not found:
        raise ValueError(f"{os.fspath(source)} holds no documents: give a source with at least one")


def scan_documents(source: Source, skip: int = 0) -> Iterator[Document | BadRowError]:
    """The documents of a source after its first `skip` rows, and in place of a row that is none, why."""
    for record in scan_records(source, skip):
        if isinstance(record, BadRowError):
            yield record
            continue
        try:
            yield _document(record, source)
        except BadRowError as bad:
            yield bad


def _document(record: Record, source: Source) -> Document:
    text = string_field(record, source.text_field)
    check_text(text, record.where)
    if source.longest is not None and len(text.encode()) > source.longest:
        raise too_long(record.where, source.longest)
    return Document(record.where, text)


def check_text(text: str, where: str) -> None:
    """BadRowError for a text that is empty or no valid Unicode."""
    if not text:
        raise BadRowError("empty", f"{where}: the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(
            "not Unicode",
            f"{where}: the text {text[error.start : error.start + 1]!a} at character {error.start} is half of a "
            "surrogate pair, which is not valid Unicode: repair or drop the text",
        ) from error
