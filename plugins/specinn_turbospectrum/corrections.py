"""Corrections of line data derived from reference stars: a table of lines, and their application to line
lists."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.errors import SynthesisError
from specinn_turbospectrum.installation import sha256
from specinn_turbospectrum.linelists import Species

SHIPPED = Path(__file__).parent / "line_data" / "4most-hr.ecsv.gz"
ADDED = "added"  # the verdict on an empirical line, which stands in no list
VERDICTS = ("corrected", "kept", "not constrained", "shown by no star", ADDED)
_COLUMNS = ("code", "ion", "wavelength", "chi", "log_gf", "log_gf_corrected", "damping", "verdict")
_FIELDS = re.compile(r"^(\s*\S+\s+\S+\s+)(\S+)(\s+)(\S+)(.*)$", re.DOTALL)
_MAX_ABO = 20.0  # a damping parameter above it is a cross-section and its exponent

Key = tuple[str, int, int, int, int]


def keys(species: Species) -> list[Key]:
    """What distinguishes a line from the others, for each line: species, wavelength, excitation and log gf as
    they stand in the list, in thousandths. Lines with the same key share their correction."""
    out = []
    for line in species.lines:
        wavelength, chi, log_gf = (round(1000.0 * float(x)) for x in line.split(None, 3)[:3])
        out.append((species.code, species.ion, wavelength, chi, log_gf))
    return out


def changed(line: str, d_log_gf: float, d_damping: float = 0.0) -> str:
    """A line of a list with ``d_log_gf`` dex added to log gf and ``d_damping`` dex to the collisional
    damping: to log gamma, to a cross-section (of the form ``sigma.alpha``), or to a factor on Unsoeld's."""
    parts = _FIELDS.match(line)
    if parts is None:
        raise SynthesisError(f"expected wavelength, excitation, log gf and damping of a line, found {line!r}")
    head, log_gf, gap, damping, rest = parts.groups()
    if d_damping:
        value = float(damping)
        if value > _MAX_ABO:
            cross_section = round(int(value) * 10.0**d_damping)
            damping = f"{cross_section + value % 1.0:8.3f}".strip()
        elif value < 0.0:
            damping = f"{value + d_damping:.3f}"
        else:
            damping = f"{value * 10.0**d_damping:.3f}"
    return f"{head}{float(log_gf) + d_log_gf:.3f}{gap}{damping}{rest}"


@attrs.frozen(eq=False)
class Corrections:
    """Lines with what is added to their log gf and damping in dex, and empirical lines.

    ``table`` has a row for each line: ``code``, ``ion``, ``wavelength`` (Angstrom, air), ``chi`` (eV),
    ``log_gf`` (of the list), ``log_gf_corrected``, ``damping`` (dex) and ``verdict``, one of
    :data:`VERDICTS`. ``line_lists`` are the SHA-256 of the lists to which it belongs, by name; ``sha256`` is
    its own.
    """

    source: str
    table: Any
    line_lists: Mapping[str, str]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Corrections:
        """From ECSV, compressed by gzip or not. Raises ``SynthesisError`` for any other file."""
        return _read(path)

    def check(self, checksums: Mapping[str, str]) -> None:
        """Raises ``SynthesisError`` if a line list in use is not the one to which they were fitted."""
        for name, checksum in checksums.items():
            expected = self.line_lists.get(name)
            if expected is None:
                raise SynthesisError(
                    f"the line corrections {self.source} are for the lists {', '.join(self.line_lists)}, not "
                    f'for {name}: set corrections = "none" in [synthesizer], or fit them to that list'
                )
            if expected != checksum:
                raise SynthesisError(
                    f"the line corrections {self.source} are for {name} with SHA-256 {expected[:12]}, the "
                    f"list in use has {checksum[:12]}: run specinn synthesis setup, or set "
                    'corrections = "none"'
                )

    @cached_property
    def _by_key(self) -> dict[Key, tuple[float, float]]:
        names = ("wavelength", "chi", "log_gf", "log_gf_corrected", "damping")
        columns = [np.asarray(self.table[name], float).tolist() for name in names]
        rows = zip(self.table["code"], self.table["ion"], self.table["verdict"], *columns, strict=True)
        return {
            (str(code), int(ion), round(1000.0 * wave), round(1000.0 * chi), round(1000.0 * gf)): (
                new - gf,
                damp,
            )
            for code, ion, verdict, wave, chi, gf, new, damp in rows
            if verdict != ADDED and (new != gf or damp)
        }

    def apply(self, species: Iterable[Species], low: float, high: float) -> list[Species]:
        """The lists with corrected lines, and the empirical lines from ``low`` to ``high`` Angstrom."""
        out = []
        for one in species:
            changes = [self._by_key.get(key) for key in keys(one)]
            if any(changes):
                pairs = zip(one.lines, changes, strict=True)
                lines = tuple(line if by is None else changed(line, *by) for line, by in pairs)
                one = attrs.evolve(one, lines=lines)
            out.append(one)
        return [*out, *self._added(low, high)]

    def _added(self, low: float, high: float) -> list[Species]:
        wavelength = np.asarray(self.table["wavelength"], float)
        rows = self.table[(self.table["verdict"] == ADDED) & (wavelength >= low) & (wavelength <= high)]
        return empirical(rows["code"], rows["ion"], rows["wavelength"], rows["chi"], rows["log_gf_corrected"])


def empirical(
    code: Iterable[Any],
    ion: Iterable[Any],
    wavelength: Iterable[Any],
    chi: Iterable[Any],
    log_gf: Iterable[Any],
) -> list[Species]:
    """Lines with only wavelength and strength known, in the format of the lists: no damping by
    radiation beyond that of a classical oscillator, twice Unsoeld's by hydrogen."""
    by_kind: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for c, i, w, x, gf in zip(code, ion, wavelength, chi, log_gf, strict=True):
        by_kind.setdefault((str(c), int(i)), []).append((float(w), float(x), float(gf)))
    out = []
    for kind, rows in by_kind.items():
        text = tuple(
            f"{w:10.3f} {x:6.3f} {gf:7.3f}    2.000    1.0  {2.223e15 / w**2:.2E} "
            "'x' 'x'   0.0    1.0 'empirical'"
            for w, x, gf in sorted(rows)
        )
        wave = np.array(sorted(w for w, *_ in rows))
        out.append(Species(kind[0], kind[1], "empirical", wave, text))
    return out


@lru_cache(maxsize=4)
def _read(path: Path) -> Corrections:
    from astropy.io import ascii

    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        table = ascii.read(text.decode("utf-8").splitlines(), format="ecsv")
        lists = dict(table.meta["line_lists"])
    except OSError as error:
        raise SynthesisError(f"{path}, line corrections, cannot be read: {error.strerror or error}") from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SynthesisError(
            f"{path} is not a table of specinn synthesis fit-lines (an ECSV file): {reason}"
        ) from None
    if lacking := [name for name in _COLUMNS if name not in table.colnames]:
        raise SynthesisError(f"{path}, line corrections, has no column {lacking[0]}: make it with fit-lines")
    table["code"] = table["code"].astype(str)
    numbers = np.array([table[name] for name in ("wavelength", "chi", "log_gf_corrected", "damping")], float)
    if not np.isfinite(numbers).all():
        raise SynthesisError(f"{path}, line corrections: a number is not finite in {_COLUMNS[2:7]}")
    return Corrections(path.name, table, lists, sha256(path))
