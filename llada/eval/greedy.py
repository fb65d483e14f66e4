"""Whether greedy decoding, one token per step, the surest first, writes an answer: what lm_eval calls `is_greedy`.

Shapes: B batch, A answer length.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from llada.eval.answers import left_padded
from llada.eval.scoring import Request, device_of
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generation_states


def is_greedy(model: PreTrainedModel, requests: Sequence[Request], *, cfg_scale: float = 0.0) -> list[bool]:
    """For each request, all with answers of one length; up to A calls of the network, fewer where all go astray."""
    A = len(requests[0].answer)
    answers = torch.stack([request.answer for request in requests])  # (B, A)
    filler = (int(model.config.mask_token_id) + 1) % int(model.config.vocab_size)  # padding is any token but [MASK]
    prompt, attention_mask = left_padded([request.prompt.tolist() for request in requests], filler)
    prompt, attention_mask, answers = (each.to(device_of(model)) for each in (prompt, attention_mask, answers))
    sampler = SamplerConfig(gen_length=A, cfg_scale=cfg_scale)
    right = torch.ones(len(requests), dtype=torch.bool, device=answers.device)
    for state in generation_states(model, prompt, attention_mask, sampler):
        written = state.canvas[:, prompt.shape[1] :]
        right = ((written == answers) | (written == model.config.mask_token_id)).all(dim=1)  # (B,)
        if not right.any():  # sync
            break
    return right.tolist()
