"""Guidance, forbidden and allowed tokens, and what finished rows cost."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bed import BED
from safetensors.torch import load_file
from torch import Tensor

import llada
from llada.config import ConfigError
from llada.sampling import reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical, replacing
from llada.sampling.generate import SamplerConfig, generate, infill
from llada.sampling.predictors import adaptively_guided, guided, plain, restricted, suppressed

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


# Rows that are finished


def unnarrowed(model: Counting):
    """The same prediction as a bare function, of which the loop cannot have some rows."""
    return lambda canvas, block: plain(model)(canvas, block)


ADAPTIVE = {
    "threshold": {"reveal": reveals.threshold(0.5)},
    "factor": {"reveal": reveals.factor(1.2)},
    "entropy bound": {"reveal": reveals.entropy_bound(0.8)},
    "klass": {"reveal": reveals.klass(0.5, 0.5, 1), "lookback": 1},
    "early exit": {"reveal": reveals.early_exit(reveals.top_k, (3.0, 2.0, 1.0))},
    "edits": {"reveal": reveals.threshold(0.5), "edit": replacing(0.6), "edit_steps": 4},
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
    model = Counting(5, 0.7)
    narrowed: list[State] = list(denoise(plain(model), canvas, MASK, uniforms=uniforms, **options))
    assert model.rows == [int(state.active.sum()) for state in narrowed]
    assert min(model.rows) < 12
    whole = list(denoise(unnarrowed(Counting(5, 0.7)), canvas, MASK, uniforms=uniforms, **options))
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


def test_predictor_that_cannot_be_narrowed_inside_one_that_can_is_named():
    canvas = canvas_after(prompts(2))
    canvas[0, 3:] = 0
    with pytest.raises(TypeError, match=r"cannot be narrowed to rows of its batch, .* give it an of_rows method"):
        list(denoise(suppressed(unnarrowed(Counting()), [0]), canvas, MASK))
    given = torch.zeros_like(canvas, dtype=torch.bool)
    for wrapped in (
        guided(plain(Counting()), given, MASK, 1.0),
        adaptively_guided(plain(Counting()), given, MASK, 1.0, 1.0),
    ):
        assert not (list(denoise(wrapped, canvas, MASK))[-1].canvas == MASK).any()


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
