"""Accuracy beside speed on a task: samplers of a LLaDA, and an autoregressive model of the same size with a KV cache.

    python scripts/bench_task.py LLADA BASELINE TASK [--rows 200] [--batch 1 64] [--repeats 3]

For example, after the quickstart, its baseline and `llada prepare instructions runs/questions --families count_words`:

    python scripts/bench_task.py runs/quickstart/sft/model runs/quickstart/sft_autoregressive/model \\
        runs/questions/test.jsonl

All rows of a table are measured in turn, on the same questions; the time is that of the fastest of some repeats. An
answer is right when it is equal to the expected one, with a 95 % interval (Wilson). Only generated tokens count, up to
and with the end of sequence, neither prompt nor padding. A ratio is tokens per second over those of the autoregressive
model.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from bench import side_by_side
from rich.console import Console
from rich.table import Table

import llada
from llada.eval.answers import Answer, answer, answer_autoregressively
from llada.eval.checks import exact
from llada.eval.intervals import wilson
from llada.eval.task import read_task
from llada.model.baseline import load_autoregressive

SAMPLERS = {
    "one token per step": {},
    "two tokens per step": {"steps": 0.5},  # share of the tokens
    "dual cache": {"cache": "dual"},
    "threshold 0.9": {"reveal": "threshold", "threshold": 0.9},
    "threshold 0.9, dual cache": {"reveal": "threshold", "threshold": 0.9, "cache": "dual"},
}


def sampler_of(fields: dict[str, Any], gen_length: int, block_length: int) -> llada.SamplerConfig:
    """One of `SAMPLERS` for answers of this length."""
    fields = {**fields, "gen_length": gen_length, "block_length": block_length, "stop_at_eos": True}
    if "steps" in fields:
        fields["steps"] = int(gen_length * fields["steps"])
    return llada.SamplerConfig(**fields)


def main() -> None:
    """Print one table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llada")
    parser.add_argument("baseline")
    parser.add_argument("task")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--gen-length", type=int, default=16)
    parser.add_argument("--block-length", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    task = read_task(options.task, rows=options.rows)
    model, tokenizer = llada.load_pretrained(options.llada, device=options.device)
    baseline, its_tokenizer = load_autoregressive(options.baseline)
    baseline.to(torch.device(options.device))  # pyright: ignore[reportArgumentType]
    if tokenizer is None or its_tokenizer is None:
        raise SystemExit("both models need a tokenizer beside them")
    console = Console(width=110)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, baseline)]
    console.print(f"{sizes[0]} and {sizes[1]} parameters, {torch.get_num_threads()} threads on {options.device}")
    for batch_size in options.batch:
        runs: dict[str, Callable[[], list[Answer]]] = {
            "autoregressive, KV cache": lambda size=batch_size: answer_autoregressively(
                baseline, its_tokenizer, task.conversations, options.gen_length, batch_size=size
            )
        }
        for name, fields in SAMPLERS.items():
            sampler = sampler_of(fields, options.gen_length, options.block_length)
            runs[name] = lambda size=batch_size, sampler=sampler: answer(
                model, tokenizer, task.conversations, sampler, batch_size=size
            )
        table = Table("", "right (95 %)", "tokens/s", "ratio", "ms per answer", "passes", "tokens")
        table.title = f"{options.rows} answers of up to {options.gen_length} tokens, batch {batch_size}"
        measured = side_by_side(runs, options.repeats, options.device)
        rates = {name: sum(given.tokens for given in one.result) / one.seconds for name, one in measured.items()}
        for name, one in measured.items():
            answers = one.result
            right = sum(exact(given.text, expected) for given, expected in zip(answers, task.expected, strict=True))
            low, high = wilson(right, len(answers))
            table.add_row(
                name,
                f"{right / len(answers):.1%} ({low:.1%}–{high:.1%})",
                f"{rates[name]:.0f}",
                f"{rates[name] / rates['autoregressive, KV cache']:.2f}",
                f"{1000 * one.seconds / len(answers):.1f}",
                f"{sum(given.forward_passes for given in answers) / len(answers):.2f}",
                f"{sum(given.tokens for given in answers) / len(answers):.2f}",
            )
        console.print(table)


if __name__ == "__main__":
    main()
