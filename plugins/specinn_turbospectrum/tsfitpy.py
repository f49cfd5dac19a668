"""Folders of TSFitPy's ``generate_synthetic_spectra``: a table of parameters and a text file per spectrum."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.errors import GridError
from specinn.grids import Grid
from specinn.grids.grid import join_arms
from specinn.plugins import GridLoader
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA
from specinn_turbospectrum.table import Table, labels_of, read_table
from specinn_turbospectrum.text import Segment, TextFlux, pieces, reference

TABLE, INTERRUPTED = "spectra_parameters.csv", "spectra_parameters_temp.csv"
_ABUNDANCE = re.compile(r"\[(\w+)/Fe\]\s*=\s*([-+.\w]+)\s*(.*)")
_IRON = re.compile(r"A\((\w+)\)\s*=\s*([-+.\w]+)\s*(.*)")
_HEADER_LINES = 300  # at most, far above the number of elements
_SETTINGS = ("resolution", "vmac", "rotation")
_MACROTURBULENCE_REACH = 1.9 * 1.433  # half width of TSFitPy's radial-tangential profile in units of vmac


class TSFitPyFolder(GridLoader):
    """A folder ``<date>_<random>_{NLTE|LTE}_<input name>``.

    Loading reads the table and the head of every file; spectra are read, and checked, when they are asked
    for. A file whose head is defective is kept as a defect of the grid, which ``Grid.save`` refuses or, told
    to, leaves out. Of an interrupted run (only ``spectra_parameters_temp.csv``) the spectra that do not
    exist are listed in the provenance as ``missing``.
    """

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and any((path / name).is_file() for name in (TABLE, INTERRUPTED))

    def load(self, path: Path) -> Grid:
        source = next((path / name for name in (TABLE, INTERRUPTED) if (path / name).is_file()), None)
        if source is None:
            raise GridError(f"{path} has neither {TABLE} nor {INTERRUPTED}: is it a folder of TSFitPy?")
        table = read_table(source, ("specname",))
        labels, values = labels_of(table)
        files = [path / (name if name.endswith(".spec") else f"{name}.spec") for name in table.names]
        present = {file.name for file in path.iterdir() if file.suffix == ".spec"}
        defects: dict[str, str] = {}
        rows = np.arange(len(files))
        missing: list[str] = []
        if source.name == INTERRUPTED:
            rows = np.array([row for row in rows if files[row].name in present], int)
            missing = [f"{path.name}/{file.name}" for file in files if file.name not in present]
        if not rows.size:
            raise GridError(f"{path} has none of the {len(files)} spectra that {source.name} lists")
        heads: dict[int, Head] = {}
        for row in rows.tolist():
            try:
                heads[row] = read_head(files[row])
                heads[row].check(table, row)
            except GridError as error:
                heads.pop(row, None)
                defects[_model_id(files[row])] = str(error)
        for name in sorted(present - {file.name for file in files}):
            defects[f"{path.name}/{name}"] = f"{path / name} has no row in {source.name}"
        if not heads:
            raise GridError(next(iter(defects.values())))
        settings = check_alike(list(heads.values()))
        vmac, rotation = (
            max(head.settings[name] for head in heads.values()) for name in ("vmac", "rotation")
        )
        rounded = not (settings["resolution"] or vmac or rotation)  # else TSFitPy wrote them in full
        origin, wavelength = reference([head.path for head in heads.values()], rounded)
        keep = inside_edges(wavelength, settings["resolution"], vmac, rotation)
        segment = Segment([files[row] for row in rows], origin, wavelength, keep, rounded)
        parts = pieces(segment.kept)
        names = ["all"] if len(parts) == 1 else [_name(segment.kept[part]) for part in parts]
        arms, kept = join_arms(names, [segment.kept[part] for part in parts])
        provenance: dict[str, Any] = {
            "code": "Turbospectrum through TSFitPy",
            "nlte": settings["nlte"],
            "solar_scale": "Magg et al. 2022",
            "vmac": settings["vmac"],
            "folders": [path.name],
        }
        if missing:
            provenance["missing"] = missing
        ids = np.array([_model_id(files[row]) for row in rows])
        return Grid(
            labels,
            values[rows],
            ids,
            kept,
            arms,
            TextFlux([segment]),
            settings["resolution"] or np.inf,
            "air",
            provenance,
            defects,
        )


def _model_id(file: Path) -> str:
    """Folder and number: TSFitPy's folder names are unique, its numbers begin at 0 in each."""
    return f"{file.parent.name}/{file.name}"


def _name(wavelength: np.ndarray) -> str:
    return f"{wavelength[0]:.0f}-{wavelength[-1]:.0f}"


@attrs.frozen(eq=False)
class Head:
    """The ``#`` lines of a spectrum."""

    path: Path
    text: dict[str, str]
    settings: dict[str, float]
    abundances: dict[str, float]
    nlte: dict[str, str]

    def check(self, table: Table, row: int) -> None:
        """Refuse a head that contradicts the row of the table."""
        stated: dict[str, float] = {name: self.settings[name] for name in ("vmac", "rotation")}
        for name in ("teff", "logg", "[Fe/H]", "vmic"):
            stated[name] = self.number(name)
        stated.update({f"{element}_fe": value for element, value in self.abundances.items()})
        for name, value in stated.items():
            key = {"[Fe/H]": "fe_h", "rotation": "vbroad"}.get(name, name.lower())
            column = table.get(key)
            listed = 0.0 if column is None else float(column[row])
            if abs(listed - value) > 1e-3 + 1e-6 * abs(value):
                raise GridError(
                    f"{self.path}: its head says {name} = {value:g}, {table.path.name} says {listed:g}"
                )
        unstated = [
            h for h in table.columns if h.lower().endswith("_fe") and h[:-3].lower() not in self.abundances
        ]
        if unstated:
            raise GridError(
                f"{self.path}: its head does not state {unstated[0]}, which {table.path.name} lists"
            )
        name = self.text.get("spectrum_name", self.path.name)
        if name not in (self.path.name, self.path.stem):
            raise GridError(f"{self.path}: its head calls it {name}: files have been mixed up")

    def number(self, name: str) -> float:
        try:
            value = float(self.text[name])
        except KeyError:
            raise GridError(f"{self.path}: its head does not state {name}: is it truncated?") from None
        except ValueError:
            raise GridError(
                f"{self.path}: its head says {name} = {self.text[name]!r}, expected a number"
            ) from None
        if not np.isfinite(value):
            raise GridError(
                f"{self.path}: its head says {name} = {self.text[name]}, expected a finite number"
            )
        return value


def read_head(path: Path) -> Head:
    """The head of a spectrum. Raises ``GridError`` that names a file which is missing, empty or headless."""
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.startswith("#") or len(lines) > _HEADER_LINES:
                    break
                lines.append(line[1:].strip())
    except FileNotFoundError:
        raise GridError(f"{path} is missing, but the table lists it") from None
    except OSError as error:
        raise GridError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        empty = path.stat().st_size == 0
        raise GridError(
            f"{path} is empty: the synthesis failed" if empty else f"{path} has no head of # lines"
        )
    text: dict[str, str] = {}
    abundances: dict[str, float] = {}
    nlte: dict[str, str] = {}
    for line in lines:
        match = _ABUNDANCE.match(line) or _IRON.match(line)
        if match:
            element, value, flag = match.groups()
            nlte[element] = flag.split()[-1] if flag else "not stated"
            if "solar scaled" not in flag and line.startswith("["):
                try:
                    abundances[element.lower()] = float(value)
                except ValueError:
                    raise GridError(f"{path}: its head says {line!r}, expected a number") from None
        elif ":" in line:
            key, _, rest = line.partition(":")
            text[key.strip()] = rest.strip()
        elif "Intensit" in line:
            raise GridError(f"{path} holds intensities, not flux: synthesise without the intensity flag")
    head = Head(path, text, {}, abundances, nlte)
    settings = {name: head.number(name) for name in _SETTINGS}
    if text.get("nlte_flag") not in ("True", "False"):
        raise GridError(f"{path}: its head says nlte_flag {text.get('nlte_flag')}, expected True or False")
    return attrs.evolve(head, settings=settings)


def check_alike(heads: Sequence[Head]) -> dict[str, Any]:
    """Settings that all spectra share: resolution, vmac, NLTE by element. Errors name two that differ."""
    first = heads[0]
    for head in heads[1:]:
        for name, one, two in (
            ("resolution", first.settings["resolution"], head.settings["resolution"]),
            ("vmac", first.settings["vmac"], head.settings["vmac"]),
            ("nlte_flag", first.text["nlte_flag"], head.text["nlte_flag"]),
        ):
            if one != two:
                raise GridError(
                    f"{first.path} has {name} {one}, {head.path.name} has {two}: they are not one grid"
                )
        if (first.settings["rotation"] > 0) != (head.settings["rotation"] > 0):
            still, moving = sorted((first, head), key=lambda h: h.settings["rotation"])
            raise GridError(
                f"{still.path} has no rotation, {moving.path.name} has {moving.settings['rotation']:g} km/s: "
                "TSFitPy puts them on different wavelengths, synthesise all with or without it"
            )
        for element in sorted({*first.nlte, *head.nlte}):
            one, two = first.nlte.get(element, "absent"), head.nlte.get(element, "absent")
            if one != two:
                raise GridError(
                    f"{first.path} has {element} {one}, {head.path.name} has {two}: they are not one grid"
                )
    for name in ("resolution", "vmac", "rotation"):
        if min(head.settings[name] for head in heads) < 0:
            raise GridError(f"{first.path}: {name} is negative")
    nlte = dict(sorted(first.nlte.items())) or {"all": "NLTE" if first.text["nlte_flag"] == "True" else "LTE"}
    return {"resolution": first.settings["resolution"], "vmac": first.settings["vmac"], "nlte": nlte}


def inside_edges(wavelength: np.ndarray, resolution: float, vmac: float, rotation: float) -> np.ndarray:
    """``(n_pix,)`` True where no kernel reached an end: TSFitPy convolves by a circular FFT, which wraps.

    The reaches add up: 4.5 sigma of the Gaussian, the profile of macroturbulence, v sin i.
    """
    gauss = 4.5 / (FWHM_PER_SIGMA * resolution) if resolution else 0.0
    reach = gauss + (_MACROTURBULENCE_REACH * vmac + rotation) / C_KMS
    keep = np.ones(wavelength.size, bool)
    if reach:
        keep = (wavelength >= wavelength[0] * (1.0 + reach)) & (wavelength <= wavelength[-1] * (1.0 - reach))
    if keep.sum() < 2:
        raise GridError(
            f"the spectra span {wavelength[0]:g} to {wavelength[-1]:g} Angstrom, less than their broadening "
            "spoils at the edges: synthesise a wider range"
        )
    return keep
