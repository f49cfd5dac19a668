"""Training recipes: what they train, their keys by dotted names, and tables back to TOML."""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from specinn.errors import ConfigError

__all__ = ["TRAINED", "merged", "parts", "to_toml", "value_at", "with_values"]

TRAINED = ("estimator", "synthesizer")


def parts(recipe: Mapping[str, Any], path: str | Path) -> tuple[str, str, dict[str, Any]]:
    """What is trained (estimator or synthesizer), its kind, and its table without the kind.

    Raises ``ConfigError`` that names the file at ``path``.
    """
    present = [name for name in TRAINED if isinstance(recipe.get(name), dict)]
    kind = recipe[present[0]].get("kind") if len(present) == 1 else None
    if not isinstance(kind, str):
        raise ConfigError(
            f'{path}: it needs a table [estimator] with a kind, such as kind = "cinn", or a table '
            '[synthesizer] with kind = "emulator"'
        )
    if len(recipe) > 1:
        other = next(name for name in recipe if name != present[0])
        raise ConfigError(f"{path}: $.{other} is not known: all keys belong in the table [{present[0]}]")
    return present[0], kind, {key: value for key, value in recipe[present[0]].items() if key != "kind"}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; tables are merged key by key, all else is replaced."""
    out = dict(base)
    for key, value in over.items():
        before = out.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        out[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return out


def with_values(table: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``table`` with values by dotted names, such as ``schedule.learning_rate``.

    Raises ``ConfigError`` where a name leads through something that is not a table.
    """
    out = copy.deepcopy(dict(table))
    for name, value in values.items():
        *outer, last = name.split(".")
        inner: Any = out
        for depth, key in enumerate(outer, 1):
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{'.'.join(outer[:depth])} is {inner!r} in the recipe, and not a table")
        inner[last] = value
    return out


def value_at(table: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name, or None."""
    inner: Any = table
    for key in name.split("."):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return inner


def to_toml(table: Mapping[str, Any], comment: str = "") -> str:
    """TOML text that reads back as ``table``, below a comment. None cannot be written, and raises
    ``ConfigError``."""
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    body = "\n".join(_lines(table, ())).strip("\n")
    return "\n".join([*head, *([""] if head else []), body]) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Plain values first: in TOML they belong to the heading above them."""
    inner = {key: value for key, value in table.items() if _has_heading(value)}
    for key, value in table.items():
        if key not in inner:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        name = ".".join(_key(part) for part in (*path, key))
        for row in [value] if isinstance(value, Mapping) else value:
            if row is not value or not row or not all(map(_has_heading, row.values())):
                yield ""
                yield f"[{name}]" if row is value else f"[[{name}]]"
            yield from _lines(row, (*path, key))


def _has_heading(value: Any) -> bool:
    """Whether it is a table, or a list of tables."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(row, Mapping) for row in value)
    return isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise ConfigError(f"{value!r} cannot be written as TOML")
