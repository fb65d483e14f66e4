"""Checks: whether an answer is right, given the one that was expected."""

import re
from collections.abc import Callable
from decimal import Decimal

Check = Callable[[str, str], bool]  # (answer, expected)

# a minus that joins two numbers or words is none; commas may part thousands, and nothing else
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
# what may stand around a number without a change of its value: words, money, per cent, emphasis, "x =", but no operator
_WORDS = r"(?:[^\W\d_]|(?<=[^\W\d_])['’-](?=[^\W\d_])|[\s.,:;!?=$€£%]|\\[$%]|\*\*)*"
_ONE_NUMBER = re.compile(rf"{_WORDS}(?<![^\W\d_])({_NUMBER.pattern})(?![^\W\d_]){_WORDS}")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}")  # of LaTeX, whose braces hold words
_BRACED = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_BOXED = re.compile(rf"\\boxed\s*\{{((?:[^{{}}]|{_BRACED})*)\}}")
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
    """The final answers are the same: what follows the last `####`, the last \\boxed{}, or the last number.

    One number, with nothing but words around it, is compared by its value; any other marked answer, such as a fraction
    or a pair, as a text without its blanks. So is a text that is neither marked nor has a blank or an equals sign.
    """
    found, wanted = _final(answer), _final(expected)
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


def _final(text: str) -> Decimal | str | None:
    """The value of the answer that a solution ends with, or its text where it is no single number; None: no answer."""
    marked = _marked(text)
    if marked is None:
        return _last_number(text)
    one = _ONE_NUMBER.fullmatch(_COMMAND.sub(r" \1 ", marked))
    return _last_number(one[1]) if one else "".join(marked.split()).strip("$.*") or None


def _marked(text: str) -> str | None:
    """The part of a solution that its writer marked as the answer; None where nothing is marked."""
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0]
    boxed = _BOXED.findall(text)
    if boxed:
        return boxed[-1]
    return None if "=" in text or text.split() != [text.strip()] else text


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
