"""Text that every installation carries: the English prose in the documentation of Python and of installed packages.

A model of a few million parameters can learn words and some grammar from it in minutes, with nothing to download.
Source files are searched for docstrings, never imported, nor parsed: that would take a minute instead of seconds. Only
paragraphs that read as prose are kept (no code, tables, lists of parameters), each of them once in the whole corpus,
however many files repeat it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal

from llada.data.documents import Document

# What comes with llada's dependencies; those missing are skipped.
PACKAGES = (
    "accelerate", "click", "datasets", "einops", "filelock", "fsspec", "httpx", "huggingface_hub", "jinja2",
    "mpmath", "networkx", "numpy", "packaging", "pandas", "pyarrow", "pydantic", "pygments", "rich",
    "safetensors", "setuptools", "sympy", "tokenizers", "torch", "tqdm", "transformers", "typer", "yaml",
)  # fmt: skip

HELD_OUT_SHARE = 0.05  # of the files
SHORTEST_DOCUMENT = 200  # characters

# What tells a sentence from a signature, a table or a formula: the little words, and few other signs than letters.
# The bounds were set by reading what falls on either side.
LITTLE_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "do", "does", "for", "from", "has",
    "have", "if", "in", "into", "is", "it", "its", "may", "must", "no", "not", "of", "on", "or", "should", "so",
    "such", "than", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "we", "when",
    "where", "which", "will", "with", "you", "your",
})  # fmt: skip
LEAST_WORDS = 8
LEAST_LITTLE_WORDS = 0.25  # of the words
LEAST_LETTERS = 0.94  # of the characters: letters, spaces, commas and full stops

# All strings in triple quotes: those that are no docstrings too, or their ends would be taken for beginnings.
TRIPLE_QUOTED = re.compile(r"(\"{3}|'{3})(.*?)\1", re.DOTALL)
LABEL = re.compile(r"\A\s*\w+( \w+){0,2}:\n\s+")  # `Returns:` alone on its line


def python_documentation(
    split: Literal["train", "heldout"] = "train", *, max_bytes: int | None = None
) -> Iterator[Document]:
    """One document for each source file with enough prose in it, its paragraphs separated by blank lines.

    About one file in twenty is held out, by a hash of its name; no paragraph is in both splits. Files come in the order
    of that hash, the same for a given installation, so the first `max_bytes` of text (UTF-8) are a fair sample; the
    document that would pass them is left out, and ends it.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}; allowed are 'train' and 'heldout'")
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes={max_bytes}: give at least 1, or None for everything")
    return _limited(_documents(split), max_bytes)


def documentation_identity() -> dict[str, Any]:
    """What tells one installation from another, as JSON: the names and sizes of the source files."""
    found = sorted((name, os.path.getsize(path)) for name, path in _sources())
    return {"files": len(found), "sha256": hashlib.sha256(repr(found).encode()).hexdigest()}


def _limited(documents: Iterable[Document], max_bytes: int | None) -> Iterator[Document]:
    total = 0
    for document in documents:
        total += len(document.text.encode())
        if max_bytes is not None and total > max_bytes:
            return
        yield document


def _documents(split: str) -> Iterator[Document]:
    sources = sorted((_place(name), name, source) for name, source in _sources())
    seen: set[bytes] = set()
    # The held-out files have the smallest hashes and come first: training text is cleared of their paragraphs, and who
    # asks for them alone reads only a twentieth of the files.
    for place, name, source in sources:
        if place >= HELD_OUT_SHARE and split == "heldout":
            return
        text = "\n\n".join(_new_paragraphs(_documentation(source), seen))
        if len(text) >= SHORTEST_DOCUMENT and (place < HELD_OUT_SHARE) == (split == "heldout"):
            yield Document(name, text)


def _place(name: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a file's name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def _sources() -> Iterator[tuple[str, str]]:
    """The name, the same on every machine, and the path of every source file."""
    roots = [("python", sysconfig.get_path("stdlib"))]
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations:
            roots.append((package, next(iter(found.submodule_search_locations))))
    for package, root in roots:
        for parent, folders, files in os.walk(root):
            folders[:] = [name for name in folders if "test" not in name and name not in ("site-packages", "_vendor")]
            inside = Path(package, os.path.relpath(parent, root)).as_posix()
            yield from ((f"{inside}/{name}", os.path.join(parent, name)) for name in files if name.endswith(".py"))


def _documentation(path: str) -> list[str]:
    """The docstrings of a source file, and for the file that holds the language reference the texts of that."""
    if path.endswith(os.path.join("pydoc_data", "topics.py")):
        from pydoc_data.topics import topics

        return list(topics.values())
    try:
        source = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []  # unreadable or in an old encoding: then it documents nothing for us
    return [cleandoc(found[2]) for found in TRIPLE_QUOTED.finditer(source) if _opens_line(source, found.start())]


def _opens_line(source: str, position: int) -> bool:
    """Whether only blanks and the prefix of a string stand before a position on its line, as before a docstring."""
    return not source[source.rfind("\n", 0, position) + 1 : position].strip(" \trRuU")


def _new_paragraphs(texts: Iterable[str], seen: set[bytes]) -> Iterator[str]:
    """The prose of `texts` that is not yet in `seen`, which learns of it."""
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            paragraph = cleandoc(LABEL.sub("", paragraph, count=1)).strip()
            # An indented line belongs to a list, a table or code.
            if not paragraph.endswith((".", "!", "?")) or "\n " in paragraph or "\n-" in paragraph:
                continue
            paragraph = _plain(paragraph)
            if not _is_prose(paragraph):
                continue
            # Letters alone: what differs only in numbers, case or signs is the same paragraph.
            key = hashlib.sha256(re.sub(r"[^a-z]+", " ", paragraph.lower()).encode()).digest()
            if key not in seen:
                seen.add(key)
                yield paragraph


def _plain(paragraph: str) -> str:
    """One line without the marks of reStructuredText and Markdown."""
    text = " ".join(paragraph.split())
    text = re.sub(r":[\w:]+:`[~!]?([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", text)  # :class:`~a.B` → a.B
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # [words](address) → words
    text = re.sub(r"`+([^`]*)`+_*", r"\1", text)
    return re.sub(r"(?<!\w)\*+(\S[^*]*)\*+", r"\1", text)


def _is_prose(paragraph: str) -> bool:
    words = re.findall(r"[A-Za-z']+", paragraph)
    if len(words) < LEAST_WORDS or not paragraph[0].isupper():
        return False
    little = sum(word.lower() in LITTLE_WORDS for word in words)
    letters = len(re.findall(r"[A-Za-z ,.]", paragraph))
    return little >= LEAST_LITTLE_WORDS * len(words) and letters >= LEAST_LETTERS * len(paragraph)
