"""Spectra in text files: reading, checking, and the flux of a grid whose spectra lie in such files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import GridError

FLUX_LIMIT = 1.2  # of normalised flux; more means that it is not normalised
_GAP = 5.0  # a step of more than this many usual ones begins a new piece
_CANDIDATES = 5  # spectra read to find out the wavelengths that the grid has


def read_spectrum(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Wavelength (Angstrom) and normalised flux, the first two columns of a file; ``#`` begins a comment.

    Further columns (flux in physical units, pairs for intensities) are not looked at, except for asterisks.
    Raises ``GridError`` that names the file and its defect: empty, cut off, a value that is not a number.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GridError(f"{path} is missing") from None
    except OSError as error:
        raise GridError(f"{path} cannot be read: {error.strerror}") from None
    if not data.strip():
        raise GridError(f"{path} is empty: the synthesis failed")
    if not data.endswith(b"\n"):
        raise GridError(f"{path} is truncated: its last line is not complete")
    if b"*" in data:
        line = data[: data.index(b"*")].count(b"\n") + 1
        raise GridError(f"{path}, line {line}: asterisks where a number did not fit its columns")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            columns = np.loadtxt(path, usecols=(0, 1), ndmin=2)
    except (ValueError, UnicodeDecodeError):
        raise GridError(f"{path}{_first_bad_line(data)}") from None
    if len(columns) < 2:
        raise GridError(f"{path} has {len(columns)} pixels: the synthesis failed or the file is truncated")
    return columns[:, 0].copy(), columns[:, 1].copy()


def _first_bad_line(data: bytes) -> str:
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            float(fields[1]), float(fields[0])
        except IndexError:
            return f", line {number}: one column, expected wavelength and normalised flux (truncated?)"
        except ValueError:
            return (
                f", line {number}: {line.strip()[:40]!r} does not begin with wavelength and normalised flux"
            )
    return ": expected columns of wavelength and normalised flux"


def check_flux(path: Path, wavelength: np.ndarray, flux: np.ndarray) -> None:
    """Refuse values that no normalised spectrum has; the error names the file."""
    faults = []
    for bad, what in (
        (~np.isfinite(flux), "not a number"),
        (flux < 0, "negative"),
        (flux > FLUX_LIMIT, f"above {FLUX_LIMIT} (is it normalised?)"),
    ):
        if bad.any():
            others = int(np.count_nonzero(bad)) - 1
            more = f" and {others} more pixels" if others else ""
            faults.append(f"{what} at {wavelength[bad][0]:.3f} Angstrom{more}")
    if faults:
        raise GridError(f"{path}: normalised flux is {', '.join(faults)}")
    if not flux.any():
        raise GridError(f"{path}: normalised flux is 0 throughout")


def check_wavelength(path: Path, wavelength: np.ndarray, other: Path, expected: np.ndarray) -> None:
    """Refuse a file on other wavelengths than the grid's, which were read from ``other``."""
    if wavelength.shape == expected.shape and np.abs(wavelength - expected).max() < 1e-4:
        return
    raise GridError(
        f"{path} has {_span(wavelength)}, {other.name} has {_span(expected)}: the spectra of a grid must be "
        "on the same wavelengths (a shorter file may be truncated)"
    )


def _span(w: np.ndarray) -> str:
    return f"{w.size} pixels from {w[0]:.3f} to {w[-1]:.3f} Angstrom"


def increasing(path: Path, wavelength: np.ndarray) -> np.ndarray:
    """The wavelengths, refused where they do not increase."""
    stuck = ~(np.diff(wavelength) > 0)
    if stuck.any():
        at = wavelength[int(np.argmax(stuck))]
        raise GridError(
            f"{path}: wavelengths do not increase after {at:.3f} Angstrom ({np.count_nonzero(stuck)} times)"
        )
    return wavelength


def even(path: Path, wavelength: np.ndarray) -> np.ndarray:
    """Wavelengths that increase; a constant step is restored where three decimals have rounded it away.

    Turbospectrum writes wavelengths to 0.001 Angstrom whatever the step, so a step of 0.0005 repeats numbers.
    """
    line = np.linspace(wavelength[0], wavelength[-1], wavelength.size)
    if line[-1] > line[0] and np.abs(line - wavelength).max() <= 0.0011:
        return line
    return increasing(path, wavelength)


def reference(files: Sequence[Path], rounded: bool) -> tuple[Path, np.ndarray]:
    """The file and the wavelengths that stand for the grid: the first that two readable files agree on.

    So a single defective file at the head of the list does not make all others look wrong.
    """
    seen: list[tuple[Path, np.ndarray]] = []
    first_error: GridError | None = None
    for path in files:
        try:
            wavelength = _wavelength(path, rounded)
        except GridError as error:
            first_error = first_error or error
            continue
        for other, candidate in seen:
            if candidate.shape == wavelength.shape and np.abs(candidate - wavelength).max() < 1e-4:
                return other, candidate
        seen.append((path, wavelength))
        if len(seen) == _CANDIDATES:
            break
    if not seen:
        raise first_error or GridError("there is no spectrum to read")
    if len(seen) > 1:
        check_wavelength(seen[1][0], seen[1][1], *seen[0])
    return seen[0]


def _wavelength(path: Path, rounded: bool) -> np.ndarray:
    return (even if rounded else increasing)(path, read_spectrum(path)[0])


def pieces(wavelength: np.ndarray) -> list[slice]:
    """The stretches without a gap."""
    step = np.diff(wavelength)
    cuts = np.flatnonzero(step > _GAP * np.median(step)) + 1
    ends = [0, *cuts.tolist(), wavelength.size]
    return [slice(i, j) for i, j in pairwise(ends)]


@attrs.frozen(eq=False)
class Segment:
    """One file of every model: the wavelengths ``(n_pix,)`` of ``source``, and the pixels kept."""

    files: Sequence[Path]
    source: Path
    wavelength: np.ndarray
    keep: np.ndarray
    rounded: bool = False

    @property
    def kept(self) -> np.ndarray:
        return self.wavelength[self.keep]

    def read(self, row: int) -> np.ndarray:
        path = self.files[row]
        wavelength, flux = read_spectrum(path)
        wavelength = (even if self.rounded else increasing)(path, wavelength)
        check_wavelength(path, wavelength, self.source, self.wavelength)
        check_flux(path, wavelength[self.keep], flux[self.keep])
        return flux[self.keep]


@attrs.frozen(eq=False)
class TextFlux:
    """Reads the spectra of the asked models from their text files, one at a time."""

    segments: Sequence[Segment]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), sum(int(segment.keep.sum()) for segment in self.segments)), np.float32)
        for at, row in enumerate(rows):
            out[at] = np.concatenate([segment.read(int(row)) for segment in self.segments])
        return out
