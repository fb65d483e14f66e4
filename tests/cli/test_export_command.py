"""`llada export`: what is written is the model, with a card that says what it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from console import llada, refusal

import llada as library
from llada.model.baseline import new_autoregressive
from llada.train.journal import read_log

# keys of the config.json of LLaDA-8B
OFFICIAL = """
activation_type alibi alibi_bias_max architectures attention_dropout attention_layer_norm
attention_layer_norm_with_affine bias_for_layer_norm block_group_size block_type d_model embedding_dropout
embedding_size eos_token_id flash_attention include_bias include_qkv_bias init_cutoff_factor init_device init_fn
init_std input_emb_norm layer_norm_type layer_norm_with_affine mask_token_id max_sequence_length mlp_hidden_size
mlp_ratio model_type multi_query_attention n_heads n_kv_heads n_layers pad_token_id precision residual_dropout
rms_norm_eps rope rope_full_precision rope_theta scale_logits use_cache vocab_size weight_tying
"""


SMALL = ["--set", "gen_length=8"]


def header(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def code(card: str) -> str:
    (found,) = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    return found


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}")[1].split("\n## ")[0]


def test_run_is_written_with_every_official_key_and_its_card(tuned, tmp_path, monkeypatch, capsys):
    output = tmp_path / "mine"
    llada(monkeypatch, "export", tuned, output, "--set", "gen_length=16", "--license", "apache-2.0")
    assert "the logits are the same, bit for bit" in capsys.readouterr().out
    assert json.loads((output / "config.json").read_text()).keys() >= set(OFFICIAL.split())
    model, tokenizer = library.load_pretrained(output)
    expected = library.load_pretrained(tuned / "model")[0]
    for (name, one), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other), name
    card = (output / "README.md").read_text()
    assert header(card)["license"] == "apache-2.0"
    last = read_log(tuned)[-1]
    assert f"{last['bound']:.4f} ± {2 * last['bound_stderr']:.4f} nats per token" in card
    assert "train.jsonl" in card
    assert "gen_length=16" in card
    assert tokenizer is not None


@pytest.mark.parametrize("unknown", ["bound", "bound_stderr"])
def test_card_of_a_run_whose_bound_is_not_finite_says_so(unknown, tuned, tmp_path, monkeypatch):
    """JSON has no infinity, and the log null in its place."""
    shutil.copytree(tuned, tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps(read_log(tuned)[-1] | {unknown: None}) + "\n")
    llada(monkeypatch, "export", tmp_path / "run", tmp_path / "mine", *SMALL)
    measured = section((tmp_path / "mine" / "README.md").read_text(), "Measured")
    assert measured.strip() == "The held-out number that is recorded beside it is not finite."


def test_snippet_of_the_card_runs_whatever_the_name(tuned, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "export", tuned / "model", tmp_path / "mine", *SMALL, "--name", "My Model")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "# My Model" in card
    assert "is not recorded" in card
    assert "No licence is given" in card
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code(card), {})
    assert capsys.readouterr().out.endswith("\n")


def test_model_that_answers_nothing_continues_texts_on_its_card(pretrained, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "export", pretrained, tmp_path / "mine", *SMALL)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "encode_prompt" not in code(card)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code(card), {})
    assert capsys.readouterr().out.startswith("...")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["--set", "gen_length=128"], "gen_length=128 of the sampler leaves no room for a question in the model's 128"),
        (["--sampler", "daedal", "--set", "gen_length=8", "--set", "longest=128"], "--set longest=64"),
        (["--set", "gen_length=8", "--set", "steps=3", "--set", "block_length=4"], "steps=3 cannot be shared equally"),
    ],
)
def test_sampler_that_does_not_fit_the_model_is_refused(fields, told, tuned, tmp_path, monkeypatch, capsys):
    assert told in refusal(monkeypatch, capsys, "export", tuned, tmp_path / "mine", *fields)
    assert not (tmp_path / "mine").exists()


@pytest.fixture(scope="module")
def causal(tuned, tmp_path_factory) -> Path:
    """The folder of an autoregressive model with its tokenizer."""
    model, tokenizer = library.load_pretrained(tuned / "model")
    folder = tmp_path_factory.mktemp("causal") / "model"
    new_autoregressive(model.config, bos_token_id=tokenizer.bos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_card_of_a_baseline_is_one(causal, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "export", causal, tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "\nAn autoregressive baseline of a masked diffusion model" in card
    assert not (tmp_path / "mine" / "sampler.yaml").exists()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code(card), {})
    assert "..." in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--sampler", "low_confidence"], ["--set", "steps=4"]])
def test_baseline_has_no_sampler(option, causal, tmp_path, monkeypatch, capsys):
    told = refusal(monkeypatch, capsys, "export", causal, tmp_path / "mine", *option)
    assert f"{option[0]} has no effect on {causal}, an autoregressive model; leave it out" in told


def test_sampler_is_written_beside_it(tuned, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "export", tuned, tmp_path / "mine", "--set", "gen_length=8", "--set", "steps=2")
    llada(monkeypatch, "generate", tmp_path / "mine", "Add 3 and 4.", "--sampler", tmp_path / "mine" / "sampler.yaml")
    assert capsys.readouterr().err.endswith("(2 forward passes)\n")


def test_dtype_is_changed_on_request(tuned, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "export", tuned, tmp_path / "mine", *SMALL, "--dtype", "bfloat16", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"output", "parameters", "files"}
    model, _ = library.load_pretrained(tmp_path / "mine")
    assert model.dtype == torch.bfloat16
    assert told["parameters"] == sum(p.numel() for p in model.parameters())
    measured = section((tmp_path / "mine" / "README.md").read_text(), "Measured")
    assert "Measured with weights in float32, which are rounded to bfloat16 here." in measured


def test_large_weights_are_cut_into_files(tuned, tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "export", tuned, tmp_path / "mine", *SMALL, "--max-shard-size", "30KB", "--json")
    files = json.loads(capsys.readouterr().out)["files"]
    assert "model.safetensors.index.json" in files
    assert len([name for name in files if name.endswith(".safetensors")]) > 1


@pytest.fixture(scope="module")
def adapted(pretrained, tmp_path_factory) -> Path:
    """A run with adapters."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "sft.yaml").write_text("max_length: 100\nsteps: 3\nbatch_size: 8\noptim: {learning_rate: 0.01}\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "prepare", "instructions", folder / "data", "--count", 5)
        llada(monkeypatch, "sft", folder / "sft.yaml", f"init={pretrained / 'model'}", f"output={folder / 'run'}",
              f"train={folder / 'data' / 'train.jsonl'}", "lora={rank: 2}")  # fmt: skip
    return folder / "run"


def test_adapter_is_merged(adapted, pretrained, tmp_path, monkeypatch):
    llada(monkeypatch, "export", pretrained, tmp_path / "mine", *SMALL, "--adapter", adapted / "adapter")
    merged, expected = (library.load_pretrained(folder)[0] for folder in (tmp_path / "mine", adapted / "model"))
    before = library.load_pretrained(pretrained / "model")[0]
    for one, other in zip(merged.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(merged.parameters(), before.parameters(), strict=True))
    card = (tmp_path / "mine" / "README.md").read_text()
    assert f"parameters; the adapter `{adapted / 'adapter'}` is merged into `{pretrained}`." in card
    assert "steps: 20" in section(card, f"Training of `{pretrained}`, before the adapter")
    assert section(card, "Measured").strip() == "No held-out number is recorded beside it."


def test_adapter_of_another_model_is_refused(adapted, golden, tmp_path, monkeypatch, capsys):
    told = refusal(monkeypatch, capsys, "export", adapted, tmp_path / "mine", *SMALL, "--adapter", tmp_path)
    assert "has no adapter_config.json, so it is not the folder of an adapter" in told
    assert not (tmp_path / "mine").exists()


def test_existing_folder_is_kept(tuned, tmp_path, monkeypatch, capsys):
    (tmp_path / "precious").write_text("data")
    assert "exists and is not empty" in refusal(monkeypatch, capsys, "export", tuned, tmp_path, *SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("size", ["nan", "0GB", "5", "1.5GB", "5XB"])
def test_size_that_is_none_is_refused(size, tuned, tmp_path, monkeypatch, capsys):
    told = refusal(monkeypatch, capsys, "export", tuned, tmp_path / "new" / "x", *SMALL, "--max-shard-size", size)
    assert f"max_shard_size='{size}' must be a whole number of KB, MB, GB or TB" in told
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_what_cannot_be_read_again(tuned, tmp_path, monkeypatch, capsys):
    def damaged(folder):
        raise ValueError("damaged")

    monkeypatch.setattr("llada.model.export.load_pretrained", damaged)
    assert "damaged" in refusal(monkeypatch, capsys, "export", tuned, tmp_path / "new", *SMALL)
    assert not list(tmp_path.iterdir())


def test_link_to_itself_is_kept(tuned, tmp_path, monkeypatch, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert "loop exists and is not empty" in refusal(monkeypatch, capsys, "export", tuned, tmp_path / "loop", *SMALL)


def test_what_is_read_differently_is_not_published(tuned, tmp_path, monkeypatch, capsys):
    from llada.model import export as module

    real = module.load_pretrained

    def damaged(folder):
        model, tokenizer = real(folder)
        with torch.no_grad():
            next(model.parameters()).mul_(2.0)
        return model, tokenizer

    monkeypatch.setattr(module, "load_pretrained", damaged)
    told = refusal(monkeypatch, capsys, "export", tuned, tmp_path / "mine", *SMALL)
    assert "does not predict as the model does" in told
    assert not (tmp_path / "mine").exists()
