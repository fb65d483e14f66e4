"""Where rows come from: a file, a folder, or a data set of Hugging Face, and what tells one state of it from another.

A source is a path, or `hf:` and what `datasets.load_dataset` should open: `hf:owner/name`, `hf:owner/name/config` or
`hf:` and a local folder (`hf:./folder`). A folder written by `Dataset.save_to_disk` is recognised. In any other folder
all files are read, in the order of their names, hidden ones (`.name`) excepted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUB_PREFIX = "hf:"


@dataclass(frozen=True)
class Source:
    """A source, and how it is read."""

    name: str
    text_field: str = "text"  # the column of the text; a text file is a row with this column alone
    split: str = "train"  # of a Hugging Face data set; files have none
    streaming: bool = False  # read a Hugging Face data set as it arrives, without a copy on disk
    revision: str | None = None  # of a data set of the hub; None: the newest
    separator: str | None = None  # cuts a text file into rows; None: a file is one row
    longest: int | None = None  # bytes of a row of text; None: any number

    def __post_init__(self):
        if not self.name:
            raise ValueError("the source is empty: name a file or folder, or hf:NAME; . is the current folder")
        for option in ("streaming", "revision"):
            if getattr(self, option) and not self.is_dataset:
                raise ValueError(f"--{option} has no effect on {self.name}, only on {HUB_PREFIX}NAME; leave it out")
        if self.separator == "":
            raise ValueError("the separator is empty, so it cuts nowhere: give the text between two documents")
        if self.separator is not None and self.is_dataset:
            raise ValueError(f"--separator cuts text files, and has no effect on {self.name}; leave it out")

    @property
    def is_dataset(self) -> bool:
        """Whether `datasets` reads it."""
        return self.name.startswith(HUB_PREFIX)

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine that it is; None for a data set of the hub."""
        name = self.name.removeprefix(HUB_PREFIX)
        if self.is_dataset and not name.startswith((".", "/", "~")):
            return None
        return Path(name).expanduser() if self.is_dataset else Path(name)


def check_exists(source: Source) -> None:
    """FileNotFoundError where a source of files is not there; ValueError for the name of no data set."""
    if source.path is None:
        hub_name(source)
    elif not source.path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {str(source.path)!r}: give a path that exists, or {HUB_PREFIX}owner/name for "
            "a data set of the Hugging Face hub"
        )


def files(path: Path) -> Iterator[Path]:
    """A file itself, or the files of a folder in the order in which they are read."""
    if not path.is_dir():
        yield path
        return
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def identity(source: Source) -> dict[str, Any]:
    """What makes the rows of a source what they are, as JSON: equal identities mean equal rows.

    Local files by their sizes and SHA-256; a data set of the hub by what `datasets` knows of its files.
    """
    check_exists(source)
    path = source.path
    if path is None:
        return {"dataset": source.name, "split": source.split, "revision": source.revision, **_hub_identity(source)}
    parent = path if path.is_dir() else path.parent
    found = {file.relative_to(parent).as_posix(): _file_identity(file) for file in files(path)}
    return {"split": source.split, "files": found} if is_saved(path) or source.is_dataset else {"files": found}


def _file_identity(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _hub_identity(source: Source) -> dict[str, Any]:
    """Needs no download of data: the addresses of files contain the commit they are taken from."""
    from datasets import load_dataset_builder

    repository, config = hub_name(source)
    builder = load_dataset_builder(repository, config, revision=source.revision)
    given = builder.config.data_files
    addresses = {str(split): list(map(str, names)) for split, names in given.items()} if given else {}
    return {"fingerprint": builder.hash, "version": str(builder.info.version), "files": addresses}


def hub_name(source: Source) -> tuple[str, str | None]:
    """The repository of the hub and its configuration."""
    owner, _, rest = source.name.removeprefix(HUB_PREFIX).partition("/")
    repository, _, config = rest.partition("/")
    if not owner or not repository:
        raise ValueError(
            f"{source.name} does not name a data set: write {HUB_PREFIX}owner/name, {HUB_PREFIX}owner/name/config, or "
            f"{HUB_PREFIX}./folder"
        )
    return f"{owner}/{repository}", config or None


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk`."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def load(source: Source) -> Any:
    """The data set that a source names or holds, as `datasets` opens it."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    if source.is_dataset:
        name, config = (str(source.path), None) if source.path is not None else hub_name(source)
        return load_dataset(name, config, split=source.split, revision=source.revision, streaming=source.streaming)
    dataset = load_from_disk(source.name)
    if not isinstance(dataset, DatasetDict):
        return dataset
    if source.split not in dataset:
        raise ValueError(f"{source.name} has no split {source.split!r}; it has {', '.join(map(str, dataset))}")
    return dataset[source.split]
