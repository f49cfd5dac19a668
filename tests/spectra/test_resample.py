"""The resampling operator: widths, flux, errors, masks and gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specinn.errors import ReadError
from specinn.spectra import SpectrumBatch
from specinn.spectra import resample as resample_module
from specinn.spectra.resample import (
    Resampler,
    apply_resampling,
    pixel_bounds,
    pixel_widths,
    resampling_matrix,
)
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA, lsf_sigma_kms

CENTRE = 5400.0


def grid(low, high, step, stretch=0.0):
    """Pixel centres whose step grows by the fraction ``stretch`` from one end to the other."""
    n = int((high - low) / step)
    u = np.linspace(0, 1, n)
    return low + (high - low) * (u + stretch / 2 * (u**2 - u))


def line(wavelength, resolving_power, depth=0.5):
    """A line that is narrow by itself, as a spectrograph of that resolving power shows it."""
    sigma = CENTRE / resolving_power / FWHM_PER_SIGMA
    return 1.0 - depth * np.exp(-0.5 * ((wavelength - CENTRE) / sigma) ** 2)


def moments(wavelength, flux):
    """Equivalent width (Angstrom), centre and standard deviation of the one line of a spectrum."""
    low, high = pixel_bounds(wavelength)
    weight = (1.0 - flux) * (high - low)
    centre = np.average(wavelength, weights=weight)
    return weight.sum(), centre, np.sqrt(np.average((wavelength - centre) ** 2, weights=weight))


def resample(wavelength, r_in, out, r_out, flux, sigma=None, mask=None):
    flux = np.atleast_2d(flux)
    sigma = np.ones_like(flux) if sigma is None else sigma
    mask = np.zeros(flux.shape, bool) if mask is None else np.atleast_2d(mask)
    widths = pixel_widths(wavelength), pixel_widths(out)
    return apply_resampling(resampling_matrix(wavelength, r_in, out, r_out), widths, flux, sigma, mask)


@settings(max_examples=40)
@given(
    r_in=st.floats(40_000, 120_000),
    ratio=st.floats(1.0, 6.0),
    step_in=st.floats(0.02, 0.08),
    step_out=st.floats(0.03, 0.12),
    offset=st.floats(0, 0.1),
)
def test_a_constant_stays_constant(r_in, ratio, step_in, step_out, offset):
    wavelength, out = grid(5380, 5420, step_in, 0.2), grid(5379 + offset, 5421, step_out, -0.3)
    flux, _, mask = resample(wavelength, r_in, out, r_in / ratio, np.full(wavelength.size, 3.0))
    assert flux[~mask] == pytest.approx(3.0, abs=1e-12)
    assert (~mask).sum() > 0.9 * out.size


@settings(max_examples=40)
@given(
    r_in=st.floats(40_000, 120_000),
    r_out=st.floats(10_000, 30_000),
    step_in=st.floats(0.01, 0.04),
    step_out=st.floats(0.02, 0.09),
    stretch=st.floats(-0.3, 0.3),
)
def test_width_grows_as_the_formula_says_and_flux_is_conserved(r_in, r_out, step_in, step_out, stretch):
    """Also on the coarse pixels of 4MOST: resolving power is that of the recorded spectrum."""
    wavelength, out = grid(5390, 5410, step_in), grid(5392, 5408, step_out, stretch)
    before = moments(wavelength, line(wavelength, r_in))
    flux, _, mask = resample(wavelength, r_in, out, r_out, line(wavelength, r_in))
    after = moments(out[~mask[0]], flux[0][~mask[0]])
    assert after[0] == pytest.approx(before[0], rel=1e-4)
    assert after[1] == pytest.approx(CENTRE, abs=1e-4)
    grown = CENTRE / C_KMS * lsf_sigma_kms(r_out, r_in)
    assert after[2] == pytest.approx(np.hypot(before[2], grown), rel=1e-3)


def test_total_flux_is_conserved_for_any_spectrum():
    rng = np.random.default_rng(1)
    wavelength, out = grid(5390, 5410, 0.02, 0.2), grid(5380, 5420, 0.05)
    flux = rng.uniform(0, 1, wavelength.size)
    flux[:100] = flux[-100:] = 0.0
    matrix = resampling_matrix(wavelength, 60_000, out, 20_000)
    width_in, width_out = (np.subtract(*pixel_bounds(w)[::-1]) for w in (wavelength, out))
    assert (width_out * (matrix @ flux)).sum() == pytest.approx((width_in * flux).sum(), rel=1e-5)


@pytest.mark.parametrize("r", [20_000.0, np.linspace(18_000, 21_000, 500)])
def test_the_same_grid_and_resolving_power_change_nothing(r):
    wavelength = np.geomspace(5300, 5360, 500)
    matrix = resampling_matrix(wavelength, r, wavelength, r)
    assert abs(matrix - np.eye(500)).max() < 1e-9
    flux = np.random.default_rng(0).normal(size=(2, 500))
    sigma = np.random.default_rng(1).uniform(1, 2, size=(2, 500))
    mask = np.random.default_rng(2).uniform(size=(2, 500)) < 0.1
    widths = pixel_widths(wavelength), pixel_widths(wavelength)
    new, error, bad = apply_resampling(matrix, widths, flux, sigma, mask)
    assert (bad == mask).all()
    assert new[~bad] == pytest.approx(flux[~mask], abs=1e-9)
    assert error[~bad] == pytest.approx(sigma[~mask], rel=1e-9)


def test_coarser_pixels_that_nest_are_plain_means():
    wavelength = 5000.05 + 0.1 * np.arange(400)
    out = wavelength.reshape(-1, 4).mean(axis=1)
    flux = np.random.default_rng(0).normal(size=400)
    matrix = resampling_matrix(wavelength, 1e9, out, 1e9)
    assert matrix @ flux == pytest.approx(flux.reshape(-1, 4).mean(axis=1), abs=1e-9)


def test_two_steps_are_as_good_as_one():
    wavelength, middle, out = grid(5390, 5410, 0.01), grid(5391, 5409, 0.04), grid(5393, 5407, 0.09)
    flux = line(wavelength, 80_000, 0.9)
    one = resample(wavelength, 80_000, out, 20_000, flux)[0]
    half, _, mask = resample(wavelength, 80_000, middle, 40_000, flux)
    two = resample(middle, 40_000, out, 20_000, half, mask=mask)[0]
    assert two == pytest.approx(one, abs=1e-3)
    assert moments(out, two[0])[2] == pytest.approx(moments(out, one[0])[2], rel=1e-3)


def test_resolving_power_as_tables():
    """A table and the number that it has at the line agree there; a table is interpolated in wavelength."""
    wavelength, out = grid(5380, 5420, 0.02), grid(5385, 5415, 0.06)
    r_in = np.interp(wavelength, [5380, 5420], [50_000, 70_000])
    r_out = np.interp(out, [5380, 5420], [18_000, 22_000])
    flux = line(wavelength, 60_000)
    varied = resample(wavelength, r_in, out, r_out, flux)[0]
    fixed = resample(wavelength, 60_000, out, 20_000, flux)[0]
    assert varied == pytest.approx(fixed, abs=2e-4)
    assert abs(varied - fixed).max() > 1e-7


def test_resolving_power_too_low_names_both():
    wavelength = grid(5390, 5410, 0.05)
    with pytest.raises(ReadError, match=r"resolving power 15000 at 5390.* needs 20000.*--resolving-power"):
        resampling_matrix(wavelength, 15_000, wavelength, 20_000)
    resampling_matrix(wavelength, 19_900, wavelength, 20_000)  # within 1 %


def test_resolving_power_matters_only_where_the_input_is():
    wavelength, out = grid(5390, 5410, 0.05), grid(5300, 5410, 0.05)
    r_in = np.full(wavelength.size, 30_000.0)
    r_out = np.where(out < 5380, 90_000.0, 20_000.0)
    assert resampling_matrix(wavelength, r_in, out, r_out).shape == (out.size, wavelength.size)


def test_wavelengths_that_go_back_are_an_error():
    wavelength = np.concatenate([grid(5390, 5410, 0.05), grid(5405, 5420, 0.05)])
    with pytest.raises(ReadError, match="resample arms that overlap one by one"):
        resampling_matrix(wavelength, 60_000, grid(5390, 5410, 0.05), 20_000)


def test_errors_are_those_of_a_monte_carlo_for_means_over_many_pixels():
    """Smoothing correlates neighbours; what must be right is the noise of anything wider than the kernel."""
    rng = np.random.default_rng(3)
    wavelength, out = grid(5390, 5410, 0.02, 0.3), grid(5391, 5409, 0.09)
    sigma = np.broadcast_to(0.02 * (1 + 0.5 * np.sin(wavelength / 3)), (3000, wavelength.size))
    flux, error, mask = resample(wavelength, 60_000, out, 20_000, rng.normal(1.0, sigma), sigma)
    assert not mask.any()
    n = 60
    means = flux[:, : 3 * n].reshape(len(flux), 3, n).mean(axis=2)
    expected = np.sqrt((error[0, : 3 * n] ** 2).reshape(3, n).mean(axis=1) / n)
    assert means.std(axis=0) == pytest.approx(expected, rel=0.06)


def test_errors_of_coarser_pixels_are_those_of_a_monte_carlo():
    """Where pixels nest nothing is correlated, and every pixel's own scatter is right."""
    rng = np.random.default_rng(4)
    wavelength = 5000.05 + 0.1 * np.arange(400)
    out = wavelength.reshape(-1, 4).mean(axis=1)
    sigma = np.broadcast_to(0.02 * (1 + 0.5 * np.sin(wavelength)), (4000, 400))
    flux, error, _ = resample(wavelength, 1e9, out, 1e9, rng.normal(1.0, sigma), sigma)
    assert flux.std(axis=0) == pytest.approx(error[0], rel=0.06)


def test_snr_per_angstrom_is_kept():
    wavelength, out = grid(5390, 5410, 0.01), grid(5391, 5409, 0.09)
    sigma = np.full((1, wavelength.size), 1.0 / (100.0 * np.sqrt(0.01)))
    bad = np.random.default_rng(4).uniform(size=wavelength.size) < 0.08
    _, error, mask = resample(wavelength, 80_000, out, 20_000, np.ones_like(sigma), sigma, bad)
    good = ~mask[0]
    assert good.mean() > 0.9
    assert 1.0 / (error[0, good] * np.sqrt(0.09)) == pytest.approx(100.0, rel=0.01)


def test_nothing_is_extrapolated():
    wavelength = grid(5395, 5405, 0.04)
    out = grid(5390, 5410, 0.09)
    flux, sigma, mask = resample(wavelength, 60_000, out, 20_000, np.ones(wavelength.size))
    beyond = (out < wavelength[0]) | (out > wavelength[-1])
    assert mask[0][beyond].all()
    assert not mask[0][(out > wavelength[0] + 0.5) & (out < wavelength[-1] - 0.5)].any()
    assert np.isinf(sigma[mask]).all() and np.isfinite(sigma[~mask]).all()
    assert (flux[mask] == 0).all()


@settings(max_examples=25)
@given(start=st.integers(50, 400), width=st.integers(1, 60), value=st.floats(-1e6, 1e6))
def test_masked_input_never_shows(start, width, value):
    wavelength, out = grid(5390, 5410, 0.04), grid(5391, 5409, 0.09)
    clean = line(wavelength, 60_000)
    dirty, mask = clean.copy(), np.zeros(clean.size, bool)
    dirty[start : start + width], mask[start : start + width] = value, True
    sigma = np.where(mask, np.nan, 0.1)[None]
    first = resample(wavelength, 60_000, out, 20_000, dirty, sigma, mask)
    again = np.where(mask, 7.0, dirty)
    second = resample(wavelength, 60_000, out, 20_000, again, np.where(mask, 1e9, sigma), mask)
    for x, y in zip(first, second, strict=True):
        assert np.array_equal(x, y)
    bad = first[2][0]
    inside = (out > wavelength[mask][0]) & (out < wavelength[mask][-1])
    if width >= 12:
        assert bad[inside].mean() > 0.7
    far = np.abs(out - wavelength[start]) > 4
    assert not bad[far & (out > 5391) & (out < 5409)].any()


def test_gaps_are_masked_and_do_not_bleed():
    whole = grid(5390, 5410, 0.04)
    wavelength = whole[(whole < 5399) | (whole > 5401)]
    out = grid(5392, 5408, 0.09)
    low, high = pixel_bounds(wavelength)
    assert (high - low).max() < 0.0401
    flux, _, mask = resample(wavelength, 60_000, out, 20_000, np.where(wavelength < 5400, 1.0, 2.0))
    assert mask[0][(out > 5399.1) & (out < 5400.9)].all()
    assert not mask[0][(out < 5398.8) | (out > 5401.2)].any()
    near = ~mask[0] & (np.abs(out - 5400) < 1.5)
    assert flux[0][near & (out < 5400)] == pytest.approx(1.0)
    assert flux[0][near & (out > 5400)] == pytest.approx(2.0)


def test_unknown_errors_stay_unknown():
    wavelength, out = grid(5390, 5410, 0.04), grid(5391, 5409, 0.09)
    flux = np.ones((2, wavelength.size))
    sigma = np.array([[np.nan], [0.1]]) * flux
    for masked in (False, True):
        mask = np.zeros(flux.shape, bool)
        mask[:, 100] = masked
        _, error, _ = resample(wavelength, 60_000, out, 20_000, flux, sigma, mask)
        assert np.isnan(error[0]).all()
        assert np.isfinite(error[1]).all()


def test_every_spectrum_is_its_own():
    rng = np.random.default_rng(5)
    wavelength, out = grid(5390, 5410, 0.04), grid(5391, 5409, 0.09)
    flux, mask = rng.normal(size=(4, wavelength.size)), rng.uniform(size=(4, wavelength.size)) < 0.02
    together = resample(wavelength, 60_000, out, 20_000, flux, np.ones_like(flux), mask)
    for i in range(4):
        alone = resample(wavelength, 60_000, out, 20_000, flux[i], np.ones_like(flux[:1]), mask[i])
        for x, y in zip(alone, together, strict=True):
            assert np.allclose(x[0], y[i], rtol=1e-12, atol=0)


def test_pixels_end_midway_and_stop_at_gaps():
    low, high = pixel_bounds(np.array([1.0, 2.0, 3.0, 10.0, 11.0]))
    assert low == pytest.approx([0.5, 1.5, 2.5, 9.5, 10.5])
    assert high == pytest.approx([1.5, 2.5, 3.5, 10.5, 11.5])


def test_blocks_of_rows_do_not_show(monkeypatch):
    wavelength, out = grid(5390, 5410, 0.02), grid(5391, 5409, 0.09)
    whole = resampling_matrix(wavelength, 60_000, out, 20_000)
    monkeypatch.setattr("specinn.spectra.resample._BLOCK", 7)
    assert abs(resampling_matrix(wavelength, 60_000, out, 20_000) - whole).max() == 0


def spectra(power, n=3, step=0.04):
    wavelength = grid(5390, 5410, step)
    rng = np.random.default_rng(6)
    flux = line(wavelength, 60_000) + 0.01 * rng.normal(size=(n, wavelength.size))
    return SpectrumBatch.from_arrays(wavelength, flux, np.full(flux.shape, 0.01), resolving_power=power)


def test_operators_are_kept_and_not_confused(monkeypatch):
    made = []

    def counted(*args):
        made.append(args)
        return resampling_operator(*args)

    resampling_operator = resample_module.resampling_operator
    monkeypatch.setattr(resample_module, "resampling_operator", counted)
    out = grid(5391, 5409, 0.09)
    resampler = Resampler(out, {"all": slice(0, out.size)}, 20_000.0)
    first = resampler(spectra(60_000.0))
    again = resampler(spectra(60_000.0))
    assert len(made) == 1 and all(map(np.array_equal, first, again))
    batch = spectra(80_000.0)
    sharper = resampler(batch)
    assert len(made) == 2 and not np.array_equal(sharper[0], first[0])
    expected = resample(batch.wavelength, 80_000.0, out, 20_000.0, batch.flux, batch.sigma, batch.mask)
    for found, wanted in zip(sharper, expected, strict=True):
        assert found == pytest.approx(wanted)
    table = np.full(batch.wavelength.size, 80_000.0)
    table[-1] = 70_000.0
    resampler(spectra(table))
    resampler(spectra(60_000.0, step=0.05))
    assert len(made) == 4
    for i in range(12):
        resampler(spectra(50_000.0 + i))
    resampler(spectra(50_000.0))  # forgotten or not, the result is right
    assert np.array_equal(resampler(spectra(60_000.0))[0], first[0])
    assert len(resampler._kept) == resample_module._KEPT_OPERATORS


def test_spectra_of_less_resolving_power_may_keep_it():
    out = grid(5391, 5409, 0.09)
    arms = {"all": slice(0, out.size)}
    batch = spectra(15_000.0)
    with pytest.raises(ReadError, match="resolving power 15000"):
        Resampler(out, arms, 20_000.0)(batch)
    flux, _, mask = Resampler(out, arms, 20_000.0, at_most=True)(batch)
    kept = resample(batch.wavelength, 15_000.0, out, 15_000.0, batch.flux)[0]
    assert not mask.any() and flux == pytest.approx(kept)
    sharp = Resampler(out, arms, 20_000.0, at_most=True)(spectra(60_000.0))[0]
    assert sharp == pytest.approx(Resampler(out, arms, 20_000.0)(spectra(60_000.0))[0])


def test_spectra_at_a_time_do_not_show(monkeypatch):
    batch, out = spectra(60_000.0, n=21), grid(5391, 5409, 0.09)
    batch.mask[3, 100:120] = True
    whole = Resampler(out, {"all": slice(0, out.size)}, 20_000.0)(batch)
    monkeypatch.setattr(resample_module, "_ROWS", 5)
    for found, wanted in zip(
        Resampler(out, {"all": slice(0, out.size)}, 20_000.0)(batch), whole, strict=True
    ):
        assert np.array_equal(found, wanted)
