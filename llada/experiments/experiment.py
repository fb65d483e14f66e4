"""What an experiment is, and how one is performed: settings → measurements → a table and a figure, in one folder."""

import json
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.table import Table

from llada import __version__
from llada.config import Schema, config_folder
from llada.durable import check_is_folder, publish_file
from llada.experiments.figures import save


class Experiment(NamedTuple):
    """One question, and how it is answered; every module of an experiment has one of this name in capitals."""

    question: str
    settings: type[Schema]
    run: Callable[[Any, Path], Mapping[str, Any]]  # measurements, as JSON has them; models are kept in the folder
    table: Callable[[Mapping[str, Any]], Table]
    finding: Callable[[Mapping[str, Any]], str]  # one or two sentences, with the numbers
    draw: Callable[[Mapping[str, Any]], Figure]


def names() -> list[str]:
    """Of all experiments: those that have a file of settings."""
    return sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))


def named(name: str) -> Experiment:
    """The experiment of that name; ValueError where there is none."""
    if name not in names():
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(names())}")
    return import_module(f"llada.experiments.{name}").EXPERIMENT


def perform(name: str, settings: Schema, folder: Path) -> dict[str, Any]:
    """Measure, and leave `result.json`, `figure.png` and `figure.svg` in the folder; the record that the first holds.

    What was measured before with the same settings is drawn again, not measured again. Raises ValueError where the
    folder holds the result of other settings.
    """
    check_is_folder(folder)
    experiment, path = named(name), folder / "result.json"
    asked = {"experiment": name, "settings": settings.model_dump(mode="json")}
    if path.exists():
        record = _read(path, asked)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        measured = experiment.run(settings, folder)
        record = asked | {
            "measured": dict(measured),
            "seconds": round(time.monotonic() - begun, 1),
            "llada": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        }
        publish_file(path, json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
    figure = experiment.draw(record["measured"])
    for ending in ("png", "svg"):
        save(figure, folder / f"figure.{ending}")
    return record


def _read(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = {key: record[key] for key in asked}
        record["measured"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no result of an experiment; name another folder, or remove the file") from None
    if found != asked:
        told = [
            f"{key}={found['settings'].get(key)!r}, not {value!r}"
            for key, value in asked["settings"].items()
            if found["settings"].get(key) != value
        ]
        raise ValueError(
            f"{path} is the result of {found['experiment']} with {', '.join(told) or 'other settings'}; name another "
            "folder, or remove the file to measure again"
        )
    return record
