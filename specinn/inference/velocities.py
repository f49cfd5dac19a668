"""Radial velocities that the user gives: one for all spectra, or a table of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specinn.errors import ConfigError
from specinn.inference.options import FASTEST, PLACEHOLDERS

__all__ = ["parse_velocity", "read_velocities"]


def read_velocities(path: str | Path) -> dict[str, float]:
    """Radial velocities in km/s from a CSV or ECSV table with the columns ``id`` (or ``path``) and ``rv``.

    Raises ``ConfigError`` with the row that is wrong. Rows without a velocity are left out.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text: expected a CSV table with the columns id and rv") from None
    space = bool(lines) and "," not in lines[0]
    rows = list(csv.DictReader(lines, delimiter=" " if space else ",", skipinitialspace=True))
    key = next((name for name in ("id", "path") if rows and name in rows[0]), None)
    if key is None or "rv" not in rows[0]:
        columns = ", ".join(str(name) for name in rows[0]) if rows else "nothing"
        raise ConfigError(f"{path}: expected the columns id (or path) and rv, found {columns}")
    velocities: dict[str, float] = {}
    for row in rows:
        name, text = row[key], (row["rv"] or "").strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"{path}: the velocity {text!r} of {name} is not a number in km/s") from None
        if abs(value) in PLACEHOLDERS:
            raise ConfigError(f"{path}: {value:g} of {name} stands for no velocity: leave the cell blank")
        if not abs(value) < FASTEST:
            raise ConfigError(f"{path}: the velocity {value} km/s of {name} is not one of a star")
        if name in velocities:
            raise ConfigError(f"{path}: {name} is listed twice")
        velocities[name] = value
    return velocities


def parse_velocity(given: Any) -> tuple[Any, dict[str, float]]:
    """``--rv`` (a number, ``auto`` or a table) as the pipeline takes it, and velocities of single spectra."""
    if given is None or given == "auto":
        return given, {}
    if isinstance(given, Mapping):
        return None, {str(name): float(value) for name, value in given.items()}
    try:
        return float(given), {}
    except (TypeError, ValueError):
        if Path(given).is_file():
            return None, read_velocities(given)
    raise ConfigError(
        f"rv {given!r}: expected a velocity in km/s, auto, or a table with the columns id and rv"
    )
