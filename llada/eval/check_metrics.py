"""The checks as metrics of lm-evaluation-harness, under their names: `metric_list: [{metric: final_number}]`."""

from collections.abc import Sequence
from functools import partial

import lm_eval.api.metrics as metrics_of_lm_eval
from lm_eval.api.registry import register_metric

from llada.eval.checks import CHECKS


def right(references: Sequence[str], predictions: Sequence[str], *, check: str) -> float:
    """1 where the answer to one document is right by the check, 0 where not.

    Raises ValueError where the expected answer is not right by itself, so that no answer could be.
    """
    (expected,), (answer,) = references, predictions
    if not CHECKS[check](expected, expected):
        raise ValueError(f"metric {check}: the expected answer {expected!r} is itself not right by it; take another")
    return float(CHECKS[check](answer, expected))


def register_checks() -> None:
    """Make them known to lm_eval."""
    assert metrics_of_lm_eval.mean  # its import is what makes `mean` known
    for check in CHECKS:
        register_metric(metric=check, higher_is_better=True, aggregation="mean")(partial(right, check=check))
