"""Normalisation to the pseudo-continuum of specinn.continuum, and what the normalised spectrum tells."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from specinn.continuum import ContinuumFit, ContinuumOptions
from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.interfaces import Preprocessor, Templates
from specinn.spectra import SpectrumBatch, snr_per_angstrom

_POOR = 0.05  # of an arm's bins in the fit


@attrs.define
class Continuum(Preprocessor):
    """Divides flux and sigma by :class:`specinn.continuum.ContinuumFit`; ``options`` are those of
    :class:`specinn.continuum.ContinuumOptions`.

    Adds ``snr_<arm>`` to ``meta``: the median S/N per Angstrom in the arm's ``snr_windows`` (the whole arm
    where it has none), 0 for an arm without good pixels.
    """

    instrument: Instrument
    templates: Templates | None = None
    options: dict[str, Any] = attrs.field(factory=dict)
    _fits: dict[bytes, ContinuumFit] = attrs.field(factory=dict, init=False, repr=False)

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        continuum, used = self._fit(batch)
        flux = np.where(batch.mask, 1.0, batch.flux / continuum)
        sigma = np.where(batch.mask, np.inf, batch.sigma / continuum)
        meta = batch.meta.copy()
        flags = flags_of(meta)
        has_pixels = np.stack([(~batch.mask[:, arm]).any(axis=1) for arm in batch.arms.values()], axis=1)
        raise_flag(flags, (has_pixels & (used < _POOR)).any(axis=1), Flag.CONTINUUM_POOR)
        meta["flags"] = flags
        out = attrs.evolve(batch, flux=flux, sigma=sigma, meta=meta)
        for arm in self.instrument.arms:
            if arm.name in batch.arms:
                meta[f"snr_{arm.name}"] = self._snr(out, arm.name)
        return out

    def _fit(self, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray]:
        key = batch.wavelength.tobytes()
        if key not in self._fits:
            self._fits = {key: ContinuumFit(batch.wavelength, batch.arms, ContinuumOptions(**self.options))}
        sigma = np.where(np.isfinite(batch.sigma), batch.sigma, 0.0)
        scale = np.maximum(np.abs(np.where(batch.mask, 0.0, batch.flux)).max(axis=1, keepdims=True), 1e-300)
        with torch.no_grad():
            continuum, used = self._fits[key](
                torch.as_tensor(np.where(batch.mask, 0.0, batch.flux) / scale, dtype=torch.float32),
                torch.as_tensor(sigma / scale, dtype=torch.float32),
                torch.as_tensor(batch.mask),
            )
        return continuum.double().numpy() * scale, used.numpy()

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
