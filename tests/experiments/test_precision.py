"""The laws of truncated noise against published values, an enumerated grid and draws."""

import pytest
import torch

from llada.experiments.precision import (
    LAWS,
    clamped_law,
    effective_temperature,
    gumbel_draws,
    surprisal_of_temperature,
    truncated_law,
    zipf,
)


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
