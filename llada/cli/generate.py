"""`llada generate`: answer or continue a text with a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llada.cli import asking

if TYPE_CHECKING:
    from llada.sampling.denoise import State
    from llada.sampling.likeliest import Likeliest
    from llada.sampling.predictors import Meter


def generate(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    prompt: Annotated[str, typer.Argument(help="question to a chat model, or with --raw text to continue")],
    sampler: asking.Sampler = "low_confidence",
    set_: asking.Fields = None,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text itself instead of answering it")] = False,
    seed: asking.Seed = 0,
    watch: asking.Watch = False,
    delay: asking.Delay = 0.0,
    trace: asking.TraceFile = None,
    alternatives: asking.Alternatives = 0,
    device: asking.Device = None,
    stream: Annotated[bool, typer.Option("--stream", help="print each block as soon as it is final")] = False,
    as_json: asking.AsJSON = False,
) -> None:
    """Generate text.

    llada generate runs/quickstart/sft/model "Which is larger, 12 or 31?" --set gen_length=32
    """
    import torch
    from rich.console import Console

    from llada.data.chat import decode_response, encode_prompt
    from llada.data.tokenizer import encode
    from llada.sampling import generate as sampling

    if stream and (as_json or watch):
        other = "--json" if as_json else "--watch"
        raise ValueError(f"--stream does not go with {other}, which shows the text in its own way; leave one out")
    how = asking.looking(watch, delay, trace, alternatives)
    loaded = asking.load(model, sampler, set_, device)
    tokenizer = loaded.tokenizer
    ids = encode(tokenizer, prompt) if raw else encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
    given = torch.tensor([ids], dtype=torch.long, device=loaded.model.device)
    before = prompt if raw else ""

    def states(meter: Meter, likeliest: Likeliest | None) -> Iterator[State]:
        passing = sampling.generation_states(
            loaded.model, given, None, loaded.sampler, seed, meter=meter, likeliest=likeliest
        )
        return asking.streamed(passing, len(ids), tokenizer, before) if stream else passing

    if loaded.sampler.longest is not None:
        if how.watch or how.trace is not None or stream:
            raise ValueError(
                "longest: an answer that finds its own length has no steps to watch, record or stream, as its canvas "
                "grows; leave out --watch, --trace and --stream"
            )
        out = sampling.generate(loaded.model, given, None, loaded.sampler, seed)
    else:
        out = asking.run(
            loaded,
            sampling.canvas_of(loaded.model, given, loaded.sampler),
            states,
            how,
            Console(stderr=True),
            start=0 if raw else len(ids),
            progress=not stream,
        )
    text = before + decode_response(tokenizer, out.sequences[0, len(ids) :].tolist())
    asking.told(out, None if stream else text, as_json)
