"""Noise of the loss against exact bounds, the judge of samples against known distributions, and a whole run."""

import math

import pytest
import torch
from small_experiments import MODEL, SMALL

from llada.config import ConfigError, load_config
from llada.experiments.experiment import perform
from llada.experiments.loss_noise import MASKINGS, batch_loss, gradient_spread, noise_of, relative, spread
from llada.experiments.small_grids import MASK, NAMES, GridRows, all_grids, bound_of, judged, sampled, trained
from llada.experiments.time_agnostic import EXPERIMENT, needed_evaluations
from llada.experiments.time_agnostic_report import best, by_rate, differences, summary
from llada.sampling.config import SamplerConfig


def settings(*overrides):
    return load_config(
        EXPERIMENT.settings, "configs/experiment/time_agnostic.yaml", [*SMALL["time_agnostic"], *overrides]
    )


@pytest.fixture(scope="module")
def model():
    given = settings(MODEL)
    return given.train("elbo", 0.01, 0, 4).cpu()


# The noise of the loss


@pytest.mark.parametrize("name", MASKINGS)
def test_mean_of_the_loss_is_the_bound_for_each_masking(model, name):
    """False alarm 6e-5 each: 4 standard errors. The floor of t adds less than 0.005 to a bound of 4 nats."""
    x0 = torch.from_numpy(GridRows().tokens[:1])
    maskable = torch.from_numpy(GridRows().maskable)[None] & (torch.arange(32) < 6)
    generator = torch.Generator().manual_seed(0)
    exact = _bound_of_cells(model, x0[0], 3)
    with torch.no_grad():
        draws = torch.stack(
            [
                batch_loss(model, x0.expand(32, -1), maskable.expand(32, -1), MASKINGS[name], generator)
                for _ in range(150)
            ]
        )
    stderr = float(draws.std() / math.sqrt(len(draws)))
    assert abs(3 * float(draws.mean()) - exact) < 4 * 3 * stderr + 0.005


def _bound_of_cells(model, row, cells):
    """The bound for the first cells of a row given the others, from all masks of them."""
    total = 0.0
    for number in range(1, 2**cells):
        masked = torch.zeros(len(row), dtype=torch.bool)
        masked[1 : 2 * cells : 2] = torch.tensor([bool(number >> i & 1) for i in range(cells)])
        k = int(masked.sum())
        with torch.no_grad():
            log_p = model(torch.where(masked, MASK, row)[None]).logits[0].log_softmax(dim=-1)
        total -= float(log_p[masked, row[masked]].sum()) / (k * math.comb(cells, k))
    return total


def test_spread_is_the_variance_and_how_far_it_is_off():
    """False alarm below 1e-4: 4 standard errors each way, over 2000 repetitions."""
    generator = torch.Generator().manual_seed(0)
    found = [spread(3 * torch.randn(200, generator=generator)) for _ in range(2000)]
    variances, errors = torch.tensor(found, dtype=torch.float64).unbind(dim=1)
    assert abs(variances.mean() - 9) < 4 * variances.std() / math.sqrt(2000)
    assert float(errors.mean()) == pytest.approx(float(variances.std()), rel=0.1)


def test_gradient_spread_tells_noise_from_signal():
    """False alarm below 1e-4: 4 standard errors."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.full((50,), 0.1)
    found = [gradient_spread(mean + 0.5 * torch.randn(40, 50, generator=generator)) for _ in range(500)]
    traces, _, signals = torch.tensor(found, dtype=torch.float64).unbind(dim=1)
    for values, expected in ((traces, 50 * 0.25), (signals, 50 * 0.01)):
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(500)


def test_noise_is_that_of_the_same_rows_and_seed(model):
    x0 = torch.from_numpy(GridRows().tokens[:4])
    maskable = torch.from_numpy(GridRows().maskable).expand_as(x0)
    first, same = (noise_of(model, x0, maskable, draws=30, gradient_draws=5, seed=1) for _ in range(2))
    assert first == same
    assert [one["masking"] for one in first] == list(MASKINGS)


# The distribution and its judge


def test_rows_name_each_cell_and_mask_its_value_alone():
    rows = GridRows()
    assert len(rows) == len(all_grids()) == 288
    assert rows[5]["x0"][1::2].tolist() == list(all_grids()[5])
    assert rows[5]["x0"][::2].tolist() == list(NAMES)
    assert rows[5]["x0"][rows[5]["maskable"]].tolist() == list(all_grids()[5])


def test_judge_counts_valid_grids_and_how_many_they_are_worth():
    grids = torch.tensor(all_grids())
    wrong = grids[:3].clone()
    wrong[:, 0] = wrong[:, 1]
    assert judged(torch.cat((grids, wrong))) == {"samples": 291, "valid": 288, "worth": None}
    assert judged(grids[[0, 0, 1]]) == {"samples": 3, "valid": 3, "worth": 3.0}  # one pair of three is the same
    assert judged(wrong) == {"samples": 3, "valid": 0, "worth": None}
    generator = torch.Generator().manual_seed(0)
    for number in (10, 288):  # within 10 %, about 5 standard deviations for 288
        worth = judged(grids[torch.randint(number, (4000,), generator=generator)])["worth"]
        assert worth == pytest.approx(number, rel=0.1)


def test_samples_are_filled_in_and_counted(model):
    for sampler, most in (
        (SamplerConfig(order="random", temperature=1.0, steps=4), 4),
        (SamplerConfig.named("first_hitting"), 16),
    ):
        found = sampled(model, sampler, 20, 0)
        assert found["samples"] == 20
        assert found["evaluations"] == most
    assert sampled(model, SamplerConfig(reveal="ancestral", temperature=1.0, steps=50), 20, 0)["evaluations"] > 30


def test_bound_of_knowing_nothing_is_that_of_independent_cells():
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32}
    untrained = trained(
        sizes, objective="elbo", optimizer="adamw", rate=1e-9, warmup=0, steps=1, batch_size=2, seed=0
    ).cpu()
    with torch.no_grad():
        untrained.lm_head.weight.zero_()
    assert bound_of(untrained, 1)[0] == pytest.approx(16 * math.log(NAMES.stop), rel=1e-5)


@pytest.mark.parametrize(("steps", "needed"), [(1, 1), (2, 1.75), (3, 2.1111), (6, 2.5278)])
def test_needed_evaluations_are_those_of_the_enumerated_test_bed(steps, needed):
    assert needed_evaluations(steps, 3) == pytest.approx(needed, abs=1e-4)


# The table


def runs(rate, *values):
    return [{"rate": rate, "bound": b, "valid": v, "samples": 10} for b, v in values]


def test_summary_is_over_the_seeds_of_a_rate():
    found = summary(runs(0.1, (2.0, 5), (4.0, 7)))
    assert found == {
        "rate": 0.1,
        "runs": 2,
        "bound": 3.0,
        "bounds": [2.0, 4.0],
        "valid": [0.5, 0.7],
    }


def test_best_rate_has_the_lowest_mean_bound():
    both = runs(0.3, (1.0, 9), (9.0, 9)) + runs(0.1, (4.0, 0), (4.2, 0))
    assert best(both)["rate"] == 0.1
    assert [one["rate"] for one in by_rate(both)] == [0.1, 0.3]


def test_differences_are_those_of_pairs():
    both = {"elbo": runs(0.1, (2.0, 5), (4.0, 7)), "uniform": runs(0.1, (3.0, 5), (8.0, 7))}
    assert differences(both) == [1.0, 4.0]


def test_relative_deviations_are_square_roots_of_variances():
    noise = [{"variance": 4.0, "variance_stderr": 0.4}, {"variance": 1.0, "variance_stderr": 0.2}]
    first, other = relative(noise, "variance")
    assert first == (1.0, 0.0)  # of itself
    assert other == (0.5, pytest.approx(0.5 * math.hypot(0.1, 0.2) / 2))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("warmup=2", "warmup=2 exceeds the half of noise_steps=2 before the rate falls"),
        ("rates=[0.1, 0.1]", r"rates=\[0.1, 0.1\] holds a value twice"),
        ("seeds=[0]", "at least 2 items"),
        ("batch_size=300", "less than or equal to 288"),
        ("few_steps=[17]", "less than or equal to 16"),
        ("samples=20", "greater than or equal to 30"),
        ("model.vocab_size=30", "model.vocab_size=30 is that of the grids, 21; leave it out"),
        ("model.n_heads=3", "model: d_model=16 must be n_heads=3 times"),
        ("model.d_modl=3", "model: .*d_modl"),
    ],
)
def test_wrong_settings_are_refused(override, told):
    with pytest.raises(ConfigError, match=told):
        settings(override)


def test_run_answers_all_three_questions(tmp_path):
    measured = perform("time_agnostic", settings(), tmp_path)["measured"]
    assert measured["entropy"] == math.log(288)
    assert [one["evaluations"] for one in measured["by_token"]] == [1.0, 2.0]
    assert [one["needed"] for one in measured["by_time"]] == [1.0, needed_evaluations(3)]
    for objective in ("elbo", "uniform"):
        assert [(run["rate"], run["seed"]) for run in measured["runs"][objective]] == [(0.01, seed) for seed in (0, 1)]
        assert all(run["bound"] > measured["entropy"] for run in measured["runs"][objective])
        assert (tmp_path / f"{objective}-0.01-1" / "model.safetensors").is_file()
    assert "of grids sampled cell by cell in 2 evaluations" in EXPERIMENT.finding(measured).lower()
    measured["by_token"][-1]["valid"] = 40  # all of them
    assert "in 2 evaluations 100.0% (91.2%–100.0%) are valid" in EXPERIMENT.finding(measured)
    assert EXPERIMENT.table(measured).row_count == 3 + 4 + 2 + 2 + 2
    assert "its gradient" in (tmp_path / "figure.svg").read_text()
