"""The Cramer-Rao bound: against a problem in closed form, and for real grid spectra."""

from __future__ import annotations

from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
import torch
from known_grid import ARMS, WAVELENGTH, broadened, make_grid
from scipy import sparse, stats

from specinn.errors import ConfigError, GridError, PluginError
from specinn.evaluation import information
from specinn.evaluation.information import cramer_rao
from specinn.evaluation.simulation import Simulation
from specinn.grids import Grid
from specinn.labels import LabelSet, with_derived_labels
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import Record, hookimpl
from specinn.plugins.interfaces import Synthesizer
from specinn.wavelengths import air_to_vacuum

pytestmark = pytest.mark.slow

SHIFT = 4.75342430882  # the probit of the margin within which A(Li) is learnt
BOUNDS = np.array([(0.0, 1.0), *fake_plugin.LABELS.bounds])
UNCHANGED = sparse.eye_array(WAVELENGTH.size)
LOW, HIGH = fake_plugin.LABELS.to_network(fake_plugin.LABELS.bounds.T)


def unit(values: torch.Tensor) -> torch.Tensor:
    """What ``fake_plugin.to_unit`` does, differentiable."""
    return (fake_plugin.LABELS.to_network(values) - torch.tensor(LOW)) / torch.tensor(HIGH - LOW) - 0.5


@attrs.define(eq=False)
class Emulator(Synthesizer):
    """The spectra of the toy grid, exactly; ``operator`` takes them to other wavelengths."""

    differentiable = True

    labels: tuple[str, ...] = ("o_fe", "teff", "logg", "fe_h", "a_li")  # not in the order of the grid
    bounds: Any = BOUNDS
    wavelength: Any = WAVELENGTH
    arms: Any = attrs.field(factory=lambda: dict(ARMS))
    resolving_power: float = np.inf
    medium: str = "air"
    operator: Any = UNCHANGED

    @classmethod
    def load(cls) -> Emulator:
        return cls()

    def __call__(self, labels: Any) -> Any:
        t = unit(labels[..., 1:].double())
        profiles = [
            sum(np.exp(-0.5 * ((WAVELENGTH - centre) / 0.3) ** 2) for centre in fake_plugin.CENTRES[name])
            for name in fake_plugin.LABELS.names
        ]
        lines = torch.as_tensor((self.operator @ np.array(profiles).T).T)
        return (1.0 - (0.4 + 0.4 * t) @ lines).float()

    def resampled(self, wavelength: np.ndarray, arms: dict[str, slice], operator: Any) -> Emulator:
        return attrs.evolve(self, operator=operator)


class InVacuum(Emulator):
    @classmethod
    def load(cls) -> Emulator:
        return cls(wavelength=air_to_vacuum(WAVELENGTH), medium="vacuum")


class OtherLabels(Emulator):
    @classmethod
    def load(cls) -> Emulator:
        return cls(labels=("s_fe", "teff", "logg", "fe_h", "a_li"))


class Offers:
    def __init__(self, name: str) -> None:
        self.factory = f"{__name__}:{name}"

    @hookimpl
    def specinn_synthesizers(self) -> list[Record]:
        return [Record(name="emulator", summary="exact", factory=self.factory)]


def plugins_with(emulator: str) -> Plugins:
    return Plugins([], {"fake": fake_plugin, "emulator": Offers(emulator)})


PLUGINS = plugins_with("Emulator")


@pytest.fixture(scope="module")
def grid() -> Grid:
    return make_grid(60)


@pytest.fixture(scope="module")
def toy(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> fake_plugin.Toy:
    """The toy model, its response that of the spectra which the simulation makes of the grid."""
    toy = fake_plugin.Toy.train({}, tmp_path_factory.mktemp("toy"), lambda state: None)
    flux = [b.flux for _, _, b in Simulation(toy, grid, PLUGINS).batches(np.arange(len(grid)), [1e7])]
    t = fake_plugin.to_unit(grid.values[:, :4])
    solution, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(t)), t]), np.concatenate(flux), rcond=None)
    return fake_plugin.Toy({"mean": solution[0], "response": solution[1:]}, toy.header)


def in_closed_form(toy: fake_plugin.Toy, grid: Grid, row: int, snr: float) -> np.ndarray:
    """Covariance of teff, logg, [Fe/H] and A(Li) at the labels of one model."""
    teff, _, _, a_li = grid.values[row, :4]
    density = stats.norm.pdf(stats.norm.ppf(a_li / 4.0))
    scale = np.array([1.0 / (teff * np.log(7000 / 4000)), 1 / 5, 1 / 3, 1 / (4.0 * density * 2 * SHIFT)])
    simulation = Simulation(toy, grid, PLUGINS)
    _, _, batch = next(simulation.batches(np.array([row]), [snr]))
    jacobian = np.where(batch.mask[0], 0.0, toy.response * scale[:, None] / batch.sigma[0])
    widths = np.array([3000.0, 5.0, 3.0, 4.0])
    return np.linalg.inv(jacobian @ jacobian.T + np.diag(12.0 / widths**2))


def test_the_bound_of_a_linear_problem(toy: fake_plugin.Toy, grid: Grid) -> None:
    rows, snr = np.array([3, 41, 8, 9, 10, 11, 12, 13, 14, 15]), [250.0, 20.0]
    bound = cramer_rao(Simulation(toy, grid, PLUGINS), rows, snr, PLUGINS)
    assert bound.shape == (10, 2, 4)
    for i, row in enumerate(rows[[0, 1, 9]]):
        for k, level in enumerate(snr):
            expected = np.sqrt(np.diag(in_closed_form(toy, grid, row, level)))
            assert bound[[0, 1, 9][i], k] == pytest.approx(expected, rel=2e-3)


def test_derived_labels_have_their_covariance(toy: fake_plugin.Toy, grid: Grid) -> None:
    labels = with_derived_labels(toy.labels)
    bound = cramer_rao(Simulation(toy, grid, PLUGINS), np.array([3]), [50.0], PLUGINS, labels)
    c = in_closed_form(toy, grid, 3, 50.0)
    assert bound[0, 0, 4] == pytest.approx(np.sqrt(c[3, 3] + c[2, 2] - 2 * c[2, 3]), rel=2e-3)


def test_it_goes_with_the_noise_until_the_range_is_all_that_is_known(
    toy: fake_plugin.Toy, grid: Grid
) -> None:
    bound = cramer_rao(Simulation(toy, grid, PLUGINS), np.arange(4), [1000.0, 500.0, 1e-4], PLUGINS)
    assert bound[:, 1] / bound[:, 0] == pytest.approx(2.0, rel=0.01)
    assert bound[:, 2] == pytest.approx(np.tile([3000, 5, 3, 4], (4, 1)) / np.sqrt(12), rel=1e-3)


def test_labels_without_a_line_keep_their_range_and_harm_no_other(toy: fake_plugin.Toy, grid: Grid) -> None:
    silent = attrs.evolve(toy.labels["logg"], name="o_fe", bounds=(0.0, 1.0))
    labels = LabelSet((*toy.labels, silent))
    bound = cramer_rao(Simulation(toy, grid, PLUGINS), np.arange(2), [250.0], PLUGINS, labels)
    assert bound[:, 0, 4] == pytest.approx(1 / np.sqrt(12), rel=1e-6)


class Blind(fake_plugin.Toy):
    """Looks at the green arm alone."""

    @property
    def used_pixels(self) -> np.ndarray:
        used = super().used_pixels
        used[self.instrument.slices["red"]] = False
        return used


def test_only_pixels_count_that_the_model_uses(toy: fake_plugin.Toy, grid: Grid) -> None:
    blind = Blind({"mean": toy.mean, "response": toy.response}, toy.header)
    less, more = (
        cramer_rao(Simulation(m, grid, PLUGINS), np.arange(3), [250.0], PLUGINS) for m in (blind, toy)
    )
    assert (less > 1.2 * more).all() and (less < 2.0 * more).all()  # each label has a line in either arm


def test_the_medium_of_the_emulator_does_not_matter(toy: fake_plugin.Toy, grid: Grid) -> None:
    bound = [
        cramer_rao(Simulation(toy, grid, p), np.arange(3), [250.0], p)
        for p in (PLUGINS, plugins_with("InVacuum"))
    ]
    assert bound[1] == pytest.approx(bound[0], rel=1e-3)


def test_rotation_is_free_where_it_is_drawn(
    toy: fake_plugin.Toy, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    turning = Simulation(broadened(toy), grid, PLUGINS)
    rows = np.argsort(turning.vbroad)[[5, 20, 30, 45]]
    bound = cramer_rao(turning, rows, [250.0], PLUGINS)[:, 0]
    assert bound.shape == (4, 5) and (bound[:, 4] < 0.29 * 99).all()
    still = cramer_rao(Simulation(toy, grid, PLUGINS), rows, [250.0], PLUGINS)[:, 0]
    assert (bound[:, :4] > still).all()  # one thing more is unknown, and lines are shallower
    monkeypatch.setattr(information, "_STEP", 0.015)
    monkeypatch.setattr(information, "_STEP_KMS", 0.25)
    finer = cramer_rao(turning, rows, [250.0], PLUGINS)[:, 0]
    assert finer == pytest.approx(bound, rel=0.01)


def test_what_does_not_fit_is_said(toy: fake_plugin.Toy, grid: Grid) -> None:
    simulation = Simulation(toy, grid, PLUGINS)
    rows = np.arange(2)
    with pytest.raises(
        GridError, match=r"emulator has the labels s_fe, teff.*the grid teff.*emulator of the grid"
    ):
        cramer_rao(simulation, rows, [250.0], plugins_with("OtherLabels"))
    with pytest.raises(ConfigError, match=r"snr \[0.0\]: expected positive numbers"):
        cramer_rao(simulation, rows, [0.0], PLUGINS)
    with pytest.raises(PluginError, match="no synthesizer is called 'emulator'"):
        cramer_rao(simulation, rows, [250.0], Plugins([], {"fake": fake_plugin}))
    more = LabelSet((*toy.labels, attrs.evolve(toy.labels["logg"], name="ca_fe")))
    with pytest.raises(GridError, match="infers ca_fe, which the grid does not have; it has o_fe"):
        cramer_rao(simulation, rows, [250.0], PLUGINS, more)


# Spectra of stars


@pytest.fixture(scope="module")
def real(emulated: Grid) -> Simulation:
    """The bundled model on spectra of the emulator from which it has learnt."""
    from specinn import models

    plugins = Plugins()
    estimator = models.load(plugins, models.find(plugins, None))
    return Simulation(estimator, emulated, plugins)


@pytest.fixture(scope="module")
def ordinary(real: Simulation) -> np.ndarray:
    """Rows of slow rotators that are not metal-poor."""
    rows = real.grid.split("all")
    return rows[(real.grid.column("fe_h")[rows] > -1.5) & (real.vbroad[rows] < 15.0)][:24]


def test_bounds_of_the_bundled_models_spectra(real: Simulation, ordinary: np.ndarray) -> None:
    bound = cramer_rao(real, ordinary, [250.0], Plugins())[:, 0]
    median = dict(zip(real.estimator.labels.names, np.median(bound, axis=0), strict=True))
    assert 4.0 < median["teff"] < 11.0 and 0.01 < median["logg"] < 0.03 and 0.003 < median["fe_h"] < 0.02
    low, high = np.percentile(bound, [10, 90], axis=0)
    assert low[0] > 1.2 and high[0] < 14.0
    abundances = [
        i for i, label in enumerate(real.estimator.labels) if label.name in ("ca_fe", "mg_fe", "ti_fe")
    ]
    assert (np.median(bound[:, abundances], axis=0) < 0.025).all()
    width = np.diff(real.estimator.labels.bounds, axis=1)[:, 0]
    assert (bound < width / np.sqrt(12) * 1.001).all() and (bound > 0).all()


def test_the_bound_is_what_the_best_linear_estimate_attains(real: Simulation, ordinary: np.ndarray) -> None:
    """Labels drawn around those of a model, spectra by the derivatives and noise, and one step back."""
    observed = information._Derivatives(real, Plugins(), "emulator")
    rows = ordinary[:4]
    jacobian = 250.0 * np.concatenate(list(observed.blocks(rows)))
    n, n_free, n_pix = jacobian.shape
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(n, n_free, 300)) / np.sqrt(12.0)
    spectra = jacobian.swapaxes(1, 2) @ truth + rng.normal(size=(n, n_pix, 300))
    matrix = jacobian @ jacobian.swapaxes(1, 2) + 12.0 * np.eye(n_free)
    error = np.linalg.solve(matrix, jacobian @ spectra) - truth
    spread = error.std(axis=2) * observed.width
    spread = spread[:, [observed.names.index(name) for name in real.estimator.labels.names]]
    ratio = spread / cramer_rao(real, rows, [250.0], Plugins())[:, 0]
    assert ratio.mean() == pytest.approx(1.0, abs=0.03) and ratio.min() > 0.85 and ratio.max() < 1.15


def test_the_derivative_of_rotation_is_that_of_the_simulated_spectra(
    real: Simulation, ordinary: np.ndarray
) -> None:
    """Against spectra observed 10 % faster, whose lines are of the same emulator."""
    observed = information._Derivatives(real, Plugins(), "emulator")
    rows = ordinary[np.argsort(-real.vbroad[ordinary])[:2]]
    slope = next(observed.blocks(rows))[:, -1]
    flux, vbroad = observed.emulate(observed.values[rows]), observed.vbroad[rows]
    change = (observed.observe(flux, 1.1 * vbroad) - observed.observe(flux, 0.9 * vbroad)) * observed.weight
    expected = (change / (0.2 * vbroad)[:, None]).double().numpy() * observed.width[-1]
    error = np.linalg.norm(slope - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert (error < 0.03).all()
