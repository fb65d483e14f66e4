"""Shares with their intervals: against those of `llada.eval.intervals`."""

import pytest

from llada.eval.intervals import wilson
from llada.experiments.shares import error_bars, percent, percent_of


def test_percent_tells_the_share_between_the_ends_of_its_interval():
    assert percent(189, 200) == "94.5% (90.4%–96.9%)"  # 0.90421 and 0.96905
    assert percent_of({"right": 189, "rows": 200, "passes": 3.0}) == percent(189, 200)


def test_error_bars_end_where_the_intervals_do():
    counts = [(0, 7), (3, 8), (40, 40)]
    shares, (below, above) = error_bars(counts)
    assert shares == [0, 37.5, 100]
    assert [share - less for share, less in zip(shares, below, strict=True)] == pytest.approx(
        [100 * wilson(*count).low for count in counts]
    )
    assert [share + more for share, more in zip(shares, above, strict=True)] == pytest.approx(
        [100 * wilson(*count).high for count in counts]
    )
    assert below[0] == above[2] == 0
