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
from astropy.table import QTable
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


def test_A1_errors_far_too_small_are_none():
    """Some programs give bad pixels an error of nearly 0, and not of nearly infinity."""
    bad = RNG.random(N) < 0.02
    batch = SpectrumBatch.from_arrays(WAVE, np.where(bad, 7.0, FLUX), np.where(bad, 1e-12, SIGMA))
    assert np.array_equal(batch.mask[0], bad)
    deep = np.where((WAVE > 5300) & (WAVE < 5340), 1e-4, 1.0) * FLUX  # errors in proportion to the flux
    assert not SpectrumBatch.from_arrays(WAVE, deep, 0.01 * np.abs(deep)).mask.any()


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


@pytest.mark.parametrize(
    ("names", "medium"),
    [
        (("wavelength", "wavelength_air"), "vacuum"),  # S1D of ESPRESSO
        (("wave", "wave_vac"), "air"),
        (("wave", "wave_other"), "air"),
    ],
)
def test_A2_the_other_wavelengths_say_the_medium(tmp_path, read, names, medium):
    (batch,) = read(
        table(tmp_path / "a.fits", **{names[0]: WAVE, names[1]: WAVE + 1.5}, flux=FLUX, error=SIGMA)
    )
    assert batch.medium == medium and batch.wavelength[0] == WAVE[0]
    assert batch.meta["medium_from"][0] == ("assumed" if "other" in names[1] else f"the column {names[1]}")


@pytest.mark.parametrize("name", ["NEID", "KPF", "CARMENES"])
def test_A2_pipelines_that_give_vacuum(tmp_path, read, name):
    path = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, INSTRUME=name)
    assert read(path)[0].meta["medium_from"][0] == f"INSTRUME {name}" and read(path)[0].medium == "vacuum"


@pytest.mark.parametrize(
    ("name", "unit", "values"),
    [
        ("WAVENUMBER", None, 1e8 / WAVE[::-1]),
        ("WAVE", "cm-1", 1e8 / WAVE[::-1]),
        ("frequency", "THz", 2997924.58 / WAVE[::-1]),
    ],
)
def test_A2_B2_wavenumbers_and_frequencies(tmp_path, read, name, unit, values):
    columns = [fits.Column(name, "D", array=values, unit=unit), fits.Column("flux", "D", array=FLUX[::-1])]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    (batch,) = read(tmp_path / "a.fits")
    assert batch.medium == "vacuum" and batch.wavelength == pytest.approx(WAVE, rel=1e-9)
    assert batch.flux[0] == pytest.approx(FLUX)


@pytest.mark.parametrize(
    "keys",
    [
        {"HIERARCH WAVELENGTH MEDIUM": "vacuum"},
        {"HIERARCH ESO PRO WAVE": "VAC"},
        {"LAMFRAME": "in vacuum"},
        {"AIR2VAC": True},
        {"CUNIT1": "Angstrom (vacuum)"},
    ],
)
def test_A2_keywords_that_nobody_agreed_on(tmp_path, read, keys):
    path = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, LAMP="air", AIRMASS=1.2, **keys)
    (batch,) = read(path)
    assert batch.medium == "vacuum" and batch.wavelength == pytest.approx(WAVE)


def test_A2_the_unit_of_a_column_says_the_medium(tmp_path, read):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX, SIGMA, header="# wavelength(vac) flux err")
    assert read(path)[0].medium == "vacuum"
    columns = [
        fits.Column("WAVE", "D", array=WAVE, unit="Angstrom (air)"),
        fits.Column("FLUX", "D", array=FLUX),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    assert read(tmp_path / "a.fits")[0].meta["medium_from"][0] == "the unit of WAVE"


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


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({"CTYPE1": "log(wavelength)"}, 1.0),  # HERMES at Mercator: natural
        ({"CTYPE1": "log(wavelength)", "CUNIT1": "log(Angstrom)"}, 1.0),
        ({"CTYPE1": "LOGLAMBDA"}, np.log(10.0)),
        ({"CTYPE1": "LINEAR"}, np.log(10.0)),
    ],
)
def test_B2_logarithms_of_any_base(tmp_path, read, keys, scale):
    axis = np.linspace(np.log(5200.0), np.log(5400.0), N) / scale
    header = fits.Header({"CRVAL1": axis[0], "CDELT1": axis[1] - axis[0], **keys})
    fits.PrimaryHDU(FLUX, header).writeto(tmp_path / "a.fits")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (batch,) = read(tmp_path / "a.fits")
    assert batch.wavelength == pytest.approx(np.exp(axis * scale), rel=1e-9) and batch.medium == "air"
    assert [str(each.message)[-51:] for each in said] == (
        ["from 3.716 to 3.73239 are taken for log10 of Angstrom"[-51:]] if keys["CTYPE1"] == "LINEAR" else []
    )


@pytest.mark.parametrize(
    ("name", "unit", "values"),
    [
        ("LN_WAVE", None, np.log(WAVE)),
        ("WAVELENGTH", "log(Angstrom)", np.log10(WAVE)),
        ("WAVELENGTH", "dex(Angstrom)", np.log10(WAVE)),
        ("log_wave", None, np.log10(WAVE / 10.0)),
    ],
)
def test_B2_columns_of_logarithms(tmp_path, read, name, unit, values):
    columns = [fits.Column(name, "D", array=values, unit=unit), fits.Column("flux", "D", array=FLUX)]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    assert read(tmp_path / "a.fits")[0].wavelength == pytest.approx(WAVE, rel=1e-9)


def test_B2_the_step_that_the_wcs_of_astropy_writes(tmp_path, read):
    keys = {
        "CTYPE1": "AWAV",
        "CUNIT1": "Angstrom",
        "CRVAL1": WAVE[0],
        "CDELT1": 1.0,
        "PC1_1": WAVE[1] - WAVE[0],
    }
    fits.PrimaryHDU(FLUX, fits.Header(keys)).writeto(tmp_path / "a.fits")
    assert read(tmp_path / "a.fits")[0].wavelength == pytest.approx(WAVE, rel=1e-9)


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


@pytest.mark.parametrize(
    ("name", "factor"),
    [("rel_err", 1.0), ("err_percent", 100.0), ("error [%]", 100.0), ("fractional_error", 1.0)],
)
def test_A4_errors_in_parts_of_the_flux(tmp_path, read, name, factor):
    stored = factor * SIGMA / FLUX
    np.savetxt(
        tmp_path / "a.csv",
        np.column_stack([WAVE, 1e-13 * FLUX, stored]),
        delimiter=",",
        header=f"wave,flux,{name}",
        comments="",
    )
    np.testing.assert_allclose(read(tmp_path / "a.csv")[0].sigma[0], 1e-13 * SIGMA, rtol=1e-6)
    (batch,) = read(table(tmp_path / "a.fits", WAVE=WAVE, FLUX=1e4 * FLUX, **{name: stored}))
    np.testing.assert_allclose(batch.sigma[0], 1e4 * SIGMA, rtol=1e-6)
    if factor == 1.0:  # GALAH
        path = files.write_linear_fits(tmp_path / "b.fits", WAVE, 1e4 * FLUX, stored, extension=name)
        np.testing.assert_allclose(read(path)[0].sigma[0], 1e4 * SIGMA, rtol=1e-6)


def test_A4_a_relative_flux_has_an_error_of_its_own(tmp_path, read):
    (batch,) = read(table(tmp_path / "a.fits", WAVE=WAVE, REL_FLUX=FLUX, REL_ERR=SIGMA))
    np.testing.assert_allclose(batch.sigma[0], SIGMA)


def test_A4_masks_that_mark_good_pixels(tmp_path, read):
    good = np.arange(N) % 20 > 0
    columns = {"wave": WAVE, "flux": np.where(good, FLUX, 0.0), "ivar": np.where(good, SIGMA**-2.0, 0.0)}
    path = table(tmp_path / "a.fits", **columns, mask=good.astype(int))  # PypeIt
    with pytest.warns(SpectrumWarning, match="taken for good pixels"):
        assert np.array_equal(read(path)[0].mask[0], ~good)
    path = table(tmp_path / "b.fits", WAVE=WAVE, FLUX=FLUX, ERR=SIGMA, MASK=good.astype(int))
    with pytest.warns(SpectrumWarning, match="95 % of the pixels are masked: if the mask marks good"):
        assert np.array_equal(read(path)[0].mask[0], good)
    path = table(tmp_path / "c.fits", WAVE=WAVE, FLUX=FLUX, ERR=SIGMA, QUAL=np.ones(N, int))
    with pytest.raises(ReadError, match="flagged as bad"):
        read(path)


@pytest.mark.parametrize(
    ("name", "unit", "words"),
    [
        ("log_flux", None, "log_flux holds logarithms"),
        ("LOGFLUX", None, "LOGFLUX holds logarithms"),
        ("MAG", None, "MAG holds magnitudes"),
        ("FLUX", "mag", r"FLUX holds magnitudes \(mag\)"),
    ],
)
def test_A4_what_is_no_flux_is_refused(tmp_path, read, name, unit, words):
    columns = [fits.Column("WAVE", "D", array=WAVE), fits.Column(name, "D", array=FLUX, unit=unit)]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    with pytest.raises(ReadError, match=f"{words}: expected a flux that is linear"):
        read(tmp_path / "a.fits")


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


@pytest.mark.parametrize(
    "keys", [{"ARRAY1": "SPECTRUM", "ARRAY2": "SIGMA"}, {"ROW1": "flux", "ROW2": "error"}, {}]
)
def test_A6_rows_that_are_no_stars(tmp_path, read, keys):
    path = files.write_linear_fits(tmp_path / "a.fits", WAVE, np.array([FLUX, SIGMA]), **keys)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = read(path)
    if keys:
        assert [len(batch) for batch in result] == [1] and not said
        np.testing.assert_allclose(result[0].sigma[0], SIGMA, rtol=1e-6)
    else:
        assert "the second may be the error of the first" in str(said[0].message)


@pytest.mark.parametrize("red", [WAVE, WAVE + 400.0])
def test_A6_all_tables_of_an_eso_product(tmp_path, read, red):
    parts = []
    for i, wave in enumerate((WAVE, red)):
        path = files.write_eso(tmp_path / f"{i}.fits", wave, (i + 1) * FLUX, SIGMA)
        with fits.open(path) as hdus:
            parts += [hdu.copy() for hdu in hdus[0 if i == 0 else 1 :]]
    fits.HDUList(parts).writeto(tmp_path / "a.fits")
    result = read(tmp_path / "a.fits")
    if red is WAVE:
        assert len(result) == 2 and result[1].flux[0] == pytest.approx(2.0 * FLUX, rel=1e-6)
    else:
        (batch,) = result
        np.testing.assert_allclose(batch.wavelength, np.concatenate([WAVE, red]), rtol=1e-6)


def test_A6_arms_by_the_names_of_extensions(tmp_path, read):
    """LAMOST: a coadded spectrum and those it is made of, each in two arms."""
    columns = [
        {"FLUX": k * FLUX, "IVAR": SIGMA**-2.0, "LOGLAM": np.log10(WAVE + d)}
        for k in (1, 3)
        for d in (0, 900)
    ]
    names = ("COADD_B", "COADD_R", "B-84420148", "R-84420148")
    result = read(table(tmp_path / "a.fits", *columns, names=names))
    assert [batch.wavelength.size for batch in result] == [2 * N, 2 * N]
    assert result[0].medium == "vacuum" and np.median(result[1].flux / result[0].flux) == pytest.approx(3.0)


def test_A6_the_lamp_beside_the_star_is_left_out(tmp_path, read):
    """KPF: two detectors, three slices of the star, and the fibre of the lamp."""
    hdus = [fits.PrimaryHDU()]
    rng = np.random.default_rng(1)
    for chip, first in (("GREEN", 0), ("RED", 12)):
        part = orders(n=24, blaze=False)[first : first + 12]
        wave, flux, sigma = (np.array(each) for each in zip(*part, strict=True))
        for i in (1, 2, 3):
            for what, values in (("FLUX", i * flux), ("VAR", (i * sigma) ** 2), ("WAVE", wave)):
                hdus.append(fits.ImageHDU(values, name=f"{chip}_SCI_{what}{i}"))
        hdus.append(fits.ImageHDU(1e5 * rng.random(flux.shape), name=f"{chip}_CAL_FLUX"))
        hdus.append(fits.ImageHDU(wave, name=f"{chip}_CAL_WAVE"))
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    with pytest.warns(SpectrumWarning, match="GREEN_CAL_FLUX"):
        (batch,) = read(tmp_path / "a.fits")
    assert batch.meta["merged_orders"][0] == 72 and (np.diff(batch.wavelength) > 0).all()
    ratio = batch.flux[0] / model(batch.wavelength)
    assert np.median(np.abs(ratio / np.median(ratio) - 1.0)) < 0.02


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


def test_B3_orders_of_the_pipeline_of_espresso(tmp_path, read):
    """S2D: wavelengths in air and in vacuum, in extensions whose names say that and the frame."""
    wave, flux, sigma = (np.array(each) for each in zip(*orders(n=4, blaze=False), strict=True))
    names = {"SCIDATA": flux, "ERRDATA": sigma, "QUALDATA": np.zeros(flux.shape, np.int16)}
    names["QUALDATA"][1, 700] = 16384
    names |= {"WAVEDATA_VAC_BARY": wave, "WAVEDATA_AIR_BARY": wave - 1.5, "DLLDATA_VAC_BARY": 0 * wave + 0.05}
    header = fits.Header({"INSTRUME": "ESPRESSO", "HIERARCH ESO QC BERV": -11.0})
    hdus = [fits.PrimaryHDU(header=header), *(fits.ImageHDU(v, name=k) for k, v in names.items())]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    with pytest.warns(SpectrumWarning, match="WAVEDATA_AIR_BARY, DLLDATA_VAC_BARY are left out"):
        (batch,) = read(tmp_path / "a.fits")
    assert (batch.medium, batch.meta["frame"][0]) == ("vacuum", "barycentric")
    assert batch.meta["merged_orders"][0] == 4 and np.isfinite(batch.sigma[0, ~batch.mask[0]]).all()
    at = np.abs(batch.wavelength - wave[1, 700]).argmin()
    assert batch.mask[0, at] and batch.mask.sum() == 1
    ratio = batch.flux[0] / model(batch.wavelength)
    assert np.median(np.abs(ratio / np.median(ratio) - 1.0)) < 0.02


@pytest.mark.parametrize("drs", ["ESO", "TNG", "OHP"])
def test_B3_polynomials_of_the_drs(tmp_path, read, drs):
    """e2ds files of HARPS, HARPS-N and SOPHIE: in the observer's frame, a polynomial an order."""
    found = orders(n=4, blaze=False)
    keys: dict[str, float] = {f"HIERARCH {drs} DRS CAL TH DEG LL": 3, f"HIERARCH {drs} DRS BERV": 20.0}
    pixel = np.arange(len(found[0][0]))
    for i, (wave, *_) in enumerate(found):
        for k, c in enumerate(np.polynomial.polynomial.polyfit(pixel, wave / (1 + 20.0 / 299792.458), 3)):
            keys[f"HIERARCH {drs} DRS CAL TH COEFF LL{4 * i + k}"] = c
    header = fits.Header({"CTYPE1": "PIXEL", "CRVAL1": 1.0, "CDELT1": 1.0, **keys})
    fits.PrimaryHDU(np.array([flux for _, flux, _ in found]), header).writeto(tmp_path / "a.fits")
    (batch,) = read(tmp_path / "a.fits")
    assert batch.meta["frame"][0] == "barycentric" and "20.000 km/s" in batch.meta["frame_from"][0]
    merged = files.write_linear_fits(tmp_path / "s1d.fits", WAVE, FLUX, **keys)  # has them in its header, too
    assert read(merged)[0].wavelength == pytest.approx(WAVE)
    assert read(merged)[0].meta["frame_from"][0] == f"{drs} DRS BERV, as merged spectra of the DRS"
    assert batch.wavelength[0] == pytest.approx(found[0][0][0], abs=2e-4)
    ratio = batch.flux[0] / model(batch.wavelength)
    assert np.median(np.abs(ratio / np.median(ratio) - 1.0)) < 0.02


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


def test_A7_units_in_files(tmp_path, read):
    """An error in mJy beside flux in Jy, in FITS and in ECSV; a variance likewise."""
    for name, stored, unit in (("ERR", 1e3 * SIGMA, "mJy"), ("VAR", 1e6 * SIGMA**2, "mJy2")):
        columns = [
            fits.Column("WAVE", "D", array=WAVE),
            fits.Column("FLUX", "D", array=FLUX, unit="Jy"),
            fits.Column(name, "D", array=stored, unit=unit),
        ]
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / f"{name}.fits")
        np.testing.assert_allclose(read(tmp_path / f"{name}.fits")[0].sigma[0], SIGMA, rtol=1e-6)
    rows = QTable({"wave": WAVE / 1e4 * u.um, "flux": FLUX * u.Jy, "err": 1e3 * SIGMA * u.mJy})
    rows.write(tmp_path / "a.ecsv")
    np.testing.assert_allclose(read(tmp_path / "a.ecsv")[0].sigma[0], SIGMA, rtol=1e-6)
    rows = QTable({"frequency": 2997924.58 / WAVE * u.THz, "flux": FLUX * u.Jy})
    rows.write(tmp_path / "b.ecsv")
    (batch,) = read(tmp_path / "b.ecsv")
    assert batch.medium == "vacuum" and batch.wavelength == pytest.approx(WAVE)


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


@pytest.mark.parametrize("value", [-1.0, -999.0, 1.0, 1e30])
def test_A14_a_value_that_stands_for_nothing(value):
    """Single pixels all over the spectrum have it; those of measured flux do not repeat themselves."""
    bad = RNG.random(N) < 0.02
    batch = SpectrumBatch.from_arrays(WAVE, np.where(bad, value, FLUX))
    assert np.array_equal(batch.mask[0], bad)


def test_A14_rounded_flux_and_upper_limits_are_measured():
    noisy = FLUX + 0.02 * RNG.standard_normal(N)
    for flux in (np.round(noisy, 3), np.minimum(noisy, 1.0), np.floor(300.0 * noisy)):
        assert not SpectrumBatch.from_arrays(WAVE, flux).mask.any()


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


def test_B1_integers_that_stand_for_nothing_in_a_table(tmp_path, read):
    bad = RNG.random(N) < 0.02
    counts = np.where(bad, -32768, np.round(1e4 * FLUX)).astype(np.int32)
    columns = [fits.Column("WAVE", "D", array=WAVE), fits.Column("FLUX", "J", array=counts, null=-32768)]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    assert np.array_equal(read(tmp_path / "a.fits")[0].mask[0], bad)


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


@pytest.mark.parametrize("layout", ["rows", "rows with errors", "columns"])
def test_B4_a_list_as_an_image(tmp_path, read, layout):
    rows = np.array([WAVE, FLUX, SIGMA][: 2 + (layout != "rows")])
    fits.writeto(tmp_path / "a.fits", rows.T if layout == "columns" else rows)
    (batch,) = read(tmp_path / "a.fits")
    assert batch.wavelength == pytest.approx(WAVE) and batch.flux[0] == pytest.approx(FLUX)
    assert np.isnan(batch.sigma).all() if layout == "rows" else batch.sigma[0] == pytest.approx(SIGMA)
    fits.writeto(tmp_path / "b.fits", rows[::-1].copy())
    with pytest.raises(ReadError, match="first row or column holds no wavelengths"):
        read(tmp_path / "b.fits")


def test_B4_an_image_with_its_wavelengths_in_a_table(tmp_path, read):
    column = fits.Column("WAVELENGTH", "D", array=WAVE / 10.0, unit="nm")
    hdus = [fits.PrimaryHDU(FLUX), fits.BinTableHDU.from_columns([column])]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    (batch,) = read(tmp_path / "a.fits")
    assert batch.wavelength == pytest.approx(WAVE) and batch.flux[0] == pytest.approx(FLUX)
    fits.PrimaryHDU(FLUX, fits.Header({"CTYPE1": "SPEC"})).writeto(tmp_path / "b.fits")
    with pytest.raises(ReadError):  # pixels are no wavelengths
        read(tmp_path / "b.fits")


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("head", ["{0}wave{0}flux{0}err\n", "", '"{0}wave{0}flux{0}err"\n'])
def test_B5_columns_that_count_rows(tmp_path, read, separator, head):
    """As pandas and R write tables: a column without a name before the others, names in quotes."""
    lines = [
        separator.join((str(i), f"{w:.4f}", f"{f:.6f}", "0.01"))
        for i, (w, f) in enumerate(zip(WAVE, FLUX, strict=True))
    ]
    head = (
        head.format(separator).replace('"', "")
        if head[:1] != '"'
        else separator.join(['""', '"wave"', '"flux"', '"err"']) + "\n"
    )
    (tmp_path / "a.csv").write_text(head + "\n".join(lines))
    (batch,) = read(tmp_path / "a.csv")
    assert batch.wavelength == pytest.approx(WAVE, abs=1e-4) and batch.sigma[0] == pytest.approx(SIGMA)


def test_B5_the_third_column_need_not_be_an_error(tmp_path, read):
    bad = (RNG.random(N) < 0.1).astype(int)
    path = files.write_text(tmp_path / "a.txt", WAVE, 1e3 * FLUX, FLUX / SIGMA, header="# Lambda Intens S/N")
    with pytest.warns(SpectrumWarning, match="third column is S/N"):
        assert np.isnan(read(path)[0].sigma).all()
    path = files.write_text(tmp_path / "b.txt", WAVE, FLUX, bad)
    with pytest.warns(SpectrumWarning, match="taken for flags"):
        assert np.array_equal(read(path)[0].mask[0], bad != 0)
    path = files.write_text(tmp_path / "c.txt", WAVE, FLUX, SIGMA**2, header="# Lambda Intens variance")
    assert read(path)[0].sigma[0] == pytest.approx(SIGMA, rel=1e-6)


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
