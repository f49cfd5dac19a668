"""Spectra: the batch that passes through everything, how it is read, resampled and normalised."""

from __future__ import annotations

from specinn.spectra.batch import SpectrumBatch, snr_per_angstrom

__all__ = ["SpectrumBatch", "snr_per_angstrom"]
