"""Speculation: the output of one step after another, exactly, in fewer calls (T20 and T21 of the specification)."""

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bed import BED, BEDS, Bed
from laws import law as law_of

from llada.sampling import orders
from llada.sampling.denoise import denoise, row_uniforms
from llada.sampling.predictors import plain
from llada.sampling.schedules import cosine_counts, given_counts
from llada.sampling.speculate import accepts, exact_speculation, greedy_speculation, replacement
from llada.sampling.uniforms import RowUniforms

MASK = 3  # of the tables
PREDICTORS = pytest.mark.parametrize("predictor", ["oracle", "bad"])
STATE_ONLY = ["left_to_right", "max_probability", "margin", "entropy"]


@dataclass
class Table:
    """Random logits for every canvas of 5 tokens out of 3, and what was asked; [MASK] looks likeliest everywhere."""

    seed: int
    noise: float = 1.0  # how much the logits depend on the canvas: at 0 every draft comes true
    calls: list[int] = field(default_factory=list)  # the number of canvases in each

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)
        self.logits = torch.randn(5, MASK + 1, generator=generator, dtype=torch.float64) + self.noise * torch.randn(
            (MASK + 1) ** 5, 5, MASK + 1, generator=generator, dtype=torch.float64
        )
        self.logits[..., MASK] = 9.0

    def __call__(self, canvas: torch.Tensor, block: slice) -> torch.Tensor:
        self.calls.append(len(canvas))
        powers = (MASK + 1) ** torch.arange(5)
        return self.logits[(canvas * powers).sum(dim=1), block]


def canvases(seed: int) -> torch.Tensor:
    """All masked, partly masked twice, and complete: rows that finish at different times."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(MASK, (4, 5), generator=generator)
    masked = torch.rand(4, 5, generator=generator) < torch.tensor([1.0, 0.7, 0.4, 0.0])[:, None]
    return tokens.masked_fill(masked, MASK)


def final(rounds, canvas: torch.Tensor) -> torch.Tensor:
    """Where a sampler ends; it yields nothing where there is nothing to do."""
    for given in rounds:
        canvas = given.canvas
    return canvas


NOISE = (0.0, 0.3, 1.0)
PLANS = [
    {},
    {"steps": 1},
    {"steps": 2},
    {"steps": 3},
    {"steps": 7},
    {"steps": 4, "counts": cosine_counts},
    {"counts": given_counts([2, 0, 1, 2]), "steps": 4},
    {"counts": lambda masks, steps: torch.ones(len(masks), 1, dtype=torch.long), "steps": 3},
    {"blocks": [slice(0, 2), slice(2, 5)]},
    {"blocks": [slice(2, 5), slice(0, 1)], "steps": 2},
    {"order": orders.entropy, "steps": 3},
    {"order": orders.random},
    {"order": orders.random, "blocks": [slice(0, 3), slice(3, 5)]},
    {"order": orders.excluding(orders.confidence, [0, 1])},
]


def plan(seed: int) -> dict[str, Any]:
    return PLANS[seed % len(PLANS)] | {"uniforms": row_uniforms(seed, torch.ones(4, 5))}


@cache
def greedily(seed: int) -> tuple[torch.Tensor, int]:
    """What greedy decoding gives, and its calls."""
    table = Table(seed, NOISE[seed % 3])
    return final(denoise(table, canvases(seed), MASK, **plan(seed)), canvases(seed)), len(table.calls)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_t21_greedy_speculation_is_greedy_decoding_on_300_random_tables(depth):
    saved = 0
    for seed in range(300):
        table, (expected, calls) = Table(seed, NOISE[seed % 3]), greedily(seed)
        rounds = list(greedy_speculation(table, canvases(seed), MASK, depth=depth, **plan(seed)))
        assert torch.equal(final(rounds, canvases(seed)), expected), (seed, plan(seed))
        assert (rounds[-1].predictions, rounds[-1].forwards) == (len(table.calls), sum(table.calls))
        assert len(table.calls) <= calls
        saved += calls - len(table.calls)
    assert saved == 0 if depth == 1 else saved > 50


@pytest.mark.parametrize(("depth", "predictions"), [(1, 5), (2, 3), (3, 3), (4, 2), (9, 2)])
def test_greedy_drafts_that_all_come_true_take_a_call_per_depth_steps_and_one(depth, predictions):
    rounds = list(greedy_speculation(Table(0, 0.0), torch.full((2, 5), MASK), MASK, depth=depth))
    assert rounds[-1].predictions == predictions == 1 + math.ceil(4 / depth)
    assert sum(r.accepted for r in rounds).tolist() == [5, 5]


# The exact law: every outcome of a round, from every canvas that can occur, with its probability. What the numbers
# mean is worked out here from the two distributions, not with the functions under test.


class Numbers:
    """Numbers of one round, written down beforehand, (rows, 4, L): `exact_speculation` uses streams 3 to 6."""

    def __init__(self, script: torch.Tensor):
        self.script = script

    def __call__(self, block: slice, step: int, stream: int) -> torch.Tensor:
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

    def law(self, depth: int, keep_order: bool = True, fraction: float = 0.5) -> tuple[torch.Tensor, float]:
        """Probability of every sequence (V^L,), and the expected number of rounds, of `exact_speculation` itself."""
        order = orders.random if isinstance(self.order, tuple) else getattr(orders, self.order)
        weights, rounds = {(self.bed.mask,) * self.bed.length: 1.0}, 0.0
        while any(self.bed.mask in canvas for canvas in weights):
            after: dict[tuple[int, ...], float] = defaultdict(float)
            starts, scripts, chances = [], [], []
            for canvas, weight in weights.items():
                if self.bed.mask not in canvas:
                    after[canvas] += weight
                    continue
                rounds += weight
                for chance, script in self.outcomes(canvas, depth, fraction):
                    starts, scripts, chances = [*starts, canvas], [*scripts, script], [*chances, weight * chance]
            stepped = next(
                exact_speculation(
                    lambda canvas, block: self.logits(canvas)[:, block],
                    torch.tensor(starts),
                    self.bed.mask,
                    depth=depth,
                    temperature=self.temperature,
                    order=order,
                    keep_order=keep_order,
                    uniforms=Numbers(torch.stack(scripts)),
                )
            )
            for canvas, chance in zip(map(tuple, stepped.canvas.tolist()), chances, strict=True):
                after[canvas] += chance
            weights = after
        ends, chances = torch.tensor(list(weights)), torch.tensor(list(weights.values()), dtype=torch.float64)
        law = torch.zeros(self.bed.vocab**self.bed.length, dtype=torch.float64)
        return law.index_add(0, self.bed.index(ends), chances), rounds

    def one_by_one(self, depth: int = 1) -> tuple[torch.Tensor, float]:
        """The chain rule: tokens drawn from the predictor's conditionals one after another, without any speculation.

        The order is asked anew with probability 1 - min(1, q / p) of the token drawn, and after `depth` tokens: that is
        when rounds end. At depth 1 this is the usual sequential sampler.
        """
        law, rounds = torch.zeros(self.bed.vocab**self.bed.length, dtype=torch.float64), 0.0
        todo = [((self.bed.mask,) * self.bed.length, 1.0, [], None)]
        while todo:
            canvas, weight, turns, q = todo.pop()
            if self.bed.mask not in canvas:
                law[self.bed.index(torch.tensor(canvas))] += weight
                continue
            p = self.conditional(canvas, self.temperature)
            if not turns:
                rounds += weight
                turns, q = self.positions(canvas)[:depth], p
            i, later = turns[0], turns[1:]
            for y in range(self.bed.vocab):
                after, chance = (*canvas[:i], y, *canvas[i + 1 :]), weight * float(p[i, y])
                goes_on = min(1.0, float(q[i, y] / p[i, y])) if chance else 0.0
                todo.append((after, chance * goes_on, later, q))
                if goes_on < 1:
                    todo.append((after, chance * (1 - goes_on), [], None))
        return law, rounds


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


# The loop around the rounds.


@pytest.mark.parametrize("keep_order", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_rounds_go_on_from_their_canvas_alone(depth, keep_order):
    """Predictions that a round takes over from the one before it are those that its canvas has."""
    options = {"depth": depth, "keep_order": keep_order, "order": orders.max_probability}
    for seed in range(30):
        uniforms = row_uniforms(seed, torch.ones(4, 5))
        canvas, taken_over = canvases(seed), 0
        rounds = list(exact_speculation(Table(seed, 0.5), canvas, MASK, uniforms=uniforms, **options))
        for index, given in enumerate(rounds):
            later = Later(uniforms.seed, uniforms.rows, uniforms.positions, index)
            alone = next(exact_speculation(Table(seed, 0.5), canvas, MASK, uniforms=later, **options))
            assert torch.equal(given.canvas, alone.canvas)
            assert torch.equal(given.accepted, alone.accepted)
            canvas = given.canvas
            taken_over += alone.predictions
        assert not (canvas == MASK).any()
        assert taken_over >= rounds[-1].predictions


@dataclass(frozen=True)
class Later(RowUniforms):
    """The numbers of the rounds after the first few."""

    first: int

    def __call__(self, columns: slice, step: int, stream: int) -> torch.Tensor:
        return super().__call__(columns, step + self.first, stream)


@pytest.mark.parametrize("blocks", [None, [slice(0, 2), slice(2, 5)]])
@pytest.mark.parametrize("keep_order", [True, False])
def test_row_alone_is_the_row_of_a_batch(keep_order, blocks):
    options = {"depth": 2, "keep_order": keep_order, "order": orders.random, "blocks": blocks}
    for seed in range(30):
        canvas, ones = canvases(seed), torch.ones(4, 5)
        together = final(
            exact_speculation(Table(seed), canvas, MASK, uniforms=row_uniforms(seed, ones), **options), canvas
        )
        for row in range(4):
            uniforms = row_uniforms(seed, ones[:1], first_row=row)
            one = canvas[row : row + 1]
            alone = final(exact_speculation(Table(seed), one, MASK, uniforms=uniforms, **options), one)
            assert torch.equal(alone, together[row : row + 1])


def test_same_seed_same_tokens_and_another_seed_others():
    canvas = torch.full((8, 5), MASK)

    def sample(seed: int) -> torch.Tensor:
        uniforms = row_uniforms(seed, torch.ones(8, 5))
        return final(exact_speculation(Table(0), canvas, MASK, depth=3, uniforms=uniforms), canvas)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert len(sample(1).unique(dim=0)) > 1


def test_calls_are_one_and_one_per_round_where_all_drafts_come_true():
    table = Table(0, 0.0)  # p is q
    rounds = list(exact_speculation(table, torch.full((2, 5), MASK), MASK, depth=2, order=orders.left_to_right))
    assert [r.accepted.tolist() for r in rounds] == [[2, 2], [2, 2], [1, 1]]
    assert [r.predictions for r in rounds] == [2, 3, 3]
    assert table.calls == [2, 4, 4]
    assert [r.forwards for r in rounds] == [6, 10, 10]


def test_mask_is_never_drawn_and_what_is_given_stays():
    for seed in range(30):
        given = canvases(seed)
        for sampler in (exact_speculation, greedy_speculation):
            ended = final(sampler(Table(seed), given, MASK, depth=3), given)
            assert (ended < MASK).all()
            assert torch.equal(ended[given != MASK], given[given != MASK])


def test_rounds_add_up_and_leave_earlier_canvases_alone():
    for sampler in (exact_speculation, greedy_speculation):
        given = canvases(3)
        rounds = list(sampler(Table(3), given, MASK, depth=2))
        masks = [(canvas == MASK).sum(dim=1) for canvas in (given, *(r.canvas for r in rounds))]
        for r, before, after in zip(rounds, masks, masks[1:], strict=False):
            assert torch.equal(r.accepted, before - after)
        assert torch.equal(given, canvases(3))
        assert rounds[0].predictions >= 1


@pytest.mark.parametrize("sampler", [exact_speculation, greedy_speculation])
@pytest.mark.parametrize("canvas", [torch.ones(2, 5, dtype=torch.long), torch.zeros(0, 5, dtype=torch.long)])
def test_nothing_masked_costs_no_prediction(sampler, canvas):
    table = Table(0)
    assert list(sampler(table, canvas, MASK, depth=2)) == []
    assert table.calls == []


def test_tokens_beyond_the_mask_can_be_drafted_and_excluded():
    def predict(canvas: torch.Tensor, block: slice) -> torch.Tensor:
        table = Table(0)(canvas.clamp(max=MASK), block)
        return torch.cat((table, table.flip(-1)), dim=-1)

    order = orders.excluding(orders.confidence, [2 * MASK + 1])
    canvas = torch.full((2, 5), MASK)
    for sampler in (exact_speculation, greedy_speculation):
        ended = final(sampler(predict, canvas, MASK, depth=3, order=order), canvas)
        assert (ended != MASK).all()
    assert torch.equal(ended, final(denoise(predict, canvas, MASK, order=order), canvas))


def test_attention_mask_of_a_batch_follows_its_rows_into_the_chains():
    class Model:
        """Logits that depend on which row's attention mask is given, and on the canvas."""

        config = None

        def __call__(self, input_ids, /, *, attention_mask=None):
            shift = (attention_mask * 10 ** torch.arange(5)).sum(dim=1)
            logits = torch.stack(
                [Table(int(s) % 97)(c[None], slice(0, 5))[0] for s, c in zip(shift, input_ids, strict=True)]
            )
            return SimpleNamespace(logits=logits)

    canvas = torch.full((3, 5), MASK).index_fill(1, torch.tensor([0]), 0)
    attention_mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    for sampler in (greedy_speculation, exact_speculation):
        together = final(sampler(plain(Model(), attention_mask), canvas, MASK, depth=3), canvas)
        for row in range(3):
            one = slice(row, row + 1)
            options = {} if sampler is greedy_speculation else {"uniforms": row_uniforms(0, torch.ones(1, 5), row)}
            alone = final(sampler(plain(Model(), attention_mask[one]), canvas[one], MASK, depth=3, **options), canvas)
            assert torch.equal(alone, together[one])


def test_drafts_are_kept_below_the_ratio_of_the_two_probabilities():
    p = torch.tensor([[0.2, 0.8], [0.9, 0.1]], dtype=torch.float64)
    q = torch.tensor([[0.4, 0.6], [0.0, 1.0]], dtype=torch.float64)
    below, above = torch.tensor([0.4999, 0.0999]), torch.tensor([0.5001, 0.1001])
    assert accepts(p, q, torch.tensor([0, 1]), below).tolist() == [True, True]
    assert accepts(p, q, torch.tensor([0, 1]), above).tolist() == [False, False]
    assert accepts(p, q, torch.tensor([1, 1]), torch.tensor([1 - 2.0**-53, 0.0999])).tolist() == [True, True]


def test_replacement_is_one_of_the_tokens_that_were_drafted_too_seldom():
    p = torch.tensor([[0.1, 0.5, 0.4]], dtype=torch.float64).expand(4, -1)
    q = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).expand(4, -1)
    numbers = torch.tensor([1e-9, 0.4999, 0.5001, 1 - 1e-9], dtype=torch.float64)
    assert replacement(p, q, numbers).tolist() == [1, 1, 2, 2]
    assert replacement(p, p, numbers).tolist() == [0, 1, 1, 2]  # p itself


@pytest.mark.parametrize("sampler", [exact_speculation, greedy_speculation])
@pytest.mark.parametrize("depth", [0, -2])
def test_chain_without_canvases_is_an_error(sampler, depth):
    with pytest.raises(ValueError, match=f"depth={depth} must be at least 1"):
        next(sampler(Table(0), canvases(0), MASK, depth=depth))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_that_is_not_above_0_is_an_error(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be above 0"):
        next(exact_speculation(Table(0), canvases(0), MASK, depth=2, temperature=temperature))
