"""Progressive unmasking in the loop and from configurations."""

from types import SimpleNamespace

import pytest
import torch
from pools import PUMA, pool_of, told
from test_batches import MASK, PAD, Conversations, Tokens
from test_loop import tiny
from torch import Tensor, nn

from llada.config import ConfigError
from llada.train.batches import Batch
from llada.train.build import parts, place, processes
from llada.train.config import PretrainConfig, PumaConfig
from llada.train.journal import read_log
from llada.train.loop import evaluate, fit
from llada.train.objectives import ELBO, Noise, largest_log_probability
from llada.train.optim import adamw
from llada.train.plan import plan
from llada.train.puma import Pool, Stages
from llada.train.run import train


class Logits(nn.Module):
    """A model that does not take targets, and counts its calls."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, input_ids, attention_mask=None, logits_at=None):
        self.calls += 1
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask=attention_mask, logits_at=logits_at).logits)


@pytest.mark.parametrize("threshold", [None, 0.06])
@pytest.mark.parametrize("data", [Tokens(), Conversations()], ids=["pretraining", "fine-tuning"])
def test_model_of_targets_and_model_of_logits_train_alike_at_any_micro_batch(data, threshold):
    ended = []
    for micro, wrap in ((None, False), (3, False), (8, True)):
        model = tiny().double()
        taught = Logits(model) if wrap else model
        pool = pool_of(data, 8, 4, micro, threshold, random_length=0.3 if isinstance(data, Tokens) else 0.0)
        logs = list(fit(taught, pool, adamw(model), learning_rate=lambda s: 0.01, steps=6))
        assert not wrap or taught.calls == 6  # one forward pass a step
        ended.append([log.loss for log in logs] + [float(p.detach().sum()) for p in model.parameters()])
        assert all(log.read >= log.tokens > 0 for log in logs)
    assert ended[1] == pytest.approx(ended[0], abs=1e-6)
    assert ended[2] == pytest.approx(ended[0], abs=1e-6)


def test_pool_is_told_what_the_model_says():
    """The masks after two steps are those that the model's own logits ask for."""
    model = tiny().double()
    pool = pool_of(Tokens(), 8, 4)
    list(fit(model, pool, [torch.optim.SGD(model.parameters())], learning_rate=lambda s: 0.0, steps=2))

    def confidence(batch: Batch) -> Tensor:
        return largest_log_probability(model(**batch.call.inputs).logits)

    by_hand = pool_of(Tokens(), 8, 4)
    list(told(by_hand, 0, 2, confidence))
    assert [mask.tolist() for mask in pool.masks()] == [mask.tolist() for mask in by_hand.masks()]
    other = pool_of(Tokens(), 8, 4)
    list(told(other, 0, 2))
    assert [mask.tolist() for mask in pool.masks()] != [mask.tolist() for mask in other.masks()]


def test_steps_left_out_do_not_stop_the_pool():
    class Poisoned(Logits):
        def forward(self, *arguments, **options):
            out = super().forward(*arguments, **options)
            return SimpleNamespace(logits=out.logits * (torch.nan if self.calls in (3, 4) else 1.0))

    model = Poisoned(tiny())
    pool = pool_of(Tokens(), 8, 4, micro=8)
    logs = list(fit(model, pool, adamw(model), learning_rate=lambda s: 0.01, steps=7, max_skips=2))
    assert [log.non_finite is None for log in logs] == [True, True, False, False, True, True, True]
    assert len(logs[2].non_finite or ()) == 8
    assert all(mask.any() for mask in pool.masks())


def test_model_learns():
    model, data, noise = tiny(), Tokens(count=16), Noise(MASK, PAD)
    before = evaluate(model, data, noise, draws=4)
    list(fit(model, pool_of(data), adamw(model), learning_rate=lambda s: 0.01, steps=60))
    assert evaluate(model, data, noise, draws=4).value < before.value - 0.5


# From the configuration


@pytest.fixture
def settings_of_puma(settings) -> dict:
    return {name: value for name, value in settings.items() if name != "masking"} | {"objective": "puma"}


def pool_from(settings: dict, **changes) -> Pool:
    config = PretrainConfig(**settings | changes, output="x")
    pool = place(parts(config), processes(config)).trained.pool
    assert pool is not None
    return pool


def test_options_reach_the_pool(settings_of_puma):
    plain = pool_from(settings_of_puma)
    assert (plain.stages, plain.threshold) == (Stages(12), None)
    growth = {"add": 2, "every": 5, "to": 9}
    changed = pool_from(settings_of_puma, puma={"stages": 3, "growth": growth, "threshold": 0.8})
    assert (changed.stages, changed.threshold) == (Stages(3, 2, 5, 9), 0.8)
    paper = pool_from(settings_of_puma, puma={"growth": {}})
    assert paper.stages == Stages(12, 3, 30_000, 42)


def test_run_trains_is_measured_by_the_bound_and_depends_on_every_option(settings_of_puma, tmp_path):
    ended = {}
    for name, puma in {
        "plain": {"stages": 3},
        "stages": {"stages": 4},
        "growth": {"stages": 3, "growth": {"add": 2, "every": 3, "to": 5}},
        "threshold": {"stages": 3, "threshold": 0.01},
    }.items():
        values = settings_of_puma | {"puma": puma, "steps": 7, "checkpoint_every": None, "evaluate_every": None}
        train(PretrainConfig(**values, output=str(tmp_path / name)))
        log = read_log(tmp_path / name)
        assert log[-1]["bound"] > 0
        assert len(log[-1]["mask_ratios"]) > 1
        ended[name] = log[-1]["loss"]
    assert len(set(ended.values())) == 4
    run = parts(PretrainConfig(**settings_of_puma, output="x"))
    assert run.batches.objective is PUMA
    assert run.measure[1] is ELBO


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masking": "count"}, "masking has no effect with objective: puma, which masks what the model is least sure"),
        ({"eps": 0.01}, "eps has no effect with objective: puma"),
        ({"t_min": 0.1}, "t_min has no effect with objective: puma"),
        ({"workers": 2}, "workers has no effect with objective: puma"),
        ({"objective": "elbo", "puma": {}}, "puma has no effect with objective: elbo; remove it, or set"),
        ({"puma": {"stages": 0}}, "puma.stages: Input should be greater than or equal to 1"),
        ({"puma": {"threshold": 1.0}}, "puma.threshold: Input should be less than 1"),
        ({"puma": {"growth": {"to": 12}}}, r"puma\.growth\.to=12 must be above puma\.stages=12"),
        ({"puma": {"stage": 3}}, "unknown key 'puma.stage'; did you mean 'stages'"),
    ],
)
def test_impossible_settings_are_refused(settings_of_puma, changes, message):
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(**settings_of_puma | changes, output="x")


def test_defaults_are_the_papers():
    assert PumaConfig().model_dump() == {"stages": 12, "growth": None, "threshold": None}


def test_plan_counts_that_rows_stay(settings_of_puma, settings):
    values = {"steps": 24, "evaluate_every": None, "random_length": 0.0}
    made = plan(parts(PretrainConfig(**settings_of_puma | values, puma={"stages": 6}, output="x")))
    plain = plan(parts(PretrainConfig(**settings | values, output="x")))
    assert made.epochs == pytest.approx(plain.epochs / 6)
    assert made.tokens_per_step == plain.tokens_per_step
    assert made.flops_per_step == plain.flops_per_step
