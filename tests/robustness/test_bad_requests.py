"""Any body and any header: answered, or refused with a status of 4xx and an error in JSON."""

import json
from typing import Any

import pytest
from bad_values import FIELDS, PUBLISHED, TEXTS, VALUES, mutated, numbers_of_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from llada.sampling.config import SamplerConfig
from llada.serve.app import make_app
from llada.serve.errors import RequestError
from llada.serve.limits import Limits
from llada.serve.protocol import Reader, Request

pytestmark = pytest.mark.usefixtures("backgrounds")
LIMITS = Limits(tokens=32, passes=64, choices=4, body_bytes=20_000)
TEXT = {"model": "m", "prompt": ["a", "bc"], "max_tokens": 6, "n": 2, "seed": 3, "stop": ["x"], "stream": False}
GAP = {"model": "m", "prompt": "a", "suffix": "b", "max_tokens": 4, "temperature": 0.5, "echo": True, "seed": 3}
TALK = {
    "model": "m",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    "max_completion_tokens": 6,
    "stream": True,
    "stream_options": {"include_usage": True},
    "top_p": 1,
}
SERVED = {name: FIELDS[name] for name in FIELDS if name not in ("gen_length", "longest", "background")}
OPTIONS = st.sampled_from([[], [], *[[name] for name in SERVED]]).flatmap(
    lambda names: st.fixed_dictionaries({name: SERVED[name] for name in names})
)
CHOSEN = st.fixed_dictionaries({"sampler": st.sampled_from([None, "best", "x.yaml", *PUBLISHED])})
VALID = [("/v1/completions", TEXT), ("/v1/completions", GAP), ("/v1/chat/completions", TALK)]
BODIES = st.one_of(
    st.sampled_from(VALID).flatmap(lambda pair: st.tuples(st.just(pair[0]), mutated(pair[1]))),
    st.builds(
        lambda pair, chosen, options: (pair[0], pair[1] | chosen | options), st.sampled_from(VALID), CHOSEN, OPTIONS
    ),
    st.tuples(st.just("/v1/completions"), VALUES),
)


@pytest.fixture(scope="module")
def client(model, tokenizer):
    app = make_app(model, tokenizer, name="m", sampler=SamplerConfig(gen_length=8, steps=4), limits=LIMITS)
    with TestClient(app, base_url="http://127.0.0.1:8000") as made:
        yield made


def is_error(error: Any, *, of: int) -> bool:
    """Whether an error has the form of the OpenAI interface, and is the caller's."""
    return set(error) == {"message", "type", "param", "code"} and error["code"] == of and 400 <= of < 500


@numbers_of_cases(80, 2500)
def test_bodies_are_read_or_refused(cases, model, tokenizer):
    ends = [model.config.eos_token_id, model.config.eot_token_id]
    reader = Reader("m", tokenizer, model.config.mask_token_id, ends, 160, SamplerConfig(gen_length=8), LIMITS)

    @settings(max_examples=cases)
    @given(BODIES)
    def check(pair: tuple[str, Any]) -> None:
        path, body = pair
        try:
            assert isinstance((reader.chat if "chat" in path else reader.completion)(body, 0), Request)
        except RequestError as refused:
            status, told = refused.status, json.dumps(refused.body, ensure_ascii=False).encode()
        else:
            return
        assert is_error(json.loads(told)["error"], of=status)

    check()


@numbers_of_cases(60, 1500)
def test_requests_are_answered_or_refused(cases, client):
    answered = 0

    @settings(max_examples=cases)
    @given(BODIES)
    def check(pair: tuple[str, Any]) -> None:
        nonlocal answered
        path, body = pair
        try:
            content = json.dumps(body)
        except ValueError:  # a number of more digits than Python writes
            return
        reply = client.post(path, content=content, headers={"content-type": "application/json"})
        if reply.status_code != 200:
            assert is_error(reply.json()["error"], of=reply.status_code)
        elif reply.headers["content-type"].startswith("text/event-stream"):
            *events, last = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
            told = [json.loads(event) for event in (events if last == "[DONE]" else [*events, last])]
            errors = [event["error"] for event in told if "error" in event]
            assert all(is_error(error, of=error["code"]) for error in errors)
            assert bool(errors) == (last != "[DONE]")
            answered += not errors
        else:
            assert all(choice["finish_reason"] in ("stop", "length") for choice in reply.json()["choices"])
            answered += 1

    check()
    assert answered > cases // 10


LATIN = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["host", "authorization", "content-type", "accept", "content-encoding", "origin", "x-odd"]),
    st.one_of(
        LATIN, st.sampled_from(["application/json", "application/json; charset=utf-16", "gzip", "Bearer é", "m"])
    ),
)


@numbers_of_cases(40, 1000)
def test_bytes_and_headers_are_answered_or_refused(cases, client):
    methods, paths = (
        ["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        ["/v1/completions", "/v1/chat/completions", "/v1/models/"],
    )

    @settings(max_examples=cases)
    @given(st.sampled_from(methods), st.sampled_from(paths), st.binary(max_size=60) | TEXTS.map(ascii), HEADERS)
    def check(method: str, path: str, content: bytes | str, headers: dict[str, str]) -> None:
        sent = {"content-type": "application/json"} | headers
        raw = {name: value.encode("latin-1", "replace") for name, value in sent.items()}
        reply = client.request(method, path, content=content, headers=raw)
        assert is_error(reply.json()["error"], of=reply.status_code)

    check()
