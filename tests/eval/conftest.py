"""Small random models: one with a tokenizer and a task whose expected answers are its own ones, one token a step."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import llada
from llada.data.tokenizer import train_tokenizer
from llada.eval.answers import answer
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig

QUESTIONS = [f"What is {a} plus {b}? {'Think well. ' * (a % 3)}" for a in range(6) for b in range(4)]


class Asked(NamedTuple):
    model: LLaDAForMaskedLM
    tokenizer: PreTrainedTokenizerBase
    base: SamplerConfig
    questions: Path


@pytest.fixture(scope="session")
def asked(tmp_path_factory) -> Asked:
    tokenizer = train_tokenizer([*QUESTIONS, "The answer is a number of two digits, no more and no less."] * 3, 300)
    torch.manual_seed(0)
    model = llada.LLaDAForMaskedLM(
        llada.LLaDAConfig(
            d_model=32,
            n_layers=2,
            n_heads=2,
            vocab_size=len(tokenizer),
            mask_token_id=tokenizer.mask_token_id,
            eos_token_id=tokenizer.eos_token_id,
            max_sequence_length=96,
            init_std=0.3,  # so that answers differ
        )
    )
    model = model.double().eval()  # so that other batch sizes and paddings round to the same tokens
    letters = [token for token in range(len(tokenizer)) if not tokenizer.decode([token]).isascii()]
    base = SamplerConfig(gen_length=8, suppress_tokens=sorted({*tokenizer.all_special_ids, *letters}))
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    answers = answer(model, tokenizer, conversations, base)
    file = tmp_path_factory.mktemp("task") / "questions.jsonl"
    rows = [
        {"messages": [*messages, {"role": "assistant", "content": given.text}]}
        for messages, given in zip(conversations, answers, strict=True)
        if given.text.strip()
    ]
    assert len(rows) > 20
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Asked(model, tokenizer, base, file)


@pytest.fixture(scope="session")
def golden_model(golden_folder) -> LLaDAForMaskedLM:
    """A small random model in double precision."""
    return llada.load_pretrained(golden_folder / "tiny-mha")[0].double()
