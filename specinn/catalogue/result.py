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
    before the corrections, where there were any; ``informed`` the summary with outside knowledge, where that
    was given, NaN for spectra without. ``posterior`` exists if samples were requested; spectra with a bad
    flag hold NaN samples, none of them accepted; ``informed_posterior`` likewise.
    """

    meta: Table
    summary: Summary
    raw: Summary | None = None
    posterior: Posterior | None = None
    informed: Summary | None = None
    informed_posterior: Posterior | None = None

    def __len__(self) -> int:
        return len(self.meta)

    @classmethod
    def join(cls, results: Sequence[Result]) -> Result:
        """Results of one model, one after the other."""
        raw, informed = ([s for s in of if s is not None] for of in
                         zip(*((r.raw, r.informed) for r in results), strict=True))  # fmt: skip
        posteriors, informed_posteriors = (
            [p for p in of if p is not None]
            for of in zip(*((r.posterior, r.informed_posterior) for r in results), strict=True)
        )
        return cls(
            vstack([r.meta for r in results], metadata_conflicts="silent"),
            Summary.join([r.summary for r in results]),
            Summary.join(raw) if raw else None,
            Posterior.join(posteriors) if posteriors else None,
            Summary.join(informed) if informed else None,
            Posterior.join(informed_posteriors) if informed_posteriors else None,
        )
