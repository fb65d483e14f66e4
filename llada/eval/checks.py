"""Checks: whether an answer is right, given the one that was expected."""

import re
from collections.abc import Callable
from decimal import Decimal

Check = Callable[[str, str], bool]  # (answer, expected)

# a minus that joins two numbers or words is none; commas may part thousands, and nothing else
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def exact(answer: str, expected: str) -> bool:
    """Equal, blanks around them apart."""
    return answer.strip() == expected.strip()


def number(answer: str, expected: str) -> bool:
    """The last number of both has the same value: 1,000 is 1000.0. Without a number in both they are not equal."""
    found, wanted = _last_number(answer), _last_number(expected)
    return found is not None and found == wanted


def contains(answer: str, expected: str) -> bool:
    """The expected text, blanks around it apart, is somewhere in the answer, capitals and small letters distinct."""
    return expected.strip() in answer


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


CHECKS: dict[str, Check] = {"exact": exact, "number": number, "contains": contains}
