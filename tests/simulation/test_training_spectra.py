"""Training spectra as an estimator is given them."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
import tiny_grid
import torch

from specinn.errors import ConfigError
from specinn.plugins import Disturbances, Observer, Plugins, TrainingSpectra

STEPS = (("mask", {}), ("rest-frame", {}), ("to-arms", {}), ("continuum", {}))
QUIET = Disturbances(snr_arm_scatter=0.0, noise_power=0.0, velocity=0.0, resolution=0.0, tilt=0.0, wave=0.0,
                     gaps=0, arm_loss=0.0)  # fmt: skip


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    return tiny_grid.plugins(tmp_path_factory.mktemp("tiny"))


def spectra(plugins: Plugins, steps: tuple = STEPS, **options: object) -> TrainingSpectra:
    return TrainingSpectra(tiny_grid.make_grid(20), plugins.instrument("tiny"), steps, plugins, **options)


def test_without_steps_they_are_the_observer_and_noise_of_the_stated_size(plugins: Plugins) -> None:
    simulated = spectra(plugins, STEPS[:3], disturbances=QUIET, vbroad=None)
    flux = simulated.model_flux(np.arange(20))
    batch = simulated(flux, seed=1, snr=50.0)
    clean = Observer(simulated.instrument, simulated.model_grid)(flux, torch.zeros(20)).numpy()
    width = 50.0 / 499.0  # Angstrom a pixel
    good = ~batch.mask
    off = (batch.flux - clean)[good]
    np.testing.assert_allclose(batch.sigma[good], 1.0 / (50.0 * np.sqrt(width)), rtol=1e-3)
    assert off.std() == pytest.approx(1.0 / (50.0 * np.sqrt(width)), rel=0.03)
    inside = np.concatenate([arm.contains(arm.wavelength) for arm in simulated.instrument.arms])
    assert (good == inside).all()


def test_D10_steps_after_the_pixels_are_taken(plugins: Plugins) -> None:
    bent = attrs.evolve(QUIET, tilt=0.1)
    simulated = spectra(plugins, disturbances=bent)
    flux = simulated.model_flux(np.arange(20))
    raw = spectra(plugins, STEPS[:3], disturbances=bent)(flux, 3, 300.0)
    normal = simulated(flux, 3, 300.0)
    level = [np.quantile(batch.flux[:, 50:450], 0.9, axis=1).std() for batch in (raw, normal)]
    assert level[1] < 0.3 * level[0]
    assert {"snr_green", "snr_red"} <= set(normal.meta.colnames)


def test_the_seed_decides_and_rotation_smears(plugins: Plugins) -> None:
    slow, fast = (spectra(plugins, disturbances=QUIET, vbroad=(v, v)) for v in (1.0, 80.0))
    flux = slow.model_flux(np.arange(4))
    first, again, other = (slow(flux, seed, 500.0).flux for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert fast(flux, 1, 500.0).flux.std() < 0.8 * first.std()
    assert slow.templates(np.arange(4)).flux.shape == (4, slow.model_grid.wavelength.size)


@pytest.mark.parametrize("vbroad", [(0.0, 10.0), (20.0, 10.0)])
def test_wrong_rotation(plugins: Plugins, vbroad: tuple[float, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a range of positive numbers"):
        spectra(plugins, vbroad=vbroad)
