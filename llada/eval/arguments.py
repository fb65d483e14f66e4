"""What an evaluation can be told: the arguments of the original script, ours, and what a task asks of a generation."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from llada.config import Schema
from llada.sampling.config import SamplerConfig, Whole

_LOG = logging.getLogger(__name__)

ORIGINAL = {  # names of LLaDA's eval_llada.py and generate.py
    "model_path": "pretrained",
    "mc_num": "samples",
    "cfg": "cfg_scale",
    "mask_id": "mask_token_id",
    "is_check_greedy": "check_greedy",
    "logits_eos_inf": "forbid_eos",
    "confidence_eos_eot_inf": "eos_last",
}
REMASKING = {"low_confidence": "confidence", "random": "random"}  # its values, and the orders they are here
_MOST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # one thing in many libraries
_GEN_LENGTH = 256  # tokens, where neither the sampler nor the task says so; what lm_eval takes for other models


Precision = Annotated[float, Field(gt=0)]


class Settings(Schema):
    """How a model is asked. The sampler's `cfg_scale` is that of likelihoods, too."""

    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    samples: Whole = 128  # network evaluations of a likelihood
    precision: Precision | None = None  # nats; as many times so many evaluations as bring its standard error down to it
    check_greedy: bool | None = None  # is an answer what greedy decoding gives? None: only where a metric is made of it
    seed: int = 0
    batch_size: Whole = 32  # rows at once; changes nothing but the time
    max_length: Whole | None = None  # tokens of prompt and answer; None: the model's

    @field_validator("batch_size", mode="before")
    @classmethod
    def _no_automatic_size(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.isdigit():
            raise ValueError("give a number of rows; it is not found automatically")
        return int(value) if isinstance(value, str) else value


def check_guidance(sampler: SamplerConfig) -> None:
    """Raise ValueError where likelihoods cannot be guided as the sampler guides."""
    if sampler.guidance == "adaptive":
        raise ValueError("guidance: adaptive is not that of likelihoods, which lack the prompt; take guidance: prompt")


class Source(Schema):
    """Which model is loaded, and how."""

    pretrained: str
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None  # None: the GPU where there is one
    mask_token_id: int | None = None


def read_arguments(arguments: Mapping[str, Any]) -> tuple[Source, Settings]:
    """Arguments as lm_eval takes them, under the names of the original or ours.

    `sampler` is the name of a published sampler or of a YAML file, and every field of `SamplerConfig` changes it.

    Raises ValueError for unknown names, for two names of one thing, and as the schemas.
    """
    source, settings, fields = {}, {}, {}
    for name, value in arguments.items():
        if value is None:
            continue
        ours = ORIGINAL.get(name, name)
        if name != ours and arguments.get(ours) is not None:
            raise ValueError(f"{name} and {ours} are two names of one thing; give one of them")
        if ours == "remasking":
            if value not in REMASKING:
                raise ValueError(f"remasking={value!r}; known: {', '.join(REMASKING)}; sampler=NAME has all others")
            if arguments.get("order") is not None:
                raise ValueError("remasking and order are two names of one thing; give one of them")
            fields |= {"order": REMASKING[value]}
        elif ours in Source.model_fields:
            source[ours] = value
        elif ours in Settings.model_fields:
            settings[ours] = value
        elif ours in SamplerConfig.model_fields:
            fields[ours] = value
        else:
            raise ValueError(f"unknown argument {name!r}; known: {', '.join(known_arguments())}")
    sampler = settings.pop("sampler", None)
    chosen = SamplerConfig(**fields) if sampler is None else SamplerConfig.named(str(sampler), **fields)
    return Source(**source), Settings(sampler=chosen, **settings)


def known_arguments() -> list[str]:
    """Every name that `read_arguments` takes."""
    return sorted({*ORIGINAL, "remasking", *Source.model_fields, *Settings.model_fields, *SamplerConfig.model_fields})


class Demand(NamedTuple):
    """What a task asks of a generation."""

    sampler: SamplerConfig
    until: list[str]  # the text ends before the first of them
    most: int | None  # tokens of an answer; what is beyond is cut off


def read_gen_kwargs(sampler: SamplerConfig, kwargs: Mapping[str, Any]) -> Demand:
    """The sampler as the task wants it: each of its `generation_kwargs` is honoured or refused.

    `max_gen_toks` is the `gen_length` of a sampler that has none of its own, and otherwise cuts longer answers. Fields
    of `SamplerConfig` are taken as such. Raises ValueError where the task asks for something else than the sampler.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    until = given.pop("until", [])
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, list) or not all(isinstance(stop, str) for stop in until):
        raise ValueError(f"until={until!r} must be a text or a list of texts")
    limits = {name: given.pop(name) for name in _MOST if name in given}
    if len({*limits.values()}) > 1:
        raise ValueError(f"{limits} contradict each other; give one of them")
    most = next(iter(limits.values()), None)
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise ValueError(f"{next(iter(limits))}={most!r} must be a number of tokens, 1 or more")
    fields = _drawn(sampler, given)
    if unknown := [name for name in given if name not in SamplerConfig.model_fields]:
        known = ", ".join(sorted({"until", "do_sample", *_MOST, *SamplerConfig.model_fields}))
        raise ValueError(
            f"the task asks for {unknown[0]}={given[unknown[0]]!r}, which has no meaning here; known: {known}"
        )
    fields |= given
    if sampler.longest is None and "gen_length" not in sampler.model_fields_set | fields.keys():
        fields["gen_length"] = _GEN_LENGTH if most is None else most
    return Demand(sampler.replace(**fields), [stop for stop in until if stop], most)


def _drawn(sampler: SamplerConfig, given: dict[str, Any]) -> dict[str, Any]:
    """Takes what concerns the drawing of tokens out of `given`: the fields of the sampler that it asks for."""
    temperature, do_sample = given.pop("temperature", None), given.pop("do_sample", None)
    if not isinstance(do_sample, bool | None):
        raise ValueError(f"the task asks for do_sample={do_sample!r}; give true or false")
    if temperature is not None and (not isinstance(temperature, int | float) or isinstance(temperature, bool)):
        raise ValueError(f"the task asks for temperature={temperature!r}; give a number")
    if do_sample is None:
        if temperature is None:
            return {}
        do_sample = temperature > 0
    if not do_sample:
        for name in [name for name in ("top_k", "top_p") if name in given] + ["temperature"] * bool(temperature):
            given.pop(name, None)
            _LOG.warning("the task asks for do_sample=False, under which its %s has no effect", name)
        if sampler.temperature > 0:
            raise ValueError(
                f"the task asks for do_sample=False, but the sampler has temperature={sampler.temperature}; set it to "
                "0, or the task's do_sample to true"
            )
        return {}
    temperature = 1.0 if temperature is None else float(temperature)  # 1 is transformers' default
    if temperature <= 0:
        raise ValueError(f"the task asks for do_sample=True at temperature={temperature}; set one above 0")
    if "temperature" in sampler.model_fields_set and sampler.temperature != temperature:
        raise ValueError(
            f"the task asks for temperature={temperature}, the sampler for {sampler.temperature}; leave one out"
        )
    return {"temperature": temperature}
