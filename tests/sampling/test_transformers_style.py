"""`model.generate` in transformers' style: the same tokens as `llada.generate`, streamers, pipelines, settings."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, pipeline

import llada
from llada.data.tokenizer import train_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-mha"


@pytest.fixture(scope="module")
def model():
    return llada.load_pretrained(GOLDEN)[0]


PROMPT = torch.tensor([[5, 6, 7], [8, 9, 10]])


def ours(model, **fields):
    return llada.generate(model, PROMPT, sampler=llada.SamplerConfig(**fields), seed=3).sequences


def test_same_tokens_as_generate_and_the_model_can_generate(model):
    assert model.can_generate()
    sampled = model.generate(PROMPT, max_new_tokens=8, temperature=0.7, block_length=4, seed=3)
    assert torch.equal(sampled, ours(model, gen_length=8, temperature=0.7, block_length=4))
    assert torch.equal(model.generate(PROMPT, max_length=11), ours(model, gen_length=8))


def test_output_on_request_has_the_cost(model):
    out = model.generate(PROMPT, max_new_tokens=8, steps=4, return_dict_in_generate=True)
    assert out.sequences.shape == (2, 11)
    assert out.forward_passes.tolist() == [4, 4]
    assert out.tokens_per_forward.shape == (2,)


def test_settings_win_over_the_generation_config_and_that_over_the_model(model):
    config = GenerationConfig(max_new_tokens=6, do_sample=False, temperature=0.7)
    assert torch.equal(model.generate(PROMPT, generation_config=config), ours(model, gen_length=6))
    longer = model.generate(PROMPT, generation_config=config, gen_length=8, do_sample=True, seed=3)
    assert torch.equal(longer, ours(model, gen_length=8, temperature=0.7))
    assert model.generate(PROMPT, generation_config=config, max_length=5).shape == (2, 5)


def test_sampling_without_a_temperature_is_at_temperature_one(model):
    sampled = model.generate(PROMPT, max_new_tokens=6, do_sample=True, seed=3)
    assert torch.equal(sampled, ours(model, gen_length=6, temperature=1.0))


@pytest.mark.parametrize("setting", [{"num_beams": 4}, {"repetition_penalty": 1.2}, {"blok_length": 4}])
def test_settings_without_a_meaning_here_are_refused(model, setting):
    with pytest.raises(llada.ConfigError, match=f"unknown key '{next(iter(setting))}'"):
        model.generate(PROMPT, max_new_tokens=8, **setting)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 3}, "max_length=3 leaves no token after a prompt of 3; raise it"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample=True has no effect at temperature=0"),
    ],
)
def test_settings_that_cannot_act_are_explained(model, settings, message):
    with pytest.raises(ValueError, match=message):
        model.generate(PROMPT, **settings)


class Recorder:
    """A streamer of transformers, without drafts."""

    def __init__(self):
        self.events = []

    def put(self, value):
        self.events.append(("put", value.tolist()))

    def end(self):
        self.events.append(("end", None))


class DraftRecorder(Recorder):
    """A streamer of the diffusion kind."""

    def put_draft(self, value):
        self.events.append(("draft", value.tolist()))


def test_streamer_gets_the_prompt_every_draft_and_every_finished_block(model):
    streamer = DraftRecorder()
    out = model.generate(PROMPT[:1], max_new_tokens=8, block_length=4, steps=4, streamer=streamer)
    kinds = [kind for kind, _ in streamer.events]
    assert kinds == ["put", "draft", "draft", "put", "draft", "draft", "put", "end"]
    blocks = [value[0] for kind, value in streamer.events if kind == "put"]
    assert [token for block in blocks for token in block] == out[0].tolist()


def test_plain_streamer_without_drafts_works(model):
    streamer = Recorder()
    model.generate(PROMPT[:1], max_new_tokens=4, streamer=streamer)
    assert [kind for kind, _ in streamer.events] == ["put", "put", "end"]


def test_pipeline_generates_text():
    tokenizer = train_tokenizer(["some text to learn bytes from"], 262)
    torch.manual_seed(0)
    config = llada.LLaDAConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=262, mask_token_id=tokenizer.mask_token_id,
                               eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    write = pipeline("text-generation", model=llada.LLaDAForMaskedLM(config), tokenizer=tokenizer)
    text = write("some", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("some")


@pytest.mark.parametrize("prompt", [PROMPT[0], PROMPT.float(), [[1, 2]]], ids=["one dimension", "floats", "a list"])
def test_prompt_of_another_kind_is_refused_as_by_generate(model, prompt):
    with pytest.raises(ValueError, match=r"the tokens|token ids"):
        model.generate(prompt, max_new_tokens=4)
