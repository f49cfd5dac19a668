"""The results of the pipeline for the spectra of a batch, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from astropy.table import Table, vstack

from specinn.posterior import Posterior, Summary

if TYPE_CHECKING:
    pass

__all__ = ["Result"]


@attrs.frozen(eq=False)
class Result:
    """The results for the spectra of a batch, in their order.

    ``meta`` has one row per spectrum: ``id``, ``path``, ``key``, ``rv`` (km/s), ``snr_<arm>``, ``flags``,
    ``message``. ``summary`` covers every spectrum; those with a bad flag hold NaN. ``raw`` is the summary
    before the corrections, where there were any. ``posterior`` exists if samples were requested; spectra with
    a bad flag hold NaN samples, none of them accepted.
    """

    meta: Table
    summary: Summary
    raw: Summary | None = None
    posterior: Posterior | None = None

    def __len__(self) -> int:
        return len(self.meta)

    @classmethod
    def join(cls, results: Sequence[Result]) -> Result:
        """Results of one model, one after the other."""
        raw = [r.raw for r in results if r.raw is not None]
        posteriors = [r.posterior for r in results if r.posterior is not None]
        return cls(
            vstack([r.meta for r in results], metadata_conflicts="silent"),
            Summary.join([r.summary for r in results]),
            Summary.join(raw) if raw else None,
            Posterior.join(posteriors) if posteriors else None,
        )
