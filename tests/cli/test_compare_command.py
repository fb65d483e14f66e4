"""`llada compare`, from two checkpoints and a file to what is printed and kept."""

import json
import math
import re

import pytest
import torch
import transformers
from console import llada, refusal
from processes import finish, start_all

import llada as library
from llada.data.tokenizer import train_tokenizer
from llada.data.tokens import TokenRows
from llada.eval.causal import Causal, causal_log_likelihoods
from llada.eval.identity import fingerprint
from llada.eval.intervals import Z
from llada.eval.likelihood import log_likelihoods
from llada.eval.responses import Responses
from llada.eval.scoring import request_of
from llada.model.baseline import load_autoregressive, new_autoregressive

ROWS = ["--rows", 6, "--length", 32, "--device", "cpu"]


@pytest.fixture(scope="module")
def models(pretrained, tuned, tmp_path_factory):
    """The pretrained model, the fine-tuned one, an autoregressive one, and one of another tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    model, tokenizer = library.load_pretrained(pretrained / "model")
    torch.manual_seed(0)
    new_autoregressive(model.config, bos_token_id=tokenizer.bos_token_id).save_pretrained(folder / "causal")
    tokenizer.save_pretrained(folder / "causal")
    model.save_pretrained(folder / "other")
    train_tokenizer(["other words for the other model"] * 3, 270).save_pretrained(folder / "other")
    return pretrained / "model", tuned / "model", folder / "causal", folder / "other"


def requests(prepared):
    rows = TokenRows(prepared / "heldout", 32)
    return [request_of([], rows[i]["x0"].tolist()) for i in range(6)]


def test_difference_is_printed_and_kept_with_what_it_is_of(models, prepared, tmp_path, monkeypatch, capsys):
    first, second, *_ = models
    file = tmp_path / "result.json"
    llada(monkeypatch, "compare", first, second, prepared / "heldout", *ROWS, "--seed", 3, "--output", file)
    said = capsys.readouterr().out
    kept = json.loads(file.read_text())
    asked = requests(prepared)
    loaded = [library.load_pretrained(path)[0] for path in (first, second)]
    values = [[-one.value for one in log_likelihoods(model, asked, 8, 3)] for model in loaded]
    for side, model, path, of_side in zip(("first", "second"), loaded, (first, second), values, strict=True):
        found = kept[side]
        assert found["nats_per_token"] == pytest.approx(sum(of_side) / 6 / 32, rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(sum(of_side) / 6 / 32), rel=1e-5)
        assert found["stderr"] == pytest.approx(float(torch.tensor(of_side).std()) / 6**0.5 / 32, rel=1e-4)
        assert (found["model"], found["path"], found["evaluations"]) == (fingerprint(model), str(path), 48)
        assert found["number"] == "upper bound on the negative log-likelihood"
        assert re.search(rf"≤ +{found['nats_per_token']:.4f} ± {found['stderr']:.4f} ", said)
    difference = kept["difference"]
    lost = (torch.tensor(values[0]) - torch.tensor(values[1])) / 32
    assert difference["nats_per_token"] == pytest.approx(float(lost.mean()), abs=1e-5)
    assert difference["stderr"] == pytest.approx(float(lost.std()) / 6**0.5, rel=1e-3)
    assert difference["high"] - difference["low"] == pytest.approx(2 * Z * difference["stderr"])
    assert difference["stderr_of_masks"] > 0
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "llada": library.__version__}
    assert kept["first"] | versions | {"dtype": "torch.float32", "device": "cpu"} == kept["first"]
    assert kept["first"]["tokenizer"] == kept["second"]["tokenizer"]
    assert {name: kept[name] for name in ("samples", "seed", "batch_size", "precision")} == {
        "samples": 8, "seed": 3, "batch_size": 32, "precision": None
    }  # fmt: skip
    assert kept["data"] | {"source": str(prepared / "heldout"), "rows": 6, "tokens": 192, "length": 32} == kept["data"]
    assert kept["command"].startswith(f"llada compare {first} {second} {prepared / 'heldout'} --rows 6")
    assert f"{difference['nats_per_token']:+.4f} ± {difference['stderr']:.4f} nats per token (95 %: " in said
    llada(monkeypatch, "compare", first, second, prepared / "heldout", *ROWS, "--seed", 3, "--json")
    assert json.loads(capsys.readouterr().out)["difference"] == difference


def test_batch_size_changes_nothing_and_order_the_sign(models, prepared, tmp_path, monkeypatch):
    first, second, *_ = models
    found = []
    for number, (one, other, size) in enumerate([(first, second, 32), (first, second, 5), (second, first, 32)]):
        file = tmp_path / f"{number}.json"
        llada(monkeypatch, "compare", one, other, prepared / "heldout", *ROWS, "--batch-size", size, "--output", file)
        found.append(json.loads(file.read_text()))
    assert found[0]["data"] == found[1]["data"]
    differences = [one["difference"]["nats_per_token"] for one in found]
    assert differences[1] == pytest.approx(differences[0], abs=1e-6)
    assert differences[2] == pytest.approx(-differences[0], abs=1e-6)


def test_autoregressive_models_are_measured_by_their_likelihood(models, prepared, tmp_path, monkeypatch, capsys):
    masked, _, causal, _ = models
    network, _ = load_autoregressive(causal)
    values = [one.value for one in causal_log_likelihoods(Causal(network), requests(prepared))]
    llada(monkeypatch, "compare", masked, causal, prepared / "heldout", *ROWS, "--output", tmp_path / "a.json")
    said = capsys.readouterr().out
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["second"]["nats_per_token"] == pytest.approx(-sum(values) / 6 / 32, rel=1e-5)
    assert (kept["second"]["number"], kept["second"]["evaluations"]) == ("negative log-likelihood", 6)
    assert kept["second"]["model"] == fingerprint(network)
    assert re.search(rf"= +{kept['second']['nats_per_token']:.4f} ± ", said)
    assert f"{masked} is better by" in said  # it was trained, the other was not
    assert "only a bound is known" not in said
    llada(monkeypatch, "compare", causal, causal, prepared / "heldout", *ROWS)
    assert "no difference is shown: +0.0000 ± 0.0000 nats per token" in capsys.readouterr().out


def test_a_likelihood_that_beats_a_bound_may_not_beat_the_likelihood(models, prepared, tmp_path, monkeypatch, capsys):
    masked, _, causal, _ = models
    network, tokenizer = load_autoregressive(causal)
    untrained = library.LLaDAForMaskedLM(library.load_pretrained(masked)[0].config)
    with torch.no_grad():
        network.lm_head.weight.zero_()  # every token is as likely
        untrained.lm_head.weight.normal_(std=10.0)  # it is sure of what is wrong
    for name, one in (("even", network), ("wild", untrained)):
        one.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    llada(monkeypatch, "compare", tmp_path / "wild", tmp_path / "even", prepared / "heldout", *ROWS)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'even'} is better by" in said
    assert f"; of {tmp_path / 'wild'} only a bound is known" in said


def test_perplexity_beyond_all_floats_is_told_as_infinite(models, prepared, tmp_path, monkeypatch, capsys):
    model, tokenizer = library.load_pretrained(models[0])
    with torch.no_grad():
        model.lm_head.weight.normal_(std=1e4, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "wild")
    tokenizer.save_pretrained(tmp_path / "wild")
    given = ["compare", tmp_path / "wild", models[0], prepared / "heldout", *ROWS, "--output", tmp_path / "result.json"]
    llada(monkeypatch, *given)
    assert "inf ± inf" in capsys.readouterr().out

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    wild = json.loads((tmp_path / "result.json").read_text(), parse_constant=refused)["first"]
    assert wild["nats_per_token"] > 709  # beyond it exp overflows
    assert (wild["perplexity"], wild["perplexity_stderr"]) == (None, None)


def test_rounds_go_on_until_the_difference_is_known_or_the_rows_are_the_error(
    models, prepared, tmp_path, monkeypatch, capsys
):
    first, second, *_ = models
    given = ["compare", first, second, prepared / "heldout", *ROWS, "--samples", 4]
    llada(monkeypatch, *given, "--output", tmp_path / "one.json")
    one = json.loads((tmp_path / "one.json").read_text())
    error, rows = one["difference"]["stderr"], one["difference"]["stderr_of_masks"]
    rows = math.sqrt(max(0.0, error**2 - rows**2))
    capsys.readouterr()
    llada(monkeypatch, *given, "--precision", (error + rows) / 2, "--output", tmp_path / "more.json")
    more = json.loads((tmp_path / "more.json").read_text())
    assert more["first"]["evaluations"] > one["first"]["evaluations"] == 24
    assert more["first"]["evaluations"] % 24 == 0
    assert more["difference"]["stderr_of_masks"] < one["difference"]["stderr_of_masks"]
    llada(monkeypatch, *given, "--precision", rows / 100)
    assert "of it is of the rows, which more masks do not lessen: give more rows" in capsys.readouterr().out


def test_conversations_and_texts_are_compared(models, tuned, tmp_path, monkeypatch, capsys):
    first, second, *_ = models
    talks = [{"prompt": f"Add {a} and 1.", "completion": str(a + 1)} for a in range(6)]
    texts = [{"text": "the model reads a token " * (1 + a % 3)} for a in range(6)]
    for name, rows in (("talks", talks), ("texts", texts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hashes = []
    for arguments in (["talks.jsonl"], ["talks.jsonl", "--raw"], ["texts.jsonl"]):
        file = tmp_path / f"{len(hashes)}.json"
        llada(monkeypatch, "compare", first, second, tmp_path / arguments[0], *arguments[1:], "--output", file)
        kept = json.loads(file.read_text())["data"]
        assert (kept["rows"], kept["length"]) == (6, 128)
        hashes.append(kept["sha256"])
    assert len({*hashes}) == 3
    assert "of it" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sides", "arguments", "message"),
    [
        ((0, 3), [], "have different tokenizers (hashes "),
        ((0, 1), ["--length", 129], "length=129 must be 1 to 128, what both models hold"),
        ((0, 1), ["--rows", 100000], "fewer than rows=100000; ask for fewer"),
        ((0, 1), ["--raw"], "--raw has no effect on"),
        ((0, 1), ["--samples", 1], "Invalid value for '--samples'"),
        ((2, 2), ["--samples", 4], "--samples and --precision have no effect on exact likelihoods; leave them out"),
        ((2, 2), ["--precision", 0.1], "--samples and --precision have no effect on exact likelihoods"),
        ((0, 1), ["--precision", 0], "precision=0 must be more than 0 and finite, a standard error in nats per token"),
        ((0, 1), ["--precision", "nan"], "precision=nan must be more than 0 and finite"),
        ((0, 1), ["--precision", "inf"], "precision=inf must be more than 0 and finite"),
        ((0, 1), ["--output", "nowhere/a.json"], "there is no folder nowhere; make it first"),
    ],
)
def test_wrong_input_is_refused(models, prepared, monkeypatch, capsys, sides, arguments, message):
    one, other = (models[side] for side in sides)
    assert message in refusal(monkeypatch, capsys, "compare", one, other, prepared / "heldout", *arguments)


def test_a_comparison_that_was_killed_goes_on(models, prepared, tmp_path, monkeypatch, capsys):
    given = ["compare", *models[:2], prepared / "heldout", *ROWS, "--batch-size", 1, "--output"]
    llada(monkeypatch, *given, tmp_path / "whole.json")
    add, file = Responses.add, tmp_path / "result.json"

    def dying(self, key, response):
        if len(self.known()) == 7:
            raise SystemExit(9)
        add(self, key, response)

    with monkeypatch.context() as dead:
        dead.setattr(Responses, "add", dying)
        with pytest.raises(SystemExit):
            llada(monkeypatch, *given, file)
    assert not file.exists()
    said = refusal(monkeypatch, capsys, *given, file, "--seed", 1)
    assert "holds responses under other settings: seed 0, not 1. Set these as there" in said
    new = []
    monkeypatch.setattr(Responses, "add", lambda self, key, response: (new.append(key), add(self, key, response)))
    llada(monkeypatch, *given, file)
    assert len(new) == 2 * 6 - 7
    whole, found = (json.loads(path.read_text()) for path in (tmp_path / "whole.json", file))
    assert found | {"command": ""} == whole | {"command": ""}
    assert {path.name for path in tmp_path.iterdir()} == {"whole.json", "result.json"}


def test_a_result_is_not_overwritten(models, prepared, tmp_path, monkeypatch, capsys):
    file = tmp_path / "result.json"
    file.write_text("precious")
    said = refusal(monkeypatch, capsys, "compare", *models[:2], prepared / "heldout", *ROWS, "--output", file)
    assert f"{file} exists; choose another name or remove it" in said
    assert file.read_text() == "precious"


def test_logits_that_are_no_numbers_leave_no_result(models, prepared, tmp_path, monkeypatch, capsys):
    model, tokenizer = library.load_pretrained(models[0])
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(SystemExit) as stop:
        llada(monkeypatch, "compare", models[0], tmp_path / "broken", prepared / "heldout", *ROWS,
              "--output", tmp_path / "result.json")  # fmt: skip
    assert stop.value.code == 3
    assert "the model's logits are not numbers" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()


def test_several_processes_are_refused(models, prepared, tmp_path):
    def action() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            llada(monkeypatch, "compare", *models[:2], prepared / "heldout", *ROWS)

    children = start_all(action, tmp_path / "printed", 2)
    assert [finish(child) for child in children] == [2, 2]
    assert (
        "2 processes would all do the same; start llada compare without a launcher"
        in (tmp_path / "printed").read_text()
    )
