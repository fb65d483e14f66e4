"""Output laws of Mask-Predict and of remasking diffusion, which mask again and may remember probabilities (T22).

They are enumerated through the loop and compared with the algorithms written down naively: a canvas is a tuple, a
distribution over canvases a dictionary, and every outcome of a step is listed with its probability.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest
import torch
from bed import BED, BEDS, Bed
from laws import Chance, chain, law, total_variation
from torch import Tensor

from llada.sampling import reveals
from llada.sampling.reveals import Reveal, Step

Place = tuple[int, float] | None  # a token and the probability that it had when it was drawn; None: [MASK]
Canvas = tuple[Place, ...]
Outcomes = Callable[[Canvas, list[list[float]], int, int], Iterator[tuple[Canvas, float]]]
Changes = Callable[[Sequence[float | None], int, int], list[float]]

PREDICTORS = pytest.mark.parametrize("predictor", ["oracle", "bad"])


def naive_law(bed: Bed, predictor: str, steps: int, outcomes: Outcomes) -> Tensor:
    """Probability of every sequence; `outcomes(canvas, predictions, j, steps)` are those of step j = 1..steps."""

    @cache
    def predicted(tokens: tuple[int, ...]) -> list[list[float]]:
        p = getattr(bed, predictor)(torch.tensor([tokens]))[0, :, : bed.vocab].softmax(dim=-1)
        return [[round(value, 12) for value in row] for row in p.tolist()]  # rounding is not to decide any ties

    now: dict[Canvas, float] = {(None,) * bed.length: 1.0}
    for j in range(1, steps + 1):
        then: dict[Canvas, float] = defaultdict(float)
        for canvas, weight in now.items():
            p = predicted(tuple(bed.mask if place is None else place[0] for place in canvas))
            for after, chance in outcomes(canvas, p, j, steps):
                if chance > 0:
                    then[after] += weight * chance
        now = then
    q = torch.zeros(bed.vocab**bed.length, dtype=torch.float64)
    for canvas, weight in now.items():
        q[bed.index(torch.tensor([token for token, _ in canvas]))] += weight
    return q


def mask_predict(canvas: Canvas, p: list[list[float]], j: int, steps: int) -> Iterator[tuple[Canvas, float]]:
    """Draw a token at every mask, then mask those of the canvas that were least probable (arXiv:1904.09324, §3)."""
    n = len(canvas)
    masked_after = 0 if j == steps else max(1, n * (steps - j) // steps)
    drawn = [list(enumerate(p[i])) if place is None else [place] for i, place in enumerate(canvas)]
    for full in itertools.product(*drawn):
        chance = math.prod(full[i][1] for i in range(n) if canvas[i] is None)
        kept = sorted(range(n), key=lambda i: (-full[i][1], i))[: n - masked_after]
        yield tuple(full[i] if i in kept else None for i in range(n)), chance


def remdm(variant: str, eta: float, t_on: float = 0.55, t_off: float = 0.05, alpha_on: float = 0.9) -> Changes:
    """Probabilities with which visible tokens are masked and masks are revealed in step j (arXiv:2503.00307, §3, 4).

    A position is given as the probability that its token had, or None where it is masked.
    """

    def alpha(t: float) -> float:
        if variant != "loop":
            return 1 - t
        if t > t_on:
            return (1 - t) * alpha_on / (1 - t_on)
        return alpha_on if t > t_off else 1 - t * (1 - alpha_on) / t_off

    def changes(held: Sequence[float | None], j: int, steps: int) -> list[float]:
        t = (steps - j + 1) / steps
        before, after = alpha(t), alpha((steps - j) / steps)
        largest = 1.0 if before == 0 else min(1.0, (1 - after) / before)
        sigma = eta * largest if variant in ("rescale", "conf") else min(eta, largest)
        if variant == "loop" and not t_off < t <= t_on:
            sigma = 0.0
        total = sum(math.exp(-p) for p in held if p is not None)
        chances = []
        for p in held:
            own = sigma
            if variant == "conf":
                own = 0.0 if p is None else sigma * math.exp(-p) / total
            chances.append((after - (1 - own) * before) / (1 - before) if p is None else own)
        return chances

    return changes


def independent(changes: Changes) -> Outcomes:
    """Every position on its own is masked, revealed, or stays as it is."""

    def outcomes(canvas: Canvas, p: list[list[float]], j: int, steps: int) -> Iterator[tuple[Canvas, float]]:
        places: list[list[tuple[Place, float]]] = []
        for i, change in enumerate(changes([place and place[1] for place in canvas], j, steps)):
            revealed = [((token, q), change * q) for token, q in enumerate(p[i])]
            stays = (canvas[i], 1 - change)
            places.append([stays, *(revealed if canvas[i] is None else [(None, change)])])
        for combination in itertools.product(*places):
            yield tuple(place for place, _ in combination), math.prod(chance for _, chance in combination)

    return outcomes


def bounds(changes: Changes, steps: int) -> Chance:
    """The same probabilities for the enumeration of the loop."""

    def chance(index: int, masked: Tensor, held: Tensor) -> Tensor:
        rows = zip(masked.tolist(), held.tolist(), strict=True)
        given = [[None if m else p for m, p in zip(*row, strict=True)] for row in rows]
        return torch.tensor([changes(row, index + 1, steps) for row in given], dtype=torch.float64)

    return chance


def rounded(rule: Reveal) -> Reveal:
    """The rule without the last digits of the probabilities, in which ties are decided by rounding."""

    def reveal(step: Step) -> Tensor:
        vars(step)["probability"] = step.probability.round(decimals=12)  # which the loop then remembers
        return rule(step)

    return reveal


@pytest.mark.parametrize("name", BEDS)
@PREDICTORS
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_b7_mask_predict_has_the_law_of_its_statement(name, predictor, steps):
    bed = BEDS[name]
    q, predictions = law(bed, getattr(bed, predictor), steps, remembers=True, reveal=rounded(reveals.mask_predict))
    assert predictions == pytest.approx(steps)
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(q, naive_law(bed, predictor, steps, mask_predict), atol=1e-10)


@pytest.mark.parametrize(("name", "steps"), [("L3V3", 2), ("L3V3", 3), ("L2V5", 4), ("L2V5", 5)])
@PREDICTORS
@pytest.mark.parametrize(
    ("variant", "eta"), [("conf", 1.0), ("conf", 0.4), ("cap", 0.3), ("rescale", 0.6), ("loop", 0.2)]
)
def test_b16_remasking_diffusion_has_the_law_of_its_statement(name, steps, predictor, variant, eta):
    bed, changes = BEDS[name], remdm(variant, eta)
    q, predictions = law(bed, getattr(bed, predictor), steps, remembers=variant == "conf",
                         event_probability=bounds(changes, steps), reveal=reveals.remdm(variant, eta))  # fmt: skip
    assert predictions == pytest.approx(steps)
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(q, naive_law(bed, predictor, steps, independent(changes)), atol=1e-10)


@pytest.mark.parametrize(("rule", "least"), [("mask_predict", 0.04), ("conf", 0.001)])
def test_law_would_be_another_one_without_what_is_remembered(rule, least):
    """Each step alone, with 1 for whatever was revealed before."""
    if rule == "mask_predict":
        options = {"reveal": rounded(reveals.mask_predict)}
    else:
        options = {"reveal": reveals.remdm("conf", 1.0),
                   "event_probability": bounds(remdm("conf", 1.0), 3)}  # fmt: skip
    remembered, forgotten = (law(BED, BED.oracle, 3, remembers=remembers, **options)[0] for remembers in (True, False))
    assert total_variation(remembered, forgotten) > least


@pytest.mark.parametrize(
    ("variant", "eta", "steps", "variation"),
    [
        ("cap", 0.1, 3, 0.050677),
        ("cap", 0.1, 6, 0.028373),
        ("rescale", 0.5, 6, 0.034233),
        ("rescale", 1.0, 3, 0.075798),
        ("rescale", 1.0, 12, 0.028239),
        ("cap", 0.0, 6, 0.025482),
    ],
)
def test_t22_remasking_diffusion_has_the_published_laws(variant, eta, steps, variation):
    q, _ = law(BED, BED.oracle, steps, event_probability=bounds(remdm(variant, eta), steps),
               reveal=reveals.remdm(variant, eta))  # fmt: skip
    assert total_variation(q, BED.p) == pytest.approx(variation, abs=1e-6)


def masks_after(done: int, variant: str, eta: float) -> Tensor:
    """Probabilities of 0..3 masks after so many of six steps."""
    canvas, weight, _ = chain(BED, BED.oracle, 6, until=done, remembers=variant == "conf",
                              event_probability=bounds(remdm(variant, eta), 6),
                              reveal=reveals.remdm(variant, eta))  # fmt: skip
    return torch.zeros(4).double().index_add(0, (canvas == BED.mask).sum(dim=1), weight)


@pytest.mark.parametrize(("variant", "eta"), [("cap", 0.2), ("rescale", 0.7)])
def test_t22_remasking_leaves_the_number_of_masks_distributed_as_without(variant, eta):
    """Each position on its own with the probability that is left, as in ancestral sampling."""
    for done in range(1, 6):
        p = 1 - done / 6
        binomial = torch.tensor([math.comb(3, k) * p**k * (1 - p) ** (3 - k) for k in range(4)], dtype=torch.float64)
        assert torch.allclose(masks_after(done, variant, eta), binomial, atol=1e-12)


def test_b16_conf_masks_more_than_the_others():
    """Here one token of the second step is masked again in the mean, and no more are revealed than without."""
    first, second = masks_after(1, "conf", 1.0), masks_after(2, "conf", 1.0)
    visible = 1 - float(first[3])
    left = float((first * torch.arange(4)).sum()) * (1 - 1 / 5)
    assert float((second * torch.arange(4)).sum()) == pytest.approx(left + visible, abs=1e-12)
