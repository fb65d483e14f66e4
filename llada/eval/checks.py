"""Checks: whether an answer is right, given the one that was expected."""

import re
from collections.abc import Callable
from decimal import Decimal

Check = Callable[[str, str], bool]  # (answer, expected)

# a minus that joins two numbers or words is none; commas may part thousands, and nothing else
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(r"(?i:\banswer\b)(?: is)?\s*:?\s*\(?([A-J])\b")
# "A" as a word of a sentence ("A cat") is no choice; in brackets, before punctuation or at the end it is one
_LETTER = re.compile(r"(?<![\w'])([A-J])(?=\s*(?:[).:,\]]|$|\n))")


def exact(answer: str, expected: str) -> bool:
    """Equal, blanks around them apart."""
    return answer.strip() == expected.strip()


def number(answer: str, expected: str) -> bool:
    """The last number of both has the same value: 1,000 is 1000.0. Without a number in both they are not equal."""
    found, wanted = _last_number(answer), _last_number(expected)
    return found is not None and found == wanted


def final_number(answer: str, expected: str) -> bool:
    """The final answers have the same value: what follows the last `####`, the last \\boxed{}, or the last number."""
    found, wanted = _last_number(_final(answer)), _last_number(_final(expected))
    return found is not None and found == wanted


def letter(answer: str, expected: str) -> bool:
    """The same letter A to J is chosen: "(B)", "B.", "the answer is B"; after the word answer, or else the last."""
    found, wanted = _last_letter(answer), _last_letter(expected)
    return found is not None and found == wanted


def contains(answer: str, expected: str) -> bool:
    """The expected text, blanks around it apart, is somewhere in the answer, capitals and small letters distinct."""
    return expected.strip() in answer


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def _final(text: str) -> str:
    """The part of a solution that its writer marked as the answer; everything where nothing is marked."""
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0]
    boxed = _BOXED.findall(text)
    return boxed[-1] if boxed else text


def _last_letter(text: str) -> str | None:
    found = _SAID.findall(text) or _LETTER.findall(text)
    return found[-1] if found else None


CHECKS: dict[str, Check] = {
    "exact": exact,
    "number": number,
    "final_number": final_number,
    "letter": letter,
    "contains": contains,
}
