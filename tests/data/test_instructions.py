import re

import pytest

from llada.data.chat import encode_chat
from llada.data.instructions import (
    DAYS,
    FAMILIES,
    MONTHS,
    WORDS,
    Instruction,
    _split,
    as_messages,
    instructions,
    is_correct,
)

# Spelled out here once more, so that a mistake in the generators' tables shows.
IN_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "twenty-one",
    "twenty-two", "twenty-three", "twenty-four", "twenty-five", "twenty-six", "twenty-seven", "twenty-eight",
    "twenty-nine", "thirty", "thirty-one", "thirty-two", "thirty-three", "thirty-four", "thirty-five", "thirty-six",
    "thirty-seven", "thirty-eight", "thirty-nine", "forty",
]  # fmt: skip

everything = pytest.mark.parametrize("family", FAMILIES)


def operands(prompt):
    """Numbers, listed words and names in a prompt, in order: what is asked about, whatever the wording."""
    tokens = re.findall(r"[A-Za-z]+(?:-[a-z]+)?|\d+", prompt)
    known = {*WORDS, *IN_WORDS, *DAYS, *MONTHS, "after", "before"}
    return tuple(token for token in tokens if token in known or token.isdigit())


def content(family, prompt):
    """The content of a prompt, worked out from its text: two prompts that ask the same have the same."""
    found = operands(prompt)
    if family in ("letters", "spelling"):
        return (re.search("first|last|[Ss]pell|letters", prompt)[0].lower(), *found)
    if family.startswith("arithmetic"):
        kind = "difference" if re.search("minus|Subtract| - ", prompt) else "sum"
        return (kind, *sorted(found))
    return tuple(sorted(found)) if family in ("compare", "sort") else found


def answer(family, prompt):
    """The answer, worked out from the prompt's text alone."""
    found = operands(prompt)
    if family in ("arithmetic", "arithmetic_in_words"):
        a, b = (int(x) if x.isdigit() else IN_WORDS.index(x) for x in found)
        value = a + b if content(family, prompt)[0] == "sum" else abs(a - b)
        return IN_WORDS[value] if family == "arithmetic_in_words" else str(value)
    if family in ("letters", "spelling"):
        kind, word = content(family, prompt)
        return {"spell": "-".join(word), "letters": str(len(word)), "first": word[0], "last": word[-1]}[kind]
    if family == "parity":
        return "yes" if int(found[0]) % 2 == ("odd" in prompt) else "no"
    if family == "compare":
        return str((max if "larger" in prompt else min)(map(int, found)))
    if family == "sequence":
        a, b, c, d = map(int, found)
        assert b - a == c - b == d - c
        return str(d + b - a)
    if family == "sort":
        return ", ".join(map(str, sorted(map(int, found))))
    if family == "calendar":
        names = DAYS if "day" in prompt.split(" ")[1:3] else MONTHS
        distance, direction, name = found
        step = int(distance) if direction == "after" else -int(distance)
        return names[(names.index(name) + step) % len(names)]
    return {
        "repeat": " ".join(found),
        "reverse": " ".join(found[::-1]),
        "first_word": found[0],
        "last_word": found[-1],
        "count_words": str(len(found)),
    }[family]


@everything
def test_answers_are_right(family):
    for split in ("train", "test"):
        for item in instructions(family, split, 300, seed=1):
            assert item.family == family
            assert item.answer == answer(family, item.prompt), item


@everything
def test_prompts_and_answers_are_short_and_clean(family):
    for item in instructions(family, "train", 1000, seed=2):
        assert 0 < len(item.prompt) <= 60
        assert 0 < len(item.answer) <= 25
        assert item.prompt == item.prompt.strip()
        assert item.answer == item.answer.strip()


@everything
def test_nothing_in_test_is_asked_in_training_in_any_wording(family):
    trained = {content(family, item.prompt) for item in instructions(family, "train", 5000, seed=3)}
    tested = {content(family, item.prompt) for item in instructions(family, "test", 500, seed=4)}
    assert not trained & tested


@everything
def test_every_family_has_enough_to_test(family):
    tested = {content(family, item.prompt) for item in instructions(family, "test", 1000, seed=5)}
    assert len(tested) >= 20


@everything
def test_every_family_has_several_wordings(family):
    items = instructions(family, "train", 300, seed=6)
    wordings = {
        tuple(word for word in re.findall("[A-Za-z]+", i.prompt) if word not in operands(i.prompt)) for i in items
    }
    assert len(wordings) >= 2


@everything
def test_the_same_seed_gives_the_same_instructions(family):
    assert instructions(family, "train", 50, seed=7) == instructions(family, "train", 50, seed=7)
    assert instructions(family, "train", 50, seed=7) != instructions(family, "train", 50, seed=8)
    assert instructions(family, "train", 20, seed=7) == instructions(family, "train", 50, seed=7)[:20]


def test_about_a_tenth_of_the_contents_is_for_testing():
    tested = {content("arithmetic", item.prompt) for item in instructions("arithmetic", "test", 5000, seed=9)}
    assert 800 < len(tested) < 1200  # of 10100


def test_split_never_changes():
    # golden: a model trained with an older version must not have seen a newer version's test
    tested = [n for n in range(60) if _split("sort", (n, n + 1, n + 2)) == "test"]
    assert tested == [10, 16, 20, 33, 52]


def test_no_instructions_are_an_empty_list():
    assert instructions("sort", "train", 0, seed=0) == []


def test_instructions_are_conversations(tokenizer):
    item = Instruction("sort", "Put in order: 3, 1", " 1, 3 ")
    assert as_messages(item) == [
        {"role": "user", "content": "Put in order: 3, 1"},
        {"role": "assistant", "content": " 1, 3 "},
    ]
    assert any(encode_chat(tokenizer, as_messages(item)).maskable)


def test_only_the_exact_answer_is_correct_blanks_apart():
    item = Instruction("sort", "Put in order: 3, 1", "1, 3")
    assert is_correct(item, "1, 3")
    assert is_correct(item, " 1, 3\n")
    assert not is_correct(item, "1,3")
    assert not is_correct(item, "1, 3.")
    assert not is_correct(item, "")


def test_words_are_different_and_lower_case():
    assert len(set(WORDS)) == len(WORDS) >= 100
    assert all(re.fullmatch("[a-z]{3,6}", word) for word in WORDS)


def test_unknown_families_list_the_known_ones():
    with pytest.raises(
        ValueError, match="there is no family 'poetry'; the families are arithmetic, arithmetic_in_words"
    ):
        instructions("poetry", "train", 1, seed=0)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split='valid'; allowed are 'train' and 'test'"):
        instructions("sort", "valid", 1, seed=0)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="count=-1: give 0 or more"):
        instructions("sort", "train", -1, seed=0)
