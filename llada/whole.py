"""Whole numbers, as functions ask for them at the public edge."""

import operator


def check_whole(name: str, value: object, least: int, end: int | None = None) -> None:
    """Raise ValueError, which names the argument, for what is no whole number, below `least`, or not below `end`."""
    try:
        fits = least <= operator.index(value) and (end is None or operator.index(value) < end)  # pyright: ignore[reportArgumentType]
    except TypeError:
        fits = False
    if not fits:
        allowed = f"of at least {least}" if end is None else f"from {least} to {end - 1}"
        raise ValueError(f"{name}={value!r} must be a whole number {allowed}")
