"""Priors from which the labels of a grid are drawn: each distribution is a map of uniform numbers.

The uniform numbers are a scrambled Sobol sequence, so every leading part of a grid fills the space evenly,
and a grid is extended by drawing further: the first n of 2n models are the same n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from specinn.errors import ConfigError

__all__ = ["Distribution", "Draw", "Pair", "Polygon", "Share", "Trend", "check", "draw", "sobol"]

Pair = tuple[float, float]

_DISTRIBUTIONS = ("uniform", "normal", "mixture", "region", "value")
_BITS = 30  # of scipy's Sobol numbers
_LEAST = 1e-6  # least probability of a normal distribution within its bounds


@attrs.frozen(kw_only=True)
class Distribution:
    """One of ``uniform = [low, high]`` and ``normal = [mean, standard deviation]``; ``bounds`` cut off the
    tails of the normal one."""

    uniform: Pair | None = None
    normal: Pair | None = None
    bounds: Pair | None = None

    def check(self, where: str) -> None:
        """Raises ``ConfigError`` for a distribution without width."""
        for name in ("uniform", "bounds"):
            pair = getattr(self, name)
            if pair is not None and not pair[0] < pair[1]:
                raise ConfigError(f"{where}.{name}: expected [low, high] with low < high, found {list(pair)}")
        if self.normal is not None and not self.normal[1] > 0:
            raise ConfigError(f"{where}.normal: the standard deviation {self.normal[1]:g} is not positive")
        if self.bounds is not None and self.normal is None:
            raise ConfigError(f"{where}.bounds: only normal distributions have tails to be cut off")

    def quantile(self, u: np.ndarray, shift: Any = 0.0) -> np.ndarray:
        """Values ``(n,)`` below which the probability is ``u (n,)``; ``shift (n,)`` moves all but bounds."""
        if self.uniform is not None:
            low, high = self.uniform
            return low + (high - low) * u + shift
        assert self.normal is not None
        mean, sigma = self.normal[0] + np.asarray(shift), self.normal[1]
        if self.bounds is None:
            return mean + sigma * ndtri(u)
        low, high = self.bounds
        # from the side on which both probabilities are small, so that their difference is exact
        side = np.where(mean > 0.5 * (low + high), 1.0, -1.0)
        near, far = (np.where(side > 0, a, b) for a, b in ((low, high), (high, low)))
        first, last = ndtr(side * (near - mean) / sigma), ndtr(side * (far - mean) / sigma)
        if np.any(last - first < _LEAST):
            raise ConfigError(
                f"the bounds {low:g} to {high:g} leave nothing of a normal distribution around "
                f"{np.ravel(mean)[np.argmin(last - first)]:g} with standard deviation {sigma:g}: widen them"
            )
        probability = np.where(side > 0, u, 1.0 - u)
        return np.clip(mean + side * sigma * ndtri(first + (last - first) * probability), low, high)

    @property
    def middle(self) -> float:
        ends = self.uniform or (self.normal or (0.0,))[:1]
        return sum(ends) / len(ends)


@attrs.frozen(kw_only=True)
class Share(Distribution):
    """One part of a mixture; weights are relative to their sum."""

    weight: float


@attrs.frozen(kw_only=True)
class Trend:
    """An added trend: linear between ``points``, each a value of ``label`` and the amount added there;
    constant beyond."""

    label: str
    points: list[Pair]


@attrs.frozen(kw_only=True)
class Draw(Distribution):
    """One table ``[[prior]]``: the distribution of each of ``labels``.

    It is one of ``uniform``, ``normal``, ``mixture`` (of these two), ``value`` (the same for all models),
    and, for two labels together, ``region``: uniform within a polygon of which these are the corners.
    ``correlation`` is that of the normal scores of each two of the labels.
    """

    labels: list[str]
    mixture: list[Share] | None = None
    region: list[Pair] | None = None
    value: float | None = None
    correlation: float | None = None
    trend: Trend | None = None

    def check(self, where: str) -> None:
        specified = [name for name in _DISTRIBUTIONS if getattr(self, name) is not None]
        if len(specified) != 1:
            raise ConfigError(
                f"{where}: expected one of {', '.join(_DISTRIBUTIONS)}, found "
                f"{' and '.join(specified) or 'none'}"
            )
        if not self.labels:
            raise ConfigError(f"{where}.labels: it names no label")
        super().check(where)
        for i, part in enumerate(self.mixture or ()):
            if (part.uniform is None) == (part.normal is None) or not part.weight > 0:
                raise ConfigError(
                    f"{where}.mixture[{i}]: expected one of uniform and normal, and a weight above 0"
                )
            part.check(f"{where}.mixture[{i}]")
        if self.mixture is not None and not self.mixture:
            raise ConfigError(f"{where}.mixture: it has no parts")
        n = len(self.labels)
        least = -1.0 / (n - 1) if n > 1 else 0.0
        if self.correlation is not None and (n < 2 or self.region or self.value is not None):
            raise ConfigError(f"{where}.correlation: it takes several labels, each with its own distribution")
        if self.correlation is not None and not least < self.correlation < 1:
            raise ConfigError(
                f"{where}.correlation: {n} labels can have one between {least:.3g} and 1, found "
                f"{self.correlation:g}"
            )
        if self.region is not None:
            if n != 2 or self.trend:
                raise ConfigError(f"{where}.region: expected two labels and no trend")
            Polygon.of(self.region, f"{where}.region")
        if self.trend is not None:
            x = [point[0] for point in self.trend.points]
            if not x or any(a >= b for a, b in pairwise(x)):
                raise ConfigError(f"{where}.trend.points: expected [value, added] with increasing values")

    @property
    def dimensions(self) -> int:
        """The number of uniform numbers that one model takes."""
        return 0 if self.value is not None else len(self.labels)

    def __call__(self, u: np.ndarray, shift: Any = 0.0) -> np.ndarray:
        """Labels ``(n, n_labels)`` from uniform numbers ``(n, dimensions)``."""
        if self.region is not None:
            return Polygon.of(self.region)(u)
        if self.value is not None:
            return np.broadcast_to(self.value + np.asarray(shift)[..., None], (len(u), len(self.labels)))
        if self.correlation:
            matrix = np.full((len(self.labels),) * 2, self.correlation)
            np.fill_diagonal(matrix, 1.0)
            pairs = zip(ndtri(u).T, np.linalg.cholesky(matrix).T, strict=True)
            # not a matrix product, whose last bit depends on the number of rows
            u = ndtr(sum(np.multiply.outer(scores, factors) for scores, factors in pairs))
        return np.column_stack([self._one(column, shift) for column in u.T])

    def _one(self, u: np.ndarray, shift: Any) -> np.ndarray:
        if self.mixture is None:
            return self.quantile(u, shift)
        parts = sorted(self.mixture, key=lambda part: part.middle)  # so that neighbours in u stay neighbours
        edges = np.cumsum([part.weight for part in parts]) / sum(part.weight for part in parts)
        which = np.searchsorted(edges[:-1], u, side="right")
        starts = np.concatenate([[0.0], edges[:-1]])
        out = np.empty_like(u)
        for k, part in enumerate(parts):
            in_part = which == k
            position = ((u[in_part] - starts[k]) / (edges[k] - starts[k])).clip(2.0**-_BITS, 1 - 2.0**-_BITS)
            out[in_part] = part.quantile(position, np.broadcast_to(shift, u.shape)[in_part])
        return out


@attrs.frozen(eq=False)
class Polygon:
    """A map of the unit square onto a polygon that keeps areas: the first number runs along x.

    Between two neighbouring ``x (n_slabs + 1,)`` of corners the polygon is a pile of trapezoids: ``ends`` has
    for each of these slabs the ordinates ``(2, n_edges)`` of its edges at both sides, from bottom to top.
    """

    x: np.ndarray
    ends: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, corners: Sequence[Pair], where: str = "region") -> Polygon:
        """Raises ``ConfigError`` for corners that enclose no area, or whose edges cross."""
        points = [tuple(map(float, corner)) for corner in corners]
        if points and points[0] == points[-1]:
            points = points[:-1]
        edges = list(zip(points, points[1:] + points[:1], strict=True))
        x = np.unique([point[0] for point in points])
        ends = []
        for left, right in pairwise(x):
            crossing = [
                np.interp([left, right], *np.transpose(sorted(edge)))
                for edge in edges
                if min(edge[0][0], edge[1][0]) <= left and max(edge[0][0], edge[1][0]) >= right
            ]
            pile = np.array(sorted(crossing, key=lambda e: (e[0] + e[1], e[1]))).T
            if (np.diff(pile, axis=1) < -1e-12 * np.ptp(pile)).any():
                raise ConfigError(
                    f"{where}: edges cross between {left:g} and {right:g}: give the corners in order"
                )
            ends.append(pile)
        if not ends or not sum(_length(pile).mean() for pile in ends) > 0:
            raise ConfigError(f"{where}: expected three or more corners around an area, found {len(points)}")
        return cls(x, tuple(ends))

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """Points ``(n, 2)`` of the polygon for uniform numbers ``(n, 2)``."""
        width = np.diff(self.x)
        areas = np.array([_length(pile).mean() for pile in self.ends]) * width
        edges = np.concatenate([[0.0], np.cumsum(areas) / areas.sum()])
        slab = np.searchsorted(edges[1:-1], u[:, 0], side="right")
        out = np.empty((len(u), 2))
        for k, pile in enumerate(self.ends):
            in_slab = slab == k
            first, last = _length(pile)
            # the share t of the slab's width with first t + (last - first) t^2 / 2 = area, without cancelling
            area = (u[in_slab, 0] - edges[k]) / max(edges[k + 1] - edges[k], 1e-300) * 0.5 * (first + last)
            root = np.sqrt(np.maximum(first**2 + 2.0 * (last - first) * area, 0.0))
            t = (2.0 * area / np.maximum(first + root, 1e-300)).clip(0.0, 1.0)
            y = pile[0] + t[:, None] * (pile[1] - pile[0])
            lengths = np.diff(y, axis=1)[:, ::2]
            reach = np.cumsum(lengths, axis=1)
            height = u[in_slab, 1] * reach[:, -1]
            part = (height[:, None] >= reach[:, :-1]).sum(axis=1)
            row = np.arange(len(y))
            below = np.where(part > 0, reach[row, np.maximum(part - 1, 0)], 0.0)
            out[in_slab, 0] = self.x[k] + t * width[k]
            out[in_slab, 1] = np.minimum(y[row, 2 * part] + height - below, y[row, 2 * part + 1])
        return out


def _length(pile: np.ndarray) -> np.ndarray:
    """``(2,)`` total length of the cross-section at both sides of a slab."""
    return np.diff(pile, axis=1)[:, ::2].sum(axis=1)


def check(prior: Sequence[Draw], source: str) -> None:
    """Raises ``ConfigError`` that names the file ``source`` and the path to what is wrong with a prior."""
    names: list[str] = []
    for i, draw in enumerate(prior):
        where = f"{source}: $.prior[{i}]"
        draw.check(where)
        if draw.trend is not None and draw.trend.label not in names:
            raise ConfigError(
                f"{where}.trend.label: {draw.trend.label!r} is not a label of the tables before this one"
            )
        for name in draw.labels:
            if name in names:
                raise ConfigError(f"{where}.labels: {name} is drawn twice")
            names.append(name)
    if not sum(draw.dimensions for draw in prior):
        raise ConfigError(f"{source}: $.prior draws no label: every model would be the same")


def draw(prior: Sequence[Draw], n: int, *, seed: int, first: int = 0) -> dict[str, np.ndarray]:
    """Values ``(n,)`` of each label for models ``first`` to ``first + n - 1`` of the sequence of ``seed``."""
    u = sobol(sum(part.dimensions for part in prior), n, seed=seed, first=first)
    out: dict[str, np.ndarray] = {}
    start = 0
    for part in prior:
        uniform = u[:, start : start + part.dimensions]
        start += part.dimensions
        trend = part.trend
        shift = 0.0 if trend is None else np.interp(out[trend.label], *np.transpose(trend.points))
        out.update(zip(part.labels, part(uniform, shift).T, strict=True))
    return out


def sobol(dimensions: int, n: int, *, seed: int, first: int = 0) -> np.ndarray:
    """``(n, dimensions)`` numbers between 0 and 1, neither of which occurs."""
    last = first + n
    if last > 1 << _BITS:
        raise ConfigError(f"a Sobol sequence has {1 << _BITS} models, {last} are asked for")
    size = 1 << max(0, math.ceil(math.log2(last)))  # scipy warns about other numbers
    u: np.ndarray = qmc.Sobol(dimensions, scramble=True, bits=_BITS, seed=seed).random(size)[first:last]
    return u + 2.0 ** -(_BITS + 1)
