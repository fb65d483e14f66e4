"""Chains of sums, like iGSM (arXiv:2407.20311) in small: what samplers are told apart by.

    3+1+6     →     4 10. So 10

Some answers in the data leave the working out, as those of people do, so that how long an answer will be is not known
before it is begun. A part of all chains, chosen by a hash, is never practised and asked alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from random import Random
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from llada.config import AtLeast1, Schema
from llada.eval.task import Task
from llada.experiments.student import Pair, Recipe

HIGHEST = 6  # terms are 1 to 6, as on dice
TEST_SHARE = 0.1  # of all chains


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
    conversations: AtLeast1
    seed: int = 0
    recipe: Recipe

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if (self.long_terms is None) != (self.long_share == 0):
            raise ValueError("long_terms and long_share go together; give both, or none")
        return self


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
