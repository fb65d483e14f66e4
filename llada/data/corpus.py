"""A corpus to be prepared: documents, each in the training or the held-out split, and what it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llada.data.bad_rows import BadRowError, only_good
from llada.data.corpora import documentation_identity, python_documentation
from llada.data.documents import Document, scan_documents
from llada.data.shards import Labelled, Step
from llada.data.sources import Source, check_exists, identity

SPLITS = ("train", "heldout")
ADVICE = "Mend them, or leave such rows out with --bad-rows skip"


@dataclass(frozen=True)
class Corpus:
    """Documents with their splits."""

    name: str
    rows: Callable[[Step], Iterator[Labelled | BadRowError]]  # those after what was read before, always in this order
    description: Callable[[], dict[str, Any]]  # equal ones mean equal rows; reads all files


def text_corpus(source: Source, *, heldout: float = 0.05, max_bytes: int | None = None) -> Corpus:
    """The documents of a source; about a share of `heldout`, chosen by a hash of their text, is held out.

    It ends before the document with which the text would exceed `max_bytes` of UTF-8.
    """
    check_exists(source)

    def rows(done: Step) -> Iterator[Labelled | BadRowError]:
        limit = None if max_bytes is None else max_bytes - done.text_bytes
        for document in _limited(scan_documents(source, done.rows), limit):
            yield document if isinstance(document, BadRowError) else Labelled(_split(document, heldout), document)

    def description() -> dict[str, Any]:
        options = {name: value for name, value in asdict(source).items() if name not in ("name", "split", "revision")}
        return identity(source) | options | {"heldout": heldout, "max_bytes": max_bytes}

    return Corpus(source.name, rows, description)


def documentation_corpus(*, max_bytes: int | None = None) -> Corpus:
    """`llada.data.corpora.python_documentation`; `max_bytes` counts for each split."""

    found: list[Labelled] = []  # small enough to be kept; finding it takes longer than encoding it

    def rows(done: Step) -> Iterator[Labelled | BadRowError]:
        if not found:
            splits = ((split, python_documentation(split, max_bytes=max_bytes)) for split in SPLITS)
            found.extend(Labelled(split, document) for split, documents in splits for document in documents)
        return iter(found[done.rows :])

    def description() -> dict[str, Any]:
        return documentation_identity() | {"max_bytes": max_bytes}

    return Corpus("python-documentation", rows, description)


def without_bad_rows(rows: Iterator[Labelled | BadRowError]) -> Iterator[Labelled]:
    """The rows, if all are good; else ValueError, which says how to leave the bad ones out."""
    return only_good(rows, ADVICE)


def _limited(documents: Iterable[Document | BadRowError], limit: int | None) -> Iterator[Document | BadRowError]:
    total = 0
    for document in documents:
        total += 0 if isinstance(document, BadRowError) else len(document.text.encode())
        if limit is not None and total > limit:
            return
        yield document


def _split(document: Document, heldout: float) -> str:
    digest = hashlib.sha256(document.text.encode()).digest()
    return "heldout" if int.from_bytes(digest[:6]) < heldout * 2**48 else "train"
