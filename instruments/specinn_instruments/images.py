"""FITS images with a wavelength axis: IRAF, iSpec and the benchmark library, UVES-POP, atlases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from specinn.errors import ReadError
from specinn.instruments import Medium
from specinn.plugins.interfaces import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import open_fits
from specinn_instruments.batches import make_batch, number, resolving_power, stated_medium
from specinn_instruments.columns import to_angstrom
from specinn_instruments.headers import headers

_SIGMA = ("ERR", "ERRS", "ERROR", "ERRORS", "SIGMA", "STDDEV", "STD", "UNCERT", "UNCERTAINTY", "NOISE")
_VARIANCE = ("VAR", "VARIANCE")
_IVAR = ("IVAR", "INVVAR")
_MASK = ("MASK", "QUAL", "QUALITY", "DQ")
_WAVE = ("WAVE", "WAVELENGTH", "LAMBDA", "WAVEOBS")
_NOT_FLUX = (*_SIGMA, *_VARIANCE, *_IVAR, *_MASK, *_WAVE)
# CTYPE1 that means wavelength; AWAV says air and WAVE vacuum (FITS standard, table 25), the others neither
# fmt: off
_WAVELENGTH_TYPES = ("", "AWAV", "WAVE", "LINEAR", "LAMBDA", "WAVELENGTH", "WAVELENG", "ANGSTROM",
                     "ANGSTROMS", "NM", "AWAV-LOG", "WAVE-LOG", "LOG-LINEAR", "LOGLAM", "PIXEL", "PIXELS")
# fmt: on
_BATCH = 256


class FitsImage(Reader):
    """One spectrum ``(n_pix,)`` or ``(n_spec, n_pix)`` in the first image; errors in an extension."""

    def recognises(self, path: Path) -> bool:
        first = next(
            (h for h in headers(path) if _n_axes(h) or h.get("XTENSION", "").strip() == "BINTABLE"), None
        )
        if (
            first is None
            or first.get("XTENSION", "").strip() == "BINTABLE"
            or _ctype(first) not in _WAVELENGTH_TYPES
        ):
            return False
        # two axes could be any picture: there the header must speak of wavelengths
        waves = any(h.get("EXTNAME", "").strip().upper() in _WAVE for h in headers(path))
        return _n_axes(first) == 1 or (_n_axes(first) == 2 and (waves or _reference(first) is not None))

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            hdu = next((h for h in hdus if h.is_image and h.shape and h.name.upper() not in _NOT_FLUX), None)
            if hdu is None:
                raise ReadError("no image of a spectrum")
            flux = _rows(hdu)
            extensions = {h.name.upper(): h for h in hdus if h.is_image and h.shape and h is not hdu}
            both = (hdu.header, hdus[0].header)
            wavelength, medium = _wavelength(hdu.header, flux.shape[1], extensions)
            sigma, variance, ivar, mask = (
                _find(extensions, names) for names in (_SIGMA, _VARIANCE, _IVAR, _MASK)
            )
            for what, values in (
                ("error", sigma),
                ("variance", variance),
                ("inverse variance", ivar),
                ("mask", mask),
            ):
                if values is not None and values.shape != flux.shape:
                    raise ReadError(
                        f"the {what} extension has shape {values.shape}, flux {flux.shape}: they must agree"
                    )
            for start in range(0, len(flux), _BATCH):
                rows = slice(start, start + _BATCH)
                error = None if sigma is None else sigma[rows]
                if error is None and variance is not None:
                    error = np.sqrt(np.clip(variance[rows], 0.0, None))
                n = len(flux[rows])
                yield make_batch(
                    path,
                    wavelength,
                    flux[rows],
                    sigma=error,
                    ivar=None if ivar is None else ivar[rows],
                    quality=None if mask is None else mask[rows],
                    resolving_power=resolving_power(both),
                    medium=medium,
                    headers=both,
                    ids=None if len(flux) == 1 else [f"{path.stem}#{start + i}" for i in range(n)],
                )


def _n_axes(header: fits.Header) -> int:
    """Axes longer than 1; 0 for an HDU without image."""
    if header.get("XTENSION", "IMAGE").strip() != "IMAGE":
        return 0
    sizes = [int(header.get(f"NAXIS{i + 1}", 0)) for i in range(int(header.get("NAXIS", 0)))]
    return sum(size > 1 for size in sizes)


def _ctype(header: fits.Header) -> str:
    return str(header.get("CTYPE1", "")).strip().upper()


def _rows(hdu: Any) -> np.ndarray:
    data = np.squeeze(np.asarray(hdu.data))
    if data.ndim not in (1, 2):
        raise ReadError(f"the image has shape {hdu.shape}: expected (n_pix,) or (n_spec, n_pix)")
    return np.atleast_2d(data)


def _find(extensions: dict[str, Any], names: tuple[str, ...]) -> np.ndarray | None:
    return next((_rows(extensions[name]) for name in names if name in extensions), None)


def _reference(header: fits.Header) -> tuple[float, float, float] | None:
    """Value, step and pixel (from 1) of the axis; an absent CRPIX1 is 1, as programs that omit it mean."""
    value, step = number([header], "CRVAL1", "COEFF0"), number([header], "CD1_1")
    step = step or number([header], "CDELT1", "COEFF1")
    pixel = number([header], "CRPIX1")
    return None if value is None or not step else (value, step, 1.0 if pixel is None else pixel)


def _wavelength(header: fits.Header, n_pix: int, extensions: dict[str, Any]) -> tuple[np.ndarray, Medium]:
    """``(n_pix,)`` Angstrom, and the medium."""
    kind = _ctype(header)
    unit = _unit(header)
    medium = _medium(header, kind)
    table = _find(extensions, _WAVE)
    if table is not None:
        if len(table) > 1 and (table != table[0]).any():
            raise ReadError("the spectra of this image have different wavelengths: write one file for each")
        return to_angstrom(table[0], unit), medium
    axis = _reference(header)
    if axis is None or kind.startswith("PIXEL"):
        why = "its axis is in pixels" if axis else "the header lacks CRVAL1, or CDELT1 and CD1_1"
        raise ReadError(f"no wavelength for the image of {n_pix} pixels: {why}")
    value, step, pixel = axis
    offset = (np.arange(1, n_pix + 1) - pixel) * step
    logarithmic = number([header], "DC-FLAG") == 1 or kind in ("LOG-LINEAR", "LOGLAM") or "COEFF0" in header
    if logarithmic or (kind.endswith("-LOG") and value < 10):  # log10, of IRAF and SDSS
        if not 0 < value < 10:
            raise ReadError(
                f"the header says log10 of wavelength, but CRVAL1 is {value:g}: expected about 3.7"
            )
        return to_angstrom(10.0 ** (value + offset), unit), medium
    if kind.endswith("-LOG"):  # FITS standard, section 8.4.1: natural, in units of CRVAL1
        return to_angstrom(value * np.exp(offset / value), unit), medium
    return to_angstrom(value + offset, unit), medium


def _unit(header: fits.Header) -> str | None:
    stated = str(header.get("CUNIT1", "")).strip()
    if stated:
        return stated
    if _ctype(header) in ("ANGSTROM", "ANGSTROMS", "NM"):
        return _ctype(header)
    for word in (
        str(header.get("WAT1_001", "")).lower().split()
    ):  # IRAF: wtype=linear label=... units=angstroms
        if word.startswith("units="):
            return word.removeprefix("units=")
    return None


def _medium(header: fits.Header, kind: str) -> Medium:
    if kind.startswith("AWAV"):
        return "air"
    return "vacuum" if kind in ("WAVE", "WAVE-LOG") else stated_medium([header])
