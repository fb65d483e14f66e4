"""Predictors: canvas (B, L) and a window of it → logits (B, W, V). Wrapping one gives another.

Any function will do. One that is a `Predictor` is asked only for what a step needs, some positions of some rows, which
is what makes a large vocabulary affordable and lets finished rows cost nothing.

A model is anything whose call returns `.logits` (B, L, V), unshifted, and whose `.config` has `mask_token_id`.

Shapes: B batch, L length, W window, V vocabulary, N wanted positions, R rows of the batch with one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Predict = Callable[[Tensor, slice], Tensor]


class MaskPredictor(Protocol):
    """What the samplers ask of a model."""

    config: Any  # has mask_token_id; eos_token_id, eot_token_id and max_position_embeddings where they exist

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> Any:
        """An object with `.logits` (B, L, V), unshifted."""
        ...


@runtime_checkable
class LeanModel(Protocol):
    """A model that computes logits only where they are asked for."""

    config: Any
    selects_logits: bool  # says so

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None, logits_at: Tensor) -> Any:
        """An object with `.logits` (N, V) at positions, int64 (N,), of the flattened batch (B * L)."""
        ...


class Predictor(ABC):
    """A prediction that can be had for some positions only."""

    @abstractmethod
    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        """Logits (N, V) at the `wanted` positions, bool (B, W), of the window; a new tensor, the caller's own."""

    @abstractmethod
    def of_rows(self, rows: Tensor) -> Self:
        """The same for a batch that consists of these rows, int64 (R,), of this one; a row may come several times."""

    def __call__(self, canvas: Tensor, block: slice) -> Tensor:
        wanted = torch.ones_like(canvas[:, block], dtype=torch.bool)
        return self.at(canvas, block, wanted).unflatten(0, wanted.shape)


def logits_at(predict: Predict, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
    """Logits (N, V) at the `wanted` positions, bool (B, W), of the window; a new tensor, the caller's own.

    Half precision becomes float32, as confidences that differ would be rounded to equal ones.
    """
    lean = isinstance(predict, Predictor)
    logits = predict.at(canvas, block, wanted) if lean else _whole(predict(canvas, block), wanted)[wanted]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class Meter:
    """What the network did for each row of a batch. Counts in place."""

    evaluations: Tensor  # int64 (B,) calls of the network that a row took part in
    query_tokens: Tensor  # int64 (B,) positions of it that were computed in them
    rows: Tensor | None = None  # int64 (R,) of the batch, which the rows that are counted belong to; None: all of it

    @classmethod
    def of(cls, batch: Tensor) -> Self:
        """For a batch of tokens (B, ...), at zero."""
        zeros = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
        return cls(zeros, zeros.clone())

    def count(self, rows: Tensor | None, tokens: Tensor | int) -> None:
        """One more call, for these rows, int64 (R,) or all, with so many tokens, int64 (R,) or the same for all."""
        mine = torch.arange(len(self.evaluations), device=self.evaluations.device) if self.rows is None else self.rows
        mine = mine if rows is None else mine[rows]
        self.evaluations[mine] += 1  # once, however many canvases of a row were given
        self.query_tokens.index_add_(0, mine, torch.zeros_like(mine) + tokens)

    def of_rows(self, rows: Tensor) -> Self:
        """The same meter for a batch of these rows."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])


def unfinished(wanted: Tensor, *batch: Tensor | None) -> tuple[Tensor | None, tuple[Any, ...]]:
    """The rows, int64 (R,), in which anything is wanted, None where these are all; and what the batch has of them."""
    needed = wanted.any(dim=1)
    if needed.all():  # sync
        return None, batch
    rows = needed.nonzero()[:, 0]
    return rows, tuple(None if part is None else part[rows] for part in batch)


def forbid(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Logits (..., V) under which some tokens have probability 0."""
    return logits.index_fill(-1, torch.tensor(tokens, device=logits.device), -torch.inf)


def _whole(logits: Tensor, tokens: Tensor) -> Tensor:
    """Logits (B, L, V). Raises ValueError unless there are some for each of the tokens (B, L)."""
    if logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"the model gives logits {tuple(logits.shape)} for {tuple(tokens.shape)} tokens; they must be "
            "(batch, length, vocabulary), one row for each token"
        )
    return logits


def check_vocabulary(logits: Tensor, mask_token_id: int) -> None:
    """Raise ValueError where [MASK] is none of the tokens that there are logits (..., V) of."""
    if mask_token_id >= logits.shape[-1]:
        raise ValueError(f"mask_token_id={mask_token_id} is none of the {logits.shape[-1]} tokens that have logits")


def check_possible(total: Tensor) -> None:
    """Raise unless a token can be drawn at each of some positions, by their largest logits or their logsumexp (N,).

    FloatingPointError where logits are not numbers, ValueError where all tokens have probability 0.
    """
    if total.isfinite().all():  # sync
        return
    if not (total < torch.inf).all():
        raise FloatingPointError("the model's logits are not numbers; look at its weights and its dtype")
    raise ValueError("no token is possible at some position: all are suppressed, or none is allowed there")


@dataclass(frozen=True)
class plain(Predictor):  # noqa: N801  # used like a function
    """The model as it is; `attention_mask` (B, L) is 0 at padding.

    Without `beyond_window` the model is not shown what follows the window: later blocks do not exist yet.
    """

    model: MaskPredictor | LeanModel
    attention_mask: Tensor | None = None
    beyond_window: bool = True
    meter: Meter | None = None

    @torch.no_grad()
    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        start, stop, _ = block.indices(canvas.shape[1])
        end = canvas.shape[1] if self.beyond_window else stop
        rows, (shown, wanted, padding) = unfinished(wanted, canvas[:, :end], wanted, self.attention_mask)
        padding = None if padding is None else padding[:, :end]
        row, column = wanted.nonzero(as_tuple=True)  # sync
        if self.meter is not None:
            self.meter.count(rows, end)
        network: MaskPredictor | LeanModel = self.model
        if isinstance(network, LeanModel):
            return network(shown, attention_mask=padding, logits_at=row * end + start + column).logits
        return _whole(network(shown, attention_mask=padding).logits, shown)[row, start + column]

    def of_rows(self, rows: Tensor) -> Self:
        padding = None if self.attention_mask is None else self.attention_mask[rows]
        return replace(self, attention_mask=padding, meter=None if self.meter is None else self.meter.of_rows(rows))


@dataclass(frozen=True)
class guided(Predictor):  # noqa: N801
    """Unsupervised classifier-free guidance (SMDM, arXiv:2410.18514): `un + (scale + 1) (cond - un)`.

    The unconditional prediction sees the canvas with its `prompt` (bool (B, L)) masked. Scale 0 is the conditional,
    -1 the unconditional prediction. Costs two network evaluations.
    """

    predict: Predict
    prompt: Tensor
    mask_token_id: int
    scale: float
    unconditional: Predict | None = None  # of the hidden canvas, where a cache cannot serve both; None: the same

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        conditional = logits_at(self.predict, canvas, block, wanted)
        hidden = canvas.masked_fill(self.prompt, self.mask_token_id)
        return _guided(conditional, logits_at(self.unconditional or self.predict, hidden, block, wanted), self.scale)

    def of_rows(self, rows: Tensor) -> Self:
        unconditional = None if self.unconditional is None else _of_rows(self.unconditional, rows)
        return replace(
            self, predict=_of_rows(self.predict, rows), prompt=self.prompt[rows], unconditional=unconditional
        )


@dataclass(frozen=True)
class adaptively_guided(Predictor):  # noqa: N801
    """Adaptive guidance (A-CFG, arXiv:2505.20199): the unconditional prediction lacks what the model doubts.

    Of the tokens generated so far, the `share` (rounded up) to which the conditional prediction gives the least
    probability are masked for the unconditional one. Costs two network evaluations.
    """

    predict: Predict
    given: Tensor  # bool (B, L), the prompt and all else that was not generated
    mask_token_id: int
    scale: float
    share: float

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        start, stop, _ = block.indices(canvas.shape[1])
        so_far = canvas[:, :stop]  # nothing is generated beyond the window
        generated = ~self.given[:, :stop] & (so_far != self.mask_token_id) & wanted.any(dim=1, keepdim=True)
        drafted = torch.nn.functional.pad(wanted, (start, 0))  # (B, stop)
        needed = drafted | generated
        logits = logits_at(self.predict, canvas, slice(0, stop), needed)
        check_vocabulary(logits, self.mask_token_id)
        log_p = forbid(logits, [self.mask_token_id]).log_softmax(dim=-1)
        token = so_far[needed].clamp(max=logits.shape[-1] - 1)
        doubt = torch.full(so_far.shape, torch.inf, dtype=log_p.dtype, device=canvas.device)
        doubt = doubt.masked_scatter(needed, log_p.gather(-1, token[:, None])).masked_fill(~generated, torch.inf)
        rank = doubt.argsort(dim=1, stable=True).argsort(dim=1)
        # 1e-9: a share of 0.3 is a little more than three tenths, and must not round 15 tokens of 50 up to 16
        lowest = rank < (generated.sum(dim=1, keepdim=True).double() * self.share - 1e-9).ceil()
        doubted = canvas.clone()
        doubted[:, :stop] = so_far.masked_fill(generated & lowest, self.mask_token_id)
        return _guided(logits[drafted[needed]], logits_at(self.predict, doubted, block, wanted), self.scale)

    def of_rows(self, rows: Tensor) -> Self:
        return replace(self, predict=_of_rows(self.predict, rows), given=self.given[rows])


@dataclass(frozen=True)
class suppressed(Predictor):  # noqa: N801
    """Never draft one of `tokens`: their probability is 0 and the others share it."""

    predict: Predict
    tokens: list[int]

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        logits = logits_at(self.predict, canvas, block, wanted)
        outside = [token for token in self.tokens if not 0 <= token < logits.shape[-1]]
        if outside:
            raise ValueError(f"suppressed tokens {outside} are none of the {logits.shape[-1]} of the vocabulary")
        return logits.index_fill_(-1, torch.tensor(self.tokens, device=logits.device), -torch.inf)

    def of_rows(self, rows: Tensor) -> Self:
        return replace(self, predict=_of_rows(self.predict, rows))


@dataclass(frozen=True)
class restricted(Predictor):  # noqa: N801
    """Draft only tokens that are `allowed`, bool (L, V) or (B, L, V), at each position of the canvas.

    Raises ValueError where a position has none.
    """

    predict: Predict
    allowed: Tensor

    def __post_init__(self):
        if not self.allowed.any(dim=-1).all():
            raise ValueError("allowed leaves no token at some position; allow one, or write it into the canvas")

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        logits = logits_at(self.predict, canvas, block, wanted)
        allowed = self.allowed[..., block, :].expand(*wanted.shape, self.allowed.shape[-1])[wanted]
        return logits.masked_fill_(~allowed, -torch.inf)

    def of_rows(self, rows: Tensor) -> Self:
        allowed = self.allowed[rows] if self.allowed.dim() == 3 else self.allowed
        return replace(self, predict=_of_rows(self.predict, rows), allowed=allowed)


def _guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """What either forbids stays forbidden: -inf less -inf is not a number."""
    if conditional.shape != unconditional.shape:  # a vocabulary of one would be broadcast
        raise ValueError(
            f"the model gives logits of {conditional.shape[-1]} tokens with the prompt and of "
            f"{unconditional.shape[-1]} without; both must be of one vocabulary"
        )
    forbidden = (conditional == -torch.inf) | (unconditional == -torch.inf)
    return (unconditional + (scale + 1) * (conditional - unconditional)).masked_fill(forbidden, -torch.inf)


def _of_rows(predict: Predict, rows: Tensor) -> Predict:
    if isinstance(predict, Predictor):
        return predict.of_rows(rows)
    raise TypeError(
        f"{predict!r} cannot be had for chosen rows of its batch, and something around it asks for that; make it a "
        "llada.sampling.predictors.Predictor"
    )
