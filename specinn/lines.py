"""Spectral lines: the table ``lines.toml``, used to name features in figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from specinn.config import read_toml

if TYPE_CHECKING:
    pass

__all__ = ["LINES", "Line", "lines_near", "read_lines"]

LINES = Path(__file__).with_name("lines.toml")


@attrs.frozen
class Line:
    """A spectral line: ``species`` such as ``Mg I`` or ``CN``, its wavelength in air and how far it reaches,
    in Angstrom; ``diagnostic`` for those with which Ksoll et al. 2026 measure abundances."""

    species: str
    wavelength: float
    reach: float
    diagnostic: bool = False

    @property
    def name(self) -> str:
        return f"{self.species} {self.wavelength:.2f}"


def read_lines(path: Path = LINES) -> list[Line]:
    """The line table, by wavelength."""
    table = read_toml(path)
    lines = []
    for section in ("diagnostic", "other", "molecules"):
        for species, wavelengths in table[section].items():
            for wavelength in wavelengths:
                reach = table["wide"].get(f"{species} {wavelength:.2f}", table["reach"])
                lines.append(Line(species, wavelength, reach, section == "diagnostic"))
    return sorted(lines, key=lambda line: line.wavelength)


def lines_near(wavelength: float, lines: Sequence[Line]) -> list[Line]:
    """The lines that reach ``wavelength`` (Angstrom in air), nearest first."""
    reached = [line for line in lines if abs(line.wavelength - wavelength) <= line.reach]
    return sorted(reached, key=lambda line: abs(line.wavelength - wavelength))
