"""The comparison of spectra with the model spectra of what was inferred."""

import csv
import os
from pathlib import Path

import attrs
import numpy as np
import pytest

import specinn
from specinn import models
from specinn.errors import ModelError
from specinn.flags import Flag
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.plugins import Plugins

pytestmark = pytest.mark.slow

EXAMPLES = Path(specinn.__file__).parent / "examples"
SHARED = Path(os.environ.get("SPECINN_SHARED", Path(__file__).parents[1] / "shared")) / "data"


@pytest.fixture(scope="module")
def plugins():
    return Plugins()


@pytest.fixture(scope="module")
def model():
    return specinn.load_model("4most-hr")


@pytest.fixture(scope="module")
def pipeline(plugins, model):
    check = plugins.load("synthesizer", "emulator").load()
    return Pipeline(model, plugins, RunOptions(samples=1024), check=check)


@pytest.mark.parametrize("name", ["dwarf-g", "dwarf-k", "giant-clump", "giant-metal-poor", "turn-off-f"])
def test_spectra_that_fit_are_not_flagged(pipeline, name):
    (batch,) = specinn.read(EXAMPLES / f"{name}.fits")
    meta = pipeline(batch).meta
    assert 0.1 < meta["misfit"][0] < 0.8
    assert not meta["flags"][0] & Flag.MODEL_MISFIT


class Blind:
    """The network without its ood score, which gives every spectrum the values of one star."""

    def __init__(self, model, values):
        self.model, self.values = model, values

    def __getattr__(self, name):
        return getattr(self.model, name)

    def ood_score(self, encoded):
        return None

    def summarise(self, encoded, n_samples, seed):
        return self.values


@pytest.mark.parametrize("other", ["dwarf-k", "giant-metal-poor", "giant-clump"])
def test_D9_values_of_another_star_are_flagged_without_an_ood_score(pipeline, plugins, model, other):
    dwarf, star = (specinn.read(EXAMPLES / f"{name}.fits")[0] for name in ("dwarf-g", other))
    options, check = RunOptions(samples=1024), plugins.load("synthesizer", "emulator").load()
    values = Pipeline(model, plugins, RunOptions(samples=1024, synthetic=True))(star).summary  # lithium, too
    blind = Blind(model, values)
    checked = Pipeline(blind, plugins, options, check=check)
    assert not checked(star).meta["flags"][0] & Flag.MODEL_MISFIT
    meta = checked(dwarf).meta
    assert not meta["flags"][0] & Flag.OUT_OF_DISTRIBUTION
    assert meta["flags"][0] & Flag.MODEL_MISFIT and meta["misfit"][0] > 1.0
    assert "the model spectrum of the values does not fit the arm" in meta["message"][0]


def test_A13_a_ripple_in_one_arm_is_said(pipeline):
    (batch,) = specinn.read(EXAMPLES / "giant-metal-poor.fits")
    red = batch.wavelength > 6000.0
    wave = np.where(red, 1.0 + 0.06 * np.sin(2 * np.pi * batch.wavelength / 60.0), 1.0)
    meta = pipeline(attrs.evolve(batch, flux=batch.flux * wave, sigma=batch.sigma * wave)).meta
    flags = int(meta["flags"][0])
    assert flags & (Flag.MODEL_MISFIT | Flag.OUT_OF_DISTRIBUTION)
    if flags & Flag.MODEL_MISFIT:
        assert meta["misfit"][0] > 1.0
        assert "does not fit the arm red" in meta["message"][0]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data (SPECINN_SHARED)")
@pytest.mark.parametrize(
    ("name", "misfit"),
    [
        ("spectra2/hd122563_uves_sdp.fits", True),  # A13
        ("spectra2/gj581_harps_s1d.fits", True),  # A12
        ("spectra2/gj908_sophie.fits", True),  # A12
        ("spectra/hd122563_mike.fits", False),
        ("spectra/hd22879_narval.fits", False),
    ],
)
def test_A12_A13_real_stars(plugins, model, name, misfit):
    path = SHARED / name
    with (path.parent / "stars.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["file"] == path.name)
    check = plugins.load("synthesizer", "emulator").load()
    pipeline = Pipeline(
        model, plugins, RunOptions(samples=1024, resolving_power=float(row["resolving_power"])),
        instrument=plugins.instrument(row["instrument"]), check=check,
    )  # fmt: skip
    meta = pipeline(specinn.read(path)[0]).meta
    assert bool(meta["flags"][0] & (Flag.MODEL_MISFIT | Flag.OUT_OF_DISTRIBUTION)) == misfit


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data (SPECINN_SHARED)")
def test_a_star_whose_vbroad_is_low_is_at_the_limit(plugins, model):
    """iota Hor: vbroad comes out at 6 km/s, a fit of the same model spectra to the same pixels gives 8."""
    check = plugins.load("synthesizer", "emulator").load()
    options = RunOptions(samples=1024, resolving_power=115_000.0)
    pipeline = Pipeline(model, plugins, options, instrument=plugins.instrument("harps"), check=check)
    meta = pipeline(specinn.read(SHARED / "spectra2" / "iotahor_harps_s1d.fits")[0]).meta
    assert not meta["flags"][0] & Flag.OUT_OF_DISTRIBUTION and 0.5 < meta["misfit"][0] < 1.2


def test_spectra_are_compared_with_those_of_the_emulator_that_a_model_has_learnt_from(plugins):
    named = models.synthesizer(plugins, {"emulator": "4most-hr"})
    assert list(named.arms) == list(models.synthesizer(plugins, {}).arms) == ["blue", "green", "red"]
    with pytest.raises(ModelError, match="5most-hr: no such model file"):
        models.synthesizer(plugins, {"emulator": "5most-hr"})
