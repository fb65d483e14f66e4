"""A model with a KV cache: every step computes some positions anew and attends to what is stored of the others.

A cache is a choice of these positions, and nothing else:

* prefix: the window and all after it (Fast-dLLM, arXiv:2505.22618);
* dual: the window alone (the same paper);
* delayed: masks, and tokens that changed since the last step: a revealed one is stored a step later, as itself
  (dKV-Cache, arXiv:2505.15781);
* block-causal: whatever may attend to a change, in a model whose attention is block-causal. Only this one is exact.

The first three compute everything at the first step of a window, which is what bounds their error.

Shapes: B batch, L length, W window, R rows that go on, S positions computed, V vocabulary, N wanted positions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from llada.sampling.predictors import Meter, Predictor, unfinished


@runtime_checkable
class CachingModel(Protocol):
    """A model that attends to what its earlier passes have stored."""

    config: Any

    def key_values(self, batch: int, length: int) -> Any:
        """An empty store for so many sequences of that length; its `span(rows, columns)` is what `cache` takes."""
        ...

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None, logits_at: Tensor, cache: Any) -> Any:
        """An object with `.logits` (N, V) at positions, int64 (N,), of the flattened tokens (R * S) of the span."""
        ...


class Pass(NamedTuple):
    """What a cache knows of a step."""

    masked: Tensor  # (R, L) bool, [MASK] at present
    changed: Tensor  # (R, L) bool, another token than in the row's last pass
    place: Tensor  # (R, L) index of each token in its own sequence, padding not counted; -1 at padding
    columns: Tensor  # (1, L) index in the canvas
    true_until: Tensor  # (R, 1) column up to which the last pass left what is stored as it should be
    start: int  # of the window
    stop: int


class Cache(NamedTuple):
    """What is computed anew."""

    fresh: Callable[[Pass], Tensor]  # bool (R, L)
    whole_window: bool = True  # the first step of a window computes everything


prefix = Cache(lambda now: (now.columns >= now.start).expand_as(now.masked))
dual = Cache(lambda now: ((now.columns >= now.start) & (now.columns < now.stop)).expand_as(now.masked))
delayed = Cache(lambda now: now.masked | now.changed)
CACHES = {"prefix": prefix, "dual": dual, "delayed": delayed}


def block_causal(block_length: int) -> Cache:
    """All blocks from the first one that changed to the end of the window, in blocks of the model's attention."""

    def fresh(now: Pass) -> Tensor:
        block = now.place // block_length  # (R, L)
        stale = (now.place >= 0) & (now.changed | (now.columns >= now.true_until))
        first = block.masked_fill(~stale, block.shape[1]).amin(dim=1, keepdim=True)
        return (block >= first) & (block <= block[:, now.stop - 1 : now.stop])

    return Cache(fresh, whole_window=False)


class cached(Predictor):  # noqa: N801  # used like a function
    """The model with a cache, for one run of the loop; `attention_mask` (B, L) is 0 at padding.

    Args:
        refresh_every: compute everything at every so manieth step of a window; None: at the first one only.
        beyond_window: False: the model is not shown what follows the window.
        meter: counts what is computed.
    """

    def __init__(
        self,
        model: CachingModel,
        cache: Cache,
        mask_token_id: int,
        attention_mask: Tensor | None = None,
        *,
        refresh_every: int | None = None,
        beyond_window: bool = True,
        meter: Meter | None = None,
    ):
        if refresh_every is not None and refresh_every < 1:
            raise ValueError(f"refresh_every={refresh_every} must be at least 1, which is no cache at all")
        self.model, self.cache, self.mask_token_id, self.attention_mask = model, cache, mask_token_id, attention_mask
        self.refresh_every, self.beyond_window, self.meter = refresh_every, beyond_window, meter
        self._stored: Any = None  # keys and values
        self._canvas = self._true_until = torch.empty(0)  # (B, L) and (B,) of each row's last pass
        self._window, self._passes = (0, 0), torch.empty(0)  # of the last pass, and each row's (B,) in it

    @torch.no_grad()
    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        start, stop, _ = block.indices(canvas.shape[1])
        canvas = canvas if self.beyond_window else canvas[:, :stop]
        if self._window != (start, stop):
            self._window, self._passes = (start, stop), torch.zeros_like(canvas[:, 0])
        if self._stored is None:
            self._stored = self.model.key_values(*canvas.shape)
            self._canvas, self._true_until = canvas, canvas.new_zeros(len(canvas))
        elif (more := canvas.shape[1] - self._canvas.shape[1]) > 0:  # a block was appended
            self._stored.extend(more)
            self._canvas = torch.cat((self._canvas, canvas[:, -more:]), dim=1)
        rows, (here, wanted, padding) = unfinished(wanted, canvas, wanted, self.attention_mask)
        padding = None if padding is None else padding[:, : canvas.shape[1]]
        each = torch.arange(len(canvas), device=canvas.device) if rows is None else rows  # (R,)
        row, column = wanted.nonzero(as_tuple=True)  # sync
        column = start + column  # (N,)

        fresh = self._fresh(here, padding, each, start, stop)  # (R, L)
        fresh[row, column] = True
        everything = bool(fresh.all())  # sync
        columns, tokens = None, here
        if not everything:
            columns = _columns(fresh)  # (R, S)
            tokens, column = here.gather(1, columns), fresh.cumsum(dim=1)[row, column] - 1
        at = row * tokens.shape[1] + column
        span = self._stored.span(rows, columns)
        logits = self.model(tokens, attention_mask=padding, logits_at=at, cache=span).logits
        if self.meter is not None:
            self.meter.count(each, fresh.sum(dim=1))

        place = torch.arange(1, fresh.shape[1] + 1, device=fresh.device)
        self._canvas = self._canvas.index_copy(0, each, here)
        self._true_until = self._true_until.index_copy(0, each, (place * fresh).amax(dim=1))
        self._passes = self._passes.index_add(0, each, torch.ones_like(each))
        return logits

    def _fresh(self, here: Tensor, padding: Tensor | None, rows: Tensor, start: int, stop: int) -> Tensor:
        """What is computed anew of the canvases (R, L) of these rows, a new bool tensor of the same shape."""
        passes = self._passes[rows]
        due = passes % self.refresh_every == 0 if self.refresh_every else passes == 0  # (R,)
        due = due & (self.cache.whole_window or self.refresh_every is not None)
        if due.all():  # sync
            return torch.ones_like(here, dtype=torch.bool)
        present = torch.ones_like(here) if padding is None else padding
        now = Pass(
            masked=here == self.mask_token_id,
            changed=here != self._canvas[rows],
            place=torch.where(present > 0, present.cumsum(dim=1) - 1, -1),
            columns=torch.arange(here.shape[1], device=here.device)[None],
            true_until=self._true_until[rows, None],
            start=start,
            stop=stop,
        )
        return self.cache.fresh(now) | due[:, None]

    def of_rows(self, rows: Tensor) -> Self:
        raise ValueError("a cache belongs to its batch; speculation needs a predictor without one")


def _columns(fresh: Tensor) -> Tensor:
    """The chosen columns of each row in ascending order, int64 (R, S); a row with fewer repeats one of its own."""
    count = fresh.sum(dim=1, keepdim=True)
    columns = (~fresh).long().argsort(dim=1, stable=True)[:, : int(count.max())]  # sync
    return torch.where(torch.arange(columns.shape[1], device=fresh.device) < count, columns, columns[:, :1])
