"""Pixels that are masked, or whose errors are far above those of others, must not move the answer (numbers in
names are those of the list of faults that this was written against)."""

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from astropy.table import Table
from specinn_preprocessing.fill import fill_narrow_gaps
from specinn_preprocessing.mask import Mask

import specinn
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.plugins import Plugins
from specinn.spectra import SpectrumBatch
from specinn.spectra.continuum import ContinuumFit

EXAMPLE = Path(specinn.__file__).parent / "examples" / "dwarf-g.fits"


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(specinn.load_model("4most-hr"), Plugins(), RunOptions(samples=1024))


@pytest.fixture(scope="module")
def star():
    (batch,) = specinn.read(EXAMPLE)
    return batch


@pytest.fixture(scope="module")
def plain(pipeline, star):
    return pipeline(star)


def copies(star, n):
    rows = star[np.zeros(n, int)]
    meta = Table({"id": [str(i) for i in range(n)], "path": ["x"] * n, "key": np.zeros(n, int)})
    return attrs.evolve(rows, meta=meta)


def off(result, plain):
    """Of Teff, logg and [Fe/H], in the standard deviations that were stated without the damage."""
    return (result.summary.map[:, :3] - plain.summary.map[:, :3]) / plain.summary.std[:, :3]


def damage(star, kind):
    rng = np.random.default_rng(2)
    batch = copies(star, 3)
    shape = batch.flux.shape
    if kind == "2 % at 1e10":
        batch.sigma[rng.uniform(size=shape) < 0.02] = 1e10
    elif kind == "0.1 % of flux 1e-4 at 1e10":
        hit = rng.uniform(size=shape) < 0.001
        batch.flux[hit], batch.sigma[hit] = 1e-4, 1e10
    elif kind == "2 % at 1000 times the error, and as noisy":
        hit = rng.uniform(size=shape) < 0.02
        batch.sigma[hit] *= 1000.0
        batch.flux[hit] += batch.sigma[hit] * rng.standard_normal(hit.sum())
    else:
        batch.sigma[:, 3000:3300] *= 1000.0
        batch.flux[:, 3000:3300] += batch.sigma[:, 3000:3300] * rng.standard_normal((3, 300))
    return batch


@pytest.mark.parametrize(
    "kind",
    ["2 % at 1e10", "0.1 % of flux 1e-4 at 1e10", "2 % at 1000 times the error, and as noisy", "a stretch"],
)
def test_A1_pixels_with_huge_errors_are_as_if_masked(pipeline, star, plain, kind):
    result = pipeline(damage(star, kind))
    assert not (np.asarray(result.meta["flags"]) & specinn.flags.BAD).any()
    assert np.abs(off(result, plain)).max() < 1.0
    assert np.asarray(result.meta["snr_green"]) == pytest.approx(plain.meta["snr_green"][0], rel=0.03)


def test_A1_errors_that_change_slowly_mask_nothing(star):
    steep = copies(star, 1)
    steep.sigma *= np.exp(3.0 * np.sin(np.arange(steep.flux.shape[1]) / 400.0))
    step = Mask(specinn.load_model("4most-hr").instrument, sky_lines=(), bands=(), cosmic_rays=False)
    assert np.array_equal(step(steep).mask, step(star).mask)


def test_A1_noisy_pixels_do_not_widen_the_continuum():
    wave = np.linspace(5200.0, 5400.0, 2000)
    rng = np.random.default_rng(0)
    clean = np.tile(1.0 + 0.1 * np.linspace(-1, 1, wave.size), (6, 1))
    sigma = np.full(clean.shape, 0.005)
    lines = np.exp(-sum(0.5 * np.exp(-0.5 * ((wave - c) / 0.15) ** 2) for c in rng.uniform(5200, 5400, 80)))
    flux = clean * lines + sigma * rng.standard_normal(clean.shape)
    noisy = rng.uniform(size=clean.shape) < 0.05
    worse, larger = flux.copy(), np.where(noisy, 1.0, sigma)
    worse[noisy] += rng.standard_normal(noisy.sum())
    fit = ContinuumFit(wave, {"a": slice(0, wave.size)})
    arrays = [torch.as_tensor(v, dtype=torch.float32) for v in (flux, sigma, worse, larger)]
    mask = torch.zeros(clean.shape, dtype=torch.bool)
    good, _ = fit(arrays[0], arrays[1], mask)
    bad, _ = fit(arrays[2], arrays[3], mask)
    masked, _ = fit(arrays[0], arrays[1], torch.as_tensor(noisy))
    assert (bad / good).numpy() == pytest.approx(1.0, abs=4e-3)
    assert (bad / masked).numpy() == pytest.approx(1.0, abs=2e-3)


def test_A15_a_tenth_of_pixels_lost_one_by_one(pipeline, star, plain):
    batch = copies(star, 8)
    batch.mask |= np.random.default_rng(1).uniform(size=batch.mask.shape) < 0.1
    batch.flux[batch.mask] = 0.0
    prepared = pipeline.preprocess(batch)
    assert prepared.mask.mean() < 0.08  # was 0.36
    moved = off(pipeline(batch), plain)
    assert np.abs(moved.mean(axis=0)).max() < 0.5
    assert np.sqrt(np.mean(moved**2, axis=0)).max() < 1.0  # was 1.9


def lines(x, shift=0.0):
    rng = np.random.default_rng(5)
    flux = np.ones(x.size)
    for centre in rng.uniform(5000.0, 5100.0, 100):
        flux -= 0.4 * np.exp(-0.5 * ((x - centre - shift) / 0.14) ** 2)
    return flux


def batch_of(step, power=20_000.0, snr=100.0, seed=0):
    wave = np.arange(5000.0, 5100.0, step)
    sigma = np.full((4, wave.size), 1.0 / snr)
    flux = lines(wave) + sigma * np.random.default_rng(seed).standard_normal(sigma.shape)
    meta = Table({"id": list("abcd"), "path": ["x"] * 4})
    return SpectrumBatch(wave, flux, sigma, np.zeros(flux.shape, bool), power, meta=meta)


def test_A15_filled_pixels_are_within_their_errors():
    batch = batch_of(0.1)
    batch.mask |= np.random.default_rng(3).uniform(size=batch.mask.shape) < 0.1
    batch.flux[batch.mask] = np.nan
    out = fill_narrow_gaps(batch)
    filled = batch.mask & ~out.mask
    assert filled.sum() > 0.8 * batch.mask.sum() and not (out.mask & ~batch.mask).any()
    pull = ((out.flux - lines(batch.wavelength)) / out.sigma)[filled]
    assert 0.4 < np.sqrt(np.mean(pull**2)) < 1.2
    assert (out.sigma[filled] >= np.sqrt(2.0) / 100.0).all()
    kept = ~filled & ~batch.mask
    assert np.array_equal(out.flux[kept], batch.flux[kept])


@pytest.mark.parametrize(
    ("step", "power", "widest"), [(0.1, 20_000.0, 2), (0.02, 20_000.0, 11), (0.1, 100_000.0, 1)]
)
def test_A15_only_gaps_narrower_than_the_line_spread_function_are_filled(step, power, widest):
    batch = batch_of(step, power)
    for width in range(1, 40):
        gap = slice(40 * width, 40 * width + width)
        if gap.stop < batch.wavelength.size - 40:
            batch.mask[0, gap] = True
    out = fill_narrow_gaps(batch)
    left = [w for w in range(1, 40) if out.mask[0, 40 * w : 41 * w].any()]
    assert left[0] - 1 == pytest.approx(widest, abs=1)


def test_A15_ends_of_arms_and_long_gaps_stay_masked():
    batch = batch_of(0.1)
    batch.mask[:, :1] = batch.mask[:, -2:] = True
    batch.mask[:, 300:340] = True
    batch.mask[3] = True
    out = fill_narrow_gaps(batch)
    assert np.array_equal(out.mask, batch.mask)
    assert fill_narrow_gaps(attrs.evolve(batch, resolving_power=None)).mask is batch.mask
