"""Rows that cannot be used: each is named with its place, and counted by what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

LOOK_ON = 10_000  # rows after the first bad one in which more are counted before it is refused

Good = TypeVar("Good")


class BadRowError(ValueError):
    """One row that cannot be used; a reader yields it in the row's place, so that those after it can be read."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind  # a few words that are the same for all rows with this mistake


class BadRows:
    """How many rows have each kind of mistake, and the first of them."""

    def __init__(self, found: dict[str, dict[str, Any]] | None = None):
        self.found = {} if found is None else found  # kind → {"count": int, "first": str}, as JSON keeps it

    def add(self, bad: BadRowError) -> None:
        self.found.setdefault(bad.kind, {"count": 0, "first": str(bad)})["count"] += 1

    @property
    def total(self) -> int:
        return sum(each["count"] for each in self.found.values())

    def __str__(self) -> str:
        rows = "1 row" if self.total == 1 else f"{self.total} rows"
        kinds = (f"{each['count']} {kind} (first: {each['first']})" for kind, each in self.found.items())
        return f"{rows} cannot be used: {'; '.join(kinds)}"


def only_good(items: Iterable[Good | BadRowError], advice: str) -> Iterator[Good]:
    """The items, if all are good. ValueError at a bad one, which also counts those in the next `LOOK_ON` items."""
    remaining = iter(items)
    for item in remaining:
        if isinstance(item, BadRowError):
            bad = BadRows()
            for each in (item, *islice(remaining, LOOK_ON)):
                if isinstance(each, BadRowError):
                    bad.add(each)
            raise ValueError(f"{bad}. {advice}") from item
        yield item
