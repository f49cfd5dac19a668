"""To and from specutils: its objects as batches, batches as its objects, our readers in its registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.errors import ReadError
from specinn.instruments import Medium
from specinn.spectra import SpectrumBatch
from specinn.spectra.batch import as_medium

if TYPE_CHECKING:
    from specutils import Spectrum, SpectrumList

    from specinn.plugins import Plugins

__all__ = ["make_spectrum", "register_loaders", "to_batch", "to_spectra"]


def to_batch(
    spectrum: Any, medium: Medium | None = None, name: str = "spectrum", *, otherwise: Medium = "air"
) -> SpectrumBatch:
    """A specutils ``Spectrum``, ``Spectrum1D``, or ``SpectrumCollection`` with one spectral axis, as a batch.

    The last axis of ``flux (..., n_pix)``, or the one that specutils names, is the spectral one; the others
    are counted through. The spectral axis may be in any unit of length, frequency or energy; uncertainties
    may be standard deviations, variances or inverse variances. A radial velocity other than zero on the
    spectral axis is taken as the star's. Wavelengths are in ``medium``; where that is None, in the one that
    ``meta["medium"]`` names, else ``otherwise``; frequencies and energies are those in vacuum. What
    :func:`to_spectra` noted in ``meta`` comes back. Raises ``ReadError``.
    """
    if not (hasattr(spectrum, "spectral_axis") and hasattr(spectrum, "flux")):
        raise ReadError(f"expected a specutils Spectrum, found {type(spectrum).__name__}")
    from astropy import units as u

    axis = u.Quantity(spectrum.spectral_axis)
    try:
        wavelength = axis.to_value(u.AA, equivalencies=u.spectral())
    except u.UnitConversionError:
        raise ReadError(
            f"the spectral axis is in {axis.unit}: expected a wavelength, frequency or energy"
        ) from None
    meta = spectrum.meta if isinstance(spectrum.meta, Mapping) else {}
    source = "user"
    if not axis.unit.is_equivalent(u.AA):
        medium, source = "vacuum", f"the axis in {axis.unit}"
    elif medium is not None:
        medium = as_medium(medium)
    elif meta.get("medium") is not None and str(meta["medium"]).strip():
        medium, source = as_medium(meta["medium"]), 'meta["medium"]'
    else:
        medium, source = as_medium(otherwise), "assumed"
    if isinstance(spectrum.flux, u.LogQuantity) or spectrum.flux.unit.is_equivalent(u.mag):
        raise ReadError(f"the flux is in {spectrum.flux.unit}: expected a linear unit, not magnitudes")
    along = getattr(spectrum, "spectral_axis_index", None)
    along = -1 if along is None else along

    def rows(values: Any) -> np.ndarray:
        array = np.moveaxis(np.asarray(values), along, -1)
        return array.reshape(-1, array.shape[-1])

    flux = rows(spectrum.flux.value)
    batch = SpectrumBatch.from_arrays(
        wavelength,
        flux,
        _sigma(spectrum, rows),
        None if spectrum.mask is None else rows(spectrum.mask) != 0,
        ids=_ids(meta, name, len(flux)),
        path=str(meta.get("path") or ""),
        medium=medium,
        resolving_power=_resolving_power(meta, wavelength.size),
        arms=_arms(meta, wavelength.size),
    )
    batch.meta["medium_from"] = [source] * len(batch)
    batch.meta["rv"] = np.full(len(batch), _velocity(spectrum, meta))
    return batch


def _ids(meta: Mapping[str, Any], name: str, n: int) -> list[str]:
    """The object's name where the metadata have it, counted where there are several spectra."""
    for source in (meta, meta.get("header") or {}):
        names = [str(source.get(key) or "").strip() for key in ("id", "ID", "OBJECT")]
        if any(names):
            name = next(filter(None, names))
            break
    return [name] if n == 1 else [f"{name}#{i}" for i in range(n)]


def _sigma(spectrum: Any, rows: Any) -> np.ndarray | None:
    """Standard deviations in the unit of the flux; None where the spectrum has none that we understand."""
    uncertainty = spectrum.uncertainty
    if uncertainty is None:
        return None
    unit = spectrum.flux.unit
    given = np.asarray(uncertainty.array, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        if uncertainty.uncertainty_type == "std":
            scale, sigma = uncertainty.unit, given
        elif uncertainty.uncertainty_type == "var":
            scale, sigma = _root(uncertainty.unit, 0.5), np.sqrt(given)
        elif uncertainty.uncertainty_type == "ivar":
            scale, sigma = _root(uncertainty.unit, -0.5), 1.0 / np.sqrt(given)  # ivar 0 gives inf: masked
        else:
            return None
    return rows(sigma * (1.0 if scale is None else scale.to(unit)))


def _root(unit: Any, power: float) -> Any:
    return None if unit is None else unit**power


def _velocity(spectrum: Any, meta: Mapping[str, Any]) -> float:
    """The star's velocity in km/s where the spectrum states one, else NaN.

    A velocity of zero is what specutils has for an unknown one, unless ``meta["rv"]`` is zero, too.
    """
    velocity = getattr(spectrum, "radial_velocity", None)
    if velocity is None:
        return np.nan
    value = float(np.ravel(velocity.to_value("km/s"))[0])
    return value if np.isfinite(value) and (value != 0 or meta.get("rv") == 0) else np.nan


def _resolving_power(meta: Mapping[str, Any], n_pix: int) -> float | np.ndarray | None:
    given = meta.get("resolving_power")
    if given is None:
        return None
    power = np.asarray(given, dtype=float)
    if power.shape not in ((), (n_pix,)) or not (power > 1).all():
        raise ReadError(
            f"meta['resolving_power'] of a spectrum has shape {power.shape}: expected a number above 1, or "
            f"one for each of its {n_pix} pixels"
        )
    return float(power) if power.ndim == 0 else power


def _arms(meta: Mapping[str, Any], n_pix: int) -> dict[str, slice]:
    """The pieces that :func:`to_spectra` noted; none of a spectrum that was cut since."""
    arms = meta.get("arms")
    if not isinstance(arms, Mapping) or max((stop for _, stop in arms.values()), default=0) != n_pix:
        return {}
    return {str(name): slice(*ends) for name, ends in arms.items()}


def to_spectra(batch: SpectrumBatch) -> SpectrumList:
    """A specutils ``Spectrum`` for each spectrum; for each arm of it where their wavelengths overlap.

    Wavelengths in Angstrom, flux without a unit (as a batch has it), standard deviations where they are
    known, mask True = bad. The star's velocity, where it is known, is that of the spectral axis. ``meta`` has
    ``medium``, ``resolving_power`` (None: not known), ``arm`` or ``arms`` (name to first pixel and last plus
    one) where there are any, and the row of ``batch.meta``: ``id``, ``path``, ``rv`` in km/s, ...
    """
    from specutils import SpectrumList

    whole = {"": slice(0, batch.wavelength.size)}
    apart = bool((np.diff(batch.wavelength) <= 0).any())
    out = SpectrumList()
    for i in range(len(batch)):
        row = _plain(batch.meta[i])
        for arm, pixels in (batch.arms if apart else whole).items():
            power = batch.resolving_power
            meta = {**row, "medium": batch.medium,
                    "resolving_power": power[pixels] if isinstance(power, np.ndarray) else power}  # fmt: skip
            if apart:
                meta["arm"] = arm
            elif len(batch.arms) > 1:
                meta["arms"] = {name: (each.start, each.stop) for name, each in batch.arms.items()}
            flux, sigma, mask = (values[i, pixels] for values in (batch.flux, batch.sigma, batch.mask))
            known = sigma if np.isfinite(sigma).any() else None
            out.append(make_spectrum(batch.wavelength[pixels], flux, known, mask, row.get("rv", 0.0), meta))
    return out


def make_spectrum(
    wavelength: np.ndarray,
    flux: np.ndarray,
    sigma: np.ndarray | None,
    mask: np.ndarray | None,
    rv: float,
    meta: Mapping[str, Any],
) -> Spectrum:
    """A specutils ``Spectrum`` of ``flux (..., n_pix)`` at ``wavelength (n_pix,)`` Angstrom, of a star that
    moves at ``rv`` km/s in their frame; without a mask, what is not finite is bad."""
    from astropy import units as u
    from astropy.nddata import StdDevUncertainty
    from specutils import Spectrum

    return Spectrum(
        flux=flux * u.dimensionless_unscaled,
        spectral_axis=wavelength * u.AA,
        uncertainty=None if sigma is None else StdDevUncertainty(sigma),
        mask=~np.isfinite(flux) if mask is None else mask,
        radial_velocity=rv * u.km / u.s,
        meta=dict(meta),
    )


def _plain(row: Any) -> dict[str, Any]:
    """A row of a table as Python's own values, without what is not known."""
    out = {}
    for name in row.colnames:
        if row[name] is not np.ma.masked:
            value = row[name].tolist() if hasattr(row[name], "tolist") else row[name]
            if not (isinstance(value, float) and np.isnan(value)):
                out[name] = value
    return out


def register_loaders(plugins: Plugins | None = None) -> list[str]:
    """Make our readers known to specutils, as formats of ``Spectrum.read`` and ``SpectrumList.read``.

    ``format="specinn"`` recognises the file by its content, ``"specinn-NAME"`` is one reader, such as
    ``"specinn-4most"``. Files of several spectra, or of orders that overlap, are for
    ``SpectrumList.read``. specutils never chooses them of itself: what it reads without ``format`` stays what
    it is. May be called again, such as for another set of plugins. What is read is that of
    :func:`to_spectra`; a file that cannot be read is a ``ReadError``.

    Parameters
    ----------
    plugins : Plugins, optional
        Those whose readers to register; by default all that are installed.

    Returns
    -------
    list of str
        The names of the formats.

    Examples
    --------
    >>> import specinn
    >>> from specutils import Spectrum
    >>> "specinn-4most" in specinn.register_loaders()
    True
    >>> spectrum = Spectrum.read(specinn.example_files()[0], format="specinn")
    >>> spectrum.spectral_axis.unit, spectrum.meta["medium"]
    (Unit("Angstrom"), 'air')
    """
    from specutils import Spectrum, SpectrumList
    from specutils.io.registers import data_loader

    from specinn.plugins import Plugins

    plugins = Plugins() if plugins is None else plugins
    names = {"specinn": "auto"}
    names |= {f"specinn-{offer.record.name}": offer.record.name for offer in plugins.offers("reader")}
    for label, reader in names.items():

        def several(file: Any, reader: str = reader, **_: Any) -> SpectrumList:
            return SpectrumList(spectrum for batch in _batches(file, plugins, reader)
                                for spectrum in to_spectra(batch))  # fmt: skip

        def one(file: Any, reader: str = reader, **_: Any) -> Spectrum:
            found = [to_spectra(batch) for batch in _batches(file, plugins, reader)]
            if len(found) == len(found[0]) == 1:
                return found[0][0]
            what = "orders that overlap" if "arm" in found[0][0].meta else "spectra"
            raise ReadError(
                f"{file}: holds {sum(map(len, found))} {what}: read it by SpectrumList.read, which gives "
                "each, or give the file to specinn.infer"
            )

        for kind, load in ((Spectrum, one), (SpectrumList, several)):
            data_loader(label, identifier=_never, dtype=kind, force=True, autogenerate_spectrumlist=False)(
                load
            )
    return list(names)


def _batches(file: Any, plugins: Plugins, reader: str) -> list[SpectrumBatch]:
    from specinn.spectra.readers import read

    if not isinstance(file, (str, Path)):
        raise ReadError(f"expected the path of a file, found {type(file).__name__}")
    return list(read(file, plugins, reader))


def _never(*_: Any, **__: Any) -> bool:
    return False
