"""FITS tables that hold a wavelength for every pixel, one row a pixel or one row a spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from specinn.errors import ReadError
from specinn.plugins.interfaces import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import open_fits
from specinn.wavelengths import doppler
from specinn_instruments.batches import Header, make_batch, resolving_power, stated_medium
from specinn_instruments.columns import Columns, to_angstrom
from specinn_instruments.headers import column_names, headers, is_table, ucd_medium
from specinn_instruments.orders import split_orders


class FitsTable(Reader):
    """Columns known by their names: PolarBase (AWAV, FLUX_NOR), specutils' tabular-fits and many others."""

    def recognises(self, path: Path) -> bool:
        return any(is_table(h) and Columns.identify(column_names(h)) is not None for h in headers(path))

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with open_fits(path) as hdus:
            for number, hdu in enumerate(hdus):
                columns = Columns.identify(column_names(hdu.header)) if is_table(hdu.header) else None
                if columns is not None:
                    both = (hdus[0].header, hdus[number].header)
                    unit = str(hdu.header.get(f"TUNIT{columns.wavelength + 1}", "")) or columns.unit
                    if columns.medium == "air":
                        medium = ucd_medium(hdu.header, columns.wavelength) or stated_medium(both)
                        columns = attrs.evolve(columns, medium=medium)
                    yield from read_table(
                        path, hdu.data, columns, "Angstrom" if columns.log10 else unit, both
                    )
                    return
        raise ReadError("no table with columns of wavelength and flux (for example WAVE and FLUX)")


def read_table(
    path: Path,
    data: Any,
    columns: Columns,
    unit: str | None,
    both: Sequence[Header],
    *,
    velocity: float = 0.0,
    ids: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[SpectrumBatch]:
    """The spectra of a table: one of scalar columns, or one for each row of vectors.

    ``velocity`` (km/s) shifts the wavelengths; ``both`` are the primary header and that of the table.
    """

    def vectors(column: int | None) -> np.ndarray | None:
        if column is None:
            return None
        values = np.asarray(data.field(column))
        return values[None, :] if values.ndim == 1 else values.reshape(len(values), -1)

    wave, flux = vectors(columns.wavelength), vectors(columns.flux)
    assert wave is not None and flux is not None
    if not wave.size:
        raise ReadError("the table of the spectrum has no rows")
    sigma, ivar, quality = vectors(columns.sigma), vectors(columns.ivar), vectors(columns.quality)
    for row in range(len(wave)):
        angstrom = to_angstrom(10.0 ** wave[row].astype(float) if columns.log10 else wave[row], unit)
        order, arms = split_orders(angstrom)
        one = slice(row, row + 1)
        yield make_batch(
            path,
            doppler(angstrom[order], velocity),
            flux[one, order],
            sigma=None if sigma is None else sigma[one, order],
            ivar=None if ivar is None else ivar[one, order],
            quality=None if quality is None else quality[one, order],
            resolving_power=resolving_power(both),
            medium=columns.medium,
            headers=both,
            ids=ids if ids is not None or len(wave) == 1 else [f"{path.stem}#{row}"],
            columns=extra,
            arms=arms,
        )
