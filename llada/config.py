"""Strict configuration: YAML → a validated, immutable object → ordinary arguments.

A schema is a class that derives from `Schema`; it knows every key, its type and its range. A wrong key, type or value
raises `ConfigError`, which names what was given, what is allowed, and the near miss.
"""

import copy
import difflib
import os
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SchemaT = TypeVar("SchemaT", bound="Schema")


class _Loader(yaml.SafeLoader):
    """The safe loader, except that no key may come twice and that 1e-3 is a number, as in YAML 1.2.

    PyYAML takes the last of two; YAML 1.1 wants a dot in 1e-3.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        first = {key.value: key for key in reversed(keys)}
        for key in keys:
            if first[key.value] is not key:
                said = f"{key.value[:200]!r} is given twice; leave one out"
                raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


AtLeast1 = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what to change."""


class Schema(BaseModel):
    """Base of all configuration schemas: immutable, no unknown keys, no silent conversions between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def __init__(self, /, **values: Any):  # so that "self" is an unknown key like any other
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None

    # pydantic's word for "not a custom __init__": without it, groups of keys would be built by the one above, and their
    # mistakes would arrive as one text instead of one by one with their full location
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    def replace(self: SchemaT, /, **values: Any) -> SchemaT:
        """A copy with some values changed, validated like a new one."""
        return type(self)(**{**self.model_dump(exclude_unset=True), **values})


def load_config(schema: type[SchemaT], path: str | Path, overrides: Sequence[str] = ()) -> SchemaT:
    """Read one YAML file, apply `key.subkey=value` overrides (the value is YAML, too), and validate.

    Raises ConfigError for a file that is missing, not YAML or not a mapping, for an override without `=`, and for
    everything that the schema refuses.
    """
    values = apply_overrides(read_yaml(path), overrides)
    try:
        return schema(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the values with `key.subkey=value` overrides, as for `load_config`."""
    changed = copy.deepcopy(values)
    for override in overrides:
        _apply(changed, override)
    return changed


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; ConfigError where it holds none."""
    path = Path(path)
    # unlike that of pathlib, isfile raises nothing for a name that no file can have
    if not os.path.isfile(path) and path.parts[:1] == ("configs",):
        path = config_folder().joinpath(*path.parts[1:])  # the installed package has no configs/ in the working folder
    if not os.path.isfile(path):
        raise ConfigError(_missing(path))
    told = _readable(path)
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{told} is not valid YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{told} must hold `key: value` lines, but holds a {type(values).__name__}")
    return values


def _missing(path: Path) -> str:
    """What is said of a path that is no file."""
    told = _readable(path)
    if os.path.lexists(path):
        return f"{told} is a folder, a device, a pipe or a link to nothing; name a YAML file"
    beside = path.parent.glob("*.yaml") if os.path.isdir(path.parent) else ()
    near = difflib.get_close_matches(path.name, [p.name for p in beside], n=1)
    return f"{told}: no such file" + (f"; did you mean {_readable(path.parent / near[0])}?" if near else "")


def _readable(path: Path) -> str:
    """As a message can hold it: names may have bytes, or characters, that are no text."""
    return str(path).encode(errors="backslashreplace").decode()


def to_yaml(config: Schema, comment: str) -> bytes:
    """A file that `load_config` reads as the same configuration: a line of comment, and the fields that were set."""
    line = "".join(c if c.isprintable() else " " for c in comment)  # a line break would end it, others are no YAML
    fields = yaml.safe_dump(config.model_dump(exclude_unset=True), sort_keys=False, allow_unicode=True)
    return f"# {line}\n{fields}".encode()


def config_folder() -> Path:
    """Where the YAML files that come with the library lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key.subkey=value` in place."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"override {override!r} has no `key=value` form; write for example train.steps=100")
    *parents, last = dotted.split(".")
    if len(parents) > _DEEPEST:
        raise ConfigError(
            f"override {dotted[:40]!r}...: {len(parents) + 1} keys in one another; no setting lies so deep"
        )
    for parent in parents:
        inner: Any = values.setdefault(parent, {})
        if isinstance(inner, str) and inner.endswith(".yaml"):  # a group of keys in a file of its own
            values[parent] = inner = read_yaml(inner)
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a group of keys")
        values = inner
    try:
        values[last] = _parse(text)
    except ValueError as error:
        raise ConfigError(f"override {override!r}: {text!r} is not a YAML value ({error})") from None


def _parse(text: str) -> Any:
    """What YAML text says; ValueError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("its values lie too deep in one another") from None
    except (KeyError, IndexError, AttributeError):  # PyYAML's own for a tag and a value it has none for: `!!bool 3`
        raise ValueError("a !!tag does not go with its value") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


_DEEPEST = 16  # groups of keys around one
_TOLD = 10  # mistakes
_SHOWN = reprlib.Repr()  # a file of a few lines may mean billions of values, by its references
_SHOWN.maxlevel = 3
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 200


def _explain(schema: type[BaseModel], error: ValidationError) -> str:
    """One line a mistake: where, what was given, what is allowed, and a suggestion for a misspelled key."""
    lines = []
    mistakes = error.errors()
    for mistake in mistakes[:_TOLD]:
        location = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            known = _keys_at(schema, mistake["loc"][:-1])
            near = difflib.get_close_matches(str(mistake["loc"][-1])[:200], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            lines.append(f"unknown key {location!r}; {hint}")
        elif mistake["type"] == "missing":
            lines.append(f"missing key {location!r}")
        else:
            given = f" (given {_SHOWN.repr(mistake['input'])})" if location else ""
            reason = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"{location + ': ' if location else ''}{reason}{given}")
    if len(mistakes) > _TOLD:
        lines.append(f"and {len(mistakes) - _TOLD} more mistakes")
    return "\n".join(lines)


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the schema allows at a nested location."""
    for part in location:
        field = schema.model_fields.get(str(part))
        inner = getattr(field, "annotation", None)
        candidates = [inner, *getattr(inner, "__args__", ())]
        schema = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), schema)
    return list(schema.model_fields)
