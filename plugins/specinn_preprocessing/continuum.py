"""Normalisation to the pseudo-continuum (specinn.spectra.continuum), and the S/N measured from it."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.plugins import Preprocessor, Templates
from specinn.spectra import SpectrumBatch, snr_per_angstrom
from specinn.spectra.continuum import ContinuumFit, ContinuumOptions
from specinn_preprocessing.meta import with_columns

_POOR = 0.05  # of an arm's bins in the fit


@attrs.define
class Continuum(Preprocessor):
    """Divides flux and sigma by :class:`specinn.spectra.continuum.ContinuumFit`; ``options`` are those of
    :class:`specinn.spectra.continuum.ContinuumOptions`.

    Adds ``snr_<arm>`` to ``meta``: the median S/N per Angstrom in the arm's ``snr_windows`` (the whole arm
    where it has none), 0 for an arm without good pixels.
    """

    stage = "continuum"

    instrument: Instrument
    templates: Templates | None = None
    options: dict[str, Any] = attrs.field(factory=dict)
    _fits: dict[bytes, ContinuumFit] = attrs.field(factory=dict, init=False, repr=False)

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        flux, sigma, used = self._normalise(batch)
        np.copyto(flux, 1.0, where=batch.mask)
        np.copyto(sigma, np.inf, where=batch.mask)
        flags = flags_of(batch.meta)
        has_pixels = np.stack([~batch.mask[:, arm].all(axis=1) for arm in batch.arms.values()], axis=1)
        raise_flag(flags, (has_pixels & (used < _POOR)).any(axis=1), Flag.CONTINUUM_POOR)
        out = attrs.evolve(batch, flux=flux, sigma=sigma)
        arms = [arm.name for arm in self.instrument.arms if arm.name in batch.arms]
        snr = {f"snr_{name}": self._snr(out, name) for name in arms}
        return attrs.evolve(out, meta=with_columns(batch.meta, flags, **snr))

    def _normalise(self, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flux and sigma over the continuum, and the share of bins ``(n_spec, n_arms)`` used for it."""
        key = batch.wavelength.tobytes()
        if key not in self._fits:
            self._fits = {key: ContinuumFit(batch.wavelength, batch.arms, ContinuumOptions(**self.options))}
        good = np.where(batch.mask, 0.0, batch.flux)
        # spectra come in any unit, and single precision has a range
        scale = np.maximum(good.max(axis=1), -good.min(axis=1)).clip(min=1e-300)[:, None]
        with torch.no_grad():
            flux = torch.as_tensor(good / scale, dtype=torch.float32)
            sigma = torch.as_tensor(batch.sigma / scale, dtype=torch.float32)
            continuum, used = self._fits[key](flux, sigma, torch.as_tensor(batch.mask))
            flux, sigma = flux.div_(continuum).double(), sigma.div_(continuum).double()
        return flux.numpy(), sigma.numpy(), used.numpy()

    def _snr(self, batch: SpectrumBatch, name: str) -> np.ndarray:
        arm, where = self.instrument.arm(name), batch.arms[name]
        wave = batch.wavelength[where]
        inside = np.zeros(wave.size, bool)
        for low, high in arm.snr_windows:
            inside |= (wave >= low) & (wave <= high)
        window = np.zeros(batch.wavelength.size, bool)
        window[where] = inside if inside.any() else True
        snr = snr_per_angstrom(batch, window)
        empty = snr <= 0  # the windows may lie in a gap of the spectrum
        if inside.any() and empty.any():
            snr[empty] = snr_per_angstrom(batch[empty], where)
        return snr
