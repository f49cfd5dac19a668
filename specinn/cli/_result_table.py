"""A catalogue on the terminal: one column per spectrum, as many side by side as fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.catalogue.schema import UNDETERMINED
from specinn.flags import names
from specinn.posterior.display import in_short, parameters_first, with_limit, with_unit
from specinn.texts import shown

if TYPE_CHECKING:
    from astropy.table import Table
    from rich.console import Console

    from specinn.labels import LabelSet

_LABEL_WIDTH = 17
_CELL_WIDTH = 21  # both with the space between columns
_ID_WIDTH = _CELL_WIDTH - 2


def show(table: Table, labels: LabelSet, *, limit: int = 10, console: Console | None = None) -> None:
    """Print the first ``limit`` rows: identity, S/N, velocity, MAP with the 16 and 84 percentiles, flags.

    A label that none of the spectra side by side determines has no line of its own.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from specinn.labels import with_derived_labels

    console = console or Console()
    n = min(len(table), limit)
    block = max(1, (console.width - _LABEL_WIDTH) // _CELL_WIDTH)
    inferred = parameters_first(with_derived_labels(labels))
    console.print("maximum a posteriori (MAP), and from it to the 16 and 84 percentiles", style="dim")
    for start in range(0, n, block):
        rows = [table[i] for i in range(start, min(start + block, n))]
        grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column("")
        for row in rows:
            grid.add_column(Text(_short(shown(str(row["id"])))), justify="left", overflow="fold")
        for name in [name for name in table.colnames if name.startswith("snr_")]:
            grid.add_row(f"S/N {name[4:]} (1/A)", *(_number(row[name], 0) for row in rows))
        grid.add_row("rv (km/s)", *(_number(row["rv"], 1) for row in rows))
        lost = [str(row[UNDETERMINED]).split() if UNDETERMINED in table.colnames else [] for row in rows]
        for label in inferred:
            lines = {with_unit(label.name, label.unit): label.name}
            if f"{label.name}_informed" in table.colnames and any(row["prior"] for row in rows):
                lines["  informed"] = f"{label.name}_informed"
            if label.name == "a_li" and "a_li_3dnlte" in table.colnames:
                lines["a_li_3dnlte"] = "a_li_3dnlte"
            cells = {head: [with_limit(row, name) for row in rows] for head, name in lines.items()}
            empty = all(cell == "-" for line in cells.values() for cell in line)
            if empty and any(label.name in of_row for of_row in lost):
                continue
            for head, line in cells.items():
                grid.add_row(head, *line)
        if any(lost):
            grid.add_row("not determined", *map(in_short, lost))
        grid.add_row("flags", *("\n".join(names(row["flags"])) or "none" for row in rows))
        console.print(grid)
        console.print()
    if len(table) > n:
        console.print(f"and {len(table) - n} more in the catalogue")


def _number(value: Any, decimals: int) -> str:
    return "-" if value is np.ma.masked or not np.isfinite(value) else f"{float(value):.{decimals}f}"


def _short(name: str) -> str:
    """The end of a long name: that is where files differ."""
    return name if len(name) <= _ID_WIDTH else "..." + name[-(_ID_WIDTH - 3) :]
