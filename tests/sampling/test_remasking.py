"""Rules that mask at random again: reductions to ancestral sampling, limits, and every refusal."""

from itertools import pairwise

import pytest
import torch
from rule_steps import drawn, step_of

from llada.config import ConfigError
from llada.sampling import orders, reveals
from llada.sampling.generate import SamplerConfig


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf"])
def test_b16_remasking_with_probability_zero_is_ancestral_sampling(variant):
    ours = drawn(steps=6, reveal=reveals.remdm(variant, 0.0))
    usual = drawn(steps=6, reveal=reveals.ancestral)
    assert len(ours) == 6
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=False))


def test_b16_loop_without_remasking_is_ancestral_along_its_schedule():
    def mask_probability(time: float) -> float:  # section 4.2 with the default values
        return 1 - (1 - time) * 0.9 / 0.45 if time > 0.55 else 0.1 if time > 0.05 else time * 0.1 / 0.05

    ours = drawn(steps=20, reveal=reveals.remdm("loop", 0.0))
    usual = drawn(steps=20, reveal=reveals.ancestral_steps(mask_probability))
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=False))


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf", "loop"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 24])
def test_b16_remasking_ends_without_masks(variant, steps):
    for seed in range(5):
        states = drawn(seed, steps=steps, reveal=reveals.remdm(variant, 1.0))
        assert len(states) == steps
        assert not (states[-1].canvas == 5).any()


def test_b16_loop_masks_again_between_its_times_only():
    seen = {}
    for seed in range(20):
        states = drawn(seed, steps=40, reveal=reveals.remdm("loop", 0.3))
        for before, after in pairwise(states):
            again = bool(((before.canvas != 5) & (after.canvas == 5)).any())
            seen[after.index] = seen.get(after.index, False) or again
    phases = [index for index, again in seen.items() if again]
    assert min(phases) == 18  # t = 1 - 18/40 = t_on; before it nothing is masked again
    assert max(phases) < 38  # t_off = 1 - 38/40


def test_b16_conf_prefers_to_mask_what_was_revealed_with_a_low_probability():
    """The share of position i is softmax(-held): a sweep of the uniform number finds each one's bound."""
    held = torch.tensor([[0.1, 0.9, 0.5, 1.0]], dtype=torch.float64)
    p, masked = [[0.6, 0.4]] * 4, [False, False, False, True]
    bounds = torch.zeros(4)
    for u in (torch.arange(2000) + 0.5) / 2000:
        step = step_of(p, masked, held=held, index=1, steps=4, uniforms=torch.full((1, 4), float(u)).double())
        bounds += ~reveals.remdm("conf", 1.0)(step)[0] / 2000
    share = (-held[0, :3]).softmax(dim=0)
    assert bounds[:3].tolist() == pytest.approx(share.tolist(), abs=1e-3)  # sigma_max is 1 here
    assert float(bounds[3]) == pytest.approx(1 - (0.5 - 0.25) / 0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "rescale", "eta": 1.5}, "eta=1.5 must be at most 1"),
        ({"variant": "loop", "t_on": 0.1, "t_off": 0.5}, "t_off=0.5 < t_on=0.1 and alpha_on=0.9 must lie between"),
        ({"variant": "loop", "t_on": 1.0}, "must lie between 0 and 1"),
        ({"variant": "loop", "alpha_on": 1.0}, "must lie between 0 and 1"),
    ],
)
def test_impossible_remasking_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        reveals.remdm(**values)
    named = {"remask" if key == "variant" else key: value for key, value in values.items()}
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(reveal="remdm", **named)


def test_b15_gibbs_fills_then_draws_again_while_steps_are_left():
    states = drawn(steps=12, order=orders.random, reveal=reveals.gibbs(1))
    masked = [int((s.canvas[0] == 5).sum()) for s in states]
    assert masked == [7, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1, 0]
    states = drawn(steps=13, order=orders.random, reveal=reveals.gibbs(2))
    assert [int((s.canvas[0] == 5).sum()) for s in states] == [7, 6, 5, 4, 3, 2, 1, 2, 1, 2, 1, 0]  # one step is left
