"""A corpus → tokenizer and token shards, in bounded memory; a run that was killed goes on from the last full shard.

    OUTPUT/
      prepare.json   what the data was made of: source, options, tokenizer, versions; which rows were left out
      tokenizer/     as transformers saves it
      train/         shards and their index (`llada.data.shards`)
      heldout/

Until it is complete, the folder is called `OUTPUT.partial`, and its prepare.json says how far it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llada.data.bad_rows import BadRowError, BadRows
from llada.data.corpus import SPLITS, Corpus, without_bad_rows
from llada.data.shard_writer import EMPTY, ShardWriter, Written
from llada.data.shards import SHARD_TOKENS, START, Labelled, Step, id_type, write_documents, write_index
from llada.data.text_sample import TextSample
from llada.data.tokenizer import read_tokenizer, tokenizer_hash, train_tokenizer
from llada.durable import (
    check_folder,
    followed,
    is_taken,
    partial_folder,
    partial_path,
    publish_file,
    publish_folder,
    sync_folder,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT_VERSION = 1
SAMPLE_BYTES = 2**27  # of text from which a tokenizer learns
PACKAGES = ("llada-lm", "tokenizers", "transformers", "datasets", "numpy")  # that may decide a byte


class Progress(NamedTuple):
    doing: str
    text_bytes: int  # of the source, read so far for this


@dataclass(frozen=True)
class Making:
    """How a corpus becomes data."""

    tokenizer: Path | None = None  # a folder of transformers; None: one is trained
    vocab_size: int = 4096  # of the tokenizer to train
    sample_bytes: int = SAMPLE_BYTES  # of text that it learns from
    shard_tokens: int = SHARD_TOKENS
    skip_bad: bool = False  # leave bad rows out; else the first one ends it


def prepare_corpus(
    corpus: Corpus, output: Path, making: Making, *, workers: int = 1, resume: bool = False
) -> Iterator[Progress]:
    """Write `output`, or go on where a call with the same arguments was stopped; the files are those of one call.

    The number of workers changes nothing. With `resume` it is no error that the output is complete, if it was made by
    the same arguments. Raises ValueError for an output or a part of one that others have made, for bad rows, and where
    a split gets no document; what has no full shard yet is then removed.
    """
    complete = is_taken(output)
    if not (resume and (output / "prepare.json").is_file()):
        check_folder(output)
    output = followed(output)  # of a link to an empty folder, the folder
    command = describe(corpus, making)
    if complete:
        _check_same(_read_state(output)["command"], command, output)
        return
    partial = partial_path(output)
    with _claimed(partial):
        state = _begin(partial, command)
        try:
            if "progress" in state:
                yield from _write(corpus, partial, state, making, workers)
            partial.rename(output)  # takes the place of an empty folder, too
            sync_folder(output.parent)
        except ValueError:
            if _read_state(partial).get("progress") == _NOTHING:
                shutil.rmtree(partial)
            raise


def describe(corpus: Corpus, making: Making) -> dict[str, Any]:
    """Everything that decides the bytes of the output, as JSON; reads all files of the source."""
    if making.tokenizer is None:
        tokenizer: dict[str, Any] = {"vocab_size": making.vocab_size, "sample_bytes": making.sample_bytes}
    else:
        tokenizer = {"hash": tokenizer_hash(_load_tokenizer(making.tokenizer))}
    return {
        "version": FORMAT_VERSION,
        "source": {"name": corpus.name, **corpus.description()},
        "tokenizer": tokenizer,
        "shard_tokens": making.shard_tokens,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # a checkout that is not installed


_NOTHING = {"rows": 0, "text_bytes": 0, "left_out": {}, "splits": {}}


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Let nobody else write into a folder, which is made where there is none; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ValueError(f"another process is writing {folder}: wait for it") from error
    finally:
        os.close(descriptor)


def _begin(partial: Path, command: dict[str, Any]) -> dict[str, Any]:
    file = partial / "prepare.json"
    if not file.is_file():
        if set(partial.iterdir()) - {partial_path(file)}:
            raise ValueError(f"{partial} is not empty and was not begun by this command: remove it, or choose another")
        publish_file(file, _json({"command": command, "progress": _NOTHING}))
    state = _read_state(partial)
    _check_same(state["command"], command, partial)
    return state


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "prepare.json").read_bytes())
        if isinstance(state["command"], dict):
            return state
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{folder / 'prepare.json'} is damaged: remove {folder} and begin again")


def _check_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    before, now = _flat(old), _flat(json.loads(_json(new)))
    changed = [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ValueError(
            f"{folder} was begun with something else: {'; '.join(changed[:5])}{more}. Put it back, or remove {folder} "
            "and begin again"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    pairs = ((f"{prefix}: {key}" if prefix else key, inner) for key, inner in value.items())
    return {name: leaf for key, inner in pairs for name, leaf in _flat(inner, key).items()}


def _json(state: dict[str, Any]) -> bytes:
    return json.dumps(state, indent=1, sort_keys=True).encode() + b"\n"


def _write(corpus: Corpus, partial: Path, state: dict[str, Any], making: Making, workers: int) -> Iterator[Progress]:
    progress = state["progress"]
    left_out, done = BadRows(progress["left_out"]), Step(progress["rows"], progress["text_bytes"], False)
    if left_out.total and not making.skip_bad:
        raise ValueError(f"{partial} was begun with --bad-rows skip, and {left_out}. Give that again")
    if not (partial / "tokenizer").is_dir():
        yield from _make_tokenizer(corpus, partial / "tokenizer", making)
    tokenizer = _load_tokenizer(partial / "tokenizer")
    writers = {}
    try:
        for split in SPLITS:
            (partial / split).mkdir(exist_ok=True)
            written = Written.from_json(progress["splits"][split]) if progress["splits"] else EMPTY
            writers[split] = ShardWriter(partial / split, id_type(tokenizer), making.shard_tokens, written)
        rows = _rows(corpus, done, making)
        tally = left_out if making.skip_bad else None
        yield Progress("encoding", done.text_bytes)
        for step in write_documents(rows, tokenizer, writers, workers=workers, left_out=tally, done=done):
            if step.shard_full:
                _publish_progress(partial, state, step, writers, left_out)
            yield Progress("encoding", step.text_bytes)
        for split, writer in writers.items():
            if not writer.documents:
                raise ValueError(f"{corpus.name}: no document is left for {split}; give more documents")
            write_index(writer, tokenizer)
    finally:
        for writer in writers.values():
            writer.close()
    finished = {"command": state["command"], "tokenizer_hash": tokenizer_hash(tokenizer), "left_out": left_out.found}
    publish_file(partial / "prepare.json", _json(finished))


def _publish_progress(
    partial: Path, state: dict[str, Any], step: Step, writers: dict[str, ShardWriter], left_out: BadRows
) -> None:
    splits = {split: writer.synced().as_json() for split, writer in writers.items()}
    progress = {"rows": step.rows, "text_bytes": step.text_bytes, "left_out": left_out.found, "splits": splits}
    publish_file(partial / "prepare.json", _json(state | {"progress": progress}))


def _rows(corpus: Corpus, done: Step, making: Making) -> Iterator[Labelled | BadRowError]:
    rows = corpus.rows(done)
    return rows if making.skip_bad else without_bad_rows(rows)


def _make_tokenizer(corpus: Corpus, folder: Path, making: Making) -> Iterator[Progress]:
    """Train a tokenizer, or copy the given one; the folder is whole or absent."""
    if making.tokenizer is None:
        sample = TextSample(making.sample_bytes)
        for row in _rows(corpus, START, making):
            if isinstance(row, Labelled) and row.split == "train":
                sample.add(row.document.text)
                yield Progress("choosing text for the tokenizer", sample.read_bytes)
        yield Progress("training the tokenizer", 0)
        texts = sample.texts()
        if not sample.read_bytes:
            raise ValueError(f"{corpus.name} holds no documents, or all of them are held out; give more documents")
        if not texts:
            raise ValueError(f"{corpus.name} holds no documents of at most {making.sample_bytes} bytes to learn from")
        tokenizer = train_tokenizer(texts, making.vocab_size)
    else:
        tokenizer = _load_tokenizer(making.tokenizer)
    filled = partial_folder(folder)
    tokenizer.save_pretrained(filled)
    publish_folder(filled, folder)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    found = read_tokenizer(folder)
    if found is None:
        raise ValueError(f"{folder} has no tokenizer; name a folder that holds tokenizer_config.json")
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ValueError(f"the tokenizer in {folder} has no tokenizer.json, by which its ids are known; take another")
    return found
