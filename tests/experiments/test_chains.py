"""Chains: every working follows from the terms, and the answer from the working."""

from itertools import islice

import pytest
from lessons import LESSON

from llada.config import ConfigError, load_config
from llada.eval.checks import number
from llada.experiments.chains import HIGHEST, TEST_SHARE, Chain, Lesson, chains, conversations, questions
from llada.experiments.experiment import named, names

CHAINS = [one for asked in (False, True) for one in islice(chains([3, 6], "test", asked=asked), 200)]


def test_example_of_the_docstring():
    assert Chain([3, 1, 6]).prompt == "3+1+6"
    assert Chain([3, 1, 6]).reply() == "4 10. So 10"
    assert Chain([3, 1, 6]).reply(brief=True) == "So 10"


def test_working_has_the_sum_after_each_further_term():
    for one in CHAINS:
        working, conclusion = one.reply().split(". So ")
        sums = list(map(int, working.split()))
        assert [later - earlier for earlier, later in zip([one.terms[0], *sums], sums, strict=False)] == one.terms[1:]
        assert int(conclusion) == sums[-1] == eval(one.prompt) == one.answer


def test_terms_are_those_of_dice_and_all_occur():
    assert {term for one in CHAINS for term in one.terms} == set(range(1, HIGHEST + 1))
    assert {len(one.terms) for one in CHAINS} == {3, 6}


def test_asked_are_a_tenth_of_all_chains():
    every = [Chain([a, b, c, d]) for a in range(1, 7) for b in range(1, 7) for c in range(1, 7) for d in range(1, 7)]
    share = sum(one.is_asked for one in every) / len(every)
    assert abs(share - TEST_SHARE) < 5 * (TEST_SHARE * (1 - TEST_SHARE) / len(every)) ** 0.5  # a fact of this hash


def test_lesson_has_the_share_of_brief_answers():
    pairs = conversations(Lesson(**LESSON | {"conversations": 2000, "brief": 0.25}))
    brief = sum(reply.startswith("So ") for _, reply in pairs)
    assert abs(brief / 2000 - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5  # false alarms: 6e-7
    assert {len(prompt.split("+")) for prompt, _ in pairs} == {3, 4}


@pytest.mark.parametrize("brief", [0.0, 1.0])
def test_lesson_without_or_with_nothing_but_brief_answers(brief):
    pairs = conversations(Lesson(**LESSON | {"conversations": 50, "brief": brief}))
    assert {reply.startswith("So ") for _, reply in pairs} == {bool(brief)}


def test_every_answer_of_the_lesson_is_right():
    for prompt, reply in conversations(Lesson(**LESSON | {"conversations": 300})):
        assert number(reply, str(eval(prompt)))


def test_questions_are_not_those_that_were_practised():
    lesson = Lesson(**LESSON | {"conversations": 3000, "terms": [4]})
    asked = questions(lesson, 100)
    prompts = [messages[0]["content"] for messages in asked.conversations]
    assert len(set(prompts)) == 100
    assert not set(prompts) & {prompt for prompt, _ in conversations(lesson)}
    assert all(number(reply, str(eval(prompt))) for prompt, reply in zip(prompts, asked.expected, strict=True))


def test_more_questions_than_there_are_chains_are_refused():
    few = sum(Chain([a, b, c]).is_asked for a in range(1, 7) for b in range(1, 7) for c in range(1, 7))
    lesson = Lesson(**LESSON | {"terms": [3]})
    assert len(questions(lesson, few).expected) == few
    with pytest.raises(ValueError, match=rf"questions={few + 1} are more than there are chains of so few terms=\[3\]"):
        questions(lesson, few + 1)


def test_a_share_of_the_lesson_is_longer():
    lesson = Lesson(**LESSON | {"conversations": 2000, "long_terms": [8, 9], "long_share": 0.1})
    terms = [len(prompt.split("+")) for prompt, _ in conversations(lesson)]
    assert set(terms) == {3, 4, 8, 9}
    assert abs(sum(n > 4 for n in terms) / 2000 - 0.1) < 5 * (0.1 * 0.9 / 2000) ** 0.5  # false alarms: 6e-7
    assert max(messages[0]["content"].count("+") for messages in questions(lesson, 50).conversations) == 3


def test_seed_decides_the_lesson():
    same, other = (conversations(Lesson(**LESSON | {"seed": seed})) for seed in (0, 1))
    assert same == conversations(Lesson(**LESSON))
    assert same != other


def test_experiments_on_chains_share_one_lesson():
    settings = [load_config(named(name).settings, f"configs/experiment/{name}.yaml") for name in names()]
    lessons = [one.lesson for one in settings if hasattr(one, "lesson")]
    assert len(lessons) >= 6
    assert all(one == lessons[0] for one in lessons)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"terms": [2]}, "greater than or equal to 3"),
        ({"terms": []}, "at least 1"),
        ({"brief": 1.5}, "less than or equal to 1"),
        ({"long_share": 0.1}, "long_terms and long_share go together"),
        ({"long_terms": [9]}, "long_terms and long_share go together"),
        ({"recipe": LESSON["recipe"] | {"masked": {"maskin": "count"}}}, "did you mean 'masking'"),
        ({"recipe": LESSON["recipe"] | {"autoregressive": {"masking": "count"}}}, "masking has no effect"),
        ({"recipe": LESSON["recipe"] | {"vocab_size": 100}}, "greater than or equal to 262"),
    ],
)
def test_wrong_lessons_are_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        Lesson(**LESSON | values)
