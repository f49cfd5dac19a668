"""A catalogue on the terminal: one column a spectrum, as many side by side as fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.flags import names

if TYPE_CHECKING:
    from astropy.table import Table
    from rich.console import Console

    from specinn.labels import LabelSet

_LABEL_WIDTH = 17
_CELL_WIDTH = 21  # both with the space between columns
_ID_WIDTH = _CELL_WIDTH - 2


def show(table: Table, labels: LabelSet, *, limit: int = 10, console: Console | None = None) -> None:
    """Print the first ``limit`` rows: identity, S/N, velocity, MAP with the 16 and 84 percentiles, flags."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from specinn.labels import with_derived_labels

    console = console or Console()
    n = min(len(table), limit)
    block = max(1, (console.width - _LABEL_WIDTH) // _CELL_WIDTH)
    shown = with_derived_labels(labels)
    for start in range(0, n, block):
        rows = [table[i] for i in range(start, min(start + block, n))]
        grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column("")
        for row in rows:
            grid.add_column(Text(_short(str(row["id"]))), justify="left", overflow="fold")
        for name in [name for name in table.colnames if name.startswith("snr_")]:
            grid.add_row(f"S/N {name[4:]} (1/A)", *(_number(row[name], 0) for row in rows))
        grid.add_row("rv (km/s)", *(_number(row["rv"], 1) for row in rows))
        for label in shown:
            unit = {"km s-1": "km/s", "dex(cm s-2)": "dex"}.get(label.unit, label.unit)
            grid.add_row(f"{label.name} ({unit})", *(_cell(row, label.name) for row in rows))
        grid.add_row("flags", *("\n".join(names(row["flags"])) or "none" for row in rows))
        console.print(grid)
        console.print()
    if len(table) > n:
        console.print(f"and {len(table) - n} more in the catalogue")


def _cell(row: Any, name: str) -> str:
    """The value with its errors, or ``< 0.95`` where nothing but an upper limit is known."""
    limit = row[f"{name}_upper"] if f"{name}_upper" in row.colnames else np.ma.masked
    if limit is not np.ma.masked and np.isfinite(limit):
        return f"< {float(limit):.2f}"
    return value_with_errors(*(row[f"{name}{end}"] for end in ("", "_p16", "_p84")))


def value_with_errors(value: Any, low: Any, high: Any) -> str:
    """``5772 -31 +29``: the errors with two digits, one where they begin with 3 to 9, the value to match.

    ``low`` and ``high`` are the ends of the interval. A missing value is a dash; a MAP outside its own
    interval gives an error with the opposite sign, which is shown as it is.
    """
    if any(v is np.ma.masked or not np.isfinite(v) for v in (value, low, high)):
        return "-"
    below, above = float(low) - float(value), float(high) - float(value)
    size = min((abs(e) for e in (below, above) if e != 0), default=0.0)
    decimals = 2
    if size > 0:
        exponent = math.floor(math.log10(size))
        decimals = max(0, min(4, -exponent + (size / 10.0**exponent < 3.0)))
    return f"{float(value):.{decimals}f} {below:+.{decimals}f} {above:+.{decimals}f}"


def _number(value: Any, decimals: int) -> str:
    return "-" if value is np.ma.masked or not np.isfinite(value) else f"{float(value):.{decimals}f}"


def _short(name: str) -> str:
    """The end of a long name: that is where files differ."""
    return name if len(name) <= _ID_WIDTH else "..." + name[-(_ID_WIDTH - 3) :]
