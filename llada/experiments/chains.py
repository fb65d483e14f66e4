"""Chains of sums, like iGSM (arXiv:2407.20311) in small: what samplers are told apart by.

    3+1+6     →     4 10. So 10

Some answers in the data leave the working out, as those of people do, so that how long an answer will be is not known
before it is begun. A part of all chains, chosen by a hash, is never practised and asked alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from llada.config import Schema, read_yaml
from llada.eval.answers import answer
from llada.eval.intervals import wilson
from llada.eval.measure import Timed, timed
from llada.eval.task import Task
from llada.experiments.student import Pair, Recipe, Student, student
from llada.sampling.config import SamplerConfig

HIGHEST = 6  # terms are 1 to 6, as on dice
TEST_SHARE = 0.1  # of all chains

Name = TypeVar("Name")  # of a sampler, whatever names it


class Chain(NamedTuple):
    terms: list[int]

    @property
    def prompt(self) -> str:
        return "+".join(map(str, self.terms))

    @property
    def answer(self) -> int:
        return sum(self.terms)

    @property
    def is_asked(self) -> bool:
        """Whether it belongs to the questions, not to the training data."""
        return hashlib.sha256(self.prompt.encode()).digest()[0] < 256 * TEST_SHARE

    def reply(self, *, brief: bool = False) -> str:
        """With the sum after each further term, or without."""
        conclusion = f"So {self.answer}"
        return conclusion if brief else f"{' '.join(map(str, list(accumulate(self.terms))[1:]))}. {conclusion}"


class Lesson(Schema):
    """What is learnt, and how."""

    terms: Annotated[list[Annotated[int, Field(ge=3, le=20)]], Field(min_length=1)]  # of a chain
    long_terms: Annotated[list[Annotated[int, Field(ge=3, le=20)]], Field(min_length=1)] | None = None  # of some more
    long_share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the data; to their length short answers are padded
    brief: Annotated[float, Field(ge=0, le=1)]  # share of answers without working
    conversations: Annotated[int, Field(ge=1)]
    seed: int = 0
    recipe: Recipe

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if (self.long_terms is None) != (self.long_share == 0):
            raise ValueError("long_terms and long_share go together; give both, or none")
        return self


class ChainSettings(Schema):
    """What a model has learnt, and what it is asked."""

    lesson: Lesson  # or the YAML file that holds it, by which experiments share the model
    questions: Annotated[int, Field(ge=2)]
    batch_size: Annotated[int, Field(ge=1)] = 50

    @field_validator("lesson", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return read_yaml(value) if isinstance(value, str) else value


class SamplerSettings(ChainSettings):
    """And the samplers that answer."""

    gen_length: Annotated[int, Field(ge=1)]
    samplers: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]  # what each changes in the default

    @model_validator(mode="after")
    def _valid(self) -> Self:
        for name in self.samplers:
            self.sampler(name)
        return self

    def sampler(self, name: str) -> SamplerConfig:
        """One of them, for answers of this length."""
        sampler = SamplerConfig(gen_length=self.gen_length, **self.samplers[name])
        sampler.check_lengths()
        return sampler


def chains(terms: Sequence[int], seed: str, *, asked: bool) -> Iterator[Chain]:
    """Without end, of these numbers of terms, of the questions or of the training data."""
    random = Random(seed)
    while True:
        one = Chain([random.randint(1, HIGHEST) for _ in range(random.choice(terms))])
        if one.is_asked == asked:
            yield one


def conversations(lesson: Lesson) -> list[Pair]:
    """The training data."""
    random = Random(f"brief {lesson.seed}")
    usual = chains(lesson.terms, f"train {lesson.seed}", asked=False)
    long = chains(lesson.long_terms or lesson.terms, f"long {lesson.seed}", asked=False)
    practised = (
        next(long if lesson.long_share and random.random() < lesson.long_share else usual)
        for _ in range(lesson.conversations)
    )
    return [(one.prompt, one.reply(brief=random.random() < lesson.brief)) for one in practised]


def questions(lesson: Lesson, count: int) -> Task:
    """Different chains that are not in the training data; an answer is right by its last number.

    Raises ValueError where there are hardly so many.
    """
    drawn = islice(chains(lesson.terms, f"test {lesson.seed}", asked=True), 100 * count)
    asked = list(islice({one.prompt: one for one in drawn}.values(), count))
    if len(asked) < count:
        raise ValueError(f"questions={count} are more than there are chains of so few terms={lesson.terms}; ask fewer")
    return Task([[{"role": "user", "content": one.prompt}] for one in asked], [one.reply() for one in asked], "number")


def taught(settings: ChainSettings, folder: Path) -> tuple[Student, Task]:
    """The model, which experiments beside this folder share, and its questions."""
    made = student(conversations(settings.lesson), settings.lesson.recipe, folder.parent / "models")
    return made, questions(settings.lesson, settings.questions)


def scores(
    taught: Student, task: Task, samplers: Mapping[Name, SamplerConfig], *, batch_size: int
) -> dict[Name, dict[str, Any]]:
    """What each sampler does on the questions, as `summary` has it."""
    found: dict[Name, dict[str, Any]] = {}
    for name, sampler in tqdm(samplers.items(), unit="sampler", disable=None):
        reply = partial(answer, taught.model, taught.tokenizer, sampler=sampler, batch_size=batch_size)
        found[name] = summary(timed(reply, task, batch_size))
    return found


def summary(found: Timed) -> dict[str, Any]:
    """Of answers as JSON has it: right ones with their interval, and means per answer."""
    rows, right = len(found.right), sum(found.right)
    return {
        "right": right,
        "rows": rows,
        "interval": list(wilson(right, rows)),
        "passes": sum(found.forward_passes) / rows,
        "positions": sum(found.query_tokens) / rows,
        "tokens": sum(found.tokens) / rows,  # up to and with the end of sequence
    }
