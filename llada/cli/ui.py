"""`llada ui`: a page in the browser to try a trained model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from llada.cli.asking import Device, Fields, Sampler, load
from llada.cli.extras import needed


def ui(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    sampler: Sampler = "low_confidence",
    set_: Fields = None,
    port: Annotated[int, typer.Option(help="0: a free one", min=0, max=65535)] = 7860,
    device: Device = None,
) -> None:
    """Try a model in the browser, on this machine alone.

    llada ui runs/quickstart/sft/model --set gen_length=32
    """
    with needed("ui", "llada ui"):
        from llada.listening import listen
        from llada.web.page import Shown, make_app
        from llada.web.server import ADDRESS, run

    address = listen(ADDRESS, port)
    loaded = load(model, sampler, set_, device)
    with tempfile.TemporaryDirectory(prefix="llada-ui-") as folder:
        shown = Shown(loaded.model, loaded.tokenizer, str(model), loaded.sampler, sampler, Path(folder))
        run(make_app(shown), address)
