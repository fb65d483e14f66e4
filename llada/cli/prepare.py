"""`llada prepare`: text → tokenizer and token shards, or generated instructions → conversations."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llada.data.corpora import python_documentation
from llada.data.instructions import FAMILIES, as_messages, instructions
from llada.data.tokenizer import train_tokenizer
from llada.data.tokens import Document, read_documents, write_shards
from llada.durable import write_durably

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def prepare(
    source: Annotated[str, typer.Argument(help="python-documentation, instructions, a file or folder, or hf:NAME")],
    output: Annotated[Path, typer.Argument(help="folder to write, which must not exist yet")],
    vocab_size: Annotated[int | None, typer.Option(help="of the tokenizer to train; 4096 if not given")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="use this one instead of training one")] = None,
    heldout: Annotated[float | None, typer.Option(help="share held out; 0.05 if not given", min=0.0, max=0.5)] = None,
    text_field: Annotated[str | None, typer.Option(help="field of JSONL or parquet rows; text if not given")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="stop after so much text")] = None,
    families: Annotated[str | None, typer.Option(help="of instructions, separated by commas; default: all")] = None,
    count: Annotated[int | None, typer.Option(help="instructions per family; 2000 if not given", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="of generated instructions; 0 if not given")] = None,
) -> None:
    """Write data that `llada pretrain` (text) or `llada sft` (instructions) reads.

    llada prepare python-documentation runs/data --vocab-size 1024
    """
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} exists and is not empty; choose another folder or remove it")
    of_text = {"vocab-size": vocab_size, "tokenizer": tokenizer, "max-bytes": max_bytes}
    of_files = {"heldout": heldout, "text-field": text_field}
    of_instructions = {"families": families, "count": count, "seed": seed}
    if source == "instructions":
        _refuse(source, of_text | of_files)
        chosen = families.split(",") if families else list(FAMILIES)
        _write_instructions(output, chosen, count or 2000, seed or 0)
        return
    _refuse(source, of_instructions | (of_files if source == "python-documentation" else {}))
    if tokenizer is not None and vocab_size is not None:
        raise ValueError("--vocab-size has no effect with --tokenizer, which has its own; leave one out")
    train, held = _documents(source, 0.05 if heldout is None else heldout, text_field or "text", max_bytes)
    trained = _tokenizer(train, tokenizer, vocab_size or 4096)
    trained.save_pretrained(output / "tokenizer")
    for name, documents in (("train", train), ("heldout", held)):
        index = write_shards(documents, trained, output / name)
        typer.echo(
            f"{name}: {index.documents} documents, {index.tokens} tokens, {index.text_bytes / 1e6:.1f} MB of text"
        )


def _refuse(source: str, options: dict[str, object]) -> None:
    """Raise ValueError for an option that cannot act on this source."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"--{name} has no effect on the source {source}; leave it out")


def _documents(
    source: str, heldout: float, text_field: str, max_bytes: int | None
) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents; a document's side is decided by a hash of its text."""
    if source == "python-documentation":
        train = list(python_documentation("train", max_bytes=max_bytes))
        return train, list(python_documentation("heldout", max_bytes=max_bytes))
    train, held, size = [], [], 0
    for document in read_documents(source, text_field=text_field):
        size += len(document.text.encode())
        if max_bytes is not None and size > max_bytes:
            break
        digest = hashlib.sha256(document.text.encode()).digest()
        (held if int.from_bytes(digest[:6]) < heldout * 2**48 else train).append(document)
    for name, documents in (("train", train), ("heldout", held)):
        if not documents:
            raise ValueError(f"{source}: no document is left for {name} with --heldout {heldout}; give more documents")
    return train, held


def _tokenizer(documents: list[Document], path: Path | None, vocab_size: int) -> PreTrainedTokenizerFast:
    if path is None:
        return train_tokenizer((document.text for document in documents), vocab_size)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def _write_instructions(output: Path, families: list[str], count: int, seed: int) -> None:
    """train.jsonl and test.jsonl with disjoint contents; test rows keep their family for scoring."""
    sizes: dict[Literal["train", "test"], int] = {"train": count, "test": max(count // 20, 50)}
    for split, number in sizes.items():
        rows = [row for family in families for row in instructions(family, split, number, seed)]
        random.Random(seed).shuffle(rows)
        lines = (json.dumps({"messages": as_messages(row), "family": row.family}) + "\n" for row in rows)
        output.mkdir(parents=True, exist_ok=True)
        write_durably(output / f"{split}.jsonl", "".join(lines).encode())
        typer.echo(f"{split}: {len(rows)} conversations of {len(families)} families")
