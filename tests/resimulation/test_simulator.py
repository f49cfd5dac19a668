"""Resimulation: spectra of known labels come back, with bands; every failure costs one line; the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import h5py
import numpy as np
import pytest
from astropy.table import Column, Table
from oracle import LABELS, TRUTH, WIDTH, Analytic, observe, plugins_in
from typer.testing import CliRunner, Result

from specinn import catalogue
from specinn.cli import app
from specinn.errors import ConfigError, PluginError
from specinn.instruments import Instrument
from specinn.lines import Line
from specinn.plugins import Plugins
from specinn.resimulation.result import Resimulation, Unsimulated, overall, windows
from specinn.resimulation.simulator import Resimulator
from specinn.simulation.model_spectra import Models
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import air_to_vacuum


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    return plugins_in(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(scope="module")
def made(plugins: Plugins, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with spectra of two files, their catalogue, and samples."""
    folder = tmp_path_factory.mktemp("made")
    tiny = Instrument.from_toml(plugins.record("instrument", "tiny").toml)
    files = [
        observe(folder / "two.txt", ["dwarf", "giant"], 120.0),
        observe(folder / "one.txt", ["warm"], 15.0, tiny),
    ]
    result = run(plugins, "run", "-i", "tiny", *files, folder / "lost.txt", "-o", folder / "cat.ecsv", "-q",
                 "--save-samples", folder / "samples.h5", "--samples", 1000, "--seed", 3)  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def run(plugins: Plugins, *arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], obj=plugins)


@pytest.fixture
def table(made: Path) -> Table:
    return catalogue.read(made / "cat.ecsv")


def test_D8_a_model_that_is_not_here_is_asked_for(table: Table, plugins: Plugins) -> None:
    table["model"] = ["my-model 0123456789ab"] * len(table)
    with pytest.raises(
        ConfigError, match=r"my-model 0123456789ab, which is not installed here.*--model FILE"
    ):
        Resimulator(table, plugins=plugins)


def resimulator(table: Table, plugins: Plugins, **options: Any) -> Resimulator:
    return Resimulator(table, plugins=plugins, synthesizer="analytic", **options)


def good(found: Iterator[Resimulation | Unsimulated]) -> list[Resimulation]:
    return [star for star in found if isinstance(star, Resimulation)]


# What comes back


@pytest.mark.slow
def test_what_is_left_is_the_noise(table: Table, plugins: Plugins) -> None:
    """Also at S/N 15, where noise shifts the continuum by 4 %."""
    stars = good(resimulator(table, plugins)())
    assert [star.id for star in stars] == ["dwarf", "giant", "warm"]
    for star in stars:
        truth = Models(Analytic(), star.instrument)(np.array([TRUTH[star.id]]), LABELS.names)[0]
        numbers = star.numbers()
        # the others were smoothed from R = 60 000 to 20 000, and their noise with them
        low, high = (0.85, 1.15) if star.id == "warm" else (0.15, 0.5)
        assert low < numbers["chi2"] < high and abs(numbers["mean"]) < 0.1 * numbers["noise"] + 0.05
        over = star.model / truth
        assert np.nanstd(over) < 0.01 and 0.9 < np.nanmean(over) < 1.1
        assert star.note == "" and (star.used <= star.good).all()
        assert numbers["n_pixels"] > numbers["n_pixels_used"] > 0


def test_the_continuum_of_the_model_is_fitted_to_noise_like_that_of_the_star(
    table: Table, plugins: Plugins
) -> None:
    """At S/N 15 the upper envelope of a noisy spectrum lies 4 % above that of a clean one."""

    class Quiet:
        standard_normal = staticmethod(np.zeros)

    simulator = resimulator(table, plugins, draws=0)
    whole = simulator._normalise
    simulator._normalise = lambda flux, star, rng: whole(flux, star, Quiet())  # type: ignore[method-assign,arg-type]
    assert good(simulator(rows=[2]))[0].numbers()["mean"] < -2.5


@pytest.mark.slow
def test_bands_are_those_of_the_posterior(table: Table, plugins: Plugins, made: Path) -> None:
    star = good(resimulator(table, plugins, draws=900)(rows=[0]))[0]
    best = np.array([star.labels[name] for name in LABELS.names])
    spectra = Models(Analytic(), star.instrument)
    draws = np.array(TRUTH["dwarf"]) + WIDTH * np.random.default_rng(1).normal(size=(900, 6))
    spread = spectra(draws, LABELS.names).std(axis=0)
    clear = star.good & (spread > 0.004)
    half = [
        0.5 * (star.bands[upper] - star.bands[lower])[clear] / spread[clear]
        for lower, upper in ((1, 2), (0, 3))
    ]
    assert np.median(half, axis=1) == pytest.approx([1.0, 1.96], rel=0.07)
    assert best == pytest.approx([float(table[name][0]) for name in LABELS.names])
    from_file = good(resimulator(table, plugins, samples=made / "samples.h5", draws=900)(rows=[0]))[0]
    assert from_file.bands == pytest.approx(star.bands, abs=2e-4, nan_ok=True)
    none = good(resimulator(table, plugins, draws=0)(rows=[0]))[0]
    assert np.isnan(none.bands).all() and none.model == pytest.approx(star.model, abs=0.003, nan_ok=True)


def test_what_is_not_determined_is_taken_in_the_middle_of_its_posterior(
    table: Table, plugins: Plugins, made: Path
) -> None:
    before = good(resimulator(table, plugins, draws=0)(rows=[0]))[0]
    table["undetermined"] = ["mg_fe", *[""] * (len(table) - 1)]
    for name in ("mg_fe", "mg_fe_median"):
        table[name] = np.ma.array(table[name], mask=[True] + [False] * (len(table) - 1))
    table["mg_fe_p16"][0], table["mg_fe_p84"][0] = -0.1, 0.3
    star = good(resimulator(table, plugins, samples=made / "samples.h5", draws=20)(rows=[0]))[0]
    assert star.labels == pytest.approx(dict(before.labels) | {"mg_fe": 0.1})
    assert np.isfinite(star.model[star.used]).all() and np.isfinite(star.bands[:, star.used]).all()
    del table["undetermined"]  # then nothing says why it has no value
    assert good(resimulator(table, plugins, draws=0)(rows=[0])) == []


def test_corrected_abundances_and_raw_parameters(table: Table, plugins: Plugins) -> None:
    for name, shift in (("teff", 150.0), ("mg_fe", 0.2)):
        table[f"{name}_raw"] = np.asarray(table[name]) - shift
    star = good(resimulator(table, plugins, draws=400)(rows=[0]))[0]
    assert star.labels["teff"] == pytest.approx(float(table["teff_raw"][0]))
    assert star.labels["mg_fe"] == pytest.approx(float(table["mg_fe"][0]))
    middle = np.nanmean(0.5 * (star.bands[1] + star.bands[2]) - star.model)
    assert abs(middle) < 0.003  # the samples moved along


def test_the_completion_of_labels() -> None:
    spectra = object.__new__(Models)
    spectra.labels = ("teff", "fe_h", "mg_fe", "a_li", "o_fe", "ni_fe")
    spectra.bounds = np.array(
        [[4000, 7000], [-2.5, 0.5], [-0.4, 0.6], [0, 4], [-0.4, 0.25], [-0.3, 0.3]], float
    )
    names = ("fe_h", "ca_fe", "mg_fe", "teff", "li_fe")
    values, beyond = spectra.complete(np.array([[-1.0, 0.3, 0.1, 5000.0, 0.5]]), names)
    assert values[0] == pytest.approx([5000.0, -1.0, 0.1, 0.55, 0.2, 0.0]) and beyond == []
    values, beyond = spectra.complete(np.array([[-1.0, 0.3, 0.9, 5000.0, 0.5]]), names)
    assert values[0] == pytest.approx([5000.0, -1.0, 0.6, 0.55, 0.25, 0.0]) and beyond == ["mg_fe"]
    with pytest.raises(ConfigError, match="needs teff, but the model infers fe_h"):
        spectra.complete(np.zeros((1, 1)), ["fe_h"])


def test_rotation(plugins: Plugins) -> None:
    spectra = Models(Analytic(), Instrument.from_toml(plugins.record("instrument", "tiny").toml))
    values = np.array([[*TRUTH["dwarf"], v] for v in (0.0, 30.0)])
    slow, fast = spectra(values, (*LABELS.names, "vbroad"))
    assert slow == pytest.approx(spectra(values[:1, :6], LABELS.names)[0], abs=1e-6)
    assert fast.min() > slow.min() + 0.1 and fast.mean() == pytest.approx(slow.mean(), abs=2e-3)


# Which star is which


@pytest.mark.slow
def test_files_rows_and_failures(table: Table, plugins: Plugins, made: Path, tmp_path: Path) -> None:
    simulator = resimulator(table, plugins, draws=0, respond=False)
    *stars, lost = list(simulator())
    assert [star.row for star in stars] == [0, 1, 2] and isinstance(lost, Unsimulated)
    assert lost.row == 3 and "no such file" in lost.message
    assert [star.id for star in simulator([made / "one.txt"])] == ["warm"]
    assert [star.id for star in simulator(rows=[1])] == ["giant"]
    moved = observe(
        tmp_path / "two.txt", ["warm", "giant"], 120.0
    )  # found by its name; warm is in another file
    other = observe(tmp_path / "other.txt", ["dwarf"], 120.0)
    result = list(simulator([moved, other, tmp_path / "none.txt"]))
    assert [(star.id, star.row) for star in result] == [
        ("warm", -1),
        ("giant", 1),
        ("dwarf", -1),
        ("none.txt", -1),
    ]
    assert result[0].message == result[2].message == "the catalogue has no row for this spectrum"  # type: ignore[union-attr]
    table["path"] = [str(made / "two.txt"), "elsewhere/two.txt", *table["path"][2:]]
    simulator = resimulator(table, plugins, draws=0)
    assert "2 files called two.txt" in next(iter(simulator([moved]))).message  # type: ignore[union-attr]
    assert [s.id for s in simulator([made / "two.txt"]) if isinstance(s, Resimulation)] == ["dwarf"]


def test_a_star_that_fails_costs_its_own_line(
    table: Table, plugins: Plugins, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table["flags"][0], table["message"][0] = 4, "the flux is constant"
    result = list(resimulator(table, plugins, draws=0)([made / "two.txt"]))
    assert isinstance(result[0], Unsimulated) and result[0].message == "the flux is constant"
    assert isinstance(result[1], Resimulation)
    simulator = resimulator(table, plugins, draws=0)
    monkeypatch.setattr(Analytic, "broken", True)
    (broken,) = simulator(rows=[1])
    assert isinstance(broken, Unsimulated)
    assert broken.message == "could not be resimulated: RuntimeError: the code crashed"


@pytest.mark.slow
def test_samples_that_are_not_those_of_the_catalogue_are_noticed(table: Table, plugins: Plugins) -> None:
    table["logg_median"] += 0.2
    star = good(resimulator(table, plugins)(rows=[0]))[0]
    assert star.note.startswith("samples drawn again differ from the catalogue in logg: ")
    table["logg"] = 5.3
    star = good(resimulator(table, plugins)(rows=[0]))[0]
    assert star.note.endswith("logg beyond the bounds of the synthesizer, taken at the bound")


def test_what_does_not_go_together(table: Table, plugins: Plugins, made: Path, tmp_path: Path) -> None:
    def fails(message: str, of: Table = table, **options: Any) -> None:
        with pytest.raises((ConfigError, PluginError), match=message):
            Resimulator(of, plugins=plugins, **{"synthesizer": "analytic", **options})

    fails("no synthesizer is called 'marcs'; there are analytic, emulator", synthesizer="marcs")
    fails("draws -1: expected a number", draws=-1)
    fails(
        "the catalogue lacks flags, rv: was it written",
        table[[n for n in table.colnames if n not in ("rv", "flags")]],
    )
    fails("the catalogue lacks mg_fe, which knows infers", table[[n for n in table.colnames if n != "mg_fe"]])
    two = table.copy()
    two["model"] = Column(["knows 0", "other", "other", ""])
    fails(r"is of 2 models \(knows 0, other\)", two)
    two["model"] = Column(["knows 0123456789ab"] * len(two))
    fails("was made with the model knows 0123456789ab, .* is [0-9a-f]{12}: give the right file", two)
    fails("holds 4 stars that are not those of the catalogue", table[:3], samples=made / "samples.h5")
    (tmp_path / "letter.h5").write_text("dear friend")
    fails("letter.h5 is not a file of specinn run --save-samples", samples=tmp_path / "letter.h5")


# Windows and numbers


def test_windows(table: Table, plugins: Plugins) -> None:
    star = good(resimulator(table, plugins, draws=0)(rows=[0]))[0]
    assert set(star.response) == {"Fe", "Mg", "Li"}
    lines = [Line("Mg I", 5183.60, 2.0, True), Line("Mg I", 5190.0, 0.35), Line("Mg I", 5190.5, 0.35),
             Line("Mg I", 5200.0, 0.35), Line("Mg I", 5300.0, 0.35, True), Line("H I", 6500.0, 12.0),
             Line("Ti I", 5195.0, 0.35, True)]  # fmt: skip
    strong = np.full(star.wavelength.size, 0.01)
    strong[np.abs(star.wavelength - 5190.5) < 0.25] = 0.03
    shown = attrs.evolve(star, response={"Mg": strong})
    result = windows(shown, lines=lines)
    # 5190.5 answers more than 5190.0 and has no room beside it; 5300 is in no arm; nobody infers Ti
    assert [(w.element, w.line.wavelength) for w in result] == [
        ("H", 6500.0),
        ("Mg", 5183.6),
        ("Mg", 5190.5),
        ("Mg", 5200.0),
    ]
    assert [w.line.wavelength for w in windows(shown, 2, lines) if w.element == "Mg"] == [5183.6, 5190.5]
    assert (result[1].low, result[1].high) == pytest.approx((5183.6 - 3.2, 5183.6 + 3.2))
    fast = attrs.evolve(shown, labels={"vbroad": 80.0})
    assert windows(fast, lines=lines)[1].high == pytest.approx(5190.5 + 1.8 * 80 / 299792.458 * 5190.5)
    weak = attrs.evolve(shown, response={"Mg": np.full(star.wavelength.size, 0.001)}, labels={})
    assert [w.line.wavelength for w in windows(weak, lines=lines)] == [5183.6]  # a diagnostic line stays
    vacuum = attrs.evolve(weak, instrument=attrs.evolve(star.instrument, medium="vacuum"))
    centre = 0.5 * sum((windows(vacuum, lines=lines)[0].low, windows(vacuum, lines=lines)[0].high))
    assert centre == pytest.approx(float(air_to_vacuum(np.array([5183.6]))[0]))
    gap = attrs.evolve(weak, flux=np.where(np.abs(star.wavelength - 5183.6) < 0.4, np.nan, star.flux))
    assert windows(gap, lines=lines) == []


def test_numbers_of_all_stars(table: Table, plugins: Plugins) -> None:
    stars = good(resimulator(table, plugins, draws=0)())
    total = overall([star.numbers() for star in stars])
    off = np.concatenate([star.residual[star.good] for star in stars])
    assert total["n_pixels"] == off.size
    assert total["mean_abs"] == pytest.approx(100 * np.abs(off).mean())
    assert total["std"] == pytest.approx(100 * off.std()) and total["mean"] == pytest.approx(100 * off.mean())
    unused = attrs.evolve(stars[0], used=np.zeros(stars[0].used.size, bool)).numbers()
    assert unused["n_pixels_used"] == 0 and unused["mean_used"] is None
    assert overall([unused])["chi2_used"] is None and overall([])["n_pixels"] == 0
    assert overall([unused, stars[1].numbers()])["mean_used"] == stars[1].numbers()["mean_used"]


# The command


@pytest.mark.slow
def test_the_command(made: Path, plugins: Plugins, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--synthesizer", "analytic", "--draws", 50, "-o", out)
    result = run(plugins, "resimulate", made / "cat.ecsv", *options, "--figures", 1, "--save-spectra")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0].startswith("specinn: figures are drawn for the first 1 of 4 stars")
    assert len(result.stderr.splitlines()) == 2 and "no such file" in result.stderr
    assert "all 3" in result.stdout and "3 stars, 1 without a model spectrum" in result.stdout
    names = ("00000-dwarf-lines", "00000-dwarf-spectrum", "lines", "mean-residual")
    expected = {f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")}
    assert {path.name for path in (out / "figures").iterdir()} == expected
    assert all(path.stat().st_size > 5000 for path in (out / "figures").iterdir())
    table = Table.read(out / "stars.ecsv")
    assert table["id"].tolist()[:3] == ["dwarf", "giant", "warm"] and table["mean"].mask.tolist() == [
        False
    ] * 3 + [True]
    assert (
        table["mean_abs"].unit == "percent" and table.meta["overall"]["n_pixels"] == table["n_pixels"].sum()
    )
    star = good(resimulator(catalogue.read(made / "cat.ecsv"), plugins, draws=50)(rows=[1]))[0]
    with h5py.File(out / "spectra.h5") as file:
        assert file["id"].asstr()[:].tolist() == ["dwarf", "giant", "warm"]
        for name in ("flux", "sigma", "model", "bands", "used"):
            assert file[name][1] == pytest.approx(getattr(star, name), rel=1e-5, nan_ok=True), name
        assert file["wavelength"][:] == pytest.approx(star.wavelength)
    again = run(plugins, "resimulate", made / "cat.ecsv", *options)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    (out / "thesis.tex").write_text("mine")
    again = run(plugins, "resimulate", made / "cat.ecsv", *options, "--overwrite")
    assert again.exit_code == 1 and "it holds thesis.tex" in again.stderr


@pytest.mark.slow
def test_json_and_nothing_to_show(made: Path, plugins: Plugins, tmp_path: Path) -> None:
    options = ("--synthesizer", "analytic", "--draws", 0, "--figures", 0, "--json")
    result = run(plugins, "resimulate", made / "cat.ecsv", made / "one.txt", *options, "-o", tmp_path / "a")
    said = json.loads(result.stdout)
    assert (
        result.exit_code == 0
        and said["stars"][0]["id"] == "warm"
        and said["meta"]["synthesizer"] == "analytic"
    )
    assert said["overall"]["mean_abs"] == said["stars"][0]["mean_abs"]
    assert not list((tmp_path / "a" / "figures").iterdir())
    (tmp_path / "none").write_text("dear friend")
    result = run(plugins, "resimulate", made / "cat.ecsv", tmp_path / "none", *options, "-o", tmp_path / "b")
    assert result.exit_code == 1 and "no star could be resimulated" in result.stderr
    assert Table.read(tmp_path / "b" / "stars.ecsv")["row"].tolist() == [-1]


def test_an_interrupted_run_keeps_what_it_has(
    made: Path, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Resimulator.star

    def stop(self: Resimulator, star: SpectrumBatch, row: int) -> Resimulation:
        if row == 1:
            raise KeyboardInterrupt
        return whole(self, star, row)

    monkeypatch.setattr(Resimulator, "star", stop)
    options = ("--synthesizer", "analytic", "--draws", 0, "--figures", 0, "-o", tmp_path / "out")
    result = run(plugins, "resimulate", made / "cat.ecsv", *options)
    assert result.exit_code == 130 and "stopped" in result.stderr
    assert Table.read(tmp_path / "out" / "stars.ecsv")["id"].tolist() == ["dwarf"]


@pytest.mark.slow
def test_real_stars_with_the_bundled_model(shared: Path, tmp_path: Path) -> None:
    installed = Plugins()
    files = [shared / "data" / "spectra" / name for name in ("hd22879_narval.fits", "procyon_uvespop.fits")]
    result = run(installed, "run", "-i", "narval", *files, "-o", tmp_path / "cat.fits", "-q")
    assert result.exit_code == 0, result.output
    stars = good(Resimulator(catalogue.read(tmp_path / "cat.fits"), plugins=installed, draws=20)())
    assert [star.note for star in stars] == ["", ""]
    for star, limit in zip(stars, (0.5, 0.9), strict=True):
        numbers = star.numbers()
        assert numbers["mean_abs_used"] < limit and numbers["mean_abs"] < 2 * limit
        assert {w.element for w in windows(star)} >= {"H", "Fe", "Ca", "Mg", "Si", "Ti", "Li"}
