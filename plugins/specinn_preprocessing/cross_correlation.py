"""Radial velocities by cross-correlation with model templates."""

from __future__ import annotations

import attrs
import numpy as np
import torch
from scipy.fft import next_fast_len

from specinn.plugins import Templates
from specinn.simulation.observer import rotation_transfer
from specinn.spectra import SpectrumBatch
from specinn.spectra.continuum import ContinuumFit, ContinuumOptions
from specinn.spectra.resample import Resampler
from specinn.wavelengths import C_KMS, refractive_index

SEARCH_KMS = 600.0
REFRACTION_KMS = 83.2  # by which vacuum wavelengths taken for air move a star, between 5000 and 7000 Angstrom
_ROTATION = (0.0, 20.0, 35.0, 60.0, 100.0)  # km/s, by which templates are broadened
_BIN = 4  # points, for sums of squares
_CANDIDATES = 4  # templates of each spectrum that are tried with rotation
_APART_KMS = 60.0  # a second peak this far away, and twice the rotation, competes with the first
_CLEAR = 1.15  # chi-square gain of the best velocity over the second best
# A second set of lines: its peak over the first, its gain in chi-square, and how far the gain falls between
# both. No spectrum of a single benchmark star has a second peak of 0.1; HIP 109303 (double-lined) has 0.65.
_SECOND, _SECOND_GAIN, _VALLEY = 0.3, 100.0, 0.5
_UNCERTAIN_KMS = 5.0  # an error above which the velocity is a guess
_TEMPLATE_KMS = 0.03  # error of the templates as a whole, measured on simulated dwarfs
_EDGE_KMS = 8.0  # a maximum this close to the end of the search may lie beyond it
_MODEL_NOISE = 0.01  # of the continuum: models are not better than this
_CONTINUUM = ContinuumOptions(bin_pixels=16, iterations=4)  # velocities need no finer one
# Of a velocity in km/s. Sums in single precision depend a little (1e-5 km/s) on how many spectra there are;
# so that what follows does not, velocities are given to 10 m/s.
_DECIMALS = 2
_STARS = 8  # at a time, so that their arrays stay in the cache
# Stretches whose errors are taken for independent: many lines wide, because what one line of a blend gains
# from a wrong template its neighbours lose. Rotators, from 35 km/s, have stretches four times as long.
_CHUNK_KMS, _BROAD, _LONGER = 1200.0, 2, 4
_TREND_KMS = 1200.0
_OVERLAP = 8  # stretches over every point
_FARTHEST = 3.0  # points from the peak of the gain
_RIDGE = 1e-3  # of the mean square of the templates, for their mixture
_TAPS = np.arange(-2, 3)  # of the interpolation between points of a template


@attrs.frozen(eq=False)
class Velocities:
    """What :class:`VelocitySearch` finds, each ``(n_spec,)``.

    ``rv`` and its ``error`` in km/s; whether the peak is ``clear``: within the search, without a rival, and
    with an error below 5 km/s. ``medium`` is how much velocities fall with wavelength, in units of what they
    do in vacuum wavelengths taken for air (1; -1 is the opposite mistake, 0 none), with ``medium_error``.
    ``second`` is the velocity of a second set of lines, as double-lined binaries have them; NaN if there is
    none.
    """

    rv: np.ndarray
    error: np.ndarray
    clear: np.ndarray
    medium: np.ndarray
    medium_error: np.ndarray
    second: np.ndarray


class VelocitySearch:
    """Measures velocities against model templates.

    The gain in chi-square that a template brings, scaled and moved, over no lines at all, is computed for
    every template and every velocity on the templates' grid up to +-600 km/s; for the best ones also with
    lines broadened by rotation. The velocity is that of least squares with the best of them.

    Its error is that of the scatter: every stretch of 1200 km/s (4800 km/s for lines broadened by 35 km/s or
    more) pulls the velocity its own way, by its noise and by lines that the template has too strong, too weak
    or not at all, and the sum of the squares of these pulls is the variance of the whole; never less than the
    noise alone allows, with 0.03 km/s added, by which templates may be off as a whole.
    """

    def __init__(self, templates: Templates) -> None:
        wave = templates.wavelength
        self.step = float(C_KMS * np.log(wave[1] / wave[0]))
        self.reach = round(SEARCH_KMS / self.step)
        self._coarse = -(-self.reach // _BIN)
        self.velocity = np.arange(-self.reach, self.reach + 1) * self.step
        self.arms = list(templates.arms.values())
        self._resampler = Resampler(wave, templates.arms, templates.resolving_power, at_most=True)
        self._continuum = ContinuumFit(wave, templates.arms, _CONTINUUM)
        refraction = torch.as_tensor(C_KMS / self.step * (refractive_index(wave) - 1.0))[None]
        self._index = (self._stretches(refraction) / self._stretches(torch.ones_like(refraction)))[0]
        depth = torch.as_tensor(1.0 - templates.flux)
        broad = [self._detrended(self._rotated(depth, v), torch.ones_like(depth)) for v in _ROTATION]
        self._lines = _Correlation(self._apart(broad[0]), self.reach)
        self._squares = _Correlation(self._binned(self._apart(broad[0].square())) * _BIN, self._coarse, 512)
        # (n_rotation, n_templates, n_pix), and their sums of squares over those without rotation
        self._broad = torch.stack(broad).float()
        squares = self._broad.square().sum(2)
        self._narrowing = squares / squares[:1].clamp(min=1e-12)
        self._kernels = torch.cat([self._kernel(v) for v in _ROTATION], dim=1).float()

    @torch.no_grad()
    def __call__(self, batch: SpectrumBatch) -> Velocities:
        """Velocities of the spectra; those without a pixel in common with the templates get velocity 0 and an
        infinite error, and are not clear."""
        depth, weight = self._depths(batch)
        parts = [
            self._measure(depth[start : start + _STARS], weight[start : start + _STARS])
            for start in range(0, len(batch), _STARS)
        ]
        rv, *others = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Velocities(np.round(rv, _DECIMALS), *others)

    def _measure(self, depth: torch.Tensor, weight: torch.Tensor) -> tuple[np.ndarray, ...]:
        gains, narrow, templates, rotation = self._gain(depth, weight)
        gain = gains.double().numpy()
        reach = _APART_KMS + 2.0 * np.asarray(_ROTATION)[rotation.numpy()]
        points, clear = _peak(gain, self.velocity, reach)
        lines = self._broad[rotation[:, None], templates]
        points, error, medium, medium_error = self._refine(depth, weight, lines, rotation, points)
        none = (gain.max(axis=1) <= 0) | ~np.isfinite(error)
        rv, error = np.where(none, 0.0, points * self.step), np.where(none, np.inf, error * self.step)
        error = np.hypot(error, _TEMPLATE_KMS)
        clear &= ~none & (error < _UNCERTAIN_KMS)
        second = np.where(none, np.nan, _second(narrow.double().numpy(), self.velocity))
        return rv, error, clear, np.where(none, 0.0, medium), np.where(none, np.inf, medium_error), second

    def _gain(
        self, depth: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``(n_spec, n_velocities)`` of the template that gains most, and of the best without rotation; the
        numbers ``(n_spec, n_candidates)`` of the best ones, and that of the rotation ``(n_spec,)``."""
        cross = self._lines(self._apart(weight * depth))
        norm = self._norm(weight)
        # nothing where hardly a line has pixels
        norm = torch.where(norm > 1e-3 * norm.amax(dim=2, keepdim=True), norm, torch.inf)
        norm.clamp_(min=1e-12)
        rows = torch.arange(len(cross))
        plain = (cross.clamp(min=0.0).square_() / norm).amax(dim=2)
        some = plain.topk(min(_CANDIDATES, plain.shape[1]), dim=1)[1]
        cross, norm = cross[rows[:, None], some], norm[rows[:, None], some]
        # what a template with rotation correlates to is what it correlates to without, convolved with it;
        # nothing where lines would have to be in emission
        broad = (cross.flatten(0, 1) @ self._kernels).view(*some.shape, len(_ROTATION), -1).transpose(1, 2)
        narrowing = self._narrowing[:, some].transpose(0, 1)[..., None]
        gain = broad.clamp_(min=0.0).square_() / (norm[:, None] * narrowing)
        best = gain.amax(dim=3).flatten(1).argmax(dim=1)
        rotation, candidate = best // some.shape[1], best % some.shape[1]
        return gain[rows, rotation, candidate], gain[:, 0, 0], some, rotation

    def _norm(self, weight: torch.Tensor) -> torch.Tensor:
        """Sums of weights times squares of templates, ``(n_spec, n_templates, n_velocities)``: they change so
        little with velocity that bins of points do."""
        coarse = self._squares(self._binned(self._apart(weight)))
        norm = torch.nn.functional.interpolate(
            coarse, 2 * self._coarse * _BIN + 1, mode="linear", align_corners=True
        )
        beyond = self._coarse * _BIN - self.reach
        return norm[..., beyond : norm.shape[2] - beyond]

    @staticmethod
    def _binned(values: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(values, (0, -values.shape[1] % _BIN))
        return padded.view(len(values), -1, _BIN).mean(2)

    def _refine(
        self,
        depth: torch.Tensor,
        weight: torch.Tensor,
        lines: torch.Tensor,
        rotation: torch.Tensor,
        points: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Velocities ``(n_spec,)`` and their errors by least squares, from those near the minimum, in points
        of the grid; and ``medium`` and its error as in :class:`Velocities`. ``lines (n_spec, n_candidates,
        n_pix)`` are templates at velocity 0, with the ``rotation (n_spec,)`` of that number: the best mixture
        of them is the model."""
        whole = np.rint(points)
        depth, weight = (self._moved(values, -whole.astype(int)) for values in (depth, weight))
        weighted = lines * weight[:, None]
        normal = (weighted @ lines.transpose(1, 2)).double()
        ridge = _RIDGE * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        normal += ridge[:, None, None] * torch.eye(normal.shape[1], dtype=normal.dtype)
        moments = (weighted @ depth[..., None]).double()
        shares = torch.linalg.solve(normal, moments).to(lines.dtype)
        model, change = _interpolated((shares.transpose(1, 2) @ lines)[:, 0], points - whole)
        curve = weight * change
        pull = depth.sub_(model).mul_(curve)
        curve *= change
        pull, curve = self._stretches(pull).double(), self._stretches(curve).double()
        offset, error = _solve(pull, curve)
        error = torch.where(rotation >= _BROAD, _solve(pull, curve, _LONGER * _OVERLAP)[1], error)
        offset = offset.clamp(-_FARTHEST, _FARTHEST)
        # what is left may change with wavelength as the index of refraction does
        mean = (curve @ self._index)[:, None] / curve.sum(1, keepdim=True).clamp(min=1e-12)
        index = self._index - mean
        medium, medium_error = _solve((pull - offset * curve) * index, curve * index.square())
        return points + offset[:, 0].numpy(), error.numpy(), medium[:, 0].numpy(), medium_error.numpy()

    def _stretches(self, values: torch.Tensor) -> torch.Tensor:
        """Sums ``(n, n_stretches)`` over stretches of 150 km/s of ``values (n, n_pix)``."""
        size, sums = max(1, round(_CHUNK_KMS / _OVERLAP / self.step)), []
        for arm in self.arms:
            end = arm.start + (arm.stop - arm.start) // size * size
            sums.append(values[:, arm.start : end].reshape(len(values), -1, size).sum(2))
        return torch.cat(sums, 1)

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
            out[:, arm] = torch.fft.irfft(
                torch.fft.rfft(lines[:, arm], length) * self._transfer(rotation, length), length
            )[:, :n]
        return out

    def _detrended(self, depth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``depth (n, n_pix)`` less its weighted mean over 1200 km/s around every pixel of an arm: a
        continuum that is off, or that lines of a fast rotator have pulled down, must not pull it."""
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


def _second(gain: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """``(n,)`` velocities of a second peak of ``gain (n, n_velocities)`` that stands apart from the first;
    NaN without one. Rotation makes one peak wide, and does not divide it."""
    out = np.full(len(gain), np.nan)
    first = gain.argmax(axis=1)
    away = np.abs(velocity[None, :] - velocity[first][:, None]) > _APART_KMS
    away[:, 1:-1] &= (gain[:, 1:-1] >= gain[:, :-2]) & (gain[:, 1:-1] >= gain[:, 2:])
    away[:, [0, -1]] = False
    peaks = np.where(away, gain, 0.0)
    second, height = peaks.argmax(axis=1), peaks.max(axis=1)
    high = (height > _SECOND * gain.max(axis=1)) & (height > _SECOND_GAIN)
    for row in np.flatnonzero(high):
        between = slice(min(first[row], second[row]), max(first[row], second[row]) + 1)
        if gain[row, between].min() < _VALLEY * height[row]:
            out[row] = velocity[second[row]]
    return out


def _solve(
    pull: torch.Tensor, curve: torch.Tensor, window: int = _OVERLAP
) -> tuple[torch.Tensor, torch.Tensor]:
    """The offset ``(n, 1)`` at which the sum of ``pull (n, n_stretches)`` is 0 when it falls by ``curve``,
    and its standard error ``(n,)`` from the scatter of sums over ``window`` stretches, at least that of the
    noise."""
    total = curve.sum(1, keepdim=True).clamp(min=1e-12)
    offset = pull.sum(1, keepdim=True) / total
    # sums of neighbours in overlapping stretches: what one gains from the other is not lost
    sums = torch.nn.functional.pad(pull - offset * curve, (window, window - 1)).cumsum(1)
    sums = sums[:, window:] - sums[:, :-window]
    variance = sums.square().sum(1) / window / total[:, 0].square()
    return offset, torch.maximum(variance, 1.0 / total[:, 0]).sqrt()


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
    """``lines (n, n_pix)`` moved by a ``fraction (n,)`` of a point, and how they change with it."""
    kernel = torch.as_tensor(_kernels(fraction), dtype=lines.dtype)
    padded = torch.nn.functional.pad(lines, (-int(_TAPS[0]), int(_TAPS[-1])))
    out = [torch.zeros_like(lines), torch.zeros_like(lines)]
    for values, weights in zip(out, kernel, strict=True):
        for i in range(len(_TAPS)):
            values.addcmul_(padded[:, i : i + lines.shape[1]], weights[:, i : i + 1])
    return out[0], out[1]
