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
_LABELS = ("teff", "logg", "fe_h", "vmic", "vbroad")  # that shape the whole spectrum
_STEP = 0.01  # of the range of a label, for derivatives
_PRIOR = 12.0  # 1 / variance of a label that may be anywhere in its range, in units of that
_ENOUGH = 0.5  # the misfit below which no better values are looked for
# Share of chi-square that other values save. Errors of the physics or of the reduction are hardly like a
# change of labels: real stars with right values have 0.2 at most, the values of another star 0.4 to 0.8.
_SAVED = 0.4


class Misfit:
    """Compares preprocessed spectra with model spectra by ``synthesizer`` of the values of ``estimator``.

    ``normalise`` is the step that has normalised the spectra; model spectra pass through it, too.
    """

    def __init__(self, synthesizer: Synthesizer, estimator: Estimator, normalise: Preprocessor) -> None:
        self.models = Models(synthesizer, estimator.instrument)
        self.labels, self.used = estimator.labels, estimator.used_pixels
        self.arms, self.normalise = estimator.instrument.slices, normalise

    def __call__(self, batch: SpectrumBatch, values: np.ndarray) -> np.ndarray:
        """``(n_spec, n_arms)``: above 1 the values are not those of this spectrum. NaN without pixels.

        ``values (n_spec, n_labels)`` are physical. It is the rms of observed minus model in units of their
        errors, over twice its usual size; or, if that is more, the share of chi-square that other values of
        the parameters would save (in linear approximation), over 0.4. Errors are the noise, 1 % of the
        continuum and 10 % of the depth of lines.
        """
        model = self._model(batch, values)
        error = np.hypot(batch.sigma, _MODEL_FLOOR + _MODEL_DEPTH * np.clip(1.0 - model, 0.0, 1.0))
        good = self.used & ~batch.mask
        weight = np.divide(1.0, error, out=np.zeros_like(error), where=good)
        off = np.where(good, batch.flux - model, 0.0) * weight
        square = self._sums(off)
        count = self._sums(good)
        out = np.full(square.shape, np.nan)
        out[count > 0] = np.sqrt(square[count > 0] / count[count > 0]) / _LIMIT
        rows = np.flatnonzero((out > _ENOUGH).any(axis=1))
        if rows.size:
            left = self._best(batch[rows], values[rows], model[rows], off[rows], weight[rows])
            saved = 1.0 - self._sums(left) / np.maximum(square[rows], 1e-12)
            out[rows] = np.fmax(out[rows], np.where(count[rows] > 0, saved / _SAVED, np.nan))
        return out

    def _model(self, batch: SpectrumBatch, values: np.ndarray) -> np.ndarray:
        flux = np.where(batch.mask, 0.0, self.models(values, self.labels.names))
        return self.normalise(attrs.evolve(batch, flux=flux)).flux

    def _best(
        self, batch: SpectrumBatch, values: np.ndarray, model: np.ndarray, off: np.ndarray, weight: np.ndarray
    ) -> np.ndarray:
        """What is left ``(n_spec, n_pix)`` of ``off`` after least squares in the labels, whose prior is as
        wide as their range."""
        slopes = []
        for name in (name for name in _LABELS if name in self.labels):
            i, (low, high) = self.labels.index(name), self.labels[name].bounds
            sign = np.where(values[:, i] > 0.5 * (low + high), -1.0, 1.0)
            moved = values.copy()
            moved[:, i] += sign * _STEP * (high - low)
            slopes.append((self._model(batch, moved) - model) * weight * (sign / _STEP)[:, None])
        if not slopes:
            return off
        slope = np.stack(slopes, axis=1)  # (n_spec, n_labels, n_pix), for a change by the whole range
        normal = slope @ slope.transpose(0, 2, 1) + _PRIOR * np.eye(slope.shape[1])
        change = np.linalg.solve(normal, slope @ off[..., None])
        left: np.ndarray = off - (change * slope).sum(axis=1)
        return left

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """``(n_spec, n_arms)`` sums of squares of ``values (n_spec, n_pix)`` over the pixels of each arm."""
        return np.stack([np.square(values[:, arm], dtype=float).sum(1) for arm in self.arms.values()], axis=1)
