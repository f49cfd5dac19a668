"""Tables of labels in CSV, with the column names of TSFitPy or of specinn."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import ConfigError, GridError
from specinn.labels import SOLAR_LOG_EPS, make_label

_NAMES = {"feh": "fe_h", "[fe/h]": "fe_h", "rotation": "vbroad", "vsini": "vbroad"}
_REQUIRED = ("teff", "logg", "fe_h", "vmic")
_NOT_LABELS = ("rv", "vmac", "a(fe)")


@attrs.frozen(eq=False)
class Table:
    """``names (n_rows)`` of the spectra and the ``columns`` of numbers ``(n_rows,)`` by their header."""

    path: Path
    names: list[str]
    columns: Mapping[str, np.ndarray]

    def get(self, name: str) -> np.ndarray | None:
        """The column that stands for a label or a quantity of specinn's name."""
        return next((values for key, values in self.columns.items() if canonical(key) == name), None)


def canonical(header: str) -> str:
    """specinn's name of a column: ``feh`` is fe_h, ``Mg_Fe`` is mg_fe, ``rotation`` is vbroad."""
    name = header.strip().lower()
    return _NAMES.get(name, name)


def read_table(path: Path, key: Sequence[str]) -> Table:
    """The table; its rows are named by the first of the columns ``key`` that it has, else by its first.

    Raises ``GridError`` with the row and column of what is not a finite number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GridError(f"{path} is not a readable table: {error}") from None
    if len(rows) < 2:
        raise GridError(f"{path} has no rows: the synthesis of the grid failed or has not begun")
    header = [cell.strip() for cell in rows[0]]
    at = next((header.index(name) for name in key if name in header), 0)
    names = []
    numbers: list[list[float]] = []
    for row in rows[1:]:
        if len(row) != len(header):
            raise GridError(f"{path}: row {row[0]} has {len(row)} columns, the header {len(header)}")
        names.append(row[at].strip())
        numbers.append([])
        for i, cell in enumerate(row):
            if i == at:
                continue
            try:
                value = float(cell)
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                raise GridError(
                    f"{path}: row {names[-1]}, column {header[i]} is {cell!r}, expected a finite number"
                )
            numbers[-1].append(value)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GridError(f"{path} lists {twice} twice")
    values = np.array(numbers)
    columns = [name for i, name in enumerate(header) if i != at]
    if len({canonical(name) for name in columns}) != len(columns):
        raise GridError(f"{path} has two columns for one quantity: {', '.join(columns)}")
    return Table(path, names, {name: values[:, i] for i, name in enumerate(columns)})


def labels_of(table: Table) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and values ``(n_rows, n_labels)`` of the labels, in the order of the table.

    [Li/Fe] becomes A(Li) on the solar scale of Magg et al. (2022), rotation becomes ``vbroad`` unless it is
    0 throughout. Macroturbulence is not a label of specinn, so it must be the same for all models; iron is
    [Fe/H], so an A(Fe) that departs from it is refused.
    """
    for name in _REQUIRED:
        if table.get(name) is None:
            raise GridError(f"{table.path} has no column {name}: it has {', '.join(table.columns)}")
    fe_h = table.get("fe_h")
    vmac, iron = table.get("vmac"), table.get("a(fe)")
    assert fe_h is not None
    if vmac is not None and np.ptp(vmac) > 0:
        raise GridError(
            f"{table.path}: vmac runs from {vmac.min():g} to {vmac.max():g} km/s, but specinn has no label "
            "for macroturbulence (vbroad stands for all large-scale broadening): synthesise without it"
        )
    if iron is not None and np.abs(iron - SOLAR_LOG_EPS["Fe"] - fe_h).max() > 0.005:
        row = int(np.abs(iron - SOLAR_LOG_EPS["Fe"] - fe_h).argmax())
        raise GridError(
            f"{table.path}: row {table.names[row]} has A(Fe) = {iron[row]:g} with [Fe/H] = {fe_h[row]:g}; "
            "specinn describes iron only by [Fe/H]"
        )
    names, values = [], []
    for header, column in table.columns.items():
        name = canonical(header)
        if name in _NOT_LABELS or (name == "vbroad" and not column.any()):
            continue
        if name == "fe_fe":
            raise GridError(
                f"{table.path}: column {header} changes iron beside [Fe/H], which specinn does not support"
            )
        if name == "li_fe":
            name, column = "a_li", column + SOLAR_LOG_EPS["Li"] + fe_h
        try:
            make_label(name, (0.1, 1.0))
        except ConfigError as error:
            raise GridError(f"{table.path}, column {header}: {error}") from None
        names.append(name)
        values.append(column)
    if len(set(names)) != len(names):
        raise GridError(f"{table.path} has lithium as [Li/Fe] and as A(Li): leave one out")
    return tuple(names), np.column_stack(values)
