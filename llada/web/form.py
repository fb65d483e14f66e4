"""A sampler as a form: text fields for what is changed often, lines of KEY=VALUE for all else. Both ways.

The form is all of the sampler: a field that is empty is not set.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from llada.config import ConfigError, apply_overrides, config_folder
from llada.sampling.config import SamplerConfig
from llada.sampling.orders import ORDERS

# what it is when it is not set
FIELDS = {
    "gen_length": "128",
    "block_length": "all",
    "steps": "one a token",
    "temperature": "0",
    "order": "confidence",
    "cfg_scale": "0",
    "threshold": "none",
}
ORDER_NAMES = tuple(ORDERS)


class Form(NamedTuple):
    """What stands in the form."""

    fields: tuple[str, ...]  # of FIELDS, in their order; "" where it is not set
    others: str  # a line for each other field


def published() -> list[str]:
    """The names of the samplers in configs/sampling."""
    return sorted(path.stem for path in (config_folder() / "sampling").glob("*.yaml"))


def preset(name: str, before: Form) -> Form:
    """The form of a published sampler, or of a YAML file; the length of answers stays unless the sampler has one."""
    length = before.fields[tuple(FIELDS).index("gen_length")].strip()
    kept = apply_overrides({}, [f"gen_length={length}"]) if length else {}
    return form_of(SamplerConfig.values_of(name, **kept))


def form_of(values: Mapping[str, Any]) -> Form:
    """The form that `values_of` reads as these values."""
    fields = tuple(_written(name, values[name]) if name in values else "" for name in FIELDS)
    others = [f"{name}={_written(name, value)}" for name, value in values.items() if name not in FIELDS]
    return Form(fields, "\n".join(others))


def values_of(form: Form, background: str | None = None) -> dict[str, Any]:
    """The fields of the sampler, not checked yet.

    Raises ConfigError for a line that is no KEY=VALUE, for a field that is given twice, and for what names a file of
    this machine: another `background` than that one, or a key in a group of keys, which may lie in a file of its own.
    """
    lines = [f"{name}={text.strip()}" for name, text in zip(FIELDS, form.fields, strict=True) if text.strip()]
    lines += [line.strip() for line in form.others.splitlines() if line.strip()]
    names = [line.partition("=")[0] for line in lines if "=" in line]
    inside = next((name for name in names if "." in name), None)
    if inside is not None:
        raise ConfigError(
            f"{inside}: no field of a sampler has others in it; leave out what follows {inside.partition('.')[0]}"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice; leave one of them out")
    values = apply_overrides({}, lines)
    if values.get("background") not in (None, background):
        raise ConfigError(
            "background names a file of this machine, which only the command line can choose: llada ui MODEL "
            "--set background=FILE"
        )
    return values


def check_given(values: Mapping[str, object]) -> None:
    """Raise ValueError, which names the field, for one that is null; no browser sends that, but other programs may."""
    null = next((name for name, value in values.items() if value is None), None)
    if null is not None:
        raise ValueError(f"{null} is null; send a text, an empty one for a field that is not set")


def whole_number(name: str, text: str, least: int, most: int) -> int:
    """The number that the text is. Raises ValueError, which names the field, for one outside of least to most."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no whole number") from None
    if not least <= number <= most:
        raise ValueError(f"{name}={number} is not between {least} and {most}")
    return number


def _written(name: str, value: Any) -> str:
    """The value as it can be read again: a plain word where that is one."""
    try:
        plain = isinstance(value, str) and apply_overrides({}, [f"{name}={value}"]) == {name: value}
    except ConfigError:  # @x and %x are no YAML without quotes
        plain = False
    return value if plain else json.dumps(value)
