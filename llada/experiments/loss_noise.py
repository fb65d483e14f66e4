"""How noisy the loss of a training step is, by the way in which its masks are drawn: in value and in gradient.

Shapes: B rows, L tokens, P parameters, n draws.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from llada.model.modeling import LLaDAForMaskedLM
from llada.train.objective import stratified
from llada.train.objectives import Noise, Padded, cross_entropy, elbo, group_sums, weighted


class Masking(NamedTuple):
    """Times (B,) of a batch, and whether they are probabilities of a mask or shares of masks."""

    times: Callable[[int, torch.Generator], Tensor]
    masking: Literal["bernoulli", "count"]


def _independent(rows: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, generator=generator)


def _stratified(rows: int, generator: torch.Generator) -> Tensor:
    return stratified(torch.rand((), generator=generator), rows)


MASKINGS = {
    "1/t, independent t": Masking(_independent, "bernoulli"),
    "1/t, stratified t": Masking(_stratified, "bernoulli"),
    "exact count, independent": Masking(_independent, "count"),
    "exact count, stratified": Masking(_stratified, "count"),
}


def batch_loss(
    model: LLaDAForMaskedLM, x0: Tensor, maskable: Tensor, drawn: Masking, generator: torch.Generator
) -> Tensor:
    """The negative ELBO of rows (B, L) under fresh masks of what is maskable, bool (B, L), in nats per token."""
    uniforms = torch.rand(x0.shape, generator=generator)
    padded = Padded(x0, maskable, torch.ones_like(maskable), drawn.times(len(x0), generator), uniforms)
    mask = model.config.mask_token_id
    assert mask is not None
    call = elbo(padded, Noise(mask, mask, masking=drawn.masking))  # no row is padded
    losses = cross_entropy(model(**call.inputs).logits, call)
    return weighted(group_sums(losses, call), call).sum() / maskable.sum()


def noise_of(
    model: LLaDAForMaskedLM, x0: Tensor, maskable: Tensor, *, draws: int, gradient_draws: int, seed: int
) -> list[dict[str, Any]]:
    """Mean and variance of the loss of the same rows, and how its gradient varies, for each way to draw masks.

    The model is on the CPU. `trace` is that of the gradient's covariance, `signal` the squared norm of its mean.
    """
    found = []
    for number, (name, drawn) in enumerate(MASKINGS.items()):
        generator = torch.Generator().manual_seed(len(MASKINGS) * seed + number)
        with torch.no_grad():
            losses = torch.stack([batch_loss(model, x0, maskable, drawn, generator) for _ in range(draws)])
        variance, variance_stderr = spread(losses)
        gradients = torch.stack([_gradient(model, x0, maskable, drawn, generator) for _ in range(gradient_draws)])
        trace, trace_stderr, signal = gradient_spread(gradients)
        found.append(
            {
                "masking": name,
                "loss": float(losses.mean()),
                "variance": variance,
                "variance_stderr": variance_stderr,
                "trace": trace,
                "trace_stderr": trace_stderr,
                "signal": signal,
            }
        )
    return found


def spread(values: Tensor) -> tuple[float, float]:
    """The variance of draws (n,) and its standard error, which is too small where tails are heavy."""
    squares = (values.double() - values.double().mean()).square()
    return float(squares.sum() / (len(values) - 1)), float(squares.std() / math.sqrt(len(values)))


def gradient_spread(gradients: Tensor) -> tuple[float, float, float]:
    """Of draws (n, P): the trace of their covariance, its standard error, and the squared norm of their mean.

    The last one is estimated without bias, and so may be negative where there is nothing but noise.
    """
    n, mean = len(gradients), gradients.mean(dim=0)
    squares = (gradients - mean).square().sum(dim=1).double()
    trace = float(squares.sum() / (n - 1))
    return trace, float(squares.std() / math.sqrt(n)), float(mean.double().square().sum()) - trace / n


def relative(noise: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Standard deviations as shares of the first one, with their standard errors; `name` is that of the variance."""
    first, *others = [(one[name], one[f"{name}_stderr"] / one[name]) for one in noise]
    shares = [(math.sqrt(value / first[0]), math.hypot(error, first[1]) / 2) for value, error in others]
    return [(1.0, 0.0), *((share, share * error) for share, error in shares)]  # d sqrt(v) / sqrt(v) = dv / 2v


def _gradient(
    model: LLaDAForMaskedLM, x0: Tensor, maskable: Tensor, drawn: Masking, generator: torch.Generator
) -> Tensor:
    parts = torch.autograd.grad(batch_loss(model, x0, maskable, drawn, generator), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])  # (P,)
