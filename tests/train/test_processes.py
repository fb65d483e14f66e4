"""Training in two processes: replicated and sharded runs are the run of one process, and go on as each other."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from processes import finish, run, start_all, wait_until
from safetensors.torch import load_file
from test_resume import result, settings, training  # noqa: F401  # settings is a fixture

from llada.config import ConfigError
from llada.train.checkpoints import list_checkpoints
from llada.train.journal import read_log

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="module", params=["adamw"])
def base(request, settings) -> dict:  # noqa: F811
    return settings | {"optim": settings["optim"] | {"optimizer": request.param}}


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(training(base, folder / "run"), folder / "printed")
    return folder / "run"


def assert_same_run(output: Path, alone: Path) -> None:
    """Same log and same weights up to the order of sums.

    torch's Muon orthogonalises in bfloat16, where that order shows. A wrong update would be off by 0.01 a step.
    """
    for one, other in zip(read_log(output), read_log(alone), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"elapsed", "tokens_per_second"}:
            assert one[key] == pytest.approx(other[key], rel=1e-3), key
    muon = json.loads((alone / "config.json").read_text())["optim"]["optimizer"] == "muon"
    for name in ("model", "ema"):
        weights, expected = (load_file(folder / name / "model.safetensors") for folder in (output, alone))
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            assert torch.allclose(value, expected[key], atol=3e-3 if muon else 2e-4), key
        assert json.loads((output / name / "config.json").read_text()) == json.loads(
            (alone / name / "config.json").read_text()
        )


BOTH = pytest.mark.parametrize("base", ["adamw", "muon"], indirect=True)


@BOTH
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_the_model_of_one(sharding, base, alone, tmp_path):
    run(training(base, tmp_path / "run", sharding=sharding), tmp_path / "printed", processes=2)
    assert_same_run(tmp_path / "run", alone)
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    assert (newest / "shards").is_dir() == (sharding == "full")


CHANGES = {
    "sharded, then alone": ((2, "full"), (1, "none")),
    "alone, then sharded": ((1, "none"), (2, "full")),
    "sharded, then replicated": ((2, "full"), (2, "none")),
    "replicated, then sharded": ((2, "none"), (2, "full")),
    "sharded, then sharded": ((2, "full"), (2, "full")),
    "replicated, then alone": ((2, "none"), (1, "none")),
}


@pytest.mark.parametrize(
    ("change", "base"),
    [*((change, "adamw") for change in CHANGES), ("sharded, then sharded", "muon")],
    indirect=["base"],
)
def test_run_goes_on_at_another_number_of_processes(change, base, alone, tmp_path):
    (processes, sharding), (then_processes, then_sharding) = CHANGES[change]
    children = start_all(stopping(base, tmp_path / "run", sharding), tmp_path / "printed", processes)
    assert {finish(child) for child in children} == {75}, (tmp_path / "printed").read_text()[-3000:]
    assert next(path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")) == "step-00000005"
    run(training(base, tmp_path / "run", sharding=then_sharding), tmp_path / "printed", then_processes)
    assert_same_run(tmp_path / "run", alone)


def stopping(settings: dict, output: Path, sharding: str):  # noqa: F811
    """A run whose last process is asked to stop in its fifth step; all processes must end with code 75."""

    def action() -> None:
        import sys

        import llada.train.run as module
        from llada.cli import main

        update = module._update_average

        def update_and_ask(trained, decay, step) -> None:
            update(trained, decay, step)
            if step == 5 and int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
                os.kill(os.getpid(), signal.SIGUSR1)

        module._update_average = update_and_ask
        output.parent.mkdir(exist_ok=True)
        file = output.parent / "run.yaml"
        file.write_text(json.dumps(settings))
        sys.argv = ["llada", "pretrain", str(file), f"output={output}", f"sharding={sharding}", "--resume"]
        main()

    return action


@BOTH
def test_resumed_replicated_run_is_the_uninterrupted_one_bit_for_bit(base, tmp_path):
    run(training(base, tmp_path / "whole"), tmp_path / "printed", processes=2)
    children = start_all(stopping(base, tmp_path / "run", "none"), tmp_path / "printed", 2)
    assert {finish(child) for child in children} == {75}
    run(training(base, tmp_path / "run"), tmp_path / "printed", processes=2)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_bad_number_in_one_process_stops_all_before_the_update_and_names_the_row(sharding, base, tmp_path):
    def poisoned() -> None:
        import llada.train.loop as module

        losses = module._row_losses

        def poisoned_losses(model, batch, per, device):
            values = losses(model, batch, per, device)
            if any((p.epoch, p.index) == (0, 3 * 8 + 6) for p in batch.places):  # the fourth step, second process
                values = values * torch.where(torch.tensor([p.index == 30 for p in batch.places]), torch.nan, 1.0)
            return values

        module._row_losses = poisoned_losses

        try:
            training(base, tmp_path / "run", sharding=sharding)()
        except FloatingPointError as error:
            print(f"stopped: {error}", flush=True)
            raise SystemExit(3) from None

    children = start_all(poisoned, tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [3, 3]
    lines = [line for line in (tmp_path / "printed").read_text().splitlines() if line.startswith("stopped:")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "step 4: loss nan" in lines[0]
    assert lines[0].count(",") < 8  # one row, not all of the step
    assert len(read_log(tmp_path / "run")) == 3


def test_sharding_needs_processes(settings, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="sharding: full needs several processes"):
        training(settings, tmp_path / "run", sharding="full")()
    assert not (tmp_path / "run").exists()


def test_killing_one_process_ends_the_other(settings, tmp_path):  # noqa: F811
    """What is left of a run whose processes lost each other goes on alone."""
    children = start_all(training(settings, tmp_path / "run"), tmp_path / "printed", 2)
    wait_until(lambda: len(list_checkpoints(tmp_path / "run" / "checkpoints")) > 0)
    os.kill(children[1], signal.SIGKILL)
    assert finish(children[1]) == -signal.SIGKILL
    assert finish(children[0]) == 1
    run(training(settings, tmp_path / "run"), tmp_path / "printed")
    assert len(read_log(tmp_path / "run")) == settings["steps"]
