"""What ``specinn evaluate stars`` and ``robustness`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

    from specinn.cli.evaluate._task import Task

Rows = Sequence[Mapping[str, Any]]


def write_all(task: Task, tables: Mapping[str, Table], figures: Mapping[str, Callable[[], Figure]]) -> None:
    """A folder with everything, or the first table as a file."""
    from specinn.report.benchmark_stars import write

    if task.path is not None and task.folder:
        write(task.path, tables, figures, overwrite=task.overwrite)
    else:
        task.write(next(iter(tables.values())))


def fail_if_nothing_was_inferred(rows: Rows) -> None:
    from specinn.errors import ModelError

    if all(row["flag_bad"] for row in rows):
        reason = next((row["message"] for row in rows if row["message"]), "see the flags")
        raise ModelError(f"none of the stars gave values: {reason}")


def role(row: Mapping[str, Any]) -> str:
    return row["role"] if row["role"] == "reference" or row["in_range"] else "out of range"
