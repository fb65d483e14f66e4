"""What `llada generate` and `llada infill` have in common: a model, a sampler, and somebody who looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from llada.model.modeling import LLaDAForMaskedLM
    from llada.sampling.config import SamplerConfig
    from llada.sampling.denoise import State
    from llada.sampling.generate import Generation
    from llada.sampling.likeliest import Likeliest
    from llada.sampling.predictors import Meter

Sampler = Annotated[str, typer.Option(help="name of a file in configs/sampling, or a .yaml file")]
Fields = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the sampler, e.g. steps=32")]
Seed = Annotated[int, typer.Option(help="of the random numbers")]
Device = Annotated[str | None, typer.Option(help="such as cuda; the CPU if not given")]
Watch = Annotated[bool, typer.Option("--watch", help="show the canvas as it is revealed; of no effect in a pipe")]
Delay = Annotated[float, typer.Option(help="seconds to wait after each step that is watched", min=0.0)]
TraceFile = Annotated[Path | None, typer.Option("--trace", help="JSON file for what happens, for `llada trace render`")]
Alternatives = Annotated[int, typer.Option(help="likeliest tokens of each position to keep in it", min=0)]
AsJSON = Annotated[bool, typer.Option("--json", help="print the outcome as JSON, and nothing else")]


class Loaded(NamedTuple):
    """What a command asks, and how."""

    model: LLaDAForMaskedLM
    tokenizer: PreTrainedTokenizerBase
    sampler: SamplerConfig


class Looking(NamedTuple):
    """Who looks on, and what is kept."""

    watch: bool
    delay: float
    trace: Path | None
    alternatives: int


def load(model: Path, sampler: str, fields: list[str] | None, device: str | None) -> Loaded:
    """The model with its tokenizer, and the sampler with the changed fields."""
    from llada.model.checkpoint import load_pretrained

    settings = sampler_of(sampler, fields)
    loaded, tokenizer = load_pretrained(model, device=device)
    if tokenizer is None:
        raise ValueError(f"{model} has no tokenizer; generate with llada.generate on token ids instead")
    return Loaded(loaded, tokenizer, settings)


def sampler_of(name: str, fields: list[str] | None) -> SamplerConfig:
    """A sampler with changed fields; what is wrong with those is told of them, not of the file of the name."""
    from llada.config import ConfigError, apply_overrides, read_yaml
    from llada.sampling.config import SamplerConfig

    path = SamplerConfig.file_of(name)
    values = apply_overrides(read_yaml(path), fields or ())
    try:
        return SamplerConfig(**values)
    except ConfigError as error:
        given = " ".join(f"--set {field}" for field in fields or ()) or path
        raise ConfigError(f"{given}: {error}") from None


def looking(watch: bool, delay: float, trace: Path | None, alternatives: int) -> Looking:
    """Raises ValueError for what has no effect, and where the trace cannot be written."""
    from llada.durable import check_file

    if alternatives and trace is None:
        raise ValueError("--alternatives has no effect without --trace; name a file for the trace")
    if delay and not watch:
        raise ValueError("--delay has no effect without --watch; add it, or leave the delay out")
    if trace is not None:
        check_file(trace)
    return Looking(watch, delay, trace, alternatives)


def run(
    loaded: Loaded,
    canvas: Tensor,
    states: Callable[[Meter, Likeliest | None], Iterator[State]],
    how: Looking,
    console: Console,
    *,
    start: int = 0,
    progress: bool = True,
) -> Generation:
    """The outcome of the states, which start from the canvas (1, L); shown from position `start` on, and recorded.

    On a terminal where nobody watches, a bar tells how many tokens are written, unless `progress` is false.
    """
    from llada.sampling.generate import account
    from llada.sampling.likeliest import Likeliest
    from llada.sampling.predictors import Meter
    from llada.sampling.trace import Recorder
    from llada.show.terminal import watch

    mask = loaded.model.config.mask_token_id
    meter = Meter.of(canvas)
    likeliest = Likeliest(how.alternatives, mask) if how.alternatives else None
    passing, recorder = states(meter, likeliest), Recorder(canvas, mask, likeliest)
    if how.trace is not None:
        passing = recorder.watch(passing)
    if how.watch and console.is_terminal:
        passing = watch(passing, canvas, mask, loaded.tokenizer, console, start=start, delay=how.delay)
    elif progress and console.is_terminal:
        passing = progressing(passing, canvas, mask)
    out = account(passing, canvas, loaded.model, meter)
    if how.trace is not None:
        recorder.trace.save(how.trace)
    return out


def progressing(states: Iterator[State], canvas: Tensor, mask_token_id: int) -> Iterator[State]:
    """The same states, with a bar that shows after a second and leaves nothing; `canvas` is what they start from."""
    from tqdm import tqdm

    masks = int((canvas == mask_token_id).sum())
    with tqdm(total=masks, unit="token", leave=False, delay=1) as bar:
        for state in states:
            bar.update(masks - int((state.canvas == mask_token_id).sum()) - bar.n)  # sync; may be less than before
            yield state


def streamed(
    states: Iterator[State], start: int, tokenizer: PreTrainedTokenizerBase, before: str = ""
) -> Iterator[State]:
    """The same states; prints the first row's answer, from position `start` on and after the text `before` it.

    A block is printed as soon as it is final, and a line break at the end.
    """
    from llada.data.chat import TextStream
    from llada.sampling.streaming import finished_blocks

    text, printed = TextStream(tokenizer), start
    try:
        for state, end in finished_blocks(states, start):
            typer.echo(before + text.add(state.canvas[0, printed:end].tolist()), nl=False)  # which also flushes
            before, printed = "", end
            if end < state.canvas.shape[1]:  # the last state comes twice
                yield state
    finally:  # what went wrong is told on a line of its own
        typer.echo(text.end())


def told(out: Generation, text: str | None, as_json: bool) -> None:
    """Print the text (None: it is printed already), and what it cost; as one line of JSON on request."""
    import json

    passes = int(out.forward_passes)
    values: dict[str, Any] = {
        "text": text,
        "forward_passes": passes,
        "query_tokens": int(out.query_tokens),
        "tokens": int(out.tokens),
    }
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False))
    else:
        if text is not None:
            typer.echo(text)
        typer.echo(f"({passes} forward passes)", err=True)
