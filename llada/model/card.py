"""The README.md of a model: what it is, what it was trained on, how good it is, and how to sample from it."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

QUESTION = "..."  # stands in the code of the card


class Merger(NamedTuple):
    """Where weights are from that are those of no run."""

    adapter: str
    base: str


class Origin(NamedTuple):
    """How weights came to be, and how good they were found to be."""

    run: Mapping[str, Any] | None  # the configuration of the run, with a merger that of the base; None: not known
    measured: Mapping[str, Any] | None  # the last line of its log; not told with a merger, as it is of other weights
    versions: Mapping[str, str]  # of the packages that wrote them
    merger: Merger | None = None
    rounded: tuple[str, str] | None = None  # dtypes, of the weights that were measured and of these; None: the same


class Use(NamedTuple):
    """How a mask predictor is asked."""

    sampler: Mapping[str, Any]  # the fields that are set
    chat: bool  # it answers questions; false: it continues texts


def model_card(
    name: str,
    *,
    folder: str,
    use: Use | None,
    origin: Origin,
    sizes: Mapping[str, Any],
    parameters: int,
    licence: str | None,
) -> str:
    """Markdown with the header that model hubs read.

    Args:
        folder: what its code loads the model from.
        use: None: it is an autoregressive baseline, which has no sampler.
        licence: of the weights, as the hubs name licences; None: the card says that it is not given.
    """
    masked, merger = use is not None, origin.merger
    header: dict[str, Any] = {"library_name": "llada" if masked else "transformers", "pipeline_tag": "text-generation"}
    header["tags"] = ["masked-diffusion", "llada"] if masked else ["llada-baseline"]
    if licence is not None:
        header["license"] = licence
    kind = "A masked diffusion language model" if masked else "An autoregressive baseline of a masked diffusion model"
    merged = "" if merger is None else f"; the adapter `{merger.adapter}` is merged into `{merger.base}`"
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {name}\n",
        f"{kind} with {parameters:,} parameters{merged}.\n",
        "## Use\n",
        _use_baseline(folder) if use is None else _use(folder, use),
        "## Training\n" if merger is None else f"## Training of `{merger.base}`, before the adapter\n",
        _training(origin.run),
        "## Measured\n",
        _measured(None if merger is not None else origin.measured, origin.rounded, masked=masked),
        "## Sizes\n",
        _block(json.dumps(dict(sizes), indent=1), "json"),
        "## Made with\n",
        "".join(f"* {package} {version}\n" for package, version in origin.versions.items()),
    ]
    if licence is None:
        parts.append("\nNo licence is given for these weights.\n")
    return "\n".join(parts)


def _use(folder: str, use: Use) -> str:
    fields = ", ".join(f"{key}={value!r}" for key, value in use.sampler.items())
    if use.chat:
        needed = "from llada.data.chat import decode_response, encode_prompt"
        ids = f'encode_prompt(tokenizer, [{{"role": "user", "content": "{QUESTION}"}}])'
        text = "decode_response(tokenizer, out.sequences[0, prompt.shape[1]:].tolist())"
    else:
        needed = "from llada.data.tokenizer import encode"
        ids = f'encode(tokenizer, "{QUESTION}")'
        text = "tokenizer.decode(out.sequences[0])"
    return _block(
        f"import llada\nimport torch\n{needed}\n\n"
        f"model, tokenizer = llada.load_pretrained({folder!r})\n"
        f"prompt = torch.tensor([{ids}])\n"
        f"out = llada.generate(model, prompt, sampler=llada.SamplerConfig({fields}))\n"
        f"print({text})",
        "python",
    )


def _use_baseline(folder: str) -> str:
    return _block(
        "from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})\n"
        f"tokenizer = PreTrainedTokenizerFast.from_pretrained({folder!r})\n"
        f'prompt = tokenizer("{QUESTION}", return_tensors="pt", return_token_type_ids=False)\n'
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0]))",
        "python",
    )


def _training(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "How it was trained is not recorded beside it.\n"
    data = run.get("data") or run.get("train")
    steps = f"{run['steps']} steps of {run['batch_size']} rows"
    return (
        f"Data: `{json.dumps(data)}`; {steps}; objective `{run['objective']}`. The whole configuration:\n\n"
        + _block(yaml.safe_dump(dict(run), sort_keys=False).rstrip(), "yaml")
    )


def _measured(measured: Mapping[str, Any] | None, rounded: tuple[str, str] | None, *, masked: bool) -> str:
    if measured is None or "bound" not in measured:
        return "No held-out number is recorded beside it.\n"
    if None in (measured["bound"], measured["bound_stderr"]):  # as the log has what JSON cannot hold
        return "The held-out number that is recorded beside it is not finite.\n"
    kind = "upper bound on the negative log-likelihood" if masked else "negative log-likelihood"
    since = (
        "" if rounded is None else f" Measured with weights in {rounded[0]}, which are rounded to {rounded[1]} here."
    )
    return (
        f"Held-out {kind}: {measured['bound']:.4f} ± {2 * measured['bound_stderr']:.4f} nats per token (two standard "
        f"errors), after {measured['step']} steps and {measured['flops']:.3g} FLOPs (6 N D).{since}\n"
    )


def _block(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```\n"
