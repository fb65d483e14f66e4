"""KV caches: exact where they claim to be, wrong by as little as they should elsewhere, and each row by itself.

Everything is in float64, so that an equality to 1e-12 is one of the mathematics (ALGORITHMS C0 to C6, T25).
"""

import pytest
import torch
from torch import Tensor

import llada
from llada.sampling.cached import Cache, block_causal, cached, delayed, dual, prefix
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical, replacing
from llada.sampling.orders import max_probability
from llada.sampling.predictors import Meter, logits_at, plain
from llada.sampling.reveals import p2, threshold

MASK, EOS, V, P, L = 3, 1, 40, 8, 24
BLOCKS = [slice(8, 16), slice(16, 24)]
WINDOWED = {"prefix": prefix, "dual": dual, "delayed": delayed}


def build(layers: int = 2, block_length: int | None = None) -> llada.LLaDAForMaskedLM:
    torch.manual_seed(layers)
    config = llada.LLaDAConfig(
        d_model=32,
        n_layers=layers,
        n_heads=4,
        n_kv_heads=2,
        mlp_hidden_size=48,
        vocab_size=V,
        mask_token_id=MASK,
        eos_token_id=EOS,
        max_sequence_length=64,
        block_length=block_length,
    )
    return llada.LLaDAForMaskedLM(config).double().eval()


def ragged(rows: int = 3) -> tuple[Tensor, Tensor]:
    """Canvases with prompts of 8, 5 and 1 tokens, padded on the left, and where the padding is."""
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randint(4, V, (rows, L), generator=generator)
    canvas[:, P:] = MASK
    attention_mask = torch.ones_like(canvas)
    for row, padding in enumerate((0, 3, 7)[:rows]):
        attention_mask[row, :padding] = 0
    return canvas, attention_mask


def errors(model, cache: Cache, *, layers_canvas: tuple[Tensor, Tensor] | None = None, **options) -> list[float]:
    """By how much the logits differ from those without a cache, step by step along the run without one."""
    canvas, attention_mask = ragged() if layers_canvas is None else layers_canvas
    exact = plain(model, attention_mask)
    kept = cached(model, cache, MASK, attention_mask, refresh_every=options.pop("refresh_every", None))
    seen = []
    for state in denoise(exact, canvas, MASK, **{"blocks": BLOCKS, "steps": 4, **options}):
        wanted = canvas[:, state.block] == MASK
        truth, ours = (predict.at(canvas, state.block, wanted) for predict in (exact, kept))
        seen.append(float((truth - ours).abs().max()))
        canvas = state.canvas
    return seen


@pytest.mark.parametrize("name", WINDOWED)
def test_refreshed_at_every_step_a_cache_is_none(name):
    assert max(errors(build(3), WINDOWED[name], refresh_every=1)) < 1e-12


@pytest.mark.parametrize("name", WINDOWED)
def test_with_one_layer_caches_are_exact(name):
    """Keys and values of the first layer depend on their own tokens alone."""
    assert max(errors(build(1), WINDOWED[name])) < 1e-12


def test_without_delay_a_revealed_token_would_stay_what_it_was_as_a_mask():
    assert max(errors(build(1), Cache(lambda now: now.masked))) > 1e-3


@pytest.mark.parametrize("name", WINDOWED)
def test_with_more_layers_caches_err_but_not_at_the_first_step_of_a_window(name):
    """An error of zero would mean that nothing is kept."""
    error = errors(build(2), WINDOWED[name])
    assert error[0] < 1e-12
    assert error[4] < 1e-12
    assert min(error[1:4] + error[5:]) > 1e-6


def test_refreshing_bounds_the_error_in_between():
    error = errors(build(2), dual, steps=6, refresh_every=2)
    assert all((value < 1e-12) == (step % 2 == 0) for step, value in enumerate(error))


@pytest.mark.parametrize("name", WINDOWED)
def test_where_no_token_has_changed_a_cache_is_exact(name):
    model = build(3)
    canvas, attention_mask = ragged()
    kept = cached(model, WINDOWED[name], MASK, attention_mask)
    wanted = canvas[:, BLOCKS[0]] == MASK
    truth = plain(model, attention_mask).at(canvas, BLOCKS[0], wanted)
    for _ in range(3):
        torch.testing.assert_close(kept.at(canvas, BLOCKS[0], wanted), truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block_length", [1, 4, 5, 8, 64])
def test_the_block_causal_cache_is_exact_however_windows_and_blocks_lie(block_length):
    assert max(errors(build(3, block_length), block_causal(block_length))) < 1e-12
    assert max(errors(build(3, block_length), block_causal(block_length), reveal=threshold(0.04))) < 1e-12


def test_the_block_causal_cache_is_exact_where_rows_skip_windows():
    """Row 1 has no masks in the second window and row 2 none in the first, as in infilling."""
    canvas, attention_mask = ragged()
    canvas[1, 16:20], canvas[2, 8:12] = 9, 9
    blocks = [slice(start, start + 4) for start in range(8, 24, 4)]
    error = errors(build(3, 6), block_causal(6), layers_canvas=(canvas, attention_mask), blocks=blocks, steps=2)
    assert len(error) == 8
    assert max(error) < 1e-12


def test_keys_of_a_block_from_before_its_last_reveal_would_be_wrong():
    """What a cache without the pass over the clean block does."""
    block = block_causal(8)
    careless = Cache(lambda now: block.fresh(now._replace(changed=now.masked)), whole_window=False)
    assert max(errors(build(2, 8), careless)[5:]) > 1e-3


def test_a_block_causal_model_does_not_see_later_blocks():
    model, (canvas, attention_mask) = build(3, 4), ragged(1)
    canvas = torch.where(canvas == MASK, 7, canvas)
    before = model(canvas, attention_mask).logits
    other = canvas.clone()
    other[0, 14] = 20
    change = (model(other, attention_mask).logits - before).abs().amax(dim=-1)[0]
    assert (change[:12] == 0).all()
    assert (change[12:] > 1e-9).all()
    torch.testing.assert_close(model(canvas[:, :12]).logits, before[:, :12], rtol=0, atol=1e-12)


def test_blocks_are_counted_from_the_first_token_that_is_not_padding():
    model = build(2, 4)
    canvas, attention_mask = ragged()
    padded = model(canvas, attention_mask).logits
    for row, padding in enumerate((0, 3, 7)):
        alone = model(canvas[row : row + 1, padding:]).logits[0]
        torch.testing.assert_close(padded[row, padding:], alone, rtol=0, atol=1e-12)


CACHES = {**{name: (None, cache) for name, cache in WINDOWED.items()}, "block-causal": (4, block_causal(4))}


def runs(model, cache: Cache, canvas: Tensor, attention_mask: Tensor | None, first_row: int = 0, **options):
    given = attention_mask if attention_mask is not None else torch.ones_like(canvas)
    meter = Meter.of(canvas)
    predict = cached(model, cache, MASK, attention_mask, meter=meter, refresh_every=options.pop("refresh_every", None))
    uniforms = row_uniforms(0, given, first_row)
    states = denoise(predict, canvas, MASK, blocks=options.pop("blocks", BLOCKS), uniforms=uniforms, **options)
    return list(states), meter


OPTIONS = {
    "greedy": {},
    "drawn": {"draft": categorical(1.3), "steps": 3, "refresh_every": 2},
    "ragged ends": {"reveal": threshold(0.2), "order": max_probability, "draft": categorical(1.0)},
    "stopping": {"stop_token_id": 12, "draft": categorical(1.5)},
    "planning": {"reveal": p2(1.0), "draft": categorical(1.0), "steps": 5},
    "edits": {"reveal": threshold(0.1), "edit": replacing(0.1, 3), "draft": categorical(1.0)},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CACHES)
def test_rows_of_a_ragged_batch_are_what_they_are_alone(name, options):
    block_length, cache = CACHES[name]
    model = build(2, block_length)
    canvas, attention_mask = ragged()
    together, meter = runs(model, cache, canvas, attention_mask, **OPTIONS[options])
    for row, padding in enumerate((0, 3, 7)):
        blocks = [slice(block.start - padding, block.stop - padding) for block in BLOCKS]
        alone, its = runs(model, cache, canvas[row : row + 1, padding:], None, row, blocks=blocks, **OPTIONS[options])
        assert torch.equal(alone[-1].canvas[0], together[-1].canvas[row, padding:])
        assert int(its.evaluations) == int(meter.evaluations[row])
        # steps that compute everything compute the padding, too; the exact cache has none of its own
        extra = int(meter.query_tokens[row] - its.query_tokens)
        whole = name != "block-causal" or "refresh_every" in OPTIONS[options]
        assert extra % max(padding, 1) == 0
        assert (extra > 0) == (whole and padding > 0)


def test_the_runs_of_these_tests_are_ragged():
    """Rows end at different times, or the tests above would show less than they say."""
    canvas, attention_mask = ragged()
    for options in ("ragged ends", "stopping"):
        _, meter = runs(build(2), dual, canvas, attention_mask, **OPTIONS[options])
        assert len(set(meter.evaluations.tolist())) > 1


def test_interleaved_runs_do_not_touch_each_other():
    model = build(2)
    canvas, attention_mask = ragged()

    def start(rows: slice):
        predict = cached(model, dual, MASK, attention_mask[rows])
        return denoise(predict, canvas[rows], MASK, blocks=BLOCKS)

    apart = [list(start(slice(0, 2)))[-1].canvas, list(start(slice(1, 3)))[-1].canvas]
    last: list[State] = []
    for pair in zip(start(slice(0, 2)), start(slice(1, 3)), strict=True):
        last = list(pair)
    assert all(torch.equal(state.canvas, expected) for state, expected in zip(last, apart, strict=True))


def test_query_tokens_are_those_that_each_cache_is_for():
    model = build(2)
    canvas = ragged(1)[0]
    counted = {name: int(runs(model, cache, canvas, None)[1].query_tokens) for name, cache in WINDOWED.items()}
    steps = 8  # of each of the two windows
    assert counted["prefix"] == 2 * L + (steps - 1) * (16 + 8)
    assert counted["dual"] == 2 * L + 2 * (steps - 1) * 8
    # the masks of the canvas, and the one that was revealed last
    assert counted["delayed"] == 2 * L + sum(16 - k + 1 for k in range(1, 8)) + sum(8 - k + 1 for k in range(1, 8))
    block = int(runs(build(2, 8), block_causal(8), canvas, None)[1].query_tokens)
    assert block == (P + 8) + 7 * 8 + (8 + 8) + 7 * 8


def test_a_plain_model_and_a_cache_count_in_the_same_way():
    model, canvas = build(1), ragged(1)[0]
    meter = Meter.of(canvas)
    list(denoise(plain(model, meter=meter), canvas, MASK, blocks=BLOCKS))
    _, kept = runs(model, dual, canvas, None, refresh_every=1)
    assert int(meter.evaluations) == int(kept.evaluations) == 16
    assert int(meter.query_tokens) == int(kept.query_tokens) == 16 * L


def test_without_what_follows_the_window_the_cache_grows_with_it():
    model, canvas = build(3), ragged(1)[0]
    options = {"blocks": BLOCKS, "steps": 4}
    short = cached(model, dual, MASK, refresh_every=1, beyond_window=False)
    exact = list(denoise(plain(model, beyond_window=False), canvas, MASK, **options))
    ours = list(denoise(short, canvas, MASK, **options))
    assert torch.equal(ours[-1].canvas, exact[-1].canvas)


@pytest.mark.parametrize("refresh_every", [0, -1])
def test_refreshing_never_or_less_is_refused(refresh_every):
    with pytest.raises(ValueError, match=f"refresh_every={refresh_every} must be at least 1, which is no cache at all"):
        cached(build(1), dual, MASK, refresh_every=refresh_every)


def test_speculation_on_a_cache_is_refused():
    with pytest.raises(ValueError, match="a cache belongs to its batch"):
        cached(build(1), dual, MASK).of_rows(torch.tensor([0, 0]))


def test_a_cache_can_be_wrapped_like_any_predictor():
    canvas, attention_mask = ragged()
    kept = cached(build(2), dual, MASK, attention_mask)
    wanted = canvas[:, BLOCKS[0]] == MASK
    assert logits_at(kept, canvas, BLOCKS[0], wanted).shape == (24, V)
    assert kept(canvas, BLOCKS[0]).shape == (3, 8, V)
