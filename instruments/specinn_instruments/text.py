"""Text and CSV: columns of wavelength, flux and, if there is one, its error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import ReadError
from specinn.plugins.interfaces import Reader
from specinn.spectra import SpectrumBatch
from specinn_instruments.batches import make_batch
from specinn_instruments.columns import Columns, to_angstrom

_COMMENT = ("#", "%", "!", ";", "//")
_MISSING = {"", "nan", "indef", "null", "none", "--", "inf", "-inf", "+inf"}
_HEADER_LINES = 40  # lines without numbers that may stand before the data


class ColumnText(Reader):
    """Two or three columns, or more with names; whitespace, comma, semicolon or tab between them.

    The benchmark library (``waveobs flux err`` in nm, flux 0 where there are no data) is a case of it.
    """

    def recognises(self, path: Path) -> bool:
        with open(path, "rb") as file:
            start = file.read(65536)
        if b"\0" in start:
            return False
        lines = decode(start).splitlines()
        if len(start) == 65536:
            lines = lines[:-1]
        return _layout(lines) is not None

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        lines = read_lines(path)
        layout = _layout(lines)
        if layout is None:
            raise ReadError(
                "no two columns of numbers: expected wavelength, flux and, if there is one, its error"
            )
        data = parse_numbers(lines, layout.first, layout.delimiter)
        columns = _columns(layout, data)
        data, n_merged = _merge_seams(data, columns)
        wave = data[:, columns.wavelength]
        sigma, ivar, quality = (
            None if i is None else data[:, i] for i in (columns.sigma, columns.ivar, columns.quality)
        )
        yield make_batch(
            path,
            to_angstrom(10.0**wave if columns.log10 else wave, columns.unit),
            data[:, columns.flux],
            sigma=sigma,
            ivar=ivar,
            quality=quality,
            medium="vacuum" if layout.vacuum else columns.medium,
            columns={"merged_pixels": [n_merged]} if n_merged else None,
        )


def _merge_seams(data: np.ndarray, columns: Columns) -> tuple[np.ndarray, int]:
    """Average the two rows of a wavelength that stands twice where two pieces were joined.

    Programs that write a spectrum piece by piece repeat the pixel at the seam. That is harmless and told
    from a defect by three marks: the two rows are neighbours, the step after them is as before, and less
    than one row in 1000 is concerned. Everything else stays, to be refused with the other duplicates.
    """
    wave = data[:, columns.wavelength]
    step = np.diff(wave)
    at = np.flatnonzero(step == 0)
    inner = (at > 0) & (at < step.size - 1)
    if not at.size or at.size > 1e-3 * wave.size or not inner.all():
        return data, 0
    before, after = step[at - 1], step[at + 1]
    if (before * after <= 0).any() or (np.abs(after / before - 1.0) > 0.1).any():
        return data, 0
    merged = data.copy()
    merged[at] = 0.5 * (data[at] + data[at + 1])
    if columns.sigma is not None:  # of the mean of two
        merged[at, columns.sigma] = 0.5 * np.hypot(data[at, columns.sigma], data[at + 1, columns.sigma])
    return np.delete(merged, at + 1, axis=0), int(at.size)


@attrs.frozen
class Layout:
    """Where the numbers begin (line from 0), what separates them, and what the header says."""

    first: int
    delimiter: str | None
    names: tuple[str, ...]
    n_columns: int
    vacuum: bool


def decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_lines(path: Path) -> list[str]:
    content = path.read_bytes()
    if b"\0" in content:
        raise ReadError("binary data: expected text")
    return decode(content).splitlines()


def parse_numbers(lines: list[str], first: int, delimiter: str | None) -> np.ndarray:
    """``(n_rows, n_columns)`` float64; an error names the first line that is not like the others."""
    comments = [mark for mark in _COMMENT if mark != delimiter]
    try:
        return np.loadtxt(lines[first:], delimiter=delimiter, comments=comments, ndmin=2, dtype=np.float64)
    except ValueError:
        pass  # missing values, Fortran exponents, or a defect that deserves its line number
    rows: list[list[float]] = []
    for number, line in enumerate(lines[first:], start=first + 1):
        words = _words(line, delimiter)
        if not words:
            continue
        values = [_value(word) for word in words]
        if None in values:
            raise ReadError(f"line {number} is not made of numbers: {line.strip()[:60]!r}")
        if rows and len(values) != len(rows[0]):
            raise ReadError(
                f"line {number} has {len(values)} columns, the lines before it {len(rows[0])}: truncated?"
            )
        rows.append(values)  # type: ignore[arg-type]
    return np.array(rows)


def _value(word: str) -> float | None:
    """A number, NaN for a missing one, None for anything else."""
    if word.lower() in _MISSING:
        return np.nan
    try:
        return float(re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", word))
    except ValueError:
        return None


def _words(line: str, delimiter: str | None) -> list[str]:
    for mark in _COMMENT:
        if mark != delimiter:
            line = line.split(mark, 1)[0]
    return [word.strip() for word in line.strip().split(delimiter)] if line.strip() else []


def _layout(lines: list[str]) -> Layout | None:
    """The layout of text that holds at least two rows of at least two numbers each; else None."""
    header: list[str] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        delimiter = next((mark for mark in (",", "\t", ";") if mark in line), None)
        if delimiter == "\t" and len(line.split()) == len(line.strip().split("\t")):
            delimiter = None
        words = _words(line, delimiter)
        if (
            len(words) > 1
            and all(_value(word) is not None for word in words)
            and _value(words[0]) == _value(words[0])
        ):
            following = [
                w for w in (_words(text, delimiter) for text in lines[number + 1 : number + 20]) if w
            ]
            if not following or len(following[0]) != len(words) or _value(following[0][0]) is None:
                return None
            return Layout(
                number, delimiter, _names(header, delimiter, len(words)), len(words), _vacuum(header)
            )
        if words and len([h for h in header if not h.lstrip().startswith(_COMMENT)]) >= _HEADER_LINES:
            return None
        header.append(line)
    return None


def _names(header: list[str], delimiter: str | None, n: int) -> tuple[str, ...]:
    """Column names from the last line of the header that has as many words as there are columns."""
    for line in reversed(header):
        line = re.sub(r"^[\s#%!;/]+", "", line)
        line = re.sub(r"\s+(?=[\[(])", "", line)  # "wave [nm]" is one name
        for separator in (delimiter, None, ","):
            words = [word.strip() for word in line.split(separator)]
            if len(words) == n and Columns.identify(words):
                return tuple(words)
    return ()


def _vacuum(header: list[str]) -> bool:
    words = set(re.findall(r"[a-z]+", " ".join(header).lower()))
    return "vacuum" in words and "air" not in words


def _columns(layout: Layout, data: np.ndarray) -> Columns:
    named = Columns.identify(layout.names) if layout.names else None
    if named is not None:
        return named
    n = data.shape[1]
    if n > 3:
        raise ReadError(
            f"{n} columns without known names: expected wavelength, flux and error, or a first line with "
            "names such as wavelength, flux, error"
        )
    if n == 3:
        flux, error = (
            np.nanmedian(np.abs(data[:, i])) if np.isfinite(data[:, i]).any() else 0.0 for i in (1, 2)
        )
        if error > 3.0 * flux > 0:  # for example the absolute flux that Turbospectrum writes there
            raise ReadError(
                f"the third column (median {error:g}) cannot be the error of the flux (median {flux:g}): "
                "remove it, or name the columns in the first line"
            )
    return Columns(0, 1, 2 if n == 3 else None)
