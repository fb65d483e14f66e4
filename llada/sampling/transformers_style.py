"""`model.generate` in the style of transformers' diffusion models, on top of the same loop as `llada.generate`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils.generic import ModelOutput

from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import State
from llada.sampling.generate import collect, generate, generation_states
from llada.sampling.predictors import Meter
from llada.sampling.request import check_tokens
from llada.sampling.streaming import finished_blocks

# Token ids and bookkeeping of a GenerationConfig; the model's own config decides about tokens.
_NOT_SETTINGS = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}


@dataclass
class DiffusionGenerationOutput(ModelOutput):
    """What `generate(..., return_dict_in_generate=True)` returns, with the fields of `llada.Generation`."""

    sequences: Tensor | None = None  # (B, P + new tokens)
    tokens_per_forward: Tensor | None = None  # (B,)
    forward_passes: Tensor | None = None  # (B,)
    query_tokens: Tensor | None = None  # (B,)


@runtime_checkable
class DraftStreamer(Protocol):
    """A streamer of transformers that also shows tokens that may still change."""

    def put_draft(self, value: Tensor) -> None: ...


class DiffusionGenerationMixin:
    """Gives a mask predictor `generate(input_ids, ...)`, so that pipelines and streamers of transformers work."""

    config: Any
    generation_config: GenerationConfig
    __call__: Callable[..., Any]

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Tensor | DiffusionGenerationOutput:
        """Continue the prompts; the sequences (B, P + new tokens), or a DiffusionGenerationOutput on request.

        Args:
            input_ids: prompts (B, P), padded on the left where `attention_mask` is 0.
            generation_config, settings: `max_new_tokens` or `max_length`, `do_sample`, `temperature`,
                `return_dict_in_generate`, and every field of `llada.SamplerConfig`; settings win.
            streamer: gets the prompt, each finished block by `put`, and by `put_draft` (if it has that) the drafted
                block of every step; batches of one only.
            seed: row i's randomness is a function of (seed, i) alone.

        Raises ValueError for settings that have no meaning for a diffusion model, and for a streamer of answers that
        find their own length.
        """
        check_tokens(self, input_ids)
        given: dict[str, Any] = {}
        for source in (_switched_on(self.generation_config), _switched_on(generation_config), settings):
            given |= _with_length(source, input_ids.shape[1])
        as_output = given.pop("return_dict_in_generate", False)
        sampler = _sampler(given)
        if streamer is None:
            generation = generate(self, input_ids, attention_mask, sampler, seed)
        else:
            meter = Meter.of(input_ids)
            states = generation_states(self, input_ids, attention_mask, sampler, seed, meter=meter)
            generation = collect(_streamed(states, input_ids, streamer), self, input_ids, sampler, meter)
        return DiffusionGenerationOutput(**generation._asdict()) if as_output else generation.sequences


def _switched_on(generation_config: GenerationConfig | None) -> dict[str, Any]:
    """What a GenerationConfig asks for: it also lists dozens of features as absent or off."""
    values = {} if generation_config is None else generation_config.to_diff_dict()
    fields = {*SamplerConfig.model_fields, "do_sample"}
    return {k: v for k, v in values.items() if k not in _NOT_SETTINGS and (k in fields or v not in (None, False))}


def _with_length(source: dict[str, Any], prompt_length: int) -> dict[str, Any]:
    """One source of settings with its length under our name, so that a later source replaces an earlier one's."""
    values = {name: value for name, value in source.items() if value is not None}
    new_tokens, total = values.pop("max_new_tokens", None), values.pop("max_length", None)
    if new_tokens is not None:
        return {"gen_length": new_tokens} | values
    if total is None:
        return values
    if total <= prompt_length:
        raise ValueError(f"max_length={total} leaves no token after a prompt of {prompt_length}; raise it")
    return {"gen_length": total - prompt_length} | values


def _sampler(values: dict[str, Any]) -> SamplerConfig:
    """The sampler that transformers' names and ours describe together."""
    temperature = float(values.get("temperature", 1.0))
    sample = values.pop("do_sample", "temperature" in values)
    if sample and temperature == 0:
        raise ValueError("do_sample=True has no effect at temperature=0, which takes the likeliest token")
    values["temperature"] = temperature if sample else 0.0
    return SamplerConfig(**values)


def _streamed(states: Iterator[State], prompt: Tensor, streamer: BaseStreamer) -> Iterator[State]:
    """Pass the states on, and tell the streamer about each."""
    streamer.put(prompt.cpu())
    put = prompt.shape[1]
    for state, end in finished_blocks(states, put):
        if end > put:
            streamer.put(state.canvas[:, put:end].cpu())
            put = end
        if end < state.canvas.shape[1]:  # the last state comes twice
            if isinstance(streamer, DraftStreamer):
                streamer.put_draft(state.draft.cpu())
            yield state
    streamer.end()
