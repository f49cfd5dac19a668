"""The rules of specinn for this part."""

import numpy as np
from plugin_name.preprocessor import Step

from specinn import testing
from specinn.plugins import SpectrumBatch


def test_preprocessor():
    flux = np.random.default_rng(0).normal(1, 0.01, (2, 50))
    flux[1, 7] = 3.0
    spectra = SpectrumBatch.from_arrays(5000 + np.arange(50.0), flux, 0.01 * np.ones((2, 50)), ids=["a", "b"])
    out = testing.check_preprocessor(Step(instrument=None), spectra)
    assert out.mask[1, 7] and out.mask.sum() == 1
