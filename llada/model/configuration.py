"""LLaDA configuration (arXiv:2502.09992, table 5), under the field names of the official checkpoints.

transformers' names (`hidden_size`, `num_attention_heads`, ...) read and write the same fields through `attribute_map`.
The official fields that select an architecture we do not implement are kept, so that a checkpoint carries them, and
refused by name when they ask for something else.
"""

import difflib
import sys
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig
from transformers.configuration_utils import PreTrainedConfig

# Official switches with the only value implemented here, and why.
_ONLY: dict[str, tuple[Any, str]] = {
    "alibi": (False, "positions are rotary"),
    "rope": (True, "positions are rotary"),
    "rope_full_precision": (True, "rotary embeddings are always computed in float32"),
    "block_type": ("llama", "no released LLaDA uses another block"),
    "block_group_size": (1, "blocks are not grouped"),
    "activation_type": ("silu", "the feed-forward is SwiGLU with explicit gate and up projections"),
    "attention_layer_norm": (False, "no released LLaDA normalises queries and keys"),
    "input_emb_norm": (False, "no released LLaDA scales its embeddings"),
    "layer_norm_type": ("rms", "the norm is RMSNorm"),
    "layer_norm_with_affine": (True, "the norm has a weight"),
    "bias_for_layer_norm": (False, "the norm has no bias"),
    "include_bias": (False, "only the query, key and value projections may have a bias (include_qkv_bias)"),
    "scale_logits": (False, "logits are not scaled"),
    "attention_dropout": (0.0, "the forward pass has no randomness"),
    "residual_dropout": (0.0, "the forward pass has no randomness"),
    "embedding_dropout": (0.0, "the forward pass has no randomness"),
    "use_cache": (False, "a bidirectional model has no causal cache"),
    "return_dict": (True, "outputs are read by their names"),
}
_SIZES = ("d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length", "mlp_ratio")
_OPTIONAL_SIZES = ("n_kv_heads", "mlp_hidden_size", "embedding_size", "block_length")
_TOKENS = ("mask_token_id", "eos_token_id", "pad_token_id", "eot_token_id")
_SWITCHES = ("weight_tying", "include_qkv_bias", "multi_query_attention")
_NUMBERS = ("rope_theta", "rms_norm_eps", "init_std", "init_cutoff_factor")
# What transformers itself writes into a config.json beside the fields of the model.
_FROM_TRANSFORMERS = {"auto_map", "model_type", "torch_dtype", "name_or_path", "num_labels", "attn_implementation"}
# Keys that make transformers look for code or kernels elsewhere; a checkpoint must not carry them.
_IMPLEMENTATIONS = {"attn_implementation", "_attn_implementation", "experts_implementation"}
FETCHES_CODE = {"auto_map", "custom_pipelines", *_IMPLEMENTATIONS}


class LLaDAConfig(PreTrainedConfig):
    """Sizes and special tokens of a LLaDA.

    Main fields: `d_model`, `n_layers`, `n_heads`, `n_kv_heads` (None: one per head; fewer: grouped-query attention),
    `mlp_hidden_size` (None: `mlp_ratio * d_model`), `vocab_size`, `embedding_size` (None: `vocab_size`; larger: the
    extra rows are padding and are never predicted), `max_sequence_length`, `mask_token_id`, `eos_token_id`,
    `eot_token_id` (end of a chat turn; not an official field), `weight_tying`, `rope_theta`, `include_qkv_bias`.
    With `block_length` (not an official field; None: off) attention is block-causal, as in block diffusion
    (arXiv:2503.09573): tokens see their own block of so many, counted from the first that is not padding, and those
    before it.
    `init_fn` is "mitchell" (std 1/sqrt(fan in), the residual projections divided by sqrt(2 (layer + 1))) or "normal"
    (std `init_std`); both are cut at `init_cutoff_factor` standard deviations (None: mitchell 3, normal no cut).
    `flash_attention`, `init_device`, `precision` are read by the official code only and kept as they are.

    Raises ValueError for an unknown key, for sizes that do not fit, and for an official switch that is not implemented.
    """

    model_type = "llada"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "num_hidden_layers": "n_layers",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "tie_word_embeddings": "weight_tying",
        "attention_bias": "include_qkv_bias",
        "hidden_act": "activation_type",
        "initializer_range": "init_std",
    }

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int = None  # pyright: ignore[reportAssignmentType]  # __post_init__ replaces None
    multi_query_attention: bool | None = None
    mlp_ratio: int = 4
    mlp_hidden_size: int = None  # pyright: ignore[reportAssignmentType]  # __post_init__ replaces None
    vocab_size: int = 126464
    embedding_size: int = None  # pyright: ignore[reportAssignmentType]  # __post_init__ replaces None
    max_sequence_length: int = 4096
    mask_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    eot_token_id: int | None = None
    weight_tying: bool = False
    block_length: int | None = None
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    include_qkv_bias: bool = False
    init_fn: str = "mitchell"
    init_std: float = 0.02
    init_cutoff_factor: float | None = None
    # One value implemented (see _ONLY).
    alibi: bool = False
    alibi_bias_max: float = 8.0
    rope: bool = True
    rope_full_precision: bool = True
    block_type: str = "llama"
    block_group_size: int = 1
    activation_type: str = "silu"
    attention_layer_norm: bool = False
    attention_layer_norm_with_affine: bool = True
    input_emb_norm: bool = False
    layer_norm_type: str = "rms"
    layer_norm_with_affine: bool = True
    bias_for_layer_norm: bool | None = False
    include_bias: bool = False
    scale_logits: bool = False
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0
    use_cache: bool = False
    # Read by the official code only.
    flash_attention: bool = False
    init_device: str | None = None
    precision: str | None = None

    def __post_init__(self, **kwargs: Any):
        for name in [name for name in kwargs if name in self.attribute_map]:
            ours, given = self.attribute_map[name], kwargs.pop(name)
            if getattr(self, ours) not in (getattr(type(self), ours), given):
                raise ValueError(
                    f"{name}={given!r} contradicts {ours}={getattr(self, ours)!r}, its other name; give one"
                )
            setattr(self, name, given)
        self._refuse_unknown(kwargs)
        self._check_types()
        self._check_ranges()  # of what was given, before others are made of it
        if self.n_kv_heads is None:
            self.n_kv_heads = 1 if self.multi_query_attention else self.n_heads
        if self.mlp_hidden_size is None:
            self.mlp_hidden_size = self.mlp_ratio * self.d_model
        if self.embedding_size is None:
            self.embedding_size = self.vocab_size
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id
        self._validate_sizes()
        try:
            super().__post_init__(**{name: value for name, value in kwargs.items() if name != "auto_map"})
        except (
            AttributeError,
            TypeError,
            ValueError,
        ) as error:  # of what transformers reads itself
            raise ValueError(
                f"a setting of transformers among {', '.join(kwargs)} has no usable value: {error}"
            ) from None
        for name in ("return_dict", "output_hidden_states", "output_attentions"):  # read in every call
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ValueError(f"dtype={self.dtype!r} must name a type of numbers with fractions, such as float32")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As in transformers, without the keys by which a file could make transformers fetch code."""
        if "self" in config_dict:  # what Python would take for the object
            raise ValueError("unknown LLaDA configuration key 'self'; a LLaDA has no such setting; remove it")
        return super().from_dict({k: v for k, v in config_dict.items() if k not in FETCHES_CODE}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Every official key, so that no reader falls back to the (different) defaults of the official class."""
        output = super().to_dict()
        output.pop("auto_map", None)
        if output["architectures"] == ["LLaDAForMaskedLM"]:
            output["architectures"] = ["LLaDAModelLM"]  # what the tools that read the official layout look for
        if output["dtype"] is not None:
            output["torch_dtype"] = output["dtype"]  # the official files predate the new name
        return output

    def to_diff_dict(self) -> dict[str, Any]:
        return {k: v for k, v in self.to_dict().items() if k not in ("_name_or_path", "id2label", "label2id")}

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        generic = set(PreTrainedConfig.default_config_fields()) | set(GenerationConfig().to_dict())
        known = generic | _FROM_TRANSFORMERS
        unknown = sorted(name for name in kwargs if name not in known and not name.startswith("_"))
        if unknown:
            names = [*self.default_config_fields(), *self.attribute_map]
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "a LLaDA has no such setting; remove it"
            raise ValueError(f"unknown LLaDA configuration key {unknown[0]!r}; {hint}")

    def _check_types(self) -> None:
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool | None):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        for name in (*_SIZES, *_OPTIONAL_SIZES, *_TOKENS, *_NUMBERS):
            given, kinds = getattr(self, name), (int, float) if name in _NUMBERS else (int,)
            absent = given is None and name not in _SIZES
            if not absent and (isinstance(given, bool) or not isinstance(given, kinds)):
                expected = "a number" if name in _NUMBERS else "a whole number"
                raise ValueError(f"{name}={given!r} must be {expected}")

    def _check_ranges(self) -> None:
        for name in (*_SIZES, *_OPTIONAL_SIZES):
            given = getattr(self, name)
            if given is not None and not 1 <= given < 2**31:
                raise ValueError(f"{name}={given} must be at least 1 and below 2**31")

    def _validate_sizes(self) -> None:
        for name, (allowed, why) in _ONLY.items():
            given = getattr(self, name)
            if given != allowed and not (given is None and not allowed):
                raise ValueError(f"{name}={given!r} is not implemented; only {allowed!r} is, because {why}")
        self._check_ranges()
        for name in _NUMBERS:
            given = getattr(self, name)
            least = sys.float_info.min if name in ("rope_theta", "init_cutoff_factor") else 0  # which are divided by
            if given is not None and not least <= given <= sys.float_info.max:
                raise ValueError(f"{name}={given} must be {'above' if least else 'at least'} 0 and finite")
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise ValueError(
                f"d_model={self.d_model} must be n_heads={self.n_heads} times an even head size, for rotary positions"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}")
        if self.multi_query_attention and self.n_kv_heads != 1:
            raise ValueError(f"multi_query_attention=True means one key-value head, but n_kv_heads={self.n_kv_heads}")
        if self.embedding_size < self.vocab_size:
            raise ValueError(f"embedding_size={self.embedding_size} must be at least vocab_size={self.vocab_size}")
        for name in _TOKENS:
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"{name}={token} is not in the vocabulary 0..{self.vocab_size - 1}")
            if name != "mask_token_id" and token is not None and token == self.mask_token_id:
                raise ValueError(f"{name}={token} is mask_token_id, too; what is masked needs a token of its own")
        if self.init_fn not in ("mitchell", "normal"):
            raise ValueError(f"init_fn={self.init_fn!r} is not implemented; allowed: 'mitchell', 'normal'")
