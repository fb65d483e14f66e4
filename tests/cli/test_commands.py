"""The commands from prepared text to answers, and what they say to wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from console import llada, refusal

import llada as library
from llada.train.journal import read_log

ROOT = Path(__file__).parents[2]


def test_pretraining_logs_every_step_and_saves_a_model_with_its_tokenizer(pretrained):
    log = read_log(pretrained)
    assert [record["step"] for record in log] == list(range(1, 21))
    assert {"loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "elapsed"} <= log[0].keys()
    assert [r["step"] for r in log if "bound" in r] == [10, 20]
    assert all(r["bound_stderr"] > 0 for r in log if "bound" in r)
    assert log[-1]["loss"] < log[0]["loss"]
    model, tokenizer = library.load_pretrained(pretrained / "model")
    assert model.config.mask_token_id == tokenizer.mask_token_id
    assert json.loads((pretrained / "config.json").read_text())["steps"] == 20


def test_same_run_twice_gives_the_same_log(prepared, pretrain_yaml, pretrained, tmp_path, monkeypatch):
    again = tmp_path / "again"
    llada(monkeypatch, "pretrain", pretrain_yaml, f"data={prepared}", f"output={again}", "evaluate_every=10",
          "model.max_sequence_length=128")  # fmt: skip
    timeless = [[{k: v for k, v in r.items() if k not in ("elapsed", "tokens_per_second")} for r in read_log(run)]
                for run in (again, pretrained)]  # fmt: skip
    assert timeless[0] == timeless[1]


@pytest.fixture(scope="session")
def second(corpus, prepared, tmp_path_factory) -> Path:
    """Another corpus of the same tokenizer."""
    folder = tmp_path_factory.mktemp("second") / "data"
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "prepare", corpus, folder, "--tokenizer", prepared / "tokenizer", "--heldout", 0.4)
    return folder


@pytest.mark.parametrize("option", ["document_mask=true", "split=0.5"])
def test_a_mixture_goes_on_exactly(option, prepared, second, pretrain_yaml, tmp_path, monkeypatch, capsys):
    """With either way of hiding documents from each other; over several passes through the smaller corpus."""

    def run(output, *more, weight=0.3):
        settings = [f"data={{{prepared}: 0.7, {second}: {weight}}}", "random_length=0", option, "checkpoint_every=5"]
        llada(monkeypatch, "pretrain", pretrain_yaml, f"output={tmp_path / output}", *settings, *more)
        return [record["loss"] for record in read_log(tmp_path / output)]

    whole = run("whole", "steps=12")
    run("parts", "steps=7", "--resume")
    assert run("parts", "steps=12", "--resume") == whole
    assert run("other", "steps=12", weight=0.4) != whole
    with pytest.raises(SystemExit):
        run("parts", "steps=13", "--resume", weight=0.4)
    assert "was 0.3, is 0.4. Put them back" in capsys.readouterr().err


def test_fine_tuning_leaves_bad_rows_out_only_on_request(pretrained, tmp_path, monkeypatch, capsys):
    rows = [json.dumps({"prompt": f"Say {i}.", "completion": f"{i}"}) for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, '{"prompt": "x"}', '{"prompt": "x", "completion": ""}']))
    (tmp_path / "sft.yaml").write_text("max_length: 100\nsteps: 2\nbatch_size: 4\noptim: {learning_rate: 0.01}\n")
    command = ["sft", tmp_path / "sft.yaml", f"init={pretrained / 'model'}", f"train={tmp_path / 'rows.jsonl'}"]
    message = refusal(monkeypatch, capsys, *command, f"output={tmp_path / 'one'}")
    assert "2 rows cannot be used: 1 without the columns of a conversation (first: " in message
    assert "1 empty (first: " in message
    llada(monkeypatch, *command, f"output={tmp_path / 'two'}", "bad_rows=skip")
    assert f"left out of {tmp_path / 'rows.jsonl'}: 2 rows cannot be used" in capsys.readouterr().err
    assert len(read_log(tmp_path / "two")) == 2


@pytest.mark.parametrize("launcher", [pytest.param("python", marks=pytest.mark.slow), "torchrun"])
def test_script_does_the_same_as_the_command(launcher, prepared, pretrain_yaml, pretrained, tmp_path):
    """One process through the script, and two that share each batch, log the losses of the command."""
    start = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29517"],
    }[launcher]
    output = tmp_path / "run"
    settings = [f"data={prepared}", f"output={output}", "evaluate_every=10", "model.max_sequence_length=128", "--json"]
    done = subprocess.run(
        [*start, str(ROOT / "scripts" / "pretrain.py"), str(pretrain_yaml), *settings],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["log"] == read_log(output)[-1]  # of the main process alone
    for one, other in zip(read_log(output), read_log(pretrained), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"elapsed", "tokens_per_second"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4)


def test_fine_tuning_starts_from_the_checkpoint_and_measures_the_bound(tuned):
    log = read_log(tuned)
    assert len(log) == 10
    assert log[-1]["bound"] > 0
    assert log[-1]["learning_rate"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown key 'stepz'; did you mean 'steps'"),
        ("optim.learning_rat=3", "unknown key 'optim.learning_rat'; did you mean 'learning_rate'"),
        ("steps=many", "steps: Input should be a valid integer (given 'many')"),
        ("steps=0", "steps: Input should be greater than or equal to 1"),
        ("optim.learning_rate=-1", "optim.learning_rate"),
        ("masking=some", "masking: Input should be 'count' or 'bernoulli'"),
        ("batch_size=100000", "batch_size=100000 exceeds the"),
        ("micro_batch_size=9", "micro_batch_size=9 exceeds batch_size=8"),
        ("eps=0.1", "eps has no effect with masking: count"),
        ("optim.warmup=21", "optim.warmup + optim.decay exceed steps=20"),
        ("mixed_precision=fp16", "mixed_precision"),
        ("model.n_layer=2", "unknown LLaDA configuration key 'n_layer'; did you mean 'n_layers'"),
        ("model.vocab_size=10", "model.vocab_size=10 is smaller than the tokenizer's 300 tokens"),
        ("model.mask_token_id=7", "model.mask_token_id=7 is not the tokenizer's 0; leave it out"),
        ("model.n_layers=abc", "model: n_layers='abc' must be a whole number"),
        ("model.rope_theta=high", "model: rope_theta='high' must be a number"),
        ("optim.final=0.001", "final has no effect without decay steps"),
        ("length=100000", "tokens"),
        ("data=nowhere", "has no tokenizer; write it with `llada prepare"),
        ("model=nowhere.yaml", "nowhere.yaml: no such file"),
        ("steps", "has no `key=value` form"),
    ],
)
def test_wrong_settings_are_explained(override, message, prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    arguments = [pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", override]
    assert message in refusal(monkeypatch, capsys, "pretrain", *arguments)
    assert not (tmp_path / "run" / "model").exists()


def test_schedule_that_ignores_an_option_is_refused(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    arguments = [pretrain_yaml, f"data={prepared}", f"output={tmp_path}", "optim.schedule=cosine", "optim.decay=5"]
    assert "decay has no effect with schedule: cosine" in refusal(monkeypatch, capsys, "pretrain", *arguments)


def test_existing_output_is_kept_unless_told_otherwise(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    (tmp_path / "precious").write_text("data")
    arguments = [pretrain_yaml, f"data={prepared}", f"output={tmp_path}", "steps=2"]
    assert "exists and is not empty" in refusal(monkeypatch, capsys, "pretrain", *arguments)
    assert (tmp_path / "precious").exists()
    llada(monkeypatch, "pretrain", *arguments, "overwrite=true")
    assert (tmp_path / "model").is_dir()


def test_run_that_would_delete_its_input_is_refused(prepared, pretrain_yaml, monkeypatch, capsys):
    arguments = [pretrain_yaml, f"data={prepared}", f"output={prepared.parent}", "overwrite=true"]
    assert "which would be overwritten" in refusal(monkeypatch, capsys, "pretrain", *arguments)
    assert (prepared / "tokenizer").is_dir()


def test_failed_start_leaves_nothing_behind(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    arguments = [pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", "model.n_layer=2"]
    refusal(monkeypatch, capsys, "pretrain", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loop", [False, True])
def test_output_that_is_a_file_or_a_link_to_itself_is_refused(
    loop, prepared, pretrain_yaml, tmp_path, monkeypatch, capsys
):
    if loop:
        (tmp_path / "run").symlink_to("run")
    else:
        (tmp_path / "run").write_text("data")
    arguments = [pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", "overwrite=true"]
    assert "is a file or a link to nothing; name a folder" in refusal(monkeypatch, capsys, "pretrain", *arguments)


def test_exponents_without_a_dot_are_numbers(prepared, pretrain_yaml, tmp_path, monkeypatch):
    settings = ["optim.learning_rate=1e-3", "model.rope_theta=1e4", "steps=2"]
    llada(monkeypatch, "pretrain", pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'run'}", *settings)
    assert library.load_pretrained(tmp_path / "run" / "model")[0].config.rope_theta == 10000.0


def test_missing_configuration_suggests_the_near_one(monkeypatch, capsys):
    message = refusal(monkeypatch, capsys, "pretrain", ROOT / "configs" / "pretrain" / "quickstar.yaml")
    assert "did you mean" in message
    assert "quickstart.yaml" in message


def test_generate_explains_unknown_samplers_and_too_long_prompts(tuned, monkeypatch, capsys):
    assert "known: adaptive_guidance, " in refusal(
        monkeypatch, capsys, "generate", tuned / "model", "x", "--sampler", "best"
    )
    message = refusal(monkeypatch, capsys, "generate", tuned / "model", "long " * 300, "--raw")
    assert "exceed the model's 128" in message
    assert "neither a folder nor a hub id" in refusal(monkeypatch, capsys, "generate", "no such model", "x")


def test_processes_that_do_not_take_part_are_noticed(prepared, pretrain_yaml, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llada.train.build.Accelerator", lambda **_: type("A", (), {"num_processes": 1})())
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = [pretrain_yaml, f"data={prepared}", f"output={tmp_path / 'r'}"]
    assert "2 processes were launched, but 1 take part" in refusal(monkeypatch, capsys, "pretrain", *arguments)
