"""generate, infill and the loop beneath: golden tokens, row independence, special tokens, and every refusal."""

import json
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import llada
from llada.config import ConfigError
from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate, generation_states, infill
from llada.sampling.orders import ORDERS, Drafts, confidence, excluding
from llada.sampling.predictors import guided, plain, suppressed
from llada.sampling.reveals import Step, top_k
from llada.sampling.schedules import even_counts

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-mha"
CASES = json.loads((GOLDEN / "reference.json").read_text())
MASK, EOS, EOT = CASES["mask_token_id"], CASES["eos_token_id"], CASES["eot_token_id"]


@pytest.fixture(scope="module")
def golden():
    model, _ = llada.load_pretrained(GOLDEN)
    model.config.eot_token_id = EOT
    return model, load_file(GOLDEN / "reference.safetensors")


def sampler_of(case: dict) -> SamplerConfig:
    by_threshold = {"reveal": "threshold", "threshold": case.get("threshold")}  # the original ignores steps there
    return SamplerConfig(
        **(by_threshold if "threshold" in case else {"steps": case["steps"]}),
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        cfg_scale=case.get("cfg_scale", 0.0),
        forbid_eos=case.get("logits_eos_inf", False),
        eos_last=case.get("confidence_eos_eot_inf", False),
        cache=case.get("cache", "none"),
    )


def prompt_of(reference: dict, case: str) -> tuple[Tensor, Tensor | None]:
    return reference[f"{case}.prompt"], reference.get(f"{case}.attention_mask")


TIES = 8  # with EOS last, several drafts score exactly 0, and torch.topk's order of equal scores is its own


@pytest.mark.parametrize("case", [c for c in CASES["generate"] if c["index"] != TIES], ids=lambda c: str(c["index"]))
def test_tokens_are_those_of_the_original(golden, case):
    model, reference = golden
    out = generate(model, *prompt_of(reference, f"generate.{case['index']}"), sampler_of(case))
    assert torch.equal(out.sequences, reference[f"generate.{case['index']}.output"])
    evaluations = case["steps"] * (2 if "cfg_scale" in case else 1)
    assert (out.forward_passes == evaluations).all()


def test_tokens_are_those_of_the_original_where_equal_scores_are_broken_as_it_did(golden):
    """We reveal the leftmost of equal scores, so that padding cannot matter; the original asked torch.topk."""
    model, reference = golden
    prompt, _ = prompt_of(reference, f"generate.{TIES}")
    sampler = sampler_of(CASES["generate"][TIES])
    P, length = prompt.shape[1], sampler.gen_length

    def torch_topk(step: Step) -> Tensor:
        everywhere = torch.full((len(prompt), P + length), -torch.inf)  # the original ranked the whole canvas
        everywhere[:, P:] = torch.where(step.masked, step.score.clamp(min=0), -torch.inf)
        chosen = everywhere.topk(int(step.count[0]), dim=1).indices
        return ~step.masked | torch.zeros_like(everywhere, dtype=torch.bool).scatter(1, chosen, True)[:, P:]

    states = list(
        denoise(
            plain(model),
            torch.cat((prompt, torch.full((len(prompt), length), MASK)), dim=1),
            MASK,
            blocks=[slice(P, P + length)],
            steps=sampler.steps,
            order=excluding(confidence, [EOS, EOT]),
            reveal=torch_topk,
        )
    )
    expected = reference[f"generate.{TIES}.output"]
    assert torch.equal(states[-1].canvas, expected)
    ours = generate(model, prompt, None, sampler).sequences
    assert torch.equal(ours[0], expected[0])  # no equal scores in this row
    assert not torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("case", CASES["fast"], ids=lambda c: f"{c['cache']}-{c['index']}")
def test_tokens_and_predictions_are_those_of_fast_dllm(golden, case):
    """With and without its caches and its threshold, which it compares with the probability of the draft."""
    model, reference = golden
    out = generate(model, *prompt_of(reference, f"fast.{case['index']}"), sampler_of(case))
    assert torch.equal(out.sequences, reference[f"fast.{case['index']}.output"])
    assert out.forward_passes.tolist() == [case["nfe"]]


def prompts(rows: int, length: int = 6) -> Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(rows))


SAMPLERS = {
    "greedy": SamplerConfig(gen_length=12),
    "drawn": SamplerConfig(gen_length=12, steps=6, temperature=0.9),
    "random": SamplerConfig(gen_length=12, steps=4, temperature=1.0, order="random"),
    "blocks": SamplerConfig(gen_length=12, steps=6, block_length=4, temperature=0.7),
    "guided": SamplerConfig(gen_length=12, steps=6, temperature=0.7, cfg_scale=0.5),
    "ends last": SamplerConfig(gen_length=12, steps=6, temperature=0.7, eos_last=True),
    "stops": SamplerConfig(gen_length=12, temperature=0.7, block_length=4, stop_at_eos=True),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_row_does_not_depend_on_its_neighbours(golden, name):
    model = golden[0].double()
    together = generate(model, prompts(3), None, SAMPLERS[name], seed=5)
    fewer = generate(model, prompts(3)[:2], None, SAMPLERS[name], seed=5)
    model.float()
    assert torch.equal(together.sequences[:2], fewer.sequences)
    assert torch.equal(together.forward_passes[:2], fewer.forward_passes)


@pytest.mark.parametrize("name", SAMPLERS)
def test_row_does_not_depend_on_padding(golden, name):
    model = golden[0].double()
    prompt = prompts(2)
    alone = generate(model, prompt, None, SAMPLERS[name], seed=9)
    padded = torch.cat((torch.full((2, 5), 17), prompt), dim=1)
    attention_mask = torch.cat((torch.zeros(2, 5), torch.ones_like(prompt)), dim=1).long()
    beside = generate(model, padded, attention_mask, SAMPLERS[name], seed=9)
    model.float()
    assert torch.equal(beside.sequences[:, 5:], alone.sequences)
    assert torch.equal(beside.tokens_per_forward, alone.tokens_per_forward)


CACHES = ["prefix", "dual", "delayed", "block_causal"]
KEEPING = {
    "drawn": {"temperature": 0.9},
    "few steps": {"temperature": 0.9, "steps": 4, "order": "random"},
    "adaptive": {"reveal": "threshold", "threshold": 0.1, "temperature": 0.9},
    "guided": {"temperature": 0.7, "cfg_scale": 0.5},
    "refreshed": {"temperature": 0.9, "refresh_every": 3},
    "edited": {"temperature": 0.9, "edit_threshold": 0.05, "edit_steps": 3},
    "masked again": {
        "reveal": "remdm",
        "remask": "cap",
        "eta": 0.3,
        "steps": 24,
        "temperature": 1.0,
        "refresh_every": 3,
    },
    "stops": {"temperature": 0.9, "stop_at_eos": True},
    "appended": {"temperature": 0.9, "stop_at_eos": True, "variable_length": True},
}
RAGGED = torch.tensor([[1] * 5, [0] * 2 + [1] * 3, [0] * 5])


def keeping(cache: str, fields: str) -> SamplerConfig:
    options = dict(KEEPING[fields])
    if cache == "block_causal":
        options.pop("refresh_every", None)  # refused: it is exact
    return SamplerConfig(gen_length=8, block_length=4, cache=cache, **options)


@pytest.fixture(scope="module")
def models():
    """By cache, one that it is for; in float64, so that other batch sizes round to the same tokens."""
    bidirectional, block_causal = (llada.load_pretrained(GOLDEN)[0].double() for _ in range(2))
    block_causal.config.block_length = 5  # other blocks than the sampler's, and other ones in each row
    return {cache: block_causal if cache == "block_causal" else bidirectional for cache in CACHES}


@pytest.mark.parametrize("fields", KEEPING)
@pytest.mark.parametrize("cache", CACHES)
def test_with_a_cache_rows_of_a_ragged_batch_are_what_they_are_alone(models, cache, fields):
    model, sampler, prompt = models[cache], keeping(cache, fields), prompts(3, 5)
    together = generate(model, prompt, RAGGED, sampler, seed=3)
    for i, padding in enumerate((0, 2, 5)):
        alone = generate(model, prompt[i : i + 1, padding:], None, sampler, seed=3, first_row=i)
        assert torch.equal(alone.sequences[0], together.sequences[i, padding:])
        assert alone.forward_passes[0] == together.forward_passes[i]
        if padding == 0:  # which costs positions
            assert alone.query_tokens[0] == together.query_tokens[i]


def test_the_rows_of_these_tests_end_at_different_times(models):
    """Or they would show less than they say."""
    for fields in ("adaptive", "stops", "appended"):
        out = generate(models["dual"], prompts(3, 5), RAGGED, keeping("dual", fields), seed=3)
        assert len(set(out.forward_passes.tolist())) > 1


@pytest.mark.parametrize("fields", ["drawn", "guided", "appended"])
@pytest.mark.parametrize("cache", CACHES)
def test_with_a_cache_interleaved_requests_do_not_touch_each_other(models, cache, fields):
    requests = [(prompts(2), 1), (prompts(3, 9), 2)]
    apart = [generate(models[cache], prompt, None, keeping(cache, fields), seed) for prompt, seed in requests]
    running = [
        generation_states(models[cache], prompt, None, keeping(cache, fields), seed) for prompt, seed in requests
    ]
    last: list[Tensor] = [prompt for prompt, _ in requests]
    for states in zip_longest(*running):
        last = [canvas if state is None else state.canvas for state, canvas in zip(states, last, strict=True)]
    assert all(torch.equal(canvas, alone.sequences) for canvas, alone in zip(last, apart, strict=True))


@pytest.mark.parametrize("fields", KEEPING)
def test_the_block_causal_cache_changes_nothing_but_the_cost(models, fields):
    sampler = keeping("block_causal", fields)
    kept, none = (
        generate(models["block_causal"], prompts(3, 5), RAGGED, given, seed=3)
        for given in (sampler, sampler.replace(cache="none", refresh_every=None))
    )
    assert torch.equal(kept.sequences, none.sequences)
    assert torch.equal(kept.forward_passes, none.forward_passes)
    assert (kept.query_tokens < none.query_tokens).all()


@pytest.mark.parametrize("cache", CACHES)
def test_infilling_keeps_keys_and_values_of_rows_that_wait_for_their_block(models, cache):
    """Rows have masks in different blocks, one in none."""
    canvas = prompts(4, 12)
    canvas[0, 1:3] = canvas[1, [4, 6, 11]] = canvas[2, 8:] = MASK
    sampler = SamplerConfig(block_length=4, cache=cache, temperature=0.9, cfg_scale=0.5)
    together = infill(models[cache], canvas, None, sampler, seed=1)
    assert (together.sequences != MASK).all()
    for i in range(4):
        alone = infill(models[cache], canvas[i : i + 1], None, sampler, seed=1, first_row=i)
        assert all(torch.equal(ours[0], theirs[i]) for ours, theirs in zip(alone, together, strict=True))


def test_seed_changes_what_is_drawn_and_not_what_is_greedy(golden):
    model, _ = golden
    drawn = [generate(model, prompts(1), None, SAMPLERS["drawn"], seed=s).sequences for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    greedy = [generate(model, prompts(1), None, SAMPLERS["greedy"], seed=s).sequences for s in (0, 1)]
    assert torch.equal(*greedy)


def test_prompt_stays_and_no_mask_is_left(golden):
    out = generate(golden[0], prompts(2), None, SAMPLERS["random"]).sequences
    assert torch.equal(out[:, :6], prompts(2))
    assert not (out == MASK).any()


def test_one_block_of_the_whole_length_is_no_block(golden):
    whole = SamplerConfig(gen_length=12, block_length=12)
    assert torch.equal(
        generate(golden[0], prompts(2), None, whole).sequences,
        generate(golden[0], prompts(2), None, SamplerConfig(gen_length=12)).sequences,
    )


def test_blocks_of_one_token_go_from_left_to_right(golden):
    sampler = SamplerConfig(gen_length=6, block_length=1)
    for i, state in enumerate(generation_states(golden[0], prompts(1), None, sampler)):
        assert (state.canvas[0, 6:] != MASK).tolist() == [j <= i for j in range(6)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forbidden_end_of_sequence_never_appears(golden, temperature):
    sampler = SamplerConfig(gen_length=32, temperature=temperature, forbid_eos=True)
    free = SamplerConfig(gen_length=32, temperature=temperature)
    with_eos = generate(golden[0], prompts(8), None, free).sequences[:, 6:]
    without = generate(golden[0], prompts(8), None, sampler).sequences[:, 6:]
    assert (with_eos == EOS).any()
    assert not (without == EOS).any()


@pytest.mark.parametrize("order", [name for name, entry in ORDERS.items() if not entry.required])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_end_tokens_are_revealed_last_at_every_temperature(golden, order, temperature):
    """No end token is revealed while another draft of the window is left out."""
    sampler = SamplerConfig(gen_length=16, steps=8, temperature=temperature, eos_last=True, order=order)
    previous = torch.full((4, 16), MASK)
    for state in generation_states(golden[0], prompts(4), None, sampler):
        revealed = state.visible & (previous == MASK)
        ends = torch.isin(state.draft, torch.tensor([EOS, EOT]))
        left_out = ~state.visible & ~ends
        assert not ((revealed & ends).any(dim=1) & left_out.any(dim=1)).any()
        previous = state.canvas[:, 6:]


def test_stopping_at_the_end_of_sequence_keeps_the_tokens_before_it_and_costs_less(golden):
    free = SamplerConfig(gen_length=32, block_length=4)
    stopping = free.replace(stop_at_eos=True)
    all_of_it = generate(golden[0], prompts(8), None, free)
    stopped = generate(golden[0], prompts(8), None, stopping)
    some_stopped = False
    for whole, cut, fewer in zip(all_of_it.sequences, stopped.sequences, stopped.forward_passes, strict=True):
        ends = (whole[6:] == EOS).nonzero()[:, 0]
        first = int(ends[0]) if len(ends) else 32
        assert torch.equal(cut[: 6 + first], whole[: 6 + first])
        assert (cut[6 + first :] == EOS).all()
        some_stopped |= first < 28 and int(fewer) < 32
    assert some_stopped
    assert torch.equal(stopped.tokens_per_forward > 0, torch.ones(8, dtype=torch.bool))


class Constant(nn.Module):
    """Predicts the same distribution everywhere; counts its evaluations."""

    def __init__(self, logits: Tensor, **config):
        super().__init__()
        self.logits = logits
        self.config = SimpleNamespace(**{"mask_token_id": 0, **config})
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None):
        self.calls += 1
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_mask_is_never_drafted_even_where_it_is_the_likeliest():
    model = Constant(torch.tensor([9.0, 1.0, 0.0]))
    for temperature in (0.0, 1.0):
        out = generate(model, torch.tensor([[1]]), None, SamplerConfig(gen_length=64, temperature=temperature))
        assert not (out.sequences == 0).any()


def test_any_module_with_logits_and_a_mask_token_generates():
    out = generate(Constant(torch.tensor([0.0, 1.0, 5.0])), torch.tensor([[1, 1]]), None, SamplerConfig(gen_length=3))
    assert out.sequences.tolist() == [[1, 1, 2, 2, 2]]
    assert out.forward_passes.tolist() == [3]
    assert out.tokens_per_forward.tolist() == [1.0]


def test_throughput_counts_tokens_up_to_the_first_end_of_sequence():
    model = Constant(torch.tensor([0.0, 1.0, 5.0]), eos_token_id=2)
    out = generate(model, torch.tensor([[1, 2]]), None, SamplerConfig(gen_length=8, steps=2))
    assert out.tokens_per_forward.tolist() == [0.5]


def test_finished_block_costs_no_further_prediction():
    model = Constant(torch.tensor([0.0, 1.0, 5.0]))
    infill(model, torch.tensor([[1, 0, 1, 1]]), sampler=SamplerConfig(steps=8))
    assert model.calls == 1


def test_infilling_fills_the_masks_and_nothing_else(golden):
    canvas = prompts(3, 12)
    canvas[0, [0, 3, 11]] = MASK
    canvas[1, :] = MASK
    out = infill(golden[0], canvas, sampler=SamplerConfig(temperature=0.8))
    kept = canvas != MASK
    assert torch.equal(out.sequences[kept], canvas[kept])
    assert not (out.sequences == MASK).any()
    assert out.forward_passes.tolist() == [3, 12, 0]


def test_infilling_in_blocks_and_steps_finishes_every_row(golden):
    canvas = prompts(2, 12)
    canvas[0, 2:9] = MASK
    canvas[1, [1, 10]] = MASK
    out = infill(golden[0], canvas, sampler=SamplerConfig(steps=6, block_length=4))
    assert not (out.sequences == MASK).any()
    assert out.forward_passes.tolist() == [5, 2]


@pytest.mark.parametrize(
    ("fields", "padding", "message"),
    [
        ({"steps": 4, "counts": [4, 2]}, [5, 6], "steps=4 contradicts 2 counts a block; leave it out"),
        ({"steps": 5, "block_length": 4}, None, "steps=5 cannot be shared equally by 2 blocks of 4 tokens"),
        ({"counts": [1, 2]}, None, r"counts=\[1, 2\] reveal 3 tokens, fewer than the 6 of a block"),
        ({"block_length": 4}, [5, 6], "block_length cuts the canvas, and padding would shift the cuts"),
        ({}, [5, MASK], r"the padding holds \[MASK\] tokens, which would be filled; pad with another token"),
        ({"stop_at_eos": True}, None, "stop_at_eos has no effect on infilling"),
        ({"gen_length": 6}, None, "gen_length has no effect on infilling"),
    ],
)
def test_impossible_infilling_is_explained(golden, fields, padding, message):
    canvas = torch.full((1, 8), MASK)
    canvas[0, :2] = torch.tensor(padding or [5, 6])
    present = torch.ones_like(canvas)
    present[0, :2] = padding is None
    with pytest.raises(ValueError, match=message):
        infill(golden[0], canvas, present, SamplerConfig(**fields))


def test_padding_of_a_prompt_must_not_look_like_what_is_generated(golden):
    prompt, present = torch.tensor([[MASK, 5]]), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match=r"the padding holds \[MASK\] tokens, which stand for what is generated"):
        generate(golden[0], prompt, present, SamplerConfig(gen_length=2))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_empty_batch_and_empty_prompt_are_no_errors(golden, shape):
    out = generate(golden[0], torch.zeros(shape, dtype=torch.long), None, SamplerConfig(gen_length=4))
    assert out.sequences.shape == (shape[0], shape[1] + 4)
    assert not (out.sequences == MASK).any()


def test_prompt_that_fills_the_model_is_generated_up_to_its_length(golden):
    longest = golden[0].config.max_sequence_length
    prompt = prompts(1, longest - 2)
    assert generate(golden[0], prompt, None, SamplerConfig(gen_length=2)).sequences.shape == (1, longest)
    with pytest.raises(ValueError, match=f"{longest + 1} tokens of prompt and answer exceed the model's {longest}"):
        generate(golden[0], prompt, None, SamplerConfig(gen_length=3))


def test_guidance_of_scale_zero_and_minus_one_are_its_two_predictions(golden):
    canvas = torch.cat((prompts(2), torch.full((2, 4), MASK)), dim=1)
    prompt, block = canvas != MASK, slice(6, 10)
    predict = plain(golden[0])
    conditional = predict(canvas, block)
    unconditional = predict(torch.full_like(canvas, MASK), block)
    assert torch.allclose(guided(predict, prompt, MASK, 0.0)(canvas, block), conditional, atol=1e-5)
    assert torch.allclose(guided(predict, prompt, MASK, -1.0)(canvas, block), unconditional, atol=1e-5)


def test_guidance_on_the_bed_has_the_published_probabilities():
    from bed import BED

    canvas = torch.tensor([[0, BED.mask, BED.mask]])
    predict = guided(lambda c, b: BED.oracle(c)[:, b], canvas != BED.mask, BED.mask, 1.0)
    p = predict(canvas, slice(0, 3))[0, 1, :3].softmax(dim=-1)
    assert p.tolist() == pytest.approx([0.2284778, 0.26301175, 0.50851046], abs=1e-7)


def test_suppressed_tokens_have_no_probability_and_the_model_is_untouched(golden):
    canvas = prompts(1)
    logits = plain(golden[0])(canvas, slice(0, 6))
    without = suppressed(plain(golden[0]), [3, 5])(canvas, slice(0, 6))
    assert torch.isneginf(without[..., [3, 5]]).all()
    others = [i for i in range(logits.shape[-1]) if i not in (3, 5)]
    assert torch.equal(without[..., others], logits[..., others])


def test_even_counts_give_the_remainder_to_the_first_steps():
    assert even_counts(torch.tensor([10, 3, 0]), 4).tolist() == [[3, 3, 2, 2], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert even_counts(torch.tensor([3]), 5).tolist() == [[1, 1, 1, 0, 0]]


def test_equal_scores_reveal_the_leftmost():
    masked = torch.tensor([[False, True, True, True]])
    step = step_of(torch.full((1, 4), -torch.inf), masked, count=torch.tensor([2]))
    assert top_k(step).tolist() == [[True, True, True, False]]


def step_of(score: Tensor, masked: Tensor, **fields) -> Step:
    """A step of which only some things matter; score and masked (B, W)."""
    B, W = score.shape
    row, place = masked.nonzero(as_tuple=True)
    numbers = torch.full(row.shape, 0.5, dtype=torch.float64)
    usual = {
        "drafts": Drafts(torch.zeros(len(row), 3, dtype=torch.float64), torch.zeros_like(row), place, W, numbers),
        "predicted": masked,
        "draft": torch.zeros(B, W, dtype=torch.long),
        "score": score,
        "masked": masked,
        "count": torch.ones(B, dtype=torch.long),
        "writable": torch.ones_like(masked),
        "held": torch.ones(B, W, dtype=torch.float64),
        "uniforms": torch.full((B, W), 0.5, dtype=torch.float64),
        "index": 0,
        "steps": W,
        "canvas": torch.zeros(B, W, dtype=torch.long),
        "block": slice(0, W),
    }
    return Step(**usual | fields)


def test_states_share_no_memory():
    canvas = torch.zeros(1, 3, dtype=torch.long)
    states = list(denoise(lambda c, b: torch.randn(1, 3, 4), canvas, 0))
    assert [int((s.canvas == 0).sum()) for s in states] == [2, 1, 0]
    assert (canvas == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [slice(0, 2), slice(2, 4)]}, r"slice\(2, 4, None\) is no window of a canvas of 3 tokens"),
        ({"blocks": [slice(0, 3, 2)]}, "is no window"),
        ({"blocks": [slice(2, 1)]}, "is no window"),
        ({"steps": 0}, "steps=0 must be at least 1, or None"),
        ({"first_step": -1}, "first_step=-1 must be one of"),
        ({"first_step": 2, "steps": 2}, "first_step=2 must be one of the 2 steps"),
    ],
)
def test_impossible_run_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        next(denoise(lambda c, b: torch.zeros(1, 3, 4)[:, b], torch.zeros(1, 3, dtype=torch.long), 0, **options))


def test_position_at_which_no_token_is_possible_is_explained():
    def predict(canvas: Tensor, block: slice) -> Tensor:
        return torch.zeros(1, 3, 4)[:, block]

    canvas = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="no token is possible at some position: all are suppressed, or none is"):
        next(denoise(suppressed(predict, [1, 2, 3]), canvas, 0))  # what is left is [MASK]
    with pytest.raises(ValueError, match=r"suppressed tokens \[4, -1\] are none of the 4 of the vocabulary"):
        next(denoise(suppressed(predict, [1, 4, -1]), canvas, 0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"steps": 15, "gen_length": 16, "block_length": 8},
            "steps=15 cannot be shared equally by 2 blocks of 8 tokens",
        ),
        ({"gen_length": 10, "block_length": 4}, "gen_length=10 cannot be cut into blocks of block_length=4"),
        ({"gen_length": 8, "block_length": 16}, "cannot be cut into blocks"),
        ({"gen_length": 8, "steps": 9}, "steps=9 exceeds gen_length=8"),
        ({"order": "confidense"}, "unknown order 'confidense'; known: confidence, .*random"),
        ({"reveal": "topk"}, "unknown reveal 'topk'; known: top_k"),
        ({"forbid_eos": True, "stop_at_eos": True}, "stop_at_eos has no effect with forbid_eos"),
        ({"temprature": 1.0}, "unknown key 'temprature'; did you mean 'temperature'"),
        ({"temperature": -0.5}, "temperature: .* greater than or equal to 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"steps": "many"}, "steps: .* valid integer"),
        ({"gen_length": 0}, "gen_length: .* greater than or equal to 1"),
    ],
)
def test_impossible_sampler_is_explained(values, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**values)


def test_unknown_sampler_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown sampler 'greedy'; known: adaptive_guidance, .*, threshold, "):
        SamplerConfig.named("greedy")


def test_named_samplers_have_the_settings_of_their_papers():
    assert SamplerConfig.named("semi_autoregressive").block_length == 32
    assert SamplerConfig.named("random").order == "random"


def test_refusals_of_generate(golden):
    model, _ = golden
    with pytest.raises(ValueError, match=r"the prompt holds \[MASK\] tokens; llada\.infill"):
        generate(model, torch.tensor([[1, MASK]]), None, SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="must be \\(batch, length\\)"):
        generate(model, torch.tensor([1, 2]), None, SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="differ in shape"):
        generate(model, prompts(1), torch.ones(1, 5), SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="padding must be on the left"):
        generate(model, prompts(1), torch.tensor([[1, 1, 1, 1, 1, 0]]), SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="token ids must be integers"):
        generate(model, torch.ones(1, 2), None, SamplerConfig(gen_length=2))
    with pytest.raises(ValueError, match="stop_at_eos has no effect on infilling"):
        infill(model, prompts(1), sampler=SamplerConfig(stop_at_eos=True))
    with pytest.raises(ValueError, match="steps=5 cannot be shared equally by 2 blocks of 3 tokens"):
        infill(model, prompts(1), sampler=SamplerConfig(steps=5, block_length=3))
    with pytest.raises(ValueError, match="gen_length has no effect on infilling"):
        infill(model, prompts(1), sampler=SamplerConfig(gen_length=8))
    with pytest.raises(ConfigError, match="steps=200 exceeds gen_length=128"):
        generate(model, prompts(1), None, SamplerConfig(steps=200))


def test_model_without_the_tokens_a_sampler_needs_is_refused():
    silent = Constant(torch.zeros(3), mask_token_id=None)
    with pytest.raises(ValueError, match="mask_token_id is not set"):
        generate(silent, torch.tensor([[1]]), None, SamplerConfig(gen_length=2))
    for option in ("forbid_eos", "eos_last", "stop_at_eos"):
        with pytest.raises(ValueError, match=f"{option} needs model.config.eos_token_id"):
            generate(Constant(torch.zeros(3)), torch.tensor([[1]]), None, SamplerConfig(gen_length=2, **{option: True}))


@pytest.mark.parametrize("fields", [{}, {"reveal": "threshold", "threshold": 0.3, "longest": 12}])
def test_rows_can_have_numbers_of_their_own(models, fields):
    sampler, numbers = SamplerConfig(gen_length=4, temperature=1.0, **fields), torch.tensor([5, 2**61 + 3])
    prompt = prompts(3, 5)[:1]
    both = generate(models["dual"], prompt.repeat(2, 1), sampler=sampler, first_row=numbers).sequences
    assert not torch.equal(both[0], both[1])
    for i, number in enumerate(numbers.tolist()):
        alone = generate(models["dual"], prompt, sampler=sampler, first_row=number).sequences[0]
        assert torch.equal(both[i, : len(alone)], alone)
    with pytest.raises(
        ValueError, match=r"first_row is torch.int64 \(2,\); give the number of the first row, or int64"
    ):
        generate(models["dual"], prompt, sampler=sampler, first_row=numbers)
