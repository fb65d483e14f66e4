"""Any change to the files of a model or of data: loaded and used, or refused with one message that names the folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_values import mutated, numbers_of_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.data.chat import encode_prompt
from llada.data.documents import Document
from llada.data.shards import write_shards
from llada.data.tokenizer import SMALLEST_VOCABULARY
from llada.data.tokens import TokenRows
from llada.model.checkpoint import load_pretrained
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate

RAW = ("object has no", "not supported between", "torch.", "pydantic")  # words of Python and of packages


def written(value: Any) -> str:
    """JSON, with numbers of any length; "" where it cannot be written."""
    try:
        return json.dumps(value)
    except ValueError:
        return ""


@numbers_of_cases(6, 3000)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_models_are_loaded_and_used_or_refused(name, cases, served, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(served, folder)
    whole = json.loads((folder / name).read_text())

    @settings(max_examples=cases)
    @given(mutated(whole).map(written))
    def check(content: str) -> None:
        (folder / name).write_text(content)
        try:
            model, tokenizer = load_pretrained(folder)
            if tokenizer is None:
                return
            prompt = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": "a"}])])
            out = generate(model, prompt, None, SamplerConfig(gen_length=2, steps=1))
        except (ValueError, OSError):
            return
        assert out.sequences.shape == (1, prompt.shape[1] + 2)

    check()


@pytest.fixture(scope="module")
def shards(model, tokenizer, tmp_path_factory) -> Path:
    """A folder of token shards, of which the longest has 9 tokens."""
    folder = tmp_path_factory.mktemp("shards") / "data"
    documents = [Document(str(number), text) for number, text in enumerate(["the model", "reads", "a row of tokens"])]
    write_shards(documents, tokenizer, folder, shard_tokens=9)
    return folder


@numbers_of_cases(20, 10000)
def test_data_is_read_or_refused(cases, shards, tokenizer, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(shards, folder)
    whole = json.loads((folder / "index.json").read_text())
    contents = {path.name: path.read_bytes() for path in folder.glob("*.bin")}
    bytes_of_shard = st.sampled_from(sorted(contents)).flatmap(
        lambda name: st.tuples(
            st.just(name), st.integers(0, len(contents[name]) - 1), st.binary(min_size=1, max_size=9), st.booleans()
        )
    )

    @settings(max_examples=cases)
    @given(st.one_of(st.just(whole), mutated(whole)).map(written), st.one_of(st.none(), bytes_of_shard))
    def check(index: str, change: tuple[str, int, bytes, bool] | None) -> None:
        (folder / "index.json").write_text(index)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        if change is not None:
            name, place, other, longer = change
            end = place if longer else place + len(other)
            (folder / name).write_bytes(contents[name][:place] + other + contents[name][end:])
        try:
            rows = [row["x0"] for row in TokenRows(folder, 4, tokenizer=tokenizer)]
        except (ValueError, OSError) as error:
            rows, told = [], str(error)
        else:
            told = str(folder)
        assert str(folder) in told
        assert not any(words in told for words in RAW)
        assert all(row.shape == (4,) and row.min() >= 0 and row.max() < SMALLEST_VOCABULARY for row in rows)

    check()
