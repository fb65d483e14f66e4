"""The training loop, a generator: log, evaluate and save between two steps.

The loss of a step is that of its global batch, whatever the processes and micro-batches: every micro-batch's sum is
divided by the denominator of the whole step. Pretraining divides by tokens, fine-tuning by rows after dividing each
row by its response length (LLaDA, arXiv:2502.09992, eq. 3 and 5).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llada.train.batches import Batch, Batches, Noise, Place, Rows, collate
from llada.train.objective import row_nelbo


class StepLog(NamedTuple):
    """One optimiser step."""

    step: int  # counted from 1
    loss: float  # of the global batch, nats per token
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # of the global batch that count in the loss: all real ones, or the responses with their padding


class Estimate(NamedTuple):
    """A mean with its standard error."""

    value: float
    stderr: float
    samples: int  # network evaluations behind it


def fit(
    model: nn.Module,
    batches: Batches,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    learning_rate: Callable[[int], float],
    steps: int,
    per: Literal["token", "row"] = "token",
    max_grad_norm: float = 1.0,
    accelerator: Accelerator | None = None,
) -> Iterator[StepLog]:
    """Train, and yield a log after every step.

    Args:
        model: its call takes `input_ids`, `attention_mask` and `logits_at` (`LLaDAForMaskedLM`).
        batches: the data side.
        optimizers: together over the parameters of `model`; see `llada.train.optim`.
        learning_rate: step (from 0) → rate.
        steps: how many.
        per: what the loss is averaged over, "token" (pretraining) or "row" (fine-tuning).
        max_grad_norm: the gradient is clipped to this norm.
        accelerator: places and wraps the model; None: a plain `Accelerator()`.

    Raises FloatingPointError before the update where loss or gradient is not finite, naming the samples.
    """
    accelerator = Accelerator() if accelerator is None else accelerator
    wrapped, *prepared = accelerator.prepare(model, *optimizers)
    wrapped.train()
    stream = batches.micro_batches(accelerator.process_index, accelerator.num_processes, 0, steps)
    for step, micro_batches in enumerate(stream):
        rate = learning_rate(step)
        for group in (group for optimizer in prepared for group in optimizer.param_groups):
            group["lr"] = rate
        totals = torch.tensor([[_denominator(b, per), float(b.lengths.sum())] for b in micro_batches]).sum(dim=0)
        totals = _summed(accelerator, totals.to(accelerator.device))
        loss = torch.zeros((), device=accelerator.device)
        for i, batch in enumerate(micro_batches):
            more_to_come = i + 1 < len(micro_batches)  # gradients travel between processes with the last one only
            with accelerator.no_sync(wrapped) if more_to_come else nullcontext(), accelerator.autocast():
                share = _loss(wrapped, batch, per, accelerator.device) / totals[0]
                accelerator.backward(share * accelerator.num_processes)  # DDP averages gradients over processes
            loss += share.detach()
        grad_norm = torch.as_tensor(accelerator.clip_grad_norm_(wrapped.parameters(), max_grad_norm))
        loss = _summed(accelerator, loss)
        measured = torch.stack((loss, grad_norm.to(loss.device), totals[1])).tolist()  # sync, once per step
        if not all(map(math.isfinite, measured)):
            _refuse_non_finite(step, measured, micro_batches)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        yield StepLog(step + 1, measured[0], rate, measured[1], int(measured[2]))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    rows: Rows,
    noise: Noise,
    *,
    batch_size: int = 32,
    draws: int = 1,
    accelerator: Accelerator | None = None,
) -> Estimate:
    """The bound on the negative log-likelihood of `rows`, in nats per token, with its standard error over rows.

    Each row is masked `draws` times, with numbers of masks stratified over the rows. The same seed gives the same
    masks whatever the batch size, so that models and checkpoints are compared on equal terms.
    """
    if len(rows) < 2:
        raise ValueError(f"a standard error needs at least 2 rows, not {len(rows)}")
    accelerator = Accelerator() if accelerator is None else accelerator
    parameter = next(model.parameters(), None)
    device = accelerator.device if parameter is None else parameter.device
    sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
    lengths = torch.zeros_like(sums)
    chunks = [range(i, min(i + batch_size, len(rows))) for i in range(0, len(rows), batch_size)]
    was_training = model.training
    model.eval()
    try:
        for draw in range(draws):
            for chunk in chunks[accelerator.process_index :: accelerator.num_processes]:
                batch = collate([(Place(draw, i, None), rows[i]) for i in chunk], noise, len(rows))
                with accelerator.autocast():
                    sums[chunk.start : chunk.stop] += _row_losses(model, batch, device).double()
                lengths[chunk.start : chunk.stop] += batch.lengths.to(sums.device)
    finally:
        model.train(was_training)
    sums, lengths = _summed(accelerator, sums), _summed(accelerator, lengths)
    value = sums.sum() / lengths.sum()
    residuals = sums - value * lengths
    stderr = (residuals.square().sum() * len(rows) / (len(rows) - 1)).sqrt() / lengths.sum()
    return Estimate(float(value), float(stderr), len(rows) * draws)


def _summed(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """The sum over all processes, on each of them."""
    return cast(Tensor, accelerator.reduce(tensor, reduction="sum"))


def _row_losses(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """One estimate of the bound per row, in nats, (B,)."""
    batch = _to(batch, device)
    outputs = model(batch.noised.xt, attention_mask=batch.attention_mask, logits_at=batch.masked_at)
    return row_nelbo(outputs.logits, batch.x0, batch.noised)


def _loss(model: nn.Module, batch: Batch, per: str, device: torch.device) -> Tensor:
    """The micro-batch's sum of losses, to be divided by the step's denominator."""
    losses = _row_losses(model, batch, device)
    return losses.sum() if per == "token" else (losses / batch.lengths.to(device)).sum()


def _denominator(batch: Batch, per: str) -> float:
    return float(batch.lengths.sum() if per == "token" else len(batch.lengths))


def _to(batch: Batch, device: torch.device) -> Batch:
    tensors = {name: getattr(batch, name).to(device, non_blocking=True) for name in ("x0", "lengths", "masked_at")}
    mask = batch.attention_mask if batch.attention_mask is None else batch.attention_mask.to(device, non_blocking=True)
    noised = batch.noised._replace(**{k: v.to(device, non_blocking=True) for k, v in batch.noised._asdict().items()})
    return batch._replace(noised=noised, attention_mask=mask, **tensors)


def _refuse_non_finite(step: int, measured: list[float], micro_batches: list[Batch]) -> None:
    places = [place for batch in micro_batches for place in batch.places]
    raise FloatingPointError(
        f"step {step + 1}: loss {measured[0]}, gradient norm {measured[1]}; nothing was updated. "
        f"Samples of this process: rows {places[0].index} to {places[-1].index} of epoch {places[0].epoch}. "
        "Lower the learning rate or look at these rows"
    )
