"""A run over many spectra: files in, rows out; a file that fails costs its own row and nothing else."""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Table

import specinn
from specinn import catalogue, models
from specinn.errors import ConfigError, ModelError, ReadError, SpecinnError
from specinn.flags import Flag
from specinn.instruments import Instrument
from specinn.pipeline import Pipeline, Result
from specinn.readers import read
from specinn.samples import SamplesWriter

if TYPE_CHECKING:
    from specinn.interfaces import Correction, Estimator
    from specinn.plugins import Plugins
    from specinn.spectra import SpectrumBatch

log = logging.getLogger(__name__)

CHUNK = 64  # spectra inferred at once: 4096 samples of 13 labels are 14 MB then
DEFAULT_INSTRUMENT = "4most-hr"
_PACKAGES = ("numpy", "scipy", "astropy", "torch")  # those whose version may change the numbers


@attrs.frozen
class Source:
    """Where spectra come from: ``open`` gives them, and may raise ``ReadError`` at any time.

    ``first_key`` is the ``meta["key"]`` of its first spectrum, on which that one's random draws hang; the
    next ones count on from there.
    """

    name: str
    open: Callable[[], Iterable[SpectrumBatch]]
    first_key: int = 0


@attrs.frozen
class Run:
    """One model, one instrument and one set of options, ready to go through spectra.

    ``velocities`` are radial velocities in km/s by ``id``, path or file name of the spectrum; they stand in
    for those that the files state.
    """

    pipeline: Pipeline
    instrument: str
    model: str
    velocities: Mapping[str, float] = attrs.field(factory=dict)
    meta: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def fields(self) -> tuple[catalogue.Field, ...]:
        """The columns of the catalogue."""
        estimator = self.pipeline.estimator
        arms = [arm.name for arm in estimator.instrument.arms]
        return catalogue.schema(estimator.labels, arms, corrected=bool(self.pipeline.corrections))

    def results(
        self,
        sources: Iterable[Source],
        report: Callable[[str, str], None] = lambda name, message: None,
        progress: Callable[[Source, int], None] = lambda source, n: None,
    ) -> Iterator[Result]:
        """Results of all spectra of all sources in order, a bounded number at a time.

        A source that cannot be read gives one row with the flag ``not_read`` (in addition to those of the
        spectra that came before the defect). ``report`` is called with the name and the sentence of every
        failure, ``progress`` with the source and the number of its spectra that are done.
        """
        for source in sources:
            done = 0
            for batch, message in _guarded(source):
                if batch is None:
                    key = source.first_key + done
                    meta = Table({"id": [source.name], "path": [source.name], "key": [key]})
                    pieces: Iterable[Result] = [self.pipeline.failed(meta, message)]
                else:
                    pieces = map(self.pipeline, self._pieces(batch, source.first_key + done))
                for result in pieces:
                    done += len(result)
                    failed = np.flatnonzero(np.asarray(result.meta["message"]) != "")
                    for i in failed:
                        report(str(result.meta["id"][i]), str(result.meta["message"][i]))
                    progress(source, done)
                    yield result

    def _pieces(self, batch: SpectrumBatch, first_key: int) -> Iterator[SpectrumBatch]:
        batch = attrs.evolve(batch, meta=batch.meta.copy())
        batch.meta["key"] = first_key + np.arange(len(batch))
        if self.velocities:
            rv = np.full(len(batch), np.nan)
            if "rv" in batch.meta.colnames:
                rv = np.ma.filled(np.ma.asarray(batch.meta["rv"], float), np.nan)
            for i, (name, path) in enumerate(zip(batch.meta["id"], batch.meta["path"], strict=True)):
                for key in (str(name), str(path), Path(str(path)).name):
                    if key in self.velocities:
                        rv[i] = self.velocities[key]
                        break
            batch.meta["rv"] = rv
        for start in range(0, len(batch), CHUNK):
            yield batch[start : start + CHUNK]

    def catalogue(
        self,
        sources: Iterable[Source],
        *,
        save_samples: str | Path | None = None,
        overwrite: bool = False,
        keep: Callable[[Result], None] = lambda result: None,
        **watchers: Any,
    ) -> Table:
        """The catalogue of all sources.

        ``save_samples`` names a file for the samples, written as they come; ``keep`` sees every result;
        ``watchers`` are those of :meth:`results`.
        """
        pipeline, rows = self.pipeline, []
        with contextlib.ExitStack() as stack:
            writer = None
            if save_samples is not None:
                labels = pipeline.estimator.labels
                attributes = {"model": self.model, "seed": pipeline.seed}
                writer = stack.enter_context(
                    SamplesWriter(save_samples, labels, pipeline.n_samples, overwrite=overwrite, **attributes)
                )
            for result in self.results(sources, **watchers):
                rows.append(catalogue.summarise(result, instrument=self.instrument, model=self.model))
                if writer is not None:
                    writer.append(result)
                keep(result)
        return catalogue.build(rows, self.fields, self.meta)


def _guarded(source: Source) -> Iterator[tuple[SpectrumBatch | None, str]]:
    """The batches of a source; a failure ends them with ``(None, sentence)``."""
    empty = True
    try:
        for batch in source.open():
            empty = False
            yield batch, ""
        if empty:
            yield None, f"{source.name} holds no spectra"
    except SpecinnError as error:
        yield None, str(error)
    except Exception as error:
        log.error("%s: unexpected error", source.name, exc_info=True)
        yield None, f"{source.name} could not be read: {type(error).__name__}: {error}"


def file_sources(files: Iterable[str | Path], plugins: Plugins, format: str = "auto") -> list[Source]:
    """A source for every file. Raises ``ConfigError`` where every one of them is a folder."""
    paths = [Path(file) for file in files]
    if paths and all(path.is_dir() for path in paths):
        raise ConfigError(_folder(paths[0]))
    if format != "auto":
        plugins.record("reader", format)  # a misspelt format concerns every file: say so once, now

    def opener(path: Path) -> Callable[[], Iterable[SpectrumBatch]]:
        def batches() -> Iterable[SpectrumBatch]:
            if path.is_dir():
                raise ReadError(_folder(path))
            if not path.exists():
                raise ReadError(f"{path}: no such file")
            return read(path, plugins, format)

        return batches

    # far apart, so that the draws of a spectrum do not depend on how many others the files before it hold
    return [Source(str(path), opener(path), number << 32) for number, path in enumerate(paths)]


def _folder(path: Path) -> str:
    return f"{path} is a folder: give its files, for example {path / '*.fits'}"


def example_files() -> list[Path]:
    """The spectra that ship with the package. Raises ``ConfigError`` where they were left out."""
    folder = resources.files("specinn") / "examples"
    files = (
        sorted(Path(str(f)) for f in folder.iterdir() if f.name.endswith(".fits")) if folder.is_dir() else []
    )
    if not files:
        raise ConfigError(
            "no files were given and this installation has no example spectra: name the files to process"
        )
    return files


def load_instrument(plugins: Plugins, name: str) -> Instrument:
    """The instrument of that name. Raises ``PluginError`` or ``ConfigError``."""
    return Instrument.from_toml(plugins.record("instrument", name).toml)


def load_correction(plugins: Plugins, given: str | Path, sha256: str | None = None) -> Correction:
    """A correction from ``FILE`` or, where several plugins offer corrections, from ``KIND:FILE``.

    Raises ``ConfigError`` where it was fitted for another model than that of the hash.
    """
    kinds = [offer.record.name for offer in plugins.offers("correction")]
    kind, _, path = str(given).partition(":")
    if kind not in kinds:
        kind, path = (kinds[0] if len(kinds) == 1 else ""), str(given)
    if not kind:
        known = ", ".join(kinds) or "none"
        raise ConfigError(f"{given}: say which correction it is, as KIND:FILE; installed are {known}")
    correction: Correction = plugins.load("correction", kind).load(Path(path))
    model = getattr(correction, "model", None)
    if model and sha256 and not sha256.startswith(str(model)):
        raise ConfigError(
            f"{path} was fitted for the model {str(model)[:12]}, this is {sha256[:12]}: fit it again"
        )
    return correction


def read_velocities(path: str | Path) -> dict[str, float]:
    """Radial velocities in km/s from a CSV or ECSV table with the columns ``id`` (or ``path``) and ``rv``.

    Raises ``ConfigError`` with the row that is wrong. Rows without a velocity are left out.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text: expected a CSV table with the columns id and rv") from None
    space = bool(lines) and "," not in lines[0]
    rows = list(csv.DictReader(lines, delimiter=" " if space else ",", skipinitialspace=True))
    key = next((name for name in ("id", "path") if rows and name in rows[0]), None)
    if key is None or "rv" not in rows[0]:
        found = ", ".join(str(name) for name in rows[0]) if rows else "nothing"
        raise ConfigError(f"{path}: expected the columns id (or path) and rv, found {found}")
    velocities: dict[str, float] = {}
    for row in rows:
        name, text = row[key], (row["rv"] or "").strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"{path}: the velocity {text!r} of {name} is not a number in km/s") from None
        if not abs(value) < 3000:
            raise ConfigError(f"{path}: the velocity {value} km/s of {name} is not one of a star")
        if name in velocities:
            raise ConfigError(f"{path}: {name} is listed twice")
        velocities[name] = value
    return velocities


def parse_velocity(given: Any) -> tuple[Any, dict[str, float]]:
    """``--rv`` (a number, ``auto`` or a table) as the pipeline takes it, and velocities of single spectra."""
    if given is None or given == "auto":
        return given, {}
    if isinstance(given, Mapping):
        return None, {str(name): float(value) for name, value in given.items()}
    try:
        return float(given), {}
    except (TypeError, ValueError):
        if Path(given).is_file():
            return None, read_velocities(given)
    raise ConfigError(
        f"rv {given!r}: expected a velocity in km/s, auto, or a table with the columns id and rv"
    )


def prepare(
    plugins: Plugins,
    *,
    instrument: str = DEFAULT_INSTRUMENT,
    model: str | Path | Estimator | None = None,
    device: str = "cpu",
    samples: int = 4096,
    seed: int = 0,
    rv: Any = None,
    resolving_power: float | None = None,
    degrade_snr: float | None = None,
    corrections: Sequence[str | Path | Correction] = (),
) -> Run:
    """Look everything up and load the model: whatever is wrong with the options is raised here."""
    velocity, velocities = parse_velocity(rv)
    spectrograph = load_instrument(plugins, instrument)
    meta: dict[str, Any] = {"specinn": specinn.__version__}
    sha256: str | None = None
    if model is None or isinstance(model, (str, Path)):
        chosen = models.find(plugins, model, instrument)
        sha256 = chosen.sha256()
        estimator = models.load(plugins, chosen, device)
        name = f"{chosen.name} {sha256[:12]}"
        meta |= {"model": chosen.name, "sha256": sha256}
    else:
        estimator = model
        name = str(estimator.header.get("name", type(estimator).__name__))
        meta["model"] = name
    if not len(estimator.labels):
        raise ModelError(f"the model {name} infers no labels")
    pipeline = Pipeline(
        estimator,
        plugins,
        instrument=spectrograph,
        rv=velocity,
        degrade_snr=degrade_snr,
        resolving_power=resolving_power,
        corrections=[
            load_correction(plugins, c, sha256) if isinstance(c, (str, Path)) else c for c in corrections
        ],
        n_samples=samples,
        seed=seed,
    )
    # names of eight characters, so that they are FITS keywords; nothing that changes from run to run
    meta |= {"samples": samples, "seed": seed, "instrum": instrument}
    if degrade_snr is not None:
        meta["degraded"] = float(degrade_snr)
    if corrections:
        meta["correct"] = ", ".join(
            Path(c).name if isinstance(c, (str, Path)) else type(c).__name__ for c in corrections
        )
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            meta[package] = metadata.version(package)
    return Run(pipeline, instrument, name, velocities, meta)


def unread(table: Table) -> np.ndarray:
    """``(n_rows,)`` whether a row stands for something that could not be read or processed at all."""
    return (np.asarray(table["flags"]) & np.uint32(Flag.NOT_READ)) != 0
