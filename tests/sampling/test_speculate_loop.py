"""The loop around the turns of speculation: rows, seeds, calls, masks, and every refusal."""

import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tables import MASK, Table, canvases, final, settled

from llada.sampling import orders
from llada.sampling.chains import scores
from llada.sampling.denoise import denoise, row_uniforms
from llada.sampling.drafts import inverse_cdf
from llada.sampling.predictors import plain
from llada.sampling.speculate import accepts, exact_speculation, greedy_speculation, replacement
from llada.sampling.trace import Kind, Recorder
from llada.sampling.uniforms import Stream, moment


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
