"""One argument of a public function is another than it should be: finite numbers of the right shape, or ValueError."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bad_values import numbers_of_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import llada
from llada.eval.likelihood import log_likelihood
from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import denoise
from llada.sampling.generate import generate, infill
from llada.train.batches import Batches
from llada.train.loop import evaluate, fit
from llada.train.objective import elbo_loss, forward_process
from llada.train.objectives import Noise
from llada.train.optim import adamw

MASK, VOCAB = 0, 20
X0 = torch.arange(1, 16).reshape(3, 5)
LOGITS = torch.randn(3, 5, VOCAB, generator=torch.Generator().manual_seed(0))
NOISED = forward_process(X0, MASK, torch.full((3,), 0.5), generator=torch.Generator().manual_seed(1))
ODD_NUMBERS: list[Any] = [0, 1, 2, -1, 1.5, math.nan, math.inf, -math.inf, 10**30, 1e300, True, None, "x", [1]]
SHAPES = [(), (1,), (2,), (3,), (3, 1), (1, 5), (5,), (3, 5), (2, 5), (3, 6), (0, 5), (3, 0), (1, 3, 5)]
ODD_TENSORS = st.one_of(
    st.builds(
        lambda shape, value, kind: torch.full(shape, value).to(kind),
        st.sampled_from(SHAPES),
        st.sampled_from([0.5, 1.0, 2.0]),
        st.sampled_from([torch.int64, torch.int32, torch.float32, torch.float64, torch.bfloat16, torch.bool]),
    ),
    st.builds(
        lambda shape, value: torch.full(shape, value),
        st.sampled_from([(3,), (3, 5)]),
        st.sampled_from([math.nan, math.inf, -1.0, 0.0]),
    ),
    st.just(X0.T.contiguous().T),
    st.just([[1, 2]]),
)
ODD = st.one_of(st.sampled_from(ODD_NUMBERS), ODD_TENSORS)


class Rows(list):
    """Rows of a data set."""


def tiny() -> llada.LLaDAForMaskedLM:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 8, "vocab_size": VOCAB}
    return llada.LLaDAForMaskedLM(llada.LLaDAConfig(**sizes, mask_token_id=MASK, eos_token_id=1)).eval()


MODEL = tiny()
ROWS = Rows({"x0": np.arange(2, 8)} for _ in range(4))


def finite(*values: Any) -> None:
    assert all(torch.as_tensor(value).double().isfinite().all() for value in values)


def noised(**changed: Any) -> None:
    found = forward_process(**{"x0": X0, "mask_token_id": MASK} | changed)
    shape = changed.get("x0", X0).shape
    assert found.xt.shape == found.masked.shape == shape
    assert found.t.shape == shape[:1]
    assert found.xt.dtype == torch.int64
    assert ((found.t > 0) & (found.t <= 1)).all()


def loss(**changed: Any) -> None:
    parts = {name: changed.pop(name) for name in list(changed) if name in NOISED._fields}
    given_all = {"logits": LOGITS, "x0": X0, "noised": NOISED._replace(**parts), "lengths": 5} | changed
    found = elbo_loss(**given_all)
    assert found.shape == ()
    finite(found)
    assert found >= 0


def likelihood(**changed: Any) -> None:
    found = log_likelihood(MODEL, **{"prompt": [2, 3], "answer": [4, 5, 6], "samples": 3} | changed)
    finite(found.value, found.stderr)


def trained(**changed: Any) -> None:
    batches = {name: changed.pop(name) for name in ("batch_size", "micro_batch_size", "workers") if name in changed}
    rate = changed.pop("rate", 1e-3)
    model = tiny()
    logs = fit(
        model,
        Batches(**{"rows": ROWS, "batch_size": 2, "noise": Noise(MASK, 1)} | batches),
        adamw(model),
        **{"learning_rate": lambda step: rate, "steps": 1} | changed,
    )
    for log in logs:
        finite(log.loss, log.grad_norm, *model.parameters())


def learnt_from(**row: Any) -> None:
    """A row that may be another than it should be."""
    parts = {
        name: np.array(value.tolist() if isinstance(value, Tensor) else value, dtype=None)
        for name, value in row.items()
    }
    model, batches = tiny(), Batches(Rows([{"x0": np.arange(2, 8)} | parts] * 2), 2, Noise(MASK, 1))
    finite(*(log.loss for log in fit(model, batches, adamw(model), learning_rate=lambda s: 1e-3, steps=1)))


def measured(**changed: Any) -> None:
    found = evaluate(MODEL, **{"rows": ROWS, "noise": Noise(MASK, 1)} | changed)
    finite(found.value, found.stderr)


def filled(**changed: Any) -> None:
    canvas = changed.setdefault("canvas", torch.tensor([[2, 0, 0], [0, 3, 0]]))
    for state in denoise(lambda tokens, block: MODEL(tokens).logits[:, block], mask_token_id=MASK, **changed):
        assert state.canvas.shape == canvas.shape
        finite(state.probability)


def written(entry: Callable[..., Any]) -> Callable[..., None]:
    sampler = SamplerConfig(gen_length=2) if entry is generate else SamplerConfig()

    def check(**changed: Any) -> None:
        tokens = changed.pop("tokens", torch.tensor([[2, 3], [4, 5]]))
        out = entry(MODEL, tokens, **{"sampler": sampler} | changed)
        assert ((out.sequences > 0) & (out.sequences < VOCAB)).all()
        finite(out.tokens_per_forward)

    return check


FUNCTIONS: dict[str, tuple[Callable[..., None], list[str]]] = {
    "forward_process": (noised, ["x0", "mask_token_id", "t", "maskable", "counts", "uniforms", "eps"]),
    "elbo_loss": (loss, ["logits", "x0", "lengths", "weight", "masked", "t"]),
    "log_likelihood": (
        likelihood,
        ["prompt", "answer", "samples", "seed", "precision", "max_samples", "batch_size", "cfg_scale"],
    ),
    "fit": (
        trained,
        ["per", "max_grad_norm", "start", "steps", "rate", "batch_size", "micro_batch_size"],
    ),
    "row": (learnt_from, ["x0", "maskable", "documents"]),
    "evaluate": (measured, ["batch_size", "draws"]),
    "denoise": (filled, ["canvas", "writable", "steps", "first_step"]),
    "generate": (written(generate), ["tokens", "attention_mask", "sampler", "seed", "first_row"]),
    "infill": (written(infill), ["tokens", "attention_mask", "sampler", "seed", "first_row"]),
}
# what would take long: numbers that are valid, and large
LARGE = {"samples", "batch_size", "draws", "steps", "max_samples"}


@pytest.mark.parametrize("function", FUNCTIONS)
@numbers_of_cases(30, 1200)
def test_argument_is_refused_or_of_use(cases, function):
    check_with, names = FUNCTIONS[function]

    @settings(max_examples=cases)
    @given(st.sampled_from(names), ODD)
    def check(name: str, value: Any) -> None:
        if name in LARGE and isinstance(value, int) and value > 40:
            return
        try:
            check_with(**{name: value})
        except (ValueError, FloatingPointError) as refused:
            told = str(refused)
            assert told
            assert not any(phrase in told for phrase in ("object has no", "torch.cat", "expected scalar"))

    check()
