"""From any pixels to the model's: one sparse operator per pair of grids."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import attrs
import numpy as np
from scipy import sparse

from specinn.errors import ReadError
from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.interfaces import Preprocessor, Templates
from specinn.resample import apply_resampling, pixel_widths, resampling_operator
from specinn.spectra import SpectrumBatch

_KEPT_OPERATORS = 8  # a survey has one wavelength grid an arm; archives have one a file


@attrs.define
class ToArms(Preprocessor):
    """Changes resolving power and pixels to those of ``instrument``; errors are carried along.

    Pixels that the spectrum does not cover, or that lie outside an arm's range, are masked.
    """

    instrument: Instrument
    templates: Templates | None = None
    _operators: OrderedDict[str, sparse.csr_array] = attrs.field(factory=OrderedDict, init=False, repr=False)

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        if batch.resolving_power is None:
            raise ReadError(
                "the resolving power of the spectrum is not known: give it with --resolving-power"
            )
        instrument = self.instrument
        widths = (
            pixel_widths(batch.wavelength, batch.arms),
            pixel_widths(instrument.wavelength, instrument.slices),
        )
        flux, sigma, mask = apply_resampling(
            self._operator(batch), widths, batch.flux, batch.sigma, batch.mask
        )
        mask = mask | ~self._inside
        flux = np.where(mask, 0.0, flux)
        meta = batch.meta.copy()
        flags = flags_of(meta)
        usable = np.stack([(~mask[:, arm]).any(axis=1) for arm in instrument.slices.values()])
        raise_flag(flags, ~usable.all(axis=0), Flag.ARM_MISSING)
        raise_flag(flags, ~usable.any(axis=0), Flag.NO_OVERLAP)
        raise_flag(flags, mask[:, self._inside].mean(axis=1) > 0.5, Flag.MANY_MASKED)
        meta["flags"] = flags
        power = instrument.resolving_power_at(instrument.wavelength)
        return SpectrumBatch(
            instrument.wavelength, flux, sigma, mask, power, instrument.medium, meta, instrument.slices
        )

    @property
    def _inside(self) -> np.ndarray:
        return np.concatenate([arm.contains(arm.wavelength) for arm in self.instrument.arms])

    def _operator(self, batch: SpectrumBatch) -> sparse.csr_array:
        """The operator for the grid of the batch; kept for the next one."""
        power = np.broadcast_to(np.asarray(batch.resolving_power, float), batch.wavelength.shape)
        digest = hashlib.sha1(np.ascontiguousarray(batch.wavelength).tobytes(), usedforsecurity=False)
        digest.update(np.ascontiguousarray(power).tobytes())
        digest.update(repr([(arm.start, arm.stop) for arm in batch.arms.values()]).encode())
        key = digest.hexdigest()
        if key not in self._operators:
            mine = self.instrument
            self._operators[key] = resampling_operator(
                batch.wavelength,
                batch.arms,
                power,
                mine.wavelength,
                mine.slices,
                mine.resolving_power_at(mine.wavelength),
            )
            while len(self._operators) > _KEPT_OPERATORS:
                self._operators.popitem(last=False)
        self._operators.move_to_end(key)
        return self._operators[key]
