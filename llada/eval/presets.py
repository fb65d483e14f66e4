"""Settings of published evaluations: tasks, shots, likelihood samples and samplers, one YAML file each."""

from typing import Annotated, Self

from pydantic import Field

from llada.config import ConfigError, Schema, config_folder, load_config
from llada.eval.arguments import Precision
from llada.sampling.config import SamplerConfig, Whole


class TaskSettings(Schema):
    """How one task of lm-evaluation-harness is asked."""

    shots: Annotated[int, Field(ge=0)] | None = None  # examples before the question; None: as many as the task says
    samples: Whole = 128  # network evaluations of a likelihood
    precision: Precision | None = None  # nats; as many times so many evaluations as bring its standard error down to it
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)  # its cfg_scale is that of likelihoods, too


class Preset(Schema):
    """An evaluation of several tasks."""

    tasks: dict[str, TaskSettings]
    chat: bool = False  # whether questions are put in the chat layout, examples as turns of their own

    @classmethod
    def named(cls, name: str) -> Self:
        """That of configs/evaluate, or of a .yaml file. Raises ConfigError, with all names, where there is none."""
        if name.endswith(".yaml"):
            return load_config(cls, name)
        folder = config_folder() / "evaluate"
        if not (folder / f"{name}.yaml").is_file():
            known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            raise ConfigError(f"unknown preset {name!r}; known: {known}; or name a .yaml file")
        return load_config(cls, folder / f"{name}.yaml")

    def only(self, names: list[str]) -> Self:
        """The same with some of its tasks. Raises ConfigError for one that it does not have."""
        if missing := [name for name in names if name not in self.tasks]:
            raise ConfigError(f"the preset has no task {missing[0]!r}; it has {', '.join(self.tasks)}")
        return self.replace(tasks={name: self.tasks[name].model_dump(exclude_unset=True) for name in names})
