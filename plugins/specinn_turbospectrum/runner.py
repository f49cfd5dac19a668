"""One spectrum by Turbospectrum: babsma_lu and bsyn_lu driven through standard input.

Both end with status 0 whatever happens, so a run is accepted only after its output has been checked.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from specinn.errors import SynthesisError
from specinn_turbospectrum.atmospheres import count_depths
from specinn_turbospectrum.departures import Departures, write_information
from specinn_turbospectrum.installation import Installation

_HIGHEST = 1.2  # normalised flux; emission is not what LTE photospheres do
_TAIL = 12  # lines of a log that an error shows
_MARGIN = 20.0  # Angstrom, of continuous opacities beyond the window
_MAX_PATH = 250  # characters that the code keeps of a path
_FAULTS = ("NaN", "Infinity", "SIGFPE", "Fortran runtime error", "At line ", "COMPUTATION HALTED")


@attrs.frozen
class Window:
    """Wavelengths to compute, in Angstrom in air: ``low`` to ``high`` in steps ``step``, with the files of
    lines that were cut to it."""

    low: float
    high: float
    step: float
    line_lists: tuple[Path, ...]

    @property
    def wavelength(self) -> np.ndarray:
        """``(n_pix,)``, as the code counts them."""
        return self.low + self.step * np.arange(int((self.high - self.low) / self.step + 1e-4) + 1)


@attrs.frozen
class Star:
    """What a spectrum depends on: the model atmosphere in a file (MULTI or Turbospectrum's own format),
    microturbulence in km/s, metallicity [M/H] of all elements but those in ``log_eps`` (atomic number ->
    log10(N_X / N_H) + 12), fractions of isotopes (``"12.013"`` -> 0.5), departures from LTE by element."""

    atmosphere: Path
    vmic: float
    fe_h: float
    log_eps: Mapping[int, float]
    spherical: bool = False
    isotopes: Mapping[str, float] = attrs.field(factory=dict)
    departures: Sequence[Departures] = ()
    vmic_in_model: bool = False


def synthesise(
    installation: Installation, star: Star, windows: Sequence[Window], folder: Path, timeout: float = 1800.0
) -> np.ndarray:
    """Normalised flux ``(n_pix,)`` of all windows, one after the other; ``folder`` is for working files.

    Raises ``SynthesisError`` with the end of the log for everything that is not a complete, finite spectrum.
    """
    folder = folder.resolve()
    for departures in star.departures:
        departures.check(star.log_eps, count_depths(star.atmosphere))
    return np.concatenate([_window(installation, star, window, folder, timeout) for window in windows])


def _window(
    installation: Installation, star: Star, window: Window, folder: Path, timeout: float
) -> np.ndarray:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        _link_data(work, installation.data)
        opacities, result = work / "opacities", work / "spectrum"
        keys = _common(star, window, opacities)
        continuum = {
            **keys,
            "LAMBDA_MIN:": f"{window.low - _MARGIN:.3f}",
            "LAMBDA_MAX:": f"{window.high + _MARGIN:.3f}",
            "MODELINPUT:": str(star.atmosphere.resolve()),
            "MARCS-FILE:": ".false.",
        }
        text = _lines(continuum) + _abundances(star)
        text += f"'XIFIX:' '{'F' if star.vmic_in_model else 'T'}'\n{star.vmic:.4f}\n"
        log = _run(installation.executables / "babsma_lu", text, work, timeout)
        if not opacities.is_file() or opacities.stat().st_size == 0:
            raise _error("babsma_lu wrote no opacities", log)
        line = {**keys, "INTENSITY/FLUX:": "Flux", "RESULTFILE :": str(result)}
        if star.departures:
            information = work / "nlte"
            write_information(star.departures, work, information)
            line |= {"NLTE :": ".true.", "NLTEINFOFILE:": str(information)}
        text = _lines(line) + _abundances(star)
        if star.isotopes:
            text += f"'ISOTOPES : ' '{len(star.isotopes)}'\n"
            text += "".join(f"{code} {fraction:.6f}\n" for code, fraction in star.isotopes.items())
        text += f"'NFILES   :' '{len(window.line_lists)}'\n"
        text += "".join(f"{_short(path.resolve())}\n" for path in window.line_lists)
        text += f"'SPHERICAL:' '{'T' if star.spherical else 'F'}'\n  30\n  300.00\n  15\n  1.30\n"
        log = _run(installation.executables / "bsyn_lu", text, work, timeout)
        return read_spectrum(result, window.wavelength, log)


def _link_data(folder: Path, data: Path) -> None:
    """The code looks for its tables in DATA under the working folder."""
    os.symlink(data.resolve(), folder / "DATA", target_is_directory=True)


def _common(star: Star, window: Window, opacities: Path) -> dict[str, str]:
    return {
        "LAMBDA_MIN:": f"{window.low:.6f}",
        "LAMBDA_MAX:": f"{window.high + 1e-4 * window.step:.6f}",  # the last pixel must not fall to rounding
        "LAMBDA_STEP:": f"{window.step:.6f}",
        "MODELOPAC:": str(opacities),
        "METALLICITY:": f"{star.fe_h:.4f}",
        "ALPHA/Fe   :": "0.00",
        "HELIUM     :": "0.00",
        "R-PROCESS  :": "0.00",
        "S-PROCESS  :": "0.00",
    }


def _lines(keys: Mapping[str, str]) -> str:
    return "".join(f"'{key}' '{_short(value)}'\n" for key, value in keys.items())


def _short(path: Path | str) -> str:
    """A path, if the code keeps all of it."""
    if len(str(path)) > _MAX_PATH:
        raise SynthesisError(
            f"the path {path} is longer than {_MAX_PATH} characters, which the code cuts off: set TMPDIR to "
            "a shorter one"
        )
    return str(path)


def _abundances(star: Star) -> str:
    rows = "".join(f"{number} {value:.4f}\n" for number, value in sorted(star.log_eps.items()))
    return f"'INDIVIDUAL ABUNDANCES:' '{len(star.log_eps)}'\n{rows}"


def _run(program: Path, text: str, folder: Path, timeout: float) -> str:
    """The log of a run that ended by itself."""
    try:
        done = subprocess.run(
            [str(program.resolve())], input=text, cwd=folder, capture_output=True, timeout=timeout,
            check=False, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as stopped:
        raise _error(f"{program.name} was stopped after {timeout:g} s", _text(stopped.stdout)) from None
    except OSError as error:
        raise SynthesisError(f"{program} cannot be run: {error.strerror}") from None
    log = done.stdout + done.stderr
    if done.returncode:
        raise _error(f"{program.name} ended with status {done.returncode}", log)
    return log


def read_spectrum(path: Path, wavelength: np.ndarray, log: str = "") -> np.ndarray:
    """Normalised flux of a file of bsyn_lu, which must have all of ``wavelength (n_pix,)``.

    Raises ``SynthesisError`` for a file that is missing or empty, asterisks in place of numbers, NaN, lacking
    wavelengths, and normalised flux below 0 or above 1.2.
    """
    if not path.is_file() or not path.stat().st_size:
        raise _error("bsyn_lu wrote no spectrum", log)
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    if any("*" in line for line in lines):
        bad = next(line for line in lines if "*" in line)
        raise _error(f"bsyn_lu wrote asterisks instead of numbers: {bad.strip()}", log)
    try:
        rows = [[float(x) for x in line.split()[:2]] for line in lines]
        if any(len(row) != 2 for row in rows):
            raise ValueError("a row has no flux")
        table = np.array(rows).reshape(-1, 2)
    except ValueError as error:
        raise _error(f"the spectrum of bsyn_lu cannot be read: {error}", log) from None
    if not np.isfinite(table).all():
        at = table[~np.isfinite(table).all(axis=1)][0, 0]
        raise _error(f"the spectrum of bsyn_lu is not a number at {at:g} Angstrom", log)
    if len(table) != wavelength.size or np.abs(table[:, 0] - wavelength).max() > 0.002:
        raise _error(
            f"the spectrum of bsyn_lu has {len(table)} wavelengths from {table[0, 0]:g} to {table[-1, 0]:g} "
            f"Angstrom, expected {wavelength.size} from {wavelength[0]:g} to {wavelength[-1]:g}",
            log,
        )
    flux = table[:, 1]
    if flux.max() > _HIGHEST or flux.min() < 0.0:
        at = int(np.argmax(flux) if flux.max() > _HIGHEST else np.argmin(flux))
        raise _error(
            f"the normalised flux at {wavelength[at]:.2f} Angstrom is {flux[at]:g}, expected 0 to "
            f"{_HIGHEST:g}",
            log,
        )
    return flux


def _error(what: str, log: str) -> SynthesisError:
    """With the telling lines and the end of the log."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    tail = lines[-_TAIL:]
    telling = [line for line in lines[:-_TAIL] if any(fault in line for fault in _FAULTS)][:3]
    return SynthesisError("\n    ".join([f"{what}; its log ends with", *telling, *tail] if tail else [what]))


def _text(raw: bytes | str | None) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw or ""
