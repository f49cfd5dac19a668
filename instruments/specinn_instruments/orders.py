"""Echelle orders (and arms) of one exposure: distinguished from stars, and merged into one spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs
import numpy as np
from scipy.ndimage import uniform_filter1d

_SHORTEST = 100  # pixels; shorter pieces are a list that is out of order, not orders
_OVERLAP = 0.75  # of the shorter of two neighbours: orders share less
_MANY = 20  # orders that may come twice, as the slices of one exposure
_SMOOTH = 51  # pixels over which the weights are averaged
_DOME = 0.06  # by which flux falls from the middle of the orders to their ends (ln) where there is a blaze
_DARK = 0.12  # of the blaze's maximum, below which pixels are of no use
_BINS = 40  # of an order, for the blaze
_PASSES = 2  # of the blaze over what the one before has left of it
_CUT = 0.015  # of the length of an order, by which one that is cut is shorter than expected


@attrs.frozen(eq=False)
class Order:
    """``wavelength (n_pix,)`` Angstrom; ``flux``, ``sigma`` (or None) and ``mask`` ``(n_spec, n_pix)``."""

    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray | None
    mask: np.ndarray


def split_orders(wavelength: np.ndarray) -> list[np.ndarray]:
    """The orders that follow one another in ``wavelength (n_pix,)``, as lists of its pixels.

    An order begins where the wavelength falls back (or, where it decreases within orders, jumps up). A list
    without such steps, or with some that do not look like orders, is one piece.
    """
    everything = [np.arange(wavelength.size)]
    step = np.diff(wavelength)
    falls = np.flatnonzero(step < 0) + 1
    if falls.size > 0.5 * wavelength.size:  # each order from red to blue
        falls = np.flatnonzero(step > 0) + 1
    if not falls.size:
        return everything
    pieces = np.split(everything[0], falls)
    if np.median([piece.size for piece in pieces]) < _SHORTEST:
        return everything
    pieces = [piece if wavelength[piece[0]] <= wavelength[piece[-1]] else piece[::-1] for piece in pieces]
    pieces = [piece for piece in pieces if piece.size > 1]
    pieces.sort(key=lambda piece: float(wavelength[piece[0]]))
    if len(pieces) < _MANY and not are_orders([wavelength[piece] for piece in pieces]):
        return everything
    return pieces


def are_orders(wavelengths: Sequence[np.ndarray]) -> bool:
    """Whether pieces are orders or arms of one spectrum, which follow one another, and not several spectra,
    which cover the same wavelengths."""
    ends = np.array([[np.nanmin(w), np.nanmax(w)] for w in wavelengths])
    if len(ends) < 2 or not np.isfinite(ends).all():
        return False
    ends = ends[np.argsort(ends.sum(axis=1))]
    length = ends[:, 1] - ends[:, 0]
    if len(ends) >= _MANY and ends[:, 1].max() - ends[:, 0].min() > 5.0 * np.median(length):
        return True
    shared = np.minimum(ends[:-1, 1], ends[1:, 1]) - ends[1:, 0]
    return bool((shared < _OVERLAP * np.minimum(length[:-1], length[1:])).all())


def merge_orders(
    orders: Sequence[Order],
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, dict[str, slice]]:
    """Wavelength, flux, sigma, mask of the merged spectra, and the part of each order as an arm.

    Blaze: where flux falls towards the ends of the orders, what is common to them (a smooth function of the
    position in the order that changes slowly from order to order, so that a broad line in one of them stays)
    is divided out, and the darkest ends are left out. Scale: the ratio of neighbours in their overlap, where
    it is known to 5 %. Overlap: the mean weighted by inverse variance (smoothed along the order, since errors
    of single pixels correlate with their flux), on the pixels of the order that reaches farther beyond; the
    other is interpolated by cubic polynomials. Without errors, orders weigh by their blaze.
    """
    orders = [_increasing(order) for order in orders if (~order.mask).any()] or list(orders[:1])
    orders = sorted(orders, key=lambda order: float(order.wavelength[0] + order.wavelength[-1]))
    blazes = _blazes(orders)
    orders = [_over(order, blaze) for order, blaze in zip(orders, blazes, strict=True)]
    if any((blaze != 1.0).any() for blaze in blazes):
        orders = _untilted(orders)
    weights = [_weight(order, blaze) for order, blaze in zip(orders, blazes, strict=True)]
    orders, weights = _scaled(orders, weights)
    reach = np.array([_reach(order) for order in orders])
    parts: list[tuple[np.ndarray, ...]] = []
    arms: dict[str, slice] = {}
    start = 0
    for i, order in enumerate(orders):
        keep = _owned(order.wavelength, i, reach)
        if keep.any():
            parts.append(_combined(i, keep, orders, weights, reach))
            n = int(np.count_nonzero(keep))
            arms[f"order {len(arms) + 1}"] = slice(start, start + n)
            start += n
    wave, flux, sigma, mask = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    return wave, flux, None if orders[0].sigma is None else sigma, mask, arms


def _increasing(order: Order) -> Order:
    """The order from blue to red, without the pixels that have no wavelength."""
    keep = np.flatnonzero(np.isfinite(order.wavelength) & (order.wavelength > 0))
    if keep.size > 1 and order.wavelength[keep[0]] > order.wavelength[keep[-1]]:
        keep = keep[::-1]
    sigma = None if order.sigma is None else order.sigma[:, keep]
    return Order(order.wavelength[keep], order.flux[:, keep], sigma, order.mask[:, keep])


def _reach(order: Order) -> tuple[float, float]:
    """First and last wavelength with a good pixel."""
    good = np.flatnonzero((~order.mask).any(axis=0))
    if not good.size:
        return float(order.wavelength[0]), float(order.wavelength[-1])
    return float(order.wavelength[good[0]]), float(order.wavelength[good[-1]])


def _owned(wavelength: np.ndarray, i: int, reach: np.ndarray) -> np.ndarray:
    """Pixels of order ``i`` that lie deeper in it than in any other: there the merged spectrum has its
    pixels."""
    depth = np.minimum(wavelength[None] - reach[:, :1], reach[:, 1:] - wavelength[None])
    depth[depth < 0] = -np.inf
    best = depth.argmax(axis=0)
    return (best == i) & np.isfinite(depth[i])


def _combined(
    i: int, keep: np.ndarray, orders: Sequence[Order], weights: Sequence[np.ndarray], reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    order = orders[i]
    wave = order.wavelength[keep]
    good = ~order.mask[:, keep]
    weight = np.where(good, weights[i][:, keep], 0.0)
    values = np.where(good, order.flux[:, keep], 0.0)
    variance = np.full(values.shape, np.nan) if order.sigma is None else np.square(order.sigma[:, keep])
    total, flux = weight.copy(), weight * values
    noise = np.where(good, weight**2 * variance, 0.0)
    for j, other in enumerate(orders):
        if j == i or reach[j, 1] <= wave[0] or reach[j, 0] >= wave[-1] or other.wavelength.size < 4:
            continue
        at, columns, factors = _cubic(other.wavelength, wave)
        if not at.size:
            continue
        usable = ~other.mask[:, columns].any(axis=2)
        its = np.where(usable, np.where(other.mask, 0.0, weights[j])[:, columns].mean(axis=2), 0.0)
        clean = np.where(other.mask, 0.0, other.flux)
        total[:, at] += its
        flux[:, at] += its * (clean[:, columns] * factors).sum(axis=2)
        if other.sigma is not None:
            spread = np.square(np.where(other.mask, 0.0, other.sigma))[:, columns]
            noise[:, at] += its**2 * (spread * factors**2).sum(axis=2)
    bad = ~(total > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        flux, sigma = flux / total, np.sqrt(noise) / total
    flux[bad] = 0.0
    return wave, flux, sigma, bad


def _cubic(source: np.ndarray, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of ``wave`` lie within ``source``, and the four pixels ``(n, 4)`` and factors of the cubic
    polynomial (Lagrange, for pixels that are locally even)."""
    at = np.flatnonzero((wave >= source[1]) & (wave <= source[-2]))
    left = np.clip(np.searchsorted(source, wave[at], side="right") - 1, 1, source.size - 3)
    t = (wave[at] - source[left]) / (source[left + 1] - source[left])
    factors = np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t * t - 1) * (t - 2) / 2,
            -t * (t + 1) * (t - 2) / 2,
            t * (t * t - 1) / 6,
        ],
        axis=1,
    )
    return at, left[:, None] + np.arange(-1, 3), factors


def _weight(order: Order, blaze: np.ndarray) -> np.ndarray:
    """``(n_spec, n_pix)`` inverse variance, smoothed along the order; the blaze where no error is known."""
    if order.sigma is None:
        return np.broadcast_to(blaze, order.flux.shape).copy()
    known = ~order.mask & np.isfinite(order.sigma) & (order.sigma > 0)
    variance = np.square(np.where(known, order.sigma, 0.0))
    size = min(_SMOOTH, order.flux.shape[1])
    share = uniform_filter1d(known.astype(float), size, axis=1, mode="nearest")
    mean = uniform_filter1d(variance, size, axis=1, mode="nearest")
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = share / mean
    return np.where(known & np.isfinite(weight), weight, 0.0)


def _scaled(orders: Sequence[Order], weights: Sequence[np.ndarray]) -> tuple[list[Order], list[np.ndarray]]:
    """Every order at the level of its neighbour towards the blue, by the ratio of their fluxes in the
    overlap."""
    n_spec = len(orders[0].flux)
    scale = np.ones((len(orders), n_spec))
    for i in range(1, len(orders)):
        scale[i] = scale[i - 1] * _ratio(orders[i - 1], orders[i])
    scale /= np.median(scale, axis=0)
    scaled, heavier = [], []
    for order, weight, factor in zip(orders, weights, scale, strict=True):
        f = factor[:, None]
        sigma = None if order.sigma is None else order.sigma * f
        scaled.append(attrs.evolve(order, flux=order.flux * f, sigma=sigma))
        heavier.append(weight if order.sigma is None else weight / f**2)
    return scaled, heavier


def _untilted(orders: Sequence[Order]) -> list[Order]:
    """The orders without the tilt that they have in common, which their shapes cannot tell from a continuum:
    it is such that neighbours have the same level in their overlaps (in the median over all)."""
    ratios = np.log([_ratio(a, b) for a, b in pairwise(orders)])
    middle = np.array([0.5 * (order.wavelength[0] + order.wavelength[-1]) for order in orders])
    apart = float(np.median(np.diff(middle)))
    known = ratios != 0.0
    if np.count_nonzero(known) < 3 or apart <= 0:
        return list(orders)
    tilt = -float(np.median(ratios[known]))
    out = []
    for order, centre in zip(orders, middle, strict=True):
        factor = np.exp(tilt * (order.wavelength - centre) / apart)
        sigma = None if order.sigma is None else order.sigma * factor
        out.append(attrs.evolve(order, flux=order.flux * factor, sigma=sigma))
    return out


def _ratio(first: Order, second: Order) -> np.ndarray:
    """``(n_spec,)`` flux of the first over that of the second where they overlap; 1 where it is not well
    known."""
    out = np.ones(len(first.flux))
    at, columns, factors = (
        _cubic(second.wavelength, first.wavelength) if second.wavelength.size > 3 else ((), (), ())
    )
    if len(at) < 20:
        return out
    good = ~first.mask[:, at] & ~second.mask[:, columns].any(axis=2)
    ours = np.where(good, first.flux[:, at], 0.0)
    theirs = np.where(good, (np.where(second.mask, 0.0, second.flux)[:, columns] * factors).sum(axis=2), 0.0)
    for row in range(len(out)):
        n = np.count_nonzero(good[row])
        blocks = [b for b in np.array_split(np.flatnonzero(good[row]), 10) if b.size] if n >= 20 else []
        if not blocks or ours[row].sum() <= 0 or theirs[row].sum() <= 0:
            continue
        ratios = np.array([ours[row, b].sum() / max(theirs[row, b].sum(), 1e-300) for b in blocks])
        ratio = float(ours[row].sum() / theirs[row].sum())
        error = float(np.std(ratios) / np.sqrt(len(ratios)) / ratio)
        if 0.05 < ratio < 20.0 and error < 0.05:
            out[row] = ratio
    return out


# -- blaze -----------------------------------------------------------------------------------------


def _over(order: Order, blaze: np.ndarray) -> Order:
    if (blaze == 1.0).all():
        return order
    bright = np.maximum(blaze, 1e-3)
    return Order(
        order.wavelength,
        order.flux / bright,
        None if order.sigma is None else order.sigma / bright,
        order.mask | (blaze < _DARK),
    )


def _blazes(orders: Sequence[Order]) -> list[np.ndarray]:
    """``(n_pix,)`` the blaze of every order, at most 1; all 1 where flux does not fall towards their ends."""
    ones = [np.ones(order.wavelength.size) for order in orders]
    if len(orders) < 3 or min(order.wavelength.size for order in orders) < 4 * _BINS:
        return ones
    places = _places(orders)
    log = np.log([_envelope(order, place) for order, place in zip(orders, places, strict=True)])
    middle = np.nanmedian(log[:, 2 * _BINS // 5 : 3 * _BINS // 5], axis=1)
    dome = middle - 0.5 * (_median(log[:, : _BINS // 8]) + _median(log[:, -_BINS // 8 :]))
    if not np.isfinite(dome).any() or abs(float(np.nanmedian(dome))) < _DOME:
        return ones
    shape = _common_shape(log)
    for _ in range(_PASSES):  # the quantile of a bin in which the blaze falls lies above its middle
        log = shape + np.log(
            [
                _envelope(attrs.evolve(order, flux=order.flux / np.maximum(_curve(place, row), 1e-3)), place)
                for order, place, row in zip(orders, places, shape, strict=True)
            ]
        )
        shape = _common_shape(log)
    return [_curve(place, row) for place, row in zip(places, shape, strict=True)]


def _curve(place: np.ndarray, row: np.ndarray) -> np.ndarray:
    """``(n_pix,)`` the blaze at places, of its logarithm in bins ``(_BINS,)``; at most 1."""
    x = (np.arange(_BINS) + 0.5) / _BINS
    log = np.interp(place, x, row)
    # interp is flat beyond the middles of the outermost bins: go on with their slope, to the ends
    for end, beyond in ((0, place < x[0]), (-1, place > x[-1])):
        slope = (row[1] - row[0] if end == 0 else row[-1] - row[-2]) * _BINS
        log[beyond] = row[end] + slope * (np.clip(place[beyond], 0.0, 1.0) - x[end])
    return np.exp(log - log.max())


def _places(orders: Sequence[Order]) -> list[np.ndarray]:
    """``(n_pix,)`` where in its order each pixel lies, by wavelength: 0 and 1 are the ends of the good
    pixels.

    An order that is shorter than others of about its wavelength is cut (by the edge of a detector, by what
    was left out): there it has the end that the others let expect.
    """
    ends = np.log([_reach(order) for order in orders])
    length, middle = ends[:, 1] - ends[:, 0], ends.mean(axis=1) - ends.mean()
    whole = np.ones(len(orders), bool)
    expected = length
    for _ in range(5):
        if np.count_nonzero(whole) < 3:
            break
        degree = min(2, int(np.count_nonzero(whole)) // 8)
        expected = np.polyval(np.polyfit(middle[whole], length[whole], degree), middle)
        whole = length > (1.0 - _CUT) * expected
    if 2 * np.count_nonzero(whole) > len(orders):
        numbers = np.flatnonzero(whole)
        for i in np.flatnonzero(~whole):
            off = [abs(ends[i, end] - np.interp(i, numbers, ends[whole, end])) for end in (0, 1)]
            if i < numbers[0] or (i < numbers[-1] and off[0] > off[1]):
                ends[i, 0] = ends[i, 1] - expected[i]
            else:
                ends[i, 1] = ends[i, 0] + expected[i]
    return [
        (order.wavelength - first) / max(last - first, 1e-9)
        for order, (first, last) in zip(orders, np.exp(ends), strict=True)
    ]


def _median(values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        some = np.isfinite(values).any(axis=1)
        out = np.full(len(values), np.nan)
        out[some] = np.nanmedian(values[some], axis=1)
    return out


def _envelope(order: Order, place: np.ndarray) -> np.ndarray:
    """``(_BINS,)`` a high quantile of the flux in bins of ``place (n_pix,)``, over all spectra at their own
    level."""
    out = np.full(_BINS, np.nan)
    good = np.flatnonzero((~order.mask).any(axis=0))
    if good.size < 4 * _BINS:
        return out
    values = np.where(order.mask, np.nan, order.flux)
    unit = np.nanmedian(np.abs(values), axis=1, keepdims=True)
    values = values / np.where(unit > 0, unit, np.nan)
    edges = np.searchsorted(place, np.linspace(0.0, 1.0, _BINS + 1))
    for i, (start, stop) in enumerate(pairwise(edges)):
        some = values[:, start:stop]
        some = some[np.isfinite(some)]
        if some.size >= 4:
            # averages of a few pixels: the quantile of single ones would be higher where there is more noise
            averaged = some[: some.size // 4 * 4].reshape(-1, 4).mean(axis=1)
            out[i] = np.quantile(averaged, 0.8)
    out[~(out > 0)] = np.nan
    return out


def _common_shape(log: np.ndarray) -> np.ndarray:
    """``(n_orders, _BINS)`` what is common to the ``log (n_orders, _BINS)`` levels: Chebyshev polynomials of
    the place in the order (degree 7) times such of the number of the order (up to 2), with a level for each
    order, fitted with bins that lie below left out."""
    n = len(log)
    x = np.linspace(-1.0, 1.0, _BINS)
    m = np.linspace(-1.0, 1.0, n)
    along = np.polynomial.chebyshev.chebvander(x, 7)[:, 1:]
    across = np.polynomial.chebyshev.chebvander(m, min(2, n // 8))
    smooth = (across[:, None, :, None] * along[None, :, None, :]).reshape(n * _BINS, -1)
    levels = np.repeat(np.eye(n), _BINS, axis=0)
    design = np.hstack([smooth, levels])
    values = log.ravel()
    keep = np.isfinite(values)
    coefficients = np.zeros(design.shape[1])
    for _ in range(8):
        a, b = design[keep], values[keep]
        ridge = 1e-6 * np.eye(design.shape[1])
        coefficients = np.linalg.solve(a.T @ a + ridge, a.T @ b)
        residual = np.where(np.isfinite(values), values - design @ coefficients, np.nan)
        scatter = max(float(np.sqrt(np.mean(residual[keep] ** 2))), 2e-3)
        with np.errstate(invalid="ignore"):
            keep = np.isfinite(values) & (residual > -1.5 * scatter) & (residual < 3.0 * scatter)
    shape = (smooth @ coefficients[: smooth.shape[1]]).reshape(n, _BINS)
    return shape - shape.max(axis=1, keepdims=True)
