"""Wavelength scales: units, air and vacuum, Doppler shifts."""

from __future__ import annotations

from typing import Any

import numpy as np

from specinn.errors import ReadError

__all__ = [
    "C_KMS",
    "FWHM_PER_SIGMA",
    "air_to_vacuum",
    "doppler",
    "is_length",
    "lsf_sigma_kms",
    "refractive_index",
    "to_angstrom",
    "to_medium",
    "vacuum_to_air",
]

C_KMS = 299792.458  # speed of light, km/s (exact)
FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))

_ANGSTROM_PER = {"angstrom": 1.0, "angstroms": 1.0, "ang": 1.0, "a": 1.0, "å": 1.0, "0.1nm": 1.0, "nm": 10.0,
                 "nanometer": 10.0, "nanometers": 10.0, "um": 1e4, "micron": 1e4, "m": 1e10}  # fmt: skip


def to_angstrom(values: np.ndarray, unit: str) -> np.ndarray:
    """``values`` of any shape in ``unit`` as Angstrom: a length, or a wavenumber, frequency or energy, whose
    wavelengths are those in vacuum. Raises ``ReadError`` for other units.

    >>> to_angstrom([15_000.0], "1/cm").round(2)
    array([6666.67])
    """
    factor = _ANGSTROM_PER.get(unit.strip().lower())
    if factor is not None:
        return np.asarray(values, dtype=float) * factor
    from astropy import units as u

    try:
        with np.errstate(divide="ignore"):
            out: np.ndarray = u.Quantity(values, u.Unit(unit), dtype=float).to_value(u.AA, u.spectral())
    except (u.UnitConversionError, ValueError, TypeError):
        raise ReadError(
            f"unknown wavelength unit {unit!r}: expected one of Angstrom, nm, um, m, 1/cm, THz"
        ) from None
    return out


def is_length(unit: str) -> bool:
    """Whether wavelengths in ``unit`` are lengths; others, such as frequencies, are those in vacuum."""
    if not unit.strip() or unit.strip().lower() in _ANGSTROM_PER:
        return True
    from astropy import units as u

    try:
        return bool(u.Unit(unit).is_equivalent(u.m))
    except (ValueError, TypeError):
        return True


def refractive_index(vacuum: np.ndarray) -> np.ndarray:
    """Index of standard air at vacuum wavelengths of any shape, in Angstrom.

    Source: Morton 2000, ApJS 130, 403, eq. 8.
    """
    s2 = (1e4 / vacuum) ** 2
    return 1.0 + 8.34254e-5 + 2.406147e-2 / (130.0 - s2) + 1.5998e-4 / (38.9 - s2)


def vacuum_to_air(vacuum: np.ndarray) -> np.ndarray:
    """Air wavelengths of vacuum wavelengths of any shape, in Angstrom."""
    air: np.ndarray = vacuum / refractive_index(vacuum)
    return air


def air_to_vacuum(air: np.ndarray) -> np.ndarray:
    """Vacuum wavelengths of ``air`` ones of any shape, in Angstrom: the inverse of :func:`vacuum_to_air`, by
    three fixed-point steps (below 1e-9 Angstrom).

    >>> import numpy as np
    >>> air_to_vacuum(np.array([6562.801])).round(3)  # H alpha
    array([6564.614])
    """
    vacuum = np.asarray(air, dtype=float)
    for _ in range(3):
        vacuum = air * refractive_index(vacuum)
    return vacuum


def to_medium(wavelength: np.ndarray, medium: str, wanted: str) -> np.ndarray:
    """A wavelength of any shape (Angstrom) from one medium to the one ``wanted``: ``air`` or ``vacuum``."""
    if medium == wanted:
        return wavelength
    return (vacuum_to_air if wanted == "air" else air_to_vacuum)(wavelength)


def doppler(wavelength: Any, velocity: Any) -> Any:
    """Observed wavelength (in Angstrom, as given) of a source that recedes at ``velocity`` km/s; the
    relativistic formula for radial motion.

    >>> round(float(doppler(6562.801, 30.0)), 3)
    6563.458
    """
    beta = velocity / C_KMS
    return wavelength * np.sqrt((1.0 + beta) / (1.0 - beta))


def lsf_sigma_kms(resolving_power: Any, native: Any = np.inf) -> Any:
    """Gaussian sigma in km/s that degrades ``native`` to ``resolving_power`` (FWHM = lambda / R).

    Negative differences (native below the target) give NaN: callers report both numbers.

    >>> round(float(lsf_sigma_kms(20_000.0, native=48_000.0)), 2)
    5.79
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return C_KMS / FWHM_PER_SIGMA * np.sqrt(1.0 / np.square(resolving_power) - 1.0 / np.square(native))
