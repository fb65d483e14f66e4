"""Instruction pairs with checkable answers, made up on the spot: what a tiny model can learn to obey in minutes.

A family is one kind of task: it draws a content (the task and its operands), and puts it in one of several wordings.
Whether a content belongs to training or test is decided by its hash, whatever the wording, so a test asks for nothing
that was ever practised: neither "What is 4 + 9?" nor, the order of a sum's operands not counting, "Add 9 and 4.".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Literal, NamedTuple

TEST_SHARE = 0.1  # of the contents of a family

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
WORDS = (
    "apple", "banana", "bear", "bird", "black", "blue", "boat", "book", "bread", "bridge", "brown", "cat", "chair",
    "cheese", "cherry", "city", "clock", "cloud", "coat", "cow", "cup", "desk", "dog", "door", "dress", "duck", "eagle",
    "egg", "farm", "fire", "fish", "flower", "forest", "fox", "frog", "garden", "glass", "goat", "gold", "grape",
    "grass", "gray", "green", "hat", "hill", "honey", "horse", "house", "island", "kite", "lake", "lamp", "leaf",
    "lemon", "lion", "milk", "mirror", "monkey", "moon", "mouse", "music", "night", "ocean", "onion", "orange", "paper",
    "peach", "pear", "pencil", "piano", "pig", "pink", "plum", "purple", "queen", "rabbit", "rain", "red", "rice",
    "river", "road", "sand", "sheep", "ship", "shoe", "silver", "snow", "soup", "spoon", "star", "stone", "sugar",
    "sun", "table", "tiger", "train", "tree", "violin", "water", "white", "window", "wolf", "yellow", "zebra",
)  # fmt: skip


class Instruction(NamedTuple):
    family: str
    prompt: str  # at most 60 characters
    answer: str  # at most 25 characters


class Task(NamedTuple):
    content: tuple[object, ...]  # what is asked, without the wording: decides between training and test
    wordings: tuple[str, ...]  # prompts that ask it
    answer: str


def instructions(family: str, split: Literal["train", "test"], count: int, seed: int) -> list[Instruction]:
    """`count` independent draws from one split of a family, the same for the same seed; they may repeat."""
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; the families are {', '.join(FAMILIES)}")
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}; allowed are 'train' and 'test'")
    if count < 0:
        raise ValueError(f"count={count}: give 0 or more")
    random = Random(f"{family} {split} {seed}")
    drawn: list[Instruction] = []
    while len(drawn) < count:
        task = FAMILIES[family](random)
        wording = random.choice(task.wordings)
        if _split(family, task.content) == split:
            drawn.append(Instruction(family, wording, task.answer))
    return drawn


def _split(family: str, content: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr((family, *content)).encode()).digest()
    return "test" if int.from_bytes(digest[:6]) < TEST_SHARE * 2**48 else "train"


def as_messages(instruction: Instruction) -> list[dict[str, str]]:
    """The conversation for `llada.data.chat`: the prompt from the user, the answer from the assistant."""
    return [
        {"role": "user", "content": instruction.prompt},
        {"role": "assistant", "content": instruction.answer},
    ]


def is_correct(instruction: Instruction, text: str) -> bool:
    """Whether `text` is the answer, blanks around it apart."""
    return text.strip() == instruction.answer.strip()


def _arithmetic(random: Random) -> Task:
    a, b = sorted(random.randrange(100) for _ in range(2))
    return _sum_or_difference(random, a, b, str)


def _arithmetic_in_words(random: Random) -> Task:
    a, b = sorted(random.randrange(21) for _ in range(2))
    return _sum_or_difference(random, a, b, _in_words)


def _sum_or_difference(random: Random, a: int, b: int, written: Callable[[int], str]) -> Task:
    """A task on a ≤ b; a sum may be asked in either order and is still the same content."""
    if random.random() < 0.5:
        x, y = (written(n) for n in random.sample((a, b), 2))
        wordings = (f"What is {x} plus {y}?", f"Add {x} and {y}.", f"How much is {x} + {y}?")
        return Task(("sum", a, b), wordings, written(a + b))
    x, y = written(b), written(a)
    wordings = (f"What is {x} minus {y}?", f"Subtract {y} from {x}.", f"How much is {x} - {y}?")
    return Task(("difference", a, b), wordings, written(b - a))


def _in_words(number: int) -> str:
    """0 to 49."""
    if number < 20:
        return NUMBERS[number]
    return TENS[number // 10] + (f"-{NUMBERS[number % 10]}" if number % 10 else "")


def _repeat(random: Random) -> Task:
    words = random.sample(WORDS, random.randint(1, 3))
    listed = " ".join(words)
    return Task(tuple(words), (f"Repeat: {listed}", f"Say this again: {listed}", f"Copy these words: {listed}"), listed)


def _first_word(random: Random) -> Task:
    words = random.sample(WORDS, random.randint(2, 4))
    listed = " ".join(words)
    return Task(tuple(words), (f"First word of: {listed}", f"Which word comes first? {listed}"), words[0])


def _last_word(random: Random) -> Task:
    words = random.sample(WORDS, random.randint(2, 4))
    listed = " ".join(words)
    return Task(tuple(words), (f"Last word of: {listed}", f"Which word comes last? {listed}"), words[-1])


def _reverse(random: Random) -> Task:
    words = random.sample(WORDS, random.randint(2, 3))
    listed = " ".join(words)
    wordings = (f"Reverse the order: {listed}", f"Say this backwards: {listed}", f"Turn around: {listed}")
    return Task(tuple(words), wordings, " ".join(reversed(words)))


def _count_words(random: Random) -> Task:
    words = random.sample(WORDS, random.randint(1, 5))
    listed = " ".join(words)
    return Task(tuple(words), (f"Count the words: {listed}", f"How many words? {listed}"), str(len(words)))


def _letters(random: Random) -> Task:
    word, kind = random.choice(WORDS), random.choice(("first", "last"))
    letter = word[0] if kind == "first" else word[-1]
    wordings = (f"What is the {kind} letter of {word}?", f"Which letter comes {kind} in {word}?")
    return Task((kind, word), wordings, letter)


def _spelling(random: Random) -> Task:
    word = random.choice(WORDS)
    if random.random() < 0.5:
        return Task(("spell", word), (f"Spell the word {word}.", f"How do you spell {word}?"), "-".join(word))
    return Task(("count", word), (f"How many letters does {word} have?", f"Count the letters: {word}"), str(len(word)))


def _parity(random: Random) -> Task:
    number, kind = random.randrange(1000), random.choice(("even", "odd"))
    answer = "yes" if (number % 2 == 0) == (kind == "even") else "no"
    return Task((number,), (f"Is {number} {kind}?", f"Is {number} an {kind} number?"), answer)


def _compare(random: Random) -> Task:
    a, b = random.sample(range(100), 2)
    adjective, answer = random.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    wordings = (f"Which is {adjective}, {a} or {b}?", f"Name the {adjective} number: {a}, {b}")
    return Task((min(a, b), max(a, b)), wordings, str(answer))


def _sequence(random: Random) -> Task:
    start, step = random.randrange(1, 60), random.randrange(1, 11)
    terms = [start + step * i for i in range(5)]
    if random.random() < 0.5:
        terms.reverse()
    listed = ", ".join(map(str, terms[:4]))
    return Task((terms[0], terms[1]), (f"What comes next? {listed}", f"Continue: {listed}"), str(terms[4]))


def _sort(random: Random) -> Task:
    numbers = random.sample(range(100), 3)
    listed = ", ".join(map(str, numbers))
    wordings = (f"Sort these numbers: {listed}", f"Put in order: {listed}", f"From small to large: {listed}")
    return Task(tuple(sorted(numbers)), wordings, ", ".join(map(str, sorted(numbers))))


def _calendar(random: Random) -> Task:
    unit, names = random.choice((("day", DAYS), ("month", MONTHS)))
    start = random.randrange(len(names))
    distance = random.randrange(1, len(names))
    direction = random.choice(("after", "before"))
    answer = names[(start + (distance if direction == "after" else -distance)) % len(names)]
    many = f"{distance} {unit}{'s' if distance > 1 else ''}"
    wordings = (
        f"What {unit} is {many} {direction} {names[start]}?",
        f"Name the {unit} {many} {direction} {names[start]}.",
    )
    return Task((direction, names[start], distance), wordings, answer)


FAMILIES: dict[str, Callable[[Random], Task]] = {
    "arithmetic": _arithmetic,
    "arithmetic_in_words": _arithmetic_in_words,
    "repeat": _repeat,
    "first_word": _first_word,
    "last_word": _last_word,
    "reverse": _reverse,
    "count_words": _count_words,
    "letters": _letters,
    "spelling": _spelling,
    "parity": _parity,
    "compare": _compare,
    "sequence": _sequence,
    "sort": _sort,
    "calendar": _calendar,
}
