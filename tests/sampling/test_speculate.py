"""Speculation: the output of one step after another, exactly, in fewer calls (T20 and T21 of the specification)."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bed import BED, BEDS, Bed
from laws import law as law_of

from llada.sampling import orders
from llada.sampling.chains import scores
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import inverse_cdf
from llada.sampling.predictors import plain
from llada.sampling.schedules import cosine_counts, given_counts
from llada.sampling.speculate import accepts, exact_speculation, greedy_speculation, replacement
from llada.sampling.trace import Kind, Recorder
from llada.sampling.uniforms import Stream, moment

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


def settled(states: list[State], canvas: torch.Tensor) -> dict[tuple[int, int], list[float]]:
    """Token, probability and score of every token that was revealed, by row and position in the canvas."""
    known = {}
    for state in states:
        revealed = (canvas[:, state.block] == MASK) & state.visible
        rows, places = revealed.nonzero(as_tuple=True)
        of = torch.stack([given[revealed].double() for given in (state.draft, state.probability, state.score)], dim=1)
        first = state.block.indices(canvas.shape[1])[0]
        known |= dict(zip(zip(rows.tolist(), (places + first).tolist(), strict=True), of.tolist(), strict=True))
        canvas = state.canvas
    return known


@cache
def greedily(seed: int) -> list[State]:
    """What greedy decoding does."""
    return list(denoise(Table(seed, NOISE[seed % 3]), canvases(seed), MASK, **plan(seed)))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_t21_greedy_speculation_is_greedy_decoding_on_300_random_tables(depth):
    saved = 0
    for seed in range(300):
        table, expected = Table(seed, NOISE[seed % 3]), greedily(seed)
        rounds = list(greedy_speculation(table, canvases(seed), MASK, depth=depth, **plan(seed)))
        assert torch.equal(final(rounds, canvases(seed)), final(expected, canvases(seed))), (seed, plan(seed))
        assert settled(rounds, canvases(seed)) == settled(expected, canvases(seed))
        assert [int(r.canvases.sum()) for r in rounds] == table.calls
        assert [r.index for r in rounds] == list(range(len(rounds)))
        saved += len(expected) - len(rounds)
        assert (sum(r.active.long() for r in rounds) <= sum(state.active.long() for state in expected)).all()
    assert saved == 0 if depth == 1 else saved > 50


def test_chain_of_one_canvas_has_the_very_states_of_denoise():
    for seed in range(50):
        rounds = list(greedy_speculation(Table(seed, NOISE[seed % 3]), canvases(seed), MASK, depth=1, **plan(seed)))
        for given, expected in zip(rounds, greedily(seed), strict=True):
            for name in (known.name for known in fields(State)):
                mine, other = getattr(given, name), getattr(expected, name)
                assert torch.equal(mine, other) if isinstance(other, torch.Tensor) else mine == other, name


@pytest.mark.parametrize(("depth", "calls"), [(1, 5), (2, 3), (3, 3), (4, 2), (9, 2)])
def test_greedy_drafts_that_all_come_true_take_a_call_per_depth_steps_and_one(depth, calls):
    rounds = list(greedy_speculation(Table(0, 0.0), torch.full((2, 5), MASK), MASK, depth=depth))
    assert len(rounds) == calls == 1 + math.ceil(4 / depth)


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


# The loop around the turns.


def alone(table: Table, given: torch.Tensor, row: int, seed: int, options: dict[str, Any]) -> Iterator[tuple]:
    """One row, one decision after another: the canvas (L,) after every call, and of each new token what is known."""
    canvas, uniforms = given[row : row + 1].clone(), row_uniforms(seed, torch.ones(1, 5), first_row=row)
    order, depth, T = options["order"], options["depth"], options["temperature"]

    def logits(block: slice) -> torch.Tensor:
        return table(canvas, block).index_fill(-1, torch.tensor([MASK]), -torch.inf)

    def places(block: slice, numbers: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        window = canvas[:, block]
        draft = torch.where(window == MASK, logits(block).argmax(dim=-1), window)
        score = scores(order, logits(block), draft, numbers)[0]
        return sorted((window[0] == MASK).nonzero()[:, 0].tolist(), key=lambda i: -float(score[i])), score

    for number, block in enumerate(options["blocks"] or [slice(0, 5)]):
        drafts, score, turn = [], torch.empty(0), torch.empty(0)
        for call in itertools.count():
            window = canvas[0, block]  # a view
            if not (window == MASK).any():
                break
            told, ended = {}, False
            for i, y, q in drafts:
                if not options["keep_order"] and places(block, turn)[0][0] != i:
                    break
                given_number, other = (
                    uniforms(block, moment(number, call), stream)[0, i] for stream in (Stream.ACCEPT, Stream.REPLACE)
                )
                p = (logits(block)[0, i].double() / T).softmax(dim=-1)
                ended = bool(given_number * q[y] >= p[y])
                token = int(inverse_cdf((p - q).clamp(min=0)[None].log(), other[None])) if ended else y
                told[block.start + i] = token, float(logits(block)[0, i].softmax(dim=-1)[token]), float(score[i])
                window[i] = token
                if ended:
                    break
            drafts = []
            if not ended and (window == MASK).any():
                turn = uniforms(block, moment(number, call), Stream.SPECULATIVE_ORDER)
                at, score = places(block, turn)
                for i in at[:depth]:
                    drawn = uniforms(block, moment(number, call), Stream.SPECULATIVE_DRAFT)[0, i]
                    q = (logits(block)[0, i].double() / T).softmax(dim=-1)
                    drafts.append((i, int(inverse_cdf(logits(block)[0, i][None], drawn[None], T)), q))
                i, y, _ = drafts.pop(0)
                told[block.start + i] = y, float(logits(block)[0, i].softmax(dim=-1)[y]), float(score[i])
                window[i] = y
            yield canvas[0].clone(), told


@pytest.mark.parametrize("order", [orders.max_probability, orders.random])
@pytest.mark.parametrize("keep_order", [True, False])
@pytest.mark.parametrize(("depth", "temperature"), [(1, 1.0), (2, 1.0), (3, 0.7), (9, 1.5)])
def test_every_row_does_what_it_does_alone_one_decision_after_another(depth, temperature, keep_order, order):
    for seed in range(20):
        blocks = [None, [slice(0, 2), slice(2, 5)]][seed % 2]
        options = {"depth": depth, "temperature": temperature, "order": order, "keep_order": keep_order}
        options |= {"blocks": blocks}
        given, uniforms = canvases(seed), row_uniforms(seed, torch.ones(4, 5))
        rounds = list(exact_speculation(Table(seed, 0.5), given, MASK, uniforms=uniforms, **options))
        known = settled(rounds, given)
        for row in range(4):
            expected = list(alone(Table(seed, 0.5), given, row, seed, options))
            took_part = [r for r in rounds if r.active[row]]
            assert len(took_part) == len(expected)
            for r, (canvas, told) in zip(took_part, expected, strict=True):
                assert torch.equal(r.canvas[row], canvas)
                for place, of in told.items():
                    assert known[row, place] == pytest.approx(list(of), abs=1e-12)


def test_same_seed_same_tokens_and_another_seed_others():
    canvas = torch.full((8, 5), MASK)

    def sample(seed: int) -> torch.Tensor:
        uniforms = row_uniforms(seed, torch.ones(8, 5))
        return final(exact_speculation(Table(0), canvas, MASK, depth=3, uniforms=uniforms), canvas)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert len(sample(1).unique(dim=0)) > 1


def test_calls_are_one_and_one_per_turn_where_all_drafts_come_true():
    table = Table(0, 0.0)  # p is q
    rounds = list(exact_speculation(table, torch.full((2, 5), MASK), MASK, depth=2, order=orders.left_to_right))
    assert [(r.canvas == MASK).sum(dim=1).tolist() for r in rounds] == [[4, 4], [2, 2], [0, 0]]
    assert table.calls == [2, 4, 4]
    assert [r.canvases.tolist() for r in rounds] == [[1, 1], [2, 2], [2, 2]]


def test_rows_that_are_rejected_and_rows_that_are_not_share_their_calls():
    """A batch takes as many calls as its slowest row alone."""
    for seed in range(30):
        given = canvases(seed)
        rounds = list(exact_speculation(Table(seed), given, MASK, depth=3))
        assert len(rounds) == int(sum(r.active.long() for r in rounds).max())
        assert all(((r.canvases > 0) == r.active).all() and (r.canvases <= 3).all() for r in rounds)


def test_mask_is_never_drawn_and_what_is_given_stays():
    for seed in range(30):
        given = canvases(seed)
        for sampler in (exact_speculation, greedy_speculation):
            ended = final(sampler(Table(seed), given, MASK, depth=3), given)
            assert (ended < MASK).all()
            assert torch.equal(ended[given != MASK], given[given != MASK])


@pytest.mark.parametrize("sampler", [exact_speculation, greedy_speculation])
def test_every_call_reveals_a_token_in_the_rows_that_take_part_and_a_trace_replays_it(sampler):
    for seed in range(30):
        given, recorder = canvases(seed), Recorder(canvases(seed), MASK)
        rounds = list(recorder.watch(sampler(Table(seed), given, MASK, depth=2)))
        before = canvases(seed)
        for r in rounds:
            fewer = (before == MASK).sum(dim=1) - (r.canvas == MASK).sum(dim=1)
            assert torch.equal(fewer > 0, r.active)
            assert torch.equal(r.visible, r.canvas != MASK)
            assert torch.equal(torch.isneginf(r.score).all(dim=1), ~r.active)
            before = r.canvas
        assert all(torch.equal(a, b.canvas) for a, b in zip(recorder.trace.replay(), rounds, strict=True))
        assert (recorder.trace.kind == Kind.REVEALED).all()
        assert torch.equal(given, canvases(seed))


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
