"""Radial velocities by cross-correlation with model templates."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len

from specinn.continuum import ContinuumFit, ContinuumOptions
from specinn.interfaces import Templates
from specinn.observe import rotation_transfer
from specinn.resample import Resampler
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import C_KMS

SEARCH_KMS = 600.0
_ROTATION = (0.0, 20.0, 35.0, 60.0, 100.0)  # km/s, by which templates are broadened
_CANDIDATES = 4  # templates of each spectrum that are tried with rotation
_APART_KMS = 60.0  # a second peak this far away, and twice the rotation, competes with the first
_CLEAR = 1.15  # chi-square gain of the best velocity over the second best
_EDGE_KMS = 10.0  # a maximum this close to the end of the search may lie beyond it
_MODEL_NOISE = 0.01  # of the continuum: models are not better than this
_CONTINUUM = ContinuumOptions(bin_pixels=16, iterations=4)  # velocities need no finer one
# Of a velocity in km/s. Sums in single precision depend a little (1e-5 km/s) on how many spectra there are;
# so that what follows does not, velocities are given to 10 m/s.
_DECIMALS = 2
_STARS = 8  # at a time, so that their arrays stay in the cache
_CHUNK_KMS = 1200.0  # stretches whose errors are taken for independent: wider than the broadest lines
_TREND_KMS = 1200.0
_OVERLAP = 8  # stretches over every point
_FARTHEST = 3.0  # points from the peak of the gain
_RIDGE = 1e-3  # of the mean square of the templates, for their mixture
_TAPS = np.arange(-2, 3)  # of the interpolation between points of a template


class VelocitySearch:
    """Measures velocities against model templates.

    The gain in chi-square that a template brings, scaled and moved, over no lines at all, is computed for
    every template and every velocity on the templates' grid up to +-600 km/s; for the best ones also with
    lines broadened by rotation. The velocity is that of least squares with the best of them.

    Its error is that of the scatter: every stretch of 300 km/s of the spectrum pulls the velocity its own
    way, by its noise and by lines that the template has too strong, too weak or not at all, and the sum
    of the squares of these pulls is the variance of the whole.
    """

    def __init__(self, templates: Templates) -> None:
        wave = templates.wavelength
        self.step = float(C_KMS * np.log(wave[1] / wave[0]))
        self.reach = round(SEARCH_KMS / self.step)
        self.velocity = np.arange(-self.reach, self.reach + 1) * self.step
        self.arms = list(templates.arms.values())
        self._resampler = Resampler(wave, templates.arms, templates.resolving_power, at_most=True)
        self._continuum = ContinuumFit(wave, templates.arms, _CONTINUUM)
        depth = torch.as_tensor(1.0 - templates.flux)
        broad = [self._detrended(self._rotated(depth, v), torch.ones_like(depth)) for v in _ROTATION]
        self._lines = _Correlation(self._apart(broad[0]), self.reach)
        self._squares = _Correlation(self._apart(broad[0].square()), self.reach)
        # (n_rotation, n_templates, n_pix), and their sums of squares over those without rotation
        self._broad = torch.stack(broad).float()
        squares = self._broad.square().sum(2)
        self._narrowing = squares / squares[:1].clamp(min=1e-12)
        self._kernels = torch.stack([self._kernel(v) for v in _ROTATION]).float()

    @torch.no_grad()
    def __call__(self, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Velocity and its error in km/s, and whether the peak is clear, each ``(n_spec,)``.

        Spectra without a pixel in common with the templates get velocity 0, an infinite error and False.
        """
        depth, weight = self._depths(batch)
        n = len(batch)
        rv, error, clear = np.zeros(n), np.full(n, np.inf), np.zeros(n, bool)
        for start in range(0, n, _STARS):
            some = slice(start, start + _STARS)
            rv[some], error[some], clear[some] = self._measure(depth[some], weight[some])
        return np.round(rv, _DECIMALS), error, clear

    def _measure(
        self, depth: torch.Tensor, weight: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        gain, templates, rotation = self._gain(depth, weight)
        gain = gain.double().numpy()
        reach = _APART_KMS + 2.0 * np.asarray(_ROTATION)[rotation.numpy()]
        points, clear = _peak(gain, self.velocity, reach)
        points, error = self._refine(depth, weight, self._broad[rotation[:, None], templates], points)
        none = (gain.max(axis=1) <= 0) | ~np.isfinite(error)
        rv = points * self.step
        return np.where(none, 0.0, rv), np.where(none, np.inf, error * self.step), clear & ~none

    def _gain(
        self, depth: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``(n_spec, n_velocities)`` of the template that gains most; the numbers ``(n_spec, n_candidates)`` of
        the best ones, and that of the rotation ``(n_spec,)``."""
        cross = self._lines(self._apart(weight * depth))
        norm = self._squares(self._apart(weight))
        # nothing where hardly a line has pixels
        norm = torch.where(norm > 1e-3 * norm.amax(dim=2, keepdim=True), norm, torch.inf)
        norm.clamp_(min=1e-12)
        rows = torch.arange(len(cross))
        plain = (cross.clamp(min=0.0).square_() / norm).amax(dim=2)
        some = plain.topk(min(_CANDIDATES, plain.shape[1]), dim=1)[1]
        cross, norm = cross[rows[:, None], some], norm[rows[:, None], some]
        # what a template with rotation correlates to is what it correlates to without, convolved with it;
        # nothing where lines would have to be in emission
        broad = torch.matmul(cross[:, None], self._kernels).clamp_(min=0.0)
        gain = broad.square_() / (norm[:, None] * self._narrowing[:, some].transpose(0, 1)[..., None])
        best = gain.amax(dim=3).flatten(1).argmax(dim=1)
        rotation, candidate = best // some.shape[1], best % some.shape[1]
        return gain[rows, rotation, candidate], some, rotation

    def _refine(
        self, depth: torch.Tensor, weight: torch.Tensor, lines: torch.Tensor, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Velocities ``(n_spec,)`` and their errors by least squares, from those near the minimum; all in
        points of the grid. ``lines (n_spec, n_candidates, n_pix)`` are templates at velocity 0: the best
        mixture of them is the model."""
        whole = np.rint(points)
        depth, weight = (self._moved(values, -whole.astype(int)) for values in (depth, weight))
        weighted = lines * weight[:, None]
        normal = (weighted @ lines.transpose(1, 2)).double()
        ridge = _RIDGE * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        normal += ridge[:, None, None] * torch.eye(normal.shape[1], dtype=normal.dtype)
        moments = (weighted @ depth[..., None]).double()
        shares = torch.linalg.solve(normal, moments).to(lines.dtype)
        model, change = _interpolated((lines * shares).sum(1), points - whole)
        pull = weight * (depth - model) * change
        curve = weight * change * change
        n, size = len(depth), max(1, round(_CHUNK_KMS / _OVERLAP / self.step))
        pulls, curves = [], []
        for arm in self.arms:
            end = arm.start + (arm.stop - arm.start) // size * size
            for values, sums in ((pull, pulls), (curve, curves)):
                sums.append(values[:, arm.start : end].reshape(n, -1, size).sum(2).double())
        pull, curve = torch.cat(pulls, 1), torch.cat(curves, 1)
        total = curve.sum(1, keepdim=True).clamp(min=1e-12)
        offset = (pull.sum(1, keepdim=True) / total).clamp(-_FARTHEST, _FARTHEST)
        # sums of neighbours in overlapping stretches: what one gains from the other is not lost
        sums = torch.nn.functional.pad(pull - offset * curve, (_OVERLAP, _OVERLAP - 1)).cumsum(1)
        sums = sums[:, _OVERLAP:] - sums[:, :-_OVERLAP]
        variance = sums.square().sum(1) / _OVERLAP / total[:, 0].square()
        variance = torch.maximum(variance, 1.0 / total[:, 0])
        return points + offset[:, 0].numpy(), variance.sqrt().numpy()

    def _moved(self, values: torch.Tensor, points: np.ndarray) -> torch.Tensor:
        """``values (n, n_pix)`` moved up by ``points (n,)``, 0 where they come from beyond an arm."""
        out = torch.zeros_like(values)
        for i, move in enumerate(points.tolist()):
            for arm in self.arms:
                size = arm.stop - arm.start - abs(move)
                start = arm.start + max(move, 0)
                if size > 0:
                    out[i, start : start + size] = values[i, start - move : start - move + size]
        return out

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
        depth = self._detrended(depth, weight)
        return depth, weight

    def _apart(self, values: torch.Tensor) -> torch.Tensor:
        """The arms of ``(n, n_pix)`` one after the other with so many zeros between that they never meet."""
        pieces = []
        for arm in self.arms:
            pieces += [values[:, arm], values.new_zeros(len(values), self.reach)]
        return torch.cat(pieces[:-1], dim=1)
    def _rotated(self, lines: torch.Tensor, rotation: float) -> torch.Tensor:
        """Line depths ``(n, n_pix)`` broadened by ``rotation`` km/s."""
        if rotation == 0.0:
            return lines
        out = torch.empty_like(lines)
        for arm in self.arms:
            n = arm.stop - arm.start
            length = next_fast_len(n + 2 * self.reach, real=True)
            out[:, arm] = torch.fft.irfft(torch.fft.rfft(lines[:, arm], length) * self._transfer(rotation, length), length)[
                :, :n
            ]
        return out

    def _detrended(self, depth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``depth (n, n_pix)`` less its weighted mean over 1200 km/s around every pixel of an arm: a continuum
        that is off, or that lines of a fast rotator have pulled down, must not pull the velocity."""
        half = round(0.5 * _TREND_KMS / self.step)
        out = torch.empty_like(depth)
        for arm in self.arms:
            sums = []
            for values in (weight[:, arm] * depth[:, arm], weight[:, arm]):
                padded = torch.nn.functional.pad(values, (half + 1, half)).cumsum(1)
                sums.append(padded[:, 2 * half + 1 :] - padded[:, : -2 * half - 1])
            out[:, arm] = depth[:, arm] - sums[0] / sums[1].clamp(min=1e-12)
        return out

    def _kernel(self, rotation: float) -> torch.Tensor:
        """``(n_velocities, n_velocities)`` matrix that convolves with the profile of a rotation in km/s."""
        n = 2 * self.reach + 1
        if rotation == 0.0:
            return torch.eye(n, dtype=torch.float64)
        length = next_fast_len(2 * n, real=True)
        profile = torch.fft.irfft(self._transfer(rotation, length), length)
        index = torch.arange(n)
        return profile[(index[:, None] - index[None, :]) % length]

    def _transfer(self, rotation: float, length: int) -> torch.Tensor:
        frequency = torch.fft.rfftfreq(length, self.step, dtype=torch.float64)
        return rotation_transfer(frequency, torch.tensor([rotation], dtype=torch.float64))[0]


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


def _peak(gain: np.ndarray, velocity: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertex of the parabola through the three points at the maximum of each row, in points from velocity 0,
    and whether it is clear: within the search, and without a rival further away than ``apart (n,)`` km/s."""
    rows, middle = np.arange(len(gain)), len(velocity) // 2
    at = np.clip(gain.argmax(axis=1), 1, gain.shape[1] - 2)
    left, top, right = gain[rows, at - 1], gain[rows, at], gain[rows, at + 1]
    curvature = np.minimum(left - 2.0 * top + right, -1e-12)
    offset = np.clip(0.5 * (left - right) / curvature, -1.0, 1.0)
    away = np.abs(velocity[None, :] - velocity[at][:, None]) > apart[:, None]
    second = np.where(away, gain, 0.0).max(axis=1)
    inside = np.abs(velocity[at]) < velocity[-1] - _EDGE_KMS
    return at - middle + offset, inside & (top > 25.0) & (top > _CLEAR * second)


def _kernels(fraction: np.ndarray) -> np.ndarray:
    """``(2, n, taps)`` weights that move values by a ``fraction (n,)`` of a point (Lagrange's polynomial
    through the taps), and those of the change with the move."""
    value, slope = np.ones((len(fraction), len(_TAPS))), np.zeros((len(fraction), len(_TAPS)))
    for i, node in enumerate(_TAPS):
        for other in np.delete(_TAPS, i):
            slope[:, i] = (slope[:, i] * (-fraction - other) + value[:, i]) / (node - other)
            value[:, i] *= (-fraction - other) / (node - other)
    return np.stack([value, -slope])


def _interpolated(lines: torch.Tensor, fraction: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """``lines (n, n_pix)`` moved by a ``fraction (n,)`` of a point, and how they change with it, per point."""
    kernel = torch.as_tensor(_kernels(fraction), dtype=lines.dtype)
    padded = torch.nn.functional.pad(lines, (-int(_TAPS[0]), int(_TAPS[-1])))
    out = lines.new_zeros(2, *lines.shape)
    for i in range(len(_TAPS)):
        out += kernel[:, :, i, None] * padded[None, :, i : i + lines.shape[1]]
    return out[0], out[1]
