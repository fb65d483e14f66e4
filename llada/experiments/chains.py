"""Chains of sums, like iGSM (arXiv:2407.20311) in small: what samplers are told apart by.

    b=4 c=b+3 e=c+1. e?     →     b=4 c=4+3=2 e=2+1=3. So 3

All numbers are modulo 5. Answers in the data are worded in several ways and some leave the working out, as those of
people do, so that how long an answer will be is not known before it is begun.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from llada.config import Schema, read_yaml
from llada.eval.answers import answer
from llada.eval.intervals import wilson
from llada.eval.measure import timed
from llada.eval.task import Task
from llada.experiments.student import Pair, Recipe, Student, student
from llada.sampling.config import SamplerConfig

MODULUS = 5
_NAMES = "abcdefghjkmnpqrstuvwxyz"
_OPENINGS = ("", "", "", "We see ", "First, ", "Let me see: ")  # of an answer with working
_JOINTS = (" ", ", ", " then ")  # of its steps


Name = TypeVar("Name")  # of a sampler, whatever names it


class Chain(NamedTuple):
    prompt: str
    working: list[str]  # steps
    answer: int

    def reply(self, random: Random | None = None) -> str:
        """With working, plainly or worded at random."""
        opening, joint = ("", " ") if random is None else (random.choice(_OPENINGS), random.choice(_JOINTS))
        return f"{opening}{joint.join(self.working)}. So {self.answer}"


class Lesson(Schema):
    """What is learnt, and how."""

    variables: Annotated[list[Annotated[int, Field(ge=2, le=len(_NAMES))]], Field(min_length=1)]  # in a chain
    brief: Annotated[float, Field(ge=0, le=1)]  # share of answers without working
    conversations: Annotated[int, Field(ge=1)]
    seed: int = 0
    recipe: Recipe


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


def chain(random: Random, variables: int) -> Chain:
    """One of so many variables, each of which the answer needs; all answers are equally likely."""
    names = random.sample(_NAMES, variables)
    value = random.randrange(MODULUS)
    given = [f"{names[0]}={value}"]
    working = list(given)
    for before, name in pairwise(names):
        more = random.randrange(MODULUS)
        last, value = value, (value + more) % MODULUS
        given.append(f"{name}={before}+{more}")
        working.append(f"{name}={last}+{more}={value}")
    return Chain(f"{' '.join(given)}. {names[-1]}?", working, value)


def conversations(lesson: Lesson) -> list[Pair]:
    """The training data."""
    random = Random(f"train {lesson.seed}")
    pairs = []
    for _ in range(lesson.conversations):
        one = chain(random, random.choice(lesson.variables))
        brief = random.random() < lesson.brief
        pairs.append((one.prompt, f"So {one.answer}" if brief else one.reply(random)))
    return pairs


def questions(lesson: Lesson, count: int, trained: Sequence[Pair]) -> Task:
    """Chains that are not in the training data; an answer is right by its last number."""
    random, known = Random(f"test {lesson.seed}"), {prompt for prompt, _ in trained}
    asked: dict[str, str] = {}
    while len(asked) < count:
        one = chain(random, random.choice(lesson.variables))
        if one.prompt not in known:
            asked[one.prompt] = one.reply()
    return Task([[{"role": "user", "content": prompt}] for prompt in asked], list(asked.values()), "number")


def taught(settings: ChainSettings, folder: Path) -> tuple[Student, Task]:
    """The model, which experiments beside this folder share, and its questions."""
    pairs = conversations(settings.lesson)
    made = student(pairs, settings.lesson.recipe, folder.parent / "models")
    return made, questions(settings.lesson, settings.questions, pairs)


def scores(
    taught: Student, task: Task, samplers: Mapping[Name, SamplerConfig], *, batch_size: int
) -> dict[Name, dict[str, Any]]:
    """What each sampler does on the questions, as `summary` has it."""
    found: dict[Name, dict[str, Any]] = {}
    for name, sampler in tqdm(samplers.items(), unit="sampler", disable=None):
        reply = partial(answer, taught.model, taught.tokenizer, sampler=sampler, batch_size=batch_size)
        found[name] = summary(*timed(reply, task, batch_size))
    return found


def summary(
    right: Sequence[bool],
    forward_passes: Sequence[int],
    query_tokens: Sequence[int],
    tokens: Sequence[int],
    seconds: float,
) -> dict[str, Any]:
    """Of answers (N,) as JSON has it: right ones with their interval, means per answer, and tokens per second."""
    rows = len(right)
    return {
        "right": sum(right),
        "rows": rows,
        "interval": list(wilson(sum(right), rows)),
        "passes": sum(forward_passes) / rows,
        "positions": sum(query_tokens) / rows,
        "tokens": sum(tokens) / rows,  # up to and with the end of sequence
        "tokens_per_second": sum(tokens) / seconds,
    }
