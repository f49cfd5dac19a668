"""What [alpha/Fe] changes in the structure of a model atmosphere."""

from __future__ import annotations

from pathlib import Path

import attrs
import h5py
import numpy as np
from scipy.interpolate import RegularGridInterpolator

from specinn_turbospectrum.atmospheres import Atmosphere
from specinn_turbospectrum.installation import sha256

SHIPPED = Path(__file__).with_name("enhancement.h5")


class Enhancement:
    """Differences between Castelli-Kurucz models with [alpha/Fe] = 0.4 and 0, to be added to MARCS models.

    Linear in [alpha/Fe], Teff, log g and [M/H]; at the edge of the table the value of the edge. Heights are
    left as they are: the depth of the atmosphere changes by a per cent.

    ``python tools/make_enhancement.py`` makes the table ``change (n_teff, n_logg, n_fe_h, 3, n_depth)`` of
    log10 of the temperature, the electron and the gas pressure per dex of [alpha/Fe], on Rosseland optical
    depths.
    """

    def __init__(self, path: Path = SHIPPED) -> None:
        with h5py.File(path) as file:
            self.axes = tuple(file[name][:].astype(float) for name in ("teff", "logg", "fe_h"))
            self._depths = file["lg_tau_ross"][:].astype(float)
            change = file["change"][:].astype(float)
            self.source = str(file.attrs["source"])
        self.sha256 = sha256(path)
        self._change = RegularGridInterpolator(self.axes, change)

    def __call__(self, model: Atmosphere, alpha_fe: float) -> Atmosphere:
        """The model with that [alpha/Fe]."""
        at = [
            float(np.clip(value, axis[0], axis[-1]))
            for value, axis in zip((model.teff, model.logg, model.fe_h), self.axes, strict=True)
        ]
        change = self._change(at)[0]
        structure = model.structure.copy()
        for row, values in zip(structure[1:4], change, strict=True):
            row += (alpha_fe - model.alpha_fe) * np.interp(model.lg_tau_ross, self._depths, values)
        return attrs.evolve(model, structure=structure, alpha_fe=alpha_fe)
