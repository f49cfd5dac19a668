"""specinn evaluate robustness: variants of a spectrum, what is reported of them, and the command."""

from __future__ import annotations

import csv
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling.physical_models import BlackBody
from astropy.table import Table
from commands import Command, sentence

from specinn import models
from specinn.errors import ConfigError, PluginError
from specinn.evaluation.robustness import SCOPES, comparisons, robustness, robustness_summary
from specinn.evaluation.stars import Benchmark, read_benchmarks
from specinn.evaluation.variants import BASE, LEVELS, SHAPES, VELOCITIES, VariedStar, fit_continuum, response
from specinn.inference import run
from specinn.inference.pipeline import Pipeline
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import Record, hookimpl
from specinn.plugins.interfaces import Preprocessor
from specinn.spectra import SpectrumBatch
from specinn.spectra.resample import pixel_widths
from specinn.wavelengths import doppler

pytestmark = pytest.mark.slow

HEAD = "file,star,instrument,resolving_power,teff,logg,fe_h,in_range,role\n"
SUN = np.array([[5772.0, 4.44, 0.0, 1.05]])
TELLURIC = (5150.0, 5152.0)


class Hide(Preprocessor):
    """Masks a window of the observer's frame, and trips over a spectrum of flux 2."""

    def __init__(self, instrument: Any, templates: Any) -> None: ...

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        if (batch.flux == 2.0).all():
            raise ZeroDivisionError("nothing to divide by")
        mask = batch.mask | ((batch.wavelength > TELLURIC[0]) & (batch.wavelength < TELLURIC[1]))
        return attrs.evolve(batch, mask=mask)


class RestFrame(fake_plugin.RestFrame):
    """The toy's, which remembers what it has computed: all variants of a star have a few wavelength grids."""

    @staticmethod
    @cache
    def _shifted(wavelength: bytes, template: bytes, flux: bytes) -> np.ndarray:
        to, at, values = (np.frombuffer(x) for x in (wavelength, template, flux))
        return np.array([np.interp(to, doppler(at, v), values) for v in np.arange(-100.0, 101.0)])

    def _measure(self, batch: SpectrumBatch, i: int) -> float:
        template = self.templates.wavelength, np.ascontiguousarray(self.templates.flux[0])
        shifted = self._shifted(batch.wavelength.tobytes(), *(x.tobytes() for x in template))
        misfit = np.where(batch.mask[i], 0.0, (shifted - batch.flux[i]) ** 2).sum(axis=1)
        return float(misfit.argmin() - 100)


class Toy:
    """The fake plugin with these steps."""

    specinn_instruments = staticmethod(fake_plugin.specinn_instruments)
    specinn_estimators = staticmethod(fake_plugin.specinn_estimators)

    @hookimpl
    def specinn_preprocessors(self) -> list[Record]:
        factories = {"hide": f"{__name__}:Hide", "rest-frame": f"{__name__}:RestFrame",
                     "to-arms": "fake_plugin:ToArms"}  # fmt: skip
        return [Record(name=name, summary="", factory=factory) for name, factory in factories.items()]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    toy = fake_plugin.Toy.train({}, path.parent, lambda state: None)
    toy.header["training"]["reference_stars"] = [{"name": "SUN"}]
    toy.header["preprocessing"].insert(0, ["hide", {}])
    toy.save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"toy": Toy()})


@pytest.fixture(scope="module")
def toy(plugins: Plugins) -> fake_plugin.Toy:
    return models.load(plugins, models.find(plugins, "toy-model"))  # type: ignore[return-value]


def varied(toy: fake_plugin.Toy, plugins: Plugins, snr: float = 1e5, **changes: Any) -> VariedStar:
    batch = attrs.evolve(fake_plugin.simulate(SUN, snr=snr), **changes)
    batch.meta["key"] = [7]
    return VariedStar.of(batch, Pipeline(toy, plugins), {"green": snr, "red": snr}, 5772.0, (0, 0))


# The variants


def test_the_response_is_a_black_body_times_a_blaze_of_each_arm(toy: fake_plugin.Toy) -> None:
    wave = fake_plugin.WAVELENGTH
    cool, hot = (response(wave, toy.instrument, teff) for teff in (4000.0, 7000.0))
    bodies = [
        BlackBody(teff * u.K, scale=1.0 * u.Unit("erg/(cm2 s AA sr)"))(wave * u.AA).value
        for teff in (4000, 7000)
    ]
    at = int(np.argmin(np.abs(wave - 5200)))
    expected = bodies[0] / bodies[1]
    assert cool / hot / (cool / hot)[at] == pytest.approx(expected / expected[at], rel=1e-4)
    for arm in toy.instrument.arms:
        in_arm = arm.contains(wave)
        assert 1.2 < hot[in_arm].max() / hot[in_arm].min() < 5  # light that differs along an arm
        assert np.abs(np.diff(hot[in_arm])).max() < 0.005 * hot[in_arm].max()  # and does so smoothly
    assert hot[wave < 5500].mean() > 1.5 * hot[wave > 5500].mean()


@pytest.mark.parametrize("unit", [1.0, 1e-17])
def test_the_continuum_is_found_under_lines_and_noise(toy: fake_plugin.Toy, unit: float) -> None:
    batch = fake_plugin.simulate(SUN, snr=1000.0)
    x = (batch.wavelength - 5650.0) / 500.0
    shape = unit * (2.0 + 0.8 * x + 0.5 * x**2)
    batch.flux[0, 100:110] = 0.0
    batch.mask[0, 300:310] = True
    batch.flux[0, 300:310] = np.nan
    result = fit_continuum(attrs.evolve(batch, flux=batch.flux * shape), toy.instrument)
    assert result / shape == pytest.approx(1.0, abs=0.02)


def test_an_arm_without_pixels_has_the_continuum_1(toy: fake_plugin.Toy) -> None:
    batch = fake_plugin.simulate(SUN)
    batch.mask[0, 1000:] = True
    result = fit_continuum(batch, toy.instrument)
    assert (result[1000:] == 1.0).all() and result[:1000] == pytest.approx(1.0, abs=0.02)
    batch.mask[0, 15:1000] = True  # too few for a polynomial
    assert fit_continuum(batch, toy.instrument)[:1000] == pytest.approx(1.0, abs=0.05)


def test_a_shift_moves_wavelengths_and_no_pixel(toy: fake_plugin.Toy, plugins: Plugins) -> None:
    star = varied(toy, plugins)
    rest, moved = star.variants(0.0, 100.0), star.variants(-200.0, 100.0)
    assert np.array_equal(rest.wavelength, fake_plugin.WAVELENGTH)
    assert np.array_equal(moved.wavelength, doppler(fake_plugin.WAVELENGTH, -200.0))
    for name in ("flux", "sigma", "mask"):
        assert np.array_equal(getattr(rest, name), getattr(moved, name))
    assert np.isnan(moved.meta["rv"]).all() and moved.meta["key"].tolist() == [7, 7, 7]


def test_what_was_hidden_at_delivery_stays_hidden(toy: fake_plugin.Toy, plugins: Plugins) -> None:
    star = varied(toy, plugins)
    wave, (low, high) = fake_plugin.WAVELENGTH, TELLURIC
    hidden = (wave > low) & (wave < high)
    for velocity in VELOCITIES:
        assert (star.variants(velocity, 100.0).mask == hidden).all()


def test_all_variants_have_the_noise_that_was_asked_for_and_the_same(
    toy: fake_plugin.Toy, plugins: Plugins
) -> None:
    star, quiet = varied(toy, plugins), fake_plugin.noiseless(SUN)[0]
    relative = {}
    for snr in (20.0, 100.0):
        batch = star.variants(0.0, snr)
        scale = np.stack([star.continuum, np.ones_like(star.continuum), star.continuum * star.response])
        good = ~batch.mask[0]
        noise = (batch.flux / scale - quiet / star.continuum)[:, good]
        assert noise == pytest.approx(noise[:1].repeat(3, axis=0), abs=1e-12)
        assert noise.std() == pytest.approx(1.0 / (snr * np.sqrt(0.08)), rel=0.05)
        assert (batch.sigma / scale)[:, good] * np.sqrt(0.08) * snr == pytest.approx(1.0, rel=0.03)
        relative[snr] = noise[0] * snr
    assert relative[20.0] == pytest.approx(relative[100.0], abs=0.02)
    other = varied(toy, plugins)
    assert np.array_equal(other.normal, star.normal)


def test_a_noisy_spectrum_gets_less_noise_or_none(toy: fake_plugin.Toy, plugins: Plugins) -> None:
    star = varied(toy, plugins, snr=50.0)
    noisy = fake_plugin.simulate(SUN, snr=50.0)
    good = ~star.batch.mask[0]
    assert np.array_equal(star.variants(0.0, 100.0).flux[0, good], noisy.flux[0, good])
    sigma = star.variants(0.0, 20.0).sigma[0, good] * np.sqrt(pixel_widths(noisy.wavelength))[good]
    assert 1.0 / sigma == pytest.approx(20.0, rel=0.03)


def test_noise_that_is_not_known_stays_so(toy: fake_plugin.Toy, plugins: Plugins) -> None:
    star = varied(toy, plugins, sigma=np.full((1, fake_plugin.WAVELENGTH.size), np.nan))
    assert np.isnan(star.variants(0.0, 20.0).sigma).all()


# What is reported


def write_stars(folder: Path) -> Path:
    folder.mkdir()
    for name, labels in (("sun.txt", SUN), ("cool.txt", np.array([[4500.0, 2.0, -1.2, 2.0]]))):
        fake_plugin.write_text(folder / name, fake_plugin.simulate(labels, snr=1000.0))
    path = folder / "stars.csv"
    path.write_text(
        HEAD
        + "sun.txt,Sun,toy,,5772,4.44,0.00,1,validation\n"
        + "cool.txt,Cool,toy,5000,4500,2.0,,1,validation\n"
        + "cool.txt,Far,toy,5000,4500,2.0,-1.2,0,validation\n"
    )
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stars(tmp_path_factory.mktemp("stars") / "stars")


@pytest.fixture(scope="module")
def rows(toy: fake_plugin.Toy, plugins: Plugins, table: Path) -> list[dict[str, Any]]:
    """The toy model has no step for the continuum, and measures velocities between -100 and 100 km/s."""
    stars = read_benchmarks(table, toy.labels)
    lost = Benchmark("Lost", table.parent / "lost.txt", "toy", None, {"teff": 5000.0})
    flat = attrs.evolve(lost, star="Flat", file=table.parent / "flat.txt")
    batch = fake_plugin.simulate(SUN)
    fake_plugin.write_text(flat.file, attrs.evolve(batch, flux=np.full_like(batch.flux, 2.0)))
    return robustness(toy, [*stars, lost, flat], n_samples=300, plugins=plugins)


def of(rows: list[dict[str, Any]], star: str, shape: str = "delivered", velocity: float = 0.0,
       snr: float = 100.0) -> dict[str, Any]:  # fmt: skip
    (row,) = [
        row for row in rows
        if (row["star"], row["shape"], row["velocity"], row["snr"]) == (star, shape, velocity, snr)
    ]  # fmt: skip
    return row


def test_every_combination_has_a_row(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 5 * len(SHAPES) * len(VELOCITIES) * len(LEVELS) == 300
    assert json.dumps(rows, allow_nan=False)
    assert of(rows, "Sun")["role"] == "reference"  # so says the model, whatever the table says
    assert "fe_h_literature" in of(rows, "Sun") and "fe_h_literature" not in of(rows, "Cool")


def test_velocities_are_compared_with_what_is_expected(rows: list[dict[str, Any]]) -> None:
    for velocity in (-100.0, 0.0, 100.0):
        assert of(rows, "Cool", velocity=velocity)["rv_difference"] == pytest.approx(0.0, abs=1.01)
    assert of(rows, "Cool", velocity=200.0)["rv_difference"] < -50  # beyond what the toy measures: it is said


def test_changes_are_those_of_the_base_in_the_wider_half_width(rows: list[dict[str, Any]]) -> None:
    base = of(rows, "Cool")
    assert all(base[f"{name}_change"] == 0.0 for name in fake_plugin.LABELS.names)
    low, high = of(rows, "Cool", snr=20.0), of(rows, "Cool", snr=250.0)
    assert low["teff_half_width"] > 3 * base["teff_half_width"] > 3 * high["teff_half_width"]
    expected = (low["teff"] - base["teff"]) / low["teff_half_width"]
    assert low["teff_change"] == pytest.approx(expected) and abs(expected) < 4
    expected = (high["logg"] - base["logg"]) / base["logg_half_width"]
    assert high["logg_change"] == pytest.approx(expected)
    assert low["teff_difference"] == pytest.approx(low["teff"] - 4500)


def test_a_model_without_a_continuum_is_found_out(rows: list[dict[str, Any]]) -> None:
    """Normalised spectra may be normalised once more; others are nothing for this model."""
    assert abs(of(rows, "Cool", "normalised")["teff_change"]) < 1
    lost = of(rows, "Cool", "un-normalised")
    assert lost["flag_bad"] and lost["teff"] is None and lost["teff_change"] is None


def test_a_bad_spectrum_costs_its_own_rows(rows: list[dict[str, Any]]) -> None:
    for star, words in (("Lost", "lost.txt: no such file"), ("Flat", "nothing to divide by")):
        of_star = [row for row in rows if row["star"] == star]
        assert len(of_star) == 60
        for row in of_star:
            assert row["flag_bad"] and words in row["message"] and row["flags"] & 1
            assert row["rv"] is None and row["teff"] is None and row["teff_change"] is None
            assert row["rv_difference"] is None and row["teff_difference"] is None


def test_the_summary(rows: list[dict[str, Any]]) -> None:
    summary = robustness_summary(rows)
    assert len(summary) == len(SCOPES) * len(comparisons()) * (1 + 5)  # rv, four labels and [Li/Fe]
    assert json.dumps(summary, allow_nan=False)

    def find(scope: str, label: str, variant: str, snr: float, against: str = "delivered") -> dict[str, Any]:
        (row,) = [
            row for row in summary
            if (row["scope"], row["label"], row["variant"], row["snr"]) == (scope, label, variant, snr)
            and row["against"].startswith(against)
        ]  # fmt: skip
        return row

    result = find("validation", "teff", "normalised", 50.0)
    one, other = of(rows, "Cool", "normalised", snr=50.0), of(rows, "Cool", snr=50.0)
    width = max(one["teff_half_width"], other["teff_half_width"])
    assert result["median"] == result["maximum"] == pytest.approx(abs(one["teff"] - other["teff"]) / width)
    assert result["literature_median"] == pytest.approx(abs(one["teff_difference"]))
    assert result["n"] == 1 and result["worst"] == "Cool" and result["failed"] == ["Lost", "Flat"]
    assert find("validation", "teff", "un-normalised", 50.0)["failed"] == ["Cool", "Lost", "Flat"]

    both = find("in range", "rv", "+100 km/s", 100.0, "0 km/s")
    off = [abs(of(rows, star, velocity=100.0)["rv_difference"]) for star in ("Sun", "Cool")]
    assert both["n"] == 2 and both["median"] == pytest.approx(np.mean(off)) and both["maximum"] == max(off)
    assert both["literature_median"] is None

    every = find("validation", "rv", "any shape and velocity", 20.0)
    of_star = [row for row in rows if row["star"] == "Cool" and row["snr"] == 20.0]
    assert every["maximum"] == max(abs(row["rv_difference"]) for row in of_star) > 100


def test_without_a_star_that_counts(rows: list[dict[str, Any]]) -> None:
    summary = robustness_summary([row for row in rows if row["star"] == "Far"])
    assert {(row["n"], row["median"], row["maximum"], row["worst"]) for row in summary} == {
        (0, None, None, "")
    }


def test_one_spectrum_a_star_and_known_instruments(
    toy: fake_plugin.Toy, plugins: Plugins, tmp_path: Path
) -> None:
    path = fake_plugin.write_text(tmp_path / "two.txt", fake_plugin.simulate(np.repeat(SUN, 2, axis=0)))
    with pytest.raises(
        ConfigError, match=r"two.txt holds 2 spectra: expected one spectrum per benchmark star"
    ):
        robustness(toy, [Benchmark("Two", path, "toy", None, {})], n_samples=5, plugins=plugins)
    with pytest.raises(PluginError, match="did you mean 'toy'"):
        robustness(toy, [Benchmark("Two", path, "tox", None, {})], plugins=plugins)


def test_progress_and_seeds(toy: fake_plugin.Toy, plugins: Plugins, table: Path) -> None:
    stars = read_benchmarks(table, toy.labels)[1:2]
    seen: list[tuple[int, int]] = []
    first = robustness(toy, stars, n_samples=20, plugins=plugins, progress=lambda *now: seen.append(now))
    assert seen == [(i, 20) for i in range(1, 21)]
    assert robustness(toy, stars, n_samples=20, plugins=plugins) == first
    other = robustness(toy, stars, n_samples=20, plugins=plugins, seed=1)
    assert of(other, "Cool", snr=20.0)["teff"] != of(first, "Cool", snr=20.0)["teff"]


# The command


def some(table: Path, n: int) -> Path:
    """A copy in the current folder with the first ``n`` stars."""
    shutil.copytree(table.parent, "some")
    path = Path("some/stars.csv")
    path.write_text("".join(table.read_text().splitlines(keepends=True)[: n + 1]))
    return path


def test_the_command(specinn: Command, table: Path) -> None:
    table = some(table, 2)
    options = ("evaluate", "robustness", "toy-model", table, "--samples", 50)
    result = specinn(*options, "-o", "out")
    assert result.exit_code == 0 and result.stderr == "", result.output
    for words in (
        "Cool  validation",
        "of 60",
        "un-normalised - normalised",
        "shift of -200 km/s",
        "teff",
    ):
        assert words in result.stdout, words
    assert max(map(len, result.stdout.splitlines())) <= 100 and "…" not in result.stdout
    assert sorted(str(p) for p in Path("out").rglob("*.*")) == [
        "out/figures/robustness.pdf", "out/figures/robustness.png", "out/tables/robustness.ecsv",
        "out/tables/summary.ecsv",
    ]  # fmt: skip
    assert Path("out/figures/robustness.pdf").read_bytes().startswith(b"%PDF")
    assert Path("out/figures/robustness.png").stat().st_size > 50_000
    rows = Table.read("out/tables/robustness.ecsv")
    assert len(rows) == 120 and rows["rv"].unit == u.km / u.s and rows["teff_half_width"].unit == u.K
    assert rows["fe_h_literature"].mask.sum() == 60
    assert rows.meta["base"] == {"shape": BASE.shape, "velocity": 0.0, "snr": 100.0}
    summary = Table.read("out/tables/summary.ecsv")
    assert set(summary["scope"]) == set(SCOPES) and set(summary["factor"]) == {
        "shape",
        "velocity",
        "S/N",
        "all",
    }

    printed = json.loads(specinn(*options, "--json", "-o", "rows.ecsv").stdout)
    assert printed["robustness"][0]["shape"] == "delivered" and printed["meta"]["stars"] == "stars.csv"
    assert len(printed["summary"]) == len(summary)
    assert len(Table.read("rows.ecsv")) == 120
    sentence(specinn(*options, "-o", "out"), "out exists", "--overwrite")
    Path("out/letter.txt").touch()
    sentence(specinn(*options, "-o", "out", "--overwrite"), "not a report (it holds letter.txt)")


def test_lost_stars_in_the_command(specinn: Command, table: Path) -> None:
    path = some(table, 1)
    text = path.read_text()
    lost = "lost.txt,Lost,toy,,5000,4,0,1,validation\n"
    path.write_text(text + lost)
    options = ("evaluate", "robustness", "toy-model", path, "--samples", 20)
    result = specinn(*options, "-o", "rows.ecsv")
    assert result.exit_code == 0, result.output
    assert "Lost: " in result.stdout and "lost.txt: no such file" in result.stdout
    assert "60 of 60" in result.stdout and "not counted where they have no values: " in result.stdout
    assert Table.read("rows.ecsv")["teff"].mask[-60:].all()
    path.write_text(HEAD + lost)
    sentence(specinn(*options), "none of the stars gave values", "no such file")


def test_wrong_calls(specinn: Command, table: Path) -> None:
    call = ("evaluate", "robustness", "toy-model", table)
    former = ("evaluate", "toy-model", "--robustness", "--grid", "g.h5")
    sentence(specinn(*former), "for benchmark stars: give --stars")
    for option in (("--snr", 50), ("--seeds", 3), ("--correction", "c.toml")):
        sentence(specinn(*call, *option), f"no option {option[0]}", "evaluate robustness --help", status=2)
    sentence(specinn(*call, "-o", "m.csv"), "'.csv'", ".ecsv")
    assert not list(Path().iterdir())


# The bundled model


def assert_robust(rows: list[dict[str, Any]]) -> None:
    """Velocities to 1 km/s, always; at S/N 100 no change by half a posterior width, whatever is done."""
    for row in rows:
        what = (row["star"], row["shape"], row["velocity"], row["snr"])
        assert abs(row["rv_difference"]) < 1.0, what
        if row["snr"] == 100.0:
            assert not row["flag_bad"], what
            assert max(abs(row[f"{name}_change"]) for name in ("teff", "logg", "fe_h")) < 1.0, what


def test_simulated_stars() -> None:
    """Spectra of S/N 200 and 100 in the pixels of 4MOST, which have nothing beyond the arms."""
    plugins = Plugins()
    model = models.load(plugins, models.find(plugins, None))
    files = {file.name: file for file in run.example_files()}
    with (next(iter(files.values())).parent / "truth.csv").open() as file:
        truth = {row["file"]: row for row in csv.DictReader(file)}
    stars = [
        Benchmark(name, files[name], "4most-hr", None, {"teff": float(truth[name]["teff"])})
        for name in ("dwarf-g.fits", "giant-clump.fits")
    ]
    rows = robustness(model, stars, n_samples=512, plugins=plugins)
    assert_robust(rows)
    for star in stars:
        assert of(rows, star.star)["rv"] == pytest.approx(float(truth[star.star]["rv"]), abs=1.0)


def test_real_stars(shared: Path) -> None:
    """With as many samples as users draw: the MAP is one of them, and of fewer it jumps more easily."""
    plugins = Plugins()
    model = models.load(plugins, models.find(plugins, None))
    stars = read_benchmarks(shared / "data" / "spectra" / "stars.csv", model.labels)
    stars = [star for star in stars if star.in_range and star.role == "validation"]
    assert len(stars) >= 4
    assert_robust(robustness(model, stars, n_samples=4096, plugins=plugins))
