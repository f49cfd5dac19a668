"""Observed spectra, and model spectra of what was inferred: at the MAP, with bands from posterior samples."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Table

from specinn import models
from specinn.errors import ConfigError, ModelError, SpecinnError
from specinn.flags import is_bad
from specinn.instruments import Instrument
from specinn.labels import LabelSet
from specinn.plugins import Plugins
from specinn.run import file_source, load_instrument, prepare
from specinn.saliency import Line, read_lines
from specinn.synthesis import Models
from specinn.wavelengths import C_KMS, air_to_vacuum

if TYPE_CHECKING:
    from specinn.spectra import SpectrumBatch

log = logging.getLogger(__name__)

LEVELS = (0.025, 0.16, 0.84, 0.975)  # of the bands, 95 and 68 %
DRAWS = 300  # posterior samples a star: the edge of the 95 % band is then good to a tenth of its width
STEP = 0.1  # dex by which an abundance is raised to see which pixels answer
_BLOCK = 50  # model spectra at once: 12 000 pixels in float64 and what the continuum makes of them
_REALISATIONS = 32  # of the noise, over which the continuum of the MAP spectrum is averaged
_SHIFT = 0.5  # standard deviations of the posterior by which samples drawn again may be off the catalogue
_HALF_WIDTH = 1.5  # Angstrom of a window, at least
_ANSWER = 0.002  # of the continuum for 0.1 dex: lines that answer less are not worth a window
_MOLECULES = {"C2": "C", "CN": "N", "MgH": "Mg"}  # the element for which their windows are shown


@attrs.frozen(eq=False)
class Resimulation:
    """One star: its spectrum as the trained model was given it, and what the labels make of it.

    Arrays have the pixels of ``instrument`` (``wavelength`` in Angstrom, its arms in ``slices``), fluxes are
    over the pseudo-continuum, and masked pixels are NaN. ``flux``, ``sigma (n_pix,)``: observed; ``model
    (n_pix,)``: at the MAP; ``bands (4, n_pix)``: quantiles :data:`LEVELS` of the model flux over posterior
    samples (NaN without any). ``used (n_pix,)``: the good pixels that the trained model looks at.
    ``labels``: the MAP by name. ``response``: by element, the change ``(n_pix,)`` of the model flux for
    0.1 dex more of it. ``samples (n, n_labels)``: all accepted posterior samples, with corrections as the
    catalogue has them; none without bands. ``row`` is that of the catalogue table; ``note`` what the user
    should know, or "".
    """

    id: str
    path: str
    row: int
    instrument: Instrument
    labels: Mapping[str, float]
    flux: np.ndarray
    sigma: np.ndarray
    model: np.ndarray
    bands: np.ndarray
    used: np.ndarray
    response: Mapping[str, np.ndarray]
    samples: np.ndarray
    note: str = ""

    @property
    def wavelength(self) -> np.ndarray:
        return self.instrument.wavelength

    @property
    def residual(self) -> np.ndarray:
        """``(n_pix,)`` observed minus model, in units of the continuum."""
        return self.flux - self.model

    @property
    def good(self) -> np.ndarray:
        """``(n_pix,)`` whether there are both an observed and a model flux."""
        return np.isfinite(self.residual) & np.isfinite(self.sigma)

    def numbers(self) -> dict[str, float | None]:
        """The values of :data:`NUMBERS` over all good pixels, and with ``_used`` after their names over those
        that the trained model looks at; None without pixels."""
        out: dict[str, float | None] = {}
        for end, where in (("", self.good), ("_used", self.used)):
            off, sigma = self.residual[where], self.sigma[where]
            out |= {f"{name}{end}": None for name in NUMBERS}
            out[f"n_pixels{end}"] = off.size
            if off.size:
                out[f"mean{end}"] = 100 * float(off.mean())
                out[f"mean_abs{end}"] = 100 * float(np.abs(off).mean())
                out[f"std{end}"] = 100 * float(off.std())
                out[f"noise{end}"] = 100 * float(np.sqrt(2 / np.pi) * sigma.mean())
                out[f"chi2{end}"] = float(((off / sigma) ** 2).mean())
        return out


@attrs.frozen
class Unsimulated:
    """A star without a model spectrum, and why; ``row`` is -1 where the catalogue has none for it."""

    id: str
    path: str
    row: int
    message: str


@attrs.frozen
class Window:
    """The surroundings of a spectral line, from ``low`` to ``high`` Angstrom in the instrument's medium."""

    element: str
    line: Line
    low: float
    high: float


class Resimulator:
    """Model spectra for the stars of one catalogue of ``specinn run``.

    Parameters
    ----------
    catalogue : a table of :func:`specinn.catalogue.read`, of one model.
    model : name or file of that model (default: as the catalogue names it).
    synthesizer : name of the plugin that computes model spectra.
    samples : file of ``specinn run --save-samples``; without it samples are drawn again, the same ones
        thanks to the seed in the catalogue.
    draws : posterior samples that make the bands; 0 for none.
    resolving_power : of the spectra, if it was given to ``specinn run``.
    respond : compute ``response``, which :func:`windows` needs to find the lines that tell most.

    Raises ``ConfigError``, ``ModelError`` or ``PluginError`` where they do not go together.
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
        self.catalogue, self.draws, self.respond = catalogue, draws, respond
        self.plugins = plugins = Plugins() if plugins is None else plugins
        if draws < 0:
            raise ConfigError(f"draws {draws}: expected a number of samples, or 0 for no bands")
        if missing := sorted({"id", "path", "instrument", "rv", "flags", "model"} - set(catalogue.colnames)):
            raise ConfigError(f"the catalogue lacks {', '.join(missing)}: is it one of specinn run?")
        meta = {str(key).lower(): value for key, value in catalogue.meta.items()}
        self.model = _model_of(catalogue, plugins, model)
        self._seed = int(meta.get("seed", 0))
        self._run = prepare(
            plugins,
            instrument=str(meta.get("instrum", catalogue["instrument"][0])),
            model=self.model.path,
            device=device,
            samples=int(meta.get("samples", 4096)),
            seed=self._seed,
            resolving_power=resolving_power,
            degrade_snr=meta.get("degraded"),
            synthetic=bool(meta.get("synthet", False)),
        )
        self.estimator = self._run.pipeline.estimator
        self.labels: LabelSet = self.estimator.labels
        if absent := [name for name in self.labels.names if name not in catalogue.colnames]:
            raise ConfigError(f"the catalogue lacks {', '.join(absent)}, which {self.model.name} infers")
        factory = plugins.load("synthesizer", synthesizer)
        code = factory.load() if hasattr(factory, "load") else factory()
        self.models = Models(code, self.estimator.instrument)
        self.models.complete(np.zeros((1, len(self.labels))), self.labels.names)  # that the labels suffice
        self._samples = None if samples is None else _samples_file(Path(samples), catalogue, self.labels)
        names = [name for name, _ in self._run.pipeline.steps]
        first = names.index("to-arms") + 1 if "to-arms" in names else names.index("continuum")
        self._normalisation = [
            step for name, step in self._run.pipeline.steps[first:] if name not in ("degrade-snr", "mask")
        ]
        self._files = _Files(catalogue)
        self._instruments: dict[str, Instrument] = {}

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
            return self._star(star, row)
        except Exception as error:
            message = str(error)
            if not isinstance(error, SpecinnError):
                log.error("%s: unexpected error", name, exc_info=True)
                message = f"could not be resimulated: {type(error).__name__}: {error}"
            return Unsimulated(name, path, row, message)

    def _star(self, star: SpectrumBatch, row: int) -> Resimulation:
        entry, names = self.catalogue[row], self.labels.names
        corrected = np.array([_number(entry[name]) for name in names])
        if is_bad(entry["flags"]) or not np.isfinite(corrected).all():
            raise ModelError(str(entry["message"] or "") or "the catalogue has no values for this star")
        columns = [f"{name}_raw" if f"{name}_raw" in entry.colnames else name for name in names]
        raw = np.array([_number(entry[column]) for column in columns])
        # A corrected abundance changes the lines of a trace element and nothing else. Parameters shape the
        # whole spectrum, and are taken as the network found them (section 4.3 of Ksoll et al. 2026).
        best = np.array([c if _is_abundance(n) else r for n, c, r in zip(names, corrected, raw, strict=True)])
        observed = self._observe(star, entry)
        samples, note = self._draw(observed, row)
        drawn_as = raw if self._samples is None else corrected
        values = samples[: self.draws] + (best - drawn_as)
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
            self._response(best, flat[0]) if self.respond else {}, samples + (corrected - drawn_as),
            "; ".join(notes),
        )  # fmt: skip

    def _observe(self, star: SpectrumBatch, entry: Any) -> SpectrumBatch:
        """The spectrum through the steps of the model, at the velocity that the catalogue says."""
        star = attrs.evolve(star, meta=star.meta.copy())
        star.meta["rv"] = np.array([_number(entry["rv"])])
        if star.resolving_power is None:
            name = str(entry["instrument"])
            if name not in self._instruments:
                self._instruments[name] = load_instrument(self.plugins, name)
            power = self._instruments[name].resolving_power_at(star.wavelength)
            star = attrs.evolve(star, resolving_power=power)
        return self._run.pipeline.preprocess(star)

    def _draw(self, observed: SpectrumBatch, row: int) -> tuple[np.ndarray, str]:
        """The accepted samples ``(n, n_labels)``, and what is wrong with them, if anything is."""
        if not self.draws:
            return np.empty((0, len(self.labels))), ""
        if self._samples is not None:
            import h5py

            with h5py.File(self._samples) as file:
                values, inside = file["samples"][row], file["inside"][row]
        else:
            found = self.estimator.sample(observed, self._run.pipeline.n_samples, self._seed)
            values, inside = found.samples[0], found.inside[0]
        values = np.asarray(values[inside], float)
        return values, "" if self._samples is not None else self._check(values, row)

    def _check(self, values: np.ndarray, row: int) -> str:
        """Whether samples drawn again are those of the catalogue."""
        entry, off = self.catalogue[row], []
        for name, column in zip(self.labels.names, values.T, strict=True):
            known = all(f"{name}_{end}" in entry.colnames for end in ("median", "std"))
            if known and f"{name}_raw" not in entry.colnames and column.size:
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
        shifts an upper envelope; it is taken off again afterwards.
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


def windows(star: Resimulation, each: int = 4, lines: Sequence[Line] | None = None) -> list[Window]:
    """At most ``each`` windows an element that the model infers, and hydrogen before them if it infers Teff.

    A line has a good pixel within 0.2 Angstrom. Those by which Ksoll et al. 2026 measure abundances come
    first, then those whose pixels the model looks at, then those that answer most to their element. Without
    :attr:`Resimulation.response` there are no windows but those of hydrogen.
    """
    vacuum = star.instrument.medium == "vacuum"
    flat = np.full(star.wavelength.shape, np.inf)
    elements = {**({"H": flat} if "teff" in star.labels else {}), **star.response}
    found: list[Window] = []
    lines = read_lines() if lines is None else lines
    for element, response in elements.items():
        ranked = []
        for line in lines:
            if _MOLECULES.get(line.species, line.species.split()[0]) != element:
                continue
            centre = float(air_to_vacuum(np.array([line.wavelength]))[0]) if vacuum else line.wavelength
            here = np.abs(star.wavelength - centre) < 0.2
            answer = float(np.abs(response[here & star.good]).max(initial=0.0))
            if (here & star.good).any() and (line.diagnostic or answer > _ANSWER):
                ranked.append((not line.diagnostic, not (here & star.used).any(), -answer, centre, line))
        mine: list[Window] = []
        for *_, centre, line in sorted(ranked, key=lambda item: item[:4]):
            half = max(_HALF_WIDTH, 1.6 * line.reach, 1.8 * star.labels.get("vbroad", 0.0) / C_KMS * centre)
            near = [w for w in mine if abs(centre - 0.5 * (w.low + w.high)) < _HALF_WIDTH]
            if not near and len(mine) < each:
                mine.append(Window(element, line, centre - half, centre + half))
        found += sorted(mine, key=lambda window: window.low)
    return found


NUMBERS = {
    "mean": ("percent", "Mean of observed minus model flux, of the continuum"),
    "mean_abs": ("percent", "Mean absolute difference of observed and model flux, of the continuum"),
    "std": ("percent", "Standard deviation of observed minus model flux, of the continuum"),
    "noise": ("percent", "Mean absolute difference that the noise alone would make"),
    "chi2": ("", "Chi-square per pixel"),
    "n_pixels": ("", "Number of pixels"),
}


def overall(stars: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """:meth:`Resimulation.numbers` of all pixels of many stars, from those of each."""
    out: dict[str, float | None] = {}
    for end in ("", "_used"):
        known = [star for star in stars if star[f"n_pixels{end}"]]
        column = {name: np.array([star[f"{name}{end}"] for star in known], float) for name in NUMBERS}
        weight = column["n_pixels"]
        out |= {f"{name}{end}": None for name in NUMBERS}
        out[f"n_pixels{end}"] = int(weight.sum())
        if not known:
            continue
        for name in ("mean", "mean_abs", "noise", "chi2"):
            out[name + end] = float(np.average(column[name], weights=weight))
        squares = column["std"] ** 2 + (column["mean"] - out[f"mean{end}"]) ** 2
        out[f"std{end}"] = float(np.sqrt(np.average(squares, weights=weight)))
    return out


class _Files:
    """Which row of a catalogue is that of a spectrum in a file."""

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
        """The place of the file in the run: on it hang the random draws of its spectra."""
        known = self._known(path)
        return self._numbers[known[0]] if known else len(self._numbers)

    def rows(self, path: Path) -> set[int]:
        """All rows of a file."""
        return set(chain(*(rows for known in self._known(path) for rows in self._rows[known].values())))

    def row(self, path: Path, name: str, nth: int) -> tuple[int, str]:
        """The row of the ``nth`` spectrum of that name in a file; -1, and why, where there is none."""
        known = self._known(path)
        if len(known) > 1:
            return -1, f"the catalogue has {len(known)} files called {path.name}: give the path as it has it"
        rows = self._rows[known[0]].get(name, []) if known else []
        return (rows[nth], "") if nth < len(rows) else (-1, "the catalogue has no row for this spectrum")

    def _known(self, path: Path) -> list[str]:
        """The catalogue's paths of a file: as given, or with the same name in another folder."""
        if str(path) in self._rows:
            return [str(path)]
        same = [known for known in self._rows if Path(known).name == path.name]
        exact = [known for known in same if Path(known).resolve() == path.resolve()]
        return exact[:1] or same


def _model_of(catalogue: Table, plugins: Plugins, given: str | Path | None) -> models.Model:
    """The model of the catalogue. Raises ``ConfigError`` where it is another one, or more than one."""
    named = sorted({str(name) for name in catalogue["model"]} - {""})
    if len(named) != 1:
        raise ConfigError(
            f"the catalogue is of {len(named)} models ({', '.join(named) or 'none'}): take one at a time"
        )
    name, _, sha256 = named[0].partition(" ")
    found = models.find(plugins, name if given is None else given)
    if sha256 and not found.sha256().startswith(sha256):
        raise ConfigError(
            f"the catalogue was made with the model {named[0]}, {found.path} is {found.sha256()[:12]}: give "
            "the right file with --model"
        )
    return found


def _samples_file(path: Path, catalogue: Table, labels: LabelSet) -> Path:
    """The path, if the file holds samples of that catalogue; else raises ``ConfigError``."""
    import h5py

    try:
        with h5py.File(path) as file:
            ids = [i.decode() for i in file["id"][:]]
            names = [str(name) for name in file.attrs["labels"]]
            complete = len(file["samples"]) == len(file["inside"]) == len(ids)
    except (OSError, KeyError) as error:
        raise ConfigError(f"{path} is no file of specinn run --save-samples ({error})") from None
    if not complete or ids != [str(name) for name in catalogue["id"]] or names != list(labels.names):
        raise ConfigError(f"{path} holds {len(ids)} stars that are not those of the catalogue, row by row")
    return path


def _is_abundance(name: str) -> bool:
    return name in ("fe_h", "a_li") or name.endswith("_fe")


def _element_of(name: str) -> str:
    return {"fe_h": "Fe", "a_li": "Li"}.get(name) or name.partition("_")[0].capitalize()


def _number(value: Any) -> float:
    return float("nan") if value is np.ma.masked else float(value)
