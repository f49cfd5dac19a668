"""Arrays and headers of a file as a SpectrumBatch, by the same rules for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from specinn.errors import ReadError
from specinn.instruments import Medium
from specinn.spectra import SpectrumBatch

# Radial velocity of the star in the barycentric frame, km/s. Not VHELIO, VHELCOR, HELIOCR or BERV, which are
# corrections for the motion of the Earth, and not ESO TEL TARG RADVEL, which is what the observer typed.
_RV_KEYS = ("RV", "RADVEL", "VRAD", "ESO DRS CCF RVC")

Header = Mapping[str, Any]


def make_batch(
    path: Path,
    wavelength: Any,
    flux: Any,
    *,
    sigma: Any = None,
    ivar: Any = None,
    quality: Any = None,
    resolving_power: float | None = None,
    medium: Medium = "air",
    headers: Sequence[Header] = (),
    ids: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    arms: Mapping[str, slice] | None = None,
) -> SpectrumBatch:
    """A batch of ``flux (n_spec, n_pix)`` or ``(n_pix,)`` at ``wavelength (n_pix,)`` Angstrom.

    Masked are pixels of flux exactly 0 (no format has another way to say "no data" that all programs
    keep; measured flux is never exactly 0), of quality other than 0, of inverse variance or error not
    above 0. A spectrum without any positive error has an unknown one: sigma is NaN. Pixels at the ends
    without a wavelength (padding) are dropped. ``headers`` give the velocity of a single spectrum, its
    S/N and object; ``columns`` more columns of ``meta``.
    """
    wavelength = np.asarray(wavelength, dtype=np.float64)
    flux = np.atleast_2d(np.asarray(flux, dtype=np.float64))
    if wavelength.shape != flux.shape[1:]:
        raise ReadError(f"flux has {flux.shape[-1]} pixels, wavelength {wavelength.size}: they must agree")
    mask = flux == 0
    if quality is not None:
        mask |= _like(quality, flux, "quality") != 0
    if ivar is not None:
        weight = _like(ivar, flux, "inverse variance").astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(weight > 0, 1.0 / np.sqrt(weight), np.nan)
        mask |= ~np.isfinite(error)
    elif sigma is not None:
        error = _like(sigma, flux, "error").astype(np.float64)
        with np.errstate(invalid="ignore"):
            error[~(np.isfinite(error) & (error > 0)).any(axis=1)] = np.nan
    else:
        error = np.full_like(flux, np.nan)
    keep = _without_padding(wavelength)
    return SpectrumBatch.from_arrays(
        wavelength[keep], flux[:, keep], error[:, keep], mask[:, keep], medium=medium,
        resolving_power=resolving_power, meta=_meta(path, len(flux), headers, ids, columns), arms=arms or {},
    )  # fmt: skip


def _like(values: Any, flux: np.ndarray, what: str) -> np.ndarray:
    values = np.atleast_2d(np.array(values))
    if values.shape != flux.shape:
        raise ReadError(f"{what} has shape {values.shape}, flux {flux.shape}: they must agree")
    return values


def _without_padding(wavelength: np.ndarray) -> slice:
    real = np.flatnonzero(np.isfinite(wavelength) & (wavelength > 0))
    if not real.size:
        raise ReadError("no wavelength is a positive number")
    return slice(int(real[0]), int(real[-1]) + 1)


def _meta(
    path: Path,
    n: int,
    headers: Sequence[Header],
    ids: Sequence[str] | None,
    columns: Mapping[str, Any] | None,
) -> Table:
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    meta = Table()
    meta["id"] = list(ids) if ids is not None else [stem] if n == 1 else [f"{stem}#{i}" for i in range(n)]
    meta["path"] = [str(path)] * n
    if n == 1:
        found = {
            "object": text(headers, "OBJECT"),
            "snr_header": number(headers, "SNR"),
            "rv": _rv(headers),
        }
        for name, value in found.items():
            if value is not None:
                meta[name] = [value]
    instrument = text(headers, "INSTRUME")
    if instrument is not None:
        meta["instrument_header"] = [instrument] * n
    for name, values in (columns or {}).items():
        meta[name] = values
    return meta


def _rv(headers: Sequence[Header]) -> float | None:
    """The stated velocity in km/s; 0 is what programs write that know none, and counts as not stated."""
    for key in _RV_KEYS:
        value = number(headers, key)
        if value is not None and value != 0 and abs(value) < 1000:
            return value
    return None


def number(headers: Sequence[Header], *keys: str) -> float | None:
    """The first finite number under the keys (first key of all headers, then the next key)."""
    for key in keys:
        for header in headers:
            value = header.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value):
                return float(value)
    return None


def text(headers: Sequence[Header], *keys: str) -> str | None:
    """The first string that is not blank under the keys."""
    for key in keys:
        for header in headers:
            value = header.get(key)
            if isinstance(value, str) and value.strip():
                return value.strip()
    return None


def resolving_power(headers: Sequence[Header]) -> float | None:
    """lambda / FWHM from SPEC_RES (ESO data products); None where it is absent or a placeholder."""
    value = number(headers, "SPEC_RES")
    return value if value is not None and value > 100 else None


def stated_medium(headers: Sequence[Header]) -> Medium:
    """Vacuum if a header says so (VACUUM of SDSS, AIRORVAC of HST), else air."""
    for header in headers:
        if header.get("VACUUM") in (True, 1) or str(header.get("AIRORVAC", "")).strip().lower().startswith(
            "vac"
        ):
            return "vacuum"
    return "air"
