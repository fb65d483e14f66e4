"""The training loop, a generator: log, evaluate and save between two steps.

The loss of a step is that of its global batch, whatever the processes and micro-batches: every micro-batch's sum is
divided by the denominator of the whole step. Pretraining divides by tokens, fine-tuning by rows after dividing each
row by its response length (LLaDA, arXiv:2502.09992, eq. 3 and 5).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from llada.estimate import Curve, Estimate, check_rows, per_token
from llada.train.batches import Batch, Batches, Place, Rows, collate
from llada.train.objectives import (
    ELBO,
    OBJECTIVES,
    Call,
    Noise,
    Objective,
    cross_entropy,
    group_sums,
    largest_log_probability,
    weighted,
)
from llada.train.puma import Pool
from llada.whole import check_whole


@runtime_checkable
class TakesTargets(Protocol):
    """A model that computes the loss of its targets itself, in less memory than their logits take."""

    takes_targets: bool  # says so


class StepLog(NamedTuple):
    """One optimiser step."""

    step: int  # counted from 1
    loss: float  # of the global batch, nats per token
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # of the global batch that count in the loss: all real ones, or the responses with what ends them
    read: int  # by the network, prompts and what it reads twice included
    non_finite: list[int] | None = None  # rows of the data set for which this step was left out; None: it was done


_RATIOS = 16  # steps of a curve, at most


def fit(
    model: nn.Module,
    batches: Batches | Pool,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    learning_rate: Callable[[int], float],
    steps: int,
    start: int = 0,
    per: Literal["token", "row"] = "token",
    max_grad_norm: float = 1.0,
    max_skips: int = 0,
    accelerator: Accelerator | None = None,
) -> Iterator[StepLog]:
    """Train, and yield a log after every step.

    Args:
        model: its call takes what the objective gives: `input_ids`, `attention_mask` and `logits_at` for a
            `LLaDAForMaskedLM`. Sharded by `llada.train.sharding`, or prepared by `accelerator` already, it is taken as
            it is.
        batches: the data side, with the objective; a `Pool` for `puma`.
        optimizers: together over the parameters of `model`; see `llada.train.optim`.
        learning_rate: step (from 0) → rate.
        steps: where training ends.
        start: updates done before, from a checkpoint; the same data and noise follow as without the break.
        per: what the loss is averaged over, "token" (pretraining) or "row" (fine-tuning).
        max_grad_norm: the gradient is clipped to this norm; infinite: it is not.
        max_skips: so many steps whose loss or gradient is not finite are left out before one is an error.
        accelerator: places and wraps the model; None: a plain `Accelerator()`.

    Raises FloatingPointError on every process, before the update, where loss or gradient is not finite on one; it names
    the rows. Raises ValueError for a norm or a rate with which an update would mean nothing.
    """
    _check_run(per, max_grad_norm, start, steps)
    accelerator = Accelerator() if accelerator is None else accelerator
    wrapped, prepared = prepare(model, optimizers, accelerator)
    wrapped.train()
    stream = batches.micro_batches(accelerator.process_index, accelerator.num_processes, start, steps)
    for step, micro_batches in enumerate(stream, start):
        if step == start > 0 and isinstance(wrapped, DistributedDataParallel):
            # DDP sorts its buckets, and so the order of its sums, by its first backward pass: have that behind us
            _losses(wrapped, micro_batches[0], per, accelerator.device)[0].backward()
            wrapped.zero_grad()
        rate = _checked_rate(learning_rate(step), step)
        for group in (group for optimizer in prepared for group in optimizer.param_groups):
            group["lr"] = rate
        totals = torch.tensor([[_denominator(b, per), b.lengths.sum(), b.read.sum()] for b in micro_batches]).sum(dim=0)
        totals = _summed(accelerator, totals.to(accelerator.device))
        losses = []
        for i, batch in enumerate(micro_batches):
            # gradients travel between processes with the last one only; when sharded each time, so that none is whole
            waits = i + 1 < len(micro_batches) and not isinstance(wrapped, FSDPModule)
            with accelerator.no_sync(wrapped) if waits else nullcontext(), accelerator.autocast():
                total, rows = _losses(wrapped, batch, per, accelerator.device)
                # DDP and FSDP average gradients over processes
                accelerator.backward(total / totals[0] * accelerator.num_processes)
            losses.append(rows)
        grad_norm = accelerator.clip_grad_norm_(wrapped.parameters(), max_grad_norm)
        grad_norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else torch.as_tensor(grad_norm)
        loss = _summed(accelerator, torch.cat(losses).sum() / totals[0])
        measured = torch.stack((loss, grad_norm.to(loss.device), *totals[1:])).tolist()  # sync, once per step
        culprits = None
        if all(map(math.isfinite, measured)):
            for optimizer in prepared:
                optimizer.step()
        else:  # on every process alike, because both sums are over all of them
            culprits = _culprits(batches, micro_batches, losses)
            if max_skips <= 0:
                raise FloatingPointError(
                    f"step {step + 1}: loss {measured[0]}, gradient norm {measured[1]}; nothing was updated. Rows of "
                    f"the data: {culprits}. Look at them, lower the learning rate, or allow max_skips"
                )
            max_skips -= 1
        for optimizer in prepared:
            optimizer.zero_grad()
        yield StepLog(step + 1, measured[0], rate, measured[1], int(measured[2]), int(measured[3]), culprits)


def _check_run(per: str, max_grad_norm: float, start: int, steps: int) -> None:
    if per not in ("token", "row"):
        raise ValueError(f"per={per!r} is unknown; average the loss over each 'token' or each 'row'")
    if not (isinstance(max_grad_norm, Real) and max_grad_norm > 0):
        raise ValueError(f"max_grad_norm={max_grad_norm} must be above 0; math.inf leaves the gradient as it is")
    check_whole("start", start, 0)
    check_whole("steps", steps, 0)


def _checked_rate(rate: float, step: int) -> float:
    """The learning rate of a step. Raises ValueError for one with which the update would mean nothing."""
    if not (isinstance(rate, Real) and 0 <= rate <= 1e6):
        raise ValueError(f"learning_rate({step}) is {rate!r}; it must be a number from 0 to 1e6")
    return rate


def prepare(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], accelerator: Accelerator
) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """Model and optimisers on their device, wrapped for the processes; those that are so already stay as they are."""
    if isinstance(model, FSDPModule) and not accelerator.is_fsdp2:
        return accelerator.prepare_model(model, evaluation_mode=True), list(optimizers)  # sharded, so not replicated
    wrapped, *prepared = accelerator.prepare(model, *optimizers)
    return wrapped, prepared


@torch.no_grad()
def evaluate(
    model: nn.Module,
    rows: Rows,
    noise: Noise,
    *,
    objective: Objective = ELBO,
    batch_size: int = 32,
    draws: int = 1,
    accelerator: Accelerator | None = None,
) -> Estimate:
    """The bound on the negative log-likelihood of `rows`, in nats per token, with its standard error over rows.

    Each row is masked `draws` times, with numbers of masks stratified over the rows. The same seed gives the same
    masks whatever the batch size, so that models and checkpoints are compared on equal terms. An `objective` that is
    the likelihood itself (`autoregressive`) gives that instead.

    Raises FloatingPointError, which names the rows, where the loss of some is not a number.
    """
    if not objective.measures:
        measures = ", ".join(name for name, known in OBJECTIVES.items() if known.measures)
        raise ValueError(f"held-out rows are measured by a bound on their likelihood: {measures}")
    check_rows(len(rows))
    check_whole("batch_size", batch_size, 1)
    check_whole("draws", draws, 1)
    accelerator = Accelerator() if accelerator is None else accelerator
    parameter = next(model.parameters(), None)
    device = accelerator.device if parameter is None else parameter.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    sums = torch.zeros(len(rows), dtype=wide, device=device)
    lengths = torch.zeros_like(sums)
    by_ratio = torch.zeros(3, _RATIOS, dtype=wide, device=device)
    chunks = [range(i, min(i + batch_size, len(rows))) for i in range(0, len(rows), batch_size)]
    processes, was_training = accelerator.num_processes, model.training
    model.eval()
    try:
        for draw in range(draws):
            for number in range(accelerator.process_index, -(-len(chunks) // processes) * processes, processes):
                chunk = chunks[number % len(chunks)]  # a sharded model needs all processes in every forward pass
                batch = collate([(Place(draw, i, None), rows[i]) for i in chunk], noise, len(rows), objective)
                call = _to(batch.call, device)
                with accelerator.autocast():
                    _, losses, _ = _target_losses(model, call, torch.ones(len(chunk), device=device))
                groups = group_sums(losses, call)  # (B, K)
                if number < len(chunks):
                    sums[chunk.start : chunk.stop] += weighted(groups, call).to(wide)
                    by_ratio += _by_ratio(groups, call).to(wide)
                    lengths[chunk.start : chunk.stop] += batch.lengths.to(sums.device)
    finally:
        model.train(was_training)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what a forward pass gathered would wait for a backward pass
    sums, lengths, by_ratio = (_summed(accelerator, total) for total in (sums, lengths, by_ratio))
    if sums.isnan().any():  # on every process alike
        bad = sums.isnan().nonzero()[:, 0].tolist()
        raise FloatingPointError(f"the loss of held-out rows {bad[:10]} is not a number; look at the weights")
    ratios, losses, masks = by_ratio[:, by_ratio[2] > 0]
    curve = Curve((ratios / masks).tolist(), (losses / masks).tolist()) if objective.masks else None
    return per_token(sums, lengths, len(rows) * draws)._replace(curve=curve)


def _by_ratio(groups: Tensor, call: Call) -> Tensor:
    """Sums over masks of their share in a group, of cross-entropy and of 1, by steps of the share, (3, _RATIOS)."""
    masks = torch.bincount(call.group, minlength=groups.numel()).to(groups.dtype)
    ratio = (1 / call.weights.flatten()).clamp(max=1).to(groups.dtype)  # of a bound; 1 in a group without masks
    step = ((ratio * _RATIOS - 1e-4).ceil().long() - 1).clamp(0, _RATIOS - 1)
    return groups.new_zeros(3, _RATIOS).index_add(1, step, torch.stack((masks * ratio, groups.flatten(), masks)))


def _summed(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """The sum over all processes, on each of them."""
    return cast(Tensor, accelerator.reduce(tensor, reduction="sum"))


def _losses(model: nn.Module, batch: Batch, per: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The sum that the step's denominator divides, and what each row adds to it, (B,), without a gradient."""
    call = _to(batch.call, device)
    of_rows = torch.ones_like(call.weights[:, 0]) if per == "token" else 1 / batch.lengths.to(call.weights)
    total, losses, confidences = _target_losses(model, call, of_rows, confidences=batch.tell is not None)
    if batch.tell is not None and confidences is not None:
        batch.tell(confidences)
    rows = weighted(group_sums(losses.detach(), call), call)  # nats
    return total, rows * of_rows.to(rows)


def _target_losses(
    model: nn.Module, call: Call, of_rows: Tensor, *, confidences: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The sum of the rows' losses with weights (B,), and of each target (N,) the cross-entropy.

    The third is the largest log-probability beside it, where `confidences` are wanted.
    """
    weights = call.target_weights(of_rows)
    network = model.module if isinstance(model, DistributedDataParallel) else model
    if isinstance(network, TakesTargets):
        wanted = {"confidences": True} if confidences else {}
        out = model(**call.inputs, targets=call.targets, target_weights=weights, **wanted)
        return out.loss, out.target_losses, out.confidences if confidences else None
    logits = model(**call.inputs).logits
    losses = cross_entropy(logits, call)
    largest = largest_log_probability(logits) if confidences else None
    return (losses * weights.to(losses.dtype)).sum(), losses, largest


def _denominator(batch: Batch, per: str) -> float:
    return float(batch.lengths.sum() if per == "token" else len(batch.lengths))


def _to(call: Call, device: torch.device) -> Call:
    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.float() if device.type == "mps" and value.dtype == torch.float64 else value  # MPS has none
        return value.to(device, non_blocking=True)

    inputs = {name: moved(value) for name, value in call.inputs.items()}
    return Call(inputs, moved(call.targets), moved(call.group), moved(call.weights))


def _culprits(batches: Batches | Pool, micro_batches: list[Batch], losses: list[Tensor]) -> list[int]:
    """The rows of the data set whose loss is not finite, from all processes; all of the step where each loss is."""
    places = [place for batch in micro_batches for place in batch.places]
    bad = (~torch.cat(losses).isfinite()).tolist()
    rows = [(batches.row(place), is_bad) for place, is_bad in zip(places, bad, strict=True)]
    rows = gather_object(rows)
    return sorted(row for row, is_bad in rows if is_bad) or sorted(row for row, _ in rows)
