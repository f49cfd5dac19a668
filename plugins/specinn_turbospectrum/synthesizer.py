"""The synthesizer ``turbospectrum``: labels to spectra by the code itself, some seconds each."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.config import structure
from specinn.errors import ConfigError, SynthesisError
from specinn.plugins.interfaces import Component, Synthesizer
from specinn_turbospectrum import abundances, installation
from specinn_turbospectrum.atmospheres import Atmospheres
from specinn_turbospectrum.departures import DepartureGrid, Departures, read_departures
from specinn_turbospectrum.installation import BLUE, GAIA_ESO, HYDROGEN, Installation
from specinn_turbospectrum.linelists import ATOMIC_NUMBER, ENDS, cut, cut_hydrogen
from specinn_turbospectrum.runner import Star, Window, synthesise

_EDGE = 5.0  # Angstrom beyond a window from which lines are taken; the code takes those within 2
_LG_TAU = np.round(np.arange(-5.0, 1.21, 0.2), 6)  # 32 layers; all 56 of MARCS change the mean flux by 1.3e-4
_ABUNDANCES = (-2.0, 2.0)  # dex, of [X/Fe]


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
    molecules: list[str] = attrs.field(factory=lambda: ["C2", "CN", "CH", "NH", "MgH", "SiH"])
    segments: dict[str, list[float]] = attrs.field(
        factory=lambda: {"green": [5146.0, 5742.0], "red": [6092.0, 6797.0]}
    )
    step: float = 0.02
    all_depths: bool = False
    isotopes: dict[str, float] = attrs.field(factory=dict)
    nlte: dict[str, NLTE] = attrs.field(factory=dict)
    timeout: float = 1800.0
    processes: int = 1

    def __attrs_post_init__(self) -> None:
        if not 0.001 <= self.step <= 1.0:
            raise ConfigError(f"step is {self.step} Angstrom, expected 0.001 to 1")
        if self.processes < 1:
            raise ConfigError(f"processes is {self.processes}, expected 1 or more")
        if not self.segments:
            raise ConfigError("segments is empty: give a range, such as green = [5146, 5742]")
        end = 0.0
        for name, pair in sorted(self.segments.items(), key=lambda item: item[1]):
            if len(pair) != 2 or not 900.0 <= pair[0] < pair[1] <= 25_000.0:
                raise ConfigError(f"segment {name} is {pair}: expected [from, to] in Angstrom")
            if pair[0] <= end:
                raise ConfigError(f"segment {name} begins at {pair[0]}, within the one before it")
            if (pair[1] - pair[0]) / self.step > 200_000:
                raise ConfigError(
                    f"segment {name} has more than 200 000 steps of {self.step} Angstrom: divide it"
                )
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

    def lists_for(self, low: float) -> list[str]:
        """The names of the line lists of a window that begins at ``low``."""
        if self.line_lists:
            return [Path(name).stem for name in self.line_lists]
        molecules = [name for name in self.molecules if low < ENDS.get(name, np.inf)]
        return [*([BLUE] if low - _EDGE < 4200.0 else []), GAIA_ESO, *molecules]


@attrs.frozen
class _Table:
    synthesizer: Settings


class Turbospectrum(Synthesizer):
    """Turbospectrum 2020 between MARCS models: LTE, or NLTE for elements with departure coefficients.

    Spherical for log g <= 3 (with one solar mass), plane-parallel above. Flux at the pixels of the code,
    not broadened: :attr:`resolving_power` is infinite. Elements that are no label have [X/Fe] = 0 on the
    scale of Magg et al. (2022), but O, Ne, S and Ar follow the mean of Mg, Si, Ca and Ti.

    Raises ``SynthesisError`` where a part is not installed, and for every spectrum that is not whole.
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
        self._installation.check(names)
        self._atmospheres = Atmospheres.within(self._installation.atmospheres)
        self._departures = {
            element: _departures(element, nlte) for element, nlte in self.settings.nlte.items()
        }
        self._folder = Path(tempfile.mkdtemp(prefix="specinn-turbospectrum-"))
        weakref.finalize(self, _remove, self._folder, os.getpid())
        self._windows = [self._window(name, low, high) for name, (low, high) in segments]
        pieces = [window.wavelength for window in self._windows]
        ends = np.cumsum([0, *(piece.size for piece in pieces)]).tolist()
        self.wavelength = np.concatenate(pieces)
        self.arms = {name: slice(ends[i], ends[i + 1]) for i, (name, _) in enumerate(segments)}
        self.bounds = np.array([self._bounds(name) for name in self.labels])
        self.provenance = self._provenance(names)

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
        return installation.components(prefix)

    def covering(self, ranges: Mapping[str, tuple[float, float]]) -> Turbospectrum:
        mine = [(self.wavelength[arm][0], self.wavelength[arm][-1]) for arm in self.arms.values()]
        if all(any(low <= a and b <= high for low, high in mine) for a, b in ranges.values()):
            return self
        segments = {name: [float(np.floor(a)), float(np.ceil(b))] for name, (a, b) in ranges.items()}
        return type(self)(attrs.evolve(self.settings, segments=segments), self.labels)

    def __call__(self, labels: Any) -> Any:
        values = np.atleast_2d(np.asarray(labels, float))
        if values.shape[1] != len(self.labels):
            raise ConfigError(
                f"{values.shape[1]} values a star, expected {len(self.labels)}: {', '.join(self.labels)}"
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
                return synthesise(self._installation, what, self._windows, folder, self.settings.timeout)
        except SynthesisError as error:
            about = ", ".join(f"{name} = {value:g}" for name, value in star.items())
            raise SynthesisError(f"{error}\n    (labels: {about})") from None

    def _window(self, name: str, low: float, high: float) -> Window:
        """The window with line lists that are cut to it."""
        files = [self._installation.line_lists[n] for n in self.settings.lists_for(low)]
        lines, hydrogen = self._folder / f"{name}.list", self._folder / f"{name}.hydrogen"
        if not cut(files, low - _EDGE, high + _EDGE, lines):
            raise SynthesisError(f"the line lists have no lines from {low:g} to {high:g} Angstrom")
        parts = [lines]
        if cut_hydrogen(self._installation.data / HYDROGEN, low, high, hydrogen):
            parts.append(hydrogen)
        return Window(low, high, self.settings.step, tuple(parts))

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
                "source": models.get("summary", f"MARCS models in {self._installation.atmospheres}"),
                "sha256": models.get("files", {}).get("marcs", ""),
                "models": len(self._atmospheres.models),
                "range": {"teff": teff, "logg": logg, "fe_h": fe_h},
                "layers": "all" if self.settings.all_depths else len(_LG_TAU),
                "interpolation": "blended parabolas in Teff, [M/H], log g; the lowest [M/H] below it",
            },
            "geometry": "spherical for log g <= 3 (1 Msun), plane-parallel above",
            "line_lists": self._installation.checksums(line_lists),
            "hydrogen": {
                name: window.line_lists[-1].suffix == ".hydrogen"
                for name, window in zip(self.arms, self._windows, strict=True)
            },
            "isotopes": self.settings.isotopes or "solar",
            "solar_scale": abundances.SCALE,
            "step_A": self.settings.step,
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
