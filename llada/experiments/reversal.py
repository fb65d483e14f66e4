"""The reversal curse (arXiv:2309.12288; arXiv:2502.09992, section 3.3): facts read one way round, asked both ways.

A fact is a pair of lines, and every pair is read as a text in which its first line is first. It is asked in two ways.

By gaps: a mask predictor fills in the missing line of such a text; an autoregressive model goes on after the line that
is given, which for the reversal is the second one. By questions, as in the paper, with its prompts in English: other
models practise both questions of some pairs, so that they know what is asked for, and know the other pairs from texts
alone. An answer is right when it contains the expected line.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any, Self

from matplotlib.figure import Figure
from pydantic import Field, field_validator, model_validator
from rich.table import Table

from llada.config import AtLeast1, ConfigError, Schema, read_yaml
from llada.data.instructions import WORDS
from llada.data.records import read_records, string_field
from llada.eval.answers import answer, answer_autoregressively
from llada.eval.checks import contains
from llada.eval.intervals import wilson
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.gaps import READ, Fact, fill, go_on
from llada.experiments.shares import error_bars, percent_of
from llada.experiments.student import Baseline, Pair, Recipe, Student, baseline, student
from llada.sampling.config import SamplerConfig


class Settings(Schema):
    recipe: Recipe  # or the YAML file that holds it
    pairs: str | None = None  # a file of rows with `first` and `second`; None: lines of random words
    facts: Annotated[int, Field(ge=4)]  # the first so many
    practised: Annotated[float, Field(ge=0, lt=1)]  # share of them whose questions are practised; 0: ask by gaps alone
    texts: Annotated[list[str], Field(min_length=1)]  # with {first} and, after it, {second}
    forward: str  # question with {first}
    reversal: str  # question with {second}
    gen_length: AtLeast1
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
            _check_braces(text, "first", "second")
        return texts

    @field_validator("forward", "reversal")
    @classmethod
    def _question(cls, question: str, info: Any) -> str:
        name = "first" if info.field_name == "forward" else "second"
        if f"{{{name}}}" not in question:
            raise ValueError(f"{question!r} must hold {{{name}}}")
        _check_braces(question, name)
        return question

    @model_validator(mode="after")
    def _some_of_both(self) -> Self:
        if self.practised and not 0 < practised(self) < self.facts:
            raise ValueError(
                f"practised={self.practised} of {self.facts} facts are {practised(self)}; some must be practised and "
                "some not, so give a share further from 0 and 1, or 0"
            )
        return self


def _check_braces(text: str, *names: str) -> None:
    try:
        text.format(**dict.fromkeys(names, ""))
    except (KeyError, IndexError, ValueError):
        allowed = " and ".join(f"{{{name}}}" for name in names)
        raise ValueError(f"{text!r} may have nothing but {allowed} in braces; write others as {{{{ and }}}}") from None


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
        for name, line in fact._asdict().items():
            if not line:
                raise ConfigError(f"{record.where}: {name!r} is empty, which every answer would contain; leave it out")
        if not known & set(fact):  # a line of two pairs has no one answer
            found[fact] = None
            known |= set(fact)
    if len(found) < settings.facts:
        raise ConfigError(
            f"{settings.pairs} has {len(found)} pairs of lines that are in no other pair, fewer than "
            f"facts={settings.facts}; ask for fewer"
        )
    return list(found)[: settings.facts]


def lesson(settings: Settings, known: Sequence[Fact], practised: int) -> list[Pair]:
    """What is learnt of the facts: the texts of all, and the questions of the first so many."""
    pairs = [(READ, text.format(**fact._asdict())) for fact in known for text in settings.texts]
    for fact in known[:practised]:
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
    """Right answers of both models, in both directions, by gaps and by questions."""
    known = facts(settings)
    masked, causal = _taught(settings, lesson(settings, known, 0), folder)
    found = [
        {"model": model, "facts": "gaps", "direction": direction}
        | _count([tell(settings.texts[0], fact, direction) for fact in known], [getattr(fact, line) for fact in known])
        for model, tell in (("LLaDA", partial(fill, masked)), ("autoregressive", partial(go_on, causal)))
        for direction, line in (("forward", "second"), ("reversal", "first"))
    ]
    return {
        "parameters": [sum(p.numel() for p in one.model.parameters()) for one in (masked, causal)],
        "compute": [one.log["flops"] for one in (masked, causal)],
        "right": found + (_by_questions(settings, known, folder) if settings.practised else []),
    }


def _taught(settings: Settings, pairs: Sequence[Pair], folder: Path) -> tuple[Student, Baseline]:
    models = folder / "models"
    return student(pairs, settings.recipe, models), baseline(pairs, settings.recipe, models)


def _by_questions(settings: Settings, known: Sequence[Fact], folder: Path) -> list[dict[str, Any]]:
    masked, causal = _taught(settings, lesson(settings, known, practised(settings)), folder)
    sampler = SamplerConfig(gen_length=settings.gen_length)
    replies: dict[str, Callable[[list[Any]], list[Any]]] = {
        "LLaDA": lambda prompts: answer(masked.model, masked.tokenizer, prompts, sampler),
        "autoregressive": lambda prompts: answer_autoregressively(
            causal.model, causal.tokenizer, prompts, settings.gen_length
        ),
    }
    return [
        {"model": model, "facts": kind, "direction": direction}
        | _count([one.text for one in reply(_asked(pairs))], [expected for _, expected in pairs])
        for model, reply in replies.items()
        for kind, direction, pairs in _tests(settings, known)
    ]


def _asked(pairs: Sequence[Pair]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": question}] for question, _ in pairs]


def _tests(settings: Settings, known: Sequence[Fact]) -> Iterator[tuple[str, str, list[Pair]]]:
    split = practised(settings)
    for kind, chosen in (("practised", known[:split]), ("read", known[split:])):
        for direction in ("forward", "reversal"):
            yield kind, direction, [asked(settings, fact)[direction] for fact in chosen]


def _count(told: Sequence[str], expected: Sequence[str]) -> dict[str, Any]:
    right = sum(contains(one, line) for one, line in zip(told, expected, strict=True))
    return {"right": right, "rows": len(told), "interval": list(wilson(right, len(told)))}


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each model and kind of facts."""
    shown = Table("model", "facts", "forward (95 %)", "reversal (95 %)")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in measured["right"]:
        rows.setdefault((one["model"], one["facts"]), {})[one["direction"]] = percent_of(one)
    for (model, kind), found in rows.items():
        shown.add_row(model, _KINDS[kind], found["forward"], found["reversal"])
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """Both directions of both models, on facts that were only read, and on those that were practised."""
    kinds = {one["facts"] for one in measured["right"]}
    found = {(one["facts"], one["model"], one["direction"]): one for one in measured["right"]}
    told = [
        f"{way}, {model} is right in {percent_of(found[kind, model, 'forward'])} forward and "
        f"{percent_of(found[kind, model, 'reversal'])} in reverse"
        for kind, way in _WAYS.items()
        if kind in kinds
        for model in ("LLaDA", "autoregressive")
    ]
    ratio = measured["compute"][0] / measured["compute"][1]
    return (
        f"Of facts that were read one way round, {'; '.join(told)} (by gaps LLaDA fills in a part of a text that it "
        f"has read, the autoregressive model goes on from the other part; equal sizes, rows and steps; LLaDA takes "
        f"{ratio:.2f} times the compute)."
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Bars for each model and direction; a panel for each kind of facts. Intervals are of 95 %."""
    shown = [kind for kind in _KINDS if any(one["facts"] == kind for one in measured["right"])]
    figure, axes = panels(len(shown), width=4.2)
    for axis, kind in zip(axes, shown, strict=True):
        for number, model in enumerate(("LLaDA", "autoregressive")):
            found = [one for one in measured["right"] if (one["model"], one["facts"]) == (model, kind)]
            shares, reach = error_bars((one["right"], one["rows"]) for one in found)
            places = [place + 0.36 * (number - 0.5) for place in range(len(found))]
            axis.bar(places, shares, 0.34, yerr=reach, capsize=3, color=COLOURS[number], label=model)
        axis.set(xticks=(0, 1), xticklabels=("forward", "reversal"), ylim=(0, 105), ylabel="right answers, %")
        axis.set_title(_KINDS[kind], fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


_REPEATS = 2
_WAYS = {
    "gaps": "asked by gaps",
    "read": "asked by questions that were practised for other facts",
    "practised": "asked by questions that were practised",
}
_KINDS = {
    "gaps": "gaps in texts as they were read",
    "practised": "questions that were practised",
    "read": "questions about texts alone",
}

EXPERIMENT = Experiment(
    question="Can facts that were read one way round be told the other way?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
