"""The scaling experiment: fits that are known, frontiers, and runs of every kind and size."""

import math
import random

import pytest
from console import llada

from llada.config import ConfigError
from llada.experiments.experiment import named, perform
from llada.experiments.published import LLADA_SCALING
from llada.experiments.scaling import (
    EXPERIMENT,
    Settings,
    _best_rate,
    _times,
    compute_for,
    frontier,
    power_law,
    reached,
)

VALUES = {
    "model": {"n_layers": 1, "n_heads": 1, "mlp_hidden_size": 16},
    "sizes": {"8": {"d_model": 8}, "16": {"d_model": 16}},
    "training": {
        "length": 16,
        "steps": 4,
        "batch_size": 2,
        "evaluate_every": 1,
        "evaluate_rows": 4,
    },
    "masked": {"masking": "count"},
    "autoregressive": {},
    "learning_rates": [1e-3, 1e-2],
}


def test_power_law_is_found_again():
    fit = power_law([(10.0**power, 7.0 * 10 ** (-0.25 * power)) for power in range(3, 9)])
    assert math.isclose(fit.exponent, 0.25)
    assert math.isclose(math.exp(fit.intercept), 7.0)
    assert fit.stderr < 1e-9
    assert math.isclose(fit.loss(1e4), 0.7)


def test_stated_error_of_the_exponent_is_the_one_that_is_made():
    draws = random.Random(0)
    x = [10.0 ** (number / 4) for number in range(12)]
    fits = [power_law([(c, c**-0.2 * math.exp(draws.gauss(0, 0.05))) for c in x]) for _ in range(400)]
    made = math.sqrt(sum((fit.exponent - 0.2) ** 2 for fit in fits) / 400)
    stated = math.sqrt(sum(fit.stderr**2 for fit in fits) / 400)
    assert 0.8 < made / stated < 1.25  # each is known to 4 %: false alarms below 1e-6


def test_two_points_have_no_error():
    with pytest.raises(ValueError, match="at least 3 points, not 2"):
        power_law([(1.0, 1.0), (2.0, 0.5)])


def test_frontier_holds_what_nothing_beats():
    points = [(1.0, 5.0), (2.0, 6.0), (3.0, 4.0), (3.0, 3.0), (4.0, 3.0), (5.0, 2.0)]
    assert frontier(points) == [(1.0, 5.0), (3.0, 3.0), (5.0, 2.0)]


def test_compute_for_a_loss_is_between_the_points_of_a_run_and_nowhere_else():
    law = power_law([(10.0**power, 7.0 * 10 ** (-0.25 * power)) for power in range(3, 9)])
    points = [(10.0**power, law.loss(10.0**power)) for power in range(3, 9)] + [(2e4, 9.0)]
    assert all(compute_for([points], loss) is not None for _, loss in points[:-1])  # where logarithms round, too
    for compute in (1e3, 4e4, 1e8):
        assert math.isclose(compute_for([points], law.loss(compute)), compute)
    assert compute_for([points], law.loss(900.0)) is None
    assert compute_for([points], law.loss(1.1e8)) is None


def test_each_run_counts_by_itself_where_the_compute_for_a_loss_is_looked_for():
    steep = [(1.0, 4.0), (4.0, 1.0)]  # has the loss 2 at 2
    flat = [(1.5, 2.5), (6.0, 2.4)]  # never, but is below the other one at 1.5
    assert compute_for([steep, flat], 2.0) == pytest.approx(2.0)
    assert compute_for([flat], 2.0) is None


def test_published_compute_is_that_of_its_tokens():
    """6 N D of the 1B models, N = 0.97e9 (table 5 without embeddings), at 37.75e9 tokens."""
    assert LLADA_SCALING["LLaDA 1B"][0][0] == LLADA_SCALING["ARM 1B"][0][0] == 2.2e20
    assert [len(rows) for rows in LLADA_SCALING.values()] == [6, 14, 3, 18]
    assert all(rows == sorted(rows, key=lambda row: row[0]) for rows in LLADA_SCALING.values())


def test_the_best_learning_rate_of_each_kind_and_size_counts():
    def run(kind, size, rate, losses):
        return [
            {"kind": kind, "size": size, "rate": rate, "flops": 10.0 * (step + 1), "step": step, "loss": loss}
            | {"stderr": 0.1}
            for step, loss in enumerate(losses)
        ]

    points = run("masked", "8", 0.1, [4.0, 3.0, 2.0]) + run("masked", "8", 0.2, [4.0, 1.9, 2.5])
    assert _best_rate(points, "masked", "8") == 0.2
    causal = run("autoregressive", "8", 0.1, [3.0, 2.0, 1.5]) + run("autoregressive", "8", 0.2, [2.3, 2.2, 2.1])
    found = reached(points[:3] + causal, "8")
    assert found["loss"] == pytest.approx(2.2)
    assert found["masked"][1] == pytest.approx(30.0)  # two errors higher the last point has it
    assert 20 < found["masked"][0] < 30  # two errors lower it is between 2.8 at 20 and 1.8 at 30
    assert 10 < found["autoregressive"] < 20  # of the rate that is worse in the end the run needs 20


def test_every_kind_and_size_is_measured_as_it_trains(corpus, tmp_path, monkeypatch):
    llada(monkeypatch, "prepare", corpus, tmp_path / "data", "--vocab-size", 300, "--heldout", 0.1)
    settings = named("scaling").settings(**VALUES | {"data": str(tmp_path / "data")})
    measured = perform("scaling", settings, tmp_path / "scaling")["measured"]
    assert len(measured["points"]) == 32
    for kind in ("masked", "autoregressive"):
        for size in ("8", "16"):
            line = [one for one in measured["points"] if (one["kind"], one["size"], one["rate"]) == (kind, size, 1e-2)]
            assert [one["step"] for one in line] == [1, 2, 3, 4]
            assert [one["flops"] / line[0]["flops"] for one in line] == pytest.approx([1, 2, 3, 4])
    assert EXPERIMENT.table(measured).row_count == 8
    assert (
        "From step 0 on the frontier, which these sizes make, falls with compute to the power of minus masked"
        in EXPERIMENT.finding(measured)
    )


def test_multiples_of_compute_are_told_as_far_as_they_are_known():
    assert _times([3e9, 5e9], 1e9) == "3 to 5"
    assert _times([None, 5e9], 1e9) == "less than 5"
    assert _times([3e9, None], 1e9) == "more than 3"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"data": "x", "max_bytes": 100}, "no effect on data that is prepared"),
        ({"sizes": {"8": {"d_model": 8}}}, "at least 2"),
        (
            {"training": {k: v for k, v in VALUES["training"].items() if k != "evaluate_every"}},
            "evaluate_every is miss",
        ),
        ({"training": VALUES["training"] | {"step": 3}}, "did you mean 'steps'"),
        ({"autoregressive": {"masking": "count"}}, "masking has no effect"),
        ({"masked": {"optim": {"learning_rate": 1.0}}}, "learning_rates says what is tried"),
        ({"learning_rates": []}, "at least 1"),
        ({"masked": {"optim": None}}, "optim=None must have keys"),
        ({"learning_rates": [0.01, 0.1, 0.01]}, "are in part the same; name each once"),
        ({"fit_from": 5}, "fit_from=5 is after the last of 4 steps"),
    ],
)
def test_wrong_settings_are_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        Settings(**VALUES | values)


def test_missing_data_is_refused(tmp_path):
    settings = Settings(**VALUES | {"data": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="is no folder; write it with `llada prepare"):
        EXPERIMENT.run(settings, tmp_path)
