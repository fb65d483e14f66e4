"""Speculation, answers of their own length, caches from where users are: configuration, `model.generate`, command."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bed import BED
from console import llada as command
from torch import Tensor

import llada
from llada.config import ConfigError, config_folder
from llada.data.tokenizer import train_tokenizer
from llada.sampling import orders
from llada.sampling.chains import Round
from llada.sampling.config import SamplerConfig
from llada.sampling.daedal import daedal
from llada.sampling.denoise import row_uniforms
from llada.sampling.generate import generate, generation_states, growing_states, infill
from llada.sampling.predictors import guided, plain
from llada.sampling.speculate import exact_speculation
from llada.sampling.trace import Recorder
from llada.sampling.trace_measures import tokens_per_forward

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "tiny-mha"
LENGTH = 12


@pytest.fixture(scope="module")
def model():
    model, _ = llada.load_pretrained(GOLDEN)
    return model.double()  # so that other batch sizes round to the same tokens


def prompts(rows: int, length: int = 6) -> Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(rows))


PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])

GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "steps": {"steps": 5},
    "cosine counts": {"steps": 5, "counts": "cosine"},
    "given counts": {"counts": [1, 2, 3, 6]},
    "blocks": {"block_length": 4, "steps": 9},
    "another order": {"order": "entropy"},
    "a random order": {"order": "random"},
    "guidance": {"cfg_scale": 1.0},
    "adaptive guidance": {"cfg_scale": 0.5, "guidance": "adaptive"},
    "suppressed tokens": {"suppress_tokens": [3, 17, 200]},
    "EOS forbidden": {"forbid_eos": True},
    "EOS last": {"eos_last": True},
    "stop at EOS": {"block_length": 4, "stop_at_eos": True},
    "appended blocks": {"block_length": 4, "stop_at_eos": True, "variable_length": True},
}


# Speculation


@pytest.mark.parametrize("fields", GREEDY.values(), ids=GREEDY.keys())
@pytest.mark.parametrize("speculation", [2, 4])
def test_greedy_speculation_changes_no_token(model, fields, speculation):
    sampler = SamplerConfig(gen_length=LENGTH, **fields)
    slow = generate(model, prompts(3), PADDED, sampler, seed=2)
    fast = generate(model, prompts(3), PADDED, sampler.replace(speculation=speculation), seed=2)
    assert torch.equal(fast.sequences, slow.sequences)
    assert (fast.forward_passes <= slow.forward_passes).all()
    assert (fast.tokens_per_forward >= slow.tokens_per_forward).all()


def test_greedy_speculation_saves_calls_and_says_how_many_canvases_they_take(model):
    sampler = SamplerConfig.named("free_dave", gen_length=32)
    slow = generate(model, prompts(3), None, sampler.replace(speculation=None))
    fast = generate(model, prompts(3), None, sampler)
    assert torch.equal(fast.sequences, slow.sequences)
    assert int(fast.forward_passes.sum()) < int(slow.forward_passes.sum())
    rounds = list(generation_states(model, prompts(3), None, sampler))
    assert all(isinstance(state, Round) for state in rounds)
    assert torch.equal(sum(state.active.long() for state in rounds), fast.forward_passes)
    assert (sum(state.canvases for state in rounds) > slow.forward_passes).all()
    assert max(int(state.canvases.max()) for state in rounds) == 4


def test_guidance_counts_twice_under_speculation(model):
    sampler = SamplerConfig(gen_length=LENGTH, cfg_scale=0.5, speculation=3)
    rounds = list(generation_states(model, prompts(2), None, sampler))
    expected = 2 * sum(state.active.long() for state in rounds)
    assert torch.equal(generate(model, prompts(2), None, sampler).forward_passes, expected)


@pytest.mark.parametrize("fields", [{}, {"steps": 6, "block_length": 4}, {"temperature": 1.0, "order": "random"}])
def test_infilling_can_speculate(model, fields):
    canvas = prompts(3, 12)
    canvas[0, 2:9] = canvas[1, [1, 10]] = model.config.mask_token_id
    sampler = SamplerConfig(speculation=3, **fields)
    out = infill(model, canvas, None, sampler)
    kept = canvas != model.config.mask_token_id
    assert torch.equal(out.sequences[kept], canvas[kept])
    assert not (out.sequences == model.config.mask_token_id).any()
    assert out.forward_passes[2] == 0
    if "temperature" not in fields:
        assert torch.equal(out.sequences, infill(model, canvas, None, sampler.replace(speculation=None)).sequences)


@pytest.mark.parametrize("temperature", [0.5, 1.3])
@pytest.mark.parametrize("order", ["left_to_right", "max_probability", "random"])
def test_drawn_speculation_is_given_temperature_order_blocks_and_seed(model, temperature, order):
    sampler = SamplerConfig(gen_length=LENGTH, block_length=6, temperature=temperature, order=order, speculation=3)
    out = generate(model, prompts(2), None, sampler, seed=7)
    mask = model.config.mask_token_id
    canvas = torch.cat((prompts(2), torch.full((2, LENGTH), mask)), dim=1)
    direct = exact_speculation(
        plain(model),
        canvas,
        mask,
        depth=3,
        temperature=temperature,
        blocks=[slice(6, 12), slice(12, 18)],
        order=getattr(orders, order),
        keep_order=False,
        uniforms=row_uniforms(7, torch.ones_like(canvas)),
    )
    rounds = list(direct)
    assert torch.equal(out.sequences, rounds[-1].canvas)
    assert torch.equal(out.forward_passes, sum(state.active.long() for state in rounds))


class Oracle:
    """The exact conditionals of the test bed."""

    config = SimpleNamespace(mask_token_id=BED.mask, eos_token_id=2)

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=BED.oracle(input_ids))


@pytest.mark.parametrize("fields", [{}, {"order": "max_probability"}])
def test_drawn_speculation_has_the_law_of_the_model(fields):
    """False alarm below 1e-9: the mean total variation is at most sqrt(26 / n) / 2, and 0.023 above it is as rare."""
    n = 20_000
    sampler = SamplerConfig.named("speculative", gen_length=3, **fields)
    drawn = BED.index(generate(Oracle(), torch.zeros(n, 0, dtype=torch.long), None, sampler).sequences)
    variation = float((drawn.bincount(minlength=27) / n - BED.p).abs().sum() / 2)
    assert variation < (26 / n) ** 0.5 / 2 + 0.023


def test_drawn_speculation_stops_at_the_end_of_sequence(model):
    """The tokens up to the first one are those of the same sampler that goes on."""
    free = SamplerConfig.named("speculative", gen_length=32, block_length=4, order="left_to_right")
    eos, some_stopped = model.config.eos_token_id, False
    whole = generate(model, prompts(16), None, free, seed=1)
    stopped = generate(model, prompts(16), None, free.replace(stop_at_eos=True), seed=1)
    for one, other, fewer in zip(whole.sequences, stopped.sequences, stopped.forward_passes, strict=True):
        ends = (one[6:] == eos).nonzero()[:, 0]
        first = 6 + (int(ends[0]) if len(ends) else 32)
        assert torch.equal(other[:first], one[:first])
        assert (other[first:] == eos).all()
        some_stopped |= first < 34 and bool(fewer < whole.forward_passes.min())
    assert some_stopped


@pytest.mark.parametrize("name", ["free_dave", "speculative"])
def test_row_that_has_stopped_takes_part_in_no_further_call(model, name):
    sampler = SamplerConfig.named(name, gen_length=32, block_length=16, order="left_to_right", stop_at_eos=True)
    masked, in_the_middle = torch.ones(32, dtype=torch.bool), False
    for state in generation_states(model, prompts(32), None, sampler, seed=1):
        assert not (state.active & ~masked).any()
        masked = (state.canvas == model.config.mask_token_id).any(dim=1)
        in_the_middle |= bool((~masked & ~state.visible.all(dim=1)).any())
    assert in_the_middle


@pytest.mark.parametrize("name", ["free_dave", "speculative"])
def test_speculation_is_recorded_and_streamed_as_any_sampler(model, name):
    sampler = SamplerConfig.named(name, gen_length=LENGTH, block_length=6)
    out = generate(model, prompts(3), None, sampler, seed=3)
    masks = torch.full((3, LENGTH), model.config.mask_token_id)
    recorder = Recorder(torch.cat((prompts(3), masks), dim=1), model.config.mask_token_id)
    for _ in recorder.watch(generation_states(model, prompts(3), None, sampler, seed=3)):
        pass
    assert torch.equal(recorder.trace.final, out.sequences)
    eos = model.config.eos_token_id
    assert torch.equal(tokens_per_forward(recorder.trace, eos_token_id=eos), out.tokens_per_forward)

    streamer = Streamer()
    fields = sampler.model_dump(exclude_unset=True)
    streamed = model.generate(prompts(3)[:1], streamer=streamer, seed=3, **fields)
    assert torch.equal(streamed, out.sequences[:1])
    assert [token for block in streamer.tokens for token in block] == streamed[0].tolist()
    assert len(streamer.drafts) == int(out.forward_passes[0])
    assert all(len(draft) == 6 for draft in streamer.drafts)


class Streamer:
    """A streamer of transformers' diffusion kind."""

    def __init__(self):
        self.tokens, self.drafts = [], []

    def put(self, value):
        self.tokens.append(value[0].tolist())

    def put_draft(self, value):
        self.drafts.append(value[0].tolist())

    def end(self):
        pass


# Answers that find their own length

SEP, EOS, MASK = 7, 8, 9


class Story:
    """Knows the answer to the prompt (n, SEP): 5 n tokens in rotation, then the end of sequence for ever."""

    def __init__(self, **config: Any):
        self.config = SimpleNamespace(**{"mask_token_id": MASK, "eos_token_id": EOS, **config})

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        start = (input_ids == SEP).long().argmax(dim=1, keepdim=True)
        length = 5 * input_ids.gather(1, start - 1)
        place = torch.arange(input_ids.shape[1]) - start - 1  # in the answer
        token = torch.where(place < length, place % 5, EOS)
        return SimpleNamespace(logits=8.0 * torch.nn.functional.one_hot(token.clamp(min=0), 10).double())


GROWING = SamplerConfig.named("daedal", gen_length=8, longest=80, block_length=16)


def test_every_answer_finds_its_length_and_is_filled_up_with_the_end_of_sequence():
    prompt = torch.tensor([[0, 0, 2, SEP], [0, 0, 4, SEP], [4, 4, 6, SEP]])
    attention_mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    out = generate(Story(), prompt, attention_mask, GROWING)
    assert torch.equal(out.sequences[:, :4], prompt)
    lengths = []
    for i, row in enumerate(prompt):
        own = row[attention_mask[i] == 1]
        options = {"initial": 8, "longest": 80, "block_length": 16}
        *_, alone = daedal(plain(Story()), own, MASK, EOS, **options)
        lengths.append(len(alone.sequence) - len(own))
        assert torch.equal(out.sequences[i, 4 : 4 + lengths[i]], alone.sequence[len(own) :])
        assert (out.sequences[i, 4 + lengths[i] :] == EOS).all()
        assert out.forward_passes[i] == alone.forward_passes
        assert out.tokens[i] == 5 * int(row[2]) + 1
        assert out.tokens_per_forward[i] == pytest.approx(int(out.tokens[i]) / alone.forward_passes)
    assert len(set(lengths)) == 3
    assert out.sequences.shape == (3, 4 + max(lengths))


def test_an_answer_that_does_not_grow_has_other_states():
    with pytest.raises(ValueError, match="without longest an answer does not grow; take generation_states"):
        growing_states(Story(), torch.tensor([[6, SEP]]), SamplerConfig())


def test_answer_that_reaches_the_longest_length_is_counted_without_an_end():
    out = generate(Story(), torch.tensor([[6, SEP], [1, SEP]]), None, GROWING.replace(longest=24))
    assert out.sequences[0, 2:].tolist() == [i % 5 for i in range(24)]
    assert out.tokens_per_forward[0] == pytest.approx(24 / int(out.forward_passes[0]))


class Forgetful(Story):
    """Once the answer has begun, nothing of it is the end any more."""

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        logits = super().__call__(input_ids).logits
        logits[(input_ids == 0).any(dim=1), :, EOS] = -9.0  # its first token is there
        return SimpleNamespace(logits=logits)


def test_end_of_sequence_that_only_fills_up_is_not_counted():
    sampler = GROWING.replace(block_length=8, insert_until=0.0)
    out = generate(Forgetful(), torch.tensor([[2, SEP], [6, SEP]]), None, sampler)
    assert (out.sequences[0, -16:] == EOS).all()
    own = int((out.sequences[0, 2:] != EOS).sum())
    assert out.tokens_per_forward[0] == pytest.approx(own / int(out.forward_passes[0]))


def test_empty_batch_and_empty_prompt_are_no_errors(model):
    out = generate(Story(), torch.zeros(0, 3, dtype=torch.long), None, GROWING)
    assert (out.sequences.shape, out.forward_passes.shape, out.tokens_per_forward.shape) == ((0, 3), (0,), (0,))
    answers = generate(model, torch.zeros(2, 0, dtype=torch.long), None, GROWING.replace(longest=16)).sequences
    assert answers.shape == (2, 16)
    assert not (answers == model.config.mask_token_id).any()


def test_growing_answers_can_be_guided_and_kept_from_tokens(model):
    sampler = GROWING.replace(longest=24, cfg_scale=0.5, suppress_tokens=[3], insert_below=0.5, insert_until=1.0)
    out = generate(model, prompts(1), None, sampler)

    def predict(canvas: Tensor, window: slice) -> Tensor:
        prompt = (torch.arange(canvas.shape[1]) < 6)[None]
        logits = guided(plain(model), prompt, model.config.mask_token_id, 0.5)(canvas, window)
        return logits.index_fill(-1, torch.tensor([3]), -torch.inf)

    options = {"initial": 8, "longest": 24, "block_length": 16, "insert_below": 0.5, "insert_until": 1.0}
    *_, alone = daedal(predict, prompts(1)[0], model.config.mask_token_id, model.config.eos_token_id, **options)
    assert torch.equal(out.sequences[0], alone.sequence)
    assert out.forward_passes.tolist() == [2 * alone.forward_passes]


def test_thresholds_of_growth_reach_it():
    """Sure of an end at once, or never."""
    prompt = torch.tensor([[6, SEP]])
    at_once = generate(Story(), prompt, None, GROWING.replace(grow_until=0.0))
    assert at_once.sequences.shape == (1, 2 + 8 + 16)
    never = generate(Story(), prompt, None, GROWING.replace(grow_until=1.0))
    assert never.sequences.shape == (1, 2 + 80)


def test_growing_answers_are_drawn_above_temperature_0(model):
    sampler = GROWING.replace(longest=16, temperature=0.9, top_p=0.9)
    first, again, other = (generate(model, prompts(2), None, sampler, seed=s).sequences for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_model_generates_answers_of_their_own_length_but_cannot_stream_them(model):
    fields = GROWING.replace(longest=24).model_dump(exclude_unset=True)
    expected = generate(model, prompts(2), None, GROWING.replace(longest=24))
    out = model.generate(prompts(2), return_dict_in_generate=True, **fields)
    assert torch.equal(out.sequences, expected.sequences)
    assert torch.equal(out.forward_passes, expected.forward_passes)
    with pytest.raises(ValueError, match="longest: an answer that finds its own length has no states to stream"):
        model.generate(prompts(1), streamer=Streamer(), **fields)


def test_impossible_requests_for_growing_answers_are_explained(model):
    prompt = torch.tensor([[2, SEP]])
    with pytest.raises(ValueError, match=r"longest needs model\.config\.eos_token_id, which is not set"):
        generate(Story(eos_token_id=None), prompt, None, GROWING)
    with pytest.raises(ValueError, match=r"82 tokens of prompt and answer exceed the model's 81; .* longest"):
        generate(Story(max_position_embeddings=81), prompt, None, GROWING)
    assert generate(Story(max_position_embeddings=82), prompt, None, GROWING)
    with pytest.raises(ValueError, match=r"the prompt holds \[MASK\] tokens"):
        generate(Story(), torch.tensor([[2, MASK]]), None, GROWING)
    with pytest.raises(ValueError, match="padding must be on the left"):
        generate(Story(), prompt, torch.tensor([[1, 0]]), GROWING)
    with pytest.raises(ValueError, match=r"must be \(batch, length\)"):
        generate(Story(), prompt[0], None, GROWING)
    with pytest.raises(ValueError, match="longest has no effect on infilling"):
        infill(Story(), prompt, None, SamplerConfig.named("daedal"))
    with pytest.raises(ConfigError, match=r"gen_length=128 exceeds longest=100: .* set a smaller gen_length"):
        generate(Story(), prompt, None, SamplerConfig(reveal="threshold", threshold=0.9, longest=100))


# Caches


def test_model_generates_and_streams_with_a_cache(model):
    sampler = SamplerConfig.named("dual_cache", gen_length=LENGTH, block_length=4)
    expected = generate(model, prompts(2), None, sampler)
    out = model.generate(prompts(2), return_dict_in_generate=True, **sampler.model_dump(exclude_unset=True))
    for field, value in expected._asdict().items():
        assert torch.equal(out[field], value)
    streamer = Streamer()
    streamed = model.generate(prompts(2)[:1], streamer=streamer, **sampler.model_dump(exclude_unset=True))
    assert torch.equal(streamed, expected.sequences[:1])
    assert len(streamer.drafts) == int(expected.forward_passes[0])


def test_recording_with_a_cache_leaves_the_tokens_as_they_are(model):
    sampler = SamplerConfig.named("delayed_cache", gen_length=LENGTH, temperature=0.8)
    masks = torch.full((2, LENGTH), model.config.mask_token_id)
    recorder = Recorder(torch.cat((prompts(2), masks), dim=1), model.config.mask_token_id)
    for _ in recorder.watch(generation_states(model, prompts(2), None, sampler, seed=1)):
        pass
    assert torch.equal(recorder.trace.final, generate(model, prompts(2), None, sampler, seed=1).sequences)


# Refusals

SPECULATING = {"speculation": 3}
DRAWING = {"speculation": 3, "temperature": 1.0, "order": "random"}
LONG = {"reveal": "threshold", "threshold": 0.9, "longest": 64, "gen_length": 32}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speculation": 1}, "speculation: .* greater than or equal to 2"),
        (
            {**SPECULATING, "reveal": "threshold", "threshold": 0.9},
            "speculation needs reveal: top_k, .*; not threshold",
        ),
        ({**SPECULATING, "reveal": "ancestral"}, "speculation needs reveal: top_k, .*; not ancestral"),
        ({**SPECULATING, "reveal": "klass"}, "speculation needs reveal: top_k, .*; not klass"),
        ({**SPECULATING, "early_exit": True}, "early_exit and edit_threshold do not go with speculation"),
        ({**SPECULATING, "edit_threshold": 0.5}, "early_exit and edit_threshold do not go with speculation"),
        ({**DRAWING, "top_k": 5}, "top_k and top_p do not go with speculation above temperature 0"),
        ({**DRAWING, "top_p": 0.9}, "top_k and top_p do not go with speculation above temperature 0"),
        ({**DRAWING, "steps": 8}, "steps and counts have no effect on speculation above temperature 0"),
        ({**DRAWING, "counts": [1, 7]}, "steps and counts have no effect on speculation above temperature 0"),
        ({**DRAWING, "order": "confidence"}, "order: confidence would have to look at .*: max_probability, .*random"),
        ({**DRAWING, "eos_last": True}, "^eos_last would have to look at drawn tokens"),
        ({**SPECULATING, "longest": 64, "gen_length": 32}, "longest needs reveal: threshold"),
        ({"longest": 64, "gen_length": 32}, "longest needs reveal: threshold, as in DAEDAL; not top_k"),
        ({**LONG, "longest": 16}, "gen_length=32 exceeds longest=16"),
        ({"longest": 0}, "longest: .* greater than or equal to 1"),
        ({"insert_below": 0.1}, "insert_below has no effect without longest"),
        ({"grow_until": 0.5}, "grow_until has no effect without longest"),
        ({"insert_until": 0.5}, "insert_until has no effect without longest"),
        ({**LONG, "insert_below": 1.5}, "insert_below: .* less than or equal to 1"),
        ({**LONG, "steps": 8}, "steps has no effect with reveal: threshold"),
        ({**LONG, "counts": "even"}, "counts has no effect with reveal: threshold"),
        ({**LONG, "order": "entropy"}, "compares scores with a probability"),
        ({**LONG, "forbid_eos": True}, "forbid_eos, eos_last and stop_at_eos do not go with longest"),
        ({**LONG, "eos_last": True}, "forbid_eos, eos_last and stop_at_eos do not go with longest"),
        ({**LONG, "stop_at_eos": True}, "forbid_eos, eos_last and stop_at_eos do not go with longest"),
        ({**LONG, "early_exit": True}, "early_exit and edit_threshold do not go with longest"),
        ({**LONG, "edit_threshold": 0.5}, "early_exit and edit_threshold do not go with longest"),
    ],
)
def test_combination_without_effect_is_explained(fields, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**fields)


# The command, and the README


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model with a tokenizer, untrained."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["some text to learn bytes from"], 270)
    torch.manual_seed(0)
    config = llada.LLaDAConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=270, max_sequence_length=96,
                               mask_token_id=tokenizer.mask_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    llada.LLaDAForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("some text", ["--sampler", "daedal", "--set", "gen_length=4", "--set", "longest=24"]),
        ("some text", ["--sampler", "free_dave", "--set", "gen_length=8"]),
        ("some text", ["--sampler", "speculative", "--set", "gen_length=8", "--seed", "3"]),
        ("some ___ text ___", ["--sampler", "free_dave", "--gap", "3"]),
        ("some text", ["--sampler", "fast_dllm", "--set", "gen_length=8", "--set", "block_length=4"]),
        ("some ___ text ___", ["--sampler", "delayed_cache", "--gap", "3"]),
    ],
    ids=["daedal", "greedy", "drawn", "infill", "cached", "cached infill"],
)
def test_command_takes_these_samplers(folder, text, settings, monkeypatch, capsys):
    name, plainly = ("infill", []) if "___" in text else ("generate", ["--raw"])
    command(monkeypatch, name, folder, text, *plainly, *settings)
    captured = capsys.readouterr()
    assert captured.out.startswith("some")
    assert "forward passes)" in captured.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some ___ text", "longest has no effect on infilling"),
        ("some text", "exceed the model's 96; shorten the prompt"),
    ],
)
def test_command_explains_what_does_not_go(folder, text, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, "infill" if "___" in text else "generate", folder, text, "--sampler", "daedal")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_readme_has_a_row_for_every_sampler():
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for name in sorted(file.stem for file in (config_folder() / "sampling").glob("*.yaml")):
        assert any(f"`{name}`" in row.split("|")[2] for row in rows), name
    python_only = ("permutation", "optimal_counts", "planner")
    assert all(any(name in row for row in rows) for name in python_only)
