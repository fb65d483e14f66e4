"""The ablation of classifier-free guidance (arXiv:2502.09992, table 6; arXiv:2406.03736).

With guidance of scale w, logits are 1 + w times those given the prompt less w times those without it.
"""

from typing import Annotated

from pydantic import Field

from llada.config import AtLeast1
from llada.experiments.asking import sampler_of
from llada.experiments.sweep import Line, SweepSettings, Varied, sweep


class Settings(SweepSettings):
    gen_length: AtLeast1
    scales: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]

    def lines(self) -> dict[str, Line]:
        return {
            name: [(w, sampler_of(fields, {"gen_length": self.gen_length, "cfg_scale": w})) for w in self.scales]
            for name, fields in self.samplers.items()
        }


EXPERIMENT = sweep("Does guidance by the prompt help?", Settings, Varied("scale of guidance (0: none)"))
