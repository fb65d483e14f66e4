"""Guidance, forbidden and allowed tokens, what predictors are asked for, and what finished rows cost."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bed import BED
from safetensors.torch import load_file
from torch import Tensor, nn

import llada
from llada.config import ConfigError
from llada.sampling import reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical, replacing
from llada.sampling.generate import SamplerConfig, generate, infill
from llada.sampling.predictors import (
    LeanModel,
    Meter,
    Predict,
    Predictor,
    adaptively_guided,
    guided,
    logits_at,
    plain,
    restricted,
    suppressed,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-mha"
CASES = json.loads((GOLDEN / "reference.json").read_text())
MASK, EOS = 5, 4  # of the small predictors below
LENGTH, VOCAB = 8, 6


@dataclass
class Counting:
    """A model that hashes its canvas, and writes down how many rows each evaluation has."""

    seed: int = 0
    sharpness: float = 1.0
    rows: list[int] = field(default_factory=list)
    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(mask_token_id=MASK, eos_token_id=EOS))

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        self.rows.append(len(input_ids))
        L = input_ids.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(L, VOCAB, L, VOCAB, generator=generator, dtype=torch.float64)
        one_hot = torch.nn.functional.one_hot(input_ids, VOCAB).double()
        return SimpleNamespace(logits=self.sharpness * torch.einsum("biu,iujv->bjv", one_hot, weights))


def prompts(rows: int = 4, length: int = 2) -> Tensor:
    return torch.randint(0, 4, (rows, length), generator=torch.Generator().manual_seed(rows))


def canvas_after(tokens: Tensor, masks: int = LENGTH) -> Tensor:
    return torch.cat((tokens, torch.full((len(tokens), masks), MASK)), dim=1)


# Adaptive guidance


def test_adaptive_guidance_of_scale_zero_is_the_conditional_prediction():
    canvas = canvas_after(prompts())
    canvas[:, 4:7] = 1
    given = torch.zeros_like(canvas, dtype=torch.bool)
    given[:, :2] = True
    predict = plain(Counting())
    guide = adaptively_guided(predict, given, MASK, 0.0, 0.5)
    assert torch.allclose(guide(canvas, slice(2, 10)), predict(canvas, slice(2, 10)), atol=1e-12)


@pytest.mark.parametrize(("share", "hidden"), [(0.1, 1), (0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_adaptive_guidance_masks_the_doubtful_share_of_what_was_generated(share, hidden):
    """Scale -1 is the unconditional prediction, so what the second evaluation sees can be found out."""
    canvas = canvas_after(prompts())
    canvas[:, [3, 5, 6, 9]] = torch.tensor([1, 0, 3, 2])
    given = torch.zeros_like(canvas, dtype=torch.bool)
    given[:, :2] = True
    seen: list[Tensor] = []

    def watched(c: Tensor, block: slice) -> Tensor:
        seen.append(c.clone())
        return plain(Counting(3))(c, block)

    adaptively_guided(watched, given, MASK, 1.0, share)(canvas, slice(2, 10))
    first, second = seen
    assert torch.equal(first, canvas)
    changed = first != second
    assert (changed.sum(dim=1) == hidden).all()
    assert (second[changed] == MASK).all()
    p = plain(Counting(3))(canvas, slice(0, 10)).index_fill(-1, torch.tensor([MASK]), -torch.inf).softmax(dim=-1)
    doubt = 1 - p.gather(-1, canvas[..., None])[..., 0]
    for row in range(4):
        least = sorted([3, 5, 6, 9], key=lambda i: -float(doubt[row, i]))[:hidden]
        assert set(changed[row].nonzero()[:, 0].tolist()) == set(least)


def test_adaptive_guidance_before_anything_is_generated_changes_nothing():
    canvas = canvas_after(prompts())
    predict = plain(Counting())
    guide = adaptively_guided(predict, canvas != MASK, MASK, 2.0, 0.7)
    assert torch.allclose(guide(canvas, slice(2, 10)), predict(canvas, slice(2, 10)), atol=1e-12)


def test_probability_of_the_mask_itself_raises_no_doubt():
    """At position 0 the model would rather say [MASK]; without it, it is sure of the token that stands there."""
    logits = torch.tensor([[[3.0, 0.0, 9.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    seen: list[Tensor] = []

    def predict(canvas: Tensor, block: slice) -> Tensor:
        seen.append(canvas)
        return logits[:, block]

    adaptively_guided(predict, torch.zeros(1, 3).bool(), 2, 1.0, 0.5)(torch.tensor([[0, 0, 2]]), slice(0, 3))
    assert seen[1].tolist() == [[0, 2, 2]]


@pytest.mark.parametrize("guidance", ["prompt", "adaptive"])
def test_guidance_counts_its_evaluations_twice(guidance):
    model = Counting()
    out = generate(model, prompts(), None, SamplerConfig(gen_length=8, steps=4, cfg_scale=1.0, guidance=guidance))
    assert out.forward_passes.tolist() == [8] * 4
    assert model.rows == [4] * 8
    assert out.tokens_per_forward.max() <= 1.0


def test_share_of_adaptive_guidance_is_the_papers_unless_given():
    sampler = SamplerConfig(gen_length=8, cfg_scale=1.0, guidance="adaptive")
    default = generate(Counting(), prompts(), None, sampler).sequences
    assert torch.equal(default, generate(Counting(), prompts(), None, sampler.replace(guidance_share=0.7)).sequences)


@pytest.mark.parametrize("guidance", ["prompt", "adaptive"])
def test_guidance_is_not_shown_blocks_that_do_not_exist_yet(guidance):
    seen = []

    class Watched(Counting):
        def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
            seen.append(input_ids.shape[1])
            return super().__call__(input_ids, attention_mask=attention_mask)

    sampler = SamplerConfig(gen_length=8, block_length=4, cfg_scale=1.0, guidance=guidance, stop_at_eos=True,
                            variable_length=True)  # fmt: skip
    generate(Watched(5), prompts(), None, sampler)
    assert seen == sorted(seen)
    assert set(seen) == {6, 10}


# Forbidden and allowed tokens


def test_restricted_drafts_come_from_the_allowed_tokens_of_their_position():
    allowed = torch.rand(10, VOCAB, generator=torch.Generator().manual_seed(0)) < 0.4
    allowed[:, 0] = True
    canvas = canvas_after(prompts())
    predict = restricted(plain(Counting()), allowed)
    for blocks in (None, [slice(2, 6), slice(6, 10)]):
        *_, last = denoise(predict, canvas, MASK, blocks=blocks, draft=categorical(1.5))
        assert torch.equal(last.canvas[:, :2], canvas[:, :2])
        assert allowed[torch.arange(10), last.canvas][:, 2:].all()


def test_allowed_tokens_can_differ_from_row_to_row_and_follow_the_rows_that_go_on():
    canvas = canvas_after(prompts(3))
    canvas[0, 4:] = 0
    canvas[2, 3] = 1
    allowed = torch.zeros(3, 10, VOCAB, dtype=torch.bool)
    for row in range(3):
        allowed[row, :, row + 1] = True
    *_, last = denoise(restricted(plain(Counting()), allowed), canvas, MASK)
    for row in range(3):
        assert (last.canvas[row][canvas[row] == MASK] == row + 1).all()


def test_restriction_renormalises_the_prediction():
    canvas = torch.full((1, 3), BED.mask)
    allowed = torch.tensor([True, False, True, False])
    free = BED.oracle(canvas)[..., :3].softmax(dim=-1)
    p = restricted(lambda c, b: BED.oracle(c)[:, b], allowed.expand(3, 4))(canvas, slice(0, 3)).softmax(dim=-1)
    assert torch.allclose(p[..., [0, 2]], free[..., [0, 2]] / free[..., [0, 2]].sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("own", [False, True], ids=["any row", "row by row"])
def test_restriction_and_guidance_can_be_wrapped_in_any_order(scale, own):
    generator = torch.Generator().manual_seed(1)
    allowed = torch.rand((4, 10, VOCAB) if own else (10, VOCAB), generator=generator) < 0.4
    allowed[..., 3] = True
    canvas, block = canvas_after(prompts()), slice(2, 10)
    given = canvas != MASK
    inside = guided(restricted(plain(Counting()), allowed), given, MASK, scale)
    outside = restricted(guided(plain(Counting()), given, MASK, scale), allowed)
    assert torch.equal(inside(canvas, block), outside(canvas, block))
    assert torch.equal(inside(canvas, block) == -torch.inf, ~allowed[..., block, :].expand(4, -1, -1))
    inside = guided(suppressed(plain(Counting()), [0, 2]), given, MASK, scale)
    outside = suppressed(guided(plain(Counting()), given, MASK, scale), [0, 2])
    assert torch.equal(inside(canvas, block), outside(canvas, block))
    *_, last = denoise(guided(restricted(plain(Counting()), allowed), given, MASK, scale), canvas, MASK,
                       draft=categorical(1.5))  # fmt: skip
    assert allowed.expand(4, -1, -1).gather(-1, last.canvas[..., None])[:, 2:].all()


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.0])
def test_token_that_either_prediction_excludes_stays_excluded_under_guidance(scale):
    canvas = torch.tensor([[0, MASK]])

    def predict(canvas: Tensor, block: slice) -> Tensor:
        excluded = torch.where(canvas[:, :1] == MASK, torch.tensor([0, 2]), torch.tensor([1, 2]))  # (1, 2)
        return (
            torch.arange(3.0, 6.0).expand(1, 2, 3).scatter(2, excluded[:, None].expand(1, 2, 2), -torch.inf)[:, block]
        )

    logits = guided(predict, canvas != MASK, MASK, scale)(canvas, slice(0, 2))
    assert (logits == -torch.inf).all()  # 1 and 2 in one of them, 0 and 2 in the other
    assert not logits.isnan().any()


def test_position_without_an_allowed_token_is_refused():
    allowed = torch.ones(4, VOCAB, dtype=torch.bool)
    allowed[2] = False
    with pytest.raises(ValueError, match="allowed leaves no token at some position; allow one, or write it into the"):
        restricted(plain(Counting()), allowed)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_suppressed_tokens_are_never_written(temperature, guidance):
    sampler = SamplerConfig(gen_length=8, temperature=temperature, suppress_tokens=[0, 2], cfg_scale=guidance)
    out = generate(Counting(), prompts(16), None, sampler).sequences[:, 2:]
    assert set(out.flatten().tolist()) <= {1, 3, 4}
    both = generate(Counting(), prompts(16), None, sampler.replace(forbid_eos=True)).sequences[:, 2:]
    assert set(both.flatten().tolist()) <= {1, 3}
    filled = infill(Counting(), canvas_after(prompts(2)), sampler=SamplerConfig(suppress_tokens=[0, 1, 2, 3]))
    assert (filled.sequences[:, 2:] == EOS).all()


# What a predictor is asked for


def bare(predict: Predict) -> Predict:
    """The same prediction as a bare function, which always computes everything."""
    return lambda canvas, block: predict(canvas, block)


def some_canvas() -> tuple[Tensor, Tensor]:
    """Six rows with tokens among their masks, and positions of the last eight columns, none in rows 1 and 4."""
    generator = torch.Generator().manual_seed(2)
    canvas = canvas_after(prompts(6))
    written = torch.rand(6, 8, generator=generator) < 0.4
    canvas[:, 2:] = torch.where(written, torch.randint(0, 4, (6, 8), generator=generator), canvas[:, 2:])
    wanted = torch.rand(6, 8, generator=generator) < 0.5
    wanted[[1, 4]] = False
    assert wanted.any(dim=1).tolist() == [True, False, True, True, False, True]
    return canvas, wanted


def padding_of(canvas: Tensor) -> Tensor:
    padding = torch.ones_like(canvas)
    padding[::2, 0] = 0
    return padding


CANVAS, WANTED = some_canvas()
GIVEN = torch.arange(10).expand(6, -1) < 2
ALLOWED = torch.rand(6, 10, VOCAB, generator=torch.Generator().manual_seed(4)).argsort(dim=-1) < 4
WRAPPED: dict[str, Callable[[Predict], Predictor]] = {
    "guided": lambda predict: guided(predict, GIVEN, MASK, 0.7),
    "adaptively guided": lambda predict: adaptively_guided(predict, GIVEN, MASK, 0.7, 0.6),
    "suppressed": lambda predict: suppressed(predict, [0, 2]),
    "restricted": lambda predict: restricted(predict, ALLOWED[0]),
    "restricted row by row": lambda predict: restricted(predict, ALLOWED),
    "guided and restricted": lambda predict: suppressed(restricted(guided(predict, GIVEN, MASK, 0.7), ALLOWED), [2]),
    "restricted and guided": lambda predict: adaptively_guided(restricted(predict, ALLOWED), GIVEN, MASK, 0.7, 0.6),
}
ALL = {"plain": lambda predict: predict, **WRAPPED}


@dataclass
class Padded(Counting):
    """Its logits depend on where padding is, too."""

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        logits = super().__call__(input_ids, attention_mask=attention_mask).logits
        moved = 0 if attention_mask is None else (1 - attention_mask).sum(dim=1)[:, None, None]
        return SimpleNamespace(logits=logits + moved * torch.arange(VOCAB))


@dataclass
class Lean(Padded):
    """One that can be asked for some positions, and writes down which it was asked for."""

    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    selects_logits = True

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None, logits_at: Tensor | None = None):
        out = super().__call__(input_ids, attention_mask=attention_mask)
        if logits_at is not None:
            length = input_ids.shape[1]
            self.asked.append((logits_at // length, logits_at % length))
            out.logits = out.logits.flatten(0, 1)[logits_at]
        return out


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", [Padded, Lean])
@pytest.mark.parametrize("beyond_window", [True, False])
def test_logits_of_wanted_positions_are_those_of_all_and_belong_to_the_caller(name, model, beyond_window):
    network = model()
    predict = ALL[name](plain(network, padding_of(CANVAS), beyond_window=beyond_window))
    for block, wanted in ((slice(2, 10), WANTED), (slice(3, 7), WANTED[:, 1:5])):
        whole = predict(CANVAS, block)
        assert whole.shape == (6, block.stop - block.start, VOCAB)
        network.rows.clear()
        logits = predict.at(CANVAS, block, wanted)
        assert set(network.rows) == {int(wanted.any(dim=1).sum())}
        assert torch.equal(logits, whole[wanted])
        logits.fill_(0.0)
        assert torch.equal(predict.at(CANVAS, block, wanted), whole[wanted])


@pytest.mark.parametrize("name", ALL)
def test_predictor_of_chosen_rows_is_that_of_a_batch_of_these_rows(name):
    predict, block = ALL[name](plain(Padded(), padding_of(CANVAS))), slice(2, 10)
    whole = predict(CANVAS, block)
    rows = torch.tensor([4, 0, 0, 5, 3])
    some = predict.of_rows(rows)
    assert type(some) is type(predict)
    assert torch.equal(some(CANVAS[rows], block), whole[rows])
    assert torch.equal(some.at(CANVAS[rows], block, WANTED[rows]), whole[rows][WANTED[rows]])
    again = torch.tensor([3, 1])
    assert torch.equal(some.of_rows(again)(CANVAS[rows[again]], block), whole[rows[again]])


@pytest.mark.parametrize("name", WRAPPED)
def test_bare_function_can_be_wrapped_and_only_chosen_rows_of_it_cannot_be_had(name):
    model = plain(Padded(), padding_of(CANVAS))
    wrapped, usual, block = WRAPPED[name](bare(model)), WRAPPED[name](model), slice(2, 10)
    assert torch.equal(wrapped.at(CANVAS, block, WANTED), usual.at(CANVAS, block, WANTED))
    assert torch.equal(logits_at(bare(usual), CANVAS, block, WANTED), usual.at(CANVAS, block, WANTED))
    ours, theirs = (list(denoise(one, CANVAS, MASK, blocks=[block])) for one in (wrapped, usual))
    assert len(ours) == len(theirs)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(
        TypeError, match=r"chosen rows of its batch, .* make it a llada\.sampling\.predictors\.Predictor"
    ):
        wrapped.of_rows(torch.tensor([0]))


def test_model_that_can_is_asked_for_wanted_positions_only():
    assert isinstance(Lean(), LeanModel)
    assert not isinstance(Padded(), LeanModel)
    model = Lean()
    plain(model).at(CANVAS, slice(2, 10), WANTED)
    ((row, column),) = model.asked
    goes_on = WANTED.any(dim=1).nonzero()[:, 0]
    assert torch.equal(torch.stack((goes_on[row], column - 2), dim=1), WANTED.nonzero())


SAMPLED = {
    "blocks": SamplerConfig(gen_length=12, block_length=4, temperature=0.7),
    "threshold": SamplerConfig(gen_length=12, reveal="threshold", threshold=0.02),
    "guided": SamplerConfig(gen_length=12, steps=6, temperature=0.7, cfg_scale=0.5),
    "adaptive": SamplerConfig(gen_length=12, steps=6, temperature=0.7, cfg_scale=0.5, guidance="adaptive"),
    "p2": SamplerConfig(gen_length=12, steps=6, temperature=0.7, reveal="p2"),
    "remdm": SamplerConfig(gen_length=12, steps=16, temperature=0.7, reveal="remdm", remask="rescale", eta=0.5),
    "edits": SamplerConfig(gen_length=12, reveal="threshold", threshold=0.02, edit_threshold=0.01, edit_steps=2),
    "variable": SamplerConfig(gen_length=12, block_length=4, stop_at_eos=True, variable_length=True),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_lm_head_runs_at_predicted_positions_only_and_the_tokens_are_those_of_all_logits(golden, name):
    model, _ = golden
    prompt = torch.randint(0, 200, (3, 6), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(prompt)
    attention_mask[1, :2] = 0
    heads: list[tuple[int, ...]] = []

    class Dense:
        config = model.config

        def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None):
            return model(input_ids, attention_mask=attention_mask)

    assert isinstance(model, LeanModel)
    assert not isinstance(Dense(), LeanModel)
    model.double()
    dense = generate(Dense(), prompt, attention_mask, SAMPLED[name], seed=3)
    handle = model.lm_head.register_forward_hook(lambda head, given, logits: heads.append(tuple(logits.shape[:-1])))
    lean = generate(model, prompt, attention_mask, SAMPLED[name], seed=3)
    handle.remove()
    model.float()
    assert all(torch.equal(a, b) for a, b in zip(lean, dense, strict=True))
    assert all(len(shape) == 1 for shape in heads)  # positions, not rows and columns
    if name == "blocks":
        assert heads == [(3 * masks,) for masks in (4, 3, 2, 1)] * 3


def test_logits_of_the_model_at_some_positions_are_its_logits(golden):
    model, _ = golden
    canvas = torch.randint(0, 200, (6, 10), generator=torch.Generator().manual_seed(0))
    for padding in (None, padding_of(canvas)):
        for beyond_window in (True, False):
            predict = plain(model, padding, beyond_window=beyond_window)
            shown = canvas if beyond_window else canvas[:, :8]
            expected = model(shown, attention_mask=None if padding is None else padding[:, : shown.shape[1]]).logits
            found = predict.at(canvas, slice(2, 8), WANTED[:, :6])
            assert torch.allclose(found, expected[:, 2:8][WANTED[:, :6]], atol=1e-5)


def test_wrapper_around_a_model_is_called_and_not_passed_by(golden):
    """What torch.compile and FSDP return has the attributes of the model inside, and acts when it is called."""

    class Wrapper(nn.Module):
        def __init__(self, inside: nn.Module):
            super().__init__()
            self.inside, self.calls = inside, 0

        def __getattr__(self, name: str):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inside"), name)

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.inside(*args, **kwargs)

    wrapper = Wrapper(golden[0])
    generate(wrapper, torch.tensor([[1, 2]]), None, SamplerConfig(gen_length=4))
    assert wrapper.calls == 4


# What it costs


@pytest.mark.parametrize("evaluations", [1, 2])
def test_meter_counts_evaluations_and_tokens_of_rows_in_which_anything_is_wanted(evaluations):
    meter = Meter.of(CANVAS)
    for predict in (plain(Lean(), meter=meter), plain(Counting(), meter=meter)):
        predict = guided(predict, GIVEN, MASK, 1.0) if evaluations == 2 else predict
        predict.at(CANVAS, slice(2, 10), WANTED)
    each = evaluations * torch.tensor([2, 0, 2, 2, 0, 2])
    assert torch.equal(meter.evaluations, each)
    assert torch.equal(meter.query_tokens, 10 * each)
    predict(CANVAS, slice(2, 10))
    assert torch.equal(meter.evaluations, each + evaluations)


def test_meter_counts_only_what_is_shown():
    meter = Meter.of(CANVAS)
    predict = plain(Counting(), beyond_window=False, meter=meter)
    predict.at(CANVAS, slice(2, 6), WANTED[:, :4])
    predict(CANVAS, slice(6, 10))
    first = WANTED[:, :4].any(dim=1).long()
    assert torch.equal(meter.evaluations, first + 1)
    assert torch.equal(meter.query_tokens, 6 * first + 10)


@pytest.mark.parametrize("name", ["plain", "guided", "adaptively guided", "suppressed", "restricted"])
def test_meter_of_chosen_rows_counts_for_the_batch_they_come_from(name):
    meter = Meter.of(CANVAS)
    calls = 2 if "guided" in name else 1
    rows, again = torch.tensor([4, 0, 0, 5]), torch.tensor([3, 1, 2])
    some = ALL[name](plain(Counting(), meter=meter)).of_rows(rows)
    some(CANVAS[rows], slice(2, 10))
    assert meter.evaluations.tolist() == [calls, 0, 0, 0, calls, calls]  # two canvases of row 0 at once
    assert meter.query_tokens.tolist() == [20 * calls, 0, 0, 0, 10 * calls, 10 * calls]
    wanted = torch.tensor([[True], [False], [True]]).expand(3, 8)
    some.of_rows(again).at(CANVAS[rows[again]], slice(2, 10), wanted)
    assert meter.evaluations.tolist() == [2 * calls, 0, 0, 0, calls, 2 * calls]
    assert meter.query_tokens.tolist() == [30 * calls, 0, 0, 0, 10 * calls, 20 * calls]


@pytest.mark.parametrize("guidance", [None, "guided", "adaptively guided"])
def test_meter_of_a_run_counts_each_row_until_it_is_finished(guidance):
    canvas = canvas_after(prompts(6))
    canvas[0, 4:] = 0
    canvas[1] = 1
    canvas[2, ::3] = 2
    meter = Meter.of(canvas)
    predict = plain(Counting(), meter=meter)
    states = list(denoise(WRAPPED[guidance](predict) if guidance else predict, canvas, MASK))
    masks = (canvas == MASK).sum(dim=1)
    assert len(masks.unique()) >= 4
    assert torch.equal(meter.evaluations, masks * (2 if guidance else 1))
    assert torch.equal(meter.query_tokens, meter.evaluations * 10)
    assert torch.equal(torch.stack([state.active for state in states]).sum(dim=0), masks)


@pytest.mark.parametrize("rows", [1, 12])
def test_rows_with_nothing_masked_cost_nothing_where_a_rule_goes_on_for_all_steps(rows):
    canvas = canvas_after(prompts(rows, 6), 4)
    model, meter = Counting(5), Meter.of(canvas)
    options = {"steps": 24, "reveal": reveals.remdm("rescale", 1.0), "draft": categorical(1.0)}
    states = list(denoise(plain(model, meter=meter), canvas, MASK, **options))
    befores = [canvas, *(state.canvas for state in states[:-1])]
    unfilled = torch.stack([(before == MASK).any(dim=1) for before in befores])  # (steps, rows)
    assert torch.equal(torch.stack([state.active for state in states]), unfilled)
    assert len(states) == 24
    assert torch.equal(meter.evaluations, unfilled.sum(dim=0))
    assert not unfilled.all()
    assert [n for n in model.rows if n] == [n for n in unfilled.sum(dim=1).tolist() if n]
    assert 0 not in model.rows  # many networks take no empty batch


ADAPTIVE = {
    "threshold": {"reveal": reveals.threshold(0.5)},
    "factor": {"reveal": reveals.factor(1.2)},
    "entropy bound": {"reveal": reveals.entropy_bound(0.8)},
    "klass": {"reveal": reveals.klass(0.5, 0.5, 1)},
    "early exit": {"reveal": reveals.early_exit(reveals.top_k, (3.0, 2.0, 1.0))},
    "edits": {"reveal": reveals.threshold(0.5), "edit": replacing(0.6, extra_steps=4)},
    "stop": {"stop_token_id": EOS, "blocks": [slice(i, i + 1) for i in range(2, 10)]},
    "blocks": {"reveal": reveals.threshold(0.5), "blocks": [slice(2, 6), slice(6, 10)]},
}


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_finished_rows_are_not_evaluated_and_change_nothing(name, temperature):
    canvas = canvas_after(prompts(12))
    options = dict(ADAPTIVE[name])
    if temperature:
        options["draft"] = categorical(temperature)
    uniforms = row_uniforms(1, torch.ones_like(canvas))
    model, meter = Counting(5, 0.7), Meter.of(canvas)
    predict = plain(model, meter=meter)
    narrowed: list[State] = list(denoise(predict, canvas, MASK, uniforms=uniforms, **options))
    active = torch.stack([state.active for state in narrowed])  # (steps, rows)
    assert model.rows == active.sum(dim=1).tolist()
    assert min(model.rows) < 12
    assert torch.equal(meter.evaluations, active.sum(dim=0))
    assert torch.equal(meter.query_tokens, 10 * meter.evaluations)
    whole = list(denoise(bare(plain(Counting(5, 0.7))), canvas, MASK, uniforms=uniforms, **options))
    assert len(narrowed) == len(whole)
    for a, b in zip(narrowed, whole, strict=True):
        for part in ("canvas", "draft", "score", "probability", "visible", "active"):
            assert torch.equal(getattr(a, part), getattr(b, part)), part


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("guidance", ["prompt", "adaptive"])
def test_finished_rows_cost_nothing_under_guidance_and_suppression(scale, guidance):
    fields = {"cfg_scale": scale, "guidance": guidance} if scale else {}
    sampler = SamplerConfig(gen_length=8, block_length=1, stop_at_eos=True, suppress_tokens=[0], temperature=1.0,
                            **fields)  # fmt: skip
    model = Counting(6)
    out = generate(model, prompts(12), None, sampler, seed=2)
    assert sum(model.rows) == int(out.forward_passes.sum())
    assert int(out.forward_passes.min()) < int(out.forward_passes.max())
    alone = [generate(Counting(6), prompts(12)[i : i + 1], None, sampler, seed=2, first_row=i) for i in range(12)]
    assert torch.equal(torch.cat([one.sequences for one in alone]), out.sequences)


def test_attention_mask_follows_the_rows_that_go_on():
    seen = []

    class Watching(Counting):
        def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
            assert attention_mask is not None
            assert attention_mask.shape == input_ids.shape
            seen.append(attention_mask.sum(dim=1).tolist())
            return super().__call__(input_ids, attention_mask=attention_mask)

    attention_mask = torch.ones(12, 2).long()
    attention_mask[::2, 0] = 0
    sampler = SamplerConfig(gen_length=8, reveal="threshold", threshold=0.5)
    out = generate(Watching(5, 0.7), prompts(12), attention_mask, sampler)
    for index, sums in enumerate(seen):
        goes_on = out.forward_passes > index
        assert sums == (8 + attention_mask.sum(dim=1))[goes_on].tolist()


def test_rows_of_different_gaps_need_steps_where_the_rule_looks_at_them():
    canvas = canvas_after(prompts(2))
    canvas[0, 4:] = 0
    with pytest.raises(ValueError, match="reveal: ancestral looks at the number of steps, and the rows have different"):
        infill(Counting(), canvas, sampler=SamplerConfig(reveal="ancestral"))
    sampler = SamplerConfig(reveal="ancestral", steps=6, temperature=1.0)
    together = infill(Counting(), canvas, sampler=sampler).sequences
    assert torch.equal(together[:1], infill(Counting(), canvas[:1], sampler=sampler).sequences)


# The original's numbers of evaluations


@pytest.fixture(scope="module")
def golden():
    model, _ = llada.load_pretrained(GOLDEN)
    return model, load_file(GOLDEN / "reference.safetensors")


@pytest.mark.parametrize(
    "case", [c for c in CASES["fast"] if c["cache"] == "none" and "threshold" in c], ids=lambda c: str(c["index"])
)
def test_threshold_decoding_has_the_originals_tokens_and_number_of_evaluations(golden, case):
    model, reference = golden
    sampler = SamplerConfig(reveal="threshold", threshold=case["threshold"], gen_length=case["gen_length"],
                            block_length=case["block_length"])  # fmt: skip
    name = f"fast.{case['index']}"
    out = generate(model, reference[f"{name}.prompt"], reference.get(f"{name}.attention_mask"), sampler)
    assert torch.equal(out.sequences, reference[f"{name}.output"])
    assert out.forward_passes.tolist() == [case["nfe"]]


def test_blocks_that_do_not_exist_yet_are_not_shown_and_the_rest_is_the_end():
    """With blocks of 4 the model sees prompt and block only; a row that ends is filled and costs nothing more."""
    model, _ = llada.load_pretrained(GOLDEN)
    lengths = []

    class Watched:
        config = model.config

        def __call__(self, input_ids, *, attention_mask=None):
            lengths.append(input_ids.shape[1])
            return model(input_ids, attention_mask=attention_mask)

    sampler = SamplerConfig(gen_length=12, block_length=4, stop_at_eos=True, variable_length=True)
    prompt = torch.tensor([[5, 6, 7], [9, 9, 9]])
    out = generate(Watched(), prompt, torch.tensor([[0, 1, 1], [1, 1, 1]]), sampler)
    assert lengths == sorted(lengths)
    assert set(lengths) <= {7, 11, 15}
    assert out.sequences.shape == (2, 15)
    first = generate(model, prompt[1:], None, SamplerConfig(gen_length=4))
    assert torch.equal(out.sequences[1, :7], first.sequences[0])  # the first block alone


def test_variable_length_says_what_it_needs():
    with pytest.raises(ConfigError, match="variable_length needs stop_at_eos and block_length"):
        SamplerConfig(variable_length=True, block_length=8)
