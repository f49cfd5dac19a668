"""A quick look at the headers of a FITS file, to recognise its format."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path

from astropy.io import fits

from specinn.errors import ReadError
from specinn.instruments import Medium
from specinn.spectra.hdus import check_hdus
from specinn.spectra.readers import unpacked

_MOST_AXES = 999  # of an image, by the FITS standard; also of the columns of a table


def headers(path: Path) -> tuple[fits.Header, ...]:
    """The headers of all HDUs that can be read; none if this is not a FITS file.

    Remembers the last few files, since several readers look at each of them.
    """
    stat = path.stat()
    return _headers(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _headers(path: Path, _mtime: int, _size: int) -> tuple[fits.Header, ...]:
    try:
        with unpacked(path) as (file, size):
            if not file.read(6).startswith(b"SIMPLE"):
                return ()
            check_hdus(path, file, size)
            file.seek(0)
            with fits.open(file, memmap=False) as hdus:
                complete = []
                with contextlib.suppress(OSError, EOFError, ValueError, TypeError, IndexError):
                    for hdu in hdus:
                        complete.append(hdu.header)
                return tuple(complete)
    except (OSError, EOFError, ValueError, ReadError):
        return ()


def is_table(header: fits.Header) -> bool:
    return str(header.get("XTENSION", "")).strip() in ("BINTABLE", "TABLE") and "ZIMAGE" not in header


def column_names(header: fits.Header) -> list[str]:
    """TTYPEn of a table, in order, stripped; blank where a column has no name."""
    n = header.get("TFIELDS", 0)
    n = min(n, _MOST_AXES) if isinstance(n, int) else 0
    return [str(header.get(f"TTYPE{i}", "")).strip() for i in range(1, n + 1)]


def ucd_medium(header: fits.Header, column: int) -> Medium | None:
    """What the UCD of a wavelength column (from 0) says: em.wl;obs.atmos is air, bare em.wl vacuum."""
    words = str(header.get(f"TUCD{column + 1}", "")).lower().replace(" ", "").split(";")
    if words[0] != "em.wl":
        return None
    return "air" if "obs.atmos" in words else "vacuum"
