"""Noise added on purpose, to compare spectra at one S/N."""

from __future__ import annotations

import attrs
import numpy as np

from specinn.instruments import Instrument
from specinn.plugins import Preprocessor, Templates
from specinn.spectra import SpectrumBatch
from specinn.spectra.resample import pixel_widths


@attrs.define
class DegradeSNR(Preprocessor):
    """Adds Gaussian noise until every pixel has ``snr`` per Angstrom (Ksoll et al. 2026, eq. 1).

    The level is that of the pixel's own smoothed flux; pixels that are noisier already stay as they are.
    The noise of a spectrum depends on ``seed`` and on ``meta["key"]`` only.
    """

    stage = "noise"

    instrument: Instrument
    templates: Templates | None = None
    snr: float = 250.0
    seed: int = 0

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        flux, sigma = batch.flux.copy(), batch.sigma.copy()
        for arm in batch.arms.values():
            level = _level(flux[:, arm], batch.mask[:, arm])
            target = level[:, None] / (self.snr * np.sqrt(pixel_widths(batch.wavelength[arm])))
            extra = np.sqrt(
                np.clip(target**2 - np.nan_to_num(sigma[:, arm], nan=0.0, posinf=np.inf) ** 2, 0.0, None)
            )
            for i in range(len(batch)):
                row = int(batch.meta["key"][i]) if "key" in batch.meta.colnames else i
                rng = np.random.default_rng([self.seed, row, arm.start])
                flux[i, arm] += extra[i] * rng.standard_normal(extra.shape[1])
            sigma[:, arm] = np.sqrt(np.nan_to_num(sigma[:, arm], nan=0.0, posinf=np.inf) ** 2 + extra**2)
        flux[batch.mask] = 0.0
        return attrs.evolve(batch, flux=flux, sigma=sigma)


def _level(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``(n_spec,)`` the 90th percentile of good flux: near the continuum, whatever the unit."""
    out = np.zeros(len(flux))
    for i, bad in enumerate(mask):
        if not bad.all():
            out[i] = max(float(np.quantile(flux[i, ~bad], 0.9)), 0.0)
    return out
