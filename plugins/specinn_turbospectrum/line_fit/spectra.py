"""Observed and synthetic spectra of reference stars on one grid, with one continuum and at one velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter1d, median_filter

from specinn.errors import ConfigError, ReadError
from specinn.plugins import Plugins
from specinn.spectra.readers import read
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA
from specinn_turbospectrum.line_fit.recipe import MARGIN, ReferenceStar

STEP_KMS = 1.0
_PIECE = 800  # km/s, between the knots of velocity
_KNOTS = 800  # km/s, between those of the continuum
_CLEAN = 0.95  # synthetic flux from which on a pixel tells the continuum, where there are enough of them
_ENOUGH = 0.25  # of the pixels of a piece
_WORST = (
    0.2  # scatter of observed over synthetic in pixels of the continuum, above which it cannot be followed
)
_RINGING = 3  # pixels on either side of those without flux that are not used
_LIMB = 0.6

Arms = dict[str, np.ndarray]


def grids(windows: Mapping[str, Sequence[float]]) -> Arms:
    """Logarithm of the wavelength in steps of 1 km/s, by window."""
    return {
        name: np.arange(np.log(low + MARGIN), np.log(high - MARGIN), STEP_KMS / C_KMS)
        for name, (low, high) in windows.items()
    }


@attrs.frozen
class Broadening:
    """The standard deviation of a Gaussian (instrument and macroturbulence) and v sin i, both in km/s."""

    sigma: float
    vsini: float = 0.0

    def __call__(self, flux: np.ndarray) -> np.ndarray:
        """Of flux ``(n,)`` in steps of 1 km/s."""
        if self.vsini > STEP_KMS:
            flux = np.convolve(np.pad(flux, self._reach, mode="edge"), self._kernel, mode="valid")
        return gaussian_filter1d(flux, self.sigma / STEP_KMS, mode="nearest")

    @property
    def _reach(self) -> int:
        return int(np.ceil(self.vsini / STEP_KMS))

    @property
    def _kernel(self) -> np.ndarray:
        """Gray's profile with linear limb darkening (Gray 2005, eq. 18.14)."""
        fine = np.arange(-8 * self._reach, 8 * self._reach + 1) / 8.0
        y = np.clip(1.0 - (fine * STEP_KMS / self.vsini) ** 2, 0.0, None)
        profile = 2.0 * (1.0 - _LIMB) * np.sqrt(y) + 0.5 * np.pi * _LIMB * y
        bins = np.clip(np.round(fine).astype(int) + self._reach, 0, 2 * self._reach)
        kernel = np.bincount(bins, profile, 2 * self._reach + 1)
        return np.asarray(kernel / kernel.sum())


def on_grid(wavelength: np.ndarray, flux: np.ndarray, arms: Arms) -> Arms:
    """A synthetic spectrum on the grid, not broadened."""
    log = np.log(wavelength)
    return {name: np.interp(grid, log, flux) for name, grid in arms.items()}


class ObservedStar:
    """The observed spectrum of a reference star.

    Raises ``ConfigError`` where it does not overlap with any window or has no lines, ``ReadError`` where it
    cannot be read.
    """

    def __init__(
        self, star: ReferenceStar, arms: Arms, excluded: Sequence[tuple[float, float]], plugins: Plugins
    ):
        self.star, self.arms = star, arms
        batches = list(read(Path(star.path).expanduser(), plugins))
        if len(batches) != 1 or len(batches[0]) != 1:
            n = sum(len(batch) for batch in batches)
            raise ReadError(f"reference star {star.name}: {star.path} has {n} spectra, expected one")
        batch = attrs.evolve(batches[0], medium=star.medium) if star.medium else batches[0]
        batch = batch.in_medium("air")
        raw = np.asarray(batch.flux, float)[0]
        bad = ~(np.isfinite(raw) & (raw > 0))
        # spectra ring at the edges of gaps, which looks like lines
        good = ~np.asarray(batch.mask)[0] & ~binary_dilation(bad, iterations=_RINGING)
        for low, high in (*excluded, *star.excluded):
            good &= (batch.wavelength < low) | (batch.wavelength > high)
        if good.sum() < 100:
            raise ConfigError(f"reference star {star.name}: {star.path} has {good.sum()} usable pixels")
        self._log = np.log(np.asarray(batch.wavelength, float)[good])
        self._flux = raw[good]
        self._flux /= np.median(self._flux)
        self._gap = 3.0 * np.median(np.diff(self._log))
        self.velocity: float | None = None
        seen = [
            grid for grid in arms.values() if self._covered(grid).sum() > max(0.05 * grid.size, _PIECE // 2)
        ]
        if not seen:
            low, high = np.exp(self._log[[0, -1]])
            raise ConfigError(
                f"reference star {star.name}: its spectrum ({low:.0f} to {high:.0f} Angstrom) has no overlap "
                "with the windows"
            )
        if not any(np.ptp(np.interp(grid, self._log, self._flux)) for grid in seen):
            raise ConfigError(
                f"reference star {star.name}: the flux in {star.path} is the same at every wavelength of the "
                "windows: give an observed spectrum"
            )

    def _covered(self, at: np.ndarray) -> np.ndarray:
        """Whether there are good pixels on both sides, near."""
        right = np.searchsorted(self._log, at).clip(1, len(self._log) - 1)
        return (
            (self._log[right] - self._log[right - 1] < self._gap) & (at > self._log[0]) & (at < self._log[-1])
        )

    def _shifted(self, grid: np.ndarray, velocity: np.ndarray | float) -> np.ndarray:
        """Observed flux at rest, if the star moves with ``velocity``; NaN where there is none."""
        at = grid + np.asarray(velocity) / C_KMS
        flux = np.interp(at, self._log, self._flux)
        return np.where(self._covered(at), flux, np.nan)

    def aligned(self, synthetic: Arms) -> Arms:
        """Observed flux on the grid, at rest and over the continuum that makes it most like ``synthetic``
        (broadened); NaN where the star has no data."""
        if self.velocity is None:
            self.velocity = self._search(synthetic)
        return {name: self._align(grid, synthetic[name], self.velocity) for name, grid in self.arms.items()}

    def _search(self, synthetic: Arms) -> float:
        """The velocity in km/s within 400 km/s, of the window that the spectrum covers best."""
        name = max(self.arms, key=lambda name: self._covered(self.arms[name]).mean())
        grid, reach = self.arms[name], 400
        wide = grid[0] + np.arange(-reach, grid.size + reach + 1) * STEP_KMS / C_KMS
        flux = np.interp(wide, self._log, self._flux)
        flux = flux / gaussian_filter1d(flux, 300.0) - 1.0
        flux[~self._covered(wide)] = 0.0
        model = synthetic[name] / gaussian_filter1d(synthetic[name], 300.0) - 1.0
        score = np.correlate(flux, model, mode="valid")  # at velocities -reach to reach
        return float(np.argmax(score) - reach) * STEP_KMS

    def _align(self, grid: np.ndarray, model: np.ndarray, velocity: float) -> np.ndarray:
        if not self._covered(grid).any():
            return np.full(grid.size, np.nan)
        fine = np.arange(-2.0, 2.01, 0.25)
        starts = range(0, max(grid.size - _PIECE // 2, 1), _PIECE)
        shifts = np.zeros(len(starts))
        trials = np.stack([self._shifted(grid, velocity + shift) for shift in fine])
        for k, start in enumerate(starts):
            piece = slice(start, start + _PIECE)
            ok = np.isfinite(trials[:, piece]).all(axis=0)
            few = ok.sum() < _PIECE // 4
            # nothing tells a velocity where the model or the spectrum has no line
            if few or not np.ptp(model[piece][ok]) or not np.ptp(trials[:, piece][:, ok], axis=1).all():
                shifts[k] = np.nan
                continue
            score = [np.corrcoef(row[piece][ok], model[piece][ok])[0, 1] for row in trials]
            shifts[k] = fine[int(np.argmax(score))]
        centres = np.array([min(start + _PIECE / 2, grid.size) for start in starts])
        finite = np.isfinite(shifts)
        if not finite.any():
            return np.full(grid.size, np.nan)
        shifts = median_filter(np.interp(centres, centres[finite], shifts[finite]), 5, mode="nearest")
        flux = self._shifted(grid, velocity + np.interp(np.arange(grid.size), centres, shifts))
        return flux / self._continuum(flux, model)

    def _continuum(self, flux: np.ndarray, model: np.ndarray) -> np.ndarray:
        """Piecewise linear, robust: where the model has no lines, observed over synthetic.

        Raises ``ConfigError`` where that scatters so much that there is no continuum to follow.
        """
        n = flux.size
        knots = np.linspace(0, n - 1, max(n // _KNOTS, 2) + 1)
        ratio = flux / np.maximum(model, 0.05)
        use = np.zeros(n, bool)
        finite = np.isfinite(ratio)
        for low, high in zip(knots[:-1].astype(int), knots[1:].astype(int) + 1, strict=True):
            piece = slice(low, high)
            level = min(_CLEAN, float(np.quantile(model[piece], 1.0 - _ENOUGH)))
            use[piece] = model[piece] >= level
        use &= finite
        if use.sum() < 20:
            return np.full(n, np.nan)
        at = np.arange(n)
        cell = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
        part = (at - knots[cell]) / (knots[cell + 1] - knots[cell])
        basis = np.zeros((n, len(knots)))
        basis[at, cell], basis[at, cell + 1] = 1.0 - part, part
        smooth = np.diff(np.eye(len(knots)), 2, axis=0) * 0.3 * np.sqrt(_KNOTS * _ENOUGH)
        weight = use.astype(float)
        for _ in range(8):
            rows = np.vstack([basis[use] * weight[use, None], smooth])
            knot = np.linalg.lstsq(
                rows, np.concatenate([ratio[use] * weight[use], np.zeros(len(smooth))]), rcond=None
            )[0]
            residual = ratio - basis @ knot
            scatter = 1.4826 * np.median(np.abs(residual[use])) + 1e-4
            # a line that the model lacks pulls down, and has less of a say than what lies above
            weight = np.where(residual > 0, 1.0 / (1.0 + (residual / (3.0 * scatter)) ** 2), 0.0)
            weight = np.where(residual <= 0, 1.0 / (1.0 + (residual / (2.0 * scatter)) ** 2), weight)
        if scatter > _WORST:
            low, high = np.exp([self._log[0], self._log[-1]])
            raise ConfigError(
                f"reference star {self.star.name}: its continuum cannot be followed (observed over synthetic "
                f"flux scatters by {scatter:.2f} between {low:.0f} and {high:.0f} Angstrom): is it "
                "blaze-corrected, and are its labels right?"
            )
        return np.asarray(basis @ knot)


def fit_broadening(observed: ObservedStar, sharp: Arms) -> Broadening:
    """Those of a Gaussian and of rotation with which a synthetic spectrum is most like the observed one."""
    least = max(C_KMS / observed.star.resolving_power / FWHM_PER_SIGMA, 0.6)
    best = Broadening(float(np.hypot(least, 2.5)))
    for _ in range(3):
        data = observed.aligned({name: best(flux) for name, flux in sharp.items()})
        finite = {name: np.isfinite(flux) for name, flux in data.items() if np.isfinite(flux).any()}

        def distance(broadening: Broadening, data: Arms = data, finite: Arms = finite) -> float:
            pieces = [(data[name] - broadening(sharp[name]))[rows] for name, rows in finite.items()]
            return float(np.minimum(np.concatenate(pieces) ** 2, 0.01).mean())

        turns = np.unique(np.clip(best.vsini + np.arange(-5, 5.1, 1.0), 0, 40))
        best = min((Broadening(best.sigma, float(v)) for v in turns), key=distance)
        widths = np.unique(np.clip(best.sigma + np.arange(-1.5, 1.51, 0.25), least, None))
        best = min((Broadening(float(s), best.vsini) for s in widths), key=distance)
    return best
