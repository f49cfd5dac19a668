"""Saliency: gradients of estimators, the line table, features, the command; the bundled model's lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
import specinn_turbospectrum
import torch
from astropy.table import Table
from known_grid import make_grid
from typer.testing import CliRunner, Result

from specinn import models
from specinn.cli import app
from specinn.errors import ConfigError, GridError, ModelError
from specinn.evaluation.saliency import Saliency, draw, pixel_table, saliency
from specinn.evaluation.simulation import Simulation
from specinn.grids import Grid
from specinn.instruments import Arm, Instrument, PixelGrid, ResolvingPower
from specinn.labels import LabelSet, make_label
from specinn.lines import Line, lines_near, read_lines
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import EstimatorRecord, hookimpl
from specinn.plugins.interfaces import Estimator
from specinn.spectra import SpectrumBatch
from specinn.wavelengths import air_to_vacuum

pytestmark = pytest.mark.slow


class Glass(fake_plugin.Toy):
    """The toy model, whose posterior mean is linear in the flux; derivatives of t and not of the labels."""

    def gradients(self, batch: SpectrumBatch, n_samples: int, seed: int) -> np.ndarray:
        out = np.empty((len(batch), *self.response.shape))
        for i in range(len(batch)):
            _, covariance = self._gaussian(batch, i)
            out[i] = covariance @ (self.response * np.where(batch.mask[i], 0.0, 1.0 / batch.sigma[i] ** 2))
        return out


class Offers:
    @hookimpl
    def specinn_estimators(self) -> list[EstimatorRecord]:
        return [EstimatorRecord(name="glass", summary="linear", factory=f"{__name__}:Glass")]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins([], {"fake": fake_plugin, "glass": Offers(), "grids": specinn_turbospectrum})


@pytest.fixture(scope="module")
def grid() -> Grid:
    return make_grid(120)


@pytest.fixture(scope="module")
def glass(tmp_path_factory: pytest.TempPathFactory) -> Glass:
    toy = fake_plugin.Toy.train({}, tmp_path_factory.mktemp("toy"), lambda state: None)
    return Glass({"mean": toy.mean, "response": toy.response}, {**toy.header, "estimator": "glass"})


def test_the_gradient_of_a_linear_model(glass: Glass, grid: Grid, plugins: Plugins) -> None:
    result = saliency(glass, grid, plugins=plugins)
    _, _, batch = next(Simulation(glass, grid, plugins).batches(np.arange(1), [250.0]))
    gradient = glass.gradients(batch, 1, 0)[0]  # the same for every spectrum: sigma is
    assert result.n_spectra == len(grid.split("test"))
    expected = gradient / np.linalg.norm(gradient, axis=1)[:, None]
    assert result.signed == pytest.approx(expected, abs=1e-6)
    assert result.strength == pytest.approx(np.abs(expected), abs=1e-6)
    assert np.linalg.norm(result.strength, axis=1) == pytest.approx(1.0, abs=1e-5)
    for label in glass.labels:
        first, second = (row for row in result.features(2, lines=[]) if row["label"] == label.name)
        at = sorted([first["wavelength"], second["wavelength"]])
        assert at == pytest.approx(fake_plugin.CENTRES[label.name], abs=0.2)
        assert first["signed"] < 0 and first["species"] is None and first["line"] is None


class Restless(Glass):
    """Gradients of odd keys point the other way; those of the keys ``lost`` do not exist."""

    lost: tuple[int, ...] = ()

    def gradients(self, batch: SpectrumBatch, n_samples: int, seed: int) -> np.ndarray:
        out = super().gradients(batch, n_samples, seed)
        keys = np.asarray(batch.meta["key"])
        out[keys % 2 == 1] *= -7.0
        out[np.isin(keys, self.lost)] = 0.0
        return out


def test_every_spectrum_counts_alike_and_those_without_gradient_do_not(
    glass: Glass, grid: Grid, plugins: Plugins
) -> None:
    restless = Restless({"mean": glass.mean, "response": glass.response}, glass.header)
    rows = grid.split("test")
    plain, result = saliency(glass, grid, plugins=plugins), saliency(restless, grid, plugins=plugins)
    assert result.strength == pytest.approx(plain.strength, abs=1e-7)
    assert np.abs(result.signed).max() <= result.strength.max() + 1e-7
    restless.lost = tuple(rows[rows % 2 == 1])
    even = saliency(restless, grid, plugins=plugins)
    assert even.n_spectra == (rows % 2 == 0).sum() and even.signed == pytest.approx(plain.signed, abs=1e-7)
    restless.lost = tuple(rows)
    with pytest.raises(GridError, match="no spectrum of the grid has a gradient"):
        saliency(restless, grid, plugins=plugins)


def test_options(glass: Glass, grid: Grid, plugins: Plugins) -> None:
    said: list[tuple[int, int]] = []
    result = saliency(
        glass, grid, n_spectra=7, plugins=plugins, progress=lambda done, total: said.append((done, total))
    )
    assert result.n_spectra == 7 and said[-1] == (7, 7)
    for options in ({"snr": 0.0}, {"snr": np.nan}, {"n_spectra": 0}, {"n_samples": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="expected a positive S/N"):
            saliency(glass, grid, plugins=plugins, **options)  # type: ignore[arg-type]
    with pytest.raises(GridError, match="no split 'exam'"):
        saliency(glass, grid, split="exam", plugins=plugins)
    with pytest.raises(GridError, match="infers a_li, which the grid does not have"):
        saliency(glass, attrs.evolve(grid, labels=("teff", "logg", "fe_h", "mg_fe", "o_fe")), plugins=plugins)
    toy = fake_plugin.Toy({"mean": glass.mean, "response": glass.response}, glass.header)
    with pytest.raises(
        ModelError, match="Toy does not provide the derivatives of its labels with respect to the flux"
    ):
        saliency(toy, grid, plugins=plugins)


# Features and lines


def spectrum(strength: dict[float, float], medium: str = "air") -> Saliency:
    """One label on pixels of 0.1 Angstrom from 5160 to 5260, of the given strength at some wavelengths."""
    arm = Arm("green", (5160.0, 5260.0), ResolvingPower.parse(20000), PixelGrid(1001, (5160.0, 100.0)))
    instrument = Instrument("short", "", (arm,), medium)  # type: ignore[arg-type]
    values = np.zeros((1, 1001))
    for wavelength, value in strength.items():
        values[0, round((wavelength - 5160.0) / 0.1)] = value
    labels = LabelSet((make_label("mg_fe", (-0.5, 0.5)),))
    return Saliency(labels, instrument, values, -values, np.ones(1001, bool), 9)


LINES = [Line("Mg I", 5183.60, 2.0, True), Line("Fe I", 5183.9, 0.35), Line("Fe II", 5234.62, 0.35)]


def test_features_are_named_by_the_nearest_line() -> None:
    result = spectrum(
        {5183.6: 0.5, 5182.0: 0.45, 5234.7: 0.4, 5235.1: 0.39, 5250.0: 0.3, 5250.3: 0.29, 5200.0: 1e-4}
    )
    rows = result.features(9, LINES)
    assert [(row["rank"], row["species"], row["line"]) for row in rows] == [
        (1, "Mg I", 5183.60),  # and not its wing once more
        (2, "Fe II", 5234.62),  # the next pixel is part of it
        (3, None, None),  # one feature, not two
    ]
    assert rows[0]["diagnostic"] and not rows[1]["diagnostic"] and rows[0]["others"] == "Fe I 5183.90"
    assert rows[2]["wavelength"] == pytest.approx(5250.0) and rows[2]["signed"] == -0.3
    assert len(result.features(2, LINES)) == 2
    nearer = spectrum({5184.0: 0.5}).features(1, LINES)[0]
    assert nearer["species"] == "Fe I" and nearer["others"] == "Mg I 5183.60"


def test_names_are_found_in_vacuum_too() -> None:
    centre = float(air_to_vacuum(np.array([5234.62]))[0])
    row = spectrum({round(centre, 1): 1.0}, "vacuum").features(1, LINES)[0]
    assert row["species"] == "Fe II" and row["wavelength"] == pytest.approx(centre, abs=0.06)


def test_unused_pixels_are_no_features() -> None:
    result = spectrum({5183.6: 0.5, 5234.6: 0.4})
    used = np.abs(result.wavelength - 5183.6) > 0.05
    assert [row["species"] for row in attrs.evolve(result, used=used).features(5, LINES)] == ["Fe II"]


def test_the_line_table() -> None:
    lines = read_lines()
    assert [line.wavelength for line in lines] == sorted(line.wavelength for line in lines)
    assert len({line.name for line in lines}) == len(lines) > 300
    diagnostic = [line for line in lines if line.diagnostic]
    assert len(diagnostic) == 38  # of Table 5, the 42 lines there with Li I as one and 16 + 12 + 4 + 5 others
    names = {line.name for line in diagnostic}
    assert {
        "Li I 6707.81",
        "Mg I 5167.32",
        "Mg I 5172.68",
        "Mg I 5183.60",
        "Mg I 5528.41",
        "Mg I 5711.09",
    } <= names
    wide = {line.name for line in lines if line.reach != 0.35}
    assert {"H I 6562.80", "Mg I 5167.32", "Mg I 5172.68", "Mg I 5183.60", "Li I 6707.81"} <= wide
    blue = {"Ca II 3933.66", "Ca II 3968.47", "H I 3970.07", "H I 4101.73", "Ca I 4226.73", "H I 4340.46"}
    assert {name for name in wide if float(name.split()[-1]) < 4400} == blue and len(wide) == 11
    assert lines_near(6708.04, lines)[0].name == "Li I 6707.81" and not lines_near(6000.0, lines)


# Teff, logg, [Fe/H], A(Li): in one of them or another each line is neither absent nor saturated
STARS = [
    (5772.0, 4.44, 0.0, 3.3),
    (4700.0, 2.5, -0.2, 1.0),
    (4200.0, 1.6, -0.3, 0.5),
    (6500.0, 4.1, 0.0, 2.3),
    (5000.0, 2.0, -2.0, 0.0),
    (6000.0, 4.0, -2.8, 0.0),
]


def test_lines_are_where_synthetic_spectra_answer_to_their_element() -> None:
    from specinn_emulator.emulator import Emulator

    emulator = Emulator.load()
    names = list(emulator.labels)
    at = dict(zip(("teff", "logg", "fe_h", "a_li"), np.transpose(STARS), strict=True)) | {"vmic": [1.4] * 6}
    values = torch.tensor(np.transpose([at.get(name, np.zeros(6)) for name in names]), dtype=torch.float32)

    def response(name: str) -> np.ndarray:
        step = torch.zeros_like(values)
        step[:, names.index(name)] = 1.0
        derivative: np.ndarray = -torch.autograd.functional.jvp(emulator, values, step)[1].numpy()
        return derivative

    answers = {name: response(name) for name in names if name.endswith("_fe") or name in ("fe_h", "a_li")}
    iron = answers["fe_h"] - sum(answers[name] for name in answers if name.endswith("_fe"))
    carriers = {"C2": "c_fe", "CH": "c_fe", "CN": "n_fe", "MgH": "mg_fe", "Li": "a_li"}
    checked = 0
    for line in read_lines():
        element = line.species.split()[0]
        name = carriers.get(element, f"{element.lower()}_fe")
        if element != "Fe" and name not in answers:
            continue  # an element that goes with iron in the grid, or hydrogen
        near = np.abs(emulator.wavelength - line.wavelength) < 0.35
        offset, answer = (
            emulator.wavelength[near] - line.wavelength,
            (iron if element == "Fe" else answers[name])[:, near],
        )
        at_line = answer[:, np.abs(offset) < 0.06].max(axis=1)
        peak = answer[:, np.abs(offset) < 0.2].max(axis=1)
        # the core of a saturated line does not answer, but both of its flanks do
        flanks = np.minimum(answer[:, offset < -0.06].max(axis=1), answer[:, offset > 0.06].max(axis=1))
        at_peak, between = (
            (at_line > 0.85 * peak) & (at_line > 0.01),
            (flanks > 0.5 * peak) & (flanks > at_line) & (flanks > 0.1),
        )
        assert (at_peak | between).any(), (line, np.round(at_line, 3), np.round(peak, 3))
        checked += 1
    assert checked > 280


# The bundled model


@pytest.fixture(scope="module")
def bundled() -> Estimator:
    everything = Plugins()
    return models.load(everything, models.find(everything, "4most-hr"))


def test_gradients_of_the_flow_are_those_of_its_samples(bundled: Any) -> None:
    instrument, pixels = bundled.instrument, bundled.encoding.pixels.numpy()
    flux = np.ones((2, instrument.wavelength.size))
    flux[:, pixels] = bundled.encoding.mean.numpy()
    flux[1] = 0.7 * flux[1] + 0.3
    mask = np.zeros(flux.shape, bool)
    mask[0, 2000:3000] = True
    batch = SpectrumBatch(instrument.wavelength, flux, np.full_like(flux, 0.02), mask, arms=instrument.slices,
                          meta=Table({"id": ["a", "b"], "path": ["", ""], "key": [5, 9]}))  # fmt: skip
    gradient = bundled.gradients(batch, 50, 3)
    assert gradient.shape == (2, len(bundled.labels), flux.shape[1]) and np.isfinite(gradient).all()
    assert not gradient[0, :, 2000:3000].any() and gradient[1, :, 2000:3000].any()
    assert not gradient[:, :, ~bundled.used_pixels].any() and bundled.used_pixels.sum() == len(pixels)
    direction = np.random.default_rng(0).normal(size=flux.shape[1])
    step = 3e-3 * direction / np.linalg.norm(direction) * np.sqrt(direction.size) * 0.1
    up, down = (
        bundled.sample(attrs.evolve(batch, flux=flux + s), 50, 3).samples.mean(1, float)
        for s in (step, -step)
    )
    assert (gradient * step).sum(2) == pytest.approx(
        0.5 * (up - down), rel=0.05, abs=2e-3 * np.abs(up - down).max(0).mean()
    )
    alone = bundled.gradients(batch[1:], 50, 3)
    assert alone[0] == pytest.approx(gradient[1], rel=1e-3, abs=1e-3 * float(np.abs(gradient[1]).max()))


def test_the_bundled_model_looks_at_the_right_lines(bundled: Any, emulated: Grid) -> None:
    result = saliency(bundled, emulated, n_spectra=60, split="all", plugins=Plugins())
    assert result.n_spectra == 60
    rows = result.features(10)
    lines = {label.name: [f"{row['species']} {row['line']}" for row in rows if row["label"] == label.name]
             for label in result.labels}  # fmt: skip
    assert lines["a_li"][0] == "Li I 6707.81"
    assert "Li I 6103.65" in lines["a_li"][:3]
    assert "Ba II 6141.71" in lines["ba_fe"][:2]
    assert set(lines["mg_fe"]) >= {
        "Mg I 5711.09",
        "Mg I 5528.41",
        "Mg I 5183.6",
        "Mg I 5172.68",
        "Mg I 5167.32",
    }
    table = read_lines()
    for name in ("na_fe", "si_fe", "ca_fe", "ti_fe", "mn_fe", "co_fe", "ni_fe", "y_fe"):
        # in the blue a feature may have the name of a neighbour: lines are closer there than their reach
        element = name.removesuffix("_fe").title()
        named = [row for row in rows if row["label"] == name and row["species"]]
        near = [{line.species.split()[0] for line in lines_near(row["wavelength"], table)} for row in named]
        own = [row for row, elements in zip(named, near, strict=True) if element in elements]
        assert len(own) >= 4 and all(row in own or row["wavelength"] < 4400 for row in named), lines[name]
        assert all(row["signed"] < 0 for row in own), lines[name]  # deeper lines, more of it


# Tables, figure, command


@pytest.fixture(scope="module")
def found(glass: Glass, grid: Grid, plugins: Plugins) -> Saliency:
    return saliency(glass, grid, n_spectra=5, plugins=plugins)


def test_the_figure_shows_every_label_and_arm(found: Saliency) -> None:
    figure = draw(found, found.features(3))
    assert len(figure.axes) == len(found.labels) * 2
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == list(found.labels.names)
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert len(words) >= 3 * len(found.labels) - 4 and any("5165" in word for word in words)


def test_the_table_of_pixels(found: Saliency) -> None:
    table = pixel_table(found, {"snr": 250.0})
    assert len(table) == found.used.size and set(table["arm"]) == {"green", "red"}
    assert (table["used"] == found.used).all() and table["wavelength"].unit == "Angstrom"
    assert np.asarray(table["logg"]) == pytest.approx(found.strength[1], abs=1e-6)
    assert np.asarray(table["logg_signed"]) == pytest.approx(found.signed[1], abs=1e-6)


def command(plugins: Plugins, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["saliency", *map(str, arguments)], obj=plugins)


def test_the_command(glass: Glass, grid: Grid, plugins: Plugins, tmp_path: Path) -> None:
    model, spectra, out = tmp_path / "glass.safetensors", tmp_path / "grid.h5", tmp_path / "out"
    glass.save(model)
    grid.save(spectra)
    arguments = (model, "--grid", spectra, "-o", out, "--spectra", 6)
    result = command(plugins, *arguments)
    assert result.exit_code == 0, result.stderr
    names = ["features.ecsv", "saliency.ecsv", "saliency.pdf", "saliency.png"]
    assert sorted(path.name for path in out.iterdir()) == names  # and nothing temporary
    assert (out / "saliency.png").read_bytes()[:4] == b"\x89PNG" and (out / "saliency.pdf").read_bytes()[
        :4
    ] == b"%PDF"
    features = Table.read(out / "features.ecsv", format="ascii.ecsv")
    assert set(features["label"]) == set(glass.labels.names) and features.meta["spectra"] == 6
    assert "teff" in result.stdout and "saliency.png" in result.stdout
    again = command(plugins, *arguments)
    assert again.exit_code == 1 and "saliency.ecsv exists" in again.stderr
    said = command(plugins, *arguments, "--overwrite", "--json", "--features", 1)
    rows = json.loads(said.stdout)["features"]
    assert len(rows) == len(glass.labels) and rows[0]["rank"] == 1
    lost = command(plugins, model, "--grid", spectra, "-o", tmp_path / "no" / "out")
    assert lost.exit_code == 1 and "there is no folder" in lost.stderr
