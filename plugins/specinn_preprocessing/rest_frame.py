"""Radial velocity: given, stated by the file, or measured against model templates."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
import torch
from scipy import fft

from specinn.continuum import ContinuumFit
from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.interfaces import Preprocessor, Templates
from specinn.resample import apply_resampling, pixel_widths, resampling_operator
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import C_KMS, doppler

SEARCH_KMS = 600.0
_SAME_KMS = 0.02  # velocities this close are one: the wavelengths are divided, nothing is interpolated
_APART_KMS = 60.0  # a second peak this far away competes with the first
_STARS_AT_ONCE = 16  # against 24 templates they take 0.2 GB
_CLEAR = 1.15  # chi-square gain of the best velocity over the second best


@attrs.define
class RestFrame(Preprocessor):
    """Shifts spectra to rest. ``velocity`` km/s holds for all; ``auto`` measures all; None (the default)
    takes ``meta["rv"]`` where it is a number and measures the others.

    Adds ``rv`` and ``rv_error`` (km/s) to ``meta``. Measured: the maximum over velocities and templates of
    the gain in chi-square that a scaled template brings, at the model's resolving power.
    """

    instrument: Instrument
    templates: Templates
    velocity: float | Literal["auto"] | None = None

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        n = len(batch)
        meta = batch.meta.copy()
        flags = flags_of(meta)
        rv, error = np.full(n, np.nan), np.full(n, np.nan)
        if self.velocity is None and "rv" in meta.colnames:
            rv = np.ma.filled(np.ma.array(meta["rv"], dtype=float), np.nan)
        elif isinstance(self.velocity, (int, float)):
            rv[:] = self.velocity
        unknown = ~np.isfinite(rv)
        if unknown.any():
            rv[unknown], error[unknown], clear = measure_velocity(batch[unknown], self.templates)
            raise_flag(flags, unknown, Flag.RV_MEASURED)
            raise_flag(flags, np.flatnonzero(unknown)[~clear], Flag.RV_UNCERTAIN)
        meta["flags"], meta["rv"], meta["rv_error"] = flags, rv, error
        out = attrs.evolve(batch, meta=meta)
        return _shift(out, rv)


def _shift(batch: SpectrumBatch, rv: np.ndarray) -> SpectrumBatch:
    """To rest: by the wavelengths alone where all velocities agree, else by interpolation (six Lanczos
    points) to the grid of the batch."""
    if np.ptp(rv) < _SAME_KMS:
        return attrs.evolve(batch, wavelength=batch.wavelength / doppler(1.0, float(rv.mean())))
    flux, sigma, mask = np.empty_like(batch.flux), np.empty_like(batch.sigma), np.empty_like(batch.mask)
    filled = batch.fill()
    variance = np.where(np.isfinite(batch.sigma), batch.sigma, 0.0) ** 2
    taps = np.arange(-2, 4)
    for arm in batch.arms.values():
        wave = batch.wavelength[arm]
        index = np.arange(wave.size)
        for i in range(len(batch)):
            position = np.interp(wave * doppler(1.0, rv[i]), wave, index, left=-1.0, right=wave.size)
            base = np.floor(position).astype(int)
            outside = (position < 0) | (position > wave.size - 1)
            columns = np.clip(base[:, None] + taps, 0, wave.size - 1)
            x = position[:, None] - base[:, None] - taps
            kernel = np.sinc(x) * np.sinc(x / 3.0)
            kernel /= kernel.sum(axis=1, keepdims=True)
            flux[i, arm] = (kernel * filled[i, arm][columns]).sum(axis=1)
            # the S/N per Angstrom stays: what the kernel smooths away comes back as correlation
            squares = kernel**2
            sigma[i, arm] = np.sqrt((squares * variance[i, arm][columns]).sum(axis=1) / squares.sum(axis=1))
            touched = (batch.mask[i, arm][columns] & (np.abs(kernel) > 0.1)).any(axis=1)
            mask[i, arm] = touched | outside
    sigma[np.isnan(batch.sigma).all(axis=1)] = np.nan  # not known before, not known after
    return attrs.evolve(batch, flux=flux, sigma=sigma, mask=mask)


def measure_velocity(batch: SpectrumBatch, templates: Templates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radial velocity and its error in km/s, and whether the peak is clear, each ``(n_spec,)``.

    Spectra without a pixel in common with the templates get velocity 0, an infinite error and False.
    """
    step = C_KMS * np.log(templates.wavelength[1] / templates.wavelength[0])
    reach = int(SEARCH_KMS / step)
    gain = np.zeros((len(batch), 2 * reach + 1))
    parts = list(_on_template_grid(batch, templates))
    for start in range(0, len(batch) if parts else 0, _STARS_AT_ONCE):
        here = slice(start, start + _STARS_AT_ONCE)
        by_template = np.sum([_gain(f[here], w[here], lines, reach) for f, w, lines in parts], axis=0)
        best = by_template.max(axis=-1).argmax(axis=1)
        gain[here] = by_template[np.arange(len(best)), best]
    rv, error, clear = _peak(gain, (np.arange(2 * reach + 1) - reach) * step, step)
    none = gain.max(axis=1) <= 0
    return np.where(none, 0.0, rv), np.where(none, np.inf, error), clear & ~none


def _gain(flux: np.ndarray, inverse_variance: np.ndarray, template: np.ndarray, reach: int) -> np.ndarray:
    """Gain in chi-square ``(n_spec, n_templates, 2 reach + 1)`` of each template, scaled and moved by -reach
    to reach points, over no lines at all; 0 where lines would have to be in emission."""
    length = fft.next_fast_len(flux.shape[1] + 2 * reach, real=True)
    spectrum = fft.rfft(inverse_variance * flux, length)[:, None]
    weight = fft.rfft(inverse_variance, length)[:, None]
    lines = np.conj(fft.rfft(template, length))[None]
    squared = np.conj(fft.rfft(template**2, length))[None]
    lags = np.r_[-reach : reach + 1]
    cross = fft.irfft(spectrum * lines, length)[..., lags]
    norm = fft.irfft(weight * squared, length)[..., lags]
    positive = np.where(norm > 1e-3 * norm.max(axis=-1, keepdims=True), cross, 0.0).clip(min=0.0)
    return positive**2 / np.maximum(norm, 1e-12)


def _on_template_grid(batch: SpectrumBatch, templates: Templates) -> Any:
    """For every arm of the templates: line depth of the spectra, 1 / sigma^2, line depth of the templates."""
    power = np.broadcast_to(np.asarray(batch.resolving_power, float), batch.wavelength.shape)
    order = np.argsort(batch.wavelength)  # echelle orders may overlap
    native = np.interp(templates.wavelength, batch.wavelength[order], power[order])
    target = np.minimum(templates.resolving_power, native)
    operator = resampling_operator(
        batch.wavelength, batch.arms, power, templates.wavelength, templates.arms, target
    )
    widths = (
        pixel_widths(batch.wavelength, batch.arms),
        pixel_widths(templates.wavelength, templates.arms),
    )
    everywhere = apply_resampling(operator, widths, batch.flux, batch.sigma, batch.mask)
    for arm in templates.arms.values():
        wave = templates.wavelength[arm]
        flux, sigma, bad = (values[:, arm] for values in everywhere)
        weight = ~bad & np.isfinite(sigma) & (sigma > 0)
        if not weight.any():
            continue
        flux, sigma = np.where(weight, flux, 0.0), np.where(weight, sigma, 0.0)
        level = np.maximum(np.abs(flux).max(axis=1, keepdims=True), 1e-300)
        fit = ContinuumFit(wave, {"arm": slice(0, wave.size)})
        with torch.no_grad():
            continuum, _ = fit(
                torch.as_tensor(flux / level, dtype=torch.float32),
                torch.as_tensor(sigma / level, dtype=torch.float32),
                torch.as_tensor(~weight),
            )
        continuum = continuum.double().numpy() * level
        depth = 1.0 - flux / continuum
        noise = np.hypot(sigma / continuum, 0.01)  # models are not better than this
        inverse = np.where(weight, 1.0 / noise**2, 0.0)
        depth = np.clip(np.where(weight, depth, 0.0), -0.5, 1.0)
        mean = (inverse * depth).sum(axis=1, keepdims=True) / np.maximum(
            inverse.sum(axis=1, keepdims=True), 1e-12
        )
        lines = 1.0 - templates.flux[:, arm]
        yield np.where(weight, depth - mean, 0.0), inverse, lines - lines.mean(axis=1, keepdims=True)


def _peak(gain: np.ndarray, velocity: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertex of the parabola through the three points at the maximum of each row, its error, and clarity."""
    rows = np.arange(len(gain))
    at = np.clip(gain.argmax(axis=1), 1, gain.shape[1] - 2)
    left, top, right = gain[rows, at - 1], gain[rows, at], gain[rows, at + 1]
    curvature = np.minimum(left - 2.0 * top + right, -1e-12)
    offset = np.clip(0.5 * (left - right) / curvature, -1.0, 1.0)
    error = step * np.sqrt(-2.0 / curvature)
    away = np.abs(velocity[None, :] - velocity[at][:, None]) > _APART_KMS
    second = np.where(away, gain, 0.0).max(axis=1)
    clear = (top > 25.0) & (top > _CLEAR * second)
    return velocity[at] + offset * step, error, clear
