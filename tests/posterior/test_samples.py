"""Posterior: MAP, quantiles, moments, rejection, and what is not detected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from specinn.errors import ModelError
from specinn.flags import Flag
from specinn.labels import LabelSet, make_label
from specinn.posterior import Posterior
from specinn.posterior.display import in_short
from specinn.posterior.summary import posterior_flags

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


def lost(label, values):
    """Whether samples of one label count as undetermined; one of them never counts as a limit, too."""
    samples = np.asarray(values, float)[None, :, None]
    summary = Posterior(LabelSet([label]), samples, np.zeros(samples.shape[:2])).summary()
    assert not (summary.undetermined & summary.undetected).any()
    return bool(summary.undetermined[0, 0])


def test_a_posterior_that_is_the_prior_detects_nothing():
    position = (np.arange(2000) + 0.5) / 2000
    for name, prior in (("a_li", -0.5 + 4.1 * position), ("vbroad", 0.5 * 200.0**position),
                        ("mg_fe", -0.4 + 1.2 * position)):  # fmt: skip
        assert lost(ABUNDANCES[name], prior)
        assert not leaning(name, prior)  # a limit that excludes nothing is none


def test_a_posterior_of_half_the_prior_is_a_limit_or_a_value():
    position = (np.arange(2000) + 0.5) / 2000
    for start, limit in ((0.0, True), (0.25, False)):
        half = start + 0.5 * position
        for name, values in (("a_li", -0.5 + 4.1 * half), ("vbroad", 0.5 * 200.0**half),
                             ("mg_fe", -0.4 + 1.2 * half)):  # fmt: skip
            assert not lost(ABUNDANCES[name], values)
            assert leaning(name, values) is limit


def test_what_piles_up_at_a_bound_is_determined():
    """The upper bound is no limit, but a width of a tenth of the range is not that of the prior."""
    near = np.abs(np.random.default_rng(0).normal(size=2000)) * 0.05
    assert not lost(ABUNDANCES["mg_fe"], 0.8 - near) and not lost(ABUNDANCES["mg_fe"], -0.4 + near)


@given(
    st.sampled_from([("eu_fe", (-0.5, 1.5)), ("n_fe", (-0.4, 0.8)), ("vbroad", (0.5, 100.0))]),
    st.floats(0.1, 0.9),
    st.floats(0.2, 1.0),
    st.floats(-1.0, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_the_width_is_compared_with_that_of_the_training(which, narrower, width, centre):
    """Of normal priors and posteriors, for each kind of label; bounds alone would not tell a narrow prior."""
    (name, bounds), z = which, ndtri((np.arange(500) + 0.5) / 500)
    wide = make_label(name, bounds)
    own = LabelSet([wide]).with_spreads([narrower * wide.prior_std])
    middle = own.to_network(own.bounds.T).mean()
    y = middle + own[0].prior_std * (0.1 * centre + width * z)
    ratio = width / 1.178 * 0.994 if name == "vbroad" else width  # whose prior is flat in the logarithm
    if abs(ratio - 0.8) > 0.02:
        values = own[0].from_network(y)
        summary = Posterior(own, values[None, :, None], np.zeros((1, 500)), np.ones((1, 500), bool)).summary()
        assert summary.undetermined.tolist() == [[ratio > 0.8]]


def test_derived_labels_are_determined_where_all_parts_are():
    names = ("teff", "fe_h", "a_li", "mg_fe", "si_fe", "ca_fe", "ti_fe")
    bounds = {"teff": (4000, 7000), "fe_h": (-3, 0.5), "a_li": (-0.5, 3.6)}
    labels = LabelSet([make_label(name, bounds.get(name, (-0.5, 0.9))) for name in names])
    rng, middle = np.random.default_rng(0), labels.bounds.mean(axis=1)
    samples = middle + 0.02 * np.ptp(labels.bounds, axis=1) * rng.normal(size=(4, 500, 7))
    for star, name in enumerate(("a_li", "ti_fe", "teff")):
        low, high = labels[name].bounds
        samples[star, :, labels.index(name)] = rng.uniform(low, high, 500)
    summary = Posterior(labels, samples, np.zeros((4, 500))).summary()
    found = [[n for n, wide in zip(summary.labels.names, row, strict=True) if wide]
             for row in summary.undetermined]  # fmt: skip
    assert found == [["a_li", "li_fe"], ["ti_fe", "alpha_m"], ["teff"], []]
    kept = samples[3][:, 3:7].mean(axis=1)
    assert summary.std[3, -1] == pytest.approx(kept.std())
    assert summary.quantiles[0, 3, -1] == pytest.approx(np.median(kept))


def test_flags_say_nothing_of_what_is_not_determined():
    position = (np.arange(2000) + 0.5) / 2000
    samples = np.array([[-1.0, 20.0, 2.0, 0.2]]) + 0.01 * ndtri(position)[:, None]
    samples[:, 3] = np.sort(-0.4 + 1.2 * position)[::-1]  # the first, which is the MAP, is at the upper bound
    for width, flagged in ((1.0, False), (0.3, True)):
        samples[:, 3] = 0.8 - width * (0.8 - samples[:, 3])
        posterior = Posterior(ABUNDANCES, samples[None], -np.arange(2000.0)[None])
        flags = posterior_flags(posterior.summary(), ABUNDANCES)
        assert bool(flags[0] & Flag.AT_BOUNDS) is flagged
        assert not flags[0] & Flag.UPPER_LIMIT


def test_the_table_of_a_star_has_parameters_first_and_a_line_for_the_rest():
    position = (np.arange(2000) + 0.5) / 2000
    labels = LabelSet([make_label(n, b) for n, b in
                       (("n_fe", (-0.4, 0.8)), ("a_li", (-0.5, 3.6)), ("teff", (4000, 7000)))])  # fmt: skip
    samples = np.stack([-0.4 + 1.2 * position, 2.0 + 0.1 * position, 5000 + 50 * position], axis=1)
    one = Posterior(labels, samples[None], np.zeros((1, 2000)), ids=["sun"])
    for text in (repr(one), one._repr_html_()):
        assert text.index("teff") < text.index("a_li") and "n_fe" not in text
        assert "not determined: N" in text
    assert "not determined" in [axes.get_title() for axes in one.plot("sun").axes]
    assert in_short(["n_fe", "a_li", "li_fe", "vmic", "alpha_m"]) == "N, Li, vmic, alpha_m"


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
def test_lithium_limits_of_simulated_stars(emulated):
    """Where the line is lost, a limit that holds, or nothing; else a value."""
    from specinn import models
    from specinn.evaluation.comparison import compare
    from specinn.plugins import Plugins

    plugins = Plugins()
    model = models.load(plugins, models.find(plugins, None))
    comparison = compare(model, emulated, snr=[100.0], split="all", n_samples=512, plugins=plugins)
    i, teff = comparison.labels.index("a_li"), comparison.truth[:, comparison.labels.index("teff")]
    truth, limit = comparison.truth[:, i], comparison.summaries[0].undetected[:, i]
    lost = (truth < 0.3) & (teff > 5300)  # below 1 mA: nobody could see it
    strong = (truth > 2.3) & (teff < 6100) & (comparison.truth[:, comparison.labels.index("vbroad")] < 20)
    assert lost.sum() > 5 and strong.sum() > 5
    nothing = comparison.summaries[0].undetermined[:, i]
    assert (limit | nothing)[lost].mean() > 0.8
    assert (limit | nothing)[strong].mean() < 0.05
    upper = comparison.summaries[0].quantiles[-1, limit, i]
    assert (upper > truth[limit]).mean() > 0.85  # 0.95, of only 44 stars
