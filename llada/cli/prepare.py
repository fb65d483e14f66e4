"""`llada prepare`: text → tokenizer and token shards, or generated instructions → conversations."""

from __future__ import annotations

import json
import random
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm import tqdm

from llada.cli.asking import AsJSON
from llada.data.bad_rows import BadRows
from llada.data.corpus import SPLITS, Corpus, documentation_corpus, text_corpus
from llada.data.instructions import FAMILIES, as_messages, instructions
from llada.data.prepare import Making, prepare_corpus
from llada.data.sources import Source
from llada.data.token_index import read_index
from llada.durable import check_folder, followed, partial_folder, publish_folder, write_durably

MOST_INSTRUCTIONS = 1_000_000  # of a family: they are shuffled in memory


class Policy(Enum):
    """What is done with rows that cannot be used."""

    ERROR = "error"
    SKIP = "skip"


def prepare(
    source: Annotated[str, typer.Argument(help="python-documentation, instructions, a file or folder, or hf:NAME")],
    output: Annotated[Path, typer.Argument(help="folder to write, which must not exist yet")],
    vocab_size: Annotated[int | None, typer.Option(help="of the tokenizer to train; 4096 if not given")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="use this one instead of training one")] = None,
    sample_bytes: Annotated[int | None, typer.Option(help="of text to train it on; 2^27 if not given", min=1)] = None,
    heldout: Annotated[float | None, typer.Option(help="share held out; 0.05 if not given", min=0.0, max=0.5)] = None,
    text_field: Annotated[str | None, typer.Option(help="column of the text; text if not given")] = None,
    split: Annotated[str | None, typer.Option(help="of a data set; train if not given")] = None,
    revision: Annotated[str | None, typer.Option(help="of a data set of the hub")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="read hf:NAME without a copy on disk")] = False,
    separator: Annotated[str | None, typer.Option(help="cuts text files into documents")] = None,
    longest_document: Annotated[int | None, typer.Option(help="bytes; 2^24 if not given", min=1)] = None,
    max_bytes: Annotated[int | None, typer.Option(help="stop after so much text", min=1)] = None,
    bad_rows: Annotated[Policy | None, typer.Option(help="error if not given")] = None,
    shard_tokens: Annotated[int | None, typer.Option(help="per file; 2^24 if not given", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="processes that encode; 1 if not given", min=1)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="be content with an output that is complete")] = False,
    families: Annotated[str | None, typer.Option(help="of instructions, separated by commas; default: all")] = None,
    count: Annotated[
        int | None, typer.Option(help="instructions per family; 2000 if not given", min=1, max=MOST_INSTRUCTIONS)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of generated instructions; 0 if not given")] = None,
    as_json: AsJSON = False,
) -> None:
    """Write data that `llada pretrain` (text) or `llada sft` (instructions) reads.

    A command that was killed goes on where it is given again, to the same files.

    llada prepare python-documentation runs/data --vocab-size 1024
    """
    of_making = {"tokenizer": tokenizer, "vocab_size": vocab_size, "sample_bytes": sample_bytes,
                 "shard_tokens": shard_tokens}  # fmt: skip
    of_text = of_making | {"max_bytes": max_bytes, "bad_rows": bad_rows, "workers": workers, "resume": resume or None}
    of_reading = {"text_field": text_field, "split": split, "revision": revision, "streaming": streaming or None,
                  "separator": separator}  # fmt: skip
    of_files = {"heldout": heldout, "longest_document": longest_document, **of_reading}
    of_instructions = {"families": families, "count": count, "seed": seed}
    if source == "instructions":
        _refuse(source, of_text | of_files)
        check_folder(output)
        chosen = families.split(",") if families else list(FAMILIES)
        made = _write_instructions(output, chosen, count or 2000, seed or 0)
        _tell(made, as_json)
        return
    _refuse(source, of_instructions | (of_files if source == "python-documentation" else {}))
    for name in ("vocab_size", "sample_bytes"):
        if tokenizer is not None and of_making[name] is not None:
            raise ValueError(f"{_option(name)} has no effect with --tokenizer, which is trained; leave one out")
    if source == "python-documentation":
        corpus = documentation_corpus(max_bytes=max_bytes)
    else:
        reading = Source(source, longest=longest_document or 2**24, **_given(of_reading))
        corpus = text_corpus(reading, heldout=0.05 if heldout is None else heldout, max_bytes=max_bytes)
        if reading.path is not None and followed(output).is_relative_to(followed(reading.path)):
            raise ValueError(f"{output} lies in the source {source}, which would be read with it; name another")
    making = Making(skip_bad=bad_rows is Policy.SKIP, **_given(of_making))
    made = _write_text(corpus, output, making, workers or 1, max_bytes, resume)
    _tell(made, as_json)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(options: dict[str, object]) -> dict:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(source: str, options: dict[str, object]) -> None:
    """Raise ValueError for an option that cannot act on this source."""
    for name in _given(options):
        raise ValueError(f"{_option(name)} has no effect on the source {source}; leave it out")


def _write_text(
    corpus: Corpus, output: Path, making: Making, workers: int, max_bytes: int | None, resume: bool
) -> dict[str, Any]:
    """Make the data, and say of what it is made, as `--json` prints it.

    Keys: `output`, the folder; `splits`, of `train` and `heldout` the `documents`, `tokens` and `text_bytes`;
    `left_out`, of the rows that could not be used, by what is wrong with them, the `count` and the `first`.
    """
    with tqdm(total=max_bytes, unit="B", unit_scale=True, disable=None) as bar:
        for progress in prepare_corpus(corpus, output, making, workers=workers, resume=resume):
            bar.set_description(progress.doing, refresh=False)
            bar.update(progress.text_bytes - bar.n)
    splits = {}
    for split in SPLITS:
        index = read_index(output / split)
        splits[split] = {"documents": index.documents, "tokens": index.tokens, "text_bytes": index.text_bytes}
    left_out = json.loads((output / "prepare.json").read_bytes())["left_out"]
    return {"output": str(output), "splits": splits, "left_out": left_out}


def _write_instructions(output: Path, families: list[str], count: int, seed: int) -> dict[str, Any]:
    """train.jsonl and test.jsonl with disjoint contents; test rows keep their family for scoring.

    What `--json` prints of them: `output`, the folder; `splits`, of `train` and `test` the number of `conversations`;
    their `families`; `left_out`, which is empty.
    """
    sizes: dict[Literal["train", "test"], int] = {"train": count, "test": max(count // 20, 50)}
    made = {
        split: [row for family in families for row in instructions(family, split, number, seed)]
        for split, number in sizes.items()
    }
    whole = followed(output)  # of a link to an empty folder, the folder
    filled = partial_folder(whole)
    for split, rows in made.items():
        random.Random(seed).shuffle(rows)
        lines = (json.dumps({"messages": as_messages(row), "family": row.family}) + "\n" for row in rows)
        write_durably(filled / f"{split}.jsonl", "".join(lines).encode())
    publish_folder(filled, whole)
    splits = {split: {"conversations": len(rows)} for split, rows in made.items()}
    return {"output": str(output), "splits": splits, "families": families, "left_out": {}}


def _tell(made: dict[str, Any], as_json: bool) -> None:
    """Print what was made: as JSON, or a line for each split."""
    if as_json:
        typer.echo(json.dumps(made))
        return
    for split, sizes in made["splits"].items():
        if "families" in made:
            said = f"{sizes['conversations']} conversations of {len(made['families'])} families"
        else:
            text = f"{sizes['text_bytes'] / 1e6:.1f} MB of text"
            said = f"{sizes['documents']} documents, {sizes['tokens']} tokens, {text}"
        typer.echo(f"{split}: {said}")
    if made["left_out"]:
        typer.echo(f"left out: {BadRows(made['left_out'])}")
