"""The error of a mean per token."""

import pytest
import torch

from llada.estimate import Estimate, check_rows, per_token


def test_value_is_per_token_and_its_error_covers_the_truth():
    """2000 samples of 30 rows, whose sums go with their lengths; binomial: false alarm below 1e-6."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        lengths = torch.randint(1, 20, (30,), generator=generator).double()
        sums = 1.5 * lengths + lengths.sqrt() * torch.randn(30, generator=generator, dtype=torch.float64)
        found = per_token(sums, lengths, 60)
        assert found.value == pytest.approx(float(sums.sum() / lengths.sum()))
        covered += abs(found.value - 1.5) < 1.96 * found.stderr
    assert abs(covered / 2000 - 0.94) < 0.03  # of 30 rows a little less than 95 %


def test_rows_of_one_length_have_the_error_of_a_mean():
    sums = torch.tensor([4.0, 8.0, 3.0, 9.0], dtype=torch.float64)
    found = per_token(sums, torch.full((4,), 2.0, dtype=torch.float64), 4)
    assert found == Estimate(3.0, pytest.approx(float((sums / 2).std() / 2)), 4)


def test_one_row_has_no_error():
    with pytest.raises(ValueError, match="a standard error needs at least 2 rows, not 1"):
        per_token(torch.ones(1), torch.ones(1), 1)
    with pytest.raises(ValueError, match="not 0"):
        check_rows(0)
    check_rows(2)
