"""The rules of specinn for this part."""

import numpy as np
from plugin_name.grid_loader import Npz

from specinn import testing


def test_grid_loader(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "grid.npz"
    values = rng.uniform([4000, -1], [7000, 0], (5, 2))
    flux = rng.uniform(0.2, 1, (5, 40))
    np.savez(path, labels=["teff", "fe_h"], values=values, wavelength=5000 + np.arange(40.0), flux=flux)
    assert testing.check_grid_loader(Npz(), path).labels == ("teff", "fe_h")
