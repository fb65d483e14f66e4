"""The laws of truncated noise against published values, an enumerated grid and draws."""

import pytest
import torch
from rich.console import Console

from llada.config import load_config
from llada.experiments.experiment import perform
from llada.experiments.precision import (
    EXPERIMENT,
    LAWS,
    Settings,
    clamped_law,
    effective_temperature,
    gumbel_draws,
    surprisal_of_temperature,
    truncated_law,
    zipf,
)

SMALL = ["vocabulary=50", "draws=100", "canvas_draws=2000", "steps=[1, 10]", "bits=[4, 24]"]


def entropy(p):
    return float(-(p * p.log()).sum())


def enumerated(p, bits):
    """The law of numbers j 2^-bits themselves: every value of a token's noise, and how often all others stay below."""
    grid = torch.arange(2**bits, dtype=torch.float64) / 2**bits
    noise = -(-grid.log()).log()
    logits = p.log()
    law = torch.zeros_like(p)
    for token in range(len(p)):
        below = torch.stack(
            [
                torch.searchsorted(noise, logits[token] + noise - logits[other], right=other > token)  # ties: leftmost
                for other in range(len(p))
                if other != token
            ]
        )
        law[token] = (below.double() / 2**bits).prod(dim=0).sum() / 2**bits
    return law


def test_law_of_five_tokens_is_the_published_one():
    p = torch.tensor([0.7, 0.2, 0.08, 0.015, 0.005], dtype=torch.float64)
    expected = torch.tensor([0.775746, 0.179070, 0.044914, 2.6986e-4, 1.71e-8], dtype=torch.float64)
    torch.testing.assert_close(truncated_law(p, 4), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("bits", "variation", "left"), [(8, 0.3587, 2.627), (11, 0.2483, 3.406), (24, 0.00605, 5.545)])
def test_law_of_a_large_vocabulary_is_the_published_one(bits, variation, left):
    p = zipf(126464, 1.2)
    law = truncated_law(p, bits)
    assert float((law - p).abs().sum() / 2) == pytest.approx(variation, abs=1e-4)
    assert entropy(law[law > 0]) == pytest.approx(left, abs=1e-3)
    assert entropy(p) == pytest.approx(5.6065, abs=1e-4)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("bits", [1, 4, 24])
def test_laws_are_distributions_in_any_order_of_the_tokens(law, bits):
    p = zipf(40, 1.2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert float(law(p, bits).sum()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(law(p[order], bits), law(p, bits)[order])


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_laws_of_many_bits_are_the_distribution(law):
    p = zipf(40, 1.2)
    torch.testing.assert_close(law(p, 40), p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_surprisal_of_a_grid_is_between_the_laws(bits):
    p = zipf(50, 1.2)
    low, middle, high = (
        float(-(law * p.log()).sum()) for law in (truncated_law(p, bits), enumerated(p, bits), clamped_law(p, bits))
    )
    assert low < middle < high < entropy(p)


def test_draws_follow_the_grid():
    """False alarm below 1e-4: chi-square with 4 degrees of freedom."""
    p = torch.tensor([0.6, 0.2, 0.1, 0.06, 0.04], dtype=torch.float64)
    law, draws = enumerated(p, 5), 40_000
    counts = torch.bincount(gumbel_draws(p, 5, draws, seed=0), minlength=5).double()
    assert float(((counts - draws * law) ** 2 / (draws * law)).sum()) < 23.5
    assert float(((counts - draws * p) ** 2 / (draws * p)).sum()) > 100  # and not the distribution


def test_draws_depend_on_the_seed_alone(monkeypatch):
    p = zipf(100, 1.0)
    first = gumbel_draws(p, 10, 50, seed=1)
    assert torch.equal(first, gumbel_draws(p, 10, 50, seed=1))
    assert not torch.equal(first, gumbel_draws(p, 10, 50, seed=2))


def test_effective_temperature_is_that_of_the_surprisal():
    p = zipf(100, 1.0)
    for temperature in (0.3, 0.9, 1.0, 1.5):
        assert effective_temperature(p, surprisal_of_temperature(p, temperature)) == pytest.approx(
            temperature, abs=1e-6
        )
    assert effective_temperature(p, -float(p.max().log())) == 0
    assert effective_temperature(p, 1.1 * surprisal_of_temperature(p, 4.0)) is None


def test_draws_that_are_all_of_one_token_are_told_without_a_standard_error(tmp_path):
    values = {"vocabulary": 64, "bits": [24], "draws": 100, "steps": [1], "canvas_draws": 100}
    measured = perform("precision", Settings(exponent=40.0, **values), tmp_path)["measured"]
    assert measured["bits"][0]["stderr"] == 0
    assert "Both laws" not in EXPERIMENT.finding(measured)
    assert "24 bits (float32) 0.00. Where [MASK]" in EXPERIMENT.finding(measured)


def test_draws_hotter_than_all_temperatures_that_are_tried_are_told_as_such(tmp_path):
    measured = perform("precision", load_config(Settings, "configs/experiment/precision.yaml", SMALL), tmp_path)[
        "measured"
    ]
    measured["bits"][0]["temperature"] = None
    assert "4 bits over 4, 24 bits" in EXPERIMENT.finding(measured)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(EXPERIMENT.table(measured))
    assert "over 4" in capture.get()
