"""Text and CSV: columns of wavelength, flux and, if there is one, its error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import unpacked
from specinn.wavelengths import is_length
from specinn_instruments import facts
from specinn_instruments.batches import Piece, assemble, pixels, say
from specinn_instruments.columns import (
    Columns,
    Role,
    check_flux,
    from_logarithm,
    medium_in,
    of_one_kind,
    role_of,
    to_angstrom,
    without_medium,
)
from specinn_instruments.facts import Statement

_COMMENT = ("#", "%", "!", ";", "//")
_MISSING = {"", "nan", "indef", "null", "none", "--", "inf", "-inf", "+inf"}
_MOST_BYTES = 2**28
_BROKEN = 1e-3  # of the lines may be broken
_HEADER_LINES = 40  # lines without numbers that may stand before the data


class ColumnText(Reader):
    """Two or three columns, or more with names; whitespace, comma, semicolon or tab between them.

    The benchmark library (``waveobs flux err`` in nm, flux 0 where there are no data) is an example.
    Decimal commas are understood where semicolons, tabs or blanks separate the columns. A third column of
    integers that repeat is an order number."""

    def recognises(self, path: Path) -> bool:
        with unpacked(path) as (file, _):
            start = file.read(65536)
        text = decode(start)
        if "\0" in text:
            return False
        lines = text.splitlines()
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
        data = parse_numbers(lines, layout.first, layout.delimiter, layout.decimal_comma)
        columns = _columns(layout, data)
        units = _units(layout)
        if columns.wavelength < len(units) and units[columns.wavelength]:
            columns = attrs.evolve(columns, unit=units[columns.wavelength])
        if layout.names:
            check_flux(layout.names[columns.flux], units[columns.flux] if units else None)
        data, n_merged = _merge_seams(data, columns)
        data, order = _by_order(data, columns)
        wave = data[:, columns.wavelength]

        def column(i: int | None, power: float) -> np.ndarray | None:
            if i is None:
                return None
            return data[:, i] * (of_one_kind(units[i], units[columns.flux], power) if units else 1.0)

        flux, sigma, mask = pixels(
            data[:, columns.flux],
            relative=columns.relative,
            sigma=column(columns.sigma, 1.0),
            variance=column(columns.variance, 2.0),
            ivar=column(columns.ivar, -2.0),
            quality=[data[:, i] for i in columns.quality if i not in columns.unsure],
            unsure=[data[:, i] for i in columns.unsure],
            good=[data[:, i] for i in columns.good],
        )
        if columns.unknown or columns.unused:
            names = ", ".join((*columns.unknown, *columns.unused))
            say(f"the columns {names} are not understood and left out (docs/files.md has the names)")
        stated = [] if columns.medium is None else [Statement(columns.medium, "the name of the column")]
        named = medium_in(columns.unit or "")
        if named is not None:
            stated.append(Statement(named, "the unit of the column"))
        bare = without_medium(columns.unit)
        if columns.medium is None and bare and not is_length(bare):
            stated.append(Statement("vacuum", "the unit of the column"))
        frame = None if columns.frame is None else Statement(columns.frame, "the name of the column")
        headers = (_keywords(layout.header),)
        medium, doubt = facts.medium(headers, stated, layout.header)
        if doubt:
            say(doubt)
        with np.errstate(over="ignore"):
            angstrom = from_logarithm(wave) if columns.logarithm else to_angstrom(wave, columns.unit)
        piece = Piece(angstrom, flux, sigma, mask, headers, fewest_orders=3)
        pieces = [piece] if order is None else [_part(piece, order == number) for number in np.unique(order)]
        yield from assemble(
            path,
            pieces,
            medium=medium,
            frame=frame,
            columns={"merged_pixels": [n_merged]} if n_merged else None,
        )


_ECSV = re.compile(r"^#\s*- \{name: (.*?), (?:unit: (.*?), )?datatype:")


def _units(layout: Layout) -> list[str]:
    """The units of the columns of an ECSV table, blank where one has none; nothing for other text."""
    found = [match for match in map(_ECSV.match, layout.header) if match]
    names = [match[1].strip("'\"") for match in found]
    if not layout.names or names != list(layout.names):
        return []
    return [(match[2] or "").strip("'\"") for match in found]


def _part(piece: Piece, rows: np.ndarray) -> Piece:
    return attrs.evolve(
        piece,
        wavelength=piece.wavelength[rows],
        flux=piece.flux[:, rows],
        sigma=None if piece.sigma is None else piece.sigma[:, rows],
        mask=piece.mask[:, rows],
        is_order=True,
    )


def _by_order(data: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows that belong to an order, and its number in each; None where no column has it."""
    if columns.order is None:
        return data, None
    order = data[:, columns.order]
    if len(np.unique(order[np.isfinite(order)])) < 2:
        return data, None
    keep = np.isfinite(order)
    return data[keep], order[keep]


_KEYWORD = re.compile(r"^[\s#%!;/*]*([A-Za-z][\w -]{0,30}?)\s*[=:]\s*(.+?)\s*(?:/.*)?$")
_HEADER_KEYS = {
    "object": "OBJECT", "star": "OBJECT", "target": "OBJECT", "specsys": "SPECSYS", "frame": "SPECSYS",
    "rv": "RV", "radvel": "RADVEL", "vrad": "VRAD", "mjd": "MJD-OBS", "mjd-obs": "MJD-OBS", "ra": "RA",
    "exptime": "EXPTIME", "dec": "DEC", "vacuum": "VACUUM", "airorvac": "AIRORVAC", "medium": "MEDIUM",
    "instrument": "INSTRUME", "instrume": "INSTRUME", "date-obs": "DATE-OBS", "spec_res": "SPEC_RES",
    "prog_id": "PROG_ID",
}  # fmt: skip


def _keywords(lines: Sequence[str]) -> dict[str, Any]:
    """Cards of a header from lines such as ``# OBJECT = HD 1``."""
    cards: dict[str, Any] = {}
    for line in lines:
        match = _KEYWORD.match(line)
        key = _HEADER_KEYS.get(match[1].strip().lower()) if match else None
        if match and key and key not in cards:
            word = match[2].strip().strip("'\"").strip()
            number = _value(word.split()[0]) if word else None
            cards[key] = number if number is not None and key not in ("OBJECT", "RA", "DEC") else word
    return cards


def _merge_seams(data: np.ndarray, columns: Columns) -> tuple[np.ndarray, int]:
    """Average the two rows of a wavelength that stands twice where two pieces were joined.

    Programs that write a spectrum piece by piece repeat the pixel at the seam. That is harmless and is
    distinguished from a defect by three criteria: the two rows are neighbours, the step after them is as
    before, and less than one row in 1000 is concerned. Everything else stays, to be refused with the other
    duplicates.
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
    if columns.order is not None and (data[at, columns.order] != data[at + 1, columns.order]).any():
        return data, 0
    if columns.sigma is not None:  # of the mean of two
        merged[at, columns.sigma] = 0.5 * np.hypot(data[at, columns.sigma], data[at + 1, columns.sigma])
    return np.delete(merged, at + 1, axis=0), int(at.size)


@attrs.frozen
class Layout:
    """Where the numbers begin (line from 0), their separator, and the header."""

    first: int
    delimiter: str | None
    names: tuple[str, ...]
    n_columns: int
    decimal_comma: bool
    header: tuple[str, ...]


def decode(content: bytes) -> str:
    """Text in UTF-8, UTF-16 (with its mark, or by its zero bytes) or Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content[: len(content) // 2 * 2].decode("utf-16", "replace")
    start = content[:400]
    for odd, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) > 8 and b"\0" not in start[1 - odd :: 2] and set(start[odd::2]) == {0}:
            return content[: len(content) // 2 * 2].decode(name, "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_lines(path: Path) -> list[str]:
    with unpacked(path) as (file, size):
        if size > _MOST_BYTES:
            raise ReadError(f"text of {size} bytes: expected at most {_MOST_BYTES}, or FITS")
        text = decode(file.read())
    if "\0" in text:
        raise ReadError("binary data: expected text")
    return text.splitlines()


def parse_numbers(
    lines: list[str], first: int, delimiter: str | None, decimal_comma: bool = False
) -> np.ndarray:
    """``(n_rows, n_columns)`` float64; an error names the first line that is not like the others.

    Among many lines a few broken ones, if not the last (as in a truncated file), are skipped,
    with a ``SpectrumWarning``.
    """
    comments = [mark for mark in _COMMENT if mark != delimiter]
    if not decimal_comma:
        try:
            return np.loadtxt(
                lines[first:], delimiter=delimiter, comments=comments, ndmin=2, dtype=np.float64
            )
        except ValueError:
            pass  # missing values, Fortran exponents, or a defect that deserves its line number
    rows: list[list[float]] = []
    broken: list[tuple[int, str]] = []
    last = 0
    for number, line in enumerate(lines[first:], start=first + 1):
        words = _words(line, delimiter)
        if not words:
            continue
        values = [_value(word.replace(",", ".") if decimal_comma else word) for word in words]
        last = number
        if None in values:
            broken.append((number, f"line {number} is not made of numbers: {line.strip()[:60]!r}"))
        elif rows and len(values) != len(rows[0]):
            broken.append(
                (
                    number,
                    f"line {number} has {len(values)} columns, the lines before it {len(rows[0])}: "
                    "truncated?",
                )
            )
        else:
            rows.append(values)  # type: ignore[arg-type]
        if len(broken) > max(1, len(rows) * _BROKEN) and number - first > 1 / _BROKEN:
            raise ReadError(broken[0][1])
    if broken:
        if len(rows) * _BROKEN < len(broken) or broken[-1][0] == last:
            raise ReadError(broken[0][1])
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        say(f"{broken[0][1]}{more}: left out")
    return np.array(rows)


def _value(word: str) -> float | None:
    """A number (R puts quotes around some), NaN for a missing one, None for anything else."""
    word = word.strip("\"'")
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
        delimiter = (
            ";" if ";" in line.strip()[1:] else next((mark for mark in (",", "\t") if mark in line), None)
        )
        comma = False
        if delimiter in (";", "\t", ",") and re.search(r"\d,\d", line) and "." not in line:
            # 5000,1 0,9: no comma can separate columns beside blanks, tabs or semicolons
            blank = line.split()
            if delimiter in (";", "\t"):
                comma = True
            elif len(blank) > 1 and all(
                re.fullmatch(r"[-+]?\d+(,\d+)?([eEdD][-+]?\d+)?", word) for word in blank
            ):
                comma, delimiter = True, ("\t" if "\t" in line else None)
        if delimiter == "\t" and len(line.split()) == len(line.strip().split("\t")):
            delimiter = None
        words = _words(line, delimiter)
        numbers = [_value(word.replace(",", ".") if comma else word) for word in words]
        if len(words) > 1 and all(value is not None for value in numbers) and numbers[0] == numbers[0]:
            following = [
                w for w in (_words(text, delimiter) for text in lines[number + 1 : number + 20]) if w
            ]
            if comma and following:
                following = [[word.replace(",", ".") for word in w] for w in following]
            if not following or len(following[0]) != len(words) or _value(following[0][0]) is None:
                return None
            return Layout(
                number,
                delimiter,
                _names(header, delimiter, len(words)),
                len(words),
                comma,
                tuple(header),
            )
        if words and len([h for h in header if not h.lstrip().startswith(_COMMENT)]) >= _HEADER_LINES:
            return None
        header.append(line)
    return None


def _names(header: list[str], delimiter: str | None, n: int) -> tuple[str, ...]:
    """Column names from the last line of the header that has as many words as there are columns."""
    for line in reversed(header):
        for words in _words_of_header(line, delimiter, n):
            if Columns.identify(words):
                return words
    return ()


def _words_of_header(line: str, delimiter: str | None, n: int) -> Iterator[tuple[str, ...]]:
    """The words of a line, where there are ``n``, by each separator that they may have."""
    line = re.sub(r"^[ #%!;/]+", "", line)  # not the tab before the names that pandas gives beside an index
    line = re.sub(r"\s+(?=[\[(])", "", line)  # "wave [nm]" is one name
    for separator in (delimiter, "\t", None, ","):
        words = tuple(word.strip().strip("\"'") for word in line.rstrip("\n").split(separator))
        if len(words) == n:
            yield words


def _columns(layout: Layout, data: np.ndarray) -> Columns:
    named = Columns.identify(layout.names) if layout.names else None
    if named is not None:
        return named
    n = data.shape[1]
    if n in (3, 4) and len(data) > 20:
        for column in range(n - 1, 1, -1):  # a column of a few integers, in runs, counts orders
            values = data[:, column]
            whole = np.isfinite(values).all() and (values == np.round(values)).all()
            kinds = np.unique(values) if whole else np.empty(0)
            changes = np.count_nonzero(np.diff(values)) if whole else 0
            if 1 < kinds.size <= 200 and changes == kinds.size - 1 and len(data) / kinds.size >= 20:
                rest = [i for i in range(1, n) if i != column]
                return Columns(0, rest[0], rest[1] if len(rest) > 1 else None, order=column)
    if n in (3, 4) and len(data) > 20:  # the index that pandas writes
        count = data[:, 0] - data[0, 0]
        if data[0, 0] in (0, 1) and (count == np.arange(len(data))).all():
            return Columns(1, 2, 3 if n == 4 else None)
    if n > 3:
        raise ReadError(
            f"{n} columns without known names: expected wavelength, flux and error, or a first line with "
            "names such as wavelength, flux, error"
        )
    if n == 3:
        third = data[:, 2]
        hint = next(
            (words[2] for line in reversed(layout.header) for words in _words_of_header(line, None, 3)), ""
        )
        role = role_of(hint)[0]
        if role in (Role.VARIANCE, Role.IVAR):
            return Columns(0, 1, variance=2) if role is Role.VARIANCE else Columns(0, 1, ivar=2)
        if role is Role.OTHER:
            say(f"the third column is {hint} by the line above the numbers, and no error: left out")
            return Columns(0, 1)
        if role in (Role.QUALITY, Role.GOOD):
            which: dict[str, Any] = {"quality" if role is Role.QUALITY else "good": (2,)}
            return Columns(0, 1, **which)
        if len(data) > 20 and (third == np.round(third)).all() and 0.5 < (third == 0).mean() < 1.0:
            say("the third column holds whole numbers that are mostly 0: taken for flags of bad pixels")
            return Columns(0, 1, quality=(2,))
        flux, error = (
            np.nanmedian(np.abs(data[:, i])) if np.isfinite(data[:, i]).any() else 0.0 for i in (1, 2)
        )
        if error > 3.0 * flux > 0:  # for example the absolute flux that Turbospectrum writes there
            raise ReadError(
                f"the third column (median {error:g}) cannot be the error of the flux (median {flux:g}): "
                "remove it, or name the columns in the first line"
            )
    return Columns(0, 1, 2 if n == 3 else None)
