"""Arrays and headers of a file as a SpectrumBatch, by the same rules for every format."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
from astropy.table import Table

from specinn.errors import ReadError, SpectrumWarning
from specinn.instruments import Medium
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import doppler
from specinn_instruments import facts
from specinn_instruments.facts import Header, Statement
from specinn_instruments.orders import Order, are_orders, merge_orders, split_orders

MOST_PIXELS = 20_000_000  # of one spectrum; the atlas of the Sun with the finest step has a million


_MOST_MARKED = 0.5  # of the pixels, above which a mask may be one of good pixels


@attrs.frozen(eq=False)
class Piece:
    """A spectrum, an arm or an order as it stands in a file: ``wavelength (n_pix,)`` Angstrom, ``flux``,
    ``sigma`` and ``mask`` ``(n_spec, n_pix)``, the headers that describe it, and the name of its extension
    or row."""

    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray | None
    mask: np.ndarray
    headers: Sequence[Header] = ()
    name: str = ""
    object: str = ""
    is_order: bool = False
    fewest_orders: int = 2  # that follow one another in its pixels; fewer are a list that is out of order


def say(sentence: str) -> None:
    """A ``SpectrumWarning``, to which :func:`specinn.spectra.readers.read` adds the name of the file."""
    warnings.warn(SpectrumWarning(sentence), stacklevel=2)


def pixels(
    flux: Any,
    *,
    sigma: Any = None,
    variance: Any = None,
    ivar: Any = None,
    quality: Sequence[Any] = (),
    good: Sequence[Any] = (),
    unsure: Sequence[Any] = (),
    relative: float | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Flux, sigma (None: not known) and mask ``(n_spec, n_pix)`` from what a file has in their place.

    The masked pixels are those of flux exactly 0 (no format has another way to say "no data" that all
    programs keep; measured flux is never exactly 0), of ``quality`` other than 0 or not ``good``, of inverse
    variance or error not above 0. A spectrum without any positive error has an unknown one: sigma is NaN.
    ``unsure`` is quality that may mark good pixels (:func:`_of_unsure`). With ``relative``, the error is that
    times the flux."""
    flux = np.atleast_2d(np.asarray(flux, dtype=np.float64))
    mask = flux == 0
    for values in quality:
        mask |= _like(values, flux, "quality") != 0
    for values in good:
        mask |= _like(values, flux, "quality") == 0
    error: np.ndarray | None = None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if ivar is not None:
            weight = _like(ivar, flux, "inverse variance").astype(np.float64)
            error = np.where(weight > 0, 1.0 / np.sqrt(weight), np.nan)
            mask |= ~np.isfinite(error)
        elif sigma is not None or variance is not None:
            if sigma is not None:
                error = _like(sigma, flux, "error").astype(np.float64)
            else:
                error = np.sqrt(_like(variance, flux, "variance").astype(np.float64))
            error[~(np.isfinite(error) & (error > 0)).any(axis=1)] = np.nan
    if error is not None and sigma is not None and relative is not None:
        error = error * relative * np.abs(flux)
    for values in unsure:
        mask |= _of_unsure(_like(values, flux, "quality"), mask | ~np.isfinite(flux))
    return flux, error, mask


def _of_unsure(values: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The bad pixels of a mask that need not mark them: it marks the good ones where it marks all, or most
    and all the others are ``without`` data."""
    marked = values != 0
    if marked.mean() > _MOST_MARKED and set(np.unique(values)) <= {0, 1} and without[~marked].all():
        say("the mask marks pixels with data, and those without data are not marked: taken for good pixels")
        return ~marked
    if marked.mean() > 0.9:
        share = f"{100 * marked.mean():.0f} %"
        say(f"{share} of the pixels are masked: if the mask marks good pixels, name it GOOD")
    return marked


def make_batch(
    path: Path,
    wavelength: Any,
    flux: Any,
    *,
    sigma: Any = None,
    variance: Any = None,
    ivar: Any = None,
    quality: Sequence[Any] = (),
    good: Sequence[Any] = (),
    unsure: Sequence[Any] = (),
    relative: float | None = None,
    resolving_power: float | None = None,
    medium: Statement | None = None,
    frame: Statement | None = None,
    headers: Sequence[Header] = (),
    ids: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    arms: Mapping[str, slice] | None = None,
) -> SpectrumBatch:
    """A batch of ``flux (n_spec, n_pix)`` or ``(n_pix,)`` at ``wavelength (n_pix,)`` Angstrom, with the
    errors and masks of :func:`pixels`.

    Pixels at the ends without a wavelength (padding) are dropped. ``headers`` give medium and frame, where
    they are not stated, and for a single spectrum velocity, object and observation; ``columns`` more of
    ``meta``."""
    wavelength = np.asarray(wavelength, dtype=np.float64)
    flux, error, mask = pixels(
        flux,
        sigma=sigma,
        variance=variance,
        ivar=ivar,
        quality=quality,
        good=good,
        unsure=unsure,
        relative=relative,
    )
    if wavelength.shape != flux.shape[1:]:
        raise ReadError(f"flux has {flux.shape[-1]} pixels, wavelength {wavelength.size}: they must agree")
    if wavelength.size > MOST_PIXELS:
        raise ReadError(f"{wavelength.size} pixels in one spectrum: expected at most {MOST_PIXELS}")
    if medium is None:
        medium, doubt = facts.medium(headers)
        if doubt:
            say(doubt)
    if frame is None:
        frame = facts.frame(headers)[0]
    keep = _without_padding(wavelength)
    return SpectrumBatch.from_arrays(
        wavelength[keep],
        flux[:, keep],
        None if error is None else error[:, keep],
        mask[:, keep],
        medium=cast(Medium, medium.value),
        resolving_power=resolving_power,
        meta=_meta(path, len(flux), headers, ids, columns, medium, frame),
        arms=arms or {},
    )


def _like(values: Any, flux: np.ndarray, what: str) -> np.ndarray:
    values = np.atleast_2d(np.array(values))
    if values.shape != flux.shape:
        raise ReadError(f"{what} has shape {values.shape}, flux {flux.shape}: they must agree")
    return values


def _without_padding(wavelength: np.ndarray) -> slice:
    real = np.flatnonzero(np.isfinite(wavelength) & (wavelength > 0))
    if not real.size:
        raise ReadError("no wavelength is a positive number")
    return slice(int(real[0]), int(real[-1]) + 1)


# -- pieces of a file ------------------------------------------------------------------------------


def assemble(
    path: Path,
    pieces: Sequence[Piece],
    *,
    medium: Statement | None = None,
    frame: Statement | None = None,
    ids: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Iterator[SpectrumBatch]:
    """The spectra of a file that holds them in pieces: orders and arms of one exposure become one spectrum,
    different stars stay rows of their own.

    Pieces belong to one exposure if their objects agree and their wavelengths follow one another; those that
    cover the same wavelengths are several spectra.
    """
    pieces = [each for piece in pieces for each in _divided(piece)]
    names = {_plain(piece.object) for piece in pieces if _plain(piece.object)}
    groups: list[list[Piece]] = [[piece] for piece in pieces]
    if len(pieces) > 1:
        by_name = [[p for p in pieces if _plain(p.object) == name] for name in sorted(names)]
        told_apart = len(names) > 1 and sum(map(len, by_name)) == len(pieces)
        groups = by_name if told_apart else [list(pieces)]
        groups = [
            part
            for group in groups
            for part in ([group] if len(group) == 1 or _one_exposure(group) else _exposures(group))
        ]
    stem = _stem(path)
    several = len(groups) > 1
    for i, group in enumerate(groups):
        n = len(group[0].flux)
        name = f"{stem}#{i}" if several else stem
        yield _joined(
            path,
            group,
            (medium, frame),
            ids
            if ids is not None and not several
            else [name]
            if n == 1
            else [f"{name}#{j}" for j in range(n)],
            columns,
        )


def _divided(piece: Piece) -> list[Piece]:
    """The orders of a piece that follow one another in one list of pixels."""
    parts = split_orders(piece.wavelength)
    if len(parts) < piece.fewest_orders:
        return [piece]
    return [
        attrs.evolve(
            piece,
            wavelength=piece.wavelength[part],
            flux=piece.flux[:, part],
            sigma=None if piece.sigma is None else piece.sigma[:, part],
            mask=piece.mask[:, part],
            is_order=True,
        )
        for part in parts
    ]


def _one_exposure(group: Sequence[Piece]) -> bool:
    if len({len(piece.flux) for piece in group}) > 1 or len({piece.sigma is None for piece in group}) > 1:
        return False
    return all(piece.is_order for piece in group) or are_orders([piece.wavelength for piece in group])


_ARM = re.compile(r"(?:^|(?<=[^a-z]))(?:uvb|vis|nir|blue|green|red|ir|b|g|r)(?=[^a-z]|$)", re.I)


def _exposures(group: Sequence[Piece]) -> list[list[Piece]]:
    """Several spectra of one object: arms of one exposure, by the names of their extensions (``COADD_B`` and
    ``COADD_R`` of LAMOST), or each by itself."""
    exposures: dict[str, list[Piece]] = {}
    for piece in group:
        exposures.setdefault(_ARM.sub("", piece.name.lower()), []).append(piece)
    if all(len(parts) == 1 or _one_exposure(parts) for parts in exposures.values()):
        return list(exposures.values())
    return [[piece] for piece in group]


def _joined(
    path: Path,
    group: Sequence[Piece],
    stated: tuple[Statement | None, Statement | None],
    ids: Sequence[str],
    columns: Mapping[str, Any] | None,
) -> SpectrumBatch:
    headers = group[0].headers
    medium, frame = stated
    velocity = 0.0
    if frame is None:
        frame, velocity = facts.frame(headers)
    if len(group) == 1:
        wave, flux, sigma, mask = group[0].wavelength, group[0].flux, group[0].sigma, group[0].mask
        arms: Mapping[str, slice] = {}
    else:
        merged = merge_orders([Order(p.wavelength, p.flux, p.sigma, p.mask) for p in group])
        wave, flux, sigma, mask, arms = merged
    extra = dict(columns or {})
    if len(group) > 1:
        extra["merged_orders"] = [len(group)] * len(flux)
    specsys = facts.text(headers, "SPECSYS")
    if specsys is not None:
        extra["specsys"] = ["BARYCENT" if velocity else specsys] * len(flux)
    return make_batch(
        path,
        doppler(wave, velocity),
        np.where(mask, np.where(np.isfinite(flux), flux, 0.0), flux),
        sigma=sigma,
        quality=[mask],
        resolving_power=facts.resolving_power(headers),
        medium=medium,
        frame=frame,
        headers=headers,
        ids=ids,
        columns=extra,
        arms=arms,
    )


def _plain(name: str) -> str:
    """An object's name without the number of the order: ``ORDER:  3 HD 1`` to ``hd 1``."""
    return " ".join(
        re.sub(r"\b(order|ord|aperture|ap|ccd|arm|chip)\b\s*[:#=]?\s*\d+", "", name.lower()).split()
    )


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    return name.rsplit(".", 1)[0]


def _meta(
    path: Path,
    n: int,
    headers: Sequence[Header],
    ids: Sequence[str] | None,
    columns: Mapping[str, Any] | None,
    medium: Statement,
    frame: Statement,
) -> Table:
    stem = _stem(path)
    meta = Table()
    meta["id"] = list(ids) if ids is not None else [stem] if n == 1 else [f"{stem}#{i}" for i in range(n)]
    meta["path"] = [str(path)] * n
    meta["medium_from"] = [medium.source] * n
    meta["frame"] = [frame.value] * n
    meta["frame_from"] = [frame.source] * n
    for name, value in facts.observation(headers).items():
        if n == 1 or name in ("mjd", "exptime", "programme"):
            meta[name] = [value] * n
    if n == 1:
        rv, reason = facts.velocity(headers, frame)
        if reason:
            say(reason)
        for name, stated in {"snr_header": facts.number(headers, "SNR"), "rv": rv}.items():
            if stated is not None:
                meta[name] = [stated]
    instrument = facts.text(headers, "INSTRUME")
    if instrument is not None:
        meta["instrument_header"] = [instrument] * n
    for name, values in (columns or {}).items():
        meta[name] = values
    return meta
