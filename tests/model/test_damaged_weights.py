"""Weights that are missing, superfluous, misshapen, cut, or pickled."""

import json
from pathlib import Path

import pytest
import torch
from folders import BOTH_LOADERS, edit_config
from safetensors.torch import load_file, save_file

from llada import load_pretrained


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


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
