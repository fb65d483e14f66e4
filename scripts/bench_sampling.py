"""How fast generation is, beside the published algorithm written plainly and beside an autoregressive model.

    python scripts/bench_sampling.py [--vocab 32000 126464] [--new 64 128] [--device cuda] [--repeats 5]

All rows of a table are measured in turn, on the same random weights and the same prompt; the time is that of the
fastest of some repeats. A ratio is the plain algorithm's time over the row's; extra memory is the peak above what the
model takes. Agreement is the share of generated tokens that are those of the exact sampler at the same temperature.
Prompt, padding and what follows the end of a text are not counted as generated.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from bench import MASK, causal_model, masked_model, side_by_side
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import GenerationConfig

import llada

PROMPT, BLOCK = 64, 32
OURS = {
    "exact": {},
    "cache: prefix": {"cache": "prefix"},
    "cache: dual": {"cache": "dual"},
    "cache: delayed": {"cache": "delayed"},
    "threshold": {"reveal": "threshold", "order": "max_probability"},
    "threshold, cache: dual": {"reveal": "threshold", "order": "max_probability", "cache": "dual"},
}


class Generated(NamedTuple):
    """What a way to sample gave."""

    tokens: Tensor  # (B, new)
    forward_passes: int
    query_tokens: int


@torch.no_grad()
def published(model: Any, prompt: Tensor, new: int, temperature: float) -> Generated:
    """Low-confidence remasking in blocks as it is written everywhere: all logits of the canvas, float64 over all.

    Gumbel noise is exp(logits) / (-log u)^temperature, confidence the float64 softmax of everything, and each row's
    tokens are chosen by a top-k of its own. One token per step.
    """
    canvas = torch.cat((prompt, prompt.new_full((len(prompt), new), MASK)), dim=1)
    for start in range(prompt.shape[1], canvas.shape[1], BLOCK):
        for _ in range(BLOCK):
            masked = canvas == MASK
            logits = model(canvas).logits
            noisy = logits
            if temperature > 0:
                noise = torch.rand_like(logits, dtype=torch.float64)
                noisy = logits.double().exp() / (-noise.log()) ** temperature
            draft = noisy.argmax(dim=-1)
            p = logits.double().softmax(dim=-1).gather(-1, draft[..., None])[..., 0]
            p[:, start + BLOCK :] = -torch.inf
            p = torch.where(masked, p, -torch.inf)
            for row in range(len(canvas)):
                chosen = p[row].topk(1).indices
                canvas[row, chosen] = draft[row, chosen]
    return Generated(canvas[:, prompt.shape[1] :], new, new * canvas.shape[1])


def ours(model: Any, prompt: Tensor, new: int, temperature: float, **fields: Any) -> Generated:
    """`llada.generate` with one token per step, or by a threshold."""
    sampler = llada.SamplerConfig(gen_length=new, block_length=BLOCK, temperature=temperature, **fields)
    out = llada.generate(model, prompt, sampler=sampler)
    return Generated(out.sequences[:, prompt.shape[1] :], int(out.forward_passes.max()), int(out.query_tokens.sum()))


def autoregressive(model: Any, prompt: Tensor, new: int, temperature: float) -> Generated:
    """transformers' generate of a Llama of the same size, with its KV cache."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    settings = GenerationConfig(max_new_tokens=new, min_new_tokens=new, pad_token_id=0, **sampling)
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return Generated(tokens[:, prompt.shape[1] :], new, prompt.shape[1] + new - 1)


def table(vocabulary: int, new: int, temperature: float, options: argparse.Namespace, models: tuple[Any, Any]) -> Table:
    """All samplers at one vocabulary, length and temperature."""
    masked, causal = models
    prompt = torch.randint(4, vocabulary, (options.batch, PROMPT), generator=torch.Generator().manual_seed(1))
    prompt = prompt.to(options.device)
    # a threshold that random weights reach now and then: what matters here is its cost
    with torch.no_grad():
        everything = masked(prompt[:1]).logits
    bound = float(everything.softmax(dim=-1).amax(dim=-1).quantile(0.6))

    def row(name: str) -> Callable[[], Generated]:
        fields = {"threshold": bound} if name.startswith("threshold") else {}
        return lambda: ours(masked, prompt, new, temperature, **OURS[name], **fields)

    rows = {"published, plainly": lambda: published(masked, prompt, new, temperature)}
    rows |= {name: row(name) for name in OURS}
    rows |= {"autoregressive, KV cache": lambda: autoregressive(causal, prompt, new, temperature)}
    measured = side_by_side(rows, options.repeats, options.device)
    plain, exact = measured["published, plainly"], measured["exact"]
    title = f"vocabulary {vocabulary}, {new} new tokens, temperature {temperature:g}, batch {options.batch}"
    shown = Table(title=title)
    for column in ("", "s", "ratio", "extra MiB", "passes", "queries", "tokens/pass", "agreement"):
        shown.add_column(column, justify="right" if column else "left")
    for name, one in measured.items():
        reference = exact if temperature or name != "exact" else plain
        agreement = float((one.result.tokens == reference.result.tokens).double().mean())
        comparable = name in OURS and not (temperature and name == "exact")
        shown.add_row(
            name,
            f"{one.seconds:.2f}",
            f"{plain.seconds / one.seconds:.2f}",
            "" if one.memory is None else f"{one.memory:.0f}",
            str(one.result.forward_passes),
            str(one.result.query_tokens),
            f"{new / one.result.forward_passes:.2f}",
            f"{agreement:.0%}" if comparable else "",
        )
    return shown


def main() -> None:
    """Print one table for each vocabulary, length and temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32000, 126464])
    parser.add_argument("--new", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    console = Console(width=120)
    console.print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, float32")
    for vocabulary in options.vocab:
        models = masked_model(vocabulary, options.device).eval(), causal_model(vocabulary, options.device).eval()
        for new in options.new:
            for temperature in options.temperature:
                console.print(table(vocabulary, new, temperature, options, models))


if __name__ == "__main__":
    main()
