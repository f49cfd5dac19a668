"""FITS tables that hold a wavelength for every pixel: one row per pixel, or one row per spectrum or order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import open_fits
from specinn.wavelengths import is_length
from specinn_instruments import facts
from specinn_instruments.batches import MOST_PIXELS, Piece, assemble, pixels, say
from specinn_instruments.columns import (
    Columns,
    check_flux,
    from_logarithm,
    medium_in,
    of_one_kind,
    relative_in,
    to_angstrom,
    without_medium,
)
from specinn_instruments.facts import Header, Statement
from specinn_instruments.headers import column_names, headers, is_table, ucd_medium


class FitsTable(Reader):
    """Columns known by their names: PolarBase (AWAV, FLUX_NOR), specutils' tabular-fits and many others.

    Orders, arms and stars may be rows of a table or tables of their own.
    """

    def recognises(self, path: Path) -> bool:
        return any(is_table(h) and Columns.identify(column_names(h)) is not None for h in headers(path))

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        pieces: list[Piece] = []
        medium: Statement | None = None
        frame: Statement | None = None
        left_out: list[str] = []
        with open_fits(path) as hdus:
            for number, hdu in enumerate(hdus):
                columns = Columns.identify(column_names(hdu.header)) if is_table(hdu.header) else None
                if columns is None:
                    if hdu.is_image and hdu.shape and hdu.header.get("EXTNAME"):
                        left_out.append(f"{hdu.name} (image)")
                    continue
                both = (hdu.header, hdus[0].header)
                medium = same_medium(medium, table_medium(hdu.header, columns, both))
                unit = str(hdu.header.get(f"TUNIT{columns.wavelength + 1}", "")) or columns.unit
                pieces += table_pieces(
                    hdu.data, columns, unit, both, hdu.name or str(number), column_units(hdu.header)
                )
                frame = frame or table_frame(columns)
        if not pieces:
            raise ReadError("no table with columns of wavelength and flux (for example WAVE and FLUX)")
        if left_out:
            say(f"the extensions {', '.join(left_out)} are left out: the spectra are in tables")
        yield from assemble(path, pieces, medium=medium, frame=frame)


def same_medium(before: Statement | None, its: Statement) -> Statement:
    """The medium of a table that is one of several. Raises ``ReadError`` where it is not that of those
    ``before``."""
    if before is not None and its.value != before.value:
        raise ReadError(
            f"the tables of the file are in {before.value} ({before.source}) and in {its.value} "
            f"({its.source}): split the file, or state one with --medium"
        )
    return its


def column_units(header: fits.Header) -> list[str]:
    """TUNITn of a table, in order; blank where a column has none."""
    return [str(header.get(f"TUNIT{i + 1}", "")).strip() for i in range(len(column_names(header)))]


def table_frame(columns: Columns) -> Statement | None:
    """The frame, where the name of the wavelengths says it."""
    return None if columns.frame is None else Statement(columns.frame, f"the column {columns.said_by}")


def table_medium(header: fits.Header, columns: Columns, both: Sequence[Header]) -> Statement:
    """Air or vacuum by the name and the UCD of the column, else by the headers; says where they disagree."""
    name = column_names(header)[columns.wavelength]
    unit = str(header.get(f"TUNIT{columns.wavelength + 1}", ""))
    stated = []
    named = medium_in(unit)
    if named is not None:
        stated.append(Statement(named, f"the unit of {name}"))
    if columns.medium is not None:
        stated.append(Statement(columns.medium, f"the column {columns.said_by or name}"))
    elif not is_length(without_medium(unit) or ""):
        stated.append(Statement("vacuum", f"the unit of {name}"))
    ucd = ucd_medium(header, columns.wavelength)
    if ucd is not None:
        stated.append(Statement(ucd, f"the UCD of {name}"))
    medium, doubt = facts.medium(both, stated)
    if doubt:
        say(doubt)
    return medium


def table_pieces(
    data: Any,
    columns: Columns,
    unit: str | None,
    both: Sequence[Header],
    name: str,
    units: Sequence[str] = (),
) -> list[Piece]:
    """The spectra or orders of a table: one of scalar columns, or one for each row of vectors.

    ``unit`` is that of the wavelengths, ``units`` are those of all columns, as the header has them."""
    _check_table(data, columns)
    check_flux(data.names[columns.flux], units[columns.flux] if units else None)
    relative = columns.relative
    if units and columns.sigma is not None and relative is None:
        relative = relative_in(data.names[columns.sigma], data.names[columns.flux], units[columns.sigma])

    def rows(column: int | None) -> list[np.ndarray] | None:
        return None if column is None else _rows(data, column, columns)

    wave, flux = rows(columns.wavelength), rows(columns.flux)
    assert wave is not None and flux is not None
    _check_sizes(wave, flux)
    errors = {}
    for what, power in (("sigma", 1.0), ("variance", 2.0), ("ivar", -2.0)):
        column = getattr(columns, what)
        errors[what] = each = rows(column)
        if units and each is not None and relative is None:
            factor = of_one_kind(units[column], units[columns.flux], power)
            errors[what] = each if factor == 1.0 else [factor * row for row in each]
    quality = [rows(column) for column in columns.quality if column not in columns.unsure]
    unsure = [rows(column) for column in columns.unsure]
    good = [rows(column) for column in columns.good]
    objects = _objects(data, len(wave), both)
    order = rows(columns.order)
    is_order = (
        order is not None and len(wave) > 1 and len(order) == 1 and len(np.unique(order[0])) == len(wave)
    )
    pieces = []
    for i, raw in enumerate(wave):
        if raw.size < 2:
            continue
        if flux[i].size != raw.size:
            raise ReadError(f"flux has {flux[i].size} pixels, wavelength {raw.size}: they must agree")
        f, s, m = pixels(
            flux[i],
            quality=[q[i] for q in quality if q is not None],
            good=[q[i] for q in good if q is not None],
            unsure=[q[i] for q in unsure if q is not None],
            relative=relative,
            **{what: None if values is None else values[i] for what, values in errors.items()},
        )
        angstrom = _in_angstrom(np.asarray(raw, float), unit, logarithm=columns.logarithm)
        pieces.append(Piece(angstrom, f, s, m, both, name, objects[i], is_order))
    return pieces


def _check_table(data: Any, columns: Columns) -> None:
    """Refuse what is no table of pixels, and say which of its columns are not understood."""
    if data is not None and not isinstance(data, fits.FITS_rec):
        raise ReadError("the header of a table lies within another one: expected it at the start of an HDU")
    if data is None or not len(data):
        raise ReadError("the table of the spectrum has no rows")
    vectors = [n for n in (*columns.unknown, *columns.unused) if _is_per_pixel(data, n, columns)]
    if vectors:
        names = ", ".join(vectors)
        say(f"the columns {names} are not understood and left out (docs/files.md has the names)")


def _check_sizes(wave: Sequence[np.ndarray], flux: Sequence[np.ndarray]) -> None:
    longest = max((row.size for row in wave), default=0)
    if not longest:
        raise ReadError("the table of the spectrum has no rows")
    if len(wave) != len(flux):
        raise ReadError(f"there are {len(wave)} rows of wavelengths for {len(flux)} of flux: they must agree")
    if longest > MOST_PIXELS:
        raise ReadError(f"{longest} pixels in one spectrum: expected at most {MOST_PIXELS}")


def _rows(data: Any, column: int, columns: Columns) -> list[np.ndarray]:
    """A column of numbers, an array for each spectrum or order: one of a column of scalars."""
    values = data.field(column)
    null = data.columns[column].null  # integers have no NaN
    if null is not None and column not in (*columns.quality, *columns.good):
        values = np.where(np.asarray(data.field(column)) == null, np.nan, values)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.dtype.kind not in "biuf":
            raise ReadError(f"the column {data.names[column]} does not hold numbers")
        return [np.asarray(values)] if values.ndim == 1 else list(values.reshape(len(values), -1))
    return [np.ravel(np.asarray(row)) for row in values]  # of variable length


def _in_angstrom(raw: np.ndarray, unit: str | None, *, logarithm: bool) -> np.ndarray:
    """Wavelengths in Angstrom; NaN for those that are no positive numbers."""
    angstrom = np.full(raw.shape, np.nan)
    real = np.isfinite(raw) & (raw > 0)
    with np.errstate(over="ignore"):
        angstrom[real] = from_logarithm(raw[real]) if logarithm else to_angstrom(raw[real], unit)
    return angstrom


def _is_per_pixel(data: Any, name: str, columns: Columns) -> bool:
    """Whether a column has a value for each pixel: of vectors, or scalars where the flux is so."""
    if name not in data.names:
        return False
    flux, other = np.asarray(data.field(columns.flux)), np.asarray(data.field(name))
    return other.shape == flux.shape and other.dtype.kind in "biufO"


def _objects(data: Any, n: int, both: Sequence[Header]) -> list[str]:
    """The object of each row where a column has it, else that of the header for all."""
    for name in data.names:
        if (
            name.upper() in ("OBJECT", "OBJ_NME", "OBJNAME", "STAR", "NAME", "TARGET", "OBJ_UID", "ID")
            and n > 1
        ):
            values = data.field(name)
            if len(values) == n and np.ndim(values) == 1:
                return [str(value).strip() for value in values]
    return [facts.text(both, "OBJECT") or ""] * n
