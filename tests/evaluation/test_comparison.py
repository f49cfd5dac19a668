"""Evaluation: simulated test spectra, metrics, benchmark stars, and the command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
import specinn_turbospectrum
from astropy import units as u
from astropy.table import Table
from commands import Command, sentence
from known_grid import ARMS, WAVELENGTH, Known, broadened, make_grid, with_steps
from typer.testing import CliRunner, Result

from specinn import api, models
from specinn.cli import app
from specinn.cli.evaluate._former import replaced
from specinn.errors import ConfigError, GridError, ModelError, PluginError
from specinn.evaluation.comparison import grid_metrics
from specinn.evaluation.metrics import METRICS, metrics_for_header
from specinn.evaluation.simulation import BLOCK, Simulation
from specinn.evaluation.stars import Benchmark, read_benchmarks, star_metrics, star_summary
from specinn.grids import Grid
from specinn.labels import li_fe
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import Record, hookimpl
from specinn.plugins.interfaces import Preprocessor
from specinn.spectra import SpectrumBatch
from specinn.spectra.resample import pixel_bounds, resampling_operator
from specinn.wavelengths import air_to_vacuum

SUN = np.array([[5772.0, 4.44, 0.0, 1.05]])


class Scale(Preprocessor):
    """A step that can be seen in the flux; and in how many spectra it was shown at once."""

    seen: list[int] = []  # noqa: RUF012

    def __init__(self, instrument: Any, templates: Any, by: float) -> None:
        self.by = by

    def __call__(self, batch: SpectrumBatch) -> SpectrumBatch:
        self.seen.append(len(batch))
        return attrs.evolve(batch, flux=batch.flux * self.by, sigma=batch.sigma * self.by)


class Normalise(Scale):
    stage = "continuum"


class Steps:
    @hookimpl
    def specinn_preprocessors(self) -> list[Record]:
        steps = {"continuum": "Normalise", "scale": "Scale"}
        return [Record(name=n, summary="multiply", factory=f"{__name__}:{cls}") for n, cls in steps.items()]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins([], {"fake": fake_plugin, "grids": specinn_turbospectrum, "steps": Steps()})


@pytest.fixture(scope="module")
def grid() -> Grid:
    return make_grid()


@pytest.fixture(scope="module")
def toy(plugins: Plugins, grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> fake_plugin.Toy:
    """The linear estimator, exact for what the simulation makes of the grid."""
    folder = tmp_path_factory.mktemp("toy")
    toy = fake_plugin.Toy.train({"estimator": {"kind": "toy"}}, folder, lambda state: None)
    rows = grid.split("train")
    flux = np.concatenate([b.flux for _, _, b in Simulation(toy, grid, plugins).batches(rows, [1e7])])
    t = fake_plugin.to_unit(grid.values[rows, :4])
    solution, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(t)), t]), flux, rcond=None)
    return fake_plugin.Toy({"mean": solution[0], "response": solution[1:]}, toy.header)


def one(rows: list[dict[str, Any]], label: str, snr: float = 250.0, scope: str = "all") -> dict[str, Any]:
    (row,) = (r for r in rows if (r["label"], r["snr"], r["scope"]) == (label, snr, scope))
    return row


# The simulated spectra


def first_batch(estimator: Any, grid: Grid, plugins: Plugins, snr: float) -> SpectrumBatch:
    return next(Simulation(estimator, grid, plugins).batches(np.arange(8), [snr]))[2]


def test_without_rotation_and_noise_it_is_the_resampled_grid_spectrum(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    batch = first_batch(toy, grid, plugins, 1e7)
    instrument = toy.instrument
    power = instrument.resolving_power_at(instrument.wavelength)
    operator = resampling_operator(WAVELENGTH, ARMS, np.inf, instrument.wavelength, instrument.slices, power)
    expected = (operator @ grid.flux(np.arange(8)).T).T
    good = ~batch.mask
    assert np.abs(batch.flux - expected)[good].max() < 1e-3  # of lines that are 0.3 to 0.6 deep
    assert (1 - batch.flux)[good].max() > 0.3
    inside = np.concatenate([arm.contains(arm.wavelength) for arm in instrument.arms])
    assert (batch.mask == ~inside).all() and not inside.all()
    assert batch.medium == "air" and dict(batch.arms) == instrument.slices


def test_its_spectra_are_called_synthetic_unless_asked_otherwise(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    assert first_batch(toy, grid, plugins, 50.0).meta["synthetic"].all()
    observed = Simulation(toy, grid, plugins, as_observed=True)
    assert not next(observed.batches(np.arange(8), [50.0]))[2].meta["synthetic"].any()


def test_disturbed_spectra_have_what_the_training_drew(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    def first(**disturbances: Any) -> SpectrumBatch:
        quiet = {"velocity": 0.0, "resolution": 0.0, "tilt": 0.0, "wave": 0.0, "gaps": 0, "arm_loss": 0.0}
        toy.header["training"] = {"disturbances": {**quiet, "noise_power": 0.0, **disturbances}}
        simulation = Simulation(toy, grid, plugins, disturbed=True)
        return next(simulation.batches(np.arange(8), [1e7]))[2]

    usual = first_batch(toy, grid, plugins, 1e7)
    assert first().flux == pytest.approx(usual.flux, abs=1e-5)
    assert np.abs(first(velocity=20.0).flux - usual.flux).max() > 0.05
    assert np.abs(first(resolution=0.2).flux - usual.flux).max() > 0.01
    lost = first(gaps=8, gap_width=40.0).mask & ~usual.mask
    assert lost.any() and not lost.all(axis=1).any()
    assert first(windows=[[5000.0, 5001.0]]).mask.shape == usual.mask.shape  # lists, as headers have them
    del toy.header["training"]
    with pytest.raises(
        ConfigError, match="does not state how its training spectra were disturbed: remove --disturbed"
    ):
        Simulation(toy, grid, plugins, disturbed=True)


def test_arms_that_are_not_wanted_count_as_lost(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    whole = Simulation(toy, grid, plugins)
    name, *others = toy.instrument.slices
    one = Simulation(toy, grid, plugins, arms=[name])
    (_, _, batch), (_, _, usual) = (next(s.batches(np.arange(8), [50.0])) for s in (one, whole))
    own = toy.instrument.slices[name]
    assert batch.flux[:, own] == pytest.approx(usual.flux[:, own])
    assert (batch.mask[:, own] == usual.mask[:, own]).all()
    assert others and all(batch.mask[:, toy.instrument.slices[other]].all() for other in others)
    assert (one.masked == batch.mask[0]).all()
    with pytest.raises(ConfigError, match="toy has no arm 'violet'; it has"):
        Simulation(toy, grid, plugins, arms=["violet"])


def test_the_noise_is_what_the_snr_per_angstrom_says(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    clean, noisy = (first_batch(toy, grid, plugins, snr) for snr in (1e7, 50.0))
    for arm in toy.instrument.arms:
        where = toy.instrument.slices[arm.name]
        lower, upper = pixel_bounds(arm.wavelength)
        expected = 1.0 / (50.0 * np.sqrt(upper - lower))
        assert noisy.sigma[:, where] == pytest.approx(np.tile(expected, (8, 1)), rel=1e-5)
    pull = ((noisy.flux - clean.flux) / noisy.sigma)[~noisy.mask]
    assert pull.std() == pytest.approx(1.0, abs=0.05) and abs(pull.mean()) < 0.06


def test_wavelengths_in_vacuum_are_converted(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    other = attrs.evolve(grid, wavelength=air_to_vacuum(WAVELENGTH), medium="vacuum")
    flux = [first_batch(toy, g, plugins, 1e7).flux for g in (grid, other)]
    assert np.abs(flux[0] - flux[1]).max() < 1e-4


def test_rotation_is_drawn_where_the_model_infers_it(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    simulation = Simulation(broadened(toy), grid, plugins, seed=5)
    log = np.log10(simulation.vbroad)
    assert log.min() >= 0 and log.max() <= 2
    assert np.histogram(log, bins=4, range=(0, 2))[0] == pytest.approx([75] * 4, abs=25)
    again = Simulation(broadened(toy), grid, plugins, seed=5).vbroad
    assert (simulation.vbroad == again).all()
    assert (Simulation(broadened(toy), grid, plugins, seed=6).vbroad != again).all()
    rows = np.argsort(log)[[0, -1]]
    _, _, batch = next(simulation.batches(rows, [1e7]))
    _, _, sharp = next(Simulation(toy, grid, plugins).batches(rows, [1e7]))
    depth, before = (np.where(b.mask, 0, 1 - b.flux).max(axis=1) for b in (batch, sharp))
    assert depth[0] == pytest.approx(before[0], rel=0.01) and depth[1] < 0.7 * before[1]
    truth = simulation.truth(rows, simulation.estimator.labels)
    assert (truth[:, 4] == simulation.vbroad[rows]).all() and (truth[:, :4] == grid.values[rows, :4]).all()


def test_a_grid_that_is_rotated_already_is_not_rotated_again(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    values = np.column_stack([grid.values, np.full(len(grid), 30.0)])
    rotated = attrs.evolve(grid, labels=(*grid.labels, "vbroad"), values=values)
    simulation = Simulation(broadened(toy), rotated, plugins)
    assert (simulation.vbroad == 0).all()
    assert (simulation.truth(np.arange(5), simulation.estimator.labels)[:, 4] == 30.0).all()


def test_lithium_in_either_notation(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    values = grid.values.copy()
    values[:, 3] = li_fe(values[:, 3], values[:, 2])
    other = attrs.evolve(grid, labels=("teff", "logg", "fe_h", "li_fe", "o_fe"), values=values)
    rows = np.arange(9)
    truths = [Simulation(toy, g, plugins).truth(rows, toy.labels) for g in (grid, other)]
    assert truths[0] == pytest.approx(truths[1])


def test_only_the_steps_after_to_arms_are_taken(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    plain = first_batch(toy, grid, plugins, 100.0)
    steps = (("scale", {"by": 3.0}), ("to-arms", {}), ("continuum", {"by": 2.0}), ("scale", {"by": 5.0}))
    scaled = first_batch(with_steps(toy, *steps), grid, plugins, 100.0)
    assert scaled.flux == pytest.approx(10 * plain.flux) and scaled.sigma == pytest.approx(10 * plain.sigma)
    without = with_steps(toy, ("scale", {"by": 3.0}), ("continuum", {"by": 2.0}))
    assert first_batch(without, grid, plugins, 100.0).flux == pytest.approx(2 * plain.flux)


# The metrics


def test_figures_against_known_residuals(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    estimator = Known(toy, grid, offset=0.02, width=0.04)
    rows = grid_metrics(estimator, grid, n_samples=4000, plugins=plugins)
    assert {row["n"] for row in rows if row["scope"] == "all"} == {len(grid.split("test"))}
    for name, width in (("logg", 5.0), ("fe_h", 3.0)):
        row = one(rows, name)
        assert row["mean_residual"] == pytest.approx(0.02 * width, rel=1e-4)
        assert row["std"] == pytest.approx(0, abs=1e-4) and row["robust_std"] == pytest.approx(0, abs=1e-4)
        assert row["nrmse"] == pytest.approx(0.02, rel=1e-3)
        assert row["posterior_std"] == pytest.approx(0.04 * width, rel=0.03)
        assert row["inside_68"] == row["inside_95"] == 1.0  # half a standard deviation off
        assert row["rejected_fraction"] == 0 and row["failed"] == 0
    for offset, inside_68, inside_95 in ((0.06, 0.0, 1.0), (0.12, 0.0, 0.0)):
        row = one(grid_metrics(Known(toy, grid, offset, 0.04), grid, n_samples=4000, plugins=plugins), "logg")
        assert (row["inside_68"], row["inside_95"]) == (inside_68, inside_95)
    assert max(estimator.sizes) == BLOCK and sum(estimator.sizes) == len(grid.split("test"))


def test_lithium_is_also_given_relative_to_iron(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    rows = grid_metrics(Known(toy, grid, 0.02, 0.04), grid, n_samples=50, plugins=plugins)
    a_li, fe_h, ratio = (one(rows, name)["mean_residual"] for name in ("a_li", "fe_h", "li_fe"))
    assert ratio == pytest.approx(a_li - fe_h) and fe_h == pytest.approx(0.06, rel=1e-4) and a_li > 0.01
    assert one(rows, "li_fe")["published_std"] == 0.51 and one(rows, "a_li")["published_std"] is None


def test_stars_that_are_lost_are_counted_and_never_nan(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins
) -> None:
    estimator, test = Known(toy, grid, 0.02, 0.04), grid.split("test")
    estimator.lost = set(test[:7].tolist())
    row = one(grid_metrics(estimator, grid, n_samples=50, plugins=plugins), "logg")
    assert row["failed"] == 7 and row["n"] == len(test) - 7
    assert row["mean_residual"] == pytest.approx(0.1, rel=1e-4) and row["inside_68"] == 1.0
    assert row["rejected_fraction"] == pytest.approx(7 / len(test))
    estimator.lost = set(test.tolist())
    rows = grid_metrics(estimator, grid, n_samples=50, plugins=plugins)
    assert json.dumps(rows, allow_nan=False)
    assert one(rows, "logg")["n"] == 0 and one(rows, "logg")["std"] is None


def test_scopes(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    rows = grid_metrics(Known(toy, grid, 0.02, 0.04), grid, n_samples=20, plugins=plugins)
    fe_h = grid.column("fe_h")[grid.split("test")]
    assert one(rows, "teff", scope="[Fe/H] > -1.5")["n"] == (fe_h > -1.5).sum() < len(fe_h)
    assert [set(row) for row in rows] == [set(METRICS)] * (2 * 5)
    poor = grid.values.copy()
    poor[:, 2] = np.linspace(-2.4, -1.6, len(grid))
    rows = grid_metrics(toy, attrs.evolve(grid, values=poor), n_samples=20, plugins=plugins)
    assert {row["scope"] for row in rows} == {"all"}
    poor[grid.split("test")[:3], 2] = -2.6
    rows = grid_metrics(toy, attrs.evolve(grid, values=poor), n_samples=20, plugins=plugins)
    assert {row["outside"] for row in rows} == {3}


@pytest.mark.slow
def test_an_exact_posterior_is_found_to_be_exact(plugins: Plugins, toy: fake_plugin.Toy) -> None:
    grid = make_grid(1500)
    rows = grid_metrics(toy, grid, snr=[250, 50], n_samples=400, plugins=plugins)
    names = toy.labels.names
    for snr in (250.0, 50.0):
        n = one(rows, "teff", snr)["n"]
        assert n > 250
        assert np.mean([one(rows, k, snr)["inside_68"] for k in names]) == pytest.approx(0.68, abs=0.05)
        assert np.mean([one(rows, k, snr)["inside_95"] for k in names]) == pytest.approx(0.95, abs=0.03)
    for name in ("teff", "logg", "fe_h"):  # the others are not linear in the labels
        high, low = one(rows, name), one(rows, name, 50.0)
        assert 0.9 < high["std"] / high["posterior_std"] < 1.35  # MAP is one of 400 samples
        assert low["std"] / high["std"] == pytest.approx(5.0, rel=0.15)
        assert abs(high["mean_residual"]) < 4 * high["std"] / np.sqrt(high["n"])


@pytest.mark.slow
def test_seeds_and_independence_of_the_other_snr(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    def rows(snr: list[float], seed: int = 0) -> list[dict[str, Any]]:
        return grid_metrics(toy, grid, snr=snr, n_samples=30, seed=seed, plugins=plugins)

    both = rows([50, 250])
    assert [row for row in both if row["snr"] == 250] == rows([250]) == rows([250])
    assert rows([250]) != rows([250], seed=1)
    assert all(row["published_std"] is None for row in both if row["snr"] == 50)
    assert one(both, "teff")["published_std"] == 33.0


def test_progress(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    said: list[tuple[int, int]] = []
    grid_metrics(toy, grid, snr=[50, 250], split="validation", n_samples=5, plugins=plugins,
                 progress=lambda *state: said.append(state))  # fmt: skip
    total = 2 * len(grid.split("validation"))
    assert said[-1] == (total, total) and said == sorted(said)


def test_what_does_not_fit_is_said(toy: fake_plugin.Toy, grid: Grid, plugins: Plugins) -> None:
    def fails(error: type[Exception], words: str, of: Grid = grid, **options: Any) -> None:
        with pytest.raises(error, match=words):
            grid_metrics(toy, of, plugins=plugins, **{"n_samples": 5, **options})

    fails(GridError, "no split 'exam'", split="exam")
    fails(ConfigError, "distinct positive numbers", snr=[])
    fails(ConfigError, "distinct positive numbers", snr=[-3])
    fails(ConfigError, "distinct positive numbers", snr=[20, 20])
    fails(ConfigError, "at least 2 samples", n_samples=1)
    fails(GridError, "infers a_li, which the grid does not have; it has teff", attrs.evolve(
        grid, labels=("teff", "logg", "fe_h", "mg_fe", "o_fe")))  # fmt: skip
    fails(GridError, "resolving power 5000.*6500 or more", attrs.evolve(grid, resolving_power=5000.0))
    fails(ModelError, "arm green needs model spectra", attrs.evolve(grid, wavelength=WAVELENGTH + 30))
    unseen = set(make_grid(4000).split("test"))
    ids = np.array([f"{i}" for i in range(4000) if i not in unseen])[: len(grid)]
    fails(GridError, "none of the 300 models of the grid is in the split 'test'", attrs.evolve(grid, ids=ids))


def test_metrics_in_the_header_are_shown_by_the_model_card(
    toy: fake_plugin.Toy, grid: Grid, plugins: Plugins, tmp_path: Path
) -> None:
    rows = grid_metrics(toy, grid, snr=[250, 50], n_samples=20, plugins=plugins)
    metrics = metrics_for_header(rows)
    assert metrics["S/N 50, all"]["logg"]["std"] == one(rows, "logg", 50.0)["std"]
    model = fake_plugin.Toy({"mean": toy.mean, "response": toy.response}, {**toy.header, "metrics": metrics})
    model.save(tmp_path / "m.safetensors")
    card = CliRunner().invoke(app, ["models", str(tmp_path / "m.safetensors")], obj=plugins)
    assert card.exit_code == 0, card.output
    assert "S/N 250, [Fe/H] > -1.5" in card.stdout and "posterior_std" in card.stdout
    assert f"{one(rows, 'logg', 50.0)['std']:.4g}" in card.stdout


# Benchmark stars

HEAD = "file,star,instrument,resolving_power,teff,logg,fe_h,in_range,role\n"


@pytest.fixture
def model(plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained toy model, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toy.safetensors"
    fake_plugin.Toy.train({"estimator": {"kind": "toy"}}, tmp_path, lambda state: None).save(path)
    return path


def star_file(folder: Path, name: str, labels: np.ndarray = SUN) -> Path:
    return fake_plugin.write_text(folder / name, fake_plugin.simulate(labels, snr=1000.0))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "stars"
    folder.mkdir()
    star_file(folder, "sun.txt")
    star_file(folder, "cool.txt", np.array([[4500.0, 2.0, -1.2, 2.0]]))
    path = folder / "stars.csv"
    path.write_text(
        HEAD.replace("\n", ",a_li\n")
        + "sun.txt,Sun,toy,,5772,4.44,0.00,1,reference,1.05\n"
        + "sun.txt,Twin,toy,,5272,4.44,0.10,1,validation,\n"
        + "cool.txt,Cool,toy,5000,4500,2.0,-1.20,1,,2.0\n"
        + "cool.txt,Far,toy,5000,4000,1.0,-1.70,0,validation,2.0\n"
    )
    return path


@pytest.mark.slow
def test_stars_go_the_way_of_a_run(model: Path, table: Path, plugins: Plugins) -> None:
    toy = models.load(plugins, models.find(plugins, model))
    stars = read_benchmarks(table, toy.labels)
    assert [star.role for star in stars] == ["reference", "validation", "validation", "validation"]
    assert stars[0].resolving_power is None and stars[2].resolving_power == 5000.0
    rows = star_metrics(toy, stars, snr=100, seeds=3, n_samples=300, seed=7, plugins=plugins)
    runs = [
        api.infer(stars[1].file, instrument="toy", model=toy, samples=300, seed=s, degrade_snr=100,
                  plugins=plugins).catalogue
        for s in (7, 8, 9)
    ]  # fmt: skip
    for name in ("teff", "logg", "fe_h", "a_li", "li_fe"):
        for key in (name, f"{name}_std"):
            assert rows[1][key] == pytest.approx(np.mean([float(r[key][0].value) for r in runs]), rel=1e-5)
    assert rows[1]["teff_difference"] == pytest.approx(rows[1]["teff"] - 5272)
    assert "a_li_difference" in rows[0] and "a_li_difference" not in rows[1] and "rv" in rows[0]
    assert rows[0]["snr_green"] == pytest.approx(100, rel=0.1)
    assert json.dumps(rows, allow_nan=False)


@pytest.mark.slow
def test_the_summary_leaves_reference_stars_and_stars_out_of_range_out(
    model: Path, table: Path, plugins: Plugins
) -> None:
    toy = models.load(plugins, models.find(plugins, model))
    stars = read_benchmarks(table, toy.labels)
    rows = star_metrics(toy, stars, seeds=2, n_samples=200, plugins=plugins)
    summary = star_summary(rows)
    off = [abs(rows[i]["teff_difference"]) for i in (1, 2)]
    assert summary["teff"]["n"] == 2 and summary["teff"]["median"] == pytest.approx(np.mean(off))
    assert summary["teff"]["maximum"] == max(off) and summary["teff"]["worst"] == "Twin"
    assert summary["teff"]["maximum"] == pytest.approx(500, abs=100)
    assert summary["a_li"]["n"] == 1 and summary["a_li"]["failed"] == []
    toy.header["training"]["reference_stars"] = [{"name": "TWIN"}]
    rows = star_metrics(toy, stars, seeds=1, n_samples=20, plugins=plugins)
    assert [row["role"] for row in rows] == ["reference", "reference", "validation", "validation"]
    assert star_summary(rows)["teff"]["worst"] == "Cool"


@pytest.mark.slow
def test_a_star_that_fails_is_named_and_not_counted(model: Path, table: Path, plugins: Plugins) -> None:
    toy = models.load(plugins, models.find(plugins, model))
    stars = [
        *read_benchmarks(table, toy.labels),
        Benchmark("Lost", table.parent / "lost.txt", "toy", None, {"teff": 5000.0}),
    ]
    rows = star_metrics(toy, stars, seeds=2, n_samples=20, plugins=plugins)
    assert rows[4]["teff"] is None and rows[4]["teff_difference"] is None and rows[4]["flag_bad"]
    assert "lost.txt: no such file" in rows[4]["message"]
    summary = star_summary(rows)
    assert summary["teff"]["n"] == 2 and summary["teff"]["failed"] == ["Lost"]
    assert summary["logg"]["failed"] == []
    nothing = star_summary(rows[:1])
    assert nothing["teff"] == {"n": 0, "median": None, "maximum": None, "worst": None, "failed": []}


def test_one_spectrum_a_star_and_known_instruments(model: Path, tmp_path: Path, plugins: Plugins) -> None:
    toy = models.load(plugins, models.find(plugins, model))
    path = star_file(tmp_path, "two.txt", np.repeat(SUN, 2, axis=0))
    with pytest.raises(
        ConfigError, match=r"two.txt holds 2 spectra: expected one spectrum per benchmark star"
    ):
        star_metrics(toy, [Benchmark("Two", path, "toy", None, {})], n_samples=5, plugins=plugins)
    with pytest.raises(PluginError, match="did you mean 'toy'"):
        star_metrics(toy, [Benchmark("Two", path, "tox", None, {})], plugins=plugins)
    with pytest.raises(ConfigError, match="seeds 0"):
        star_metrics(toy, [], seeds=0, plugins=plugins)


def test_the_former_name_of_a_role(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text(HEAD + "a.txt,Sun,toy,,5772,4,0,1,calibrator\n")
    assert [star.role for star in read_benchmarks(path, fake_plugin.LABELS)] == ["reference"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD, "it lists no stars"),
        ("", "the columns file, .* are missing; .* found nothing"),
        ("file,star\na,b\n", "instrument, resolving_power, teff, logg, fe_h are missing"),
        (HEAD + "a.txt,Sun,toy,,hot,4,0,1,validation\n", "teff 'hot' of Sun is not a number"),
        (HEAD + "a.txt,Sun,toy,nan,5772,4,0,1,validation\n", "resolving_power 'nan' of Sun"),
        (HEAD + "a.txt,Sun,toy,,5772,4,0,1,refer\n", "role 'refer' of Sun: expected reference or"),
        (HEAD + "a.txt,Sun,toy,,5772,4,0,yes,\n", "in_range 'yes' of Sun"),
        (HEAD + ",Sun,toy,,5772,4,0,1,\n", "Sun needs a file and an instrument"),
    ],
)
def test_bad_tables_of_stars(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "stars.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_benchmarks(path, fake_plugin.LABELS)
    with pytest.raises(ConfigError, match="no such file"):
        read_benchmarks(tmp_path / "none.csv", fake_plugin.LABELS)


# The command


@pytest.fixture
def specinn(plugins: Plugins, model: Path) -> Command:
    def call(*arguments: Any) -> Result:
        return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], obj=plugins)

    return call


@pytest.mark.slow
def test_command_on_a_grid(
    specinn: Command, toy: fake_plugin.Toy, grid: Grid, model: Path, tmp_path: Path
) -> None:
    grid.save(tmp_path / "grid.h5")
    toy.save(model)
    options = ("grid", model, "grid.h5", "--snr", 250, "--snr", 50, "--samples", 30, "-o", "m.ecsv")
    result = specinn(*options)
    assert result.exit_code == 0 and result.stderr == "", result.output
    for words in ("S/N 50 per Angstrom, test split, [Fe/H] > -1.5", "teff (K)", "Ksoll et al.", "m.ecsv"):
        assert words in result.stdout, words
    assert max(map(len, result.stdout.splitlines())) < 100
    table = Table.read("m.ecsv")
    assert len(table) == 2 * 2 * 5 and table["std"].description.startswith("Standard deviation of MAP")
    assert table.meta["split"] == "test" and table.meta["models"] == len(grid.split("test"))
    at_250 = table[(table["snr"] == 250) & (table["label"] == "teff")]
    assert (at_250["published_std"] == 33).all() and table["published_std"].mask.any()
    printed = json.loads(specinn(*options[:-2], "--json").stdout)
    assert printed["metrics"][0]["std"] == pytest.approx(table["std"][0])
    assert printed["meta"]["observed"] is False
    printed = json.loads(specinn(*options[:-2], "--json", "--as-observed").stdout)
    assert printed["meta"]["observed"] is True
    sentence(specinn(*options), "m.ecsv exists", "--overwrite")
    assert specinn(*options, "--overwrite").exit_code == 0


@pytest.mark.slow
def test_command_on_stars(specinn: Command, model: Path, table: Path) -> None:
    options = ("stars", model, table, "--samples", 50, "--seeds", 2)
    result = specinn(*options, "-o", "stars.ecsv")
    assert result.exit_code == 0 and result.stderr == "", result.output
    for words in (
        "Sun",
        "reference",
        "out of range",
        "difference",
        "Twin",
        "reference stars are not counted",
    ):
        assert words in result.stdout, words
    read = Table.read("stars.ecsv")
    assert read["teff"].unit == u.K and read["teff_difference"].unit == u.K
    assert read["a_li_literature"].mask.tolist() == [False, True, False, False]
    assert read["role"].tolist()[0] == "reference" and read.meta["summary"]["teff"]["worst"] == "Twin"
    printed = json.loads(specinn(*options, "--json").stdout)
    assert printed["summary"]["teff"]["n"] == 2 and printed["stars"][3]["in_range"] is False


@pytest.mark.slow
def test_command_with_lost_stars(specinn: Command, model: Path, table: Path) -> None:
    text = table.read_text()
    table.write_text(text + "lost.txt,Lost,toy,,5000,4,0,1,validation,\n")
    result = specinn("stars", model, table, "--samples", 20, "--seeds", 1)
    assert result.exit_code == 0 and "lost.txt: no such file" in result.stdout
    assert "without values, and so not counted: Lost" in result.stdout
    table.write_text(text.replace("sun.txt", "lost.txt").replace("cool.txt", "lost.txt"))
    result = specinn("stars", model, table, "--samples", 20, "--seeds", 1)
    sentence(result, "none of the stars gave values", "no such file")


@pytest.mark.slow
def test_wrong_calls_of_the_command(specinn: Command, model: Path, table: Path) -> None:
    sentence(specinn(model), "no command", "grid, stars, robustness, ood", status=2)
    sentence(specinn(model, "--grid", "g.h5", "--stars", table), "either --grid GRID or --stars")
    sentence(specinn("grid", model, "g.h5"), "g.h5: no such file")
    sentence(specinn("stars", model, table, "--snr", 20, "--snr", 30), "stars takes one --snr")
    sentence(specinn("stars", model, table, "--snr", -1), "positive S/N")
    sentence(specinn("stars", model, table, "--as-observed"), "no option --as-observed", status=2)
    sentence(specinn("ood", model, "g.h5", "--disturbed"), "no option --disturbed", status=2)
    sentence(specinn("stars", "best", table), "no model or file is called 'best'")
    sentence(specinn("stars", model, table, "-o", "m.csv"), "'.csv'", ".ecsv")
    sentence(specinn("stars", model, "none.csv"), "none.csv: no such file")


FORMER = {
    "m --grid g.h5 --grid=h.h5 --snr 50 -o out": "grid m --snr 50 -o out g.h5 h.h5",
    "--grid g.h5 m --disturbed": "grid m --disturbed g.h5",
    "m --strangers --grid g.h5": "ood m g.h5",
    "m --stars s.csv --seeds 2": "stars m --seeds 2 s.csv",
    "m --robustness --stars s.csv": "robustness m s.csv",
    "--samples 20 m --stars s.csv": "stars --samples 20 m s.csv",
}


@pytest.mark.parametrize(("words", "today"), FORMER.items())
def test_former_commands_are_replaced(words: str, today: str) -> None:
    assert replaced(words.split()) == today.split()


@pytest.mark.slow
def test_former_commands_work_and_say_what_replaces_them(specinn: Command, model: Path, table: Path) -> None:
    options = ("--samples", 20, "--seeds", 1, "--json")
    former, today = specinn(model, "--stars", table, *options), specinn("stars", model, table, *options)
    assert former.exit_code == today.exit_code == 0 and former.stdout == today.stdout
    (line,) = former.stderr.splitlines()
    assert line.startswith("specinn: this form has been replaced by: specinn evaluate stars ")
    words = shlex.split(line.partition("specinn evaluate ")[2])
    assert specinn(*words).stdout == today.stdout
