"""Generate and infill: the samplers of the paper (arXiv:2502.09992, §2.4) from one configuration each.

Shapes: B batch, P prompt length, L length.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from llada.config import ConfigError, Schema, config_folder, read_yaml
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import draft_at, replacing
from llada.sampling.orders import ORDERS, Order, excluding
from llada.sampling.predictors import MaskPredictor, Predict, adaptively_guided, guided, plain, suppressed
from llada.sampling.reveals import REVEALS, Reveal, RevealEntry, Variant, early_exit
from llada.sampling.schedules import COUNTS, Counts, given_counts
from llada.sampling.uniforms import RowUniforms

Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SamplerConfig(Schema):
    """A sampler. Published ones are in configs/sampling and are read by `SamplerConfig.named`.

    Raises ConfigError for unknown fields, values out of range, and options that exclude each other or have no effect;
    lengths and steps are checked as soon as `gen_length` is given, at the latest by `generate`.
    """

    steps: Whole | None = None  # predictions in all; None: one per generated token
    gen_length: Whole = 128  # tokens to generate
    block_length: Whole | None = None  # tokens decoded together; None: all of them
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # 0: the likeliest token
    top_k: Whole | None = None  # draw only from the so many likeliest tokens
    top_p: Share | None = None  # draw only from the fewest tokens that have this probability together
    cfg_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # 0: no guidance, half the evaluations
    guidance: Literal["prompt", "adaptive"] = "prompt"  # what the unconditional prediction lacks
    guidance_share: Share | None = None  # adaptive: of the generated tokens, those it lacks; None: 0.7
    order: str = "confidence"  # which draft goes first
    background: str | None = None  # position_calibrated: JSON list with the count of each token in a corpus
    position_decay: Annotated[float, Field(ge=0)] | None = None  # position_calibrated: None: 0.25
    reveal: str = "top_k"  # which positions are visible after a step
    counts: Literal["even", "cosine"] | list[Annotated[int, Field(ge=0)]] = "even"  # tokens revealed in each step
    threshold: Annotated[float, Field(ge=0)] | None = None  # threshold, klass: least probability
    factor: Above0 | None = None
    entropy_bound: Annotated[float, Field(ge=0)] | None = None  # nats
    kl_threshold: Above0 | None = None  # klass: nats between the predictions of two steps; None: 0.01
    history: Whole | None = None  # klass: steps for which a prediction must have settled; None: 2
    remask: Variant | None = None  # remdm: how the probability of masking again is chosen
    eta: Annotated[float, Field(ge=0)] | None = None  # remdm: its size; p2: weight of the planner
    t_on: Share | None = None  # remdm, loop: where it begins
    t_off: Share | None = None  # and where it ends
    alpha_on: Share | None = None  # share of visible tokens meanwhile
    resample: Whole | None = None  # gibbs: tokens masked together; None: 1
    edit_threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # replace revealed tokens that another one beats
    edit_steps: Annotated[int, Field(ge=0)] | None = None  # predictions for edits alone, per block; None: 16
    early_exit: bool = False  # reveal all that is left once the model is sure of it (Prophet)
    suppress_tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)  # never drafted
    forbid_eos: bool = False  # the end-of-sequence token is never drafted
    eos_last: bool = False  # drafts of end of sequence or end of turn are revealed last
    stop_at_eos: bool = False  # a row is finished at its first end-of-sequence token
    variable_length: bool = False  # a block exists once those before it are done and hold no end of sequence

    @classmethod
    def named(cls, name: str, **values: Any) -> Self:
        """A published sampler under its name in the literature, with some fields changed."""
        return cls(**read_yaml(cls.file_of(name)) | values)

    @staticmethod
    def file_of(name: str) -> Path:
        """The YAML file of a published sampler. Raises ConfigError, with all the names, where there is none."""
        folder = config_folder() / "sampling"
        if not (folder / f"{name}.yaml").is_file():
            known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            raise ConfigError(f"unknown sampler {name!r}; known: {known}")
        return folder / f"{name}.yaml"

    @property
    def blocks(self) -> int:
        return self.gen_length // (self.block_length or self.gen_length)

    @property
    def steps_per_block(self) -> int | None:
        """Predictions per block; None where the number of masks decides."""
        if isinstance(self.counts, list):
            return len(self.counts)
        return None if self.steps is None else self.steps // self.blocks

    def check_lengths(self) -> None:
        """Raise ConfigError where length, blocks and steps do not fit. Infilling has no gen_length and asks nothing."""
        block = self.block_length or self.gen_length
        if block > self.gen_length or self.gen_length % block:
            raise ConfigError(f"gen_length={self.gen_length} cannot be cut into blocks of block_length={block} tokens")
        if self.steps is not None and self.steps % self.blocks:
            raise ConfigError(f"steps={self.steps} cannot be shared equally by {self.blocks} blocks of {block} tokens")
        if isinstance(self.counts, list) and sum(self.counts) != block:
            raise ConfigError(f"counts={self.counts} reveal {sum(self.counts)} tokens, not the {block} of a block")
        self.check_steps(block)

    def check_steps(self, masks: int) -> None:
        """Raise ConfigError where a block's steps do not fit the number of its masks."""
        steps = self.steps_per_block
        if steps is not None and REVEALS[self.reveal].counted and steps > masks and not isinstance(self.counts, list):
            raise ConfigError(
                f"steps={self.steps} exceeds gen_length={self.gen_length}: a step reveals a token or more"
            )
        if steps is not None and self.reveal == "gibbs" and steps < masks:
            raise ConfigError(f"steps={self.steps}: gibbs reveals one token in a step, so {masks} are the fewest")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, known in (("order", ORDERS), ("reveal", REVEALS)):
            if getattr(self, field) not in known:
                raise ValueError(f"unknown {field} {getattr(self, field)!r}; known: {', '.join(known)}")
        reveal = REVEALS[self.reveal]
        chosen = {f"order: {self.order}": ORDERS[self.order], f"reveal: {self.reveal}": reveal}
        taken = {field for entry in chosen.values() for field in entry.fields}
        for field in {f for entry in (*ORDERS.values(), *REVEALS.values()) for f in entry.fields} - taken:
            if getattr(self, field) is not None:
                raise ValueError(f"{field} has no effect with {' and '.join(chosen)}; remove it")
        for name, entry in chosen.items():
            for field in entry.required:
                if getattr(self, field) is None:
                    raise ValueError(f"{name} needs {field}")
        for problem in self._without_effect(reveal):
            raise ValueError(problem)
        self.make_reveal()  # it refuses values that do not fit each other
        if "gen_length" in self.model_fields_set:
            self.check_lengths()
        return self

    def _without_effect(self, reveal: RevealEntry) -> Iterator[str]:
        """Messages for options that cannot act beside the others."""
        given, rule = self.model_fields_set, f"reveal: {self.reveal}"
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            yield "top_k and top_p have no effect at temperature 0, which takes the likeliest token; set temperature"
        if self.counts == "cosine" and self.steps is None:
            yield "counts: cosine has no effect without steps: then every step reveals one token"
        if reveal.probabilities and not ORDERS[self.order].probability:
            known = ", ".join(name for name, entry in ORDERS.items() if entry.probability)
            yield f"{rule} compares scores with a probability; those of order: {self.order} are none; known: {known}"
        if self.cfg_scale == 0 and "guidance" in given:
            yield "guidance has no effect with cfg_scale: 0; set cfg_scale"
        if self.guidance_share is not None and self.guidance != "adaptive":
            yield "guidance_share has no effect without guidance: adaptive"
        if reveal.adaptive and self.steps is not None:
            yield f"steps has no effect with {rule}, which decides how many there are; remove it"
        if not reveal.counted and "counts" in given:
            yield f"counts has no effect with {rule}"
        if isinstance(self.counts, list) and self.steps is not None and self.steps != len(self.counts) * self.blocks:
            yield f"steps={self.steps} contradicts the {len(self.counts)} counts of a block; leave steps out"
        if not reveal.ordered and ("order" in given or self.eos_last):
            yield f"order and eos_last have no effect with {rule}, which looks at no order"
        if self.remask != "loop" and (self.t_on, self.t_off, self.alpha_on) != (None, None, None):
            yield "t_on, t_off and alpha_on have no effect without remask: loop"
        if reveal.remasking and (self.early_exit or self.stop_at_eos or self.edit_threshold is not None):
            yield f"early_exit, stop_at_eos and edit_threshold do not go with {rule}, which may mask any token again"
        if self.edit_steps is not None and self.edit_threshold is None:
            yield "edit_steps has no effect without edit_threshold"
        if self.variable_length and not (self.stop_at_eos and self.block_length):
            yield "variable_length needs stop_at_eos and block_length: blocks are appended until the end of sequence"
        if self.forbid_eos and self.stop_at_eos:
            yield "stop_at_eos has no effect with forbid_eos: the token would never appear"

    def make_order(self) -> Order:
        """The order that the fields describe."""
        return ORDERS[self.order].make(**self._fields(ORDERS[self.order].fields))

    def make_reveal(self) -> Reveal:
        """The reveal rule that the fields describe."""
        fields = self._fields(REVEALS[self.reveal].fields)
        names = {"threshold": "minimum", "factor": "bound", "entropy_bound": "bound", "kl_threshold": "divergence",
                 "remask": "variant", "resample": "size"}  # fmt: skip
        rule = REVEALS[self.reveal].make(**{names.get(field, field): value for field, value in fields.items()})
        return early_exit(rule) if self.early_exit else rule

    def make_counts(self) -> Counts:
        """The schedule that the fields describe."""
        return given_counts(self.counts) if isinstance(self.counts, list) else COUNTS[self.counts]

    def _fields(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Generation(NamedTuple):
    """What a sampler made, and what it cost."""

    sequences: Tensor  # (B, P + gen_length) prompt and generated tokens; (B, L) for infilling
    forward_passes: Tensor  # (B,) network evaluations while the row was unfinished; guidance counts twice
    tokens_per_forward: Tensor  # (B,) generated tokens, up to and with the first EOS, per evaluation


def generate(
    model: MaskPredictor,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    *,
    first_row: int = 0,
) -> Generation:
    """Continue each prompt by `sampler.gen_length` tokens.

    Args:
        model: its call returns `.logits` (B, L, V); its `.config` has `mask_token_id`.
        prompt: tokens (B, P), P may be 0; shorter prompts are padded on the left.
        attention_mask: (B, P), 0 at padding; None: no padding.
        sampler: None: low-confidence remasking, greedy, one token per step.
        seed: row i's randomness is a function of (seed, i) alone.
        first_row: the number i of the first row, where a request is generated in several batches.

    Raises ValueError where the prompt holds [MASK] (infill does that), where prompt and answer exceed the model's
    length, and where the sampler needs an end-of-sequence token that the model's config does not name.
    """
    sampler = SamplerConfig() if sampler is None else sampler
    states = generation_states(model, prompt, attention_mask, sampler, seed, first_row=first_row)
    return collect(states, model, prompt, sampler)


def generation_states(
    model: MaskPredictor,
    prompt: Tensor,
    attention_mask: Tensor | None,
    sampler: SamplerConfig,
    seed: int = 0,
    *,
    first_row: int = 0,
) -> Iterator[State]:
    """The states of `generate`, one per prediction, to stream or record them. Arguments and errors as there."""
    sampler.check_lengths()
    canvas = _canvas(model, prompt, sampler)
    P = prompt.shape[1]
    attention_mask = _attention_mask(prompt, attention_mask)
    if ((prompt == model.config.mask_token_id) & (attention_mask == 1)).any():
        raise ValueError("the prompt holds [MASK] tokens; llada.infill fills them, generate only continues")
    padded = torch.cat((attention_mask, attention_mask.new_ones(canvas.shape[0], sampler.gen_length)), dim=1)
    size = sampler.gen_length // sampler.blocks
    blocks = [slice(P + i * size, P + (i + 1) * size) for i in range(sampler.blocks)]
    uniforms = row_uniforms(seed, padded, first_row)
    return _states(model, canvas, padded, blocks, sampler.steps_per_block, sampler, uniforms)


def infill(
    model: MaskPredictor,
    canvas: Tensor,
    attention_mask: Tensor | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
) -> Generation:
    """Fill every [MASK] of the canvas, wherever it stands; all other tokens stay.

    The canvas says how much there is to fill, so `sampler.gen_length` must not be set; `steps` None is one token per
    step, and `block_length` cuts the canvas, not the masks. Other arguments and errors as for `generate`.
    """
    sampler = SamplerConfig() if sampler is None else sampler
    if "gen_length" in sampler.model_fields_set:
        raise ValueError(
            "gen_length has no effect on infilling: the canvas says how much there is to fill; leave it out"
        )
    if sampler.stop_at_eos:
        raise ValueError("stop_at_eos has no effect on infilling: what follows an end-of-sequence token is given")
    _check_canvas(model, canvas)
    L = canvas.shape[1]
    size = sampler.block_length or max(L, 1)
    blocks = [slice(start, min(start + size, L)) for start in range(0, L, size)]
    if sampler.steps is not None and sampler.steps % max(len(blocks), 1):
        raise ValueError(f"steps={sampler.steps} cannot be shared equally by {len(blocks)} blocks of {size} tokens")
    steps = None if sampler.steps is None else sampler.steps // max(len(blocks), 1)
    if isinstance(sampler.counts, list):
        steps = len(sampler.counts)
    hidden = canvas == model.config.mask_token_id
    masks = torch.stack([hidden[:, b].sum(dim=1) for b in blocks]) if blocks else hidden.long()  # (blocks, B)
    if steps is not None and sampler.reveal == "gibbs" and masks.numel() and steps < int(masks.max()):
        raise ValueError(
            f"steps={sampler.steps}: gibbs reveals one token in a step, so {int(masks.max())} are the fewest"
        )
    rule = REVEALS[sampler.reveal]
    timed = sampler.early_exit or not (rule.counted or rule.adaptive)
    if steps is None and timed and bool((masks != masks[:, :1]).any()):
        raise ValueError(
            f"reveal: {sampler.reveal} looks at the number of steps, and the rows have different numbers of masks; "
            "set steps, or fill rows one by one, so that no row depends on its neighbours"
        )
    attention_mask = _attention_mask(canvas, attention_mask)
    if ((canvas == model.config.mask_token_id) & (attention_mask == 0)).any():
        raise ValueError("the padding holds [MASK] tokens, which would be filled; pad with another token")
    uniforms = row_uniforms(seed, attention_mask)
    states = _states(model, canvas, attention_mask, blocks, steps, sampler, uniforms)
    return _account(states, canvas, model, sampler)


def collect(states: Iterator[State], model: MaskPredictor, prompt: Tensor, sampler: SamplerConfig) -> Generation:
    """Run the states of `generation_states` to their end and account for them."""
    return _account(states, _canvas(model, prompt, sampler), model, sampler)


def _states(
    model: MaskPredictor,
    canvas: Tensor,
    attention_mask: Tensor,
    blocks: list[slice],
    steps: int | None,
    sampler: SamplerConfig,
    uniforms: RowUniforms,
) -> Iterator[State]:
    """The loop with the decisions that the configuration names."""
    mask_token_id = model.config.mask_token_id
    rule = REVEALS[sampler.reveal]
    order = sampler.make_order()
    if sampler.eos_last:
        order = excluding(order, _end_tokens(model))
    edits = sampler.edit_threshold is not None
    return denoise(
        _predictor(model, canvas, attention_mask, sampler),
        canvas,
        mask_token_id,
        blocks=blocks,
        steps=steps,
        draft=draft_at(sampler.temperature, top_k=sampler.top_k, top_p=sampler.top_p),
        order=order,
        reveal=sampler.make_reveal(),
        counts=sampler.make_counts(),
        edit=replacing(sampler.edit_threshold) if sampler.edit_threshold is not None else None,
        edit_steps=0 if not edits else 16 if sampler.edit_steps is None else sampler.edit_steps,
        every_step=rule.every_step,
        lookback=rule.lookback(**sampler._fields(rule.fields)),
        stop_token_id=_eos(model, "stop_at_eos") if sampler.stop_at_eos else None,
        uniforms=uniforms,
    )


def _predictor(model: MaskPredictor, canvas: Tensor, attention_mask: Tensor, sampler: SamplerConfig) -> Predict:
    """The model with the guidance and the suppressed tokens that the configuration names."""
    mask_token_id = model.config.mask_token_id
    shown = None if attention_mask.all() else attention_mask
    predict: Predict = plain(model, shown, beyond_window=not sampler.variable_length)
    given = canvas != mask_token_id
    if sampler.cfg_scale > 0 and sampler.guidance == "prompt":
        predict = guided(predict, given, mask_token_id, sampler.cfg_scale)
    elif sampler.cfg_scale > 0:
        predict = adaptively_guided(predict, given, mask_token_id, sampler.cfg_scale, sampler.guidance_share or 0.7)
    tokens = [*sampler.suppress_tokens, *([_eos(model, "forbid_eos")] if sampler.forbid_eos else [])]
    return suppressed(predict, tokens) if tokens else predict


def _account(states: Iterator[State], canvas: Tensor, model: MaskPredictor, sampler: SamplerConfig) -> Generation:
    """Run the sampler to its end and account for it."""
    generated = canvas == model.config.mask_token_id
    evaluations = 2 if sampler.cfg_scale > 0 else 1
    forward_passes = torch.zeros(canvas.shape[0], dtype=torch.long, device=canvas.device)
    for state in states:
        canvas = state.canvas
        forward_passes = forward_passes + evaluations * state.active
    eos = getattr(model.config, "eos_token_id", None)  # a mask predictor from elsewhere may have none
    ended = (canvas == eos) & generated if eos is not None else torch.zeros_like(generated)
    before_end = ended.cumsum(dim=1) - ended.long() == 0
    tokens = (generated & before_end).sum(dim=1)
    return Generation(canvas, forward_passes, tokens / forward_passes.clamp(min=1))


def _canvas(model: MaskPredictor, prompt: Tensor, sampler: SamplerConfig) -> Tensor:
    """The prompt and [MASK] for everything to be generated, (B, P + gen_length)."""
    if prompt.dim() != 2:
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}; it must be (batch, length)")
    masks = prompt.new_full((prompt.shape[0], sampler.gen_length), _mask(model))
    canvas = torch.cat((prompt, masks), dim=1)
    _check_canvas(model, canvas)
    return canvas


def _check_canvas(model: MaskPredictor, canvas: Tensor) -> None:
    _mask(model)
    if canvas.dim() != 2 or canvas.is_floating_point():
        raise ValueError(
            f"token ids must be integers of shape (batch, length), not {canvas.dtype} {tuple(canvas.shape)}"
        )
    longest = getattr(model.config, "max_position_embeddings", None)  # not every model has a limit
    if longest is not None and canvas.shape[1] > longest:
        raise ValueError(
            f"{canvas.shape[1]} tokens of prompt and answer exceed the model's {longest}; shorten one of them"
        )


def _attention_mask(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """All ones where none is given; the shape must be that of the tokens, and padding on the left."""
    if attention_mask is None:
        return torch.ones_like(tokens)
    if attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} and tokens {tuple(tokens.shape)} differ in shape"
        )
    if (attention_mask.long().diff(dim=1) < 0).any():
        raise ValueError("padding must be on the left: set tokenizer.padding_side = 'left'")
    return attention_mask.long()


def _mask(model: MaskPredictor) -> int:
    mask_token_id = model.config.mask_token_id
    if mask_token_id is None:
        raise ValueError("model.config.mask_token_id is not set; set it to the id of the tokenizer's mask token")
    return mask_token_id


def _eos(model: MaskPredictor, option: Literal["forbid_eos", "stop_at_eos", "eos_last"]) -> int:
    eos = getattr(model.config, "eos_token_id", None)  # a mask predictor from elsewhere may have none
    if eos is None:
        raise ValueError(f"{option} needs model.config.eos_token_id, which is not set")
    return eos


def _end_tokens(model: MaskPredictor) -> list[int]:
    """End of sequence, and end of turn where the vocabulary has it."""
    eot = getattr(model.config, "eot_token_id", None)  # a field of LLaDAConfig only
    return [_eos(model, "eos_last"), *([] if eot is None else [eot])]
