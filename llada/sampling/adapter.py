"""Sample from any AutoModelForMaskedLM of transformers: BERT, RoBERTa, ModernBERT, ESM (arXiv:1902.04094).

Such models predict a [MASK] as the samplers expect, but differ in what they call their special tokens, in how many
positions they really have, and in where these begin; nothing else of a model is touched.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class AdaptedConfig:
    """What the samplers read of a model."""

    mask_token_id: int
    eos_token_id: int | None  # what ends a text: the tokenizer's end of sequence, or [SEP]
    max_position_embeddings: int | None  # tokens that fit, with special ones; None: no limit


@dataclass(frozen=True)
class adapted:  # noqa: N801  # used like a function
    """A masked language model as a mask predictor, for `generate`, `infill`, and `plain` in `denoise`.

    A token's position is its place in its own row, padding not counted, whatever the model would make of it: so left
    padding changes nothing, and neither does a padding token that the model itself writes.

    Args:
        model: of the kind `AutoModelForMaskedLM`, in evaluation mode.
        mask_token_id: `tokenizer.mask_token_id`; None: what the model's own config says (ESM).
        eos_token_id: `tokenizer.eos_token_id` or `tokenizer.sep_token_id`, where a sampler needs it.

    Raises ValueError where no mask token is known, and for sequences longer than the model's positions. Tokens that
    must not be written, such as [CLS] and [PAD], are the sampler's `suppress_tokens`.
    """

    model: nn.Module
    mask_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def config(self) -> AdaptedConfig:
        config: Any = self.model.config
        # a field of some configurations only
        mask = self.mask_token_id if self.mask_token_id is not None else getattr(config, "mask_token_id", None)
        if mask is None:
            raise ValueError("the model's config has no mask_token_id; give mask_token_id=tokenizer.mask_token_id")
        positions, first = _positions(self.model)
        return AdaptedConfig(mask, self.eos_token_id, None if positions is None else positions - first)

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> Any:
        """The model's output, with `.logits` (B, L, V), for tokens (B, L) with padding where the mask is 0."""
        longest = self.config.max_position_embeddings
        if longest is not None and input_ids.shape[1] > longest:
            raise ValueError(f"{input_ids.shape[1]} tokens exceed the model's {longest} positions; shorten them")
        options = {} if attention_mask is None else {"attention_mask": attention_mask}
        if "position_ids" in inspect.signature(self.model.forward).parameters:
            present = input_ids.new_ones(input_ids.shape) if attention_mask is None else attention_mask.long()
            place = (present.cumsum(dim=1) - 1).clamp(min=0)  # (B, L)
            options["position_ids"] = place + _positions(self.model)[1]
        return self.model(input_ids=input_ids, **options)


def _positions(model: nn.Module) -> tuple[int | None, int]:
    """How many positions a model has, and which is the first one that tokens use.

    A table of learned positions with a row for padding begins after that row (RoBERTa, ESM-1b). Rotary positions have
    no table; the config says for how many the model was made.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings, 0 if module.padding_idx is None else module.padding_idx + 1
    config: Any = model.config
    return getattr(config, "max_position_embeddings", None), 0  # a field of most configurations
