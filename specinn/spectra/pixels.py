"""Pixels that carry no information although nothing flags them: errors that are none, gaps filled with a
constant, values that stand for nothing."""

from __future__ import annotations

import numpy as np

__all__ = ["ABSURD_SNR", "constant_runs", "hopeless_errors", "sentinels"]

_BLOCK = 512  # pixels of a neighbourhood
_EVERY = 4  # of them counts for the quantiles
_FAR = 10.0  # times the errors of the neighbourhood
_HOPELESS = 100.0  # times fewer S/N than the spectrum has
_TINY = 1e-3  # times the errors of the neighbourhood: an error below that stands for none
_LEVELS = 30.0  # times the typical flux is the most that the flux of a neighbourhood is believed to be
_AGAIN = 2  # of the pixels that are looked at first have the same value as another
_OFTEN, _SHARE = 10, 2e-3  # pixels, and of all, that have a value which stands for nothing
_BESIDE, _OFTENER = 20, 5  # values on both sides of it, and times that it comes more often than they
_CEILING = 1.5  # times what 95 % of values are below, up to which the highest is an upper limit
_DISTINCT = 0.5  # of the good pixels have values of their own where values do not repeat themselves
_RUN = 10  # identical values in a row
_SMOOTH = 2e-3  # of the value: a step of this size at the end of a run is none
ABSURD_SNR = 1e5


def hopeless_errors(flux: np.ndarray, sigma: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels ``(n_spec, n_pix)`` whose ``sigma`` is far above that of their neighbourhood: they are as good
    as masked, and estimators that see no error of a pixel must not see its flux.

    A neighbourhood is a block of 512 pixels. The limit is 10 times the larger of its lower quartile of sigma
    and of the error that its level of flux has at the spectrum's S/N (so that errors in proportion to the
    flux may vary as the flux does). In stretches that are hopeless throughout, the limit is a S/N 100 times
    below that of the spectrum. An error 1000 times below those of the neighbourhood, and a S/N as much above
    that of the spectrum, are no measurement either. Quantiles stand up to three quarters of bad pixels.
    Spectra without errors (NaN) have no such pixels.
    """
    n_spec, n_pix = flux.shape
    every = _EVERY if n_pix >= _BLOCK else 1
    part = (slice(None), slice(None, None, every))  # for the quantiles
    with np.errstate(invalid="ignore"):
        good = ~mask[part] & np.isfinite(flux[part]) & (sigma[part] > 0) & (sigma[part] < np.inf)
    if not good.any():
        return np.zeros(flux.shape, bool)
    n_blocks = max(1, round(n_pix / _BLOCK))
    size = -(-good.shape[1] // n_blocks)  # of the pixels that count
    strength, error = np.abs(flux[part]), sigma[part]

    def blocks(values: np.ndarray) -> np.ndarray:
        filled = np.full((n_spec, n_blocks * size), np.nan)
        np.copyto(filled[:, : good.shape[1]], values, where=good)
        return filled.reshape(n_spec, n_blocks, size)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        snr = _quantile(blocks(strength / error)[:, :, ::_EVERY].reshape(n_spec, -1), 0.75)[:, None]
    low = _quantile(blocks(error), 0.25)
    level = _quantile(blocks(strength), 0.9)
    typical = _quantile(level, 0.5)[:, None]
    level = np.minimum(np.where(np.isfinite(level), level, typical), _LEVELS * typical)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        expected = level / snr  # the error that this level has at the spectrum's S/N
        limit = _FAR * np.fmax(low, expected)
        limit = np.where(expected > 0, np.fmin(limit, _HOPELESS * expected), limit)
    limit = np.where(np.isfinite(limit), limit, np.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bad = sigma > np.repeat(limit, size * every, axis=1)[:, :n_pix]
        tiny = _TINY * np.nanmin(np.where(low > 0, low, np.nan), axis=1, initial=np.inf)[:, None]
        if (sigma < tiny).any():  # seldom
            bad |= (sigma < _TINY * np.repeat(low, size * every, axis=1)[:, :n_pix]) & (
                np.abs(flux) / sigma > snr / _TINY
            )
        return bad & ~mask


def sentinels(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels ``(n_spec, n_pix)`` of one value that stands for nothing, such as -1 or -999: it comes again and
    again where other values come once, and not as those beside it.

    What repeats itself and is a measurement: flux rounded to a few digits, where all values repeat
    themselves, and the upper limit of a synthetic spectrum, its continuum.
    """
    out = np.zeros(flux.shape, bool)
    if flux.shape[1] < _BLOCK:
        return out
    part = np.sort(np.where(mask[:, ::_EVERY], np.nan, flux[:, ::_EVERY]), axis=1)
    again = np.count_nonzero(part[:, _AGAIN:] == part[:, :-_AGAIN], axis=1)
    for row in np.flatnonzero(again):
        good = ~mask[row] & np.isfinite(flux[row])
        values, counts = np.unique(flux[row, good], return_counts=True)
        if len(values) < _DISTINCT * np.count_nonzero(good):
            continue
        often = np.flatnonzero(counts >= max(_OFTEN, _SHARE * np.count_nonzero(good)))
        ceiling = values[-1] <= _CEILING * values[int(0.95 * len(values))]
        for at in often[: -1 if len(often) and often[-1] == len(values) - 1 and ceiling else None]:
            beside = np.delete(counts[max(at - _BESIDE, 0) : at + _BESIDE + 1], min(at, _BESIDE))
            if beside.max() * _OFTENER < counts[at]:
                out[row] |= flux[row] == values[at]
    return out & ~mask


def constant_runs(flux: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels ``(n_spec, n_pix)`` in runs of 10 and more identical values: gaps that a program has filled.

    Measured flux does not repeat itself. What does so and is no gap: the continuum of a synthetic spectrum
    (runs at its upper limit, or that end smoothly), flux rounded to a few digits (runs that end with the
    step of the rounding), and a spectrum that is constant throughout, which the pipeline flags by itself.
    """
    out = np.zeros(flux.shape, bool)
    if flux.shape[1] <= _RUN:
        return out
    same = flux[:, 1:] == flux[:, :-1]
    few = np.count_nonzero(same, axis=1) < _RUN - 1
    if few.all():
        return out
    same &= ~mask[:, 1:] & ~mask[:, :-1]
    long = same[:, : 2 - _RUN].copy()
    for shift in range(1, _RUN - 1):
        long &= same[:, shift : shift + long.shape[1]]
    for row in np.flatnonzero(long.any(axis=1)):
        _mark_gaps(flux[row], mask[row], same[row], out[row])
    return out


def _mark_gaps(flux: np.ndarray, mask: np.ndarray, same: np.ndarray, out: np.ndarray) -> None:
    edges = np.diff(np.concatenate([[False], same, [False]]).astype(np.int8))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1  # pixels [start, stop)
    keep = stops - starts >= _RUN
    starts, stops = starts[keep], stops[keep]
    good = ~mask & np.isfinite(flux)
    values = flux[good]
    steps = np.abs(np.diff(values))
    steps = steps[steps > 0]
    if not steps.size:
        return  # constant throughout
    quantum = 5.0 * float(steps.min())
    highest, high = float(values.max()), float(np.quantile(values, 0.95))
    value = flux[starts]
    tolerance = np.maximum(_SMOOTH * np.abs(value), quantum)

    def step_to(neighbour: np.ndarray) -> np.ndarray:
        inside = (neighbour >= 0) & (neighbour < flux.size)
        at = np.clip(neighbour, 0, flux.size - 1)
        with np.errstate(invalid="ignore"):
            jump = np.abs(flux[at] - value)
        return np.where(inside & good[at], jump, np.nan)

    before, after = step_to(starts - 1), step_to(stops)
    with np.errstate(invalid="ignore"):
        smooth = ~(before > tolerance) & ~(after > tolerance) & ~(np.isnan(before) & np.isnan(after))
    ceiling = (value >= highest - 1e-9 * abs(highest)) & (value <= 1.5 * high) & (high > 0)
    for start, stop in zip(starts[~(smooth | ceiling)], stops[~(smooth | ceiling)], strict=True):
        out[start:stop] = True


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """Along the last axis, of the values that are no NaN; NaN where there are none."""
    ordered = np.sort(values, axis=-1)
    count = np.count_nonzero(~np.isnan(ordered), axis=-1)
    at = (q * (count - 1)).astype(int).clip(min=0)
    return np.take_along_axis(ordered, at[..., None], axis=-1)[..., 0]
