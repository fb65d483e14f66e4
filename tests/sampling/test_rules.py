"""What all rules have in common: what they are shown, rows that do not depend on each other, and dtypes."""

from dataclasses import replace

import pytest
import torch
from rule_steps import Asked, run, table
from torch import Tensor

from llada.sampling import orders, reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical, draft_at, replacing
from llada.sampling.orders import Drafts
from llada.sampling.reveals import Rule
from llada.sampling.uniforms import Stream


def starts(canvas: Tensor, states: list[State]) -> list[Tensor]:
    """The window of each step before it."""
    befores = [canvas, *(state.canvas for state in states[:-1])]
    return [before[:, state.block] for before, state in zip(befores, states, strict=True)]


@pytest.mark.parametrize(
    ("options", "everywhere"),
    [
        ({}, False),
        ({"steps": 3, "reveal": reveals.mask_predict}, False),
        ({"steps": 12, "reveal": reveals.gibbs(2)}, False),
        ({"steps": 9, "reveal": reveals.remdm("rescale", 1.0)}, False),
        ({"reveal": reveals.klass(0.5, 0.5, 1)}, False),
        ({"reveal": Rule(reveals.threshold(0.5), everywhere=True)}, True),
        ({"steps": 6, "reveal": reveals.p2(2.0)}, True),
        ({"steps": 6, "reveal": reveals.early_exit(reveals.p2(2.0))}, True),
        ({"reveal": reveals.threshold(0.5), "edit": replacing(0.4, 3)}, True),
        ({"steps": 4, "stop_token_id": 4}, False),
    ],
    ids=["top_k", "mask_predict", "gibbs", "remdm", "klass", "everywhere", "p2", "early p2", "edit", "stop"],
)
def test_predictions_are_asked_for_masks_and_for_writable_tokens_where_the_rule_looks_at_them(options, everywhere):
    canvas = torch.full((4, 8), 5)
    canvas[1, 3:] = 0
    canvas[2, ::2] = 1
    canvas[3] = 2
    writable = canvas == 5
    writable[1, 3:5] = True  # a given token that may be written
    predict, blocks = Asked(3), [slice(0, 5), slice(5, 8)]
    states = list(denoise(predict, canvas, 5, blocks=blocks, draft=categorical(1.0), writable=writable, **options))
    assert not (states[-1].canvas == 5).any()
    expected = []
    for state, present in zip(states, starts(canvas, states), strict=True):
        masked, free = present == 5, writable[:, state.block]
        asked = (masked | free if everywhere else masked) & state.active[:, None]
        assert torch.equal(state.draft[~asked], present[~asked])
        assert (state.score[~asked] == -torch.inf).all()
        assert (state.probability[~asked] == 1).all()
        assert (state.score[asked] > -torch.inf).all()
        expected.append((asked, bool((asked & ~masked).any())))
    assert any(visible for _, visible in expected) == everywhere
    needed = [asked for asked, _ in expected if asked.any()]  # none where a rule goes on and nothing is masked
    assert not any(asked[3].any() for asked in needed)  # a row in which nothing is to be done
    for asked, mine in zip([asked for asked in predict.asked if asked.any()], needed, strict=True):
        assert torch.equal(asked, mine)


def test_drafts_that_an_order_is_shown_are_those_of_the_predicted_positions():
    canvas = torch.full((3, 8), 5)
    canvas[0, 2:] = 1
    canvas[1, ::3] = 0
    shown_to_order: list[Drafts] = []

    def watching(drafts: Drafts) -> Tensor:
        shown_to_order.append(drafts)
        return orders.random(drafts)

    predict = Asked(3)
    uniforms = row_uniforms(4, canvas)
    states = list(denoise(predict, canvas, 5, blocks=[slice(1, 8)], order=watching, uniforms=uniforms))
    for turn, (state, drafts, asked) in enumerate(zip(states, shown_to_order, predict.asked, strict=True)):
        row, place = asked.nonzero(as_tuple=True)
        assert drafts.width == 7
        assert torch.equal(drafts.place, place)
        assert torch.equal(drafts.token, state.draft[row, place])
        assert torch.equal(drafts.uniforms, uniforms(state.block, turn, Stream.ORDER)[row, place])
        assert torch.equal(drafts.uniforms, state.score[row, place])
        assert (drafts.logits[:, 5] == -torch.inf).all()  # [MASK] is no draft
        assert torch.equal(orders.confidence(drafts), state.probability[row, place])


RULES: dict[str, dict] = {
    "top_k": {"reveal": reveals.top_k},
    "threshold": {"reveal": reveals.threshold(0.5)},
    "factor": {"reveal": reveals.factor(1.2)},
    "entropy bound": {"reveal": reveals.entropy_bound(0.8)},
    "klass": {"reveal": reveals.klass(0.5, 1.0, 2)},
    "ancestral": {"reveal": reveals.ancestral, "steps": 6},
    "mask_predict": {"reveal": reveals.mask_predict, "steps": 5},
    "p2": {"reveal": reveals.p2(2.0), "steps": 6},
    "remdm": {"reveal": reveals.remdm("rescale", 0.5), "steps": 8},
    "remdm, conf": {"reveal": reveals.remdm("conf", 1.0), "steps": 8},
    "gibbs": {"reveal": reveals.gibbs(2), "steps": 14},
    "early exit": {"reveal": reveals.early_exit(reveals.top_k, (3.0, 2.0, 1.0)), "steps": 8},
    "early exit of klass": {"reveal": reveals.early_exit(reveals.klass(0.5, 1.0, 2), (3.0, 2.0, 1.0)), "steps": 8},
}


def ragged() -> Tensor:
    """Rows with one mask to eight."""
    canvas = torch.randint(0, 5, (5, 8), generator=torch.Generator().manual_seed(0))
    for row, masks in enumerate(([4], [0, 5], range(0, 8, 2), range(2, 8), range(8))):
        canvas[row, list(masks)] = 5
    return canvas


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_predictions_at_visible_positions_change_no_rule_that_does_not_ask_for_them(name, temperature):
    canvas, options = ragged(), {"draft": draft_at(temperature), **RULES[name]}
    rule = options.pop("reveal")
    rule = rule if isinstance(rule, Rule) else Rule(rule)
    usual = run(table(6), canvas, 5, reveal=rule, **options)
    more = run(table(6), canvas, 5, reveal=replace(rule, everywhere=True), **options)
    assert len(usual) == len(more)
    for a, b in zip(usual, more, strict=True):
        for part in ("canvas", "draft", "probability", "visible"):
            assert torch.equal(getattr(a, part), getattr(b, part)), part


@pytest.mark.parametrize("name", RULES)
def test_masks_that_may_not_be_written_stay_and_no_token_is_predicted_for_them(name):
    canvas, predict = ragged(), Asked(3)
    writable = canvas == 5
    writable[:, 4:6] = False
    states = list(denoise(predict, canvas, 5, writable=writable, **RULES[name]))
    for state in states:
        assert torch.equal(state.canvas[~writable], canvas[~writable])
    assert torch.equal(states[-1].canvas == 5, (canvas == 5) & ~writable)
    assert not any((asked & ~writable).any() for asked in predict.asked)
    assert not any(state.active[0] for state in states)  # its only mask is one of these


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_a_rule_do_not_depend_on_their_neighbours(name, temperature):
    canvas, options = ragged(), {"steps": 8, "draft": draft_at(temperature), **RULES[name]}
    together = run(table(6), canvas, 5, uniforms=row_uniforms(3, canvas), **options)
    for i in range(len(canvas)):
        alone = run(table(6), canvas[i : i + 1], 5, uniforms=row_uniforms(3, canvas[i : i + 1], i), **options)
        predicted = [state for state in alone if state.active[0]]
        taken = [state for state in together if state.active[i]]
        assert len(taken) == len(predicted)
        assert torch.equal(together[-1].canvas[i], alone[-1].canvas[0])
        for a, b in zip(predicted, taken, strict=True):
            for part in ("canvas", "draft", "score", "probability", "visible"):
                assert torch.equal(getattr(a, part)[0], getattr(b, part)[i]), part


@pytest.mark.parametrize(
    "rule",
    [
        reveals.top_k,
        reveals.threshold(0.9),
        reveals.factor(0.1),
        reveals.entropy_bound(0.1),
        reveals.klass(0.8, 0.1, 1),
        reveals.early_exit(reveals.klass(0.8, 0.1, 1), (9.0, 9.0, 9.0)),
    ],
    ids=["top_k", "threshold", "factor", "entropy bound", "klass", "early klass"],
)
def test_rows_that_ran_out_of_steps_keep_their_masks_while_others_are_edited(rule):
    canvas = ragged()
    options = {"steps": 3, "reveal": rule, "edit": replacing(0.3, extra_steps=4)}
    options["counts"] = lambda masks, steps: torch.ones(len(masks), steps, dtype=torch.long)
    together = run(table(6), canvas, 5, **options)
    assert len(together) > 3
    left = (together[2].canvas == 5).any(dim=1)
    assert 0 < left.sum() < 5
    for state, present in list(zip(together, starts(canvas, together), strict=True))[3:]:
        assert not state.active[left].any()
        assert torch.equal(state.canvas[left], present[left])
        assert torch.equal(state.draft[left], present[left])
        assert (state.probability[left] == 1).all()
    for i in range(5):
        alone = run(table(6), canvas[i : i + 1], 5, **options)
        assert torch.equal(alone[-1].canvas[0], together[-1].canvas[i])


# Half precision


@pytest.mark.parametrize("order", [orders.confidence, orders.max_probability, orders.margin, orders.entropy])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_ordered_by_probabilities_that_it_cannot_hold(order, dtype):
    logits = torch.tensor([[[8.0, 0.0, 0.0], [8.125, 0.0, 0.0], [8.0625, 0.0, 0.0]]], dtype=dtype)  # held exactly
    assert (logits.softmax(dim=-1)[..., 0] == logits.softmax(dim=-1)[..., :1, 0]).all()  # in half precision a tie
    states = list(denoise(lambda canvas, block: logits[:, block], torch.full((1, 3), 2), 2, order=order))
    assert [state.canvas[0].tolist() for state in states] == [[2, 0, 2], [2, 0, 0], [0, 0, 0]]
    assert all(state.score.dtype == torch.float32 for state in states)
    exact = 1 / (1 + torch.tensor([8.0, 8.125, 8.0625], dtype=torch.float64).neg().exp())
    assert torch.allclose(states[0].probability[0], exact, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_thresholds_are_not_met_by_rounding(dtype):
    logits = torch.tensor([[[6.0, 0.0, 0.0], [8.5, 0.0, 0.0], [6.0, 0.0, 0.0]]], dtype=dtype)  # 0.9975 and 0.9998
    rule = reveals.threshold(0.9996)
    state = next(denoise(lambda canvas, block: logits[:, block], torch.full((1, 3), 2), 2, reveal=rule))
    assert state.visible.tolist() == [[False, True, False]]
    state = next(
        denoise(lambda canvas, block: logits[:, block], torch.full((1, 3), 2), 2, reveal=reveals.threshold(0.9974))
    )
    assert state.visible.all()


def test_logits_of_float64_are_not_rounded():
    logits = torch.tensor([[[1.0, 0.0, 0.0], [1.0 + 1e-12, 0.0, 0.0]]], dtype=torch.float64)
    state = next(denoise(lambda canvas, block: logits[:, block], torch.full((1, 2), 2), 2))
    assert state.visible.tolist() == [[False, True]]
