"""Echelle orders (and arms) of one exposure: distinguished from stars, and merged into one spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs
import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

_SHORTEST = 100  # pixels; shorter pieces are a list that is out of order, not orders
_OVERLAP = 0.75  # of the shorter of two neighbours: orders share less
_MANY = 20  # orders that may come twice, as the slices of one exposure
_SMOOTH = 51  # pixels over which the weights are averaged
_DOME = 0.06  # by which flux falls from the middle of the orders to their ends (ln) where there is a blaze
_LEAST = 1e-3  # of the blaze's maximum: flux is not divided by less
_DARK = 0.12  # of the blaze's maximum, below which pixels are of no use
_GAP = 2.5  # pixels from one to the next, above which some are absent
_BINS = 40  # of an order, for the blaze
_DEGREE = 2  # at most, by which the blaze changes from order to order
_FEWEST = 8  # orders of which it can be told that one is cut
_NEAR = 9  # orders in which steps from one to the next are alike
_ROUNDS = 8  # of fits that leave out what is off
_REGULAR = 0.7  # of the orders are whole
_CUT = 0.01  # of the length of an order: a shorter one is cut
_AGAIN = 2  # passes, once the shape is about known
_BLOCKS = 8  # of an overlap, for the blaze
# Weight of ratios in overlaps against envelopes: lines do not matter to them, but dark ends have stray light.
_SHARED = 0.7


@attrs.frozen(eq=False)
class Order:
    """``wavelength (n_pix,)`` Angstrom; ``flux``, ``sigma`` (or None) and ``mask`` ``(n_spec, n_pix)``."""

    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray | None
    mask: np.ndarray

    def times(self, factor: np.ndarray) -> Order:
        """Flux and sigma times ``factor``, ``(n_pix,)`` or ``(n_spec, 1)``."""
        sigma = None if self.sigma is None else self.sigma * factor
        return attrs.evolve(self, flux=self.flux * factor, sigma=sigma)


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
    """Wavelength, flux, sigma, mask of the merged spectra, and their stretches without a gap as arms.

    Blaze: where flux falls towards the ends of the orders, what is common to them (a smooth function of the
    position in the order that changes slowly from order to order, so that a broad line in one of them stays)
    is divided out, and the darkest ends are left out; it also follows the ratios of neighbours along their
    overlaps. Scale: the ratio of neighbours in their overlap, where
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
    for i, order in enumerate(orders):
        keep = _owned(order.wavelength, i, reach)
        if keep.any():
            parts.append(_combined(i, keep, orders, weights, reach))
    wave, flux, sigma, mask = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    if (np.diff(wave) <= 0).any():  # of slices of one order, each may reach farther at one end
        wave, first = np.unique(wave, return_index=True)
        flux, sigma, mask = flux[:, first], sigma[:, first], mask[:, first]
    return wave, flux, None if orders[0].sigma is None else sigma, mask, _stretches(wave)


def _stretches(wavelength: np.ndarray) -> dict[str, slice]:
    """The stretches of ``wavelength (n_pix,)`` without a gap, as arms: where one order takes over from
    another there is none, and no interpolation has to stop."""
    step = np.diff(wavelength)
    usual = median_filter(step, _NEAR, mode="nearest")  # pixels of two orders meet at any distance
    ends = [0, *(np.flatnonzero(step > _GAP * usual) + 1).tolist(), wavelength.size]
    return {f"stretch {i + 1}": slice(*pair) for i, pair in enumerate(pairwise(ends))}


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
    finite = ~order.mask & np.isfinite(order.sigma) & (order.sigma > 0)
    variance = np.square(np.where(finite, order.sigma, 0.0))
    size = min(_SMOOTH, order.flux.shape[1])
    share = uniform_filter1d(finite.astype(float), size, axis=1, mode="nearest")
    mean = uniform_filter1d(variance, size, axis=1, mode="nearest")
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = share / mean
    return np.where(finite & np.isfinite(weight), weight, 0.0)


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
        scaled.append(order.times(f))
        heavier.append(weight if order.sigma is None else weight / f**2)
    return scaled, heavier


def _untilted(orders: Sequence[Order]) -> list[Order]:
    """The orders without the tilt that they have in common, which their shapes cannot tell from a continuum:
    it changes slowly from order to order, and is such that neighbours have the same level in their overlaps
    (in the mean; levels that differ at random do so once upwards and once downwards)."""
    ratios = np.log([_ratio(a, b) for a, b in pairwise(orders)])
    middle = np.array([0.5 * (order.wavelength[0] + order.wavelength[-1]) for order in orders])
    apart = float(np.median(np.diff(middle)))
    number, row = np.nonzero(ratios)
    if len(np.unique(number)) < 3 or apart <= 0:
        return list(orders)
    jumps, position = ratios[number, row], 2.0 * (number + 0.5) / (len(orders) - 1) - 1.0
    keep = np.ones(len(jumps), bool)
    for _ in range(_ROUNDS):
        degree = min(_DEGREE, len(np.unique(number[keep])) // 8)
        coefficients = np.polynomial.chebyshev.chebfit(position[keep], jumps[keep], degree)
        off = np.abs(jumps - np.polynomial.chebyshev.chebval(position, coefficients))
        keep = off <= max(5.0 * float(np.median(off)), 0.01)
    of_each = np.polynomial.chebyshev.chebval(np.linspace(-1.0, 1.0, len(orders)), coefficients)
    out = []
    for order, centre, tilt in zip(orders, middle, of_each, strict=True):
        out.append(order.times(np.exp(-tilt * (order.wavelength - centre) / apart)))
    return out


def _overlap(first: Order, second: Order) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pixels ``at`` of the first order at which the second has flux, too: ``good (n_spec, n_at)`` where
    both are, and the fluxes of both there, else 0."""
    if second.wavelength.size < 4:
        nothing = np.zeros((len(first.flux), 0))
        return np.zeros(0, int), nothing, nothing, nothing
    at, columns, factors = _cubic(second.wavelength, first.wavelength)
    good = ~first.mask[:, at] & ~second.mask[:, columns].any(axis=2)
    ours = np.where(good, first.flux[:, at], 0.0)
    theirs = np.where(good, (np.where(second.mask, 0.0, second.flux)[:, columns] * factors).sum(axis=2), 0.0)
    return at, good, ours, theirs


def _ratio(first: Order, second: Order) -> np.ndarray:
    """``(n_spec,)`` flux of the first over that of the second where they overlap; 1 where it is not well
    known."""
    out = np.ones(len(first.flux))
    at, good, ours, theirs = _overlap(first, second)
    if len(at) < 20:
        return out
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
    flat = order.times(1.0 / np.maximum(blaze, _LEAST))
    return attrs.evolve(flat, mask=order.mask | (blaze < _DARK))


def _blazes(orders: Sequence[Order]) -> list[np.ndarray]:
    """``(n_pix,)`` the blaze of every order, at most 1; all 1 where flux does not fall towards their ends."""
    ones = [np.ones(order.wavelength.size) for order in orders]
    if len(orders) < 3 or min(order.wavelength.size for order in orders) < 4 * _BINS:
        return ones
    ends = _whole_ends(np.array([_reach(order) for order in orders]))
    positions = [
        (order.wavelength - first) / max(last - first, 1e-12)
        for order, (first, last) in zip(orders, ends, strict=True)
    ]
    log = _levels(orders, positions)
    middle = _median(log[:, 2 * _BINS // 5 : 3 * _BINS // 5])
    dome = middle - 0.5 * (_median(log[:, : _BINS // 8]) + _median(log[:, -_BINS // 8 :]))
    if not np.isfinite(dome).any() or abs(float(np.nanmedian(dome))) < _DOME:
        return ones
    ratios = _ratios_in_overlaps(orders, positions)
    shape = _common_shape(log, ratios)
    for _ in range(_AGAIN):
        shape = _common_shape(_levels(orders, positions, shape), ratios)
    curves = [np.exp(_at(position, row)) for position, row in zip(positions, shape, strict=True)]
    return [curve / max(1.0, float(curve.max())) for curve in curves]


def _at(position: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """``shape (_BINS,)`` at every ``position (n_pix,)`` of an order."""
    x = (np.arange(_BINS) + 0.5) / _BINS
    out: np.ndarray = np.interp(position, x, shape)
    # interp is flat beyond the middles of the outermost bins: continue with their slope
    for end, beyond in ((0, position < x[0]), (-1, position > x[-1])):
        slope = (shape[1] - shape[0] if end == 0 else shape[-1] - shape[-2]) * _BINS
        out[beyond] = shape[end] + slope * (position[beyond] - x[end])
    return out


def _levels(
    orders: Sequence[Order], positions: Sequence[np.ndarray], shape: np.ndarray | None = None
) -> np.ndarray:
    """``(n_orders, _BINS)`` log of the envelope of each order. With a ``shape`` of that form, of what it
    leaves: a quantile of flux that changes within a bin would lie above the middle."""
    if shape is None:
        return np.log([_envelope(order, position) for order, position in zip(orders, positions, strict=True)])
    rows = []
    for order, position, row in zip(orders, positions, shape, strict=True):
        flat = order.times(1.0 / np.maximum(np.exp(_at(position, row)), _LEAST))
        rows.append(np.log(_envelope(flat, position)) + row)
    return np.array(rows)


def _whole_ends(ends: np.ndarray) -> np.ndarray:
    """``(n_orders, 2)`` first and last wavelength that the orders would have, had none been cut.

    Along a spectrograph's orders both change smoothly. An order that begins later or ends earlier than its
    neighbours let expect has been cut (at the gap between detectors, or at the end of a merged range), and
    its pixels lie elsewhere in the blaze than those of a whole one. Where the ends are not smooth, they
    are those given.
    """
    if len(ends) < _FEWEST:
        return ends
    length = float(np.median(ends[:, 1] - ends[:, 0]))
    steps = np.diff(ends, axis=0)
    usual = median_filter(steps, (_NEAR, 1), mode="nearest")
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.nan_to_num(np.rint(steps / usual), nan=1.0, posinf=1.0, neginf=1.0)
    # a cut changes the steps of one end, an order that is absent those of both
    number = np.append(0.0, np.cumsum(np.maximum(steps.min(axis=1), 1.0)))
    number = 2.0 * number / number[-1] - 1.0
    out = ends.copy()
    for column, side in enumerate((1.0, -1.0)):
        shorter, scatter = np.zeros(len(ends)), np.inf
        keep = np.ones(len(ends), bool)
        for _ in range(_ROUNDS):
            fit = np.polynomial.chebyshev.chebval(
                number, np.polynomial.chebyshev.chebfit(number[keep], ends[keep, column], 3)
            )
            shorter = side * (ends[:, column] - fit)
            scatter = 1.5 * float(np.median(np.abs(shorter[keep])))
            keep = np.abs(shorter) < max(3.0 * scatter, 0.01 * length)
            if np.count_nonzero(keep) < _REGULAR * len(ends):
                break
        if np.count_nonzero(keep) >= _REGULAR * len(ends) and scatter < 0.02 * length:
            cut = shorter > max(3.0 * scatter, _CUT * length)
            out[cut, column] = fit[cut]
    return out


def _median(values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        some = np.isfinite(values).any(axis=1)
        out = np.full(len(values), np.nan)
        out[some] = np.nanmedian(values[some], axis=1)
    return out


def _envelope(order: Order, position: np.ndarray) -> np.ndarray:
    """``(_BINS,)`` a high quantile of the flux in bins of the ``position (n_pix,)`` in the order, over all
    spectra at their own level; NaN in bins without enough good pixels."""
    out = np.full(_BINS, np.nan)
    values = np.where(order.mask, np.nan, order.flux)
    if np.count_nonzero((~order.mask).any(axis=0)) < 4 * _BINS:
        return out
    unit = np.nanmedian(np.abs(values), axis=1, keepdims=True)
    values = values / np.where(unit > 0, unit, np.nan)
    edges = np.searchsorted(position, np.arange(_BINS + 1) / _BINS)
    for i, (first, last) in enumerate(pairwise(edges)):
        some = values[:, first:last]
        some = some[np.isfinite(some)]
        if some.size >= 4:
            # averages of a few pixels: the quantile of single ones would be higher where there is more noise
            averaged = some[: some.size // 4 * 4].reshape(-1, 4).mean(axis=1)
            out[i] = np.quantile(averaged, 0.8)
    out[~(out > 0)] = np.nan
    return out


def _ratios_in_overlaps(orders: Sequence[Order], places: Sequence[np.ndarray]) -> np.ndarray:
    """``(n, 4)`` what overlaps say of the blaze, in blocks of wavelengths: the number of the first order, the
    places in it and in the next one, and the log of the ratio of their fluxes."""
    rows = []
    for i, (first, second) in enumerate(pairwise(orders)):
        at, good, ours, theirs = _overlap(first, second)
        if at.size < 20 * _BLOCKS:
            continue
        there = np.interp(first.wavelength[at], second.wavelength, places[i + 1])
        for block in np.array_split(np.arange(at.size), _BLOCKS):
            above, below = float(ours[:, block].sum()), float(theirs[:, block].sum())
            if good[:, block].mean() > 0.5 and above > 0 and below > 0:
                weight = good[:, block].sum(axis=0)
                rows.append((i, np.average(places[i][at[block]], weights=weight),
                             np.average(there[block], weights=weight), np.log(above / below)))  # fmt: skip
    return np.array(rows, float).reshape(-1, 4)


def _common_shape(log: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """``(n_orders, _BINS)`` what is common to the ``log (n_orders, _BINS)`` levels: Chebyshev polynomials of
    the place in the order (degree 7) times such of the number of the order (up to 2), with a level for each
    order, fitted with bins that lie below left out.

    The star's lines and continuum are in those levels, but not in the ``ratios`` of neighbours
    (:func:`_ratios_in_overlaps`), whose changes along the overlaps must be those of the shape."""
    n = len(log)
    degree = min(_DEGREE, n // 8)

    def terms(number: np.ndarray, position: np.ndarray) -> np.ndarray:
        along = np.polynomial.chebyshev.chebvander(2.0 * position - 1.0, 7)[:, 1:]
        across = np.polynomial.chebyshev.chebvander(2.0 * number / (n - 1) - 1.0, degree)
        product: np.ndarray = (across[:, :, None] * along[:, None, :]).reshape(len(position), -1)
        return product

    x = (np.arange(_BINS) + 0.5) / _BINS
    smooth = terms(np.repeat(np.arange(n), _BINS), np.tile(x, n))
    levels = np.repeat(np.eye(n), _BINS, axis=0)
    between = terms(ratios[:, 0], ratios[:, 1]) - terms(ratios[:, 0] + 1.0, ratios[:, 2])
    changes = ratios[:, 3].copy()
    for i in np.unique(ratios[:, 0]):  # the ratio itself is that of the levels, too
        pair = ratios[:, 0] == i
        between[pair] -= between[pair].mean(axis=0)
        changes[pair] -= changes[pair].mean()
    design = np.vstack([np.hstack([smooth, levels]), np.hstack([between, np.zeros((len(between), n))])])
    values = np.concatenate([log.ravel(), changes])
    shared = np.arange(len(values)) >= log.size
    weight = np.where(shared, _SHARED, 1.0)
    keep = np.isfinite(values)
    coefficients = np.zeros(design.shape[1])
    for _ in range(8):
        a, b, w = design[keep], values[keep], np.square(weight[keep])
        ridge = 1e-6 * np.eye(design.shape[1])
        coefficients = np.linalg.solve((a.T * w) @ a + ridge, (a.T * w) @ b)
        residual = np.where(np.isfinite(values), values - design @ coefficients, np.nan)
        for some, below in ((~shared, -1.5), (shared, -3.0)):
            fitted = residual[keep & some]
            scatter = max(float(np.sqrt(np.mean(fitted**2))) if fitted.size else 0.0, 2e-3)
            with np.errstate(invalid="ignore"):
                keep[some] = ((residual > below * scatter) & (residual < 3.0 * scatter))[some]
    shape = (smooth @ coefficients[: smooth.shape[1]]).reshape(n, _BINS)
    return shape - shape.max(axis=1, keepdims=True)
