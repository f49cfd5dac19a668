"""The least squares: all lines of all stars at once, robust, with priors."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import scipy.sparse as sparse
from scipy.linalg import solveh_banded

_NEAR_KMS = 60.0  # how far from its centre the response of a line is looked for
_CORE_KMS, _WING = 3.0, 0.01  # of a typical profile: width, and the wing over the core
_LEAST = 5e-4  # of the continuum per dex: what does not respond more is not a derivative
_GROWTH = 0.8  # d log W / d log gf by which derivatives are carried from one log gf to another
_MARGIN = 200  # unknowns on both sides of a block, whose covariance is heeded
_NEIGHBOURS = 3  # on both sides, of one group, between which a response is divided


@attrs.frozen(eq=False)
class Equations:
    """Of one star and window: ``residual (n_pix,)`` observed minus synthetic, NaN where there is none, and
    the derivatives ``jacobian (n_pix, n_unknown)`` of the synthetic flux."""

    residual: np.ndarray
    jacobian: sparse.csr_matrix


def attribute(
    response: np.ndarray, grid: np.ndarray, log_centre: np.ndarray, strength: np.ndarray
) -> np.ndarray:
    """``(n_pix,)`` which of the lines of a group, in order of ``log_centre``, a ``response`` of the flux
    belongs to: the one with the most opacity there, ``strength`` times a profile; -1 for none."""
    big = np.flatnonzero(np.abs(response) > _LEAST)
    owner = np.full(len(grid), -1)
    if not len(log_centre):
        return owner
    index = np.searchsorted(log_centre, grid[big])
    best, most = np.full(big.size, -1), np.full(big.size, -1.0)
    for shift in range(-_NEIGHBOURS, _NEIGHBOURS):
        line = np.clip(index + shift, 0, len(log_centre) - 1)
        distance = np.abs(grid[big] - log_centre[line]) * 299_792.458
        reach = np.exp(-0.5 * (distance / _CORE_KMS) ** 2) + _WING / (1.0 + (distance / _CORE_KMS) ** 2)
        weight = np.where(distance < _NEAR_KMS, strength[line] * reach, -1.0)
        best, most = np.where(weight > most, line, best), np.maximum(weight, most)
    owner[big] = np.where(most > 0, best, -1)
    return owner


def robust_weight(residual: np.ndarray, scale: float) -> np.ndarray:
    """Of Cauchy; 0 where there is no residual."""
    return np.where(np.isfinite(residual), 1.0 / (1.0 + (residual / scale) ** 2), 0.0)


def normal_equations(
    equations: Sequence[Equations], x: np.ndarray, sigma: np.ndarray, pixel_error: float, robust: float
) -> tuple[np.ndarray, np.ndarray]:
    """For a step from ``x (n,)``, whose prior is 0 +- ``sigma``: the normal matrix in scipy's banded form
    (lower), and the right-hand side ``(n,)``. Unknowns must be in an order in which those that act on the
    same pixels are near."""
    n = len(x)
    normal = sparse.diags(1.0 / sigma**2).tocsr()
    right = -x / sigma**2
    for one in equations:
        weight = robust_weight(one.residual, robust) / pixel_error**2
        weighted = one.jacobian.T.multiply(weight).tocsr()
        normal = normal + weighted @ one.jacobian
        right = right + weighted @ np.nan_to_num(one.residual)
    lower = sparse.tril(normal).tocoo()
    width = int((lower.row - lower.col).max(initial=0))
    banded = np.zeros((width + 1, n))
    banded[lower.row - lower.col, lower.col] = lower.data
    return banded, right


def step(banded: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What to add to the unknowns ``(n,)``: the solution of :func:`normal_equations`."""
    return np.asarray(solveh_banded(banded, right, lower=True))


def uncertainty(banded: np.ndarray, block: int = 400) -> np.ndarray:
    """Standard deviations ``(n,)`` of the unknowns, from blocks with their neighbours."""
    width, n = banded.shape[0] - 1, banded.shape[1]
    margin = max(width, _MARGIN)
    out = np.empty(n)
    for start in range(0, n, block):
        low, high = max(start - margin, 0), min(start + block + margin, n)
        part = np.zeros((high - low, high - low))
        for offset in range(min(width + 1, high - low)):
            at = np.arange(high - low - offset)
            part[at + offset, at] = part[at, at + offset] = banded[offset, low : high - offset]
        variance = np.diag(np.linalg.inv(part))
        out[start : start + block] = np.sqrt(variance[start - low : start - low + block][: n - start])
    return out


def carried(jacobian: sparse.csr_matrix, change: np.ndarray) -> sparse.csr_matrix:
    """Derivatives at log gf that has changed by ``change (n,)`` dex since they were computed: lines that
    became stronger respond more, by a curve of growth."""
    return (jacobian @ sparse.diags(10.0 ** np.clip(_GROWTH * change, -2.0, 0.5))).tocsr()
