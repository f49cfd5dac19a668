"""The contract of normalizing flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from specinn.spectra import SpectrumBatch
from specinn.testing.rules import section

_require = section("flows")


def check_invertible(
    forward: Callable[[Any], Any], inverse: Callable[[Any], Any], x: Any, rtol: float = 1e-4
) -> None:
    """``inverse(forward(x))`` is ``x (n, d)``, within ``rtol`` of each column's largest value."""
    back = _numpy(inverse(forward(x)))
    x = _numpy(x)
    _require(back.shape == x.shape, f"shape {x.shape} became {back.shape} there and back")
    off = np.abs(back - x).max(axis=0)
    worst = float((off / np.maximum(np.abs(x).max(axis=0), 1e-12)).max())
    _require(worst <= rtol, f"there and back is off by {worst:.2g} of the largest value")


def check_log_density(
    to_latent: Callable[[np.ndarray], Any],
    log_prob: Callable[[np.ndarray], Any],
    y: np.ndarray,
    scale: np.ndarray | float = 1.0,
    step: float = 0.1,
    atol: float = 0.1,
) -> None:
    """The density of a normalizing flow against a numerical Jacobian.

    ``to_latent`` takes ``(n, d)`` to the latent space with a standard normal density, ``log_prob`` to
    ``(n,)``; both in the variables of ``y (n, d)``. Central differences take ``step * scale``; ``scale``
    is the width of the density; ``atol`` (in nats) leaves room for a network in single precision.
    """
    y = np.asarray(y, float)
    n, d = y.shape
    h = step * np.broadcast_to(np.asarray(scale, float), (d,))
    shifted = y[:, None, None, :] + np.array([1.0, -1.0])[None, :, None, None] * np.diag(h)[None, None]
    z = _numpy(to_latent(shifted.reshape(-1, d))).astype(float).reshape(n, 2, d, d)
    jacobian = (z[:, 0] - z[:, 1]) / (2.0 * h[None, :, None])
    at = _numpy(to_latent(y)).astype(float)
    _require(at.shape == y.shape, f"the latent space has shape {at.shape}, the labels {y.shape}")
    volume = np.linalg.slogdet(jacobian)[1]
    expected = -0.5 * (at**2).sum(axis=1) - 0.5 * d * np.log(2.0 * np.pi) + volume
    density = _numpy(log_prob(y)).astype(float)
    off = float(np.abs(density - expected).max(initial=0.0))
    _require(
        off <= atol,
        f"log_prob is off by {off:.3g} from that of a numerical Jacobian, {atol:g} allowed",
    )


def check_flow(estimator: Any, batch: SpectrumBatch, values: np.ndarray) -> None:
    """The density at a few of the accepted samples ``values (n, n_labels)`` of one spectrum."""
    labels = estimator.labels
    _require(len(values) > 1, "too few accepted samples to check the density: give better spectra")
    y = labels.to_network(values)

    def physical(y: np.ndarray) -> np.ndarray:
        return np.asarray(labels.from_network(y))[None]

    check_log_density(
        lambda y: np.asarray(estimator.to_latent(batch, physical(y)))[0],
        lambda y: np.asarray(estimator.log_prob(batch, physical(y)))[0],
        y[:4],
        scale=y.std(axis=0),
    )


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
