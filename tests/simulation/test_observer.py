"""Simulated observations: what rotation, line-spread function, velocity, noise and gaps do to spectra."""

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from specinn.errors import ModelError
from specinn.instruments import Instrument
from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.observer import HEADROOM, LIMB_DARKENING, ModelGrid, Observer, rotation_transfer
from specinn.spectra.resample import pixel_bounds
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA

R = 20_000.0
INSTRUMENT = Instrument.from_dict(
    {
        "name": "two-arms",
        "summary": "two short arms",
        "arms": [
            {"name": "green", "range": [5201, 5259], "resolving_power": R,
             "pixels": {"n": 700, "polynomial": [5200.0, 62.0, -2.0]}},
            {"name": "red", "range": [6501, 6559], "resolving_power": [[6500, 19_000.0], [6560, 21_000.0]],
             "pixels": {"n": 600, "polynomial": [6500.0, 60.0]}},
        ],
    }
)  # fmt: skip
STEP = 0.03
SOURCE = {"green": np.arange(5180, 5280, STEP), "red": np.arange(6480, 6580, STEP)}
WAVELENGTH = np.concatenate(list(SOURCE.values()))
ARMS = {"green": slice(0, SOURCE["green"].size), "red": slice(SOURCE["green"].size, WAVELENGTH.size)}
GRID = ModelGrid.of(INSTRUMENT, WAVELENGTH, ARMS)
OBSERVER = Observer(INSTRUMENT, GRID)
INSIDE = {name: OBSERVER.inside & _in for name, _in in (
    (name, np.isin(np.arange(OBSERVER.inside.size), np.arange(piece.start, piece.stop)))
    for name, piece in INSTRUMENT.slices.items())}  # fmt: skip
CENTRES = {"green": 5230.0, "red": 6530.0}


def lines(sigma_kms=0.0, depth=0.6):
    """One Gaussian line in each arm on the model grid ``(1, n_model)``, of the grid's own resolution."""
    flux = np.ones(GRID.wavelength.size)
    for name, centre in CENTRES.items():
        piece = GRID.arms[name]
        width = np.hypot(sigma_kms, C_KMS / FWHM_PER_SIGMA / GRID.resolving_power[piece])
        velocity = C_KMS * np.log(GRID.wavelength[piece] / centre)
        flux[piece] -= depth * np.exp(-0.5 * (velocity / width) ** 2)
    return torch.as_tensor(flux[None], dtype=torch.float32)


def moments(flux, name, reach=30.0):
    """Equivalent width (Angstrom), mean wavelength and standard deviation (km/s) of the arm's line."""
    where = INSIDE[name] & (np.abs(OBSERVER.wavelength - CENTRES[name]) < reach)
    wave, depth = OBSERVER.wavelength[where], 1.0 - np.asarray(flux, float)[where]
    step = np.gradient(wave)
    area = (depth * step).sum()
    mean = (wave * depth * step).sum() / area
    spread = np.sqrt(((wave - mean) ** 2 * depth * step).sum() / area)
    return area, mean, spread / mean * C_KMS


def observe(vbroad=0.0, velocity=None, factor=None, flux=None):
    flux = lines() if flux is None else flux
    n = len(flux)
    give = [None if v is None else torch.full((n,), float(v)) for v in (velocity, factor)]
    return OBSERVER(flux, torch.full((n,), float(vbroad)), *give)[0].numpy()


def gray(velocity, vbroad):
    """Gray's rotation profile (The Observation and Analysis of Stellar Photospheres, 18.14), of unit area."""
    x = np.clip(1.0 - (velocity / vbroad) ** 2, 0.0, None)
    e = LIMB_DARKENING
    return (2 * (1 - e) * np.sqrt(x) + 0.5 * np.pi * e * x) / (np.pi * vbroad * (1 - e / 3))


# Rotation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vbroad", [1.0, 7.0, 30.0, 100.0])
def test_transfer_is_the_fourier_transform_of_grays_profile(vbroad):
    frequency = np.linspace(0.0, 0.125, 120)  # up to the Nyquist frequency of the model grid
    angle = (np.arange(20_000) + 0.5) / 20_000 * np.pi
    v = vbroad * np.cos(angle)  # a substitution that takes the root at the limb away
    weight = gray(v, vbroad) * vbroad * np.sin(angle) * np.pi / angle.size
    expected = (weight * np.cos(2 * np.pi * frequency[:, None] * v)).sum(axis=1)
    result = rotation_transfer(torch.as_tensor(frequency, dtype=torch.float32), torch.tensor([vbroad]))[0]
    assert weight.sum() == pytest.approx(1.0, abs=1e-6)
    assert result.numpy() == pytest.approx(expected, abs=2e-4)


def test_no_rotation_is_no_kernel():
    result = rotation_transfer(torch.linspace(0, 0.125, 50), torch.zeros(1))
    assert torch.equal(result, torch.ones_like(result))


@pytest.mark.parametrize("vbroad", [8.0, 25.0, 60.0])
def test_rotation_broadens_as_grays_profile_says(vbroad):
    flux = lines()
    piece = GRID.arms["green"]
    step = C_KMS * np.log(GRID.wavelength[1] / GRID.wavelength[0])
    fine = 20
    velocity = C_KMS * np.log(GRID.wavelength[piece] / CENTRES["green"])
    dense = np.linspace(velocity[0], velocity[-1], (velocity.size - 1) * fine + 1)
    width = C_KMS / FWHM_PER_SIGMA / R  # the line at the instrument's resolution
    native = C_KMS / FWHM_PER_SIGMA / GRID.resolving_power[piece][0]
    depth = 0.6 * native / width * np.exp(-0.5 * (dense / width) ** 2)
    kernel_at = np.arange(-np.ceil(vbroad / step * fine), np.ceil(vbroad / step * fine) + 1) * step / fine
    kernel = gray(kernel_at, vbroad)
    direct = np.convolve(depth, kernel / kernel.sum(), mode="same")
    result = OBSERVER(flux, torch.tensor([vbroad]))[0].numpy()[INSIDE["green"]]
    at = C_KMS * np.log(OBSERVER.wavelength[INSIDE["green"]] / CENTRES["green"])
    assert 1.0 - result == pytest.approx(np.interp(at, dense, direct), abs=1e-3)


# Line-spread function and velocity ---------------------------------------------------------------


@pytest.mark.parametrize("name", CENTRES)
def test_width_is_that_of_the_instruments_resolving_power(name):
    power = float(INSTRUMENT.arm(name).resolving_power.at(np.array([CENTRES[name]]))[0])
    _, _, width = moments(observe(), name)
    assert C_KMS / (width * FWHM_PER_SIGMA) == pytest.approx(power, rel=0.01)


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.1])
def test_resolution_of_a_star_may_differ(factor):
    _, _, width = moments(observe(factor=factor), "green")
    assert C_KMS / (width * FWHM_PER_SIGMA) == pytest.approx(factor * R, rel=0.01)


def test_resolution_is_never_sharper_than_the_model():
    _, _, width = moments(observe(factor=3.0), "green")
    assert C_KMS / (width * FWHM_PER_SIGMA) == pytest.approx(HEADROOM * R, rel=0.01)


@pytest.mark.parametrize("velocity", [-30.0, -0.7, 0.2, 50.0])
@pytest.mark.parametrize("name", CENTRES)
def test_velocity_shifts_by_the_right_number_of_angstrom(name, velocity):
    _, at_rest, _ = moments(observe(), name)
    _, moved, _ = moments(observe(velocity=velocity), name)
    assert moved - at_rest == pytest.approx(CENTRES[name] * velocity / C_KMS, abs=0.001)


@settings(max_examples=30)
@given(vbroad=st.floats(0, 100), velocity=st.floats(-100, 100), sigma=st.floats(0, 20))
def test_equivalent_width_is_conserved(vbroad, velocity, sigma):
    flux = lines(sigma)
    expected = {name: moments(observe(flux=flux), name)[0] for name in CENTRES}
    result = observe(vbroad, velocity, flux=flux)
    for name in CENTRES:
        assert moments(result, name)[0] == pytest.approx(expected[name], rel=2e-3)


def test_equivalent_width_is_that_of_the_model():
    piece = GRID.arms["green"]
    depth = 1.0 - lines()[0, piece].double().numpy()
    expected = (depth * np.gradient(GRID.wavelength[piece])).sum()
    assert moments(observe(), "green")[0] == pytest.approx(expected, rel=1e-3)


def test_continuum_stays_and_pixels_outside_the_arms_carry_one():
    flat = observe(vbroad=20.0, velocity=3.0, flux=torch.ones(1, GRID.wavelength.size))
    assert flat == pytest.approx(1.0, abs=1e-6)
    result = observe()
    assert (result[~OBSERVER.inside] == 1.0).all() and not OBSERVER.inside.all()
    for arm, piece in zip(INSTRUMENT.arms, INSTRUMENT.slices.values(), strict=True):
        assert np.array_equal(OBSERVER.inside[piece], arm.contains(arm.wavelength))


def test_a_spectrum_does_not_depend_on_its_companions():
    generator = torch.Generator().manual_seed(0)
    flux = lines().repeat(5, 1) - 0.3 * torch.rand(5, GRID.wavelength.size, generator=generator)
    vbroad, velocity = torch.tensor([0.0, 3, 10, 50, 100]), torch.tensor([0.0, -3, 1, 20, -60])
    factor = torch.tensor([1.0, 0.9, 1.02, 1.1, 0.97])
    together = OBSERVER(flux, vbroad, velocity, factor)
    for i in range(5):
        row = slice(i, i + 1)
        alone = OBSERVER(flux[row], vbroad[row], velocity[row], factor[row])
        assert alone[0].numpy() == pytest.approx(together[i].numpy(), abs=2e-6)


# The model grid ----------------------------------------------------------------------------------


def test_model_grid_covers_the_arms_and_has_headroom_in_resolution():
    for arm in INSTRUMENT.arms:
        piece = GRID.arms[arm.name]
        wave = GRID.wavelength[piece]
        assert wave[0] < arm.range[0] - 15 and wave[-1] > arm.range[1] + 15
        assert np.diff(np.log(wave)) == pytest.approx(np.log(wave[1] / wave[0]))
        rest = C_KMS / FWHM_PER_SIGMA / GRID.resolving_power[piece]
        total = C_KMS / FWHM_PER_SIGMA / np.hypot(rest, GRID.rest_kms[arm.name])
        assert total == pytest.approx(arm.resolving_power.at(wave))
        assert (GRID.resolving_power[piece] >= HEADROOM * arm.resolving_power.at(wave) * 0.85).all()


def test_models_that_do_not_cover_an_arm_are_an_error():
    half = slice(0, SOURCE["green"].size + 1500)  # the red ends at 6525
    arms = {"green": ARMS["green"], "red": slice(ARMS["red"].start, half.stop)}
    with pytest.raises(
        ModelError, match=r"arm red needs model spectra over 6501-6559 .* 5180-5280, 6480-6525"
    ):
        ModelGrid.of(INSTRUMENT, WAVELENGTH[half], arms)


def test_models_that_end_at_the_arm_are_an_error():
    arms = {"green": ARMS["green"], "red": ARMS["red"]}
    tight = with_range(INSTRUMENT, "red", (6480.0, 6559.0), {"n": 600, "polynomial": [6479.0, 82.0]})
    with pytest.raises(ModelError, match="does not reach beyond the pixels"):
        Observer(tight, ModelGrid.of(tight, WAVELENGTH, arms))


def with_range(instrument, name, ends, pixels):
    data = instrument.to_dict()
    for arm in data["arms"]:
        if arm["name"] == name:
            arm["range"], arm["pixels"] = list(ends), pixels
    return Instrument.from_dict(data)


def test_operator_brings_models_to_the_grid_at_its_resolution():
    native = 60_000.0
    flux = np.ones(WAVELENGTH.size)
    for name, centre in CENTRES.items():
        velocity = C_KMS * np.log(WAVELENGTH[ARMS[name]] / centre)
        flux[ARMS[name]] -= 0.7 * np.exp(-0.5 * (velocity * FWHM_PER_SIGMA * native / C_KMS) ** 2)
    on_grid = GRID.operator(WAVELENGTH, ARMS, native) @ flux
    result = OBSERVER(torch.as_tensor(on_grid[None], dtype=torch.float32), torch.zeros(1))[0].numpy()
    for name in CENTRES:
        power = float(INSTRUMENT.arm(name).resolving_power.at(np.array([CENTRES[name]]))[0])
        assert C_KMS / (moments(result, name, 1.5)[2] * FWHM_PER_SIGMA) == pytest.approx(power, rel=0.01)


# Noise, continuum, gaps --------------------------------------------------------------------------

QUIET = Disturbances(tilt=0.0, wave=0.0, gaps=0, arm_loss=0.0, noise_power=0.0, snr_arm_scatter=0.0)
N_PIX = INSTRUMENT.wavelength.size


def noisy(plan=QUIET, n=200, seed=0, flux=None, snr=None):
    flux = torch.ones(n, N_PIX) if flux is None else flux
    levels = None if snr is None else torch.full((n, 2), float(snr))
    return Noise(INSTRUMENT, plan)(flux, torch.Generator().manual_seed(seed), levels)


def test_sigma_is_that_of_the_stated_snr_per_angstrom():
    out, sigma, mask, snr = noisy(snr=50.0)
    width = np.concatenate([np.subtract(*pixel_bounds(arm.wavelength)[::-1]) for arm in INSTRUMENT.arms])
    assert sigma[0].numpy() == pytest.approx(1.0 / (50.0 * np.sqrt(width)), rel=1e-5)
    assert not mask.any() and (snr == 50.0).all()
    scaled = (out - 1.0) / sigma
    assert float(scaled.std()) == pytest.approx(1.0, abs=4 / np.sqrt(2 * scaled.numel()))
    assert float(scaled.mean()) == pytest.approx(0.0, abs=4 / np.sqrt(scaled.numel()))
    neighbours = float((scaled[:, 1:] * scaled[:, :-1]).mean())
    assert neighbours == pytest.approx(0.0, abs=4 / np.sqrt(scaled.numel()))


def test_noise_is_smaller_in_lines_but_never_larger_than_at_the_continuum():
    flux = torch.ones(50, N_PIX)
    flux[:, ::2] = 0.25
    plan = Disturbances(tilt=0.0, wave=0.0, gaps=0, arm_loss=0.0, snr_arm_scatter=0.0)  # power up to 0.5
    out, sigma, _, _ = noisy(plan, flux=flux, n=50, snr=100.0)
    ratio = (sigma[:, 2:602:2] / sigma[:, 1:601:2]).mean(1)
    assert float(ratio.min()) >= 0.49 and float(ratio.max()) <= 1.02 and float(ratio.std()) > 0.05
    assert float(((out - flux) / sigma).std()) == pytest.approx(1.0, abs=0.02)


def test_snr_is_log_uniform_between_its_ends():
    noise = Noise(INSTRUMENT, Disturbances(snr=(10.0, 1000.0), snr_arm_scatter=0.05))
    snr = noise.snr(20_000, torch.Generator().manual_seed(1)).numpy()
    assert snr.shape == (20_000, 2) and snr.min() >= 9.999 and snr.max() <= 1000.1
    quantiles = np.quantile(np.log10(snr[:, 0]), [0.25, 0.5, 0.75])
    assert quantiles == pytest.approx([1.5, 2.0, 2.5], abs=0.03)
    ratio = np.log10(snr[:, 0] / snr[:, 1])[(snr > 20).all(1) & (snr < 500).all(1)]
    assert np.diff(np.quantile(ratio, [0.25, 0.75]))[0] == pytest.approx(
        2 * ndtri(0.75) * 0.05 * np.sqrt(2), rel=0.05
    )


@pytest.mark.slow
def test_continuum_is_smooth_and_sigma_follows_it():
    plan = Disturbances(tilt=0.1, wave=0.01, gaps=0, arm_loss=0.0, noise_power=0.0)
    out, sigma, _, snr = noisy(plan, snr=1e6)
    level = sigma / noisy(snr=1e6)[1]
    assert out.numpy() == pytest.approx(level.numpy(), abs=2e-4)
    assert float(level.std(0).mean()) > 0.03 and float(level.min()) >= 0.2
    steps = level[:, 1:600].diff(dim=1).abs().max()
    assert float(steps) < 0.01  # between pixels of 0.1 Angstrom
    assert (snr == 1e6).all()


@pytest.mark.slow
def test_an_error_of_the_zero_level_fills_lines_and_leaves_the_continuum():
    flux = torch.ones(400, N_PIX)
    flux[:, 100:150] = 0.4
    plan = Disturbances(tilt=0.0, wave=0.0, gaps=0, arm_loss=0.0, noise_power=0.0, zero_level=0.02)
    out, *_ = noisy(plan, flux=flux, n=400, snr=1e6)
    depth = 1.0 - out[:, 100:150]
    assert out[:, 200:].numpy() == pytest.approx(1.0, abs=1e-4)
    assert float(depth.std(1).max()) < 1e-4  # one error a spectrum
    zero = 0.6 / depth.mean(1) - 1.0
    assert float(zero.mean()) == pytest.approx(0.0, abs=0.004)
    assert float(zero.std()) == pytest.approx(0.02, rel=0.15)
    assert noisy(QUIET, flux=flux, n=400, snr=1e6)[0].numpy() == pytest.approx(flux.numpy(), abs=1e-4)


@pytest.mark.parametrize("loss", [0.3, 1.0])
def test_lost_arms_are_masked_have_no_snr_and_are_never_all(loss):
    _, _, mask, snr = noisy(Disturbances(gaps=0, arm_loss=loss), n=400)
    lost = torch.stack([mask[:, piece].all(1) for piece in INSTRUMENT.slices.values()], dim=1)
    assert torch.equal(lost, snr == 0)
    assert not lost.all(1).any()
    assert torch.equal(lost.any(1), mask.any(1))
    if loss < 1:
        assert 2 * loss * (1 - loss) == pytest.approx(float(lost.any(1).float().mean()), abs=0.08)


def test_gaps_are_stretches_of_limited_width():
    plan = Disturbances(gaps=1, gap_width=20.0, arm_loss=0.0)
    _, _, mask, _ = noisy(plan, n=3000)
    wave = torch.as_tensor(INSTRUMENT.wavelength)
    hit = mask.any(1)
    assert 0.01 < float(hit.float().mean()) < 0.5
    for row in mask[hit]:
        assert float(wave[row].max() - wave[row].min()) <= 20.0
        first, last = int(row.nonzero()[0]), int(row.nonzero()[-1])
        assert row[first : last + 1].all()


def test_windows_are_masked_wherever_the_star_moves():
    plan = Disturbances(gaps=0, arm_loss=0.0, windows=((5229.0, 5231.0),), window_velocity=60.0)
    _, _, mask, _ = noisy(plan, n=300)
    wave = INSTRUMENT.wavelength
    centres = np.array([wave[row].mean() for row in mask.numpy()])
    assert mask.any(1).all()
    assert centres.std() == pytest.approx(5230 * 60 / C_KMS, rel=0.15)


def test_many_pixels_are_lost_one_by_one_or_in_stretches():
    plan = Disturbances(gaps=0, arm_loss=0.0, lost=0.5)
    _, _, mask, _ = noisy(plan, n=600)
    share = mask.float().mean(1)
    assert 0.35 < float((share > 0).float().mean()) < 0.6
    runs = (mask[:, 1:] & ~mask[:, :-1]).sum(1) / mask.sum(1).clamp(min=1)  # pixels by themselves: near 1
    many = share > 0.3
    alone = runs[many] > 0.2
    assert 0.3 < float(alone.float().mean()) < 0.7 and 0.6 < float(share[many][alone].max()) < 0.75
    assert float(runs[many][~alone].max()) < 1 / 25


def test_hits_are_bright_pixels_that_nobody_knows_of():
    quiet = attrs.evolve(QUIET, hits=10, hit_level=0.3)
    noise, sigma, mask, _ = noisy(quiet, n=800, snr=1e5)
    hit = (noise - 1.0) > 1e-3
    count = hit.sum(1)
    assert 0.15 < float((count > 0).float().mean()) < 0.27  # a quarter, some of which have none
    assert 7 <= int(count.max()) <= 20 and 0.25 < float((noise - 1.0).max()) <= 0.301
    assert not mask[hit].any() and float(sigma[hit].max()) < 1e-4


def test_the_generator_determines_everything():
    plan = Disturbances(arm_loss=0.2, lost=0.5, hits=20)
    first, again, other = (noisy(plan, n=20, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(99)  # the global state has no part in it
    assert torch.equal(noisy(plan, n=20, seed=3)[0], first[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_spectra():
    flux, vbroad = lines(), torch.tensor([12.0])
    velocity, factor = torch.tensor([3.0]), torch.tensor([0.97])
    expected = OBSERVER(flux, vbroad, velocity, factor).numpy()
    result = Observer(INSTRUMENT, GRID, "cuda")(*(v.cuda() for v in (flux, vbroad, velocity, factor)))
    assert result.cpu().numpy() == pytest.approx(expected, abs=1e-5)
    noise = Noise(INSTRUMENT, QUIET, "cuda")
    out, sigma, *_ = noise(result.expand(50, -1), torch.Generator("cuda").manual_seed(0))
    assert float(((out - result) / sigma).std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_every_tensor_is_made_on_the_device():
    """On torch's meta device, which computes shapes alone, a stray tensor of the CPU is an error."""

    class Anywhere(Noise):  # the meta device has no generator of random numbers
        def _uniform(self, *shape, generator):
            return torch.empty(*shape, device=self.device)

        def _normal(self, *shape, generator):
            return torch.empty(*shape, device=self.device)

        def _some(self, n, share, generator):
            return torch.arange(n, device=self.device)

    plan = Disturbances(arm_loss=0.2, lost=0.1, windows=((5229.0, 5231.0),), hits=20)
    result = Anywhere(INSTRUMENT, plan, "meta")(torch.ones(3, N_PIX, device="meta"), None)
    assert all(tensor.device.type == "meta" for tensor in result)
    frequency, vbroad = (torch.ones(n, device="meta") for n in (9, 3))
    assert rotation_transfer(frequency, vbroad).device.type == "meta"
