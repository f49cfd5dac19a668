"""The shipped steps: mask, rest-frame, to-arms, degrade-snr, continuum."""

import attrs
import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from specinn_preprocessing import specinn_preprocessors
from specinn_preprocessing.continuum import Continuum
from specinn_preprocessing.cross_correlation import VelocitySearch
from specinn_preprocessing.degrade_snr import DegradeSNR
from specinn_preprocessing.mask import Mask
from specinn_preprocessing.rest_frame import RestFrame
from specinn_preprocessing.to_arms import ToArms

from specinn.errors import ReadError
from specinn.flags import Flag
from specinn.instruments import Instrument
from specinn.plugins import load_factory
from specinn.plugins.interfaces import Templates
from specinn.spectra import SpectrumBatch, snr_per_angstrom
from specinn.spectra.resample import R_TOLERANCE
from specinn.testing import check_preprocessor
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA, doppler

R = 20_000.0
INSTRUMENT = Instrument.from_dict(
    {
        "name": "two-arms",
        "summary": "two short arms",
        "arms": [
            {"name": "green", "range": [5502, 5598], "resolving_power": R, "snr_windows": [[5540, 5550]],
             "pixels": {"n": 1100, "polynomial": [5500.0, 100.0]}},
            {"name": "red", "range": [6252, 6348], "resolving_power": R,
             "pixels": {"n": 1000, "polynomial": [6250.0, 102.0, -2.0]}},
        ],
    }
)  # fmt: skip
SPANS = ((5480.0, 5620.0), (6230.0, 6370.0))
_rng = np.random.default_rng(7)
LINES = np.concatenate([_rng.uniform(low, high, 110) for low, high in SPANS])
DEPTHS = _rng.uniform(0.03, 0.6, LINES.size)
NATIVE = 45_000.0


def model(wavelength, resolving_power, velocity=0.0, strength=1.0):
    """Flux of a star with Gaussian lines (5 km/s wide of their own) at a velocity and resolving power."""
    flux = np.ones(wavelength.size)
    sigma = np.hypot(5.0, C_KMS / FWHM_PER_SIGMA / resolving_power)
    for centre, depth in zip(doppler(LINES, velocity), DEPTHS, strict=True):
        near = slice(*np.searchsorted(wavelength, [centre - 3.0, centre + 3.0]))
        v = C_KMS * np.log(wavelength[near] / centre)
        flux[near] *= 1.0 - strength * depth * 5.0 / sigma * np.exp(-0.5 * (v / sigma) ** 2)
    return flux


def observe(velocities=(0.0,), snr=50.0, step=0.04, power=NATIVE, seed=0, strength=1.0, **fields):
    """A batch of spectra in two arms with a tilted continuum; ``snr`` per Angstrom."""
    waves = [np.arange(low, high, step) for low, high in SPANS]
    arms = {"a": slice(0, waves[0].size), "b": slice(waves[0].size, waves[0].size + waves[1].size)}
    wave = np.concatenate(waves)
    level = 3.0 + (wave - 5500.0) / 1000.0
    clean = np.stack([level * model(wave, power, v, strength) for v in velocities])
    sigma = np.broadcast_to(level / (snr * np.sqrt(step)), clean.shape).copy()
    flux = clean + sigma * np.random.default_rng(seed).normal(size=clean.shape)
    n = len(flux)
    meta = Table({"id": [f"star {i}" for i in range(n)], "path": ["x"] * n, "key": np.arange(n) + 5})
    data = {"sigma": sigma, "mask": np.zeros(flux.shape, bool), "resolving_power": power, "arms": arms}
    return SpectrumBatch(wave, flux, **{**data, "meta": meta, **fields})


def templates():
    waves = [low * np.exp(np.arange(int(np.log(high / low) * C_KMS / 4.0)) * 4.0 / C_KMS)
             for low, high in ((5505.0, 5595.0), (6255.0, 6345.0))]  # fmt: skip
    wave = np.concatenate(waves)
    arms = {"green": slice(0, waves[0].size), "red": slice(waves[0].size, wave.size)}
    flux = np.stack([model(wave, R, strength=s) for s in (0.3, 0.8, 1.3)])
    return Templates(wave, flux, arms, R)


TEMPLATES = templates()


def flags(batch):
    return np.asarray(batch.meta["flags"])


def has(batch, flag):
    return ((flags(batch) & flag) != 0).tolist()


def test_every_record_leads_to_a_step():
    for record in specinn_preprocessors():
        step = load_factory(record)(instrument=INSTRUMENT, templates=TEMPLATES)
        assert len(step(observe())) == 1


# Mask --------------------------------------------------------------------------------------------

MASK = Mask(INSTRUMENT, sky_lines=(), bands=())


def bad_batch():
    batch = observe((0.0, 10.0, -20.0, 0.0, 0.0), snr=100.0)
    batch.flux[0, 100:110] = np.nan
    batch.flux[1, :400] = 0.0
    batch.flux[2, 2000] += 40.0
    batch.sigma[3] = np.nan
    batch.mask[4, 50:60] = True
    batch.sigma[4, 70] = 0.0
    batch.sigma[4, 71] = np.inf
    return batch


def test_mask_keeps_the_contract():
    check_preprocessor(Mask(INSTRUMENT), bad_batch())


def test_what_carries_no_signal_is_masked_and_nothing_else():
    out = MASK(bad_batch())
    expected = np.zeros(out.mask.shape, bool)
    expected[0, 100:110] = True
    expected[1, :400] = True
    expected[2, 1999:2002] = True
    expected[4, 50:60] = expected[4, 70] = expected[4, 71] = True
    assert np.array_equal(out.mask, expected)
    assert np.isfinite(out.flux).all() and (out.sigma[~out.mask] > 0).all()
    assert (flags(out) == [0, 0, 0, Flag.SNR_ESTIMATED, 0]).all()


def test_single_zeros_are_noise_and_runs_are_not():
    batch = observe(snr=100.0)
    batch.flux[0, 500] = batch.flux[0, 600:602] = 0.0
    batch.flux[0, 700:703] = batch.flux[0, -3:] = 0.0
    result = np.flatnonzero(MASK(batch).mask[0])
    assert result.tolist() == [700, 701, 702, *range(batch.wavelength.size - 3, batch.wavelength.size)]


@pytest.mark.slow
@settings(max_examples=30)
@given(
    at=st.integers(10, 6000),
    height=st.floats(1.0, 1e6),
    width=st.integers(1, 3),
    snr=st.floats(60, 1000),
    unit=st.sampled_from([1e-17, 1.0, 1e5]),
)
def test_cosmic_rays_are_found(at, height, width, snr, unit):
    batch = observe(snr=snr)
    batch = attrs.evolve(batch, flux=batch.flux * unit, sigma=batch.sigma * unit)
    edges = [0, batch.arms["a"].stop, batch.wavelength.size]
    if min(abs(at - edge) for edge in edges) < 8:
        return
    batch.flux[0, at : at + width] += height * 4.0 * unit
    result = MASK(batch).mask[0]
    assert result[at : at + width].all()
    assert result.sum() <= width + 2


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("power", [20_000.0, 45_000.0, 110_000.0])
def test_narrow_lines_and_noise_are_not_taken_for_cosmic_rays(power, known):
    batch = observe(np.linspace(-50, 50, 20), snr=60.0, power=power)
    if not known:
        batch.sigma[:] = np.nan
    assert not MASK(batch).mask.any()


def test_cosmic_rays_can_be_left_alone():
    batch = observe(snr=100.0)
    batch.flux[0, 1000] += 100.0
    assert not Mask(INSTRUMENT, sky_lines=(), bands=(), cosmic_rays=False)(batch).mask.any()


def test_sky_lines_and_telluric_bands():
    out = Mask(INSTRUMENT)(observe((0.0, 100.0)))
    wave = out.wavelength
    sky = (np.abs(wave - 5577.34) < 0.6) | (np.abs(wave - 6300.30) < 0.6) | (np.abs(wave - 6363.78) < 0.6)
    telluric = (wave > 6276.0) & (wave < 6318.0)
    assert np.array_equal(out.mask, np.stack([sky | telluric] * 2))  # wherever the star moves
    assert sky.sum() > 50 and not has(out, Flag.NO_SIGNAL)[0]


@pytest.mark.parametrize("snr", [20.0, 100.0, 400.0])
def test_noise_that_the_file_does_not_state_is_measured(snr):
    batch = observe(np.zeros(5), snr=snr, step=0.02)
    expected = np.median(batch.sigma[:, batch.arms["a"]])
    batch.sigma[:] = np.nan
    batch.flux[1, 3000] = 1e7  # a cosmic ray must not spoil it
    batch.mask[2, :1500] = True
    out = MASK(batch)
    assert np.median(out.sigma[:, batch.arms["a"]], axis=1) == pytest.approx(expected, rel=0.1)
    assert has(out, Flag.SNR_ESTIMATED) == [True] * 5


def test_noise_that_differs_along_the_spectrum_is_measured_as_such():
    """What is not normalised and has no errors: bright and noisy here, faint and quiet there."""
    batch = observe(np.zeros(3), snr=30.0, step=0.004)
    wave = batch.wavelength
    light = np.where(wave < 6000, 2.0 + np.sin((wave - 5480) / 45.0), 0.3 * (1.2 - (wave - 6230) / 140.0))
    expected = batch.sigma * light
    batch = attrs.evolve(batch, flux=batch.flux * light, sigma=np.full_like(batch.sigma, np.nan))
    batch.mask[1, 9000:15000] = True  # more than a stretch
    result = np.where((out := MASK(batch)).mask, np.nan, out.sigma) / expected
    for arm in batch.arms.values():
        for part in np.array_split(np.arange(arm.start, arm.stop), 12):
            level = np.nanmedian(result[[0, 2]][:, part], axis=1)
            assert level == pytest.approx(1.0, abs=0.1)
    assert np.nanmedian(np.abs(result - 1.0)) < 0.04
    assert np.isfinite(out.sigma).all()  # also where the noise had to come from beside


def test_one_arm_that_holds_two_of_very_different_light():
    """A file that calls everything one piece, as most do: each arm of the model has the S/N that it has."""
    batch = observe(np.zeros(2), snr=20.0, step=0.01)
    light = np.where(batch.wavelength < 6000, 5.0, 1.0)
    batch = attrs.evolve(
        batch, flux=batch.flux * light, sigma=np.full_like(batch.sigma, np.nan),
        arms={"all": slice(0, batch.wavelength.size)},
    )  # fmt: skip
    out = Continuum(INSTRUMENT)(ToArms(INSTRUMENT)(MASK(batch)))
    for arm in ("green", "red"):
        assert np.asarray(out.meta[f"snr_{arm}"]) == pytest.approx(20.0, rel=0.1)


def test_noise_is_left_alone_where_it_is_known():
    batch = observe((0.0, 0.0))
    batch.sigma[0] = np.nan
    out = MASK(batch)
    assert np.array_equal(out.sigma[1], batch.sigma[1])
    assert has(out, Flag.SNR_ESTIMATED) == [True, False]


@pytest.mark.parametrize("unit", [1.0, 1e-16])
def test_spectra_without_signal(unit):
    batch = observe(np.zeros(7))
    batch = attrs.evolve(batch, flux=batch.flux * unit, sigma=batch.sigma * unit)
    batch.flux[1] = 2.0 * unit
    batch.flux[2] = 0.0
    batch.flux[3] *= -1.0
    batch.flux[4] = np.nan
    batch.flux[5] -= batch.flux[5].mean() * 1.2
    batch.flux[6, batch.arms["a"]] = 0.0  # the other arm has signal
    out = MASK(batch)
    assert has(out, Flag.NO_SIGNAL) == [False, True, True, True, False, True, False]
    assert out.mask[4].all()  # no pixels at all, which to-arms says


# Rest frame --------------------------------------------------------------------------------------

REST = RestFrame(INSTRUMENT, TEMPLATES)
SEARCH = VelocitySearch(TEMPLATES)


def test_rest_frame_keeps_the_contract():
    batch = observe((30.0, 30.0, 30.0), snr=80.0)
    batch.mask[1, 100:200] = True
    batch.meta["rv"] = [30.0, 30.0, 30.0]
    check_preprocessor(REST, batch)
    batch.meta["rv"] = [np.nan, 30.0, np.nan]
    check_preprocessor(REST, batch)
    assert np.isnan(batch.meta["rv"]).tolist() == [True, False, True]


@pytest.mark.parametrize("snr", [50.0, 200.0])
def test_velocity_is_measured_to_better_than_a_kilometre_per_second(snr):
    velocities = np.linspace(-200, 200, 17)
    out = RestFrame(INSTRUMENT, TEMPLATES, "auto")(observe(velocities, snr=snr))
    off = np.asarray(out.meta["rv"]) - velocities
    assert np.abs(off).max() < 1.0
    assert np.sqrt((off**2).mean()) < 0.5
    assert has(out, Flag.RV_MEASURED) == [True] * 17 and not any(has(out, Flag.RV_UNCERTAIN))


@pytest.mark.slow
def test_velocity_error_is_that_of_the_scatter():
    out = RestFrame(INSTRUMENT, TEMPLATES, "auto")(observe(np.full(60, 12.3), snr=25.0))
    off = np.asarray(out.meta["rv"]) - 12.3
    stated = np.median(out.meta["rv_error"])
    assert 0.4 < off.std() / stated < 1.6
    assert abs(off.mean()) < 0.15


@pytest.mark.parametrize("power", [12_000.0, 20_000.0, 100_000.0])
def test_velocity_at_other_resolving_powers(power):
    velocities = np.array([-150.0, 0.0, 77.7])
    out = RestFrame(INSTRUMENT, TEMPLATES, "auto")(observe(velocities, snr=80.0, power=power))
    assert np.asarray(out.meta["rv"]) == pytest.approx(velocities, abs=0.7)


def test_a_given_velocity_is_used():
    batch = observe((12.0, 12.0), snr=1e5)
    batch.meta["rv"] = [30.0, -10.0]
    out = RestFrame(INSTRUMENT, TEMPLATES, 12.0)(batch)
    assert out.meta["rv"].tolist() == [12.0, 12.0] and np.isnan(out.meta["rv_error"]).all()
    assert np.array_equal(out.wavelength, batch.wavelength) and not flags(out).any()
    level = 3.0 + (doppler(out.wavelength, 12.0) - 5500.0) / 1000.0
    off = (out.flux / level - model(out.wavelength, NATIVE))[~out.mask]
    assert np.abs(off).max() < 2e-3


@pytest.mark.parametrize("kind", ["nan", "masked", "masked whole numbers"])
def test_what_the_file_states_is_used_and_the_rest_is_measured(kind):
    batch = observe((30.0, -120.0, 30.0), snr=100.0)
    if kind == "nan":
        batch.meta["rv"] = [31.0, np.nan, 29.0]
    else:
        dtype = int if "whole" in kind else float
        batch.meta["rv"] = MaskedColumn([31, 0, 29], mask=[False, True, False], dtype=dtype)
    out = REST(batch)
    assert np.asarray(out.meta["rv"]) == pytest.approx([31.0, -120.0, 29.0], abs=0.5)
    assert has(out, Flag.RV_MEASURED) == [False, True, False]
    assert np.isfinite(out.meta["rv_error"]).tolist() == [False, True, False]


def test_auto_measures_what_the_file_states():
    batch = observe((30.0, -20.0), snr=100.0)
    batch.meta["rv"] = [0.0, 0.0]
    out = RestFrame(INSTRUMENT, TEMPLATES, "auto")(batch)
    assert np.asarray(out.meta["rv"]) == pytest.approx([30.0, -20.0], abs=0.5)


@pytest.mark.slow
def test_different_velocities_in_a_batch():
    """Against the model on the same pixels; what comes from beyond or rests on bad pixels is masked."""
    velocities = np.array([-150.0, -0.4, 33.3, 200.0])
    batch = observe(velocities, snr=1e5)
    batch.meta["rv"] = velocities
    batch.mask[1, 1000:1010] = True
    batch.flux[1, 1000:1010] = 1e4  # masked: must not leak
    out = REST(batch)
    assert np.array_equal(out.wavelength, batch.wavelength)
    expected = model(batch.wavelength, NATIVE)
    for i, velocity in enumerate(velocities):
        source = doppler(batch.wavelength, velocity)
        level = 3.0 + (source - 5500.0) / 1000.0
        good = ~out.mask[i]
        off = np.abs(out.flux[i] / level - expected)[good]
        assert off.max() < 5e-3 and np.median(off) < 2e-4
        assert out.sigma[i, good] == pytest.approx((level / (1e5 * np.sqrt(0.04)))[good], rel=1e-3)
        for arm in batch.arms.values():
            wave = batch.wavelength[arm]
            beyond = (source[arm] < wave[0]) | (source[arm] > wave[-1])
            lost = out.mask[i, arm] & ~beyond
            assert out.mask[i, arm][beyond].all()
            assert lost.sum() in ((10, 11, 12, 13) if i == 1 and arm.start == 0 else (0,))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_velocity_changes_nothing(dtype):
    batch = bad_batch()
    batch = attrs.evolve(batch, flux=batch.flux.astype(dtype), sigma=batch.sigma.astype(dtype))
    batch.meta["rv"] = [0.0, 25.0, 0.0, 0.0, -0.0]
    out = REST(batch)
    for name in ("flux", "sigma", "mask"):
        before, after = getattr(batch, name), getattr(out, name)
        assert after.dtype == before.dtype
        assert np.array_equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]], equal_nan=name != "mask")
    assert (out.flux[1] != batch.flux[1]).any()


@pytest.mark.slow
@settings(max_examples=20)
@given(
    velocities=st.lists(st.floats(-300, 300) | st.just(0.0), min_size=2, max_size=5), seed=st.integers(0, 99)
)
def test_a_spectrum_moves_whatever_its_companions_do(velocities, seed):
    batch = observe(np.zeros(len(velocities)), snr=60.0, seed=seed)
    batch.mask |= np.random.default_rng(seed).uniform(size=batch.mask.shape) < 0.01
    batch.meta["rv"] = velocities
    together = REST(batch)
    for i in range(len(batch)):
        alone = REST(batch[i])
        for name in ("flux", "sigma", "mask"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[i])


@pytest.mark.parametrize(("pixels", "limit"), [(2.2, 1e-3), (2.8, 2e-4), (4.0, 1e-4)])
def test_the_shift_is_that_of_the_wavelengths(pixels, limit):
    """For spectra of every sampling, after they have been degraded to the model's resolving power."""
    power, velocity = 60_000.0, 77.7
    batch = observe((velocity,), snr=1e9, step=5550.0 / power / pixels, power=power)
    exact = to_arms(attrs.evolve(batch, wavelength=batch.wavelength / doppler(1.0, velocity)))
    moved = to_arms(RestFrame(INSTRUMENT, TEMPLATES, velocity)(batch))
    good = ~(exact.mask | moved.mask)
    assert good.mean() > 0.9
    off = (moved.flux - exact.flux)[good] / 3.0
    assert np.abs(off).max() < limit and off.std() < 0.2 * limit
    assert moved.sigma[good] == pytest.approx(exact.sigma[good], rel=5e-3)


@pytest.mark.slow
def test_the_snr_per_angstrom_survives_the_shift():
    batch = observe(np.zeros(60), snr=100.0, strength=0.0)
    batch.meta["rv"] = np.linspace(-80, 80, 60)
    out = REST(batch)
    for arm in out.arms.values():
        assert snr_per_angstrom(out, arm) == pytest.approx(100.0, rel=0.01)
    # the errors are those of means over many pixels, however the noise is correlated
    level = 3.0 + (doppler(out.wavelength, np.asarray(out.meta["rv"])[:, None]) - 5500.0) / 1000.0
    pull = ((out.flux - level) / out.sigma)[:, 200:3200].reshape(60, 60, 50).sum(axis=2) / np.sqrt(50)
    assert pull.std() == pytest.approx(1.0, abs=0.06)


def test_gaps_in_the_wavelengths_do_not_bleed():
    """A few pixels that a file leaves out, and a piece of spectrum: as if they were there and masked. Narrow
    gaps that are masked are filled, which their neighbours feel by less than 0.1 %."""
    whole = observe((60.0,), snr=1e5)
    left_out = np.zeros(whole.wavelength.size, bool)
    left_out[[1000, 1500, 1501]] = left_out[2000:2100] = True
    masked = attrs.evolve(whole, mask=whole.mask | left_out)
    keep = ~left_out
    a = int(keep[whole.arms["a"]].sum())
    arms = {"a": slice(0, a), "b": slice(a, int(keep.sum()))}
    arrays = (getattr(whole, name)[:, keep] for name in ("flux", "sigma", "mask"))
    short = SpectrumBatch(whole.wavelength[keep], *arrays, NATIVE, meta=whole.meta, arms=arms)
    step = RestFrame(INSTRUMENT, TEMPLATES, 60.0)
    one, two = step(masked), step(short)
    both = ~(one.mask[0, keep] | two.mask[0])
    filled = np.zeros(whole.wavelength.size, bool)  # 60 km/s are 28 pixels
    filled[965:981] = filled[1465:1482] = True
    far, near = both & ~filled[keep], both & filled[keep]
    assert two.flux[0, far] == pytest.approx(one.flux[0, keep][far], abs=1e-4)
    assert two.flux[0, near] == pytest.approx(one.flux[0, keep][near], rel=1e-3)
    assert np.count_nonzero((one.mask[0, keep] != two.mask[0])[~filled[keep]]) <= 8
    level = 3.0 + (doppler(two.wavelength, 60.0) - 5500.0) / 1000.0
    off = np.abs(two.flux[0] / level - model(two.wavelength, NATIVE))[~two.mask[0]]
    assert off.max() < 5e-3


def test_pixels_far_from_the_model_are_dropped():
    wave = np.arange(5300.0, 6500.0, 0.1)  # over both arms of the model and what lies between
    flux = 1.0 + wave / 1e4
    batch = SpectrumBatch(wave, flux[None], np.full((1, wave.size), 0.01), np.zeros((1, wave.size), bool),
                          2.0 * wave, meta=Table({"id": ["x"], "path": ["x"], "rv": [40.0]}))  # fmt: skip
    out = REST(batch)
    assert list(out.arms) == ["all/1", "all/2"]
    for arm, (low, high) in zip(out.arms.values(), ((5472, 5628), (6222, 6378)), strict=True):
        assert out.wavelength[arm][0] == pytest.approx(low, abs=0.11)
        assert out.wavelength[arm][-1] == pytest.approx(high, abs=0.11)
    assert out.resolving_power == pytest.approx(2.0 * out.wavelength)
    assert not out.mask.any() and out.flux[0] == pytest.approx(1.0 + doppler(out.wavelength, 40.0) / 1e4)
    far = attrs.evolve(batch, wavelength=batch.wavelength + 5000.0)
    assert np.array_equal(REST(far).wavelength, far.wavelength)


def test_velocities_are_found_as_far_as_the_search_goes():
    velocities = np.array([-590.0, -400.0, 333.0, 590.0])
    result = SEARCH(observe(velocities, snr=100.0))
    rv, error, clear = result.rv, result.error, result.clear
    assert rv == pytest.approx(velocities, abs=0.5)
    assert clear.all() and (error < 1.0).all()


def test_velocity_with_an_arm_and_many_pixels_missing():
    batch = observe((88.0, -88.0, 12.0, 12.0), snr=100.0)
    batch.mask[0, batch.arms["a"]] = True
    batch.mask[1, batch.arms["b"]] = True
    batch.mask[2] |= np.random.default_rng(0).uniform(size=batch.wavelength.size) < 0.15
    batch.sigma[3, batch.arms["b"]] *= 100.0
    batch.flux[batch.mask] = 1e6
    result = SEARCH(batch)
    rv, error, clear = result.rv, result.error, result.clear
    assert rv == pytest.approx([88.0, -88.0, 12.0, 12.0], abs=0.5)
    assert clear.all() and (error < 1.0).all()


def test_a_velocity_is_that_of_the_spectrum_alone():
    velocities = np.linspace(-180, 210, 19)  # not a multiple of the stars that are taken at a time
    batch = observe(velocities, snr=30.0)
    batch.mask[3, 500:900] = True
    batch.mask[7, batch.arms["a"]] = True
    together = SEARCH(batch)
    for i in range(len(batch)):
        alone = SEARCH(batch[i])
        assert alone.rv[0] == together.rv[i]
        assert alone.error[0] == pytest.approx(together.error[i], rel=1e-3)
        assert alone.clear[0] == together.clear[i]


def test_the_whole_chain_on_a_batch_and_on_each_alone():
    batch = observe((30.0, -120.0, 75.0, 0.0, 210.0), snr=80.0)
    batch.mask[1, 100:200] = True
    batch.flux[2, 2000] += 40.0
    batch.sigma[3] = np.nan
    batch.mask[4, batch.arms["b"]] = True
    steps = [Mask(INSTRUMENT), RestFrame(INSTRUMENT, TEMPLATES), ToArms(INSTRUMENT), Continuum(INSTRUMENT)]

    def chain(spectra):
        for step in steps:
            spectra = step(spectra)
        return spectra

    together = chain(batch)
    for i in range(len(batch)):
        alone = chain(batch[i])
        assert np.array_equal(alone.mask[0], together.mask[i])
        assert alone.flux[0] == pytest.approx(together.flux[i], abs=3e-5)
        assert alone.sigma[0] == pytest.approx(together.sigma[i], rel=1e-4)
        for name in ("flags", "rv", "snr_green", "snr_red"):
            assert alone.meta[name][0] == pytest.approx(together.meta[name][i], rel=1e-4), name


def test_noise_not_known_stays_not_known():
    batch = observe((10.0, -10.0))
    batch.sigma[1] = np.nan
    batch.mask[1, 300:500] = True
    batch.meta["rv"] = [10.0, -10.0]
    out = REST(batch)
    assert np.isnan(out.sigma[1]).all() and (out.sigma[0] > 0).all()


def test_pure_noise_is_uncertain():
    batch = observe(np.zeros(8), snr=20.0, strength=0.0)
    out = RestFrame(INSTRUMENT, TEMPLATES, "auto")(batch)
    assert has(out, Flag.RV_UNCERTAIN) == [True] * 8
    assert np.isfinite(out.meta["rv"]).all()


def test_without_a_common_pixel_there_is_no_velocity():
    batch = observe((0.0, 50.0), snr=100.0)
    batch.mask[0] = True
    out = RestFrame(INSTRUMENT, TEMPLATES, "auto")(batch)
    assert out.meta["rv"][0] == 0.0 and np.isinf(out.meta["rv_error"][0])
    assert has(out, Flag.RV_UNCERTAIN) == [True, False]
    assert out.meta["rv"][1] == pytest.approx(50.0, abs=0.5)
    elsewhere = attrs.evolve(batch, wavelength=batch.wavelength + 3000.0)
    result = SEARCH(elsewhere)
    assert result.rv.tolist() == [0.0, 0.0] and np.isinf(result.error).all() and not result.clear.any()


def test_overlapping_orders_serve_the_velocity():
    first, second = np.arange(5480, 5570, 0.04), np.arange(5550, 5620, 0.04)
    wave = np.concatenate([first, second])
    arms = {"1": slice(0, first.size), "2": slice(first.size, wave.size)}
    flux = np.concatenate([model(w, NATIVE, -42.0) for w in (first, second)])[None]
    batch = SpectrumBatch(wave, flux, np.full(flux.shape, 0.05), np.zeros(flux.shape, bool), NATIVE,
                          meta=Table({"id": ["x"], "path": ["x"]}), arms=arms)  # fmt: skip
    result = SEARCH(batch)
    rv, clear = result.rv, result.clear
    assert rv[0] == pytest.approx(-42.0, abs=0.3) and clear.all()


# To the arms of the model ------------------------------------------------------------------------


def to_arms(batch):
    return ToArms(INSTRUMENT)(batch)


def test_to_arms_keeps_the_contract():
    batch = observe((0.0, 5.0, -5.0))
    batch.mask[1, 200:300] = True
    batch.mask[2, batch.arms["a"]] = True
    check_preprocessor(ToArms(INSTRUMENT), batch)


def test_resolving_power_and_pixels_of_both_arms():
    out = to_arms(observe((0.0, 30.0), snr=1e7))
    assert np.array_equal(out.wavelength, INSTRUMENT.wavelength) and out.arms == INSTRUMENT.slices
    assert np.array_equal(out.resolving_power, np.full(out.wavelength.size, R))
    inside = np.concatenate([arm.contains(arm.wavelength) for arm in INSTRUMENT.arms])
    assert np.array_equal(out.mask, np.stack([~inside] * 2))
    for row, velocity in enumerate((0.0, 30.0)):
        level = 3.0 + (out.wavelength - 5500.0) / 1000.0
        expected = level * model(out.wavelength, R, velocity)
        # lines that blend multiply before the convolution and not after it
        assert np.median(np.abs(out.flux[row] - expected)[inside]) < 2e-3
        assert np.abs(out.flux[row] - expected)[inside].max() < 0.15


@pytest.mark.slow
def test_errors_keep_the_snr_per_angstrom():
    batch = observe(np.zeros(40), snr=100.0, strength=0.0, step=0.02)
    out = to_arms(batch)
    for name, arm in out.arms.items():
        assert snr_per_angstrom(out, arm) == pytest.approx(100.0, rel=0.02), name
    narrow = observe(np.zeros(40), snr=100.0, strength=0.0, step=0.25)  # no convolution, no correlation
    narrow.resolving_power = R
    out = to_arms(narrow)
    inside = ~out.mask[0]
    level = 3.0 + (out.wavelength - 5500.0) / 1000.0
    scatter = ((out.flux - level) / out.sigma)[:, inside]
    assert scatter.std() < 1.05


def test_missing_coverage_is_masked_and_flagged():
    batch = observe(np.zeros(4))
    wave = batch.wavelength
    batch.mask[0, (wave > 5530) & (wave < 5560)] = True
    batch.mask[1, batch.arms["b"]] = True
    batch.mask[2] = True
    batch.mask[3, wave > 5545] = True
    out = to_arms(batch)
    hole = (out.wavelength > 5530.2) & (out.wavelength < 5559.8)
    assert out.mask[0, hole].all() and not out.mask[0, out.arms["red"]].all()
    beside = (out.wavelength > 5510) & (out.wavelength < 5529.5)
    assert not out.mask[0, beside].any()
    assert (out.flux[out.mask] == 0).all()
    assert has(out, Flag.ARM_MISSING) == [False, True, True, True]
    assert has(out, Flag.NO_OVERLAP) == [False, False, True, False]
    assert has(out, Flag.MANY_MASKED) == [False, False, False, True]  # of the arms that are there


def test_a_spectrum_of_one_arm_and_a_bit():
    batch = observe()
    short = batch.wavelength < 6290
    arms = {"a": batch.arms["a"], "b": slice(batch.arms["b"].start, int(short.sum()))}
    arrays = (getattr(batch, name)[:, short] for name in ("flux", "sigma", "mask"))
    piece = SpectrumBatch(batch.wavelength[short], *arrays, NATIVE, meta=batch.meta, arms=arms)
    out = to_arms(piece)
    red = out.wavelength[out.arms["red"]][~out.mask[0, out.arms["red"]]]
    assert red[0] == pytest.approx(6252.0, abs=0.15) and red[-1] == pytest.approx(6290.0, abs=0.2)
    green = ~out.mask[0, out.arms["green"]]
    assert np.array_equal(green, INSTRUMENT.arm("green").contains(out.wavelength[out.arms["green"]]))
    assert has(out, Flag.ARM_MISSING) == [False]


def test_overlapping_orders_join():
    first, second = np.arange(5480, 5560, 0.04), np.arange(5550, 5620, 0.04)
    wave = np.concatenate([first, second])
    arms = {"1": slice(0, first.size), "2": slice(first.size, wave.size)}
    flux = np.concatenate([model(w, NATIVE) for w in (first, second)])[None]
    batch = SpectrumBatch(wave, flux, np.full(flux.shape, 0.01), np.zeros(flux.shape, bool), NATIVE,
                          meta=Table({"id": ["x"], "path": ["x"]}), arms=arms)  # fmt: skip
    green = to_arms(batch)
    whole = to_arms(observe(snr=1e7))
    good = ~green.mask[0, green.arms["green"]]
    assert good.sum() > 1000
    level = 3.0 + (whole.wavelength[whole.arms["green"]] - 5500.0) / 1000.0
    expected = whole.flux[0, whole.arms["green"]] / level
    assert green.flux[0, green.arms["green"]][good] == pytest.approx(expected[good], abs=2e-3)


def test_too_low_a_resolving_power_is_an_error():
    with pytest.raises(ReadError, match=r"has resolving power 17900 .* the model needs 20000"):
        to_arms(observe(power=0.895 * R))
    with pytest.raises(
        ReadError, match="the resolving power of the spectrum is unknown: give it with --resolving-power"
    ):
        to_arms(observe(resolving_power=None))


@pytest.mark.parametrize("factor", [R_TOLERANCE + 1e-6, 0.97, 1.0])
def test_resolving_power_a_little_below_passes_as_it_is(factor):
    batch = observe(snr=1e7, power=factor * R)
    out = to_arms(batch)
    level = 3.0 + (out.wavelength - 5500.0) / 1000.0
    expected = level * model(out.wavelength, factor * R)
    good = ~out.mask[0]
    assert np.median(np.abs(out.flux[0] - expected)[good]) < 3e-3


# Degraded S/N ------------------------------------------------------------------------------------


def test_degrade_keeps_the_contract():
    batch = to_arms(observe((0.0, 3.0, 5.0), snr=300.0))
    batch.mask[1, 100:200] = True
    check_preprocessor(DegradeSNR(INSTRUMENT, snr=50.0), batch)


@pytest.mark.parametrize("target", [10.0, 80.0])
def test_degrading_reaches_the_stated_snr(target):
    batch = to_arms(observe(np.zeros(40), snr=400.0, strength=0.0))
    out = DegradeSNR(INSTRUMENT, snr=target)(batch)
    assert np.array_equal(out.mask, batch.mask)
    for arm in out.arms.values():
        assert snr_per_angstrom(out, arm).mean() == pytest.approx(target, rel=0.03)
        good = ~out.mask[0, arm]
        level = 3.0 + (out.wavelength[arm] - 5500.0) / 1000.0
        scatter = ((out.flux[:, arm] - level) / out.sigma[:, arm])[:, good].std()
        assert scatter == pytest.approx(1.0, abs=0.03)  # the noise of before is correlated


def test_noisier_pixels_stay_as_they_are():
    batch = to_arms(observe((0.0, 0.0), snr=400.0))
    batch.sigma[0] *= 50.0
    batch.sigma[1, 300:400] *= 50.0
    out = DegradeSNR(INSTRUMENT, snr=100.0)(batch)
    good = ~batch.mask
    assert np.array_equal(out.flux[0], batch.flux[0])
    assert out.sigma[0][good[0]] == pytest.approx(batch.sigma[0][good[0]])
    assert np.array_equal(out.flux[1, 300:400], batch.flux[1, 300:400])
    assert (out.sigma[good] >= batch.sigma[good] * (1 - 1e-12)).all()
    assert (out.flux[1, 400:1000] != batch.flux[1, 400:1000]).all()


def test_added_noise_hangs_on_seed_and_row_alone():
    batch = to_arms(observe((0.0, 1.0, 2.0), snr=400.0))
    out = DegradeSNR(INSTRUMENT, snr=50.0, seed=1)(batch)
    again = DegradeSNR(INSTRUMENT, snr=50.0, seed=1)(batch[[2, 0]])
    assert np.array_equal(again.flux, out.flux[[2, 0]])
    other = DegradeSNR(INSTRUMENT, snr=50.0, seed=2)(batch)
    good = ~out.mask
    assert (other.flux != out.flux)[good].all()
    noise = (out.flux - batch.flux)[:, 100:1000]
    assert np.abs(np.corrcoef(noise)[np.triu_indices(3, 1)]).max() < 0.15


# Continuum ---------------------------------------------------------------------------------------


def test_continuum_keeps_the_contract():
    batch = to_arms(observe((0.0, 3.0, 5.0, 0.0), snr=100.0))
    batch.mask[1, 200:300] = True
    batch.mask[2, batch.arms["red"]] = True
    batch.mask[3] = True
    check_preprocessor(Continuum(INSTRUMENT), batch, rtol=1e-5)


def test_spectra_are_normalised_with_their_errors():
    batch = to_arms(observe((0.0, 3.0), snr=200.0))
    out = Continuum(INSTRUMENT)(batch)
    good = ~out.mask
    level = 3.0 + (out.wavelength - 5500.0) / 1000.0
    for row in range(2):
        ratio = batch.flux[row] / out.flux[row] / level
        for arm in out.arms.values():
            assert ratio[arm][good[row, arm]].mean() == pytest.approx(1.0, abs=0.01)
    ratio = out.sigma[good] / out.flux[good]
    assert ratio == pytest.approx(batch.sigma[good] / batch.flux[good], rel=1e-5)
    assert (out.flux[~good] == 1).all() and np.isinf(out.sigma[~good]).all()


@pytest.mark.parametrize("unit", [1e-17, 1e9])
def test_spectra_of_any_unit(unit):
    batch = to_arms(observe(snr=200.0))
    scaled = attrs.evolve(batch, flux=batch.flux * unit, sigma=batch.sigma * unit)
    one, two = Continuum(INSTRUMENT)(batch), Continuum(INSTRUMENT)(scaled)
    assert two.flux == pytest.approx(one.flux, abs=1e-4)


def test_snr_columns():
    batch = to_arms(observe(np.zeros(5), snr=120.0, strength=0.0))
    window = (batch.wavelength > 5538) & (batch.wavelength < 5552)
    batch.sigma[1, window] *= 2.0  # the green arm has a window, the red one has none
    batch.mask[2, window] = True
    batch.mask[3, batch.arms["red"]] = True
    batch.sigma[4, batch.arms["red"]] *= 3.0
    out = Continuum(INSTRUMENT)(batch)
    assert np.asarray(out.meta["snr_green"]) == pytest.approx([120, 60, 120, 120, 120], rel=0.03)
    assert np.asarray(out.meta["snr_red"]) == pytest.approx([120, 120, 120, 0, 40], rel=0.03)


def test_a_continuum_on_few_pixels_is_flagged():
    batch = to_arms(observe(np.zeros(3), snr=100.0))
    arm = batch.arms["green"]
    batch.mask[1, arm.start : arm.stop - 60] = True
    batch.mask[2, arm] = True
    out = Continuum(INSTRUMENT)(batch)
    assert has(out, Flag.CONTINUUM_POOR) == [False, True, False]


def test_options_reach_the_fit():
    batch = to_arms(observe(snr=100.0))
    stiff = Continuum(INSTRUMENT, options={"degree": 0.1, "lower": 3.0})(batch)
    assert not np.array_equal(stiff.flux, Continuum(INSTRUMENT)(batch).flux)
    with pytest.raises(TypeError, match="degre"):
        Continuum(INSTRUMENT, options={"degre": 1.0})(batch)
