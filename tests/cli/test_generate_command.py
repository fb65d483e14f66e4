"""`llada generate` and `llada infill`: text, what it cost, traces, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
import typer
from console import llada, refusal
from tqdm import tqdm
from transformers import AutoTokenizer

from llada.cli.asking import progressing
from llada.data.tokenizer import encode
from llada.model.configuration import LLaDAConfig
from llada.sampling.streaming import finished_blocks
from llada.sampling.trace import Trace


@pytest.mark.parametrize(
    "arguments",
    [
        ["Add 3 and 4.", "--sampler", "semi_autoregressive", "--set", "gen_length=8", "--set", "block_length=4"],
        ["the model", "--raw", "--set", "gen_length=8", "--set", "temperature=0.5", "--seed", "3"],
        ["Add 3 and 4.", "--sampler", "daedal", "--set", "gen_length=8", "--set", "longest=16"],
    ],
    ids=["answer", "continue", "grow"],
)
def test_generate_prints_text_and_its_cost(tuned, arguments, monkeypatch, capsys):
    llada(monkeypatch, "generate", tuned / "model", *arguments)
    captured = capsys.readouterr()
    assert captured.out.strip() or captured.out == "\n"
    assert "forward passes)" in captured.err
    if "--raw" in arguments:
        assert captured.out.startswith("the model")


def test_infill_fills_every_gap_and_keeps_the_rest(tuned, monkeypatch, capsys):
    llada(monkeypatch, "infill", tuned / "model", "the ___ reads ___", "--gap", 2)
    captured = capsys.readouterr()
    assert captured.out.startswith("the ")
    assert " reads " in captured.out
    assert captured.err.endswith("(4 forward passes)\n")


def test_no_text_ends_in_a_gap(tuned, monkeypatch, capsys):
    """Of all tokens only the ends, the mask and the letter are left to choose from."""
    config = LLaDAConfig.from_pretrained(tuned / "model")
    letter = encode(AutoTokenizer.from_pretrained(tuned / "model"), "z")
    left = {config.eos_token_id, config.eot_token_id, config.mask_token_id, *letter}
    others = [token for token in range(config.vocab_size) if token not in left]
    llada(monkeypatch, "infill", tuned / "model", "a ___ b ___", "--gap", 3, "--set", f"suppress_tokens={others}")
    assert capsys.readouterr().out == "a zzz b zzz\n"


def test_json_tells_what_it_cost(tuned, monkeypatch, capsys):
    llada(monkeypatch, "generate", tuned / "model", "the model", "--raw", "--set", "gen_length=8", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["text"].startswith("the model")
    assert told["forward_passes"] == 8
    assert 1 <= told["tokens"] <= 8
    assert told["query_tokens"] > 64


def test_mask_token_in_a_prompt_stays_text(tuned, monkeypatch, capsys):
    llada(monkeypatch, "generate", tuned / "model", "a <|mdm_mask|> b", "--raw", "--set", "gen_length=4")
    assert capsys.readouterr().out.startswith("a <|mdm_mask|> b")


@pytest.mark.parametrize(
    "command", [["generate", "Add 3 and 4.", "--set", "gen_length=8"], ["infill", "the ___ reads"]]
)
def test_trace_holds_what_was_printed(command, tuned, tmp_path, monkeypatch, capsys):
    name, *arguments = command
    llada(monkeypatch, name, tuned / "model", *arguments, "--json")
    plain = json.loads(capsys.readouterr().out)
    trace = tmp_path / "trace.json"
    llada(monkeypatch, name, tuned / "model", *arguments, "--json", "--trace", trace, "--alternatives", 3, "--watch")
    assert json.loads(capsys.readouterr().out) == plain  # of no effect in a pipe
    recorded = Trace.load(trace)
    assert recorded.steps == 8
    assert recorded.alternatives.shape == (8, 3)


@pytest.mark.parametrize("arguments", [["Add 3 and 4."], ["the model", "--raw", "--set", "temperature=0.7"]])
def test_stream_prints_the_same_text_in_blocks(arguments, tuned, tmp_path, monkeypatch, capsys):
    trace = ["--alternatives", 2, "--trace"]
    command = ["generate", tuned / "model", *arguments, "--set", "gen_length=12", "--set", "block_length=4"]
    command += ["--set", "forbid_eos=true", *trace]
    llada(monkeypatch, *command, tmp_path / "whole.json")
    whole = capsys.readouterr()
    told, echo = [], typer.echo
    monkeypatch.setattr("typer.echo", lambda text, **options: (told.append(text), echo(text, **options)))
    llada(monkeypatch, *command, tmp_path / "streamed.json", "--stream")
    streamed = capsys.readouterr()
    assert streamed.out == whole.out
    assert streamed.err.splitlines()[-1] == whole.err.splitlines()[-1] == "(12 forward passes)"
    *pieces, _ = filter(None, told)  # the last is what it cost
    assert len(pieces) >= 3
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "streamed.json").read_bytes()


def test_stream_that_breaks_off_ends_its_line(tuned, monkeypatch, capsys):
    def broken(states, start):
        yield next(finished_blocks(states, start))
        raise OSError("the disk is gone")

    command = ["generate", tuned / "model", "the model", "--raw", "--set", "gen_length=8", "--set", "block_length=4"]
    command += ["--set", "forbid_eos=true"]
    llada(monkeypatch, *command)
    whole = capsys.readouterr().out
    monkeypatch.setattr("llada.sampling.streaming.finished_blocks", broken)
    with pytest.raises(SystemExit):
        llada(monkeypatch, *command, "--stream")
    part, said = capsys.readouterr()
    assert said.splitlines()[-1] == "llada: the disk is gone"
    assert part.endswith("\n")
    assert whole.startswith(part[:-1])
    assert len("the model") < len(part) < len(whole)


def test_progress_tells_the_tokens_that_are_written_and_leaves_nothing(monkeypatch, capsys):
    canvases = [torch.tensor([[1, *tokens]]) for tokens in ([0, 0], [2, 0], [0, 0], [2, 3])]
    states = [SimpleNamespace(canvas=canvas) for canvas in canvases[1:]]
    monkeypatch.setattr("tqdm.tqdm", lambda **options: tqdm(**options | {"delay": 0, "mininterval": 0}))
    assert list(progressing(iter(states), canvases[0], 0)) == states
    told = capsys.readouterr().err
    assert "0/2" in told
    assert "1/2" in told
    assert told.endswith("\r")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "--alternatives", 2], "--alternatives has no effect without --trace"),
        (["generate", "a", "--delay", 1], "--delay has no effect without --watch"),
        (["generate", "a", "--trace", "nowhere/t.json"], "there is no folder nowhere; make it first"),
        (["generate", "a", "--trace", ""], ". is a folder, a device, a pipe or a link to nothing; name a file"),
        (["generate", "a", "--sampler", "daedal", "--watch"], "leave out --watch, --trace and --stream"),
        (["generate", "a", "--sampler", "daedal", "--stream"], "leave out --watch, --trace and --stream"),
        (["generate", "a", "--stream", "--json"], "--stream does not go with --json"),
        (["generate", "a", "--stream", "--watch"], "--stream does not go with --watch"),
        (["generate", "a", "--set", "gen_length=1000"], "exceed"),
        (["infill", "a ___", "--gap", 10**9], "exceed the model's 128; shorten the text, or give it fewer or smaller"),
        (["infill", "a ___", "--gap", 128], "exceed the model's 128; shorten the text, or give it fewer or smaller"),
        (["infill", "a b"], "the text has no gap; mark each with ___"),
        (["infill", "a ___", "--set", "gen_length=4"], "gen_length has no effect on infilling"),
    ],
)
def test_options_that_cannot_act_are_refused(arguments, message, tuned, monkeypatch, capsys):
    name, *others = arguments
    assert message in refusal(monkeypatch, capsys, name, tuned / "model", *others)


def test_folder_of_a_run_is_explained(tuned, monkeypatch, capsys):
    told = refusal(monkeypatch, capsys, "generate", tuned, "a")
    assert f"llada: {tuned} is the folder of a run; its model is {tuned / 'model'}\n" in told


def test_wrong_field_is_told_of_the_option_that_gave_it(tuned, monkeypatch, capsys):
    told = refusal(monkeypatch, capsys, "generate", tuned / "model", "a", "--set", "steps=x")
    assert "llada: --set steps=x: steps: Input should be a valid integer" in told
    assert ".yaml" not in told


def test_model_without_a_tokenizer_is_refused(golden, monkeypatch, capsys):
    assert "has no tokenizer; generate with llada.generate" in refusal(
        monkeypatch, capsys, "generate", golden.folder, "a"
    )


@pytest.mark.parametrize("arguments", [["generate", "a", "--set", "gen_length=8"], ["infill", "a ___"]])
def test_model_that_diverged_is_told_with_an_exit_code_of_its_own(arguments, diverged, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        llada(monkeypatch, arguments[0], diverged, *arguments[1:])
    assert stop.value.code == 3
    assert "\nllada: the model's logits are not numbers; look at its weights" in capsys.readouterr().err
