"""Folders of ``.spec`` files as ``bsyn_lu`` writes them: three columns, no header, labels in a table."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np

from specinn.errors import GridError
from specinn.grids import Grid
from specinn.grids.grid import join_arms
from specinn.plugins import GridLoader
from specinn_turbospectrum.table import Table, labels_of, read_table
from specinn_turbospectrum.text import Segment, TextFlux, reference
from specinn_turbospectrum.tsfitpy import INTERRUPTED, TABLE

_KEYS = ("star", "name", "specname", "id", "file")
_RANGE = re.compile(r"(\d{3,6})\.?\d*-(\d{3,6})")
_MARCS = re.compile(r"^[ps](\d+(?:\.\d+)?)_g([-+]\d+(?:\.\d+)?)_.*?z([-+]\d+(?:\.\d+)?)")


class RawTurbospectrum(GridLoader):
    """A folder of ``.spec`` files and one ``.csv`` (``labels.csv`` where there are several).

    The first column of the table names the models; ``<model>.spec``, or ``<model>_<segment>.spec`` for each
    segment, are their spectra. The other columns are labels by specinn's names or TSFitPy's. The files do
    not state the physics, so the provenance has only the code; the resolving power is infinite.
    """

    def recognises(self, path: Path) -> bool:
        if not path.is_dir() or any((path / name).is_file() for name in (TABLE, INTERRUPTED)):
            return False
        first = next((file for file in path.iterdir() if file.suffix == ".spec"), None)
        if first is None:
            return False
        try:
            with first.open(encoding="ascii") as file:
                fields = file.readline().split()
            return len(fields) >= 2 and float(fields[0]) > 0
        except (OSError, ValueError):
            return False

    def load(self, path: Path) -> Grid:
        table = read_table(_table_of(path), _KEYS)
        labels, values = labels_of(table)
        owned, stray = _files_of(path, table.names)
        order = sorted({segment for files in owned for segment in files})
        if not order:
            raise GridError(
                f"{path} has no spectrum of the models that {table.path.name} lists, such as "
                f"{table.names[0]}.spec or {table.names[0]}_green.spec"
            )
        defects = {f"{path.name}/{file.name}": f"{file} has no row in {table.path.name}" for file in stray}
        ids = np.array([f"{path.name}/{name}" for name in table.names])
        for row, files in enumerate(owned):
            lacking = [segment for segment in order if segment not in files]
            contradiction = next(
                filter(None, (_contradiction(file, table, row) for file in files.values())), None
            )
            if lacking:
                what = "" if order == ["all"] else f" of segment {lacking[0]}"
                defects[ids[row]] = f"{path}: the spectrum{what} of {table.names[row]} is missing"
            elif contradiction:
                defects[ids[row]] = contradiction
        sound = [row for row, model in enumerate(ids) if model not in defects]
        if not sound:
            raise GridError(next(iter(defects.values())))
        segments: dict[str, Segment] = {}
        for name in order:
            paths = [
                files.get(name, path / f"{model}_{name}.spec")
                for files, model in zip(owned, table.names, strict=True)
            ]
            source, wavelength = reference([paths[row] for row in sound], rounded=True)
            everything = np.ones(wavelength.size, bool)
            segments[name] = Segment(paths, source, wavelength, everything, rounded=True)
        order.sort(key=lambda name: segments[name].wavelength[0])
        for one, two in pairwise(order):
            start, end = segments[two].wavelength[0], segments[one].wavelength[-1]
            if start <= end:
                raise GridError(f"{path}: the segments {one} and {two} overlap at {start:.3f} Angstrom")
        arms, wavelength = join_arms(order, [segments[name].kept for name in order])
        about = {"code": "Turbospectrum", "solar_scale": "Magg et al. 2022 (assumed)", "folders": [path.name]}
        return Grid(
            labels,
            values,
            ids,
            wavelength,
            arms,
            TextFlux([segments[name] for name in order]),
            np.inf,
            "air",
            about,
            defects,
        )


def _table_of(path: Path) -> Path:
    tables = sorted(path.glob("*.csv"))
    named = [table for table in tables if table.name == "labels.csv"]
    if len(named or tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise GridError(
            f"{path}: expected a table labels.csv (columns star, teff, logg, fe_h, vmic, mg_fe, ...) beside "
            f"the spectra, found {names}"
        )
    return (named or tables)[0]


def _files_of(path: Path, names: list[str]) -> tuple[list[dict[str, Path]], list[Path]]:
    """The files of each model by segment, and those of no model. The longest name that fits owns a file."""
    rows = {name.removesuffix(".spec"): row for row, name in enumerate(names)}
    owned: list[dict[str, Path]] = [{} for _ in names]
    stray = []
    for file in sorted(file for file in path.iterdir() if file.suffix == ".spec"):
        stem = file.stem
        parts = stem.split("_")
        heads = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)]
        owner = next((head for head in heads if head in rows), None)
        if owner is None:
            stray.append(file)
            continue
        rest = stem[len(owner) + 1 :]
        span = _RANGE.search(rest)
        segment = f"{span[1]}-{span[2]}" if span else rest or "all"
        if segment in owned[rows[owner]]:
            raise GridError(
                f"{file} and {owned[rows[owner]][segment].name} are both segment {segment} of {owner}"
            )
        owned[rows[owner]][segment] = file
    return owned, stray


def _contradiction(file: Path, table: Table, row: int) -> str | None:
    """What a file named after a MARCS model says against the table, to the digits of the name."""
    match = _MARCS.match(file.name)
    if match is None:
        return None
    for name, text in zip(("teff", "logg", "fe_h"), match.groups(), strict=True):
        column = table.get(name)
        decimals = len(text.partition(".")[2])
        if column is not None and abs(float(text) - column[row]) > 0.51 * 10.0**-decimals:
            return f"{file}: its name says {name} = {float(text):g}, {table.path.name} says {column[row]:g}"
    return None
