"""Arms that disagree: each arm's own posterior against the joint one."""

import attrs
import numpy as np
import pytest

import specinn
from specinn.errors import ConfigError
from specinn.flags import Flag
from specinn.inference.arms import LIMIT, arm_disagreement
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.inference.run import example_files
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.posterior import QUANTILES, Summary
from specinn.spectra import SpectrumBatch


@pytest.fixture(scope="module")
def plugins():
    return Plugins()


@pytest.fixture(scope="module")
def pipeline(plugins):
    return Pipeline(specinn.load_model(), plugins, RunOptions(samples=1024, check="arms"))


# -- the definition, with an estimator whose posteriors are Gaussian and known ----------------------------

LABELS = LabelSet((make_label("mg_fe", (-1, 1)), make_label("vbroad", (1, 100))))
Z16 = 0.9944578832097532  # of the percentile 16


class Gaussian:
    """[Mg/Fe] is the mean good flux - 1, +- 0.06 / sqrt(arms); log vbroad is 1 +- 0.1 / sqrt(arms)."""

    labels = LABELS
    used_pixels = np.ones(30, bool)

    def __init__(self, arms=2):
        self.slices = {f"arm{i}": slice(i * 30 // arms, (i + 1) * 30 // arms) for i in range(arms)}
        self.instrument = self

    def encode(self, batch):
        return batch

    def summarise(self, batch, n_samples, seed):
        summary = Summary.empty(LABELS, len(batch))
        arms = sum((~batch.mask[:, arm]).any(axis=1) for arm in self.slices.values())
        mg_fe = np.ma.masked_array(batch.flux, batch.mask).mean(axis=1).filled(np.nan) - 1.0
        for i, level in enumerate(QUANTILES.values()):
            z = {0.16: -Z16, 0.84: Z16}.get(level, 0.0)
            summary.quantiles[i, :, 0] = mg_fe + z * 0.06 / np.sqrt(arms)
            summary.quantiles[i, :, 1] = 10 ** (1.0 + z * 0.1 / np.sqrt(arms))
        return summary


def spectra(*levels, bad=()):
    n = 30 // len(levels)
    flux = np.concatenate([level + np.linspace(-0.01, 0.01, n) for level in levels])[None]
    mask = np.zeros(flux.shape, bool)
    mask[:, list(bad)] = True
    return SpectrumBatch.from_arrays(
        np.arange(5000.0, 5030.0), flux, 0.1 * np.ones_like(flux), mask, ids=["a"]
    )


@pytest.mark.parametrize(
    ("levels", "sigma"),
    [
        ((1.0, 1.0), 0.0),
        ((1.0, 1.3), 0.3 / np.hypot(0.06, 0.06)),  # |m1 - m2| / sqrt(s1^2 + s2^2)
        ((1.0, 1.0, 1.3), np.sqrt((2 * 0.1**2 + 0.2**2) / 0.06**2 / 2)),  # chi-square over 2
    ],
)
def test_in_units_of_sigma(levels, sigma):
    estimator, batch = Gaussian(len(levels)), spectra(*levels)
    joint = estimator.summarise(batch, 0, 0)
    (score,), (sentence,) = arm_disagreement(estimator, batch, joint, 1024, 0)
    assert score == pytest.approx(sigma / Z16, abs=1e-6)
    if sigma > 1:
        assert sentence.startswith(f"the arms disagree in mg_fe by {score:.1f} sigma: arm0 0.00 +- 0.06, ")
        assert sentence.endswith("0.30 +- 0.06 dex")


def test_one_arm_has_nobody_to_disagree_with():
    estimator, batch = Gaussian(), spectra(1.0, 1.9, bad=range(16, 30))  # one pixel of 15 is too few
    (score,), (sentence,) = arm_disagreement(estimator, batch, estimator.summarise(batch, 0, 0), 64, 0)
    assert np.isnan(score) and sentence == ""


# -- the network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", example_files(), ids=lambda path: path.stem)
def test_arms_of_a_good_spectrum_agree(pipeline, path):
    (batch,) = specinn.read(path)
    meta = pipeline(batch).meta
    assert 0.0 < meta["arm_disagreement"][0] < LIMIT
    assert not meta["flags"][0] & Flag.ARMS_DISAGREE


def test_A13_arms_of_two_stars_disagree(pipeline):
    """The red arm of a star that is hotter by 700 K."""
    green, red = (
        pipeline.preprocess(specinn.read(path)[0])
        for path in example_files()
        if path.stem in ("dwarf-g", "dwarf-k")
    )
    arm = pipeline.estimator.instrument.slices["red"]
    both = attrs.evolve(green, flux=green.flux.copy(), mask=green.mask.copy())
    both.flux[:, arm], both.mask[:, arm] = red.flux[:, arm], red.mask[:, arm]
    joint = pipeline.estimator.summarise(pipeline.estimator.encode(both), 1024, 0)
    (score,), (sentence,) = arm_disagreement(pipeline.estimator, both, joint, 1024, 0)
    assert score > LIMIT and "the arms disagree in" in sentence and "green" in sentence and "red" in sentence


# -- how one asks for it -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_checks_are_columns_of_infer(plugins):
    path = str(example_files()[0])
    both = specinn.infer(path, samples=256, check=["model", "arms"], plugins=plugins).catalogue
    assert both.meta["check"] == "arms, model"
    assert 0.0 < both["arm_disagreement"][0] < LIMIT and 0.1 < both["misfit"][0] < 1.0
    none = specinn.infer(path, samples=256, plugins=plugins).catalogue
    assert not {"arm_disagreement", "misfit"} & set(none.colnames)
    assert none["teff"][0] == both["teff"][0]


@pytest.mark.parametrize("value", ["arm", ["arms", "flux"], 3])
def test_another_check_is_one_sentence(value):
    with pytest.raises(ConfigError, match=r"^check .*(arms or model|arms, model or both)"):
        RunOptions(check=value)


def test_options_as_json():
    assert RunOptions(**RunOptions(check=["model", "arms"]).plain()).check == ("arms", "model")
