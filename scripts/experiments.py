"""The page of all experiments: scripts/experiments.md, with the results and figures beside it in scripts/experiments.

    python scripts/experiments.py [FOLDER]

takes the results that `llada experiment` has left in runs/experiments (or FOLDER), each in a folder of its name, and
writes the page and draws the figures anew from these and those that were there before.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from llada.experiments.experiment import named, names
from llada.experiments.figures import save

PAGE = Path(__file__).with_suffix(".md")
KEPT = Path(__file__).with_suffix("")


def collect(folder: Path) -> None:
    """Copy what is new, and draw all again."""
    KEPT.mkdir(exist_ok=True)
    for name in names():
        if (folder / name / "result.json").exists():
            shutil.copyfile(folder / name / "result.json", KEPT / f"{name}.json")
    for name, record in records().items():
        save(named(name).draw(record["measured"]), KEPT / f"{name}.png")


def records() -> dict[str, dict[str, Any]]:
    """The results that are kept, by experiment."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))}


def section(name: str, record: dict[str, Any]) -> str:
    """One experiment: its question, what came out, its figure, and the command."""
    experiment, minutes = named(name), max(1, round(record["seconds"] / 60))
    return (
        f"## {experiment.question}\n\n"
        f"{experiment.finding(record['measured'])}\n\n"
        f"![{name}](experiments/{name}.png)\n\n"
        f"{markdown(experiment.table(record['measured']))}\n\n"
        f"```bash\nllada experiment {name}\n```\n\n"
        f"Settings: [`configs/experiment/{name}.yaml`](../configs/experiment/{name}.yaml). All numbers: "
        f"[`experiments/{name}.json`](experiments/{name}.json), measured in {_count(minutes, 'minute')} on "
        f"{record['device']} with torch {record['torch']} and {_count(record['threads'], 'thread')}.\n"
    )


def markdown(table: Table) -> str:
    """The same table as Markdown has it."""
    columns = [[str(column.header), "---", *map(str, column.cells)] for column in table.columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def page() -> str:
    """All experiments that have a result."""
    head = (
        "# Experiments\n\n"
        "Each is one command, one file of settings, one result. `python scripts/experiments.py` writes this page from\n"
        "the results. In brackets are intervals of 95 % over the questions, of one trained model of each kind; ±\n"
        "is two standard errors. Minutes are those of the machine that measured, and include training where the model\n"
        "was not there yet.\n\n"
    )
    return head + "\n".join(section(name, record) for name, record in records().items())


if __name__ == "__main__":
    collect(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/experiments"))
    PAGE.write_text(page(), encoding="utf-8")
