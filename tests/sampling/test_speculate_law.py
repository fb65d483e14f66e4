"""The law of speculative draws is that of one step after another, exactly (T20 of the specification)."""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from bed import BED, BEDS, Bed
from laws import law as law_of
from tables import final

from llada.sampling import orders
from llada.sampling.speculate import exact_speculation
from llada.sampling.uniforms import Stream

PREDICTORS = pytest.mark.parametrize("predictor", ["oracle", "bad"])
STATE_ONLY = ["left_to_right", "max_probability", "margin", "entropy"]


# The exact law: every outcome of a turn, from every canvas that can occur, with its probability. What the numbers
# mean is worked out here from the two distributions, not with the functions under test.


@dataclass
class Numbers:
    """Numbers of one turn, written down beforehand, (rows, 4, L): `exact_speculation` uses streams 3 to 6."""

    script: torch.Tensor
    later: float  # for the drafts of the next turn

    def __call__(self, block: slice, step: int, stream: int) -> torch.Tensor:
        if step > 0 and stream == Stream.SPECULATIVE_DRAFT:
            return torch.full_like(self.script[:, 0, block], self.later)
        return self.script[:, stream - 3, block]


@dataclass(frozen=True)
class Exactly:
    """A bed, a predictor of it and an order: a name, or the positions one after another."""

    bed: Bed
    predictor: str
    order: str | tuple[int, ...] = "left_to_right"
    temperature: float = 1.0

    @cache  # noqa: B019  # as long as the tests
    def conditional(self, canvas: tuple[int, ...], temperature: float) -> torch.Tensor:
        """(L, V)"""
        return self.logits(torch.tensor([canvas]))[0, :, : self.bed.vocab].div(temperature).softmax(dim=-1)

    def logits(self, canvas: torch.Tensor) -> torch.Tensor:
        return getattr(self.bed, self.predictor)(canvas)

    def positions(self, canvas: tuple[int, ...]) -> list[int]:
        """What is masked, in the order; of equal ones the leftmost first."""
        masked = [i for i, token in enumerate(canvas) if token == self.bed.mask]
        p = self.conditional(canvas, 1.0)
        if isinstance(self.order, tuple):
            return [i for i in self.order if i in masked]
        score = {
            "left_to_right": lambda i: -i,
            "max_probability": lambda i: float(p[i].max()),
            "margin": lambda i: float(-p[i].topk(2).values.diff()),
            "entropy": lambda i: float((p[i] * p[i].clamp(min=1e-300).log()).sum()),
        }[self.order]
        return sorted(masked, key=lambda i: (-round(score(i), 12), i))

    def outcomes(self, canvas: tuple[int, ...], depth: int, fraction: float):
        """Probability and numbers (4, L) of all draws and decisions, each number at a fraction of its interval."""
        at = self.positions(canvas)[:depth]
        q = self.conditional(canvas, self.temperature)

        def inside(p: torch.Tensor, token: int) -> float:
            return float(p[:token].sum() + fraction * p[token])

        for tokens in itertools.product(range(self.bed.vocab), repeat=len(at)):
            given, drafts, p = list(canvas), 1.0, {}
            numbers = torch.full((4, self.bed.length), 0.5, dtype=torch.float64)
            if isinstance(self.order, tuple):
                numbers[1, list(self.order)] = 1 - (torch.arange(self.bed.length).double() + 0.5) / self.bed.length
            for i, y in zip(at, tokens, strict=True):
                drafts *= float(q[i, y])
                numbers[0, i] = inside(q[i], y)
                p[i] = self.conditional(tuple(given), self.temperature)[i]
                given[i] = y
            if drafts == 0:
                continue
            for verdicts in itertools.product((True, False), repeat=len(at) - 1):
                weight, script, first = drafts, numbers.clone(), None
                for i, y, kept in zip(at[1:], tokens[1:], verdicts, strict=True):
                    accept = min(1.0, float(p[i][y] / q[i, y]))
                    weight *= accept if kept else 1 - accept
                    script[2, i] = fraction * accept if kept else accept + fraction * (1 - accept)
                    first = i if first is None and not kept else first
                if weight < 1e-15:
                    continue
                if first is None:
                    yield weight, script
                    continue
                excess = (p[first] - q[first]).clamp(min=0)
                excess = excess / excess.sum()
                for y in excess.nonzero()[:, 0].tolist():
                    script[3, first] = inside(excess, y)
                    yield weight * float(excess[y]), script.clone()

    def turn(self, starts: torch.Tensor, script: torch.Tensor, depth: int, keep_order: bool) -> torch.Tensor:
        """Where `exact_speculation` itself comes to in one turn, with these numbers: its first two calls.

        The second one may have begun the next turn with a token, which is drawn with other numbers and so known by
        being another one when they are.
        """
        ends = []
        for later in (1e-9, 1 - 1e-9):
            rounds = exact_speculation(
                lambda canvas, block: self.logits(canvas)[:, block],
                starts,
                self.bed.mask,
                depth=depth,
                temperature=self.temperature,
                order=orders.random if isinstance(self.order, tuple) else getattr(orders, self.order),
                keep_order=keep_order,
                uniforms=Numbers(script, later),
            )
            ends.append(final(itertools.islice(rounds, 2), starts))
        return torch.where(ends[0] == ends[1], ends[0], self.bed.mask)

    def law(self, depth: int, keep_order: bool = True, fraction: float = 0.5) -> tuple[torch.Tensor, float]:
        """Probability of every sequence (V^L,), and the expected number of turns."""
        weights, turns = {(self.bed.mask,) * self.bed.length: 1.0}, 0.0
        while any(self.bed.mask in canvas for canvas in weights):
            after: dict[tuple[int, ...], float] = defaultdict(float)
            starts, scripts, chances = [], [], []
            for canvas, weight in weights.items():
                if self.bed.mask not in canvas:
                    after[canvas] += weight
                    continue
                turns += weight
                for chance, script in self.outcomes(canvas, depth, fraction):
                    starts, scripts, chances = [*starts, canvas], [*scripts, script], [*chances, weight * chance]
            stepped = self.turn(torch.tensor(starts), torch.stack(scripts), depth, keep_order)
            for canvas, chance in zip(map(tuple, stepped.tolist()), chances, strict=True):
                after[canvas] += chance
            weights = after
        ends, chances = torch.tensor(list(weights)), torch.tensor(list(weights.values()), dtype=torch.float64)
        law = torch.zeros(self.bed.vocab**self.bed.length, dtype=torch.float64)
        return law.index_add(0, self.bed.index(ends), chances), turns

    def one_by_one(self, depth: int = 1) -> tuple[torch.Tensor, float]:
        """The chain rule: tokens drawn from the predictor's conditionals one after another, without any speculation.

        The order is asked anew with probability 1 - min(1, q / p) of the token drawn, and after `depth` tokens: that is
        when turns end. At depth 1 this is the usual sequential sampler.
        """
        law, turns = torch.zeros(self.bed.vocab**self.bed.length, dtype=torch.float64), 0.0
        todo = [((self.bed.mask,) * self.bed.length, 1.0, [], None)]
        while todo:
            canvas, weight, queue, q = todo.pop()
            if self.bed.mask not in canvas:
                law[self.bed.index(torch.tensor(canvas))] += weight
                continue
            p = self.conditional(canvas, self.temperature)
            if not queue:
                turns += weight
                queue, q = self.positions(canvas)[:depth], p
            i, later = queue[0], queue[1:]
            for y in range(self.bed.vocab):
                after, chance = (*canvas[:i], y, *canvas[i + 1 :]), weight * float(p[i, y])
                goes_on = min(1.0, float(q[i, y] / p[i, y])) if chance else 0.0
                todo.append((after, chance * goes_on, later, q))
                if goes_on < 1:
                    todo.append((after, chance * (1 - goes_on), [], None))
        return law, turns


def assert_same(law: torch.Tensor, expected: torch.Tensor):
    assert float((law - expected).abs().max()) < 1e-12
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)


@PREDICTORS
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])  # both ends: the decisions change where they should
def test_t20_law_is_that_of_one_token_after_another(predictor, depth, fraction):
    given = Exactly(BED, predictor)
    law, rounds = given.law(depth, fraction=fraction)
    assert_same(law, given.one_by_one()[0])
    published = {1: 3.0, 2: 2.0, 3: {"oracle": 1.0826331361, "bad": 1.1130982578}[predictor]}
    assert rounds == pytest.approx(published[depth], abs=1e-10)
    if predictor == "oracle":
        assert_same(law, BED.p)


@PREDICTORS
@pytest.mark.parametrize("order", STATE_ONLY)
@pytest.mark.parametrize(("name", "depth"), [("L3V3", 2), ("L3V3", 3), ("L4V2", 2), ("L4V2", 3), ("L4V2", 5)])
def test_order_that_is_not_kept_has_the_law_of_denoise_for_any_predictor(predictor, order, name, depth):
    given = Exactly(BEDS[name], predictor, order)
    law = given.law(depth, keep_order=False)[0]
    assert_same(law, given.one_by_one()[0])
    one_token_a_step, _ = law_of(given.bed, given.logits, given.bed.length, order=getattr(orders, order))
    assert_same(law, one_token_a_step)


@PREDICTORS
@pytest.mark.parametrize("order", STATE_ONLY)
@pytest.mark.parametrize(("name", "depth"), [("L3V3", 2), ("L3V3", 3), ("L4V2", 2), ("L4V2", 4), ("L2V5", 2)])
def test_order_that_is_kept_has_the_law_of_the_chain_rule_along_it(predictor, order, name, depth):
    given = Exactly(BEDS[name], predictor, order)
    law, rounds = given.law(depth)
    expected, expected_rounds = given.one_by_one(depth)
    assert_same(law, expected)
    assert rounds == pytest.approx(expected_rounds, abs=1e-12)
    if predictor == "oracle":
        assert_same(law, given.bed.p)


def test_kept_order_of_an_inconsistent_predictor_may_depend_on_the_depth():
    given = Exactly(BEDS["L4V2"], "bad", "max_probability")
    assert float((given.law(4)[0] - given.law(1)[0]).abs().max()) > 0.01


@PREDICTORS
@pytest.mark.parametrize("keep_order", [True, False])
def test_random_order_has_the_law_of_denoise(predictor, keep_order):
    """Here an order is the same in all rounds; a new one is as likely whatever came before, so the mean is the law."""
    laws = [
        (given.law(3, keep_order)[0], given.one_by_one()[0])
        for given in (Exactly(BED, predictor, order) for order in itertools.permutations(range(3)))
    ]
    for law, expected in laws:
        assert_same(law, expected)
    mean = torch.stack([law for law, _ in laws]).mean(dim=0)
    bed_law, _ = law_of(BED, getattr(BED, predictor), 3, order=orders.random, random_order=True)
    assert_same(mean, bed_law)


@PREDICTORS
@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_law_at_a_temperature_is_that_of_the_tempered_conditionals(predictor, temperature):
    given = Exactly(BED, predictor, "max_probability", temperature)
    assert_same(given.law(3, keep_order=False)[0], given.one_by_one()[0])
    assert_same(given.law(3)[0], given.one_by_one(3)[0])
