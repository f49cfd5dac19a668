"""The contract of preprocessing steps."""

from __future__ import annotations

import numpy as np

from specinn.plugins.interfaces import Preprocessor
from specinn.spectra import SpectrumBatch
from specinn.testing.rules import close, section, snapshot, unchanged

_require = section("preprocessors")


def check_preprocessor(step: Preprocessor, batch: SpectrumBatch, rtol: float = 1e-6) -> SpectrumBatch:
    """A preprocessing step, on a batch of at least two spectra: rows, input, NaN and independence of spectra.

    ``batch`` should hold good and bad spectra. Alone, a spectrum may differ by ``rtol`` of its largest flux.
    Returns the step's result.
    """
    _require(len(batch) > 1, "the check needs a batch of at least two spectra")
    before = snapshot(batch)
    out = step(batch)
    _require(unchanged(batch, before), "the step changed its input")
    _require(len(out) == len(batch), f"{len(batch)} spectra became {len(out)}")
    if "id" in batch.meta.colnames:
        _require(list(out.meta["id"]) == list(batch.meta["id"]), "spectra changed their order or their id")
    good = ~out.mask
    _require(np.isfinite(out.flux[good]).all(), "flux that is not finite came out unmasked")
    unknown = np.isnan(out.sigma).all(axis=1, keepdims=True)
    _require((np.isfinite(out.sigma) | unknown)[good].all(), "errors that are not finite came out unmasked")
    again = step(batch)
    _require(close(again.flux, out.flux, 0), "the same batch gives another result the second time")
    for row in range(len(batch)):
        single = step(batch[row : row + 1])
        scale = np.abs(out.flux[row][good[row]]).max(initial=0.0)
        alone = np.array_equal(single.mask[0], out.mask[row]) and close(
            single.flux[0][good[row]], out.flux[row][good[row]], rtol, rtol * scale
        )
        _require(alone, f"spectrum {row} comes out differently alone and in its batch")
    return out
