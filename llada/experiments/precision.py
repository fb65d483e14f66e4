"""Noise of few bits is a lower temperature: Gumbel-max draws against the law that they follow (arXiv:2409.02908).

The largest noise that b bits can make is -log(-log(1 - 2^-b)), so that tokens far below the likeliest one can never
win. Where [MASK] competes with the tokens, as in time-discretised sampling, more steps cut off more of them: steps then
seem to improve the text, which is only colder.

Two laws enclose that of b bits: of noise that is drawn again where it is above the largest, which is too cold, and of
noise that is cut to it, which is too warm. Numbers on a grid have the probability 2^-b of the largest from the second
and their steps from neither; with few bits both laws are told apart from the draws.

Shapes: V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table
from torch import Tensor

from llada.config import AtLeast1, Schema
from llada.eval.intervals import Z
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.sampling.drafts import inverse_cdf

_AT_ONCE = 2**24  # random numbers in memory
_FLOAT32 = 24  # bits of its uniform numbers
HOTTEST = 4.0  # temperature that draws are compared with


class Settings(Schema):
    """What is drawn from: token i of `vocabulary` with probability proportional to i^-exponent."""

    vocabulary: int = Field(default=8192, ge=2)
    exponent: float = Field(default=1.2, gt=0)
    bits: list[Annotated[int, Field(ge=1, le=24)]] = Field(min_length=1)
    draws: int = Field(default=20_000, ge=2)
    steps: list[AtLeast1] = Field(min_length=1)
    canvas_draws: int = Field(default=200_000, ge=2)  # for each number of steps
    seed: int = 0

    @model_validator(mode="after")
    def _reveals_enough(self) -> Self:
        if self.canvas_draws < 20 * max(self.steps):
            raise ValueError(
                f"canvas_draws={self.canvas_draws} reveals about {self.canvas_draws / max(self.steps):.0f} tokens in "
                f"{max(self.steps)} steps; give 20 times the steps at least"
            )
        return self


def zipf(vocabulary: int, exponent: float) -> Tensor:
    """Probabilities proportional to rank^-exponent, float64 (V,)."""
    p = torch.arange(1, vocabulary + 1, dtype=torch.float64) ** -exponent
    return p / p.sum()


def truncated_law(p: Tensor, bits: int) -> Tensor:
    """Probabilities with which tokens win under noise that is below the largest, float64 (V,).

    With b = 1 - 2^-bits, p ascending, S_k the sum of p from the k-th on and n tokens, token i wins with the sum over
    k <= i of p_i / S_k b^-(n-k+1) [b^(S_k / p_k) - b^(S_k / p_{k-1})], the last term 0 for k = 1.
    """
    ascending, order = p.double().sort()
    return torch.empty_like(ascending).scatter_(0, order, _below_the_largest(ascending, bits, again=True))


def clamped_law(p: Tensor, bits: int) -> Tensor:
    """The same under noise that is the largest with probability 2^-bits; of tokens that have it the likeliest wins.

    Token i wins with the sum above without the factor b^-(n-k+1), and with 2^-bits b^(S_{i+1} / p_i).
    """
    ascending, order = p.double().sort()
    larger = torch.cat((_from_here_on(ascending)[1:], torch.zeros(1)))
    largest = 2.0**-bits * (_log_b(bits) * larger / ascending).exp()
    law = _below_the_largest(ascending, bits, again=False) + largest
    return torch.empty_like(ascending).scatter_(0, order, law)


def _below_the_largest(ascending: Tensor, bits: int, *, again: bool) -> Tensor:
    remaining, log_b = _from_here_on(ascending), _log_b(bits)
    count = torch.arange(len(ascending), 0, -1, dtype=torch.float64) * again
    upper = (log_b * (remaining / ascending - count)).exp()
    lower = (log_b * (remaining[1:] / ascending[:-1] - count[1:])).exp()
    return ascending * ((upper - torch.cat((torch.zeros(1), lower))) / remaining).cumsum(0)


def _from_here_on(ascending: Tensor) -> Tensor:
    return ascending.flip(0).cumsum(0).flip(0)


def _log_b(bits: int) -> float:
    return math.log1p(-(2.0**-bits))


def gumbel_draws(p: Tensor, bits: int, draws: int, seed: int) -> Tensor:
    """So many winners of log p + noise of that many bits, int64 (draws,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = p.log().float()
    winners = []
    for start in range(0, draws, rows := max(1, _AT_ONCE // len(p))):
        shape = (min(rows, draws - start), len(p))
        uniform = torch.randint(2**bits, shape, generator=generator, dtype=torch.int32).float() * 2.0**-bits
        winners.append((logits - uniform.log_().neg_().log_()).argmax(dim=1))
    return torch.cat(winners)


def surprisal_of_temperature(p: Tensor, temperature: float) -> float:
    """The mean of -log p over draws from softmax(log p / temperature), in nats."""
    return float(-((p.log() / temperature).softmax(dim=0) * p.log()).sum())


def effective_temperature(p: Tensor, surprisal: float) -> float | None:
    """The temperature that has this surprisal; 0: the likeliest token has as much; None: that of `HOTTEST` has less."""
    low, high = 0.0, HOTTEST
    if surprisal_of_temperature(p, high) < surprisal:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if surprisal_of_temperature(p, middle) < surprisal else (low, middle)
    return high if high > 1e-3 else 0.0


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Surprisal -log p of drawn tokens by bits, and of those that a time-discretised step reveals, by steps."""
    p = zipf(settings.vocabulary, settings.exponent)
    surprisal = -p.log()
    by_bits = []
    for bits in settings.bits:
        drawn = surprisal[gumbel_draws(p, bits, settings.draws, settings.seed)]
        mean = float(drawn.mean())
        by_bits.append(
            {
                "bits": bits,
                "surprisal": mean,
                "stderr": float(drawn.std() / math.sqrt(len(drawn))),
                "temperature": effective_temperature(p, mean),
                "laws": [float((law(p, bits) * surprisal).sum()) for law in LAWS.values()],
            }
        )
    generator = torch.Generator().manual_seed(settings.seed)
    uniforms = torch.rand(settings.draws, generator=generator, dtype=torch.float64).clamp(min=2.0**-54)
    ours = torch.cat([surprisal[inverse_cdf(p.log().expand(len(u), -1), u)] for u in uniforms.split(256)])
    return {
        "entropy": float((p * surprisal).sum()),
        "ours": {"surprisal": float(ours.mean()), "stderr": float(ours.std() / math.sqrt(len(ours)))},
        "bits": by_bits,
        "steps": [_revealed(p, steps, settings.canvas_draws, settings.seed) for steps in settings.steps],
        "steps_by_law": [_revealed_by_law(p, round(10 ** (power / 4))) for power in range(21)],
    }


def _competing(p: Tensor, steps: int) -> Tensor:
    """The first step of so many: every token with 1 / steps of its probability, [MASK] at the end with the rest."""
    return torch.cat((p / steps, torch.tensor([1 - 1 / steps], dtype=p.dtype))) if steps > 1 else p


def _revealed_by_law(p: Tensor, steps: int) -> dict[str, Any]:
    won = [law(_competing(p, steps), _FLOAT32)[: len(p)] for law in LAWS.values()]
    return {
        "steps": steps,
        "revealed": [float(law.sum()) * steps for law in won],  # of what should be, 1 / steps
        "surprisal": [float(-(law * p.log()).sum() / law.sum()) for law in won],
    }


def _revealed(p: Tensor, steps: int, draws: int, seed: int) -> dict[str, float]:
    winners = gumbel_draws(_competing(p, steps), _FLOAT32, draws, seed)
    surprisal = -p.log()[winners[winners < len(p)]]
    share = len(surprisal) / draws
    return {
        "steps": steps,
        "revealed": share * steps,
        "revealed_stderr": math.sqrt(share * (1 - share) / draws) * steps,
        "surprisal": float(surprisal.mean()),
        "surprisal_stderr": float(surprisal.std() / math.sqrt(len(surprisal))),
    }


def table(measured: Mapping[str, Any]) -> Table:
    """Surprisal by bits, and what is revealed by steps."""
    shown = Table(
        "", "surprisal, nats", *(f"law, noise {name}" for name in LAWS), "as temperature", "revealed / expected"
    )
    entropy = f"{measured['entropy']:.3f}"
    for one in measured["bits"]:
        shown.add_row(
            f"Gumbel-max, {one['bits']} bits",
            f"{one['surprisal']:.3f} ± {one['stderr']:.3f}",
            *(f"{law:.3f}" for law in one["laws"]),
            _degrees(one["temperature"], ".3f"),
        )
    ours = measured["ours"]
    shown.add_row("float64, as here", f"{ours['surprisal']:.3f} ± {ours['stderr']:.3f}", entropy, entropy, "1")
    for one in measured["steps"]:
        law = next((law for law in measured["steps_by_law"] if law["steps"] == one["steps"]), {"surprisal": ["", ""]})
        shown.add_row(
            f"[MASK] competes, 24 bits, {one['steps']} steps",
            f"{one['surprisal']:.3f} ± {one['surprisal_stderr']:.3f}",
            *(f"{value:.3f}" if value else "" for value in law["surprisal"]),
            "",
            f"{one['revealed']:.3f} ± {one['revealed_stderr']:.3f}",
        )
    return shown


def _degrees(temperature: float | None, how: str) -> str:
    return f"over {HOTTEST:g}" if temperature is None else f"{temperature:{how}}"


def finding(measured: Mapping[str, Any]) -> str:
    """What came out, with two standard errors."""
    last, ours = measured["steps"][-1], measured["ours"]
    told = [
        f"{one['bits']} bits{_FORMATS.get(one['bits'], '')} {_degrees(one['temperature'], '.2f')}"
        for one in measured["bits"]
    ]
    return (
        "What Gumbel-max draws with uniform numbers of few bits is on average as likely as at these temperatures: "
        f"{', '.join(told)}. {_nearness(measured['bits'])}Where [MASK] competes, the first of {last['steps']} steps in "
        f"float32 reveals {last['revealed']:.2f} ± {2 * last['revealed_stderr']:.2f} of the tokens that it should, of "
        f"{last['surprisal']:.2f} ± {2 * last['surprisal_stderr']:.2f} nats instead of {measured['entropy']:.2f}; "
        f"float64 draws, as in this library, have {ours['surprisal']:.2f} ± {2 * ours['stderr']:.2f}."
    )


def _nearness(bits: Sequence[Mapping[str, Any]]) -> str:
    """How far draws are from both laws; nothing where all draws are of one token, and so without an error."""
    spread = [one for one in bits if one["stderr"] > 0]
    if not spread:
        return ""
    beside = [
        (sign * max(sign * (one["surprisal"] - one["laws"][number]) / one["stderr"] for one in spread), name)
        for number, (name, sign) in enumerate(zip(LAWS, (1, -1), strict=True))
    ]
    told = [f"{errors:+.0f} standard errors from that of noise {name}" for errors, name in beside]
    return f"Both laws are only near: the draws are by up to {' and '.join(told)}. "


def draw(measured: Mapping[str, Any]) -> Figure:
    """Surprisal against bits; share and surprisal of revealed tokens against steps. Intervals are of 95 %."""
    figure, (left, middle, right) = panels(3, width=4.4)
    rows, ours = measured["bits"], measured["ours"]
    bits = [one["bits"] for one in rows]
    for number, name in enumerate(LAWS):
        left.plot(bits, [one["laws"][number] for one in rows], color=COLOURS[number], label=f"law, noise {name}")
    errors = [Z * one["stderr"] for one in rows]
    left.errorbar(bits, [one["surprisal"] for one in rows], errors, fmt="o", color=COLOURS[6], label="Gumbel-max draws")
    left.errorbar([53], [ours["surprisal"]], [Z * ours["stderr"]], fmt="s", color=COLOURS[2], label="llada, float64")
    left.axhline(measured["entropy"], color="0.4", linestyle="--", linewidth=1, label="exact: the entropy")
    left.set(
        xlabel="bits of the uniform numbers",
        ylabel="mean of -log p of a drawn token, nats",
        title="One draw (bars: 95 %)",
    )
    for axis, key, label, exact in (
        (middle, "revealed", "revealed tokens / expected", 1.0),
        (right, "surprisal", "mean of -log p of a revealed token, nats", measured["entropy"]),
    ):
        laws, found = measured["steps_by_law"], measured["steps"]
        for number, name in enumerate(LAWS):
            axis.plot(
                [one["steps"] for one in laws],
                [one[key][number] for one in laws],
                color=COLOURS[number],
                label=f"law, noise {name}",
            )
        errors = [Z * one[f"{key}_stderr"] for one in found]
        steps = [one["steps"] for one in found]
        axis.errorbar(steps, [one[key] for one in found], errors, fmt="o", color=COLOURS[6], label="Gumbel-max draws")
        axis.axhline(exact, color="0.4", linestyle="--", linewidth=1, label="exact")
        axis.set(
            xscale="log",
            xlabel="steps of the sampler",
            ylabel=label,
            title="[MASK] competes in the first step, 24 bits",
        )
    left.legend(loc="lower right")
    middle.legend(loc="lower left")
    right.legend(loc="lower left")
    return figure


_FORMATS = {8: " (bfloat16)", 11: " (float16)", 24: " (float32)"}
LAWS = {"redrawn": truncated_law, "clamped": clamped_law}

EXPERIMENT = Experiment(
    question="How much colder is text that was drawn with noise of few bits?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
