"""The rules of specinn for this part."""

import numpy as np
from plugin_name.estimator import Config, fit

from specinn import testing
from specinn.plugins import Grid, Instrument, Plugins, SpectrumBatch


def test_estimator():
    arm = {
        "name": "all",
        "range": [5182, 5188],
        "resolving_power": 20000,
        "pixels": {"n": 121, "polynomial": [5182, 6]},
    }
    instrument = Instrument.from_dict({"name": "x", "summary": "for tests", "arms": [arm]})
    values = np.random.default_rng(0).uniform([5000, -1], [6000, 0], (80, 2))
    wavelength = np.arange(5175.0, 5195.0, 0.02)
    depth = 0.2 + 0.1 * np.stack([(values[:, 0] - 5500) / 500, values[:, 1] + 0.5])
    lines = np.exp(-0.5 * ((wavelength - np.array([[5184.0], [5186.0]])) / 0.15) ** 2)
    flux = (1 - depth.T @ lines).astype(np.float32)
    ids = np.array([str(i) for i in range(80)])
    arms = {"all": slice(0, len(wavelength))}
    grid = Grid(("teff", "fe_h"), values, ids, wavelength, arms, lambda rows: flux[rows], 1e5)
    config = Config("x", [], "x", ["teff", "fe_h"])
    model = fit(config, grid, instrument, Plugins())

    seen = np.tile(model.tensors["mean"], (3, 1))
    spectra = SpectrumBatch.from_arrays(
        instrument.wavelength, seen, np.full(seen.shape, 0.01), ids=["a", "b", "c"]
    )
    posterior = testing.check_estimator(model, spectra)
    assert np.abs(posterior.mean[0] - values.mean(axis=0))[1] < 0.2
