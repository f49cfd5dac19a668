"""The correction teff-bias: what moves, what stays, and how its file fails."""

import attrs
import numpy as np
import pytest
import specinn_teff_bias
from hypothesis import given, settings
from hypothesis import strategies as st
from specinn_teff_bias.correction import Line, Range, TeffBias
from specinn_teff_bias.line import HUBER, Moments, fit_line

from specinn.errors import ConfigError, ModelError, OutputError
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.plugins.interfaces import BenchmarkStars, LeaveOneOut
from specinn.posterior import Posterior
from specinn.testing import check_correction, check_fit

LABELS = LabelSet(
    (
        make_label("logg", (0, 5)),
        make_label("teff", (3500, 8000)),
        make_label("fe_h", (-3, 0.5)),
        make_label("mg_fe", (-1, 1)),
    )
)
BIAS = TeffBias(
    {"logg": Line(2e-5, -0.15), "fe_h": Line(-1e-5, 0.02)},
    Range((4500.0, 6500.0), (-1.0, 0.5)),
    21,
    "made up",
)

TOML = """
model = "0123456789abcdef"
n_stars = 21
provenance = "made up"

[range]
teff = [4500, 6500]
fe_h = [-1.0, 0.5]

[labels.logg]
a = 2e-5
b = -0.15

[labels.fe_h]
a = -1e-5
b = 0.02
"""


def make(seed=0, n_samples=300, dtype=np.float32):
    """Six stars: three in range, one too hot, one too poor in metals, one without an accepted sample."""
    rng = np.random.default_rng(seed)
    centres = np.array(
        [
            [4.4, 5770, 0.0, 0.0],
            [1.6, 4600, -0.5, 0.2],
            [4.0, 6400, -0.9, 0.1],
            [4.0, 7000, 0.0, 0.0],
            [1.0, 4700, -2.5, 0.4],
            [4.4, 9500, 0.0, 0.0],
        ]
    )
    scatter = rng.normal(size=(6, n_samples, 4)) * [0.05, 20, 0.02, 0.05]
    return Posterior(LABELS, (centres[:, None] + scatter).astype(dtype), rng.normal(size=(6, n_samples)))


def test_contract():
    check_correction(BIAS, make())


def test_every_sample_moves_by_the_bias_at_its_own_uncorrected_teff():
    bias = TeffBias(
        {"teff": Line(0.01, -20.0), "logg": Line(2e-5, -0.15)}, Range((4500.0, 6500.0)), 21, "made up"
    )
    posterior = make(dtype=float)
    out, applied = bias.apply(posterior)
    teff = posterior.samples[..., 1]
    assert applied.tolist() == [True, True, True, False, True, False]
    assert out.samples[applied, :, 1] == pytest.approx((teff - (0.01 * teff - 20.0))[applied])
    assert out.samples[applied, :, 0] == pytest.approx(
        (posterior.samples[..., 0] - (2e-5 * teff - 0.15))[applied]
    )
    assert np.array_equal(out.samples[..., 2:], posterior.samples[..., 2:])


def test_quantiles_and_map_move_with_the_samples():
    posterior = make()
    out, applied = BIAS.apply(posterior)
    expected = posterior.map[:, 0] - (2e-5 * posterior.map[:, 1] - 0.15)
    assert out.map[applied, 0] == pytest.approx(expected[applied], abs=1e-5)
    steep = TeffBias({"logg": Line(1e-3, 0.0)}, BIAS.range, 21, "made up")  # 20 K of spread become 0.02 dex
    wide = steep.apply(posterior)[0].std[:, 0]
    assert wide[0] == pytest.approx(np.hypot(posterior.std[0, 0], 0.02), rel=0.1)


def test_stars_out_of_range_or_without_samples_are_untouched():
    posterior = make()
    out, applied = BIAS.apply(posterior)
    assert applied.tolist() == [True, True, True, False, False, False]
    assert np.array_equal(out.samples[3:], posterior.samples[3:])
    assert not (out.samples[:3, :, 0] == posterior.samples[:3, :, 0]).any()
    assert np.isnan(out.map[5]).all()


def test_bounds_of_the_range_belong_to_it():
    places = [(4500.0, -1.0), (6500.0, 0.5), (4499.9, 0), (6500.1, 0), (5000, -1.001), (5000, 0.501)]
    labels = LabelSet(
        (*(LABELS[name] for name in ("logg", "teff")), make_label("fe_h", (-3, 1)), LABELS["mg_fe"])
    )
    samples = np.array([[[4.0, teff, fe_h, 0.0]] for teff, fe_h in places])
    applied = BIAS.apply(Posterior(labels, samples, np.zeros((6, 1))))[1]
    assert applied.tolist() == [True, True, False, False, False, False]


def test_acceptance_and_density_are_what_the_estimator_saw():
    """A correction that pushes samples over a bound does not make them rejected ones."""
    posterior = make()
    push = TeffBias({"logg": Line(0.0, -3.0)}, BIAS.range, 21, "made up")
    out, _ = push.apply(posterior)
    assert (out.samples[0, :, 0] > 5).all()
    assert np.array_equal(out.inside, posterior.inside)
    assert out.log_prob is posterior.log_prob or np.array_equal(out.log_prob, posterior.log_prob)
    assert out.rejected_fraction[0] == 0


def test_a_label_that_the_model_does_not_infer():
    with pytest.raises(
        ModelError, match="the correction needs ca_fe, the model infers logg, teff, fe_h, mg_fe"
    ):
        TeffBias({"ca_fe": Line(0.0, 0.1)}, BIAS.range, 21, "made up").apply(make())
    without = Posterior(LabelSet((LABELS["teff"],)), np.full((1, 2, 1), 5000.0), np.zeros((1, 2)))
    with pytest.raises(ModelError, match="needs fe_h, logg"):
        BIAS.apply(without)


def test_load(tmp_path):
    path = tmp_path / "bias.toml"
    path.write_text(TOML)
    loaded = TeffBias.load(path)
    assert (loaded.labels, loaded.range, loaded.n_stars) == (BIAS.labels, BIAS.range, 21)
    assert loaded.model == "0123456789abcdef"


numbers = st.floats(-1e3, 1e3)
names = st.sampled_from(["teff", "logg", "fe_h", "a_li", "mg_fe"])
tested = st.builds(LeaveOneOut, st.integers(1, 99), numbers, numbers, numbers, numbers)
lines = st.builds(
    Line,
    numbers,
    numbers,
    *[st.none() | numbers] * 4,
    st.none() | st.integers(2, 99),
    st.none() | tested,
)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.dictionaries(names, lines, min_size=1),
    st.none() | st.tuples(st.floats(-5, -1), st.floats(0, 1)),
    st.none() | st.from_regex("[0-9a-f]{8,64}", fullmatch=True),
    st.text(),
    st.lists(st.text()).map(tuple),
)
def test_save_and_load_are_exact(tmp_path_factory, labels, fe_h, model, provenance, stars):
    path = tmp_path_factory.mktemp("bias") / "bias.toml"
    bias = TeffBias(labels, Range((4000.0, 7000.0), fe_h), 3, provenance, model, stars, stars[:1])
    bias.save(path)
    assert TeffBias.load(path) == bias
    assert [p.name for p in path.parent.iterdir()] == ["bias.toml"]


def test_save_where_it_cannot(tmp_path):
    with pytest.raises(OutputError, match=r"absent.bias\.toml could not be written: No such file"):
        BIAS.save(tmp_path / "absent" / "bias.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("labels.logg", "labels.log_g", r"unknown label 'log_g'.* @ \$\.labels\.log_g"),
        ("a = 2e-5", "a = nan", r"expected a finite number, found nan @ \$\.labels\.logg\.a"),
        ("b = 0.02", "b = inf", r"found inf @ \$\.labels\.fe_h\.b"),
        ("a = 2e-5", 'a = "2e-5"', r"expected a number, found '2e-5' @ \$\.labels\.logg\.a"),
        ("a = 2e-5", "", r"required field missing @ \$\.labels\.logg\.a"),
        ("a = 2e-5", "a = 2e-5\nc = 1", r"unknown key 'c'; .* @ \$\.labels\.logg"),
        (
            "[4500, 6500]",
            "[6500, 4500]",
            r"teff = \[6500.0, 4500.0\] is not an increasing pair.* @ \$\.range",
        ),
        ("[4500, 6500]", "[4500]", r"\$\.range\.teff"),
        ("[-1.0, 0.5]", "[true, 0.5]", r"expected a number, found True @ \$\.range\.fe_h"),
        ("[-1.0, 0.5]", "[0.5, -1.0]", r"fe_h = \[0.5, -1.0\] is not an increasing pair.* @ \$\.range"),
        ("n_stars = 21", "n_stars = 0", r"n_stars = 0.* @ \$"),
        ("n_stars = 21", "n_stars = 2.5", r"expected an integer, found 2.5 @ \$\.n_stars"),
        ('"0123456789abcdef"', '"my model"', r"model = 'my model' is not the SHA-256 .* @ \$"),
        ('"0123456789abcdef"', '""', "is not the SHA-256 of a model"),
        ('provenance = "made up"', "", r"required field missing @ \$\.provenance"),
        (TOML[TOML.index("[labels.logg]") :], "[labels]", r"at least one label @ \$"),
        ("[range]", "[range", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_the_path(tmp_path, old, new, message):
    assert TOML.count(old) >= 1
    path = tmp_path / "bias.toml"
    path.write_text(TOML.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as error:
        TeffBias.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_file_with_the_former_name_of_a_key(tmp_path):
    path = tmp_path / "correction.toml"
    known = attrs.evolve(BIAS, stars=("Sun", "Procyon"), reference_stars=("Sun",))
    known.save(path)
    path.write_text(path.read_text().replace("reference_stars", "calibrators"))
    assert TeffBias.load(path) == known


def test_the_plugin_offers_it():
    plugins = Plugins([], {"teff-bias": specinn_teff_bias})
    assert not plugins.failures
    assert plugins.load("correction", "teff-bias") is TeffBias


# The fit


def observed(n=12, a=-4e-5, b=0.3, *, scatter=0.0, width=0.05, seed=0, n_samples=200):
    """Stars from 4000 to 7000 K whose logg is off by a Teff + b and a scatter; all else is right."""
    rng = np.random.default_rng(seed)
    teff = np.linspace(4000, 7000, n) + rng.uniform(-100, 100, n)
    true = np.column_stack([rng.uniform(1, 4, n), teff, rng.uniform(-1, 0.3, n), np.zeros(n)])
    centre = true + rng.normal(size=(n, 4)) * [width, 0, 0, 0]
    centre[:, 0] += a * teff + b + scatter * rng.normal(size=n)
    samples = centre[:, None] + rng.normal(size=(n, n_samples, 4)) * [width, 20, 0.02, 0.05]
    posterior = Posterior(LABELS, samples, rng.normal(size=(n, n_samples)))
    literature = {"logg": true[:, 0]}
    return BenchmarkStars(
        np.array([f"star {i}" for i in range(n)]), posterior, literature, {"logg": np.zeros(n)},
        np.zeros(n, bool), None, "0123456789abcdef", "made up",
    )  # fmt: skip


def fitted(stars, **changes):
    stars = attrs.evolve(stars, **changes)
    return TeffBias.fit(stars, np.ones(len(stars), bool))


def test_the_contract_of_fits():
    result = check_fit(TeffBias, observed(scatter=0.05))
    assert result.model == "0123456789abcdef" and result.provenance == "made up" and result.n_stars == 12
    assert result.stars[:2] == ("star 0", "star 1") and result.reference_stars == ()


class Deaf(TeffBias):
    """Fits all stars, whatever it is told."""

    @classmethod
    def fit(cls, stars, use, leave_one_out=None):
        return super().fit(stars, np.ones(len(stars), bool), leave_one_out)


class Narrow(TeffBias):
    """Has the range of the stars that are used."""

    @classmethod
    def fit(cls, stars, use, leave_one_out=None):
        return super().fit(stars[use], np.ones(use.sum(), bool), leave_one_out)


class Forgetful(TeffBias):
    def save(self, path):
        rounded = {name: Line(line.a, round(line.b, 2)) for name, line in self.labels.items()}
        TeffBias(rounded, self.range, self.n_stars, "").save(path)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Deaf, "a star that is not to be used influences the fit"),
        (Narrow, "the range is not that of all stars"),
        (Forgetful, "samples are corrected differently after save and load"),
    ],
)
def test_a_fit_that_breaks_a_rule(kind, rule):
    with pytest.raises(AssertionError, match=rule):
        check_fit(kind, observed(scatter=0.05))


def test_the_fit_is_least_squares_over_all_samples():
    """Without outliers it is numpy's fit to all samples with the weights that the documentation states."""
    stars = observed(8)
    stars.literature["logg"][:] += 0.15 * np.array([1, -1, -1, 1, 1, -1, -1, 1])  # a scatter without outliers
    stars.errors["logg"][:] = np.linspace(0.01, 0.1, 8)
    moments = Moments.of(stars, "logg", range(8))
    (b, a), covariance, scatter = fit_line(moments)
    off = np.abs(moments.r - b - a * moments.t) / np.sqrt(moments.variance + scatter**2)
    assert off.max() < HUBER and scatter > 0.02
    x, y, w = [], [], []
    for i in range(8):
        samples = stars.posterior.samples[i, stars.posterior.inside[i]]
        residual = samples[:, 0] - stars.literature["logg"][i]
        x, y = [*x, *samples[:, 1]], [*y, *residual]
        variance = residual.var() + stars.errors["logg"][i] ** 2 + scatter**2
        w += [1 / np.sqrt(variance * residual.size)] * residual.size
    expected, cov = np.polyfit(np.array(x) / 1e3, y, 1, w=w, cov="unscaled")
    assert (a, b) == pytest.approx(expected, rel=1e-6)
    assert covariance == pytest.approx(cov[::-1, ::-1], rel=1e-4)
    line = fitted(stars).labels["logg"]
    assert (line.a, line.b, line.n_stars) == (pytest.approx(a / 1e3), pytest.approx(b), 8)
    assert line.a_error == pytest.approx(np.sqrt(cov[0, 0]) / 1e3, rel=1e-4)
    assert line.covariance == pytest.approx(cov[0, 1] / 1e3, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scatter", [0.0, 0.1])
def test_standard_errors_are_what_the_lines_scatter(scatter):
    pulls, ratio = [], []
    for seed in range(100):
        line = fitted(observed(25, scatter=scatter, seed=seed, n_samples=50)).labels["logg"]
        pulls.append([(line.a + 4e-5) / line.a_error, (line.b - 0.3) / line.b_error])
        ratio.append(line.scatter)
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.25
    assert np.std(pulls, axis=0) == pytest.approx([1, 1], abs=0.2)
    assert np.median(ratio) == pytest.approx(scatter, abs=0.03)


@pytest.mark.parametrize("bad", range(8))
@pytest.mark.parametrize("by", [-2.0, 1.0, 30.0])
def test_one_bad_star_spoils_nothing(bad, by):
    """A star that is wrong by 20 standard deviations or 600, whichever it is of eight."""
    stars = observed(8, scatter=0.0, seed=1)
    literature = stars.literature["logg"].copy()
    literature[bad] += by
    teff = np.array([4000.0, 5500.0, 7000.0])
    good, spoilt = (
        fitted(stars, literature={"logg": each}) for each in (stars.literature["logg"], literature)
    )
    naive = np.polyval(np.polyfit(stars.posterior.map[:, 1], stars.posterior.map[:, 0] - literature, 1), teff)
    off = np.abs(spoilt.bias("logg", teff)[0] - good.bias("logg", teff)[0])
    assert off.max() < 0.15 < np.abs(naive - good.bias("logg", teff)[0]).max()


def test_spectra_of_one_star_share_its_weight():
    stars = observed(scatter=0.1)
    rows = np.array([0, 0, 0, 0, *range(1, 12)])
    once, often = fitted(stars), fitted(stars[rows])
    assert often.labels["logg"].a == pytest.approx(once.labels["logg"].a)
    assert often.labels["logg"].a_error == pytest.approx(once.labels["logg"].a_error)
    assert often.n_stars == 12 and len(often.stars) == 12


def test_rejected_samples_have_no_say():
    stars = observed()
    posterior = stars.posterior
    inside = posterior.inside.copy()
    inside[:, ::2] = False
    samples = posterior.samples.copy()
    samples[:, ::2] = np.nan
    half = Posterior(LABELS, posterior.samples[:, 1::2], posterior.log_prob[:, 1::2])
    mixed = Posterior(LABELS, samples, posterior.log_prob, inside)
    assert fitted(stars, posterior=mixed).labels["logg"].a == fitted(stars, posterior=half).labels["logg"].a


def test_the_range_is_that_of_the_stars():
    stars = observed()
    best = stars.posterior.map
    result = fitted(stars).range
    for (low, high), values, step in ((result.teff, best[:, 1], 50), (result.fe_h, best[:, 2], 0.1)):
        assert values.min() - step < low <= values.min() and values.max() < high <= values.max() + step
    limit = float(best[:, 2].min()) - 0.01
    assert fitted(stars, fe_h_min=limit).range.fe_h == (limit, result.fe_h[1])
    without = LabelSet(tuple(LABELS[name] for name in ("logg", "teff")))
    posterior = Posterior(without, stars.posterior.samples[..., :2], stars.posterior.log_prob)
    assert fitted(stars, posterior=posterior).range.fe_h is None


def test_where_no_slope_can_be_fitted():
    stars = observed()
    with pytest.raises(ConfigError, match=r"the stars lie within \d+ K: a slope needs at least 300 K"):
        fitted(stars[np.zeros(5, int)])
    posterior = Posterior(
        LabelSet((LABELS["logg"],)), stars.posterior.samples[..., :1], stars.posterior.log_prob
    )
    with pytest.raises(ModelError, match="does not infer teff"):
        fitted(stars, posterior=posterior)


def test_terms_and_bias_of_a_file_without_errors():
    assert BIAS.terms()["logg"]["1000 a"] == (0.02, pytest.approx(np.nan, nan_ok=True))
    bias, error = BIAS.bias("logg", np.array([5000.0]))
    assert bias == pytest.approx([-0.05]) and np.isnan(error).all()
