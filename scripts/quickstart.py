"""What the quickstart prints at its end: how well the models do, and what they write.

python scripts/quickstart.py runs/quickstart
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import llada
from llada.data.chat import decode_response, encode_prompt
from llada.data.tokenizer import encode
from llada.data.tokens import TokenRows
from llada.eval.answers import answer, exact_match
from llada.eval.ngram import bigram_cross_entropy, unigram_cross_entropy
from llada.train.journal import read_log

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen

QUESTION = "Count the words: lemon tiger river"
SAMPLERS = {"random": {}, "low_confidence": {}, "semi_autoregressive": {"block_length": 4}}
LENGTH = 16  # tokens of an answer
QUESTIONS = 200  # per family


def main() -> None:
    folder = Path(sys.argv[1])
    console = Console(width=100, record=True)
    torch.set_flush_denormal(True)
    base, tokenizer = llada.load_pretrained(folder / "pretrain" / "model")
    chat, _ = llada.load_pretrained(folder / "sft" / "model")
    show_bound(console, folder)
    show_accuracy(console, folder, chat, tokenizer)
    show_samplers(console, chat, tokenizer)
    show_infilling(console, base, tokenizer)
    picture = folder / "loss.png"
    draw_losses(folder, picture)
    console.print(f"\nloss curves: {picture}\ncheckpoint:  {folder / 'sft' / 'model'}")
    console.save_svg(str(folder / "report.svg"), title="bash scripts/quickstart.sh")


def show_bound(console: Console, folder: Path) -> None:
    """The held-out bound beside what models with no and with one token of context reach on the same text."""
    record = read_log(folder / "pretrain")[-1]
    train, heldout = (TokenRows(folder / "data" / split, 128) for split in ("train", "heldout"))
    seen, unseen = (np.concatenate([rows[i]["x0"] for i in range(len(rows))]) for rows in (train, heldout))
    vocab = train.index.vocab_size
    per_bit = heldout.index.tokens / heldout.index.text_bytes / np.log(2)
    table = Table("held-out text", "nats per token", "bits per byte", title="Pretraining")
    bound, stderr = record["bound"], record["bound_stderr"]
    rows = [
        ("unigram entropy", unigram_cross_entropy(seen, unseen, vocab), ""),
        ("bigram entropy", bigram_cross_entropy(seen, unseen, vocab), ""),
        ("LLaDA, upper bound", bound, f" ± {stderr:.3f}"),
    ]
    for name, value, error in rows:
        table.add_row(name, f"{value:.3f}{error}", f"{value * per_bit:.3f}")
    console.print(table)


def show_accuracy(console: Console, folder: Path, model, tokenizer) -> None:
    """Exact match on held-out instructions, by family."""
    lines = (folder / "instructions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    families = defaultdict(list)
    for row in map(json.loads, lines):
        if len(families[row["family"]]) < QUESTIONS:
            families[row["family"]].append(row["messages"])
    sampler = llada.SamplerConfig.named("low_confidence", gen_length=LENGTH, steps=LENGTH // 2, stop_at_eos=True)
    table = Table(
        "family", "exact match", "example", "answer", title=f"Held-out instructions, {QUESTIONS} of each family"
    )
    for family, conversations in sorted(families.items()):
        replies = answer(model, tokenizer, [messages[:-1] for messages in conversations], sampler)
        expected = [messages[-1]["content"] for messages in conversations]
        score = exact_match([reply.text for reply in replies], expected)
        error = (score * (1 - score) / len(expected)) ** 0.5
        table.add_row(family, f"{score:.1%} ± {error:.1%}", conversations[0][0]["content"], replies[0].text)
    console.print(table)


def show_samplers(console: Console, model, tokenizer) -> None:
    """One question, answered by each sampler."""
    prompt = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": QUESTION}])])
    table = Table("sampler", "forward passes", "answer", title=QUESTION)
    for name, settings in SAMPLERS.items():
        sampler = llada.SamplerConfig.named(name, gen_length=LENGTH, steps=LENGTH // 2, **settings)
        out = llada.generate(model, prompt, sampler=sampler)
        text = decode_response(tokenizer, out.sequences[0, prompt.shape[1] :].tolist())
        table.add_row(name, str(int(out.forward_passes)), text)
    console.print(table)


def show_infilling(console: Console, model, tokenizer) -> None:
    """A gap in the middle of a sentence, which no left-to-right model fills."""
    before, after = encode(tokenizer, "Return the "), encode(tokenizer, " of the array along the given axis.")
    canvas = torch.tensor([[*before, *[model.config.mask_token_id] * 6, *after]])
    filled = llada.infill(model, canvas).sequences[0, len(before) : len(before) + 6]
    console.print(
        f"\n[bold]Infilling[/]  Return the [reverse]{tokenizer.decode(filled)}[/] of the array along the given axis."
    )


def draw_losses(folder: Path, picture: Path) -> None:
    """Training loss and held-out bound of both stages over time."""
    titles = {"pretrain": "pretraining", "sft": "fine-tuning (loss with, bound without EOS padding)"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, stage in zip(axes, ("pretrain", "sft"), strict=True):
        records = read_log(folder / stage)
        minutes = [record["elapsed"] / 60 for record in records]
        losses = np.array([record["loss"] for record in records])
        width = max(1, len(losses) // 40)
        smooth = np.convolve(np.pad(losses, (width - 1, 0), mode="edge"), np.ones(width) / width, mode="valid")
        axis.plot(minutes, losses, color="0.85", linewidth=0.8, label="loss of a step")
        axis.plot(minutes, smooth, color="tab:blue", label=f"mean of {width} steps")
        measured = [record for record in records if "bound" in record]
        axis.errorbar(
            [record["elapsed"] / 60 for record in measured],
            [record["bound"] for record in measured],
            yerr=[2 * record["bound_stderr"] for record in measured],
            fmt="o",
            color="tab:red",
            label="held-out bound ± 2 s.e.",
        )
        highest = max([losses[len(losses) // 10 :].max(), *(r["bound"] + 2 * r["bound_stderr"] for r in measured)])
        axis.set(title=titles[stage], xlabel="minutes", ylabel="nats per token", ylim=(0, 1.4 * highest))
        axis.legend()
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    main()
