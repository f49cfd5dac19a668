"""What columns, units and media are called in tables and text files."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
import numpy as np

from specinn import wavelengths
from specinn.errors import ReadError
from specinn.instruments import Medium

# fmt: off
_WAVELENGTH = {"wave", "wavelength", "wavelengths", "waveobs", "wl", "wlen", "wvl", "lam", "lambda", "awav",
               "spectral_axis"}
_LOG_WAVELENGTH = {"loglam", "log_lambda", "loglambda"}
# of the following the first that is there is taken
_FLUX = ("flux_nor", "flux", "fluxes", "flux_norm", "norm_flux", "normalized_flux", "normalised_flux",
         "fluxnorm", "flux_reduced", "intensity", "spec", "spectrum", "f", "i")
_SIGMA = ("err_flux", "flux_err", "flux_error", "e_flux", "err", "errs", "error", "errors", "sigma", "sig",
          "std", "stddev", "uncertainty", "unc", "noise", "err_nor", "sig_nor", "sigma_nor", "err_reduced")
# fmt: on
_IVAR = ("flux_ivar", "ivar", "invvar")
_QUALITY = ("qual", "quality", "mask")
_UNIT_NAMES = {"å": "Angstrom", "Å": "Angstrom", "aa": "Angstrom", "angstroem": "Angstrom", "nanometre": "nm",
               "nanometres": "nm", "microns": "um", "micrometer": "um", "µm": "um"}  # fmt: skip
_SUFFIX = re.compile(r"^(.*)_(nm|um|a|aa|ang|angstroms?)$")
_BRACKETS = re.compile(r"^(.*?)\s*[\[(]\s*(.*?)\s*[\])]$")

# Without a unit the values decide: optical spectra do not leave these ranges, which do not meet.
_NM = (280.0, 1200.0)
_ANGSTROM = (2800.0, 12000.0)


@attrs.frozen
class Columns:
    """Positions of the columns of a spectrum, and what their names say about the wavelengths."""

    wavelength: int
    flux: int
    sigma: int | None = None
    ivar: int | None = None
    quality: int | None = None
    unit: str | None = None
    medium: Medium = "air"
    log10: bool = False

    @classmethod
    def identify(cls, names: Sequence[str]) -> Columns | None:
        """By name; None unless there is one of wavelength and one of flux."""
        bare, units = zip(*(_split_unit(name) for name in names), strict=True) if names else ((), ())
        place: dict[str, int] = {}
        for i, name in enumerate(bare):
            place.setdefault(name, i)

        def first(known: Sequence[str]) -> int | None:
            return next((place[name] for name in known if name in place), None)

        stems = [re.sub(r"_?(air|vac|vacuum)_?", "", name) for name in bare]
        known = _WAVELENGTH | _LOG_WAVELENGTH
        wavelength = next((i for i, stem in enumerate(stems) if stem in known), None)
        flux = first(_FLUX)
        if wavelength is None or flux is None:
            return None
        vacuum = re.search(r"(^|_)vac(uum)?(_|$)", bare[wavelength]) is not None
        logarithmic = stems[wavelength] in _LOG_WAVELENGTH  # SDSS: log10 of Angstrom in vacuum
        return cls(
            wavelength,
            flux,
            first(_SIGMA),
            first(_IVAR),
            first(_QUALITY),
            unit="Angstrom" if logarithmic else units[wavelength],
            medium="vacuum" if vacuum or logarithmic else "air",
            log10=logarithmic,
        )


def _split_unit(name: str) -> tuple[str, str | None]:
    """``Wavelength [nm]``, ``wave(nm)`` and ``wave_nm`` to ``wave...`` and ``nm``; lower case."""
    name = name.strip().strip("\"'").lower()
    if name in ("angstrom", "nm"):
        return "wavelength", name
    for pattern in (_BRACKETS, _SUFFIX):
        match = pattern.match(name)
        if match:
            return match[1].replace(" ", "_"), match[2]
    return name.replace(" ", "_"), None


def to_angstrom(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Wavelengths in Angstrom; without a unit 280-1200 are nm and 2800-12000 Angstrom.

    Raises ``ReadError`` for a unit that is not one of length, and for values that leave it open.
    """
    values = np.asarray(values, dtype=np.float64)
    if unit and unit.strip():
        return wavelengths.to_angstrom(values, _UNIT_NAMES.get(unit.strip().lower(), unit))
    real = values[np.isfinite(values) & (values > 0)]
    if not real.size:
        raise ReadError("no wavelength is a positive number")
    low, high = float(real.min()), float(real.max())
    for (start, end), name in ((_NM, "nm"), (_ANGSTROM, "Angstrom")):
        if start <= low and high <= end:
            return wavelengths.to_angstrom(values, name)
    raise ReadError(
        f"wavelengths from {low:g} to {high:g} without a unit are neither nm ({_NM[0]:g}-{_NM[1]:g}) nor "
        f"Angstrom ({_ANGSTROM[0]:g}-{_ANGSTROM[1]:g}): state the unit in the file"
    )
