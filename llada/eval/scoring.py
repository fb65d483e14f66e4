"""What a mask predictor says of an answer whose tokens are partly masked: all likelihoods are made of this.

Shapes: B batch, L length, A answer length, n masks of an answer, N masked positions of a batch, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from llada.sampling.predictors import MaskPredictor, Predictor, check_vocabulary, guided, logits_at, plain
from llada.sampling.request import check_length, check_tokens
from llada.whole import check_whole


class Request(NamedTuple):
    """An answer to be scored, given a prompt."""

    prompt: Tensor  # (P,) tokens, always visible; P may be 0
    answer: Tensor  # (A,) tokens


class Question(NamedTuple):
    """A request, and which of its answer's tokens are masked in each of n evaluations."""

    request: Request
    masked: Tensor  # (n, A) bool


class _Row(NamedTuple):
    request: Request
    masked: Tensor  # (A,) bool
    last: bool  # of its question


def log_probs(
    model: MaskPredictor, questions: Iterable[Question], *, batch_size: int = 32, cfg_scale: float = 0.0
) -> Iterator[Tensor]:
    """For each question log p(token | all that is visible) at masked tokens, 0 elsewhere: float64 (n, A) on the CPU.

    Questions are read as they are needed and share batches, so that short ones cost no more than their part. Results
    do not depend on the batch size, up to rounding.

    Args:
        cfg_scale: classifier-free guidance by the prompt, `un + (scale + 1) (cond - un)`; two evaluations each. What
            comes out is a score and no longer belongs to a joint distribution.

    Raises ValueError where an answer is empty, holds [MASK], or does not fit the model together with its prompt, and
    FloatingPointError where the model's logits are not numbers.
    """
    check_whole("batch_size", batch_size, 1)
    if not (isinstance(cfg_scale, Real) and 0 <= cfg_scale <= 1e6):
        raise ValueError(f"cfg_scale={cfg_scale} must lie between 0, no guidance, and 1e6")
    rows, done = _rows(model, questions), []
    while batch := list(islice(rows, batch_size)):
        for row, result in zip(batch, _evaluated(model, batch, cfg_scale), strict=True):
            done.append(result)
            if row.last:
                yield torch.stack(done)
                done = []


def request_of(prompt: Tensor | Sequence[int], answer: Tensor | Sequence[int]) -> Request:
    """Tokens as they come. Raises ValueError where they are not one sequence each."""
    tokens = []
    for name, given in (("prompt", prompt), ("answer", answer)):
        try:
            part = torch.as_tensor(given, dtype=torch.long if len(given) == 0 else None)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise ValueError(f"{name}={given!r} must be token ids (length,); encode a text first") from None
        tokens.append(part)
        if part.dim() != 1 or part.is_floating_point():
            raise ValueError(f"{name} must be token ids (length,), not {part.dtype} {tuple(part.shape)}")
    return Request(*(part.long() for part in tokens))


def check_request(model: MaskPredictor, request: Request) -> None:
    """Raise ValueError for what cannot be scored."""
    tokens = torch.cat(request)
    check_tokens(model, tokens[None])
    check_answer(request)
    if (tokens == model.config.mask_token_id).any():
        raise ValueError("prompt and answer must not hold [MASK]: what is masked is chosen here")
    check_length(model, len(tokens), "shorten the prompt or the answer")


def check_answer(request: Request) -> None:
    """Raise ValueError for an answer without tokens."""
    if len(request.answer) == 0:
        raise ValueError("the answer is empty: its likelihood is 1 under every model; score at least one token")


def device_of(model: MaskPredictor) -> torch.device:
    """Where a network's weights are; what is no network takes tokens on the CPU."""
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _rows(model: MaskPredictor, questions: Iterable[Question]) -> Iterator[_Row]:
    for request, masked in questions:
        check_request(model, request)
        yield from (_Row(request, one, i + 1 == len(masked)) for i, one in enumerate(masked))


@torch.no_grad()
def _evaluated(model: MaskPredictor, rows: Sequence[_Row], cfg_scale: float) -> list[Tensor]:
    """The log-probabilities (A,) of each row; shorter ones are padded on the left."""
    lengths = [len(row.request.prompt) + len(row.request.answer) for row in rows]
    B, L = len(rows), max(lengths)
    x0 = torch.zeros(B, L, dtype=torch.long)
    present, given, masked = (torch.zeros(B, L, dtype=torch.bool) for _ in range(3))
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        A = len(row.request.answer)
        x0[i, L - length :] = torch.cat(row.request)
        present[i, L - length :] = True
        given[i, L - length : L - A] = True
        masked[i, L - A :] = row.masked
    device = device_of(model)
    x0, present, given, masked = (each.to(device) for each in (x0, present, given, masked))
    mask = model.config.mask_token_id
    predict: Predictor = plain(model, None if present.all() else present.long())
    if cfg_scale:
        predict = guided(predict, given, mask, cfg_scale)
    logits = logits_at(predict, torch.where(masked, mask, x0), slice(0, L), masked)  # (N, V)
    check_vocabulary(logits, mask)
    logits[:, mask] = -torch.inf
    normaliser = logits.logsumexp(dim=-1).double()  # (N,)
    found = logits.gather(-1, x0[masked][:, None])[:, 0].double() - normaliser
    if not normaliser.isfinite().all():  # an infinite logit, too, would make other tokens seem impossible
        raise FloatingPointError("the model's logits are not numbers; look at its weights and its dtype")
    scores = torch.zeros(B, L, dtype=torch.float64).masked_scatter(masked.cpu(), found.cpu())
    return [scores[i, L - len(row.request.answer) :] for i, row in enumerate(rows)]
