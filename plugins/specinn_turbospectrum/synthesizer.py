"""The synthesizer ``turbospectrum``: labels to spectra by the code itself, some seconds each."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.config import structure
from specinn.errors import ConfigError, SynthesisError
from specinn.plugins import Component, Synthesizer
from specinn_turbospectrum import abundances, installation
from specinn_turbospectrum.atmospheres import Atmosphere, Atmospheres
from specinn_turbospectrum.corrections import SHIPPED, Corrections
from specinn_turbospectrum.departures import DepartureGrid, Departures, read_departures
from specinn_turbospectrum.enhancement import SHIPPED as ENHANCEMENT
from specinn_turbospectrum.enhancement import Enhancement
from specinn_turbospectrum.installation import BLUE, GAIA_ESO, HYDROGEN, Installation
from specinn_turbospectrum.linelists import ATOMIC_NUMBER, ENDS, Species, cut_hydrogen, select, write
from specinn_turbospectrum.runner import Star, Window, synthesise
from specinn_turbospectrum.strength import worth_computing

_EDGE = 5.0  # Angstrom beyond a window from which lines are taken; the code takes those within 2
# Layers: the flux at R = 20 000 differs from that of all 56 of MARCS by 6e-4 (blue), 1e-4 and 8e-5 in the
# median of the Sun.
_LG_TAU = np.array(
    [-5.0, -4.4, -3.8, -3.2, -2.8, -2.4, -2.0, -1.7, -1.4, -1.1, -0.9, -0.7, -0.5,
     -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.2]
)  # fmt: skip
_WEAKEST_COOL = 2.0  # dex below the strongest line of such a molecule in a window
_COOL = {"TiO": 4500.0}  # K, below which a molecule has lines that can be seen
_ABUNDANCES = (-2.0, 2.0)  # dex, of [X/Fe]
# Teff, log g, [Fe/H] and microturbulence of the stars of the label space with the strongest lines, and their
# abundances: [X/Fe] of all elements and of those heavier than zinc; log eps of those without one.
_STRONGEST = (
    (3600.0, 0.8, 0.5, 2.5), (3600.0, 5.0, 0.5, 1.0), (4300.0, 1.5, 0.5, 2.5), (5000.0, 2.5, 0.5, 2.0),
    (5000.0, 4.5, 0.5, 1.0), (5800.0, 4.4, 0.5, 1.0), (6500.0, 4.0, 0.5, 1.5), (7400.0, 4.0, 0.5, 2.0),
)  # fmt: skip
_RICH, _HEAVY_RICH, _OTHERS = 0.5, 1.5, 4.7
_Strong = tuple[Atmosphere, dict[int, float], float]  # with abundances and microturbulence


@attrs.frozen
class NLTE:
    """``[synthesizer.nlte.Ca]``: the model ``atom``, and ``departures`` (a text file for one abundance)
    or ``records`` and ``index`` (a binary grid and its text file of pointers)."""

    atom: str
    departures: str = ""
    records: str = ""
    index: str = ""


@attrs.frozen
class Settings:
    """The ``[synthesizer]`` table of ``kind = "turbospectrum"``. Empty paths are what set-up installed."""

    prefix: str = ""
    executables: str = ""
    data: str = ""
    atmospheres: str = ""
    line_lists: list[str] = attrs.field(factory=list)
    molecules: list[str] = attrs.field(factory=lambda: ["C2", "CN", "CH", "NH", "MgH", "SiH", "TiO"])
    corrections: str = ""
    enhancement: str = "shipped"
    segments: dict[str, list[float]] = attrs.field(
        factory=lambda: {"green": [5146.0, 5742.0], "red": [6092.0, 6797.0]}
    )
    step: float = 0.02
    steps: dict[str, float] = attrs.field(factory=dict)
    all_depths: bool = False
    isotopes: dict[str, float] = attrs.field(factory=dict)
    nlte: dict[str, NLTE] = attrs.field(factory=dict)
    timeout: float = 1800.0
    processes: int = 1

    def __attrs_post_init__(self) -> None:
        if self.processes < 1:
            raise ConfigError(f"processes is {self.processes}, expected 1 or more")
        if self.enhancement not in ("shipped", "none"):
            raise ConfigError(f'enhancement is "{self.enhancement}", expected "shipped" or "none"')
        if not self.segments:
            raise ConfigError("segments is empty: give a range, such as green = [5146, 5742]")
        if foreign := [name for name in self.steps if name not in self.segments]:
            raise ConfigError(f"steps: {foreign[0]} is not a segment, which are {', '.join(self.segments)}")
        end = 0.0
        for name, pair in sorted(self.segments.items(), key=lambda item: item[1]):
            if len(pair) != 2 or not 900.0 <= pair[0] < pair[1] <= 25_000.0:
                raise ConfigError(f"segment {name} is {pair}: expected [from, to] in Angstrom")
            if pair[0] <= end:
                raise ConfigError(f"segment {name} begins at {pair[0]}, within the one before it")
            step = self.step_of(name)
            if not 0.001 <= step <= 1.0:
                raise ConfigError(f"step is {step} Angstrom, expected 0.001 to 1")
            if (pair[1] - pair[0]) / step > 200_000:
                raise ConfigError(f"segment {name} has more than 200 000 steps of {step} Angstrom: divide it")
            end = pair[1]
        for element in self.nlte:
            if element not in ATOMIC_NUMBER:
                raise ConfigError(f"nlte: {element} is not the symbol of an element")
        for code, fraction in self.isotopes.items():
            number, dot, isotope = code.partition(".")
            if not (number.isdigit() and dot and len(isotope) == 3 and isotope.isdigit()):
                raise ConfigError(
                    f"isotopes: {code} should be such as '12.024' (atomic number, dot, 3 digits)"
                )
            if not 0.0 <= fraction <= 1.0:
                raise ConfigError(f"isotopes: the fraction of {code} is {fraction}, expected 0 to 1")

    def installation(self) -> Installation:
        """The parts, with the user's own in place of those that set-up installed."""
        found = Installation.under(Path(self.prefix).expanduser() if self.prefix else None)
        own: dict[str, Any] = {
            name: Path(value).expanduser()
            for name in ("executables", "data", "atmospheres")
            if (value := getattr(self, name))
        }
        if self.line_lists:
            files = [Path(name).expanduser() for name in self.line_lists]
            own["line_lists"] = {file.stem: file for file in files}
            if len(own["line_lists"]) < len(files):
                raise ConfigError("line_lists: two files have the same name")
        return attrs.evolve(found, **own)

    def step_of(self, segment: str) -> float:
        """Angstrom between pixels."""
        return self.steps.get(segment, self.step)

    def lists_for(self, low: float) -> list[str]:
        """The names of the line lists of a window that begins at ``low``, for stars of any temperature."""
        if self.line_lists:
            return [Path(name).stem for name in self.line_lists]
        molecules = [name for name in self.molecules if low < ENDS.get(name, np.inf) and name not in _COOL]
        return [*([BLUE] if low - _EDGE < 4200.0 else []), GAIA_ESO, *molecules]

    def lists_of_cool_stars(self) -> list[str]:
        """The names of the line lists that are read below a temperature."""
        return [] if self.line_lists else [name for name in self.molecules if name in _COOL]

    def read_corrections(self, checksums: Mapping[str, str]) -> Corrections | None:
        """Those of ``corrections``; without a word, the shipped ones for the lists of set-up and none for the
        user's own."""
        source = self.corrections or ("none" if self.line_lists else "shipped")
        if source == "none":
            return None
        corrections = Corrections.read(SHIPPED if source == "shipped" else Path(source).expanduser())
        corrections.check(checksums)
        return corrections


@attrs.frozen
class _Table:
    synthesizer: Settings


class Turbospectrum(Synthesizer):
    """Turbospectrum 2020 between MARCS models: LTE, or NLTE for elements with departure coefficients.

    Spherical for log g <= 3 (with one solar mass), plane-parallel above. Flux at the pixels of the code,
    not broadened: :attr:`resolving_power` is infinite. Elements that are not labels have [X/Fe] = 0 on the
    scale of Magg et al. (2022), but O, Ne, S and Ar follow the mean of Mg, Si, Ca and Ti.

    Raises ``SynthesisError`` where a part is not installed, and for every spectrum that is not complete.
    """

    medium = "air"
    resolving_power = np.inf

    def __init__(self, settings: Settings | None = None, labels: Sequence[str] = abundances.LABELS) -> None:
        self.settings = Settings() if settings is None else settings
        abundances.check_labels(labels)
        self.labels = tuple(labels)
        segments = sorted(self.settings.segments.items(), key=lambda item: item[1])
        self._installation = self.settings.installation()
        names = list(dict.fromkeys(name for _, (low, _) in segments for name in self.settings.lists_for(low)))
        cool = self.settings.lists_of_cool_stars()
        self._installation.check([*names, *cool])
        self.corrections = self.settings.read_corrections(self._installation.checksums(names))
        self._atmospheres = Atmospheres.within(self._installation.atmospheres)
        self._enhancement = Enhancement() if self.settings.enhancement == "shipped" else None
        self._departures = {
            element: _departures(element, nlte) for element, nlte in self.settings.nlte.items()
        }
        self._folder = Path(tempfile.mkdtemp(prefix="specinn-turbospectrum-"))
        weakref.finalize(self, _remove, self._folder, os.getpid())
        strong = self._stars_of_strong_lines()
        self._windows = [self._window(name, low, high, strong) for name, (low, high) in segments]
        self._cool_lists: dict[tuple[str, float], Path] = {}
        pieces = [window.wavelength for window in self._windows]
        ends = np.cumsum([0, *(piece.size for piece in pieces)]).tolist()
        self.wavelength = np.concatenate(pieces)
        self.arms = {name: slice(ends[i], ends[i + 1]) for i, (name, _) in enumerate(segments)}
        self.bounds = np.array([self._bounds(name) for name in self.labels])
        self.provenance = self._provenance([*names, *cool])

    @classmethod
    def from_config(cls, config: Mapping[str, Any], labels: Sequence[str]) -> Turbospectrum:
        settings = structure({"synthesizer": dict(config)}, _Table, "turbospectrum").synthesizer
        return cls(settings, labels)

    @classmethod
    def setup(cls, prefix: Path | None, progress: Callable[[str], None]) -> None:
        from specinn_turbospectrum.setup import setup

        setup(installation.default_prefix() if prefix is None else prefix, progress)

    @classmethod
    def components(cls, prefix: Path | None = None) -> list[Component]:
        shipped = {"line corrections": SHIPPED, "alpha enhancement": ENHANCEMENT}
        return [
            *installation.components(prefix),
            *(
                Component(
                    f"turbospectrum {name}",
                    True,
                    f"{path.name}, SHA-256 {installation.sha256(path)[:12]}, shipped with specinn",
                )
                for name, path in shipped.items()
            ),
        ]

    @classmethod
    def fit_lines(
        cls,
        recipe: Path,
        output: Path,
        plugins: Any,
        *,
        folder: Path,
        page: Path | None = None,
        leave_one_out: bool = False,
        processes: int = 1,
        progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        from specinn_turbospectrum.line_fit.fit import fit_lines
        from specinn_turbospectrum.line_fit.page import write_page
        from specinn_turbospectrum.line_fit.recipe import Recipe
        from specinn_turbospectrum.line_fit.result import as_table, write

        read = Recipe.read(recipe)
        result = fit_lines(
            read, folder, plugins, leave_one_out=leave_one_out, processes=processes, progress=progress
        )
        table = as_table(result, read)
        write(table, output)
        if page is not None:
            write_page(result, read, table, page)

    def covering(self, ranges: Mapping[str, tuple[float, float]]) -> Turbospectrum:
        mine = [(self.wavelength[arm][0], self.wavelength[arm][-1]) for arm in self.arms.values()]
        if all(any(low <= a and b <= high for low, high in mine) for a, b in ranges.values()):
            return self
        segments = {name: [float(np.floor(a)), float(np.ceil(b))] for name, (a, b) in ranges.items()}
        steps = {name: step for name, step in self.settings.steps.items() if name in segments}
        return type(self)(attrs.evolve(self.settings, segments=segments, steps=steps), self.labels)

    def __call__(self, labels: Any) -> Any:
        values = np.atleast_2d(np.asarray(labels, float))
        if values.shape[1] != len(self.labels):
            raise ConfigError(
                f"{values.shape[1]} values per star, expected {len(self.labels)}: {', '.join(self.labels)}"
            )
        if self.settings.processes == 1 or len(values) == 1:
            flux = np.stack([self._spectrum(row) for row in values])
        else:  # threads that wait for processes
            with ThreadPoolExecutor(self.settings.processes) as pool:
                flux = np.stack(list(pool.map(self._spectrum, values)))
        if hasattr(labels, "new_tensor"):
            return labels.new_tensor(flux)
        return flux

    def _spectrum(self, values: np.ndarray) -> np.ndarray:
        """Flux ``(n_pix,)`` of one star; an error names its labels."""
        star = dict(zip(self.labels, values.tolist(), strict=True))
        try:
            if not np.isfinite(values).all():
                raise SynthesisError("a label is not a finite number")
            atmosphere = self._atmospheres(star["teff"], star["logg"], star["fe_h"])
            if self._enhancement is not None:
                atmosphere = self._enhancement(atmosphere, abundances.alpha_fe(star))
            if not self.settings.all_depths:
                atmosphere = atmosphere.on_depths(_LG_TAU)
            elements = abundances.log_eps(star)
            departures = []
            lg_tau = np.round(atmosphere.structure[0], 5)
            for element, source in self._departures.items():
                if isinstance(source, Departures):
                    departures.append(source.on_depths(lg_tau))
                else:
                    eps = elements[ATOMIC_NUMBER[element]]
                    departures.append(source(star["teff"], star["logg"], star["fe_h"], eps, lg_tau))
            with tempfile.TemporaryDirectory(dir=self._folder) as name:
                folder = Path(name)
                atmosphere.write(folder / "atmosphere", star["vmic"])
                what = Star(
                    folder / "atmosphere",
                    star["vmic"],
                    star["fe_h"],
                    elements,
                    atmosphere.spherical,
                    self.settings.isotopes,
                    departures,
                )
                windows = self._windows_for(star["teff"])
                return synthesise(self._installation, what, windows, folder, self.settings.timeout)
        except SynthesisError as error:
            about = ", ".join(f"{name} = {value:g}" for name, value in star.items())
            raise SynthesisError(f"{error}\n    (labels: {about})") from None

    def atmosphere(self, teff: float, logg: float, fe_h: float) -> Atmosphere:
        """The model atmosphere between those of MARCS, with all layers."""
        return self._atmospheres(teff, logg, fe_h)

    @property
    def data(self) -> Path:
        """The folder DATA of the code."""
        return self._installation.data

    def lines(self, segment: str) -> list[Species]:
        """The lines of a segment, corrected, as the code reads them for stars that are not cool."""
        low, high = self.settings.segments[segment]
        files = [self._installation.line_lists[n] for n in self.settings.lists_for(low)]
        species = select(files, low - _EDGE, high + _EDGE)
        return self.corrections.apply(species, low, high) if self.corrections else species

    def with_lines(self, lists: Mapping[str, Path]) -> Turbospectrum:
        """The same with other line lists, one for each segment: for fits of line data."""
        other = copy.copy(self)
        other._windows = [
            attrs.evolve(window, line_lists=(lists[name], *window.line_lists[1:]))
            for name, window in zip(self.arms, self._windows, strict=True)
        ]
        return other

    def _window(self, name: str, low: float, high: float, strong: Sequence[_Strong]) -> Window:
        """The window with lists cut to it, without lines that none of the stars ``strong`` shows."""
        lines, hydrogen = self._folder / f"{name}.list", self._folder / f"{name}.hydrogen"
        species = self.lines(name)
        if strong:
            species = worth_computing(species, strong, self.data)
        if not write(species, lines):
            raise SynthesisError(f"the line lists have no lines from {low:g} to {high:g} Angstrom")
        parts = [lines]
        if cut_hydrogen(self._installation.data / HYDROGEN, low, high, hydrogen):
            parts.append(hydrogen)
        return Window(low, high, self.settings.step_of(name), tuple(parts))

    def _stars_of_strong_lines(self) -> list[_Strong]:
        """Those that decide which lines are left out; none where the models do not reach that far."""
        out = []
        for teff, logg, fe_h, vmic in _STRONGEST:
            log_eps = dict.fromkeys(ATOMIC_NUMBER.values(), _OTHERS)
            for number, value in abundances.log_eps({"fe_h": fe_h, "a_li": 3.5}).items():
                log_eps[number] = value + (_HEAVY_RICH if number > ATOMIC_NUMBER["Zn"] else _RICH)
            try:
                out.append((self._atmospheres(teff, logg, fe_h), log_eps, vmic))
            except SynthesisError:
                return []
        return out

    def _windows_for(self, teff: float) -> list[Window]:
        """With the lines that only cool stars show, where this is one."""
        names = [name for name in self.settings.lists_of_cool_stars() if teff < _COOL[name]]
        out = []
        for window in self._windows:
            lists = [self._cool_list(name, window) for name in names]
            out.append(attrs.evolve(window, line_lists=(*window.line_lists, *filter(None, lists))))
        return out

    def _cool_list(self, name: str, window: Window) -> Path | None:
        """The lines of a molecule of cool stars in a window; None where it has none there."""
        at = (name, window.low)
        if at not in self._cool_lists:
            target = self._folder / f"{name}-{window.low:g}.list"
            part = target.with_suffix(f".{threading.get_ident()}")
            file = self._installation.line_lists[name]
            write(select([file], window.low - _EDGE, window.high + _EDGE, _WEAKEST_COOL), part)
            os.replace(part, target)  # threads may come here at the same time
            self._cool_lists[at] = target
        return self._cool_lists[at] if self._cool_lists[at].stat().st_size else None

    def _bounds(self, label: str) -> tuple[float, float]:
        teff, logg, fe_h = self._atmospheres.bounds.tolist()
        own = {
            "teff": tuple(teff),
            "logg": tuple(logg),
            "fe_h": (min(fe_h[0], -4.0), fe_h[1]),
            "vmic": (0.1, 10.0),
            "a_li": (-3.0, 5.0),
        }
        return own.get(label, _ABUNDANCES)

    def _own_executables(self) -> str:
        checksum = installation.sha256(self._installation.executables / "bsyn_lu")
        return f"bsyn_lu with SHA-256 {checksum[:12]}"

    def _provenance(self, line_lists: Sequence[str]) -> dict[str, Any]:
        recorded = self._installation.recorded
        code = {} if self.settings.executables else recorded.get("code", {})
        models = {} if self.settings.atmospheres else recorded.get("atmospheres", {})
        teff, logg, fe_h = self._atmospheres.bounds.tolist()
        return {
            "code": "Turbospectrum 2020",
            "version": code.get("package") or self._own_executables(),
            "compiler": " ".join(filter(None, (code.get("compiler"), code.get("flags")))),
            "nlte": {element: _describe(nlte) for element, nlte in self.settings.nlte.items()},
            "atmospheres": {
                "source": models.get("summary", f"MARCS models in {self._installation.atmospheres.name}"),
                "sha256": models.get("files", {}).get("marcs", ""),
                "models": len(self._atmospheres.models),
                "range": {"teff": teff, "logg": logg, "fe_h": fe_h},
                "layers": "all" if self.settings.all_depths else len(_LG_TAU),
                "interpolation": "blended parabolas in Teff, [M/H], log g; the lowest [M/H] below it",
                "alpha_enhancement": (
                    {"source": self._enhancement.source, "sha256": self._enhancement.sha256}
                    if self._enhancement
                    else "none"
                ),
            },
            "geometry": "spherical for log g <= 3 (1 Msun), plane-parallel above",
            "line_lists": self._installation.checksums(line_lists),
            "line_corrections": (
                {"source": self.corrections.source, "sha256": self.corrections.sha256}
                if self.corrections
                else "none"
            ),
            "hydrogen": {
                name: window.line_lists[-1].suffix == ".hydrogen"
                for name, window in zip(self.arms, self._windows, strict=True)
            },
            "isotopes": self.settings.isotopes or "solar",
            "solar_scale": abundances.SCALE,
            "step_A": self.settings.steps or self.settings.step,
            "flux": "normalised to the true continuum",
        }


def _departures(element: str, given: NLTE) -> Departures | DepartureGrid:
    if bool(given.departures) == bool(given.records) or bool(given.records) != bool(given.index):
        raise ConfigError(f"nlte.{element}: give departures, or records and index")
    atom = Path(given.atom).expanduser()
    if given.departures:
        return read_departures(element, atom, Path(given.departures).expanduser())
    return DepartureGrid(element, atom, Path(given.records).expanduser(), Path(given.index).expanduser())


def _describe(nlte: NLTE) -> str:
    """Which departure coefficients: the name and SHA-256 of the small file, and the size of a binary grid."""
    small = Path(nlte.departures or nlte.index).expanduser()
    text = f"{small.name} (SHA-256 {installation.sha256(small)[:12]})"
    if nlte.records:
        records = Path(nlte.records).expanduser()
        text += f", {records.name} ({records.stat().st_size} bytes)"
    return f"{text}, {Path(nlte.atom).name}"


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # and not in a process that was forked
        shutil.rmtree(folder, ignore_errors=True)
