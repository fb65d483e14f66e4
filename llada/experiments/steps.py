"""Accuracy against the number of forward passes (arXiv:2502.09992, figure 5 and appendix B.7), for several samplers."""

from typing import Annotated, Any

from pydantic import Field

from llada.config import AtLeast1
from llada.experiments.asking import sampler_of
from llada.experiments.sweep import Line, SweepSettings, Varied, sweep


class Settings(SweepSettings):
    """Samplers that take each number of steps, and one that reveals what it is sure of, at each threshold."""

    gen_length: AtLeast1
    steps: Annotated[list[AtLeast1], Field(min_length=1)]
    thresholds: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    threshold_sampler: dict[str, Any]

    def lines(self) -> dict[str, Line]:
        here = {"gen_length": self.gen_length}
        lines: dict[str, Line] = {
            name: [(steps, sampler_of(fields, here | {"steps": steps})) for steps in self.steps]
            for name, fields in self.samplers.items()
        }
        parallel = {"reveal": "threshold"} | self.threshold_sampler
        blocks = self.threshold_sampler.get("block_length")
        name = "threshold" if blocks is None else f"blocks of {blocks}, threshold"
        lines[name] = [(value, sampler_of(parallel, here | {"threshold": value})) for value in self.thresholds]
        return lines


EXPERIMENT = sweep(
    "How many forward passes does an answer need?", Settings, Varied("forward passes per answer", by_passes=True)
)
