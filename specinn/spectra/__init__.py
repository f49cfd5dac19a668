"""Spectra: the batch that passes through everything, how it is read, resampled and normalised.

A reader (:mod:`specinn.spectra.readers`) makes a :class:`SpectrumBatch` of a file, all steps take a batch
and return one. :mod:`specinn.spectra.resample` changes pixels and resolving power,
:mod:`specinn.spectra.continuum` fits the pseudo-continuum, :mod:`specinn.spectra.pixels` tells which pixels
are no measurement, and :mod:`specinn.spectra.specutils` is the way to and from specutils.

>>> import specinn
>>> (batch,) = specinn.read(specinn.example_files()[0])
>>> batch.flux.shape, batch.resolving_power, list(batch.meta["id"]) == ["dwarf-g"]
((1, 18432), 20000.0, True)
>>> from specinn.spectra import snr_per_angstrom
>>> print(*snr_per_angstrom(batch, batch.wavelength > 6200).round(-1))
200.0
"""

from __future__ import annotations

from specinn.spectra.batch import SpectrumBatch, snr_per_angstrom

__all__ = ["SpectrumBatch", "snr_per_angstrom"]
