"""The continuum fit: what it recovers, and what it must not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specinn.spectra.continuum import ContinuumFit, ContinuumOptions

WAVELENGTH = np.concatenate([np.linspace(5160, 5400, 2400), np.linspace(6100, 6300, 1900)])
ARMS = {"green": slice(0, 2400), "red": slice(2400, 4300)}
FIT = ContinuumFit(WAVELENGTH, ARMS)


def spectrum(n=4, snr=100.0, n_lines=60, seed=0):
    """Flux, sigma, mask and the true continuum: tilted and curved arms under lines and noise."""
    rng = np.random.default_rng(seed)
    truth = np.ones((n, WAVELENGTH.size))
    depth = np.zeros_like(truth)
    for arm in ARMS.values():
        wave = WAVELENGTH[arm]
        u = np.linspace(-1, 1, wave.size)
        a, b = rng.normal(0, [0.15, 0.05], (n, 2)).T[:, :, None]
        truth[:, arm] = 1.0 + a * u + b * (2 * u**2 - 1)
        for centre in rng.uniform(wave[0], wave[-1], n_lines):
            depth[:, arm] += rng.uniform(0.05, 0.6) * np.exp(-0.5 * ((wave - centre) / 0.15) ** 2)
    sigma = truth / snr
    flux = truth * np.exp(-depth) + sigma * rng.normal(size=truth.shape)
    tensors = (torch.as_tensor(v, dtype=torch.float32) for v in (flux, sigma))
    return *tensors, torch.zeros(truth.shape, dtype=torch.bool), truth


# an upper envelope lies above the continuum by half the noise of a bin of four pixels
@pytest.mark.parametrize(("snr", "limit"), [(50.0, 0.008), (100.0, 0.005), (300.0, 0.005)])
def test_a_polynomial_continuum_is_recovered_under_lines_and_noise(snr, limit):
    flux, sigma, mask, truth = spectrum(snr=snr)
    continuum, used = FIT(flux, sigma, mask)
    ratio = continuum.numpy() / truth
    assert np.median(np.abs(ratio - 1.0)) < limit
    for arm in ARMS.values():
        assert ratio[:, arm].mean(axis=1) == pytest.approx(1.0, abs=limit)
    assert used.shape == (4, 2) and (used > 0.3).all() and (used <= 1).all()


def test_without_lines_and_noise_it_is_exact():
    flux, sigma, mask, truth = spectrum(n_lines=0, snr=1e6)
    continuum, used = FIT(flux, sigma, mask)
    assert continuum.numpy() == pytest.approx(truth, rel=1e-4)
    assert (used > 0.99).all()


def test_degree_grows_with_the_arm():
    def terms(length, degree):
        wave = np.linspace(5000, 5000 + length, 500)
        return ContinuumFit(wave, {"a": slice(0, 500)}, ContinuumOptions(degree=degree)).arms[0][1].shape[1]

    assert [terms(length, 1.0) for length in (50, 240, 600)] == [3, 3, 7]
    assert terms(600, 0.5) == 4


@pytest.mark.parametrize("unit", [2.0**-50, 0.125, 2.0**40])
def test_the_unit_of_flux_has_no_part_in_it(unit):
    flux, sigma, mask, _ = spectrum()
    continuum, used = FIT(flux, sigma, mask)
    scaled, again = FIT(flux * unit, sigma * unit, mask)
    assert (scaled / unit).numpy() == pytest.approx(continuum.numpy(), rel=1e-5)
    assert torch.equal(used, again)


def test_masked_pixels_do_not_matter():
    flux, sigma, mask, truth = spectrum()
    mask = mask | (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.2)
    mask[:, 300:500] = True
    continuum, _ = FIT(flux, sigma, mask)
    wild = torch.where(mask, torch.tensor(float("nan")), flux)
    wild[:, 300:400] = 1e30
    worse = torch.where(mask, torch.tensor(float("inf")), sigma)
    assert torch.equal(FIT(wild, worse, mask)[0], continuum)
    assert np.median(np.abs(continuum.numpy() / truth - 1.0)) < 0.005


def test_lines_do_not_pull_it_down_and_cosmic_rays_not_up():
    flux, sigma, mask, truth = spectrum(n_lines=0, snr=100.0)
    flux[:, 1000:1040] *= 0.1
    flux[:, 500] = 50.0
    continuum, _ = FIT(flux, sigma, mask)
    assert continuum[:, ARMS["green"]].numpy() == pytest.approx(truth[:, ARMS["green"]], rel=0.01)


def test_an_arm_without_flux_gets_one():
    flux, sigma, mask, _ = spectrum()
    mask[0, ARMS["red"]] = True
    flux[1, ARMS["green"]] = 0.0
    flux[2, ARMS["green"]] *= -1.0
    continuum, used = FIT(flux, sigma, mask)
    assert (continuum[0, ARMS["red"]] == 1).all() and used[0, 1] == 0 and used[0, 0] > 0
    for row in (1, 2):
        assert (continuum[row, ARMS["green"]] == 1).all() and used[row, 0] == 0 and used[row, 1] > 0


def test_a_batch_equals_its_spectra_one_by_one():
    flux, sigma, mask, _ = spectrum(n=6)
    mask[2, 100:900] = True
    together, used = FIT(flux, sigma, mask)
    for i in range(6):
        alone, share = FIT(flux[i : i + 1], sigma[i : i + 1], mask[i : i + 1])
        assert alone[0].numpy() == pytest.approx(together[i].numpy(), rel=1e-5)
        assert share[0].numpy() == pytest.approx(used[i].numpy(), abs=1e-6)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0.0, 1.0, -1.0, 1e-12, 1e12]),
    noise=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    error=st.sampled_from([0.0, 0.01, 1e6, float("inf")]),
    masked=st.floats(0, 1),
    n_pix=st.integers(2, 90),
)
def test_there_is_never_a_nan(seed, level, noise, error, masked, n_pix):
    rng = np.random.default_rng(seed)
    wave = 5000 + np.cumsum(rng.uniform(0.05, 2.0, n_pix))
    flux = torch.as_tensor(level * (1.0 + noise * rng.normal(size=(3, n_pix))), dtype=torch.float32)
    mask = torch.as_tensor(rng.uniform(size=(3, n_pix)) < masked)
    sigma = torch.full_like(flux, error * abs(level) if error else 0.0)
    sigma = torch.where(torch.isnan(sigma), torch.inf, sigma)
    continuum, used = ContinuumFit(wave, {"a": slice(0, n_pix)})(flux, sigma, mask)
    assert torch.isfinite(continuum).all() and (continuum > 0).all()
    assert torch.isfinite(used).all() and (used >= 0).all() and (used <= 1).all()
    assert (continuum[mask.all(1)] == 1).all() and (used[mask.all(1)] == 0).all()


@pytest.mark.slow
def test_single_precision_is_enough():
    flux, sigma, mask, _ = spectrum(n=12, seed=3)
    mask[:, :80] = True
    double = ContinuumFit(WAVELENGTH, ARMS)
    double.arms = [(arm, *(term.double() for term in terms)) for arm, *terms in double.arms]
    exact, _ = double(flux.double(), sigma.double(), mask)
    continuum, _ = FIT(flux, sigma, mask)
    assert continuum.numpy() == pytest.approx(exact.numpy(), rel=1e-5)
