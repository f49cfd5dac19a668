"""The rules of specinn, checked on every part of the package."""

import os

import numpy as np
import pytest
import specinn_giraffe
import torch
from specinn_giraffe.edges import TrimEdges
from specinn_giraffe.flow import STEPS, SplineFlow
from specinn_giraffe.training import train
from specinn_giraffe.zero_points import ZeroPoints

from specinn import testing
from specinn.plugins import (
    ConfigError,
    Instrument,
    LabelSet,
    Posterior,
    SpectrumBatch,
    Templates,
    make_label,
)

HR10 = Instrument.from_toml(specinn_giraffe.HR10)
LABELS = LabelSet(
    [make_label("teff", (4500, 6500)), make_label("logg", (2.5, 4.8)), make_label("fe_h", (-1, 0.4))]
)


@pytest.fixture
def spectra():
    """Three spectra, one with a gap and one that begins late."""
    rng = np.random.default_rng(0)
    flux = 1 + rng.normal(0, 0.02, (3, len(HR10.wavelength)))
    mask = np.zeros(flux.shape, bool)
    mask[1, 2000:2100] = mask[2, :700] = True
    return SpectrumBatch.from_arrays(
        HR10.wavelength, flux, np.full(flux.shape, 0.02), mask, ids=["a", "b", "c"], arms=HR10.slices
    )


def test_plugin():
    kinds = {offer.kind for offer in testing.check_plugin(specinn_giraffe)}
    assert kinds == {"instrument", "preprocessor", "estimator", "correction"}


def test_trim_edges(spectra):
    out = testing.check_preprocessor(TrimEdges(HR10, angstrom=2.0), spectra)
    added = (out.mask & ~spectra.mask).sum(axis=1)
    assert (added == 80).all()  # 2 A at both ends, in pixels of 0.05 A
    assert out.mask[2, :740].all() and not out.mask[2, 740]


def test_spline_flow(spectra):
    torch.manual_seed(0)
    n = len(HR10.wavelength)
    low, high = torch.as_tensor(LABELS.to_network(LABELS.bounds.T), dtype=torch.float32)
    tensors = {"mean": torch.ones(n), "basis": torch.randn(4, n) / n**0.5, "scale": torch.ones(4),
               "center": (low + high) / 2, "spread": (high - low) / 6}  # fmt: skip
    templates = Templates(HR10.wavelength, np.ones((1, n)), HR10.slices, 21500.0)
    model = SplineFlow.untrained(LABELS, HR10, STEPS, templates, {"name": "untrained"}, tensors)
    testing.check_estimator(model, spectra)


def test_training(tmp_path):
    if "HR10_GRID" not in os.environ:
        pytest.skip("HR10_GRID names no grid: specinn grid make grid.toml -o hr10.h5 makes one")
    table = {"name": "short", "grid": [os.environ["HR10_GRID"]], "epochs": 4, "components": 4}
    model = testing.check_training(train, table, tmp_path)
    assert model.labels.names == ("teff", "logg", "fe_h")


@pytest.fixture
def stars():
    """A dwarf, a giant, and a star without an accepted sample."""
    rng = np.random.default_rng(1)
    at = np.array([[5800, 4.4, 0.0], [4800, 2.8, 0.0], [9000, 4.4, 0.0]])
    samples = at[:, None] + rng.normal(size=(3, 50, 3)) * [20, 0.05, 0.02]
    return Posterior(LABELS, samples, rng.normal(size=(3, 50)))


def test_zero_points(stars, tmp_path):
    path = tmp_path / "zero-points.toml"
    path.write_text("logg_min = 3.5\n[offsets]\nteff = 50\n")
    out = testing.check_correction(ZeroPoints.load(path), stars)
    np.testing.assert_allclose((out.map - stars.map)[:2], [[-50, 0, 0], [0, 0, 0]], atol=1e-9)
    path.write_text('[offsets]\nteff = "much"\n')
    with pytest.raises(ConfigError, match=r"\$\.offsets\.teff"):
        ZeroPoints.load(path)
