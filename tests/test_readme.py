"""Every snippet of the README runs, in order, on models that are trained here for a moment."""

import io
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from servers import serving
from small_experiments import SMALL as SMALL_EXPERIMENTS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SMALL_SFT = ["steps=2", "batch_size=4", "optim.warmup=0", "optim.decay=1"]
SMALL = [*SMALL_SFT, "model.d_model=32", "model.n_layers=1", "length=32"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What `scripts/quickstart.sh` makes, with two training steps each."""
    import os

    from console import llada

    folder = tmp_path_factory.mktemp("readme")
    root = Path(__file__).parents[1]
    (folder / "configs").symlink_to(root / "configs")
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = "runs/quickstart"
        llada(monkeypatch, "prepare", "python-documentation", f"{run}/data", "--vocab-size", 262, "--max-bytes", 300000)
        llada(monkeypatch, "prepare", "instructions", f"{run}/instructions", "--count", 5)
        llada(monkeypatch, "pretrain", "configs/pretrain/quickstart.yaml", *SMALL, "model.max_sequence_length=256")
        llada(monkeypatch, "sft", "configs/sft/quickstart.yaml", *SMALL_SFT)
    yield folder
    os.chdir(before)


def test_python_snippets_run_in_order(quickstart, capsys, monkeypatch):
    from console import llada

    llada(monkeypatch, "sft", "configs/sft/lora.yaml", "overwrite=true", *SMALL_SFT)  # a command beside its snippet
    snippets = [snippet for snippet in blocks("python") if "base_url" not in snippet]
    assert len(snippets) >= 10
    namespace: dict[str, object] = {"__name__": "readme"}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert "nats per token" in capsys.readouterr().out


def test_client_asks_the_server(quickstart, capsys):
    (snippet,) = [snippet for snippet in blocks("python") if "base_url" in snippet]
    with serving(quickstart / "runs" / "quickstart" / "sft" / "model", "--set", "gen_length=32") as address:
        exec(compile(snippet.replace("http://127.0.0.1:8000", address), "README.md", "exec"), {"__name__": "readme"})
    assert "forward_passes" in capsys.readouterr().out


def test_commands_run_in_order(quickstart, monkeypatch):
    from console import llada

    lines = [line.partition(" #")[0] for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("llada ")]
    extra = {"prepare": [], "pretrain": [*SMALL, "model.max_sequence_length=256"], "generate": []}
    extra["sft"] = [*SMALL_SFT, "overwrite=true"]  # the snippets may have run before
    extra["plan"] = extra["pretrain"]
    extra |= {name: [] for name in ("infill", "chat", "trace", "export", "doctor", "serve", "ui")}
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets=None: None)  # tests/serve and tests/web ask one
    monkeypatch.setattr("sys.stdin", io.StringIO("How many words: a b\n"))  # for chat
    extra["tune"] = ["--steps", "16,8", "--thresholds", "0.9", "--caches", "none", "--tolerance", "0.15"]
    extra["evaluate"] = ["--set", "sampler.gen_length=8", "--set", "sampler.steps=2", "--device", "cpu"]
    extra["compare"] = ["--rows", "8", "--length", "32", "--samples", "2", "--precision", "1"]
    assert len(commands) == 42
    Path("tasks").mkdir()
    (task,) = [block for block in blocks("yaml") if block.startswith("task: mine")]
    Path("tasks", "mine.yaml").write_text(task)
    questions = [{"question": f"What is {a} plus 1?", "answer": f"#### {a + 1}"} for a in range(3)]
    Path("tasks", "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    Path("web").mkdir()
    texts = [{"text": " ".join(f"word {i * k} is new" for k in range(60))} for i in range(80)] + [{"text": ""}]
    Path("web", "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    for command in commands:
        if command[0] == "evaluate" and "mine" not in command:
            continue  # published tasks and models need a network; tests/eval/test_presets.py reads their settings
        if "hf:owner/name" in command:  # without a network
            command[command.index("hf:owner/name")] = "hf:./web"
            command[command.index("--workers") + 1] = "2"
        if command[:2] == ["prepare", "python-documentation"]:
            command += ["--max-bytes", "300000"]
        if command[:2] == ["prepare", "instructions"]:
            command += ["--count", "5"]
        small = SMALL_EXPERIMENTS[command[1]] if command[0] == "experiment" else extra[command[0]]
        if "lesson=null" in command:  # which asks a checkpoint
            small = ["questions=2", "steps=[2]", "samplers={a: {}}", "thresholds=[0.9]"]
        llada(monkeypatch, *command, *small)


def test_files_and_links_that_the_readme_names_exist():
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README) + re.findall(r"bash (scripts/\w+\.sh)", README):
        assert (root / target).exists(), target


def test_contents_name_the_sections():
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", README)
    assert len(links) >= 10
    assert set(links) <= anchors


def test_functions_that_the_readme_names_exist():
    table = README[README.index("## Equations") : README.index("## What is exact")]
    names = re.findall(r"`(llada\.[\w.]+)`", table)
    assert len(names) >= 15
    for name in names:
        module, _, function = name.rpartition(".")
        assert hasattr(import_module(module), function), name


def test_tests_that_the_equations_name_mention_the_functions():
    table = README[README.index("## Equations") : README.index("## What is exact")]
    rows = [line for line in table.splitlines() if "](tests/" in line]
    assert len(rows) >= 10
    for row in rows:
        (path,) = re.findall(r"\]\((tests/[^)]+)\)", row)
        text = (Path(__file__).parents[1] / path).read_text(encoding="utf-8")
        for name in re.findall(r"`llada\.[\w.]+\.(\w+)`", row):
            assert re.search(rf"\b{name}\b", text), (name, path)
