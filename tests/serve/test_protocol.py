"""What bodies ask for, and what they are refused for."""

from dataclasses import replace

import pytest

from llada.config import ConfigError, _explain, read_yaml
from llada.data.chat import encode_prompt
from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.sampling.passes import most_passes
from llada.serve.errors import RequestError
from llada.serve.limits import Limits
from llada.serve.protocol import Reader
from llada.web.form import published

TALK = [{"role": "user", "content": "Hello"}]
LIMITS = Limits(tokens=100, passes=120, choices=4)


def reader(model, tokenizer, **sampler) -> Reader:
    ends = [model.config.eos_token_id, model.config.eot_token_id]
    context = model.config.max_position_embeddings
    return Reader("m", tokenizer, model.config.mask_token_id, ends, context, SamplerConfig(**sampler), LIMITS)


def text(model, tokenizer, sampler: dict | None = None, **body):
    given = {"model": "m", "prompt": "abc", "max_tokens": 8} | body
    return reader(model, tokenizer, **sampler or {}).completion(given, 7)


def chat(model, tokenizer, **body):
    return reader(model, tokenizer).chat({"model": "m", "messages": TALK, "max_tokens": 8} | body, 7)


def test_text_is_continued_by_the_sampler_of_the_server_with_what_the_body_changes(model, tokenizer):
    request = text(model, tokenizer, {"order": "margin"}, temperature=0.5, seed=3, n=2, prompt=["ab", "c"])
    assert [asked.prompt for asked in request.asked] == [encode(tokenizer, t) for t in ("ab", "ab", "c", "c")]
    assert [asked.row for asked in request.asked] == [0, 1, 2, 3]
    assert {asked.seed for asked in request.asked} == {3}
    assert request.asked[0].sampler == SamplerConfig(order="margin", temperature=0.5, gen_length=8)
    assert request.prompt_tokens == 3  # of each prompt once


def test_tokens_are_taken_as_a_prompt_and_an_empty_text_too(model, tokenizer):
    assert text(model, tokenizer, prompt=[65, 66]).asked[0].prompt == [65, 66]
    assert [a.prompt for a in text(model, tokenizer, prompt=[[65], [66]]).asked] == [[65], [66]]
    assert text(model, tokenizer, prompt="").asked[0].prompt == []
    assert text(model, tokenizer, prompt=[]).asked[0].prompt == []


def test_conversations_have_the_layout_of_training(model, tokenizer):
    request = chat(model, tokenizer, messages=[{"role": "developer", "content": "Be brief."}, *TALK])
    told = [{"role": "system", "content": "Be brief."}, *TALK]
    assert request.asked[0].prompt == encode_prompt(tokenizer, told)
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    in_parts = chat(model, tokenizer, messages=[{"role": "user", "content": parts}])
    assert in_parts.asked[0].prompt == encode_prompt(tokenizer, TALK)


def test_gap_before_a_suffix_is_filled_with_text_that_does_not_end(model, tokenizer):
    asked = text(model, tokenizer, {"gen_length": 64, "block_length": 32, "steps": 16}, suffix="xyz").asked[0]
    assert (asked.suffix, asked.most) == (encode(tokenizer, "xyz"), 8)
    ends = [model.config.eos_token_id, model.config.eot_token_id]
    assert asked.sampler == SamplerConfig(steps=8, suppress_tokens=ends)


def test_no_text_ends_in_a_gap_whatever_else_is_suppressed(model, tokenizer):
    ends = [model.config.eos_token_id, model.config.eot_token_id]
    for own, given, expected in (([50], [60], [60]), ([50], None, [50]), ([], [], []), ([50], [], [])):
        asked = text(model, tokenizer, {"suppress_tokens": own}, suffix="xyz", suppress_tokens=given).asked[0]
        assert asked.sampler.suppress_tokens == [*expected, *ends]


@pytest.mark.parametrize(
    ("sampler", "most", "length", "steps"),
    [
        ({"block_length": 8, "gen_length": 32}, 20, 24, None),  # whole blocks
        ({"block_length": 8, "gen_length": 32, "steps": 16}, 20, 24, 12),  # of as many steps each
        ({"block_length": 8, "gen_length": 32, "steps": 16}, 3, 8, 4),
        ({"gen_length": 32, "steps": 16}, 20, 20, 16),
        ({"gen_length": 32, "steps": 16}, 5, 5, 5),
        ({"block_length": 8, "gen_length": 32, "stop_at_eos": True, "variable_length": True}, 5, 8, None),
        ({"gen_length": 12}, None, 12, None),
    ],
)
def test_canvas_is_as_many_blocks_as_the_answer_needs(model, tokenizer, sampler, most, length, steps):
    asked = text(model, tokenizer, sampler, max_tokens=most).asked[0]
    assert (asked.most, asked.sampler.gen_length, asked.sampler.steps) == (most or 12, length, steps)


@pytest.mark.parametrize("name", published())
def test_request_that_says_nothing_else_gets_the_sampler_of_the_server(model, tokenizer, name):
    more = {"gen_length": 64} if "gen_length" not in read_yaml(SamplerConfig.file_of(name)) else {}
    more |= {"background": "counts.json"} if name == "position_calibrated" else {}
    sampler = SamplerConfig.named(name, **more)
    reads = replace(reader(model, tokenizer), sampler=sampler, limits=Limits(tokens=2048, passes=4096), context=4096)
    assert reads.completion({"model": "m", "prompt": "abc"}, 0).asked[0].sampler == sampler


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        ({"reveal": "ancestral", "steps": 64}, 64),
        ({"reveal": "gibbs", "steps": 64}, 64),
        ({"reveal": "remdm", "remask": "cap", "steps": 64}, 64),
        ({"reveal": "p2", "steps": 64, "block_length": 8}, 32),  # 32 for each block, as in the server's two
        ({"reveal": "klass", "threshold": 0.9, "steps": 16}, 8),
        ({"steps": 16}, 8),
    ],
    ids=lambda value: value["reveal"] if isinstance(value, dict) and "reveal" in value else None,
)
def test_steps_beyond_tokens_stay_where_a_rule_can_use_them(model, tokenizer, sampler, steps):
    sampler = sampler | {"gen_length": 16}
    assert text(model, tokenizer, sampler, max_tokens=8).asked[0].sampler.steps == steps
    assert text(model, tokenizer, sampler, max_tokens=8, suffix="x", block_length=None).asked[0].sampler.steps == (
        64 if steps > 8 else 8
    )


def test_published_sampler_writes_as_many_tokens_as_that_of_the_server(model, tokenizer):
    for name in ("margin", "semi_autoregressive", "daedal"):
        body = {"model": "m", "prompt": "", "sampler": name, "block_length": 4}
        asked = reader(model, tokenizer, gen_length=12).completion(body, 0).asked[0]
        assert (asked.most, asked.sampler.gen_length) == (12, 12)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"gen_length": 101}, "refused by its own limits: max_tokens=101 exceeds the 100 that this server allows"),
        ({"gen_length": 64, "cfg_scale": 1.0}, "may call the model 128 times, more than the 120 that this server"),
        ({"gen_length": 161}, "writes 161 tokens, more than the model's 160; set a smaller gen_length"),
    ],
    ids=range(3),
)
def test_sampler_that_no_request_could_use_is_refused_at_the_start(model, tokenizer, sampler, message):
    with pytest.raises(ConfigError, match=message):
        reader(model, tokenizer, **sampler).check()


def test_published_sampler_is_taken_by_its_name(model, tokenizer):
    asked = text(model, tokenizer, sampler={}).asked[0]
    assert asked.sampler.order == "confidence"
    named = reader(model, tokenizer).completion({"model": "m", "prompt": "", "max_tokens": 8, "sampler": "margin"}, 0)
    assert named.asked[0].sampler == SamplerConfig.named("margin", gen_length=8)
    growing = {"model": "m", "prompt": "", "max_tokens": 16, "sampler": "daedal"}
    grown = reader(model, tokenizer).completion(growing, 0).asked[0].sampler
    assert (grown.longest, grown.gen_length) == (16, 16)


def test_fields_that_clients_send_without_meaning_them_are_taken(model, tokenizer):
    said = {"user": "me", "frequency_penalty": 0.0, "logit_bias": {}, "top_p": 1.0, "logprobs": False, "stop": None}
    assert text(model, tokenizer, **said) == text(model, tokenizer)
    assert chat(model, tokenizer, tools=[], response_format={"type": "text"}) == chat(model, tokenizer)


def test_what_holds_nothing_in_a_message_is_as_if_it_were_not_there(model, tokenizer):
    nothing = {"refusal": None, "annotations": [], "audio": None, "function_call": {}, "tool_calls": [], "name": ""}
    assert chat(model, tokenizer, messages=[TALK[0] | nothing]) == chat(model, tokenizer)
    parts = [{"type": "text", "text": "Hello", "cache_control": None}, {"type": "text", "text": ""}]
    assert chat(model, tokenizer, messages=[{"role": "user", "content": parts}]) == chat(model, tokenizer)


TEXTS = {
    "unknown field 'max_token'; did you mean 'max_tokens'": {"max_token": 3},
    "unknown field 'qqqq'; leave it out": {"qqqq": 3},
    "gen_length: is max_tokens here": {"gen_length": 3},
    "longest: is max_tokens here, with a sampler that finds its own length": {"longest": 3},
    "background: names a file of the server": {"background": "/etc/passwd"},
    "frequency_penalty is not supported here": {"frequency_penalty": 0.5},
    "best_of is not supported here": {"best_of": 2},
    "logprobs is not supported here": {"logprobs": 5},
    "n: Input should be greater than or equal to 1": {"n": 0},
    "max_tokens: Input should be a valid integer": {"max_tokens": "8"},
    "seed: Input should be less than": {"seed": 2**63},
    "there is no model 'other' here; it is 'm'": {"model": "other"},
    "stream_options has no effect without stream": {"stream_options": {"include_usage": True}},
    "1 prompts × n=5 are 5 answers, more than the 4": {"n": 5},
    "max_tokens=101 exceeds the 100 that this server allows": {"max_tokens": 101},
    "max_tokens=90 in whole blocks of block_length=60 are 120 tokens, more than the 100": {
        "max_tokens": 90,
        "block_length": 60,
    },
    "may call the model 202 times, more than the 120": {
        "max_tokens": 2,
        "suffix": "abcd",
        "block_length": 2,
        "edit_threshold": 0.0,
        "edit_steps": 100,
    },
    "140 tokens of the prompt and 30 of the answer are more than the model's 160": {
        "prompt": "a" * 140,
        "max_tokens": 30,
    },
    "may call the model 160 times, more than the 120": {"max_tokens": 80, "cfg_scale": 1.0},
    "unknown sampler '../pretrain/quickstart'; known": {"sampler": "../pretrain/quickstart"},
    "is the name of a published sampler here, not a file": {"sampler": "/etc/x.yaml"},
    "temperature: Input should be greater than or equal to 0": {"temperature": -1},
    "top_k and top_p have no effect at temperature 0": {"top_p": 0.5},
    "top_p: Input should be a valid number": {"top_p": True},
    "block_length: Input should be a valid integer": {"block_length": "4"},
    "block_length: Input should be greater than or equal to 1": {"block_length": 0},
    "cannot be shared equally": {"block_length": 4, "steps": 3},
    "half of a surrogate pair": {"prompt": "\ud800"},
    "token 999 is not one of the 262 tokens of text": {"prompt": [999]},
    "stop.": {"stop": ["a", ""]},
    "prompt": {"prompt": {"a": 1}},
    "missing key 'prompt'": {"prompt": None},
}


@pytest.mark.parametrize("message", TEXTS, ids=range(len(TEXTS)))
def test_what_cannot_be_meant_is_refused_by_name(model, tokenizer, message):
    with pytest.raises(RequestError) as refused:
        reader(model, tokenizer).completion({"model": "m", "prompt": "abc", "max_tokens": 8} | TEXTS[message], 0)
    assert message in str(refused.value)
    assert refused.value.status in (400, 404)


CHATS = {
    "max_tokens and max_completion_tokens say the same": {"max_completion_tokens": 3},
    "the last message is already from the assistant": {"messages": [{"role": "assistant", "content": "Yes"}]},
    "messages.0.role: Input should be 'system'": {"messages": [{"role": "tool", "content": "Yes"}]},
    "unknown key 'messages.0.name'": {"messages": [{"role": "user", "content": "Yes", "name": "me"}]},
    "missing key 'messages.0.content'": {"messages": [{"role": "user", "content": None}]},
    "unknown key 'messages.0.tool_calls'": {
        "messages": [{"role": "user", "content": "a", "tool_calls": [{"id": "1"}]}]
    },
    "unknown key 'messages.0.weight'": {"messages": [{"role": "user", "content": "a", "weight": ""}]},
    "stream_options.include_obfuscation: Input should be False": {
        "stream": True,
        "stream_options": {"include_obfuscation": True},
    },
    "messages.0.content": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
    "messages: List should have at least 1 item": {"messages": []},
    "unknown field 'prompt'": {"prompt": "x"},
    "surrogate": {"messages": [{"role": "user", "content": "\ud800"}]},
}


@pytest.mark.parametrize("message", CHATS, ids=range(len(CHATS)))
def test_what_is_no_conversation_is_refused_by_name(model, tokenizer, message):
    with pytest.raises(RequestError) as refused:
        chat(model, tokenizer, **CHATS[message])
    assert message in str(refused.value)


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_body_must_be_an_object(model, tokenizer, body):
    with pytest.raises(RequestError, match=f"the body is a {type(body).__name__}; send a JSON object"):
        reader(model, tokenizer).chat(body, 0)


LONG = {
    "prompt.str: Input should be a valid string": {"prompt": [{}] * 300_000},
    "prompt.list": {"prompt": [0.5] * 250_000},
    "250000 prompts × n=1 are 250000 answers": {"prompt": ["a"] * 250_000},
    "300000 prompts × n=1 are 300000 answers": {"prompt": [[]] * 300_000},
    "400000 tokens of the prompt": {"prompt": [65] * 400_000, "echo": True},
    "suppress_tokens has 250000 items, more than the 4096": {"suppress_tokens": [-1] * 250_000},
    "counts has 500000 items, more than the 4096": {"counts": [0] * 500_000},
    "stop.list": {"stop": ["a"] * 250_000},
    "stop.list[constrained-str].0: Input should be a valid string": {"stop": [1] * 500_000},
    "messages: List should have at most 1024 items": {"messages": [{"role": "user", "content": ""}] * 36_000},
    "messages.0": {"messages": [{"role": "user"}] * 1024},
    "messages.0.1": {"messages": [TALK[0] | {str(number): 1 for number in range(100_000)}]},
    "messages.0.content.list[Part].0": {"messages": [{"role": "user", "content": [{}] * 300_000}]},
}


@pytest.mark.parametrize("message", LONG, ids=range(len(LONG)))
def test_long_lists_are_refused_after_a_look_at_few_of_their_items(model, tokenizer, monkeypatch, message):
    mistakes, texts = [], []

    def explained(schema, error):
        mistakes.append(error.error_count())
        return _explain(schema, error)

    def written(*args):
        texts.append(args)

    monkeypatch.setattr("llada.config._explain", explained)
    monkeypatch.setattr("llada.serve.protocol.encode", written)
    monkeypatch.setattr("llada.serve.protocol.encode_prompt", written)
    monkeypatch.setattr(type(tokenizer), "decode", written)
    with pytest.raises(RequestError) as refused:
        (chat if "messages" in LONG[message] else text)(model, tokenizer, **LONG[message])
    assert message in str(refused.value)
    assert sum(mistakes) <= 20
    assert not texts


def test_of_many_mistakes_the_first_are_told(model, tokenizer):
    with pytest.raises(RequestError) as refused:
        text(model, tokenizer, suppress_tokens=[-1] * 4096)
    told = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in told[:-1]] == [f"suppress_tokens.{place}" for place in range(10)]
    assert told[-1] == "and 4086 more mistakes"


@pytest.mark.parametrize("inner", [True, False])
def test_of_a_long_key_the_beginning_is_compared_with_others(model, tokenizer, monkeypatch, inner):
    compared = []

    def matches(word, *args, **options):
        compared.append(len(word))
        return []

    monkeypatch.setattr("difflib.get_close_matches", matches)
    long = {"a" * 10**6: 1}
    with pytest.raises(RequestError, match="unknown"):
        chat(model, tokenizer, **{"messages": [TALK[0] | long]} if inner else long)
    assert compared == [200]


def test_messages_of_errors_have_an_end(model, tokenizer):
    with pytest.raises(RequestError) as refused:
        text(model, tokenizer, temperature="x" * 10**6)
    assert len(str(refused.value)) < 2100


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({}, 24),
        ({"steps": 6}, 6),
        ({"cfg_scale": 1.0}, 48),
        ({"speculation": 4}, 96),
        ({"block_length": 8, "edit_threshold": 0.9, "edit_steps": 5}, 39),
        ({"block_length": 8, "counts": [4, 4]}, 6),
        ({"longest": 24, "reveal": "threshold", "threshold": 0.9}, 48),
    ],
)
def test_most_passes_counts_what_a_sampler_may_do(fields, passes):
    sampler = SamplerConfig(gen_length=24, **fields)
    assert most_passes(sampler, range(24)) == passes


@pytest.mark.parametrize(("masks", "blocks"), [([3, 4], 2), ([4, 5], 1), ([0, 7], 2), ([], 0)])
def test_most_passes_counts_the_blocks_that_have_masks(masks, blocks):
    sampler = SamplerConfig(block_length=2, edit_threshold=0.5, edit_steps=100)
    assert most_passes(sampler, masks) == len(masks) + 100 * blocks
    assert most_passes(SamplerConfig(block_length=2, counts=[0, 0, 2]), masks) == 3 * blocks
