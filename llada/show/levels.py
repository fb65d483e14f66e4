"""How sure a sampler was of a token, in three colours."""

from typing import NamedTuple


class Level(NamedTuple):
    least: float  # probability
    colour: str


# told apart by all (Okabe, Ito)
LEVELS = (Level(0.7, "#009e73"), Level(0.3, "#e69f00"), Level(0.0, "#d55e00"))


def level_of(probability: float) -> int:
    """The number of the level of a probability."""
    return next(number for number, level in enumerate(LEVELS) if probability >= level.least)
