"""A layout of synthetic spectra: one .npz file with labels, values, wavelength and flux."""

import zipfile

import numpy as np

from specinn.plugins import Grid, GridError, GridLoader

NAMES = ("labels", "values", "wavelength", "flux")


class Npz(GridLoader):
    def recognises(self, path):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            return {f"{name}.npy" for name in NAMES} <= set(file.namelist())

    def load(self, path):
        try:
            with np.load(path, allow_pickle=False) as file:
                labels, values, wavelength, flux = (file[name] for name in NAMES)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise GridError(f"{path} cannot be read: {error}") from None
        if (flux < 0).any():
            raise GridError(f"{path}: model {np.argmax((flux < 0).any(axis=1))} has negative flux")
        return Grid(
            labels=tuple(str(name) for name in labels),
            values=values,
            ids=np.array([f"{path.stem}-{i}" for i in range(len(values))]),
            wavelength=wavelength,
            arms={"all": slice(0, wavelength.size)},
            flux_of=lambda rows: flux[rows].astype(np.float32),
            resolving_power=100_000.0,
            provenance={"code": "the code that computed the spectra"},
        )
