"""The schemas of configs/pretrain and configs/sft: one YAML file is one run."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from llada.config import Schema

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Objective = Literal[
    "elbo", "uniform", "puma", "cart", "complementary", "complementary_mean", "block_diffusion", "autoregressive"
]
# what says how masks are drawn; of no effect where they are not
_DRAWN = ("masking", "eps", "t_min", "t_max")
_NOT_READ = {
    "puma": ("which masks what the model is least sure of", (*_DRAWN, "workers")),
    "autoregressive": ("which masks nothing", (*_DRAWN, "eos_padding", "mask_prompt", "evaluate_draws")),
}


class OptimConfig(Schema):
    """The optimiser and its learning rate."""

    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices inside the blocks, AdamW for the rest

    learning_rate: Annotated[float, Field(gt=0, le=1e6)]  # the peak
    schedule: Literal["warmup_stable_decay", "cosine"] = "warmup_stable_decay"
    warmup: Count = 0  # steps
    decay: Count = 0  # last steps of warmup_stable_decay, linear to `final`
    final: Annotated[float, Field(ge=0, le=1e6)] = 0.0  # learning rate at the end
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    max_grad_norm: Rate = 1.0

    @model_validator(mode="after")
    def _applicable(self) -> Self:
        if self.schedule == "cosine" and self.decay:
            raise ValueError("decay has no effect with schedule: cosine; remove it")
        if self.schedule == "warmup_stable_decay" and self.final and not self.decay:
            raise ValueError("final has no effect without decay steps; give decay or remove final")
        return self


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoRAConfig(Schema):
    """Low-rank adapters (LoRA, arXiv:2106.09685): W + alpha / rank · B A, and only A and B are trained."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of what A reads
    targets: Annotated[list[Projection], Field(min_length=1)] = Field(
        default_factory=lambda: list(get_args(Projection))
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets names a projection twice: {', '.join(self.targets)}")
        return self


class GrowthConfig(Schema):
    """How the number of stages grows; the paper's."""

    add: Positive = 3
    every: Positive = 30_000  # steps
    to: Positive = 42  # and no further


class PumaConfig(Schema):
    """How a row is revealed from step to step (PUMA, arXiv:2602.10314)."""

    stages: Positive = 12  # K: steps that a row stays, in each of which 1/K of it is revealed
    growth: GrowthConfig | None = None  # of the number of stages; None: it stays
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None  # reveal what is more probable, too; None: only 1/K

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.growth is not None and self.growth.to <= self.stages:
            raise ValueError(f"puma.growth.to={self.growth.to} must be above puma.stages={self.stages}")
        return self


class TrainConfig(Schema):
    """What every training run says."""

    output: str  # folder of the run: log.jsonl, config.json and the model
    steps: Positive  # optimiser steps
    batch_size: Positive  # rows per step, over all processes
    micro_batch_size: Positive | None = None  # rows per forward pass and process; None: all of them
    optim: OptimConfig
    objective: Objective = "elbo"  # see the README
    puma: PumaConfig | None = None  # of the objective puma; None: its defaults
    masking: Literal["count", "bernoulli"] = "bernoulli"  # the paper's; "count" has less variance, see the README
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-3  # floor of t; only for bernoulli
    t_min: Share = 0.0  # t is uniform from here to t_max; the loss is a bound on the likelihood only from 0 to 1
    t_max: Share = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    workers: Count = 0  # processes that prepare batches
    mixed_precision: Literal["no", "bf16"] = "no"
    sharding: Literal["none", "full"] = "none"  # full: processes share weights, gradients and moments (FSDP2)
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    compile: bool = False  # the blocks by torch.compile: minutes at the start, less time for each step
    max_skips: Count = 0  # steps with a non-finite loss or gradient that may be left out before the run stops
    spike_threshold: Rate = 10.0  # robust standard deviations above the latest losses from which the log notes a spike
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of averaged weights, saved as `ema`; None: none
    checkpoint_every: Positive | None = None  # steps between checkpoints; None: only when a signal stops the run
    checkpoint_keep: Positive = 2  # the newest so many stay
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)  # beside log.jsonl
    evaluate_every: Positive | None = None  # steps between held-out bounds; None: only at the end
    evaluate_draws: Positive = 1  # masks per held-out row
    evaluate_rows: Annotated[int, Field(ge=2)] | None = None  # the first so many held-out rows; None: all
    overwrite: bool = False  # replace an existing output folder

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        why, names = _NOT_READ.get(self.objective, ("", ()))
        for name in names:
            if name in self.model_fields_set:
                raise ValueError(f"{name} has no effect with objective: {self.objective}, {why}; remove it")
        if self.puma is not None and self.objective != "puma":
            raise ValueError(f"puma has no effect with objective: {self.objective}; remove it, or set objective: puma")
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min={self.t_min} must be below t_max={self.t_max}")
        if self.masking == "count" and "eps" in self.model_fields_set:
            raise ValueError("eps has no effect with masking: count, whose t is never below 1/length; remove it")
        if self.optim.warmup + self.optim.decay > self.steps:
            raise ValueError(f"optim.warmup + optim.decay exceed steps={self.steps}")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size={self.micro_batch_size} exceeds batch_size={self.batch_size}")
        return self


class PretrainConfig(TrainConfig):
    """Pretraining from scratch on folders that `llada prepare` wrote."""

    data: str | dict[str, Rate]  # the folder, with tokenizer/, train/ and heldout/; or folders and their shares of rows
    length: Positive  # tokens per row
    random_length: Share = 0.01  # share of rows cut to a uniform random length
    split: Share = 0.0  # share of rows cut at random into two that do not see each other; for random_length=0
    document_mask: bool = False  # tokens see their own document alone, not all that share its row
    model: dict[str, Any] | str  # sizes of a LLaDAConfig, or the YAML file that holds them

    @model_validator(mode="after")
    def _data(self) -> Self:
        if isinstance(self.data, dict) and len(self.data) < 2:
            raise ValueError("data: weights need at least two folders; name a single one without weight")
        if self.split and self.random_length:
            raise ValueError(
                f"split={self.split} takes the place of random_length={self.random_length}; set random_length=0"
            )
        if (self.document_mask or self.split) and self.objective in ("cart", "block_diffusion", "autoregressive"):
            raise ValueError(f"document_mask and split do not go with objective: {self.objective}; remove them")
        return self

    @property
    def folders(self) -> list[str]:
        """The folders of the data."""
        return [self.data] if isinstance(self.data, str) else list(self.data)


class SFTConfig(TrainConfig):
    """Fine-tuning on conversations, with only the responses masked."""

    init: str  # checkpoint to start from
    train: str  # conversations: JSONL, parquet, or hf:NAME
    heldout: str | None = None  # the same, for the held-out bound; None: none is measured
    max_length: Positive  # tokens; longer conversations are refused, or skipped
    too_long: Literal["error", "skip"] = "error"
    bad_rows: Literal["error", "skip"] = "error"  # what else cannot be used: no reply, wrong columns or types, ...
    per: Literal["token", "row"] = "row"  # what the loss is averaged over; row: each conversation counts alike
    eos_padding: bool = True  # learn the padding of shorter rows; False: it is hidden, after one end of sequence
    mask_prompt: bool = False  # mask prompts as well, and learn them
    block_length: Positive | None = None  # of block_diffusion; None: the checkpoint's
    lora: LoRAConfig | None = None  # train low-rank adapters; None: all weights

    @model_validator(mode="after")
    def _adapters(self) -> Self:
        if self.lora is not None and self.optim.optimizer == "muon":
            raise ValueError(
                "optim.optimizer: muon makes the update of a whole matrix orthogonal, which it cannot do by the two "
                "factors of lora; set optimizer: adamw"
            )
        return self

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if self.block_length is not None and self.objective != "block_diffusion":
            raise ValueError(f"block_length has no effect with objective: {self.objective}; remove it")
        return self


def lora_of(config: TrainConfig) -> LoRAConfig | None:
    """The adapters of a run, which only fine-tuning may have."""
    return config.lora if isinstance(config, SFTConfig) else None
