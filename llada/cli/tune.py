"""`llada tune`: which sampler to take, by measuring many on a task."""

import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llada.cli.asking import AsJSON, Device, sampler_of


def tune(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    task: Annotated[str, typer.Argument(help="conversations as for `llada sft`; the last answer is the right one")],
    sampler: Annotated[str, typer.Option(help="to vary: a published one, or a .yaml file")] = "low_confidence",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of it, e.g. gen_length=32")] = None,
    steps: Annotated[str | None, typer.Option(help="to try, separated by commas")] = None,
    thresholds: Annotated[str | None, typer.Option(help="to try in place of steps")] = None,
    block_lengths: Annotated[str | None, typer.Option(help="to try; whole: one block")] = None,
    caches: Annotated[str | None, typer.Option(help="to try")] = None,
    check: Annotated[str, typer.Option(help="when is an answer right: exact, number, contains")] = "exact",
    rows: Annotated[int | None, typer.Option(help="the first of the task; all if not given", min=1)] = None,
    by: Annotated[Literal["time", "passes"], typer.Option(help="what should be small")] = "time",
    tolerance: Annotated[float, typer.Option(help="share of right answers that may be lost against the best")] = 0.05,
    split: Annotated[bool, typer.Option(help="choose by one half of the rows, judge by the other")] = True,
    batch_size: Annotated[int, typer.Option(help="answers at a time", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="of the random numbers and the halves")] = 0,
    device: Device = None,
    results: Annotated[Path | None, typer.Option(help="JSON file to keep measurements in, and go on from")] = None,
    output: Annotated[Path | None, typer.Option(help="YAML file for the chosen sampler, for --sampler")] = None,
    as_json: AsJSON = False,
) -> None:
    """Find the cheapest accurate sampler.

    llada tune runs/sft/model questions.jsonl --set gen_length=16
    """
    from tqdm import tqdm

    from llada.cli.operating_point import announce, headline, record, show
    from llada.config import to_yaml
    from llada.durable import check_file, check_new_file, publish_file
    from llada.eval.grid import grid
    from llada.eval.measure import measure
    from llada.eval.results import Results, subject_of
    from llada.eval.task import check_prompts, read_task
    from llada.eval.tune import operating_point, rows_of, sweep
    from llada.model.checkpoint import load_pretrained

    if results is not None:
        check_file(results)
    if output is not None:
        check_new_file(output)
    base = sampler_of(sampler, set_)
    tried = grid(
        base,
        steps=_values("--steps", steps, int),
        thresholds=_values("--thresholds", thresholds, _number),
        block_lengths=_values("--block-lengths", block_lengths, lambda text: None if text == "whole" else int(text)),
        caches=_values("--caches", caches, str),
    )
    asked = read_task(task, check, rows=rows)
    shared = rows_of(len(asked.expected), tolerance, split=split, seed=seed)
    loaded, tokenizer = load_pretrained(model, device=device)
    if tokenizer is None:
        raise ValueError(f"{model} has no tokenizer, so it cannot answer conversations; save one beside it")
    check_prompts(asked, tokenizer, base.most_tokens, loaded.config.max_position_embeddings)
    how = {"batch_size": batch_size, "seed": seed}
    kept = Results(results, subject_of(loaded, tokenizer, asked, **how))
    if not as_json:
        announce(tried, len(asked.expected))
    samplers = tqdm(tried.samplers, unit="sampler", disable=None)
    measurements = list(sweep(samplers, lambda one: measure(loaded, tokenizer, asked, one, **how), kept))
    point = operating_point(measurements, shared, by=by, tolerance=tolerance)
    if as_json:
        typer.echo(json.dumps(record(tried, measurements, shared, point)))
    else:
        show(measurements, shared, point)
    if output is not None:
        comment = f"{shlex.join(('llada', *sys.argv[1:]))}: {headline(measurements, shared, point)}"
        publish_file(output, to_yaml(measurements[point.choice.chosen].sampler, comment))


def _number(text: str) -> float:
    """Raises ValueError for what is no number, NaN among it: it equals nothing, not even itself in a grid."""
    value = float(text)
    if math.isnan(value):
        raise ValueError
    return value


def _values(option: str, text: str | None, read: Callable[[str], Any]) -> list[Any] | None:
    """What an option lists, separated by commas; None where it is not given."""
    try:
        return None if text is None else [read(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{option} {text!r} is no list of numbers separated by commas") from None
