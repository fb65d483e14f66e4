"""The reversal experiment: what is read, what is practised, what is asked, and files of pairs."""

import json

import pytest
from lessons import RECIPE

from llada.config import ConfigError
from llada.data.tokenizer import encode, train_tokenizer
from llada.experiments.experiment import named, perform
from llada.experiments.gaps import Fact, cut
from llada.experiments.reversal import EXPERIMENT, Settings, asked, facts, lesson, practised

VALUES = {
    "recipe": RECIPE,
    "facts": 6,
    "practised": 0.5,
    "texts": ["{first}, {second}.", "After {first} comes {second}."],
    "forward": "{first}. Next?",
    "reversal": "{second}. Before?",
    "gen_length": 4,
}


def test_lines_of_facts_are_all_different():
    known = facts(Settings(**VALUES | {"facts": 500}))
    assert len({line for fact in known for line in fact}) == 1000


def test_unpractised_facts_are_read_one_way_alone():
    settings = Settings(**VALUES)
    known = facts(settings)
    pairs = lesson(settings, known, practised(settings))
    assert practised(settings) == 3
    for fact in known[3:]:
        texts = [reply for prompt, reply in pairs if fact.first in reply or fact.second in reply]
        assert texts == [text.format(**fact._asdict()) for text in settings.texts]
        assert all(text.index(fact.first) < text.index(fact.second) for text in texts)
        assert not [prompt for prompt, _ in pairs if fact.first in prompt or fact.second in prompt]


def test_practised_facts_are_asked_both_ways():
    settings = Settings(**VALUES)
    known = facts(settings)
    pairs = lesson(settings, known, practised(settings))
    for fact in known[:3]:
        assert asked(settings, fact)["forward"] == (f"{fact.first}. Next?", fact.second)
        assert all(question in pairs for question in asked(settings, fact).values())


def test_file_of_pairs_is_read_and_ambiguous_lines_are_left_out(tmp_path):
    rows = [{"first": f"a{number}", "second": f"b{number}"} for number in range(6)]
    rows[3:3] = [{"first": "a0", "second": "other"}, {"first": "new", "second": "b1"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    known = facts(Settings(**VALUES | {"pairs": str(tmp_path / "pairs.jsonl")}))
    assert [tuple(fact) for fact in known] == [(f"a{number}", f"b{number}") for number in range(6)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"first": "a", "second": "b"}] * 9, "has 1 pairs of lines that are in no other pair, fewer than facts=6"),
        ([{"first": "a"}], "second"),
        ([{"first": "a", "second": 3}], "second"),
        ([{"first": "a", "second": " "}], "line 1: 'second' is empty, which every answer would contain; leave it out"),
    ],
)
def test_file_that_does_not_do_is_refused(rows, told, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=told):
        facts(Settings(**VALUES | {"pairs": str(tmp_path / "pairs.jsonl")}))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"texts": ["{second} {first}"]}, r"must hold \{first\} and, after it, \{second\}"),
        ({"texts": ["{first}"]}, r"must hold \{first\} and, after it, \{second\}"),
        ({"forward": "what?"}, r"'what\?' must hold \{first\}"),
        ({"reversal": "{first}?"}, r"must hold \{second\}"),
        ({"practised": 1.0}, "less than 1"),
        ({"practised": 0.95}, "practised=0.95 of 6 facts are 6; some must be practised and some not"),
        ({"practised": 0.05}, "practised=0.05 of 6 facts are 0; some must"),
        ({"texts": ["{title}: {first}, {second}."]}, r"may have nothing but \{first\} and \{second\} in braces"),
        ({"forward": "{first} {0}"}, r"may have nothing but \{first\} in braces"),
        ({"reversal": "{second} {"}, r"may have nothing but \{second\} in braces"),
        ({"practised": -0.1}, "greater than or equal to 0"),
    ],
)
def test_wrong_settings_are_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        Settings(**VALUES | values)


def test_text_is_cut_where_the_tokens_of_a_line_begin_and_end():
    tokenizer = train_tokenizer(["red fox sky, blue dog sun."] * 9, 275)
    fact = Fact("red fox sky", "blue dog sun")
    for line, shown in (("second", " blue dog sun"), ("first", "red fox sky")):
        parts = cut(tokenizer, "{first}, {second}.", fact, line)
        assert [*parts.before, *parts.line, *parts.after] == encode(tokenizer, "red fox sky, blue dog sun.")
        assert tokenizer.decode(parts.line) == shown


def test_a_line_that_is_in_the_other_one_or_in_the_words_around_it_is_cut_where_it_stands():
    tokenizer = train_tokenizer(["roses are red"], 262)  # of bytes
    for text, fact, missing, before in (
        ("{first}, {second}.", Fact("roses are red", "red"), "second", "roses are red, "),
        ("{{first}} red: {first}, {second}", Fact("red", "rose"), "first", "{first} red: "),
    ):
        parts = cut(tokenizer, text, fact, missing)
        assert tokenizer.decode(parts.before) == before
        assert tokenizer.decode(parts.line) == "red"


def test_both_models_are_asked_both_ways_about_all_facts(tmp_path):
    measured = perform("reversal", named("reversal").settings(**VALUES), tmp_path / "reversal")["measured"]
    assert [one["rows"] for one in measured["right"]] == [6] * 4 + [3] * 8
    assert measured["parameters"][0] == measured["parameters"][1]
    # one reads padding, too, the other a token before each text
    assert measured["compute"][0] == pytest.approx(measured["compute"][1], rel=0.2)
    assert EXPERIMENT.table(measured).row_count == 6
    assert "equal sizes, rows and steps" in EXPERIMENT.finding(measured)
