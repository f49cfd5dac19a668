"""The one place that knows what columns, extensions, units and orders of spectra are called, in all formats.

A name is divided into words (``FLUX_ERR``, ``fluxerr`` and ``ERR_FLUX`` are the same two), the words tell the
role, and what is left (``NOR``, ``REDUCED``, ``2``) is the tail by which a flux and its error find each
other."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from functools import lru_cache

import attrs
import numpy as np

from specinn import wavelengths
from specinn.errors import ReadError
from specinn.instruments import Medium


class Role(enum.Enum):
    """What a column or an extension holds for every pixel."""

    WAVELENGTH = "wavelength"
    LOG_WAVELENGTH = "log wavelength"
    FLUX = "flux"
    SIGMA = "error"
    VARIANCE = "variance"
    IVAR = "inverse variance"
    QUALITY = "quality"  # 0 is good
    GOOD = "good pixels"  # 0 is bad
    ORDER = "order"
    OTHER = "other"  # known, and of no use here: sky, blaze, S/N, ...


# fmt: off
_NAMES = {
    Role.WAVELENGTH: "wave waves wav wavelength wavelengths waveobs wl wlen wvl lam lambda awav angstrom",
    Role.LOG_WAVELENGTH: "loglam loglambda logwave logwavelength logwl",
    Role.FLUX: "flux fluxes intensity spec spectrum spectra counts count signal sci fl",
    Role.SIGMA: "err errs error errors sigma sig std stddev stdev unc uncert uncertainty uncertainties "
                "noise rms staterr",
    Role.VARIANCE: "var variance variances",
    Role.IVAR: "ivar invvar invvariance",
    Role.QUALITY: "qual quality mask masks dq dqf flag flags badpix badpixel badpixels bpm bpix bad bitmask "
                  "pixmask badmask pixflag andmask",
    Role.GOOD: "good goodpix goodpixels gpm goodmask valid usable",
    Role.ORDER: "order orders ord norder echelleorder aperture",
    Role.OTHER: "sky bkg background bg bgflux blaze flat lamp arc thar continuum cont telluric tell "
                "transmission model template raw resid residual residuals snr sn s2n ston disp "
                "dispersion dlam dll wdisp wresl resolution res lsf velocity vel pixel pix pixels "
                "index nobs scatter ormask calib simult weight weights qc extinction exptime fwhm",
}
_WORDS = {role: frozenset(names.split()) for role, names in _NAMES.items()}
_ALL_WORDS = frozenset[str]().union(*_WORDS.values())
# whole names of one letter, and of programs that save ink: SpecMatch (s, serr, w), tables made by hand
_SHORT = {"w": Role.WAVELENGTH, "x": Role.WAVELENGTH, "f": Role.FLUX, "i": Role.FLUX, "s": Role.FLUX,
          "y": Role.FLUX, "e": Role.SIGMA, "data": Role.FLUX, "serr": Role.SIGMA, "m": Role.QUALITY}
_TAILS = {"norm": "nor", "normalized": "nor", "normalised": "nor", "normed": "nor", "n": "nor",
          "red": "reduced"}
_TAIL_NAMES = (
    "nor reduced obs observed corr corrected total tot stat cal calibrated 1d density rel relative main "
    "pixel pix of in the vec arr value values star object obj"
)
_KNOWN_TAILS = frozenset(_TAIL_NAMES.split())
# Of several fluxes: normalised (PolarBase), plain, then UVES' reduced one, then as they stand in the file
_PREFERRED = (("nor",), (), ("reduced",))
# fmt: on
_UNIT_NAMES = {
    "å": "Angstrom",
    "Å": "Angstrom",
    "aa": "Angstrom",
    "angstroem": "Angstrom",
    "nanometre": "nm",
    "nanometres": "nm",
    "microns": "um",
    "micrometer": "um",
    "µm": "um",
    "0.1 nm": "Angstrom",
    "10**-10 m": "Angstrom",
    "10^-10 m": "Angstrom",
    "1e-10 m": "Angstrom",
    "10-10m": "Angstrom",
    "meter": "m",
    "meters": "m",
    "metre": "m",
    "metres": "m",
    "micrometre": "um",
    "micrometers": "um",
    "nanometers": "nm",
}  # fmt: skip
_SUFFIX = re.compile(r"^(.*)_(nm|um|a|aa|ang|angstroms?)$")
_BRACKETS = re.compile(r"^(.*?)\s*[\[(]\s*(.*?)\s*[\])]$")

# Without a unit the values decide: optical spectra do not leave these ranges, which do not meet.
_BY_VALUE = {"nm": (280.0, 1200.0), "Angstrom": (2800.0, 12000.0), "um": (0.28, 1.2), "m": (2.8e-7, 1.2e-6)}


@lru_cache(maxsize=4096)
def role_of(name: str) -> tuple[Role | None, tuple[str, ...]]:
    """The role of a column or extension, and the words that pair it with others of the file.

    None for a name that is not understood.
    """
    bare = split_unit(name)[0]
    if bare in _SHORT:
        return _SHORT[bare], ()
    words = [word for token in re.split(r"[^a-z0-9]+", bare) if token for word in _unglue(token)]
    roles: set[Role] = set()
    tail: list[str] = []
    for word in words:
        role = next((role for role, synonyms in _WORDS.items() if word in synonyms), None)
        if role is None:
            tail.append(_TAILS.get(word, word))
        else:
            roles.add(role)
    if "log" in tail and Role.WAVELENGTH in roles:
        roles, tail = {Role.LOG_WAVELENGTH}, [word for word in tail if word != "log"]
    if set(tail) & {"e"} and Role.FLUX in roles:  # e_flux, as in catalogues
        roles.add(Role.SIGMA)
        tail.remove("e")
    if {"and", "or"} & set(tail) and Role.QUALITY in roles:  # SDSS: AND_MASK counts, OR_MASK does not
        return (Role.QUALITY, ()) if "and" in tail else (Role.OTHER, ())
    tail = [word for word in tail if word not in ("air", "vac", "vacuum", "axis", "spectral")]
    if bare in ("spectral_axis", "spectralaxis"):
        return Role.WAVELENGTH, ()
    errors = roles & {Role.SIGMA, Role.VARIANCE, Role.IVAR}
    waves = roles & {Role.WAVELENGTH, Role.LOG_WAVELENGTH}
    if Role.IVAR not in errors and Role.VARIANCE in errors and "inverse" in tail:
        errors, tail = {Role.IVAR}, [word for word in tail if word != "inverse"]
    if roles & {Role.QUALITY, Role.GOOD}:
        role = Role.GOOD if Role.GOOD in roles else Role.QUALITY
    elif Role.OTHER in roles or (errors and waves) or (errors and Role.ORDER in roles):
        role = Role.OTHER
    elif errors:
        role = next(r for r in (Role.IVAR, Role.VARIANCE, Role.SIGMA) if r in errors)
    else:
        role = next(
            (r for r in (Role.LOG_WAVELENGTH, Role.WAVELENGTH, Role.FLUX, Role.ORDER) if r in roles), None
        )
    return role, tuple(sorted(set(tail)))


def _unglue(token: str) -> list[str]:
    """``fluxerr`` to ``flux`` and ``err``; ``flux1`` to ``flux`` and ``1``; what is one word stays one."""
    if token in _ALL_WORDS:
        return [token]
    digits = re.fullmatch(r"([a-z]+)(\d+)", token)
    if digits and (digits[1] in _ALL_WORDS or len(_unglue(digits[1])) > 1):
        return [*_unglue(digits[1]), digits[2]]
    flux = _WORDS[Role.FLUX] | _WORDS[Role.SIGMA]
    for i in range(1, len(token)):
        first, second = token[:i], token[i:]
        if (first in flux and (second in _ALL_WORDS or second in _TAILS or second == "nor")) or (
            second in flux and (first in _ALL_WORDS or first in ("e", "n", "norm", "inverse"))
        ):
            return [first, second]
    return [token]


@attrs.frozen
class Columns:
    """Positions of the columns of a spectrum, and what their names say about the wavelengths.

    ``medium`` is None where no name says it. ``quality`` may be several columns: a pixel is good where all
    are 0 (``good``: where none is). ``unknown`` are the names that were not understood, ``unused``
    known ones that describe the pixels but belong to no flux in use."""

    wavelength: int
    flux: int
    sigma: int | None = None
    variance: int | None = None
    ivar: int | None = None
    quality: tuple[int, ...] = ()
    good: tuple[int, ...] = ()
    order: int | None = None
    unit: str | None = None
    medium: Medium | None = None
    log10: bool = False
    unknown: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @classmethod
    def identify(cls, names: Sequence[str]) -> Columns | None:
        """By name; None unless there is one of wavelength and one of flux."""
        parsed = [role_of(name) for name in names]
        at: dict[Role, list[int]] = {role: [] for role in Role}
        for i, (role, _) in enumerate(parsed):
            if role is not None:
                at[role].append(i)
        waves = at[Role.WAVELENGTH] + at[Role.LOG_WAVELENGTH]
        plain = [i for i in waves if split_unit(names[i])[0] not in ("x", "w")]  # a letter is the last resort
        wavelength = next(iter([i for i in plain if not parsed[i][1]] or plain or waves), None)
        if wavelength is None or not at[Role.FLUX]:
            return None
        errors = [i for role in (Role.SIGMA, Role.IVAR, Role.VARIANCE) for i in at[role]]
        tails = {i: parsed[i][1] for i in range(len(names))}

        def partner(flux: int) -> int | None:
            same = [i for i in errors if tails[i] == tails[flux]]
            if not same and len(at[Role.FLUX]) == 1:  # then it can belong to nothing else
                same = [i for i in errors if set(tails[i]) <= _KNOWN_TAILS][:1]
            return next(iter(same), None)

        def rank(flux: int) -> tuple[bool, int, int]:
            preference = _PREFERRED.index(tails[flux]) if tails[flux] in _PREFERRED else len(_PREFERRED)
            return partner(flux) is None and bool(errors), preference, flux

        flux = min(at[Role.FLUX], key=rank)
        error = partner(flux)
        role = None if error is None else parsed[error][0]
        bare, unit = split_unit(names[wavelength])
        logarithmic = parsed[wavelength][0] is Role.LOG_WAVELENGTH  # SDSS: log10 of Angstrom in vacuum
        paired = {tails[i] for i in at[Role.FLUX]}
        return cls(
            wavelength,
            flux,
            sigma=error if role is Role.SIGMA else None,
            variance=error if role is Role.VARIANCE else None,
            ivar=error if role is Role.IVAR else None,
            quality=_of_flux(at[Role.QUALITY], tails, flux),
            good=_of_flux(at[Role.GOOD], tails, flux),
            order=next(iter(at[Role.ORDER]), None),
            unit="Angstrom" if logarithmic else unit,
            medium=medium_in(bare) or ("vacuum" if logarithmic else None),
            log10=logarithmic,
            unknown=tuple(
                name for name, (kind, _) in zip(names, parsed, strict=True) if name and kind is None
            ),
            unused=tuple(names[i] for i in errors if i != error and tails[i] not in paired),
        )


def _of_flux(columns: Sequence[int], tails: dict[int, tuple[str, ...]], flux: int) -> tuple[int, ...]:
    """Those of the quality columns that speak of this flux: of all pixels, or by its own tail."""
    return tuple(
        i for i in columns if tails[i] == tails[flux] or not tails[i] or set(tails[i]) <= _KNOWN_TAILS
    )


def medium_in(name: str) -> Medium | None:
    """``vacuum`` or ``air`` where a name or unit says so by a word of its own."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    if words & {"vac", "vacuum", "wavevac", "vacwave", "lambdavac"}:
        return "vacuum"
    return "air" if words & {"air", "awav", "waveair", "airwave"} else None


def split_unit(name: str) -> tuple[str, str | None]:
    """``Wavelength [nm]``, ``wave(nm)`` and ``wave_nm`` to ``wave...`` and ``nm``; lower case."""
    name = name.strip().strip("\"'").lower()
    if name in ("angstrom", "nm"):
        return "wavelength", name
    for pattern in (_BRACKETS, _SUFFIX):
        match = pattern.match(name)
        if match and match[1]:
            return match[1].replace(" ", "_"), match[2]
    return name.replace(" ", "_"), None


def to_angstrom(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Wavelengths in Angstrom; without a unit 280-1200 are nm, 2800-12000 Angstrom, 0.28-1.2 um and
    2.8e-7-1.2e-6 m.

    Raises ``ReadError`` for a unit that is not one of length, and for values that are ambiguous or that no
    optical spectrum has.
    """
    values = np.asarray(values, dtype=np.float64)
    real = values[np.isfinite(values) & (values > 0)]
    if not real.size:
        raise ReadError("no wavelength is a positive number")
    low, high = float(real.min()), float(real.max())
    if unit and unit.strip():
        name = " ".join(unit.strip().split()).lower()
        angstrom = wavelengths.to_angstrom(values, _UNIT_NAMES.get(name, unit))
        factor = float(wavelengths.to_angstrom(np.ones(1), _UNIT_NAMES.get(name, unit))[0])
        if high * factor < 1000.0 or low * factor > 27000.0:
            guess = next((n for n, (start, end) in _BY_VALUE.items() if start <= low and high <= end), None)
            hint = f": the values look like {guess}, correct the unit in the file" if guess else ""
            raise ReadError(
                f"wavelengths from {low:g} to {high:g} {unit.strip()} are {low * factor:g} to "
                f"{high * factor:g} "
                f"Angstrom, where no optical spectrum lies{hint}"
            )
        return angstrom
    for name, (start, end) in _BY_VALUE.items():
        if start <= low and high <= end:
            return wavelengths.to_angstrom(values, name)
    nm, angstrom_range = _BY_VALUE["nm"], _BY_VALUE["Angstrom"]
    raise ReadError(
        f"wavelengths from {low:g} to {high:g} without a unit are neither nm ({nm[0]:g}-{nm[1]:g}) nor "
        f"Angstrom ({angstrom_range[0]:g}-{angstrom_range[1]:g}): state the unit in the file"
    )
