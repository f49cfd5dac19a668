"""A straight line through the residuals of benchmark stars robust against one bad star."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np
from scipy.special import gammainc, ndtr

from specinn.plugins import BenchmarkStars

HUBER = 1.345  # standard deviations up to which a star has full weight: 95 % efficient for normal errors
# mean of min(|z|, HUBER)^2 for a standard normal z
_KAPPA = float(gammainc(1.5, HUBER**2 / 2) + 2 * HUBER**2 * ndtr(-HUBER))


@attrs.frozen(eq=False)
class Moments:
    """Means over the samples of each star, ``(n_stars,)``: of Teff ``t`` in 1000 K, of the residual ``r`` =
    X - X_ref, of products; and ``variance``, that of r and of the reference. A linear fit to all samples,
    in which those of a star share one weight, needs no more."""

    t: np.ndarray
    tt: np.ndarray
    r: np.ndarray
    tr: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, stars: BenchmarkStars, label: str, rows: Iterable[int]) -> Moments:
        """Of the accepted samples of these spectra; those of one star are pooled, each spectrum alike."""
        by_star: dict[str, list[list[float]]] = {}
        at = stars.posterior.labels.index
        for i in rows:
            samples = stars.posterior.samples[i, stars.posterior.inside[i]].astype(float)
            t, r = samples[:, at("teff")] / 1e3, samples[:, at(label)] - stars.literature[label][i]
            values = [t.mean(), (t * t).mean(), r.mean(), (t * r).mean(), (r * r).mean()]
            by_star.setdefault(str(stars.star[i]), []).append([*values, stars.errors[label][i] ** 2])
        t, tt, r, tr, rr, reference = np.array([np.mean(each, axis=0) for each in by_star.values()]).T
        return cls(t, tt, r, tr, np.maximum(rr - r**2, 0) + reference + 1e-12)


def fit_line(stars: Moments) -> tuple[np.ndarray, np.ndarray, float]:
    """Intercept and slope (a 1000 K) ``(2,)``, their covariance ``(2, 2)``, and the scatter between stars.

    The weight of a star is 1 / (variance of its posterior + of the reference + scatter^2), and less if it
    deviates by more than 1.345 standard deviations (Huber 1964, Ann. Math. Stat. 35, 73). The scatter, which
    neither posteriors nor references account for, is the value that makes the clipped squared deviations as
    large as they should be (Huber's proposal 2, for a variance that is added), and 0 where they are no larger
    without it.
    """
    from scipy.optimize import brentq

    def solve(scatter: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weight = 1 / (stars.variance + scatter**2)
        robust = np.ones_like(weight)
        for _ in range(200):
            w = weight * robust
            normal = np.array([[w.sum(), w @ stars.t], [w @ stars.t, w @ stars.tt]])
            best = np.linalg.solve(normal, [w @ stars.r, w @ stars.tr])
            off = np.abs(stars.r - best[0] - best[1] * stars.t) * np.sqrt(weight)
            former, robust = robust, HUBER / np.maximum(off, HUBER)
            if np.allclose(former, robust, rtol=0, atol=1e-8):
                break
        return best, np.linalg.inv(normal), off

    def too_far(scatter: float) -> float:
        return float((np.minimum(solve(scatter)[2], HUBER) ** 2).sum() - (len(stars.r) - 2) * _KAPPA)

    scatter = 0.0
    if len(stars.r) > 2 and too_far(0.0) > 0:
        scatter = float(brentq(too_far, 0.0, 10 * np.ptp(stars.r) * np.sqrt(len(stars.r)), rtol=1e-6))
    best, covariance, _ = solve(scatter)
    return best, covariance, scatter
