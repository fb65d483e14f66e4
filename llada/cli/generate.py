"""`llada generate`: answer, continue or fill in a text with a trained model."""

from pathlib import Path
from typing import Annotated

import typer


def generate(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    prompt: Annotated[str, typer.Argument(help="question to a chat model, or text to continue; ___ marks a gap")],
    sampler: Annotated[
        str, typer.Option(help="name of a file in configs/sampling, or a .yaml file")
    ] = "low_confidence",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the sampler, e.g. steps=32")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text itself instead of answering it")] = False,
    gap: Annotated[int | None, typer.Option(help="tokens for each ___ in the text; 8 if not given", min=1)] = None,
    seed: Annotated[int, typer.Option(help="of the random numbers")] = 0,
) -> None:
    """Generate text: llada generate runs/quickstart/sft/model "Which is larger, 12 or 31?" --set gen_length=32"""
    import torch

    from llada.config import load_config
    from llada.data.chat import decode_response, encode_prompt
    from llada.data.tokenizer import encode
    from llada.model.checkpoint import load_pretrained
    from llada.sampling import generate as sampling

    infilling = "___" in prompt
    if raw and infilling:
        raise ValueError("--raw has no effect on a text with gaps, which is always taken as it is; leave it out")
    if gap is not None and not infilling:
        raise ValueError("--gap has no effect on a prompt without ___; leave it out")
    SamplerConfig = sampling.SamplerConfig
    settings = load_config(SamplerConfig, SamplerConfig.file_of(sampler), set_ or ())
    loaded, tokenizer = load_pretrained(model)
    if tokenizer is None:
        raise ValueError(f"{model} has no tokenizer; generate with llada.generate on token ids instead")
    if infilling:
        parts = [encode(tokenizer, part) for part in prompt.split("___")]
        hole = [loaded.config.mask_token_id] * (gap or 8)
        canvas = parts[0] + [token for part in parts[1:] for token in (*hole, *part)]
        out = sampling.infill(loaded, torch.tensor([canvas]), None, settings, seed)
        text = tokenizer.decode(out.sequences[0])
    else:
        ids = encode(tokenizer, prompt) if raw else encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
        out = sampling.generate(loaded, torch.tensor([ids], dtype=torch.long), None, settings, seed)
        text = (prompt if raw else "") + decode_response(tokenizer, out.sequences[0, len(ids) :].tolist())
    typer.echo(text)
    typer.echo(f"({int(out.forward_passes)} forward passes)", err=True)
