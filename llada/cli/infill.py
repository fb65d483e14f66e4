"""`llada infill`: fill the gaps of a text with a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from llada.cli import asking


def infill(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    text: Annotated[str, typer.Argument(help="___ marks a gap")],
    gap: Annotated[int, typer.Option(help="tokens for each ___", min=1)] = 8,
    sampler: asking.Sampler = "low_confidence",
    set_: asking.Fields = None,
    seed: asking.Seed = 0,
    watch: asking.Watch = False,
    delay: asking.Delay = 0.0,
    trace: asking.TraceFile = None,
    alternatives: asking.Alternatives = 0,
    device: asking.Device = None,
    as_json: asking.AsJSON = False,
) -> None:
    """Fill in a text.

    llada infill runs/quickstart/pretrain/model "Return the ___ of the array." --gap 6
    """
    import torch
    from rich.console import Console

    from llada.data.gaps import GAP, encode_gaps
    from llada.sampling.generate import infill_states
    from llada.sampling.request import check_length, end_tokens

    if GAP not in text:
        raise ValueError(f"the text has no gap; mark each with {GAP}, or continue a text with llada generate --raw")
    how = asking.looking(watch, delay, trace, alternatives)
    loaded = asking.load(model, sampler, set_, device)
    settings = loaded.sampler.between_texts(end_tokens(loaded.model))
    advice = "shorten the text, or give it fewer or smaller gaps (--gap)"
    check_length(loaded.model, gap * text.count(GAP), advice)  # before so many masks are made
    tokens = encode_gaps(loaded.tokenizer, text, gap, loaded.model.config.mask_token_id)
    check_length(loaded.model, len(tokens), advice)
    canvas = torch.tensor([tokens], device=loaded.model.device)
    out = asking.run(
        loaded,
        canvas,
        lambda meter, likeliest: infill_states(
            loaded.model, canvas, None, settings, seed, meter=meter, likeliest=likeliest
        ),
        how,
        Console(stderr=True),
    )
    asking.told(out, str(loaded.tokenizer.decode(out.sequences[0])), as_json)
