"""TOML into attrs classes, with errors that give the path to the wrong value."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs

from specinn.errors import ConfigError, near

__all__ = ["T", "parsed_by", "read_toml", "structure"]

T = TypeVar("T")
_PARSED: dict[Any, Callable[[Any], Any]] = {}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The parsed file; every failure is a ``ConfigError`` that names it."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: give a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not valid TOML: it is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def parsed_by(cls: type[T], parse: Callable[[Any], T]) -> None:
    """Let :func:`structure` build ``cls`` with ``parse`` from the value in the file. ``parse`` may raise
    ``ConfigError``."""
    _PARSED[cls] = parse
    _converter.cache_clear()


@cache
def _converter() -> Any:
    import cattrs

    def strict_float(value: Any, _type: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"expected a number, found {value!r}")
        if not math.isfinite(value):
            raise ConfigError(f"expected a finite number, found {value!r}")
        return float(value)

    def strict_int(value: Any, _type: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"expected an integer, found {value!r}")
        return value

    def strict_str(value: Any, _type: Any) -> str:
        if not isinstance(value, str):
            raise ConfigError(f"expected a string, found {value!r}")
        return value

    def strict_bool(value: Any, _type: Any) -> bool:
        if not isinstance(value, bool):
            raise ConfigError(f"expected true or false, found {value!r}")
        return value

    def strict_choice(value: Any, kind: Any) -> Any:
        if value not in get_args(kind):
            raise ConfigError(f"found {value!r}; {near(str(value), map(str, get_args(kind)))}")
        return value

    def by(parse: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda value, _type: parse(value)

    def is_choice(kind: Any) -> bool:
        return get_origin(kind) is Literal

    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_func(is_choice, strict_choice)
    converter.register_structure_hook(float, strict_float)
    converter.register_structure_hook(int, strict_int)
    converter.register_structure_hook(str, strict_str)
    converter.register_structure_hook(bool, strict_bool)
    for cls, parse in _PARSED.items():
        converter.register_structure_hook(cls, by(parse))

    inside: set[Any] = set()  # types whose usual hook is being looked up

    def strict_list(kind: Any) -> Any:
        inside.add(kind)
        usual = converter.get_structure_hook(kind, cache_result=False)
        inside.remove(kind)

        def hook(value: Any, _type: Any) -> Any:
            if not isinstance(value, (list, tuple)):  # a string would be split into characters
                raise ConfigError(f"expected a list, found {value!r}")
            return usual(value, _type)

        return hook

    def is_list(kind: Any) -> bool:
        return get_origin(kind) is list and kind not in inside

    converter.register_structure_hook_factory(is_list, strict_list)
    return converter


def _describe(error: BaseException, expected: Any) -> str:
    """What is wrong with one value: our own words if there are any, else those of cattrs."""
    import cattrs

    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        keys = [field.name for field in attrs.fields(error.cl)]
        return ", ".join(f"unknown key {key!r}; {near(key, keys)}" for key in sorted(error.extra_fields))
    if isinstance(error, AttributeError) or (isinstance(error, TypeError) and attrs.has(expected)):
        return "expected a table"
    if type(error) in (TypeError, ValueError) and (expected is None or get_origin(expected)):
        return f"expected {expected} ({error})" if expected else str(error)
    return cattrs.v.format_exception(error, expected)


def structure(data: Any, cls: type[T], source: str) -> T:
    """``data`` (from TOML or JSON) as an instance of the attrs class ``cls``.

    Raises ``ConfigError`` that names ``source`` and the path of a wrong key or value.
    """
    import cattrs

    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: expected a table, found {data!r}")
    try:
        result: T = _converter().structure(data, cls)
        return result
    except cattrs.BaseValidationError as group:
        lines = cattrs.transform_error(group, path="$", format_exception=_describe)
        lines = [
            re.sub(r"\['([\w-]+)'\](?=[^@]*$)", r".\1", line) for line in lines
        ]  # $.labels.logg, as in TOML
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None
