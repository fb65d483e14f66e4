"""`llada compare`: two models on the same held-out texts and the same masks."""

import json
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llada.cli.asking import AsJSON
from llada.cli.evaluate import Device, Dtype


def compare(
    first: Annotated[str, typer.Argument(help="folder of a trained model, or a hub id; autoregressive ones, too")],
    second: Annotated[str, typer.Argument(help="the other one, with the same tokenizer")],
    data: Annotated[str, typer.Argument(help="token shards, texts, or conversations as for `llada sft`")],
    rows: Annotated[int | None, typer.Option(help="the first ones; all if not given", min=2)] = None,
    length: Annotated[int | None, typer.Option(help="tokens of a row, at most; what both hold if not given")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="question and answer without the chat layout")] = False,
    samples: Annotated[int | None, typer.Option(help="masks of each text in a round; 8 if not given", min=2)] = None,
    precision: Annotated[float | None, typer.Option(help="rounds until the difference is known so well")] = None,
    seed: Annotated[int, typer.Option(help="of the masks")] = 0,
    batch_size: Annotated[int, typer.Option(help="rows at a time; changes nothing but the time", min=1)] = 32,
    device: Device = None,
    dtype: Annotated[Dtype, typer.Option(help="of the weights; auto: as they were saved")] = "auto",
    output: Annotated[Path | None, typer.Option(help="file for the result, as JSON; a killed one goes on")] = None,
    as_json: AsJSON = False,
) -> None:
    """Compare two models.

    llada compare runs/a/model runs/b/model runs/data/heldout --rows 500 --precision 0.002
    """
    from tqdm import tqdm

    from llada.cli.comparison_report import record, show
    from llada.durable import check_new_file, publish_file
    from llada.eval.arguments import Source
    from llada.eval.comparison import check_precision, compare_rows, until
    from llada.eval.contenders import common_room, load_contender
    from llada.eval.heldout import digest, read_rows
    from llada.eval.processes import Processes, launched
    from llada.eval.responses import Responses

    check_precision(precision)  # before anything is kept
    if output is not None:
        check_new_file(output)
    if (count := launched()) > 1:  # before they join: the first to leave would take the others with it
        raise ValueError(f"{count} processes would all do the same; start llada compare without a launcher")
    processes = Processes(device)
    one, other = (load_contender(Source(pretrained=name, dtype=dtype), processes) for name in (first, second))
    if one.is_exact and other.is_exact and (samples, precision) != (None, None):
        raise ValueError("--samples and --precision have no effect on exact likelihoods; leave them out")
    room = common_room(one, other, length)
    texts = read_rows(data, one.tokenizer, room, rows=rows, raw=raw)
    told = {"source": data, "rows": len(texts), "tokens": sum(row.tokens for row in texts), "length": room}
    told["sha256"] = digest(texts)
    how: dict[str, Any] = {"samples": samples or 8, "seed": seed}
    folder = None if output is None else output.with_name(output.name + ".responses")
    subject = {"first": one.description(), "second": other.description(), "data": told} | how
    kept = Responses(folder, subject)
    bar = partial(tqdm, unit=" texts", disable=None, leave=False)
    rounds = compare_rows(one.model, other.model, texts, **how, batch_size=batch_size, watch=bar, kept=kept)
    found = until(rounds, precision)
    content = record(one, other, found) | how | {"batch_size": batch_size, "precision": precision}
    content |= {"data": told, "command": shlex.join(("llada", *sys.argv[1:]))}
    if as_json:
        typer.echo(json.dumps(content))
    else:
        show(one, other, found, precision)
    if output is not None and folder is not None:
        publish_file(output, json.dumps(content, indent=1).encode())
        shutil.rmtree(folder)
