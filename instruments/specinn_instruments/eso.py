"""ESO Science Data Products: one row of vectors, columns told apart by TUTYP and UCD.

Source: ESO Science Data Products Standard, section on 1D spectra (binary table with VO utypes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from astropy.io import fits

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import open_fits
from specinn_instruments.batches import Piece, assemble
from specinn_instruments.columns import Columns, role_of
from specinn_instruments.facts import Header, Statement
from specinn_instruments.headers import column_names, headers, is_table
from specinn_instruments.tables import column_units, same_medium, table_medium, table_pieces

_WAVELENGTH = "spectralaxis.value"
_FLUX = "fluxaxis.value"
_SIGMA = "fluxaxis.accuracy.staterror"
_QUALITY = "fluxaxis.quality"


class EsoTable(Reader):
    """UVES, HARPS, FEROS, GIRAFFE and whatever else the ESO archive serves as a spectrum."""

    def recognises(self, path: Path) -> bool:
        return any(_find(h, _WAVELENGTH) and _find(h, _FLUX) for h in headers(path) if is_table(h))

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            tables = [
                hdu
                for hdu in hdus
                if is_table(hdu.header) and _find(hdu.header, _WAVELENGTH) and _find(hdu.header, _FLUX)
            ]
            if not tables:
                raise ReadError(
                    f"no table with columns of TUTYP ...{_WAVELENGTH} and ...{_FLUX}, as in ESO data products"
                )
            pieces: list[Piece] = []
            medium: Statement | None = None
            for hdu in tables:
                both = (hdu.header, hdus[0].header)
                columns = _columns(hdu.header)
                unit = str(hdu.header.get(f"TUNIT{columns.wavelength + 1}", ""))
                medium = same_medium(medium, table_medium(hdu.header, columns, both))
                pieces += table_pieces(hdu.data, columns, unit, both, hdu.name, column_units(hdu.header))
            ids = self._ids((tables[0].header, hdus[0].header))
            yield from assemble(path, pieces, medium=medium, ids=ids)

    def _ids(self, both: Sequence[Header]) -> list[str] | None:
        """Names of the spectra; None for the name of the file."""
        return None


def _find(header: fits.Header, suffix: str) -> list[int]:
    """Columns (from 0) whose TUTYP ends so, the best first.

    A file may hold several fluxes (UVES: FLUX_REDUCED and FLUX; 4MOST: FLUX and FLUX_NOSS). The main one has
    the UCD word ``meta.main``; else the one in the name space of the standard (``Spectrum.`` or ``spec:``),
    else the first.
    """
    matches = []
    for i in range(len(column_names(header))):
        utype = str(header.get(f"TUTYP{i + 1}", "")).strip().lower()
        if utype.endswith(suffix):
            main = "meta.main" in str(header.get(f"TUCD{i + 1}", "")).lower()
            matches.append((not main, not utype.startswith("spec"), i))
    return [i for _, _, i in sorted(matches)]


def _columns(header: fits.Header) -> Columns:
    names = column_names(header)
    wavelength, flux = _find(header, _WAVELENGTH)[0], _find(header, _FLUX)[0]
    candidates = _find(header, _SIGMA)
    tail = names[flux].upper().removeprefix("FLUX").strip("_")
    wanted = {"ERR" + end for end in ((f"_{tail}", f"_FLUX_{tail}") if tail else ("", "_FLUX"))}
    named = [i for i in candidates if names[i].upper() in wanted]
    sigma = next(iter(named or candidates), None)
    by_name = Columns.identify(names)
    quality = {*_find(header, _QUALITY), *(by_name.quality if by_name else ())}
    return Columns(
        wavelength,
        flux,
        sigma=sigma,
        quality=tuple(sorted(quality)),
        good=by_name.good if by_name else (),
        unknown=tuple(
            name
            for i, name in enumerate(names)
            if not header.get(f"TUTYP{i + 1}") and role_of(name)[0] is None
        ),
    )
