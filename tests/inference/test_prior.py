"""Outside knowledge: what tables may say, what a parallax says of log g, and the informed posteriors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table
from commands import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from offset_plugin import Offset

import specinn as package
from specinn import catalogue
from specinn.errors import ConfigError, SpecinnError
from specinn.flags import Flag
from specinn.inference.informed import ENOUGH, FEWEST, effective, inform
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.inference.prior import Parallax, PriorTable, StarPrior, gravity_of, log_mass_of
from specinn.inference.run import prepare
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.posterior import Posterior
from specinn.survey.manifest import Manifest, settings_of

LABELS = fake_plugin.LABELS
TRUTH = np.array([[5772.0, 4.44, 0.0, 2.05], [4500.0, 2.0, -1.2, 2.0], [6500.0, 4.0, -0.5, 2.6]])
OPTIONS = ("-i", "toy", "--samples", 1100, "-q")


@pytest.fixture
def stars(tmp_path: Path) -> list[Path]:
    """Three files of one star each, at a S/N at which teff is known to 130 K."""
    paths = []
    for i in range(3):
        batch = fake_plugin.simulate(TRUTH[i : i + 1], snr=60.0)
        batch.meta["id"] = [f"star-{i}"]
        paths.append(fake_plugin.write_text(tmp_path / f"{i}.txt", batch))
    return paths


def infer(spectra: Any, plugins: Plugins, **options: Any) -> Any:
    return package.infer(spectra, **{"instrument": "toy", "plugins": plugins, "samples": 1100, **options})


# The table --------------------------------------------------------------------------------------------------


def table() -> QTable:
    out = QTable(
        {"id": ["a", "b", "c"], "teff": [5.772, 4.5, np.nan] * u.kK, "teff_err": [60, 80, np.nan] * u.K}
    )
    out["logg"] = MaskedColumn([4.44, 0.0, 3.0], mask=[False, True, False], unit="dex")
    out["E_logg"] = [0.1, 0.1, 0.2]
    out["note"] = ["sun", "", "else"]
    return out


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".vot", ".csv", ".parquet", ""])
def test_any_format_and_its_units(tmp_path: Path, suffix: str) -> None:
    given: Any = table()
    if suffix == ".csv":  # no units
        given["teff"] = given["teff"].to_value(u.K)
        given["teff_err"] = given["teff_err"].value
    if suffix:
        path = tmp_path / f"known{suffix}"
        plain = Table(given)
        if suffix == ".vot":
            plain["logg"].unit = None  # VOTable has no dex
            plain.write(path, format="votable")
        elif suffix == ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            given["teff"] = given["teff"].to_value(u.K)
            given["teff_err"] = given["teff_err"].value
            parquet.write_table(pa.Table.from_pandas(Table(given).to_pandas()), path)
        else:
            plain["logg"].unit = None if suffix == ".fits" else plain["logg"].unit
            plain.write(path)
        given = path
    known = PriorTable.load(given, LABELS)
    assert known.value[:, 0] == pytest.approx([5772.0, 4500.0, np.nan], nan_ok=True)
    assert known.value[:, 1] == pytest.approx([4.44, np.nan, 3.0], nan_ok=True)
    assert known.error[:, :2] == pytest.approx(
        np.array([[60.0, 0.1], [80.0, np.nan], [np.nan, 0.2]]), nan_ok=True
    )
    assert not np.isfinite(known.value[:, 2:]).any()
    star, note = known.star(1)
    assert star is not None and star.names == ("teff",) and not note
    if suffix:
        assert known.name == f"known{suffix}"
        assert known.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_pandas_and_no_file() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["a"], "fe_h": [-1.0], "fe_h_err": [0.1]})
    known = PriorTable.load(frame, LABELS)
    assert known.value[0, 2] == -1.0 and len(known.sha256) == 64
    changed = PriorTable.load(frame.assign(fe_h=-1.1), LABELS)
    assert changed.sha256 != known.sha256 == PriorTable.load(frame.copy(), LABELS).sha256


HEAD = "id,teff,teff_err"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,teff\na,5772\n", "teff has no column of errors: add teff_err"),
        (f"{HEAD}\na,5772,60\nb,5000,\n", "row 2 (b): teff_err is empty: expected a positive"),
        (f"{HEAD}\na,5772,-60\n", "row 1 (a): teff_err is -60: expected a positive standard error"),
        (f"{HEAD}\na,5772,0\n", "teff_err is 0"),
        (f"{HEAD}\na,3.76,0.01\n", "row 1 (a): teff is 3.76: expected K, between 500 and 100000"),
        (f"{HEAD}\na,inf,60\n", "row 1 (a): teff is infinite"),
        (f"{HEAD}\na,hot,60\n", "the column teff is not one of numbers"),
        ("id,logg,logg_err\na,-9999,0.1\n", "logg is -9999: expected dex, between -50 and 50"),
        (f"{HEAD}\na,5772,60\nb,5000,60\na,5771,60\n", "a is in the rows 1 and 3: give a star once"),
        ("id,tef,tef_err\na,5772,60\n", "tef is not a label; did you mean 'teff'?"),
        ("id,mg_fe,mg_fe_err\na,0.1,0.1\n", "this model does not infer mg_fe"),
        ("id,mass\na,1\n", "says nothing of a label: expected columns such as teff and teff_err"),
        ("star,teff,teff_err\na,5772,60\n", "expected a column id or path, or ra and dec"),
        ("id,parallax,parallax_error\na,10,0.1\n", "parallax needs the column phot_g_mean_mag"),
        ("id,parallax,phot_g_mean_mag\na,10,8\n", "parallax has no column of errors"),
        ("ra,dec,teff,teff_err\n10,95,5772,60\n", "dec is 95: expected degrees between -90 and 90"),
        ("id,teff,teff_err\n", "has no rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"prior .*t\.csv") as error:
        PriorTable.load(tmp_path / "t.csv", LABELS)
    assert words in str(error.value)


def test_wrong_units_and_no_table(tmp_path: Path) -> None:
    wrong = QTable({"id": ["a"], "teff": [1.0] * u.m, "teff_err": [1.0] * u.m})
    with pytest.raises(ConfigError, match="the column teff has the unit m; expected K"):
        PriorTable.load(wrong, LABELS)
    wrong = QTable({"id": ["a"], "logg": [4.4] * u.m, "logg_err": [0.1] * u.m})
    with pytest.raises(ConfigError, match="the column logg has the unit m; expected dex"):
        PriorTable.load(wrong, LABELS)
    with pytest.raises(ConfigError, match=r"gone\.csv: no such file"):
        PriorTable.load(tmp_path / "gone.csv", LABELS)
    (tmp_path / "t.ecsv").write_text("no table\n")
    with pytest.raises(ConfigError, match=r"t\.ecsv could not be read as a table"):
        PriorTable.load(tmp_path / "t.ecsv", LABELS)


def test_which_row_is_of_a_spectrum(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "id,path,ra,dec,teff,teff_err\n"
        "HD 1,,,,5000,50\n,night/b.fits,,,5100,50\n,c.fits,10,20,5200,50\n,,359.9999,-5,5300,50\n"
        ",,50,60,5400,50\n,,50.0002,60,5500,50\n"
    )
    known = PriorTable.load(path, LABELS, radius=1.0)
    nan = np.nan
    names = ["HD 1", "x", "x", "x", "x", "x", "x", "x"]
    paths = ["", str(tmp_path / "night" / "b.fits"), "data/c.fits", "", "", "", "", ""]
    ra = np.array([10.0, nan, nan, 0.0, 359.9999, 50.0001, 10.0, nan])
    dec = np.array([20.0, nan, nan, -5.0, -5.0002, 60.0, 20.0003, 60.0])
    assert known.match(names, paths, ra, dec).tolist() == [0, 1, 2, 3, 3, -2, -1, -1]
    assert attrs.evolve(known, radius=2.0).match(names, paths, ra, dec).tolist()[6] == 2
    assert not PriorTable.load(table(), LABELS).has_positions and known.has_positions


# Gravities of parallaxes ------------------------------------------------------------------------------------

# Gaia DR3: parallax and its error, G; log g of the Gaia FGK benchmark stars v3 (Soubiran et al. 2024)
MEASURED = {
    "HD 22879": ((38.325, 0.031, 6.53), (5868.0, 4.27, -0.88)),
    "HD 122563": ((3.099, 0.033, 5.87), (4642.0, 1.32, -2.67)),
    "HD 140283": ((16.267, 0.026, 7.04), (5788.0, 3.75, -2.48)),
}


@pytest.mark.parametrize("name", MEASURED)
def test_gravity_of_real_stars(name: str) -> None:
    (parallax, error, g_mag), (teff, logg, fe_h) = MEASURED[name]
    gaia = Table(
        {"id": [name], "parallax": [parallax], "parallax_error": [error], "phot_g_mean_mag": [g_mag]}
    )
    star, note = PriorTable.load(gaia, LABELS).star(0)
    assert star is not None and star.parallax is not None and not note
    values = np.array([[teff, logg, fe_h, 2.0]])
    assert 0.09 < star.errors[0] < 0.14
    assert abs(star.residuals(values)[0, 0]) < 1.2 * star.errors[0]


def test_gravity_of_the_sun_and_what_it_depends_on() -> None:
    # M_G of the Sun is 4.74 - 0.06 with BC_G of Andrae et al. (2018)
    sun = Parallax(100.0, 0.1, 4.68, 0.0, 0.0, np.nan, 0.1)
    labels = np.array([5772.0]), np.array([4.438]), np.array([0.0])
    assert gravity_of(sun, *labels) == pytest.approx(4.438, abs=1e-3)
    for change, by in (
        ({"a_g": 0.5}, -0.2), ({"g_mag": 5.68}, 0.4), ({"parallax": 10.0}, -2.0), ({"log_mass": 0.3}, 0.3),
    ):  # fmt: skip
        assert gravity_of(attrs.evolve(sun, **change), *labels) == pytest.approx(4.438 + by, abs=1e-3)
    # twice as hot at the same magnitude: 4 log 2 and the difference of the bolometric corrections
    warm = gravity_of(attrs.evolve(sun, log_mass=0.0), np.array([7000.0]), labels[1], labels[2])
    off = 1228.0
    bc = 0.06 + 6.731e-5 * off - 6.647e-8 * off**2 + 2.859e-11 * off**3 - 7.197e-15 * off**4
    assert warm == pytest.approx(4.438 + 4 * np.log10(7000 / 5772) + 0.4 * (bc - 0.06), abs=1e-6)
    assert sun.logg_error == pytest.approx(np.sqrt(0.1**2 + 0.02**2 + (0.8686e-3) ** 2), rel=1e-3)


@given(st.floats(3700, 7200), st.floats(0, 5), st.floats(-3, 0.5))
def test_masses_are_those_of_stars(teff: float, logg: float, fe_h: float) -> None:
    mass = 10 ** log_mass_of(*(np.array([value]) for value in (teff, logg, fe_h)))
    assert 0.4 < mass[0] < 1.45


def test_parallaxes_that_are_not_used() -> None:
    known = PriorTable.load(
        Table(
            {
                "id": ["far", "dark", "logg", "mass", "dusty", "red"],
                "parallax": [0.3, 10.0, 10.0, 2.0, 1.0, 1.0],
                "parallax_error": [0.1, 0.1, 0.1, 0.02, 0.02, 0.02],
                "g_mag": [12.0, np.nan, 8.0, 9.0, 10.0, 10.0],
                "a_g": [np.nan, np.nan, np.nan, 0.3, np.nan, 0.7],
                "mass": [np.nan, np.nan, np.nan, 2.0, np.nan, np.nan],
                "mass_err": [np.nan, np.nan, np.nan, 0.2, np.nan, np.nan],
                "logg": [np.nan, np.nan, 4.0, np.nan, np.nan, np.nan],
                "logg_err": [np.nan, np.nan, 0.1, np.nan, np.nan, np.nan],
            }
        ),
        LABELS,
    )
    assert known.star(0) == (None, "the parallax 0.3 +- 0.1 mas is not used: it is less than 5 errors")
    assert known.star(1) == (None, "the parallax is not used, because g_mag is empty")
    star, note = known.star(2)
    assert star is not None and star.names == ("logg",) and not note
    heavy, dusty, red = (known.star(row)[0] for row in (3, 4, 5))
    assert heavy is not None and heavy.parallax is not None and heavy.parallax.log_mass == np.log10(2.0)
    assert heavy.parallax.log_mass_error == pytest.approx(0.1 / np.log(10.0))
    assert dusty is not None and dusty.parallax is not None and dusty.parallax.a_g_error == 0.5
    assert red is not None and red.parallax is not None
    assert (red.parallax.a_g, red.parallax.a_g_error) == (0.7, 0.1)


# Weights ----------------------------------------------------------------------------------------------------

FLAT = LabelSet(make_label(name, (-50.0, 50.0)) for name in ("logg", "fe_h", "mg_fe"))
COVARIANCE = np.array([[0.04, 0.012, 0.0], [0.012, 0.01, 0.002], [0.0, 0.002, 0.02]])
MEAN = np.array([4.0, -1.0, 0.3])


def gaussian(values: np.ndarray) -> Posterior:
    off = values - MEAN
    log_prob = -0.5 * (off * np.linalg.solve(COVARIANCE, off.T).T).sum(axis=1)
    log_prob -= 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]
    return Posterior(FLAT, values[None], log_prob[None])


@settings(max_examples=25)
@given(st.floats(-8, 8), st.floats(0.05, 5.0), st.integers(0, 5))
def test_the_informed_posterior_of_a_gaussian(sigma: float, relative: float, seed: int) -> None:
    """Against the product of two Gaussians, wherever they meet."""
    index, error = np.array([0]), np.array([0.2 * relative])
    value = MEAN[:1] + sigma * np.hypot(0.2, error)
    draws = np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, 4096)
    star = StarPrior(FLAT, index, value, error)
    result = inform(star, draws, gaussian(draws), gaussian, 4096, (seed, 3))
    gain = COVARIANCE[:, 0] / (COVARIANCE[0, 0] + error[0] ** 2)
    mean, covariance = MEAN + gain * (value - MEAN[0]), COVARIANCE - np.outer(gain, COVARIANCE[0])
    assert result.samples is not None and result.n_effective >= ENOUGH
    summary, width = result.samples.summary(), np.sqrt(np.diag(covariance))
    wrong = 5.0 / np.sqrt(result.n_effective)
    assert np.abs(result.samples.samples[0].mean(axis=0) - mean).max() < (wrong * width).max()
    assert summary.std[0] == pytest.approx(width, rel=wrong)
    assert np.abs((result.centre - mean) / width).max() < wrong
    assert (result.chance < 1e-3) == (abs(sigma) > 3.2905) or abs(abs(sigma) - 3.2905) < 0.3


def test_two_terms_and_a_bound() -> None:
    """A prior that is mostly beyond the bounds leaves few samples, and says so."""
    draws = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 4096)
    star = StarPrior(FLAT, np.array([0, 2]), np.array([4.2, 0.2]), np.array([0.1, 0.05]))
    result = inform(star, draws, gaussian(draws), gaussian, 4096, (0, 0))
    precision = np.linalg.inv(COVARIANCE) + np.diag([100.0, 0.0, 400.0])
    mean = np.linalg.solve(precision, np.linalg.solve(COVARIANCE, MEAN) + np.array([420.0, 0.0, 80.0]))
    assert result.samples is not None
    assert result.samples.samples[0].mean(axis=0) == pytest.approx(mean, abs=0.01)
    never = LabelSet(make_label(label.name, (-50.0, 4.1)) for label in FLAT)

    def below(values: np.ndarray) -> Posterior:
        return attrs.evolve(gaussian(values), labels=never, inside=never.inside(values)[None])

    far = StarPrior(never, np.array([0]), np.array([6.0]), np.array([0.01]))
    result = inform(far, draws, below(draws), below, 4096, (0, 0))
    assert result.samples is None and result.n_effective < FEWEST
    assert "logg is 3.9" in result.sentence and "6.00 +- 0.01 dex by the prior" in result.sentence


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=50))
def test_the_effective_number_is_between_one_and_all(log_weight: list[float]) -> None:
    assert 1.0 - 1e-9 <= effective(np.array(log_weight)) <= len(log_weight) + 1e-9
    assert effective(np.full(3, -np.inf)) == 0.0


# Runs -------------------------------------------------------------------------------------------------------


def exact(pipeline: Pipeline, batch: Any, value: float, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and width of t of the toy's posterior times a Gaussian in teff, by quadrature."""
    toy: Any = pipeline.estimator
    mean, covariance = toy._gaussian(pipeline.preprocess(batch), 0)
    low, high = LABELS.to_network(LABELS.bounds.T)
    width = np.sqrt(covariance[0, 0])
    t = np.linspace(mean[0] - 15 * width, mean[0] + 15 * width, 40_001)
    teff = 10.0 ** ((t + 0.5) * (high[0] - low[0]) + low[0])
    log_weight = -0.5 * ((t - mean[0]) / width) ** 2 - 0.5 * ((teff - value) / error) ** 2
    weight = np.exp(log_weight - log_weight.max())
    centre = (weight * t).sum() / weight.sum()
    return mean + covariance[:, 0] / covariance[0, 0] * (centre - mean[0]), np.sqrt(np.diag(covariance))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 2.0, 7.0])
def test_informed_values_of_the_pipeline(plugins: Plugins, sigma: float) -> None:
    batch = fake_plugin.simulate(TRUTH[:1], snr=60.0)
    toy = fake_plugin.Toy.train({}, Path(), lambda state: None)
    plain = Pipeline(toy, plugins)(batch)
    value, error = plain.summary.map[0, 0] + sigma * 130.0, 90.0
    known = PriorTable.load(Table({"id": ["star-0"], "teff": [value], "teff_err": [error]}), LABELS)
    batch.meta["prior_row"] = [0]
    pipeline = Pipeline(toy, plugins, prior=known)
    result = pipeline(batch)
    assert result.informed is not None and result.meta["n_effective"][0] > ENOUGH
    assert result.meta["prior"][0] == "teff"
    mean, width = exact(pipeline, batch, value, error)
    off = fake_plugin.to_unit(result.informed.quantiles[0, :, :4])[0] - mean
    assert np.abs(off / width).max() < 0.2
    off = fake_plugin.to_unit(result.informed.map[:, :4])[0] - mean
    assert np.abs(off / width).max() < 0.2
    disagrees = bool(result.meta["flags"][0] & Flag.PRIOR_DISAGREES)
    assert disagrees == (sigma == 7.0) == ("K by the prior" in result.meta["message"][0])
    # what the spectrum says by itself is not touched
    for name in ("map", "std", "quantiles"):
        assert np.array_equal(getattr(result.summary, name), getattr(plain.summary, name))


@pytest.mark.slow
def test_knowledge_is_of_corrected_values(plugins: Plugins) -> None:
    batch = fake_plugin.simulate(TRUTH[:1], snr=60.0)
    toy = fake_plugin.Toy.train({}, Path(), lambda state: None)
    known = PriorTable.load(Table({"id": ["star-0"], "logg": [4.0], "logg_err": [0.01]}), LABELS)
    batch.meta["prior_row"] = [0]
    result = Pipeline(toy, plugins, corrections=[Offset(0.3)], prior=known)(batch)
    assert result.informed is not None and result.raw is not None
    assert result.informed.quantiles[0, 0, 1] == pytest.approx(4.0, abs=0.01)
    assert result.raw.map[0, 1] - result.summary.map[0, 1] == pytest.approx(0.3, abs=1e-5)


@pytest.mark.slow
def test_rows_without_an_entry_are_the_same_bit_for_bit(
    specinn: Command, plugins: Plugins, stars: list[Path]
) -> None:
    Path("known.csv").write_text("id,teff,teff_err\nstar-1,4550,30\nelsewhere,5000,50\n")
    assert specinn("run", *stars, *OPTIONS, "-o", "plain.ecsv").exit_code == 0
    result = specinn("run", *stars, *OPTIONS, "--prior", "known.csv", "-o", "known.ecsv")
    assert result.exit_code == 0 and result.stderr == "", result.output
    plain, known = catalogue.read("plain.ecsv"), catalogue.read("known.ecsv")
    assert known.meta["prior"] == "known.csv" and "priorrad" not in known.meta
    assert known.meta["priorsha"] == hashlib.sha256(Path("known.csv").read_bytes()).hexdigest()
    for name in plain.colnames:
        if name not in ("flags", "flag_warn", "message"):
            assert np.ma.allequal(np.ma.asarray(plain[name]), np.ma.asarray(known[name])), name
    assert list(known["prior"]) == ["", "teff", ""]
    for name in ("n_effective", "teff_informed", "teff_informed_p16", "li_fe_informed_std"):
        assert np.ma.getmaskarray(np.ma.asarray(known[name])).tolist() == [True, False, True], name
    assert np.array_equal(np.asarray(plain["flags"])[[0, 2]], np.asarray(known["flags"])[[0, 2]])
    assert abs(known["teff_informed"][1] - 4550) < 60 and known["teff_informed_std"][1] < 32
    assert known["teff_informed"].unit == "K"
    shown = specinn("run", *stars, *OPTIONS[:-1], "--prior", "known.csv", "-o", "shown.ecsv").stdout
    assert "  informed" in shown
    told = specinn("run", stars[0], *OPTIONS, "--prior", "known.csv", "-o", "none.ecsv")
    assert told.exit_code == 0 and "none of the 2 rows of known.csv matches a spectrum" in told.stderr


@pytest.mark.slow
def test_shards_and_the_manifest(
    specinn: Command, plugins: Plugins, stars: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("known.csv").write_text("path,logg,logg_err\n0.txt,4.4,0.05\n2.txt,3.2,0.05\n")
    command = ("run", *stars, *OPTIONS, "--prior", "known.csv")
    assert specinn(*command, "-o", "one.fits").exit_code == 0
    monkeypatch.setattr("specinn.survey.manifest.SMALLEST", 1)
    assert specinn(*command, "-o", "many.fits").exit_code == 0
    assert Path("one.fits").read_bytes() == Path("many.fits").read_bytes()
    options = RunOptions(instrument="toy", prior="known.csv")
    assert RunOptions(**json.loads(json.dumps(options.plain()))).plain() == options.plain()

    def manifest() -> Manifest:
        return Manifest.make([], settings_of(prepare(plugins, options), options))

    first = manifest()
    first.check_same(manifest(), Path("again"))
    Path("known.csv").write_text(Path("known.csv").read_text().replace("4.4", "4.3"))
    with pytest.raises(ConfigError, match="again is a run with another prior") as error:
        first.check_same(manifest(), Path("again"))
    assert "start anew with --overwrite" in str(error.value)


@pytest.mark.slow
def test_in_python(plugins: Plugins, stars: list[Path]) -> None:
    known = Table({"path": [p.name for p in stars[:2]], "teff": [5800.0, 5400.0], "teff_err": [40.0, 40.0]})
    result = infer(stars, plugins, prior=known)
    assert result.informed.samples.shape == result.posterior.samples.shape
    assert result.informed.inside.all(axis=1).tolist() == [True, True, False]
    assert result.informed.ids == result.posterior.ids
    median = float(np.median(result.informed.accepted("star-0", "teff")))
    assert median == pytest.approx(result.catalogue["teff_informed_median"][0].value, abs=5.0)
    flags = np.asarray(result.catalogue["flags"]) & Flag.PRIOR_DISAGREES
    assert (flags != 0).tolist() == [False, True, False]
    assert infer(stars[0], plugins).informed is None
    with pytest.warns(UserWarning, match="prior: none of the 2 rows of table matches a spectrum"):
        infer(stars[2], plugins, prior=known)
    for options, words in (
        ({"prior": 5}, "prior 5: expected a table"), ({"prior": "gone.csv"}, "gone.csv: no such file"),
        ({"prior": known, "prior_radius": -1}, "prior_radius -1.0: expected arcsec"),
    ):  # fmt: skip
        with pytest.raises(SpecinnError, match=words):
            infer(stars[0], plugins, **options)


@pytest.mark.slow
def test_few_samples_and_a_position_that_two_share(plugins: Plugins) -> None:
    batch = fake_plugin.simulate(TRUTH[:2], snr=60.0)
    batch.meta["ra"], batch.meta["dec"] = [10.0, 50.0], [20.0, 60.0]
    known = Table(
        {"ra": [10.0, 50.0, 50.0001], "dec": [20.0, 60.0, 60.0], "fe_h": [0.1] * 3, "fe_h_err": [0.05] * 3}
    )
    result = infer(batch, plugins, prior=known, samples=50)
    assert list(result.catalogue["prior"]) == ["fe_h", ""]
    assert result.catalogue["n_effective"][0] > 100 and result.informed.samples.shape[1] == 50
    assert (np.asarray(result.catalogue["flags"]) & Flag.PRIOR_UNUSED != 0).tolist() == [False, True]
    assert "2 rows of table are within 1 arcsec, so that none" in result.catalogue["message"][1]
    assert result.catalogue.meta["priorrad"] == 1.0


def test_a_spectrum_without_values_stays_so(plugins: Plugins) -> None:
    batch = fake_plugin.simulate(TRUTH[:2], snr=60.0)
    batch.mask[0] = True
    known = Table({"id": ["star-0", "star-1"], "fe_h": [0.1, -1.2], "fe_h_err": [0.05, 0.1]})
    row = infer(batch, plugins, prior=known, samples=50).catalogue
    assert row["flag_bad"].tolist() == [True, False] and list(row["prior"]) == ["", "fe_h"]
    assert np.isnan(np.ma.filled(np.ma.asarray(row["fe_h_informed"].value, float), np.nan)[0])
