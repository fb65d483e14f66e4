"""Optional packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager

from llada.checkup import DISTRIBUTION, EXTRAS
from llada.config import ConfigError


@contextmanager
def needed(extra: str, what: str) -> Iterator[None]:
    """Around imports: where a module of the extra is missing, ConfigError says so and how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS[extra]:
            raise
        raise ConfigError(f"{module} is needed for {what}: pip install '{DISTRIBUTION}[{extra}]'") from None
