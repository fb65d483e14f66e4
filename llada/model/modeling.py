"""The mask predictor of LLaDA (arXiv:2502.09992, §2.2): a Transformer whose attention sees both directions.

Time is not an input, logits are not shifted (position i predicts token i), and the forward pass has no randomness.
Modules carry transformers' Llama names; `llada.model.checkpoint` maps them to the official names on disk.
The whole network stands in one file, as transformers has it: from the norm to the loss it is read as one formula.

Shapes: B batch, L length, D d_model, H heads, K key-value heads, E head size, V vocabulary, N chosen positions.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_flash_attention_utils import FlashAttentionKwargs
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from llada.model.cache import KeyValues, Span
from llada.model.configuration import LLaDAConfig
from llada.model.head import linear_cross_entropy
from llada.model.weights import check_loading_report, check_weight_files, register_weight_names
from llada.sampling.transformers_style import DiffusionGenerationMixin


def at_least_float32(states: Tensor) -> Tensor:
    """Half precision becomes float32, for norms, rotations and softmax; float64 stays float64 all through."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 and cast back before the weight, as in the official model."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = F.rms_norm(at_least_float32(hidden_states), self.weight.shape, eps=self.eps)
        return self.weight * normed.to(hidden_states.dtype)


class Linear(nn.Linear):
    """A projection that a CPU applies to a few tokens, as in a step with a cache, in about half of the usual time.

    Between 2 and 48 tokens weight times tokens is the faster product there, whatever the size of the weight.
    """

    def forward(self, input: Tensor) -> Tensor:  # as nn.Linear calls it
        tokens = input.flatten(0, -2)
        # not in training, where checkpointing computes the same once with and once without gradients
        if input.is_cpu and 2 <= len(tokens) <= 48 and not (self.training or torch.is_grad_enabled()):
            # contiguous, as attention is several times slower on columns; in parts that a processor's cache holds
            output = tokens.new_empty(len(tokens), len(self.weight))
            for rows, columns in zip(self.weight.split(4096), output.split(4096, dim=1), strict=True):
                columns.copy_((rows @ tokens.T).T)
            output = output.unflatten(0, input.shape[:-1])
            return output if self.bias is None else output + self.bias
        return super().forward(input)


class ResidualLinear(Linear):
    """A projection whose output is added to the residual stream; its initial scale falls with the layer."""

    def __init__(self, in_features: int, out_features: int, layer_idx: int):
        super().__init__(in_features, out_features, bias=False)
        self.layer_idx = layer_idx


def rotary_tables(
    position_ids: Tensor, head_dim: int, theta: float, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles (B, 1, L, E), in `dtype`; the two halves of E rotate against each other.

    Computed in every forward pass: a stored table would come back as uninitialised memory from `from_pretrained`,
    which builds modules on the meta device.
    """
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=dtype) / head_dim
    frequencies = 1.0 / theta**exponents  # (E/2,)
    angles = position_ids[:, None, :, None].to(dtype) * frequencies  # (B, 1, L, E/2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding, in float32 at least, to `states` (B, H, L, E); the result has their dtype."""
    full = at_least_float32(states)
    first, second = full.chunk(2, dim=-1)
    return (full * cos + torch.cat((-second, first), dim=-1) * sin).to(states.dtype)


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attention written out, with its weights (B, H, L, L); transformers calls it for attn_implementation="eager"."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = at_least_float32(scores).softmax(dim=-1).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class Attention(nn.Module):
    """Multi-head attention over all positions, with grouped keys and values if `n_kv_heads < n_heads`."""

    is_causal = False  # transformers' attention functions are causal where this is not said

    def __init__(self, config: LLaDAConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_key_value_groups = config.n_heads // config.n_kv_heads
        kv_size = config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.d_model, config.d_model, bias=config.include_qkv_bias)
        self.k_proj = Linear(config.d_model, kv_size, bias=config.include_qkv_bias)
        self.v_proj = Linear(config.d_model, kv_size, bias=config.include_qkv_bias)
        self.o_proj = ResidualLinear(config.d_model, config.d_model, layer_idx)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        cache: Span | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        heads = "B L (H E) -> B H L E"
        query = rotate(rearrange(self.q_proj(hidden_states), heads, E=self.config.head_dim), *rotary)
        key = rotate(rearrange(self.k_proj(hidden_states), heads, E=self.config.head_dim), *rotary)
        value = rearrange(self.v_proj(hidden_states), heads, E=self.config.head_dim)
        if cache is not None:
            key, value = cache.write(self.layer_idx, key, value)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation or "eager", eager_attention)
        if not query.numel():  # an empty batch: transformers' attention functions cannot reshape one
            attend, attention_mask = eager_attention, None
        scaling = self.config.head_dim**-0.5
        mixed, weights = attend(self, query, key, value, attention_mask, scaling=scaling, dropout=0.0, **kwargs)
        return self.o_proj(rearrange(mixed, "B L H E -> B L (H E)")), weights


class MLP(nn.Module):
    """SwiGLU feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LLaDAConfig, layer_idx: int):
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.mlp_hidden_size, bias=False)
        self.up_proj = Linear(config.d_model, config.mlp_hidden_size, bias=False)
        self.down_proj = ResidualLinear(config.mlp_hidden_size, config.d_model, layer_idx)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class Block(GradientCheckpointingLayer):
    """Pre-norm residual block: attention, then feed-forward."""

    def __init__(self, config: LLaDAConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.self_attn = Attention(config, layer_idx)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.mlp = MLP(config, layer_idx)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        only_at: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        mixed, _ = self.self_attn(self.input_layernorm(hidden_states), attention_mask, rotary, **kwargs)
        hidden_states = hidden_states + mixed
        if only_at is not None:
            hidden_states = hidden_states.flatten(0, 1).index_select(0, only_at)  # (N, D)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LLaDAPreTrainedModel(PreTrainedModel):
    """What both models share: initialisation, and what transformers may do with them."""

    config: LLaDAConfig
    config_class = LLaDAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but only safetensors, and ValueError where any tensor is missing, extra or misshapen."""
        if Path(pretrained_model_name_or_path).is_dir():
            check_weight_files(Path(pretrained_model_name_or_path))
        wants_report = kwargs.pop("output_loading_info", False)
        strict = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **{**kwargs, **strict})
        model, report = loaded
        check_loading_report(pretrained_model_name_or_path, report)
        model._weight_conversions = None  # else saving would repeat the layout that was read, not the official one
        return (model, report) if wants_report else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            mitchell = self.config.init_fn == "mitchell"
            std = module.weight.shape[-1] ** -0.5 if mitchell else self.config.init_std
            if mitchell and isinstance(module, ResidualLinear):
                std /= (2 * (module.layer_idx + 1)) ** 0.5
            cut = self.config.init_cutoff_factor or (3.0 if mitchell else None)
            if cut is None:
                init.normal_(module.weight, std=std)
            else:
                init.trunc_normal_(module.weight, std=std, a=-cut * std, b=cut * std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)


class LLaDAModel(LLaDAPreTrainedModel):
    """The Transformer without the LM head: tokens → hidden states."""

    _keys_to_ignore_on_load_unexpected = [r"lm_head", r"transformer\.ff_out"]

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.embedding_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer_idx) for layer_idx in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Span | None = None,
        only_at: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Hidden states after the last norm, `last_hidden_state` (B, L, D).

        Args:
            input_ids: tokens (B, L); or `inputs_embeds` (B, L, D), exactly one of the two.
            attention_mask: (B, L), 0 where a position is padding and may not be attended to; None: no padding. A mask
                with four dimensions goes to the attention function as it is.
            position_ids: (B, L) or (1, L); None: 0, 1, 2, ... Only differences matter, so left padding needs none. With
                positions that are given, more than `max_sequence_length` tokens may come at once, as when a row is read
                twice.
            cache: the given tokens are those of its span, and attend to all that it has stored, whose padding is what
                `attention_mask` says. Not for training.
            only_at: int64 (N,), positions in the flattened batch; the last block goes on with them alone, and hidden
                states are (N, D).

        Raises ValueError where the sequence is longer than `config.max_sequence_length` or the mask has another shape,
        and TypeError for an option without an effect, such as `labels`. transformers' `output_hidden_states`,
        `output_attentions` and options of flash attention have one.
        """
        _refuse_unknown_options(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        shape = (hidden_states.shape[0], hidden_states.shape[1] if cache is None else cache.stored.length)  # attended
        if position_ids is None and shape[1] > self.config.max_sequence_length:
            raise ValueError(
                f"a sequence of {shape[1]} tokens does not fit into "
                f"max_sequence_length={self.config.max_sequence_length}"
            )
        if cache is not None and cache.shape != tuple(hidden_states.shape[:2]):
            raise ValueError(f"the cache's span is {cache.shape}, but the tokens have {tuple(hidden_states.shape[:2])}")
        if attention_mask is not None:
            self._check_mask(attention_mask, shape)
        columns = None if cache is None else cache.columns
        if position_ids is None:
            position_ids = torch.arange(shape[1], device=hidden_states.device)[None] if columns is None else columns
        precision = torch.promote_types(hidden_states.dtype, torch.float32)
        rotary = rotary_tables(position_ids, self.config.head_dim, self.config.rope_theta, dtype=precision)
        visible = self._visible(hidden_states, attention_mask, columns, shape)
        if cache is not None:
            kwargs = {**kwargs, "cache": cache}
        *blocks, last = self.layers
        for block in blocks:
            hidden_states = block(hidden_states, visible, rotary, **kwargs)
        hidden_states = last(hidden_states, visible, rotary, only_at, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))

    def _check_mask(self, attention_mask: Tensor, shape: tuple[int, int]) -> None:
        """Raise ValueError for a mask that does not fit the tokens, or that the attention function would misread."""
        attention = self.config._attn_implementation or "eager"
        if attention_mask.ndim != 4 and attention_mask.shape != shape:
            raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, but the tokens have {shape}")
        if attention_mask.ndim == 4 and "flash" in attention:
            raise ValueError(
                f"{attention} takes no mask of four dimensions, such as that of documents that share a row; load the "
                'model with attn_implementation="sdpa"'
            )

    def _visible(
        self, hidden_states: Tensor, attention_mask: Tensor | None, columns: Tensor | None, shape: tuple[int, int]
    ) -> Any:
        """The mask that the attention function takes, for queries at `columns` and keys of the given shape (B, L)."""
        attended = hidden_states.new_empty(*shape, 0)
        if self.config.block_length is None:
            return create_bidirectional_mask(self.config, hidden_states, attention_mask, attended)
        present = torch.ones(shape, dtype=torch.int64, device=hidden_states.device)
        if attention_mask is not None:
            if attention_mask.ndim == 4:
                return attention_mask
            present = attention_mask.long()
        block = (present.cumsum(dim=1) - 1) // self.config.block_length  # (B, L), of each token
        asking = block if columns is None else block.gather(1, columns)  # (B, S)
        return create_bidirectional_mask(
            self.config,
            hidden_states,
            attention_mask,
            attended,
            and_mask_function=lambda row, head, query, key: block[row, key] <= asking[row, query],
        )


@dataclass
class Prediction(MaskedLMOutput):
    """What the mask predictor says: logits, or how far off they are from targets."""

    target_losses: Tensor | None = None  # (N,) cross-entropy of each target in nats, without a gradient
    confidences: Tensor | None = None  # (N,) largest log-probability beside each target, without a gradient


class LLaDAForMaskedLM(DiffusionGenerationMixin, LLaDAPreTrainedModel):
    """LLaDA: at every position, a distribution over the token that stands there in the clean sequence."""

    selects_logits = True  # the samplers give it `logits_at`
    takes_targets = True  # training gives it `targets`
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        self.model = LLaDAModel(config)
        self.lm_head = Linear(config.d_model, config.embedding_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_at: Tensor | None = None,
        targets: Tensor | None = None,
        target_weights: Tensor | None = None,
        confidences: bool = False,
        **kwargs: Any,
    ) -> Prediction:
        """Logits (B, L, V), unshifted; V is `vocab_size`, so that padding rows of the embedding are never predicted.

        Args:
            logits_at: int64 (N,), positions in the flattened batch (`row * L + position`); the LM head then runs only
                there and logits are (N, V). This is what makes a large vocabulary affordable.
            targets: int64 (N,), what stands at these positions; then there is `loss` instead of logits, the sum of
                cross-entropies weighted by `target_weights` (N,), in far less memory (`llada.model.head`).
            confidences: whether the largest log-probability at each target is wanted, too.

        The other arguments are those of `LLaDAModel`.
        """
        # not in training, where adapters with dropout have to know the rows of what they are given
        only_at = None if torch.is_grad_enabled() else logits_at
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds, only_at=only_at, **kwargs)
        hidden_states = outputs.last_hidden_state
        if logits_at is not None and only_at is None:
            hidden_states = hidden_states.flatten(0, 1).index_select(0, logits_at)  # (N, D)
        given = {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        V = self.config.vocab_size
        if targets is not None and target_weights is not None:
            weight = self.lm_head.weight if self.config.embedding_size == V else self.lm_head.weight[:V]
            total, losses, largest = linear_cross_entropy(
                hidden_states.flatten(0, -2), weight, targets, target_weights, confidences=confidences
            )
            return Prediction(loss=total, target_losses=losses, confidences=largest, **given)
        if targets is not None or target_weights is not None:
            raise ValueError("targets and target_weights (N,) go together; give both, or neither for logits")
        if confidences:
            raise ValueError("confidences=True is for targets and target_weights; without them there are logits")
        logits = self.lm_head(hidden_states)
        return Prediction(logits=logits[..., :V] if self.config.embedding_size > V else logits, **given)

    def key_values(self, batch: int, length: int) -> KeyValues:
        """An empty cache of `batch` sequences of that length."""
        return KeyValues(batch, length)


def _refuse_unknown_options(options: dict[str, Any]) -> None:
    """Raise TypeError for a keyword that nothing below would read; one that asks for nothing (None, False) may pass."""
    known = {"output_hidden_states", "output_attentions", *FlashAttentionKwargs.__annotations__}
    for name, value in options.items():
        if name not in known and value is not None and value is not False:
            hint = "; the loss is llada.elbo_loss(...)" if name == "labels" else ""
            raise TypeError(f"forward() has no argument {name!r}{hint}")


register_weight_names()
AutoModel.register(LLaDAConfig, LLaDAModel, exist_ok=True)
AutoModelForMaskedLM.register(LLaDAConfig, LLaDAForMaskedLM, exist_ok=True)
