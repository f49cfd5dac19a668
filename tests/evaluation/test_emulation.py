"""Emulators against the spectra of a grid, and fits with them."""

import json

import attrs
import numpy as np
import pytest
import tiny_grid
from specinn_emulator.emulator import Emulator
from typer.testing import CliRunner

from specinn.errors import ConfigError, GridError
from specinn.evaluation.emulation import arm_rows, compare, draw, fits, metrics
from specinn.grids import Grid
from specinn.plugins import Synthesizer

BOUNDS = np.stack([tiny_grid.LOW, tiny_grid.HIGH], axis=1)


@attrs.define(eq=False)
class Formula(Synthesizer):
    """The spectra of the grid themselves, of stars hotter than asked for by ``hotter`` K."""

    hotter: float = 0.0
    wavelength: np.ndarray = tiny_grid.WAVELENGTH
    arms: dict = attrs.field(factory=lambda: dict(tiny_grid.ARMS))
    operator: object = None
    labels = tiny_grid.LABELS
    bounds = BOUNDS
    resolving_power = tiny_grid.NATIVE
    medium = "air"

    def __call__(self, labels):
        shift = self.hotter * (np.arange(len(self.labels)) == 0)
        flux = tiny_grid.flux_of(np.asarray(labels, float) + shift).astype(float)
        return flux if self.operator is None else (self.operator @ flux.T).T

    def resampled(self, wavelength, arms, operator):
        return attrs.evolve(self, wavelength=wavelength, arms=dict(arms), operator=operator)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return tiny_grid.make_grid(160)


@pytest.fixture(scope="module")
def exact(grid):
    return compare(Formula(), grid)


@pytest.fixture(scope="module")
def biased(grid):
    return compare(Formula(hotter=100.0), grid)


def test_a_perfect_emulator_has_no_errors_and_fits_at_the_limit(exact, grid):
    assert len(exact.flux) == len(grid.split("test"))
    assert np.abs(exact.difference).max() < 1e-6
    assert len(compare(Formula(), grid, split="all").flux) == len(grid)
    rows = fits(exact, n_stars=24)
    assert [row["label"] for row in rows] == list(grid.labels)
    ratios = np.array([row["ratio"] for row in rows])
    assert (ratios > 0.5).all() and (ratios < 1.6).all() and 0.75 < ratios.mean() < 1.25


def test_the_bound_scales_with_the_noise_and_a_bias_does_not(exact, biased):
    assert np.sqrt(np.square(biased.difference).mean()) > 1e-3
    quiet, noisy = (fits(exact, snr=snr, n_stars=8)[0]["bound"] for snr in (1000.0, 250.0))
    assert noisy == pytest.approx(4 * quiet, rel=0.05)
    (teff, *others) = fits(biased, snr=1000.0, n_stars=8)
    assert teff["error"] * 0.6745 == pytest.approx(100.0, abs=5.0) and teff["ratio"] > 5
    assert all(row["ratio"] < 2.5 for row in others)


def test_the_errors_are_of_stars_arms_and_wavelengths(biased):
    rows = {row["arm"]: row for row in arm_rows(biased)}
    assert list(rows) == ["green", "red", "all"]
    for row in rows.values():
        assert 0 < row["p5"] <= row["median"] <= row["p95"] <= row["largest"]
    green, red = (np.square(biased.rms(arm)) for arm in ("green", "red"))
    sizes = [arm.stop - arm.start for arm in biased.arms.values()]
    assert np.square(biased.rms()) == pytest.approx(np.average([green, red], axis=0, weights=sizes))
    stated = metrics(biased)
    assert stated["by_arm"]["red"]["0.5"] == pytest.approx(rows["red"]["median"])
    assert sum(row["stars"] for row in stated["by_teff"]) == stated["stars"] == len(biased.flux)
    figure = draw(biased)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["green arm", "red arm"]


def test_two_pixels_per_resolution_element_inside_the_arms(exact):
    for name, arm in exact.arms.items():
        wave = exact.wavelength[arm]
        low, high = tiny_grid.SEGMENTS[name]
        assert low + 2 < wave[0] and wave[-1] < high - 2
        assert np.diff(wave) == pytest.approx(wave.mean() / 40_000, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": ("teff", "logg")}, GridError, "the emulator has the labels teff, logg, the grid"),
        ({"resolving_power": 9000.0}, GridError, "the emulator has a resolving power of 9000: expected"),
        (
            {"arms": {"blue": slice(0, 1600)}},
            GridError,
            "the grid has the arms green, red, the emulator",
        ),
    ],
)
def test_what_does_not_fit_is_refused(grid, changes, error, message):
    other = Formula()
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    with pytest.raises(error, match=message):
        compare(other, grid)


def test_wrong_numbers_are_refused(exact, grid):
    with pytest.raises(ConfigError, match="snr = -1: expected a positive number"):
        fits(exact, snr=-1.0)
    with pytest.raises(ConfigError, match="n_stars = 0"):
        fits(exact, n_stars=0)
    with pytest.raises(GridError, match="no spectra in the split 'test'"):
        compare(Formula(), tiny_grid.make_grid(1), split="test")


def test_the_command(tmp_path, grid, monkeypatch):
    from specinn.cli import app

    path = tmp_path / "grid.h5"
    grid.save(path)
    monkeypatch.setattr(Emulator, "load", classmethod(lambda cls, path=None: Formula(hotter=50.0)))
    command = ["evaluate", "emulator", "bundled", str(path), "--fits", "3"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "3 fits at S/N 250" in done.output and "green" in done.output
    assert (tmp_path / "out/figures/errors.pdf").is_file() and (tmp_path / "out/tables/fits.ecsv").is_file()
    done = CliRunner().invoke(app, [*command, "--json"])
    answer = json.loads(done.stdout)
    assert [row["arm"] for row in answer["arms"]] == ["green", "red", "all"]
    assert answer["metrics"]["stars"] == answer["arms"][0]["stars"] > 0
