"""The one place that knows what columns, extensions, units and orders of spectra are called, in all formats.

A name is divided into words (``FLUX_ERR``, ``fluxerr`` and ``ERR_FLUX`` are the same two), the words tell the
role, and what is left (``NOR``, ``REDUCED``, ``2``) is the tail by which a flux and its error find each
other."""

from __future__ import annotations

import enum
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache

import attrs
import numpy as np

from specinn import wavelengths
from specinn.errors import ReadError, SpectrumWarning
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
    Role.LOG_WAVELENGTH: "loglam loglambda logwave logwavelength logwl lnlam lnlambda lnwave "
                         "lnwavelength",
    Role.FLUX: "flux fluxes intensity spec spectrum spectra counts count signal sci fl mag mags magnitude "
               "magnitudes",
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
          "y": Role.FLUX, "e": Role.SIGMA, "data": Role.FLUX, "serr": Role.SIGMA, "m": Role.QUALITY,
          "arg": Role.WAVELENGTH, "fun": Role.FLUX,  # PEPSI: Arg, Fun, Var, Mask
          "stat": Role.VARIANCE}  # MUSE
_TAILS = {"norm": "nor", "normalized": "nor", "normalised": "nor", "normed": "nor", "n": "nor",
          "red": "reduced"}
_TAIL_NAMES = (
    "nor reduced obs observed corr corrected total tot stat cal calibrated 1d density rel relative main "
    "pixel pix of in the vec arr value values star object obj fractional frac percent percentage pct"
)
_KNOWN_TAILS = frozenset(_TAIL_NAMES.split())
# Axes that are no wavelengths, with the unit that they have if none is stated; all are those in vacuum
_RECIPROCAL = {"wavenumber": "1/cm", "wavenumbers": "1/cm", "wavenum": "1/cm", "frequency": "Hz",
               "freq": "Hz"}  # fmt: skip
_NO_FLUX = {"log": "logarithms", "log10": "logarithms", "ln": "logarithms", "mag": "magnitudes"}
_RELATIVE = {"rel": 1.0, "relative": 1.0, "frac": 1.0, "fractional": 1.0, "percent": 0.01, "percentage": 0.01,
             "pct": 0.01}  # fmt: skip
_NO_AXIS = {"d", "delta", "step", "min", "max", "start", "end", "first", "last", "unit"}
_PERCENT = ("%", "percent", "per cent")
_FRAMES = {"bary": "barycentric", "barycentric": "barycentric", "helio": "heliocentric",
           "heliocentric": "heliocentric"}  # fmt: skip
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
_GLUED = ("e", "d", "n", "norm", "inverse", "log", "rel")  # with flux and its error, as in eflux
_BRACKETS = re.compile(r"^(.*?)\s*[\[(]\s*(.*?)\s*[\])]$")

# Logarithms of wavelength, by base and unit: ranges that do not meet, so that the values tell which.
_LOGARITHMS = (
    (10.0, "Angstrom", (3.3, 4.45)),
    (np.e, "Angstrom", (7.6, 10.3)),
    (10.0, "nm", (2.3, 3.25)),
    (np.e, "nm", (5.4, 7.4)),
    (10.0, "m", (-6.7, -5.55)),
)
_LOGARITHM = re.compile(r"(?:log|log10|ln|dex)\s*[(\[ ]\s*(.*?)\s*[)\]]?$", re.I)
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
    if bare in ("s/n", "s_n"):
        return Role.OTHER, ()
    words = [word for token in re.split(r"[^a-z0-9]+", bare) if token for word in _unglue(token)]
    roles: set[Role] = set()
    tail: list[str] = []
    for word in words:
        role = next((role for role, synonyms in _WORDS.items() if word in synonyms), None)
        if role is None:
            tail.append(_TAILS.get(word, word))
        else:
            roles.add(role)
    if {"log", "log10", "ln"} & set(tail) and Role.WAVELENGTH in roles:
        roles = {Role.LOG_WAVELENGTH}
        tail = [word for word in tail if word not in ("log", "log10", "ln")]
    if {"mag", "mags", "magnitude", "magnitudes"} & set(words):
        tail.append("mag")
    for word in {"e", "d", "delta"} & set(tail):  # e_flux, as in catalogues
        if Role.FLUX in roles:
            roles.add(Role.SIGMA)
            tail.remove(word)
    if set(_RECIPROCAL) & set(tail) and not roles:
        roles.add(Role.WAVELENGTH)
    if {"and", "or"} & set(tail) and Role.QUALITY in roles:  # SDSS: AND_MASK counts, OR_MASK does not
        return (Role.QUALITY, ()) if "and" in tail else (Role.OTHER, ())
    tail = [word for word in tail if word not in ("air", "vac", "vacuum", "axis", "spectral", "data")]
    if bare in ("spectral_axis", "spectralaxis"):
        return Role.WAVELENGTH, ()
    errors = roles & {Role.SIGMA, Role.VARIANCE, Role.IVAR}
    if roles & {Role.WAVELENGTH, Role.LOG_WAVELENGTH}:
        tail = [word for word in tail if word not in _FRAMES]
    waves = roles & {Role.WAVELENGTH, Role.LOG_WAVELENGTH}
    if Role.IVAR not in errors and Role.VARIANCE in errors and "inverse" in tail:
        errors, tail = {Role.IVAR}, [word for word in tail if word != "inverse"]
    if roles & {Role.QUALITY, Role.GOOD}:
        role = Role.GOOD if Role.GOOD in roles else Role.QUALITY
    elif (
        Role.OTHER in roles or (errors and (waves or Role.ORDER in roles)) or (waves and set(tail) & _NO_AXIS)
    ):
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
    if token.endswith("data") and token[:-4] in _ALL_WORDS:  # SCIDATA, WAVEDATA of ESPRESSO's pipeline
        return [token[:-4]]
    flux = _WORDS[Role.FLUX] | _WORDS[Role.SIGMA]
    sky = _WORDS[Role.OTHER]
    for i in range(1, len(token)):
        first, second = token[:i], token[i:]
        if (first in flux and (second in _ALL_WORDS or second in _TAILS or second == "nor")) or (
            second in flux and (first in _ALL_WORDS or first in _GLUED)
        ):
            return [first, second]
        if first in sky and second in _ALL_WORDS - sky:  # SKYWAVE, SKYVAR
            return [first, second]
    return [token]


@attrs.frozen
class Columns:
    """Positions of the columns of a spectrum, and what their names say about the wavelengths.

    ``medium`` is None where no name says it. ``quality`` may be several columns: a pixel is good where all
    are 0 (``good``: where none is); ``unsure`` are those of them that may mark good pixels instead.
    ``relative`` is what the error is to be multiplied by, beside the flux, where it is one in parts of the
    flux. ``said_by`` is the column whose name says the medium. ``unknown`` are the names that were not
    understood, ``unused`` known ones that describe the pixels but belong to no flux in use."""

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
    logarithm: bool = False
    relative: float | None = None
    frame: str | None = None
    said_by: str = ""
    unsure: tuple[int, ...] = ()
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
        best = [i for i in plain if not parsed[i][1]]
        best = [i for i in best if frame_in(names[i])] or best  # EXPRES: wavelength, bary_wavelength
        wavelength = next(iter(best or plain or waves), None)
        if wavelength is None or not at[Role.FLUX]:
            return None
        errors = [i for role in (Role.SIGMA, Role.IVAR, Role.VARIANCE) for i in at[role]]
        tails = {i: parsed[i][1] for i in range(len(names))}

        def partner(flux: int) -> int | None:
            same = [i for i in errors if tails[i] == tails[flux]]
            if not same and len(at[Role.FLUX]) == 1:  # then it can belong to nothing else
                same = [i for i in errors if set(tails[i]) <= _KNOWN_TAILS][:1]
            return next(iter(same), None)

        def rank(flux: int) -> tuple[bool, bool, int, int]:
            preference = _PREFERRED.index(tails[flux]) if tails[flux] in _PREFERRED else len(_PREFERRED)
            no_flux = bool(set(tails[flux]) & set(_NO_FLUX))
            return no_flux, partner(flux) is None and bool(errors), preference, flux

        flux = min(at[Role.FLUX], key=rank)
        error = partner(flux)
        role = None if error is None else parsed[error][0]
        unit = split_unit(names[wavelength])[1]
        logarithmic = parsed[wavelength][0] is Role.LOG_WAVELENGTH  # SDSS: log10 of Angstrom in vacuum
        natural = names[wavelength].strip().lower().startswith("ln")
        reciprocal = next((_RECIPROCAL[word] for word in parsed[wavelength][1] if word in _RECIPROCAL), None)
        medium, said_by = _medium_of(names, waves, wavelength)
        quality = _of_flux(at[Role.QUALITY], tails, flux)
        paired = {tails[i] for i in at[Role.FLUX]}
        return cls(
            wavelength,
            flux,
            sigma=error if role is Role.SIGMA else None,
            variance=error if role is Role.VARIANCE else None,
            ivar=error if role is Role.IVAR else None,
            quality=quality,
            good=_of_flux(at[Role.GOOD], tails, flux),
            order=next(iter(at[Role.ORDER]), None),
            unit=unit or reciprocal,
            medium=medium or ("vacuum" if reciprocal or (logarithmic and not natural) else None),
            logarithm=logarithmic,
            relative=None if error is None else relative_in(names[error], names[flux]),
            frame=frame_in(names[wavelength]),
            said_by=said_by or names[wavelength],
            unsure=tuple(i for i in quality if may_mark_good(names[i])),
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


def _medium_of(names: Sequence[str], waves: Sequence[int], chosen: int) -> tuple[Medium | None, str]:
    """What the name of the chosen wavelengths says, and the column that says it: where there are wavelengths
    twice, as ``wavelength`` and ``wavelength_air`` (ESPRESSO), those of no medium are in the other one."""
    own = medium_in(split_unit(names[chosen])[0])
    if own is not None:
        return own, names[chosen]
    tail = role_of(names[chosen])[1]
    said = {medium_in(split_unit(names[i])[0]): names[i] for i in waves if role_of(names[i])[1] == tail}
    media = set(said) - {None}
    if len(media) != 1:
        return None, ""
    return ("air", said["vacuum"]) if "vacuum" in media else ("vacuum", said["air"])


def without_medium(unit: str | None) -> str | None:
    """The unit without a word that says the medium: ``Angstrom (vacuum)``; None where nothing is left."""
    bare = re.sub(r"[\s(\[,]*\b(?:in\s+)?(?:vacuum|vac|air)\b[\s)\],]*", "", unit or "", flags=re.I)
    return bare or None


def of_one_kind(error: str, flux: str, power: float) -> float:
    """What an error in one unit is multiplied by to be in that of the flux; 1 where that cannot be told.

    ``power`` is that of the unit: 1, for variances 2, for inverse ones -2."""
    if not error or not flux or error == flux:
        return 1.0
    from astropy import units as u

    try:
        return float(u.Unit(error).to(u.Unit(flux) ** power))
    except (u.UnitConversionError, ValueError, TypeError):
        return 1.0


def frame_in(name: str) -> str | None:
    """``barycentric`` or ``heliocentric`` where the name of wavelengths says so."""
    return next((_FRAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _FRAMES), None)


def relative_in(error: str, flux: str, unit: str = "") -> float | None:
    """1 where the name of an error says that it is one in parts of the flux, 0.01 in per cent; else None.

    ``unit`` is that of the file, where it has one beside the name."""
    if (unit.strip() or split_unit(error)[1] or "").lower() in _PERCENT:
        return 0.01
    words = set(role_of(error)[1]) - set(role_of(flux)[1])
    return next((_RELATIVE[word] for word in sorted(words) if word in _RELATIVE), None)


def may_mark_good(name: str) -> bool:
    """Whether a mask of this name need not mark bad pixels: that of PypeIt and of EXPRES marks good ones."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return bool(words & {"mask", "masks", "pixmask"}) and not words & {"bad", "and", "or"}


def check_flux(name: str, unit: str | None = None) -> None:
    """Raises ``ReadError`` where the name or the unit of a column says that it is no flux."""
    stated = (unit or split_unit(name)[1] or "").strip().lower()
    words = set(role_of(name)[1])
    what = next((_NO_FLUX[word] for word in sorted(words) if word in _NO_FLUX), None)
    if re.match(r"(mag\b|mag\()", stated):
        what = "magnitudes"
    elif re.match(r"(dex|log|ln)\b", stated):
        what = "logarithms"
    if what:
        unit = f" ({stated})" if stated else ""
        raise ReadError(f"{name} holds {what}{unit}: expected a flux that is linear")


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
    unit = without_medium(unit)
    logarithm = _LOGARITHM.match(unit.strip()) if unit else None
    if logarithm:
        return from_logarithm(values, logarithm[1])
    real = values[np.isfinite(values) & (values > 0)]
    if not real.size:
        raise ReadError("no wavelength is a positive number")
    low, high = float(real.min()), float(real.max())
    if unit and unit.strip():
        name = " ".join(unit.strip().split()).lower()
        angstrom = wavelengths.to_angstrom(values, _UNIT_NAMES.get(name, unit))
        ends = wavelengths.to_angstrom(np.array([low, high]), _UNIT_NAMES.get(name, unit))
        if ends.max() < 1000.0 or ends.min() > 27000.0:
            if ends.max() < 100.0 and _logarithm_of(real):
                return from_logarithm(values, remark=f" in {unit.strip()}")
            guess = next((n for n, (start, end) in _BY_VALUE.items() if start <= low and high <= end), None)
            hint = f": the values look like {guess}, correct the unit in the file" if guess else ""
            raise ReadError(
                f"wavelengths from {low:g} to {high:g} {unit.strip()} are {ends[0]:g} to {ends[1]:g} "
                f"Angstrom, where no optical spectrum lies{hint}"
            )
        return angstrom
    for name, (start, end) in _BY_VALUE.items():
        if start <= low and high <= end:
            return wavelengths.to_angstrom(values, name)
    if _logarithm_of(real):
        return from_logarithm(values, remark="")
    nm, angstrom_range = _BY_VALUE["nm"], _BY_VALUE["Angstrom"]
    raise ReadError(
        f"wavelengths from {low:g} to {high:g} without a unit are neither nm ({nm[0]:g}-{nm[1]:g}) nor "
        f"Angstrom ({angstrom_range[0]:g}-{angstrom_range[1]:g}): state the unit in the file"
    )


def _logarithm_of(real: np.ndarray) -> tuple[float, str] | None:
    """Base and unit of logarithms of wavelength, by their range; None where they are none."""
    low, high = real.min(), real.max()
    known = ((base, unit) for base, unit, (start, end) in _LOGARITHMS if start <= low and high <= end)
    return next(known, None)


def from_logarithm(values: np.ndarray, unit: str | None = None, remark: str | None = None) -> np.ndarray:
    """Angstrom from logarithms of wavelength: the values tell whether they are to the base of 10 or natural,
    and of Angstrom or nm. Zeros are no wavelengths and become NaN.

    ``remark`` is the unit that was stated for wavelengths that turn out to be logarithms, which is warned of.
    Raises ``ReadError`` for values that are no such logarithms, or not those of a stated ``unit``.
    """
    values = np.asarray(values, dtype=np.float64)
    real = values[np.isfinite(values) & (values != 0)]
    found = _logarithm_of(real) if real.size else None
    stated = _UNIT_NAMES.get(unit.lower(), unit) if unit else None
    one = np.ones(1)
    if stated and found and wavelengths.to_angstrom(one, stated) != wavelengths.to_angstrom(one, found[1]):
        found = None
    if found is None:
        ends = f"from {real.min():g} to {real.max():g}" if real.size else "that are all 0 or not finite"
        raise ReadError(
            f"logarithms of wavelength{f' in {unit}' if unit else ''} {ends}: expected those of an optical "
            "spectrum, such as 3.7 (log10) or 8.5 (ln) for Angstrom"
        )
    base, name = found
    if remark is not None:
        function = "log10" if base == 10.0 else "ln"
        ends = f"from {real.min():g} to {real.max():g}"
        sentence = f"the wavelengths{remark} {ends} are taken for {function} of {name}"
        warnings.warn(SpectrumWarning(sentence), stacklevel=2)
    with np.errstate(over="ignore"):
        length = np.where(np.isfinite(values) & (values != 0), base**values, np.nan)
    return wavelengths.to_angstrom(length, name)
