"""Log-likelihoods under a causal model of transformers, such as the autoregressive baseline: exact, without masks.

Shapes: B batch, L length, C columns of the batch with a token that is scored, N such tokens, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llada.estimate import Estimate
from llada.eval.scoring import Request, check_answer
from llada.sampling.request import check_length


@dataclass(frozen=True)
class Causal:
    """A model that predicts each token from those before it, to tell it from a mask predictor."""

    network: PreTrainedModel


def causal_log_likelihoods(model: Causal, requests: Iterable[Request], *, batch_size: int = 32) -> Iterator[Estimate]:
    """log p(answer | prompt) of each request in nats, by the chain rule from the left; one evaluation each.

    The first token of all is predicted from the model's `bos_token_id`, as in training.

    Raises ValueError where an answer is empty, does not fit the model together with its prompt, or nothing is there to
    predict its first token from, and FloatingPointError where the logits are not numbers.
    """
    remaining = iter(requests)
    while batch := list(islice(remaining, batch_size)):
        for value in _evaluated(model.network, [_begun(model.network, request) for request in batch]).tolist():
            yield Estimate(value, 0.0, 1)


def _begun(network: PreTrainedModel, request: Request) -> Request:
    """The request with something to predict the first token of the answer from."""
    check_answer(request)
    if len(request.prompt) == 0:
        bos = network.config.bos_token_id
        if bos is None:
            raise ValueError("the model's config has no bos_token_id to predict the first token from; set it")
        request = request._replace(prompt=torch.tensor([bos]))
    check_length(network, len(request.prompt) + len(request.answer) - 1, "shorten them")
    return request


@torch.no_grad()
def _evaluated(network: PreTrainedModel, requests: Sequence[Request]) -> Tensor:
    """The log-likelihood of each answer, float64 (B,) on the CPU; shorter rows are padded on the right, unseen."""
    B, L = len(requests), max(sum(map(len, request)) for request in requests)
    tokens, scored = torch.zeros(B, L, dtype=torch.long), torch.zeros(B, L, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(requests):
        tokens[i, : len(prompt) + len(answer)] = torch.cat((prompt, answer))
        scored[i, len(prompt) : len(prompt) + len(answer)] = True
    tokens, scored = tokens.to(network.device), scored[:, 1:].to(network.device)
    columns = scored.any(dim=0).nonzero()[:, 0]  # (C,)
    logits = network(input_ids=tokens[:, :-1], logits_to_keep=columns, use_cache=False).logits  # (B, C, V)
    logits = logits[scored[:, columns]]  # (N, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = tokens[:, 1:][scored]  # (N,)
    found = logits.gather(-1, targets[:, None])[:, 0].double() - logits.logsumexp(dim=-1).double()
    if found.isnan().any():
        raise FloatingPointError("the model's logits are not numbers; look at its weights and its dtype")
    row = scored.nonzero()[:, 0]
    return torch.zeros(B, dtype=torch.float64).index_add(0, row.cpu(), found.cpu())
