"""The checks of corrections and of whole plugins pass what keeps the rules, and name what is broken."""

import importlib

import numpy as np
import pytest
from contracts import LinearGaussian, broken

from specinn import testing
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import EstimatorRecord, InstrumentRecord, Record, hookimpl
from specinn.plugins.interfaces import Correction, Preprocessor
from specinn.posterior import Posterior

SHIPPED = [
    "specinn_instruments",
    "specinn_preprocessing",
    "specinn_turbospectrum",
    "specinn_emulator",
    "specinn_cinn",
    "specinn_teff_bias",
]


class Shift(Correction):
    by = 0.1

    @classmethod
    def load(cls, path):
        raise NotImplementedError

    def chosen(self, posterior):
        return posterior.map[:, 1] > 2

    def move(self, posterior, applied):
        samples = posterior.samples.copy()
        samples[applied, :, 1] += self.by
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside)

    def apply(self, posterior):
        applied = self.chosen(posterior)
        return self.move(posterior, applied), applied


class ShiftInPlace(Shift):
    def move(self, posterior, applied):
        posterior.samples[applied] += self.by
        return posterior


class ShiftAll(Shift):
    def move(self, posterior, applied):
        return super().move(posterior, slice(None))


class Judging(Shift):
    by = 4.0

    def move(self, posterior, applied):
        out = super().move(posterior, applied)
        return Posterior(out.labels, out.samples, out.log_prob)


class Blind(Shift):
    def chosen(self, posterior):
        return np.ones(len(posterior), bool)


class Relative(Shift):
    def chosen(self, posterior):
        return posterior.map[:, 1] >= np.nanmedian(posterior.map[:, 1])


def posterior():
    rng = np.random.default_rng(0)
    samples = np.array([[5800, 4.0], [5000, 1.0], [9000, 4.0]])[:, None] + rng.normal(size=(3, 50, 2)) * [
        20,
        0.1,
    ]
    return Posterior(LinearGaussian.labels, samples, rng.normal(size=(3, 50)))


def test_correction():
    assert testing.check_correction(Shift(), posterior()).map[0, 1] == pytest.approx(
        posterior().map[0, 1] + 0.1
    )


@pytest.mark.parametrize(
    ("correction", "rule"),
    [
        (ShiftInPlace, "the correction changed its input"),
        (ShiftAll, "a star out of range was moved"),
        (Judging, "accepts or rejects samples"),
        (Blind, "a star without an accepted sample counts as within range"),
        (Relative, "comes out differently alone"),
    ],
)
def test_correction_that_breaks_a_rule(correction, rule):
    with broken(rule, "corrections"):
        testing.check_correction(correction(), posterior())


class Offering:
    """A plugin that offers one record for each of the fields."""

    def __init__(self, hook, *records):
        setattr(self, hook, hookimpl(lambda: list(records)))


def step(name="mask", factory="specinn_preprocessing.mask:Mask", summary="masks", **fields):
    return Record(name=name, factory=factory, summary=summary, **fields)


@pytest.mark.parametrize("name", SHIPPED)
def test_our_own_plugins(name):
    assert testing.check_plugin(importlib.import_module(name))


@pytest.mark.parametrize(
    ("records", "rule", "section"),
    [
        ([], "the plugin offers nothing", "hooks-and-records"),
        ([step(name="My_Step")], "small letters, digits and hyphens", "hooks-and-records"),
        ([step(), step()], "preprocessor 'mask' is there twice", "hooks-and-records"),
        ([step(summary="two\nlines")], "the summary is not one line", "hooks-and-records"),
        ([step(api_version=99)], "the plugin does not load: .*version 99", "hooks-and-records"),
        ([step(factory="specinn_preprocessing.mask:Masks")], "cannot be used", "hooks-and-records"),
        (
            [step(factory=f"{__name__}:Shift")],
            "is not a specinn.plugins.interfaces.Preprocessor",
            "preprocessors",
        ),
        ([step(factory=f"{__name__}:Lazy")], "lacks __call__", "preprocessors"),
        ([step(factory=f"{__name__}:Scaled")], "cannot be called with instrument", "preprocessors"),
    ],
)
def test_plugin_that_breaks_a_rule(records, rule, section):
    with broken(rule, section):
        testing.check_plugin(Offering("specinn_preprocessors", *records))


class Lazy(Preprocessor):
    pass


class Scaled(Preprocessor):
    def __init__(self, instrument):
        pass

    def __call__(self, batch):
        return batch


def test_records_that_lead_elsewhere(tmp_path):
    toml = tmp_path / "x.toml"
    toml.write_text(
        'name = "x"\nsummary = "for tests"\n'
        '[[arms]]\nname = "green"\nrange = [5160, 5170]\nresolving_power = 20000\n'
    )
    record = InstrumentRecord(name="y", summary="for tests", toml=toml)
    with broken("instrument 'y' is 'x' in its TOML", "hooks-and-records"):
        testing.check_plugin(Offering("specinn_instruments", record))
    fields = {"name": "other", "summary": "for tests", "factory": "specinn_cinn.estimator:CINN"}
    (weights,) = Plugins([], {"cinn": importlib.import_module("specinn_cinn")}).offers("estimator")
    for models, rule in (
        (weights.record.models, "its model '4most-hr' is one of 'cinn'"),
        ({"gone": tmp_path / "gone.safetensors"}, "its model 'gone': .*no such model file"),
    ):
        with pytest.raises(AssertionError, match=rule):
            testing.check_plugin(Offering("specinn_estimators", EstimatorRecord(models=models, **fields)))
