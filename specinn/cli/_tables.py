"""Columns of figures on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def columns(left: Sequence[str], right: Sequence[str], last: Sequence[str] = ()) -> Table:
    """A table without lines: columns of words, of numbers, of words."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in (*left, *right, *last):
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    return table


def decimals(unit: str, more: int = 0) -> str:
    """The format with the decimals that suit the unit, plus ``more``."""
    return f".{ {'K': 0, 'km s-1': 1}.get(unit, 2) + more }f"


def figure(value: float | None, style: str) -> str:
    return "-" if value is None else f"{value:{style}}"
