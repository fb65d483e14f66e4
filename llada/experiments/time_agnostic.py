"""Masked diffusion without time (arXiv:2409.02908): what follows for the loss, the sampler and the weight of the loss.

A model that does not see the time is an any-order model: exactly so many masks give the bound of a probability t with
less noise, tokens can be revealed one by one instead of in steps of time, and the weight 1/t only balances numbers of
masks. Measured where samples can be judged exactly (`llada.experiments.small_grids`).
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from llada.config import AtLeast1, Schema
from llada.experiments.experiment import Experiment
from llada.experiments.loss_noise import noise_of
from llada.experiments.small_grids import BOX, GridRows, all_grids, bound_of, grid_config, sampled, trained
from llada.experiments.student import device
from llada.experiments.time_agnostic_report import WEIGHTS, draw, finding, table
from llada.model.checkpoint import load_pretrained
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig

Many = Annotated[int, Field(ge=30)]


class Settings(Schema):
    """The model, its training, and how much is measured."""

    model: dict[str, Any]  # sizes of a LLaDAConfig
    optimizer: Literal["adamw", "muon"]
    batch_size: Annotated[int, Field(ge=1, le=288)]
    steps: AtLeast1
    warmup: Annotated[int, Field(ge=0)]
    rates: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1)  # tried with each weight
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=2)  # of first weights, rows and masks: runs at a rate
    noise_steps: AtLeast1  # of training, until the noise of the loss is measured
    noise_draws: Many  # of masks, for the variance of the loss
    gradient_draws: Many  # the same for the gradient
    samples: Many  # of each sampler
    few_steps: list[Annotated[int, Field(ge=1, le=BOX.cells)]] = Field(min_length=1)  # that share the cells equally
    time_steps: list[AtLeast1] = Field(min_length=1)  # of discretised time
    evaluate_draws: AtLeast1  # masks of each grid, for the bound

    @model_validator(mode="after")
    def _possible(self) -> Self:
        grid_config(self.model)
        for name in ("steps", "noise_steps"):
            if 2 * self.warmup > (steps := getattr(self, name)):
                raise ValueError(f"warmup={self.warmup} exceeds the half of {name}={steps} before the rate falls")
        for name in ("rates", "seeds", "few_steps", "time_steps"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} holds a value twice")
        return self

    def train(self, objective: str, rate: float, seed: int, steps: int) -> LLaDAForMaskedLM:
        """One run."""
        return trained(
            self.model,
            objective=objective,
            optimizer=self.optimizer,
            rate=rate,
            warmup=self.warmup,
            steps=steps,
            batch_size=self.batch_size,
            seed=seed,
        )


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """All three parts; noise and samplers are those of the run with weight 1/t that has the lowest bound."""
    runs = {objective: _runs(settings, objective, folder) for objective in WEIGHTS}
    rate, seed = min((run["bound"], run["rate"], run["seed"]) for run in runs["elbo"])[1:]
    model, _ = load_pretrained(_place(folder, "elbo", rate, seed), device=device())
    rows = GridRows()
    x0 = torch.from_numpy(np.random.default_rng(seed).permutation(rows.tokens)[: settings.batch_size])
    noise = noise_of(
        settings.train("elbo", rate, seed, settings.noise_steps).cpu(),
        x0,
        torch.from_numpy(rows.maskable).expand_as(x0),
        draws=settings.noise_draws,
        gradient_draws=settings.gradient_draws,
        seed=seed,
    )
    return {
        "entropy": math.log(len(all_grids())),
        "steps": settings.steps,
        "noise_steps": settings.noise_steps,
        "batch_size": settings.batch_size,
        "noise": noise,
        "by_token": [
            {"steps": steps}
            | sampled(model, SamplerConfig(order="random", temperature=1.0, steps=steps), settings.samples, seed)
            for steps in settings.few_steps
        ],
        "by_time": [
            {"steps": steps, "needed": needed_evaluations(steps)}
            | sampled(model, SamplerConfig(reveal="ancestral", temperature=1.0, steps=steps), settings.samples, seed)
            for steps in settings.time_steps
        ],
        "runs": runs,
    }


def _runs(settings: Settings, objective: str, folder: Path) -> list[dict[str, Any]]:
    """Bound and samples of a model for each learning rate and seed; the models stay in the folder."""
    found = []
    for rate in settings.rates:
        for seed in settings.seeds:
            model = settings.train(objective, rate, seed, settings.steps)
            model.save_pretrained(_place(folder, objective, rate, seed))
            bound, stderr = bound_of(model, settings.evaluate_draws)
            samples = sampled(model, SamplerConfig.named("first_hitting"), settings.samples, seed)
            found.append(
                {"rate": rate, "seed": seed, "bound": bound, "bound_stderr": stderr} | samples,
            )
    return found


def _place(folder: Path, objective: str, rate: float, seed: int) -> Path:
    return folder / f"{objective}-{rate:g}-{seed}"


def needed_evaluations(steps: int, cells: int = BOX.cells) -> float:
    """Of so many steps of discretised time, those in which any of the cells is revealed, on average."""
    return steps * (1 - (1 - 1 / steps) ** cells)


EXPERIMENT = Experiment(
    question="What is left to decide where a masked diffusion model does not see the time?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
