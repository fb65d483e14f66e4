"""Training in two processes: replicated and sharded runs are the run of one process, and go on as each other."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from processes import finish, run, start_all, wait_until
from safetensors.torch import load_file
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import gradient
from test_resume import result, training

from llada.config import ConfigError
from llada.train.checkpoints import CheckpointError, list_checkpoints
from llada.train.config import PretrainConfig
from llada.train.journal import read_log
from llada.train.objectives import Noise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="module", params=["adamw"])
def base(request, settings) -> dict:
    """By the optimiser; `puma`: by AdamW, with masks that depend on what the model said."""
    if request.param == "puma":
        settings = {name: value for name, value in settings.items() if name != "masking"}
        settings |= {"objective": "puma", "puma": {"stages": 3, "threshold": 0.01}}
    return settings | {"optim": settings["optim"] | {"optimizer": "muon" if request.param == "muon" else "adamw"}}


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
    for name in [name for name in ("model", "ema") if (alone / name).is_dir()]:
        weights, expected = (load_file(folder / name / "model.safetensors") for folder in (output, alone))
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            assert torch.allclose(value, expected[key], atol=6e-3 if muon else 2e-4), key
        assert json.loads((output / name / "config.json").read_text()) == json.loads(
            (alone / name / "config.json").read_text()
        )


@pytest.mark.parametrize(
    ("base", "sharding"),
    [
        *(("adamw", "none"), ("muon", "full")),
        pytest.param("adamw", "full", marks=pytest.mark.slow),
        pytest.param("muon", "none", marks=pytest.mark.slow),
        pytest.param("puma", "full", marks=pytest.mark.slow),
    ],
    indirect=["base"],
)
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
    [
        *((change, "adamw") for change in CHANGES),
        pytest.param("sharded, then sharded", "muon", marks=pytest.mark.slow),
        pytest.param("sharded, then alone", "puma", marks=pytest.mark.slow),
    ],
    indirect=["base"],
)
def test_run_goes_on_at_another_number_of_processes(change, base, alone, tmp_path):
    (processes, sharding), (then_processes, then_sharding) = CHANGES[change]
    children = start_all(stopping(base, tmp_path / "run", sharding), tmp_path / "printed", processes)
    assert {finish(child) for child in children} == {75}, (tmp_path / "printed").read_text()[-3000:]
    assert next(path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")) == "step-00000005"
    run(training(base, tmp_path / "run", sharding=then_sharding), tmp_path / "printed", then_processes)
    assert_same_run(tmp_path / "run", alone)


def stopping(settings: dict, output: Path, sharding: str):
    """A run whose last process is asked to stop in its fifth step; all processes must end with code 75."""

    file = output.parent / "run.yaml"
    file.write_text(json.dumps(settings))

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
        sys.argv = ["llada", "pretrain", str(file), f"output={output}", f"sharding={sharding}", "--resume"]
        main()

    return action


@pytest.mark.parametrize(
    ("base", "processes", "sharding"),
    [
        pytest.param("adamw", 2, "none", marks=pytest.mark.slow),
        pytest.param("muon", 2, "none", marks=pytest.mark.slow),
        pytest.param("adamw", 4, "none", marks=pytest.mark.slow),
        ("adamw", 2, "full"),
        ("puma", 2, "none"),
    ],
    indirect=["base"],
)
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(base, processes, sharding, tmp_path):
    """Sums over more than two processes depend on their order, too."""
    many_buckets = sharding == "none" and "puma" not in base
    sizes = {"d_model": 64, "n_layers": 4, "mlp_hidden_size": 300} if many_buckets else {}
    settings = base | {"sharding": sharding, "model": base["model"] | sizes}
    run(training(settings, tmp_path / "whole"), tmp_path / "printed", processes)
    children = start_all(stopping(settings, tmp_path / "run", sharding), tmp_path / "printed", processes)
    assert {finish(child) for child in children} == {75}
    run(training(settings, tmp_path / "run"), tmp_path / "printed", processes)
    assert result(tmp_path / "run") == result(tmp_path / "whole")


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_bad_number_in_one_process_stops_all_before_the_update_and_names_the_row(sharding, base, tmp_path):
    def poisoned() -> None:
        import llada.train.loop as module

        losses = module._losses

        def poisoned_losses(model, batch, per, device):
            total, rows = losses(model, batch, per, device)
            if any((p.epoch, p.index) == (0, 3 * 8 + 6) for p in batch.places):  # the fourth step, second process
                rows = rows * torch.where(torch.tensor([p.index == 30 for p in batch.places]), torch.nan, 1.0)
                total = total * torch.nan
            return total, rows

        module._losses = poisoned_losses

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


def test_sharding_needs_processes(settings, tmp_path):
    with pytest.raises(ConfigError, match="sharding: full needs several processes"):
        training(settings, tmp_path / "run", sharding="full")()
    assert not (tmp_path / "run").exists()


def test_killing_one_process_ends_the_other(settings, tmp_path):
    """What is left of a run whose processes lost each other goes on alone."""
    children = start_all(training(settings, tmp_path / "run"), tmp_path / "printed", 2)
    wait_until(lambda: len(list_checkpoints(tmp_path / "run" / "checkpoints")) > 0)
    os.kill(children[1], signal.SIGKILL)
    assert finish(children[1]) == -signal.SIGKILL
    assert finish(children[0]) == 1
    run(training(settings, tmp_path / "run"), tmp_path / "printed")
    assert len(read_log(tmp_path / "run")) == settings["steps"]


def launched(name: str) -> dict[str, str]:
    """The environment in which `accelerate launch` with a file of configs/accelerate starts processes."""
    file = Path(__file__).parents[2] / "configs" / "accelerate" / f"{name}.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    return prepare_multi_gpu_env(_validate_launch_command(arguments)[0])


def test_launch_file_for_replicated_processes_asks_for_nothing_else():
    env = launched("ddp")
    assert not [name for name in env if "FSDP" in name or "DEEPSPEED" in name]


@pytest.mark.parametrize("name", ["fsdp2", pytest.param("fsdp2_gradients", marks=pytest.mark.slow)])
def test_launch_files_for_sharding_train_the_model_of_one(name, settings, tmp_path):
    """accelerate ignores its FSDP settings on a CPU, so its state is set to what it would be on GPUs."""
    settings = {key: value for key, value in settings.items() if key != "ema"}
    settings["optim"] = settings["optim"] | {"optimizer": "adamw"}

    def as_on_gpus() -> None:
        import llada.train.build as module

        os.environ.update({key: value for key, value in launched(name).items() if "FSDP" in key})
        plugin = FullyShardedDataParallelPlugin()
        original = module.Accelerator

        def sharding(**options) -> Accelerator:
            accelerator = original(**options)
            AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
            return accelerator

        module.Accelerator = sharding
        training(settings, tmp_path / "run")()

    run(as_on_gpus, tmp_path / "printed", processes=2)
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[1]
    assert (newest / "shards").is_dir()
    run(training(settings, tmp_path / "alone"), tmp_path / "printed")
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    shutil.rmtree(list_checkpoints(tmp_path / "run" / "checkpoints")[0])
    run(training(settings, tmp_path / "run"), tmp_path / "printed")  # the rest of it, by one process
    assert_same_run(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("DEEPSPEED", {}, "asks for DEEPSPEED, which is not supported: "),
        ("FSDP", {"sharding": "full"}, "several processes"),
    ],
)
def test_kinds_of_processes_that_do_not_fit_are_refused(kind, changes, message, settings, tmp_path, monkeypatch):
    def other(**options) -> SimpleNamespace:
        return SimpleNamespace(
            distributed_type=DistributedType(kind), num_processes=1, is_fsdp2=kind == "FSDP", state=None
        )

    monkeypatch.setattr("llada.train.build.Accelerator", other)
    with pytest.raises(ConfigError, match=message):
        training(settings, tmp_path / "run", **changes)()


def test_gradient_in_two_processes_is_that_of_one_to_the_last_digits(tmp_path):
    """Pretraining rows of random lengths and conversations, in float64."""

    def measure(folder: Path) -> None:
        rank = int(os.environ.get("RANK", "0"))
        for name, data, per, random_length in (
            ("pretraining", Tokens(), "token", 0.7),
            ("fine-tuning", Conversations(), "row", 0.0),
        ):
            loss, gradients = gradient(data, Noise(MASK, PAD, random_length=random_length), per, 2)
            torch.save((loss, gradients), folder / f"{name}-{rank}")

    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        run(lambda: measure(tmp_path / str(processes)), tmp_path / "printed", processes)  # noqa: B023
    for file in (tmp_path / "2").iterdir():
        loss, gradients = torch.load(file)
        expected_loss, expected = torch.load(tmp_path / "1" / (file.name.rpartition("-")[0] + "-0"))
        assert loss == pytest.approx(expected_loss, rel=1e-6)  # logged in float32
        assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(gradients, expected, strict=True))


def test_sharded_run_in_half_precision_is_the_replicated_one(settings, tmp_path):
    for sharding in ("none", "full"):
        action = training(settings, tmp_path / sharding, sharding=sharding, mixed_precision="bf16",
                          optim=settings["optim"] | {"optimizer": "adamw"})  # fmt: skip
        run(action, tmp_path / "printed", processes=2)
    for one, other in zip(read_log(tmp_path / "none"), read_log(tmp_path / "full"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_disk_that_is_full_for_one_process_stops_both_and_leaves_the_checkpoint_before(sharding, settings, tmp_path):
    import resource

    def limited() -> None:
        import llada.train.run as module

        save = module.save

        def save_on_a_full_disk(root, trained, tokenizer, position, **options) -> None:
            if position.step == 4 and os.environ["RANK"] == "0":
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
            save(root, trained, tokenizer, position, **options)

        module.save = save_on_a_full_disk
        try:
            training(settings, tmp_path / "run", sharding=sharding)()
        except CheckpointError as error:
            print(f"stopped: {error}", flush=True)
            raise SystemExit(2) from None

    children = start_all(limited, tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [2, 2], (tmp_path / "printed").read_text()[-3000:]
    assert (tmp_path / "printed").read_text().count("stopped: the checkpoint of step 4 could not be written") == 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


def test_log_that_cannot_be_written_stops_both_processes_and_is_named(settings, tmp_path):
    def full() -> None:
        import errno

        import llada.train.run as module

        append = module.Journal.append

        def append_to_a_full_disk(self, record) -> None:
            if record["step"] == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            append(self, record)

        module.Journal.append = append_to_a_full_disk
        try:
            training(settings, tmp_path / "run")()
        except OSError as error:
            print(f"stopped: {error}", flush=True)
            raise SystemExit(2) from None

    children = start_all(full, tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [2, 2], (tmp_path / "printed").read_text()[-3000:]
    assert (tmp_path / "printed").read_text().count("log.jsonl cannot be written") == 2


def test_dry_run_that_fails_on_one_process_ends(settings, tmp_path):
    """The other one is left to the launcher, as in training; here it is ended by hand."""

    def failing() -> None:
        import llada.train.rehearsal as module

        def fails(rows, mask_token_id) -> str:
            if os.environ["RANK"] == "1":
                raise ConfigError("row 7 is bad")
            return "rows"

        module._checked = fails
        module.rehearse(PretrainConfig(**settings | {"output": str(tmp_path / "run")}))

    children = start_all(failing, tmp_path / "printed", 2)
    assert finish(children[1]) == 1
    os.kill(children[0], signal.SIGKILL)
    finish(children[0])
    assert "row 7 is bad" in (tmp_path / "printed").read_text()
