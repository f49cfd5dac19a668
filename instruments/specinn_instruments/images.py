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
from specinn_instruments.columns import (
    Columns,
    Role,
    frame_in,
    from_logarithm,
    may_mark_good,
    medium_in,
    relative_in,
    role_of,
    to_angstrom,
)
from specinn_instruments.facts import number
from specinn_instruments.headers import column_names, headers, is_table

# CTYPE1 that means wavelength; AWAV says air and WAVE vacuum (FITS standard, table 25), the others neither
# fmt: off
_WAVELENGTH_TYPES = ("", "AWAV", "WAVE", "VWAV", "LINEAR", "LAMBDA", "WAVELENGTH", "WAVELENG", "ANGSTROM",
                     "ANGSTROMS", "NM", "AWAV-LOG", "WAVE-LOG", "LOG-LINEAR", "LOGLAM", "PIXEL", "PIXELS",
                     "LOG", "LOG10", "LN", "LOGLAMBDA", "LOG-LAMBDA", "LOGWAVE", "LOG-WAVE")
_LOGARITHMIC = ("LOG-LINEAR", "LOGLAM", *_WAVELENGTH_TYPES[-7:])
# fmt: on
_BATCH = 256  # spectra, and
_BATCH_PIXELS = 4_000_000  # pixels that are read at once
_LISTED = (2, 3, 4)  # wavelengths, flux, error and another
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
        waves = any(_role(h)[0] in _WAVES for h in images) or any(_wave_column(h) for h in headers(path))
        if not usable or (tables and not waves and not any(_reference(h) for h in usable)):
            return False
        # two axes could be any picture: there the header must speak of wavelengths
        first = usable[0]
        if len(images) == 1 and not tables and (_is_list(first) or facts.thorium(first) is not None):
            return True
        stack = len(images) == 3 and len({_shape(h) for h in images}) == 1  # flux, error, wavelengths
        return _n_axes(first) == 1 or waves or stack or _reference(first) is not None

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            planes = [_plane(hdu) for hdu in hdus if hdu.is_image and hdu.shape and np.prod(hdu.shape) > 1]
            if not any(plane.role in _WAVES for plane in planes):
                planes += [_plane(hdu) for hdu in _from_tables(hdus)]
            fluxes, others = _divide(planes)
            if not fluxes:
                raise ReadError("no image of a spectrum")
            primary = hdus[0].header
            if not any(flux.label for flux in fluxes):
                _warn_of_errors([flux.hdu.data for flux in fluxes])
            pieces: list[Piece] = []
            medium: facts.Statement | None = None
            frame: facts.Statement | None = None
            used: set[int] = set()
            for flux in fluxes:
                its = _companions(flux, fluxes, others)
                used |= {id(plane) for plane in its.values()}
                medium = medium or _medium((flux.header, primary), its)
                frame = frame or _frame(its)
                if len(fluxes) == 1 and _many_alike(flux, its):
                    yield from _many(path, flux, its, primary, medium)
                else:
                    pieces += _pieces(flux, its, primary)
            known = (Role.OTHER, Role.FLUX, *_WAVES)  # what they are is clear, and that they are not needed
            unknown = [p.name for p in others if id(p) not in used and p.role not in known]
            skipped = [p.name for p in others if id(p) not in used and p.role in known]
            if unknown:
                say(
                    f"the extensions {', '.join(unknown)} are not understood and left out "
                    "(docs/files.md has the names)"
                )
            if skipped:
                say(f"the extensions {', '.join(skipped)} are left out")
            if pieces:
                yield from assemble(path, pieces, medium=medium, frame=frame)


# -- which image is what ---------------------------------------------------------------------------


def _plane(hdu: Any) -> Plane:
    role, tail = _role(hdu.header)
    return Plane(hdu, role, tail, str(hdu.header.get("EXTNAME", "")).strip())


def _wave_column(header: fits.Header) -> str:
    """The column of wavelengths in a table without flux; blank where there is none."""
    names = column_names(header) if is_table(header) else []
    if Columns.identify(names) is not None:
        return ""
    return next((name for name in names if role_of(name)[0] is Role.WAVELENGTH), "")


def _from_tables(hdus: fits.HDUList) -> Iterator[fits.ImageHDU]:
    """Columns of wavelengths, for images of flux that have none, as images of that name."""
    for hdu in hdus:
        column = _wave_column(hdu.header)
        if column and hdu.data is not None:
            plane = fits.ImageHDU(np.squeeze(np.asarray(hdu.data[column], float)), name=column)
            plane.header["BUNIT"] = hdu.columns[column].unit or ""
            yield plane


def _role(header: fits.Header) -> tuple[Role | None, tuple[str, ...]]:
    name = str(header.get("EXTNAME", "")).strip()
    if name.upper() in ("", "PRIMARY"):
        return None, ()
    return role_of(name)


def _divide(planes: Sequence[Plane]) -> tuple[list[Plane], list[Plane]]:
    """The images of flux, and the others: named ones first, then the unnamed, then those of unknown names."""
    named = [p for p in planes if p.role is Role.FLUX]
    science = [p for p in named if re.search(r"(^|[^a-z])sci", p.label, re.I)]
    named = science or named  # KPF: the fibres are GREEN_SCI_FLUX1, ..., GREEN_CAL_FLUX
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
    for plane in sorted(others, key=lambda plane: frame_in(plane.label) is None):
        key = keys.get(plane.role) if plane.role is not None else None
        if key is None:
            continue
        same = plane.tail == flux.tail and (not several or plane.hdu.ver == flux.hdu.ver or flux.tail != ())
        alone = not several and sum(p.role is plane.role for p in others) == 1
        shared = plane.role in _WAVES and len({p.tail for p in others if p.role in _WAVES}) == 1
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
    if _is_list(flux.header) or facts.thorium(flux.header) is not None or row_names(flux.header):
        return False
    if band_names(flux.header) or sum(size > 1 for size in flux.hdu.shape) != 2:
        return False
    wave = its.get("wave") or its.get("log")
    return wave is None or sum(size > 1 for size in wave.hdu.shape) == 1


def _many(
    path: Path, flux: Plane, its: dict[str, Plane], primary: fits.Header, medium: facts.Statement
) -> Iterator[SpectrumBatch]:
    both = (flux.header, primary)
    rows = flux.rows()
    wavelength = _wavelengths(flux, its, rows.shape[1])[0]
    companions = {key: plane.rows() for key, plane in its.items() if key not in ("wave", "log")}
    _check_shapes(companions, rows.shape)
    frame, velocity = facts.frame(both)
    relative, unsure = _relative(flux, its), _unsure(its)
    _warn_of_errors(list(rows[:5]))
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
            relative=relative,
            variance=companions["variance"][part] if "variance" in companions else None,
            ivar=companions["ivar"][part] if "ivar" in companions else None,
            quality=[companions["quality"][part]] if "quality" in companions and not unsure else [],
            good=[companions["good"][part]] if "good" in companions else [],
            unsure=[companions["quality"][part]] if unsure else [],
            resolving_power=facts.resolving_power(both),
            medium=medium,
            frame=frame,
            headers=both,
            ids=None if len(rows) == 1 else [f"{stem}#{start + i}" for i in range(n)],
        )


def _pieces(flux: Plane, its: dict[str, Plane], primary: fits.Header) -> list[Piece]:
    """The rows of an image, as stars, arms or orders; those of its other bands as error, or left out."""
    if not its and _is_list(flux.header):
        return [_listed(flux, primary)]
    relative, unsure = _relative(flux, its), _unsure(its)
    bands = band_names(flux.header)
    named = row_names(flux.header)
    if named:
        values, errors = choose_bands(np.asarray(flux.rows(), float)[:, None], named)
        companions: dict[str, np.ndarray] = {} if errors is None else {"sigma": errors}
    elif bands and flux.hdu.shape[0] == len(bands) and flux.hdu.data.ndim > 1:
        values, errors = choose_bands(np.asarray(flux.hdu.data, float), bands)
        values = values.reshape(-1, values.shape[-1])
        errors = None if errors is None else errors.reshape(values.shape)
        companions = {} if errors is None else {"sigma": errors}
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
            quality=[companions["quality"][i]] if "quality" in companions and not unsure else [],
            good=[companions["good"][i]] if "good" in companions else [],
            unsure=[companions["quality"][i]] if unsure else [],
            relative=relative,
        )
        pieces.append(Piece(waves[i if len(waves) > 1 else 0], f, s, m, both, flux.name, star))
    return pieces


def _warn_of_errors(rows: Sequence[np.ndarray]) -> None:
    """Say where the second of a few spectra without names looks like the error of the first."""
    if not 1 < len(rows) < 5:
        return
    first, second = (np.ravel(np.asarray(row, float)) for row in rows[:2])
    both = np.isfinite(first) & np.isfinite(second) & (first != 0)
    if first.shape != second.shape or np.count_nonzero(both) < 100:
        return
    level, error = np.median(first[both]), np.median(second[both])
    if (second[both] >= 0).all() and 0 < error < 0.2 * level:
        say(
            f"{len(rows)} spectra without names, of which the second may be the error of the first: then "
            "name it in the file (EXTNAME, or ARRAY2)"
        )


def _relative(flux: Plane, its: dict[str, Plane]) -> float | None:
    """As :func:`relative_in`, of the extension with the error."""
    if "sigma" not in its:
        return None
    return relative_in(its["sigma"].label, flux.label, str(its["sigma"].header.get("BUNIT", "")))


def _unsure(its: dict[str, Plane]) -> bool:
    return "quality" in its and may_mark_good(its["quality"].label)


def _is_list(header: fits.Header) -> bool:
    """Whether an image may be a list of wavelengths, flux and error, as ``fits.writeto`` makes of arrays."""
    shape = [size for size in _shape(header) if size > 1]
    return (
        len(shape) == 2
        and min(shape) in _LISTED
        and max(shape) >= 100
        and _reference(header) is None
        and facts.thorium(header) is None
    )


def _listed(flux: Plane, primary: fits.Header) -> Piece:
    """The spectrum of an image that is a list of wavelengths, flux and, if there is one, its error."""
    rows = np.asarray(flux.rows(), float)
    rows = rows if len(rows) < rows.shape[1] else rows.T
    if not _looks_like_wavelengths(rows[0]):
        raise ReadError(
            f"the image has shape {flux.hdu.shape} and no wavelength axis (CRVAL1, CDELT1), and its first row"
            " or column holds no wavelengths: expected them there, then flux and its error"
        )
    level = np.nanmedian(np.abs(rows[1]))
    is_error = len(rows) > 2 and np.nanmin(rows[2]) >= 0 and 0 < np.nanmedian(rows[2]) < 3.0 * level
    if len(rows) > 2 + is_error:
        numbers = ", ".join(str(i + 1) for i in range(2 + is_error, len(rows)))
        say(f"of the image, {numbers} beside wavelengths and flux are not understood and left out")
    f, s, m = pixels(rows[1], sigma=rows[2] if is_error else None)
    both = (flux.header, primary)
    star = facts.text((flux.header,), "OBJECT") or ""
    return Piece(to_angstrom(rows[0], unit_of(flux.header)), f, s, m, both, flux.name, star)


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


def row_names(header: fits.Header) -> list[str]:
    """What the rows of an image are, where ARRAYn or ROWn say that one is a spectrum and others are not."""
    n = header.get("NAXIS2", 0)
    if header.get("NAXIS", 0) != 2 or not isinstance(n, int) or not 1 < n < 10:
        return []
    for key in ("ARRAY", "ROW", "PLANE"):
        names = [str(header.get(f"{key}{i}", "")).strip().lower() for i in range(1, n + 1)]
        roles = [role_of(name)[0] for name in names]
        if roles.count(Role.FLUX) == 1 and all(names):
            by_role = {Role.FLUX: "spectrum", Role.SIGMA: "sigma"}
            return [by_role.get(role, name) for role, name in zip(roles, names, strict=True)]  # type: ignore[arg-type]
    return []


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
    if not step and "CDELT1" in header:  # PC1_1 is 1 but where astropy's WCS wrote the header
        turned = number([header], "PC1_1")
        step = (number([header], "CDELT1") or 0.0) * (1.0 if turned is None else turned)
    step = step or number([header], "COEFF1")
    pixel = number([header], "CRPIX1")
    return None if value is None or not step else (value, step, 1.0 if pixel is None else pixel)


def _wavelengths(flux: Plane, its: dict[str, Plane], n_pix: int) -> list[np.ndarray]:
    """``(n_pix,)`` Angstrom, for all rows of the image or for each."""
    plane = its.get("wave") or its.get("log")
    if plane is None:
        polynomials = facts.thorium(flux.header)
        if polynomials is not None:
            return list(np.polynomial.polynomial.polyval(np.arange(n_pix), polynomials.T))
        return [_axis(flux.header, n_pix)]
    table = plane.rows()
    if table.shape[1] != n_pix:
        raise ReadError(f"there are {table.shape[1]} wavelengths for {n_pix} pixels: they must agree")
    unit = str(plane.header.get("BUNIT", "")).strip() or unit_of(flux.header)
    try:
        if "log" in its and "wave" not in its:
            wave = from_logarithm(table)
            return [wave[0]] if (wave == wave[0]).all() else list(wave)
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
    named = kind in _LOGARITHMIC or (unit or "").lower().startswith(("log", "ln", "dex"))
    if named:
        return from_logarithm(value + offset)
    logarithmic = number([header], "DC-FLAG") == 1 or "COEFF0" in header
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
    if bracket and bracket[1] and role_of(bracket[1])[0] is None:  # log(wavelength) is no unit
        return bracket[1].lower()
    if _ctype(header) in ("ANGSTROM", "ANGSTROMS", "NM"):
        return _ctype(header)
    # IRAF: wtype=linear label=... units=angstroms
    match = re.search(r"\bunits=(\"[^\"]*\"|\S+)", str(header.get("WAT1_001", "")), re.I)
    if match and match[1].strip('"').strip():
        return match[1].strip('"').strip()
    return "pixel" if stated else None


def _frame(its: dict[str, Plane]) -> facts.Statement | None:
    """The frame, where the name of the wavelengths says it, as WAVEDATA_VAC_BARY of ESPRESSO's pipeline."""
    label = its["wave"].label if "wave" in its else ""
    frame = frame_in(label)
    return None if frame is None else facts.Statement(frame, f"the extension {label}")


def _medium(both: Sequence[fits.Header], its: dict[str, Plane]) -> facts.Statement:
    label = its["wave"].label if "wave" in its else ""
    named = medium_in(label)
    if named is not None:
        return facts.Statement(named, f"the extension {label}")
    axis = [s for s in facts.from_axis(both[:1]) if s.value == "air"]  # AWAV is never there by accident
    unit = unit_of(both[0]) or ""
    by_unit = medium_in(unit)
    if by_unit is not None:
        axis.append(facts.Statement(by_unit, f"the unit {unit}"))
    medium, doubt = facts.medium(both, axis)
    if doubt:
        say(doubt)
    return medium
