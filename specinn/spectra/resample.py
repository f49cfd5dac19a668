"""One linear operator from one pixel grid to another: change of resolving power and pixel integration."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.special import ndtr

from specinn.errors import ReadError
from specinn.wavelengths import C_KMS, lsf_sigma_kms

if TYPE_CHECKING:
    from specinn.spectra import SpectrumBatch

__all__ = [
    "R_TOLERANCE",
    "Resampler",
    "apply_resampling",
    "pixel_bounds",
    "pixel_widths",
    "resampling_matrix",
    "resampling_operator",
]

_ROOT = 1.0 / np.sqrt(2.0 * np.pi)
_REACH = 4.5  # kernel half width in sigma; the weight beyond is 7e-6
_ROWS = 8  # spectra resampled at a time, so that they stay in the cache
_KEPT_OPERATORS = 8  # a survey has one wavelength grid, archives have one a file
_BLOCK = 1024  # output pixels weighed at a time, so that temporary arrays stay in the cache
_MIN_COVERAGE = 0.8  # of an output pixel's kernel; below it the pixel is masked, never extrapolated
_WHOLE = 0.999  # of an output pixel's kernel, where orders overlap
# A spectrograph's resolving power varies by this much over its range (4MOST HRS: 18 500 to 21 000), so a
# spectrum that is this little below the target passes as it is; training varies R accordingly.
R_TOLERANCE = 0.9


def pixel_bounds(wavelength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edges ``(n_pix,)`` of pixels whose centres are ``wavelength (n_pix,)``, all in
    Angstrom.

    Edges lie midway between neighbours, but a pixel never grows over a gap: towards a step of more than
    1.5 times the step on its other side it keeps half of that other step.
    """
    step = np.diff(wavelength)
    before = np.concatenate([step[:1], step])
    after = np.concatenate([step, step[-1:]])
    left = np.where(before > 1.5 * after, after, before)
    right = np.where(after > 1.5 * before, before, after)
    return wavelength - 0.5 * left, wavelength + 0.5 * right


def _ramp(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Second antiderivative of a Gaussian: the ramp max(x, 0) where sigma is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = x / sigma
        smooth = x * ndtr(t) + sigma * np.exp(-0.5 * t * t) * _ROOT
    ramp: np.ndarray = np.where(sigma > 0, smooth, np.maximum(x, 0.0))
    return ramp


def resampling_matrix(
    wavelength: np.ndarray,
    resolving_power: float | np.ndarray,
    out_wavelength: np.ndarray,
    out_resolving_power: float | np.ndarray,
) -> sparse.csr_array:
    """Operator that takes flux on one pixel grid to another at lower or equal resolving power.

    Input pixels count as boxes of their width, output pixels integrate over theirs, and between the two
    stands the Gaussian that turns one resolving power into the other, narrowed by the variance of both
    boxes: resolving power is that of the recorded spectrum, so its pixels are in it already. The width of a
    line then grows exactly by the difference of 1/R^2, on any grid, and in one step or in several (where
    the boxes alone are wider than that, there is no Gaussian). All is in closed form.

    Parameters
    ----------
    wavelength : ndarray
        ``(n_in,)`` Angstrom, increasing: the pixels of the input.
    resolving_power : float or ndarray
        Of the input, a number or ``(n_in,)``.
    out_wavelength : ndarray
        ``(n_out,)`` Angstrom, increasing: the pixels of the output.
    out_resolving_power : float or ndarray
        Of the output, a number or ``(n_out,)``.

    Returns
    -------
    scipy.sparse.csr_array
        ``(n_out, n_in)``; a row sums to the fraction of its kernel that the input covers (1 inside).

    Raises
    ------
    ReadError
        Where wavelengths do not increase, or the input's resolving power is below ``R_TOLERANCE`` of the
        output's.

    Examples
    --------
    A line keeps its equivalent width when it becomes shallower and broader:

    >>> import numpy as np
    >>> from specinn.spectra.resample import resampling_matrix
    >>> wavelength, coarse = 6000.0 + 0.02 * np.arange(500), 6002.0 + 0.1 * np.arange(60)
    >>> flux = 1.0 - 0.5 * np.exp(-0.5 * ((wavelength - 6005.0) / 0.06) ** 2)
    >>> matrix = resampling_matrix(wavelength, 48_000.0, coarse, 20_000.0)
    >>> observed = matrix @ flux
    >>> print(flux.min().round(2), observed.min().round(2))
    0.5 0.77
    >>> print(((1.0 - flux).sum() * 0.02).round(4), ((1.0 - observed).sum() * 0.1).round(4))
    0.0752 0.0752
    """
    if (np.diff(wavelength) <= 0).any() or (np.diff(out_wavelength) <= 0).any():
        raise ReadError("wavelengths do not increase throughout: resample arms that overlap one by one")
    r_in = np.broadcast_to(np.asarray(resolving_power, float), wavelength.shape)
    r_out = np.broadcast_to(np.asarray(out_resolving_power, float), out_wavelength.shape)
    covered = (out_wavelength >= wavelength[0]) & (out_wavelength <= wavelength[-1])
    native = np.interp(out_wavelength, wavelength, r_in)
    low = covered & (native < R_TOLERANCE * r_out)
    if low.any():
        at = int(np.argmax(low))
        raise ReadError(
            f"the spectrum has resolving power {native[at]:.0f} at {out_wavelength[at]:.0f} Angstrom, "
            f"the model needs {r_out[at]:.0f}: a spectrum can be degraded but not sharpened; "
            "if the number is wrong, give the right one with --resolving-power"
        )
    lower, upper = pixel_bounds(wavelength)
    out_lower, out_upper = pixel_bounds(out_wavelength)
    sigma_v = np.nan_to_num(lsf_sigma_kms(r_out, native))
    sigma = out_wavelength * sigma_v / C_KMS
    box = np.interp(out_wavelength, wavelength, upper - lower)
    sigma = np.sqrt(np.clip(sigma**2 - (box**2 + (out_upper - out_lower) ** 2) / 12.0, 0.0, None))

    first = np.searchsorted(upper, out_lower - _REACH * sigma, side="right")
    last = np.searchsorted(lower, out_upper + _REACH * sigma, side="left")
    count = np.clip(last - first, 0, None)
    starts = np.concatenate([[0], np.cumsum(count)])
    columns = np.empty(starts[-1], np.int64)
    weights = np.empty(starts[-1])
    joined = np.append(np.abs(lower[1:] - upper[:-1]) < 1e-9, False)  # to the next pixel, without a gap
    for begin in range(0, out_wavelength.size, _BLOCK):
        block = slice(begin, min(begin + _BLOCK, out_wavelength.size))
        here = slice(starts[block.start], starts[block.stop])
        rows = np.repeat(np.arange(block.start, block.stop), count[block])
        columns[here] = np.arange(here.start, here.stop) - np.repeat(
            starts[block] - first[block], count[block]
        )
        last_of_row = np.append(np.diff(rows) != 0, True)[: rows.size]
        a, b, s = out_lower[rows], out_upper[rows], sigma[rows]
        weights[here] = _weights(lower, upper, columns[here], last_of_row | ~joined[columns[here]], a, b, s)
    return sparse.csr_array((weights, columns, starts), shape=(out_wavelength.size, wavelength.size))


def resampling_operator(
    wavelength: np.ndarray,
    arms: Mapping[str, slice],
    resolving_power: float | np.ndarray,
    out_wavelength: np.ndarray,
    out_arms: Mapping[str, slice],
    out_resolving_power: float | np.ndarray,
) -> sparse.csr_array:
    """:func:`resampling_matrix` for grids in several pieces, as one operator ``(n_out, n_in)``: ``arms``
    names the pieces of ``wavelength (n_in,)``, ``out_arms`` those of ``out_wavelength (n_out,)``, both in
    Angstrom; ``resolving_power`` and ``out_resolving_power`` are as there.

    Every piece of the input serves every piece of the output that it overlaps; where two pieces of the input
    (echelle orders) meet or overlap, their weights add up, and :func:`apply_resampling` divides by the sum.
    An order that ends within the kernel of a pixel sees one side of it alone, so it has no part in pixels
    that another order covers whole.
    """
    r_in = np.broadcast_to(np.asarray(resolving_power, float), wavelength.shape)
    r_out = np.broadcast_to(np.asarray(out_resolving_power, float), out_wavelength.shape)
    rows, columns, weights = [], [], []
    for target in out_arms.values():
        wave = out_wavelength[target]
        blocks = []
        for piece in arms.values():
            source = wavelength[piece]
            if source.size > 1 and source[0] < wave[-1] and source[-1] > wave[0]:
                block = resampling_matrix(source, r_in[piece], wave, r_out[target])
                blocks.append((piece.start, block.tocoo(), block.sum(axis=1) > _WHOLE))
        covered = np.any([whole for *_, whole in blocks], axis=0) if blocks else np.zeros(0, bool)
        for start, block, whole in blocks:
            keep = (whole | ~covered)[block.row]
            rows.append(block.row[keep] + target.start)
            columns.append(block.col[keep] + start)
            weights.append(block.data[keep])
    shape = (out_wavelength.size, wavelength.size)
    if not rows:
        return sparse.csr_array(shape)
    index = (np.concatenate(rows).astype(np.int32), np.concatenate(columns).astype(np.int32))
    return sparse.csr_array((np.concatenate(weights), index), shape=shape)


def _weights(
    lower: np.ndarray,
    upper: np.ndarray,
    columns: np.ndarray,
    alone: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    sigma: np.ndarray,
) -> np.ndarray:
    """Means over ``[a, b]`` of boxes ``[lower, upper][columns]`` convolved with Gaussians of ``sigma``.

    A box ends where the next in the list begins, so one integral serves both; not so those marked ``alone``.
    """

    def integral(edge: np.ndarray, at: np.ndarray | slice = slice(None)) -> np.ndarray:
        area: np.ndarray = _ramp(b[at] - edge, sigma[at]) - _ramp(a[at] - edge, sigma[at])
        return area

    at_lower = integral(lower[columns])
    at_upper = np.empty_like(at_lower)
    at_upper[:-1] = at_lower[1:]
    at_upper[alone] = integral(upper[columns[alone]], alone)
    mean: np.ndarray = (at_lower - at_upper) / (b - a)
    return mean


def pixel_widths(wavelength: np.ndarray, arms: Mapping[str, slice] | None = None) -> np.ndarray:
    """Widths ``(n_pix,)`` of the pixels of ``wavelength (n_pix,)``, in Angstrom; each of ``arms`` by
    itself."""
    width = np.ones(wavelength.size)  # an arm of one pixel has no width that anybody could know
    for arm in (arms or {"all": slice(None)}).values():
        if wavelength[arm].size > 1:
            lower, upper = pixel_bounds(wavelength[arm])
            width[arm] = upper - lower
    return width


def apply_resampling(
    matrix: sparse.csr_array,
    widths: tuple[np.ndarray, np.ndarray],
    flux: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Carry ``flux``, ``sigma`` and ``mask`` ``(n_spec, n_in)`` through the operator ``matrix`` to
    ``(n_spec, n_out)``.

    ``widths`` are the :func:`pixel_widths` of input and output. Masked input has no weight; an output pixel
    of which less than 80 % of the kernel rests on good input is masked.

    sigma is that of independent output pixels with the S/N per Angstrom of the input: what is averaged is
    variance times pixel width. The scatter from pixel to pixel comes out smaller where a broad kernel has
    smoothed it, but that noise is correlated, and who took it for independent would claim too much.
    """
    n_spec, (n_out, n_in) = len(flux), matrix.shape
    flux_out, sigma_out = np.empty((n_spec, n_out)), np.empty((n_spec, n_out))
    bad = np.empty((n_spec, n_out), bool)
    for start in range(0, n_spec, _ROWS):
        here = slice(start, min(start + _ROWS, n_spec))
        n = here.stop - start
        stacked = np.empty((3, n, n_in))
        good, values, variance = stacked
        np.logical_not(mask[here], out=good)
        values[:], variance[:] = flux[here], sigma[here]
        np.copyto(stacked[1:], 0.0, where=mask[here])
        variance *= variance
        variance *= widths[0]
        product = matrix @ stacked.reshape(3 * n, n_in).T
        share, values, noise = np.ascontiguousarray(product.T).reshape(3, n, n_out)
        few = np.less(share, _MIN_COVERAGE, out=bad[here])
        with np.errstate(divide="ignore", invalid="ignore"):
            np.divide(values, share, out=flux_out[here])
            noise /= share
            noise /= widths[1]
            np.sqrt(noise, out=sigma_out[here])
        np.copyto(flux_out[here], 0.0, where=few)
        np.copyto(sigma_out[here], np.inf, where=few)
    sigma_out[np.isnan(sigma).all(axis=1)] = np.nan  # not known before, not known after
    return flux_out, sigma_out, bad


class Resampler:
    """Takes spectra on any pixels to those of one grid; the operators of the last grids it met are kept.

    Parameters
    ----------
    wavelength : ndarray
        ``(n_out,)`` Angstrom, increasing in each of the pieces ``arms``.
    arms : mapping of str to slice
        The pieces of ``wavelength`` by name.
    resolving_power : float or ndarray
        lambda / FWHM of the output, a number or ``(n_out,)``.
    at_most : bool
        A spectrum of a lower resolving power keeps its own instead of raising ``ReadError``.

    Examples
    --------
    >>> import numpy as np
    >>> from specinn.spectra import SpectrumBatch
    >>> from specinn.spectra.resample import Resampler
    >>> batch = SpectrumBatch.from_arrays(
    ...     6000.0 + 0.05 * np.arange(200),
    ...     1.0 + 0.01 * np.sin(np.arange(200)),
    ...     sigma=np.full(200, 0.01),
    ...     resolving_power=48_000.0,
    ... )
    >>> resampler = Resampler(6002.0 + 0.1 * np.arange(60), {"red": slice(0, 60)}, 20_000.0)
    >>> flux, sigma, mask = resampler(batch)
    >>> flux.shape, bool(mask.any())
    ((1, 60), False)
    """

    def __init__(
        self,
        wavelength: np.ndarray,
        arms: Mapping[str, slice],
        resolving_power: float | np.ndarray,
        *,
        at_most: bool = False,
    ) -> None:
        self.wavelength, self.arms = wavelength, arms
        self.resolving_power, self.at_most = resolving_power, at_most
        self.widths = pixel_widths(wavelength, arms)
        self._kept: OrderedDict[bytes, tuple[sparse.csr_array, np.ndarray]] = OrderedDict()

    def __call__(self, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flux, sigma and mask ``(n_spec, n_out)`` by :func:`apply_resampling`."""
        matrix, widths = self._operator(batch)
        return apply_resampling(matrix, (widths, self.widths), batch.flux, batch.sigma, batch.mask)

    def _operator(self, batch: SpectrumBatch) -> tuple[sparse.csr_array, np.ndarray]:
        """The operator and the pixel widths for the grid of the batch."""
        wave, arms = np.ascontiguousarray(batch.wavelength), batch.arms
        power = np.asarray(batch.resolving_power, float)
        digest = hashlib.sha1(wave.tobytes(), usedforsecurity=False)
        digest.update(power.tobytes())
        digest.update(repr([(arm.start, arm.stop) for arm in arms.values()]).encode())
        key = digest.digest()
        if key not in self._kept:
            target = self.resolving_power
            if self.at_most:
                order = np.argsort(wave)  # echelle orders may overlap
                own = np.broadcast_to(power, wave.shape)[order]
                target = np.minimum(target, np.interp(self.wavelength, wave[order], own))
            matrix = resampling_operator(wave, arms, power, self.wavelength, self.arms, target)
            self._kept[key] = matrix, pixel_widths(wave, arms)
            while len(self._kept) > _KEPT_OPERATORS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
