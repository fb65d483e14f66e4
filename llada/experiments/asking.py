"""What an experiment asks, and whom: a model that learns a lesson for it, or a checkpoint and a file of questions.

With `lesson: null`, `model` and `task` the same ablations are those of any fine-tuned model on any questions.
"""

import math
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from llada.config import AtLeast1, ConfigError, Schema, read_yaml
from llada.eval.answers import answer
from llada.eval.intervals import wilson
from llada.eval.measure import Timed, timed
from llada.eval.task import Task, read_task
from llada.experiments.chains import Lesson, conversations, questions
from llada.experiments.student import Student, device, student
from llada.model.checkpoint import load_pretrained
from llada.sampling.config import SamplerConfig

Name = TypeVar("Name")  # of a sampler, whatever names it


class Asking(Schema):
    """Who is asked, and what."""

    lesson: Lesson | None = None  # or the YAML file that holds it, by which experiments share the model
    model: str | None = None  # instead of it, a checkpoint
    task: str | None = None  # and its questions with their answers, as for `llada tune`
    check: str = "number"  # by which an answer is right
    questions: Annotated[int, Field(ge=2)]
    batch_size: AtLeast1 = 50

    @field_validator("lesson", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return read_yaml(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        given = [name for name in ("lesson", "model", "task") if getattr(self, name) is not None]
        if given not in (["lesson"], ["model", "task"]):
            raise ValueError(
                f"given are {' and '.join(given) or 'neither'}; give a lesson, or lesson=null model=FOLDER task=FILE"
            )
        if self.lesson is not None and self.check != "number":
            raise ValueError("check has no effect on a lesson, whose answers are numbers; leave it out")
        return self

    @property
    def taught(self) -> Lesson:
        """The lesson, for what can only be asked of one. Raises ConfigError where there is none."""
        if self.lesson is None:
            raise ConfigError("this experiment trains its own model; give a lesson, not a model and a task")
        return self.lesson

    def asked(self) -> Task:
        """The questions and their answers."""
        if self.task is not None:
            return read_task(self.task, self.check, rows=self.questions)
        return questions(self.taught, self.questions)

    def student(self, folder: Path) -> Student:
        """Who is asked. What has learnt a lesson is kept beside the folder, where other experiments find it."""
        if self.model is None:
            return student(conversations(self.taught), self.taught.recipe, folder.parent / "models")
        model, tokenizer = load_pretrained(self.model, device=device())
        if tokenizer is None:
            raise ConfigError(f"model={self.model!r} has no tokenizer; save it beside the weights")
        return Student(model, tokenizer, {})


class AskingSamplers(Asking):
    """And the samplers that answer."""

    gen_length: AtLeast1
    samplers: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]  # what each changes in the default

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.every()
        return self

    def every(self) -> Mapping[Any, SamplerConfig]:
        """All that answer."""
        raise NotImplementedError


def sampler_of(fields: Mapping[str, Any], set_here: Mapping[str, Any]) -> SamplerConfig:
    """The sampler of these fields and those that the experiment sets. Raises ConfigError where both have one."""
    for name in fields:
        if name in set_here:
            raise ConfigError(f"{name}={fields[name]!r} of a sampler is set by the experiment; leave it out there")
    sampler = SamplerConfig(**set_here, **fields)
    sampler.check_lengths()
    return sampler


def scores(
    asked: Student, task: Task, samplers: Mapping[Name, SamplerConfig], *, batch_size: int
) -> dict[Name, dict[str, Any]]:
    """What each sampler does on the questions, as `summary` has it."""
    found: dict[Name, dict[str, Any]] = {}
    for name, sampler in tqdm(samplers.items(), unit="sampler", disable=None):
        reply = partial(answer, asked.model, asked.tokenizer, sampler=sampler, batch_size=batch_size)
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
        "tokens_stderr": statistics.stdev(found.tokens) / math.sqrt(rows),
    }
