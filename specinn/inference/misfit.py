"""Whether the model spectrum of the inferred labels resembles the spectrum: a check of any estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from specinn.simulation.model_spectra import Models

if TYPE_CHECKING:
    from specinn.plugins.interfaces import Estimator, Preprocessor, Synthesizer
    from specinn.spectra import SpectrumBatch

__all__ = ["Misfit"]

# Typical errors of model spectra where all is well: of the continuum, and of the depth of lines.
_MODEL_FLOOR, _MODEL_DEPTH = 0.01, 0.1
# In units of noise and these errors. Benchmark stars have 0.56 to 1.18 (rms over the pixels of a spectrum), M
# dwarfs below the grid 7, a giant with an order ripple of 8 % in one arm 3.3.
_LIMIT = 2.0


class Misfit:
    """Compares preprocessed spectra with model spectra by ``synthesizer`` of the values of ``estimator``.

    ``normalise`` is the step that has normalised the spectra; model spectra pass through it, too.
    """

    def __init__(self, synthesizer: Synthesizer, estimator: Estimator, normalise: Preprocessor) -> None:
        self.models = Models(synthesizer, estimator.instrument)
        self.names, self.used = estimator.labels.names, estimator.used_pixels
        self.arms, self.normalise = estimator.instrument.slices, normalise

    def __call__(self, batch: SpectrumBatch, values: np.ndarray) -> np.ndarray:
        """``(n_spec, n_arms)`` rms of observed minus model in units of their errors, over twice its usual
        size: above 1 the values are not those of this spectrum. NaN without pixels.

        ``values (n_spec, n_labels)`` are physical. Errors are the noise, 1 % of the continuum and 10 % of the
        depth of lines.
        """
        flux = np.where(batch.mask, 0.0, self.models(values, self.names))
        model = self.normalise(attrs.evolve(batch, flux=flux)).flux
        error = np.hypot(batch.sigma, _MODEL_FLOOR + _MODEL_DEPTH * np.clip(1.0 - model, 0.0, 1.0))
        good = self.used & ~batch.mask
        square = np.where(good, ((batch.flux - model) / error) ** 2, 0.0)
        out = np.full((len(batch), len(self.arms)), np.nan)
        for i, arm in enumerate(self.arms.values()):
            count = good[:, arm].sum(axis=1)
            some = count > 0
            out[some, i] = np.sqrt(square[some, arm].sum(axis=1) / count[some]) / _LIMIT
        return out
