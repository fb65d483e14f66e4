"""What is asked → what the library is given, and the moments of it: equal to what the library itself gives."""

import pytest
import torch

from llada.config import read_yaml
from llada.data.chat import decode_response, encode_prompt
from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate, infill
from llada.sampling.request import end_tokens
from llada.sampling.trace import Trace
from llada.web.run import page_of, run
from llada.web.task import Typed, task_of

DAEDAL = {"reveal": "threshold", "threshold": 0.9, "longest": 100}
VALUES = {"gen_length": 12, "temperature": 1.0}


def outcome(model, tokenizer, asked: Typed, values: dict, seed: int = 3, **options):
    *_, last = run(model, tokenizer, task_of(model, tokenizer, asked, values), seed, **options)
    assert last.outcome is not None
    return last.outcome


def conversation(*said: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(said[::2], said[1::2], strict=True)]


def test_an_answer_is_that_of_the_library(model, tokenizer):
    asked = Typed("answer", "What?", "Be brief.", conversation("user", "a", "assistant", "b"))
    messages = conversation("system", "Be brief.", "user", "a", "assistant", "b", "user", "What?")
    prompt = torch.tensor([encode_prompt(tokenizer, messages)])
    out = generate(model, prompt, None, SamplerConfig(**VALUES), 3)
    found = outcome(model, tokenizer, asked, VALUES)
    assert found.text == decode_response(tokenizer, out.sequences[0, prompt.shape[1] :].tolist())
    assert found.trace.final.equal(out.sequences)
    assert found.cost.startswith(
        f"{int(out.forward_passes)} forward passes, {int(out.query_tokens)} positions computed"
    )


@pytest.mark.parametrize("text", ["the model", ""])
def test_a_continuation_is_that_of_the_library(model, tokenizer, text):
    prompt = torch.tensor([encode(tokenizer, text)], dtype=torch.long)
    out = generate(model, prompt, None, SamplerConfig(**VALUES), 3)
    found = outcome(model, tokenizer, Typed("continue", text), VALUES)
    assert found.text == text + decode_response(tokenizer, out.sequences[0, prompt.shape[1] :].tolist())


def test_gaps_are_filled_as_by_the_library(model, tokenizer):
    mask = [model.config.mask_token_id] * 3
    tokens = [*encode(tokenizer, "a "), *mask, *encode(tokenizer, " b "), *mask]
    sampler = SamplerConfig(temperature=1.0, suppress_tokens=end_tokens(model))
    out = infill(model, torch.tensor([tokens]), None, sampler, 3)
    found = outcome(model, tokenizer, Typed("fill in", "a ___ b ___", gap=3), VALUES)
    assert found.text == tokenizer.decode(out.sequences[0])
    assert found.trace.final.equal(out.sequences)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("answer", name) for name in ("low_confidence", "remdm_conf", "threshold", "mask_predict", "token_editing")]
    + [("continue", "gibbs")],
)
def test_fixed_words_stand_in_every_canvas(model, tokenizer, kind, name):
    asked = Typed(kind, "What?", fixed="0: The\n-1: end")
    values = read_yaml(SamplerConfig.file_of(name)) | {"gen_length": 12}
    values |= {"block_length": 12} if "block_length" in values else {}
    task = task_of(model, tokenizer, asked, values)
    found = outcome(model, tokenizer, asked, values)
    out = infill(model, task.canvas, None, task.sampler.replace(block_length=None), 3)  # of one block, at any place
    assert found.trace.final.equal(out.sequences)
    the, end = encode(tokenizer, "The"), encode(tokenizer, "end")
    for canvas in found.trace.replay():
        assert canvas[0, task.prompt : task.prompt + 3].tolist() == the
        assert canvas[0, -3:].tolist() == end
    assert found.text.endswith("end")  # even where the model has ended the text before


@pytest.mark.parametrize("prompt", [0, 3, 8, 13])
def test_fixed_words_leave_blocks_and_steps_as_they_are(model, tokenizer, prompt):
    """The blocks are cut from where the answer begins, and steps are shared by them alone."""
    values = {"gen_length": 16, "block_length": 8, "steps": 16, "forbid_eos": True}
    asked = Typed("continue", "a" * prompt, fixed="2: the")
    found = outcome(model, tokenizer, asked, values)
    assert found.trace.steps == 5 + 8
    places = (found.trace.canvas == model.config.mask_token_id)[0].nonzero()[:, 0] - prompt
    assert places.tolist() == [0, 1, *range(5, 16)]
    first = list(found.trace.replay())[4][0, prompt:] == model.config.mask_token_id
    assert first.nonzero()[:, 0].tolist() == list(range(8, 16))


def test_an_answer_that_finds_its_length_has_no_trace(model, tokenizer):
    values = {"reveal": "threshold", "threshold": 0.5, "gen_length": 8, "longest": 24, "block_length": 8}
    prompt = torch.tensor([encode(tokenizer, "the")])
    out = generate(model, prompt, None, SamplerConfig(**values), 3)
    found = outcome(model, tokenizer, Typed("continue", "the"), values)
    assert found.text == "the" + decode_response(tokenizer, out.sequences[0, 3:].tolist())
    assert found.trace is None


def test_an_answer_that_finds_its_length_is_shown_after_each_call_and_can_be_given_up(model, tokenizer):
    values = DAEDAL | {"threshold": 1.0, "gen_length": 8, "longest": 24, "block_length": 8}
    task = task_of(model, tokenizer, Typed("continue", "the"), values)
    calls = []
    with model.register_forward_pre_hook(lambda *_: calls.append(1)):
        moments = run(model, tokenizer, task, 0)
        for number in (1, 2):
            moment = next(moments)
            assert moment.status.startswith(f"{number} forward passes, ")
            assert moment.status.endswith(f", {moment.canvas.count('░')} masks left")
        moments.close()
    assert len(calls) == 2


def test_there_is_a_moment_for_every_step_and_it_names_it(model, tokenizer):
    task = task_of(model, tokenizer, Typed("answer", "What?"), VALUES | {"steps": 4, "cfg_scale": 1.0})
    moments = list(run(model, tokenizer, task, 0))
    assert [moment.status for moment in moments] == [
        "no step",
        *(f"step {n}, {2 * n} forward passes, {12 - 3 * n} masks left" for n in range(1, 5)),
        "done: step 4, 8 forward passes, 0 masks left",
    ]
    assert [moment.canvas.count("░") for moment in moments] == [12, 9, 6, 3, 0, 0]
    assert all(moment.canvas.count("<span") == 12 for moment in moments)


@pytest.mark.parametrize(
    ("asked", "values", "passes"),
    [
        (Typed("continue", "a"), {"reveal": "gibbs", "steps": 2**20, "gen_length": 12}, 2**20),
        (Typed("continue", "a", fixed="0: b"), {"reveal": "gibbs", "steps": 4097, "gen_length": 12}, 4097),
        (Typed("fill in", "a ___"), {"speculation": 1024}, 8 * 1024),
        (Typed("continue", "a"), {"reveal": "threshold", "threshold": 1.0, "longest": 2049, "gen_length": 8}, 4098),
    ],
    ids=range(4),
)
def test_what_would_keep_the_page_busy_is_refused(model, tokenizer, asked, values, passes):
    message = f"this sampler may call the model {passes} times, more than the 4096 of the page; ask for fewer steps"
    with pytest.raises(ValueError, match=message):
        task_of(model, tokenizer, asked, values)


def test_words_that_leave_no_mask_need_no_step(model, tokenizer):
    found = outcome(model, tokenizer, Typed("continue", "a", fixed="0: b"), {"gen_length": 1})
    assert (found.text, found.trace.steps) == ("ab", 0)
    assert "0 forward passes" in found.cost


def test_the_trace_is_a_file_and_a_page(model, tokenizer, tmp_path):
    found = outcome(model, tokenizer, Typed("continue", "</script>"), VALUES, alternatives=2)
    found.trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == found.trace
    assert found.trace.alternatives.shape[1] == 2
    assert page_of(tokenizer, found.trace, "small").count("</script>") == 2


@pytest.mark.parametrize(
    ("asked", "values", "message"),
    [
        (Typed("answer", " "), {}, "there is nothing to do yet: type a text"),
        (Typed("fill in", "no gap"), {}, "the text has no gap; mark each with ___, or continue the text instead"),
        (Typed("fill in", "a ___", gap=0), {}, "a gap of 0 masks leaves nothing to fill; give 1 or more"),
        (Typed("fill in", "___ ___", gap=100), {}, "200 tokens of prompt and answer exceed the model's 160"),
        (Typed("fill in", f"{'a' * 100}___", gap=100), {}, "200 tokens of prompt and answer exceed the model's 160"),
        (Typed("continue", "a"), {"gen_length": 10**6}, "tokens of prompt and answer exceed the model's 160"),
        (Typed("continue", "a", fixed="0: b"), {"gen_length": 10**6}, "exceed the model's 160"),
        (Typed("continue", "a", fixed="0: b"), {"gen_length": 0}, "gen_length: Input should be greater than or equal"),
        (Typed("continue", "a", fixed="b"), {}, "fixed words, line 1: 'b' has no position"),
        (Typed("continue", "a", fixed="0: b"), DAEDAL | {"gen_length": 8}, "goes with neither gaps nor fixed words"),
        (Typed("continue", "a", fixed="0: b"), DAEDAL | {"longest": 200}, "goes with neither gaps nor fixed words"),
        (Typed("fill in", "a ___"), DAEDAL | {"longest": 200}, "goes with neither gaps nor fixed words"),
        (Typed("continue", "a", fixed="0: b"), {"gen_length": 4, "steps": 8}, "steps=8 exceeds gen_length=4"),
        (Typed("continue", "a", fixed="0: b"), {"gen_length": 4, "stop_at_eos": True}, "stop_at_eos has no effect on"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_what_cannot_be_done_is_refused(model, tokenizer, asked, values, message):
    with pytest.raises(ValueError, match=r"\w") as error:
        outcome(model, tokenizer, asked, values)
    assert message in str(error.value)
