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
from llada.data.token_index import write_durably
from llada.data.tokenizer import train_tokenizer
from llada.data.tokens import Document, read_documents, write_shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def prepare(
    source: Annotated[str, typer.Argument(help="python-documentation, instructions, a file or folder, or hf:NAME")],
    output: Annotated[Path, typer.Argument(help="folder to write, which must not exist yet")],
    vocab_size: Annotated[int, typer.Option(help="of the tokenizer that is trained on the text")] = 4096,
    tokenizer: Annotated[Path | None, typer.Option(help="use this one instead of training one")] = None,
    heldout: Annotated[float, typer.Option(help="share of documents held out", min=0.0, max=0.5)] = 0.05,
    text_field: Annotated[str, typer.Option(help="field of JSONL or parquet rows that holds the text")] = "text",
    max_bytes: Annotated[int | None, typer.Option(help="stop after so much text")] = None,
    families: Annotated[str | None, typer.Option(help="of instructions, separated by commas; default: all")] = None,
    count: Annotated[int, typer.Option(help="conversations per family of instructions", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="of generated instructions")] = 0,
) -> None:
    """Write data that `llada pretrain` (text) or `llada sft` (instructions) reads.

    llada prepare python-documentation runs/data --vocab-size 1024
    """
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} exists and is not empty; choose another folder or remove it")
    if source == "instructions":
        _write_instructions(output, families.split(",") if families else list(FAMILIES), count, seed)
        return
    train, held = _documents(source, heldout, text_field, max_bytes)
    trained = _tokenizer(train, tokenizer, vocab_size)
    for name, documents in (("train", train), ("heldout", held)):
        index = write_shards(documents, trained, output / name)
        typer.echo(
            f"{name}: {index.documents} documents, {index.tokens} tokens, {index.text_bytes / 1e6:.1f} MB of text"
        )
    trained.save_pretrained(output / "tokenizer")


def _documents(
    source: str, heldout: float, text_field: str, max_bytes: int | None
) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents; a document's side is decided by a hash of its text."""
    if source == "python-documentation":
        if heldout != 0.05:
            raise ValueError("--heldout has no effect with python-documentation, which holds out about 5 % itself")
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
