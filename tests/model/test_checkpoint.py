import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from llada import LLaDAConfig, LLaDAForMaskedLM, LLaDAModel, load_pretrained
from llada.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from llada.model.configuration import _ONLY


def tokens(rows: int, length: int, *, vocabulary: int = 40) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def edit_config(folder: Path, *, remove: tuple[str, ...] = (), **values) -> None:
    kept = {key: value for key, value in read_config(folder).items() if key not in remove}
    (folder / "config.json").write_text(json.dumps({**kept, **values}))


@pytest.fixture
def copy(golden, tmp_path) -> Path:
    """A copy of the golden checkpoint, to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden.folder / name, folder / name)
    return folder


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# The official layout, there and back


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
@pytest.mark.parametrize("first", ["import llada", "import transformers.modeling_layers, llada"])
def test_importing_the_package_is_enough_for_the_auto_classes_before_or_after_transformers(golden, first):
    script = first + LOADING.format(folder=str(golden.folder))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["llada.model.configuration", "llada.model.modeling", "llada.model.modeling"]


# The second layout: Llama names, tied embeddings, grouped-query attention, no mask token


def write_llama_layout(model: LLaDAForMaskedLM, folder: Path, *, rotary: dict, **changes) -> None:
    folder.mkdir(exist_ok=True)
    config = model.config
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.weight_tying:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = {
        "architectures": ["ILLaDAForMaskedDiffusion"],
        "model_type": "illada",
        "auto_map": {"AutoModel": "modeling_illada.ILLaDAModel"},
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_hidden_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_sequence_length,
        "tie_word_embeddings": config.weight_tying,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "pretraining_tp": 1,
        "dtype": "float32",
        "transformers_version": "4.57.1",
        "use_cache": True,
        **rotary,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(values))


ROTARY = {
    "top level": {"rope_theta": 12345.0, "rope_scaling": None},
    "rope_parameters": {"rope_parameters": {"rope_theta": 12345.0, "rope_type": "default"}},
    "both": {"rope_theta": 12345.0, "rope_parameters": {"rope_theta": 12345.0, "rope_type": "default"}},
}


@pytest.fixture
def llama_model(build) -> LLaDAForMaskedLM:
    return build(weight_tying=True, rope_theta=12345.0)


@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY.keys())
def test_the_llama_named_layout_gives_the_same_logits(llama_model, tmp_path, rotary):
    write_llama_layout(llama_model, tmp_path, rotary=rotary)
    loaded, tokenizer = load_pretrained(tmp_path, mask_token_id=5)
    ids = tokens(2, 10)
    assert tokenizer is None
    assert (loaded.config.mask_token_id, loaded.config.rope_theta, loaded.config.eos_token_id) == (5, 12345.0, 3)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(ids).logits, llama_model(ids).logits)


def test_the_llama_named_layout_may_be_untied(build, tmp_path):
    model, ids = build(rope_theta=12345.0), tokens(2, 10)
    write_llama_layout(model, tmp_path, rotary=ROTARY["top level"])
    assert torch.equal(load_pretrained(tmp_path, mask_token_id=5)[0](ids).logits, model(ids).logits)


def test_the_llama_named_layout_is_exported_in_the_official_one(llama_model, tmp_path):
    write_llama_layout(llama_model, tmp_path / "llama", rotary=ROTARY["top level"])
    load_pretrained(tmp_path / "llama", mask_token_id=5)[0].save_pretrained(tmp_path / "official")
    saved, ids = read_config(tmp_path / "official"), tokens(2, 10)
    assert (saved["model_type"], saved["d_model"], saved["mask_token_id"]) == ("llada", 32, 5)
    assert "model.transformer.wte.weight" in load_file(tmp_path / "official" / "model.safetensors")
    assert torch.equal(load_pretrained(tmp_path / "official")[0](ids).logits, llama_model(ids).logits)


def test_llama_named_tensors_beside_an_official_configuration_are_read_and_exported_too(build, tmp_path):
    model, ids = build(), tokens(2, 10)
    model.save_pretrained(tmp_path)
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, _ = load_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    loaded.save_pretrained(tmp_path)
    assert "model.transformer.wte.weight" in load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_the_llama_of_transformers_without_its_causal_mask_agrees(build, tmp_path, tied):
    """An independent implementation of the same network: only the direction of its attention differs."""
    model = build(weight_tying=tied, rope_theta=12345.0).double()
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 12345.0, "rope_type": "default"},
        attn_implementation="eager",
    )
    llama = LlamaForCausalLM(config).double().eval()
    llama.load_state_dict(model.state_dict())
    ids = tokens(2, 10)
    everything_visible = torch.zeros(2, 1, 10, 10, dtype=torch.float64)
    theirs = llama(ids, attention_mask=everything_visible).logits
    torch.testing.assert_close(model(ids).logits, theirs, rtol=0, atol=1e-6)  # theirs rotates and normalises in float32
    padded = everything_visible.clone()
    padded[0, :, :, :4] = torch.finfo(torch.float64).min
    visible = torch.ones_like(ids)
    visible[0, :4] = 0
    kept = visible.bool()
    theirs = llama(ids, attention_mask=padded).logits
    torch.testing.assert_close(model(ids, visible).logits[kept], theirs[kept], rtol=0, atol=1e-6)


# Which token is [MASK]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a few words are enough here"], 265)


def test_a_mask_token_that_nobody_names_raises(llama_model, tmp_path):
    write_llama_layout(llama_model, tmp_path, rotary=ROTARY["top level"])
    with pytest.raises(ValueError, match=r"does not say which token is \[MASK\].*mask_token_id="):
        load_pretrained(tmp_path)


def test_the_tokenizer_in_the_folder_names_mask_and_end_of_turn(build, tokenizer, tmp_path):
    model = build(weight_tying=True, rope_theta=12345.0, vocab_size=265)
    write_llama_layout(model, tmp_path, rotary=ROTARY["rope_parameters"])
    tokenizer.save_pretrained(tmp_path)
    loaded, read = load_pretrained(tmp_path)
    assert loaded.config.mask_token_id == tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS.mask) == 0
    assert loaded.config.eot_token_id == tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS.eot)
    assert read.get_vocab() == tokenizer.get_vocab()
    assert load_pretrained(tmp_path, mask_token_id=7)[0].config.mask_token_id == 7


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_raises(copy, tokenizer, file):
    tokenizer.save_pretrained(copy)
    (copy / file).write_text("{")
    with pytest.raises(ValueError, match=r"the tokenizer in .*copy cannot be read"):
        load_pretrained(copy)


def test_a_tokenizer_of_foreign_code_raises_and_asks_nobody(copy, tokenizer, monkeypatch):
    tokenizer.save_pretrained(copy)
    (copy / "foreign.py").write_text("raise SystemExit('executed')")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": [None, "foreign.Foreign"]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=r"the tokenizer in .* cannot be read: .* contains custom code"):
        load_pretrained(copy)


def test_a_known_mask_token_is_found_where_the_tokenizer_does_not_declare_it(build, tokenizer, tmp_path):
    """The published tokenizers hold the mask among their additional tokens only."""
    model = build(weight_tying=True, rope_theta=12345.0, vocab_size=265)
    write_llama_layout(model, tmp_path, rotary=ROTARY["rope_parameters"])
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded, read = load_pretrained(tmp_path)
    assert read.mask_token is None
    assert loaded.config.mask_token_id == 0


def test_the_configuration_decides_where_it_names_the_mask(build, tokenizer, tmp_path):
    build(vocab_size=265, mask_token_id=9, eot_token_id=8).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = load_pretrained(tmp_path)[0].config
    assert (config.mask_token_id, config.eot_token_id) == (9, 8)


def test_a_mask_token_outside_the_vocabulary_raises(copy):
    with pytest.raises(ValueError, match=r"mask_token_id=256 is not in the vocabulary 0\.\.255"):
        load_pretrained(copy, mask_token_id=256)


# Damaged weights


BOTH_LOADERS = pytest.mark.parametrize(
    "load", [load_pretrained, AutoModelForMaskedLM.from_pretrained], ids=["ours", "auto"]
)


def drop(name):
    return lambda tensors: tensors.pop(name)


MISSING = [
    "model.transformer.blocks.1.q_proj.weight",
    "model.transformer.blocks.2.ff_out.weight",
    "model.transformer.ff_out.weight",
    "model.transformer.wte.weight",
    "model.transformer.ln_f.weight",
]


@BOTH_LOADERS
@pytest.mark.parametrize("name", MISSING)
def test_a_missing_tensor_raises(copy, load, name):
    edit_tensors(copy, drop(name))
    with pytest.raises(ValueError, match=r"does not hold the weights that its config\.json describes: missing"):
        load(copy)


@BOTH_LOADERS
@pytest.mark.parametrize("name", ["model.transformer.blocks.3.q_proj.weight", "model.transformer.wpe.weight", "stray"])
def test_a_superfluous_tensor_raises(copy, load, name):
    edit_tensors(copy, lambda tensors: tensors.update({name: torch.zeros(64, 64)}))
    with pytest.raises(ValueError, match=r"does not hold the weights .* unexpected"):
        load(copy)


@BOTH_LOADERS
def test_a_misshapen_tensor_raises(copy, load):
    edit_tensors(copy, lambda t: t.update({"model.transformer.blocks.0.k_proj.weight": torch.zeros(32, 64)}))
    with pytest.raises(ValueError, match=r"does not hold the weights .*k_proj.* has shape \(32, 64\), not \(64, 64\)"):
        load(copy)


def test_many_wrong_tensors_are_counted(copy):
    edit_config(copy, n_layers=5)
    with pytest.raises(ValueError, match=r"missing .*; and 10 more"):
        load_pretrained(copy)


@BOTH_LOADERS
@pytest.mark.parametrize("size", [0, 4, 100, 5000, 701295])
def test_a_truncated_weight_file_raises(copy, load, size):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=rf"model\.safetensors \({size} bytes\) is truncated or not a safetensors file"
    ):
        load(copy)


@BOTH_LOADERS
def test_a_weight_file_of_something_else_raises(copy, load):
    (copy / "model.safetensors").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load(copy)


@BOTH_LOADERS
def test_a_folder_without_weights_raises(copy, load):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load(copy)


@BOTH_LOADERS
def test_pickled_weights_are_not_read(copy, load):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        load(copy)


@pytest.fixture
def shards(build, tmp_path) -> Path:
    folder = tmp_path / "shards"
    build().save_pretrained(folder, max_shard_size="10KB")
    return folder


def edit_index(folder: Path, change) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


@BOTH_LOADERS
def test_a_missing_shard_raises(shards, load):
    lost = max(shards.glob("model-*.safetensors"))
    lost.unlink()
    with pytest.raises(ValueError, match=f"lacks the weight file {lost.name}"):
        load(shards)


@BOTH_LOADERS
@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a/b.safetensors", "pytorch_model.bin", "..", 3]
)
def test_an_index_may_not_point_elsewhere(shards, load, name):
    edit_index(shards, lambda index: index["weight_map"].update({"model.transformer.wte.weight": name}))
    with pytest.raises(ValueError, match=r"names the file .*; it may name only \.safetensors files beside itself"):
        load(shards)


@BOTH_LOADERS
@pytest.mark.parametrize("weight_map", [None, {}, []])
def test_an_index_without_files_raises(shards, load, weight_map):
    edit_index(shards, lambda index: index.update(weight_map=weight_map))
    with pytest.raises(ValueError, match=r"index\.json has no weight_map"):
        load(shards)


@BOTH_LOADERS
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}"])
def test_an_index_that_is_not_json_raises(shards, load, content):
    (shards / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"index\.json cannot be read as JSON"):
        load(shards)


# Damaged or foreign configurations


@pytest.mark.parametrize("content", [b"", b"{not json", b"\xff\xfe"])
def test_a_configuration_that_is_not_json_raises(copy, content):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json cannot be read as JSON"):
        load_pretrained(copy)


def test_a_configuration_that_is_not_an_object_raises(copy):
    (copy / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config\.json must hold a JSON object, but holds a list"):
        load_pretrained(copy)


def test_a_folder_without_a_configuration_raises(copy):
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json, so it is not a checkpoint"):
        load_pretrained(copy)


@pytest.mark.parametrize("path", ["no/such/folder", "nowhere", "/no/such", "../elsewhere", "./x", "a b/c"])
def test_a_folder_that_does_not_exist_raises(path):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id of the form owner/name"):
        load_pretrained(path)


def test_a_folder_beside_an_existing_one_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id"):
        load_pretrained("runs/model")


def test_a_hub_id_is_downloaded_without_code(golden, monkeypatch):
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append(name)
        assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in allow_patterns)
        return str(golden.folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model, _ = load_pretrained("some-owner/some.model_1")
    assert asked == ["some-owner/some.model_1"]
    assert model.config.d_model == 64


FETCHING = {
    "attn_implementation": "owner/kernel",
    "_attn_implementation": "owner/kernel",
    "experts_implementation": "owner/kernel",
    "auto_map": {"AutoModel": "owner/repo--modeling.Evil", "AutoConfig": "configuration.Evil"},
    "custom_pipelines": {"x": {"impl": "evil.Pipeline"}},
}


@BOTH_LOADERS
@pytest.mark.parametrize("key", FETCHING)
def test_keys_that_would_fetch_code_are_dropped(copy, golden, load, key):
    (copy / "modeling.py").write_text("raise SystemExit('executed')")
    edit_config(copy, **{key: FETCHING[key]})
    loaded = load(copy)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    assert model.config._attn_implementation == "sdpa"
    assert "owner" not in json.dumps(model.config.to_dict())
    logits = model(golden.tensors["logits.input_ids"]).logits
    torch.testing.assert_close(logits, golden.tensors["logits.plain"], rtol=0, atol=1e-5)


REFUSED = {bool: True, int: 2, float: 0.1, str: "other"}


@pytest.mark.parametrize("name", _ONLY)
def test_an_official_switch_that_is_not_implemented_raises(copy, name):
    allowed, why = _ONLY[name]
    wrong = (not allowed) if isinstance(allowed, bool) else REFUSED[type(allowed)]
    edit_config(copy, **{name: wrong})
    message = f"{name}={wrong!r} is not implemented; only {allowed!r} is, because {why}"
    for load in (load_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            load(copy)


@pytest.mark.parametrize("name", [name for name, (allowed, _) in _ONLY.items() if allowed is False])
def test_an_official_switch_that_is_null_is_off(copy, name):
    edit_config(copy, **{name: None})
    load_pretrained(copy)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("n_head", "did you mean 'n_heads'"),
        ("hiden_size", "did you mean 'hidden_size'"),
        ("zzz", "a LLaDA has no such setting"),
    ],
)
def test_an_unknown_key_raises_and_names_the_near_one(copy, name, hint):
    edit_config(copy, **{name: 3})
    with pytest.raises(ValueError, match=f"unknown LLaDA configuration key '{name}'; {hint}"):
        load_pretrained(copy)
    with pytest.raises(ValueError, match=f"unknown LLaDA configuration key '{name}'; {hint}"):
        LLaDAConfig(**{name: 3})


def test_a_configuration_of_neither_layout_raises(copy):
    edit_config(copy, remove=("d_model",))
    with pytest.raises(ValueError, match=r"neither d_model .* nor hidden_size"):
        load_pretrained(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_bias": True}, "mlp_bias=True in config.json is not implemented; only False is"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling=.* in config.json is not implemented; only None is"),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rope_type='yarn' in config.json is not implemented; only 'default' is",
        ),
        ({"head_dim": 16}, "head_dim=16 in config.json must be hidden_size / num_attention_heads"),
        ({"hidden_act": "gelu"}, "activation_type='gelu' is not implemented"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1 is not implemented"),
        ({"qk_layernorm": True}, "unknown LLaDA configuration key 'qk_layernorm'"),
    ],
)
def test_llama_named_settings_that_are_not_implemented_raise(llama_model, tmp_path, changes, message):
    write_llama_layout(llama_model, tmp_path, rotary={**ROTARY["top level"], **changes})
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path, mask_token_id=5)


def test_llama_named_layouts_may_leave_out_the_heads_of_keys(build, tmp_path):
    model, ids = build(n_kv_heads=4, rope_theta=12345.0), tokens(2, 10)
    write_llama_layout(model, tmp_path, rotary=ROTARY["top level"])
    edit_config(tmp_path, remove=("num_key_value_heads", "head_dim", "rope_scaling"))
    assert torch.equal(load_pretrained(tmp_path, mask_token_id=5)[0](ids).logits, model(ids).logits)


SIZES = [
    ({"d_model": 0}, "d_model=0 must be at least 1"),
    ({"n_layers": 0}, "n_layers=0 must be at least 1"),
    ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
    ({"n_heads": -1}, "n_heads=-1 must be at least 1"),
    ({"n_kv_heads": 0}, "n_kv_heads=0 must be at least 1"),
    ({"mlp_hidden_size": 0}, "mlp_hidden_size=0 must be at least 1"),
    ({"max_sequence_length": 0}, "max_sequence_length=0 must be at least 1"),
    ({"n_heads": 5}, "d_model=64 must be n_heads=5 times an even head size"),
    ({"n_heads": 64, "n_kv_heads": 64}, "d_model=64 must be n_heads=64 times an even head size"),
    ({"n_kv_heads": 3}, "n_heads=4 must be a multiple of n_kv_heads=3"),
    ({"multi_query_attention": True}, "multi_query_attention=True means one key-value head, but n_kv_heads=4"),
    ({"embedding_size": 255}, "embedding_size=255 must be at least vocab_size=256"),
    ({"mask_token_id": -1}, "mask_token_id=-1 is not in the vocabulary 0..255"),
    ({"eos_token_id": 256}, "eos_token_id=256 is not in the vocabulary 0..255"),
    ({"pad_token_id": 300}, "pad_token_id=300 is not in the vocabulary 0..255"),
    ({"eot_token_id": 256}, "eot_token_id=256 is not in the vocabulary 0..255"),
    ({"init_fn": "kaiming_normal"}, "init_fn='kaiming_normal' is not implemented; allowed: 'mitchell', 'normal'"),
]


@pytest.mark.parametrize(("changes", "message"), SIZES)
def test_sizes_that_do_not_fit_raise(copy, changes, message):
    edit_config(copy, **changes)
    for load in (load_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(copy)
