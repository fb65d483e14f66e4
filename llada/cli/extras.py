"""Optional packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_matplotlib(what: str) -> Iterator[None]:
    """Around imports: where matplotlib is missing, ValueError says that `what` need it and how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        raise ValueError(f"{what} need matplotlib: pip install 'llada-lm[plot]'") from None
