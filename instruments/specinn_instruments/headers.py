"""A quick look at the headers of a FITS file, to recognise its format."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from astropy.io import fits

from specinn.instruments import Medium

_STARTS = (b"SIMPLE", b"\x1f\x8b")


def headers(path: Path) -> tuple[fits.Header, ...]:
    """The headers of all HDUs that can be read; none if this is not a FITS file.

    Remembers the last few files, since several readers look at each of them.
    """
    with open(path, "rb") as file:
        if not file.read(6).startswith(_STARTS):
            return ()
    stat = path.stat()
    return _headers(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _headers(path: str, _mtime: int, _size: int) -> tuple[fits.Header, ...]:
    try:
        with fits.open(path) as hdus:
            return tuple(hdu.header for hdu in hdus)
    except (OSError, EOFError, ValueError):
        return ()


def is_table(header: fits.Header) -> bool:
    return str(header.get("XTENSION", "")).strip() == "BINTABLE" and "ZIMAGE" not in header


def column_names(header: fits.Header) -> list[str]:
    """TTYPEn of a table, in order, stripped; blank where a column has no name."""
    return [str(header.get(f"TTYPE{i}", "")).strip() for i in range(1, int(header.get("TFIELDS", 0)) + 1)]


def ucd_medium(header: fits.Header, column: int) -> Medium | None:
    """What the UCD of a wavelength column (from 0) says: em.wl;obs.atmos is air, bare em.wl vacuum."""
    words = str(header.get(f"TUCD{column + 1}", "")).lower().replace(" ", "").split(";")
    if words[0] != "em.wl":
        return None
    return "air" if "obs.atmos" in words else "vacuum"
