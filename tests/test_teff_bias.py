"""The correction teff-bias: what moves, what stays, and how its file fails."""

import numpy as np
import pytest
import specinn_teff_bias
from hypothesis import given, settings
from hypothesis import strategies as st
from specinn_teff_bias.correction import Line, Range, TeffBias

from specinn.errors import ConfigError, ModelError, OutputError
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.posterior import Posterior
from specinn.testing import check_correction

LABELS = LabelSet(
    (
        make_label("logg", (0, 5)),
        make_label("teff", (3500, 8000)),
        make_label("fe_h", (-3, 0.5)),
        make_label("mg_fe", (-1, 1)),
    )
)
BIAS = TeffBias(
    {"logg": Line(2e-5, -0.15), "fe_h": Line(-1e-5, 0.02)}, Range((4500.0, 6500.0), -1.0), 21, "made up"
)

TOML = """
model = "0123456789abcdef"
n_stars = 21
provenance = "made up"

[range]
teff = [4500, 6500]
fe_h_min = -1.0

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
    samples = np.array([[[4.0, t, -1.0, 0.0]] for t in (4500.0, 6500.0, 4499.9, 6500.1)])
    assert BIAS.apply(Posterior(LABELS, samples, np.zeros((4, 1))))[1].tolist() == [True, True, False, False]


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


@settings(max_examples=50)
@given(
    st.dictionaries(names, st.tuples(numbers, numbers), min_size=1),
    st.none() | numbers,
    st.none() | st.from_regex("[0-9a-f]{8,64}", fullmatch=True),
    st.text(),
)
def test_save_and_load_are_exact(tmp_path_factory, lines, fe_h_min, model, provenance):
    path = tmp_path_factory.mktemp("bias") / "bias.toml"
    labels = {name: Line(*ab) for name, ab in lines.items()}
    bias = TeffBias(labels, Range((4000.0, 7000.0), fe_h_min), 3, provenance, model)
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
        ("a = 2e-5", "a = 2e-5\nc = 1", r"extra fields found \(c\) @ \$\.labels\.logg"),
        (
            "[4500, 6500]",
            "[6500, 4500]",
            r"teff = \[6500.0, 4500.0\] is not an increasing pair.* @ \$\.range",
        ),
        ("[4500, 6500]", "[4500]", r"\$\.range\.teff"),
        ("fe_h_min = -1.0", "fe_h_min = true", r"expected a number, found True @ \$\.range\.fe_h_min"),
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


def test_the_plugin_offers_it():
    plugins = Plugins([], {"teff-bias": specinn_teff_bias})
    assert not plugins.failures
    assert plugins.load("correction", "teff-bias") is TeffBias
