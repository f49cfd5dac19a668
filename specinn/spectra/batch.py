"""SpectrumBatch: the one data type that travels from the reader to the estimator."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import attrs
import numpy as np
from astropy.table import Table, vstack

from specinn.errors import ReadError, SpectrumWarning
from specinn.instruments import Medium
from specinn.spectra.pixels import ABSURD_SNR, constant_runs, hopeless_errors, sentinels
from specinn.wavelengths import is_length, to_angstrom, to_medium

__all__ = ["SpectrumBatch", "as_medium", "snr_per_angstrom", "warn_of_snr"]


@attrs.define(eq=False)
class SpectrumBatch:
    """Spectra that share a wavelength grid.

    Attributes
    ----------
    wavelength : ndarray
        ``(n_pix,)`` float64, Angstrom, increasing within each of ``arms``.
    flux, sigma : ndarray
        ``(n_spec, n_pix)``; sigma is the standard deviation of a pixel in units of flux and NaN throughout a
        spectrum whose noise is not known (the pipeline then measures it).
    mask : ndarray
        ``(n_spec, n_pix)`` bool, True = bad, as in specutils and numpy.ma.
    resolving_power : float, ndarray or None
        lambda / FWHM, a number or ``(n_pix,)``; None where the file does not say.
    medium : {"air", "vacuum"}
        Of the wavelengths.
    meta : astropy.table.Table
        One row per spectrum; readers give ``id`` and ``path``, and ``rv`` (km/s) where the file states the
        velocity of the star in the frame of ``wavelength``; steps add columns.
    arms : mapping of str to slice
        The pieces of ``wavelength`` with a gap between them (arms, stretches of orders), by name.

    Raises
    ------
    ReadError
        Where shapes do not agree.

    Examples
    --------
    Two spectra on three pixels, of which the last one of the second star is not a number:

    >>> from specinn import SpectrumBatch
    >>> batch = SpectrumBatch.from_arrays(
    ...     [6707.0, 6707.1, 6707.2],
    ...     [[1.0, 0.8, 0.9], [0.9, 0.7, float("nan")]],
    ...     ids=["sun", "procyon"],
    ...     resolving_power=20_000.0,
    ... )
    >>> len(batch), batch.wavelength.shape, batch.flux.shape
    (2, (3,), (2, 3))
    >>> batch.mask[1].tolist()
    [False, False, True]
    >>> batch[batch.meta["id"] == "sun"].flux
    array([[1. , 0.8, 0.9]])
    """

    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    resolving_power: float | np.ndarray | None = None
    medium: Medium = "air"
    meta: Table = attrs.field(factory=Table)
    arms: Mapping[str, slice] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        shape = self.flux.shape
        if len(shape) != 2 or self.wavelength.shape != shape[1:]:
            found = f"flux has shape {shape}, wavelength {self.wavelength.shape}"
            raise ReadError(f"{found}: expected (n_spec, n_pix) and (n_pix,)")
        for name in ("sigma", "mask"):
            if getattr(self, name).shape != shape:
                raise ReadError(
                    f"{name} has shape {getattr(self, name).shape}, flux {shape}: they must agree"
                )
        power = np.asarray(self.resolving_power).shape
        if power not in ((), shape[1:]):
            raise ReadError(f"resolving power has shape {power}: expected a number or {shape[1:]}")
        if len(self.meta) != shape[0]:
            raise ReadError(f"meta has {len(self.meta)} rows for {shape[0]} spectra")
        if not self.arms:
            self.arms = {"all": slice(0, shape[1])}

    @classmethod
    def from_arrays(
        cls,
        wavelength: Any,
        flux: Any,
        sigma: Any = None,
        mask: Any = None,
        *,
        ids: Sequence[str] | None = None,
        path: str = "",
        **fields: Any,
    ) -> SpectrumBatch:
        """A batch of arrays as users hold them.

        The masks of masked arrays count, also of sigma and wavelength (those pixels are left out). Masked are
        flux that is not finite, errors that are not positive, errors far above those of their neighbourhood
        (:func:`specinn.spectra.pixels.hopeless_errors`), runs of one value
        (:func:`specinn.spectra.pixels.constant_runs`) and values that stand for nothing
        (:func:`specinn.spectra.pixels.sentinels`).

        Parameters
        ----------
        wavelength : array or Quantity
            ``(n_pix,)`` in Angstrom, or in its own unit; a decreasing one is reversed.
        flux : array or Quantity
            ``(n_spec, n_pix)`` or ``(n_pix,)``.
        sigma : array or Quantity, optional
            Standard deviations of the shape of flux, in its unit or in one that can be converted to it.
        mask : array of bool, optional
            True = bad, of the shape of flux.
        ids : sequence of str, optional
            Names of the spectra; by default those of the file, counted.
        path : str
            The file that they come from.
        **fields
            Those of the batch that have no argument here: ``resolving_power``, ``medium``, ``arms``,
            ``meta``.

        Raises
        ------
        ReadError
            For wavelengths that are not finite, repeat, or go back and forth, for a medium other than air and
            vacuum, and where shapes or units do not agree.
        """
        _check_fields(fields)
        wavelength, flux, sigma, mask = _plain_arrays(wavelength, flux, sigma, mask)
        left_out = np.ma.getmaskarray(wavelength)
        wavelength = np.ma.getdata(wavelength)
        _check_shapes(wavelength, left_out, flux, sigma, mask)
        if left_out.any():
            if fields.get("arms") or isinstance(fields.get("resolving_power"), np.ndarray):
                raise ReadError("masked wavelengths cannot be left out of arms: remove their pixels first")
            keep = ~left_out
            wavelength, flux, sigma, mask = wavelength[keep], flux[:, keep], sigma[:, keep], mask[:, keep]
        if not np.isfinite(wavelength).all():
            raise ReadError(
                f"{np.count_nonzero(~np.isfinite(wavelength))} wavelengths are not finite numbers"
            )
        arms = fields.get("arms") or {"all": slice(0, wavelength.size)}
        if set(arms) == {"all"} and wavelength[0] > wavelength[-1]:
            wavelength = wavelength[::-1].copy()
            flux, sigma, mask = (array[:, ::-1] for array in (flux, sigma, mask))
            if isinstance(fields.get("resolving_power"), np.ndarray):
                fields["resolving_power"] = fields["resolving_power"][::-1]
        _check_wavelengths(wavelength, arms)
        positive = np.isfinite(sigma) & (sigma > 0)
        has_errors = positive.any(axis=1)[:, None]
        sigma = np.where(has_errors, sigma, np.nan)  # errors of zero throughout are errors not known
        mask = mask | ~np.isfinite(flux) | (has_errors & ~positive)
        _mask_unusable(mask, flux, sigma, arms)
        meta = fields.pop("meta", None)
        if meta is None:
            meta = _names(ids, path, len(flux))
        elif len(meta) == len(flux):
            meta = _with_names(meta, ids, path)
        return cls(wavelength, np.ascontiguousarray(flux), np.ascontiguousarray(sigma),
                   np.ascontiguousarray(mask), meta=meta, **fields)  # fmt: skip

    def with_medium(self, medium: str | None) -> SpectrumBatch:
        """The same wavelengths, taken as those in ``medium`` whatever was stated; None changes nothing."""
        if medium is None:
            return self
        meta = self.meta.copy()
        meta["medium_from"] = ["user"] * len(self)
        return attrs.evolve(self, medium=as_medium(medium), meta=meta)

    def __len__(self) -> int:
        return len(self.flux)

    def __getitem__(self, rows: Any) -> SpectrumBatch:
        """The chosen spectra (a slice, a boolean mask or a list of rows) on the same wavelengths."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return attrs.evolve(self, flux=self.flux[rows], sigma=self.sigma[rows], mask=self.mask[rows],
                            meta=self.meta[rows])  # fmt: skip

    def is_like(self, other: SpectrumBatch) -> bool:
        """Whether the two can be one batch: the same pixels, seen alike, with the same notes."""
        powers = self.resolving_power, other.resolving_power
        return (
            self.medium == other.medium
            and dict(self.arms) == dict(other.arms)
            and set(self.meta.colnames) == set(other.meta.colnames)
            and (powers[0] is None) == (powers[1] is None)
            and (powers[0] is None or np.array_equal(*powers))  # type: ignore[arg-type]
            and np.array_equal(self.wavelength, other.wavelength)
        )

    @classmethod
    def concatenate(cls, batches: Sequence[SpectrumBatch]) -> SpectrumBatch:
        """Batches on one wavelength grid as one.

        Raises
        ------
        ReadError
            Where their wavelengths, arms, media or resolving powers differ, or there is none.
        """
        if not batches:
            raise ReadError("there are no batches to join")
        first = batches[0]
        for other in batches[1:]:
            same_r = np.array_equal(np.asarray(other.resolving_power), np.asarray(first.resolving_power))
            if not (np.array_equal(other.wavelength, first.wavelength) and other.arms == first.arms
                    and other.medium == first.medium and same_r):  # fmt: skip
                raise ReadError(
                    "batches of different wavelengths, arms, medium or resolving power cannot be joined"
                )
        flux, sigma, mask = (
            np.concatenate([getattr(b, name) for b in batches]) for name in ("flux", "sigma", "mask")
        )
        meta = vstack([b.meta for b in batches], metadata_conflicts="silent")
        return attrs.evolve(first, flux=flux, sigma=sigma, mask=mask, meta=meta)

    def in_medium(self, medium: Medium) -> SpectrumBatch:
        """The same spectra with wavelengths in air or in vacuum.

        >>> from specinn import SpectrumBatch
        >>> batch = SpectrumBatch.from_arrays([6562.801, 6562.9], [1.0, 0.9], medium="air")
        >>> batch.in_medium("vacuum").wavelength.round(2)
        array([6564.61, 6564.71])
        """
        if medium == self.medium:
            return self
        return attrs.evolve(self, wavelength=to_medium(self.wavelength, self.medium, medium), medium=medium)

    def fill(self) -> np.ndarray:
        """``(n_spec, n_pix)`` flux, masked pixels interpolated linearly over good ones of the arm.

        >>> from specinn import SpectrumBatch
        >>> SpectrumBatch.from_arrays([1.0, 2.0, 3.0], [0.5, 9.9, 0.7], mask=[0, 1, 0]).fill()
        array([[0.5, 0.6, 0.7]])
        """
        flux = self.flux.copy()
        for i in np.flatnonzero(self.mask.any(axis=1)):
            for arm in self.arms.values():
                bad = self.mask[i, arm]
                good = ~bad
                x = self.wavelength[arm]
                row = flux[i, arm]
                row[bad] = np.interp(x[bad], x[good], row[good]) if good.any() else 0.0
        return flux


_FIELDS = ("resolving_power", "medium", "meta", "arms")


def _check_fields(fields: dict[str, Any]) -> None:
    """Raises ``ReadError`` for a field that the batch does not have, or a value that it cannot have."""
    for name in fields:
        if name not in _FIELDS:
            known = ("sigma", "mask", "ids", "path", *_FIELDS)
            raise ReadError(f"{name}: no argument of from_arrays; expected one of {', '.join(known)}")
    if "medium" in fields:
        fields["medium"] = as_medium(fields["medium"])
    power = fields.get("resolving_power")
    if power is not None:
        numbers = _numbers("resolving_power", getattr(power, "value", power))
        if not (numbers >= 1.0).all():
            raise ReadError(f"resolving_power {power}: expected a number above 1, or one for each pixel")
        fields["resolving_power"] = float(numbers) if numbers.ndim == 0 else numbers
    arms = fields.get("arms")
    if arms and not (isinstance(arms, Mapping) and all(isinstance(arm, slice) for arm in arms.values())):
        raise ReadError(f"arms {arms!r}: expected a mapping of names to slices of pixels")
    meta = fields.get("meta")
    if meta is not None and not isinstance(meta, Table):
        raise ReadError(
            f"meta is of type {type(meta).__name__}: expected an astropy Table with a row for each spectrum"
        )


_KINDS = {"c": "complex numbers", "S": "text", "U": "text", "M": "dates", "m": "times"}


def _numbers(name: str, values: Any, kind: str = "numbers") -> np.ndarray:
    """The argument ``name`` as an array of float64, a copy. Raises ``ReadError`` where it is none."""
    array = np.asarray(values)
    if array.dtype.kind in _KINDS:
        raise ReadError(f"{name} is {_KINDS[array.dtype.kind]}: expected an array of {kind}")
    if array.dtype == object and array.ndim == 0:
        inner = array.item()
        found = "None" if inner is None else f"of type {type(inner).__name__}"
        raise ReadError(f"{name} is {found}: expected an array of {kind}")
    try:
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise ReadError(f"{name} has items that are no numbers: expected an array of {kind}") from None


def as_medium(value: Any) -> Medium:
    """``air`` or ``vacuum`` as the user wrote it. Raises ``ReadError`` for anything else."""
    name = str(value).strip().lower()
    if name not in get_args(Medium):
        raise ReadError(f"medium is {value!r}: expected 'air' or 'vacuum'")
    return cast(Medium, name)


def _plain_arrays(
    wavelength: Any, flux: Any, sigma: Any, mask: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Wavelengths in Angstrom (masked where they were), flux, sigma in its unit, the mask of both."""
    unit = getattr(wavelength, "unit", None)  # of a Quantity or a table column
    hidden_wavelength = np.ma.getmaskarray(_unmasked(wavelength)[1])
    values = _numbers("wavelength", _unmasked(wavelength)[0])
    if unit is not None and not is_length(str(unit)):
        raise ReadError(
            f"unknown wavelength unit {str(unit)!r}: expected one of Angstrom, nm, um, m; give frequencies"
            " and energies as wavelengths in vacuum, with medium='vacuum'"
        )
    if unit is not None:
        values = to_angstrom(values, str(unit))
    if hidden_wavelength.any():
        values = np.ma.array(values, mask=hidden_wavelength)
    flux_unit = str(getattr(flux, "unit", None) or "")
    if re.match(r"(mag|dex)\b", flux_unit):
        raise ReadError(f"flux is in {flux_unit}: expected a linear unit, not magnitudes or logarithms")
    numbers, hidden = _unmasked(flux)
    out = np.atleast_2d(_numbers("flux", numbers))
    bad = np.atleast_2d(np.broadcast_to(np.ma.getmaskarray(hidden), np.shape(numbers))).copy()
    if sigma is None:
        error = np.full_like(out, np.nan)
    else:
        numbers, hidden = _unmasked(sigma)
        error = np.atleast_2d(_numbers("sigma", numbers)) * _factor(sigma, flux)
        if error.size == 1 or error.shape == out.shape[1:] or error.shape == (1, out.shape[1]):
            error = np.broadcast_to(error, out.shape).copy()  # one for all pixels, or for all spectra
        if np.ma.getmaskarray(hidden).any() and error.shape == out.shape:
            bad |= np.atleast_2d(np.ma.getmaskarray(hidden))
    if mask is not None:
        filled = np.ma.filled(np.ma.asarray(mask), True)
        stated = np.atleast_2d(_numbers("mask", filled, "True and False") != 0)
        bad = bad | stated if stated.shape == bad.shape else stated
    return values, out, error, bad


def _unmasked(values: Any) -> tuple[np.ndarray, Any]:
    """Plain numbers, and a masked array (or them again) whose mask counts: of numpy's and astropy's kinds."""
    if hasattr(values, "unmasked") and hasattr(values, "mask"):  # astropy.utils.masked
        plain = np.asarray(values.unmasked)
        return plain, np.ma.array(plain, mask=np.asarray(values.mask))
    if np.ma.isMaskedArray(values):
        return np.asarray(values.data), np.ma.array(np.asarray(values.data), mask=np.ma.getmaskarray(values))
    try:
        plain = np.asarray(values)
    except ValueError:
        raise ReadError(
            "rows of different lengths cannot be one array: give each spectrum by itself"
        ) from None
    return plain, values


def _factor(sigma: Any, flux: Any) -> float:
    """What sigma is multiplied by to be in the unit of flux. Raises ``ReadError`` where that is none."""
    ours, theirs = getattr(sigma, "unit", None), getattr(flux, "unit", None)
    if ours is None or theirs is None or ours == theirs:
        return 1.0
    from astropy import units as u

    try:
        return float(u.Unit(ours).to(u.Unit(theirs)))
    except (u.UnitConversionError, ValueError, TypeError):
        raise ReadError(f"sigma is in {ours}, flux in {theirs}: they must be of one kind") from None


def _check_shapes(
    wavelength: np.ndarray, left_out: np.ndarray, flux: np.ndarray, sigma: np.ndarray, mask: np.ndarray
) -> None:
    if wavelength.ndim != 1 or wavelength.size - left_out.sum() < 2:
        raise ReadError(f"wavelength has shape {wavelength.shape}: expected one axis with at least 2 pixels")
    if flux.ndim != 2 or flux.shape[1] != wavelength.size:
        raise ReadError(f"flux has {flux.shape[-1]} pixels, wavelength {wavelength.size}: they must agree")
    if sigma.shape != flux.shape or mask.shape != flux.shape:
        raise ReadError(f"sigma {sigma.shape} and mask {mask.shape} must have the shape of flux {flux.shape}")


def _mask_unusable(mask: np.ndarray, flux: np.ndarray, sigma: np.ndarray, arms: Mapping[str, slice]) -> None:
    """Mask, in place, runs of one value and pixels whose errors say that they were not measured."""
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest that there are
        for arm in arms.values():
            mask[:, arm] |= constant_runs(flux[:, arm], mask[:, arm])
            mask[:, arm] |= sentinels(flux[:, arm], mask[:, arm])
        mask |= hopeless_errors(flux, sigma, mask)


def _with_names(meta: Table, ids: Sequence[str] | None, path: str) -> Table:
    """``meta`` with the columns ``id`` and ``path`` where it lacks them."""
    names = _names(ids, path, len(meta))
    absent = [name for name in names.colnames if name not in meta.colnames]
    if absent:
        meta = meta.copy()
        for name in absent:
            meta[name] = names[name]
    return meta


def _names(ids: Sequence[str] | None, path: str, n: int) -> Table:
    """The columns ``id`` and ``path`` of ``n`` spectra."""
    ids = [ids] if isinstance(ids, str) else ids
    if ids is not None and len(ids) != n:
        raise ReadError(f"{len(ids)} ids for {n} spectra")
    if ids is None:
        ids = [path if n == 1 else f"{path}#{i}" for i in range(n)]
    return Table({"id": list(ids), "path": [path] * n})


def _check_wavelengths(wavelength: np.ndarray, arms: Mapping[str, slice]) -> None:
    if wavelength.min() <= 0:
        raise ReadError(f"the wavelength {wavelength.min():g} Angstrom is not positive")
    for arm in arms.values():
        step = np.diff(wavelength[arm])
        if (step <= 0).any():
            at = wavelength[arm][int(np.argmax(step <= 0))]
            raise ReadError(
                f"{np.count_nonzero(step <= 0)} wavelengths do not increase (the first after {at:.4f} "
                "Angstrom): sort the file and remove duplicates"
            )


def warn_of_snr(batch: SpectrumBatch) -> None:
    """A ``SpectrumWarning`` where flux over sigma, ``ABSURD_SNR`` and more, says that they do not belong
    together."""
    flux, sigma = batch.flux, batch.sigma
    good = ~batch.mask & (sigma > 0)
    every = max(1, flux.shape[1] // 4096)  # of some thousand pixels
    for row in np.flatnonzero(good.any(axis=1)):
        chosen = good[row, ::every]
        snr = np.abs(flux[row, ::every][chosen]) / sigma[row, ::every][chosen]
        if snr.size and float(np.median(snr)) > ABSURD_SNR:
            warnings.warn(
                SpectrumWarning(
                    f"the S/N is {float(np.median(snr)):.1g} a pixel: flux and errors are probably not of "
                    "one kind"
                ),
                stacklevel=2,
            )
            return


def snr_per_angstrom(batch: SpectrumBatch, window: np.ndarray | slice) -> np.ndarray:
    """Median S/N per Angstrom, flux / (sigma sqrt(pixel width)), over the good pixels of a window.

    Parameters
    ----------
    batch : SpectrumBatch
        The spectra, with sigma.
    window : ndarray of bool or slice
        The pixels to look at, ``(n_pix,)``.

    Returns
    -------
    ndarray
        ``(n_spec,)``; 0 for spectra without a good pixel in the window.

    Examples
    --------
    An S/N of 100 in pixels of a quarter of an Angstrom is one of 200 per Angstrom:

    >>> import numpy as np
    >>> from specinn.spectra import SpectrumBatch, snr_per_angstrom
    >>> wavelength = 5000.0 + 0.25 * np.arange(5)
    >>> batch = SpectrumBatch.from_arrays(wavelength, [1.0, 0.9, 1.0, 0.9, 1.0], np.full(5, 0.01))
    >>> snr_per_angstrom(batch, slice(None))
    array([200.])
    """
    width = np.gradient(batch.wavelength)[window]
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = batch.flux[:, window] / (batch.sigma[:, window] * np.sqrt(np.abs(width)))
    snr[batch.mask[:, window] | ~np.isfinite(snr)] = np.nan
    out = np.zeros(len(batch))
    some = np.isfinite(snr).any(axis=1)
    if some.any():
        out[some] = np.nanmedian(snr[some], axis=1)
    return out.clip(min=0.0)
