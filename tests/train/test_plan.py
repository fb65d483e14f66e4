"""What a plan says, against what PyTorch counts and keeps."""

import pytest
import torch
import torch.nn.functional as F
from console import llada
from test_loop import tiny
from torch.utils.flop_counter import FlopCounterMode

from llada.train.plan import activation_bytes, duration, training_flops

SIZES = {"d_model": 48, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 80, "vocab_size": 50}
B, L = 4, 32


def loss_of(model, masked: torch.Tensor, *, documents: bool = False) -> torch.Tensor:
    document = torch.arange(L).expand(B, -1) // 8
    mask = (document[:, :, None] == document[:, None, :])[:, None] if documents else None
    logits = model(torch.ones(B, L, dtype=torch.long), attention_mask=mask, logits_at=masked).logits
    return F.cross_entropy(logits.float(), torch.ones(len(masked), dtype=torch.long))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("recompute", "documents"), [(False, False), (False, True), (True, False)])
def test_activations_are_what_autograd_keeps(half, recompute, documents):
    """Between models of three blocks and of one, so that embedding and head cancel."""
    kept = []
    for layers in (3, 1):
        model = tiny(**SIZES | {"n_layers": layers}).train()
        if recompute:
            model.gradient_checkpointing_enable()
        own = {id(p) for p in model.parameters()} | {p.numel() for p in model.parameters() if p.dim() == 2}
        storages = {}

        def pack(tensor, storages=storages, own=own):
            copy_of_weight = tensor.dim() == 2 and tensor.numel() in own and tensor.dtype == torch.bfloat16
            if id(tensor) not in own and not copy_of_weight:
                storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            loss_of(model, torch.arange(0, B * L, 2), documents=documents)
        kept.append(sum(size for pointer, (size, _) in storages.items() if pointer not in weights))
    how = {"half": half, "recompute": recompute, "documents": L if documents else 0}
    expected = [activation_bytes(tiny(**SIZES | {"n_layers": n}).config, B * L, **how) for n in (3, 1)]
    assert kept[0] - kept[1] == expected[0] - expected[1]


@pytest.mark.parametrize("recompute", [False, True])
def test_arithmetic_is_what_pytorch_counts(recompute):
    model = tiny(**SIZES).train()
    model.set_attn_implementation("eager")  # PyTorch does not count its fused attention on CPUs
    if recompute:
        model.gradient_checkpointing_enable()
    with FlopCounterMode(display=False) as counter:
        loss_of(model, torch.arange(0, B * L, 2)).backward()
    blocks = sum(p.numel() for p in model.model.layers.parameters())
    told = B * L * training_flops(model.config, blocks, L, recompute=recompute)
    assert told == pytest.approx(counter.get_total_flops(), rel=0.03)  # norms are counted as if they were matrices


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90 seconds"), (150, "2.5 minutes"), (9000, "2.5 hours"), (864000, "10.0 days")]
)
def test_duration_is_told_in_the_largest_unit_that_fits_twice(seconds, text):
    assert duration(seconds) == text


def test_plan_tells_what_a_run_takes(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "run.yaml").write_text(
        f"data: {prepared}\noutput: {tmp_path / 'run'}\nlength: 32\nmodel: {{d_model: 32, n_layers: 2, n_heads: 2,"
        " mlp_hidden_size: 64}\nsteps: 20\nbatch_size: 8\noptim: {learning_rate: 0.01}\n"
    )
    llada(monkeypatch, "plan", tmp_path / "run.yaml", "random_length=0.0")
    told = capsys.readouterr().out
    assert "256 a step, 5,120 in 20 steps" in told
    assert "s a step on this machine" in told
    assert not (tmp_path / "run").exists()
    llada(monkeypatch, "plan", tmp_path / "run.yaml", "ema=0.9", "--devices", 4, "--no-probe", "sharding=full")
    told = capsys.readouterr().out
    assert "memory: average" in told
    assert "memory: gathered weights" in told
    assert "not measured (--no-probe)" in told


def test_plan_of_fine_tuning_reads_the_size_of_its_checkpoint(tmp_path, monkeypatch, capsys, prepared):
    from transformers import AutoTokenizer

    monkeypatch.setenv("COLUMNS", "200")
    tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    tokenizer.save_pretrained(tmp_path / "model")
    model = tiny(vocab_size=len(tokenizer), max_sequence_length=200)
    model.config.mask_token_id = tokenizer.mask_token_id
    model.save_pretrained(tmp_path / "model")
    llada(monkeypatch, "prepare", "instructions", tmp_path / "data", "--count", 5)
    (tmp_path / "sft.yaml").write_text(
        f"init: {tmp_path / 'model'}\ntrain: {tmp_path / 'data' / 'train.jsonl'}\noutput: {tmp_path / 'run'}\n"
        "max_length: 100\nsteps: 10\nbatch_size: 8\noptim: {learning_rate: 0.01}\n"
    )
    llada(monkeypatch, "plan", tmp_path / "sft.yaml", "--no-probe")
    assert f"{model.num_parameters():,} (" in capsys.readouterr().out


def test_model_that_does_not_fit_is_not_measured(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llada.train.plan.available_memory", lambda: 1_000_000)
    (tmp_path / "run.yaml").write_text(
        f"data: {prepared}\noutput: {tmp_path / 'run'}\nlength: 32\nmodel: {{d_model: 64, n_layers: 2, n_heads: 2}}\n"
        "steps: 20\nbatch_size: 8\noptim: {learning_rate: 0.01}\n"
    )
    llada(monkeypatch, "plan", tmp_path / "run.yaml")
    assert "not measured: 1.0 MB of memory are free here" in capsys.readouterr().out


def test_devices_must_share_the_batch(tmp_path, monkeypatch, capsys, prepared):
    (tmp_path / "run.yaml").write_text(
        f"data: {prepared}\noutput: x\nlength: 32\nmodel: {{d_model: 64, n_layers: 2, n_heads: 2}}\n"
        "steps: 20\nbatch_size: 8\noptim: {learning_rate: 0.01}\n"
    )
    with pytest.raises(SystemExit):
        llada(monkeypatch, "plan", tmp_path / "run.yaml", "--devices", 3)
    assert "batch_size=8 cannot be shared equally by 3 devices" in capsys.readouterr().err
