"""`llada chat`: what is typed does what it says, and nothing that is typed ends it."""

import contextlib
import io
import json
import os
import random
import re
from types import SimpleNamespace

import pytest
import torch
import typer
from console import llada, refusal
from rich.console import Console
from terminals import Terminal

from llada.cli.chat import _answer
from llada.cli.session import _COMMANDS, Session
from llada.model.checkpoint import load_pretrained
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate


@pytest.fixture(scope="module")
def loaded(tuned):
    return load_pretrained(tuned / "model")


@pytest.fixture
def session(loaded) -> Session:
    return Session(*loaded, SamplerConfig(gen_length=8, temperature=1.0))


def plainly(states, canvas, start):
    return states


def say(session: Session, *lines: str) -> list[str]:
    """The replies; the model's where it was asked."""
    told = []
    for line in lines:
        reply = session.take(line)
        if reply.asks:
            session.answer(plainly)
        told.append(session.messages[-1]["content"] if reply.asks else reply.text)
    return told


def roles(session: Session) -> list[str]:
    return [message["role"] for message in session.messages]


def test_answer_is_that_of_the_whole_conversation(session):
    first, second = say(session, "Add 3 and 4.", "And 5?")
    assert roles(session) == ["user", "assistant"] * 2
    session.messages = session.messages[:3]
    expected = generate(session.model, session.prompt(), None, session.sampler, 1)
    session.turns = 1
    assert torch.equal(session.answer(plainly).sequences, expected.sequences)
    assert session.messages[-1]["content"] == second
    assert session.messages[1]["content"] == first


def test_system_prompt_comes_first_and_changes_the_question(session):
    assert say(session, "/system Answer in one word.", "Add 3 and 4.")[0] == "the model is told: Answer in one word."
    assert roles(session) == ["system", "user", "assistant"]
    session.messages = session.messages[:-1]
    assert "Answer in one word." in session.tokenizer.decode(session.prompt()[0])
    say(session, "/system")
    assert roles(session) == ["user"]


def test_again_gives_another_answer_to_the_same_question(session):
    answers = {say(session, "Add 3 and 4.")[0]} | {say(session, "/again")[0] for _ in range(3)}
    assert roles(session) == ["user", "assistant"]
    assert len(answers) > 1  # eight drawn tokens of 300, four times


def test_set_changes_the_sampler_that_answers(session):
    assert say(session, "/set gen_length 4") == ["sampler: gen_length=4, temperature=1.0"]
    assert say(session, "/set steps=2")[0].startswith("sampler: steps=2")
    session.take("Add 3 and 4.")
    assert int(session.answer(plainly).forward_passes) == 2
    assert "block_length=32" in say(session, "/set gen_length 32", "/sampler semi_autoregressive")[-1]


def test_length_stays_unless_the_sampler_has_one(session, tmp_path):
    (tmp_path / "own.yaml").write_text("gen_length: 64\nsteps: 16\n")
    assert "gen_length=8" in say(session, "/sampler margin")[0]
    assert say(session, f"/sampler {tmp_path / 'own.yaml'}") == ["sampler: steps=16, gen_length=64"]
    assert "gen_length=64" in say(session, "/sampler margin")[0]


def test_field_that_bounds_the_length_is_named(session):
    with pytest.raises(ValueError, match=r"longest=2048 leaves no room .* model's 128 .*/sampler NAME longest=NUM"):
        session.take("/sampler daedal")
    assert "longest=64" in say(session, "/sampler daedal longest=64")[0]
    with pytest.raises(ValueError, match=r"which with 64 for the answer .* or /set longest to less"):
        session.take("x " * 200)


def test_conversation_is_saved_and_loaded(session, loaded, tmp_path):
    say(session, "/system Be brief.", "Add 3 and 4.", f"/save {tmp_path / 'talk.jsonl'}")
    assert json.loads((tmp_path / "talk.jsonl").read_text())["messages"] == session.messages
    other = Session(*loaded, session.sampler, seed=5)
    assert "user: Add 3 and 4." in say(other, f"/load {tmp_path / 'talk.jsonl'}")[0]
    assert other.messages == session.messages


def test_clear_forgets_all_but_what_is_told_before(session):
    say(session, "/system Be brief.", "Add 3 and 4.", "/clear")
    assert roles(session) == ["system"]


def test_show_tells_the_sampler_and_the_length(session):
    say(session, "Add 3 and 4.")
    told = say(session, "/show")[0]
    assert "gen_length=8" in told
    assert "2 messages" in told
    assert "of 128 tokens" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/jump", "/jump is no command; there are /set, /sampler"),
        ("/set", "such as /set steps 32"),
        ("/set stepz 3", "did you mean 'steps'"),
        ("/set steps many", "valid integer"),
        ("/set steps 5", None),
        ("/set block_length 3", "cannot be cut into blocks"),
        ("/set gen_length 200", "gen_length=200 leaves no room for a question in the model's 128 positions; set it to"),
        ("/sampler", "give the name of a sampler"),
        ("/sampler best", "unknown sampler 'best'"),
        ("/sampler margin 'x", "/sampler margin 'x: give the name of a sampler and what is changed in it"),
        ("/sampler margin step=3", "did you mean 'steps'"),
        ("/again", "there is no answer yet"),
        ("/save", "give a file"),
        ("/save nowhere/x", "there is nothing to save yet"),
        ("/load", "give a file"),
        ("/load nowhere.jsonl", "nowhere.jsonl"),
        ("x " * 200, "more than the model's 128; /clear it, say less, or /set gen_length to less"),
        ("/system " + "x " * 200, None),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(line, told, session):
    before = (session.messages, session.sampler)
    if told is None:
        session.take(line)
        return
    with pytest.raises((ValueError, OSError), match=told):
        session.take(line)
    assert (session.messages, session.sampler) == before


def test_existing_file_is_kept(session, tmp_path):
    (tmp_path / "talk").write_text("mine")
    say(session, "Add 3 and 4.")
    with pytest.raises(FileExistsError, match="choose another name"):
        session.take(f"/save {tmp_path / 'talk'}")
    assert (tmp_path / "talk").read_text() == "mine"


@pytest.mark.parametrize("roles_of", [["user", "assistant", "assistant"], ["assistant"]])
def test_answer_without_a_question_cannot_be_given_again(session, roles_of):
    session.messages = before = [{"role": role, "content": "x"} for role in roles_of]
    with pytest.raises(ValueError, match=r"end with what it should reply to|has no messages"):
        session.take("/again")
    assert session.messages == before


@pytest.mark.parametrize("line", ["/set self 1", "/set cls 1", "/set steps " + "[" * 5000, "/set steps !!bool x"],
                         ids=["self", "cls", "deep", "tag"])  # fmt: skip
def test_setting_that_is_none_is_refused_and_changes_nothing(line, session):
    before = session.sampler
    with pytest.raises(ValueError, match=r"unknown key|is not a YAML value"):
        session.take(line)
    assert session.sampler == before


@pytest.mark.parametrize("line", ["And 5?", "/again"])
def test_interrupted_answer_leaves_the_conversation_as_it_was(line, session):
    say(session, "Add 3 and 4.")
    before = session.messages

    def interrupted(states, canvas, start):
        yield next(states)
        raise KeyboardInterrupt

    assert session.take(line).asks
    with pytest.raises(KeyboardInterrupt):
        session.answer(interrupted)
    assert session.messages == before
    say(session, "And 6?")
    assert roles(session) == ["user", "assistant"] * 2


def test_answers_that_find_their_length_are_given_too(session):
    session.sampler = SamplerConfig.named("daedal", gen_length=8, longest=16)
    assert session.take("Add 3 and 4.").asks
    session.answer(plainly)
    assert roles(session) == ["user", "assistant"]


def test_nothing_that_is_typed_raises_anything_else(session):
    """Five hundred lines of words, commands and rubbish; seeded."""
    draws = random.Random(0)
    words = [f"/{name}" for name in _COMMANDS if name != "save"] + ["/", "//", "steps", "32", "gen_length", "=", "-1"]
    words += ["low_confidence", "[bold]", "\x00", "漢", "<|mdm_mask|>", "<|endoftext|>", "null", "{", "temperature"]
    session.sampler = SamplerConfig(gen_length=2)
    for _ in range(500):
        line = " ".join(draws.choices(words, k=draws.randrange(1, 4)))
        with contextlib.suppress(ValueError, OSError):
            if session.take(line).asks:
                session.answer(plainly)


def typed(monkeypatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_command_answers_until_the_end_of_input(tuned, monkeypatch, capsys):
    typed(monkeypatch, "Add 3 and 4.", "", "/set stepz 3", "/show", "[/bold] 3")
    llada(monkeypatch, "chat", tuned / "model", "--set", "gen_length=8", "--system", "Be brief.")
    out = capsys.readouterr().out
    assert "llada: unknown key 'stepz'; did you mean 'steps'" in out
    assert "3 messages" in out


@pytest.mark.parametrize("more", [["--set", "block_length=4"], ["--sampler", "daedal", "--set", "longest=16"]])
def test_answer_comes_in_blocks_in_a_pipe(more, tuned, loaded, monkeypatch, capsys):
    printed, echo = [], typer.echo
    monkeypatch.setattr("typer.echo", lambda text, **options: (printed.append(text), echo(text, **options)))
    typed(monkeypatch, "Add 3 and 4.", "And 5?")
    llada(monkeypatch, "chat", tuned / "model", "--set", "gen_length=12", *more)
    sampler = SamplerConfig.named("daedal", gen_length=12, longest=16) if "daedal" in more else None
    session = Session(*loaded, sampler or SamplerConfig(gen_length=12, block_length=4))
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in say(session, "Add 3 and 4.", "And 5?"))
    assert (len(list(filter(None, printed))) > 2) == (sampler is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal of POSIX")
@pytest.mark.slow  # which step a key comes in depends on the load of the machine
def test_terminal_edits_lines_stops_answers_and_ends_its_last_line(tuned, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    there = Terminal("chat", tuned / "model", "--set", "gen_length=64", "--delay", "0.2")
    there.until("Ctrl-D leaves.")
    there.until("\x1b[1m> \x1b[0m")
    there.type("/shoq\x7f\x01\x05w\n")  # a letter taken back, to the beginning of the line, to its end
    assert "\r\x1b[K" not in there.until("0 messages")  # which would erase the prompt
    there.type("Add 3 and 4.\n")
    there.until("step 2,")
    there.type("\x03")
    there.until("stopped; nothing of it is kept")
    there.until("\x1b[1m> \x1b[0m")
    there.type("\x03")
    there.until("Ctrl-D or /quit leaves.")
    there.until("\x1b[1m> \x1b[0m")
    there.type("\x04")
    there.until("\r\n")
    assert there.end() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal of POSIX")
def test_terminal_without_watching_gets_each_block_once(tuned, loaded, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    sampler = ["--set", "gen_length=12", "--set", "block_length=4", "--set", "forbid_eos=true"]
    there = Terminal("chat", tuned / "model", "--no-watch", *sampler)
    there.until("> ")
    there.type("Add 3 and 4.\n")
    there.until("Add 3 and 4.\r\n")
    text = there.until("12 forward passes")
    assert "masks left" not in text
    session = Session(*loaded, SamplerConfig(gen_length=12, block_length=4, forbid_eos=True))
    answer = say(session, "Add 3 and 4.")[0]
    assert re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text).replace("\r\n", "\n").strip("\n") == answer.strip("\n")
    there.type("\x04")
    assert there.end() == 0


def test_empty_answer_is_said_on_a_terminal_alone(session, monkeypatch, capsys):
    def emptied(shown):
        session.messages = [*session.messages, {"role": "assistant", "content": " "}]
        return SimpleNamespace(forward_passes=3)

    monkeypatch.setattr(session, "answer", emptied)
    for forced in (True, False):
        _answer(session, Console(force_terminal=forced, highlight=False), watch=True, delay=0.0)
        assert ("(an empty answer)" in capsys.readouterr().out) == forced


def test_delay_without_watching_is_refused(monkeypatch, capsys):
    told = refusal(monkeypatch, capsys, "chat", "nowhere", "--no-watch", "--delay", 1)
    assert told == "llada: --delay has no effect with --no-watch; leave one of them out\n"


def test_answer_of_a_model_that_diverged_is_said_and_the_conversation_stays(diverged, monkeypatch, capsys):
    typed(monkeypatch, "Add 3 and 4.", "/show")
    llada(monkeypatch, "chat", diverged, "--set", "gen_length=8", "--system", "Be brief.")
    out = capsys.readouterr().out
    assert "llada: the model's logits are not numbers" in out
    assert "1 messages" in out


@pytest.mark.parametrize("command", ["again", "show", "clear", "help", "quit"])
def test_what_follows_a_command_that_takes_nothing_is_refused(command, session):
    before = session.messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ValueError, match="nothing follows this command; leave out 'all of it'"):
        session.take(f"/{command} all of it")
    assert session.messages == before


def test_quit_ends_it(tuned, monkeypatch, capsys):
    typed(monkeypatch, "/help", "/quit", "/show")
    llada(monkeypatch, "chat", tuned / "model")
    out = capsys.readouterr().out
    assert "/again" in out
    assert "messages" not in out
