"""`llada evaluate`, from tasks in files to a folder of results that survives a kill."""

import json
from functools import partial
from importlib.metadata import version

import pytest
import torch
import transformers
from console import llada, refusal
from harness_tasks import KINDS, rows, write_task, write_tasks
from lm_eval.tasks import TaskManager

import llada as library
from llada.data.chat import encode_prompt
from llada.data.tokenizer import encode
from llada.eval import evaluation
from llada.eval.identity import fingerprint
from llada.eval.responses import Responses

pytestmark = pytest.mark.usefixtures("undescribed_machine")
OPTIONS = ["--set", "samples=4", "--set", "sampler.steps=4", "--device", "cpu", "--batch-size", 16]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    write_task(folder, "broken", "writing", [{"answer": "1"}])
    write_task(folder, "unlabelled", "choice", [{"question": "1?", "choices": ["1", "2"]}])
    write_task(folder, "coding", "writing", rows(2), "unsafe_code: true\n")
    write_task(folder, "bare", "writing", rows(2), "num_fewshot: 0\n")
    return folder


def run(monkeypatch, tuned, folder, *arguments):
    llada(monkeypatch, "evaluate", tuned / "model", "--include-path", folder, *OPTIONS, *arguments)


def results(output):
    return {name: task["results"] for name, task in json.loads((output / "results.json").read_text())["tasks"].items()}


def test_results_are_printed_and_kept_with_what_they_are_results_of(tuned, folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    run(monkeypatch, tuned, folder, "--tasks", ",".join(KINDS), "--output", output, "--chat", "--limit", 5)
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in (*KINDS, "acc", "bits_per_byte", "exact_match"))
    kept = json.loads((output / "results.json").read_text())
    model, tokenizer = library.load_pretrained(tuned / "model")
    subject = kept["subject"]
    assert subject["model"] == fingerprint(model)
    assert subject | {"dtype": "torch.float32", "device": "cpu", "seed": 0, "limit": 5, "chat": True} == subject
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "lm_eval": version("lm_eval")}
    assert subject | versions | {"llada": library.__version__} == subject
    assert (kept["batch_size"], kept["processes"]) == (16, 1)
    assert kept["command"].startswith(f"llada evaluate {tuned / 'model'} --include-path {folder} --set samples=4")
    assert kept["tasks"]["choice"]["asked"] == {"shots": None, "samples": 4, "precision": None} | {
        "sampler": library.SamplerConfig(steps=4).model_dump()
    }
    assert kept["tasks"]["choice"]["seeds"] == {
        "random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234
    }  # fmt: skip
    sample = json.loads((output / "samples" / "choice.jsonl").read_text().splitlines()[0])
    row = rows()[0]
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": row["question"]}])
    for choice, (value, _), error in zip(
        row["choices"], (r[0] for r in sample["resps"]), sample["stderr"], strict=True
    ):
        direct = library.log_likelihood(model, prompt, encode(tokenizer, choice), 4)
        assert (value, error) == pytest.approx((direct.value, direct.stderr), rel=1e-4, abs=1e-6)
    about = kept["tasks"]["choice"]["estimates"]["choice"]
    assert about.keys() == {"contexts_cut", "stderr_mean", "stderr_max", "evaluations_mean", "undecided"}
    assert kept["tasks"]["choice"]["n-samples"]["choice"]["effective"] == 5
    assert {"unigram_entropy", "ended", "tokens"} <= kept["tasks"]["writing"]["estimates"]["writing"].keys()


def test_results_are_printed_as_json_on_request(tuned, folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    run(monkeypatch, tuned, folder, "--tasks", "choice", "--output", output, "--limit", 2, "--json")
    assert json.loads(capsys.readouterr().out)["tasks"] == json.loads((output / "results.json").read_text())["tasks"]


def test_an_evaluation_that_was_killed_goes_on(tuned, folder, tmp_path, monkeypatch):
    run(monkeypatch, tuned, folder, "--tasks", "choice,writing", "--output", tmp_path / "whole")
    add, kept = Responses.add, []

    def dying(self, key, response):
        if len(kept) == 7:
            raise SystemExit(9)
        add(self, key, response)
        kept.append(key)

    output = tmp_path / "out"
    monkeypatch.setattr(Responses, "add", dying)
    with pytest.raises(SystemExit):
        run(monkeypatch, tuned, folder, "--tasks", "choice,writing", "--output", output)
    assert not (output / "results.json").exists()
    again = []
    monkeypatch.setattr(Responses, "add", lambda self, key, response: (again.append(key), add(self, key, response)))
    run(monkeypatch, tuned, folder, "--tasks", "choice,writing", "--output", output)
    assert len(kept) == 7
    assert not {*kept} & {*again}
    assert results(output) == results(tmp_path / "whole")
    again.clear()
    run(monkeypatch, tuned, folder, "--tasks", "choice,writing", "--output", output, "--batch-size", 3)
    assert not again  # everything is known


def test_other_tasks_join_the_results_of_a_folder(tuned, folder, tmp_path, monkeypatch, capsys):
    for task in ("choice", "writing"):
        run(monkeypatch, tuned, folder, "--tasks", task, "--output", tmp_path / "out")
    assert " choice " not in capsys.readouterr().out.partition(" writing ")[2]  # only what was asked for is printed
    run(monkeypatch, tuned, folder, "--tasks", "choice,writing", "--output", tmp_path / "both")
    assert results(tmp_path / "out") == results(tmp_path / "both")
    (tmp_path / "out" / "results.json").write_text("[1]")
    given = ["evaluate", tuned / "model", "--include-path", folder, *OPTIONS, "--tasks", "choice"]
    assert "results.json is damaged" in refusal(monkeypatch, capsys, *given, "--output", tmp_path / "out")


def test_a_folder_of_another_subject_is_refused(tuned, folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    run(monkeypatch, tuned, folder, "--tasks", "writing", "--output", output)
    before = (output / "results.json").read_bytes()
    given = ["evaluate", tuned / "model", "--include-path", folder, *OPTIONS, "--tasks", "writing", "--output", output]
    said = refusal(monkeypatch, capsys, *given, "--seed", 1)
    assert f"{output} holds results of another subject: seed 0, not 1. Name another folder" in said
    said = refusal(monkeypatch, capsys, *given, "--set", "samples=5")
    assert "holds responses under other settings: asked" in said
    (output / "subject.json").write_text("{")
    assert "subject.json is damaged" in refusal(monkeypatch, capsys, *given)
    assert (output / "results.json").read_bytes() == before


def test_a_folder_of_something_else_is_kept_as_it_is(tuned, folder, tmp_path, monkeypatch, capsys):
    given = ["evaluate", tuned / "model", "--include-path", folder, *OPTIONS, "--tasks", "writing", "--output"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("precious")
    said = refusal(monkeypatch, capsys, *given, tmp_path / "other")
    assert (
        f"{tmp_path / 'other'} exists and holds results.json, but no results of `llada evaluate`; name another" in said
    )
    assert [(file.name, file.read_text()) for file in (tmp_path / "other").iterdir()] == [("results.json", "precious")]
    said = refusal(monkeypatch, capsys, *given, tmp_path / "other" / "results.json")
    assert "results.json is a file or a link to nothing; name a folder" in said


def test_a_precision_decides_how_much_is_asked(tuned, folder, tmp_path, monkeypatch):
    for kind in ("likelihood", "rolling"):
        asking = ["--tasks", kind, "--limit", 2, "--output", tmp_path / kind]
        run(monkeypatch, tuned, folder, *asking)
        before = json.loads((tmp_path / kind / "results.json").read_text())["tasks"][kind]["estimates"][kind]
        precision = before["stderr_max"] / 2
        run(monkeypatch, tuned, folder, "--set", f"precision={precision}", *asking[:-1], tmp_path / f"sure {kind}")
        after = json.loads((tmp_path / f"sure {kind}" / "results.json").read_text())["tasks"][kind]["estimates"][kind]
        assert 0 < after["stderr_max"] <= precision
        assert after["evaluations_mean"] > before["evaluations_mean"]


def test_a_folder_that_was_just_begun_is_taken(tuned, folder, tmp_path, monkeypatch):
    (tmp_path / "subject.json.partial").write_text("{")
    run(monkeypatch, tuned, folder, "--tasks", "writing", "--limit", 1, "--output", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"subject.json", "responses", "samples", "results.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate: give --tasks or --preset"),
        (["--tasks", "nothing"], "unknown task 'nothing'; `lm_eval ls tasks` lists all, --include-path adds your own"),
        (["--tasks", "coding"], "coding runs code that the model writes; allow it with --allow-code-execution"),
        (["--tasks", "bare", "--set", "shots=2"], "bare is a task without examples, but shots=2; leave shots out"),
        (["--tasks", "broken"], "task broken: a column that it names is not in its data: 'question' is undefined"),
        (
            ["--tasks", "unlabelled"],
            "task unlabelled: doc_to_target names the column 'label', which is not in its data; it has question, choi",
        ),
        (["--tasks", "choice", "--set", "sampler.step=2"], "did you mean 'steps'"),
        (["--tasks", "choice", "--dtype", "int8"], "'int8' is not one of 'auto'"),
        (["--preset", "llada_instruct_blocks", "--tasks", "mmlu"], "the preset has no task 'mmlu'"),
        (
            ["--tasks", "choice", "--set", "sampler.cfg_scale=1.0", "--set", "sampler.guidance=adaptive"],
            "guidance: adaptive is not that of likelihoods, which lack the prompt; take guidance: prompt",
        ),
    ],
)
def test_wrong_input_is_refused(tuned, folder, monkeypatch, capsys, arguments, message):
    # the tasks of lm_eval are left out, as it takes 20 seconds to index them
    monkeypatch.setattr(evaluation, "TaskManager", partial(TaskManager, include_defaults=False))
    given = ["evaluate", tuned / "model", "--include-path", folder, "--device", "cpu"]
    assert message in refusal(monkeypatch, capsys, *given, *arguments)


@pytest.mark.slow
def test_tasks_of_lm_eval_are_known_beside_those_of_a_folder(folder):
    assert {"gsm8k", "choice"} <= {*evaluation.manager_of(["gsm8k", "choice"], folder).all_tasks}
    assert "gsm8k" not in evaluation.manager_of(["choice"], folder).all_tasks


def test_a_task_that_runs_code_is_run_where_it_is_allowed(tuned, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    run(monkeypatch, tuned, folder, "--tasks", "coding", "--output", tmp_path / "out", "--allow-code-execution")
    assert results(tmp_path / "out")["coding"]["coding"]["exact_match,none"] == 0.0


def test_texts_may_be_guided_as_likelihoods_cannot(tuned, folder, tmp_path, monkeypatch):
    guided = ["--set", "sampler.cfg_scale=1.0", "--set", "sampler.guidance=adaptive"]
    run(monkeypatch, tuned, folder, "--tasks", "writing", "--limit", 2, *guided, "--output", tmp_path / "out")
    assert results(tmp_path / "out").keys() == {"writing"}
