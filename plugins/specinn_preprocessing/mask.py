"""Bad pixels, cosmic rays, sky emission, telluric bands; noise where the file states none."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs
import numpy as np

from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.plugins import Preprocessor, Templates
from specinn.spectra import SpectrumBatch
from specinn_preprocessing.meta import with_columns

# Air wavelengths in Angstrom of the observer's frame: [O I] night-sky lines (Osterbrock et al. 1996, PASP
# 108, 277) and the gamma band of telluric O2 (head at 6276 A), where real spectra differ most from models.
SKY_LINES = (5577.34, 6300.30, 6363.78)
TELLURIC_BANDS = ((6276.0, 6318.0),)
_SKY_HALF_WIDTH = 0.6
_SPIKE_SIGMA = 8.0
_SPIKE_LEVEL = 0.25
_NOISY = 5.0  # times the sigma of the neighbourhood: there is nothing in such a pixel
_NOISIEST = 150.0  # times that of the arm, whatever the neighbourhood
_AROUND = 64  # pixels of a neighbourhood
_ENOUGH = 4096  # pixels for the noise of a stretch, good to 2 %; a quarter of it for quantiles
_FEW = 64  # of them, below which all are taken
_ROWS = 8  # spectra at a time, so that they stay in the cache


@attrs.define
class Mask(Preprocessor):
    """Sets ``mask`` on pixels that carry no stellar signal, and ``sigma`` where the reader found none.

    ``sky_lines`` (Angstrom, +-0.6) and ``bands`` are in the observer's frame; spectra come in the barycentric
    frame, at most 30 km/s from it, so the windows are wide enough for strong features only.
    Errors far above those of their neighbours (5 times the median of 64 pixels around, or 150 times that of
    the arm) are treated as a mask, because many files mark pixels in this way.
    Cosmic rays are pixels 8 sigma and a quarter of the median flux above the median of their 7 neighbours.
    A missing sigma is the scatter of second differences (as DER_SNR, Stoehr et al. 2008) in stretches of some
    4000 pixels: a spectrum that is not normalised is brighter and noisier in some of them.
    """

    stage = "mask"

    instrument: Instrument
    templates: Templates | None = None
    sky_lines: tuple[float, ...] = SKY_LINES
    bands: tuple[tuple[float, float], ...] = TELLURIC_BANDS
    cosmic_rays: bool = True

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        flux, sigma, mask = batch.flux.copy(), batch.sigma.copy(), batch.mask.copy()
        has_sigma, signal = np.empty((2, len(batch)), bool)
        for start in range(0, len(batch), _ROWS):
            block = slice(start, start + _ROWS)
            has_sigma[block], signal[block] = self._clean(flux[block], sigma[block], mask[block], batch.arms)
        wave = batch.wavelength
        for line in self.sky_lines:
            mask[:, np.abs(wave - line) < _SKY_HALF_WIDTH] = True
        for low, high in self.bands:
            mask[:, (wave > low) & (wave < high)] = True
        flags = flags_of(batch.meta)
        raise_flag(flags, ~has_sigma, Flag.SNR_ESTIMATED)
        raise_flag(flags, ~signal, Flag.NO_SIGNAL)
        return attrs.evolve(batch, flux=flux, sigma=sigma, mask=mask, meta=with_columns(batch.meta, flags))

    def _clean(
        self, flux: np.ndarray, sigma: np.ndarray, mask: np.ndarray, arms: Mapping[str, slice]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Complete ``mask`` and ``sigma (n_spec, n_pix)`` in place, with 0 in masked flux. Returns whether
        the noise was known, and whether there is a signal (or no pixel at all, which other steps report)."""
        mask |= ~np.isfinite(flux)
        np.copyto(flux, 0.0, where=mask)
        empty = mask.all(axis=1)
        finite = np.isfinite(sigma)
        has_sigma = finite.any(axis=1)
        mask |= ~(finite & (sigma > 0)) & has_sigma[:, None]
        for arm in arms.values():
            in_arm, bad = flux[:, arm], mask[:, arm]
            bad |= _runs_of_zero(in_arm)
            bad |= _far_noisier(sigma[:, arm], bad)
            if not has_sigma.all():
                sigma[~has_sigma, arm] = _noise_along(in_arm[~has_sigma], bad[~has_sigma])
            if self.cosmic_rays:
                bad |= _spikes(in_arm, bad, sigma[:, arm])
        lost = ~np.isfinite(sigma)  # masked, or too few pixels to measure it
        np.copyto(sigma, np.inf, where=lost)
        mask |= lost
        return has_sigma, empty | _has_signal(flux, mask)


def _far_noisier(sigma: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels whose sigma is far above that of their neighbourhood, or of all."""
    out = np.zeros_like(mask)
    usual = _quantile(sigma, mask | ~np.isfinite(sigma), 0.5)
    highest = np.where(mask, 0.0, sigma).max(axis=1, initial=0.0)
    for i in np.flatnonzero((usual > 0) & (highest > 0.5 * _NOISY * usual)):
        edges = np.append(np.arange(0, max(sigma.shape[1] - _AROUND // 2, 1), _AROUND), sigma.shape[1])
        blocks = [sigma[i, a:b][~mask[i, a:b]] for a, b in pairwise(edges)]
        level = np.array([np.median(block) if block.size else 0.0 for block in blocks])
        padded = np.concatenate([level[:1], level, level[-1:]])
        around = np.max([padded[:-2], padded[1:-1], padded[2:]], axis=0)  # where the level changes, too
        limit = _NOISY * np.minimum(around, _NOISIEST / _NOISY * usual[i])
        out[i] = sigma[i] > np.repeat(limit, np.diff(edges))
    return out


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


def _noise_along(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``(n_spec, n_pix)`` sigma: that of stretches, linearly interpolated between the middles of those in
    which it can be measured."""
    n_pix = flux.shape[1]
    edges = np.linspace(0, n_pix, max(1, round(n_pix / _ENOUGH)) + 1).astype(int)
    noise = np.stack([_noise(flux[:, i:j], mask[:, i:j]) for i, j in pairwise(edges)], axis=1)
    middle, pixels = 0.5 * (edges[:-1] + edges[1:]), np.arange(n_pix)
    out = np.full(flux.shape, np.inf)
    for row, sigma in zip(out, noise, strict=True):
        measured = np.isfinite(sigma)
        if measured.any():
            row[:] = np.interp(pixels, middle[measured], sigma[measured])
    return out


def _noise(flux: np.ndarray, mask: np.ndarray, step: int = 0) -> np.ndarray:
    """``(n_spec,)`` sigma of independent noise: median |2 f_i - f_(i-2) - f_(i+2)| / (0.6745 sqrt 6).

    Every ``step``-th pixel counts, by default so many that some thousand do.
    """
    out = np.full(len(flux), np.inf)
    if flux.shape[1] < 16:
        return out
    step = step or max(1, flux.shape[1] // _ENOUGH)
    left, middle, right = slice(None, -4, step), slice(2, -2, step), slice(4, None, step)
    second = 2.0 * flux[:, middle] - flux[:, left] - flux[:, right]
    good = ~(mask[:, middle] | mask[:, left] | mask[:, right])
    count = np.count_nonzero(good, axis=1)
    for i in np.flatnonzero(count >= 8):
        out[i] = np.median(np.abs(second[i, good[i]])) / (0.6744898 * np.sqrt(6.0))
    few = count < _FEW
    if step > 1 and few.any():
        out[few] = _noise(flux[few], mask[few], step=1)
    level = _quantile(np.abs(flux), mask, 0.9)  # and not the maximum, which may be a cosmic ray
    return np.maximum(out, 1e-4 * np.where(level > 0, level, 1.0))


def _quantile(values: np.ndarray, mask: np.ndarray, q: float, step: int = 0) -> np.ndarray:
    """``(n_spec,)`` a quantile of the good ones of every ``step``-th value of each row; 0 without any."""
    step = step or max(1, 4 * values.shape[1] // _ENOUGH)
    good = ~mask[:, ::step]
    count = np.count_nonzero(good, axis=1)
    ordered = np.sort(np.where(good, values[:, ::step], np.inf), axis=1)
    at = (q * (count - 1)).astype(int).clip(min=0)
    out = np.where(count > 0, ordered[np.arange(len(at)), at], 0.0)
    few = count < _FEW
    if step > 1 and few.any():
        out[few] = _quantile(values[few], mask[few], q, step=1)
    return out


def _spikes(flux: np.ndarray, mask: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Cosmic rays, with their two neighbours. Only candidates are compared with their neighbourhood, and the
    noise, which the errors of a file may understate, is measured only in spectra that have any left."""
    out = np.zeros_like(mask)
    if flux.shape[1] < 16:
        return out
    level = _SPIKE_LEVEL * np.abs(_quantile(flux, mask, 0.5))
    inner = flux[:, 3:-3]
    rise = inner - np.minimum(np.maximum(flux[:, :-6], flux[:, 1:-5]), np.maximum(flux[:, 6:], flux[:, 5:-1]))
    high = (rise > level[:, None]) & (rise / _SPIKE_SIGMA > sigma[:, 3:-3])  # sigma may be huge
    rows, columns = np.divmod(np.flatnonzero(high), high.shape[1])
    around = flux[rows[:, None], columns[:, None] + np.arange(7)]
    excess = flux[rows, columns + 3] - np.median(around, axis=1)
    step = np.maximum(level[rows], _SPIKE_SIGMA * sigma[rows, columns + 3])
    hit = (excess > step) & ~mask[rows, columns + 3]
    rows, columns, excess = rows[hit], columns[hit] + 3, excess[hit]
    if rows.size:
        struck, of = np.unique(rows, return_inverse=True)
        real = excess > _SPIKE_SIGMA * _noise(flux[struck], mask[struck])[of]
        for shift in (-1, 0, 1):
            out[rows[real], columns[real] + shift] = True
    return out


def _has_signal(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``(n_spec,)`` whether there are good pixels that differ and are not mostly zero or negative."""
    good = ~mask
    count = np.count_nonzero(good, axis=1)
    positive = np.count_nonzero((flux > 0) & good, axis=1)
    first = flux[np.arange(len(flux)), good.argmax(axis=1)]
    same = np.count_nonzero((flux == first[:, None]) & good, axis=1)
    return (same < count) & (positive >= 0.5 * count)
