"""Whole numbers, as functions ask for them at the public edge."""

from numbers import Integral


def check_whole(name: str, value: object, least: int, end: int | None = None) -> None:
    """Raise ValueError, which names the argument, for what is no whole number, below `least`, or not below `end`."""
    if not isinstance(value, Integral) or not least <= int(value) or (end is not None and int(value) >= end):
        allowed = f"of at least {least}" if end is None else f"from {least} to {end - 1}"
        raise ValueError(f"{name}={value!r} must be a whole number {allowed}")
