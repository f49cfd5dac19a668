"""A format of files of spectra: text with a first line that says so, then wavelength, flux and its error."""

import numpy as np

from specinn.plugins import Reader, ReadError, SpectrumBatch

FIRST = b"# plugin-name"


class Columns(Reader):
    def recognises(self, path):
        with path.open("rb") as file:
            return file.read(len(FIRST)) == FIRST

    def read(self, path):
        try:
            table = np.loadtxt(path, ndmin=2)
        except (OSError, ValueError) as error:
            raise ReadError(f"{path} is not a table of numbers: {error}") from None
        if table.shape[1] != 3:
            raise ReadError(f"{path} has {table.shape[1]} columns: expected wavelength, flux and error")
        yield SpectrumBatch.from_arrays(*table.T, ids=[path.stem], path=str(path), medium="air")
