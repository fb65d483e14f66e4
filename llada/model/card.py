"""The README.md of a model: what it is, what it was trained on, how good it is, and how to sample from it."""

import json
from collections.abc import Mapping
from typing import Any

import yaml


def model_card(
    name: str,
    *,
    masked: bool,
    sizes: Mapping[str, Any],
    parameters: int,
    run: Mapping[str, Any] | None,
    measured: Mapping[str, Any] | None,
    sampler: Mapping[str, Any],
    versions: Mapping[str, str],
    licence: str | None,
) -> str:
    """Markdown with the header that model hubs read.

    Args:
        run: the configuration of the training run; None: not known.
        measured: the last line of its log, with `bound` and `bound_stderr`.
        licence: of the weights, as the hubs name licences; None: the card says that it is not given.
    """
    header: dict[str, Any] = {"library_name": "llada" if masked else "transformers", "pipeline_tag": "text-generation"}
    header["tags"] = ["masked-diffusion", "llada"] if masked else ["llada-baseline"]
    if licence is not None:
        header["license"] = licence
    kind = "masked diffusion language model" if masked else "autoregressive baseline of a masked diffusion model"
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {name}\n",
        f"A {kind} with {parameters:,} parameters.\n",
        "## Use\n",
        _use(name, sampler) if masked else _use_baseline(name),
        "## Training\n",
        _training(run),
        "## Measured\n",
        _measured(measured, masked=masked),
        "## Sizes\n",
        _block(json.dumps(dict(sizes), indent=1), "json"),
        "## Made with\n",
        "".join(f"* {package} {version}\n" for package, version in versions.items()),
    ]
    if licence is None:
        parts.append("\nNo licence is given for these weights.\n")
    return "\n".join(parts)


def _use(name: str, sampler: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key}={value!r}" for key, value in sampler.items())
    return _block(
        "import llada\nimport torch\nfrom llada.data.chat import decode_response, encode_prompt\n\n"
        f"model, tokenizer = llada.load_pretrained({name!r})\n"
        'prompt = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": "..."}])])\n'
        f"out = llada.generate(model, prompt, sampler=llada.SamplerConfig({fields}))\n"
        "print(decode_response(tokenizer, out.sequences[0, prompt.shape[1]:].tolist()))",
        "python",
    )


def _use_baseline(name: str) -> str:
    return _block(
        f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({name!r})",
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


def _measured(measured: Mapping[str, Any] | None, *, masked: bool) -> str:
    if measured is None or "bound" not in measured:
        return "No held-out number is recorded beside it.\n"
    kind = "upper bound on the negative log-likelihood" if masked else "negative log-likelihood"
    return (
        f"Held-out {kind}: {measured['bound']:.4f} ± {2 * measured['bound_stderr']:.4f} nats per token (two standard "
        f"errors), after {measured['step']} steps and {measured['flops']:.3g} FLOPs (6 N D).\n"
    )


def _block(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```\n"
