"""Settings from YAML: strict parsing, and dataclasses built from plain values with their types checked."""

import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from deeplabv3.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys: list[Any] = []
        for item, _ in node.value:
            if item.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(item, deep=True)
            if key in keys:
                raise yaml.YAMLError(f"{key!r} is given twice, again in line {item.start_mark.line + 1}")
            keys.append(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def parse_value(text: str) -> Any:
    """Parse YAML such as ``[0.5, 1]`` or ``1e-3``; whatever is not valid is a :class:`yaml.YAMLError`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # a date such as 2001-99-99 or lists too deep fail in PyYAML in other ways
        raise yaml.YAMLError(str(error) or type(error).__name__) from error


def set_value(values: dict, dotted: str, value: Any, path: Path) -> None:
    """Set the dotted setting in a profile's nested ``values``."""
    *sections, last = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"profile {path.name}: setting {dotted!r} does not exist; {section!r} has no parts.")
    # Keys such as those of ``rates`` are numbers in YAML too.
    values[int(last) if last.isdecimal() else last] = value


def build(kind: type, values: Any, where: str, name: str) -> Any:
    """Build a dataclass from plain values; an unknown, missing or mistyped setting is a :class:`UserError`."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: setting {name!r} is {values!r}; it takes settings of its own.")
    known = {item.name: item for item in fields(kind)}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise UserError(f"{where}: setting {_dotted(name, key)!r} is unknown; {hint}")
    missing = [n for n, i in known.items() if i.default is MISSING and i.default_factory is MISSING and n not in values]
    if missing:
        raise UserError(f"{where}: setting {_dotted(name, missing[0])!r} is missing; add it.")
    hints = typing.get_type_hints(kind)
    built = {key: _checked(hints[key], value, where, _dotted(name, key)) for key, value in values.items()}
    try:
        return kind(**built)
    except UserError as error:
        raise UserError(f"{where}{', ' if name else ''}{name}: {error}") from error


def _dotted(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _checked(kind: Any, value: Any, where: str, name: str) -> Any:
    """Return ``value`` as the type ``kind``, checked down to the items of lists and mappings."""
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, where, name)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    or_null = ""
    if origin is types.UnionType:  # ``float | None``
        if value is None:
            return None
        kind, or_null = parts[0], " or null"
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        inner = parts[0] if parts[-1] is Ellipsis else None
        if inner or len(value) == len(parts):
            return tuple(_checked(inner or parts[n], item, where, name) for n, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        pairs = ((_checked(parts[0], key, where, name), key, item) for key, item in value.items())
        return {key: _checked(parts[1], item, where, _dotted(name, raw)) for key, raw, item in pairs}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in _WORDS and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    wanted = _WORDS.get(kind) or ("a list" if origin is tuple else "'key: value' lines")
    quotes = ", in quotes" if kind is str and isinstance(value, bool | int | float) else ""  # YAML's no is False
    raise UserError(f"{where}: setting {name!r} is {value!r}; it takes {wanted}{quotes}{or_null}.")
