"""The lines of all windows as one vector, whose log gf and damping the fit moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import ConfigError
from specinn_turbospectrum import corrections
from specinn_turbospectrum.line_fit.recipe import Prior
from specinn_turbospectrum.linelists import MOLECULES, Species, element_symbol, write

_WIDE = 0.6  # dex, where the recipe has no prior for a line
_EMPTY = 20.0  # Angstrom; atoms of the lists of set-up lie 2 apart at most, as far as the lists reach


def check_covered(lists: Mapping[str, Sequence[Species]], windows: Mapping[str, Sequence[float]]) -> None:
    """Raises ``ConfigError`` where atoms are lacking in a long part of a window (molecules go on): every line
    of the stars there would become an empirical one."""
    for name, (low, high) in windows.items():
        atoms = [one.wavelength for one in lists[name] if not one.is_molecule]
        wavelength = np.sort(np.concatenate([[low, high], *atoms])).clip(low, high)
        gap = np.diff(wavelength)
        if gap.max() > _EMPTY:
            at = wavelength[gap.argmax()]
            raise ConfigError(
                f"window {name}, {low:g} to {high:g} Angstrom: no line list has atoms from {at:.0f} to "
                f"{at + gap.max():.0f} Angstrom: give a window that the lists cover, or other line_lists"
            )


@attrs.frozen(eq=False)
class Lines:
    """Lines that differ, ``n`` of them: an entry that is in a list more than once counts once.

    ``code``, ``ion``, ``wavelength`` (Angstrom), ``chi`` (eV) and ``log_gf``, each ``(n,)``; ``segment (n,)``
    is the number of the window. ``empirical (n,)`` marks lines that are in no list.
    """

    code: np.ndarray
    ion: np.ndarray
    wavelength: np.ndarray
    chi: np.ndarray
    log_gf: np.ndarray
    segment: np.ndarray
    empirical: np.ndarray
    _lists: tuple[tuple[Species, ...], ...]
    _index: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def of(cls, windows: Mapping[str, Sequence[Species]]) -> Lines:
        """The lines of each window, in the order of the windows."""
        rows: list[tuple[str, int, float, float, float, int]] = []
        index = []
        for number, species in enumerate(windows.values()):
            number_of: dict[corrections.Key, int] = {}
            of_window = []
            for one in species:
                of_species = np.empty(len(one.lines), int)
                for i, key in enumerate(corrections.keys(one)):
                    if key not in number_of:
                        number_of[key] = len(rows)
                        rows.append((one.code, one.ion, key[2] / 1000, key[3] / 1000, key[4] / 1000, number))
                    of_species[i] = number_of[key]
                of_window.append(of_species)
            index.append(tuple(of_window))
        code, ion, wavelength, chi, log_gf, segment = map(np.array, zip(*rows, strict=True))
        lists = tuple(tuple(species) for species in windows.values())
        return cls(
            code, ion, wavelength, chi, log_gf, segment, np.zeros(len(rows), bool), lists, tuple(index)
        )

    def __len__(self) -> int:
        return len(self.wavelength)

    @property
    def species(self) -> np.ndarray:
        """``(n,)`` such as ``Fe 1`` and ``CN``."""
        molecules = {number: name for name, number in MOLECULES.items()}
        names: dict[tuple[str, int], str] = {}
        for code, ion in set(zip(self.code.tolist(), self.ion.tolist(), strict=True)):
            number = int(code.partition(".")[0])
            names[code, ion] = molecules.get(number) or f"{element_symbol(number)} {ion}"
        return np.array([names[pair] for pair in zip(self.code.tolist(), self.ion.tolist(), strict=True)])

    def prior(self, priors: Sequence[Prior], depth: np.ndarray) -> np.ndarray:
        """``(n,)`` standard deviations in dex; ``depth (n,)`` is the greatest one that a star shows."""
        sigma = np.full(len(self), np.nan)
        names = self.species
        elements = np.array([name.split()[0] for name in names.tolist()])
        for one in priors:
            fits = np.isnan(sigma) & (depth >= one.deeper)
            if one.species:
                fits &= np.isin(names, one.species) | np.isin(elements, one.species)
            sigma[fits] = one.sigma
        return np.where(np.isnan(sigma), _WIDE, sigma)

    def with_empirical(
        self,
        code: str,
        ion: int,
        wavelength: np.ndarray,
        chi: np.ndarray,
        log_gf: np.ndarray,
        segment: np.ndarray,
    ) -> Lines:
        """More lines, of which only wavelength and strength are known."""
        n = len(wavelength)
        return attrs.evolve(
            self,
            code=np.concatenate([self.code, np.full(n, code)]),
            ion=np.concatenate([self.ion, np.full(n, ion)]),
            wavelength=np.concatenate([self.wavelength, wavelength]),
            chi=np.concatenate([self.chi, chi]),
            log_gf=np.concatenate([self.log_gf, log_gf]),
            segment=np.concatenate([self.segment, segment]),
            empirical=np.concatenate([self.empirical, np.ones(n, bool)]),
        )

    def write(self, number: int, d_log_gf: np.ndarray, d_damping: np.ndarray, target: Path) -> None:
        """The list of window ``number`` with what is added to log gf and damping, both ``(n,)`` in dex."""
        species = []
        for one, index in zip(self._lists[number], self._index[number], strict=True):
            moved = (d_log_gf[index] != 0.0) | (d_damping[index] != 0.0)
            lines = [
                corrections.changed(line, d_log_gf[i], d_damping[i]) if moves else line
                for line, i, moves in zip(one.lines, index.tolist(), moved.tolist(), strict=True)
            ]
            species.append(attrs.evolve(one, lines=tuple(lines)))
        added = np.flatnonzero(self.empirical & (self.segment == number))
        species += corrections.empirical(
            self.code[added],
            self.ion[added],
            self.wavelength[added],
            self.chi[added],
            (self.log_gf + d_log_gf)[added],
        )
        write(species, target)

    def groups(self, use: np.ndarray, n_groups: int) -> np.ndarray:
        """``(n,)`` the group of each line that is in the mask ``use``, dealt in order of wavelength so that
        those of one group lie far apart; -1 for the others."""
        group = np.full(len(self), -1)
        order = np.flatnonzero(use)[np.argsort(self.wavelength[use], kind="stable")]
        group[order] = np.arange(order.size) % n_groups
        return group
