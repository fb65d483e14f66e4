"""Configurations that are damaged, foreign, or ask for what is not implemented."""

import json
import re
from pathlib import Path

import pytest
import torch
from folders import BOTH_LOADERS, ROTARY, edit_config, tokens, write_llama_layout
from transformers import AutoConfig

from llada import LLaDAConfig, load_pretrained
from llada.model.configuration import _ONLY


@pytest.mark.parametrize("content", [b"", b"{not json", b"\xff\xfe", pytest.param(b"[" * 100_000, id="deep")])
def test_a_configuration_that_is_not_json_raises(copy, content):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json cannot be read as JSON"):
        load_pretrained(copy)


def test_a_configuration_that_is_not_an_object_raises(copy):
    (copy / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config\.json must hold a JSON object, but holds a list"):
        load_pretrained(copy)


@pytest.mark.parametrize("kind", [[], {}, 3])
def test_a_type_of_model_that_is_no_name_raises(kind, copy):
    edit_config(copy, model_type=kind)
    with pytest.raises(ValueError, match=r"config\.json: model_type=.* must be a name"):
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
        ({"head_dim": [16]}, "must be hidden_size / num_attention_heads"),
        ({"rope_parameters": [1]}, r"rope_parameters=\[1\] in config.json must be an object"),
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
    ({"block_length": 0}, "block_length=0 must be at least 1"),
    ({"max_sequence_length": 10**30}, "must be at least 1 and below 2**31"),
    ({"rope_theta": 0}, "rope_theta=0 must be above 0 and finite"),
    ({"rope_theta": 10**400}, "must be above 0 and finite"),
    ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0 must be at least 0 and finite"),
    ({"init_std": float("nan")}, "init_std=nan must be at least 0 and finite"),
    ({"weight_tying": "no"}, "weight_tying='no' must be true or false"),
    ({"dtype": "float99"}, "a setting of transformers among "),
    ({"dtype": 5}, "dtype=5 must name a type of numbers with fractions, such as float32"),
    ({"torch_dtype": "int8"}, "dtype=torch.int8 must name a type of numbers with fractions"),
    ({"id2label": 3}, "a setting of transformers among "),
    ({"id2label": {"a": 1}}, "a setting of transformers among "),
    ({"num_labels": "many"}, "a setting of transformers among "),
    ({"self": 1}, "unknown LLaDA configuration key 'self'"),
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


SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 32, "mask_token_id": 4}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden_size": 32}, "hidden_size=32 contradicts d_model=16, its other name; give one"),
        ({"num_hidden_layers": 3}, "num_hidden_layers=3 contradicts n_layers=1, its other name"),
        ({"eos_token_id": 4}, "eos_token_id=4 is mask_token_id, too; what is masked needs a token of its own"),
        ({"pad_token_id": 4}, "pad_token_id=4 is mask_token_id, too"),
        ({"eot_token_id": 4}, "eot_token_id=4 is mask_token_id, too"),
        ({"d_model": 0}, "^d_model=0 must be at least 1"),
        ({"n_heads": 0}, "^n_heads=0 must be at least 1"),
        ({"vocab_size": -3}, "^vocab_size=-3 must be at least 1"),
        ({"mlp_ratio": 0}, "^mlp_ratio=0 must be at least 1"),
    ],
)
def test_contradictions_and_empty_sizes_are_refused_by_the_names_that_were_given(other, message):
    with pytest.raises(ValueError, match=message):
        LLaDAConfig(**SMALL | other)


def test_both_names_of_a_size_may_say_the_same():
    assert LLaDAConfig(**SMALL, hidden_size=16).d_model == 16
