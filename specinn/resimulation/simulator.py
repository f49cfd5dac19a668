"""Observed spectra, and model spectra of the inferred labels: at the MAP, with bands from posterior
samples."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Table

from specinn import models
from specinn.catalogue.schema import UNDETERMINED
from specinn.errors import ConfigError, ModelError, SpecinnError
from specinn.flags import is_bad
from specinn.inference.run import Run, prepare
from specinn.inference.sources import file_source
from specinn.labels import SOLAR_LOG_EPS, LabelSet
from specinn.plugins import Plugins
from specinn.plugins.interfaces import first_of
from specinn.posterior import Posterior
from specinn.resimulation.result import LEVELS, Resimulation, Unsimulated
from specinn.simulation.model_spectra import Models

if TYPE_CHECKING:
    from specinn.spectra import SpectrumBatch

__all__ = ["DRAWS", "STEP", "Resimulator", "Simulator"]

log = logging.getLogger(__name__)

DRAWS = 300  # posterior samples per star: the edge of the 95 % band is then good to a tenth of its width
STEP = 0.1  # dex by which an abundance is raised to see which pixels respond
_BLOCK = 50  # model spectra at once: 12 000 pixels in float64 and what the continuum makes of them
_REALISATIONS = 32  # of the noise, over which the continuum of the MAP spectrum is averaged
_SHIFT = 0.5  # standard deviations of the posterior by which samples drawn again may be off the catalogue


class Simulator:
    """Model spectra for the stars of one catalogue, whose spectra come as they were read.

    Parameters
    ----------
    run
        The model and the options with which the catalogue was made.
    catalogue
        Its table; ``rows`` are numbers of its rows.
    plugins
        Where the synthesizer is looked up.
    synthesizer
        Name of the plugin that computes model spectra.
    samples
        Of the stars, row by row: a posterior, or a file of ``specinn run --save-samples``; without
        either they are drawn again.
    draws
        Posterior samples that make the bands; 0 for none.
    respond
        Compute ``response``, by which :func:`~specinn.resimulation.result.windows` finds informative lines.

    Raises
    ------
    ConfigError, ModelError, PluginError
        If they do not match.
    """

    def __init__(
        self,
        run: Run,
        catalogue: Table,
        plugins: Plugins,
        *,
        synthesizer: str = "emulator",
        samples: Posterior | str | Path | None = None,
        draws: int = DRAWS,
        respond: bool = True,
    ) -> None:
        if draws < 0:
            raise ConfigError(f"draws {draws}: expected a number of samples, or 0 for no bands")
        self.catalogue, self.plugins, self.draws, self.respond = catalogue, plugins, draws, respond
        self._run, self._seed = run, run.pipeline.seed
        self.estimator = run.pipeline.estimator
        self.labels: LabelSet = self.estimator.labels
        self._hidden = () if run.pipeline.synthetic else models.doubtful(self.estimator.header, self.labels)
        if absent := [name for name in self.labels.names if name not in catalogue.colnames]:
            raise ConfigError(f"the catalogue lacks {', '.join(absent)}, which {run.model.split()[0]} infers")
        code = models.synthesizer(plugins, self.estimator.header, synthesizer)
        self.models = Models(code, self.estimator.instrument)
        self.models.complete(np.zeros((1, len(self.labels))), self.labels.names)  # the labels must suffice
        if isinstance(samples, (str, Path)):
            samples = _samples_file(Path(samples), catalogue, self.labels)
        self._samples: Posterior | Path | None = samples
        steps = [step for _, step in run.pipeline.steps]
        pixels, normalised = first_of("pixels", steps), first_of("continuum", steps)
        first = pixels + 1 if pixels is not None else len(steps) if normalised is None else normalised
        self._normalisation = [step for step in steps[first:] if step.stage not in ("noise", "mask")]

    def star(
        self, star: SpectrumBatch, row: int, *, draws: int | None = None, respond: bool | None = None
    ) -> Resimulation:
        """The star of that row, whose spectrum is the batch; ``draws`` and ``respond`` for this one only.

        Raises ``ModelError`` where the catalogue has no values for it.
        """
        draws = self.draws if draws is None else draws
        respond = self.respond if respond is None else respond
        entry, names = self.catalogue[row], self.labels.names
        corrected = self._values(entry, names)
        if is_bad(entry["flags"]) or not np.isfinite(corrected).all():
            raise ModelError(str(entry["message"] or "") or "the catalogue has no values for this star")
        columns = [f"{name}_raw" if f"{name}_raw" in entry.colnames else name for name in names]
        raw = self._values(entry, columns)
        # A corrected abundance changes the lines of a trace element and nothing else. Parameters shape the
        # whole spectrum, and are taken as the network found them (section 4.3 of Ksoll et al. 2026).
        best = np.array([c if _is_abundance(n) else r for n, c, r in zip(names, corrected, raw, strict=True)])
        observed = self._observe(star, entry)
        samples, note = self._draw(observed, row, draws)
        drawn_as = raw if self._samples is None else corrected
        values = samples[:draws] + (best - drawn_as)
        notes = [note] if note else []
        if beyond := self.models.complete(best[None], names)[1]:
            notes.append(f"{', '.join(beyond)} beyond the bounds of the synthesizer, taken at the bound")
        rng = np.random.default_rng([self._seed, row])
        flat = self.models(best[None], names)
        model = self._normalise(np.repeat(flat, _REALISATIONS, axis=0), observed, rng).mean(axis=0)
        drawn = [self._normalise(self.models(values[i : i + _BLOCK], names), observed, rng).astype(np.float32)
                 for i in range(0, len(values), _BLOCK)]  # fmt: skip
        bands = np.full((len(LEVELS), model.size), np.nan)
        if drawn:
            bands = np.quantile(np.concatenate(drawn), LEVELS, axis=0)
        bad = observed.mask[0]
        flux, sigma = (np.where(bad, np.nan, v[0]) for v in (observed.flux, observed.sigma))
        used = self.estimator.used_pixels & ~bad & np.isfinite(model)
        return Resimulation(
            str(entry["id"]), str(star.meta["path"][0]), row, self.estimator.instrument,
            dict(zip(names, best.tolist(), strict=True)), flux, sigma, model, bands, used,
            self._response(best, flat[0]) if respond else {}, samples + (corrected - drawn_as),
            "; ".join(notes),
        )  # fmt: skip

    def _values(self, entry: Any, columns: Sequence[str]) -> np.ndarray:
        """The values of the labels ``(n_labels,)``; of what is not determined the middle of the posterior, of
        abundances that catalogues have masked, because they are doubtful, those of a star of that
        metallicity."""
        values = np.array([_number(entry[column]) for column in columns])
        lost = str(entry[UNDETERMINED]).split() if UNDETERMINED in entry.colnames else []
        for i, name in enumerate(self.labels.names):
            if name in lost:
                values[i] = 0.5 * (_number(entry[f"{name}_p16"]) + _number(entry[f"{name}_p84"]))
            if name in self._hidden and _is_abundance(name):
                lithium = SOLAR_LOG_EPS["Li"] + _number(entry["fe_h"])
                values[i] = lithium if name == "a_li" else 0.0
        return values

    def _observe(self, star: SpectrumBatch, entry: Any) -> SpectrumBatch:
        """The spectrum through the steps of the model, at the velocity in the catalogue."""
        star = attrs.evolve(star, meta=star.meta.copy())
        star.meta["rv"] = np.array([_number(entry["rv"])])
        if star.resolving_power is None:
            instrument = self.plugins.instrument(str(entry["instrument"]))
            power = instrument.resolving_power_at(star.wavelength)
            star = attrs.evolve(star, resolving_power=power)
        return self._run.pipeline.preprocess(star)

    def _draw(self, observed: SpectrumBatch, row: int, draws: int) -> tuple[np.ndarray, str]:
        """The accepted samples ``(n, n_labels)``, and a remark if anything is wrong with them."""
        if not draws:
            return np.empty((0, len(self.labels))), ""
        if isinstance(self._samples, Posterior):
            values, inside = self._samples.samples[row], self._samples.inside[row]
        elif self._samples is not None:
            import h5py

            with h5py.File(self._samples) as file:
                values, inside = file["samples"][row], file["inside"][row]
        else:
            posterior = self.estimator.sample(observed, self._run.pipeline.n_samples, self._seed)
            values, inside = posterior.samples[0], posterior.inside[0]
        values = np.asarray(values[inside], float)
        return values, "" if self._samples is not None else self._check(values, row)

    def _check(self, values: np.ndarray, row: int) -> str:
        """Whether samples drawn again match the catalogue."""
        entry, off = self.catalogue[row], []
        for name, column in zip(self.labels.names, values.T, strict=True):
            comparable = all(f"{name}_{end}" in entry.colnames for end in ("median", "std"))
            if comparable and f"{name}_raw" not in entry.colnames and column.size:
                shift = abs(np.median(column) - _number(entry[f"{name}_median"]))
                if shift > _SHIFT * _number(entry[f"{name}_std"]):
                    off.append(name)
        if not off:
            return ""
        return (
            f"samples drawn again differ from the catalogue in {', '.join(off)}: was specinn run given "
            "another file or --resolving-power?"
        )

    def _normalise(self, flux: np.ndarray, observed: SpectrumBatch, rng: np.random.Generator) -> np.ndarray:
        """Flux ``(n, n_pix)`` over the continuum that the model's own steps fit, NaN where masked.

        The fit sees the flux with the noise of the observed spectrum, a draw of it for each, because noise
        shifts an upper envelope; it is subtracted again afterwards.
        """
        n, bad = len(flux), observed.mask[0]
        sigma = np.where(bad, 0.0, observed.sigma[0])
        noise = rng.standard_normal(flux.shape)
        batch = attrs.evolve(
            observed[np.zeros(n, int)], flux=np.where(bad, 0.0, flux + sigma * noise)
        )  # fmt: skip
        for step in self._normalisation:
            batch = step(batch)
        out = batch.flux - np.where(bad, 0.0, batch.sigma) * noise
        out[:, bad] = np.nan
        return out

    def _response(self, best: np.ndarray, flat: np.ndarray) -> dict[str, np.ndarray]:
        """The change of the flux over the true continuum for 0.1 dex more of each inferred element."""
        names = self.labels.names
        elements = {_element_of(name): i for i, name in enumerate(names) if _is_abundance(name)}
        stars = np.repeat(best[None], len(elements), axis=0)
        signs = np.ones(len(elements))
        for k, i in enumerate(elements.values()):
            signs[k] = 1.0 if best[i] + STEP <= self.labels[i].bounds[1] else -1.0
            stars[k, i] += signs[k] * STEP
        change = (self.models(stars, names) - flat) * signs[:, None]
        return dict(zip(elements, change, strict=True))


class Resimulator(Simulator):
    """Model spectra for the stars of one catalogue of ``specinn run``, whose files are read again.

    Parameters
    ----------
    catalogue
        A table of :func:`specinn.catalogue.read`, of one model.
    model
        Name or file of that model (default: as the catalogue names it).
    samples
        File of ``specinn run --save-samples``; without it samples are drawn again, the same ones
        thanks to the seed in the catalogue.
    resolving_power
        Of the spectra, if it was given to ``specinn run``.
    synthesizer, draws, respond
        As in :class:`Simulator`.

    Raises
    ------
    ConfigError, ModelError, PluginError
        If they do not match.
    """

    def __init__(
        self,
        catalogue: Table,
        *,
        plugins: Plugins | None = None,
        model: str | Path | None = None,
        synthesizer: str = "emulator",
        samples: str | Path | None = None,
        draws: int = DRAWS,
        resolving_power: float | None = None,
        device: str = "cpu",
        respond: bool = True,
    ) -> None:
        plugins = Plugins() if plugins is None else plugins
        if missing := sorted({"id", "path", "instrument", "rv", "flags", "model"} - set(catalogue.colnames)):
            raise ConfigError(f"the catalogue lacks {', '.join(missing)}: was it written by specinn run?")
        meta = {str(key).lower(): value for key, value in catalogue.meta.items()}
        self.model = _model_of(catalogue, plugins, model)
        run = prepare(
            plugins,
            instrument=str(meta.get("instrum", catalogue["instrument"][0])),
            model=self.model.path,
            device=device,
            samples=int(meta.get("samples", 4096)),
            seed=int(meta.get("seed", 0)),
            resolving_power=resolving_power,
            degrade_snr=meta.get("degraded"),
            synthetic=bool(meta.get("synthet", False)),
        )
        super().__init__(
            run, catalogue, plugins, synthesizer=synthesizer, samples=samples, draws=draws, respond=respond
        )
        self._files = _Files(catalogue)

    def __call__(
        self,
        files: Iterable[str | Path] | None = None,
        *,
        rows: Collection[int] | None = None,
        format: str = "auto",
    ) -> Iterator[Resimulation | Unsimulated]:
        """The stars of ``files`` (default: all that the catalogue names), of them those in ``rows`` of the
        table (default: all), one at a time. A star that fails is an :class:`Unsimulated`."""
        wanted = set(range(len(self.catalogue)) if rows is None else map(int, rows))
        paths = self._files.of(wanted) if files is None else [Path(file) for file in files]
        met: set[int] = set()
        for path in paths:
            seen: Counter[str] = Counter()
            source = file_source(path, self._files.number(path), self.plugins, format)
            for piece in self._run.pieces([source]):
                if piece.batch is None:
                    lost = sorted((self._files.rows(path) & wanted) - met) or [-1]
                    met.update(lost)
                    yield from (Unsimulated(path.name, str(path), row, piece.message) for row in lost)
                    continue
                for i, name in enumerate(map(str, piece.batch.meta["id"])):
                    row, why = self._files.row(path, name, seen[name])
                    seen[name] += 1
                    if row in wanted:
                        met.add(row)
                        yield self._guarded(piece.batch[i], row)
                    elif row < 0 and rows is None:
                        yield Unsimulated(name, str(path), -1, why)
        if files is None:
            for row in sorted(wanted - met):
                entry = self.catalogue[row]
                why = str(entry["message"] or "") or "the spectrum is no longer in its file"
                yield Unsimulated(str(entry["id"]), str(entry["path"]), row, why)

    def _guarded(self, star: SpectrumBatch, row: int) -> Resimulation | Unsimulated:
        name, path = str(star.meta["id"][0]), str(star.meta["path"][0])
        try:
            return self.star(star, row)
        except Exception as error:
            message = str(error)
            if not isinstance(error, SpecinnError):
                log.error("%s: unexpected error", name, exc_info=True)
                message = f"could not be resimulated: {type(error).__name__}: {error}"
            return Unsimulated(name, path, row, message)


class _Files:
    """Finds the row of a catalogue for a spectrum in a file."""

    def __init__(self, catalogue: Table) -> None:
        self._rows: dict[str, dict[str, list[int]]] = {}
        for row, (path, name) in enumerate(zip(catalogue["path"], catalogue["id"], strict=True)):
            self._rows.setdefault(str(path), {}).setdefault(str(name), []).append(row)
        self._numbers = {path: number for number, path in enumerate(self._rows)}

    def of(self, rows: Collection[int]) -> list[Path]:
        """The files of those rows, in the order of the catalogue."""
        return [
            Path(path) for path, ids in self._rows.items() if not set(rows).isdisjoint(chain(*ids.values()))
        ]

    def number(self, path: Path) -> int:
        """The position of the file in the run, on which the random draws of its spectra depend."""
        paths = self._known(path)
        return self._numbers[paths[0]] if paths else len(self._numbers)

    def rows(self, path: Path) -> set[int]:
        """All rows of a file."""
        return set(chain(*(rows for name in self._known(path) for rows in self._rows[name].values())))

    def row(self, path: Path, name: str, nth: int) -> tuple[int, str]:
        """The row of the ``nth`` spectrum of that name in a file; -1, and why, where there is none."""
        paths = self._known(path)
        if len(paths) > 1:
            return (
                -1,
                f"the catalogue has {len(paths)} files called {path.name}: give the path in it",
            )
        rows = self._rows[paths[0]].get(name, []) if paths else []
        return (rows[nth], "") if nth < len(rows) else (-1, "the catalogue has no row for this spectrum")

    def _known(self, path: Path) -> list[str]:
        """The catalogue's paths of a file: as given, or with the same name in another folder."""
        if str(path) in self._rows:
            return [str(path)]
        same = [name for name in self._rows if Path(name).name == path.name]
        exact = [name for name in same if Path(name).resolve() == path.resolve()]
        return exact[:1] or same


def _model_of(catalogue: Table, plugins: Plugins, override: str | Path | None) -> models.Model:
    """The model of the catalogue. Raises ``ConfigError`` where it is another one, or more than one."""
    named = sorted({str(name) for name in catalogue["model"]} - {""})
    if len(named) != 1:
        raise ConfigError(
            f"the catalogue is of {len(named)} models ({', '.join(named) or 'none'}): take one at a time"
        )
    name, _, sha256 = named[0].partition(" ")
    try:
        model = models.find(plugins, name if override is None else override)
    except ModelError as error:
        if override is not None:
            raise
        raise ConfigError(
            f"the catalogue was made with the model {named[0]}, which is not installed here: "
            "give its file with --model FILE.safetensors"
        ) from error
    if sha256 and not model.sha256().startswith(sha256):
        raise ConfigError(
            f"the catalogue was made with the model {named[0]}, but {model.path} is {model.sha256()[:12]}: "
            "give the right file with --model"
        )
    return model


def _samples_file(path: Path, catalogue: Table, labels: LabelSet) -> Path:
    """The path, if the file holds samples of that catalogue; else raises ``ConfigError``."""
    import h5py

    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        with h5py.File(path) as file:
            ids = [i.decode() for i in file["id"][:]]
            names = [str(name) for name in file.attrs["labels"]]
            complete = len(file["samples"]) == len(file["inside"]) == len(ids)
    except (OSError, KeyError) as error:
        raise ConfigError(f"{path} is not a file of specinn run --save-samples ({error})") from None
    if not complete or ids != [str(name) for name in catalogue["id"]] or names != list(labels.names):
        raise ConfigError(f"{path} holds {len(ids)} stars that are not those of the catalogue, row by row")
    return path


def _is_abundance(name: str) -> bool:
    return name in ("fe_h", "a_li") or name.endswith("_fe")


def _element_of(name: str) -> str:
    return {"fe_h": "Fe", "a_li": "Li"}.get(name) or name.partition("_")[0].capitalize()


def _number(value: Any) -> float:
    return float("nan") if value is np.ma.masked else float(value)
