"""The official layout, there and back, and transformers' Auto classes."""

import subprocess
import sys

import pytest
import torch
from folders import read_config, tokens
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from llada import LLaDAConfig, LLaDAForMaskedLM, LLaDAModel, load_pretrained
from llada.model.checkpoint import device_named


def test_the_official_layout_survives_loading_and_saving_bit_for_bit(golden, tmp_path):
    model, tokenizer = load_pretrained(golden.folder)
    assert tokenizer is None
    assert not model.training
    model.save_pretrained(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (golden.folder, tmp_path))
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name], after[name]), name


def test_the_saved_configuration_carries_every_official_key_with_its_value(golden, tmp_path):
    load_pretrained(golden.folder)[0].save_pretrained(tmp_path)
    before, after = read_config(golden.folder), read_config(tmp_path)
    before.pop("auto_map")
    before.pop("transformers_version")
    assert {key: after.get(key, "absent") for key in before} == before
    assert "auto_map" not in after
    assert after["architectures"] == ["LLaDAModelLM"]
    assert after["dtype"] == after["torch_dtype"] == "float32"


def test_a_new_model_is_saved_in_the_official_layout(build, golden, tmp_path):
    build(n_layers=3).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(golden.folder / "model.safetensors").keys()
    saved, official = read_config(tmp_path), read_config(golden.folder)
    assert saved.keys() >= official.keys() - {"auto_map"}
    assert saved["architectures"] == ["LLaDAModelLM"]
    assert saved["rope_theta"] == 500000.0
    assert "rope_parameters" not in saved


def test_the_body_alone_is_saved_with_official_names_too(build, tmp_path):
    model, ids = build(), tokens(2, 10)
    model.model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"transformer"}
    assert "transformer.blocks.1.attn_out.weight" in names
    body = LLaDAModel.from_pretrained(tmp_path)
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)


@pytest.mark.parametrize("tied", [False, True])
def test_sharded_checkpoints_survive_both_ways(build, tmp_path, tied):
    model, ids = build(weight_tying=tied), tokens(2, 10)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    loaded, _ = load_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    loaded.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "expected")
    whole, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "expected"))
    assert whole.keys() == expected.keys()
    assert all(torch.equal(whole[name], expected[name]) for name in expected)


def test_tied_embeddings_are_stored_once(build, tmp_path):
    model, ids = build(weight_tying=True), tokens(2, 10)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "model.transformer.wte.weight" in stored
    assert "model.transformer.ff_out.weight" not in stored
    assert read_config(tmp_path)["weight_tying"] is True
    loaded, _ = load_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("changes", [{"include_qkv_bias": True}, {"embedding_size": 64}, {"n_kv_heads": 1}])
def test_other_shapes_survive_saving_and_loading(build, tmp_path, changes):
    model, ids = build(**changes), tokens(2, 10)
    for parameter in model.parameters():
        parameter.data.add_(0.01)  # so that biases are not zero
    model.save_pretrained(tmp_path)
    assert torch.equal(load_pretrained(tmp_path)[0](ids).logits, model(ids).logits)


def test_rotary_tables_survive_loading(golden):
    """Models are built on the meta device on loading, so that a stored table would come back as garbage."""
    ids = golden.tensors["logits.input_ids"]
    for model in (LLaDAForMaskedLM.from_pretrained(golden.folder), load_pretrained(golden.folder, device="cpu")[0]):
        assert not list(model.buffers())
        torch.testing.assert_close(model(ids).logits, golden.tensors["logits.plain"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_on_disk_and_widened_on_request(golden, tmp_path, dtype):
    model, _ = load_pretrained(golden.folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model.save_pretrained(tmp_path)
    name = str(dtype).removeprefix("torch.")
    assert read_config(tmp_path)["dtype"] == read_config(tmp_path)["torch_dtype"] == name
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert load_pretrained(tmp_path)[0].dtype == dtype
    wide, _ = load_pretrained(tmp_path, dtype=torch.float32)
    assert wide.dtype == torch.float32
    for ours, theirs in zip(wide.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.float())


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), {"": "cpu"}, "auto", None])
def test_every_way_to_name_the_device_works(golden, device):
    model, _ = load_pretrained(golden.folder, device=device)
    logits = model(golden.tensors["logits.input_ids"].to(model.device)).logits.cpu()
    torch.testing.assert_close(logits, golden.tensors["logits.plain"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("there", "named", "found"),
    [
        (0, "cpu", "cpu"),
        (0, "cuda", None),
        (0, "mps", None),
        (0, "meta", None),
        (0, "gpu", None),
        (0, "disk", None),
        (0, "", None),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", None),
        (2, "cuda:x", None),
        (2, "xpu", None),
    ],
)
def test_a_device_that_is_not_there_is_refused(there, named, found, golden, monkeypatch):
    kind = torch.device("cuda") if there else None
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: kind)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: there)
    if found is not None:
        assert device_named(named) == torch.device(found)
        return
    listed = "cpu, cuda:0, cuda:1" if there else "cpu"
    with pytest.raises(ValueError, match=f"^device '{named}' is not on this machine; there is {listed}$"):
        load_pretrained(golden.folder, device=named)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_can_be_chosen(golden, implementation):
    model, _ = load_pretrained(golden.folder, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation


# transformers' Auto classes


def test_auto_classes_build_our_classes(golden):
    assert type(AutoConfig.from_pretrained(golden.folder)) is LLaDAConfig
    body = AutoModel.from_pretrained(golden.folder)
    model = AutoModelForMaskedLM.from_pretrained(golden.folder)
    assert (type(body), type(model)) == (LLaDAModel, LLaDAForMaskedLM)
    ids = golden.tensors["logits.input_ids"]
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)
    torch.testing.assert_close(model(ids).logits, golden.tensors["logits.plain"], rtol=0, atol=1e-5)


LOADING = """
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
names = [type(AutoConfig.from_pretrained({folder!r})).__module__]
names += [type(auto.from_pretrained({folder!r})).__module__ for auto in (AutoModel, AutoModelForMaskedLM)]
print(*names)
"""


# transformers.modeling_layers imports the auto modules half-way through its own import
@pytest.mark.parametrize(
    "first", [pytest.param("import llada", marks=pytest.mark.slow), "import transformers.modeling_layers, llada"]
)
def test_importing_the_package_is_enough_for_the_auto_classes_before_or_after_transformers(golden, first):
    script = first + LOADING.format(folder=str(golden.folder))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["llada.model.configuration", "llada.model.modeling", "llada.model.modeling"]
