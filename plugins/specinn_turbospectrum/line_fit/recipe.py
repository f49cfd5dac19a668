"""``RECIPE.toml`` of ``specinn synthesis fit-lines``: reference stars, windows, and how far lines may
move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from specinn.config import read_toml, structure
from specinn.errors import ConfigError
from specinn.wavelengths import C_KMS
from specinn_turbospectrum import abundances
from specinn_turbospectrum.linelists import ATOMIC_NUMBER, MOLECULES

MIN_RESOLVING_POWER = 30_000.0  # below it the lines of a G dwarf merge
MARGIN = 4.0  # Angstrom of a window at its ends, for broadening
LEAST_KMS = 1000.0  # of a window between its margins, and of a spectrum in it, that a fit needs
FITTED_ALONG = ("vmic", *(name for name in abundances.LABELS if name.endswith("_fe")))


def _without_broadening(fit: Iterable[str]) -> list[str]:
    return [name for name in fit if name != "vbroad"]


@attrs.frozen
class ReferenceStar:
    """A star whose parameters are known, and its spectrum. ``labels`` are those of the synthesizer; what is
    left out is solar. ``fit`` names what is fitted together with the lines; broadening (``vbroad``) always
    is, named or not. ``excluded`` are ranges in Angstrom that are ignored in the star; ``medium`` is for
    files that do not state theirs."""

    name: str
    path: str
    resolving_power: float
    labels: dict[str, float]
    fit: list[str] = attrs.field(factory=list, converter=_without_broadening)
    excluded: list[tuple[float, float]] = attrs.field(factory=list)
    medium: Literal["", "air", "vacuum"] = ""

    def check(self, source: str) -> None:
        if missing := [name for name in abundances.PARAMETERS if name not in self.labels]:
            raise ConfigError(
                f"{source}: reference star {self.name} has no {', '.join(missing)}: give them in its labels"
            )
        abundances.check_labels(list(self.labels))
        if self.resolving_power < MIN_RESOLVING_POWER:
            raise ConfigError(
                f"{source}: reference star {self.name} has a resolving power of {self.resolving_power:g}, "
                f"expected at least {MIN_RESOLVING_POWER:g}: blended lines cannot be separated"
            )
        if foreign := [name for name in self.fit if name not in FITTED_ALONG]:
            raise ConfigError(
                f"{source}: reference star {self.name}: {foreign[0]} cannot be fitted with the lines, "
                "expected vbroad, vmic or an abundance such as c_fe"
            )
        _check_ranges(f"{source}: reference star {self.name}: excluded", self.excluded)
        if not Path(self.path).expanduser().is_file():
            raise ConfigError(f"{source}: reference star {self.name}: {self.path} is not a file")


@attrs.frozen
class Prior:
    """How far the log gf of the lines of some ``species`` (``Fe``, ``Fe 2``, ``CN``) may move: one standard
    deviation ``sigma`` in dex. All species if none is named; with ``deeper``, only lines that take more than
    that from the continuum of a reference star. The first table that matches a line is its prior."""

    sigma: float
    species: list[str] = attrs.field(factory=list)
    deeper: float = 0.0

    def check(self, source: str) -> None:
        if not 0.0 < self.sigma <= 3.0:
            raise ConfigError(f"{source}: a prior has sigma = {self.sigma:g} dex, expected above 0, up to 3")
        for name in self.species:
            if name.split()[0] not in (*ATOMIC_NUMBER, *MOLECULES):
                raise ConfigError(f"{source}: a prior is for {name!r}, expected such as Fe, Fe 2 or CN")


@attrs.frozen
class Empirical:
    """Features that the lists lack: at least ``deep`` in the residuals of ``stars`` reference stars, or
    ``alone`` in those of one, if no star contradicts it; 0 adds none."""

    deep: float = 0.02
    stars: int = 2
    alone: float = 0.0


@attrs.frozen
class Method:
    """Options of the fit: ``groups`` of lines whose derivatives come from one synthesis, in which log gf is
    raised by ``boost`` dex; ``pixel_error`` of the normalised flux, and the residual ``robust`` from which a
    pixel has less weight; ``damping`` (dex) is the prior on the damping of lines that are deeper than
    ``strong``. Up to ``steps`` after each of ``jacobians``, until the residuals change by less than
    ``converged``."""

    groups: int = 16
    boost: float = 0.3
    pixel_error: float = 0.02
    robust: float = 0.08
    strong: float = 0.7
    damping: float = 0.1
    jacobians: int = 2
    steps: int = 5
    converged: float = 0.02
    bounds: tuple[float, float] = (-3.0, 1.0)


@attrs.frozen
class Recipe:
    """The contents of the file. ``validation`` stars are compared, but never fitted."""

    windows: dict[str, tuple[float, float]]
    stars: list[ReferenceStar]
    validation: list[ReferenceStar] = attrs.field(factory=list)
    priors: list[Prior] = attrs.field(factory=list)
    excluded: list[tuple[float, float]] = attrs.field(factory=list)
    method: Method = attrs.field(factory=Method)
    empirical: Empirical = attrs.field(factory=Empirical)
    synthesizer: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Raises ``ConfigError`` with the path to the wrong value."""
        recipe = structure(read_toml(path), cls, str(path))
        if not recipe.stars:
            raise ConfigError(f"{path}: expected one [[stars]] or more")
        if not recipe.windows:
            raise ConfigError(f"{path}: expected [windows], such as green = [5146, 5742]")
        names = [star.name for star in (*recipe.stars, *recipe.validation)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{path}: two reference stars have the name {twice[0]}")
        if foreign := {"segments", "corrections", "nlte", "processes"} & set(recipe.synthesizer):
            raise ConfigError(f"{path}: $.synthesizer.{min(foreign)} is not allowed here")
        _check_windows(str(path), recipe.windows)
        _check_ranges(f"{path}: excluded", recipe.excluded)
        for star in (*recipe.stars, *recipe.validation):
            star.check(str(path))
        for prior in recipe.priors:
            prior.check(str(path))
        return recipe


def _check_ranges(what: str, ranges: Iterable[Sequence[float]]) -> None:
    for low, high in ranges:
        if not 0.0 < low < high:
            raise ConfigError(
                f"{what}: {low:g} to {high:g} Angstrom is no range of wavelengths: give the lower end first"
            )


def _check_windows(source: str, windows: Mapping[str, Sequence[float]]) -> None:
    for name, (low, high) in windows.items():
        _check_ranges(f"{source}: window {name}", [(low, high)])
        least = 2.0 * MARGIN + (low + MARGIN) * np.expm1(LEAST_KMS / C_KMS)
        if high - low < least:
            raise ConfigError(
                f"{source}: window {name}, {low:g} to {high:g} Angstrom, is too narrow for a continuum: "
                f"expected at least {np.ceil(least):.0f} Angstrom there"
            )
