"""Draws and random numbers: exact, per row, in double precision (T18)."""

from dataclasses import replace

import pytest
import torch

from llada.sampling.denoise import row_uniforms
from llada.sampling.drafts import categorical, draft_at, greedy, inverse_cdf
from llada.sampling.orders import Drafts, confidence


def test_t18_tail_of_probability_two_to_the_minus_thirty_is_reached():
    logits = torch.tensor([[1 - 2.0**-30, 2.0**-30]], dtype=torch.float64).log()
    assert inverse_cdf(logits, torch.tensor([1 - 2.0**-40], dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize(
    ("p", "expected"),
    [((0.5, 0.49, 0.01), 0.5), ((0.45, 0.30, 0.25), 0.45), ((0.6, 0.2, 0.2), 0.6), ((0.55, 0.45, 0.0), 0.55)],
)
def test_t18_confidence_is_the_probability_of_the_draft(p, expected):
    logits = torch.tensor([p, p, p], dtype=torch.float64).log()
    drafts = Drafts(logits, torch.arange(3), place=torch.arange(3), width=3, uniforms=torch.zeros(3).double())
    assert confidence(drafts).tolist() == pytest.approx(p, abs=1e-12)
    likeliest = replace(drafts, token=greedy(logits, drafts.uniforms))
    assert confidence(likeliest).tolist() == pytest.approx([expected] * 3)


def test_law_of_the_draw_is_the_distribution_on_a_grid_of_numbers():
    p = torch.tensor([0.7, 0.2, 0.08, 0.015, 0.005], dtype=torch.float64)
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = inverse_cdf(p.log().expand(20_000, -1), grid)
    assert torch.allclose(drawn.bincount(minlength=5) / 20_000, p.float(), atol=1e-4)


def test_temperature_sharpens_the_law():
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = inverse_cdf(p.log().expand(10_000, -1), grid, temperature=0.5)
    assert torch.allclose(drawn.bincount(minlength=3) / 10_000, (p**2 / (p**2).sum()).float(), atol=1e-3)


def test_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    edges = torch.tensor([2.0**-54, 0.5 - 2.0**-53, 0.5 + 2.0**-52, 1 - 2.0**-53], dtype=torch.float64)
    assert set(inverse_cdf(logits.expand(4, -1), edges).tolist()) <= {1, 3}


def test_chunks_change_nothing(monkeypatch):
    logits, numbers = torch.randn(37, 11), torch.rand(37, dtype=torch.float64)
    whole = inverse_cdf(logits, numbers)
    monkeypatch.setattr("llada.sampling.drafts._CHUNK", 25)
    assert torch.equal(inverse_cdf(logits, numbers), whole)


def test_nothing_to_draw_is_no_error():
    nothing = torch.zeros(0, 5), torch.zeros(0, dtype=torch.float64)
    for draft in (greedy, categorical(1.0), categorical(1.0, top_k=2, top_p=0.5)):
        assert torch.equal(draft(*nothing), torch.zeros(0, dtype=torch.long))


def test_temperature_zero_is_greedy():
    assert draft_at(0.0) is greedy


def test_numbers_of_a_row_do_not_depend_on_neighbours_or_padding():
    alone = row_uniforms(7, torch.ones(1, 6))
    padded = row_uniforms(7, torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8]))
    assert torch.equal(alone(slice(1, 5), 3, 0)[0], padded(slice(3, 7), 3, 0)[0])


def test_numbers_differ_between_seeds_rows_positions_steps_and_uses():
    ones = torch.ones(2, 3)
    numbers = [row_uniforms(seed, ones)(slice(0, 3), step, stream) for seed, step, stream in
               ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))]  # fmt: skip
    assert len({float(x) for block in numbers for x in block.flatten()}) == 5 * 6


def test_numbers_are_uniform_and_uncorrelated():
    """False alarm below 1e-5: chi-square with 99 degrees of freedom above 170, and 5 standard errors."""
    u = row_uniforms(123, torch.ones(200, 500))(slice(0, 500), 0, 0)
    cells = (u.flatten() * 100).long().bincount(minlength=100).double()
    assert float(((cells - 1000) ** 2 / 1000).sum()) < 170
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1])):
        correlation = float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])
        assert abs(correlation) < 5 / a.numel() ** 0.5
    assert 0 < float(u.min()) < float(u.max()) < 1


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_any_seed_is_a_seed(seed):
    u = row_uniforms(seed, torch.ones(1, 4))(slice(0, 4), 0, 0)
    assert ((u > 0) & (u < 1)).all()
