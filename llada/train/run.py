"""What `llada pretrain` and `llada sft` do: build, fit, log, evaluate, save, and go on after an interruption."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llada.config import ConfigError
from llada.train.agreement import on_main, together
from llada.train.build import Run, inputs_of, parts, place, processes
from llada.train.config import OptimConfig, TrainConfig
from llada.train.guards import spike
from llada.train.journal import Journal, read_log
from llada.train.loop import StepLog, evaluate, fit
from llada.train.lora import is_adapted
from llada.train.optim import cosine, warmup_stable_decay
from llada.train.output import Output, check_output, claim_output
from llada.train.signals import Interrupted, Stop, stop_signals
from llada.train.state import ADAPTER_OF, Position, Trained, restore, save, save_adapter, save_model


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Pretrain from scratch or fine-tune, as the kind of the configuration says; the folder of the saved model.

    With `resume` it goes on from the newest valid checkpoint in the output folder, or starts where there is none.
    Raises Interrupted after a signal, once the run is saved, and FloatingPointError where training has diverged.
    """
    accelerator = processes(config)
    check_output(config, inputs_of(config), resume=resume)
    accelerator.wait_for_everyone()  # all have looked before one writes
    run = place(parts(config), accelerator)
    output = claim_output(config, accelerator, resume=resume)
    if output.finished:
        return output.folder / "model"
    position = run.begun
    if output.checkpoint is not None:
        position = restore(output.checkpoint, run.trained, position)
    if position.step > config.steps:
        raise ConfigError(f"steps={config.steps}, but the run has done {position.step} already")
    journal = together(
        accelerator, lambda: Journal(output.log, position.log_bytes) if accelerator.is_main_process else None
    )
    missing = on_main(accelerator, lambda: not all((output.folder / name).is_dir() for name in _results(run.trained)))
    if position.step == config.steps and missing:
        _save_result(run.trained, run.parts.tokenizer, output.folder, accelerator)
    with stop_signals() as stop:
        _steps(run, output, position, journal, stop)
    return output.folder / "model"


def _steps(run: Run, output: Output, position: Position, journal: Journal | None, stop: Stop) -> None:
    config, accelerator, trained, tokenizer = run.parts.config, run.accelerator, run.trained, run.parts.tokenizer
    losses = [record["loss"] for record in read_log(output.folder) if record["loss"] is not None]
    flops = flops_per_token(trained.model)
    _start_trackers(run)
    logs = steps_of(run, position)
    before = time.monotonic()
    for log in _with_progress(logs, position.step, config.steps, accelerator):
        position = position._replace(
            step=log.step,
            tokens=position.tokens + log.tokens,
            read=position.read + log.read,
            seconds=position.seconds + time.monotonic() - before,
            skipped=position.skipped + (log.non_finite is not None),
        )
        last = log.step == config.steps
        record = log._asdict() | {
            "tokens_per_second": position.tokens / position.seconds,
            "elapsed": position.seconds,
            "flops": flops * position.read,
        }
        if log.non_finite is None:
            del record["non_finite"]
            _update_average(trained, config.ema, log.step)
            if (height := spike(losses, log.loss)) > config.spike_threshold:
                record["spike"] = height
            losses.append(log.loss)
        if last:  # before anything else can fail
            _save_result(trained, tokenizer, output.folder, accelerator)
        if last or (config.evaluate_every and log.step % config.evaluate_every == 0):
            record |= _bounds(run)
        failure = _write_log(record, journal, accelerator)
        asked, failed = _anywhere(accelerator, stop.received is not None, failure is not None)
        if failed:
            raise OSError(
                f"{output.log} cannot be written: {failure or 'see the first process'}; mend it and resume"
            ) from failure
        stopping = asked and not last
        if stopping or (config.checkpoint_every and (last or log.step % config.checkpoint_every == 0)):
            size = on_main(accelerator, lambda: journal.sync() if journal is not None else 0)
            position = position._replace(log_bytes=size)
            save(output.checkpoints, trained, tokenizer, position, keep=config.checkpoint_keep, accelerator=accelerator)
        if stopping:
            name = stop.received.name if stop.received else "a signal to another process"
            raise Interrupted(f"{name}: saved at step {log.step} of {config.steps}; go on with --resume")
        before = time.monotonic()
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()


def steps_of(run: Run, position: Position) -> Iterator[StepLog]:
    """The training loop of a run from a position on."""
    config, pool = run.parts.config, run.trained.pool
    return fit(
        run.wrapped,
        run.parts.batches if pool is None else pool,
        run.trained.optimizers,
        learning_rate=learning_rate(config.optim, config.steps),
        steps=config.steps,
        start=position.step,
        per=run.parts.per,
        max_grad_norm=config.optim.max_grad_norm,
        max_skips=max(0, config.max_skips - position.skipped),
        accelerator=run.accelerator,
    )


def inner_parameters(model: PreTrainedModel) -> int:
    """The number of parameters without embedding and LM head: N of the scaling laws (arXiv:2502.09992, table 5)."""
    return sum(parameter.numel() for parameter in _inner(model))


def flops_per_token(model: PreTrainedModel) -> int:
    """6N, as in LLaDA's comparison at equal compute; 4 for a frozen parameter, which takes no gradient of its own."""
    return sum((6 if parameter.requires_grad else 4) * parameter.numel() for parameter in _inner(model))


def _inner(model: PreTrainedModel) -> list[nn.Parameter]:
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    outside = {parameter for end in ends if end is not None for parameter in end.parameters()}
    return [parameter for parameter in model.parameters() if parameter not in outside]


def learning_rate(optim: OptimConfig, steps: int) -> Callable[[int], float]:
    """The schedule of the configuration: step (from 0) → rate."""
    shared = {"peak": optim.learning_rate, "steps": steps, "warmup": optim.warmup, "final": optim.final}
    if optim.schedule == "cosine":
        return lambda step: cosine(step, **shared)
    return lambda step: warmup_stable_decay(step, decay=optim.decay, **shared)


def _bounds(run: Run) -> dict[str, Any]:
    """The held-out bound of the model, and of its average where there is one."""
    config, (noise, objective) = run.parts.config, run.parts.measure
    if run.parts.heldout is None:
        return {}
    record = {}
    for prefix, model in (("", run.trained.model), ("ema_", run.trained.average)):
        if model is None:
            continue
        bound = evaluate(
            model,
            run.parts.heldout,
            noise,
            objective=objective,
            batch_size=config.micro_batch_size or 32,
            draws=config.evaluate_draws,
            accelerator=run.accelerator,
        )
        record |= {f"{prefix}bound": bound.value, f"{prefix}bound_stderr": bound.stderr}
        record["bound_samples"] = bound.samples
        if bound.curve is not None:
            record["mask_ratios"] = bound.curve.mask_ratios
            record[f"{prefix}loss_at_mask_ratios"] = bound.curve.losses
    return record


def _update_average(trained: Trained, decay: float | None, step: int) -> None:
    if trained.average is None or decay is None:
        return
    early = (1 + step) / (10 + step)  # else the first weights would stay in the average for 1 / (1 - decay) steps
    update = get_ema_multi_avg_fn(min(decay, early))
    update(_trainable(trained.average), _trainable(trained.model), step)


def _trainable(model: PreTrainedModel) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _results(trained: Trained) -> dict[str, PreTrainedModel]:
    """The folders that a run leaves, and the models in them; those of `ADAPTER_OF` hold the adapters alone."""
    models = {"model": trained.model} | ({} if trained.average is None else {"ema": trained.average})
    return models | {ADAPTER_OF[name]: model for name, model in models.items() if is_adapted(model)}


def _save_result(trained: Trained, tokenizer: PreTrainedTokenizerBase, folder: Path, accelerator: Accelerator) -> None:
    for name, model in _results(trained).items():
        if name in ADAPTER_OF:
            save_model(model, tokenizer, folder / name, accelerator)
        else:
            save_adapter(model, folder / name, accelerator)


def _write_log(record: dict[str, Any], journal: Journal | None, accelerator: Accelerator) -> Exception | None:
    """Tell trackers and journal; what went wrong there, because the other processes have to hear of it."""
    try:
        accelerator.log({k: v for k, v in record.items() if isinstance(v, int | float)}, step=record["step"])
        if journal is not None:
            journal.append(record)
    except Exception as error:  # trackers raise what they like
        return error
    return None


def _anywhere(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """For each flag whether it is set on some process; the same answers on all."""
    raised = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    summed = accelerator.reduce(raised, reduction="sum")
    assert isinstance(summed, torch.Tensor)
    return [value > 0 for value in summed.tolist()]


def _start_trackers(run: Run) -> None:
    config = run.parts.config
    if config.trackers:
        plain = {k: v for k, v in config.model_dump(mode="json").items() if isinstance(v, int | float | str)}
        run.accelerator.init_trackers("llada", plain)


def _with_progress(logs: Iterator[StepLog], done: int, steps: int, accelerator: Accelerator) -> Iterator[StepLog]:
    """Show the latest loss on the main process, where it has a terminal."""
    disable = None if accelerator.is_main_process else True
    with tqdm(total=steps, initial=done, unit="step", disable=disable) as bar:
        for log in logs:
            bar.set_postfix(loss=f"{log.loss:.3f}", refresh=False)
            bar.update()
            yield log
