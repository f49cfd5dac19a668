"""Posterior: samples of the labels of a batch of stars, and what is read off them."""

from __future__ import annotations

from functools import cached_property

import attrs
import numpy as np

from specinn.errors import ModelError
from specinn.labels import LabelSet


@attrs.frozen(eq=False, slots=False)
class Posterior:
    """Posterior samples of a batch.

    ``samples (n_spec, n_samples, n_labels)`` in physical units; ``log_prob (n_spec, n_samples)`` the log
    density in the network's label space (design.md section 5). A sample outside the training bounds
    is rejected: it counts towards :attr:`rejected_fraction` and towards nothing else. ``inside`` stays
    what the estimator saw when a correction moves samples.
    """

    labels: LabelSet
    samples: np.ndarray
    log_prob: np.ndarray
    inside: np.ndarray = None  # type: ignore[assignment]

    def __attrs_post_init__(self) -> None:
        if self.samples.ndim != 3 or self.samples.shape[2] != len(self.labels):
            raise ModelError(
                f"samples have shape {self.samples.shape}: expected (n_spec, n_samples, {len(self.labels)})"
            )
        if self.log_prob.shape != self.samples.shape[:2]:
            raise ModelError(f"log_prob has shape {self.log_prob.shape}, samples {self.samples.shape}")
        if self.inside is None:
            good = self.labels.inside(self.samples) & np.isfinite(self.log_prob)
            object.__setattr__(self, "inside", good)
        elif self.inside.shape != self.log_prob.shape or self.inside.dtype != bool:
            raise ModelError(f"inside has shape {self.inside.shape}: expected booleans {self.log_prob.shape}")

    def __len__(self) -> int:
        return self.samples.shape[0]

    def __getitem__(self, rows: object) -> Posterior:
        rows = np.atleast_1d(np.arange(len(self))[rows])  # type: ignore[call-overload]
        return Posterior(self.labels, self.samples[rows], self.log_prob[rows], self.inside[rows])

    @property
    def rejected_fraction(self) -> np.ndarray:
        """``(n_spec,)`` fraction of samples outside the training bounds."""
        return 1.0 - self.inside.mean(axis=1)

    @cached_property
    def map(self) -> np.ndarray:
        """``(n_spec, n_labels)`` the accepted sample of highest density; NaN where all were rejected."""
        density = np.where(self.inside, self.log_prob, -np.inf)
        best = density.argmax(axis=1)
        out = self.samples[np.arange(len(self)), best].astype(np.float64)
        out[~self.inside.any(axis=1)] = np.nan
        return out

    def quantiles(self, q: list[float] | tuple[float, ...]) -> np.ndarray:
        """``(n_q, n_spec, n_labels)`` quantiles of accepted samples, linearly interpolated; or NaN."""
        out = np.full((len(q), len(self), len(self.labels)), np.nan)
        for i, keep in enumerate(self.inside):
            if keep.any():
                out[:, i] = np.quantile(self.samples[i][keep], q, axis=0)
        return out

    @cached_property
    def mean(self) -> np.ndarray:
        """``(n_spec, n_labels)`` mean of accepted samples; NaN where none."""
        return self._moments[0]

    @cached_property
    def std(self) -> np.ndarray:
        """``(n_spec, n_labels)`` standard deviation of accepted samples; NaN where none."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        weight = self.inside[..., None].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            n = weight.sum(axis=1)
            values = np.where(self.inside[..., None], self.samples, 0.0)
            mean = values.sum(axis=1, dtype=np.float64) / n
            spread = np.where(self.inside[..., None], values - mean[:, None], 0.0)
            return mean, np.sqrt((spread**2).sum(axis=1) / n)
