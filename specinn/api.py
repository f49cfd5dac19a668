"""specinn for scripts and notebooks: the same path and the same defaults as the command line.

:func:`infer` is what most scripts call; its :class:`Inference` holds the catalogue and the posterior, and
leads back to the spectra.
"""

from __future__ import annotations

import functools
import itertools
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np
from astropy.table import QTable, Table

from specinn import catalogue, models
from specinn.catalogue.result import Result
from specinn.errors import ConfigError, ModelError, ReadError, SpecinnError, as_arguments, in_python
from specinn.flags import is_bad
from specinn.inference.options import (
    DEFAULT_INSTRUMENT,
    RunOptions,
    as_format,
    file_name,
    number,
    plugins_or_all,
    yes_or_no,
)
from specinn.inference.run import (
    Run,
    prepare,
    unmatched,
    unmatched_message,
    unread,
    unused_message,
)
from specinn.inference.sources import (
    Source,
    check_items,
    expand,
    failed_source,
    from_table,
    group,
    item_sources,
    unused_columns,
    with_stated,
)
from specinn.instruments import Frame, Medium
from specinn.plugins import Plugins
from specinn.posterior import Posterior
from specinn.posterior.display import Small, catalogue_table
from specinn.resimulation.result import LEVELS, Resimulation
from specinn.resimulation.simulator import DRAWS, Simulator
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import read as read_batches
from specinn.spectra.specutils import make_spectrum, to_batch
from specinn.texts import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from specutils import SpectrumList

    from specinn.plugins.interfaces import Correction, Estimator

__all__ = ["Inference", "infer", "load_model", "read"]


@attrs.frozen(eq=False)
class _Origin:
    """What the results were made from, so that a spectrum can be found again: the run, the sources, the
    ``key`` of every row, and the catalogue as it was made, whatever the user does to a copy of it."""

    run: Run
    plugins: Plugins
    sources: Sequence[Source]
    keys: np.ndarray
    table: Table

    def spectrum(self, row: int) -> SpectrumBatch:
        """The spectrum of a row as it was read, from its file where it has one. Raises ``ReadError``."""
        key = self.keys[row]
        source = max((s for s in self.sources if s.first_key <= key), key=lambda s: s.first_key)
        for piece in self.run.pieces([source]):
            if piece.batch is None:
                raise ReadError(piece.message)
            index = np.flatnonzero(piece.batch.meta["key"] == key)
            if index.size:
                return piece.batch[index]
        raise ReadError(f"{self.table['id'][row]} is no longer in {source.name}")


@attrs.frozen(eq=False, repr=False)
class Inference:
    """The results of :func:`infer`. Methods on one star take its number, from 0, or its id.

    Attributes
    ----------
    catalogue : astropy.table.QTable
        One row per spectrum with units: the columns of ``specinn run``.
    posterior : Posterior
        The samples of all spectra in the same order; those without a result hold NaN, none of them accepted.
    informed : Posterior or None
        With a prior, the samples that outside knowledge leaves, likewise; NaN for stars without any.

    Examples
    --------
    >>> import specinn
    >>> result = specinn.infer(specinn.example_files()[0], samples=512)
    >>> print(result)
    Inference by 4most-hr: 1 spectra, ...
    >>> print(result.posterior)
    Posterior of dwarf-g: ... of 512 samples accepted
    label   unit     MAP  median       16 to 84 %
    teff    K       5...
    >>> result.catalogue["teff"].unit
    Unit("K")
    >>> result.posterior.accepted("dwarf-g", ["teff", "logg"]).shape[1]
    2
    """

    catalogue: QTable
    posterior: Posterior
    informed: Posterior | None = None
    _origin: _Origin | None = None
    _models: dict[str, Simulator] = attrs.field(factory=dict, init=False)
    _last: dict[tuple[int, str], tuple[int, bool, Resimulation]] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.posterior)

    def __reduce__(self) -> tuple[Any, ...]:
        """What is copied or sent to another process: the results, without the sources of the spectra."""
        return Inference, (self.catalogue, self.posterior, self.informed)

    def __repr__(self) -> str:
        return self._small().text()

    def _repr_html_(self) -> str:
        return self._small().html()

    def _small(self) -> Small:
        model = str(self.catalogue.meta.get("model", ""))
        table = Table(self.catalogue) if self._origin is None else self._origin.table
        return catalogue_table(table, f"Inference by {model}" if model else "Inference")

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the catalogue to a file.

        Parameters
        ----------
        path : str or Path
            File name, whose suffix names the format: .fits, .ecsv, .vot, .csv, .parquet or .h5.
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        OutputError
            If the file exists already, or cannot be written.
        """
        catalogue.write(Table(self.catalogue), file_name("path", path), overwrite=overwrite)

    def spectrum(
        self,
        star: int | str = 0,
        what: Literal["model", "observed", "bands"] = "model",
        *,
        synthesizer: str = "emulator",
        draws: int = DRAWS,
    ) -> SpectrumList:
        """A spectrum of one star as a ``specutils.SpectrumList``, a ``Spectrum`` for each arm of the model.

        Parameters
        ----------
        star : int or str
            Its number, from 0, or its id.
        what : {"model", "observed", "bands"}
            The model spectrum at the MAP; the spectrum as the network receives it, with errors; or 68 and 95
            per cent of the model spectra of posterior samples, flux ``(4, n_pix)`` at the quantiles that
            ``meta["levels"]`` names.
        synthesizer : str
            Name of the plugin that computes model spectra.
        draws : int
            Posterior samples that make the bands.

        Returns
        -------
        specutils.SpectrumList
            On the pixels and at the resolving power of the model, at rest, in Angstrom, flux ``(n_pix,)``
            over the pseudo-continuum (docs/resimulate.md); masked pixels are NaN. ``meta`` says ``id``,
            ``arm``, ``medium``, ``rv`` (0: at rest), ``rv_removed`` (km/s), and for the model ``labels`` and
            a ``note`` if something is noteworthy.

        Raises
        ------
        ModelError
            For a star without inferred values.
        ReadError
            If its file, which is read again, is missing.
        ConfigError
            For another ``what``, and for a star that does not exist.
        """
        if what not in ("model", "observed", "bands"):
            raise ConfigError(f"what {what!r}: expected 'model', 'observed' or 'bands'")
        draws = _draws(draws)
        if what == "bands" and draws < 1:
            raise ConfigError(f"draws {draws}: bands need some, {DRAWS} are usual")
        resimulated = self.resimulate(star, synthesizer=synthesizer, draws=draws if what == "bands" else 0)
        return _arms(resimulated, what, float(self._begun.table["rv"][resimulated.row]))

    def plot(
        self,
        star: int | str = 0,
        *,
        lines: bool = False,
        synthesizer: str = "emulator",
        draws: int = DRAWS,
    ) -> Figure:
        """The observed spectrum of one star with the model spectrum and its bands, and their difference
        below.

        Parameters
        ----------
        star : int or str
            Its number, from 0, or its id.
        lines : bool
            Show windows around lines of every element instead of whole arms.
        synthesizer, draws
            As in :meth:`spectrum`.

        Returns
        -------
        matplotlib.figure.Figure
            It shows itself in a notebook and has ``savefig``.

        Raises
        ------
        ModelError, ReadError, ConfigError
            As :meth:`spectrum` does.
        """
        from specinn import plotting
        from specinn.resimulation import figures

        resimulated = self._resimulate(star, synthesizer, draws, True)
        with plotting.style():
            return (figures.lines if lines else figures.whole)(resimulated)

    def resimulate(
        self,
        star: int | str = 0,
        *,
        synthesizer: str = "emulator",
        draws: int = DRAWS,
    ) -> Resimulation:
        """What :meth:`spectrum` and :meth:`plot` show, as arrays, and how well the two agree (``numbers()``).

        Parameters
        ----------
        star : int or str
            Its number, from 0, or its id.
        synthesizer, draws
            As in :meth:`spectrum`; with 0 draws there may be no bands.

        Returns
        -------
        Resimulation
            The last one is kept, so that a second call costs nothing.

        Raises
        ------
        ModelError, ReadError, ConfigError
            As :meth:`spectrum` does.
        """
        return self._resimulate(star, synthesizer, draws, False)

    def _resimulate(self, star: int | str, synthesizer: str, draws: int, respond: bool) -> Resimulation:
        """``respond``: with the change of the flux by element, by which windows around lines are chosen."""
        draws = _draws(draws)
        if not isinstance(synthesizer, str):
            raise ConfigError(f"synthesizer {synthesizer!r}: expected the name of one")
        begun, row = self._begun, self.posterior.row(star)
        respond = respond or draws > 0  # the response then costs little
        kept = self._last.get((row, synthesizer))
        if kept is None or draws not in (0, kept[0]) or respond > kept[1]:
            if is_bad(begun.table["flags"][row]):  # then its file need not be read
                why = str(begun.table["message"][row])
                raise ModelError(f"{self.posterior.name(row)} has no values, so no model spectrum: {why}")
            if synthesizer not in self._models:
                self._models[synthesizer] = Simulator(
                    begun.run, begun.table, begun.plugins, synthesizer=synthesizer, samples=self.posterior
                )
            simulator = self._models[synthesizer]
            resimulated = simulator.star(begun.spectrum(row), row, draws=draws, respond=respond)
            self._last.clear()
            kept = self._last[row, synthesizer] = (draws, respond, resimulated)
        return kept[2]

    @property
    def _begun(self) -> _Origin:
        if self._origin is None:
            raise ConfigError("these results are not linked to their spectra: run specinn.infer again")
        return self._origin


def infer(
    spectra: Any,
    *,
    instrument: str | Path = DEFAULT_INSTRUMENT,
    model: str | Path | Estimator | None = None,
    rv: Any = None,
    samples: int = 4096,
    seed: int = 0,
    device: str = "cpu",
    resolving_power: Any = None,
    medium: Medium | None = None,
    frame: Frame | None = None,
    degrade_snr: float | None = None,
    synthetic: bool = False,
    check: Sequence[str] = (),
    prior: Any = None,
    prior_radius: Any = 1.0,
    corrections: Sequence[str | Path | Correction] = (),
    format: str = "auto",
    recursive: bool = False,
    group_by: str | None = None,
    plugins: Plugins | None = None,
) -> Inference:
    """Stellar parameters and abundances of spectra, as posterior distributions.

    Parameters
    ----------
    spectra : str, Path, Spectrum, SpectrumCollection, SpectrumBatch, table, or list of these
        Files, ``"@FILE"`` for a list or a table of files, such a table (astropy or pandas, with a column
        ``path``), specutils objects, or :class:`~specinn.spectra.SpectrumBatch`.
    instrument : str or Path
        A name or a TOML file; its resolving power holds for spectra that do not state theirs.
    model : str, Path or Estimator, optional
        Name or path of a trained model, or a loaded one (:func:`load_model`).
    rv : float, Quantity, array, list, table, path, mapping or "auto", optional
        Radial velocity in km/s, or with a unit: one for all, or one for each spectrum or file (NaN:
        measured), or a table by id (a path, a mapping, astropy, pandas). ``"auto"`` measures it always;
        None takes what the spectra state and measures the rest.
    samples : int
        Posterior samples of each spectrum.
    seed : int
        Seed of the random numbers; the same seed gives the same samples.
    device : str
        Torch device of the network: ``cpu``, ``cuda`` or ``cuda:N``.
    resolving_power : float or array, optional
        Of the spectra, overriding them and the instrument: one for all, one for each spectrum or file, or one
        for each pixel ``(n_pix,)``.
    medium : {"air", "vacuum"}, optional
        Of the wavelengths, overriding the spectra; by default as they state, and for specutils objects that
        state none, as the instrument does. Axes of frequency or energy are taken as vacuum.
    frame : {"barycentric", "heliocentric", "topocentric", "rest"}, optional
        Of the wavelengths, overriding the spectra.
    degrade_snr : float, optional
        Add noise down to this S/N per Angstrom.
    synthetic : bool
        The spectra were computed with the physics of the model's grid, so that no allowance for errors of the
        physics is needed.
    check : {"arms", "model"} or list of these
        ``"arms"``: whether the arms give the same values separately; ``"model"``: whether the model spectrum
        of the values fits. Each adds a column and a flag.
    prior : str, Path or table, optional
        What is known of the stars (docs/prior.md), in a file or a table of astropy or pandas: by ``id``,
        ``path`` or position, any label and its standard error (``teff``, ``teff_err``), or a parallax and a
        magnitude. It adds the columns ``<label>_informed`` and the posterior ``informed``.
    prior_radius : float or Quantity
        Within which positions of spectra and of that table match, arcsec.
    corrections : sequence of str, Path or Correction
        Files of corrections, or loaded ones, in the order to apply them.
    format : str
        Name of the reader of files; by default recognised from their content.
    recursive : bool
        Include all spectra in subfolders.
    group_by : str, optional
        Files with the same value (a keyword of their FITS headers, and the same night; or a column of the
        table that names them) form one spectrum in several arms.
    plugins : Plugins, optional
        Plugins to use; by default all that are installed.

    Returns
    -------
    Inference
        The catalogue, one row per spectrum, and the posterior; spectra that fail have a flag and a message.

    Raises
    ------
    ReadError
        If no spectrum at all could be read.
    ConfigError
        For invalid arguments; the message names the argument.
    SpecinnError
        Of another kind for what they name: a model, an instrument, a correction that is not there.

    Examples
    --------
    >>> import specinn
    >>> star = specinn.example_files()[0]  # a simulated G dwarf of 5790 K
    >>> result = specinn.infer(star, samples=512)
    >>> teff, teff_std = (float(result.catalogue[name][0].value) for name in ("teff", "teff_std"))
    >>> abs(teff - 5790) < 4 * teff_std
    True
    >>> result.posterior.samples.shape  # (n_spec, n_samples, n_labels)
    (1, 512, 26)
    >>> result.write("stars.fits")
    """
    plugins = plugins_or_all(plugins)
    with in_python():
        recursive = yes_or_no("recursive", recursive)
        if group_by is not None and not isinstance(group_by, str):
            raise ConfigError(f"group_by {group_by!r}: expected a keyword of the headers, or a column")
        options = RunOptions(
            instrument=instrument, model=model, device=device, samples=samples, seed=seed, rv=rv,
            resolving_power=resolving_power, medium=medium, frame=frame, degrade_snr=degrade_snr,
            synthetic=synthetic, check=check, corrections=corrections, format=format, prior=prior,
            prior_radius=prior_radius,
        )  # fmt: skip
        run = prepare(plugins, options, keep_samples=True)
        assert run.pipeline.instrument is not None
        sources = _sources(spectra, options, run.pipeline.instrument.medium, plugins, recursive, group_by)
        if not sources:
            raise ReadError("there are no spectra to infer: the list is empty")
        results: list[Result] = []
        table = run.catalogue(sources, keep=results.append)
        if unread(table).all():
            raise ReadError(str(table["message"][0]))
    if lost := unmatched(run.velocities, table["id"], table["path"]):
        warnings.warn(f"rv: {unmatched_message(lost, len(run.velocities))}", stacklevel=2)
    if run.prior is not None and not any(table["prior"]):
        warnings.warn(f"prior: {unused_message(run.prior)}", stacklevel=2)
    joined = Result.join(results)
    assert joined.posterior is not None
    posterior = attrs.evolve(joined.posterior, ids=table["id"])
    informed = joined.informed_posterior
    return Inference(
        QTable(table),
        posterior,
        None if informed is None else attrs.evolve(informed, ids=table["id"]),
        _Origin(run, plugins, sources, np.asarray(joined.meta["key"]), table),
    )


def load_model(
    name: str | Path | None = None, device: str = "cpu", plugins: Plugins | None = None
) -> Estimator:
    """A trained model, for use in many calls of :func:`infer`.

    Parameters
    ----------
    name : str or Path, optional
        Name or path of the model; by default the one that ships with specinn.
    device : str
        Torch device: ``cpu``, ``cuda`` or ``cuda:N``.
    plugins : Plugins, optional
        Plugins to use; by default all that are installed.

    Returns
    -------
    Estimator
        With its ``labels``, ``instrument`` and ``header``.

    Raises
    ------
    ModelError
        If there is no such model, its file is damaged, or the device is not available.
    ConfigError
        For arguments of another type.

    Examples
    --------
    >>> import specinn
    >>> model = specinn.load_model()
    >>> model.labels.names[:4]
    ('teff', 'logg', 'fe_h', 'vbroad')
    >>> [arm.name for arm in model.instrument.arms]
    ['blue', 'green', 'red']
    """
    plugins = plugins_or_all(plugins)
    if name is not None and not isinstance(name, (str, Path)):
        raise ConfigError(f"name {name!r}: expected the name or file of a model")
    with in_python():
        return models.load(plugins, models.find(plugins, name), device)


def read(path: str | Path, format: str = "auto", plugins: Plugins | None = None) -> list[SpectrumBatch]:
    """Read the spectra of a file; those on one wavelength grid form one batch.

    Parameters
    ----------
    path : str or Path
        The file, in any format that a reader knows (docs/files.md), compressed or not.
    format : str
        Name of a reader; by default it is recognised from the content.
    plugins : Plugins, optional
        Those whose readers to use; by default all that are installed.

    Returns
    -------
    list of SpectrumBatch
        In the order of the file; wavelengths in Angstrom, as the file has them.

    Raises
    ------
    ReadError
        With one sentence: the file, what was found in it, and what was expected.

    Examples
    --------
    >>> import specinn
    >>> (batch,) = specinn.read(specinn.example_files()[0])
    >>> batch.flux.shape, batch.medium  # (n_spec, n_pix)
    ((1, 18432), 'air')
    """
    path = file_name("path", path)
    batches = read_batches(path, plugins_or_all(plugins), as_format(format))
    return list(_merge(batches))


def _sources(
    spectra: Any,
    options: RunOptions,
    otherwise: Medium,
    plugins: Plugins,
    recursive: bool = False,
    group_by: str | None = None,
) -> list[Source]:
    """Sources of any supported input; neighbours on one wavelength grid form one batch."""
    if getattr(spectra, "colnames", None) or hasattr(spectra, "iterrows"):  # of astropy, of pandas
        items = from_table(spectra)
    else:
        single = isinstance(spectra, (str, Path, SpectrumBatch)) or hasattr(spectra, "spectral_axis")
        if single and not isinstance(spectra, type):
            spectra = [spectra]
        if not isinstance(spectra, Iterable) or isinstance(spectra, (bytes, Mapping, type)):
            raise ReadError(f"spectra: expected spectra or file names, found {_type_of(spectra)}")
        spectra = list(spectra)
        if spectra and all(_is_numbers(item) for item in spectra):
            raise ReadError(
                "spectra: expected spectra or file names, found arrays of numbers: make a spectrum of them "
                "by SpectrumBatch.from_arrays(wavelength, flux, sigma)"
            )
        files = [item for item in spectra if isinstance(item, (str, Path))]
        if len(files) < len(spectra):
            if files:
                raise ReadError("file names and spectra in one list: call infer separately for each")
            return _in_memory(spectra, options, otherwise)
        items = expand(files, recursive=recursive)
    for name in ("rv", "resolving_power"):
        if isinstance(values := getattr(options, name), tuple):
            _check_length(name, len(values), len(items), "file")
            pairs = zip(items, values, strict=True)
            items = [
                attrs.evolve(item, stated={**item.stated, name: value}) if np.isfinite(value) else item
                for item, value in pairs
            ]
    if group_by is not None:
        items = group(items, group_by)
    if unused := unused_columns(items, group_by):
        warnings.warn(as_arguments(unused), stacklevel=3)
    check_items(items, plugins, options.format)
    return item_sources(items, plugins, options.format)


def _is_numbers(item: Any) -> bool:
    """Whether it is a number, or an array of them that is no spectrum."""
    return isinstance(item, (np.ndarray, numbers.Number)) and np.asarray(item).dtype.kind in "biufc"


def _type_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _check_length(name: str, count: int, expected: int, what: str, many: str = "") -> None:
    if count != expected:
        raise ConfigError(
            f"{name} has {plural(count, 'value')}, but there {'is' if expected == 1 else 'are'} "
            f"{plural(expected, what, many)}: "
            "give one for all, or one for each"
        )


def _in_memory(spectra: Iterable[Any], options: RunOptions, otherwise: Medium) -> list[Source]:
    """Sources of spectra in memory; an object that is not a spectrum costs its own row."""
    batches: list[SpectrumBatch | tuple[str, SpecinnError]] = []
    for i, item in enumerate(spectra):
        for j, member in enumerate(members := _members(item)):
            name = f"spectrum-{i}" if len(members) == 1 else f"spectrum-{i}#{j}"
            if not isinstance(member, SpectrumBatch):
                try:
                    member = to_batch(member, options.medium, name, otherwise=otherwise)
                except SpecinnError as error:
                    member = name, type(error)(f"{name}: {error}")
                except Exception as error:
                    member = name, ReadError(f"{name} cannot be read: {type(error).__name__}: {error}")
            elif options.medium:
                member = with_stated(member, {"medium": options.medium}, 0, None)
            batches.append(member)
    n = sum(len(b) if isinstance(b, SpectrumBatch) else 1 for b in batches)
    powers = options.resolving_power
    if isinstance(powers, tuple) and len(powers) != n:
        pixels = {b.wavelength.size for b in batches if isinstance(b, SpectrumBatch)}
        if pixels != {len(powers)}:
            _check_length("resolving_power", len(powers), n, "spectrum", "spectra")
        batches = [
            attrs.evolve(b, resolving_power=np.array(powers)) if isinstance(b, SpectrumBatch) else b
            for b in batches
        ]
    elif isinstance(powers, tuple):
        batches = _each(batches, lambda row: {"resolving_power": powers[row]})
    if isinstance(rv := options.rv, tuple):
        _check_length("rv", len(rv), n, "spectrum", "spectra")
        batches = _each(batches, lambda row: {"rv": rv[row]})
    # the medium is in the batches already, because axes of frequency are always in vacuum
    out: list[Source] = []
    first = 0
    for good, neighbours in itertools.groupby(batches, key=lambda b: isinstance(b, SpectrumBatch)):
        if good:
            for batch in _merge(neighbours):  # type: ignore[arg-type]
                opened = functools.partial(lambda batch: [batch], batch)
                out.append(Source(str(batch.meta["id"][0]), opened, first, {"medium": None}))
                first += len(batch)
        else:
            for name, reason in neighbours:  # type: ignore[misc]
                out.append(failed_source(name, reason, first))
                first += 1
    return out


def _each(
    batches: Iterable[SpectrumBatch | tuple[str, SpecinnError]],
    stated: Callable[[int], Mapping[str, Any]],
) -> list[SpectrumBatch | tuple[str, SpecinnError]]:
    """The batches as single spectra, each with what is stated for its number."""
    out: list[SpectrumBatch | tuple[str, SpecinnError]] = []
    row = 0
    for batch in batches:
        parts = [batch] if isinstance(batch, tuple) else [batch[i] for i in range(len(batch))]
        for part in parts:
            out.append(part if isinstance(part, tuple) else with_stated(part, stated(row), 0, None))
            row += 1
    return out


def _draws(draws: Any) -> int:
    expected = "a whole number of posterior samples"
    out = int(number("draws", draws, expected, whole=True))
    if out < 0:
        raise ConfigError(f"draws {out}: expected {expected}")
    return out


def _members(item: Any) -> list[Any]:
    """Members of a ``SpectrumCollection``, whose wavelength grids may differ, or of a list in the list."""
    axis = getattr(item, "spectral_axis", None)
    if isinstance(item, (list, tuple)) or (axis is not None and axis.ndim > 1):
        return list(item)
    return [item]


def _arms(star: Resimulation, what: str, rv: float) -> SpectrumList:
    """The array of a star as spectra, one per arm."""
    from specutils import SpectrumList

    flux = {"model": star.model, "observed": star.flux, "bands": star.bands}[what]
    meta: dict[str, Any] = {"id": star.id, "path": star.path, "what": what, "medium": star.instrument.medium}
    meta |= {"rv": 0.0, "rv_removed": rv}
    if what != "observed":
        meta |= {"labels": dict(star.labels), "note": star.note}
    if what == "bands":
        meta["levels"] = LEVELS
    out = SpectrumList()
    for arm, (name, pixels) in zip(star.instrument.arms, star.instrument.slices.items(), strict=True):
        power = arm.resolving_power.at(star.wavelength[pixels])
        sigma = star.sigma[pixels] if what == "observed" else None
        its = {**meta, "arm": name, "resolving_power": power}
        out.append(make_spectrum(star.wavelength[pixels], flux[..., pixels], sigma, None, 0.0, its))
    return out


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
