"""IRAF multispec images: echelle orders (or fibres), each with a dispersion function of its own in WAT2.

Source: IRAF, noao.onedspec.specwcs (Valdes 1993, ADASS II, 467).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import open_fits
from specinn_instruments import facts
from specinn_instruments.batches import Piece, assemble, pixels, say
from specinn_instruments.columns import to_angstrom
from specinn_instruments.headers import headers
from specinn_instruments.images import band_names, choose_bands, unit_of

_SPEC = re.compile(r"spec(\d+)\s*=\s*\"([^\"]*)\"")


class IrafMultispec(Reader):
    """MAKEE (HIRES), CarPy (MIKE), ARCES, Subaru HDS, and all that IRAF's ecidentify and dispcor write."""

    def recognises(self, path: Path) -> bool:
        return any(_is_multispec(header) for header in headers(path)[:1])

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            header = hdus[0].header
            if not _is_multispec(header) or not hdus[0].shape:
                raise ReadError("no image of CTYPE1 MULTISPE with dispersions in WAT2, as IRAF writes them")
            data = np.asarray(hdus[0].data, float)
            bands = band_names(header)
            sigma = None
            if data.ndim == 3 and bands:
                data, sigma = choose_bands(data, bands)
            elif data.ndim == 3 and len(data) == 1:
                data = data[0]
            data = np.atleast_2d(data)
            if data.ndim != 2:
                raise ReadError(
                    f"the image has shape {hdus[0].shape} without names of its bands (BANDID1, ...)"
                )
            waves = dispersions(header, *data.shape)
            unit = unit_of(header)
            unit = None if unit == "pixel" else unit
            pieces = []
            without = []
            for i, (flux, wave) in enumerate(zip(data, waves, strict=True)):
                if wave is None:
                    without.append(str(i + 1))
                    continue
                f, s, m = pixels(flux, sigma=None if sigma is None else sigma[i])
                pieces.append(Piece(to_angstrom(wave, unit), f, s, m, (header,), f"spec{i + 1}"))
            if without:
                say(f"the rows {', '.join(without)} have no dispersion and are left out")
            if not pieces:
                raise ReadError(
                    "no row of the image has a dispersion in WAT2: calibrate the wavelengths first"
                )
            medium, doubt = facts.medium((header,))
            if doubt:
                say(doubt)
            yield from assemble(path, pieces, medium=medium)


def _is_multispec(header: fits.Header) -> bool:
    return str(header.get("CTYPE1", "")).strip().upper() == "MULTISPE" and "WAT2_001" in header


def dispersions(header: fits.Header, n_rows: int, n_pix: int) -> list[np.ndarray | None]:
    """Wavelengths ``(n_pix,)`` of every row in the unit of WAT1; None for one that is not calibrated."""
    pieces = []
    number = 1
    while (key := f"WAT2_{number:03d}") in header:
        pieces.append(str(header[key]).ljust(68))  # blanks at the end of a card belong to the text
        number += 1
    specs = {int(index): text for index, text in _SPEC.findall("".join(pieces))}
    scale, offset = facts.number([header], "LTM1_1") or 1.0, facts.number([header], "LTV1") or 0.0
    pixel = (np.arange(1, n_pix + 1) - offset) / scale  # from those of the image to those of the detector
    return [None if i + 1 not in specs else _dispersion(specs[i + 1], i + 1, pixel) for i in range(n_rows)]


def _dispersion(text: str, row: int, pixel: np.ndarray) -> np.ndarray | None:
    try:
        values = [float(re.sub(r"[dD]", "e", word)) for word in text.split()]
        kind, first, step, n_valid, z = int(values[2]), values[3], values[4], int(values[5]), values[6]
        if kind == -1:
            return None
        if kind == 0:
            wave = first + step * (pixel - 1)
        elif kind == 1:
            wave = 10.0 ** (first + step * (pixel - 1))
        elif kind == 2:
            wave = _nonlinear(values[9:], pixel)
        else:
            raise ReadError(f"the dispersion of row {row} is of type {kind}: expected 0, 1 or 2")
    except (ValueError, IndexError, OverflowError, MemoryError):
        raise ReadError(f"the dispersion of row {row} in WAT2 is damaged: {text[:60]!r}") from None
    wave = np.array(wave, float) / (1.0 + z)
    wave[np.arange(1, pixel.size + 1) > (n_valid if 0 < n_valid <= pixel.size else pixel.size)] = np.nan
    return wave


def _nonlinear(values: list[float], pixel: np.ndarray) -> np.ndarray:
    """Sum of functions, each after its weight and offset: w (offset + f(pixel))."""
    total = np.zeros(pixel.size)
    if not values:
        raise ValueError("there is no function")
    at = 0
    while at < len(values):
        weight, offset, kind = values[at], values[at + 1], int(values[at + 2])
        at += 3
        if kind in (1, 2, 3, 4):
            n, low, high = int(values[at]), values[at + 1], values[at + 2]
            at += 3
            count = {1: n, 2: n, 3: n + 3, 4: n + 1}[kind]
            coefficients = np.array(values[at : at + count])
            at += count
            if len(coefficients) != count or not 0 < count < 1000 or high == low:
                raise ValueError("coefficients are missing")
            function = _polynomial if kind < 3 else _spline
            curve = function(kind, coefficients, n, low, high, pixel)
        elif kind in (5, 6):
            n = int(values[at])
            at += 1
            count = n if kind == 5 else 2 * n
            table = np.array(values[at : at + count])
            at += count
            if len(table) != count or n < 2:
                raise ValueError("coordinates are missing")
            x = np.arange(1, n + 1) if kind == 5 else table[::2]
            y = table if kind == 5 else table[1::2]
            curve = np.interp(pixel, x, y, left=np.nan, right=np.nan)
        else:
            raise ValueError(f"function {kind}")
        total += weight * (offset + curve)
    return total


def _polynomial(
    kind: int, coefficients: np.ndarray, n: int, low: float, high: float, pixel: np.ndarray
) -> np.ndarray:
    x = (2.0 * pixel - (high + low)) / (high - low)
    value = np.polynomial.chebyshev.chebval if kind == 1 else np.polynomial.legendre.legval
    return value(x, coefficients)


def _spline(
    kind: int, coefficients: np.ndarray, n: int, low: float, high: float, pixel: np.ndarray
) -> np.ndarray:
    """Cubic (3) or linear (4) spline of ``n`` pieces; the basis of IRAF's curfit."""
    s = (pixel - low) / (high - low) * n
    piece = np.clip(np.floor(s).astype(int), 0, n - 1)
    b = s - piece
    a = 1.0 - b
    if kind == 4:
        return a * coefficients[piece] + b * coefficients[piece + 1]
    basis = (a**3, 1 + 3 * a * (1 + a * b), 1 + 3 * b * (1 + a * b), b**3)
    return sum(coefficients[piece + i] * basis[i] for i in range(4))
