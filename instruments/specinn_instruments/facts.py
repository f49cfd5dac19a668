"""What the headers of a file say about its spectra: medium, frame, velocity, object, observation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

Header = Mapping[str, Any]

# Radial velocity of the star in the barycentric frame, km/s. Not VHELIO, VHELCOR, HELIOCR or BERV, which are
# corrections for the motion of the Earth, and not ESO TEL TARG RADVEL, which is what the observer typed.
_DRS = ("ESO DRS", "TNG DRS", "OHP DRS")  # HARPS, HARPS-N and SOPHIE have the same pipeline
_RV_KEYS = ("RV", "RADVEL", "VRAD", *(f"{drs} CCF RVC" for drs in _DRS))
_SENTINELS = (99.0, 99.99, 99.999, 999.0, 999.9, 999.99, 999.999)  # and all from 1000 km/s
# What stands beside a velocity in the observer's list of targets, as telescopes copy it into headers
_TARGET_LIST = ("PMRA", "PMDEC", "PM-RA", "PM-DEC", "PMRA_", "PARALLAX", "TELPMRA", "RAPM", "DECPM")
_TARGET_WORDS = re.compile(r"catalog|target|observer|simbad|input|proposal|literature|tcs|typed", re.I)

# Corrections in km/s that are to be added to a velocity measured in topocentric wavelengths
_BARYCOR = ("ESO QC VRAD BARYCOR", "ESO QC BERV", "ESO DRS BERV", "BERV", "BARYCORR", "VBARY")
_HELIOCOR = (
    "HEL_COR",
    "VHELIO",
    "HELIOVEL",
    "HELCORR",
    "VHELCOR",
    "HELIOCR",
    "BERV_CORR",
    "ESO QC VRAD HELICOR",
)
_FRAMES = {"TOPO": "topocentric", "BARY": "barycentric", "HELIO": "heliocentric", "GEO": "geocentric",
           "LSR": "lsr", "SOURCE": "rest", "REST": "rest"}  # fmt: skip

_VACUUM_KEYS = ("VACUUM", "AIRORVAC", "AIRVAC", "VACWAVE", "WAVMED", "WAVEMED", "MEDIUM", "WAVETYPE",
                "LAMBDMED", "WAVE_MED", "AIR", "VACWL", "WAVEREF", "SPECMED", "AIR2VAC")  # fmt: skip
_IN_VACUUM = ("CARMENES", "EXPRES", "HPF", "KPF", "LAMOST", "MAROON", "NEID", "SDSS")
_SENTENCE = re.compile(
    r"\b(?:(vacuum|vac|air)[- ]+(?:wavelengths?|wave|lambda)"
    r"|(?:wavelengths?|lambda)\b[^.;]{0,40}?\b(?:in|to|are|is|=|:|scale)\s+(?:the\s+)?(?:in\s+)?"
    r"(vacuum|vac|air)"
    r"|(?:air to|to) (vacuum|air) (?:correction|conversion))\b",
    re.I,
)


_ALONE = re.compile(r"[\s#%!;/*]*(?:\w+\s*[=:]\s*)?(?:vacuum|air)(?:[ ,]+(?:angstroms?|nm|a))?\s*", re.I)


@attrs.frozen
class Statement:
    """A value and where it comes from."""

    value: str
    source: str


def cards(headers: Sequence[Header]) -> Iterator[tuple[str, Any, str]]:
    """Keyword, value and comment of all cards that can be read; only a damaged one is lost."""
    seen: set[int] = set()
    for header in headers:
        if id(header) in seen:
            continue
        seen.add(id(header))
        for card in getattr(header, "cards", None) or ():
            try:
                yield str(card.keyword), card.value, str(card.comment or "")
            except Exception:  # unparsable values raise errors of several kinds
                continue


def value_of(header: Header, key: str) -> Any:
    """The value of a card, None where it is absent or cannot be parsed."""
    try:
        return header.get(key)
    except Exception:
        return None


def number(headers: Sequence[Header], *keys: str) -> float | None:
    """The first finite number under the keys (first key of all headers, then the next key)."""
    for key in keys:
        for header in headers:
            value = value_of(header, key)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
    return None


def text(headers: Sequence[Header], *keys: str) -> str | None:
    """The first string that is not blank under the keys."""
    for key in keys:
        for header in headers:
            value = value_of(header, key)
            if isinstance(value, str) and value.strip():
                return value.strip()
    return None


def resolving_power(headers: Sequence[Header]) -> float | None:
    """lambda / FWHM from SPEC_RES (ESO data products); None where it is absent or a placeholder."""
    value = number(headers, "SPEC_RES")
    return value if value is not None and 100 < value < 1e7 else None


# -- medium ----------------------------------------------------------------------------------------


def medium(
    headers: Sequence[Header], stated: Sequence[Statement] = (), lines: Sequence[str] = ()
) -> tuple[Statement, str]:
    """Air or vacuum, where that is said, and a sentence where two places contradict each other.

    ``stated`` are statements of the format, the surest: of a column, its UCD, or the type of the axis.
    ``lines`` are header lines of text. Without any statement wavelengths are taken as those in air.
    """
    everything = [
        *stated,
        *_from_keywords(headers),
        *from_axis(headers),
        *_from_words(headers, lines),
        *_from_any_key(headers),
        *_from_instrument(headers),
    ]
    if not everything:
        return Statement("air", "assumed"), ""
    first = everything[0]
    other = next((each for each in everything if each.value != first.value), None)
    if other is None:
        return first, ""
    return first, (
        f"the wavelengths are in {first.value} by {first.source}, in {other.value} by "
        f"{other.source}: taken to be in "
        f"{first.value}; state the right one with --medium"
    )


def _from_keywords(headers: Sequence[Header]) -> Iterator[Statement]:
    for key in _VACUUM_KEYS:
        for header in headers:
            value = value_of(header, key)
            if value is None:
                continue
            word = str(value).strip().lower()
            yes = value is True or word in ("1", "1.0", "t", "true", "y", "yes")
            no = value is False or word in ("0", "0.0", "f", "false", "n", "no")
            if key in ("VACUUM", "VACWAVE", "VACWL", "AIR2VAC") and (yes or no):
                yield Statement("vacuum" if yes else "air", key)
            elif key == "AIR" and (yes or no):
                yield Statement("air" if yes else "vacuum", key)
            elif (key == "VACUUM" and re.search(r"to vacuum|in vacuum|vacuum wave", word)) or re.match(
                r"vac", word
            ):
                yield Statement("vacuum", key)
            elif re.match(r"air\b", word) and "to vac" not in word:
                yield Statement("air", key)
            else:
                continue
            break


_ANY_KEY = re.compile(r"WAV|LAMBDA|LAMFR|LAMDA|MEDIUM|AIR|VAC", re.I)
_ANY_VALUE = re.compile(r"(?:in )?(vac|vacuum|air)(?: wavelengths?)?", re.I)


def _from_any_key(headers: Sequence[Header]) -> Iterator[Statement]:
    """Keywords that nobody has agreed on, HIERARCH ones included: air or vacuum is their whole value."""
    for key, value, _ in cards(headers):
        word = _ANY_VALUE.fullmatch(str(value).strip()) if _ANY_KEY.search(key) else None
        if word:
            yield Statement("air" if word[1].lower() == "air" else "vacuum", key)


def _from_instrument(headers: Sequence[Header]) -> Iterator[Statement]:
    """Vacuum for instruments whose pipelines give nothing else and whose headers do not say so."""
    for key in ("INSTRUME", "TELESCOP"):
        name = (text(headers, key) or "").upper()
        if name.startswith(_IN_VACUUM):
            yield Statement("vacuum", f"{key} {name}")


def from_axis(headers: Sequence[Header]) -> Iterator[Statement]:
    """CTYPE1 AWAV says air and WAVE vacuum (FITS standard, table 25)."""
    for header in headers:
        for key in ("CTYPE1", "1CTYP1"):
            kind = str(value_of(header, key) or "").strip().upper()
            for name, value in (("AWAV", "air"), ("VWAV", "vacuum"), ("WAVE", "vacuum")):
                if kind == name or kind.startswith(name + "-"):
                    yield Statement(value, f"{key} {kind}")


def _from_words(headers: Sequence[Header], lines: Sequence[str]) -> Iterator[Statement]:
    sentences = [("the header", line) for line in lines]
    for key, value, comment in cards(headers):
        if key in ("COMMENT", "HISTORY") or key.startswith(
            ("CTYPE", "CUNIT", "CRVAL", "TTYPE", "TUNIT", "TUCD", "WAT1")
        ):
            sentences.append((key, f"{value} {comment}"))
    for source, sentence in sentences:
        match = _SENTENCE.search(sentence)
        if match:
            word = next(filter(None, match.groups())).lower()
            yield Statement("vacuum" if word.startswith("vac") else "air", source)
        elif source == "the header" and _ALONE.fullmatch(sentence) is not None:
            yield Statement("vacuum" if "vac" in sentence.lower() else "air", source)


# -- frame and velocity ----------------------------------------------------------------------------


def frame(headers: Sequence[Header]) -> tuple[Statement, float]:
    """The frame in which the wavelengths will be, and the velocity (km/s) that brings them there.

    Topocentric wavelengths go to the barycentre by the correction that the header states. A frame of which
    nothing is known is ``unknown``.
    """
    stated = text(headers, "SPECSYS", "SPECSYSA", "1SPECSYS", "VELFRAME", "TFIELDFR")
    kind = next((name for key, name in _FRAMES.items() if stated and stated.upper().startswith(key)), None)
    if kind == "topocentric":
        for key in _BARYCOR:
            velocity = number(headers, key)
            if velocity is not None and 0 < abs(velocity) < 35.0:
                return Statement("barycentric", f"{key} {velocity:.3f} km/s"), velocity
        return Statement("topocentric", f"SPECSYS {stated}"), 0.0
    if kind is not None:
        return Statement(kind, f"SPECSYS {stated}"), 0.0
    for key in (f"{drs} BERV" for drs in _DRS):
        earth = number(headers, key)
        if earth is not None and any(thorium(header) is not None for header in headers):
            return Statement("barycentric", f"{key} {earth:.3f} km/s, as orders of the DRS"), earth
        if earth is not None and number(headers, "NAXIS2") is None:
            return Statement("barycentric", f"{key}, as merged spectra of the DRS"), 0.0
    # whether a correction without SPECSYS was applied differs from program to program
    keyword = next((key for key in (*_BARYCOR, *_HELIOCOR) if number(headers, key)), None)
    source = "not stated"
    if keyword:
        source += f"; the header has {keyword} = {number(headers, keyword):.3f}"
    return Statement("unknown", source), 0.0


def thorium(header: Header) -> np.ndarray | None:
    """``(n_orders, degree + 1)`` the polynomials of wavelength by pixel (from 0) in the headers of e2ds files
    of HARPS, HARPS-N and SOPHIE; None where there are none, and for an image that has not these orders in
    its rows (the headers of merged spectra have the polynomials, too).

    Source: the manual of HARPS' data reduction, on CAL TH COEFF LL.
    """
    for drs in _DRS:
        degree = number([header], f"{drs} CAL TH DEG LL")
        if degree is None or not 0 < degree < 10:
            continue
        values: list[float] = []
        while (value := number([header], f"{drs} CAL TH COEFF LL{len(values)}")) is not None:
            values.append(value)
        if values and len(values) == (int(degree) + 1) * (number([header], "NAXIS2") or 0):
            return np.reshape(values, (-1, int(degree) + 1))
    return None


def velocity(headers: Sequence[Header], where: Statement) -> tuple[float | None, str]:
    """The star's velocity in km/s if the header states one that can be used, and a sentence if it cannot.

    0 is what programs write that know no velocity, and counts as not stated.
    """
    for key in _RV_KEYS:
        value = number(headers, key)
        if value is None or value == 0:
            continue
        if abs(value) >= 1000 or abs(value) in _SENTINELS:
            return None, f"{key} = {value:g} of the header is a placeholder for no velocity: it is measured"
        reason = _from_target_list(headers, key)
        if reason:
            return None, f"{key} = {value:g} of the header is not used, {reason}: it is measured"
        if where.value == "topocentric":
            return None, (
                f"{key} = {value:g} of the header does not fit wavelengths in the topocentric frame "
                f"({where.source}): "
                "it is measured"
            )
        return value, ""
    return None, ""


def _from_target_list(headers: Sequence[Header], key: str) -> str:
    """Why a velocity is that of the observer's target list; nothing if it is not."""
    if key.endswith("DRS CCF RVC"):
        return ""
    for name, _, comment in cards(headers):
        if name == key and _TARGET_WORDS.search(comment):
            return f"as its comment ({comment.strip()}) says that it comes from the target list"
    beside = next((name for name in _TARGET_LIST if number(headers, name) is not None), None)
    return f"as {beside} beside it shows that it comes from the target list" if beside else ""


# -- the observation -------------------------------------------------------------------------------

_NO_NAME = re.compile(r"(red_|blue_)?science|object|std|target|unknown|none|n/a|star|test|-1|", re.I)
_IDS = ("OBJ_UID", "OBJ_NME", "TRG_UID", "TRG_NME", "SPECUID", "CNAME", "SOBJECT_ID", "GAIA_ID", "APOGEE_ID")


def observation(headers: Sequence[Header]) -> dict[str, Any]:
    """What identifies the object and the exposure: ``object``, ``ra`` and ``dec`` (degrees), ``mjd``,
    ``exptime`` (s) and ``programme``, NaN or blank where the file does not say; and the identifiers of
    surveys that it has."""
    facts: dict[str, Any] = {
        "object": object_name(headers),
        "ra": _angle(headers, ("RA", "RA_DEG", "OBJRA", "RA_TARG", "CAT-RA", "TELRA"), hours=True),
        "dec": _angle(headers, ("DEC", "DEC_DEG", "OBJDEC", "DEC_TARG", "CAT-DEC", "TELDEC"), hours=False),
        "mjd": _mjd(headers),
        "exptime": _positive(number(headers, "EXPTIME", "TEXPTIME", "EXPOSURE", "ITIME", "EXP_TIME")),
        "programme": text(headers, "PROG_ID", "ESO OBS PROG ID", "PROGID", "PROPID", "PROG-ID", "PROPOSAL")
        or "",
    }
    for key in _IDS:
        value = next((v for v in (value_of(h, key) for h in headers) if identifier(v)), None)
        if value is not None:
            facts[key.lower()] = identifier(value)
    return facts


def object_name(headers: Sequence[Header]) -> str:
    names = [
        text(headers, key)
        for key in ("OBJECT", "TARGNAME", "ESO OBS TARG NAME", "OBJNAME", "TARGET", "OBJ_NME")
    ]
    stated = [name for name in names if name]
    said = [
        name
        for name in stated
        if not _NO_NAME.fullmatch(re.sub(r"[_ ]?(redu|red|blue|obs)$", "", name, flags=re.I))
    ]
    name = (said or stated or [""])[0]
    return re.sub(r"^order\s*:?\s*\d+\s+", "", name, flags=re.I)  # SALT names every order


def identifier(value: Any) -> str:
    """An identifier as text; blank if it is missing (blank, or -1)."""
    name = "" if value is None else str(value).strip()
    return "" if name in ("-1", "None", "N/A", "--", "nan") else name


def _positive(value: float | None) -> float:
    return value if value is not None and value > 0 else np.nan


def _angle(headers: Sequence[Header], keys: Sequence[str], *, hours: bool) -> float:
    """Degrees from a number or from sexagesimal text."""
    for key in keys:
        value = number([*headers], key)
        if value is None:
            words = re.split(r"[:\s]+", text(headers, key) or "")
            try:
                parts = [abs(float(word)) for word in words[:3]]
            except ValueError:
                continue
            if len(parts) < 2:
                value = float(words[0])
            else:
                value = sum(part / 60.0**i for i, part in enumerate(parts)) * (15.0 if hours else 1.0)
                value = -value if words[0].startswith("-") else value
        if (0 <= value <= 360) if hours else (-90 <= value <= 90):
            return value
    return np.nan


def _mjd(headers: Sequence[Header]) -> float:
    value = number(headers, "MJD-OBS", "MJD_OBS", "MJD", "MJD-BEG", "MJDSTART")
    if value is not None and 15000 < value < 100000:
        return value
    date = text(headers, "DATE-OBS", "DATE_OBS", "DATE-BEG")
    if date and re.match(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d*)?)?)?$", date):
        try:
            return float(np.datetime64(date.replace(" ", "T"), "us").astype("f8") / 86400e6 + 40587.0)
        except ValueError:
            pass
    julian = number(headers, "JD", "JD-OBS", "BJD", "HJD")
    return julian - 2400000.5 if julian is not None and 2415000 < julian < 2500000 else np.nan
