"""`llada generate`: answer or continue a text with a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from llada.cli.asking import (
    Alternatives,
    AsJSON,
    Delay,
    Device,
    Fields,
    Sampler,
    Seed,
    TraceFile,
    Watch,
    load,
    looking,
    run,
    told,
)


def generate(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    prompt: Annotated[str, typer.Argument(help="question to a chat model, or with --raw text to continue")],
    sampler: Sampler = "low_confidence",
    set_: Fields = None,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text itself instead of answering it")] = False,
    seed: Seed = 0,
    watch: Watch = False,
    delay: Delay = 0.0,
    trace: TraceFile = None,
    alternatives: Alternatives = 0,
    device: Device = None,
    as_json: AsJSON = False,
) -> None:
    """Generate text: llada generate runs/quickstart/sft/model "Which is larger, 12 or 31?" --set gen_length=32"""
    import torch
    from rich.console import Console

    from llada.data.chat import decode_response, encode_prompt
    from llada.data.tokenizer import encode
    from llada.sampling import generate as sampling

    how = looking(watch, delay, trace, alternatives)
    asked = load(model, sampler, set_, device)
    tokenizer = asked.tokenizer
    ids = encode(tokenizer, prompt) if raw else encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
    given = torch.tensor([ids], dtype=torch.long, device=asked.model.device)
    if asked.sampler.longest is not None:
        if how.watch or how.trace is not None:
            raise ValueError(
                "longest: an answer that finds its own length has no steps to watch or record, as its canvas grows; "
                "leave out --watch and --trace"
            )
        out = sampling.generate(asked.model, given, None, asked.sampler, seed)
    else:
        canvas = torch.nn.functional.pad(given, (0, asked.sampler.gen_length), value=asked.model.config.mask_token_id)
        out = run(
            asked,
            canvas,
            lambda meter, likeliest: sampling.generation_states(
                asked.model, given, None, asked.sampler, seed, meter=meter, likeliest=likeliest
            ),
            how,
            Console(stderr=True),
            start=0 if raw else len(ids),
        )
    text = (prompt if raw else "") + decode_response(tokenizer, out.sequences[0, len(ids) :].tolist())
    told(out, text, as_json)
