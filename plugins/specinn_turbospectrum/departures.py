"""Departures from LTE: the coefficients b of each level of a model atom, at each depth of an atmosphere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import SynthesisError
from specinn_turbospectrum.linelists import ATOMIC_NUMBER

_ABUNDANCE = 1e-4  # dex by which bsyn_lu lets an abundance differ
_HEAD = 8  # lines of comments at the start of a departure file


@attrs.frozen(eq=False)
class Departures:
    """Coefficients for one element in one atmosphere: ``b (n_depths, n_levels)`` at ``lg_tau (n_depths,)``
    (5000 Angstrom), computed for the abundance ``log_eps``, of the levels of the model atom in ``atom``."""

    element: str
    atom: Path
    log_eps: float
    lg_tau: np.ndarray
    b: np.ndarray
    source: str

    def check(self, log_eps: Mapping[int, float], n_depths: int) -> None:
        """Raises ``SynthesisError`` that names both numbers if abundance or depths differ."""
        wanted = log_eps.get(ATOMIC_NUMBER[self.element])
        if wanted is None or abs(wanted - self.log_eps) > _ABUNDANCE:
            of_spectrum = "none is given" if wanted is None else f"the spectrum has {wanted:.4f}"
            raise SynthesisError(
                f"{self.source} holds departure coefficients for A({self.element}) = {self.log_eps:.4f}, "
                f"{of_spectrum}"
            )
        if n_depths != self.lg_tau.size:
            raise SynthesisError(
                f"{self.source} holds departure coefficients at {self.lg_tau.size} depths, the model "
                f"atmosphere has {n_depths}"
            )

    def on_depths(self, lg_tau: np.ndarray) -> Departures:
        """Interpolated in lg tau (linearly in log b); beyond the ends the values at the ends."""
        log_b = np.log(np.maximum(self.b, 1e-30))
        rows = [np.interp(lg_tau, self.lg_tau, column) for column in log_b.T]
        return attrs.evolve(self, lg_tau=lg_tau, b=np.exp(np.array(rows).T))

    def write(self, path: Path) -> None:
        """In the text format that bsyn_lu reads."""
        n_depths, n_levels = self.b.shape
        name = "lg tau, b"
        lines = [f"# {name:15s} {1.0:10.6f} {1.0:10.6f} {1.0:10.6f}"] * _HEAD
        lines += [f"{self.log_eps:8.4f}", f"{n_depths:4d}", f"{n_levels:5d}"]
        lines += [
            f"{value:9.5f}" for value in self.lg_tau
        ]  # to the digits of the atmosphere, or bsyn_lu stops
        lines += [" ".join(f"{value:.6E}" for value in row) for row in self.b]
        path.write_text("\n".join(lines) + "\n", encoding="ascii")


def read_departures(element: str, atom: Path, path: Path) -> Departures:
    """A departure file in the text format of bsyn_lu.

    Raises ``SynthesisError`` where it or the model atom is missing, or broken.
    """
    n_levels = levels(atom)
    try:
        lines = path.read_text(encoding="ascii").splitlines()[_HEAD:]
    except (OSError, UnicodeDecodeError) as error:
        raise SynthesisError(f"the departure file {path} of {element} cannot be read: {error}") from None
    try:
        log_eps, n_depths, n = float(lines[0]), int(lines[1]), int(lines[2])
        lg_tau = np.array([float(x) for x in lines[3 : 3 + n_depths]])
        values = np.array(" ".join(lines[3 + n_depths :]).split(), float)
        b = values[: n_depths * n].reshape(n_depths, n)
    except (ValueError, IndexError) as error:
        raise SynthesisError(f"{path} is not a departure file of bsyn_lu: {error}") from None
    _check_levels(element, atom, n_levels, n, str(path))
    return Departures(element, atom, log_eps, lg_tau, b, str(path))


def levels(atom: Path) -> int:
    """The number of levels of a model atom in MULTI's format: the first number of the third line that is
    not a comment, after the name and the abundance."""
    try:
        text = atom.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise SynthesisError(f"the model atom {atom} cannot be read: {error.strerror}") from None
    rows = [line for line in text if line.strip() and not line.startswith("*")]
    try:
        return int(rows[2].split()[0])
    except (IndexError, ValueError):
        raise SynthesisError(f"{atom} is not a model atom in MULTI's format") from None


def _check_levels(element: str, atom: Path, n_atom: int, n: int, source: str) -> None:
    if n != n_atom:
        raise SynthesisError(
            f"{source} has departure coefficients of {n} levels of {element}, the model atom {atom.name} has "
            f"{n_atom}"
        )


class DepartureGrid:
    """Departure coefficients of one element for many atmospheres: the binary grids distributed for TSFitPy.

    ``index`` is the text file of pointers (columns: name, Teff, log g, [Fe/H], [alpha/Fe], mass, vturb, A(X),
    pointer), ``records`` the binary file: at byte pointer - 1 a name of 500 bytes, the numbers of depths and
    of levels (int32), tau and the coefficients by level (float64), all little-endian.
    """

    def __init__(self, element: str, atom: Path, records: Path, index: Path) -> None:
        self.element, self.atom, self.records, self.index = element, atom, records, index
        self._n_levels = levels(atom)
        try:
            rows = [line.split() for line in index.read_text(encoding="ascii").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SynthesisError(
                f"{index}, the index of departure coefficients, cannot be read: {error}"
            ) from None
        rows = [row for row in rows if row and not row[0].startswith("#")]
        try:
            self._labels = np.array([[*map(float, row[1:4]), float(row[7])] for row in rows])
            self._pointers = [int(row[8]) for row in rows]
        except (ValueError, IndexError) as error:
            raise SynthesisError(f"{index} is not an index of departure coefficients: {error}") from None
        if not records.is_file():
            raise SynthesisError(f"{records}, the departure coefficients of {element}, is missing")
        if not rows:
            raise SynthesisError(f"{index} lists no departure coefficients")

    def __call__(
        self, teff: float, logg: float, fe_h: float, log_eps: float, lg_tau: np.ndarray
    ) -> Departures:
        """The coefficients there on the depths ``lg_tau``: linear in log b between the atmospheres around.

        Raises ``SynthesisError`` where the grid has none around, with the nearest that it has.
        """
        at = np.array([teff, logg, fe_h, log_eps - fe_h])
        nodes = self._labels.copy()
        nodes[:, 3] -= nodes[:, 2]  # [X/Fe], which is sampled alike at all metallicities
        weights = _multilinear(nodes, at)
        if weights is None:
            scale = np.array([250.0, 0.5, 0.25, 0.2])
            near = int(np.argmin((((nodes - at) / scale) ** 2).sum(axis=1)))
            row = self._labels[near]
            raise SynthesisError(
                f"{self.index} has no departure coefficients around Teff = {teff:g}, log g = {logg:g}, "
                f"[Fe/H] = {fe_h:g}, A({self.element}) = {log_eps:.4f}; the nearest are for {row[0]:g}, "
                f"{row[1]:g}, {row[2]:g}, {row[3]:.4f}"
            )
        log_b = sum(
            weight * np.log(np.maximum(self._record(row).on_depths(lg_tau).b, 1e-30))
            for row, weight in weights.items()
        )
        source = f"{self.records.name} at Teff = {teff:g}, log g = {logg:g}, [Fe/H] = {fe_h:g}"
        return Departures(self.element, self.atom, log_eps, lg_tau, np.exp(np.asarray(log_b)), source)

    def _record(self, row: int) -> Departures:
        with self.records.open("rb") as file:
            file.seek(self._pointers[row] - 1 + 500)
            n_depths, n_levels = np.frombuffer(_exactly(file.read(8), 8, self.records), "<i4")
            _check_levels(self.element, self.atom, self._n_levels, int(n_levels), str(self.records))
            size = 8 * int(n_depths) * (1 + int(n_levels))
            data = np.frombuffer(_exactly(file.read(size), size, self.records), "<f8")
        tau, b = data[:n_depths], data[n_depths:].reshape(n_levels, n_depths).T
        return Departures(
            self.element, self.atom, float(self._labels[row, 3]), np.log10(tau), b, str(self.records)
        )


def _exactly(data: bytes, size: int, path: Path) -> bytes:
    if len(data) != size or size < 8:
        raise SynthesisError(
            f"{path} ends within a record: copy it again, or give the index that belongs to it"
        )
    return data


def _multilinear(nodes: np.ndarray, at: np.ndarray) -> dict[int, float] | None:
    """Weights by row of ``nodes (n, n_dim)`` of the linear interpolation to ``at``, one dimension within the
    other, between those that exist; None where there are none on both sides."""
    return _within(nodes, np.arange(len(nodes)), at, 0)


def _within(nodes: np.ndarray, rows: np.ndarray, at: np.ndarray, axis: int) -> dict[int, float] | None:
    if axis == nodes.shape[1]:
        return {int(rows[0]): 1.0}
    values = np.unique(np.round(nodes[rows, axis], 4))
    sides: list[tuple[float, dict[int, float]]] = []
    for side in (values[values <= at[axis] + 1e-4][::-1], values[values > at[axis] + 1e-4]):
        for value in side:
            weights = _within(nodes, rows[np.abs(nodes[rows, axis] - value) < 2e-4], at, axis + 1)
            if weights is None:
                continue
            if abs(value - at[axis]) <= 1e-4:
                return weights
            sides.append((float(value), weights))
            break
    if len(sides) < 2:
        return None
    (low, left), (high, right) = sides
    fraction = (at[axis] - low) / (high - low)
    out = {row: (1.0 - fraction) * weight for row, weight in left.items()}
    for row, weight in right.items():
        out[row] = out.get(row, 0.0) + fraction * weight
    return out


def write_information(departures: Sequence[Departures], folder: Path, path: Path) -> None:
    """The file that tells bsyn_lu which elements are in NLTE, with the files to which it points in
    ``folder``."""
    prefix = f"{folder.resolve()}/"
    lines = ["# elements in NLTE"]  # the code looks for the next line from the second on
    lines += ["# path for model atom files     don't change this line", prefix, "#"]
    lines += ["# path for departure files     don't change this line", prefix, "#"]
    lines += ["# atomic (N)LTE setup"]
    for one in departures:
        atom, name = f"atom.{one.element}", f"departures.{one.element}"
        if not (folder / atom).is_symlink():
            os.symlink(one.atom.resolve(), folder / atom)
        one.write(folder / name)
        lines.append(f"{ATOMIC_NUMBER[one.element]}  '{one.element}'  'nlte'  '{atom}'  '{name}'  'ascii'")
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
