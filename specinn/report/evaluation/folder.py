"""The report of an evaluation: a folder with one HTML page, figures as PDF and PNG, and tables as ECSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specinn import plotting
from specinn.errors import OutputError
from specinn.evaluation import figures, tables
from specinn.evaluation.comparison import Comparison
from specinn.files import check_folder, check_new, replacing_folder
from specinn.report.evaluation import page

__all__ = ["FIGURES", "PAGE", "TABLES", "check", "write"]

PAGE, TABLES, FIGURES = "index.html", "tables", "figures"


def check(folder: Path, *, overwrite: bool = False) -> Path:
    """The folder, if a report can be written there; raises ``OutputError`` where it cannot.

    What exists is replaced with ``overwrite``, but only if it is a report, or empty: a typing error must not
    delete anything else.
    """
    check_folder(folder.parent if folder.name else folder.resolve().parent, folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a report is a folder: give another name")
    check_new(folder, overwrite=overwrite)
    if folder.exists():
        others = sorted({each.name for each in folder.iterdir()} - {PAGE, TABLES, FIGURES})
        if others:
            raise OutputError(
                f"{folder} is not a report (it holds {others[0]}), so it is not replaced: give another name"
            )
    return folder


def write(
    comparison: Comparison,
    folder: Path,
    meta: Mapping[str, Any],
    *,
    bounds: np.ndarray | None = None,
    why_no_bounds: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tables.Rows]:
    """Write the report of a comparison with ranks, whole or not at all; returns the rows of its tables.

    ``meta`` goes into the tables and onto the page; ``bounds`` are those of :func:`tables.limits`, and
    ``why_no_bounds`` the sentence where there are none. ``progress`` is called with the numbers of figures
    done and to do. Raises ``OutputError``.
    """
    folder = check(folder, overwrite=overwrite).resolve()
    rows = {
        "metrics": comparison.metrics(),
        "thirds": tables.thirds(comparison),
        "widths": tables.widths(comparison),
        "coverage": tables.coverage(comparison),
        "uniformity": tables.uniformity(comparison),
    }
    if bounds is not None:
        rows["information"] = tables.information(comparison, bounds)
    with replacing_folder(folder) as temporary:
        (temporary / TABLES).mkdir()
        (temporary / FIGURES).mkdir()
        for name, of in rows.items():
            tables.write_rows(of, name, temporary / TABLES, meta)
        stars = tables.predictions(comparison, meta)
        stars.write(temporary / TABLES / "predictions.ecsv", format="ascii.ecsv")
        drawn: dict[str, str] = {}
        plan = figures.plan(comparison, rows)
        with plotting.style():
            for i, (name, draw) in enumerate(plan.items()):
                drawn[name] = plotting.save(draw(), temporary / FIGURES, name)
                progress(i + 1, len(plan))
        text = page.render(comparison, rows, drawn, meta, why_no_bounds)
        (temporary / PAGE).write_text(text, encoding="utf-8")
    return rows
