"""Any lines that are typed: done, or refused with ValueError or OSError and without any change."""

from copy import deepcopy

from bad_values import FIELDS, PUBLISHED, TEXTS, numbers_of_cases, write_backgrounds
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.cli.session import _COMMANDS, Session
from llada.sampling.config import SamplerConfig

PLACES = ["talk.jsonl", "odd.jsonl", "", "nowhere/x", ".", "a\0b", "x" * 300, "a\ud800", "/", "~"]
SETTINGS = st.one_of(
    st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.builds(lambda value: f"{name} {value}", FIELDS[name])),
    st.sampled_from(["gen_length 4", "steps 2", "temperature 1", "self 1", "counts.a 1", "a.b=[", "steps !!bool x"]),
)
ARGUMENTS = {
    "set": SETTINGS,
    "sampler": st.sampled_from([*PUBLISHED, "best", "", "odd.jsonl", "any.yaml", "../remdm"]),
    "save": st.sampled_from(PLACES),
    "load": st.sampled_from(PLACES),
}
LINES = st.one_of(
    st.sampled_from(["Hello", "Add 3 and 4.", "/again", "/clear", "/show"]),
    TEXTS,
    st.sampled_from(sorted(_COMMANDS)).flatmap(
        lambda name: st.builds(lambda rest: f"/{name} {rest}", ARGUMENTS.get(name, TEXTS))
    ),
)
ODD = [
    '{"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": [], "content": "a"}]}',
    '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "b"}]}',
    "[" * 9999,
]


def plainly(states, canvas, start):
    return states


@numbers_of_cases(40, 800)
def test_lines_do_what_they_say_or_change_nothing(cases, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_backgrounds(tmp_path)

    @settings(max_examples=cases)
    @given(st.lists(LINES, max_size=8), st.sampled_from(ODD))
    def check(lines: list[str], odd: str) -> None:
        (tmp_path / "odd.jsonl").write_text(odd)
        session = Session(model, tokenizer, SamplerConfig(gen_length=8, steps=4))
        for line in lines:
            before = (deepcopy(session.messages), session.sampler)
            try:
                reply = session.take(line)
                if reply.asks:
                    session.answer(plainly)
                    assert session.messages[-1]["role"] == "assistant"
                reply.text.encode(errors="backslashreplace")
            except (ValueError, OSError):
                assert (session.messages, session.sampler) == before
            assert all(set(message) == {"role", "content"} for message in session.messages)

    check()
