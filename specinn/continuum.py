"""Continuum of spectra: an iterative, masked fit, the same for observed and simulated spectra."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import torch


@attrs.frozen
class ContinuumOptions:
    """``degree`` of the polynomial per 100 Angstrom of arm length; bins of ``bin_pixels`` pixels; bins more
    than ``lower`` scatters below the fit or ``upper`` above it are left out, ``iterations`` times."""

    degree: float = 1.0
    lower: float = 1.0
    upper: float = 3.0
    iterations: int = 6
    bin_pixels: int = 4


class ContinuumFit:
    """Fits the upper envelope of every spectrum of a batch, an arm (or order) at a time, all at once.

    A Chebyshev polynomial (at least quadratic) is fitted by least squares to the means of bins, bins below
    the envelope are left out, and the fit is repeated (:class:`ContinuumOptions`). The scatter that decides
    is the larger of the noise of a bin, the standard deviation of the bins in use, and 0.2 %. The result is
    a pseudo-continuum: it is meaningful because simulations pass through the same code.
    """

    def __init__(
        self,
        wavelength: np.ndarray,
        arms: Mapping[str, slice],
        options: ContinuumOptions | None = None,
        device: str = "cpu",
    ) -> None:
        self.options = options = options or ContinuumOptions()
        self.arms = []
        for arm in arms.values():
            wave = wavelength[arm]
            u = 2.0 * (wave - wave[0]) / (wave[-1] - wave[0]) - 1.0
            n_terms = 1 + max(2, round(options.degree * (wave[-1] - wave[0]) / 100.0))
            basis = np.polynomial.chebyshev.chebvander(u, n_terms - 1)
            self.arms.append((arm, torch.as_tensor(basis, dtype=torch.float32, device=device)))

    def __call__(
        self, flux: torch.Tensor, sigma: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Continuum ``(n_spec, n_pix)`` of ``flux`` with ``sigma`` and ``mask`` (True = bad), and the
        fraction ``(n_spec, n_arms)`` of bins that the last fit used. Arms without flux get continuum 1 and
        fraction 0.
        """
        continuum = torch.ones_like(flux)
        used = flux.new_zeros(len(flux), len(self.arms))
        for i, (arm, basis) in enumerate(self.arms):
            continuum[:, arm], used[:, i] = self._fit(flux[:, arm], sigma[:, arm], ~mask[:, arm], basis)
        return continuum, used

    def _fit(
        self, flux: torch.Tensor, sigma: torch.Tensor, good: torch.Tensor, basis: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = min(self.options.bin_pixels, flux.shape[1])
        n_bins = flux.shape[1] // size

        def binned(values: torch.Tensor) -> torch.Tensor:
            return values[..., : n_bins * size].reshape(*values.shape[:-1], n_bins, size).sum(-1)

        weight = good.to(flux.dtype)
        count = binned(weight)
        values = binned(torch.where(good, flux, 0.0)) / count.clamp(min=1)
        noise = binned(torch.where(good, sigma, 0.0).square()).sqrt() / count.clamp(min=1)
        design = basis[: n_bins * size].view(n_bins, size, -1).mean(1)
        outer = (design[:, :, None] * design[:, None, :]).flatten(1)

        # Spectra come in any unit: work relative to the mean of the good bins.
        level = _mean(values, count > 0)
        has_flux = level > 0
        unit = torch.where(has_flux, level, torch.ones_like(level))[:, None]
        values, noise = values / unit, noise / unit
        ridge = 1e-6 * torch.eye(design.shape[1], device=flux.device).flatten()
        keep = count > 0
        fit = torch.ones_like(values)
        for _ in range(self.options.iterations):
            w = torch.where(keep, count, torch.zeros_like(count))
            normal = (w @ outer + ridge * w.sum(1, keepdim=True).clamp(min=1)).view(
                -1, design.shape[1], design.shape[1]
            )
            moments = ((w * values) @ design).double()
            coefficients = torch.linalg.solve(normal.double(), moments[..., None])[..., 0]
            fit = coefficients.to(flux.dtype) @ design.T
            residual = values - fit
            scatter = _mean(residual.square(), keep).sqrt()[:, None]
            scale = torch.maximum(scatter, noise).clamp(min=2e-3)
            keep = (
                (count > 0)
                & (residual > -self.options.lower * scale)
                & (residual < self.options.upper * scale)
            )
        full = (coefficients.to(flux.dtype) @ basis.T) * unit
        positive = has_flux[:, None] & (full > 0.02 * unit)
        used = keep.to(flux.dtype).sum(1) / n_bins * has_flux
        return torch.where(positive, full, torch.ones_like(full) * unit), used


def _mean(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """``(n,)`` mean of the kept values of each row; 0 for rows without any."""
    return torch.where(keep, values, torch.zeros_like(values)).sum(1) / keep.sum(1).clamp(min=1)
