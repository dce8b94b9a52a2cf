"""The keys of nested config classes: reading them, setting them, describing and suggesting them.

A class is a pydantic model or a dataclass of `sim`; nothing here knows what a key means.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from local_trainer.errors import ConfigError, NotFound, first_line

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


@dataclasses.dataclass(frozen=True)
class ConfigField:
    """One key a user can set."""

    key: str
    """In full, e.g. ``ppo.batch_size``."""
    allowed: str
    """What it takes, in words."""
    default: Any
    """Value in the profile ``fast``."""
    description: str


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping.

    Raises:
        ConfigError: If the file is not YAML or holds something else than a mapping.
        NotFound: If it does not exist.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"No file {path}.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} must be a YAML file, got a folder.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"{path} must be valid YAML{where}: {problem}.") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, got {_shown(data)}.")
    return data


def parse_set(text: str) -> tuple[str, Any]:
    """Return key and value of a ``key=value`` text; the value is read as YAML.

    Raises:
        ConfigError: If it is none.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, e.g. ppo.batch_size=64, got {text!r}.")
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        raise ConfigError(f"{key.strip()} must be a YAML value, got {value!r}.") from None


def assign(data: dict[str, Any], key: str, value: Any, cls: type) -> None:
    """Set one full key in nested data; the key must be one of the class.

    Raises:
        ConfigError: If there is no such key.
    """
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    check_keys(nested, cls)
    *parents, last = key.split(".")
    for parent in parents:
        child = data.get(parent)
        data[parent] = child = dict(child) if isinstance(child, dict) else {}
        data = child
    data[last] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested data with the values of ``over`` in place of those of ``base``."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def flattened(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data by full keys, ``ppo.batch_size``."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def first_problem(error: ValidationError, cls: type, not_yet: Mapping[tuple[str, str], str]) -> str:
    """Return the line for the first thing wrong: the full key, what is allowed, what was given.

    Args:
        error: What pydantic found.
        cls: The class it checked.
        not_yet: (key, value) -> why a value that sounds right is not supported.
    """
    problem = error.errors()[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    key = ".".join(_path(problem["loc"], cls))
    got = problem["input"]
    annotation = _annotation(key, cls)
    allowed = _allowed(annotation)
    if isinstance(got, str) and (key, got) in not_yet:
        return f"{key}: {not_yet[key, got]}; allowed: {allowed}, got {got!r}."
    if isinstance(cause, ValueError) and _section_of(annotation) is not None:
        # A dataclass of `sim` checks itself and names what it allows as "car.wheelbase_m".
        parent = key.rpartition(".")[0]
        return f"{parent}.{cause}"
    return f"{key} must be {allowed}, got {_shown(got)}."


def _path(loc: tuple[int | str, ...], cls: Any) -> list[str]:
    """Return the names of an error's place that are keys; pydantic adds union branches."""
    path: list[str] = []
    for part in loc:
        fields = _fields_of(cls)
        if not isinstance(part, str) or part not in fields:
            break
        path.append(part)
        cls = _section_of(fields[part])
    return path


def _annotation(key: str, cls: Any) -> Any:
    annotation = cls
    for part in key.split("."):
        annotation = _fields_of(_section_of(annotation))[part]
    return annotation


def _allowed(annotation: Any) -> str:
    if _section_of(annotation) is not None:
        return "a section of keys"
    return _in_words(TypeAdapter(annotation).json_schema())


def _in_words(schema: dict[str, Any]) -> str:
    """Return what a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_in_words(option) for option in schema["anyOf"])
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("an integer" if kind == "integer" else "a number") + _range_in_words(schema)
    if kind == "array":
        count = schema.get("minItems") if schema.get("minItems") == schema.get("maxItems") else None
        item = schema.get("prefixItems", [schema.get("items", {})])[0]
        return f"a list of {count or ''} values ({_in_words(item)})".replace("  ", " ")
    if schema.get("pattern") == NAME_PATTERN:
        return "a name of letters, digits, '.', '_' and '-' that begins with a letter or digit"
    words = {"boolean": "true or false", "null": "null", "string": "a text"}
    return words.get(str(kind), "a value")


def _range_in_words(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:.12g}"
    signs = (
        ("exclusiveMinimum", ">"),
        ("minimum", ">="),
        ("exclusiveMaximum", "<"),
        ("maximum", "<="),
    )
    limits = [f"{sign} {schema[name]:.12g}" for name, sign in signs if name in schema]
    return " " + " and ".join(limits) if limits else ""


def check_keys(data: Any, cls: type) -> None:
    """Refuse keys nobody knows, at any depth, before values are looked at.

    Raises:
        ConfigError: Names the nearest key and those allowed in its place.
    """
    _check_section(data, cls, "", cls)


def walk_fields(cls: Any, values: Any, prefix: str = "") -> Iterator[ConfigField]:
    """Yield every key of a class and its sections, in order.

    Args:
        cls: The class.
        values: An instance with the defaults.
        prefix: Full key of the section, with a point at the end.
    """
    descriptions = _descriptions(cls)
    for name, annotation in _fields_of(cls).items():
        value = getattr(values, name)
        section = _section_of(annotation)
        if section is not None and value is not None:
            yield from walk_fields(section, value, f"{prefix}{name}.")
        else:
            text = " ".join(descriptions.get(name, "").split())
            yield ConfigField(f"{prefix}{name}", _allowed(annotation), value, text)


def _check_section(data: Any, cls: Any, prefix: str, root: Any) -> None:
    if not isinstance(data, dict) or cls is None:
        return
    fields = _fields_of(cls)
    for key, value in data.items():
        if key not in fields:
            raise ConfigError(_unknown_key(prefix, str(key), fields, root))
        _check_section(value, _section_of(fields[key]), f"{prefix}{key}.", root)


def _unknown_key(prefix: str, key: str, siblings: Mapping[str, Any], root: Any) -> str:
    full = prefix + key
    everything = list(_all_keys(root, ""))
    near = get_close_matches(full, everything, n=1, cutoff=0.75)
    if not near:  # the right name in the wrong section
        last_parts = {name.rpartition(".")[2]: name for name in reversed(everything)}
        last = get_close_matches(key.rpartition(".")[2], list(last_parts), n=1, cutoff=0.6)
        near = [last_parts[name] for name in last]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    where = f"in {prefix[:-1]}" if prefix else "at the top"
    return f"Unknown key {full!r}.{hint} Allowed {where}: {', '.join(siblings)}."


def _all_keys(cls: Any, prefix: str) -> Iterator[str]:
    for name, annotation in _fields_of(cls).items():
        yield f"{prefix}{name}"
        yield from _all_keys(_section_of(annotation), f"{prefix}{name}.")


def _fields_of(cls: Any) -> dict[str, Any]:
    """Return name -> annotation with its limits of a section's class, empty for a plain value."""
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {name: Annotated[info.annotation, info] for name, info in cls.model_fields.items()}
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return {}


def _section_of(annotation: Any) -> Any:
    """Return the class of a nested section, or None for a plain value."""
    if get_origin(annotation) is Annotated:
        return _section_of(get_args(annotation)[0])
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model or dataclasses.is_dataclass(annotation) else None


def _descriptions(cls: Any) -> dict[str, str]:
    """Return the text under each field: pydantic knows its own, a dataclass's source is read."""
    if issubclass(cls, BaseModel):
        return {name: info.description or "" for name, info in cls.model_fields.items()}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(t))
            ):
                found[name] = inspect.cleandoc(t)
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a date stays a text: run names look like dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
