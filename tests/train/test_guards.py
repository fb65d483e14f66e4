"""Guards: steps that are not finite are left out at most so many times, and spikes are noted."""

import json
import random

import pytest
import torch
from processes import run
from test_batches import MASK, PAD, Tokens
from test_loop import tiny
from test_resume import training

from llada.train.batches import Batches
from llada.train.guards import spike
from llada.train.journal import Journal, read_log
from llada.train.loop import fit
from llada.train.objectives import Noise
from llada.train.optim import adamw


class Poisoned(torch.nn.Module):
    """A model whose logits for some batches are not numbers."""

    def __init__(self, bad: set[int]):
        super().__init__()
        self.inner, self.bad, self.calls = tiny(), bad, 0

    def forward(self, *arguments, **options):
        outputs = self.inner(*arguments, **options)
        if self.calls in self.bad:
            outputs.logits = outputs.logits * torch.nan
        self.calls += 1
        return outputs


def logs_of(bad: set[int], max_skips: int, steps: int = 5):
    model = Poisoned(bad)
    batches = Batches(Tokens(), 8, Noise(MASK, PAD))
    return model, fit(
        model, batches, adamw(model), learning_rate=lambda s: 0.01, steps=steps, max_skips=max_skips
    )  # fmt: skip


def test_steps_left_out_change_nothing_and_name_their_rows():
    model, logs = logs_of({1, 2}, max_skips=2)
    before = None
    for log in logs:
        now = [p.clone() for p in model.parameters()]
        if log.step in (2, 3):
            assert log.loss != log.loss
            assert len(log.non_finite) == 8
            assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
        else:
            assert log.non_finite is None
            assert before is None or any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
        before = now
    assert log.step == 5


def test_one_more_than_allowed_stops_the_run():
    _, logs = logs_of({1, 2}, max_skips=1)
    assert [next(logs).step for _ in range(2)] == [1, 2]
    with pytest.raises(FloatingPointError, match="step 3: loss nan"):
        next(logs)


def test_skipped_steps_count_over_the_whole_run_and_are_in_the_log(settings, tmp_path):
    """The run leaves out step 3, is stopped, and after the resume has no skip left for step 6."""

    def poisoned() -> None:
        import llada.train.loop as module

        losses = module._losses

        def poisoned_losses(model, batch, per, device):
            bad = model.training and any(place.index // 8 in (2, 5) for place in batch.places)
            return tuple(part * (torch.nan if bad else 1.0) for part in losses(model, batch, per, device))

        module._losses = poisoned_losses
        with pytest.raises(FloatingPointError, match="step 6: "):
            training(settings, tmp_path / "run", max_skips=1, checkpoint_every=4)()

    for _ in range(2):
        run(poisoned, tmp_path / "printed")
    log = read_log(tmp_path / "run")
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5]
    assert log[2]["loss"] is None
    assert len(log[2]["non_finite"]) == 8
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["skipped"] == 1


def test_run_that_has_used_its_skips_has_none_left_when_fewer_are_allowed():
    _, logs = logs_of({0}, max_skips=-1)
    with pytest.raises(FloatingPointError, match="step 1: loss nan"):
        next(logs)


def test_spike_is_measured_in_robust_deviations():
    rng = random.Random(0)
    losses = [rng.gauss(2.0, 0.1) for _ in range(4000)]
    assert spike(losses[:128], 3.0) == pytest.approx(10.0, rel=0.3)
    assert spike(losses[:128], 1.0) == 0.0
    assert spike([*losses[:100], *[50.0] * 20], 3.0) > 5  # earlier spikes do not hide it
    assert spike(losses[:31], 99.0) == 0.0  # too few to tell
    assert max(spike(losses[:i], losses[i]) for i in range(32, 4000)) < 10  # chance below 1e-15 with true deviations


def test_spike_is_in_the_log(settings, tmp_path):
    def poisoned() -> None:
        import llada.train.guards
        import llada.train.loop as module

        llada.train.guards._ENOUGH = 3
        losses = module._losses

        def spiking(model, batch, per, device):
            height = 9 if batch.places[0].index // 8 == 6 else 1
            return tuple(part * height for part in losses(model, batch, per, device))

        module._losses = spiking
        training(settings, tmp_path / threshold, spike_threshold=float(threshold))()

    for threshold, steps in (("5", [7]), ("1e9", [])):
        run(poisoned, tmp_path / "printed")
        assert [record["step"] for record in read_log(tmp_path / threshold) if "spike" in record] == steps


def test_log_of_a_killed_run_is_read_up_to_its_last_whole_line(tmp_path):
    journal = Journal(tmp_path / "log.jsonl")
    journal.append({"step": 1, "loss": float("nan")})
    journal.append({"step": 2, "loss": 1.5})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.5}]


def test_tracker_gets_the_log(settings, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(training(settings, tmp_path / "run", trackers=["tensorboard"]), tmp_path / "printed")
    reader = EventAccumulator(str(tmp_path / "run" / "llada"))
    reader.Reload()
    logged = [event.value for event in reader.Scalars("loss")]
    assert logged == pytest.approx([record["loss"] for record in read_log(tmp_path / "run")])
