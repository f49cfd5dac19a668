"""specinn for scripts and notebooks: the same path and the same defaults as the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import QTable, Table

from specinn import catalogue, models
from specinn.errors import ReadError
from specinn.instruments import Medium
from specinn.pipeline import Result
from specinn.plugins import Plugins
from specinn.posterior import Posterior
from specinn.readers import read as read_batches
from specinn.run import DEFAULT_INSTRUMENT, Source, file_sources, prepare, unread
from specinn.spectra import SpectrumBatch

if TYPE_CHECKING:
    from specinn.interfaces import Correction, Estimator


@attrs.frozen(eq=False)
class Inference:
    """What :func:`infer` found.

    ``catalogue``: one row a spectrum with units, the columns of ``specinn run``. ``posterior``: the samples
    of all spectra in the same order; those without a result hold NaN, none of them accepted.
    """

    catalogue: QTable
    posterior: Posterior

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """The catalogue as a file (.fits, .ecsv, .parquet, .h5). Raises ``OutputError``."""
        catalogue.write(Table(self.catalogue), path, overwrite=overwrite)


def infer(
    spectra: Any,
    *,
    instrument: str = DEFAULT_INSTRUMENT,
    model: str | Path | Estimator | None = None,
    rv: Any = None,
    samples: int = 4096,
    seed: int = 0,
    device: str = "cpu",
    resolving_power: float | None = None,
    medium: Medium | None = None,
    degrade_snr: float | None = None,
    synthetic: bool = False,
    corrections: Sequence[str | Path | Correction] = (),
    format: str = "auto",
    plugins: Plugins | None = None,
) -> Inference:
    """Stellar parameters and abundances of spectra, as posterior distributions.

    Parameters
    ----------
    spectra : a ``specutils.Spectrum`` (or ``Spectrum1D``), a ``SpectrumCollection``, a
        :class:`~specinn.spectra.SpectrumBatch`, the path of a file, or a list of any of these.
    instrument : its resolving power holds for spectra that do not state theirs.
    model : name or path of a trained model, or a loaded one (:func:`load_model`).
    rv : radial velocity in km/s for all, ``"auto"`` to measure it always, or a table (path or mapping) by
        id; None takes what the spectra state and measures the rest.
    resolving_power : of the spectra, where it is not what they or the instrument say.
    medium : ``"air"`` or ``"vacuum"`` wavelengths of specutils objects; the instrument's by default. Axes of
        frequency or energy are taken as vacuum.
    degrade_snr : add noise down to this S/N per Angstrom.
    synthetic : the spectra were computed with the physics of the model's grid, so that no errors of the
        physics need to be allowed for.
    corrections : files of corrections, or loaded ones, in the order to apply them.
    format : of files; recognised from their content by default.

    Raises a ``SpecinnError``: ``ReadError`` where not a single spectrum could be read; otherwise spectra that
    fail have a flag and a message in the catalogue.
    """
    plugins = Plugins() if plugins is None else plugins
    run = prepare(
        plugins,
        instrument=instrument,
        model=model,
        device=device,
        samples=samples,
        seed=seed,
        rv=rv,
        resolving_power=resolving_power,
        degrade_snr=degrade_snr,
        synthetic=synthetic,
        corrections=corrections,
        keep_samples=True,
    )
    assert run.pipeline.instrument is not None
    sources = list(_sources(spectra, medium or run.pipeline.instrument.medium, plugins, format))
    if not sources:
        raise ReadError("there are no spectra to infer: the list is empty")
    results: list[Result] = []
    table = run.catalogue(sources, keep=results.append)
    if unread(table).all():
        raise ReadError(str(table["message"][0]))
    posterior = Result.join(results).posterior
    assert posterior is not None
    return Inference(QTable(table), posterior)


def load_model(
    name: str | Path | None = None, device: str = "cpu", plugins: Plugins | None = None
) -> Estimator:
    """A trained model by name or path; by default the one that ships with specinn. Raises ``ModelError``."""
    plugins = Plugins() if plugins is None else plugins
    return models.load(plugins, models.find(plugins, name), device)


def read(path: str | Path, format: str = "auto", plugins: Plugins | None = None) -> list[SpectrumBatch]:
    """The spectra of a file, those on one wavelength grid as one batch. Raises ``ReadError``."""
    batches = read_batches(Path(path), Plugins() if plugins is None else plugins, format)
    return list(_merge(batches))


def _sources(spectra: Any, medium: Medium, plugins: Plugins, format: str) -> Iterator[Source]:
    """Sources of whatever the user holds; neighbours on one wavelength grid travel as one batch."""
    if isinstance(spectra, (str, Path, SpectrumBatch)) or hasattr(spectra, "spectral_axis"):
        spectra = [spectra]
    if not isinstance(spectra, Iterable):
        raise ReadError(f"expected spectra or file names, found {type(spectra).__name__}")
    items = list(spectra)
    files = [item for item in items if isinstance(item, (str, Path))]
    if len(files) == len(items):
        yield from file_sources(files, plugins, format)
        return
    if files:
        raise ReadError("file names and spectra in one list: call infer once for each")
    batches: list[SpectrumBatch] = []
    for i, item in enumerate(items):
        for j, member in enumerate(members := _members(item)):
            name = f"spectrum-{i}" if len(members) == 1 else f"spectrum-{i}#{j}"
            batches.append(member if isinstance(member, SpectrumBatch) else to_batch(member, medium, name))
    first = 0
    for batch in _merge(batches):
        yield Source(str(batch.meta["id"][0]), lambda batch=batch: [batch], first)  # type: ignore[misc]
        first += len(batch)


def _members(item: Any) -> list[Any]:
    """Members of a ``SpectrumCollection``, whose wavelength grids may differ, or of a list in the list."""
    axis = getattr(item, "spectral_axis", None)
    if isinstance(item, (list, tuple)) or (axis is not None and axis.ndim > 1):
        return list(item)
    return [item]


def to_batch(spectrum: Any, medium: Medium = "air", name: str = "spectrum") -> SpectrumBatch:
    """A specutils ``Spectrum``, ``Spectrum1D``, or ``SpectrumCollection`` with one spectral axis, as a batch.

    The last axis of ``flux (..., n_pix)``, or the one that specutils names, is the spectral one; the others
    are counted through. The spectral axis may be in any unit of length, frequency or energy; uncertainties
    may be standard deviations, variances or inverse variances. A radial velocity other than zero on the
    spectral axis is taken as the star's. Raises ``ReadError``.
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
    if not axis.unit.is_equivalent(u.AA):
        medium = "vacuum"
    if isinstance(spectrum.flux, u.LogQuantity) or spectrum.flux.unit.is_equivalent(u.mag):
        raise ReadError(f"the flux is in {spectrum.flux.unit}: expected a linear unit, not magnitudes")
    along = getattr(spectrum, "spectral_axis_index", None)
    along = -1 if along is None else along

    def rows(values: Any) -> np.ndarray:
        array = np.moveaxis(np.asarray(values), along, -1)
        return array.reshape(-1, array.shape[-1])

    flux = rows(spectrum.flux.value)
    ids = _ids(spectrum, name, len(flux))
    batch = SpectrumBatch.from_arrays(
        wavelength,
        flux,
        _sigma(spectrum, rows),
        None if spectrum.mask is None else rows(spectrum.mask) != 0,
        ids=ids,
        medium=medium,
    )
    batch.meta["rv"] = np.full(len(batch), _velocity(spectrum))
    return batch


def _ids(spectrum: Any, name: str, n: int) -> list[str]:
    """The object's name where the metadata have it, counted where there are several spectra."""
    meta = getattr(spectrum, "meta", None) or {}
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


def _velocity(spectrum: Any) -> float:
    """The star's velocity in km/s where the spectrum states one, else NaN."""
    velocity = getattr(spectrum, "radial_velocity", None)
    if velocity is None:
        return np.nan
    value = float(np.ravel(velocity.to_value("km/s"))[0])
    return value if value != 0 and np.isfinite(value) else np.nan


def _merge(batches: Iterable[SpectrumBatch]) -> Iterator[SpectrumBatch]:
    """Neighbours on one wavelength grid as one batch; the order stays."""
    waiting: list[SpectrumBatch] = []
    for batch in batches:
        if waiting and not waiting[-1].is_like(batch):
            yield SpectrumBatch.concatenate(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield SpectrumBatch.concatenate(waiting)
