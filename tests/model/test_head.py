"""The loss without logits against cross-entropy of all logits: values and gradients."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import llada
from llada.model import head
from llada.model.head import linear_cross_entropy, linear_cross_entropy_bytes

N, D, V = 7, 5, 11


@pytest.fixture(params=[1, 3 * V, 2**24], ids=["a row at a time", "three rows", "all rows"], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(head, "_CHUNK", request.param)


def tensors(dtype=torch.float64, rows: int = N):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, D, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, V, (rows,), generator=generator)
    return hidden, weight, targets, torch.rand(rows, generator=generator, dtype=dtype) - 0.2


def test_loss_and_gradients_are_those_of_all_logits():
    hidden, weight, targets, weights = tensors()
    targets[2] = -100
    total, losses, _ = linear_cross_entropy(hidden, weight, targets, weights)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert torch.allclose(losses, expected, rtol=0, atol=1e-12)
    assert losses[2] == 0
    assert not losses.requires_grad
    (3 * total).backward()
    found = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    (3 * (expected * weights).sum()).backward()
    for ours, theirs in zip(found, (hidden.grad, weight.grad), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backward", [True, False])
def test_largest_log_probabilities_are_those_of_all_logits_and_change_nothing_else(dtype, backward):
    hidden, weight, targets, weights = tensors(dtype)
    targets[2] = -100
    ends = []
    for wanted in (False, True):
        with torch.set_grad_enabled(backward):
            total, losses, largest = linear_cross_entropy(hidden, weight, targets, weights, confidences=wanted)
        gradients = torch.autograd.grad(total, (hidden, weight)) if backward else ()
        ends.append((total, losses, *gradients))
        assert (largest is None) == (not wanted)
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    assert not largest.requires_grad
    assert largest.dtype == torch.promote_types(dtype, torch.float32)
    expected = (hidden @ weight.T).to(largest.dtype).log_softmax(dim=-1).amax(dim=-1)
    assert torch.allclose(largest, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_needs_no_gradient_gets_none(frozen):
    parts = tensors()
    parts[frozen].requires_grad_(False)
    linear_cross_entropy(*parts)[0].backward()
    assert parts[frozen].grad is None
    assert parts[1 - frozen].grad.abs().sum() > 0


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    with torch.no_grad():
        total, losses, _ = linear_cross_entropy(*tensors())
    assert not total.requires_grad
    assert torch.equal(losses, linear_cross_entropy(*tensors())[1])


def test_second_backward_pass_is_refused():
    total, _, _ = linear_cross_entropy(*tensors())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="this loss has had its backward pass; compute it again"):
        total.backward()


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell the peak of memory")
def test_memory_is_what_is_told():
    """Of the process at its peak, within 8 MiB."""
    positions, size, vocabulary = 512, 32, 2**17
    hidden, weight = (torch.randn(n, size, requires_grad=True) for n in (positions, vocabulary))
    status = Path("/proc/self/status")

    def mib(field: str) -> float:
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(field))

    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = mib("VmRSS")
    linear_cross_entropy(hidden, weight, torch.zeros(positions, dtype=torch.long), torch.ones(positions))[0].backward()
    told = linear_cross_entropy_bytes(positions, size, vocabulary) / 2**20
    assert mib("VmHWM") - before == pytest.approx(told, rel=0.05, abs=8)


def test_no_targets_are_no_loss():
    hidden, weight, targets, weights = tensors(rows=0)
    total, losses, _ = linear_cross_entropy(hidden, weight, targets, weights)
    total.backward()
    assert (total.item(), losses.shape, float(weight.grad.abs().sum())) == (0.0, (0,), 0.0)


def test_half_precision_is_summed_in_single():
    hidden, weight, targets, weights = tensors(torch.bfloat16)
    total, losses, _ = linear_cross_entropy(hidden, weight, targets, weights)
    assert total.dtype == losses.dtype == torch.float32
    expected = F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-5)
    total.backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    found = weight.grad.float()
    weight.grad = None
    (expected * weights.float()).sum().backward()
    assert torch.allclose(found, weight.grad.float(), atol=0.05)


def test_autocast_multiplies_in_its_precision_and_keeps_gradients_single():
    hidden, weight, targets, weights = tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses, _ = linear_cross_entropy(hidden, weight, targets, weights)
        expected = F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-5)
    total.backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("embedding_size", [None, 272])
@pytest.mark.parametrize("tied", [False, True])
def test_model_gives_the_loss_of_its_targets(embedding_size, tied):
    torch.manual_seed(0)
    config = llada.LLaDAConfig(
        d_model=32,
        n_layers=2,
        n_heads=2,
        vocab_size=256,
        mask_token_id=3,
        weight_tying=tied,
        embedding_size=embedding_size,
    )
    model = llada.LLaDAForMaskedLM(config).double()
    x = torch.randint(4, 256, (2, 6))
    at, targets, weights = torch.tensor([1, 4, 7]), torch.tensor([5, 255, 9]), torch.tensor([0.5, 2.0, 1.0]).double()
    out = model(x, logits_at=at, targets=targets, target_weights=weights)
    assert out.logits is None
    losses = F.cross_entropy(model(x, logits_at=at).logits, targets, reduction="none")
    assert torch.allclose(out.target_losses, losses, rtol=0, atol=1e-12)
    assert out.confidences is None
    told = model(x, logits_at=at, targets=targets, target_weights=weights, confidences=True).confidences
    assert torch.allclose(told, model(x, logits_at=at).logits.log_softmax(dim=-1).amax(dim=-1), rtol=0, atol=1e-12)
    ours = torch.autograd.grad(out.loss, list(model.parameters()))
    theirs = torch.autograd.grad((losses * weights).sum(), list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"targets and target_weights .* go together"):
        model(x, logits_at=at, targets=targets)
    with pytest.raises(ValueError, match="confidences=True is for targets and target_weights; without them there are"):
        model(x, logits_at=at, confidences=True)
