"""Posterior: MAP, quantiles, moments, rejection, and what is not detected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specinn.errors import ModelError
from specinn.labels import LabelSet, make_label
from specinn.posterior import Posterior

LABELS = LabelSet((make_label("teff", (4000, 7000)), make_label("logg", (0, 5))))


def make(seed=0, n_spec=3, n_samples=500, dtype=np.float32):
    rng = np.random.default_rng(seed)
    samples = rng.normal([5500, 2.5], [700, 1.5], (n_spec, n_samples, 2)).astype(dtype)
    return Posterior(LABELS, samples, rng.normal(size=(n_spec, n_samples)))


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_statistics_are_numpy_s_over_accepted_samples(seed):
    posterior = make(seed)
    quantiles = posterior.quantiles([0.16, 0.5, 0.84])
    for i in range(len(posterior)):
        keep = posterior.inside[i]
        kept = posterior.samples[i][keep].astype(float)
        assert quantiles[:, i] == pytest.approx(np.quantile(kept, [0.16, 0.5, 0.84], axis=0), rel=1e-6)
        assert posterior.mean[i] == pytest.approx(kept.mean(axis=0), rel=1e-9)
        assert posterior.std[i] == pytest.approx(kept.std(axis=0), rel=1e-9)
        assert posterior.rejected_fraction[i] == pytest.approx(1 - keep.mean())
        assert (posterior.map[i] == kept[posterior.log_prob[i][keep].argmax()]).all()


def test_single_precision_does_not_accumulate():
    samples = np.full((1, 4096, 2), [6999.9, 2.0], np.float32)
    posterior = Posterior(LABELS, samples, np.zeros((1, 4096)))
    assert posterior.mean[0, 0] == float(np.float32(6999.9))
    assert posterior.std[0, 0] == 0.0


def test_samples_outside_the_bounds_never_count():
    samples = np.array([[[5000.0, 4.0], [9000.0, 4.0], [5100.0, 7.0]]])
    posterior = Posterior(LABELS, samples, np.array([[0.0, 10.0, 20.0]]))
    assert posterior.rejected_fraction[0] == pytest.approx(2 / 3)
    assert (posterior.map[0] == [5000.0, 4.0]).all()
    assert (posterior.quantiles([0.0, 1.0])[:, 0] == [5000.0, 4.0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_without_a_finite_density_are_rejected(bad):
    samples = np.array([[[5000.0, 4.0], [5100.0, 4.0]]])
    posterior = Posterior(LABELS, samples, np.array([[0.0, bad]]))
    assert (posterior.inside == [[True, False]]).all()
    assert posterior.map[0, 0] == 5000.0


def test_samples_that_are_not_numbers_are_rejected():
    samples = np.array([[[5000.0, 4.0], [np.nan, 4.0]]])
    posterior = Posterior(LABELS, samples, np.zeros((1, 2)))
    assert posterior.mean[0] == pytest.approx([5000.0, 4.0])


def test_all_rejected_gives_nan_and_never_a_number():
    posterior = make()
    samples = posterior.samples.copy()
    samples[1, :, 0] = 9000.0
    posterior = Posterior(LABELS, samples, posterior.log_prob)
    assert posterior.rejected_fraction[1] == 1.0
    for values in (posterior.map, posterior.mean, posterior.std, *posterior.quantiles([0.0, 0.5, 1.0])):
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]]).all()


@pytest.mark.parametrize("rows", [1, [2, 0], slice(1, None), np.array([False, True, True])])
def test_rows_keep_what_the_estimator_saw(rows):
    posterior = make()
    inside = posterior.inside.copy()
    inside[:, :10] = False
    posterior = Posterior(LABELS, posterior.samples, posterior.log_prob, inside)
    part = posterior[rows]
    index = np.atleast_1d(np.arange(3)[rows])
    assert len(part) == len(index)
    assert (part.inside == inside[index]).all()
    assert (part.map == posterior.map[index]).all()


@pytest.mark.parametrize(
    ("samples", "log_prob", "inside", "message"),
    [
        ((2, 5), (2, 5), None, r"samples have shape \(2, 5\): expected \(n_spec, n_samples, 2\)"),
        ((2, 5, 3), (2, 5), None, "samples have shape"),
        ((2, 5, 2), (2, 4), None, r"log_prob has shape \(2, 4\), samples \(2, 5, 2\)"),
        ((2, 5, 2), (2, 5), np.ones((2, 4), bool), r"inside has shape \(2, 4\)"),
        ((2, 5, 2), (2, 5), np.ones((2, 5)), "expected booleans"),
    ],
)
def test_shapes_are_checked(samples, log_prob, inside, message):
    with pytest.raises(ModelError, match=message):
        Posterior(LABELS, np.zeros(samples), np.zeros(log_prob), inside)


ABUNDANCES = LabelSet((*(make_label(n, b) for n, b in (("fe_h", (-3, 0.5)), ("vbroad", (0.5, 100)))),
                       make_label("a_li", (-0.5, 3.6)), make_label("mg_fe", (-0.4, 0.8))))  # fmt: skip


def leaning(name, values):
    """Whether samples of one label count as undetected; those of the others are in mid-range."""
    middle = np.array([-1.0, 20.0, 2.0, 0.2])
    samples = middle + np.random.default_rng(0).normal(size=(1, len(values), 4)) * [0.1, 1.0, 0.1, 0.05]
    samples[0, :, ABUNDANCES.index(name)] = values
    summary = Posterior(ABUNDANCES, samples, np.zeros((1, len(values)))).summary()
    result = summary.undetected[0]
    others = [i for i, n in enumerate(summary.labels.names) if n != name and (name, n) != ("a_li", "li_fe")]
    assert not result[others].any()
    return bool(result[ABUNDANCES.index(name)])


@pytest.mark.parametrize(("name", "width"), [("a_li", 0.4), ("mg_fe", 0.05), ("vbroad", 0.1)])
def test_a_label_is_detected_some_standard_deviations_above_its_bound(name, width):
    label, normal = ABUNDANCES[name], np.random.default_rng(1).normal(size=4000)

    def at(position):
        if name == "vbroad":  # its prior is flat in the logarithm
            return 10.0 ** (np.log10(label.bounds[0]) + width * (position + normal))
        return label.bounds[0] + width * (position + normal)

    positions = (-1.0, 0.0, 1.0, 2.0, 3.2, 5.0)
    assert [leaning(name, at(position)) for position in positions] == 4 * [True] + 2 * [False]


def test_a_posterior_that_is_the_prior_detects_nothing():
    position = (np.arange(2000) + 0.5) / 2000
    assert leaning("a_li", -0.5 + 4.1 * position)
    assert leaning("vbroad", 0.5 * 200.0**position)


def test_leaning_on_the_upper_bound_is_a_detection():
    assert not leaning("a_li", 3.6 - np.abs(np.random.default_rng(0).normal(size=2000)) * 0.2)


def test_limits_of_few_samples_and_of_none():
    samples = np.full((2, 5, 4), [-1.0, 20.0, 0.0, 0.2])
    samples[0, :, 2] = [-0.48, -0.3, 0.0, 0.4, 1.0]
    samples[1] = np.nan
    result = Posterior(ABUNDANCES, samples, np.zeros((2, 5))).summary().undetected
    assert result[:, 2].tolist() == [True, False]


def test_metallicity_is_never_a_limit_and_li_over_fe_goes_with_li():
    samples = np.random.default_rng(0).uniform(0, 1, (1, 3000, 4)) * [0.1, 0, 0, 0] + [-3.0, 20.0, 2.0, 0.2]
    samples[..., 2] = -0.5 + np.random.default_rng(1).uniform(0, 1, (1, 3000))
    summary = Posterior(ABUNDANCES, samples, np.zeros((1, 3000))).summary()
    flagged = dict(zip(summary.labels.names, summary.undetected[0], strict=True))
    assert flagged == {"fe_h": False, "vbroad": False, "a_li": True, "mg_fe": False, "li_fe": True}


@pytest.mark.slow
def test_lithium_limits_of_simulated_stars(shared):
    """Spectra of the smallest split: where the line is lost, a limit that holds; else a value."""
    from specinn import models
    from specinn.evaluation.comparison import compare
    from specinn.grids import load
    from specinn.plugins import Plugins

    plugins = Plugins()
    model = models.load(plugins, models.find(plugins, "4most-hr-gr"))
    grid = load(sorted((shared / "data" / "grid").glob("*.h5")), plugins=plugins)
    comparison = compare(model, grid, snr=[100.0], split="validation", n_samples=512, plugins=plugins)
    i, teff = comparison.labels.index("a_li"), comparison.truth[:, comparison.labels.index("teff")]
    truth, limit = comparison.truth[:, i], comparison.summaries[0].undetected[:, i]
    lost = (truth < 0.3) & (teff > 5300)  # below 1 mA: nobody could see it
    strong = (truth > 2.3) & (teff < 6100) & (comparison.truth[:, comparison.labels.index("vbroad")] < 20)
    assert lost.sum() > 5 and strong.sum() > 5
    assert limit[lost].mean() > 0.8
    assert limit[strong].mean() < 0.05
    upper = comparison.summaries[0].quantiles[-1, limit, i]
    assert (upper > truth[limit]).mean() > 0.85  # 0.95, of only 44 stars
