"""The configuration of a sampler: its fields, which of them go together, and the functions that they stand for."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from llada.config import ConfigError, Schema, config_folder, read_yaml
from llada.sampling.drafts import Draft, Edit, draft_at, replacing
from llada.sampling.orders import ORDERS, Order
from llada.sampling.reveals import REVEALS, Reveal, RevealEntry, Variant, early_exit
from llada.sampling.schedules import COUNTS, Counts, given_counts

MOST = 2**20  # no length or number of steps is above it: far more than a model takes, and 8 MiB as a table
Whole = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(gt=0, le=1)]
CacheName = Literal["none", "prefix", "dual", "delayed", "block_causal"]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
GROWTH = ("insert_below", "grow_until", "insert_until")


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
    # 0: no guidance, half the evaluations; the bound keeps guided logits finite
    cfg_scale: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    guidance: Literal["prompt", "adaptive"] = "prompt"  # what the unconditional prediction lacks
    guidance_share: Share | None = None  # adaptive: of the generated tokens, those it lacks; None: 0.7
    order: str = "confidence"  # which draft goes first
    background: str | None = None  # position_calibrated: JSON list with the count of each token in a corpus
    position_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # position_calibrated: None: 0.25
    reveal: str = "top_k"  # which positions are visible after a step
    counts: Literal["even", "cosine"] | list[Count] = "even"  # tokens revealed in each step
    threshold: Annotated[float, Field(ge=0)] | None = None  # threshold, klass: least probability
    factor: Above0 | None = None
    entropy_bound: Annotated[float, Field(ge=0)] | None = None  # nats
    kl_threshold: Above0 | None = None  # klass: nats between the predictions of two steps; None: 0.01
    history: Whole | None = None  # klass: steps for which a prediction must have settled; None: 2
    remask: Variant | None = None  # remdm: how the probability of masking again is chosen
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # remdm: its size; p2: weight of the planner
    t_on: Share | None = None  # remdm, loop: where it begins
    t_off: Share | None = None  # and where it ends
    alpha_on: Share | None = None  # share of visible tokens meanwhile
    resample: Whole | None = None  # gibbs: tokens masked together; None: 1
    edit_threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # replace revealed tokens that another one beats
    edit_steps: Count | None = None  # predictions for edits alone, per block; None: 16
    early_exit: bool = False  # reveal all that is left once the model is sure of it (Prophet)
    # steps tried in one call: the same outcome in fewer calls
    speculation: Annotated[int, Field(ge=2, le=MOST)] | None = None
    longest: Whole | None = None  # the answer finds its length (DAEDAL), from gen_length to so many tokens; None: fixed
    insert_below: Annotated[float, Field(ge=0, le=1)] | None = None  # longest: a mask less sure becomes 8; None: 0.1
    grow_until: Annotated[float, Field(ge=0, le=1)] | None = None  # longest: enough confidence in the end; None: 0.5
    insert_until: Annotated[float, Field(ge=0, le=1)] | None = None  # longest: as much as ends insertion; None: 0.9
    cache: CacheName = "none"  # which keys and values are kept from step to step; only block_causal is exact
    refresh_every: Whole | None = None  # cache: steps of a block after which everything is computed; None: never
    suppress_tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)  # never drafted
    forbid_eos: bool = False  # the end-of-sequence token is never drafted
    eos_last: bool = False  # drafts of end of sequence or end of turn are revealed last
    stop_at_eos: bool = False  # a row is finished at its first end-of-sequence token
    variable_length: bool = False  # a block exists once those before it are done and hold no end of sequence

    @classmethod
    def named(cls, name: str | Path, /, **values: Any) -> Self:
        """A published sampler under its name in the literature, or that of a YAML file, with some fields changed."""
        return cls(**cls.values_of(name) | values)

    @classmethod
    def values_of(cls, name: str | Path, /, **otherwise: Any) -> dict[str, Any]:
        """The fields of such a sampler, not checked; `otherwise` holds for those that it does not set."""
        return otherwise | read_yaml(cls.file_of(name))

    @staticmethod
    def file_of(name: str | Path) -> Path:
        """The YAML file of a published sampler; a path, or a name that ends with .yaml, is a file's own.

        Raises ConfigError, with all the names, where there is no such sampler.
        """
        if isinstance(name, Path) or (isinstance(name, str) and name.endswith(".yaml")):
            return Path(name)
        known = {path.stem: path for path in sorted((config_folder() / "sampling").glob("*.yaml"))}
        if name not in known:  # a path from there to another file is no name
            raise ConfigError(f"unknown sampler {name!r}; known: {', '.join(known)}; or name a .yaml file")
        return known[name]

    @property
    def most_tokens(self) -> int:
        """The most that an answer has."""
        return self.gen_length if self.longest is None else self.longest

    @property
    def length_field(self) -> str:
        """The name of the field that says so."""
        return "gen_length" if self.longest is None else "longest"

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
        if self.longest is not None:
            if self.gen_length > self.longest:
                raise ConfigError(
                    f"gen_length={self.gen_length} exceeds longest={self.longest}: an answer begins with gen_length "
                    "tokens and only grows; set a smaller gen_length or a larger longest"
                )
            return  # its last block is what is left
        block = self.block_length or self.gen_length
        if block > self.gen_length or self.gen_length % block:
            raise ConfigError(f"gen_length={self.gen_length} cannot be cut into blocks of block_length={block} tokens")
        if self.steps is not None and self.steps % self.blocks:
            raise ConfigError(f"steps={self.steps} cannot be shared equally by {self.blocks} blocks of {block} tokens")
        if isinstance(self.counts, list) and sum(self.counts) != block:
            raise ConfigError(f"counts={self.counts} reveal {sum(self.counts)} tokens, not the {block} of a block")
        steps = self.steps_per_block
        if steps is not None and REVEALS[self.reveal].counted and steps > block and not isinstance(self.counts, list):
            raise ConfigError(
                f"steps={self.steps} exceeds gen_length={self.gen_length}: a step reveals a token or more"
            )
        self.check_fill(steps, block)

    def check_fill(self, steps: int | None, masks: int) -> None:
        """Raise ConfigError where so many steps of a block leave some of its masks."""
        if self.reveal == "gibbs" and steps is not None and steps < masks:
            raise ConfigError(
                f"steps={self.steps} gives {steps} to a block of {masks} masks; gibbs reveals one token in a step, so "
                f"a block needs {masks} at least"
            )

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
        for problem in chain(
            self._without_effect(reveal), self._against_caching(), self._against_speculation(), self._against_growth()
        ):
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
        blocks = self.blocks if "gen_length" in given else None  # an infilled canvas has its own number of them
        steps = len(self.counts) * blocks if isinstance(self.counts, list) and blocks is not None else self.steps
        if self.steps not in (None, steps):
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
        if self.variable_length and self.block_length and blocks == 1:
            yield f"variable_length has no effect on a single block of block_length={self.block_length} tokens"
        if self.forbid_eos and self.stop_at_eos:
            yield "stop_at_eos has no effect with forbid_eos: the token would never appear"
        if self.edit_threshold is not None and self.eos_last:
            yield "eos_last does not go with edit_threshold, which may write the end of a text at any step"

    def _against_caching(self) -> Iterator[str]:
        """Messages for options with which a cache cannot act or would be wrong without notice."""
        if self.cache == "none":
            if self.refresh_every is not None:
                yield "refresh_every has no effect without a cache; set cache"
            return
        if self.cache == "block_causal" and self.refresh_every is not None:
            yield "refresh_every has no effect on cache: block_causal, which is exact; remove it"
        if self.refresh_every == 1:
            yield f"refresh_every=1 computes everything in every step, which is cache: none, not {self.cache}"
        if self.cfg_scale > 0 and self.guidance == "adaptive":
            yield "guidance: adaptive hides other tokens in every step, so nothing can be kept; set cache: none"
        if self.speculation is not None or self.longest is not None:
            yield "a cache goes with neither speculation nor longest, whose canvases are not steps of one another"

    def _against_speculation(self) -> Iterator[str]:
        """Messages for options under which speculation would not have the outcome of one step after another."""
        if self.speculation is None:
            return
        if self.reveal != "top_k":
            yield f"speculation needs reveal: top_k, under which one prediction tells the next steps; not {self.reveal}"
        if self.early_exit or self.edit_threshold is not None:
            yield "early_exit and edit_threshold do not go with speculation, which cannot tell when they act; remove it"
        if self.temperature == 0:
            return
        if self.top_k is not None or self.top_p is not None:
            yield "top_k and top_p do not go with speculation above temperature 0, which draws from all tokens"
        if self.steps is not None or "counts" in self.model_fields_set:
            yield "steps and counts have no effect on speculation above temperature 0, which draws token after token"
        looking = [f"order: {self.order}"] * ORDERS[self.order].drawn + ["eos_last"] * self.eos_last
        if looking:
            known = ", ".join(name for name, entry in ORDERS.items() if not entry.drawn)
            yield (
                f"{' and '.join(looking)} would have to look at drawn tokens, which speculation above temperature 0 "
                f"verifies afterwards; leave out eos_last, and take an order that does not: {known}"
            )

    def _against_growth(self) -> Iterator[str]:
        """Messages for options that have no meaning where the length of an answer changes, or only there."""
        if self.longest is None:
            if given := [field for field in GROWTH if getattr(self, field) is not None]:
                yield f"{given[0]} has no effect without longest, the most tokens that an answer may grow to; set it"
            return
        if self.reveal != "threshold":
            yield f"longest needs reveal: threshold, as in DAEDAL; not {self.reveal}"
        if self.forbid_eos or self.eos_last or self.stop_at_eos:
            yield "forbid_eos, eos_last and stop_at_eos do not go with longest: the length is where EOS is expected"
        if self.early_exit or self.edit_threshold is not None:
            yield "early_exit and edit_threshold do not go with longest, whose steps change the length; remove it"

    def between_texts(self, ends: Sequence[int]) -> Self:
        """The sampler for gaps between texts, in which none of the tokens `ends` stands."""
        return self.replace(suppress_tokens=[*self.suppress_tokens, *ends])

    def make_draft(self) -> Draft:
        """The draft that the fields describe."""
        return draft_at(self.temperature, top_k=self.top_k, top_p=self.top_p)

    def make_order(self) -> Order:
        """The order that the fields describe."""
        entry = ORDERS[self.order]
        return entry.make(**self._arguments(entry.fields))

    def make_reveal(self) -> Reveal:
        """The reveal rule that the fields describe."""
        entry = REVEALS[self.reveal]
        rule = entry.make(**self._arguments(entry.fields))
        return early_exit(rule) if self.early_exit else rule

    def make_counts(self) -> Counts:
        """The schedule that the fields describe."""
        return given_counts(self.counts) if isinstance(self.counts, list) else COUNTS[self.counts]

    def make_edit(self) -> Edit | None:
        """What replaces revealed tokens; None: nothing."""
        if self.edit_threshold is None:
            return None
        return replacing(self.edit_threshold, 16 if self.edit_steps is None else self.edit_steps)

    def growth(self) -> dict[str, Any]:
        """What the fields say to `daedal`."""
        named = {"gen_length": "initial", "longest": "longest", "threshold": "reveal_from"}
        given = self._arguments(named | {field: field for field in GROWTH})
        return given | {"block_length": self.block_length or self.longest}

    def _arguments(self, fields: Mapping[str, str]) -> dict[str, Any]:
        return {name: value for field, name in fields.items() if (value := getattr(self, field)) is not None}
