"""FITS images with a wavelength axis: IRAF, iSpec and the benchmark library, UVES-POP, atlases, echelle
orders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from astropy.io import fits

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import open_fits
from specinn.wavelengths import doppler
from specinn_instruments import facts
from specinn_instruments.batches import MOST_PIXELS, Piece, assemble, make_batch, pixels, say
from specinn_instruments.columns import Role, role_of, to_angstrom
from specinn_instruments.facts import number
from specinn_instruments.headers import headers

# CTYPE1 that means wavelength; AWAV says air and WAVE vacuum (FITS standard, table 25), the others neither
# fmt: off
_WAVELENGTH_TYPES = ("", "AWAV", "WAVE", "VWAV", "LINEAR", "LAMBDA", "WAVELENGTH", "WAVELENG", "ANGSTROM",
                     "ANGSTROMS", "NM", "AWAV-LOG", "WAVE-LOG", "LOG-LINEAR", "LOGLAM", "PIXEL", "PIXELS")
# fmt: on
_BATCH = 256  # spectra, and
_BATCH_PIXELS = 4_000_000  # pixels that are read at once
_ERRORS = {Role.SIGMA: "sigma", Role.VARIANCE: "variance", Role.IVAR: "ivar"}
_WAVES = (Role.WAVELENGTH, Role.LOG_WAVELENGTH)


@attrs.frozen(eq=False)
class Plane:
    """An image of the file: its HDU, the role that its name gives it, and the words that pair it with
    others."""

    hdu: Any
    role: Role | None
    tail: tuple[str, ...]
    label: str  # EXTNAME, blank where there is none

    @property
    def header(self) -> fits.Header:
        return self.hdu.header

    @property
    def name(self) -> str:
        return self.label or f"image {self.hdu.ver}"

    def rows(self) -> np.ndarray:
        """``(n_spec, n_pix)``."""
        data = np.squeeze(np.asarray(self.hdu.data))
        if data.ndim not in (1, 2):
            raise ReadError(f"the image has shape {self.hdu.shape}: expected (n_pix,) or (n_spec, n_pix)")
        return np.atleast_2d(data)


class FitsImage(Reader):
    """Images of one axis, or of two with a spectrum or an order in each row; errors, masks and wavelengths in
    extensions of their names. Several images of flux are orders, arms or stars."""

    def recognises(self, path: Path) -> bool:
        images = [h for h in headers(path) if _n_axes(h)]
        tables = any(h.get("XTENSION", "").strip() == "BINTABLE" and "ZIMAGE" not in h for h in headers(path))
        usable = [h for h in images if _kind(h) in _WAVELENGTH_TYPES]
        waves = any(_role(h)[0] in _WAVES for h in images)
        if not usable or (tables and not waves and not any(_reference(h) for h in usable)):
            return False
        # two axes could be any picture: there the header must speak of wavelengths
        first = usable[0]
        stack = len(images) == 3 and len({_shape(h) for h in images}) == 1  # flux, error, wavelengths
        return _n_axes(first) == 1 or waves or stack or _reference(first) is not None

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            planes = [_plane(hdu) for hdu in hdus if hdu.is_image and hdu.shape and np.prod(hdu.shape) > 1]
            fluxes, others = _divide(planes)
            if not fluxes:
                raise ReadError("no image of a spectrum")
            primary = hdus[0].header
            pieces: list[Piece] = []
            used: set[int] = set()
            for flux in fluxes:
                its = _companions(flux, fluxes, others)
                used |= {id(plane) for plane in its.values()}
                if len(fluxes) == 1 and _many_alike(flux, its):
                    yield from _many(path, flux, its, primary)
                else:
                    pieces += _pieces(flux, its, primary)
            unknown = [p.name for p in others if id(p) not in used and p.role is not Role.OTHER]
            skipped = [p.name for p in others if id(p) not in used and p.role is Role.OTHER]
            if unknown:
                say(
                    f"the extensions {', '.join(unknown)} are not understood and left out "
                    "(docs/files.md has the names)"
                )
            if skipped:
                say(f"the extensions {', '.join(skipped)} are left out")
            if pieces:
                yield from assemble(path, pieces, medium=_medium((fluxes[0].header, primary)))


# -- which image is what ---------------------------------------------------------------------------


def _plane(hdu: Any) -> Plane:
    role, tail = _role(hdu.header)
    return Plane(hdu, role, tail, str(hdu.header.get("EXTNAME", "")).strip())


def _role(header: fits.Header) -> tuple[Role | None, tuple[str, ...]]:
    name = str(header.get("EXTNAME", "")).strip()
    if name.upper() in ("", "PRIMARY"):
        return None, ()
    return role_of(name)


def _divide(planes: Sequence[Plane]) -> tuple[list[Plane], list[Plane]]:
    """The images of flux, and the others: named ones first, then the unnamed, then those of unknown names."""
    named = [p for p in planes if p.role is Role.FLUX]
    blank = [p for p in planes if p.role is None and p.label.upper() in ("", "PRIMARY")]
    strange = [p for p in planes if p.role is None and p not in blank]
    if named:
        plain = [p for p in named if not p.tail]
        best = plain or named
    elif blank:
        best = [blank[0], *(p for p in blank[1:] if _reference(p.header) is not None)]
    else:
        best = [p for p in strange if _reference(p.header) is not None or len(strange) == 1]
    by_tail = {p.tail for p in named}
    if named and not any(not p.tail for p in named) and len(by_tail) > 1:
        best = named  # FLUX_BLUE and FLUX_RED, FLUX_1 and FLUX_2
    return best, [p for p in planes if p not in best]


def _companions(flux: Plane, fluxes: Sequence[Plane], others: Sequence[Plane]) -> dict[str, Plane]:
    """Error, masks and wavelengths of an image of flux: those of its tail and version, or those for all."""
    companions: dict[str, Plane] = {}
    several = len(fluxes) > 1
    keys = {
        **_ERRORS,
        Role.QUALITY: "quality",
        Role.GOOD: "good",
        Role.WAVELENGTH: "wave",
        Role.LOG_WAVELENGTH: "log",
    }
    for plane in others:
        key = keys.get(plane.role) if plane.role is not None else None
        if key is None:
            continue
        same = plane.tail == flux.tail and (not several or plane.hdu.ver == flux.hdu.ver or flux.tail != ())
        alone = not several and sum(p.role is plane.role for p in others) == 1
        shared = plane.role in _WAVES and sum(p.role in _WAVES for p in others) == 1
        if (same or alone or shared) and key not in companions:
            companions[key] = plane
    unnamed = [p for p in others if p.role is None and p.label.upper() in ("", "PRIMARY")]
    if not several and unnamed and not companions:
        companions.update(_by_content(flux, unnamed))
    return companions


def _by_content(flux: Plane, unnamed: Sequence[Plane]) -> dict[str, Plane]:
    """Wavelengths and error among images without names, as APF and HIRES of CPS have them: flux, error,
    wave."""
    alike = [p for p in unnamed if p.hdu.shape == flux.hdu.shape]
    waves = [p for p in alike if _looks_like_wavelengths(p.rows())]
    rest = [p for p in alike if p not in waves]
    planes = {}
    if len(waves) == 1:
        planes["wave"] = waves[0]
        if len(rest) == 1:
            values, level = rest[0].rows(), np.nanmedian(np.abs(flux.rows()))
            if np.nanmin(values) >= 0 and 0 < np.nanmedian(values) < level:
                planes["sigma"] = rest[0]
    return planes


def _looks_like_wavelengths(rows: np.ndarray) -> bool:
    values = np.asarray(rows, float)
    if not np.isfinite(values).all() or values.shape[-1] < 2:
        return False
    step = np.diff(values, axis=-1)
    return bool(((step > 0).all() or (step < 0).all()) and values.min() > 250.0 and values.max() < 30000.0)


# -- from images to spectra ------------------------------------------------------------------------


def _many_alike(flux: Plane, its: dict[str, Plane]) -> bool:
    """Whether the rows are spectra on one axis of wavelength: then they are read in batches."""
    if band_names(flux.header) or sum(size > 1 for size in flux.hdu.shape) != 2:
        return False
    wave = its.get("wave") or its.get("log")
    return wave is None or sum(size > 1 for size in wave.hdu.shape) == 1


def _many(path: Path, flux: Plane, its: dict[str, Plane], primary: fits.Header) -> Iterator[SpectrumBatch]:
    both = (flux.header, primary)
    rows = flux.rows()
    wavelength = _wavelengths(flux, its, rows.shape[1])[0]
    companions = {key: plane.rows() for key, plane in its.items() if key not in ("wave", "log")}
    _check_shapes(companions, rows.shape)
    medium = _medium(both)
    frame, velocity = facts.frame(both)
    size = max(1, min(_BATCH, _BATCH_PIXELS // rows.shape[1]))
    stem = re.sub(r"\.(gz|bz2|xz)$", "", path.name).rsplit(".", 1)[0]
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        n = len(rows[part])
        yield make_batch(
            path,
            doppler(wavelength, velocity),
            rows[part],
            sigma=companions["sigma"][part] if "sigma" in companions else None,
            variance=companions["variance"][part] if "variance" in companions else None,
            ivar=companions["ivar"][part] if "ivar" in companions else None,
            quality=[companions["quality"][part]] if "quality" in companions else [],
            good=[companions["good"][part]] if "good" in companions else [],
            resolving_power=facts.resolving_power(both),
            medium=medium,
            frame=frame,
            headers=both,
            ids=None if len(rows) == 1 else [f"{stem}#{start + i}" for i in range(n)],
        )


def _pieces(flux: Plane, its: dict[str, Plane], primary: fits.Header) -> list[Piece]:
    """The rows of an image, as stars, arms or orders; those of its other bands as error, or left out."""
    bands = band_names(flux.header)
    if bands and flux.hdu.shape[0] == len(bands) and flux.hdu.data.ndim > 1:
        values, errors = choose_bands(np.asarray(flux.hdu.data, float), bands)
        values = values.reshape(-1, values.shape[-1])
        errors = None if errors is None else errors.reshape(values.shape)
        companions: dict[str, np.ndarray] = {} if errors is None else {"sigma": errors}
    else:
        values = flux.rows()
        companions = {key: plane.rows() for key, plane in its.items() if key not in ("wave", "log")}
        _check_shapes(companions, values.shape)
    if values.shape[1] > MOST_PIXELS:
        raise ReadError(f"{values.shape[1]} pixels in one spectrum: expected at most {MOST_PIXELS}")
    waves = _wavelengths(flux, its, values.shape[1])
    if len(waves) not in (1, len(values)):
        raise ReadError(
            f"there are wavelengths for {len(waves)} rows and flux in {len(values)}: they must agree"
        )
    both = (flux.header, primary)
    star = facts.text((flux.header,), "OBJECT") or ""
    pieces = []
    for i, row in enumerate(values):
        f, s, m = pixels(
            row,
            **{key: v[i] for key, v in companions.items() if key in _ERRORS.values()},
            quality=[companions["quality"][i]] if "quality" in companions else [],
            good=[companions["good"][i]] if "good" in companions else [],
        )
        pieces.append(Piece(waves[i if len(waves) > 1 else 0], f, s, m, both, flux.name, star))
    return pieces


def _check_shapes(companions: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
    words = {
        "sigma": "error",
        "variance": "variance",
        "ivar": "inverse variance",
        "quality": "mask",
        "good": "mask",
    }
    for key, values in companions.items():
        if values.shape != shape:
            raise ReadError(
                f"the {words[key]} extension has shape {values.shape}, flux {shape}: they must agree"
            )


# -- bands of IRAF ---------------------------------------------------------------------------------

_APALL = ("spectrum", "raw", "background", "sigma")  # the order in which IRAF's apall writes its bands


def band_names(header: fits.Header) -> list[str]:
    """What the bands (third axis) of an IRAF image are; none for an image of one band."""
    n = header.get("NAXIS3", 1)
    if header.get("NAXIS", 0) != 3 or not isinstance(n, int) or n < 2:
        return []
    names = [str(header.get(f"BANDID{i}", "")).strip().lower() for i in range(1, n + 1)]
    if any(names):
        return names
    iraf = any(key in header for key in ("WAT0_001", "APNUM1", "WCSDIM"))
    return list(_APALL[:n]) if iraf and n <= len(_APALL) else []


def choose_bands(data: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Flux and its error ``(n_orders, n_pix)`` (None: not known) of ``data (n_bands, n_orders, n_pix)``; the
    other bands are left out, with a warning.

    Flux is the band divided by the flat, where there is one (its blaze is gone), else the (weighted)
    spectrum."""

    def first(*patterns: str, but: str = r"$^") -> int | None:
        for pattern in patterns:
            for i, name in enumerate(names):
                if re.search(pattern, name) and not re.search(but, name):
                    return i
        return None

    but = r"sky|noise|sigma|error|signal-to-noise|lamp|raw|backgr(?!ound (none|fit|median|average))|^flat"
    plain = first(r"^(object )?spectrum(?!.*divided)", r"^object(?!.*divided)", but=but)
    divided = first(r"divided by.*flat|/ *flat|blaze.corrected", but=r"sky|noise|sigma")
    noise = first(r"^(sigma|noise|error)")
    chosen = divided if divided is not None else plain
    if chosen is None:
        raise ReadError(f"none of the bands of the image ({'; '.join(names)}) is a spectrum")
    flux = data[chosen]
    sigma = None
    if noise is not None:
        sigma = data[noise]
        if divided is not None and plain is not None:  # the noise is that of the spectrum before the division
            with np.errstate(divide="ignore", invalid="ignore"):
                sigma = sigma * np.abs(flux / data[plain])
    left_out = [name or f"band {i + 1}" for i, name in enumerate(names) if i not in (chosen, noise)]
    if left_out:
        say(f"the bands {'; '.join(left_out)} are left out: flux is the band {names[chosen]!r}")
    return flux, sigma


# -- the axis --------------------------------------------------------------------------------------


def _n_axes(header: fits.Header) -> int:
    """Axes longer than 1; 0 for an HDU without image."""
    return sum(size > 1 for size in _shape(header))


def _shape(header: fits.Header) -> tuple[int, ...]:
    if header.get("XTENSION", "IMAGE").strip() != "IMAGE" and "ZIMAGE" not in header:
        return ()
    n = header.get("NAXIS", 0)
    sizes = [header.get(f"NAXIS{i + 1}", 0) for i in range(n if isinstance(n, int) else 0)]
    return tuple(size for size in sizes if isinstance(size, int))


def _ctype(header: fits.Header) -> str:
    return str(header.get("CTYPE1", "")).strip().upper()


def _kind(header: fits.Header) -> str:
    """CTYPE1 without the unit that some append: ``WAVELENGTH [A]``."""
    return re.sub(r"\s*[\[(].*[\])]$", "", _ctype(header))


def _reference(header: fits.Header) -> tuple[float, float, float] | None:
    """Value, step and pixel (from 1) of the axis; an absent CRPIX1 is 1, as programs that omit it mean."""
    value, step = number([header], "CRVAL1", "COEFF0"), number([header], "CD1_1")
    step = step or number([header], "CDELT1", "COEFF1")
    pixel = number([header], "CRPIX1")
    return None if value is None or not step else (value, step, 1.0 if pixel is None else pixel)


def _wavelengths(flux: Plane, its: dict[str, Plane], n_pix: int) -> list[np.ndarray]:
    """``(n_pix,)`` Angstrom, for all rows of the image or for each."""
    plane = its.get("wave") or its.get("log")
    if plane is None:
        return [_axis(flux.header, n_pix)]
    table = plane.rows()
    if "log" in its and "wave" not in its:
        table = 10.0 ** np.asarray(table, float)
    if table.shape[1] != n_pix:
        raise ReadError(f"there are {table.shape[1]} wavelengths for {n_pix} pixels: they must agree")
    unit = str(plane.header.get("BUNIT", "")).strip() or unit_of(flux.header)
    try:
        wave = to_angstrom(table, unit)
    except ReadError:
        wave = to_angstrom(table, unit_of(flux.header))  # BUNIT is often that of the flux
    return [wave[0]] if (wave == wave[0]).all() else list(wave)


def _axis(header: fits.Header, n_pix: int) -> np.ndarray:
    kind = _kind(header)
    axis = _reference(header)
    unit = unit_of(header)
    if axis is None or kind.startswith("PIXEL") or unit == "pixel":
        why = "its axis is in pixels" if axis else "the header lacks CRVAL1, or CDELT1 and CD1_1"
        raise ReadError(f"no wavelength for the image of {n_pix} pixels: {why}")
    value, step, pixel = axis
    offset = (np.arange(1, n_pix + 1) - pixel) * step
    logarithmic = number([header], "DC-FLAG") == 1 or kind in ("LOG-LINEAR", "LOGLAM") or "COEFF0" in header
    if logarithmic or (kind.endswith("-LOG") and value < 10):  # log10, of IRAF and SDSS
        if not 0 < value < 10:
            raise ReadError(
                f"the header says log10 of wavelength, but CRVAL1 is {value:g}: expected about 3.7"
            )
        with np.errstate(over="ignore"):
            return to_angstrom(10.0 ** (value + offset), unit)
    if kind.endswith("-LOG"):  # FITS standard, section 8.4.1: natural, in units of CRVAL1
        with np.errstate(over="ignore"):
            return to_angstrom(value * np.exp(offset / value), unit)
    return to_angstrom(value + offset, unit)


def unit_of(header: fits.Header) -> str | None:
    """The unit of the axis, by CUNIT1, CTYPE1 or IRAF's WAT1; ``pixel`` where nothing says more than that."""
    stated = str(header.get("CUNIT1", "")).strip()
    if stated and not stated.lower().startswith("pix"):
        return stated
    bracket = re.search(r"[\[(]\s*(.*?)\s*[\])]$", _ctype(header))
    if bracket and bracket[1]:
        return bracket[1].lower()
    if _ctype(header) in ("ANGSTROM", "ANGSTROMS", "NM"):
        return _ctype(header)
    # IRAF: wtype=linear label=... units=angstroms
    match = re.search(r"\bunits=(\"[^\"]*\"|\S+)", str(header.get("WAT1_001", "")), re.I)
    if match and match[1].strip('"').strip():
        return match[1].strip('"').strip()
    return "pixel" if stated else None


def _medium(both: Sequence[fits.Header]) -> facts.Statement:
    axis = [s for s in facts.from_axis(both[:1]) if s.value == "air"]  # AWAV is never there by accident
    medium, doubt = facts.medium(both, axis)
    if doubt:
        say(doubt)
    return medium
