"""4MOST level 1: a file of one spectrum, and a file of many.

Layouts: the header of a level-1 sample for the first; for the second the extensions OBMETATAB, SPECTAB and
FIBMETATAB, with one row per fibre and the wavelengths in the WCS keywords of the vector column FLUX.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import let_go, open_fits
from specinn.wavelengths import doppler
from specinn_instruments import facts
from specinn_instruments.batches import make_batch, say
from specinn_instruments.columns import to_angstrom
from specinn_instruments.eso import EsoTable
from specinn_instruments.facts import Header, Statement, identifier, number, resolving_power
from specinn_instruments.headers import column_names, headers, is_table

BATCH = 32  # spectra; 13 MB of doubles at 14 000 pixels
_IDS = ("OBJ_UID", "SPECUID", "OBJ_NME")
_HRS = 3  # FIB_ROOT of a fibre of the high-resolution spectrograph


class SingleSpectrum(EsoTable):
    """INSTRUME QMOST and extension PHASE3SPECTRUM; otherwise an ESO data product. Any FIB_ROOT is read."""

    def recognises(self, path: Path) -> bool:
        hdus = headers(path)
        return (
            bool(hdus)
            and str(hdus[0].get("INSTRUME", "")).strip() == "QMOST"
            and any(str(h.get("EXTNAME", "")).strip().upper() == "PHASE3SPECTRUM" for h in hdus)
            and super().recognises(path)
        )

    def _ids(self, both: Sequence[Header]) -> list[str] | None:
        for key in ("OBJ_UID", "TRG_UID", "SPECUID", "OBJ_NME", "TRG_NME", "CNAME"):
            for header in both:
                name = identifier(header.get(key))
                if name:
                    return [name]
        return None


class MultiSpectrum(Reader):
    """One row per fibre, sky fibres included (``fib_use`` in ``meta`` where the file tells them apart)."""

    def recognises(self, path: Path) -> bool:
        return any(_is_spectra(h) for h in headers(path))

    def count(self, path: Path) -> int | None:
        return next((int(h["NAXIS2"]) for h in headers(path) if _is_spectra(h)), None)

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        return self.read_rows(path, 0, None)

    def read_rows(self, path: Path, start: int, stop: int | None) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            table = next((hdu for hdu in hdus if _is_spectra(hdu.header)), None)
            if table is None:
                raise ReadError(
                    "no table of vectors FLUX and FLUX_IVAR (or ERR_FLUX), as in 4MOST level-1 files"
                )
            data = table.data
            fibres = _fibres(hdus, data)
            both = (table.header, hdus[0].header)
            n_spec = len(data)
            n_pix = int(np.prod(data["FLUX"].shape[1:]))
            wavelength, stated = _wavelength(table.header, n_pix)
            medium, doubt = facts.medium(both, stated)
            if doubt:
                say(doubt)
            frame, velocity = facts.frame(both)
            wavelength = doppler(wavelength, velocity)
            power = _resolving_power(both, fibres, wavelength)
            error = _error_column(column_names(table.header))
            ids = _identities(path, data, fibres, n_spec)
            columns = _meta_columns(data, fibres)

            end = n_spec if stop is None else min(stop, n_spec)
            for first in range(start, end, BATCH):
                rows = slice(first, min(first + BATCH, end))

                def vectors(name: str, rows: slice = rows) -> Any:
                    return (
                        data[name][rows].reshape(rows.stop - rows.start, -1) if name in data.names else None
                    )

                yield make_batch(
                    path,
                    wavelength,
                    vectors("FLUX"),
                    ivar=vectors(error) if error == "FLUX_IVAR" else None,
                    sigma=vectors(error) if error != "FLUX_IVAR" else None,
                    quality=[values for values in (vectors("QUAL"),) if values is not None],
                    resolving_power=power,
                    medium=medium,
                    frame=frame,
                    headers=both,
                    ids=ids[rows],
                    columns={name: values[rows] for name, values in columns.items()},
                )
                let_go(data)


def _is_spectra(header: fits.Header) -> bool:
    names = column_names(header) if is_table(header) else []
    if "FLUX" not in names or _error_column(names) == "" or "WAVE" in names or "WAVELENGTH" in names:
        return False
    form = str(header.get(f"TFORM{names.index('FLUX') + 1}", "")).strip()
    return form[:-1].isdigit() and int(form[:-1]) > 1


def _error_column(names: Sequence[str]) -> str:
    return next((name for name in ("FLUX_IVAR", "ERR_FLUX", "ERR") if name in names), "")


def _wavelength(header: fits.Header, n_pix: int) -> tuple[np.ndarray, list[Statement]]:
    """``(n_pix,)`` Angstrom from the WCS of the vector column, or of the image that it once was."""
    n = column_names(header).index("FLUX") + 1

    def key(*names: str) -> float | None:
        return number([header], *(name.replace("#", str(i)) for name in names for i in (n, 1)))

    first, step = key("1CRVL#", "CRVAL1"), key("1CDLT#", "CD1_1", "CDELT1")
    if first is None or not step:
        raise ReadError(
            f"no wavelength: the table of spectra has neither 1CRVL{n} and 1CDLT{n} nor CRVAL1 and CDELT1"
        )
    reference = key("1CRPX#", "CRPIX1")
    values = first + (np.arange(1, n_pix + 1) - (1.0 if reference is None else reference)) * step
    units = (header.get(name) for name in (f"1CUNI{n}", "1CUNI1", "CUNIT1"))
    unit = next((str(value) for value in units if value), None)
    types = (str(header.get(name, "")).strip().upper() for name in (f"1CTYP{n}", "1CTYP1", "CTYPE1"))
    words = {"AWAV": "air", "WAVE": "vacuum", "VWAV": "vacuum"}
    stated = [Statement(words[kind], f"the axis type {kind}") for kind in types if kind in words]
    return to_angstrom(values, unit), stated


def _fibres(hdus: fits.HDUList, data: Any) -> Any:
    """The rows of FIBMETATAB that belong to the rows of the spectra, matched by SPECUID; None without."""
    table = next((hdu.data for hdu in hdus if hdu.name == "FIBMETATAB"), None)
    if table is None:
        return None
    if "SPECUID" in table.names and "SPECUID" in data.names:
        index = {identifier(value): i for i, value in enumerate(table["SPECUID"])}
        wanted = [identifier(value) for value in data["SPECUID"]]
        if "" not in wanted and len(index) == len(table) and all(name in index for name in wanted):
            return table[[index[name] for name in wanted]]
    if len(table) != len(data):
        raise ReadError(
            f"FIBMETATAB has {len(table)} rows for {len(data)} spectra and SPECUID does not match them"
        )
    return table


def _column(name: str, *tables: Any) -> Any:
    return next((table[name] for table in tables if table is not None and name in table.names), None)


def _identities(path: Path, data: Any, fibres: Any, n: int) -> list[str]:
    columns = [column for column in (_column(name, data, fibres) for name in _IDS) if column is not None]
    rows = zip(*columns, strict=True) if columns else ((),) * n
    names = [next((name for name in map(identifier, row) if name), "") for row in rows]
    return [name or f"{path.stem}#{i}" for i, name in enumerate(names)]


def _meta_columns(data: Any, fibres: Any) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    wanted: dict[str, tuple[str, type]] = {
        "object": ("OBJ_NME", str),
        "specuid": ("SPECUID", str),
        "obj_uid": ("OBJ_UID", str),
        "obj_nme": ("OBJ_NME", str),
        "trg_uid": ("TRG_UID", str),
        "trg_nme": ("TRG_NME", str),
        "ra": ("FIB_RA", float),
        "dec": ("FIB_DEC", float),
        "fib_use": ("FIB_USE", int),
        "snr_header": ("SNR", float),
    }
    for name, (key, kind) in wanted.items():
        values = _column(key, data, fibres)
        if values is not None:
            columns[name] = (
                np.array([str(v).strip() for v in values]) if kind is str else np.asarray(values, dtype=kind)
            )
    return columns


def _resolving_power(both: Sequence[Header], fibres: Any, wavelength: np.ndarray) -> float | None:
    """SPEC_RES of the header, else the median over the fibres, else from their FWHM in Angstrom (RESOL).

    None (the instrument's) only for the high-resolution spectrograph, for which it is right.
    """
    stated = resolving_power(both)
    if stated is not None:
        return stated
    for key in ("SPEC_RES", "RESOL"):
        values = _column(key, fibres)
        if values is not None:
            real = np.asarray(values, dtype=float)
            real = real[np.isfinite(real) & (real > 0)]
            if real.size:
                middle = float(np.median(real))
                return middle if key == "SPEC_RES" else float(np.median(wavelength)) / middle
    root = _column("FIB_ROOT", fibres)
    if root is not None and (np.asarray(root) != _HRS).any():
        raise ReadError(
            "low-resolution fibres (FIB_ROOT is not 3) and no resolving power: add SPEC_RES to the header"
        )
    return None
