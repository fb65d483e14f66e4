"""The flood of ends of sequence, by the length of the canvas, in a model that has learnt short rows alone.

Fine-tuning pads a row to the longest one beside it, and so teaches what follows an answer no further than the longest
row of all reaches. The same lesson with some longer rows is that of the experiment on length.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from llada.data.chat import encode_prompt
from llada.data.tokenizer import encode
from llada.experiments import length, sweep
from llada.experiments.chains import conversations
from llada.experiments.experiment import Experiment

VARIED = sweep.Varied("tokens of the canvas")


def run(settings: length.Settings, folder: Path) -> dict[str, Any]:
    """Scores by length, the tokens of the longest row that was learnt, and of the prompts that are asked."""
    lesson = settings.taught.replace(long_terms=None, long_share=0.0)
    short = settings.replace(lesson=lesson.model_dump(exclude_unset=True))
    model, task = short.student(folder), short.asked()
    tokenizer = model.tokenizer

    def of_prompt(text: str) -> int:
        return len(encode_prompt(tokenizer, [{"role": "user", "content": text}]))

    rows = {(len(prompt), len(reply)): (prompt, reply) for prompt, reply in conversations(lesson)}  # one for each size
    prompts = [of_prompt(messages[-1]["content"]) for messages in task.conversations]
    return sweep.measure(model, task, short) | {
        "longest_row": max(of_prompt(prompt) + len(encode(tokenizer, reply)) + 2 for prompt, reply in rows.values()),
        "prompts": [min(prompts), max(prompts)],
    }


def finding(measured: Mapping[str, Any]) -> str:
    """What was learnt, and right answers at every point of every line."""
    low, high = measured["prompts"]
    return (
        f"No row that was learnt has more than {measured['longest_row']} tokens, of which prompts take {low} to "
        f"{high}. {sweep.finding(VARIED, measured)}"
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Accuracy, and the length of answers, a line for each sampler; shaded where canvases outgrow what was learnt."""
    figure = sweep.draw(VARIED, measured)
    low, high = measured["prompts"]
    for axis in figure.axes:
        axis.axvspan(measured["longest_row"] - high, measured["longest_row"] - low, color="0.88", zorder=0)
    learnt = f"shaded: prompt and canvas have the {measured['longest_row']} tokens of the longest row that was learnt"
    figure.axes[0].set_title(f"bars: 95 %; {learnt}", fontsize=8)
    return figure


EXPERIMENT = Experiment(
    question="When does low confidence flood the canvas with ends of sequence?",
    settings=length.Settings,
    run=run,
    table=partial(sweep.table, VARIED),
    finding=finding,
    draw=draw,
)
