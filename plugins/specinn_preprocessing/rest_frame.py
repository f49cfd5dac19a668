"""Radial velocity: given by the user, stated by the file, or measured against model templates."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
from astropy.table import Table

from specinn.flags import Flag, flags_of, raise_flag
from specinn.instruments import Instrument
from specinn.plugins import Preprocessor, Templates
from specinn.spectra import SpectrumBatch
from specinn_preprocessing.cross_correlation import REFRACTION_KMS, Velocities, VelocitySearch
from specinn_preprocessing.fill import fill_narrow_gaps
from specinn_preprocessing.meta import with_columns
from specinn_preprocessing.shift import to_rest

_MARGIN = 30.0  # Angstrom beyond the model's arms that are kept
# A stated velocity that is further off than both is contradicted: it would cost more than the 0.5 km/s that
# models are trained to bear, and other zero points and templates do not make as much.
_CONTRADICTED_KMS = 3.0
_CONTRADICTED_SIGMA = 5.0
_MEDIUM = 9.0  # chi-square by which the other medium has to be better
_ALIKE_KMS = 1.0  # agreement of an offset with one that has a reason


@attrs.define
class RestFrame(Preprocessor):
    """Moves spectra to rest, on those of their pixels that lie within 30 Angstrom of the model's arms.

    Narrow gaps are filled before (:func:`~specinn_preprocessing.fill.fill_narrow_gaps`).

    ``velocity`` km/s holds for all; ``auto`` measures all; None (the default) takes ``meta["rv"]`` where it
    is a number and measures the others. Adds ``rv`` and ``rv_error`` (km/s) to ``meta``.

    All are measured, by :class:`~specinn_preprocessing.cross_correlation.VelocitySearch`: a velocity that
    was given or stated and that the spectrum contradicts is used, but reported. Also reported are
    velocities in the observer's frame (``meta["frame"]`` is ``topocentric``; there a stated one, which is
    barycentric, is not used), spectra with two sets of lines (``rv_uncertain``), and velocities that change
    with wavelength as if air wavelengths were taken for those in vacuum, or the other way round.
    """

    stage = "velocity"
    takes_velocity = True

    instrument: Instrument
    templates: Templates
    velocity: float | Literal["auto"] | None = None
    _search: VelocitySearch | None = attrs.field(default=None, init=False, repr=False)

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        if self._search is None:
            self._search = VelocitySearch(self.templates)
        batch = fill_narrow_gaps(batch)
        n, meta = len(batch), batch.meta
        flags, notes = flags_of(meta), [[str(said)] if said else [] for said in _column(meta, "message", "")]
        stated = np.full(n, np.nan)
        if self.velocity is None and "rv" in meta.colnames:
            stated = np.array(np.ma.filled(np.ma.array(meta["rv"], dtype=float), np.nan))
        elif isinstance(self.velocity, (int, float)):
            stated[:] = self.velocity
        measured = self._search(batch)
        topocentric = np.array([frame == "topocentric" for frame in _column(meta, "frame", "")])
        use_stated = np.isfinite(stated)
        if self.velocity is None:
            use_stated &= ~(topocentric & measured.clear)
        rv = np.where(use_stated, stated, measured.rv)
        error = np.where(use_stated, np.nan, measured.error)
        raise_flag(flags, ~use_stated, Flag.RV_MEASURED)
        raise_flag(flags, ~use_stated & ~measured.clear, Flag.RV_UNCERTAIN)
        raise_flag(flags, topocentric & ~use_stated, Flag.RV_TOPOCENTRIC)
        double = np.isfinite(measured.second)
        raise_flag(flags, double, Flag.RV_UNCERTAIN)
        for i in np.flatnonzero(double):
            notes[i].append(
                f"there are two sets of lines, at about {measured.rv[i]:.0f} and {measured.second[i]:.0f} "
                "km/s: a double-lined binary, or two stars in one spectrum?"
            )

        off = measured.rv - stated
        limit = np.maximum(_CONTRADICTED_KMS, _CONTRADICTED_SIGMA * measured.error)
        contradicted = use_stated & measured.clear & (np.abs(off) > limit)
        raise_flag(flags, contradicted, Flag.RV_CONTRADICTED)
        medium = np.where(measured.clear, _other_medium(measured), 0)
        from_medium = REFRACTION_KMS * np.sign(off)
        alike = np.abs(off - from_medium) < _ALIKE_KMS + _CONTRADICTED_SIGMA * measured.error
        medium = np.where(contradicted & alike, np.sign(off), medium).astype(int)
        raise_flag(flags, medium != 0, Flag.MEDIUM_SUSPECT)
        correction = np.array(_column(meta, "barycentric_correction", np.nan), float)
        for i in np.flatnonzero(contradicted):
            notes[i].append(
                f"the velocity is stated as {stated[i]:.1f} km/s, the spectrum has {measured.rv[i]:.1f} +- "
                f"{measured.error[i]:.1f} km/s"
            )
            if min(abs(off[i] - correction[i]), abs(off[i] + correction[i])) < _ALIKE_KMS:
                notes[i].append(
                    f"the difference is the barycentric correction of {correction[i]:.1f} km/s: it was not "
                    "applied, or was applied twice"
                )
        for i in np.flatnonzero(medium):
            was, taken = ("vacuum", "air") if medium[i] > 0 else ("air", "vacuum")
            notes[i].append(
                f"the velocity of {measured.rv[i]:.1f} km/s looks as if wavelengths in {was} were taken "
                f"to be in {taken}: try --medium {was}"
            )
        columns: dict[str, Any] = {"rv": rv, "rv_error": error}
        if any(notes):
            columns["message"] = np.array(["; ".join(sentences) for sentences in notes], dtype=object)
        meta = with_columns(meta, flags, **columns)
        ranges = [(arm.range[0] - _MARGIN, arm.range[1] + _MARGIN) for arm in self.instrument.arms]
        return to_rest(attrs.evolve(batch, meta=meta), rv, ranges)


def _other_medium(measured: Velocities) -> np.ndarray:
    """``(n_spec,)`` 1 where wavelengths look like those in vacuum taken for air, -1 for the opposite, else 0:
    where velocities change with wavelength in that way rather than not at all, and become smaller without."""
    sign = np.sign(measured.rv)
    smaller = np.abs(measured.rv - sign * REFRACTION_KMS) < np.abs(measured.rv)
    better = (2.0 * sign * measured.medium - 1.0) / measured.medium_error**2
    return np.where(smaller & (better > _MEDIUM), sign, 0.0)


def _column(meta: Table, name: str, default: Any) -> list[Any]:
    """The values of a column that may be absent or masked."""
    if name not in meta.colnames:
        return [default] * len(meta)
    return [default if value is np.ma.masked else value for value in meta[name]]
