"""The server as a process, asked by the client of OpenAI and by many at once."""

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from processes import wait_until
from servers import LLADA, serving
from typer.testing import CliRunner

from llada.cli import app
from llada.data.chat import decode_response
from llada.data.tokenizer import encode
from llada.listening import Server
from llada.model.checkpoint import load_pretrained
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate

BAD = [
    {"max_tokens": 0},
    {"max_tokens": 10**9},
    {"temperature": -1.0},
    {"model": "other"},
    {"extra_body": {"order": "no order"}},
    {"extra_body": {"temprature": 1}},
    {"prompt": "x" * 200},
    {"logprobs": 3},
    {"extra_body": {"suppress_tokens": [10**6]}},  # which only the model's logits tell
    {"extra_body": {"cache": "block_causal"}},
]


@pytest.fixture(scope="module")
def address(served):
    with serving(served, "--set", "gen_length=16", "--limit", "waiting=64", "--limit", "seconds=60") as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_client_of_openai_completes_chats_and_streams(client):
    assert [model.id for model in client.models.list()] == ["small"]
    text = client.completions.create(model="small", prompt="the model", seed=1, extra_body={"block_length": 8})
    assert text.usage is not None
    assert text.usage.prompt_tokens == 9
    talk = [{"role": "user", "content": "Hello"}]
    options = {"model": "small", "messages": talk, "temperature": 0.7, "seed": 4, "extra_body": {"block_length": 4}}
    whole = client.chat.completions.create(**options)
    parts = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert said == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    assert parts[-1].model_extra["diffusion"]["seed"] == 4


@pytest.mark.parametrize("as_object", [True, False])
def test_client_of_openai_sends_an_answer_back_as_it_is(client, as_object):
    """The usual way to go on with a conversation; an answer holds fields for much that is not here."""
    talk = [{"role": "user", "content": "Hello"}]
    options = {"model": "small", "max_tokens": 8, "seed": 1}
    said = client.chat.completions.create(messages=talk, **options).choices[0].message
    ending = {"role": "user", "content": "Why?"}
    sent = client.chat.completions.create(
        messages=[*talk, said if as_object else said.model_dump(), ending],
        stream=True,
        stream_options={"include_usage": None, "include_obfuscation": False},
        **options,
    )
    plain = [*talk, {"role": "assistant", "content": said.content}, ending]
    again = client.chat.completions.create(messages=plain, **options)
    assert "".join(part.choices[0].delta.content or "" for part in sent) == again.choices[0].message.content


def test_client_of_openai_gets_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="unknown field 'stepps'; did you mean 'steps'"):
        client.completions.create(model="small", prompt="x", extra_body={"stepps": 3})
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here"):
        client.completions.create(model="gpt", prompt="x")


def metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("stream", [True, False])
def test_what_nobody_reads_is_not_written(address, stream):
    """A client that goes away in the middle of a long answer."""
    endless = {"max_tokens": 150, "order": "left_to_right", "forbid_eos": True, "cfg_scale": 1.0}
    body = {"model": "small", "prompt": "x", "stream": stream} | endless
    before = metric(address, "llada_forward_passes_total")
    timeout = httpx.Timeout(30, read=30 if stream else 0.2)
    with httpx.Client(timeout=timeout) as client:
        try:
            with client.stream("POST", f"{address}/v1/completions", json=body) as response:
                next(response.iter_lines())
        except httpx.ReadTimeout:
            assert not stream
    ended = time.monotonic() + 30
    while metric(address, "llada_running") or metric(address, "llada_waiting"):
        assert time.monotonic() < ended
    if stream:
        assert metric(address, "llada_forward_passes_total") - before < 300


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_is_running_when_the_server_stops_is_told_so(served, stream):
    """Several together, which are not tried again one by one, and others that have not begun."""
    endless = {"max_tokens": 150, "n": 16, "order": "left_to_right", "forbid_eos": True, "cfg_scale": 1.0}
    body = {"model": "small", "prompt": "x", "stream": stream} | endless
    with ThreadPoolExecutor(4) as clients, serving(served, "--limit", "batch=2", "--limit", "seconds=600") as address:
        url = f"{address}/v1/completions"
        asked = [clients.submit(httpx.post, url, json=body, timeout=60) for _ in range(4)]
        wait_until(lambda: metric(address, "llada_waiting") >= 56)  # of 64, so of all four
    for answer in asked:
        told = answer.result().text.rpartition("data: ")[2]
        assert json.loads(told)["error"]["message"] == "the server is stopping"
        assert json.loads(told)["error"]["code"] == 503


def load(address: str, bodies: list[dict], at_once: int) -> list[dict]:
    script = Path(__file__).parent / "load.py"
    command = [sys.executable, str(script), address, str(at_once)]
    done = subprocess.run(command, input=json.dumps(bodies), capture_output=True, text=True, timeout=900, check=True)
    return json.loads(done.stdout)


def bodies_of(count: int) -> list[dict]:
    """Requests of many kinds, every eighth of them bad."""
    rng, bodies = random.Random(0), []
    for number in range(count):
        words = " ".join(rng.choices(["the", "model", "reads", "Ü", "row", "漢字"], k=rng.randint(1, 8)))
        body = {"model": "small", "prompt": f"{number} {words}", "seed": number, "max_tokens": rng.choice([4, 8, 16])}
        extra = rng.choice([{}, {"order": "random"}, {"block_length": 4}, {"sampler": "margin"}])
        body |= {"temperature": rng.choice([0.0, 1.0]), "extra_body": extra, "stream": rng.random() < 0.25}
        bodies.append(body | rng.choice(BAD) if number % 8 == 7 else body)
    return bodies


def alone(model, tokenizer, body: dict) -> str:
    """What the library itself answers."""
    fields = {"temperature": body["temperature"], "gen_length": body["max_tokens"]} | body["extra_body"]
    name = fields.pop("sampler", "low_confidence")
    sampler = SamplerConfig.named(name, **fields)
    prompt = torch.tensor([encode(tokenizer, body["prompt"])])
    out = generate(model, prompt, None, sampler, body["seed"])
    return decode_response(tokenizer, out.sequences[0, prompt.shape[1] :].tolist())


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_of_many_requests_none_is_lost_or_mixed_up(address, served, count):
    model, tokenizer = load_pretrained(served)
    bodies = bodies_of(count)
    answers = load(address, bodies, at_once=48)
    for number, (body, answer) in enumerate(zip(bodies, answers, strict=True)):
        if number % 8 == 7:
            assert answer.get("status") in (400, 404), (body, answer)
        else:
            assert answer.get("text") == alone(model, tokenizer, body), (body, answer)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "the API key is empty; give one with --api-key or LLADA_API_KEY, or leave both out"),
        ("schlüssel", "the API key holds 'ü', which clients send in different ways; use printable ASCII"),
        ("two\nlines", "the API key holds '\\n', which clients send in different ways; use printable ASCII"),
        (" key", "the API key begins or ends with a blank, which no header can; leave it out"),
    ],
)
@pytest.mark.parametrize("option", [True, False])
def test_key_that_no_client_can_send_is_refused(served, monkeypatch, key, message, option):
    monkeypatch.setenv("LLADA_API_KEY", "other" if option else key)
    command = ["serve", str(served), "--limit", "unknown=1"]  # which would be refused next
    done = CliRunner().invoke(app, [*command, *(["--api-key", key] if option else [])])
    assert str(done.exception) == message


def test_connections_are_limited(served, monkeypatch):
    limits = []
    monkeypatch.setattr(Server, "run", lambda self, sockets: limits.append(self.config.limit_concurrency))
    command = ["serve", str(served), "--port", "0", "--set", "gen_length=8", "--limit", "connections=7"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert limits == [7]


def test_key_and_address_are_checked_before_anything_is_loaded(served):
    command = [str(LLADA), "serve", str(served), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == ("llada: --host 0.0.0.0 can be reached from elsewhere; give an --api-key that is asked for\n")
