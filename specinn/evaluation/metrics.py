"""Figures of merit of what was inferred from grid spectra, and their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specinn.evaluation.ksoll2026 import PUBLISHED_SNR, PUBLISHED_STD, published_nrmse
from specinn.labels import Label
from specinn.posterior import Summary

__all__ = ["GAUSSIAN_MAD", "METRICS", "OF_GAUSSIAN", "metrics_for_header", "metrics_of"]

GAUSSIAN_MAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation
OF_GAUSSIAN = 0.6745  # median of |x| of a standard normal


def metrics_of(
    label: Label, k: int, summary: Summary, truth: np.ndarray, chosen: np.ndarray, snr: float
) -> dict[str, Any]:
    """The values of a row of :data:`METRICS` for label ``k`` of the ``chosen (n_stars,)`` stars."""
    has = chosen & np.isfinite(summary.map[:, k])
    residual = summary.map[has, k] - truth[has, k]
    _, low95, low68, high68, high95, _ = summary.quantiles[:, has, k]

    def inside(low: np.ndarray, high: np.ndarray) -> float | None:
        return _number(np.mean((truth[has, k] >= low) & (truth[has, k] <= high))) if has.any() else None

    row: dict[str, Any] = {
        "label": label.name,
        "unit": label.unit,
        "n": int(has.sum()),
        "failed": int(chosen.sum() - has.sum()),
        "rejected_fraction": _number(summary.rejected_fraction[chosen].mean()),
        **dict.fromkeys(("mean_residual", "std", "robust_std", "nrmse", "posterior_std")),
        "inside_68": inside(low68, high68),
        "inside_95": inside(low95, high95),
        "published_std": PUBLISHED_STD.get(label.name) if snr == PUBLISHED_SNR else None,
        "published_nrmse": published_nrmse(label.name, snr),
    }
    if has.any():
        row |= {
            "mean_residual": _number(residual.mean()),
            "std": _number(residual.std()),
            "robust_std": _number(GAUSSIAN_MAD * np.median(np.abs(residual - np.median(residual)))),
            "nrmse": _number(np.sqrt(np.mean(residual**2)) / (label.bounds[1] - label.bounds[0])),
            "posterior_std": _number(np.median(summary.std[has, k])),
        }
    return row


def _number(value: Any) -> float | None:
    """A float for JSON, None where it is not finite."""
    return float(value) if np.isfinite(value) else None


METRICS = {
    "snr": "S/N per Angstrom of the simulated spectra",
    "scope": "Which stars",
    "outside": "Stars of the scope whose true labels are not all within the bounds of the training set",
    "label": "Label",
    "unit": "Unit of the label, and of the columns about residuals and widths",
    "n": "Stars with a posterior; the figures are theirs",
    "failed": "Stars all of whose samples were rejected",
    "rejected_fraction": "Mean fraction of samples outside the bounds of the training set",
    "mean_residual": "Mean of MAP minus truth",
    "std": "Standard deviation of MAP minus truth",
    "robust_std": "1.4826 times the median absolute deviation of MAP minus truth",
    "nrmse": "Root mean square of MAP minus truth over the label's range",
    "posterior_std": "Median standard deviation of the posteriors",
    "inside_68": "Fraction of truths between the 16 and 84 percentiles",
    "inside_95": "Fraction of truths between the 2.5 and 97.5 percentiles",
    "published_std": "Standard deviation at S/N 250 of Ksoll et al. 2026 (A&A 708, A118) on their test set",
    "published_nrmse": "NRMSE of Ksoll et al. 2026 on their test set, over the ranges of their grid",
}


def metrics_for_header(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of :func:`grid_metrics` for ``header["metrics"]`` of a model: by S/N and scope, then by label."""
    left_out = ("snr", "scope", "label", "published_std", "published_nrmse")
    header: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        figures = {key: value for key, value in row.items() if key not in left_out}
        header.setdefault(f"S/N {row['snr']:g}, {row['scope']}", {})[row["label"]] = figures
    return header
