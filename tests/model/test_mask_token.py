"""Which token is [MASK]."""

import json

import pytest
from folders import ROTARY, write_llama_layout

from llada import load_pretrained
from llada.data.tokenizer import SPECIAL_TOKENS


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
