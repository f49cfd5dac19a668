"""Whatever specutils can read and our own readers cannot (SDSS, APOGEE, HST, ...)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from specinn.errors import ReadError
from specinn.plugins import Reader
from specinn.spectra import SpectrumBatch
from specinn.spectra.readers import reason, unpacked
from specinn_instruments import facts
from specinn_instruments.batches import make_batch, say
from specinn_instruments.facts import Statement

# Guesses by file name or by any table at all: they would take a catalogue for a spectrum.
_GUESSES = ("tabular-fits", "ASCII", "IPAC", "ECSV")
_OURS = ("iraf",)  # what iraf-multispec does not recognise it cannot read; it may be asked for by name
_VACUUM = ("SDSS", "APOGEE", "HST", "JWST", "MaNGA", "MUSCLES", "DESI", "Subaru")


class Specutils(Reader):
    """The last resort: slow to import (1.5 s), and tried for files that no other reader recognises."""

    def recognises(self, path: Path) -> bool:
        with _plain(path) as plain:
            return bool(set(_formats(plain)) - set(_OURS))

    def read(self, path: Path) -> Iterator[SpectrumBatch]:
        with _plain(path) as plain:
            yield self._read(path, plain)

    def _read(self, path: Path, plain: Path) -> SpectrumBatch:
        from astropy import units as u
        from astropy.nddata import StdDevUncertainty
        from specutils import Spectrum

        formats = _formats(plain)
        if len(formats) != 1:
            verdict = (
                f"recognises it as any of {', '.join(formats)}" if formats else "does not recognise it either"
            )
            raise ReadError(f"specutils {verdict}: convert the file to text or FITS with a wavelength axis")
        try:
            spectrum = Spectrum.read(plain, format=formats[0])
        except Exception as cause:  # of any kind: 20 loaders, each of one archive's files as they should be
            raise ReadError(
                f"specutils takes it for {formats[0]} and cannot read it ({reason(cause)[:200]}): "
                "expected a file as that archive writes it; fetch it again, or convert it to text"
            ) from cause
        axis = np.asarray(spectrum.spectral_axis.value)
        if axis[0] in (0.0, 1.0) and np.allclose(axis - axis[0], np.arange(axis.size), atol=1e-9):
            raise ReadError(
                f"specutils takes it for {formats[0]}, and its axis counts pixels: expected wavelengths"
                " in the header (CRVAL1, CDELT1) or in a column of the same table"
            )
        try:
            wavelength = spectrum.spectral_axis.to_value(u.AA, u.spectral())
        except (u.UnitConversionError, ValueError):  # of velocities, for which no line is stated
            raise ReadError(
                f"the spectral axis is in {spectrum.spectral_axis.unit}: expected wavelengths"
            ) from None
        flux = np.atleast_2d(np.squeeze(np.asarray(spectrum.flux.value)))
        sigma = spectrum.uncertainty
        if sigma is not None:
            sigma = np.asarray(sigma.represent_as(StdDevUncertainty).array).reshape(flux.shape)
        mask = None if spectrum.mask is None else np.asarray(spectrum.mask).reshape(flux.shape)
        header = spectrum.meta.get("header") if isinstance(spectrum.meta, dict) else None
        headers: list[Any] = [header] if hasattr(header, "get") else []
        stated = [Statement("vacuum", f"the format {formats[0]}")] if formats[0].startswith(_VACUUM) else []
        medium, doubt = facts.medium(headers, stated)
        if doubt:
            say(doubt)
        return make_batch(
            path,
            wavelength,
            flux,
            sigma=sigma,
            quality=[] if mask is None else [mask],
            medium=medium,
            headers=headers,
        )


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The file or, if it is packed, what it holds as a file of its own: at the end of a packed file that is
    damaged, astropy finds the same HDU again and again."""
    with unpacked(path) as (content, _):
        if not isinstance(content, tempfile.SpooledTemporaryFile):
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.stem
            with plain.open("wb") as out:
                shutil.copyfileobj(content, out)
            yield plain


def _formats(path: Path) -> list[str]:
    from specutils import Spectrum
    from specutils.io.registers import identify_spectrum_format

    with path.open("rb") as file:
        if file.read(9) != b"SIMPLE  =":  # all but the guesses are FITS; astropy would search for headers
            return []
    identified = identify_spectrum_format(str(path), dtype=Spectrum)
    names = [identified] if isinstance(identified, str) else list(identified)
    return [str(name) for name in names if name not in _GUESSES]
