"""Fine-tuning with low-rank adapters: what is trained, what is saved, and what is refused."""

import os
import signal
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from console import llada, refusal
from peft import PeftModel
from processes import finish, run, start
from safetensors.torch import load_file
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import Recorded, tiny
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

import llada as library
from llada.config import ConfigError
from llada.model.baseline import autoregressive_config, build_model, load_autoregressive, new_autoregressive
from llada.train.batches import Batches
from llada.train.build import parts, place, processes
from llada.train.checkpoints import CheckpointError
from llada.train.config import LoRAConfig, PretrainConfig, SFTConfig
from llada.train.dropout import keyed, uniforms
from llada.train.journal import read_log
from llada.train.loop import evaluate, fit
from llada.train.lora import adapt
from llada.train.objectives import OBJECTIVES, Noise
from llada.train.optim import adamw
from llada.train.plan import activation_bytes, plan, training_flops
from llada.train.run import inner_parameters, train

TARGETS = LoRAConfig().targets
KINDS = {"elbo": library.load_pretrained, "autoregressive": load_autoregressive}


@pytest.fixture(scope="module")
def tuning(prepared, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tuning")
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    masked = tiny(vocab_size=len(tokenizer), max_sequence_length=200, n_layers=2)
    masked.config.mask_token_id, masked.config.eos_token_id = tokenizer.mask_token_id, tokenizer.eos_token_id
    causal = new_autoregressive(masked.config, bos_token_id=tokenizer.bos_token_id)
    for name, model in (("elbo", masked), ("autoregressive", causal)):
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        llada(monkeypatch, "prepare", "instructions", folder / "data", "--count", 5)
    return {
        "init": str(folder / "elbo"),
        "train": str(folder / "data" / "train.jsonl"),
        "heldout": str(folder / "data" / "test.jsonl"),
        "max_length": 100,
        "steps": 6,
        "batch_size": 8,
        "micro_batch_size": 4,
        "evaluate_rows": 8,
        "ema": 0.9,
        "optim": {"learning_rate": 0.02, "weight_decay": 0.01},
        "checkpoint_every": 2,
        "lora": {"rank": 4, "dropout": 0.1},
    }


def of_kind(tuning: dict, kind: str) -> dict:
    return tuning | {"init": str(Path(tuning["init"]).parent / kind), "objective": kind}


def training(tuning: dict, output: Path, resume: bool = False, **changes):
    return lambda: train(SFTConfig(**tuning | changes, output=str(output)), resume=resume)


def result(output: Path) -> tuple:
    """Everything a run leaves that does not depend on the clock."""
    log = [{k: v for k, v in r.items() if k not in ("elapsed", "tokens_per_second")} for r in read_log(output)]
    files = sorted(p for name in ("model", "ema", "adapter", "ema_adapter") for p in (output / name).iterdir())
    return log, {str(file.relative_to(output)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tuning, tmp_path_factory) -> Path:
    """A run of one process that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(training(tuning, folder / "run"), folder / "printed")
    return folder / "run"


def logits(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval().double()(torch.randint(6, 250, (3, 20))).logits


@pytest.mark.parametrize("kind", KINDS)
def test_result_is_merged_and_the_adapter_alone_is_pefts(kind, tuning, tmp_path):
    settings = of_kind(tuning, kind)
    run(training(settings, tmp_path / "run"), tmp_path / "printed")
    for merged, alone in (("model", "adapter"), ("ema", "ema_adapter")):
        base, _ = KINDS[kind](settings["init"])
        before = logits(base)
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / alone))
        assert adapted.peft_config["default"].base_model_name_or_path == settings["init"]
        result, tokenizer = KINDS[kind](tmp_path / "run" / merged)
        assert tokenizer is not None
        assert result.state_dict().keys() == KINDS[kind](settings["init"])[0].state_dict().keys()
        torch.testing.assert_close(logits(result), logits(adapted), rtol=0, atol=1e-5)
        assert (logits(result) - before).abs().max() > 0.02


def test_only_the_targets_change_and_only_by_the_rank(tuning, tmp_path):
    lora = {"rank": 2, "targets": ["q_proj", "down_proj"]}
    run(training(tuning, tmp_path / "run", lora=lora), tmp_path / "printed")
    before, after = (
        library.load_pretrained(folder)[0].state_dict() for folder in (tuning["init"], tmp_path / "run/model")
    )
    for name, value in before.items():
        change = after[name] - value
        if name.split(".")[-2] in lora["targets"]:
            assert torch.linalg.matrix_rank(change.double(), rtol=1e-4) == 2, name
        else:
            assert not change.any(), name


@pytest.mark.parametrize("setting", [{"rank": 3}, {"alpha": 1}, {"dropout": 0.5}, {"targets": ["v_proj"]}])
def test_every_setting_changes_the_run(setting, tuning, whole, tmp_path):
    run(training(tuning, tmp_path / "run", lora=tuning["lora"] | setting), tmp_path / "printed")
    assert [r["loss"] for r in read_log(tmp_path / "run")] != [r["loss"] for r in read_log(whole)]
    assert read_log(tmp_path / "run")[0]["loss"] == read_log(whole)[0]["loss"]  # B is zero at first


def test_the_adapters_learn():
    model, data, noise = tiny(n_layers=2), Tokens(count=16), Noise(MASK, PAD)
    adapt(model, rank=8, alpha=16, targets=TARGETS)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = evaluate(model, data, noise, draws=4).value
    for _ in fit(model, Batches(data, 8, noise), adamw(model), learning_rate=lambda step: 0.02, steps=60):
        pass
    assert evaluate(model, data, noise, draws=4).value < before - 0.2
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_the_log_counts_gradients_that_are_taken(tuning, whole):
    log = read_log(whole)
    adapters = sum(value.numel() for value in load_file(whole / "adapter" / "adapter_model.safetensors").values())
    frozen = inner_parameters(library.load_pretrained(tuning["init"])[0])
    read = accumulate(record["read"] for record in log)
    assert [record["flops"] for record in log] == [(4 * frozen + 6 * adapters) * tokens for tokens in read]


# Going on


def test_a_killed_run_goes_on_bit_for_bit(tuning, whole, tmp_path):
    def killed() -> None:
        import llada.train.run as module

        save = module.save

        def save_and_die(root, trained, tokenizer, position, **options) -> None:
            save(root, trained, tokenizer, position, **options)
            if position.step == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        module.save = save_and_die
        training(tuning, tmp_path / "run")()

    assert finish(start(killed, tmp_path / "printed")) == -signal.SIGKILL
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    assert not list((checkpoint / "model").glob("*.safetensors"))  # what is frozen is not written again and again
    run(training(tuning, tmp_path / "run", resume=True), tmp_path / "printed")
    assert result(tmp_path / "run") == result(whole)


def test_a_run_goes_on_only_with_its_base_and_its_adapters(tuning, tmp_path):
    run(training(tuning, tmp_path / "run", steps=2), tmp_path / "printed")
    other = library.load_pretrained(tuning["init"])[0]
    with torch.no_grad():
        other.lm_head.weight.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tuning["init"]).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="init does not hold the weights that its adapters were trained on"):
        training(tuning, tmp_path / "run", resume=True, init=str(tmp_path / "other"))()
    with pytest.raises(ConfigError, match=r"lora.rank was 4, is 5"):
        training(tuning, tmp_path / "run", resume=True, lora={"rank": 5, "dropout": 0.1})()
    with pytest.raises(ConfigError, match=r"lora.rank was 4, is None"):
        training(tuning, tmp_path / "run", resume=True, lora=None)()


def test_a_run_without_adapters_does_not_go_on_with_some(tuning, tmp_path):
    run(training(tuning, tmp_path / "run", steps=2, lora=None), tmp_path / "printed")
    with pytest.raises(ConfigError, match=r"lora was None, is {'rank': 4"):
        training(tuning, tmp_path / "run", resume=True)()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_the_adapters_of_one(sharding, tuning, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for processes_then, steps in ((2, 4), (1, 4), (2, 6)):  # sharded, told that there is nothing to do, and on
        one = {"sharding": sharding if processes_then == 2 else "none"}
        run(training(tuning, tmp_path / "run", True, steps=steps, **one), tmp_path / "printed", processes_then)
    log, files = result(tmp_path / "run")
    expected, others = result(whole)
    for ours, theirs in zip(log, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert log[-1]["ema_bound"] == pytest.approx(expected[-1]["ema_bound"], rel=1e-3)
    assert files.keys() == others.keys()
    for name in ("model/model", "ema/model", "adapter/adapter_model", "ema_adapter/adapter_model"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path / "run", whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[key], theirs[key], atol=2e-3) for key in ours), name
    newest = tmp_path / "run" / "checkpoints" / "step-00000006"
    assert (newest / "shards").is_dir() == (sharding == "full")
    if sharding == "full":
        held = FileSystemReader(newest / "shards").read_metadata().state_dict_metadata
        assert all("lora_" in name for name in held)  # what is frozen is not written again and again


# Dropout


def adapted(dropout: float = 0.3):
    model = tiny(n_layers=2).double()
    adapt(model, rank=4, alpha=8, dropout=dropout, targets=TARGETS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def gradient(name: str, micro_batch_size: int | None, checkpointing: bool = False):
    model = adapted()
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = Recorded([p for p in model.parameters() if p.requires_grad], lr=0.0)
    batches = Batches(Conversations(), 12, Noise(MASK, PAD), micro_batch_size, objective=keyed(OBJECTIVES[name]))
    (log,) = fit(model, batches, [optimizer], learning_rate=lambda step: 0.0, steps=1, max_grad_norm=1e9)
    return log.loss, optimizer.gradients


@pytest.mark.parametrize("name", ["elbo", "complementary"])
def test_dropout_does_not_depend_on_the_micro_batch_or_on_recomputation(name):
    loss, gradients = gradient(name, None)
    for again in (gradient(name, 5), gradient(name, None, checkpointing=True)):
        assert again[0] == pytest.approx(loss, rel=1e-6)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(gradients, again[1], strict=True))


def test_dropout_leaves_out_its_share_at_random():
    """4 standard deviations around the mean: false alarms in 1 of 4000 runs over other keys, but the keys are fixed."""
    keys = torch.arange(1 << 20, (1 << 20) + 50)
    dropped = (uniforms(keys, 3, 40, 64) < 0.3).double()
    n = dropped.numel()
    assert abs(dropped.mean() - 0.3) < 4 * (0.21 / n) ** 0.5
    for other in (
        (uniforms(keys, 4, 40, 64) < 0.3).double(),  # another layer
        dropped.roll(1, 0),  # row
        dropped.roll(1, 1),  # position
        dropped.roll(1, 2),  # feature
    ):
        assert abs(((dropped - 0.3) * (other - 0.3)).mean()) < 4 * 0.21 / n**0.5


def test_dropout_keeps_the_mean_and_ends_with_training():
    model = adapted(0.5)
    ids = torch.randint(6, 19, (1, 8)).expand(4000, 8)
    keys = torch.arange(4000)
    layer = model.model.layers[0].self_attn.q_proj.lora_dropout["default"]
    model.train()(ids[:3], dropout_keys=keys[:3])
    assert layer.keys.tolist() == [0, 1, 2]
    layer.keys = keys
    states = torch.randn(8, 16).expand(4000, 8, 16)
    dropped = layer(states)
    assert torch.equal((dropped != 0).any(dim=0), torch.ones(8, 16, dtype=torch.bool))
    torch.testing.assert_close(dropped.mean(dim=0), states[0], rtol=0.08, atol=1e-6)  # 5 standard deviations
    assert torch.equal(model.eval()(ids[:2]).logits[0], model(ids[:2]).logits[1])
    layer.eval()
    assert layer(states) is states
    layer.train()
    layer.keys = None
    with pytest.raises(ValueError, match="dropout needs the rows' keys"):
        layer(states)


# What it takes


@pytest.mark.parametrize("recompute", [False, True])
def test_arithmetic_is_what_pytorch_counts(recompute):
    B, L, counted, told = 4, 32, [], []
    for layers in (4, 1):  # the difference, as the first block spares the gradient of its input
        model = tiny(d_model=48, n_layers=layers, n_heads=4, n_kv_heads=2, mlp_hidden_size=80, vocab_size=50).train()
        adapt(model, rank=8, alpha=8, targets=TARGETS)
        model.set_attn_implementation("eager")
        if recompute:
            model.gradient_checkpointing_enable()
        with FlopCounterMode(display=False) as counter:
            where = torch.arange(0, B * L, 2)
            model(torch.ones(B, L, dtype=torch.long), logits_at=where).logits.logsumexp(dim=-1).sum().backward()
        blocks = list(model.model.layers.parameters())
        total, adapters = sum(p.numel() for p in blocks), sum(p.numel() for p in blocks if p.requires_grad)
        counted.append(counter.get_total_flops())
        told.append(B * L * training_flops(model.config, total, L, recompute=recompute, adapters=adapters))
    assert told[0] - told[1] == pytest.approx(counted[0] - counted[1], rel=0.03)


@pytest.mark.parametrize("half", [False, True])
def test_plan_knows_what_autograd_keeps(half):
    B, L, kept, told = 4, 32, [], []
    for layers in (3, 1):
        model = tiny(d_model=48, n_layers=layers, n_heads=4, n_kv_heads=2, mlp_hidden_size=80, vocab_size=50).train()
        adapt(model, rank=8, alpha=8, targets=TARGETS)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        sizes = {p.numel() for p in model.parameters() if p.dim() == 2}
        storages = {}

        def pack(tensor, storages=storages, weights=weights, sizes=sizes):
            copy_of_weight = tensor.dim() == 2 and tensor.numel() in sizes and tensor.dtype == torch.bfloat16
            if tensor.untyped_storage().data_ptr() not in weights and not copy_of_weight:
                storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            where = torch.arange(0, B * L, 2)
            model(torch.ones(B, L, dtype=torch.long), logits_at=where).logits.float().logsumexp(dim=-1).sum()
        kept.append(sum(size for size, _ in storages.values()))
        told.append(activation_bytes(model.config, B * L, half=half, adapted=8 * 7))
    assert told[0] - told[1] == kept[0] - kept[1]


def test_plan_counts_parameters_and_memory(tuning):
    settings = SFTConfig(**tuning, output="x")
    made, without = (plan(parts(config)) for config in (settings, settings.replace(lora=None)))
    model = place(parts(settings), processes(settings)).trained.model
    assert made.parameters == model.num_parameters()
    assert made.trained == model.num_parameters(only_trainable=True) == made.parameters - without.parameters
    assert made.memory["gradients"] == made.memory["average"] == 4 * made.trained
    assert made.memory["optimiser"] == 8 * made.trained
    assert made.memory["weights"] == 4 * made.parameters
    assert without.trained == without.parameters
    assert made.flops_per_step < without.flops_per_step


def test_average_shares_what_is_frozen(tuning):
    settings = SFTConfig(**tuning, output="x")
    trained = place(parts(settings), processes(settings)).trained
    for ours, averaged in zip(trained.model.parameters(), trained.average.parameters(), strict=True):
        assert (ours is averaged) == (not ours.requires_grad)


def test_optimiser_holds_adapters_alone(tuning):
    settings = SFTConfig(**tuning, output="x")
    run = place(parts(settings), processes(settings))
    held = {p for optimizer in run.trained.optimizers for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, p in run.trained.model.named_parameters() if p in held}
    assert len(names) == 2 * 7 * 2
    assert all("lora_" in name for name in names)


def test_dry_run_and_plan_take_it(tuning, tmp_path, monkeypatch, capsys):
    import json

    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "run.yaml").write_text(json.dumps(tuning | {"output": str(tmp_path / "run")}))
    llada(monkeypatch, "plan", tmp_path / "run.yaml")
    told = capsys.readouterr().out
    assert "of them, in adapters" in told
    assert "s a step on this machine" in told
    llada(monkeypatch, "sft", tmp_path / "run.yaml", "--dry-run")
    assert "the next step is the same bit for bit" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["lora={targets: [q_proj, qkv]}"], "lora.targets.1: Input should be 'q_proj', 'k_proj', 'v_proj', 'o_proj'"),
        (["lora={targets: [q_proj, q_proj]}"], "targets names a projection twice"),
        (["lora={targets: []}"], "lora.targets"),
        (["lora={r: 4}"], "unknown key 'lora.r'"),
        (["lora={rank: 0}"], "lora.rank"),
        (["lora={dropout: 1.0}"], "lora.dropout"),
        (["optim={learning_rate: 0.1, optimizer: muon}"], "set optimizer: adamw"),
    ],
)
def test_impossible_settings_are_refused(changes, message, tuning, tmp_path, monkeypatch, capsys):
    import json

    (tmp_path / "run.yaml").write_text(json.dumps(tuning | {"output": str(tmp_path / "run")}))
    assert message in refusal(monkeypatch, capsys, "sft", tmp_path / "run.yaml", *changes)


def test_the_targets_are_the_projections_of_every_architecture():
    for biases in (False, True):
        masked = tiny(include_qkv_bias=biases)
        for model in (masked, build_model(autoregressive_config(masked.config))):
            blocks = model.model.layers.named_modules()
            assert {name.split(".")[-1] for name, m in blocks if isinstance(m, nn.Linear)} == set(TARGETS)


def test_pretraining_has_no_adapters(settings):
    with pytest.raises(ConfigError, match="unknown key 'lora'"):
        PretrainConfig(**settings, output="x", lora={})


def test_missing_peft_is_named_before_anything_is_written(tuning, tmp_path, monkeypatch):
    monkeypatch.setattr("llada.train.lora.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"peft is not installed; `pip install 'llada-lm\[lora\]'`"):
        training(tuning, tmp_path / "run")()
    assert not (tmp_path / "run").exists()


def test_sharding_by_accelerate_is_refused(tuning, tmp_path, monkeypatch):
    def other(**options) -> SimpleNamespace:
        return SimpleNamespace(distributed_type=DistributedType("FSDP"), num_processes=1, is_fsdp2=True, state=None)

    monkeypatch.setattr("llada.train.build.Accelerator", other)
    with pytest.raises(ConfigError, match="not tried with lora; use sharding=full"):
        training(tuning, tmp_path / "run", ema=None)()


def test_adapters_begin_as_the_seed_says():
    """And draw from no stream that others draw from."""
    first, same, other = (tiny() for _ in range(3))
    state = torch.random.get_rng_state()
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        adapt(model, rank=2, alpha=4, targets=["q_proj"], seed=seed)
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(first.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert torch.equal(state, torch.random.get_rng_state())
