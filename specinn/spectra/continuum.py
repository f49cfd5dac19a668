"""Continuum of spectra: an iterative, masked fit, the same for observed and simulated spectra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import torch

__all__ = ["ContinuumFit", "ContinuumOptions"]

_NOISY = 4.0  # times the usual sigma, above which a pixel weighs less
_ENOUGH = 512  # pixels for the median of sigma


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
    is the larger of the noise of a bin, the standard deviation of the bins in use, and 0.2 %. Pixels whose
    sigma is more than four times the median of the arm weigh less, as the inverse of their variance. The
    result is a pseudo-continuum: it is meaningful because simulations pass through the same code.

    Parameters
    ----------
    wavelength : ndarray
        ``(n_pix,)`` Angstrom, increasing in each of the pieces ``arms``.
    arms : mapping of str to slice
        The pieces of ``wavelength`` by name.
    options : ContinuumOptions, optional
        Degree, limits and iterations.
    device : str
        Of torch, on which to compute.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from specinn.spectra.continuum import ContinuumFit
    >>> wavelength = np.linspace(6000.0, 6100.0, 1000)
    >>> shape = 1.0 + 0.002 * (wavelength - 6050.0)
    >>> lines = 1.0 - 0.6 * np.exp(-0.5 * ((wavelength - 6040.0) / 0.2) ** 2)
    >>> flux = torch.tensor(shape * lines, dtype=torch.float32)[None]
    >>> sigma, mask = torch.full_like(flux, 0.005), torch.zeros_like(flux, dtype=torch.bool)
    >>> continuum, used = ContinuumFit(wavelength, {"red": slice(0, 1000)})(flux, sigma, mask)
    >>> continuum.shape, bool(np.abs(continuum[0].numpy() / shape - 1.0).max() < 0.002)
    (torch.Size([1, 1000]), True)
    """

    def __init__(
        self,
        wavelength: np.ndarray,
        arms: Mapping[str, slice],
        options: ContinuumOptions | None = None,
        device: str = "cpu",
    ) -> None:
        self.options = options = options or ContinuumOptions()
        self.arms: list[tuple[Any, ...]] = []  # slice, basis, and design and its products over bins
        for arm in arms.values():
            wave = wavelength[arm]
            u = 2.0 * (wave - wave[0]) / (wave[-1] - wave[0]) - 1.0
            n_terms = 1 + max(2, round(options.degree * (wave[-1] - wave[0]) / 100.0))
            basis = np.polynomial.chebyshev.chebvander(u, n_terms - 1)
            size = min(options.bin_pixels, wave.size)
            design = basis[: wave.size // size * size].reshape(-1, size, n_terms).mean(axis=1)
            outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
            tensors = [torch.as_tensor(v, dtype=torch.float32, device=device) for v in (basis, design, outer)]
            self.arms.append((arm, *tensors))

    def __call__(
        self, flux: torch.Tensor, sigma: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The continuum of a batch.

        Parameters
        ----------
        flux, sigma : torch.Tensor
            ``(n_spec, n_pix)`` in one unit.
        mask : torch.Tensor
            ``(n_spec, n_pix)`` bool, True = bad.

        Returns
        -------
        continuum : torch.Tensor
            ``(n_spec, n_pix)`` in the unit of flux; 1 in arms without flux.
        used : torch.Tensor
            ``(n_spec, n_arms)`` fraction of bins that the last fit used; 0 in arms without flux.
        """
        continuum = torch.ones_like(flux)
        used = flux.new_zeros(len(flux), len(self.arms))
        for i, (arm, basis, design, outer) in enumerate(self.arms):
            weight = _weights(sigma[:, arm], mask[:, arm])
            continuum[:, arm], used[:, i] = self._fit(
                flux[:, arm], sigma[:, arm], weight, basis, design, outer
            )
        return continuum, used

    def _fit(
        self,
        flux: torch.Tensor,
        sigma: torch.Tensor,
        weight: torch.Tensor,
        basis: torch.Tensor,
        design: torch.Tensor,
        outer: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The fit of one arm. ``basis (n_pix, n_terms)``, ``design (n_bins, n_terms)`` its means over bins,
        ``outer (n_bins, n_terms ** 2)`` their products."""
        size = min(self.options.bin_pixels, flux.shape[1])
        n_bins, n_terms = design.shape

        def binned(values: torch.Tensor) -> torch.Tensor:
            # slice by slice: a sum over an axis of four is several times slower
            slices = [values[:, i : n_bins * size : size] for i in range(size)]
            return sum(slices[1:], start=slices[0])

        # products and not torch.where, which is slow on a CPU; what is masked may be anything, also NaN
        count = binned(weight)
        total = torch.where(count > 0, count, 1.0)
        covered = (count > 0).to(flux.dtype)
        values = binned((flux * weight).nan_to_num_(0.0)) / total
        variance = (sigma * weight).square_().nan_to_num_(0.0, posinf=torch.inf)
        noise = binned(variance).sqrt_() / total
        whole = count.clamp(max=1.0)  # what a bin counts where all that are good count alike

        # Spectra come in any unit: work relative to the mean of the good bins.
        level = _mean(values, whole)
        has_flux = level > 0
        unit = torch.where(has_flux, level, torch.ones_like(level))[:, None]
        values, noise = values / unit, noise / unit
        ridge = 1e-6 * torch.eye(n_terms, device=flux.device).flatten()
        keep = covered
        for _ in range(self.options.iterations):
            w = count * keep
            normal = (w @ outer + ridge * w.sum(1, keepdim=True).clamp(min=1)).view(-1, n_terms, n_terms)
            moments = ((w * values) @ design).double()
            coefficients = torch.linalg.solve(normal.double(), moments[..., None])[..., 0].to(flux.dtype)
            residual = values - coefficients @ design.T
            scatter = _mean(residual.square(), keep * whole).sqrt_()[:, None]
            scale = torch.maximum(scatter, noise).clamp_(min=2e-3)
            above = residual > -self.options.lower * scale
            keep = covered * (above & (residual < self.options.upper * scale)).to(flux.dtype)
        sound = has_flux & coefficients.isfinite().all(1)
        coefficients = torch.where(sound[:, None], coefficients, torch.zeros_like(coefficients))
        # where a fit comes down to nothing, the mean level is the better guess
        continuum = torch.nn.functional.threshold(coefficients @ basis.T, 0.02, 1.0) * unit
        return continuum, keep.mean(1) * has_flux


def _weights(sigma: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``(n_spec, n_pix)`` 0 where masked, 1 for pixels of usual sigma, less for noisier ones."""
    step = max(1, sigma.shape[1] // _ENOUGH)
    some = torch.where(mask[:, ::step], torch.nan, sigma[:, ::step])
    usual = _NOISY * some.nanmedian(dim=1, keepdim=True)[0]
    weight = (~mask).to(sigma.dtype)
    noisy = sigma > usual  # never where the median is not known
    if noisy.any():
        weight *= torch.where(noisy, (usual / sigma).square(), 1.0)
    return weight


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``(n,)`` weighted mean of each row; 0 for rows without any weight."""
    total = weight.sum(1)
    return (values * weight).sum(1) / torch.where(total > 0, total, 1.0)
