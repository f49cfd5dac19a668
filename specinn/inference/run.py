"""A run over many spectra: files in, rows out; a file that fails costs its own row and nothing more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Table

import specinn
from specinn import catalogue, models
from specinn.catalogue.result import Result
from specinn.errors import ConfigError, ModelError, ReadError, SpecinnError
from specinn.flags import Flag
from specinn.inference.batching import AHEAD, Piece, pieces
from specinn.inference.corrections import load_correction
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.inference.prior import PriorTable
from specinn.inference.sources import (
    Item,
    Source,
    by_instrument,
    check_items,
    folder_message,
    item_sources,
    with_stated,
)
from specinn.inference.velocities import parse_velocity
from specinn.parallel.progress import Progress, Report
from specinn.parallel.threads import ahead
from specinn.simulation.model_spectra import Models
from specinn.spectra import SpectrumBatch
from specinn.texts import plural, portable

if TYPE_CHECKING:
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Estimator, Synthesizer

__all__ = [
    "Run",
    "check_given",
    "example_files",
    "file_sources",
    "prepare",
    "unmatched",
    "unmatched_message",
    "unread",
    "unused_message",
]

_NAMED = 5  # in a message
_PACKAGES = ("numpy", "scipy", "astropy", "torch")  # those whose version may change the numbers


@attrs.frozen
class Run:
    """One model, one instrument and one set of options, ready to go through spectra.

    ``velocities`` are radial velocities in km/s by ``id``, path or file name of the spectrum; they replace
    those that the files state. ``stated`` is what the user states for all spectra (see
    :class:`specinn.inference.sources.Item`); what a source itself states takes precedence.
    """

    pipeline: Pipeline
    instrument: str
    model: str
    velocities: Mapping[str, float] = attrs.field(factory=dict)
    meta: Mapping[str, Any] = attrs.field(factory=dict)
    stated: Mapping[str, Any] = attrs.field(factory=dict)
    plugins: Plugins | None = None

    @property
    def prior(self) -> PriorTable | None:
        """What the user knows of stars."""
        return None if self.pipeline.informer is None else self.pipeline.informer.prior

    @property
    def fields(self) -> tuple[catalogue.Field, ...]:
        """The columns of the catalogue."""
        estimator = self.pipeline.estimator
        arms = [arm.name for arm in estimator.instrument.arms]
        return catalogue.schema(
            estimator.labels,
            arms,
            corrected=bool(self.pipeline.corrections),
            informed=self.prior is not None,
            lithium=models.in_lte(estimator.header, "Li"),
            checks=self.pipeline.checks,
        )

    def pieces(self, sources: Iterable[Source]) -> Iterator[Piece]:
        """The spectra of all sources in order, as :func:`specinn.inference.batching.pieces` gathers them."""
        return pieces(sources, self._completed)

    def _completed(self, batch: SpectrumBatch, source: Source, start: int) -> SpectrumBatch:
        """The batch, which begins with the spectrum ``start`` of its source, as the pipeline takes it."""
        return self._with_keys(self._as_stated(batch, source, start), source.first_key + start)

    def _as_stated(self, batch: SpectrumBatch, source: Source, start: int) -> SpectrumBatch:
        """The batch, which begins with the spectrum ``start`` of its source, with what the user states."""
        stated = {**self.stated, **source.stated}
        instrument = None
        if "instrument" in stated and self.plugins is not None:
            instrument = self.plugins.instrument(stated["instrument"])
        if stated:
            batch = with_stated(batch, stated, start, instrument)
        return by_instrument(batch, instrument or self.pipeline.instrument)

    def _with_keys(self, batch: SpectrumBatch, first: int) -> SpectrumBatch:
        """The batch with the keys of its spectra, and the velocities that the user gives."""
        batch = attrs.evolve(batch, meta=batch.meta.copy())
        batch.meta["key"] = first + np.arange(len(batch))
        rv = np.full(len(batch), np.nan)
        if "rv" in batch.meta.colnames:
            rv = np.ma.filled(np.ma.asarray(batch.meta["rv"], float), np.nan)
        if self.velocities:
            for i, (name, path) in enumerate(zip(batch.meta["id"], batch.meta["path"], strict=True)):
                names = (str(name), str(path), Path(str(path)).name)
                for key in dict.fromkeys([*names, *map(portable, names)]):
                    if key in self.velocities:
                        rv[i] = self.velocities[key]
                        break
        batch.meta["rv"] = rv
        if (prior := self.prior) is not None:
            ra, dec = (
                np.ma.filled(np.ma.asarray(batch.meta[name], float), np.nan)
                if name in batch.meta.colnames
                else np.full(len(batch), np.nan)
                for name in ("ra", "dec")
            )
            batch.meta["prior_row"] = prior.match(batch.meta["id"], batch.meta["path"], ra, dec)
        return batch

    def infer(
        self,
        piece: Piece,
        report: Report = lambda name, message: None,
        progress: Progress = lambda spectra, files: None,
    ) -> Result:
        """The result of a piece; never raises for one of its spectra."""
        if piece.batch is not None:
            result = self.pipeline(piece.batch)
        else:
            assert piece.meta is not None
            result = self.pipeline.failed(piece.meta, piece.message)
        for i in np.flatnonzero(np.asarray(result.meta["message"]) != ""):
            report(str(result.meta["id"][i]), str(result.meta["message"][i]))
        progress(len(result), piece.files)
        return result

    def results(
        self,
        sources: Iterable[Source],
        report: Report = lambda name, message: None,
        progress: Progress = lambda spectra, files: None,
    ) -> Iterator[Result]:
        """Results of all spectra of all sources in order, a bounded number at a time.

        A source that cannot be read gives one row with the flag ``not_read`` (in addition to those of the
        spectra that came before the defect). ``report`` is called with the name and the sentence of every
        failure, ``progress`` with the numbers of spectra and sources that are done since the last call.
        """
        with contextlib.closing(ahead(self.pieces(sources), AHEAD)) as pieces:
            for piece in pieces:
                yield self.infer(piece, report, progress)

    def rows(self, result: Result) -> dict[str, np.ndarray]:
        """The columns of the catalogue for a result."""
        return catalogue.summarise(result, instrument=self.instrument, model=self.model)

    def catalogue(
        self,
        sources: Iterable[Source],
        *,
        keep: Callable[[Result], None] = lambda result: None,
        **watchers: Any,
    ) -> Table:
        """The catalogue of all sources, in memory. ``keep`` sees every result; ``watchers`` are those of
        :meth:`results`.
        """
        rows = []
        for result in self.results(sources, **watchers):
            rows.append(self.rows(result))
            keep(result)
        return catalogue.build(rows, self.fields, self.meta)


def file_sources(files: Iterable[str | Path], plugins: Plugins, format: str = "auto") -> list[Source]:
    """A source for every file. Raises ``ConfigError`` where every one of them is a folder."""
    items = [Item(str(file)) for file in files]
    check_items(items, plugins, format)  # a misspelt format affects every file: report it once, now
    return item_sources(items, plugins, format)


def check_given(files: Iterable[str | Path], format: str, plugins: Plugins) -> None:
    """Raises ``ReadError`` for a missing file, ``PluginError`` for a format that no reader knows."""
    if format != "auto":
        plugins.record("reader", format)
    for path in map(Path, files):
        if path.is_dir() or not path.exists():
            raise ReadError(folder_message(path) if path.is_dir() else f"{path}: no such file")


def example_files() -> list[Path]:
    """The spectra that ship with the package. Raises ``ConfigError`` if this installation lacks them.

    >>> [path.stem for path in example_files()]
    ['dwarf-g', 'dwarf-k', 'giant-clump', 'giant-metal-poor', 'turn-off-f']
    """
    folder = resources.files("specinn") / "examples"
    files = (
        sorted(Path(str(f)) for f in folder.iterdir() if f.name.endswith(".fits")) if folder.is_dir() else []
    )
    if not files:
        raise ConfigError(
            "no files were given and this installation has no example spectra: name the files to process"
        )
    return files


def prepare(
    plugins: Plugins, options: RunOptions | None = None, *, keep_samples: bool = False, **fields: Any
) -> Run:
    """Look everything up and load the model: any error in the options is raised here.

    ``fields`` are those of :class:`~specinn.inference.options.RunOptions`, in place of ``options`` or of some
    of them. Without ``keep_samples`` results hold the summaries of the posteriors only.
    """
    options = RunOptions(**fields) if options is None else attrs.evolve(options, **fields)
    velocity: Any = options.rv
    velocities: dict[str, float] = {}
    if isinstance(velocity, (str, Mapping)):
        velocity, velocities = parse_velocity(velocity)
    spectrograph = plugins.instrument(options.instrument)
    estimator, about = _model(plugins, options)
    sha256 = about.get("sha256")
    name = f"{about['model']} {sha256[:12]}" if sha256 else about["model"]
    if not len(estimator.labels):
        raise ModelError(f"the model {name} infers no labels")
    # what concerns the spectra and not the pipeline is added to them as they are read
    stated = {key: getattr(options, key) for key in ("medium", "frame", "resolving_power")}
    stated = {key: value for key, value in stated.items() if isinstance(value, (str, float))}
    prior = None
    if options.prior is not None:
        prior = PriorTable.load(options.prior, estimator.labels, options.prior_radius)
    pipeline = Pipeline(
        estimator,
        plugins,
        attrs.evolve(options, rv=None if isinstance(velocity, tuple) else velocity, resolving_power=None),
        instrument=spectrograph,
        corrections=[
            load_correction(plugins, c, sha256) if isinstance(c, str) else c for c in options.corrections
        ],
        keep_samples=keep_samples,
        check=_emulator(plugins, estimator) if "model" in options.check else None,
        prior=prior,
    )
    instrument = spectrograph.name if options.instrument.endswith(".toml") else options.instrument
    meta = {"specinn": specinn.__version__, **about, **models.physics(estimator.header)}
    if not options.synthetic and (shifts := models.shifts(estimator.header)):
        meta["shifts"] = shifts
    meta |= _header(options, instrument, prior)
    if pipeline.hidden:
        meta["masked"] = ", ".join(pipeline.hidden)
    return Run(pipeline, instrument, name, velocities, meta, stated, plugins)


def _model(plugins: Plugins, options: RunOptions) -> tuple[Estimator, dict[str, str]]:
    """The model, and what the header of the catalogue says of it: its name and, of a file, its hash."""
    if options.model is None or isinstance(options.model, str):
        chosen = models.find(plugins, options.model, options.instrument)
        about = {"model": chosen.name, "sha256": chosen.sha256()}
        return models.load(plugins, chosen, options.device), about
    return options.model, {"model": str(options.model.header.get("name", type(options.model).__name__))}


def _header(options: RunOptions, instrument: str, prior: PriorTable | None) -> dict[str, Any]:
    """What the header of the catalogue says of the options and of the packages that are used.

    Names have at most eight characters, so that they are FITS keywords; nothing changes from run to run.
    """
    meta: dict[str, Any] = {"samples": options.samples, "seed": options.seed, "instrum": instrument}
    if options.degrade_snr is not None:
        meta["degraded"] = options.degrade_snr
    if isinstance(options.resolving_power, float):
        meta["resolvin"] = options.resolving_power
    if options.synthetic:
        meta["synthet"] = True
    if options.check:
        meta["check"] = ", ".join(options.check)
    if options.corrections:
        meta["correct"] = ", ".join(
            Path(c).name if isinstance(c, str) else type(c).__name__ for c in options.corrections
        )
    if prior is not None:
        meta |= {"prior": prior.name, "priorsha": prior.sha256}
        if prior.has_positions:
            meta["priorrad"] = prior.radius
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            meta[package] = metadata.version(package)
    return meta


def _emulator(plugins: Plugins, estimator: Estimator) -> Synthesizer:
    """The emulator, for the check of the model; raises ``ConfigError`` where it does not suit the model."""
    emulator: Synthesizer = models.synthesizer(plugins, estimator.header)
    try:
        models_of = Models(emulator, estimator.instrument)
        models_of.complete(np.zeros((1, len(estimator.labels))), estimator.labels.names)
    except SpecinnError as error:
        raise ConfigError(f"check model: the emulator has no spectra for this model: {error}") from None
    return emulator


def unmatched(velocities: Iterable[str], ids: Iterable[Any], paths: Iterable[Any]) -> list[str]:
    """The names of ``velocities`` that no spectrum of a catalogue has, as id, as path or as file name."""
    left = dict.fromkeys(map(portable, velocities))
    for name, path in zip(map(str, ids), map(str, paths), strict=True):
        if not left:
            break
        for key in (name, path, Path(path).name):
            left.pop(key, None)
    return list(left)


def unmatched_message(names: Sequence[str], of: int) -> str:
    """The message about velocities without a spectrum."""
    some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return (
        f"{len(names)} of {plural(of, 'velocity', 'velocities')} that were given match no spectrum by id, "
        f"path or file name: {some}"
    )


def unused_message(prior: PriorTable) -> str:
    """The message about outside knowledge that is of none of the spectra."""
    by = f", and by position within {prior.radius:g} arcsec" if prior.has_positions else ""
    return (
        f"none of the {plural(len(prior), 'row')} of {prior.name} matches a spectrum, by id, path or file "
        f"name{by}: no value is informed"
    )


def unread(rows: Any) -> np.ndarray:
    """``(n_rows,)`` whether a row (of a table or a Parquet block) could not be processed."""
    return (np.asarray(rows["flags"]) & np.uint32(Flag.NOT_READ)) != 0
