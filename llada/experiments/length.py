"""The ablation of the length that answers are given (arXiv:2502.09992, table 10), one token per step."""

from typing import Annotated

from pydantic import Field

from llada.config import AtLeast1
from llada.experiments.asking import sampler_of
from llada.experiments.sweep import Line, SweepSettings, Varied, sweep


class Settings(SweepSettings):
    gen_lengths: Annotated[list[AtLeast1], Field(min_length=1)]

    def lines(self) -> dict[str, Line]:
        return {
            name: [(length, sampler_of(fields, {"gen_length": length})) for length in self.gen_lengths]
            for name, fields in self.samplers.items()
        }


EXPERIMENT = sweep("How much does the length of the canvas matter?", Settings, Varied("tokens of the canvas"))
