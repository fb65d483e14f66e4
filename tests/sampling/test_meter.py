"""What it costs: counted evaluations and tokens, finished rows, and the numbers of the original."""

import json
from types import SimpleNamespace

import pytest
import torch
from counted import (
    ALL,
    CANVAS,
    EOS,
    GIVEN,
    GOLDEN,
    MASK,
    WANTED,
    WRAPPED,
    Counting,
    Lean,
    bare,
    canvas_after,
    load_golden,
    prompts,
)
from torch import Tensor

import llada
from llada.config import ConfigError
from llada.sampling import reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical, replacing
from llada.sampling.generate import SamplerConfig, generate, infill
from llada.sampling.predictors import (
    Meter,
    guided,
    plain,
)

golden = pytest.fixture(scope="module")(load_golden)
CASES = json.loads((GOLDEN / "reference.json").read_text())


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
