"""`llada export`: a model for others, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llada.cli.asking import AsJSON, Fields, sampler_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llada.sampling.config import SamplerConfig


def export(
    source: Annotated[Path, typer.Argument(help="folder of a run, or of a model")],
    output: Annotated[Path, typer.Argument(help="folder to write, which must not exist yet")],
    adapter: Annotated[Path | None, typer.Option(help="folder of a LoRA adapter, to be merged into the model")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="of the weights; as they are if not given")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="that the card tells of, kept as sampler.yaml; low_confidence if not given")
    ] = None,
    set_: Fields = None,
    name: Annotated[str | None, typer.Option(help="on the card; that of the folder if not given")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="of the weights, for the card")] = None,
    max_shard_size: Annotated[str | None, typer.Option(help="of a file of weights; 50GB if not given")] = None,
    as_json: AsJSON = False,
) -> None:
    """Write a model with its card, and check it.

    llada export runs/quickstart/sft exported --license apache-2.0
    """
    import json
    from importlib.metadata import version

    import torch

    from llada import __version__
    from llada.config import to_yaml
    from llada.durable import check_folder, followed
    from llada.model import checkpoint
    from llada.model.baseline import load_autoregressive
    from llada.model.card import Merger, Origin, Use, model_card
    from llada.model.export import export as write
    from llada.train.journal import read_log
    from llada.train.lora import merge_adapter

    check_folder(output)
    fields = sampler_of(sampler or "low_confidence", set_)
    run = source if (source / "model" / "config.json").is_file() else None
    folder = source if run is None else source / "model"
    masked = not checkpoint.is_autoregressive(folder)
    if not masked and (sampler is not None or set_):
        given = "--set" if sampler is None else "--sampler"
        raise ValueError(f"{given} has no effect on {folder}, an autoregressive model; leave it out")
    as_asked = None if dtype is None else getattr(torch, dtype)
    loaded, tokenizer = (checkpoint.load_pretrained if masked else load_autoregressive)(folder, dtype=as_asked)
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer; save one beside the weights, as others need it")
    ran = None if run is None else json.loads((run / "config.json").read_text(encoding="utf-8"))
    chat = tokenizer.chat_template is not None if ran is None or adapter is not None else "train" in ran
    if masked:
        _check_room(fields, tokenizer, loaded.config.max_position_embeddings, chat=chat)
    if adapter is not None:
        loaded = merge_adapter(loaded, adapter)
    log = [] if run is None else read_log(run)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype")
    origin = Origin(
        run=ran,
        measured=log[-1] if log else None,
        versions={"llada-lm": __version__} | {each: version(each) for each in ("torch", "transformers")},
        merger=None if adapter is None else Merger(str(adapter), str(source)),
        rounded=None if dtype is None or dtype == saved else (saved or "another dtype", dtype),
    )
    card = model_card(
        name or output.name,
        folder=followed(output).name,
        use=Use(fields.model_dump(exclude_unset=True), chat) if masked else None,
        origin=origin,
        sizes=loaded.config.to_diff_dict(),
        parameters=sum(p.numel() for p in loaded.parameters()),
        licence=licence,
    )
    files = {"README.md": card.encode()}
    if masked:
        files["sampler.yaml"] = to_yaml(fields, f"How {name or output.name} is sampled from")
    written = write(loaded, tokenizer, output, files, max_shard_size=max_shard_size)
    if as_json:
        typer.echo(json.dumps({"output": str(output)} | written._asdict()))
        return
    weights = [file for file in written.files if file.endswith(".safetensors")]
    typer.echo(f"{output}: {written.parameters:,} parameters in {', '.join(weights)}")
    typer.echo("read again: the logits are the same, bit for bit")


def _check_room(fields: SamplerConfig, tokenizer: PreTrainedTokenizerBase, most: int, *, chat: bool) -> None:
    """Raise ConfigError where the code of the card would not run, as the model has too few positions for it."""
    from llada.config import ConfigError
    from llada.data.chat import encode_prompt
    from llada.data.tokenizer import encode
    from llada.model.card import QUESTION

    fields.check_lengths()
    asked = encode_prompt(tokenizer, [{"role": "user", "content": QUESTION}]) if chat else encode(tokenizer, QUESTION)
    name = fields.length_field
    if len(asked) + fields.most_tokens > most:
        raise ConfigError(
            f"{name}={fields.most_tokens} of the sampler leaves no room for a question in the model's {most} "
            f"positions; set it to less, such as --set {name}={most // 2}"
        )
