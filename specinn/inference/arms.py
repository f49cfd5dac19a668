"""Whether the arms of a spectrum agree: the posterior of each arm against that of all arms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from specinn.posterior import QUANTILES

if TYPE_CHECKING:
    from specinn.labels import LabelSet
    from specinn.plugins.interfaces import Estimator
    from specinn.posterior import Summary
    from specinn.spectra import SpectrumBatch

__all__ = ["LIMIT", "arm_disagreement"]

LIMIT = 4.0  # sigma; false alarms: docs/method.md
_SAMPLES = 1024  # of the posterior of one arm: its median is then good to 0.04 sigma
_FEWEST = 0.1  # of the pixels that the model uses in an arm: an arm with fewer is ignored


def arm_disagreement(
    estimator: Estimator, batch: SpectrumBatch, joint: Summary, n_samples: int, seed: int
) -> tuple[np.ndarray, list[str]]:
    """How far apart the arms are ``(n_spec,)`` in sigma, and a sentence on the label that differs most.

    ``batch`` is preprocessed, and ``joint`` its posterior from all arms. For every label
    sqrt(sum over arms of ((m_arm - m_joint) / s_arm)^2 / (arms - 1)), with the median m and half the width s
    from the 16 to the 84 percentile, in the variable in which the label is learnt; the result is the largest
    over labels. Of two independent Gaussian posteriors that is |m_1 - m_2| / sqrt(s_1^2 + s_2^2). NaN where
    fewer than two arms have pixels.
    """
    labels, arms = estimator.labels, estimator.instrument.slices
    used = estimator.used_pixels & ~batch.mask
    present = {
        name: used[:, arm].sum(axis=1) >= max(1.0, _FEWEST * estimator.used_pixels[arm].sum())
        for name, arm in arms.items()
    }
    several = np.sum(list(present.values()), axis=0) > 1
    shape = len(batch), len(labels)
    total, count = np.zeros(shape), np.zeros(shape)
    centre = _centre_and_width(labels, joint)[0]
    values: dict[str, Summary] = {}
    places: dict[str, np.ndarray] = {}
    for name, arm in arms.items():
        rows = np.flatnonzero(several & present[name])
        if not rows.size:
            continue
        mask = np.ones_like(batch.mask[rows])
        mask[:, arm] = batch.mask[rows, arm]
        alone = attrs.evolve(batch[rows], mask=mask)
        values[name] = estimator.summarise(estimator.encode(alone), min(n_samples, _SAMPLES), seed)
        places[name] = np.full(len(batch), -1)
        places[name][rows] = np.arange(rows.size)
        middle, width = _centre_and_width(labels, values[name])
        off = ((middle - centre[rows]) / np.where(width > 0, width, np.nan)) ** 2
        finite = np.isfinite(off)
        total[rows] += np.where(finite, off, 0.0)
        count[rows] += finite
    each = np.where(count > 1, np.sqrt(total / np.maximum(count - 1, 1)), np.nan)
    score, sentences = np.full(len(batch), np.nan), [""] * len(batch)
    for row in np.flatnonzero(np.isfinite(each).any(axis=1)):
        worst = int(np.nanargmax(each[row]))
        score[row] = each[row, worst]
        label = labels[worst]
        said = [
            f"{name} {_text(percentiles, places[name][row], worst)}"
            for name, percentiles in values.items()
            if places[name][row] >= 0
        ]
        unit = f" {label.unit}" if label.unit else ""
        sentences[row] = (
            f"the arms disagree in {label.name} by {score[row]:.1f} sigma: {', '.join(said)}{unit}"
        )
    return score, sentences


def _quantiles(summary: Summary) -> np.ndarray:
    """``(3, n_spec, n_labels)`` percentiles 16, 50 and 84."""
    order = [list(QUANTILES).index(name) for name in ("p16", "median", "p84")]
    return summary.quantiles[order]


def _centre_and_width(labels: LabelSet, summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """``(n_spec, n_labels)`` median and half the width, in the variables in which the labels are learnt."""
    low, middle, high = labels.to_network(_quantiles(summary)[..., : len(labels)])
    return middle, 0.5 * (high - low)


def _text(summary: Summary, row: int, label: int) -> str:
    low, middle, high = _quantiles(summary)[:, row, label]
    digits = 0 if abs(middle) > 100 else 2
    return f"{middle:.{digits}f} +- {0.5 * (high - low):.{digits}f}"
