"""Chains: every working follows from what is given, and the answer from the working."""

from random import Random

import pytest
from lessons import LESSON

from llada.config import ConfigError, load_config
from llada.eval.checks import number
from llada.experiments.chains import MODULUS, Lesson, chain, conversations, questions, summary
from llada.experiments.experiment import named, names

CHAINS = [chain(Random(seed), variables) for seed in range(200) for variables in (2, 5)]


def solve(prompt: str) -> int:
    """The answer by substitution."""
    given, asked = prompt.removesuffix("?").split(". ")
    terms = dict(term.split("=") for term in given.split())

    def value(term: str) -> int:
        if "+" in term:
            return sum(map(value, term.split("+"))) % MODULUS
        return int(term) if term.isdigit() else value(terms[term])

    return value(asked)


@pytest.mark.parametrize("one", CHAINS[:20])
def test_answer_follows_from_what_is_given(one):
    assert one.answer == solve(one.prompt)


def test_all_answers_follow_and_none_is_the_rule():
    assert all(one.answer == solve(one.prompt) for one in CHAINS)
    assert {one.answer for one in CHAINS} == set(range(MODULUS))


def test_working_names_each_value_once_it_is_known():
    for one in CHAINS:
        values: dict[str, int] = {}
        for step in one.working:
            name, *middle, result = step.split("=")
            for expression in middle:
                assert int(eval(expression)) % MODULUS == int(result)
            values[name] = int(result)
        assert list(values.values())[-1] == one.answer
        assert one.prompt.endswith(f" {list(values)[-1]}?")


def test_every_variable_is_needed():
    for one in CHAINS:
        given = one.prompt.split(". ")[0].split()
        asked = one.prompt[-2]
        needed, terms = {asked}, dict(term.split("=") for term in given)
        for _ in given:
            needed |= {letter for name in needed for letter in terms[name] if letter.isalpha()}
        assert needed == set(terms)


def test_example_of_the_docstring():
    assert solve("b=4 c=b+3 e=c+1. e?") == 3


def test_lesson_has_the_share_of_brief_answers():
    pairs = conversations(Lesson(**LESSON | {"conversations": 2000, "brief": 0.25}))
    brief = sum(reply.startswith("So ") for _, reply in pairs)
    assert abs(brief / 2000 - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5  # false alarms: 6e-7
    assert {len(prompt.split()) - 1 for prompt, _ in pairs} == {2, 3}


@pytest.mark.parametrize("brief", [0.0, 1.0])
def test_lesson_without_or_with_nothing_but_brief_answers(brief):
    pairs = conversations(Lesson(**LESSON | {"conversations": 50, "brief": brief}))
    assert {reply.startswith("So ") for _, reply in pairs} == {bool(brief)}


def test_every_answer_of_the_lesson_is_right():
    for prompt, reply in conversations(Lesson(**LESSON | {"conversations": 300})):
        assert number(reply, str(solve(prompt)))


def test_questions_are_not_those_that_were_practised():
    lesson = Lesson(**LESSON | {"conversations": 3000, "variables": [2]})
    pairs = conversations(lesson)
    asked = questions(lesson, 100, pairs)
    prompts = [messages[0]["content"] for messages in asked.conversations]
    assert len(set(prompts)) == 100
    assert not set(prompts) & {prompt for prompt, _ in pairs}
    assert [number(reply, str(solve(prompt))) for prompt, reply in zip(prompts, asked.expected, strict=True)] == [
        True
    ] * 100


def test_seed_decides_the_lesson():
    same, other = (conversations(Lesson(**LESSON | {"seed": seed})) for seed in (0, 1))
    assert same == conversations(Lesson(**LESSON))
    assert same != other


def test_summary_of_two_answers():
    told = summary([True, False], [4, 2], [40, 20], [10, 6], 2.0)
    assert told["right"], told["rows"] == (1, 2)
    assert (told["passes"], told["positions"], told["tokens"], told["tokens_per_second"]) == (3, 30, 8, 8)
    assert told["interval"][0] < 0.5 < told["interval"][1]


def test_experiments_on_chains_share_one_lesson():
    settings = [load_config(named(name).settings, f"configs/experiment/{name}.yaml") for name in names()]
    lessons = [one.lesson for one in settings if hasattr(one, "lesson")]
    assert len(lessons) >= 6
    assert all(one == lessons[0] for one in lessons)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"variables": [1]}, "greater than or equal to 2"),
        ({"variables": []}, "at least 1"),
        ({"brief": 1.5}, "less than or equal to 1"),
        ({"recipe": LESSON["recipe"] | {"masked": {"maskin": "count"}}}, "did you mean 'masking'"),
        ({"recipe": LESSON["recipe"] | {"autoregressive": {"masking": "count"}}}, "masking has no effect"),
        ({"recipe": LESSON["recipe"] | {"vocab_size": 100}}, "greater than or equal to 262"),
    ],
)
def test_wrong_lessons_are_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        Lesson(**LESSON | values)
