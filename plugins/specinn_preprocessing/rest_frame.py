"""Radial velocity: given, stated by the file, or measured against model templates."""

from __future__ import annotations

from typing import Literal

import attrs
import numpy as np

from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.plugins.interfaces import Preprocessor, Templates
from specinn.spectra import SpectrumBatch
from specinn_preprocessing.cross_correlation import VelocitySearch
from specinn_preprocessing.meta import with_columns
from specinn_preprocessing.shift import to_rest

_MARGIN = 30.0  # Angstrom beyond the model's arms that are kept


@attrs.define
class RestFrame(Preprocessor):
    """Moves spectra to rest, on those of their pixels that lie within 30 Angstrom of the model's arms.

    ``velocity`` km/s holds for all; ``auto`` measures all; None (the default) takes ``meta["rv"]`` where it
    is a number and measures the others. Adds ``rv`` and ``rv_error`` (km/s) to ``meta``.

    Measured: the maximum over velocities and templates of the gain in chi-square that a scaled template
    brings, at the model's resolving power.
    """

    instrument: Instrument
    templates: Templates
    velocity: float | Literal["auto"] | None = None
    _search: VelocitySearch | None = attrs.field(default=None, init=False, repr=False)

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        n, meta = len(batch), batch.meta
        flags = flags_of(meta)
        rv, error = np.full(n, np.nan), np.full(n, np.nan)
        if self.velocity is None and "rv" in meta.colnames:
            rv = np.array(np.ma.filled(np.ma.array(meta["rv"], dtype=float), np.nan))
        elif isinstance(self.velocity, (int, float)):
            rv[:] = self.velocity
        unknown = np.flatnonzero(~np.isfinite(rv))
        if unknown.size:
            if self._search is None:
                self._search = VelocitySearch(self.templates)
            stars = batch if unknown.size == n else batch[unknown]
            rv[unknown], error[unknown], clear = self._search(stars)
            raise_flag(flags, unknown, Flag.RV_MEASURED)
            raise_flag(flags, unknown[~clear], Flag.RV_UNCERTAIN)
        meta = with_columns(meta, flags, rv=rv, rv_error=error)
        ranges = [(arm.range[0] - _MARGIN, arm.range[1] + _MARGIN) for arm in self.instrument.arms]
        return to_rest(attrs.evolve(batch, meta=meta), rv, ranges)
