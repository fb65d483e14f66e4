"""Text in pieces, and where it is cut."""

import asyncio
import random
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada.data.chat import _decode, decode_response
from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.serve.protocol import Asked, Request
from llada.serve.replies import Choice, Reply, begun
from llada.serve.scheduler import Progress, Scheduler

TEXT = "ein Ü und 漢字 — 🎈 END of it END. "


def told(tokenizer, ids: list[int], stops: list[str], seed: int) -> tuple[Choice, list[str]]:
    """The pieces of an answer that is told in random steps."""
    choice, pieces, rng, count = Choice(tokenizer, stops), [], random.Random(seed), 0
    while choice.finish_reason is None:
        before, count = count, min(count + rng.randint(0, 4), len(ids))
        finish = "length" if count == len(ids) else None
        pieces.append(choice.add(Progress(ids[before:count], finish, count, 2 * count)))
    return choice, pieces


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_text_however_it_comes(tokenizer, seed):
    ids = encode(tokenizer, TEXT)
    choice, pieces = told(tokenizer, ids, [], seed)
    assert "".join(pieces) == TEXT
    assert (choice.tokens, choice.finish_reason, choice.forward_passes) == (len(ids), "length", len(ids))
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("stops", [["END"], ["字", "END"], ["🎈 E"], [" of it END.", "ENDE"], ["ein"]], ids=range(5))
def test_text_ends_before_the_first_stop(tokenizer, stops, seed):
    choice, pieces = told(tokenizer, encode(tokenizer, TEXT), stops, seed)
    expected = min((TEXT.partition(stop)[0] for stop in stops if stop in TEXT), key=len)
    assert "".join(pieces) == expected
    assert choice.finish_reason == "stop"
    up_to = min(TEXT.index(stop) + len(stop) for stop in stops if stop in TEXT)
    assert choice.tokens == len(encode(tokenizer, TEXT[:up_to]))


@pytest.mark.parametrize(("stops", "most"), [([], 2), (["zz"], 2), (["END"], 13)])
def test_many_tokens_are_decoded_few_times(tokenizer, monkeypatch, stops, most):
    """Once at each end, and where they hold a stop as often as its place is halved."""
    decoded = []

    def counted(*args):
        decoded.append(args)
        return _decode(*args)

    monkeypatch.setattr("llada.data.chat._decode", counted)
    ids = encode(tokenizer, "漢" * 300 + "END" + "漢" * 40)
    assert len(ids) == 1023
    choice = Choice(tokenizer, stops)
    assert choice.add(Progress(ids, "length", 1, 1)) == "漢" * 300 + ("" if stops == ["END"] else "END" + "漢" * 40)
    assert len(decoded) <= most


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.integers(0, 12))
def test_tokens_at_once_are_read_as_one_by_one(tokenizer, text, stops, cut):
    """Also with stops that hold one another, of which the one that is complete first counts."""
    ids = [*encode(tokenizer, text)[:cut], tokenizer.eos_token_id]
    once, slowly = Choice(tokenizer, stops), Choice(tokenizer, stops)
    whole = once.add(Progress(ids, "stop", 1, 1))
    pieces = ""
    for place, token in enumerate(ids, start=1):
        if slowly.finish_reason is None:
            pieces += slowly.add(Progress([token], "stop" if place == len(ids) else None, 1, 1))
    assert whole == pieces
    assert (once.tokens, once.finish_reason) == (slowly.tokens, slowly.finish_reason)


def test_answer_that_was_given_up_stays_so(tokenizer):
    """Also where more of it was told meanwhile."""
    jobs = []

    class Taking:
        def submit(self, given):
            jobs.extend(given)

    async def read() -> None:
        asked = [Asked([65], None, 4, SamplerConfig(gen_length=4), 0, 0)]
        reply = Reply(Request(asked, [None], 1, 0, [], True, False), tokenizer, cast(Scheduler, Taking()))
        jobs[0].tell(Progress(encode(tokenizer, "A"), None, 1, 1))
        reply.cancel()
        pieces = reply.pieces(asyncio.get_running_loop().time() + 0.05)
        assert (await anext(pieces)).text == "A"
        with pytest.raises(TimeoutError):
            await anext(pieces)
        assert jobs[0].cancelled

    asyncio.run(read())


def test_end_of_a_text_that_cannot_be_read_is_told_in_the_end(tokenizer):
    ids = encode(tokenizer, "ab漢")[:-1]
    _, pieces = told(tokenizer, ids, [], 0)
    assert "".join(pieces) == decode_response(tokenizer, ids) != "ab"


@pytest.mark.parametrize(
    ("text", "stops", "count"),
    [
        ("abc", ["cd"], 1),
        ("abc", ["bcd", "cx"], 2),
        ("abc", ["x"], 0),
        ("abc", [], 0),
        ("", ["abc"], 0),
        ("aa", ["aab"], 2),
    ],
)
def test_begun_is_the_longest_beginning_of_a_stop(text, stops, count):
    assert begun(text, stops) == count
