"""The rules of specinn for this part."""

import numpy as np
from plugin_name.reader import Columns

from specinn import testing


def test_reader(tmp_path):
    flux = np.random.default_rng(0).normal(1, 0.01, 50)
    columns = np.stack([5000 + np.arange(50.0), flux, np.full(50, 0.01)], axis=1)
    np.savetxt(tmp_path / "star.txt", columns, header="plugin-name")
    (batch,) = testing.check_reader(Columns(), tmp_path / "star.txt")
    np.testing.assert_allclose(batch.flux[0], flux)
