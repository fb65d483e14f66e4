"""The HTTP interface, without a network: what is answered, and what is refused."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from processes import wait_until
from starlette.testclient import TestClient

from llada.data.chat import decode_response
from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate, generation_states
from llada.serve.app import make_app
from llada.serve.limits import Limits
from llada.serve.protocol import Reader

LIMITS = Limits(tokens=128, waiting=8, choices=4, body_bytes=5000)
TALK = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
PROMPT = {"model": "small", "prompt": "the model", "max_tokens": 8, "seed": 3}


def client_of(model, tokenizer, limits: Limits = LIMITS, **more) -> TestClient:
    app = make_app(model, tokenizer, name="small", sampler=SamplerConfig(gen_length=16), limits=limits, **more)
    return TestClient(app, base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def client(model, tokenizer):
    with client_of(model, tokenizer) as made:
        yield made


def asking() -> dict:
    """The head of a request, as a server gives it to an application."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    path = {"path": "/v1/completions", "query_string": b""}
    return {"type": "http", "method": "POST", "headers": headers, "asgi": {"spec_version": "2.3"}, **path}


def answered(app, scope: dict, messages: Sequence[dict] = ()) -> list[dict]:
    """What an application sends to a client that sends just this."""
    sent, given = [], iter(messages)

    async def receive() -> dict:
        return next(given)

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def events(text: str) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models_are_told(client):
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["small"]
    assert client.get("/v1/models/small").json()["id"] == "small"
    missing = client.get("/v1/models/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "there is no model 'other' here; it is 'small'"


def test_health_and_metrics(client):
    assert client.get("/health").json() == {"status": "ok"}
    before = client.get("/metrics").text
    usage = client.post("/v1/completions", json=PROMPT).json()["usage"]
    after = client.get("/metrics").text

    def value(text: str, name: str) -> float:
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)

    for key in ("prompt_tokens", "completion_tokens"):
        assert value(after, f"llada_{key}_total") - value(before, f"llada_{key}_total") == usage[key]
    done = 'llada_requests_total{path="/v1/completions",status="200"}'
    assert value(after, done) == value(before, done) + 1
    assert value(after, "llada_batches_total") == value(before, "llada_batches_total") + 1
    assert client.head("/health").status_code == 200


def test_failure_of_the_server_itself_is_counted_as_one(model, tokenizer, monkeypatch):
    def broken(self, body, seed):
        raise KeyError("x")

    monkeypatch.setattr(Reader, "completion", broken)
    app = make_app(model, tokenizer, name="small", sampler=SamplerConfig(gen_length=16))
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        assert client.post("/v1/completions", json=PROMPT).status_code == 500
        assert 'llada_requests_total{path="/v1/completions",status="500"} 1.0' in client.get("/metrics").text


def test_seed_gives_the_same_answer_again_and_is_told(client):
    drawn = PROMPT | {"temperature": 1.0}
    once = client.post("/v1/completions", json=drawn).json()
    again = client.post("/v1/completions", json=drawn).json()
    assert once["choices"] == again["choices"]
    del drawn["seed"]
    free = client.post("/v1/completions", json=drawn).json()
    repeated = client.post("/v1/completions", json=drawn | {"seed": free["diffusion"]["seed"]}).json()
    assert free["choices"] == repeated["choices"]


@pytest.mark.parametrize("name", ["gibbs", "ancestral", "remdm", "semi_autoregressive", "daedal"])
def test_answer_to_a_seed_is_that_of_the_library(model, tokenizer, name):
    """Also where a sampler makes more steps than there are tokens."""
    steps = {"steps": 40} if name in ("gibbs", "ancestral", "remdm") else {}
    more = {"longest": 12, "block_length": 4} if name == "daedal" else {}
    more |= {"block_length": 4} if name == "semi_autoregressive" else {}
    sampler = SamplerConfig.named(name, **{"gen_length": 8} | steps | more)
    prompt = torch.tensor([encode(tokenizer, "the model")])
    alone = generate(model, prompt, None, sampler, 1)
    app = make_app(model, tokenizer, name="small", sampler=sampler)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        told = client.post("/v1/completions", json={"model": "small", "prompt": "the model", "seed": 1}).json()
    written = alone.sequences[0, prompt.shape[1] :].tolist()
    assert told["choices"][0]["text"] == decode_response(tokenizer, written)
    assert told["diffusion"]["forward_passes"] == alone.forward_passes.tolist()


def test_usage_counts_what_was_read_and_written(client, tokenizer):
    body = PROMPT | {"n": 2, "temperature": 1.0, "forbid_eos": True, "suppress_tokens": [tokenizer.vocab["<|eot_id|>"]]}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["usage"] == {"prompt_tokens": 9, "completion_tokens": 16, "total_tokens": 25}
    assert answer["diffusion"]["forward_passes"] == [8, 8]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    first, second = (choice["text"] for choice in answer["choices"])
    assert first != second


def test_echo_repeats_the_prompt_and_stop_cuts_the_answer(client):
    whole = client.post("/v1/completions", json=PROMPT | {"echo": True}).json()["choices"][0]["text"]
    assert whole.startswith("the model")
    said = whole.removeprefix("the model")
    stop = said[1]
    cut = client.post("/v1/completions", json=PROMPT | {"stop": stop}).json()
    assert cut["choices"][0] == {"index": 0, "finish_reason": "stop", "logprobs": None, "text": said.partition(stop)[0]}
    assert 1 <= cut["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize("order", ["left_to_right", "confidence"])
def test_stream_tells_the_whole_answer_in_parts(client, order):
    body = TALK | {"seed": 1, "order": order, "max_tokens": 12, "block_length": 4, "n": 2, "temperature": 1.0}
    whole = client.post("/v1/chat/completions", json=body).json()
    parts = events(
        client.post(
            "/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
        ).text
    )
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    for choice in whole["choices"]:
        mine = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in mine) == choice["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [choice["finish_reason"]]
    assert parts[-1]["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in parts[:-1])
    assert len(parts) > 5


def test_stream_begins_with_the_seed_that_gives_it_again(client):
    drawn = TALK | {"temperature": 1.0}
    free = events(client.post("/v1/chat/completions", json=drawn | {"stream": True, "n": 2}).text)
    assert not any("usage" in part for part in free)
    assert free[0]["diffusion"] == free[1]["diffusion"]
    again = client.post("/v1/chat/completions", json=drawn | {"seed": free[0]["diffusion"]["seed"], "n": 2}).json()
    for choice in again["choices"]:
        mine = [
            c["delta"].get("content", "") for part in free for c in part["choices"] if c["index"] == choice["index"]
        ]
        assert "".join(mine) == choice["message"]["content"]


def test_text_streams_too(client):
    whole = client.post("/v1/completions", json=PROMPT).json()["choices"][0]["text"]
    parts = events(client.post("/v1/completions", json=PROMPT | {"stream": True}).text)
    assert "".join(part["choices"][0]["text"] for part in parts) == whole


REFUSED = {
    "the body is no JSON": (400, {"content": b"{"}),
    "the body is no JSON: 'utf-8' codec can't decode": (400, {"content": b"\xff\xfd\xfd"}),
    "the body is no JSON: maximum recursion depth": (400, {"content": b"[" * 4900}),
    "the body is no JSON: Exceeds the limit": (400, {"content": b'{"seed": 1' + b"0" * 4800 + b"}"}),
    "the body is a list; send a JSON object": (400, {"json": []}),
    "unknown field 'tempreature'; did you mean 'temperature'?": (400, {"json": PROMPT | {"tempreature": 1}}),
    "needs threshold": (400, {"json": PROMPT | {"reveal": "threshold"}}),
    "1000000": (400, {"json": PROMPT | {"suppress_tokens": [10**6]}}),
    "needs a model whose attention is block-causal": (400, {"json": PROMPT | {"cache": "block_causal"}}),
    "blocks of 3 tokens": (400, {"json": PROMPT | {"suffix": "x", "block_length": 3, "steps": 5}}),
    "stop_at_eos has no effect on infilling": (400, {"json": PROMPT | {"suffix": "x", "stop_at_eos": True}}),
    "there is no model 'x' here; it is 'small'": (404, {"json": PROMPT | {"model": "x"}}),
    "the body has more than 5000 bytes": (413, {"json": PROMPT | {"prompt": "a" * 5000}}),
    "the content type is 'text/plain'; send application/json": (415, {"content": b"{}", "type": "text/plain"}),
    "this server is not called 'evil.example' but 127.0.0.1": (421, {"json": PROMPT, "host": "evil.example"}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("message", REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_told_with_a_status(client, message, stream):
    status, sent = REFUSED[message]
    body = sent.get("json")
    content = sent.get("content", json.dumps(body | {"stream": stream} if isinstance(body, dict) else body))
    headers = {"content-type": sent.get("type", "application/json"), "host": sent.get("host", "localhost")}
    answer = client.post("/v1/completions", content=content, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["code"] == status
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("POST", 404)])
def test_other_paths_and_methods_are_refused_in_the_same_form(client, method, status):
    path = "/v1/completions" if status == 405 else "/v1/embeddings"
    answer = client.request(method, path)
    assert answer.status_code == status
    assert f"{method} {path}: " in answer.json()["error"]["message"]
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)


def test_key_is_asked_for(model, tokenizer):
    with client_of(model, tokenizer, api_key="secret") as client:
        assert client.get("/health").status_code == 200
        for given in ("", "Bearer other", "Basic secret", "Bearer", "Bearer secret and more"):
            for path in ("/v1/models", "/metrics", "/unknown"):
                refused = client.get(path, headers={"authorization": given})
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.json()["error"]["message"] == (
                    "give the server's key in the header Authorization: Bearer KEY"
                )
        right = {"authorization": "Bearer secret"}
        assert client.post("/v1/chat/completions", json=TALK, headers=right).status_code == 200


@pytest.mark.parametrize("host", [b"x", b"x/health?", b"x/health#", b"["])
@pytest.mark.parametrize("path", ["/v1/models", "/unknown", "/health"])
def test_no_name_of_the_server_stands_in_for_the_key(model, tokenizer, monkeypatch, host, path):
    """Older versions of starlette put the header into the URL that they read the path from."""

    def url(self):
        raise ValueError("made of what the client calls the server")

    monkeypatch.setattr("starlette.requests.HTTPConnection.url", property(url))
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"host", host)]}
    with client_of(model, tokenizer, api_key="secret", hosts=("*",)) as client:
        assert answered(client.app, scope)[0]["status"] == (200 if path == "/health" else 401)
        scope["headers"].append((b"authorization", b"Bearer secret"))
        assert answered(client.app, scope)[0]["status"] == (404 if path == "/unknown" else 200)


def test_time_is_limited(model, tokenizer, monkeypatch):
    def slowly(*args, **kwargs):
        for state in generation_states(*args, **kwargs):
            time.sleep(0.05)
            yield state

    monkeypatch.setattr("llada.serve.scheduler.generation_states", slowly)
    with client_of(model, tokenizer, Limits(seconds=0.5)) as client:
        late = client.post("/v1/completions", json=PROMPT | {"max_tokens": 128, "forbid_eos": True})
        assert late.status_code == 504
        assert late.json()["error"]["message"] == "there was no answer within 0.5 seconds"
        assert late.json()["error"]["type"] == "server_error"
        streamed = client.post("/v1/completions", json=PROMPT | {"max_tokens": 128, "stream": True, "forbid_eos": True})
        assert json.loads(streamed.text.split("data: ")[-1])["error"]["code"] == 504  # begun, so the status is 200


@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("ending", ["deadline", "cancelled"])
def test_stream_that_is_not_read_ends_and_so_does_its_work(model, tokenizer, monkeypatch, read, ending):
    """A client that reads so many messages, the status being the first; and a server that stops waiting for it."""
    monkeypatch.setattr("llada.serve.events.GRACE", 0.1)
    body = json.dumps(PROMPT | {"stream": True, "max_tokens": 128, "cfg_scale": 1.0, "forbid_eos": True}).encode()

    async def ask(app) -> None:
        messages, got, stuck = [{"type": "http.request", "body": body}], [], asyncio.Event()

        async def receive() -> dict:
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message: dict) -> None:
            if len(got) == read:
                stuck.set()
                await asyncio.Event().wait()
            got.append(message)

        answering = asyncio.ensure_future(app(asking(), receive, send))
        async with asyncio.timeout(20):
            await stuck.wait()
            if ending == "cancelled":
                answering.cancel()
            await answering

    with client_of(model, tokenizer, Limits(seconds=0.5 if ending == "deadline" else 600)) as client:
        asyncio.run(ask(client.app))
        assert "llada_prompt_tokens_total 9.0" in client.get("/metrics").text
        scheduler = client.app.state.close.__self__.scheduler
        wait_until(lambda: not (scheduler.running or scheduler.waiting))
        assert scheduler.batches <= 1


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_ends_the_work_for_it_and_what_was_done_is_counted(model, tokenizer, monkeypatch, stream):
    """It leaves after three steps of 128."""
    body = PROMPT | {"stream": stream, "max_tokens": 128, "order": "left_to_right", "forbid_eos": True}
    steps, three = [], threading.Event()

    def slowly(*args, **kwargs):
        for state in generation_states(*args, **kwargs):
            steps.append(state)
            if len(steps) == 3:
                three.set()
            time.sleep(0.01)
            yield state

    async def ask(app) -> list[dict]:
        messages, sent = [{"type": "http.request", "body": json.dumps(body).encode()}], []

        async def receive() -> dict:
            if messages:
                return messages.pop()
            while not three.is_set():
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        await app(asking(), receive, send)
        return sent

    monkeypatch.setattr("llada.serve.scheduler.generation_states", slowly)
    with client_of(model, tokenizer) as client:
        assert asyncio.run(ask(client.app))[0]["status"] == (200 if stream else 499)
        scheduler = client.app.state.close.__self__.scheduler
        wait_until(lambda: not scheduler.running)
        assert 3 <= len(steps) < 64
        counted = client.get("/metrics").text
        assert f"llada_forward_passes_total {len(steps)}.0" in counted
        tokens = float(counted.partition("\nllada_completion_tokens_total ")[2].partition("\n")[0])
        assert 1 <= tokens <= len(steps)


def test_body_that_does_not_come_and_one_that_is_not_read_in_time_are_given_up(model, tokenizer, monkeypatch):
    read = Reader.completion

    def slowly(self, body, seed):
        time.sleep(0.2)
        return read(self, body, seed)

    async def ask(app) -> dict:
        async def receive() -> dict:
            return await asyncio.Event().wait()

        sent = []

        async def send(message: dict) -> None:
            sent.append(message)

        await app(asking(), receive, send)
        return sent[0]

    monkeypatch.setattr(Reader, "completion", slowly)
    with client_of(model, tokenizer, Limits(seconds=0.1)) as client:
        assert asyncio.run(ask(client.app))["status"] == 408
        late = client.post("/v1/completions", json=PROMPT)
        assert late.status_code == 503
        assert late.json()["error"]["message"] == "others were read for 0.1 seconds before the request; ask again later"


def test_client_that_leaves_while_it_sends_its_body_is_no_failure(model, tokenizer):
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    with client_of(model, tokenizer) as client:
        assert answered(client.app, asking(), messages)[0]["status"] == 499
        assert '{path="/v1/completions",status="499"} 1.0' in client.get("/metrics").text


def test_seed_that_is_drawn_is_a_number_that_every_client_can_read(client, monkeypatch):
    """JavaScript has no whole numbers but those that a float64 holds."""
    monkeypatch.setattr("secrets.randbits", lambda bits: 2**bits - 1)
    answer = client.post("/v1/completions", json={"model": "small", "prompt": "a", "max_tokens": 4}).json()
    assert answer["diffusion"]["seed"] == 2**53 - 1


def test_request_that_never_has_room_is_refused_for_good(model, tokenizer):
    with client_of(model, tokenizer, Limits(waiting=1)) as client:
        refused = client.post("/v1/completions", json=PROMPT | {"n": 2})
        assert refused.status_code == 400
        assert "are 2 answers, more than the 1 that this server allows in a request" in refused.text


def test_full_server_asks_to_come_again(model, tokenizer, monkeypatch):
    monkeypatch.setattr("llada.serve.scheduler.Scheduler.waiting", 1)
    with client_of(model, tokenizer, Limits(waiting=2)) as client:
        full = client.post("/v1/completions", json=PROMPT | {"n": 2})
        assert full.status_code == 429
        assert full.headers["retry-after"] == "1"
        assert full.json()["error"]["message"] == "1 answers are waited for already, of 2 at most; ask again later"


def test_bodies_that_are_not_read_when_the_server_stops_are_told_so(model, tokenizer, monkeypatch):
    """One that is read at the time, one that waits to be, and one that comes afterwards."""
    reading, stopped, read = threading.Event(), threading.Event(), Reader.completion

    def slowly(self, body, seed):
        reading.set()
        assert stopped.wait(60)
        return read(self, body, seed)

    monkeypatch.setattr(Reader, "completion", slowly)
    with client_of(model, tokenizer) as client, ThreadPoolExecutor(2) as clients:
        service = client.app.state.close.__self__
        asked = [clients.submit(client.post, "/v1/completions", json=PROMPT)]
        assert reading.wait(60)
        asked.append(clients.submit(client.post, "/v1/completions", json=PROMPT))
        wait_until(lambda: service._reading._work_queue.qsize())
        service.close()
        stopped.set()
        for answer in (*(each.result() for each in asked), client.post("/v1/completions", json=PROMPT)):
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "the server is stopping"


def test_failure_of_the_model_is_told_without_its_details(model, tokenizer, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("secret path")

    with client_of(model, tokenizer) as client:
        monkeypatch.setattr("llada.serve.scheduler.generation_states", broken)
        failed = client.post("/v1/completions", json=PROMPT)
    assert failed.status_code == 500
    assert failed.json()["error"]["message"] == "the answer failed (RuntimeError); the log says more"
    assert "secret path" in caplog.text


def test_body_that_holds_half_a_surrogate_pair_is_refused_in_words_that_can_be_sent(client):
    refused = client.post("/v1/completions", content=b'{"\\ud800": 1}', headers={"content-type": "application/json"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "\\ud800"


@pytest.mark.parametrize(
    "changes", [{"n": 10**4299, "prompt": ["a"] * 20}, {"steps": 10**4299, "reveal": "ancestral"},
                {"block_length": 10**4299}, {"steps": 10**2200, "speculation": 10**2200}]
)  # fmt: skip
def test_numbers_that_are_too_long_to_be_written_are_refused(client, changes):
    refused = client.post("/v1/completions", json=PROMPT | changes)
    assert refused.status_code == 400
    assert "less than or equal to 1048576" in refused.json()["error"]["message"]
