"""`llada trace`: pictures and pages of what a sampler did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llada.cli.asking import AsJSON

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llada.show.frames import Frame

app = typer.Typer(no_args_is_help=True)
SUFFIXES = (".html", ".png", ".gif", ".webp")


@app.callback()
def trace() -> None:
    """Show what a sampler did.

    llada trace render run.json --tokenizer MODEL --output run.html
    """


@app.command()
def render(
    traces: Annotated[list[Path], typer.Argument(help="files of llada generate --trace; two for a page side by side")],
    tokenizer: Annotated[Path, typer.Option(help="folder of the model, or of its tokenizer")],
    output: Annotated[Path, typer.Option(help="a page (.html), a picture (.png) or an animation (.gif, .webp)")],
    row: Annotated[int, typer.Option(help="of a trace of several texts, from 0", min=0)] = 0,
    frames_per_second: Annotated[float | None, typer.Option(help="of an animation; 8 if not given", min=0.1)] = None,
    as_json: AsJSON = False,
) -> None:
    """Make a page, a picture or an animation.

    llada trace render run.json --tokenizer MODEL --output run.html
    """
    import json

    from llada.data.tokenizer import read_tokenizer
    from llada.durable import check_file, publish_file
    from llada.sampling.trace import Trace
    from llada.show.frames import recorded
    from llada.show.page import Told, alternatives_of, page

    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output {output} must end with one of {', '.join(SUFFIXES)}")
    if output.suffix != ".html" and len(traces) > 1:
        raise ValueError(f"{output} can show one trace; {len(traces)} side by side need a page, --output NAME.html")
    if frames_per_second is not None and output.suffix not in (".gif", ".webp"):
        raise ValueError(f"--frames-per-second has no effect on {output}; leave it out")
    check_file(output)
    found = read_tokenizer(tokenizer)
    if found is None:
        raise ValueError(f"{tokenizer} has no tokenizer; name the folder of the model that wrote the trace")
    loaded = [Trace.load(path) for path in traces]
    for path, one in zip(traces, loaded, strict=True):
        if one.mask_token_id != found.mask_token_id:
            raise ValueError(
                f"{path} has [MASK] {one.mask_token_id}, the tokenizer of {tokenizer} {found.mask_token_id}; name the "
                "model that wrote the trace"
            )
        most = max(
            (int(table.max()) for table in (one.canvas, one.token, one.alternatives) if table.numel()), default=0
        )
        if most >= len(found):
            raise ValueError(
                f"{path} has the token {most}, which is none of the {len(found)} of {tokenizer}; name the model that "
                "wrote the trace"
            )
    shown = [list(recorded(one, row)) for one in loaded]
    if output.suffix == ".html":
        told = [
            Told(path.stem, frames, alternatives_of(one, row))
            for path, frames, one in zip(traces, shown, loaded, strict=True)
        ]
        publish_file(output, page(found, told).encode())
    else:
        _draw(found, shown[0], traces[0].stem, output, frames_per_second or 8.0)
    if as_json:
        steps = [frames[-1].step for frames in shown]
        typer.echo(json.dumps({"output": str(output), "row": row, "steps": steps}))


def _draw(
    tokenizer: PreTrainedTokenizerBase, frames: Sequence[Frame], title: str, output: Path, frames_per_second: float
) -> None:
    """Write a picture of the last frame, or an animation of all; says which characters no font has."""
    import tempfile
    import warnings

    from tqdm import tqdm

    from llada.cli.extras import needed
    from llada.durable import publish_file

    with needed("plot", "pictures"):
        from llada.show.picture import animate, order_figure, undrawn, written

    still = output.suffix == ".png"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # said below, once
        made = Path(folder) / f"made{output.suffix}"
        if still:
            order_figure(tokenizer, frames[-1], title).savefig(made, dpi=130)
        else:
            drawn = animate(tokenizer, frames, made, frames_per_second=frames_per_second)
            for _ in tqdm(drawn, total=len(frames), unit="frame", disable=None, leave=False, delay=1):
                pass
        publish_file(output, made.read_bytes())
    missing = undrawn([text for frame in (frames[-1:] if still else frames) for text in written(tokenizer, frame)])
    if missing:
        typer.echo(
            f"no font here has {missing[:20]}, shown as empty boxes; install one, such as Noto Sans Mono CJK or Noto "
            "Emoji, or make a page (.html)",
            err=True,
        )
