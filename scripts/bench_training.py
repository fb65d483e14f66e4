"""How fast training is, beside the published recipe written plainly and beside the machine's matrix products.

    python scripts/bench_training.py [--vocab 4096 126464] [--rows 8] [--length 256] [--device cuda] [--compile]

All rows of a table are measured in turn, on the same batch: masked rows, one optimiser step of AdamW. Plainly means
logits at every position, cross-entropy of all of them, the loss of the masked ones. Extra memory is the peak above
weights, gradients and moments. The share is what the products that this row needs would take at the measured rate of a
large one, over what the step took; the plain recipe's needless logits are not needed by it.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from bench import MASK, masked_model, side_by_side
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llada.train.objectives import Call, Noise, Padded, elbo
from llada.train.optim import adamw


def product_rate(device: str) -> float:
    """Floating-point operations per second of a large product."""
    one, other = (torch.randn(2048, 2048, device=device) for _ in range(2))
    return 2 * 2048**3 / side_by_side({"": lambda: one @ other}, 10, device)[""].seconds


def plainly(model: Any, x0: Tensor, call: Call) -> Tensor:
    """The loss as it is published: all logits, then what is masked of their cross-entropy."""
    logits = model(call.inputs["input_ids"]).logits  # (B, L, V)
    losses = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none")
    weights = call.target_weights(torch.ones_like(call.weights[:, 0]))
    return (losses[call.inputs["logits_at"]] * weights.to(losses.dtype)).sum() / x0.numel()


def ours(model: Any, x0: Tensor, call: Call) -> Tensor:
    """The loss as the training loop asks for it."""
    weights = call.target_weights(torch.ones_like(call.weights[:, 0]))
    return model(**call.inputs, targets=call.targets, target_weights=weights).loss / x0.numel()


def stepping(model: Any, loss: Callable, x0: Tensor, call: Call) -> Callable[[], None]:
    """One step of the optimiser on one batch, again and again."""
    optimizers = adamw(model)

    def step() -> None:
        loss(model, x0, call).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    return step


def table(vocabulary: int, options: argparse.Namespace, rate: float) -> Table:
    """One step by each way to train."""
    model = masked_model(vocabulary, options.device, options.length).train()
    shape = (options.rows, options.length)
    x0 = torch.randint(4, vocabulary, shape)
    whole = torch.ones(shape, dtype=torch.bool)
    t = (torch.arange(options.rows) + 0.5) / options.rows
    call = elbo(Padded(x0, whole, whole, t, torch.rand(shape)), Noise(MASK, 1))
    call = Call(
        {k: v.to(options.device) if isinstance(v, Tensor) else v for k, v in call.inputs.items()},
        *(v.to(options.device) for v in call[1:]),
    )
    x0 = x0.to(options.device)
    body = sum(p.numel() for p in model.model.layers.parameters())
    width, layers = model.config.d_model, model.config.n_layers
    attention = 2 * layers * width * options.length  # products of a token with all keys and values
    needed = 6 * (x0.numel() * (body + attention) + call.targets.numel() * width * vocabulary)
    ways = {"published, plainly": stepping(model, plainly, x0, call), "ours": stepping(deepcopy(model), ours, x0, call)}
    if options.compile:
        compiled = deepcopy(model)
        for block in compiled.model.layers:
            block.compile()
        ways["ours, compiled"] = stepping(compiled, ours, x0, call)
    for step in ways.values():
        step()  # allocates gradients and moments, compiles
    measured = side_by_side(ways, options.repeats, options.device)
    shown = Table(title=f"vocabulary {vocabulary}, {shape[0]} rows of {shape[1]} tokens, {call.targets.numel()} masked")
    for column in ("", "s per step", "tokens/s", "ratio", "extra MiB", "share of products"):
        shown.add_column(column, justify="right" if column else "left")
    for name, one in measured.items():
        shown.add_row(
            name,
            f"{one.seconds:.2f}",
            f"{x0.numel() / one.seconds:.0f}",
            f"{measured['published, plainly'].seconds / one.seconds:.2f}",
            "" if one.memory is None else f"{one.memory:.0f}",
            f"{needed / rate / one.seconds:.0%}",
        )
    return shown


def main() -> None:
    """Print one table for each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[4096, 126464])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="the blocks, too; takes a minute or two at first")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    console = Console(width=110)
    rate = product_rate(options.device)
    threads = torch.get_num_threads()
    console.print(
        f"torch {torch.__version__}, {options.device}, {threads} threads; products at {rate / 1e9:.0f} GFLOP/s"
    )
    for vocabulary in options.vocab:
        console.print(table(vocabulary, options, rate))


if __name__ == "__main__":
    main()
