"""`llada evaluate` in several processes, and killed in the midst: the results of one process that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from console import llada
from harness_tasks import KINDS, write_task, write_tasks
from lm_eval.tasks import TaskManager
from processes import finish, run, start_all, wait_until

from llada.eval import evaluation
from llada.eval.responses import Responses

pytestmark = pytest.mark.usefixtures("undescribed_machine")
DOCUMENTS = 3  # an odd number, so that the shares differ
# one row at a time: no padding, so that nothing depends on what was asked together, and equal means bit for bit
OPTIONS = ["--set", "samples=4", "--set", "sampler.steps=4", "--set", "sampler.temperature=1.0", "--set",
           "sampler.order=random", "--device", "cpu", "--batch-size", 1]  # fmt: skip


@pytest.fixture(scope="module")
def given(tuned, tmp_path_factory) -> list:
    """The command without its output."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder, DOCUMENTS)
    # examples are drawn anew for every document, one after another
    drawn = {
        "do_sample: false": "do_sample: true",
        "task: writing": "task: writing\nnum_fewshot: 2\nfewshot_split: test",
    }
    text = (folder / "writing.yaml").read_text()
    for old, new in drawn.items():
        text = text.replace(old, new)
    (folder / "writing.yaml").write_text(text)
    return ["evaluate", tuned / "model", "--include-path", folder, "--tasks", ",".join(KINDS), *OPTIONS]


def evaluating(given: list, output: Path, *more: object, pause: float = 0.0):
    """The command as an action of a process; with a pause after each response that it keeps."""

    def action() -> None:
        if pause:
            add = Responses.add

            def slowly(self, key, response) -> None:
                add(self, key, response)
                time.sleep(pause)

            Responses.add = slowly
        with pytest.MonkeyPatch.context() as monkeypatch:
            llada(monkeypatch, *given, *more, "--output", output)

    return action


@pytest.fixture(scope="module")
def alone(given, tmp_path_factory) -> Path:
    """The results of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(evaluating(given, folder / "out"), folder / "printed")
    return folder / "out"


def result(output: Path) -> tuple[dict, dict[str, list]]:
    """All results, without what tells how they were computed, and all samples in the order of the documents."""
    kept = json.loads((output / "results.json").read_text())
    samples = {
        file.name: sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
        for file in (output / "samples").iterdir()
    }
    return {name: kept[name] for name in ("subject", "tasks")}, samples


def keys(output: Path, files: str = "*/rank*.jsonl") -> list[str]:
    """Of all responses that processes have kept, with the ones that were asked twice."""
    lines = [
        line
        for file in output.glob(f"responses/{files}")
        for line in file.read_bytes().rpartition(b"\n")[0].splitlines()
    ]
    return [content["key"] for content in map(json.loads, lines) if "key" in content]


def test_two_processes_write_the_results_of_one(given, alone, tmp_path):
    run(evaluating(given, tmp_path / "out"), tmp_path / "printed", processes=2)
    assert result(tmp_path / "out") == result(alone)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["processes"] == 2
    assert sorted(keys(tmp_path / "out")) == sorted(keys(alone))
    assert all(keys(tmp_path / "out", f"{kind}/rank{rank}.jsonl") for kind in KINDS for rank in range(2))
    texts = {sample["resps"][0][0] for sample in result(alone)[1]["writing.jsonl"]}
    assert len(texts) > 1


def test_batches_of_two_processes_change_no_more_than_rounding(given, alone, tmp_path):
    run(evaluating(given, tmp_path / "out", "--batch-size", 16), tmp_path / "printed", processes=2)
    mine, expected = (result(output)[0]["tasks"] for output in (tmp_path / "out", alone))
    for kind in KINDS:
        for name, value in expected[kind]["results"][kind].items():
            found = mine[kind]["results"][kind][name]
            assert found == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


@pytest.mark.parametrize(("processes", "killed", "then"), [(2, (0, 1), 2), (2, (1,), 1), (1, (0,), 2)])
def test_a_killed_evaluation_asks_only_what_is_missing(processes, killed, then, given, alone, tmp_path):
    output = tmp_path / "out"
    children = start_all(evaluating(given, output, pause=0.02), tmp_path / "printed", processes)
    wait_until(lambda: len(keys(output)) > len(keys(alone)) // 3)
    for rank in killed:
        os.kill(children[rank], signal.SIGKILL)
    codes = [finish(child) for child in children]  # the one that is left does not wait for ever
    assert all(code == -signal.SIGKILL if rank in killed else code != 0 for rank, code in enumerate(codes))
    before = keys(output)
    assert len(before) < len(keys(alone))
    run(evaluating(given, output), tmp_path / "printed", processes=then)
    assert result(output) == result(alone)
    assert sorted(keys(output)) == sorted(keys(alone))  # each once
    assert set(before) < set(keys(output))
    assert not list(output.rglob("*.partial"))


def failing(given: list, output: Path, rank: int, error: Exception):
    """The command, in which one process meets an error where it answers."""

    def action() -> None:
        import llada.eval.crew as module

        def broken(*arguments) -> None:
            raise error

        if int(os.environ["RANK"]) == rank:
            module.answer = broken
        evaluating(given, output)()

    return action


class TwoArgumentsError(ValueError):
    """As it is, no other process can be sent it."""

    def __init__(self, one: str, other: str):
        super().__init__(f"{one} and {other}")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FloatingPointError("the model's logits are not numbers"), 3, "llada: the model's logits are not numbers"),
        (TwoArgumentsError("this", "that"), 2, "llada: TwoArgumentsError: this and that"),
    ],
)
def test_an_error_in_one_process_ends_all_with_its_code(rank, error, code, message, given, tmp_path):
    children = start_all(failing(given, tmp_path / "out", rank, error), tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [code, code]
    assert message in (tmp_path / "printed").read_text()
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_error_of_the_first_process_alone_ends_all(given, tmp_path):
    """It alone reads the requests."""
    command = [*given[:2], "--include-path", tmp_path, "--tasks", "empty", *OPTIONS]
    write_task(tmp_path, "empty", "likelihood", [{"question": "What is 1?", "answer": ""}])
    children = start_all(evaluating(command, tmp_path / "out"), tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [2, 2]
    assert "task empty, document 0: the answer is empty" in (tmp_path / "printed").read_text()


@pytest.mark.parametrize(("tasks", "message"), [("nothing", "unknown task 'nothing'"), ("choice", "is a file or a")])
def test_what_the_first_process_refuses_ends_all(tasks, message, given, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "TaskManager", partial(TaskManager, include_defaults=False))  # to index all is slow
    (tmp_path / "out").write_text("precious")
    given = [*given[: given.index("--tasks") + 1], tasks, *OPTIONS]
    children = start_all(evaluating(given, tmp_path / "out"), tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [2, 2]
    assert (tmp_path / "printed").read_text().count(message) == 2
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.slow
def test_torchrun_starts_it(given, alone, tmp_path):
    started = ["--standalone", "--nproc_per_node", 2, "--no-python", sys.executable, "-c"]
    command = [sys.executable, "-m", "torch.distributed.run", *started, "from llada.cli import main; main()", *given]
    told = subprocess.run(
        [*map(str, command), "--output", tmp_path / "out"], capture_output=True, text=True, timeout=300
    )
    assert told.returncode == 0, told.stderr[-3000:]
    assert result(tmp_path / "out") == result(alone)
