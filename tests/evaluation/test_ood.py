"""Spectra out of distribution: what their kinds are, what the signs see, what pipeline and catalogue say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import attrs
import fake_plugin
import numpy as np
import pytest
import tiny_grid
import torch
from astropy.table import Table
from specinn_cinn import ood_fit
from specinn_cinn.estimator import CINN
from specinn_cinn.ood import ALTERATIONS, SIGNS
from specinn_cinn.ood_examples import Alterations
from specinn_cinn.ood_fit import fit_ood_signs
from specinn_cinn.recipe import OODOptions
from specinn_cinn.setup import prepare
from specinn_cinn.training import build, fit
from specinn_emulator.training import train as train_emulator
from typer.testing import CliRunner

from specinn import catalogue, models
from specinn.cli import app
from specinn.errors import ConfigError
from specinn.evaluation import ood
from specinn.evaluation.ood import KINDS, Scene, ood_table
from specinn.evaluation.simulation import Simulation
from specinn.evaluation.stars import read_benchmarks
from specinn.flags import Flag, is_bad, names
from specinn.grids import load
from specinn.inference import run
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.plugins import Plugins
from specinn.plugins.interfaces import OODScore
from specinn.weights import load_weights, save_weights

pytestmark = pytest.mark.slow

OPTIONS = OODOptions(decoder=192, signs=288, thresholds=192, steps=120, alterations=4, false_alarms=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ood")
    tiny_grid.make_grid(300).save(folder / "grid.h5")
    network = {"components": 30, "width": 32, "depth": 2, "members": 1}
    config = {"grid": [str(folder / "grid.h5")], "network": network}
    training = {"epochs": 40, "learning_rate": 5e-3}
    train_emulator({**config, "training": training}, folder / "e").save(folder / "emulator.safetensors")
    return folder


@pytest.fixture(scope="module")
def plugins(folder):
    return tiny_grid.plugins(folder)


@pytest.fixture(scope="module")
def setup(folder, plugins):
    config = {
        "name": "tiny", "instrument": "tiny", "arms": ["green", "red"], "grid": [str(folder / "grid.h5")],
        "emulator": str(folder / "emulator.safetensors"),
        "labels": ["teff", "logg", "fe_h", "vbroad", "vmic", "mg_fe", "a_li"],
        "architecture": {"projection": 16, "features": [32, 16], "blocks": 2, "width": 12},
        "disturbances": {"gap_width": 10.0, "snr": [30.0, 300.0]},
        "filters": {"spectra": 640},
        "schedule": {"steps": 60, "batch": 64, "repeats": 2, "validate_every": 30, "learning_rate": 4e-3},
    }  # fmt: skip
    return prepare(config, plugins)


@pytest.fixture(scope="module")
def plain(setup, folder):
    """A model as it was before there were signs."""
    return fit(setup, build(setup), folder / "model", lambda state: None)


@pytest.fixture(scope="module")
def model(setup, plain):
    seen = []
    out = fit_ood_signs(attrs.evolve(plain, header=dict(plain.header)), setup, OPTIONS, seen.append)
    assert seen[-1]["step"] == seen[-1]["steps"] == 192 + 288 + 192
    return out


@pytest.fixture(scope="module")
def grid(folder, plugins):
    return load([folder / "grid.h5"], plugins=plugins)


@pytest.fixture(scope="module")
def scene(model, grid, plugins):
    """Makes scenes of the same stars, whose noise is always the same."""
    simulation = Simulation(model, grid, plugins)
    rows = grid.split("test")
    return lambda n=24, snr=100.0: Scene(simulation, rows[:n], snr, np.random.default_rng(3), rows)


# The spectra ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_a_batch_of_as_many_spectra(kind, scene):
    batch = kind.make(scene(6))
    assert len(batch) == 6 and np.isfinite(batch.flux).all() and (batch.sigma > 0).all()
    again = kind.make(scene(6))
    assert np.array_equal(batch.flux, again.flux) and np.array_equal(batch.mask, again.mask)
    if kind.expected != "nothing":
        clean = ood.in_range(scene(6))
        powers = batch.resolving_power, clean.resolving_power
        same = np.array_equal(batch.flux, clean.flux) and np.array_equal(batch.mask, clean.mask)
        assert not (same and np.array_equal(*powers) and np.array_equal(batch.meta["rv"], clean.meta["rv"]))


def test_what_the_kinds_do(scene):
    clean, simulation = ood.in_range(scene()), scene().simulation
    inside = simulation.observer.inside
    assert (np.abs(ood.wrong_frame(scene()).meta["rv"]) == 50.0).all()
    assert (ood.stated_too_high(scene()).resolving_power == 40_000.0).all()
    swapped = ood.swapped_arms(scene())
    assert np.array_equal(swapped.flux[:, :500], clean.flux[:, 500:])
    for make in (ood.half_missing, ood.pixels_missing):
        assert make(scene()).mask[:, inside].mean() == pytest.approx(0.5, abs=0.15)
    lost = ood.arm_missing(scene(4)).mask
    assert lost[0, :500].all() and lost[1, 500:].all() and not lost[0, 500:][inside[500:]].any()
    ratio = ood.tilted(scene()).flux[:, :500] / clean.flux[:, :500]
    assert np.allclose(np.abs(ratio[:, [0, 499]] - 1.0), 0.1)


def test_physics_of_the_kinds(scene):
    """Without noise: lines grow shallower and keep their strength, or lose it as they should."""
    one = scene(12, snr=1e9)
    inside, width = one.simulation.observer.inside, 0.1

    def strength(batch):
        return ((1.0 - batch.flux[:, inside]) * width).sum(axis=1)

    clean, blurred = ood.in_range(one), ood.too_blurred(scene(12, snr=1e9))
    assert strength(blurred) == pytest.approx(strength(clean), rel=0.05)
    assert (blurred.flux[:, inside].min(axis=1) >= clean.flux[:, inside].min(axis=1) - 1e-6).all()
    assert (strength(ood.too_poor(scene(12, snr=1e9))) < 0.2 * strength(clean)).all()
    assert strength(ood.flat(scene(12, snr=1e9))) == pytest.approx(np.zeros(12), abs=1e-5)
    pair = ood.two_stars(scene(12, snr=1e9))
    assert not np.allclose(pair.flux, clean.flux, atol=1e-3)


# The signs --------------------------------------------------------------------------------------


def preprocessed(model, plugins, batch):
    pipeline = Pipeline(model, plugins)
    return pipeline._preprocess(pipeline._prepare(batch))


def scores(model, plugins, batch):
    return model.ood_score(preprocessed(model, plugins, batch))


def test_few_false_alarms_and_many_true_ones(model, plugins, scene):
    clean = scores(model, plugins, ood.in_range(scene()))
    assert np.mean(clean.score > 1.0) <= 0.1 and np.median(clean.score) < 0.8
    for make in (ood.white_noise, ood.flat, ood.swapped_arms):
        batch = preprocessed(model, plugins, make(scene()))
        result = model.ood_score(batch)
        bad = is_bad(np.asarray(batch.meta["flags"]))  # noise has no signal, which is known before
        assert np.mean(bad | (result.score > 1.0)) > 0.8, make.__name__
        pairs = zip(*attrs.astuple(result), strict=True)
        assert all(bool(reason) == (score > 1.0) for score, reason in pairs)


def test_each_sign_can_speak_alone(model):
    """Of a spectrum that differs in one thing only the sign for it fires."""
    signs = model.ood_signs
    scaled = signs.scaled(torch.stack([signs.median, signs.threshold]))
    assert torch.allclose(scaled, torch.tensor([0.0, 1.0])[:, None].expand(2, 4), atol=1e-5)
    assert len(SIGNS) == 5 and set(ALTERATIONS) == set(model.header["ood"]["found"])


def test_a_score_hangs_on_the_spectrum_alone(model, plugins, scene):
    batch = preprocessed(model, plugins, ood.two_stars_apart(scene()))
    together = model.ood_score(batch).score
    alone = np.array([model.ood_score(batch[i]).score[0] for i in range(len(batch))])
    assert together == pytest.approx(alone, abs=0.011)  # scores are rounded to 0.01
    batch.meta["key"] = 7
    assert np.array_equal(model.ood_score(batch).score, together)


def test_what_is_masked_has_no_say(model, plugins, scene):
    batch = preprocessed(model, plugins, ood.half_missing(scene()))
    wild = attrs.evolve(batch, flux=np.where(batch.mask, 1e6, batch.flux))
    assert np.array_equal(model.ood_score(batch).score, model.ood_score(wild).score)


def test_a_spectrum_without_signal(model, plugins, scene):
    clean = ood.in_range(scene())
    faint = attrs.evolve(clean, sigma=np.full_like(clean.sigma, 1.0))  # an S/N of 3 per Angstrom
    result = scores(model, plugins, faint)
    assert (result.score > 1.0).all() and all(SIGNS["signal"] in reason for reason in result.reasons)


def test_file(model, plain, plugins, scene, tmp_path):
    batch = preprocessed(model, plugins, ood.two_stars(scene()))
    model.save(tmp_path / "new.safetensors")
    loaded = CINN.load(tmp_path / "new.safetensors")
    assert np.array_equal(loaded.ood_score(batch).score, model.ood_score(batch).score)
    assert loaded.header["ood"]["options"]["signs"] == OPTIONS.signs
    plain.save(tmp_path / "old.safetensors")
    old = CINN.load(tmp_path / "old.safetensors")
    assert old.ood_signs is None and old.ood_score(batch) is None
    same = (old.sample(batch, 16, 0), model.sample(batch, 16, 0))
    assert np.array_equal(same[0].samples, same[1].samples)  # the signs change nothing else


def test_a_file_with_former_names(model, plugins, scene, tmp_path):
    path = tmp_path / "m.safetensors"
    batch = preprocessed(model, plugins, ood.two_stars(scene()))
    model.save(path)
    tensors, header = load_weights(path, models.FORMAT)
    former = {re.sub(r"^ood\.", "strangers.", name): values for name, values in tensors.items()}
    assert former.keys() != tensors.keys()
    save_weights(path, former, {{"ood": "strangers"}.get(key, key): value for key, value in header.items()})
    loaded = CINN.load(path)
    assert np.array_equal(loaded.ood_score(batch).score, model.ood_score(batch).score)
    loaded.save(path)
    again, same = load_weights(path, models.FORMAT)
    assert again.keys() == tensors.keys() and same == header


def test_the_former_name_of_the_fit():
    with pytest.warns(DeprecationWarning, match="fit_strangers is now called fit_ood_signs"):
        assert ood_fit.fit_strangers is fit_ood_signs


def test_alterations_alter(setup):
    generator = torch.Generator().manual_seed(1)
    wave = torch.as_tensor(setup.model_grid.wavelength, dtype=torch.float32)
    alterations = Alterations(setup.simulator, wave, generator)
    assert list(alterations.families) == list(ALTERATIONS)
    flux, _, vbroad = setup.simulator.noiseless(8, generator)
    clean = setup.simulator.observer(flux, vbroad)
    for name, alter in alterations.families.items():
        altered = alter(flux, vbroad)
        assert altered.shape == clean.shape and torch.isfinite(altered).all(), name
        changed = (altered - clean).abs().amax(1) > 0.01
        assert changed.float().mean() >= 0.5, name  # not a fast rotator's resolving power


def test_too_few_stars():
    assert OODOptions(signs=0).signs == 0
    with pytest.raises(ConfigError, match="at least 96 stars"):
        OODOptions(signs=10)


# Pipeline and catalogue -------------------------------------------------------------------------


class Wary(fake_plugin.Toy):
    """Calls every other spectrum out of distribution."""

    def ood_score(self, batch):
        score = np.where(np.asarray(batch.meta["key"]) % 2, 1.5, 0.25)
        return OODScore(score, ["it is odd" if value > 1.0 else "" for value in score])


@pytest.fixture(scope="module")
def toys():
    return Plugins([], {"toy": fake_plugin})


def toy_batch(n):
    truth = fake_plugin.from_unit(np.random.default_rng(5).uniform(-0.3, 0.3, (n, len(fake_plugin.LABELS))))
    batch = fake_plugin.simulate(truth, snr=100.0)
    batch.meta["key"], batch.meta["rv"] = np.arange(n), 0.0
    return batch


@pytest.mark.parametrize("keep_samples", [False, True])
def test_spectra_out_of_distribution_are_flagged_and_have_no_values(toys, tmp_path, keep_samples):
    trained = fake_plugin.Toy.train({}, tmp_path, lambda state: None)
    wary = Wary({"mean": trained.mean, "response": trained.response}, trained.header)
    result = Pipeline(wary, toys, RunOptions(samples=64), keep_samples=keep_samples)(toy_batch(4))
    assert result.meta["ood_score"].tolist() == [0.25, 1.5, 0.25, 1.5]
    assert ["out_of_distribution" in names(flags) for flags in result.meta["flags"]] == [
        False,
        True,
        False,
        True,
    ]
    assert result.meta["message"][1] == "unlike the spectra of the training (score 1.50): it is odd"
    assert result.meta["message"][0] == ""
    assert np.isfinite(result.summary.map[[0, 2]]).all() and np.isnan(result.summary.map[[1, 3]]).all()
    columns = catalogue.summarise(result, instrument="toy", model="toy")
    table = catalogue.build([columns], catalogue.schema(wary.labels, ["only"]), {})
    assert table["flag_bad"].tolist() == [False, True, False, True]
    assert table["ood_score"].tolist() == [0.25, 1.5, 0.25, 1.5]


def test_an_estimator_that_cannot_tell(toys, tmp_path):
    toy = fake_plugin.Toy.train({}, tmp_path, lambda state: None)
    result = Pipeline(toy, toys, RunOptions(samples=64))(toy_batch(3))
    assert np.isnan(result.meta["ood_score"]).all() and not is_bad(result.meta["flags"]).any()
    columns = catalogue.summarise(result, instrument="toy", model="toy")
    table = catalogue.build([columns], catalogue.schema(toy.labels, ["only"]), {})
    assert table["ood_score"].mask.all()


# The table --------------------------------------------------------------------------------------


def test_table(model, grid, plugins):
    some = [kind for kind in KINDS if kind.name in ("in range", "swapped arms", "one arm missing")]
    steps = []
    table = ood_table(
        model, grid, plugins, [50.0, 100.0], n_stars=16, n_samples=32, kinds=some,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert list(table.columns) == list(ood.COLUMNS) and len(table) == 6
    assert steps[-1][0] == steps[-1][1] == 2 * 3 * 16
    row = {(r["kind"], r["snr"]): r for r in table}
    assert row["swapped arms", 100.0]["detected"] >= row["swapped arms", 100.0]["ood"] > 0.8
    assert row["swapped arms", 100.0]["message"]
    assert row["in range", 100.0]["detected"] <= 0.07
    assert (
        0.0 <= row["one arm missing", 50.0]["inside_68"] <= row["one arm missing", 50.0]["inside_95"] <= 1.0
    )
    assert table["inside_68"].mask[1]


def test_command(model, folder, plugins, monkeypatch):
    monkeypatch.setattr(models, "find", lambda *a, **k: SimpleNamespace(name="tiny", sha256=lambda: "0" * 64))
    monkeypatch.setattr(models, "load", lambda *a, **k: model)
    monkeypatch.setattr("specinn.cli.evaluate._task.plugins_of", lambda ctx: plugins)
    out, grid = folder / "ood.ecsv", str(folder / "grid.h5")
    command = ["evaluate", "ood", "tiny", grid, "--samples", "16", "--snr", "50", "--split", "validation"]
    result = CliRunner().invoke(app, [*command, "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert all(kind.name in result.stdout for kind in KINDS) and "…" not in result.stdout
    table = Table.read(out)
    assert table.colnames == list(ood.COLUMNS) and len(table) == len(KINDS)
    rows = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["ood"]
    assert [row["kind"] for row in rows] == [kind.name for kind in KINDS] and rows[1]["inside_68"] is None
    result = CliRunner().invoke(app, ["evaluate", "tiny", "--strangers", "--stars", "stars.csv"])
    assert result.exit_code == 1 and "--grid GRID" in result.stderr


def test_table_of_a_model_without_signs(plain, grid, plugins):
    some = [kind for kind in KINDS if kind.name in ("in range", "white noise")]
    table = ood_table(plain, grid, plugins, [50.0], n_stars=8, n_samples=16, kinds=some)
    assert (table["ood"] == 0).all() and (table["detected"][0] == 0) and table["score"].mask.all()


@pytest.mark.parametrize("wrong", [{"snr": []}, {"snr": [-1.0]}, {"n_stars": 1}])
def test_wrong_options(model, grid, plugins, wrong):
    with pytest.raises(ConfigError, match="expected"):
        ood_table(model, grid, plugins, **wrong)


# The bundled model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    plugins = Plugins()
    result = models.find(plugins, None)
    if "ood" not in result.header:
        pytest.skip(f"the bundled model {result.name} has no signs yet: fit_ood_signs adds them")
    return models.load(plugins, result)


def score_of(bundled, path, instrument="4most-hr", power=None):
    job = run.prepare(Plugins(), instrument=instrument, model=bundled, resolving_power=power, samples=16)
    (result,) = job.results(run.file_sources([path], Plugins()))
    return float(result.meta["ood_score"][0])


def test_bundled_model_takes_the_examples(bundled):
    assert all(score_of(bundled, path) < 1.0 for path in run.example_files())


def test_bundled_model_takes_real_stars(bundled, shared: Path):
    stars = read_benchmarks(shared / "data" / "spectra" / "stars.csv", bundled.labels)
    result = {s.star: score_of(bundled, s.file, s.instrument, s.resolving_power) for s in stars if s.in_range}
    assert len(result) >= 7 and not [name for name, score in result.items() if score > 1.0], result


def test_bundled_model_finds_what_is_out_of_distribution_and_survives_the_rest(bundled, emulated):
    table = ood_table(bundled, emulated, Plugins(), [250.0], n_stars=128, n_samples=64, split="all")
    certain = ("white noise", "flat continuum", "hot star", "H alpha and sky emission",
               "frame wrong by 50 km/s", "swapped arms", "2 dex below the bounds of [Fe/H]")  # fmt: skip
    for row in table:
        if row["kind"] in certain:
            wanted = 0.95
        elif row["expected"] != "flag":
            wanted = 0.03 if row["kind"] == "in range" else 0.06
        else:
            continue
        chance = 2.0 * np.sqrt(wanted * (1.0 - wanted) / 128)
        if row["kind"] in certain:
            assert row["bad"] >= wanted - chance, row["kind"]
        else:
            assert row["bad"] <= wanted + chance, row["kind"]


def test_flag_is_bad():
    assert Flag.OUT_OF_DISTRIBUTION == Flag.STRANGER == 65536
    assert names(65536) == ["out_of_distribution"] and is_bad(np.array([65536])).all()
