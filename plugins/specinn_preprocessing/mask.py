"""Bad pixels, cosmic rays, sky emission, telluric bands; noise where the file states none."""

from __future__ import annotations

import attrs
import numpy as np

from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.interfaces import Preprocessor, Templates
from specinn.spectra import SpectrumBatch

# Air wavelengths in Angstrom of the observer's frame: [O I] night-sky lines (Osterbrock et al. 1996, PASP
# 108, 277) and the gamma band of telluric O2 (head at 6276 A), where real spectra differ most from models.
SKY_LINES = (5577.34, 6300.30, 6363.78)
TELLURIC_BANDS = ((6276.0, 6318.0),)
_SKY_HALF_WIDTH = 0.6
_SPIKE_SIGMA = 8.0
_SPIKE_LEVEL = 0.25


@attrs.define
class Mask(Preprocessor):
    """Sets ``mask`` on pixels that carry no stellar signal, and ``sigma`` where the reader found none.

    ``sky_lines`` (Angstrom, +-0.6) and ``bands`` are in the observer's frame; spectra come in the barycentric
    frame, at most 30 km/s from it, so the windows are wide enough for strong features and not for more.
    Cosmic rays are pixels 8 sigma and a quarter of the median flux above the median of their 7 neighbours.
    A missing sigma is the scatter of second differences over every arm (as DER_SNR, Stoehr et al. 2008).
    """

    instrument: Instrument
    templates: Templates | None = None
    sky_lines: tuple[float, ...] = SKY_LINES
    bands: tuple[tuple[float, float], ...] = TELLURIC_BANDS
    cosmic_rays: bool = True

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        meta = batch.meta.copy()
        mask = batch.mask | ~np.isfinite(batch.flux)
        flux = np.where(mask, 0.0, batch.flux)
        sigma = batch.sigma.copy()
        flags = flags_of(meta)
        known = np.isfinite(sigma).any(axis=1)
        recorded = (~mask).any(axis=1)
        mask[known] |= ~(np.isfinite(sigma[known]) & (sigma[known] > 0))
        for arm in batch.arms.values():
            mask[:, arm] |= _runs_of_zero(flux[:, arm])
            noise = _noise(flux[:, arm], mask[:, arm])
            sigma[~known, arm] = noise[~known, None]
            if self.cosmic_rays:
                mask[:, arm] |= _spikes(flux[:, arm], mask[:, arm], np.maximum(sigma[:, arm], noise[:, None]))
        raise_flag(flags, ~known, Flag.SNR_ESTIMATED)
        mask |= ~np.isfinite(sigma)  # where there were too few pixels to measure it
        raise_flag(flags, _no_signal(flux, mask) | (recorded & mask.all(axis=1)), Flag.NO_SIGNAL)
        wave = batch.wavelength
        for line in self.sky_lines:
            mask[:, np.abs(wave - line) < _SKY_HALF_WIDTH] = True
        for low, high in self.bands:
            mask[:, (wave > low) & (wave < high)] = True
        meta["flags"] = flags
        sigma[~np.isfinite(sigma)] = np.inf
        return attrs.evolve(batch, flux=flux, sigma=sigma, mask=mask, meta=meta)


def _runs_of_zero(flux: np.ndarray, length: int = 3) -> np.ndarray:
    """Pixels in runs of at least ``length`` exact zeros: padding and gaps, not noise around zero."""
    zero = flux == 0.0
    if not zero.any():
        return zero
    run = zero.copy()
    for shift in range(1, length):
        run[:, shift:] &= zero[:, :-shift]
        run[:, :shift] = False
    out = run.copy()
    for shift in range(1, length):
        out[:, :-shift] |= run[:, shift:]
    return out


def _noise(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``(n_spec,)`` sigma of independent noise: median |2 f_i - f_(i-2) - f_(i+2)| / (0.6745 sqrt 6)."""
    if flux.shape[1] < 16:
        return np.full(len(flux), np.inf)
    second = np.abs(2.0 * flux[:, 2:-2] - flux[:, :-4] - flux[:, 4:])
    second[mask[:, 2:-2] | mask[:, :-4] | mask[:, 4:]] = np.nan
    out = np.full(len(flux), np.inf)
    enough = np.isfinite(second).sum(axis=1) >= 8
    if enough.any():
        out[enough] = np.nanmedian(second[enough], axis=1) / (0.6744898 * np.sqrt(6.0))
    level = np.ones(len(flux))
    some = ~mask.all(axis=1)
    if some.any():  # a quantile and not the maximum, which may be a cosmic ray
        level[some] = np.nanquantile(np.where(mask, np.nan, np.abs(flux))[some], 0.9, axis=1)
    return np.maximum(out, 1e-4 * np.where(level > 0, level, 1.0))


def _spikes(flux: np.ndarray, mask: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Cosmic rays, with their two neighbours. Only candidates are compared with their neighbourhood."""
    out = np.zeros_like(mask)
    if flux.shape[1] < 16:
        return out
    good = np.where(mask, np.nan, flux)
    some = ~mask.all(axis=1)
    level = np.zeros(len(flux))
    level[some] = np.nanmedian(good[some], axis=1)
    inner = flux[:, 3:-3]
    beyond = np.minimum(np.maximum(flux[:, :-6], flux[:, 1:-5]), np.maximum(flux[:, 6:], flux[:, 5:-1]))
    step = np.maximum(_SPIKE_SIGMA * sigma[:, 3:-3], _SPIKE_LEVEL * np.abs(level)[:, None])
    rows, columns = np.nonzero(~mask[:, 3:-3] & (inner - beyond > step))
    if rows.size:
        around = flux[rows[:, None], columns[:, None] + np.arange(7)]
        hit = flux[rows, columns + 3] - np.median(around, axis=1) > step[rows, columns]
        for shift in (-1, 0, 1):
            out[rows[hit], columns[hit] + 3 + shift] = True
    return out


def _no_signal(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Spectra whose good pixels are constant, or mostly zero or negative."""
    good = ~mask
    count = good.sum(axis=1)
    values = np.where(good, flux, 0.0)
    high = np.where(good, flux, -np.inf).max(axis=1)
    low = np.where(good, flux, np.inf).min(axis=1)
    negative = (good & (values <= 0)).sum(axis=1) > 0.5 * count
    return (count > 0) & ((high == low) | negative)
