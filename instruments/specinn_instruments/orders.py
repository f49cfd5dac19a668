"""Echelle orders that follow one another in one list of pixels."""

from __future__ import annotations

import numpy as np

_SHORTEST = 100  # pixels; shorter pieces are a list that is out of order, not orders


def split_orders(wavelength: np.ndarray) -> tuple[np.ndarray, dict[str, slice]]:
    """Which pixels to keep, in which order, and the orders as arms; wavelengths ``(n_pix,)``.

    An order begins where the wavelength falls back. Where two orders overlap each keeps its half of the
    overlap. Why not merge by sorting: neighbouring orders differ in flux level where the blaze is not
    removed, so interleaved pixels would zigzag, and averages of unequally sampled orders need
    interpolation, which correlates the noise. Cut orders stay as they were measured, the result
    increases throughout, and the continuum can be fitted order by order. The price is S/N at order
    ends, at most a factor 1.4 in the overlap.

    A list without falls, or with falls that do not look like orders, comes back as it is, with no arms.
    """
    n = wavelength.size
    everything = np.arange(n)
    falls = np.flatnonzero(np.diff(wavelength) < 0) + 1
    if not falls.size:
        return everything, {}
    pieces = sorted(np.split(everything, falls), key=lambda piece: float(wavelength[piece[0]]))
    if np.median([piece.size for piece in pieces]) < _SHORTEST:
        return everything, {}
    low = np.array([wavelength[piece[0]] for piece in pieces])
    high = np.array([wavelength[piece[-1]] for piece in pieces])
    if (np.diff(high) <= 0).any():  # one piece inside another: not orders
        return everything, {}
    cuts = np.concatenate([[-np.inf], 0.5 * (high[:-1] + low[1:]), [np.inf]])
    kept = [
        piece[(wavelength[piece] > start) & (wavelength[piece] <= end)]
        for piece, start, end in zip(pieces, cuts[:-1], cuts[1:], strict=True)
    ]
    kept = [piece for piece in kept if piece.size > 1]
    ends = np.cumsum([0] + [piece.size for piece in kept])
    arms = {f"order {i + 1}": slice(int(ends[i]), int(ends[i + 1])) for i in range(len(kept))}
    return np.concatenate(kept), arms
