"""A run that is killed, at any instant, goes on as if nothing had happened: same weights and same log, bit for bit."""

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import finish, run, start, wait_until
from safetensors.torch import load_file

from llada.config import ConfigError
from llada.train.checkpoints import CheckpointError, list_checkpoints, newest_valid, verify
from llada.train.config import PretrainConfig
from llada.train.journal import read_log
from llada.train.run import train
from llada.train.signals import Interrupted

STEPS = 9  # of the run that the fixture `settings` describes


def training(settings: dict, output: Path, resume: bool = True, **changes) -> Callable[[], object]:
    return lambda: train(PretrainConfig(**settings | changes, output=str(output)), resume=resume)


def result(output: Path) -> tuple[bytes, bytes, list[dict]]:
    """Everything a run leaves that does not depend on the clock."""
    log = [{k: v for k, v in r.items() if k not in ("elapsed", "tokens_per_second")} for r in read_log(output)]
    return *((output / name / "model.safetensors").read_bytes() for name in ("model", "ema")), log


@pytest.fixture(scope="module")
def uninterrupted(settings, tmp_path_factory) -> tuple[bytes, bytes, list[dict]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(training(settings, folder / "run", resume=False), folder / "printed")
    assert len(read_log(folder / "run")) == STEPS
    return result(folder / "run")


def kill_at(event: int, output: Path, torn: bool) -> None:
    """Make this process die at its n-th operation on files below `output`; `torn`: half of what was not synced is lost
    from the file, as in a power cut."""
    count = 0
    synced: dict[int, int] = {}  # bytes of a file that no power cut can take, by inode

    def happens(path: object) -> None:
        nonlocal count
        if str(output) not in str(path):
            return
        count += 1
        if count == event:
            if torn and os.path.isfile(str(path)):
                status = os.stat(str(path))
                kept = synced.get(status.st_ino, 0)
                os.truncate(str(path), kept + (status.st_size - kept) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, arguments: tuple) -> None:
        writes = name == "open" and (isinstance(arguments[1], str) and arguments[1][:1] in "wax")
        if writes or name in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            happens(arguments[0])

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        happens(path)
        real_fsync(descriptor)
        synced[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size
        happens(path)

    real_fsync, os.fsync = os.fsync, fsync
    sys.addaudithook(audit)


def survives(settings: dict, folder: Path, event: int, torn: bool, expected: tuple) -> bool:
    """Kill a run at an operation and go on; False where the run has fewer operations."""

    def killed() -> None:
        kill_at(event, folder / "run", torn)
        training(settings, folder / "run")()

    code = finish(start(killed, folder / "printed"))
    if code == 0:
        return False
    assert code == -signal.SIGKILL, (folder / "printed").read_text()
    for checkpoint in list_checkpoints(folder / "run" / "checkpoints"):
        verify(checkpoint)  # whatever has the name of a checkpoint is one
    run(training(settings, folder / "run"), folder / "printed")
    assert result(folder / "run") == expected
    return True


def every_operation(settings, tmp_path, expected, first: int, stride: int) -> int:
    """The number of kills that a run survived."""
    event = first
    while survives(settings, tmp_path / str(event), event, bool(event % 2), expected):
        event += stride
    return len(range(first, event, stride))


def test_kill_before_and_after_some_file_operations(settings, uninterrupted, tmp_path):
    assert every_operation(settings, make(tmp_path, range(1000)), uninterrupted, first=3, stride=47) > 2


@pytest.mark.slow
def test_kill_before_and_after_every_file_operation(settings, uninterrupted, tmp_path):
    assert every_operation(settings, make(tmp_path, range(1000)), uninterrupted, first=1, stride=1) > 150


def make(folder: Path, names) -> Path:
    for name in names:
        (folder / str(name)).mkdir()
    return folder


def random_kills(settings: dict, folder: Path, expected: tuple, kills: int, seed: int, *, saving: int = 0) -> None:
    """Kill runs at random instants, going on each time, until so many have died, and so many of them while they saved.

    The latter are a smaller share on a busy machine; AssertionError where they are hardly any.
    """
    rng, died, died_saving, number = random.Random(seed), 0, 0, 0
    begun = time.monotonic()
    run(training(settings, folder / "timed"), folder / "printed")
    duration = time.monotonic() - begun
    while died < kills or died_saving < saving:
        assert died < 10 * kills, f"only {died_saving} of {died} died while they saved"
        output = folder / str(number)
        child = start(training(settings, output), folder / "printed")
        time.sleep(rng.uniform(0.0, duration))
        os.kill(child, signal.SIGKILL)
        code = finish(child)
        if code == -signal.SIGKILL:
            died += 1
            died_saving += any((output / "checkpoints").glob("*.partial"))
        else:
            assert code == 0, (folder / "printed").read_text()[-3000:]
            assert result(output) == expected
            number += 1
    run(training(settings, folder / str(number)), folder / "printed")
    assert result(folder / str(number)) == expected


@pytest.mark.slow
def test_pool_of_puma_goes_on_where_it_was(settings, tmp_path):
    settings = {name: value for name, value in settings.items() if name != "masking"} | {"objective": "puma"}
    settings["puma"] = {"stages": 3, "threshold": 0.01, "growth": {"add": 2, "every": 3, "to": 5}}
    run(training(settings, tmp_path / "whole", resume=False, checkpoint_keep=1), tmp_path / "printed")
    random_kills(settings | {"checkpoint_every": 1}, make(tmp_path, ["a"]) / "a", result(tmp_path / "whole"), 3, seed=0)
    pool = tmp_path / "whole" / "checkpoints" / "step-00000009" / "pool.safetensors"
    assert load_file(pool)["masked"].shape == (8, 32)
    pool.unlink()
    with pytest.raises(ConfigError, match=r"none of the 1 checkpoints in .*: pool\.safetensors is missing"):
        training(settings, tmp_path / "whole", steps=11)()


@pytest.mark.slow
def test_kill_at_random_instants(settings, uninterrupted, tmp_path):
    random_kills(settings | {"checkpoint_every": 1}, tmp_path, uninterrupted, kills=8, seed=0)


@pytest.mark.slow
def test_kill_at_two_hundred_random_instants(settings, uninterrupted, tmp_path):
    random_kills(settings | {"checkpoint_every": 1}, tmp_path, uninterrupted, kills=200, seed=1, saving=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_saves_at_the_next_step_and_says_how_to_go_on(number, settings, uninterrupted, tmp_path):
    from llada.cli import main

    settings = {k: v for k, v in settings.items() if k != "checkpoint_every"}  # a signal saves without, too
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    arguments = ["llada", "pretrain", str(tmp_path / "run.yaml"), f"output={tmp_path / 'run'}", "--resume"]

    def command() -> None:
        sys.argv = arguments
        main()

    child = start(command, tmp_path / "printed")
    wait_until(lambda: (tmp_path / "run" / "log.jsonl").exists() and len(read_log(tmp_path / "run")) >= 2)
    os.kill(child, number)
    assert finish(child) == 75
    printed = (tmp_path / "printed").read_text()
    assert f"llada: {number.name}: saved at step" in printed
    assert "go on with --resume" in printed
    run(command, tmp_path / "printed")
    assert result(tmp_path / "run") == uninterrupted


def test_second_signal_ends_the_process_at_once(settings, tmp_path):
    def slow() -> None:
        import llada.train.run as module

        module.save = lambda *arguments, **options: time.sleep(60)
        training(settings, tmp_path / "run")()

    child = start(slow, tmp_path / "printed")
    wait_until(lambda: (tmp_path / "run" / "log.jsonl").exists() and len(read_log(tmp_path / "run")) >= 1)
    os.kill(child, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    assert finish(child, timeout=5) == -signal.SIGTERM


@pytest.fixture
def stopped(settings, tmp_path) -> Path:
    """A run with checkpoints of steps 2, 4 and 6, killed after the last of them."""

    def killed() -> None:
        import llada.train.run as module

        save = module.save

        def save_and_die(root, trained, tokenizer, position, **options) -> None:
            save(root, trained, tokenizer, position, **options)
            if position.step == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        module.save = save_and_die
        training(settings, tmp_path / "run", checkpoint_keep=3)()

    assert finish(start(killed, tmp_path / "printed")) == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-00000006",
        "step-00000004",
        "step-00000002",
    ]
    return tmp_path / "run"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": (lambda c: flip(c / "model" / "model.safetensors"), "model.safetensors is damaged"),
    "truncated": (lambda c: os.truncate(c / "optimizer.safetensors", 100), "has 100 bytes instead of"),
    "missing file": (lambda c: (c / "ema" / "config.json").unlink(), "ema/config.json is missing"),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "its save did not end"),
    "empty manifest": (lambda c: (c / "manifest.json").write_text(""), "manifest.json cannot be read"),
    "another version": (lambda c: (c / "manifest.json").write_text('{"version": 9}'), "format version 9"),
    "file outside": (
        lambda c: (c / "manifest.json").write_text(
            '{"version": 1, "step": 6, "files": {"../x": {"bytes": 1, "sha256": ""}}}'
        ),
        "lies outside",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_skipped_with_the_reason_and_the_one_before_is_used(
    damage, stopped, settings, uninterrupted
):
    spoil, reason = DAMAGE[damage]
    spoil(stopped / "checkpoints" / "step-00000006")
    printed = stopped.parent / "printed"
    run(training(settings, stopped, checkpoint_keep=3), printed)
    text = printed.read_text()
    assert f"skipped {stopped}/checkpoints/step-00000006: " in text
    assert reason in text
    assert f"going on from {stopped}/checkpoints/step-00000004" in text
    assert result(stopped) == uninterrupted
    assert (stopped / "checkpoints" / "step-00000006.invalid").is_dir()
    assert newest_valid(stopped / "checkpoints")[0].name == "step-00000009"


def test_all_checkpoints_damaged_is_an_error_and_nothing_is_removed(stopped, settings):
    for checkpoint in list_checkpoints(stopped / "checkpoints"):
        flip(checkpoint / "state.json")
    with pytest.raises(ConfigError, match=r"none of the 3 checkpoints in .* can be used .*overwrite=true"):
        training(settings, stopped)()
    assert len(list_checkpoints(stopped / "checkpoints")) == 3


def test_checkpoint_damaged_twice_is_set_aside_twice(stopped, settings, uninterrupted):
    newest = stopped / "checkpoints" / "step-00000006"
    newest.with_name("step-00000006.invalid").mkdir()
    (newest.with_name("step-00000006.invalid") / "old").touch()
    flip(newest / "state.json")
    run(training(settings, stopped), stopped.parent / "printed")
    assert result(stopped) == uninterrupted


def test_finished_run_without_checkpoints_is_left_alone(settings, uninterrupted, tmp_path):
    few = settings | {"checkpoint_every": None}
    run(training(few, tmp_path / "run"), tmp_path / "printed")
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    run(training(few, tmp_path / "run"), tmp_path / "printed")
    assert "llada: the run has ended already" in (tmp_path / "printed").read_text()
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="ended after 9 steps without a checkpoint to go on from"):
        training(few, tmp_path / "run", steps=12)()
    assert result(tmp_path / "run") == uninterrupted


def test_run_does_not_go_on_with_another_model_in_the_same_place(stopped, settings, tmp_path):
    with pytest.raises(CheckpointError, match=r"it holds another model: rope_theta was .*, is 77"):
        training(settings, stopped, model=settings["model"] | {"rope_theta": 77.0})()
    values = json.loads((stopped / "config.json").read_text())
    (tmp_path / "model.yaml").write_text(json.dumps(settings["model"] | {"n_heads": 4}))
    (stopped / "config.json").write_text(json.dumps(values | {"model": str(tmp_path / "model.yaml")}))
    with pytest.raises(CheckpointError, match="it holds another model: n_heads was 2, is 4"):
        training(settings, stopped, model=str(tmp_path / "model.yaml"))()


def test_run_does_not_end_before_its_checkpoint(stopped, settings):
    with pytest.raises(ConfigError, match="steps=5, but the run has done 6 already"):
        training(settings, stopped, steps=5)()


def test_signal_to_all_processes_of_a_job_saves_although_workers_prepare_batches(settings, tmp_path):
    def with_workers() -> None:
        os.setpgrp()
        try:
            training(settings, tmp_path / "run", workers=2)()
        except Interrupted:
            sys.exit(75)

    child = start(with_workers, tmp_path / "printed")
    wait_until(lambda: (tmp_path / "run" / "log.jsonl").exists() and len(read_log(tmp_path / "run")) >= 2)
    os.killpg(child, signal.SIGTERM)
    assert finish(child) == 75, (tmp_path / "printed").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, "batch_size was 8, is 4"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"model": {"d_model": 32, "n_layers": 1, "n_heads": 2}}, "model.d_model was 16, is 32"),
        ({"ema": None}, "ema was 0.9, is None"),
        ({"optim": {"learning_rate": 0.02, "optimizer": "muon"}}, "optim.learning_rate was 0.01, is 0.02"),
        ({"overwrite": True}, "choose one"),
    ],
)
def test_run_does_not_go_on_with_other_settings(changes, message, stopped, settings):
    with pytest.raises(ConfigError, match=message):
        training(settings, stopped, **changes)()


def test_length_and_micro_batch_of_a_run_may_change(stopped, settings):
    run(training(settings, stopped, steps=11, micro_batch_size=2, evaluate_every=None), stopped.parent / "printed")
    assert [record["step"] for record in read_log(stopped)] == list(range(1, 12))


def test_run_does_not_go_on_with_other_data(stopped, settings, monkeypatch):
    monkeypatch.setattr("llada.train.build.fingerprint", lambda rows: "another")
    with pytest.raises(CheckpointError, match="training data is not what it was trained on"):
        training(settings, stopped)()


def test_log_that_lost_records_is_refused(stopped, settings):
    os.truncate(stopped / "log.jsonl", 50)
    with pytest.raises(ValueError, match=r"log.jsonl has 50 bytes, but \d+ when the checkpoint was saved"):
        training(settings, stopped)()


def test_folder_without_a_run_is_not_taken(settings, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        training(settings, tmp_path)()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"config.json cannot be read"):
        training(settings, tmp_path)()
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_finished_run_has_nothing_to_do(settings, uninterrupted, tmp_path):
    run(training(settings, tmp_path / "run"), tmp_path / "printed")
    changed = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    run(training(settings, tmp_path / "run"), tmp_path / "printed")
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == changed
    assert result(tmp_path / "run") == uninterrupted


def test_only_the_newest_checkpoints_stay(settings, tmp_path):
    run(training(settings, tmp_path / "run", checkpoint_keep=1), tmp_path / "printed")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000009"]


def test_checkpoint_holds_a_model_that_loads(stopped):
    import llada

    model, tokenizer = llada.load_pretrained(stopped / "checkpoints" / "step-00000004" / "model")
    assert model.config.mask_token_id == tokenizer.mask_token_id
    held = load_file(stopped / "checkpoints" / "step-00000004" / "optimizer.safetensors")
    assert held["model.layers.0.self_attn.q_proj.weight/momentum_buffer"].shape == (16, 16)
    assert held["lm_head.weight/step"] == 4


def test_full_disk_is_named_and_nothing_is_lost(settings, uninterrupted, tmp_path):
    """The kernel refuses bytes beyond a file size that the first checkpoint fits into and a later one does not."""

    def limited() -> None:
        import llada.train.run as module

        save = module.save

        def save_on_a_full_disk(root, trained, tokenizer, position, **options) -> None:
            if position.step == 4:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            save(root, trained, tokenizer, position, **options)

        module.save = save_on_a_full_disk
        training(settings, tmp_path / "run")()

    assert finish(start(limited, tmp_path / "printed")) == 1
    assert "the checkpoint of step 4 could not be written" in (tmp_path / "printed").read_text()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    run(training(settings, tmp_path / "run"), tmp_path / "printed")
    assert result(tmp_path / "run") == uninterrupted


def test_folder_that_may_not_be_written_is_named(settings):
    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        training(settings, Path(folder) / "run")()

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as printed:
        os.chmod(folder, 0o555)
        os.chmod(printed, 0o777)
        assert finish(start(as_nobody, Path(printed) / "printed")) == 1
        assert "Permission denied" in (Path(printed) / "printed").read_text()


def test_average_follows_the_weights_from_behind(settings, tmp_path):
    """The first weights fade quickly: the average over n steps gives them at most 1/(10 + n) of the early decay."""
    run(training(settings, tmp_path / "run", ema=0.999), tmp_path / "printed")
    model, average = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("model", "ema"))
    name = "model.transformer.wte.weight"
    assert not torch.equal(model[name], average[name])
    assert (model[name] - average[name]).norm() < 0.5 * model[name].norm()
    assert "ema_bound" in read_log(tmp_path / "run")[-1]
