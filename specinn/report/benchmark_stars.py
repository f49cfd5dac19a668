"""The report of benchmark stars: a folder of tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from specinn.files import replacing_folder
from specinn.plotting import save_files, style
from specinn.report.evaluation.folder import FIGURES, TABLES, check

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

__all__ = ["write"]


def write(
    folder: Path,
    tables: Mapping[str, Table],
    figures: Mapping[str, Callable[[], Figure]],
    *,
    overwrite: bool = False,
) -> None:
    """Write ``tables/NAME.ecsv``, ``figures/NAME.pdf`` and ``figures/NAME.png``, all or nothing.

    Raises ``OutputError``.
    """
    folder = check(folder, overwrite=overwrite).resolve()
    with replacing_folder(folder) as temporary, style():
        for part in (TABLES, FIGURES):
            (temporary / part).mkdir()
        for name, table in tables.items():
            table.write(temporary / TABLES / f"{name}.ecsv", format="ascii.ecsv")
        for name, draw in figures.items():
            save_files(draw(), temporary / FIGURES, name)
