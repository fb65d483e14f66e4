"""Draws that are cut to the likeliest tokens, top-p and top-k: against a slow reference, and their law."""

import math

import pytest
import torch

from llada.sampling.drafts import categorical, truncated


def reference_nucleus(p: list[float], top_p: float) -> set[int]:
    """The fewest likeliest tokens, of equal ones the lowest ids, that have so much probability; written by hand."""
    kept: list[int] = []
    for token in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if math.fsum(p[i] for i in kept) >= top_p:
            break
        kept.append(token)
    return set(kept)


@pytest.mark.parametrize("top_p", [0.01, 0.25, 0.5, 0.51, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("p", [(0.5, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25), (0.125, 0.5, 0.125, 0.25), (0.0, 1.0)])
def test_top_p_keeps_the_fewest_likeliest_tokens(p, top_p):
    logits = torch.tensor([p], dtype=torch.float64).log()
    kept = truncated(logits, top_p=top_p)[0].isfinite().nonzero()[:, 0].tolist()
    assert set(kept) == {i for i in reference_nucleus(list(p), top_p) if p[i] > 0}


@pytest.mark.parametrize("top_k", [1, 2, 3, 9])
def test_top_k_keeps_so_many_and_of_equal_ones_the_lowest_ids(top_k):
    logits = torch.tensor([[0.0, 2.0, 2.0, 2.0, 1.0]])
    kept = truncated(logits, top_k=top_k)[0].isfinite().nonzero()[:, 0].tolist()
    assert kept == sorted([1, 2, 3, 4, 0][:top_k])


def test_top_p_of_one_changes_nothing_however_unlikely_a_token_is():
    logits = torch.tensor([[0.0, -50.0, -80.0]])
    assert torch.equal(truncated(logits, top_p=1.0), logits)


def test_top_p_looks_at_the_temperature_and_at_what_top_k_left():
    logits = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    assert truncated(logits, temperature=0.25, top_p=0.9)[0].isfinite().tolist() == [True, False, False]
    assert truncated(logits, top_p=0.85)[0].isfinite().tolist() == [True, True, False]
    assert truncated(logits, top_k=2, top_p=0.65)[0].isfinite().tolist() == [True, False, False]  # 0.6 of 0.9


@pytest.mark.parametrize("temperature", [1e-300, 1e-310, 5e-324], ids=range(3))
@pytest.mark.parametrize("flush", [False, True])
def test_top_p_keeps_the_likeliest_token_at_a_temperature_that_nothing_can_be_divided_by(temperature, flush):
    torch.set_flush_denormal(flush)
    try:
        check_likeliest_alone(temperature)
    finally:
        torch.set_flush_denormal(True)  # as in all tests


def check_likeliest_alone(temperature: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [-9.0, -torch.inf, -8.0]])
    assert truncated(logits, temperature, top_p=0.9).isfinite().tolist() == [[False, True, False], [False, False, True]]
    numbers = torch.tensor([0.01, 0.99], dtype=torch.float64)
    for top_p in (None, 0.9):
        assert categorical(temperature, top_p=top_p)(logits, numbers).tolist() == [1, 2]


def test_law_of_truncated_draws_is_the_renormalised_one():
    """On an equidistant grid of numbers, so without chance."""
    p = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    logits = p.log().expand(10_000, -1)
    for options, expected in (
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.85}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
    ):
        drawn = categorical(1.0, **options)(logits, grid)
        law = drawn.bincount(minlength=4) / 10_000
        assert law.tolist() == pytest.approx(expected, abs=2e-4)
