"""Whether posteriors have the right width: ranks of the truth, bands, coverage. Numpy in, numpy out.

The coverage is exact if the truth lies below the p-quantile in a fraction p of cases, for every p. The
rank of the truth among the samples is then uniform between 0 and 1 (Talts et al. 2018, arXiv:1804.06788), and
so is the rank of its distance from a point chosen at random among the distances of the samples (TARP; Lemos
et al. 2023, ICML, arXiv:2302.03026). Both are judged by the empirical distribution function minus the
diagonal, within bands that hold everywhere at once (Säilynoja et al. 2022, Stat. Comput. 32, 32).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom

__all__ = [
    "POINTS",
    "binomial_interval",
    "ecdf_band",
    "ecdf_difference",
    "points_for",
    "ranks",
    "tarp_ranks",
    "uniformity",
]

POINTS = 100  # of the distribution function, at most: more make the band hardly wider and the work longer


def ranks(samples: np.ndarray, truth: np.ndarray, jitter: np.ndarray, inside: Any = True) -> np.ndarray:
    """``(n_spec, n_labels)`` rank of the truth among the samples of each label, between 0 and 1.

    ``samples (n_spec, n_samples, n_labels)``, of which those ``inside (n_spec, n_samples)`` count; ``truth``
    and ``jitter (n_spec, n_labels)``. ``n`` samples leave n + 1 places for the truth; ``jitter``, uniform
    between 0 and 1 and independent of all else, chooses within the place (and among samples equal to the
    truth), so that ranks of exact posteriors are exactly uniform whatever the number of accepted
    samples. NaN where no sample counts.
    """
    counts = np.broadcast_to(np.asarray(inside, bool), samples.shape[:2])[..., None]
    below = ((samples < truth[:, None]) & counts).sum(axis=1)
    equal = ((samples == truth[:, None]) & counts).sum(axis=1)
    n = counts.sum(axis=1)
    return np.where(n > 0, (below + jitter * (equal + 1)) / (n + 1), np.nan)


def tarp_ranks(
    samples: np.ndarray, truth: np.ndarray, references: np.ndarray, jitter: np.ndarray, inside: Any = True
) -> np.ndarray:
    """``(n_spec,)`` rank of the truth's distance from a reference point among the distances of the samples.

    This is the credibility of the smallest ball around the reference that holds the truth (Lemos et al.
    2023, algorithm 2): small where the truth is nearer to the reference than most samples. ``samples
    (n_spec, n_samples, n_labels)``, ``truth`` and ``references (n_spec, n_labels)`` in units in which labels
    can be compared; references may depend on the spectrum and must not depend on the truth. ``jitter
    (n_spec,)`` and ``inside (n_spec, n_samples)`` as in :func:`ranks`.
    """
    distance = np.sqrt(((samples - references[:, None]) ** 2).sum(axis=2))
    of_truth = np.sqrt(((truth - references) ** 2).sum(axis=1))
    return ranks(distance[..., None], of_truth[:, None], jitter[:, None], inside)[:, 0]


def points_for(n: int) -> np.ndarray:
    """Where the distribution function of ``n`` ranks is evaluated: evenly between 0 and 1, both excluded."""
    k = max(2, min(n, POINTS))
    return np.arange(1, k) / k


def ecdf_difference(ranks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``(n_points,)`` fraction of ``ranks (n,)`` at or below each point, minus the point.

    Above 0 on the left and below on the right: too many ranks at the ends, the posterior is too narrow; the
    reverse: too wide; of one sign throughout: too high (above 0) or too low (below).
    """
    return _counts(ranks, points) / len(ranks) - points


def ecdf_band(n: int, points: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge, each ``(n_points,)``, within which :func:`ecdf_difference` of ``n`` uniform ranks
    stays at all points at once with probability ``level`` (or a little more, since counts are discrete)."""
    low, high = _band(n, tuple(points.tolist()), level)
    return low / n - points, high / n - points


def uniformity(ranks: np.ndarray, points: np.ndarray) -> float:
    """Probability that uniform ranks leave a band as wide as the one that these ranks ``(n,)`` just leave.

    Small where they are not uniform: the p-value of the test whose picture is :func:`ecdf_band`.
    """
    n, counts = len(ranks), _counts(ranks, points)
    tails = np.minimum(binom.cdf(counts, n, points), binom.sf(counts - 1, n, points))
    gamma = min(1.0, float(2 * tails.min()))
    return float(np.clip(1.0 - _stays(n, points, *_intervals(n, points, gamma)), 0.0, 1.0))


def binomial_interval(k: Any, n: Any, z: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a fraction of which ``k`` of ``n`` are seen, for ``z`` standard deviations.

    Unlike k / n and its standard deviation it is right near 0 and 1 and for few stars. NaN for n = 0.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = k / n
        middle = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def _counts(ranks: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(ranks), points, side="right")


def _intervals(n: int, points: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """At each point the counts whose two-sided binomial probability exceeds ``gamma``."""
    tail = 0.5 * gamma * (1 + 1e-9)  # exceeds, and does not equal
    middle = binom.median(n, points)
    low = np.minimum(binom.ppf(tail, n, points), middle)
    high = np.maximum(binom.isf(tail, n, points), middle)
    return low.astype(int), high.astype(int)


def _stays(n: int, points: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Probability that the counts of ``n`` uniform numbers at or below each point are all within bounds.

    Counts at increasing points are a Markov chain: of the numbers above one point, each lies below the next
    with the same probability (Säilynoja et al. 2022, section 2.2). Only counts within bounds are propagated.
    """
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    counts, probability, before = np.array([0]), np.array([1.0]), 0.0
    for point, first, last in zip(points, low, high, strict=True):
        share = (point - before) / (1.0 - before)
        reached = np.arange(first, last + 1)
        more = reached - counts[:, None]
        rest = n - reached
        log = log_factorial[n - counts][:, None] - log_factorial[np.maximum(more, 0)] - log_factorial[rest]
        log = log + more * np.log(share) + rest * np.log1p(-share)
        probability = probability @ np.where(more >= 0, np.exp(np.where(more >= 0, log, 0.0)), 0.0)
        counts, before = reached, float(point)
    return float(probability.sum())


@lru_cache(maxsize=32)
def _band(n: int, points: tuple[float, ...], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts at the edges: the narrowest band, equally improbable everywhere, that holds with ``level``."""
    z = np.array(points)
    narrow, wide = 0.0, np.log(1e-8)  # log of the pointwise probability outside
    for _ in range(24):
        middle = 0.5 * (narrow + wide)
        if _stays(n, z, *_intervals(n, z, float(np.exp(middle)))) >= level:
            wide = middle
        else:
            narrow = middle
    return _intervals(n, z, float(np.exp(wide)))
