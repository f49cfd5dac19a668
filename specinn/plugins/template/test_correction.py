"""The rules of specinn for this part."""

import numpy as np
from plugin_name.correction import Offset

from specinn import testing
from specinn.plugins import LabelSet, Posterior, make_label


def test_correction(tmp_path):
    labels = LabelSet([make_label("teff", (4000, 7000)), make_label("logg", (0, 5))])
    rng = np.random.default_rng(0)
    samples = np.array([[5800, 4.4], [4500, 2.0], [9000, 4.0]])[:, None] + rng.normal(size=(3, 50, 2))
    stars = Posterior(labels, samples, rng.normal(size=(3, 50)))
    (tmp_path / "offset.toml").write_text('label = "logg"\nby = 0.1\nteff = [5000, 6500]\n')
    out = testing.check_correction(Offset.load(tmp_path / "offset.toml"), stars)
    np.testing.assert_allclose((out.map - stars.map)[:2], np.array([[0.0, -0.1], [0.0, 0.0]]), atol=1e-9)
