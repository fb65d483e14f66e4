"""The reversal curse (arXiv:2309.12288; arXiv:2502.09992, section 3.3): facts read one way round, asked both ways.

A fact is a pair of lines. Every pair is read as a text in which its first line comes first. For some pairs questions
are practised in both directions, so that the model knows what is asked for; the others are known from texts alone, and
are tested. An answer is right when it contains the expected line, as in the paper; its prompts are those of the paper,
in English.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

from matplotlib.figure import Figure
from pydantic import Field, field_validator
from rich.table import Table

from llada.config import ConfigError, Schema, read_yaml
from llada.data.instructions import WORDS
from llada.data.records import read_records, string_field
from llada.eval.answers import answer, answer_autoregressively
from llada.eval.checks import contains
from llada.eval.intervals import wilson
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.student import Pair, Recipe, baseline, student
from llada.sampling.config import SamplerConfig


class Fact(NamedTuple):
    first: str
    second: str


class Settings(Schema):
    recipe: Recipe  # or the YAML file that holds it
    pairs: str | None = None  # a file of rows with `first` and `second`; None: lines of random words
    facts: Annotated[int, Field(ge=4)]  # the first so many
    practised: Annotated[float, Field(gt=0, lt=1)]  # share of them whose questions are practised
    texts: Annotated[list[str], Field(min_length=1)]  # with {first} and, after it, {second}
    forward: str  # question with {first}
    reversal: str  # question with {second}
    gen_length: Annotated[int, Field(ge=1)]
    seed: int = 0

    @field_validator("recipe", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return read_yaml(value) if isinstance(value, str) else value

    @field_validator("texts")
    @classmethod
    def _one_way(cls, texts: list[str]) -> list[str]:
        for text in texts:
            if not -1 < text.find("{first}") < text.find("{second}"):
                raise ValueError(f"{text!r} must hold {{first}} and, after it, {{second}}")
        return texts

    @field_validator("forward", "reversal")
    @classmethod
    def _question(cls, question: str, info: Any) -> str:
        name = "{first}" if info.field_name == "forward" else "{second}"
        if name not in question:
            raise ValueError(f"{question!r} must hold {name}")
        return question


def facts(settings: Settings) -> list[Fact]:
    """Different pairs of lines, of which no line is in two. Raises ConfigError where a file has too few."""
    if settings.pairs is None:
        random = Random(f"facts {settings.seed}")
        lines: dict[str, None] = {}
        while len(lines) < 2 * settings.facts:
            lines[" ".join(random.sample(WORDS, 3))] = None
        written = list(lines)
        return [Fact(*pair) for pair in zip(written[::2], written[1::2], strict=True)]
    found: dict[Fact, None] = {}
    known: set[str] = set()
    for record in read_records(settings.pairs):
        fact = Fact(string_field(record, "first").strip(), string_field(record, "second").strip())
        if not known & set(fact):  # a line of two pairs has no one answer
            found[fact] = None
            known |= set(fact)
    if len(found) < settings.facts:
        raise ConfigError(
            f"{settings.pairs} has {len(found)} pairs of lines that are in no other pair, fewer than "
            f"facts={settings.facts}; ask for fewer"
        )
    return list(found)[: settings.facts]


def lesson(settings: Settings, known: Sequence[Fact]) -> list[Pair]:
    """What is learnt of the facts: the texts of all, and the questions of those that are practised."""
    pairs = [(_READ, text.format(**fact._asdict())) for fact in known for text in settings.texts]
    for fact in known[: practised(settings)]:
        pairs += [(question, reply) for question, reply in asked(settings, fact).values()] * _REPEATS
    return pairs


def practised(settings: Settings) -> int:
    """The number of facts whose questions are practised."""
    return round(settings.practised * settings.facts)


def asked(settings: Settings, fact: Fact) -> dict[str, Pair]:
    """Question and answer, by direction."""
    return {
        "forward": (settings.forward.format(first=fact.first), fact.second),
        "reversal": (settings.reversal.format(second=fact.second), fact.first),
    }


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Right answers of both models, in both directions, for both kinds of facts."""
    known = facts(settings)
    pairs = lesson(settings, known)
    models = folder / "models"
    masked, causal = student(pairs, settings.recipe, models), baseline(pairs, settings.recipe, models)
    sampler = SamplerConfig(gen_length=settings.gen_length)
    replies: dict[str, Callable[[list[Any]], list[Any]]] = {
        "LLaDA": lambda prompts: answer(masked.model, masked.tokenizer, prompts, sampler),
        "autoregressive": lambda prompts: answer_autoregressively(
            causal.model, causal.tokenizer, prompts, settings.gen_length
        ),
    }
    return {
        "parameters": [sum(p.numel() for p in one.model.parameters()) for one in (masked, causal)],
        "compute": [one.log["flops"] for one in (masked, causal)],
        "right": [
            {"model": model, "facts": kind, "direction": direction} | _count(reply, pairs)
            for model, reply in replies.items()
            for kind, direction, pairs in _tests(settings, known)
        ],
    }


def _tests(settings: Settings, known: Sequence[Fact]) -> Iterator[tuple[str, str, list[Pair]]]:
    split = practised(settings)
    for kind, chosen in (("practised", known[:split]), ("read", known[split:])):
        for direction in ("forward", "reversal"):
            yield kind, direction, [asked(settings, fact)[direction] for fact in chosen]


def _count(reply: Callable[[list[Any]], list[Any]], pairs: Sequence[Pair]) -> dict[str, Any]:
    given = reply([[{"role": "user", "content": question}] for question, _ in pairs])
    right = sum(contains(one.text, expected) for one, (_, expected) in zip(given, pairs, strict=True))
    return {"right": right, "rows": len(pairs), "interval": list(wilson(right, len(pairs)))}


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each model and kind of facts."""
    shown = Table("model", "facts", "forward (95 %)", "reversal (95 %)")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in measured["right"]:
        rows.setdefault((one["model"], one["facts"]), {})[one["direction"]] = _percent(one)
    for (model, kind), found in rows.items():
        shown.add_row(model, _KINDS[kind], found["forward"], found["reversal"])
    return shown


def _percent(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{one['right'] / one['rows']:.1%} ({low:.1%}–{high:.1%})"


def finding(measured: Mapping[str, Any]) -> str:
    """Both directions of both models, on facts that were only read."""
    found = {(one["model"], one["direction"]): one for one in measured["right"] if one["facts"] == "read"}
    told = [
        f"{model} is right in {_percent(found[model, 'forward'])} forward and {_percent(found[model, 'reversal'])} in "
        "reverse"
        for model in ("LLaDA", "autoregressive")
    ]
    ratio = measured["compute"][0] / measured["compute"][1]
    return (
        f"Of facts that were read one way round, {'; '.join(told)} (equal sizes, rows and steps; LLaDA, which reads "
        f"the padding as well, takes {ratio:.2f} times the compute)."
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Bars for each model and direction; a panel for each kind of facts. Intervals are of 95 %."""
    figure, axes = panels(2, width=4.2)
    for axis, (kind, title) in zip(axes, _KINDS.items(), strict=True):
        for number, model in enumerate(("LLaDA", "autoregressive")):
            found = [one for one in measured["right"] if (one["model"], one["facts"]) == (model, kind)]
            shares = [100 * one["right"] / one["rows"] for one in found]
            low = [share - 100 * one["interval"][0] for share, one in zip(shares, found, strict=True)]
            high = [100 * one["interval"][1] - share for share, one in zip(shares, found, strict=True)]
            places = [place + 0.36 * (number - 0.5) for place in range(len(found))]
            axis.bar(places, shares, 0.34, yerr=[low, high], capsize=3, color=COLOURS[number], label=model)
        axis.set(xticks=(0, 1), xticklabels=("forward", "reversal"), ylim=(0, 105), ylabel="right answers, %")
        axis.set_title(title, fontsize=10)
    axes[1].legend()
    return figure


_READ = "Recite."
_REPEATS = 2
_KINDS = {"practised": "questions were practised", "read": "read in one direction alone"}

EXPERIMENT = Experiment(
    question="Can facts that were read one way round be told the other way?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
