"""What is asked of those who ask for text: tokens that fit the model, padding on the left, the special tokens.

Shapes: B batch, L length.
"""

from typing import Literal

import torch
from torch import Tensor

from llada.sampling.predictors import MaskPredictor
from llada.whole import check_whole


def check_tokens(model: MaskPredictor, tokens: Tensor) -> None:
    """Raise ValueError unless these are token ids, int64 (B, L), and the model has a mask token."""
    if model.config.mask_token_id is None:
        raise ValueError("model.config.mask_token_id is not set; set it to the id of the tokenizer's mask token")
    check_whole("model.config.mask_token_id", model.config.mask_token_id, 0, 2**63)
    if not isinstance(tokens, Tensor):
        raise ValueError(f"the tokens are a {type(tokens).__name__}; give a tensor, such as torch.tensor([ids])")
    if tokens.dim() != 2:
        raise ValueError(f"the tokens have shape {tuple(tokens.shape)}; it must be (batch, length)")
    if tokens.dtype != torch.int64:
        raise ValueError(f"token ids must be integers, not {tokens.dtype}; give int64, as tokens.long() is")
    # a mask predictor from elsewhere may have no size of its vocabulary, and only ours more embeddings than tokens
    known = getattr(model.config, "embedding_size", None) or getattr(model.config, "vocab_size", None)
    if known is not None and tokens.numel() and not (tokens.min() >= 0 and tokens.max() < known):  # sync
        worst = tokens.max() if tokens.max() >= known else tokens.min()
        raise ValueError(f"token {int(worst)} is none of the model's {known}; encode the text with its own tokenizer")


def check_length(
    model: MaskPredictor,
    length: int,
    advice: str = "shorten the prompt, or set a smaller gen_length (or longest)",
) -> None:
    """Raise ValueError, which ends with the advice, where the model has no room for so many tokens."""
    most = getattr(model.config, "max_position_embeddings", None)  # not every model has a limit
    if most is not None and length > most:
        raise ValueError(f"{length} tokens of prompt and answer exceed the model's {most}; {advice}")


def left_padding(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The attention mask (B, L) as integers; all ones where none is given. Raises ValueError for other padding."""
    if attention_mask is None:
        return torch.ones_like(tokens)
    if not isinstance(attention_mask, Tensor):
        raise ValueError(f"attention_mask is a {type(attention_mask).__name__}; give a tensor, such as torch.ones")
    if attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} and tokens {tuple(tokens.shape)} differ in shape"
        )
    if ((attention_mask != 0) & (attention_mask != 1)).any():
        raise ValueError("attention_mask must be 1 at tokens and 0 at padding, and nothing else")
    if (attention_mask.long().diff(dim=1) < 0).any():
        raise ValueError("padding must be on the left: set tokenizer.padding_side = 'left'")
    return attention_mask.long()


def prompt_padding(model: MaskPredictor, prompt: Tensor, attention_mask: Tensor | None) -> Tensor:
    """`left_padding` of a prompt. Raises ValueError where it holds [MASK], too."""
    attention_mask = left_padding(prompt, attention_mask)
    masked = prompt == model.config.mask_token_id
    if (masked & (attention_mask == 1)).any():
        raise ValueError("the prompt holds [MASK] tokens; llada.infill fills them, generate only continues")
    if masked.any():
        raise ValueError("the padding holds [MASK] tokens, which stand for what is generated; pad with another token")
    return attention_mask


Need = Literal["forbid_eos", "stop_at_eos", "eos_last", "longest", "the end of an answer", "padding"]


def eos_token(model: MaskPredictor, option: Need) -> int:
    """The end of sequence. Raises ValueError, which names what needs it, unless there is just one."""
    eos = getattr(model.config, "eos_token_id", None)  # a mask predictor from elsewhere may have none, or several
    if eos is None:
        raise ValueError(f"{option} needs model.config.eos_token_id, which is not set")
    if not isinstance(eos, int):
        raise ValueError(
            f"{option} needs one model.config.eos_token_id, not {eos!r}; set it to the one that ends a text"
        )
    return eos


def end_tokens(model: MaskPredictor, option: Need = "the end of an answer") -> list[int]:
    """End of sequence, and end of turn where the vocabulary has it. Errors as of `eos_token`."""
    eot = getattr(model.config, "eot_token_id", None)  # a field of LLaDAConfig only
    return [eos_token(model, option), *([] if eot is None else [eot])]
