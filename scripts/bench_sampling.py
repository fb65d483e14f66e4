"""How fast generation is, beside the published algorithm written plainly and beside an autoregressive model.

    python scripts/bench_sampling.py [--vocab 32000 126464] [--new 64 128] [--device cuda] [--repeats 3]

All rows of a table are measured in one run, on the same random weights and the same prompt. A ratio is the plain
algorithm's time over the row's; extra memory is the peak above what the model takes. Agreement is the share of
generated tokens that are those of the exact sampler at the same temperature. Prompt, padding and what follows the end
of a text are not counted as generated.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import memory
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import llada

PROMPT, BLOCK, MASK, EOS = 64, 32, 3, 1
WIDTH, LAYERS, HEADS, FEED_FORWARD = 512, 8, 8, 1408
OURS = {
    "exact": {},
    "cache: prefix": {"cache": "prefix"},
    "cache: dual": {"cache": "dual"},
    "cache: delayed": {"cache": "delayed"},
    "threshold": {"reveal": "threshold", "order": "max_probability"},
    "threshold, cache: dual": {"reveal": "threshold", "order": "max_probability", "cache": "dual"},
}


@dataclass(frozen=True)
class Measured:
    """One row of a table."""

    tokens: Tensor  # (B, new)
    seconds: float
    memory: float | None  # MiB above the model; None where the system does not tell
    forward_passes: int
    query_tokens: int


@torch.no_grad()
def published(model: Any, prompt: Tensor, new: int, temperature: float) -> tuple[Tensor, int, int]:
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
    return canvas[:, prompt.shape[1] :], new, new * canvas.shape[1]


def ours(model: Any, prompt: Tensor, new: int, temperature: float, **fields: Any) -> tuple[Tensor, int, int]:
    """`llada.generate` with one token per step, or by a threshold."""
    sampler = llada.SamplerConfig(gen_length=new, block_length=BLOCK, temperature=temperature, **fields)
    out = llada.generate(model, prompt, sampler=sampler)
    return out.sequences[:, prompt.shape[1] :], int(out.forward_passes.max()), int(out.query_tokens.sum())


def autoregressive(model: Any, prompt: Tensor, new: int, temperature: float) -> tuple[Tensor, int, int]:
    """transformers' generate of a Llama of the same size, with its KV cache."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    settings = GenerationConfig(max_new_tokens=new, min_new_tokens=new, pad_token_id=0, **sampling)
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return tokens[:, prompt.shape[1] :], new, prompt.shape[1] + new - 1


def measure(run: Callable[[], tuple[Tensor, int, int]], device: str, repeats: int) -> Measured:
    """The fastest of some runs after one to warm up, and the peak of memory."""
    run()
    base = memory.start(device)
    seconds = []
    result = None
    for _ in range(repeats):
        begun = time.perf_counter()
        result = run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    assert result is not None  # repeats >= 1
    tokens, passes, queries = result
    return Measured(tokens.cpu(), min(seconds), memory.peak(device, base), passes, queries)


def build(vocabulary: int, device: str) -> tuple[Any, Any]:
    """A LLaDA and a Llama of the same sizes, with random weights."""
    torch.manual_seed(0)
    masked = llada.LLaDAForMaskedLM(
        llada.LLaDAConfig(
            d_model=WIDTH,
            n_layers=LAYERS,
            n_heads=HEADS,
            mlp_hidden_size=FEED_FORWARD,
            vocab_size=vocabulary,
            mask_token_id=MASK,
            eos_token_id=EOS,
            max_sequence_length=1024,
        )
    )
    causal = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=FEED_FORWARD,
            vocab_size=vocabulary,
            tie_word_embeddings=False,
        )
    )
    return tuple(model.eval().to(torch.device(device)) for model in (masked, causal))  # pyright: ignore


def table(vocabulary: int, new: int, temperature: float, options: argparse.Namespace, models: tuple[Any, Any]) -> Table:
    """All samplers at one vocabulary, length and temperature."""
    masked, causal = models
    prompt = torch.randint(4, vocabulary, (options.batch, PROMPT), generator=torch.Generator().manual_seed(1))
    prompt = prompt.to(options.device)
    # a threshold that random weights reach now and then: what matters here is its cost
    with torch.no_grad():
        everything = masked(prompt[:1]).logits
    bound = float(everything.softmax(dim=-1).amax(dim=-1).quantile(0.6))

    def row(name: str) -> Callable[[], tuple[Tensor, int, int]]:
        fields = {"threshold": bound} if name.startswith("threshold") else {}
        return lambda: ours(masked, prompt, new, temperature, **OURS[name], **fields)

    rows = {"published, plainly": lambda: published(masked, prompt, new, temperature)}
    rows |= {name: row(name) for name in OURS}
    rows |= {"autoregressive, KV cache": lambda: autoregressive(causal, prompt, new, temperature)}
    measured = {name: measure(run, options.device, options.repeats) for name, run in rows.items()}
    plain, exact = measured["published, plainly"], measured["exact"]
    title = f"vocabulary {vocabulary}, {new} new tokens, temperature {temperature:g}, batch {options.batch}"
    shown = Table(title=title)
    for column in ("", "s", "ratio", "extra MiB", "passes", "queries", "tokens/pass", "agreement"):
        shown.add_column(column, justify="right" if column else "left")
    for name, one in measured.items():
        reference = exact if temperature or name != "exact" else plain
        agreement = float((one.tokens == reference.tokens).double().mean())
        comparable = name in OURS and not (temperature and name == "exact")
        shown.add_row(
            name,
            f"{one.seconds:.2f}",
            f"{plain.seconds / one.seconds:.2f}",
            "" if one.memory is None else f"{one.memory:.0f}",
            str(one.forward_passes),
            str(one.query_tokens),
            f"{new / one.forward_passes:.2f}",
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
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    console = Console(width=120)
    console.print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, float32")
    for vocabulary in options.vocab:
        models = build(vocabulary, options.device)
        for new in options.new:
            for temperature in options.temperature:
                console.print(table(vocabulary, new, temperature, options, models))


if __name__ == "__main__":
    main()
