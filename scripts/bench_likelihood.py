"""How many network evaluations a likelihood takes, beside the published estimators at the same number.

    python scripts/bench_likelihood.py [--model runs/quickstart/sft/model] [--length 32] [--repeats 400]

Each estimator scores the same answers many times with other seeds. Its error is the root mean square distance from the
bound itself, which holds what it is biased by; the bound is enumerated, or for long answers estimated with many times
the evaluations. The bias is a mean over the answers, with two standard errors. The stated error is the standard error
that comes with an estimate, as a root mean square, too.
Evaluations for an equal error: error² x evaluations, as a ratio to ours.
"""

import argparse
import math
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import llada
from llada.estimate import Estimate
from llada.eval.likelihood import Estimator, Masks, exact_count, log_likelihood, log_likelihoods, one_over_t
from llada.eval.scoring import Request, request_of
from llada.train.objective import forward_process


def rounded_counts(length: int, samples: int, generator: torch.Generator) -> Masks:
    """The published estimator: numbers of masks on a grid that is rounded to whole numbers, half to even.

    Rounding makes some numbers likelier than others wherever the grid's step is no whole number, which biases it.
    """
    start = int(torch.randint(1, length + 1, (), generator=generator))
    grid = torch.linspace(start, start + (samples - 1) * (length / samples), samples).round().long()
    counts = ((grid - 1) % length + 1).sort().values
    uniforms = torch.rand(samples, length, generator=generator, dtype=torch.float64)
    masked = forward_process(torch.zeros(samples, length, dtype=torch.long), 1, counts=counts, uniforms=uniforms).masked
    return Masks(masked, length / counts.double())


def independent_times(length: int, samples: int, generator: torch.Generator) -> Masks:
    """`one_over_t` as it is trained with: each t drawn by itself."""
    t = torch.rand(samples, generator=generator, dtype=torch.float64).clamp(min=1e-3).sort().values
    return Masks(torch.rand(samples, length, generator=generator, dtype=torch.float64) < t[:, None], 1 / t)


ESTIMATORS = {
    "ours: exact_count": exact_count,
    "published: rounded counts": rounded_counts,
    "1/t, stratified": one_over_t,
    "1/t, independent": independent_times,
}


def estimates(
    model: llada.LLaDAForMaskedLM, requests: Sequence[Request], estimator: Estimator, samples: int, seeds: int
) -> Tensor:
    """Values and standard errors of each request, (2, requests, seeds)."""
    found: list[list[Estimate]] = [
        list(log_likelihoods(model, requests, samples, seed, estimator=estimator, batch_size=256))
        for seed in range(seeds)
    ]
    numbers = [[(one.value, one.stderr) for one in of_seed] for of_seed in found]
    return torch.tensor(numbers, dtype=torch.float64).permute(2, 1, 0)


def main() -> None:
    """Print one table for each number of evaluations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/quickstart/pretrain/model")
    parser.add_argument("--text", default="Return the number of elements that are equal to the given value.")
    parser.add_argument("--length", type=int, default=12, help="tokens of an answer; up to 14 the bound is enumerated")
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=400, help="seeds")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    model, tokenizer = llada.load_pretrained(options.model)
    if tokenizer is None:
        raise SystemExit(f"{options.model} has no tokenizer")
    tokens = tokenizer.encode(options.text, add_special_tokens=False)
    n = options.length
    requests = [request_of(tokens[:start], tokens[start : start + n]) for start in range(0, len(tokens) - n + 1, n)][:4]
    if not requests:
        raise SystemExit(f"--text has {len(tokens)} tokens, fewer than --length {n}")
    enumerable = n <= 14
    truth = torch.tensor(
        [log_likelihood(model, *one, 2**n - 1 if enumerable else 2**14, batch_size=256).value for one in requests]
    )
    console = Console(width=110)
    kind = "enumerated" if enumerable else "estimated with 16384 evaluations"
    console.print(
        f"{len(requests)} answers of {n} tokens, {options.repeats} seeds; the bound is {kind}: {truth.tolist()}"
    )
    for samples in options.samples:
        table = Table("estimator", "error, nats", "bias, nats", "stated error", "evaluations for equal error")
        table.title = f"{samples} evaluations"
        ours = None
        for name, estimator in ESTIMATORS.items():
            values, stated = estimates(model, requests, estimator, samples, options.repeats)
            error = float((values - truth[:, None]).square().mean().sqrt())
            bias = values.mean(dim=1) - truth
            spread = values.std(dim=1) / math.sqrt(options.repeats)
            ours = error if ours is None else ours
            deviation = 2 * float(spread.square().sum().sqrt()) / len(requests)
            table.add_row(
                name,
                f"{error:.3f}",
                f"{float(bias.mean()):+.3f} ± {deviation:.3f}",
                f"{float(stated.square().mean().sqrt()):.3f}",
                f"{(error / ours) ** 2:.2f}",
            )
        console.print(table)


if __name__ == "__main__":
    main()
