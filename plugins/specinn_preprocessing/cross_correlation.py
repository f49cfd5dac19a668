"""Radial velocities by cross-correlation with model templates."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len

from specinn.plugins.interfaces import Templates
from specinn.spectra import SpectrumBatch
from specinn.spectra.continuum import ContinuumFit, ContinuumOptions
from specinn.spectra.resample import Resampler
from specinn.wavelengths import C_KMS

SEARCH_KMS = 600.0
_APART_KMS = 60.0  # a second peak this far away competes with the first
_CLEAR = 1.15  # chi-square gain of the best velocity over the second best
_MODEL_NOISE = 0.01  # of the continuum: models are not better than this
_CONTINUUM = ContinuumOptions(bin_pixels=16, iterations=4)  # velocities need no finer one
# Of a velocity in km/s. Sums in single precision depend a little (1e-5 km/s) on how many spectra there are;
# so that what follows does not, velocities are given to 10 m/s.
_DECIMALS = 2
_STARS = 8  # at a time, so that their arrays stay in the cache


class VelocitySearch:
    """Measures velocities against model templates.

    The gain in chi-square that a template brings, scaled and moved, over no lines at all, is computed for
    every template and every velocity on the templates' grid up to +-600 km/s. The velocity is the vertex of
    the parabola through the maximum of the best template and its neighbours.
    """

    def __init__(self, templates: Templates) -> None:
        wave = templates.wavelength
        self.step = float(C_KMS * np.log(wave[1] / wave[0]))
        self.reach = round(SEARCH_KMS / self.step)
        self.velocity = np.arange(-self.reach, self.reach + 1) * self.step
        self.arms = list(templates.arms.values())
        self._resampler = Resampler(wave, templates.arms, templates.resolving_power, at_most=True)
        self._continuum = ContinuumFit(wave, templates.arms, _CONTINUUM)
        lines = 1.0 - templates.flux
        for arm in self.arms:
            lines[:, arm] -= lines[:, arm].mean(axis=1, keepdims=True)
        self._lines = _Correlation(self._apart(torch.as_tensor(lines)), self.reach)
        self._squares = _Correlation(self._apart(torch.as_tensor(lines**2)), self.reach)

    @torch.no_grad()
    def __call__(self, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Velocity and its error in km/s, and whether the peak is clear, each ``(n_spec,)``.

        Spectra without a pixel in common with the templates get velocity 0, an infinite error and False.
        """
        depth, weight = self._depths(batch)
        stars = [slice(start, start + _STARS) for start in range(0, len(batch), _STARS)]
        gain = torch.cat([self._gain(depth[some], weight[some]) for some in stars]).double().numpy()
        rv, error, clear = _peak(gain, self.velocity, self.step)
        none = gain.max(axis=1) <= 0
        rv = np.round(rv, _DECIMALS)
        return np.where(none, 0.0, rv), np.where(none, np.inf, error), clear & ~none

    def _gain(self, depth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``(n_spec, n_velocities)`` of the template that gains most."""
        cross = self._lines(self._apart(weight * depth))
        norm = self._squares(self._apart(weight))
        # nothing where lines would have to be in emission, or where hardly a line has pixels
        cross *= (cross > 0.0) & (norm > 1e-3 * norm.amax(dim=2, keepdim=True))
        gain = cross.square_() / norm.clamp_(min=1e-12)
        best = gain.amax(dim=2).argmax(dim=1)
        return gain[torch.arange(len(gain)), best]

    def _depths(self, batch: SpectrumBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Line depth, less its mean in every arm, and 1 / sigma^2, on the templates' grid; 0 without data."""
        flux, sigma, bad = self._resampler(batch)
        bad |= ~(sigma > 0)  # also where it is not known
        np.copyto(flux, 0.0, where=bad)
        level = np.maximum(flux.max(axis=1), -flux.min(axis=1)).clip(min=1e-300)[:, None]
        light = torch.as_tensor(flux / level, dtype=torch.float32)
        noise = torch.as_tensor(sigma / level, dtype=torch.float32)
        continuum, _ = self._continuum(light, noise, torch.as_tensor(bad))
        depth = light.div_(continuum).neg_().add_(1.0).clamp_(-0.5, 1.0)
        weight = noise.div_(continuum).square_().add_(_MODEL_NOISE**2).reciprocal_()
        weight *= torch.as_tensor(~bad)
        weight.nan_to_num_(0.0)
        for arm in self.arms:
            total = weight[:, arm].sum(1, keepdim=True).clamp(min=1e-12)
            depth[:, arm] -= (weight[:, arm] * depth[:, arm]).sum(1, keepdim=True) / total
        return depth, weight

    def _apart(self, values: torch.Tensor) -> torch.Tensor:
        """The arms of ``(n, n_pix)`` one after the other with so many zeros between that they never meet."""
        pieces = []
        for arm in self.arms:
            pieces += [values[:, arm], values.new_zeros(len(values), self.reach)]
        return torch.cat(pieces[:-1], dim=1)


class _Correlation:
    """Correlation of spectra with fixed patterns ``(n_patterns, n_pix)``, moved by -reach to reach points.

    The spectra are cut into blocks. What each brings at the few lags that matter is added up in Fourier
    space, where that is one matrix product a frequency, so that all transforms are short.
    """

    def __init__(self, patterns: torch.Tensor, reach: int, length: int = 1024) -> None:
        self.lags = 2 * reach + 1
        self.length = next_fast_len(max(length, 4 * reach), real=True)
        self.block = self.length - 2 * reach
        self.n_blocks = -(-patterns.shape[1] // self.block)
        padded = patterns.new_zeros(len(patterns), self.n_blocks * self.block + 2 * reach)
        padded[:, reach : reach + patterns.shape[1]] = patterns
        windows = padded.unfold(1, self.length, self.block).roll(-2 * reach, 2)  # so that lag -reach is first
        self.spectra = torch.fft.rfft(windows.float()).conj().permute(2, 1, 0).resolve_conj().contiguous()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """``(n_spec, n_patterns, n_lags)`` sums over pixels of ``values (n_spec, n_pix)`` times patterns."""
        blocks = values.new_zeros(len(values), self.n_blocks * self.block)
        blocks[:, : values.shape[1]] = values
        spectra = torch.fft.rfft(blocks.view(len(values), self.n_blocks, self.block), self.length)
        product = spectra.permute(2, 0, 1).contiguous() @ self.spectra
        return torch.fft.irfft(product.permute(1, 2, 0).contiguous(), self.length)[..., : self.lags]


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
