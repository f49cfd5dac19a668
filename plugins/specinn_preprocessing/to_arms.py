"""From any pixels to the model's: one sparse operator per pair of grids."""

from __future__ import annotations

import attrs
import numpy as np

from specinn.errors import ReadError
from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.plugins import Preprocessor, Templates
from specinn.spectra import SpectrumBatch
from specinn.spectra.resample import Resampler
from specinn_preprocessing.meta import with_columns


@attrs.define
class ToArms(Preprocessor):
    """Changes resolving power and pixels to those of ``instrument``; errors are propagated.

    Pixels that the spectrum does not cover, or that lie outside an arm's range, are masked.
    """

    stage = "pixels"

    instrument: Instrument
    templates: Templates | None = None
    _resampler: Resampler = attrs.field(init=False, repr=False)
    _outside: np.ndarray = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        instrument = self.instrument
        power = instrument.resolving_power_at(instrument.wavelength)
        self._resampler = Resampler(instrument.wavelength, instrument.slices, power)
        self._outside = ~np.concatenate([arm.contains(arm.wavelength) for arm in instrument.arms])

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        if batch.resolving_power is None:
            raise ReadError("the resolving power of the spectrum is unknown: give it with --resolving-power")
        flux, sigma, mask = self._resampler(batch)
        mask |= self._outside
        np.copyto(flux, 0.0, where=mask)
        flags = flags_of(batch.meta)
        slices = self.instrument.slices
        within = np.array([np.count_nonzero(~self._outside[arm]) for arm in slices.values()])
        good = np.stack([np.count_nonzero(~mask[:, arm], axis=1) for arm in slices.values()], axis=1)
        empty = good == 0
        raise_flag(flags, empty.any(axis=1), Flag.ARM_MISSING)
        raise_flag(flags, empty.all(axis=1), Flag.NO_OVERLAP)
        raise_flag(flags, good.sum(axis=1) < 0.5 * (within * ~empty).sum(axis=1), Flag.MANY_MASKED)
        meta = with_columns(batch.meta, flags)
        instrument, power = self.instrument, self._resampler.resolving_power
        return SpectrumBatch(instrument.wavelength, flux, sigma, mask, power, instrument.medium, meta, slices)
