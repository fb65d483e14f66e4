"""A small model that learns conversations from random weights, once: experiments that ask the same of it share it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llada.config import Schema
from llada.data.tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from llada.durable import partial_folder, publish_file, publish_folder
from llada.model.baseline import load_autoregressive
from llada.model.checkpoint import load_pretrained
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.build import model_config, new_model
from llada.train.config import SFTConfig
from llada.train.journal import read_log
from llada.train.run import train

Pair = tuple[str, str]  # what the user says, and the reply


class Recipe(Schema):
    """How a mask predictor and the autoregressive model of the same sizes are trained: on the same rows, as long."""

    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCABULARY)] = SMALLEST_VOCABULARY  # of the tokenizer; least: bytes
    model: dict[str, Any]  # sizes
    training: dict[str, Any]  # what both are told, as in configs/sft, without files
    masked: dict[str, Any]  # and one of them alone
    autoregressive: dict[str, Any]

    def of(self, *, causal: bool, init: str = "", train: str = "", output: str = "") -> SFTConfig:
        """The configuration of one of the two, with its files; without them it tells the models of recipes apart."""
        own = self.autoregressive | {"objective": "autoregressive"} if causal else self.masked
        files = {"init": init, "train": train, "output": output}
        values: dict[str, Any] = {**self.training, **own, **files}
        return SFTConfig(**values)

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        for causal in (False, True):
            self.of(causal=causal)
        return self


class Student(NamedTuple):
    model: LLaDAForMaskedLM
    tokenizer: PreTrainedTokenizerBase
    log: dict[str, Any]  # of the last step


class Baseline(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    log: dict[str, Any]


def student(pairs: Sequence[Pair], recipe: Recipe, folder: Path) -> Student:
    """The mask predictor that these pairs made; it is trained, or trained further, where the folder has it not yet."""
    run = _trained(pairs, recipe, folder, causal=False)
    model, tokenizer = load_pretrained(run / "model", device=device())
    assert tokenizer is not None
    return Student(model, tokenizer, read_log(run)[-1])


def baseline(pairs: Sequence[Pair], recipe: Recipe, folder: Path) -> Baseline:
    """The autoregressive model of the same."""
    run = _trained(pairs, recipe, folder, causal=True)
    model, tokenizer = load_autoregressive(run / "model")
    assert tokenizer is not None
    torch.nn.Module.to(model, device())
    return Baseline(model, tokenizer, read_log(run)[-1])


def device() -> torch.device:
    """Where models are asked: a CUDA device or the CPU; others may lack the float64 in which tokens are drawn."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _trained(pairs: Sequence[Pair], recipe: Recipe, folder: Path, *, causal: bool) -> Path:
    rows = [{"prompt": prompt, "completion": reply} for prompt, reply in pairs]
    content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    told = recipe.of(causal=causal)
    asked = json.dumps([recipe.vocab_size, recipe.model, told.model_dump(mode="json")], sort_keys=True).encode()
    place = folder / hashlib.sha256(content + asked).hexdigest()[:12]
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "start").exists():
        publish_file(place / "train.jsonl", content)
        _begin(place / "start", [text for pair in pairs for text in pair], recipe, told, causal=causal)
    start, rows_of, run = (str(place / name) for name in ("start", "train.jsonl", "run"))
    train(recipe.of(causal=causal, init=start, train=rows_of, output=run), resume=True)
    return place / "run"


def _begin(start: Path, texts: Sequence[str], recipe: Recipe, told: SFTConfig, *, causal: bool) -> None:
    """A checkpoint with random weights."""
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(told.seed)
        model = new_model(model_config(recipe.model, told.max_length, tokenizer), tokenizer, causal=causal)
    filled = partial_folder(start)
    model.save_pretrained(filled)
    tokenizer.save_pretrained(filled)
    publish_folder(filled, start)
