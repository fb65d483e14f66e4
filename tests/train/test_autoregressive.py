"""The autoregressive baseline: the sizes of a LLaDA, the likelihood as its loss, and everything that a run does."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bed import BED
from console import llada
from processes import finish, run, start
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import tiny
from test_processes import assert_same_run
from test_resume import kill_at, training
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Qwen2ForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

import llada as library
from llada.config import ConfigError
from llada.data.tokenizer import tokenizer_hash
from llada.model.baseline import autoregressive_config, load_autoregressive, new_autoregressive
from llada.train.batches import Batches, Place, collate
from llada.train.config import PretrainConfig, SFTConfig
from llada.train.journal import read_log
from llada.train.loop import evaluate, fit
from llada.train.objectives import OBJECTIVES, Noise, cross_entropy, group_sums, weighted
from llada.train.optim import adamw, muon
from llada.train.run import inner_parameters, train

BOS = 19
NOISE = Noise(MASK, PAD, bos_token_id=BOS)
AR = OBJECTIVES["autoregressive"]
SIZES = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 1234.0, "rms_norm_eps": 1e-3}


# The model


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_it_has_the_sizes_and_first_weights_of_the_llada(biases, tied):
    masked = tiny(3, **SIZES, include_qkv_bias=biases, weight_tying=tied)
    torch.manual_seed(3)
    causal = new_autoregressive(masked.config, bos_token_id=BOS)
    assert isinstance(causal, Qwen2ForCausalLM if biases else LlamaForCausalLM)
    assert causal.num_parameters() == masked.num_parameters()
    assert inner_parameters(causal) == inner_parameters(masked)
    mine, theirs = causal.state_dict(), masked.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (causal.lm_head.weight is causal.model.embed_tokens.weight) == tied
    assert all(parameter.requires_grad for parameter in causal.parameters())


@pytest.mark.parametrize("biases", [False, True])
def test_a_llada_with_a_causal_mask_gives_its_logits(biases, monkeypatch):
    """The same weights, so that sizes and conventions agree; transformers computes norms and rotations in float32, here
    in float64."""
    wide = SimpleNamespace(**{**vars(torch), "float32": torch.float64, "float": torch.float64})
    for module in (modeling_llama, modeling_qwen2):
        monkeypatch.setattr(module, "torch", wide)
    masked = tiny(**SIZES, include_qkv_bias=biases).double()
    with torch.no_grad():
        for parameter in masked.parameters():  # biases begin at zero and norms at one
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    causal = new_autoregressive(masked.config).double()
    causal.load_state_dict(masked.state_dict())
    ids = torch.randint(2, 20, (3, 11))
    before = torch.tril(torch.ones(11, 11, dtype=torch.bool)).expand(3, 1, 11, 11)
    torch.testing.assert_close(causal(ids).logits, masked(ids, before).logits, rtol=0, atol=1e-12)
    assert (causal(ids).logits - masked(ids).logits).abs().max() > 1e-2


def test_padding_token_keeps_its_embedding():
    """torch neither initialises nor trains the embedding of a model's pad_token_id, which here is the end of text."""
    causal = new_autoregressive(tiny().config, bos_token_id=BOS)
    causal(torch.tensor([[PAD, 5]])).logits.sum().backward()
    assert causal.model.embed_tokens.weight.grad[PAD].abs().sum() > 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"embedding_size": 24}, "embedding_size=24 leaves rows"), ({"block_length": 4}, "block_length=4 has no effect")],
)
def test_what_only_a_llada_has_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        autoregressive_config(tiny(**sizes).config)


def test_saved_model_is_an_ordinary_one_of_transformers(tmp_path):
    causal = new_autoregressive(tiny(eot_token_id=7).config, bos_token_id=BOS)
    causal.save_pretrained(tmp_path)
    plain, ours = AutoModelForCausalLM.from_pretrained(tmp_path), load_autoregressive(tmp_path)[0]
    ids = torch.randint(2, 20, (2, 8))
    assert torch.equal(plain.eval()(ids).logits, ours(ids).logits)
    assert plain.generation_config.eos_token_id == [PAD, 7]
    assert (plain.config.bos_token_id, plain.generation_config.pad_token_id) == (BOS, PAD)


@pytest.mark.parametrize("biases", [False, True])
def test_its_tokenizer_is_the_one_that_was_saved(biases, prepared, tmp_path):
    """transformers has one of its own for each of the two types, which would cut the text into other tokens."""
    saved = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    new_autoregressive(tiny(0, **SIZES, include_qkv_bias=biases).config, bos_token_id=BOS).save_pretrained(tmp_path)
    saved.save_pretrained(tmp_path)
    _, tokenizer = load_autoregressive(tmp_path)
    assert tokenizer_hash(tokenizer) == tokenizer_hash(saved)


def test_incomplete_or_foreign_checkpoint_is_refused(tmp_path):
    new_autoregressive(tiny().config).save_pretrained(tmp_path / "causal")
    with pytest.raises(ValueError, match=r"holds an autoregressive model \(LlamaForCausalLM\), not a mask predictor"):
        library.load_pretrained(tmp_path / "causal")
    tiny().save_pretrained(tmp_path / "masked")
    with pytest.raises(ValueError, match="holds LLaDAModelLM, not an autoregressive model"):
        load_autoregressive(tmp_path / "masked")
    config = json.loads((tmp_path / "causal" / "config.json").read_text())
    (tmp_path / "causal" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"does not hold the weights that its config\.json describes: missing"):
        load_autoregressive(tmp_path / "causal")


# The loss


class Causal(nn.Module):
    """The bed's p(x_i | x_<i); the token before the row is the id of the mask."""

    def forward(self, input_ids, logits_to_keep, use_cache):
        assert (input_ids[:, 0] == BED.mask).all()
        logits = torch.empty(*input_ids.shape, BED.vocab, dtype=torch.float64)
        for i in range(input_ids.shape[1]):
            canvas = torch.full_like(input_ids, BED.mask)
            canvas[:, :i] = input_ids[:, 1 : i + 1]
            logits[:, i] = BED.oracle(canvas)[:, i, : BED.vocab]
        return SimpleNamespace(logits=logits[:, logits_to_keep])


class AllSequences:
    def __len__(self):
        return len(BED.sequences)

    def __getitem__(self, index):
        return {"x0": BED.sequences[index].numpy()}


def test_loss_is_the_negative_log_likelihood_of_the_whole_row():
    noise = Noise(BED.mask, BED.mask, bos_token_id=BED.mask)
    rows = AllSequences()
    batch = collate([(Place(0, i, None), rows[i]) for i in range(27)], noise, 27, AR)
    losses = weighted(
        group_sums(cross_entropy(Causal()(**batch.call.inputs).logits, batch.call), batch.call), batch.call
    )
    assert torch.allclose(losses, -BED.p.log(), rtol=0, atol=1e-12)
    measured = evaluate(Causal(), rows, noise, objective=AR)
    assert measured.value == pytest.approx(float(-BED.p.log().mean()) / 3, abs=1e-9)
    assert measured.samples == 27


def reference(model, tokens: list[int], response: np.ndarray | None) -> float:
    """-log p of a row, or of its response and one end of text, written out token by token."""
    tokens = [BOS, *tokens] if response is None else [*tokens, PAD]
    counted = range(1, len(tokens)) if response is None else [*np.flatnonzero(response), len(tokens) - 1]
    logp = model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)
    return -sum(logp[i - 1, tokens[i]].item() for i in counted)


@pytest.mark.parametrize(("data", "random_length"), [(Tokens(), 0.0), (Tokens(), 1.0), (Conversations(), 0.0)])
def test_training_loss_is_that_of_the_tokens_that_count(data, random_length):
    """All of a row in pretraining; in fine-tuning the response and one end of text, not the prompt."""
    noise = Noise(MASK, PAD, random_length=random_length, bos_token_id=BOS, eos_padding=False)
    model = new_autoregressive(tiny().config).double().eval()
    (batch,) = next(Batches(data, 8, noise, objective=AR).micro_batches(0, 1, 0, 1))
    losses = weighted(group_sums(cross_entropy(model(**batch.call.inputs).logits, batch.call), batch.call), batch.call)
    order = [Batches(data, 8, noise).row(place) for place in batch.places]
    for loss, index, length in zip(losses, order, batch.lengths, strict=True):
        row = data[index]
        response = row.get("maskable")
        tokens = row["x0"].tolist() if response is not None else row["x0"][: int(length)].tolist()
        assert loss.item() == pytest.approx(reference(model, tokens, response), abs=1e-9)
        assert int(length) == (len(tokens) if response is None else response.sum() + 1)


def test_logits_are_asked_only_where_some_row_has_a_response():
    rows = [{"x0": np.arange(2, 12), "maskable": np.arange(10) >= first} for first in (6, 8)]
    noise = Noise(MASK, PAD, bos_token_id=BOS)
    call = collate([(Place(0, i, None), row) for i, row in enumerate(rows)], noise, 2, AR).call
    assert call.inputs["logits_to_keep"].tolist() == [5, 6, 7, 8]
    assert call.targets.tolist() == [8, 9, 10, 11, -100, -100, 10, 11]


def test_held_out_responses_are_measured_without_an_end_of_text():
    """As the bound of a LLaDA is, over the same tokens."""
    data = Conversations()
    model = new_autoregressive(tiny().config).double().eval()
    measured = evaluate(model, data, NOISE, objective=AR)
    total = sum(reference(model, row["x0"].tolist(), row["maskable"]) for row in data.rows)
    ends = [model(torch.tensor(row["x0"])[None]).logits[0, -1].log_softmax(dim=-1)[PAD] for row in data.rows]
    tokens = sum(int(row["maskable"].sum()) for row in data.rows)
    assert measured.value == pytest.approx((total + float(sum(ends))) / tokens, abs=1e-9)


def test_row_whose_first_token_counts_needs_a_token_before_it():
    with pytest.raises(ValueError, match="no bos_token_id to predict it from"):
        collate([(Place(0, 0, None), Tokens()[0])], Noise(MASK, PAD), 1, AR)


@pytest.mark.parametrize(("data", "per"), [(Tokens(), "token"), (Conversations(), "row")])
def test_loss_and_weights_do_not_depend_on_the_micro_batch(data, per):
    noise = Noise(MASK, PAD, random_length=0.5 if per == "token" else 0.0, bos_token_id=BOS, eos_padding=False)
    ended = []
    for micro in (None, 3):
        torch.manual_seed(0)
        model = new_autoregressive(tiny().config).double()
        logs = list(fit(model, Batches(data, 8, noise, micro, objective=AR), muon(model),
                        learning_rate=lambda s: 0.01, steps=3, per=per))  # fmt: skip
        ended.append([log.loss for log in logs] + [float(p.detach().sum()) for p in model.parameters()])
    assert ended[0] == pytest.approx(ended[1], abs=1e-6)


def test_it_learns_and_the_measure_says_so():
    model = new_autoregressive(tiny().config)
    batches = Batches(Tokens(count=16), 8, NOISE, objective=AR)
    before = evaluate(model, Tokens(count=16), NOISE, objective=AR)
    logs = list(fit(model, batches, adamw(model), learning_rate=lambda s: 0.01, steps=60))
    after = evaluate(model, Tokens(count=16), NOISE, objective=AR)
    assert logs[0].loss == pytest.approx(before.value, abs=0.3)
    assert after.value < before.value - 0.5
    assert after.value == evaluate(model, Tokens(count=16), NOISE, objective=AR).value


# Runs


@pytest.fixture(scope="module")
def causal_settings(settings) -> dict:
    return {name: value for name, value in settings.items() if name != "masking"} | {"objective": "autoregressive"}


def test_a_killed_run_goes_on_bit_for_bit(causal_settings, tmp_path):
    run(training(causal_settings, tmp_path / "whole", resume=False), tmp_path / "printed")

    def killed() -> None:
        kill_at(60, tmp_path / "run", False)
        training(causal_settings, tmp_path / "run")()

    assert finish(start(killed, tmp_path / "printed")) < 0
    assert len(read_log(tmp_path / "run")) < 9
    run(training(causal_settings, tmp_path / "run"), tmp_path / "printed")
    for name in ("model", "ema"):
        one, other = ((tmp_path / r / name / "model.safetensors").read_bytes() for r in ("whole", "run"))
        assert one == other
    clock = {"elapsed", "tokens_per_second"}
    one, other = ([{k: v for k, v in r.items() if k not in clock} for r in read_log(tmp_path / r)]
                  for r in ("whole", "run"))  # fmt: skip
    assert one == other
    assert {"bound", "bound_stderr", "ema_bound"} <= one[-1].keys()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "ema").config.model_type == "llama"


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_the_baseline_of_one(sharding, causal_settings, tmp_path):
    settings = causal_settings | {"optim": causal_settings["optim"] | {"optimizer": "adamw"}}
    run(training(settings, tmp_path / "alone"), tmp_path / "printed")
    run(training(settings, tmp_path / "run", sharding=sharding), tmp_path / "printed", processes=2)
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    generation = [json.loads((tmp_path / r / "model" / "generation_config.json").read_text()) for r in ("alone", "run")]
    assert generation[0] == generation[1]
    assert len(generation[0]["eos_token_id"]) == 2


def test_gradient_checkpointing_changes_nothing():
    losses = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = new_autoregressive(tiny(n_layers=2).config)
        if checkpointing:
            model.gradient_checkpointing_enable()
        batches = Batches(Tokens(), 8, NOISE, objective=AR)
        losses.append([log.loss for log in fit(model, batches, adamw(model), learning_rate=lambda s: 0.01, steps=3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_twins_have_read_the_same_tokens_for_the_same_arithmetic(settings, causal_settings, tmp_path):
    for name, values in (("masked", settings), ("causal", causal_settings)):
        train(PretrainConfig(**values | {"steps": 5, "output": str(tmp_path / name), "random_length": 0.0}))
    one, other = (read_log(tmp_path / name) for name in ("masked", "causal"))
    assert [r["flops"] for r in one] == [r["flops"] for r in other]
    model = library.load_pretrained(tmp_path / "masked" / "model")[0]
    inner = model.num_parameters() - 2 * model.config.vocab_size * model.config.d_model
    assert one[-1]["flops"] == 6 * inner * 5 * settings["batch_size"] * settings["length"]


@pytest.fixture(scope="module")
def pretrained_twins(settings, causal_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    for name, values in (("elbo", settings), ("autoregressive", causal_settings)):
        sizes = values["model"] | {"max_sequence_length": 128}
        train(PretrainConfig(**values | {"steps": 5, "output": str(folder / name), "model": sizes}))
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "prepare", "instructions", folder / "data", "--count", 5)
    return folder


def tuning(folder, init: str, **changes) -> SFTConfig:
    values = {
        "init": str(folder / init / "model"),
        "train": str(folder / "data" / "train.jsonl"),
        "heldout": str(folder / "data" / "test.jsonl"),
        "output": str(folder / "tuned"),
        "max_length": 100,
        "steps": 4,
        "batch_size": 8,
        "optim": {"learning_rate": 0.01},
        "overwrite": True,
    }
    return SFTConfig(**values | changes)


def test_fine_tuned_baseline_generates_with_transformers(pretrained_twins, monkeypatch, capsys):
    output = train(tuning(pretrained_twins, "autoregressive", objective="autoregressive"))
    log = read_log(output.parent)
    assert math.isfinite(log[-1]["bound"])
    assert log[-1]["read"] > log[-1]["tokens"]  # the prompts are read, too
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    answer = model.generate(torch.tensor([[tokenizer.bos_token_id, 9]]), max_new_tokens=3, do_sample=False)
    assert answer.shape[1] <= 5


@pytest.mark.parametrize(
    ("init", "objective", "message"),
    [
        ("elbo", "autoregressive", "holds LLaDAModelLM, not an autoregressive model"),
        ("autoregressive", "elbo", "holds an autoregressive model .*train it with objective: autoregressive"),
    ],
)
def test_checkpoint_of_the_other_kind_is_refused(pretrained_twins, init, objective, message):
    with pytest.raises(ValueError, match=message):
        train(tuning(pretrained_twins, init, objective=objective))


def test_a_run_does_not_go_on_with_the_other_objective(pretrained_twins, settings, causal_settings):
    sizes = settings["model"] | {"max_sequence_length": 128}
    values = causal_settings | {"steps": 6, "model": sizes, "output": str(pretrained_twins / "elbo")}
    with pytest.raises(ConfigError, match="objective was 'elbo', is 'autoregressive'"):
        train(PretrainConfig(**values), resume=True)


@pytest.mark.parametrize("name", ["masking", "eps", "evaluate_draws"])
def test_what_needs_masks_is_refused(causal_settings, name):
    value = {"masking": "count", "eps": 0.1, "evaluate_draws": 2}[name]
    with pytest.raises(ConfigError, match=f"{name} has no effect with objective: autoregressive"):
        PretrainConfig(**causal_settings | {"output": "x", name: value})


def test_sizes_without_a_counterpart_are_refused_by_the_configuration(causal_settings, tmp_path):
    sizes = causal_settings["model"] | {"block_length": 4}
    with pytest.raises(ConfigError, match="model: block_length=4 has no effect on an autoregressive model"):
        train(PretrainConfig(**causal_settings | {"output": str(tmp_path / "run"), "model": sizes}))


def test_dry_run_and_plan_take_it(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "run.yaml").write_text(
        f"data: {prepared}\noutput: {tmp_path / 'run'}\nlength: 32\nmodel: {{d_model: 32, n_layers: 2, n_heads: 2,"
        " mlp_hidden_size: 64}\nsteps: 20\nbatch_size: 8\noptim: {learning_rate: 0.01}\nobjective: autoregressive\n"
    )
    llada(monkeypatch, "pretrain", tmp_path / "run.yaml", "--dry-run")
    assert "the same bit for bit" in capsys.readouterr().out
    asked = {}
    for objective in ("autoregressive", "elbo"):
        llada(monkeypatch, "plan", tmp_path / "run.yaml", "--no-probe", f"objective={objective}", "random_length=0.0")
        told = capsys.readouterr().out
        assert "256 a step, 5,120 in 20 steps" in told
        asked[objective] = told
    assert asked["autoregressive"] != asked["elbo"]  # logits everywhere, not at the masked half
