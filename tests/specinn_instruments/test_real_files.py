"""Faults seen with real files (A1, B3, ...): read with the right value, or refused in one sentence."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import specinn_instruments
import spectrum_files as files
from astropy import units as u
from astropy.io import fits
from specinn_instruments.columns import Columns, Role, role_of, to_angstrom
from specinn_instruments.multispec import dispersions

from specinn.errors import GridError, ReadError, SpectrumWarning
from specinn.grids import Grid
from specinn.plugins import Plugins
from specinn.spectra import SpectrumBatch, readers
from specinn.spectra.pixels import constant_runs, hopeless_errors

N = 4000
WAVE = np.linspace(5200.0, 5400.0, N)
RNG = np.random.default_rng(7)


def model(wave: np.ndarray) -> np.ndarray:
    """A continuum of 1 with 60 lines."""
    rng = np.random.default_rng(3)
    flux = np.ones_like(wave)
    for centre, depth in zip(rng.uniform(5150.0, 5900.0, 220), rng.uniform(0.1, 0.7, 220), strict=True):
        flux *= 1.0 - depth * np.exp(-0.5 * ((wave - centre) / 0.12) ** 2)
    return flux


SIGMA = np.full(N, 0.01)
FLUX = model(WAVE) + SIGMA * RNG.standard_normal(N)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins(entry=[], extra={"instruments": specinn_instruments})


@pytest.fixture
def read(plugins):
    def all_of(path, **options) -> list[SpectrumBatch]:
        return list(readers.read(path, plugins, **options))

    return all_of


def _scalar(values):
    return "J" if np.asarray(values).dtype.kind == "i" else "D"


def table(path, *hdus, primary=None, names=(), **columns):
    """A FITS table of scalar columns, or with ``hdus``, dictionaries, several tables."""
    out = [fits.PrimaryHDU(header=fits.Header(primary or {}))]
    for i, each in enumerate(hdus or [columns]):
        cols = [
            fits.Column(k, f"{np.shape(v)[1]}D" if np.ndim(v) == 2 else _scalar(v), array=v)
            for k, v in each.items()
        ]  # fmt: skip
        out.append(fits.BinTableHDU.from_columns(cols, name=names[i] if names else None))
    fits.HDUList(out).writeto(path)
    return path


# -- A1: errors of single pixels -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "factor", "noisy"),
    [(0.02, 1e12, False), (0.001, 1e12, False), (0.02, 1e3, True), (0.3, 1e5, True)],
)
def test_A1_pixels_of_hopeless_error_are_masked(share, factor, noisy):
    bad = RNG.random(N) < share
    sigma = np.where(bad, factor * SIGMA, SIGMA)
    flux = FLUX + np.where(bad & noisy, sigma, 0.0) * RNG.standard_normal(N)
    batch = SpectrumBatch.from_arrays(WAVE, flux, sigma)
    assert np.array_equal(batch.mask[0], bad)


def test_A1_inverse_variance_and_stretches(tmp_path, read):
    ivar = 1.0 / SIGMA**2
    ivar[1000:1900] = 1e-20
    (batch,) = read(table(tmp_path / "a.fits", WAVE=WAVE, FLUX=FLUX, IVAR=ivar))
    assert np.flatnonzero(batch.mask[0]).tolist() == list(range(1000, 1900))


@pytest.mark.parametrize("errors", ["constant", "poisson", "relative", "unknown"])
def test_A1_ordinary_errors_are_left_alone(errors):
    deep = model(WAVE) * np.where((WAVE > 5300) & (WAVE < 5340), 0.05, 1.0)  # a band
    slope = np.linspace(0.1, 10.0, N)
    flux = deep * slope
    sigma = {
        "constant": SIGMA,
        "poisson": 0.01 * np.sqrt(flux),
        "relative": 0.01 * flux,
        "unknown": SIGMA * np.nan,
    }[errors]
    assert not hopeless_errors(flux[None], sigma[None], np.zeros((1, N), bool)).any()


# -- A2, B2: medium ---------------------------------------------------------------------------------


def test_A2_from_arrays_knows_air_and_vacuum_in_any_case():
    assert SpectrumBatch.from_arrays(WAVE, FLUX, medium="Air").medium == "air"
    assert SpectrumBatch.from_arrays(WAVE, FLUX, medium="VACUUM").medium == "vacuum"
    with pytest.raises(ReadError, match="medium is 'nonsense': expected 'air' or 'vacuum'"):
        SpectrumBatch.from_arrays(WAVE, FLUX, medium="nonsense")


def test_A2_the_user_says_the_medium_of_a_file(tmp_path, plugins, read):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX, SIGMA)
    (batch,) = read(path)
    assert batch.medium == "air" and batch.meta["medium_from"][0] == "assumed"
    (batch,) = read(path, medium="Vacuum")
    assert batch.medium == "vacuum" and batch.meta["medium_from"][0] == "user"
    with pytest.raises(ReadError, match="medium is 'water'"):
        read(path, medium="water")


def test_A2_vacuum_in_the_primary_header_of_an_image_in_an_extension(tmp_path, read):
    primary = fits.PrimaryHDU(header=fits.Header({"VACUUM": True}))
    image = fits.ImageHDU(FLUX, fits.Header({"CRVAL1": WAVE[0], "CDELT1": WAVE[1] - WAVE[0]}), name="FLUX")
    fits.HDUList([primary, image]).writeto(tmp_path / "a.fits")
    (batch,) = read(tmp_path / "a.fits")
    assert batch.medium == "vacuum" and batch.meta["medium_from"][0] == "VACUUM"


@pytest.mark.parametrize(
    ("line", "medium"),
    [
        ("# wavelengths in vacuum", "vacuum"),
        ("# Vacuum wavelengths, in Angstrom", "vacuum"),
        ("# wavelength scale: air", "air"),
        ("# MEDIUM = vacuum", "vacuum"),
        ("# vacuum", "vacuum"),
        ("# the vacuum pump of the spectrograph failed; airmass 1.3", "air"),
    ],
)
def test_A2_header_lines_of_text(tmp_path, read, line, medium):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX, SIGMA, header=line)
    assert read(path)[0].medium == medium


def test_A2_contradictions_are_said(tmp_path, read):
    path = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, ctype="AWAV", VACUUM=True)
    with pytest.warns(SpectrumWarning, match="in air by CTYPE1 AWAV, in vacuum by VACUUM"):
        (batch,) = read(path)
    assert batch.medium == "air" and "VACUUM" in batch.meta["remarks"][0]


def test_B2_units_of_the_axis(tmp_path, read):
    step = WAVE[1] - WAVE[0]
    for i, keys in enumerate(
        (
            {"CUNIT1": "pixel", "WAT1_001": "wtype=linear label=Wavelength units=Angstroms"},
            {"CUNIT1": "0.1 nm"},
            {"CTYPE1": "WAVELENGTH [A]", "BUNIT": "RELATIVE FLUX"},
        )
    ):
        header = fits.Header({"CRVAL1": WAVE[0], "CDELT1": step, **keys})
        fits.PrimaryHDU(FLUX, header).writeto(tmp_path / f"{i}.fits")
        (batch,) = read(tmp_path / f"{i}.fits")
        np.testing.assert_allclose(batch.wavelength, WAVE, rtol=1e-9)
    header = fits.Header({"CTYPE1": "LAMBDA", "CRVAL1": WAVE[0] * 1e-10, "CDELT1": step * 1e-10})
    fits.PrimaryHDU(FLUX, header).writeto(tmp_path / "m.fits")
    np.testing.assert_allclose(read(tmp_path / "m.fits")[0].wavelength, WAVE, rtol=1e-9)


def test_B6_a_wrong_unit_names_the_range():
    with pytest.raises(
        ReadError, match=r"from 4800 to 6800 NM are 48000 to 68000 Angstrom.*look like Angstrom"
    ):
        to_angstrom(np.array([4800.0, 6800.0]), "NM")


# -- A3, A4: columns --------------------------------------------------------------------------------


def test_A3_flux_and_its_own_error(tmp_path, read):
    data = {"WAVE": WAVE, "FLUX": 1e16 * FLUX, "ERR_FLUX": 1e16 * SIGMA, "FLUX_NOR": FLUX, "ERR_NOR": SIGMA}
    (batch,) = read(table(tmp_path / "a.fits", **data))
    assert np.median(batch.flux / batch.sigma) == pytest.approx(np.median(FLUX / SIGMA))
    del data["ERR_NOR"]
    (batch,) = read(table(tmp_path / "b.fits", **data))
    assert np.median(batch.flux / batch.sigma) == pytest.approx(np.median(FLUX / SIGMA))


def test_A3_an_absurd_snr_warns(tmp_path, read):
    with pytest.warns(SpectrumWarning, match="S/N is 1e\\+10 a pixel"):
        read(table(tmp_path / "a.fits", WAVE=WAVE, FLUX=FLUX, ERR=1e-10 * np.ones(N)))


@pytest.mark.parametrize(
    "name",
    ["DQ", "FLAGS", "MASK", "BADPIX", "QUAL", "QUALITY", "BPM", "AND_MASK", "bad_pixel_mask", "FLUX_MASK"],
)
def test_A4_names_of_quality(tmp_path, read, name):
    quality = (RNG.random(N) < 0.1).astype(int)
    (batch,) = read(table(tmp_path / "a.fits", WAVE=WAVE, FLUX=FLUX, ERR=SIGMA, **{name: quality}))
    assert np.array_equal(batch.mask[0], quality != 0)
    path = files.write_linear_fits(tmp_path / "b.fits", WAVE, FLUX, quality, extension=name)
    assert np.array_equal(read(path)[0].mask[0], quality != 0)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        (n, SIGMA)
        for n in ["ERR", "FLUXERR", "SIGMA_FLUX", "UNCERT", "UNCERTAINTY", "e_flux", "STDDEV", "flux_err"]
    ]
    + [("VAR", SIGMA**2), ("VARIANCE", SIGMA**2), ("FLUX_VAR", SIGMA**2), ("IVAR", SIGMA**-2.0)],
)
def test_A4_names_of_errors(tmp_path, read, name, stored):
    (batch,) = read(table(tmp_path / "a.fits", WAVE=WAVE, FLUX=FLUX, **{name: stored}))
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=1e-6)
    path = tmp_path / "a.csv"
    np.savetxt(
        path, np.column_stack([WAVE, FLUX, stored]), delimiter=",", header=f"wave,flux,{name}", comments=""
    )
    np.testing.assert_allclose(read(path)[0].sigma[0], SIGMA, rtol=1e-6)
    path = files.write_linear_fits(tmp_path / "b.fits", WAVE, FLUX, stored, extension=name)
    np.testing.assert_allclose(read(path)[0].sigma[0], SIGMA, rtol=1e-6)


def test_A4_what_is_not_understood_is_said(tmp_path, read):
    with pytest.warns(SpectrumWarning, match="columns ZORK are not understood"):
        (batch,) = read(table(tmp_path / "a.fits", WAVE=WAVE, FLUX=FLUX, ERR=SIGMA, ZORK=SIGMA))
    assert "ZORK" in batch.meta["remarks"][0]
    path = files.write_linear_fits(tmp_path / "b.fits", WAVE, FLUX, SIGMA, extension="ZORK")
    with pytest.warns(SpectrumWarning, match="extensions ZORK are not understood"):
        read(path)


def test_A4_roles_of_names():
    assert role_of("GOODPIX")[0] is Role.GOOD and role_of("wave_err")[0] is Role.OTHER
    assert role_of("SKY_FLUX")[0] is Role.OTHER and role_of("teff")[0] is None
    result = Columns.identify(["w", "s", "serr"])
    assert result is not None and (result.wavelength, result.flux, result.sigma) == (0, 1, 2)


# -- A6: several spectra, arms, planes --------------------------------------------------------------


def test_A6_two_stars_in_two_tables(tmp_path, read):
    other = {"WAVE": WAVE, "FLUX": 2 * FLUX, "ERR": SIGMA}
    path = table(tmp_path / "a.fits", {"WAVE": WAVE, "FLUX": FLUX, "ERR": SIGMA}, other)
    result = read(path)
    assert [len(batch) for batch in result] == [1, 1]
    assert result[1].flux[0] == pytest.approx(2 * FLUX) and result[1].meta["id"][0] == "a#1"


def test_A6_two_arms_in_two_tables(tmp_path, read):
    red = np.linspace(5600.0, 5800.0, N)
    path = table(
        tmp_path / "a.fits",
        {"WAVE": WAVE, "FLUX": FLUX, "ERR": SIGMA},
        {"WAVE": red, "FLUX": model(red), "ERR": SIGMA},
        names=("BLUE", "RED"),
    )
    (batch,) = read(path)
    np.testing.assert_allclose(batch.wavelength, np.concatenate([WAVE, red]), rtol=1e-6)
    np.testing.assert_allclose(batch.flux[0], np.concatenate([FLUX, model(red)]), rtol=1e-6)


def test_A6_sky_before_flux_and_raw_in_the_primary(tmp_path, read):
    header = fits.Header({"CRVAL1": WAVE[0], "CDELT1": WAVE[1] - WAVE[0]})
    hdus = [fits.PrimaryHDU(50 + FLUX, header), fits.ImageHDU(7 * FLUX, header, name="SKY"),
            fits.ImageHDU(FLUX, header, name="FLUX"), fits.ImageHDU(SIGMA, header, name="ERR")]  # fmt: skip
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    with pytest.warns(SpectrumWarning, match="left out"):
        (batch,) = read(tmp_path / "a.fits")
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=1e-6)


def test_A6_iraf_bands(tmp_path, read):
    data = np.stack([FLUX, 100 + FLUX, 3 * FLUX, SIGMA])[:, None, :]
    header = fits.Header({"CRVAL1": WAVE[0], "CD1_1": WAVE[1] - WAVE[0], "CTYPE1": "LINEAR"})
    for i, band in enumerate(("spectrum - weights variance", "raw - weights none", "background", "sigma"), 1):
        header[f"BANDID{i}"] = band
    fits.PrimaryHDU(data, header).writeto(tmp_path / "a.fits")
    with pytest.warns(SpectrumWarning, match="bands raw - weights none; background are left out"):
        (batch,) = read(tmp_path / "a.fits")
    assert len(batch) == 1
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=1e-6)


# -- B3: echelle orders -----------------------------------------------------------------------------

STEP = 0.05


def orders(n=16, width=70.0, apart=45.0, blaze=True, noise=0.01):
    """Overlapping orders of one star, as a spectrograph records them: (wavelength, flux, sigma)."""
    rng = np.random.default_rng(5)
    result = []
    for i in range(n):
        wave = 5180.0 + apart * i + 0.013 * i + np.arange(0.0, width, STEP)
        x = (wave - wave.mean()) / (0.62 * width)
        shape = np.sinc(x) ** 2 if blaze else np.ones_like(x)
        level = 1000.0 * shape
        sigma = noise * 1000.0 * np.sqrt(shape)
        result.append((wave, level * model(wave) + sigma * rng.standard_normal(wave.size), sigma))
    return result


def check_merged(batch, found, tolerance=0.035):
    """One spectrum, with lines as the star has them and without the blaze."""
    assert len(batch) == 1 and (np.diff(batch.wavelength) > 0).all()
    assert batch.meta["merged_orders"][0] == len(found)
    truth = model(batch.wavelength)
    good = ~batch.mask[0]
    assert good.mean() > 0.95
    ratio = batch.flux[0] / truth
    level = np.array(
        [
            np.median(part[ok])
            for part, ok in zip(np.array_split(ratio, 60), np.array_split(good, 60), strict=True)
        ]
    )
    assert np.abs(level / np.median(level) - 1.0).max() < tolerance
    pull = (batch.flux[0] / np.repeat(level, [p.size for p in np.array_split(ratio, 60)]) - truth)[good]
    pull /= batch.sigma[0, good] / np.median(level)
    assert 0.85 < np.sqrt(np.mean(np.clip(pull, -5, 5) ** 2)) < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["rows", "extensions", "esprit", "images", "polarbase"])
def test_B3_orders_are_merged(tmp_path, read, layout):
    result = orders()
    wave, flux, sigma = (np.array(each) for each in zip(*result, strict=True))
    path = tmp_path / "a.fits"
    if layout == "rows":
        table(path, WAVE=wave, FLUX=flux, ERR=sigma)
    elif layout == "extensions":
        table(path, *({"WAVE": w, "FLUX": f, "ERR": s} for w, f, s in result))
    elif layout == "esprit":
        path = files.write_esprit(tmp_path / "a.s", result, columns=3)
    elif layout == "images":
        fits.HDUList([fits.PrimaryHDU(flux), fits.ImageHDU(sigma), fits.ImageHDU(wave)]).writeto(path)
    else:
        files.write_polarbase(path, wave.ravel(), flux.ravel(), sigma.ravel())
    (batch,) = read(path)
    check_merged(batch, result)


@pytest.mark.slow
def test_B3_orders_that_are_cut_or_have_a_gap_are_merged(tmp_path, read):
    """Pixels that are left out at an end of an order, or within it, do not displace its blaze."""
    result = orders()
    for i, out in ((6, slice(-150, None)), (7, slice(900, 1300)), (10, slice(None, 200))):
        result[i] = tuple(np.delete(each, out) for each in result[i])
    table(tmp_path / "a.fits", *({"WAVE": w, "FLUX": f, "ERR": s} for w, f, s in result))
    (batch,) = read(tmp_path / "a.fits")
    check_merged(batch, result, tolerance=0.05)


@pytest.mark.slow
def test_B3_one_image_an_order(tmp_path, read):
    hdus = []
    for i, (wave, flux, _) in enumerate(orders(blaze=False)):
        header = fits.Header(
            {"CRVAL1": wave[0], "CDELT1": STEP, "CTYPE1": "WAVELENGTH", "OBJECT": f"ORDER: {i} HD 1"}
        )
        hdus.append((fits.ImageHDU if i else fits.PrimaryHDU)(flux, header))
        hdus[-1].header["EXTNAME"] = "SCI"
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    (batch,) = read(tmp_path / "a.fits")
    assert len(batch) == 1 and batch.meta["merged_orders"][0] == 16 and batch.meta["object"][0] == "HD 1"
    assert np.median(batch.flux[0] / 1000.0 / model(batch.wavelength)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_B3_broad_lines_survive_the_blaze(tmp_path, read):
    """A line as broad as H alpha in one order is not taken for blaze."""
    result = []
    for wave, flux, sigma in orders():
        broad = 1.0 - 0.5 * np.exp(-0.5 * ((wave - 5530.0) / 6.0) ** 2)
        result.append((wave, flux * broad, sigma * broad))
    (batch,) = read(files.write_esprit(tmp_path / "a.s", result, columns=3))
    smooth = batch.flux[0] / model(batch.wavelength)
    centre = np.median(smooth[np.abs(batch.wavelength - 5530.0) < 1.0])
    around = np.median(smooth[np.abs(np.abs(batch.wavelength - 5530.0) - 30.0) < 3.0])
    assert centre / around == pytest.approx(0.5, abs=0.03)


SPECS = {
    "linear": ("1 90 0 5200. 0.05 1000 0. 1. 2.", lambda p: 5200.0 + 0.05 * (p - 1)),
    "log": ("1 90 1 3.716 4E-6 1000 0. 1. 2.", lambda p: 10 ** (3.716 + 4e-6 * (p - 1))),
    "redshift": ("1 90 0 5200. 0.05 1000 0.001 1. 2.", lambda p: (5200.0 + 0.05 * (p - 1)) / 1.001),
    "chebyshev": (
        "1 90 2 5200. 0.05 1000 0. 1. 2. 1. 0. 1 3 1. 1000. 5225. 25. 0.5",
        lambda p: 5225.0 + 25.0 * x(p) + 0.5 * (2 * x(p) ** 2 - 1),
    ),
    "legendre": (
        "1 90 2 5200. 0.05 1000 0. 1. 2. 1. 0. 2 3 1. 1000. 5225. 25. 0.5",
        lambda p: 5225.0 + 25.0 * x(p) + 0.5 * (1.5 * x(p) ** 2 - 0.5),
    ),
    "linear spline": (
        "1 90 2 5200. 0.05 1000 0. 1. 2. 1. 0. 4 2 1. 1000. 5200. 5224. 5250.",
        lambda p: np.interp((p - 1) / 999 * 2, [0, 1, 2], [5200.0, 5224.0, 5250.0]),
    ),
    # uniform B-splines of coefficients that lie on a line give that line (times 6, in IRAF's norm)
    "cubic spline": (
        "1 90 2 5200. 0.05 1000 0. 1. 2. 1. 0. 3 2 1. 1000. "
        + " ".join(str((5200 + 25 * (i - 1)) / 6) for i in range(5)),
        lambda p: 5200.0 + 25.0 * (p - 1) / 999 * 2,
    ),
    "sampled": (
        "1 90 2 5200. 0.05 1000 0. 1. 2. 1. 0. 6 3 1. 5200. 500. 5224. 1000. 5250.",
        lambda p: np.interp(p, [1, 500, 1000], [5200.0, 5224.0, 5250.0]),
    ),
    "two functions": (
        "1 90 2 5200. 0.05 1000 0. 1. 2. 0.5 0. 1 2 1. 1000. 5225. 25. 0.5 10. 2 2 1. 1000. 5225. 25.",
        lambda p: 5230.0 + 25.0 * x(p),
    ),
}  # fmt: skip


def x(p):
    return (2 * p - 1001) / 999


@pytest.mark.parametrize("name", SPECS)
def test_B3_dispersions_of_iraf(name):
    text, truth = SPECS[name]
    whole = f'wtype=multispec spec1 = "{text}"'
    header = fits.Header({"CTYPE1": "MULTISPE"})
    for i in range(0, len(whole), 68):
        header[f"WAT2_{i // 68 + 1:03d}"] = whole[i : i + 68]
    (wave,) = dispersions(header, 1, 1000)
    assert wave == pytest.approx(truth(np.arange(1.0, 1001.0)), rel=1e-9)


def test_B3_a_damaged_dispersion_is_one_sentence(tmp_path, read):
    header = fits.Header(
        {"CTYPE1": "MULTISPE", "WAT2_001": 'wtype=multispec spec1 = "1 90 2 5200. 0.05 10 0. 1."'}
    )
    fits.PrimaryHDU(np.ones((1, 10)), header).writeto(tmp_path / "a.fits")
    with pytest.raises(ReadError, match="dispersion of row 1 in WAT2 is damaged"):
        read(tmp_path / "a.fits")


# -- A7, A9, A10, A14 ------------------------------------------------------------------------------


def test_A7_masks_and_units_of_arrays():
    sigma = np.ma.array(SIGMA, mask=np.arange(N) == 5)
    wave = np.ma.array(WAVE, mask=np.arange(N) == 9)
    batch = SpectrumBatch.from_arrays(wave, FLUX, sigma)
    assert batch.wavelength.size == N - 1 and np.flatnonzero(batch.mask[0]).tolist() == [5]
    batch = SpectrumBatch.from_arrays(WAVE * u.AA, FLUX * u.Jy, SIGMA * 1e3 * u.mJy)
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=1e-6)
    with pytest.raises(ReadError, match="sigma is in K, flux in Jy"):
        SpectrumBatch.from_arrays(WAVE, FLUX * u.Jy, SIGMA * u.K)


@pytest.mark.parametrize("value", [-999.0, 999.0, 9999.0, -9999.0])
def test_A9_sentinel_velocities(tmp_path, read, value):
    path = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, RV=value)
    with pytest.warns(
        SpectrumWarning, match=f"RV = {value:g} of the header is a placeholder for no velocity"
    ):
        (batch,) = read(path)
    assert "rv" not in batch.meta.colnames


def test_A9_velocity_of_the_list_of_targets(tmp_path, read):
    path = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, RADVEL=30.5, PMRA=0.1)
    with pytest.warns(SpectrumWarning, match=r"RADVEL = 30.5 .* not used, as PMRA beside it"):
        (batch,) = read(path)
    assert "rv" not in batch.meta.colnames


@pytest.mark.parametrize(
    ("keys", "frame"),
    [
        ({}, "unknown"),
        ({"SPECSYS": "TOPOCENT"}, "topocentric"),
        ({"SPECSYS": "BARYCENT"}, "barycentric"),
        ({"SPECSYS": "HELIOCEN"}, "heliocentric"),
        ({"HEL_COR": -15.7}, "unknown"),
    ],
)
def test_A10_the_frame_is_known(tmp_path, read, keys, frame):
    (batch,) = read(files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, **keys))
    assert batch.meta["frame"][0] == frame
    assert all(key in batch.meta["frame_from"][0] for key in keys)


def test_A14_a_gap_filled_with_a_constant(tmp_path, read):
    flux = 750_000 * FLUX
    flux[1000:1200], flux[2000:2100] = 1.0, flux[1999]
    (batch,) = read(files.write_linear_fits(tmp_path / "a.fits", WAVE, flux))
    assert np.flatnonzero(batch.mask[0]).tolist() == [*range(1000, 1200), *range(1999, 2100)]


@pytest.mark.parametrize("decimals", [15, 4, 3, 2])
def test_A14_the_continuum_of_a_synthetic_spectrum_is_no_gap(decimals):
    wave = np.linspace(5200.0, 5400.0, 40000)
    sparse = 1.0 - 0.6 * np.exp(-0.5 * ((wave - 5300.0) / 0.1) ** 2)
    flux = np.round(sparse, decimals)[None]
    assert (flux == 1.0).mean() > 0.9
    assert not constant_runs(flux, np.zeros(flux.shape, bool)).any()
    assert not constant_runs(np.ones((1, 500)), np.zeros((1, 500), bool)).any()


# -- B1, B4, B5 ------------------------------------------------------------------------------------


def test_B1_integers_with_scale_and_blank(tmp_path, read):
    stored = np.round(FLUX / 1e-4).astype(np.int16)
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update({"CRVAL1": WAVE[0], "CDELT1": WAVE[1] - WAVE[0]})
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 1e-4, 0.5, int(stored[77])
    hdu.header["CUNIT1"] = "Angstrom"
    content = hdu.header
    raw = fits.HDUList([fits.PrimaryHDU(stored)])
    raw[0].header.update({k: content[k] for k in ("CRVAL1", "CDELT1", "CUNIT1")})
    raw.writeto(tmp_path / "a.fits")
    text = (tmp_path / "a.fits").read_bytes()
    cards = b"".join(str(fits.Card(k, content[k])).encode() for k in ("BSCALE", "BZERO", "BLANK"))
    (tmp_path / "a.fits").write_bytes(
        text[:2880].replace(b"END" + b" " * 317, cards + b"END" + b" " * 77) + text[2880:]
    )
    (batch,) = read(tmp_path / "a.fits")
    good = stored != stored[77]
    assert batch.flux[0, good] == pytest.approx(FLUX[good] + 0.5, abs=6e-5)
    assert batch.mask[0, ~good].all()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_B4_packed_files(tmp_path, read, pack):
    for plain in (
        files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX),
        files.write_text(tmp_path / "a.txt", WAVE, FLUX, SIGMA),
        files.write_esprit(tmp_path / "a.s", [(WAVE, FLUX, SIGMA)]),
    ):
        packed = tmp_path / f"{plain.name}.packed"
        packed.write_bytes(pack(plain.read_bytes()))
        assert np.array_equal(read(packed)[0].flux, read(plain)[0].flux)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("sound", [True, False])
def test_packed_files_are_shown_to_specutils_unpacked(tmp_path, read, pack, sound, monkeypatch):
    """Fuzzing: astropy took minutes for packed files that are damaged, as it found an HDU at their end ten
    thousand times. What is no FITS inside is not shown at all."""
    from specutils.io import registers

    shown = []
    monkeypatch.setattr(
        registers, "identify_spectrum_format", lambda path, dtype: shown.append(Path(path).read_bytes()) or []
    )
    content = fits.PrimaryHDU(header=fits.Header({"OBJECT": "nothing"})).header.tostring().encode()
    content = content if sound else b"m" + content[1:] + bytes(2880)
    packed = tmp_path / "b.fits.packed"
    packed.write_bytes(pack(content))
    with pytest.raises(ReadError, match="not a spectrum that any reader knows"):
        read(packed)
    assert shown == ([content] if sound else [])


def test_B4_columns_of_variable_length_and_ascii_tables(tmp_path, read):
    columns = [fits.Column(k, "PD()", array=np.array([v, v], dtype=object)) for k, v in
               (("WAVE", WAVE), ("FLUX", FLUX), ("ERR", SIGMA))]  # fmt: skip
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    result = read(tmp_path / "a.fits")
    assert len(result) == 2 and result[0].flux[0] == pytest.approx(FLUX)
    columns = [fits.Column(k, "D25.17", array=v) for k, v in (("WAVE", WAVE), ("FLUX", FLUX))]
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "b.fits")
    np.testing.assert_allclose(read(tmp_path / "b.fits")[0].flux[0], FLUX, rtol=1e-6)


def test_B5_decimal_commas(tmp_path, read):
    lines = [f"{w:.4f};{f:.6f};{s:.4f}".replace(".", ",") for w, f, s in zip(WAVE, FLUX, SIGMA, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (batch,) = read(tmp_path / "a.csv")
    assert batch.wavelength == pytest.approx(WAVE, abs=1e-4) and batch.flux[0] == pytest.approx(
        FLUX, abs=1e-6
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_B5_utf_16(tmp_path, read, encoding):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX, SIGMA)
    path.write_bytes(path.read_text().encode(encoding))
    assert read(path)[0].flux[0] == pytest.approx(FLUX, rel=1e-6)


def test_B5_a_broken_line_costs_a_pixel(tmp_path, read):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX, SIGMA)
    lines = path.read_text().splitlines()
    lines[2000] = "52x0.1 ***"
    path.write_text("\n".join(lines))
    with pytest.warns(SpectrumWarning, match="line 2001 is not made of numbers"):
        (batch,) = read(path)
    assert batch.wavelength.size == N - 1


def test_B5_counts_and_order_numbers(tmp_path, read):
    path = files.write_esprit(tmp_path / "a.s", [(WAVE, FLUX, SIGMA)], announced=N + 1)
    with pytest.warns(SpectrumWarning, match=f"announces {N + 1} pixels, there are {N}"):
        assert read(path)[0].wavelength.size == N
    result = orders(n=6, blaze=False)
    rows = np.concatenate(
        [np.column_stack([w, f, np.full(w.size, 90 - i)]) for i, (w, f, _) in enumerate(result)]
    )
    np.savetxt(tmp_path / "b.txt", rows, fmt="%.6f %.6f %d")
    (batch,) = read(tmp_path / "b.txt")
    assert batch.meta["merged_orders"][0] == 6 and np.isnan(batch.sigma).all()


@pytest.mark.parametrize(
    ("head", "wave"),
    [
        ("loglam,flux,err", np.log10(WAVE)),
        ("log_wavelength,flux,err", np.log10(WAVE)),
        ("wavelength [micron],flux,err", 1e-4 * WAVE),
        ("wavelength [um],flux,err", 1e-4 * WAVE),
    ],
)
def test_D14_text_in_micron_and_in_log_lambda(tmp_path, read, head, wave):
    path = tmp_path / "a.csv"
    np.savetxt(path, np.column_stack([wave, FLUX, SIGMA]), "%.14g", ",", header=head, comments="")
    (batch,) = read(path)
    np.testing.assert_allclose(batch.wavelength, WAVE, rtol=1e-10)
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)


# -- D2, D3 ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_D2_a_gzip_bomb_is_refused_before_it_takes_memory(tmp_path, read, monkeypatch):
    monkeypatch.setattr(readers, "MOST_BYTES", 2**24)
    path = tmp_path / "a.fits.gz"
    head = fits.Header(
        {"SIMPLE": True, "BITPIX": -64, "NAXIS": 1, "NAXIS1": 2**24, "CRVAL1": 5200.0, "CDELT1": 0.1}
    )
    path.write_bytes(gzip.compress(head.tostring().encode() + bytes(2**27)))
    tracemalloc.start()
    with pytest.raises(ReadError, match="unpacks to more than 16777216 bytes"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_D2_a_grid_that_declares_more_than_it_holds(tmp_path):
    path = tmp_path / "grid.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "specinn grid", "version": 1, "labels": ["teff"]})
        file.create_dataset("values", (1_000_000_000, 1), "f8", chunks=(1000, 1))
    tracemalloc.start()
    with pytest.raises(GridError, match="values declares 8e\\+09 bytes, but stores 0 in"):
        Grid.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_D3_what_identifies_the_object_is_carried(tmp_path, read):
    path = files.write_linear_fits(
        tmp_path / "a.fits", WAVE, FLUX, OBJECT="HD 1", RA="14:02:31.5", DEC="-09:41:12.8", EXPTIME=60.0,
        PROG_ID="266.D-5655(A)", OBJ_UID=7, **{"DATE-OBS": "2018-01-24T12:00:00"},
    )  # fmt: skip
    row = read(path)[0].meta[0]
    assert row["object"] == "HD 1" and row["programme"] == "266.D-5655(A)" and row["obj_uid"] == "7"
    assert row["ra"] == pytest.approx(210.63125) and row["dec"] == pytest.approx(-9.686889, abs=1e-6)
    assert row["mjd"] == pytest.approx(58142.5) and row["exptime"] == 60.0


def test_no_warning_without_a_reason(tmp_path, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = read(files.write_eso(tmp_path / "a.fits", WAVE, FLUX, SIGMA, style="uves", barycor=3.0))
    assert batch.meta["remarks"][0] == ""
