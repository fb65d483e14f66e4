"""Options of fine-tuning, and of objectives from the configuration."""

import console
import pytest
import torch
from enumerated import MASKED
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import tiny
from transformers import AutoTokenizer

import llada
from llada.config import ConfigError
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.train.batches import Batch, Batches, Place, collate
from llada.train.build import parts
from llada.train.config import PretrainConfig, SFTConfig, TrainConfig
from llada.train.journal import read_log
from llada.train.loop import evaluate, fit
from llada.train.objectives import (
    OBJECTIVES,
    Noise,
)
from llada.train.optim import adamw
from llada.train.run import train


def conversations(**changes) -> Batch:
    data = Conversations()
    (batch,) = next(Batches(data, 8, Noise(MASK, PAD, **changes)).micro_batches(0, 1, 0, 1))
    return batch


def test_without_padding_in_the_loss_a_response_ends_with_one_end_of_sequence():
    data = Conversations()
    noise = Noise(MASK, PAD, eos_padding=False)
    batches = Batches(data, 8, noise)
    (batch,) = next(batches.micro_batches(0, 1, 0, 1))
    sizes = [len(data[batches.row(place)]["x0"]) for place in batch.places]
    visible = batch.call.inputs["attention_mask"]
    assert visible.sum(dim=1).tolist() == [n + 1 for n in sizes]
    assert batch.lengths.tolist() == [n - n // 2 + 1 for n in sizes]
    clean = batch.call.inputs["input_ids"].clone()
    clean[clean == MASK] = batch.call.targets
    assert all(int((row[:n] == PAD).sum()) == 0 and row[n] == PAD for row, n in zip(clean, sizes, strict=True))
    assert not ((batch.call.inputs["input_ids"] == MASK) & (visible == 0)).any()
    padded = conversations()
    assert padded.call.inputs["attention_mask"] is None
    assert (padded.lengths >= batch.lengths - 1).all()


def test_prompts_can_be_masked_too():
    data = Conversations()
    counts = []
    for mask_prompt in (False, True):
        noise = Noise(MASK, PAD, mask_prompt=mask_prompt, t_min=0.99)
        batches = Batches(data, 8, noise)
        (batch,) = next(batches.micro_batches(0, 1, 0, 1))
        sizes = [len(data[batches.row(place)]["x0"]) for place in batch.places]
        prompt = torch.arange(batch.call.inputs["input_ids"].shape[1]) < torch.tensor(sizes)[:, None] // 2
        counts.append(int(((batch.call.inputs["input_ids"] == MASK) & prompt).sum()))
        L = batch.call.inputs["input_ids"].shape[1]
        assert batch.lengths.tolist() == [L if mask_prompt else L - n // 2 for n in sizes]
    assert counts[0] == 0
    assert counts[1] > 20


@pytest.mark.parametrize("masking", ["count", "bernoulli"])
def test_t_stays_in_its_range(masking):
    data = Tokens(count=64, length=10)
    noise = Noise(MASK, PAD, masking=masking, t_min=0.3, t_max=0.8)
    call = collate([(Place(0, i, None), data[i]) for i in range(64)], noise, 64).call
    t = 1 / call.weights[:, 0]
    assert t.min() >= 0.3
    assert t.max() <= (0.8 + 1e-3 if masking == "bernoulli" else 0.81)
    assert t.max() - t.min() > 0.39
    call = collate([(Place(0, i, None), data[i]) for i in range(64)], noise, 64, OBJECTIVES["complementary"]).call
    assert call.weights[call.weights > 0].min() > 0.5 / 0.9


def test_t_of_blocks_stays_in_its_range():
    data = Tokens(count=64, length=10)
    noise = Noise(MASK, PAD, masking="bernoulli", t_min=0.3, t_max=0.8, block_length=5)
    call = collate([(Place(0, i, None), data[i]) for i in range(64)], noise, 64, OBJECTIVES["block_diffusion"]).call
    t = 1 / call.weights
    assert t.min() >= 0.3
    assert t.max() <= 0.801
    assert t.max() - t.min() > 0.4


# From the configuration


def configured(settings: dict, kind: type[TrainConfig] = PretrainConfig, **changes) -> TrainConfig:
    return kind(**settings | changes | {"output": "x"})


@pytest.fixture(scope="module")
def tuning(prepared, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tuning")
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    tokenizer.save_pretrained(folder / "model")
    model = tiny(vocab_size=len(tokenizer), max_sequence_length=200)
    model.config.mask_token_id, model.config.eos_token_id = tokenizer.mask_token_id, tokenizer.eos_token_id
    model.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as monkeypatch:
        console.llada(monkeypatch, "prepare", "instructions", folder / "data", "--count", 5)
    return {
        "init": str(folder / "model"),
        "train": str(folder / "data" / "train.jsonl"),
        "heldout": str(folder / "data" / "test.jsonl"),
        "max_length": 100,
        "steps": 3,
        "batch_size": 8,
        "optim": {"learning_rate": 0.01},
    }


@pytest.mark.parametrize("name", MASKED)
def test_objective_of_the_configuration_trains_saves_and_is_measured_by_a_bound(name, settings, tmp_path):
    blocks = {"block_length": 4} if name == "block_diffusion" else {}
    values = settings | {"objective": name, "steps": 5, "model": settings["model"] | blocks}
    train(PretrainConfig(**values, output=str(tmp_path / "run")))
    log = read_log(tmp_path / "run")
    ratios = log[-1]["mask_ratios"]
    assert ratios == sorted(ratios)
    assert 1 < len(ratios) == len(log[-1]["loss_at_mask_ratios"]) == len(log[-1]["ema_loss_at_mask_ratios"]) <= 16
    model, _ = llada.load_pretrained(tmp_path / "run" / "model")
    assert model.config.block_length == blocks.get("block_length")
    run = parts(PretrainConfig(**values, output="x"))
    assert run.batches.objective is OBJECTIVES[name]
    assert run.measure[1] is OBJECTIVES["block_diffusion" if name == "block_diffusion" else "elbo"]


def test_every_option_of_fine_tuning_reaches_the_batches(tuning):
    plain = parts(configured(tuning, SFTConfig))
    assert (plain.per, plain.batches.noise.eos_padding, plain.batches.noise.mask_prompt) == ("row", True, False)
    options = {"per": "token", "eos_padding": False, "mask_prompt": True, "t_min": 0.2, "t_max": 0.9}
    blocks = {"objective": "block_diffusion", "block_length": 8}
    changed = parts(configured(tuning, SFTConfig, **options, **blocks))
    noise = changed.batches.noise
    assert (changed.per, noise.eos_padding, noise.mask_prompt, noise.block_length) == ("token", False, True, 8)
    assert (noise.t_min, noise.t_max) == (0.2, 0.9)
    assert changed.model_config.block_length == 8
    measure = changed.measure[0]  # responses alone, and all t
    assert (measure.t_min, measure.t_max, measure.mask_prompt, measure.block_length) == (0.0, 1.0, False, 8)
    assert (plain.measure[0].eos_padding, measure.eos_padding) == (True, False)


def test_loss_of_fine_tuning_is_averaged_over_rows_or_over_tokens(tuning, tmp_path):
    losses = []
    for per in ("row", "token"):
        values = tuning | {"steps": 1, "masking": "count", "per": per, "output": str(tmp_path / per)}
        train(SFTConfig(**values))
        losses.append(read_log(tmp_path / per)[0]["loss"])
    assert losses[0] != pytest.approx(losses[1], abs=1e-3)


def test_fine_tuning_reveals_responses_step_by_step_also_with_adapters(tuning, tmp_path):
    lora = {"rank": 2, "dropout": 0.1}
    values = tuning | {"objective": "puma", "puma": {"stages": 2}, "lora": lora, "micro_batch_size": 3}
    train(SFTConfig(**values, output=str(tmp_path / "run")))
    log = read_log(tmp_path / "run")
    assert log[0]["tokens"] < log[0]["read"]
    assert log[-1]["bound"] > 0


def test_a_checkpoint_is_tuned_into_a_block_model(tuning, tmp_path):
    values = tuning | {"objective": "block_diffusion", "block_length": 8, "output": str(tmp_path / "run")}
    model, _ = llada.load_pretrained(train(SFTConfig(**values)))
    assert model.config.block_length == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_min": 0.5, "t_max": 0.5}, r"t_min=0\.5 must be below t_max=0\.5"),
        ({"t_max": 1.5}, "t_max"),
        ({"objective": "elbow"}, "objective"),
        ({"objective": "autoregressive", "t_min": 0.5}, "t_min has no effect with objective: autoregressive"),
    ],
)
def test_impossible_settings_are_refused(settings, changes, message):
    values = {name: value for name, value in settings.items() if name != "masking"}
    with pytest.raises(ConfigError, match=message):
        configured(values, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 4}, "block_length has no effect with objective: elbo"),
        ({"objective": "autoregressive", "eos_padding": True}, "eos_padding has no effect"),
        ({"objective": "autoregressive", "mask_prompt": True}, "mask_prompt has no effect"),
    ],
)
def test_impossible_settings_of_fine_tuning_are_refused(tuning, changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(tuning, SFTConfig, **changes)


def test_one_more_token_must_fit_where_responses_end_with_one(tuning):
    parts(configured(tuning, SFTConfig, eos_padding=False, max_length=199))
    with pytest.raises(ConfigError, match=r"max_length=200 and the end of sequence after it do not fit into .*=200"):
        parts(configured(tuning, SFTConfig, eos_padding=False, max_length=200))


def test_block_diffusion_without_a_length_says_where_to_give_it(settings, tuning):
    with pytest.raises(ConfigError, match=r"needs the length of a block; give model\.block_length"):
        parts(configured(settings, objective="block_diffusion"))
    with pytest.raises(ConfigError, match="needs the length of a block; give block_length"):
        parts(configured(tuning, SFTConfig, objective="block_diffusion"))


# A model that is trained so writes so


def test_block_diffusion_from_training_to_cached_sampling(tmp_path):
    data = Tokens(count=8, length=12)
    config = LLaDAConfig(
        d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=64, vocab_size=20, mask_token_id=MASK, eos_token_id=PAD,
        block_length=4, max_sequence_length=12, rope_theta=100.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LLaDAForMaskedLM(config)
    noise = Noise(MASK, PAD, block_length=4)
    objective = OBJECTIVES["block_diffusion"]
    before = evaluate(model, data, noise, objective=objective, draws=4)
    batches = Batches(data, 8, noise, objective=objective)
    list(fit(model, batches, adamw(model), learning_rate=lambda s: 0.01, steps=150))
    after = evaluate(model, data, noise, objective=objective, draws=4)
    assert after.value < 0.8 < 2 < before.value
    model.save_pretrained(tmp_path)
    loaded, _ = llada.load_pretrained(tmp_path)
    assert loaded.config.block_length == 4
    prompt = torch.tensor(data.rows[:, :4])
    sampler = llada.SamplerConfig.named("block_causal_cache", gen_length=8, block_length=4, steps=8)
    cached = llada.generate(loaded, prompt, sampler=sampler)
    whole = llada.generate(loaded, prompt, sampler=sampler.replace(cache="none"))
    assert torch.equal(cached.sequences, whole.sequences)
    assert (cached.query_tokens < whole.query_tokens).all()
    learnt = (cached.sequences[:, 4:] == torch.tensor(data.rows[:, 4:])).float().mean()
    assert learnt > 0.5
