"""Grids at lower resolving power and coarser steps: this makes a grid of infinite resolution small."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from specinn.errors import GridError
from specinn.grids import Grid
from specinn.grids.grid import FluxSource, join_arms
from specinn.spectra.resample import resampling_matrix
from specinn.wavelengths import C_KMS, lsf_sigma_kms

__all__ = ["degrade"]

_PIXELS = 4.0  # per FWHM, where no step is given
_COVERED = 0.999  # of an output pixel's kernel


def degrade(
    grid: Grid,
    *,
    resolving_power: float | None = None,
    step: float | None = None,
    ranges: Sequence[tuple[float, float]] = (),
) -> Grid:
    """The grid at ``resolving_power`` (default: its own), pixels of ``step`` and over ``ranges`` (Angstrom).

    One sparse operator per arm (Gaussian line-spread function, integration over pixels) is applied as spectra
    are read. Without ``ranges`` every arm is kept, less the edges where the kernel lacks input; without
    ``step`` there are four pixels to the FWHM at the blue end, or the grid's own pixels where neither the
    resolving power changes.

    Raises ``GridError`` for a higher resolving power than the grid's, a range that the grid does not cover,
    or a step of fewer than two pixels to the FWHM.
    """
    if resolving_power is not None and not resolving_power > 0:
        raise GridError(f"resolving power {resolving_power:g} is not positive")
    if step is not None and not step > 0:
        raise GridError(f"the step of {step:g} Angstrom is not positive")
    target = grid.resolving_power if resolving_power is None else float(resolving_power)
    if target > grid.resolving_power:
        raise GridError(
            f"the grid has resolving power {grid.resolving_power:g}, but {target:g} was requested: a "
            "spectrum can be degraded but not sharpened"
        )
    names, waves, pieces = [], [], []
    for low, high, name, requested in _pieces(grid, ranges):
        arm = grid.arms[name]
        native = grid.wavelength[arm]
        limit = low / target / 2.0
        pixel = step if step is not None else _default_step(native, low, target, grid.resolving_power)
        if pixel > limit * 1.0001:
            raise GridError(
                f"a step of {pixel:g} Angstrom is too coarse for R = {target:g} at {low:g} Angstrom: take "
                f"{np.floor(limit * 1e4) / 1e4:g} or less"
            )
        width = high * float(np.nan_to_num(lsf_sigma_kms(target, grid.resolving_power))) / C_KMS
        edge = 3.5 * width + 0.5 * pixel
        first, last = native[0] + edge, native[-1] - edge
        if requested and (low < first or high > last):
            raise GridError(
                f"the range {low:g}-{high:g} needs model spectra {edge:.2f} Angstrom beyond its ends, but "
                f"the grid covers {native[0]:g}-{native[-1]:g}: ask for {first:.2f} to {last:.2f} at most"
            )
        low, high = max(low, first), min(high, last)
        wave = low + pixel * np.arange(int((high - low) / pixel + 1e-9) + 1)
        if wave.size < 2:
            raise GridError(f"the range {low:g}-{high:g} has fewer than two pixels of {pixel:g} Angstrom")
        used = slice(*np.searchsorted(native, [wave[0] - 2 * edge, wave[-1] + 2 * edge]))
        matrix = resampling_matrix(native[used], grid.resolving_power, wave, target)
        share = np.asarray(matrix.sum(axis=1))
        if share.min() < _COVERED:
            raise GridError(
                f"the grid has a gap within {low:g}-{high:g} Angstrom: choose ranges on both sides of it"
            )
        matrix = matrix.multiply((1.0 / share)[:, None]).tocsr().astype(np.float32)
        names.append(name if name not in names else f"{low:.0f}-{high:.0f}")
        waves.append(wave)
        pieces.append((slice(arm.start + used.start, arm.start + used.stop), matrix))
    order = np.argsort([wave[0] for wave in waves])
    arms, wavelength = join_arms([names[i] for i in order], [waves[i] for i in order])

    def flux_of(rows: np.ndarray) -> np.ndarray:
        flux = grid.flux(rows)
        parts = [(matrix @ flux[:, piece].T).T for piece, matrix in (pieces[i] for i in order)]
        return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32)

    before = f"R = {grid.resolving_power:g}, step {_step(grid.wavelength):.4g} A"
    about = f"from {before} to R = {target:g}, step {_step(wavelength):.4g} A"
    source: FluxSource = flux_of
    return attrs.evolve(
        grid,
        wavelength=wavelength,
        arms=arms,
        flux_of=source,
        resolving_power=target,
        provenance={**grid.provenance, "degraded": about},
    )


def _pieces(grid: Grid, ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float, str, bool]]:
    """Low, high, the arm that holds them, and whether the range was requested."""
    ends = {
        name: (float(grid.wavelength[arm][0]), float(grid.wavelength[arm][-1]))
        for name, arm in grid.arms.items()
    }
    if not ranges:
        return [(low, high, name, False) for name, (low, high) in ends.items()]
    out = []
    for low, high in ranges:
        if not 0 < low < high:
            raise GridError(f"the range {low:g} {high:g} is not increasing and positive (Angstrom)")
        holders = [name for name, (a, b) in ends.items() if a <= low and high <= b]
        if not holders:
            cover = ", ".join(f"{a:g}-{b:g}" for a, b in ends.values())
            raise GridError(f"the range {low:g}-{high:g} is outside the grid, which covers {cover} Angstrom")
        out.append((float(low), float(high), holders[0], True))
    for (_, high, *_), (low, *_) in zip(sorted(out)[:-1], sorted(out)[1:], strict=True):
        if low <= high:
            raise GridError(f"two ranges overlap at {low:g} Angstrom: give one that spans both")
    return out


def _default_step(native: np.ndarray, low: float, target: float, resolving_power: float) -> float:
    if target == resolving_power:
        return _step(native)
    return float(f"{low / target / _PIXELS:.2g}")


def _step(wavelength: np.ndarray) -> float:
    return float(np.median(np.diff(wavelength)))
