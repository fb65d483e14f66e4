"""The second layout: Llama names, tied embeddings, grouped-query attention, no mask token."""

import pytest
import torch
from folders import ROTARY, read_config, tokens, write_llama_layout
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llada import load_pretrained


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
