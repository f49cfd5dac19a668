"""Every file format in its real layout, recognised by content; every bad file in one sentence."""

from __future__ import annotations

import gzip
import os
import shutil
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import specinn_instruments
import spectrum_files as files
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specinn_instruments.orders import Order, merge_orders

from specinn.errors import PluginError, ReadError, SpectrumWarning
from specinn.plugins import Plugins
from specinn.spectra import SpectrumBatch, readers
from specinn.wavelengths import doppler

N = 2001
WAVE = np.linspace(5200.0, 5400.0, N)
LOG_WAVE = np.geomspace(5200.0, 5400.0, N)
SIGMA = np.linspace(0.01, 0.02, N)


def lines(wave: np.ndarray) -> np.ndarray:
    """A continuum with three absorption lines; nowhere 0."""
    centres = np.array([5230.5, 5301.2, 5388.8])
    return 1.0 - 0.6 * np.exp(-0.5 * ((wave[:, None] - centres) / 0.15) ** 2).sum(axis=1)


FLUX = lines(WAVE)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins(entry=[], extra={"instruments": specinn_instruments})


@pytest.fixture
def read(plugins):
    """Read a file of one batch."""

    def one(path, format="auto") -> SpectrumBatch:
        (batch,) = readers.read(path, plugins, format)
        return batch

    return one


# -- the same spectrum in every format -------------------------------------------------------------

WRITERS = {
    "text": ("text", lambda p: files.write_text(p, WAVE, FLUX, SIGMA)),
    "text nm": (
        "text",
        lambda p: files.write_text(p, WAVE, FLUX, SIGMA, unit=10.0, fmt=("%.7f", "%.8g", "%.8g")),
    ),
    "csv": ("text", lambda p: files.write_csv(p, WAVE, FLUX, SIGMA)),
    "benchmark text": ("text", lambda p: files.write_benchmark_text(p, WAVE, FLUX, SIGMA)),
    "benchmark fits": ("fits-image", lambda p: files.write_benchmark_fits(p, WAVE, FLUX, SIGMA)),
    "linear fits": ("fits-image", lambda p: files.write_linear_fits(p, WAVE, FLUX, SIGMA, ctype="LINEAR")),
    "eso": ("eso", lambda p: files.write_eso(p, WAVE, FLUX, SIGMA)),
    "eso uves": (
        "eso",
        lambda p: files.write_eso(p, WAVE, FLUX, SIGMA, style="uves", barycor=21.4, padding=0),
    ),
    "eso giraffe": ("eso", lambda p: files.write_eso(p, WAVE, FLUX, SIGMA, style="giraffe", unit="nm")),
    "4most": ("4most", lambda p: files.write_qmost(p, WAVE, FLUX, SIGMA)),
    "4most multi": ("4most-multi", lambda p: files.write_qmost_multi(p, WAVE, FLUX[None], SIGMA[None])),
    "polarbase": ("fits-table", lambda p: files.write_polarbase(p, WAVE, FLUX, SIGMA)),
    "libre-esprit": ("libre-esprit", lambda p: files.write_esprit(p, [(WAVE, FLUX, SIGMA)], columns=6)),
}

FITS_WRITERS = [name for name, (format, _) in WRITERS.items() if format not in ("text", "libre-esprit")]


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_spectrum_from_every_format(tmp_path, plugins, read, name):
    """Under a file name that says nothing."""
    format, write = WRITERS[name]
    path = tmp_path / "spectrum"
    write(path)
    assert readers.find_format(path, plugins) == format
    batch = read(path)
    assert batch.wavelength == pytest.approx(WAVE, abs=3e-4 if name == "4most" else 6e-6)  # float32 in 4MOST
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=2e-7)
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=2e-7)
    assert not batch.mask.any()
    assert batch.medium == "air"
    assert batch.meta["path"][0] == str(path)
    forced = read(path, format)
    assert np.array_equal(forced.flux, batch.flux)
    with gzip.open(tmp_path / "zipped", "wb") as file:
        file.write(path.read_bytes())
    if path.read_bytes().startswith(b"SIMPLE"):
        assert np.array_equal(read(tmp_path / "zipped").flux, batch.flux)


@pytest.mark.parametrize("kind", ["DC-FLAG", "AWAV-LOG", "WAVE-LOG"])
def test_log_wavelength(tmp_path, read, kind):
    batch = read(files.write_log_fits(tmp_path / "log.fits", LOG_WAVE, lines(LOG_WAVE), kind=kind))
    assert batch.wavelength == pytest.approx(LOG_WAVE, rel=1e-12)
    assert batch.medium == ("vacuum" if kind == "WAVE-LOG" else "air")
    assert np.isnan(batch.sigma).all()


# -- linear images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ctype", "cunit", "unit", "medium"),
    [
        ("AWAV", "Angstrom", 1.0, "air"),
        ("AWAV", "NM", 10.0, "air"),
        ("WAVE", "nm", 10.0, "vacuum"),
        ("LINEAR", None, 1.0, "air"),
        ("Angstrom", None, 1.0, "air"),
        (None, None, 1.0, "air"),
        (None, None, 10.0, "air"),
        ("WAVELENGTH", "um", 1e4, "air"),
    ],
)
@pytest.mark.parametrize("cd", [True, False])
def test_linear_axis(tmp_path, read, ctype, cunit, unit, medium, cd):
    path = files.write_linear_fits(
        tmp_path / "a.fits", WAVE, FLUX, ctype=ctype, cunit=cunit, unit=unit, cd=cd
    )
    batch = read(path)
    np.testing.assert_allclose(batch.wavelength, WAVE, rtol=1e-12)
    assert batch.medium == medium
    assert np.isnan(batch.sigma).all() and not batch.mask.any()


def test_axis_keywords(tmp_path, read):
    path = tmp_path / "a.fits"
    head = fits.Header(
        {"CRVAL1": WAVE[10], "CD1_1": 0.1, "CDELT1": 1.0, "CRPIX1": 11.0, "WAT1_001": "units=angstroms"}
    )
    fits.PrimaryHDU(FLUX, head).writeto(path)
    # CD1_1 before a CDELT1 that was never set
    np.testing.assert_allclose(read(path).wavelength, WAVE, rtol=1e-6)
    fits.PrimaryHDU(FLUX, fits.Header({"CRVAL1": WAVE[0], "CDELT1": 0.1})).writeto(path, overwrite=True)
    np.testing.assert_allclose(read(path).wavelength, WAVE, rtol=1e-6)  # without CRPIX1
    head = fits.Header({"CRVAL1": WAVE[0], "CDELT1": 0.1, "VACUUM": True})
    fits.PrimaryHDU(FLUX, head).writeto(path, overwrite=True)
    assert read(path).medium == "vacuum"


@pytest.mark.parametrize("extension", ["ERR", "ERRS", "SIGMA", "ERROR", "IVAR", "VAR"])
def test_error_extensions(tmp_path, read, extension):
    stored = {"IVAR": 1.0 / SIGMA**2, "VAR": SIGMA**2}.get(extension, SIGMA).copy()
    stored[7] = 0.0
    batch = read(files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, stored, extension=extension))
    good = np.arange(N) != 7
    np.testing.assert_allclose(batch.sigma[0, good], SIGMA[good], rtol=1e-6)
    assert np.flatnonzero(batch.mask[0]).tolist() == [7]


def test_mask_extension(tmp_path, read):
    mask = np.zeros(N, "i2")
    mask[100:110] = 4
    batch = read(files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, mask, extension="MASK"))
    assert np.flatnonzero(batch.mask[0]).tolist() == list(range(100, 110))


def test_an_error_of_zero_throughout_is_unknown(tmp_path, read):
    batch = read(files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX, np.zeros(N)))
    assert np.isnan(batch.sigma).all() and not batch.mask.any()


def test_many_spectra_in_an_image(tmp_path, plugins):
    flux = FLUX * np.linspace(1, 2, 300)[:, None]
    path = files.write_linear_fits(tmp_path / "many.fits", WAVE, flux, 0.01 * flux)
    result = list(readers.read(path, plugins))
    assert [len(batch) for batch in result] == [256, 44]
    np.testing.assert_allclose(result[1].flux, flux[256:])
    np.testing.assert_allclose(result[1].sigma, 0.01 * flux[256:])
    assert result[1].meta["id"].tolist()[::43] == ["many#256", "many#299"]


def test_zeros_are_no_data(tmp_path, read):
    flux = FLUX.copy()
    flux[:50] = flux[700:705] = flux[900] = 0.0
    batch = read(files.write_benchmark_fits(tmp_path / "a.fits", WAVE, flux, np.where(flux == 0, 0, SIGMA)))
    assert np.array_equal(batch.mask[0], flux == 0)


# -- ESO -------------------------------------------------------------------------------------------


def test_eso_uves_topocentric_and_padded(tmp_path, read):
    path = files.write_eso(
        tmp_path / "a.fits", WAVE, FLUX, SIGMA, style="uves", barycor=-17.3, spec_res=67000.0, padding=30,
        primary={"SNR": 88.0, "OBJECT": "HD 1"},
    )  # fmt: skip
    batch = read(path)
    inner = slice(30, -30)
    np.testing.assert_allclose(batch.wavelength[inner], WAVE, rtol=1e-10)
    np.testing.assert_allclose(batch.flux[0, inner], FLUX, rtol=1e-6)  # FLUX_REDUCED, not FLUX
    np.testing.assert_allclose(batch.sigma[0, inner], SIGMA, rtol=1e-6)
    assert batch.mask[0, :30].all() and batch.mask[0, -30:].all() and not batch.mask[0, inner].any()
    assert batch.resolving_power == 67000.0
    assert batch.meta["specsys"][0] == "BARYCENT" and batch.meta["snr_header"][0] == 88.0
    with fits.open(path) as hdus:  # and the file was in fact topocentric
        raw = hdus[1].data["WAVE"][0, inner]
    np.testing.assert_allclose(raw, doppler(WAVE, 17.3), rtol=1e-7)


def test_eso_medium_from_the_ucd(tmp_path, read):
    assert read(files.write_eso(tmp_path / "a.fits", WAVE, FLUX, SIGMA, medium="vacuum")).medium == "vacuum"
    assert read(files.write_eso(tmp_path / "b.fits", WAVE, FLUX, SIGMA, medium="air")).medium == "air"


def test_eso_harps_has_no_errors(tmp_path, read):
    batch = read(files.write_eso(tmp_path / "a.fits", WAVE, FLUX, np.full(N, np.nan)))
    assert np.isnan(batch.sigma).all() and not batch.mask.any()


def test_eso_topocentric_without_correction_says_so(tmp_path, read):
    path = files.write_eso(
        tmp_path / "a.fits",
        WAVE,
        FLUX,
        SIGMA,
        primary={"SPECSYS": "TOPOCENT", "HIERARCH ESO DRS CCF RVC": 12.0},
    )
    with pytest.warns(SpectrumWarning, match="ESO DRS CCF RVC = 12 .* topocentric"):
        batch = read(path)
    assert batch.meta["specsys"][0] == "TOPOCENT" and "rv" not in batch.meta.colnames
    assert batch.meta["frame"][0] == "topocentric"


@pytest.mark.parametrize(
    ("keys", "rv"),
    [
        ({"HIERARCH ESO DRS CCF RVC": -22.7}, -22.7),
        ({"RADVEL": 30.5}, 30.5),
        ({"VRAD": 0.0}, None),  # what programs write that know none
        ({"RV": -9999.0}, None),
        ({"VHELIO": 12.0, "HIERARCH ESO TEL TARG RADVEL": 5.0}, None),
    ],
)
@pytest.mark.filterwarnings("ignore::specinn.errors.SpectrumWarning")
def test_velocity_only_from_unambiguous_keys(tmp_path, read, keys, rv):
    meta = read(files.write_eso(tmp_path / "a.fits", WAVE, FLUX, SIGMA, primary=keys)).meta
    assert (meta["rv"][0] if "rv" in meta.colnames else None) == rv


# -- 4MOST -----------------------------------------------------------------------------------------


def test_qmost_single(tmp_path, read):
    quality = np.zeros(N, int)
    quality[5], quality[6] = 2, -1
    batch = read(files.write_qmost(tmp_path / "a.fits", WAVE, FLUX, SIGMA, quality))
    assert np.flatnonzero(batch.mask[0]).tolist() == [5, 6]
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)  # FLUX and not FLUX_NOSS
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=1e-6)
    assert batch.resolving_power == 20000.0
    assert batch.meta["id"][0] == "11031146069" and batch.meta["snr_header"][0] == 120.5
    assert batch.meta["instrument_header"][0] == "QMOST"


def test_qmost_low_resolution_is_readable(tmp_path, read):
    path = files.write_qmost(tmp_path / "a.fits", WAVE, FLUX, SIGMA, fib_root=2, spec_res=4933.2)
    assert read(path).resolving_power == pytest.approx(4933.2)


def test_qmost_single_with_the_real_header(tmp_path, read, plugins, shared):
    """The keywords of the sample file, of which only the header is at hand, around columns of its lengths."""
    cards = (shared / "data" / "instruments" / "qmost_L1_header.txt").read_text().split("-----EXT1-----")
    first, second = (
        fits.Header([fits.Card.fromstring(line[:80]) for line in text.splitlines() if line.strip()])
        for text in cards
    )
    n = second["NELEM"]
    wave = 3700.0 + 0.25 * np.arange(n)
    one = {"WAVE": wave, "QUAL": np.zeros(n)}
    columns = [
        fits.Column(name, second[f"TFORM{i}"], array=one.get(name, np.full(n, float(i)))[None])
        for i, name in ((i, second[f"TTYPE{i}"]) for i in range(1, 7))
    ]  # fmt: skip
    for header in (first, second):
        for key in ("CHECKSUM", "DATASUM"):
            header.remove(key, ignore_missing=True)
    table = fits.BinTableHDU.from_columns(columns)
    table.header.extend(second, unique=True)
    fits.HDUList([fits.PrimaryHDU(header=first), table]).writeto(tmp_path / "a.fits")
    assert table.header["NAXIS1"] == second["NAXIS1"]
    batch = read(tmp_path / "a.fits")
    assert readers.find_format(tmp_path / "a.fits", plugins) == "4most"
    assert batch.wavelength[[0, -1]] == pytest.approx([3700, 9500])
    assert (batch.flux == 2).all() and (batch.sigma == 3).all() and batch.medium == "air"
    assert batch.resolving_power == pytest.approx(first["SPEC_RES"])
    assert batch.meta["id"][0] == str(second["TRG_UID"])


@pytest.mark.parametrize("keys", ["1CRVL1", "CRVAL1"])
@pytest.mark.parametrize("unit", ["Angstrom", "nm"])
def test_qmost_multi(tmp_path, plugins, keys, unit):
    n_spec = 300
    flux = (FLUX * np.linspace(1, 2, n_spec)[:, None]).astype("f4")
    sigma = (0.01 * flux).astype("f4")
    quality = np.zeros(flux.shape, "i4")
    quality[3, 17] = 1
    sigma[4, 18] = np.inf  # inverse variance 0
    path = files.write_qmost_multi(
        tmp_path / "a.fits", WAVE, flux, sigma, quality, keys=keys, unit=unit, shuffle_fibres=True
    )
    result = list(readers.read(path, plugins))
    assert [len(batch) for batch in result] == [32] * 9 + [12]
    assert readers.find_format(path, plugins) == "4most-multi"
    both = SpectrumBatch.concatenate(result)
    np.testing.assert_allclose(both.wavelength, WAVE, rtol=1e-10)
    assert both.medium == "air"
    np.testing.assert_allclose(both.flux, flux, rtol=1e-6)
    np.testing.assert_allclose(both.sigma[5:], sigma[5:], rtol=1e-6)
    assert np.argwhere(both.mask).tolist() == [[3, 17], [4, 18]]
    assert both.meta["id"][[0, 299]].tolist() == ["5000000000", "5000000299"]  # in spite of the other order
    assert both.meta["object"][7] == "star 7" and both.meta["snr_header"][7] == 17.0
    assert both.meta["specuid"][7] == "1007" and both.meta["fib_use"][[8, 9]].tolist() == [1, 3]
    assert both.resolving_power is None


def test_qmost_multi_missing_identifiers(tmp_path, read):
    flux = np.tile(FLUX, (3, 1))
    path = files.write_qmost_multi(
        tmp_path / "a.fits",
        WAVE,
        flux,
        0.01 * flux,
        obj_uid=[7, -1, -1],
        specuid=[-1, -1, -1],
        obj_nme=["x", "y", ""],
    )
    assert read(path).meta["id"].tolist() == ["7", "y", "a#2"]


def test_qmost_multi_low_resolution(tmp_path, read):
    flux = np.tile(FLUX, (2, 1))
    path = files.write_qmost_multi(tmp_path / "a.fits", WAVE, flux, flux, fib_root=1, spec_res=6500.0)
    assert read(path).resolving_power == 6500.0
    path = files.write_qmost_multi(tmp_path / "b.fits", WAVE, flux, flux, fib_root=1)
    with pytest.raises(ReadError, match=r"low-resolution fibres.*SPEC_RES"):
        read(path)


@pytest.mark.slow
def test_qmost_multi_reads_batch_by_batch(tmp_path, plugins):
    flux = np.ones((800, 2048), "f4")
    path = files.write_qmost_multi(tmp_path / "a.fits", np.linspace(5200, 5400, 2048), flux, 0.01 * flux)
    tracemalloc.start()
    n = sum(len(batch) for batch in readers.read(path, plugins))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 800
    assert peak < 10 * 32 * 2048 * 8  # never all 800


# -- NARVAL ----------------------------------------------------------------------------------------


def overlapping_orders() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    result = []
    for start in (5200.0, 5260.0, 5330.0):
        wave = np.arange(start, start + 80.0, 0.03)
        result.append((wave, lines(wave), np.full(wave.size, 0.01)))
    return result


@pytest.mark.parametrize("columns", [2, 3, 6])
def test_libre_esprit_orders_become_one_spectrum(tmp_path, read, columns):
    orders = overlapping_orders()
    batch = read(files.write_esprit(tmp_path / "a.s", orders, columns=columns))
    assert list(batch.arms.values()) == [slice(0, batch.wavelength.size)]
    assert (np.diff(batch.wavelength) > 0).all()
    assert batch.wavelength[[0, -1]] == pytest.approx([5200.0, orders[-1][0][-1]])
    assert np.diff(batch.wavelength).max() < 0.061  # no pixel of the overlaps is missing
    # the pixels are those of the order that reaches farther beyond
    pixels, first, second = (np.rint(1e3 * w) for w in (batch.wavelength, orders[0][0], orders[1][0]))
    cut = 0.5 * (orders[0][0][-1] + 5260.0)
    before, after = (
        batch.wavelength < cut - 0.04,
        (batch.wavelength > cut + 0.04) & (batch.wavelength < 5330.0),
    )
    assert np.isin(pixels[before], first).all() and before.sum() > 1000
    assert np.isin(pixels[after], second).all() and after.sum() > 1000
    np.testing.assert_allclose(batch.flux[0], lines(batch.wavelength), rtol=1e-6)
    overlap = np.zeros(batch.wavelength.size, int)
    for wave, *_ in orders:
        overlap += (batch.wavelength > wave[1] - 1e-4) & (batch.wavelength < wave[-2] + 1e-4)
    sigma = batch.sigma[0]
    if columns == 2:
        assert np.isnan(sigma).all()
    else:  # two measurements where orders overlap
        assert sigma[overlap < 2] == pytest.approx(0.01)
        assert (overlap == 2).sum() > 500 and (sigma[overlap == 2] < 0.01001 / np.sqrt(2)).all()
    assert batch.meta["merged_orders"][0] == 3
    assert batch.meta["object"][0] == "hd22879"


def test_libre_esprit_truncated(tmp_path, read):
    path = files.write_esprit(tmp_path / "a.s", overlapping_orders(), announced=9000)
    with pytest.raises(ReadError, match="truncated: line 2 announces 9000 pixels"):
        read(path)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    starts=st.lists(st.integers(0, 3000), min_size=2, max_size=6, unique=True),
    length=st.integers(120, 900),
    reverse=st.booleans(),
)
def test_merged_orders_always_increase(starts, length, reverse):
    waves = [4000.0 + 0.37 * start + 0.05 * np.arange(length) for start in sorted(starts, reverse=reverse)]
    orders = [
        Order(w, np.ones((2, w.size)), np.full((2, w.size), 0.1), np.zeros((2, w.size), bool)) for w in waves
    ]
    wave, flux, sigma, mask, arms = merge_orders(orders)
    assert (np.diff(wave) > 0).all() and not mask.any()
    assert flux == pytest.approx(np.ones_like(flux)) and (sigma <= 0.1 * (1 + 1e-9)).all()
    assert wave[0] == min(w[0] for w in waves) and wave[-1] == max(w[-1] for w in waves)
    ends = [(arm.start, arm.stop) for arm in arms.values()]
    assert ends[0][0] == 0 and ends[-1][1] == wave.size
    assert all(a[1] == b[0] for a, b in pairwise(ends))


def test_polarbase_orders(tmp_path, read):
    wave, flux, sigma = (np.concatenate(columns) for columns in zip(*overlapping_orders(), strict=True))
    batch = read(files.write_polarbase(tmp_path / "a.fits", wave, flux, sigma))
    assert batch.meta["merged_orders"][0] == 3 and batch.meta["object"][0] == "HD 22879"


def test_orders_with_a_gap_between_them_are_two_arms():
    """Interpolation must not reach across the gap."""
    waves = [start + np.arange(0.0, 80.0, 0.05) for start in (5000.0, 5070.0, 5200.0, 5270.0)]
    merged = merge_orders([Order(w, np.ones((1, w.size)), None, np.zeros((1, w.size), bool)) for w in waves])
    wave, arms = merged[0], merged[4]
    assert [wave[arm][[0, -1]].round(1).tolist() for arm in arms.values()] == [
        [5000.0, 5150.0],
        [5200.0, 5350.0],
    ]


# -- text ------------------------------------------------------------------------------------------

TEXT = {
    "plain": "5000.0 1.0\n5000.1 0.9\n5000.2 0.8\n",
    "comments": "# made by hand\n! more\n5000.0 1.0 # first\n\n5000.1 0.9\n5000.2 0.8\n",
    "header": "Wavelength Flux\n5000.0 1.0\n5000.1 0.9\n5000.2 0.8\n",
    "nm by value": "500.00 1.0\n500.01 0.9\n500.02 0.8\n",
    "nm by name": "wave_nm,flux\n500.00,1.0\n500.01,0.9\n500.02,0.8\n",
    "unit in brackets": "# wavelength [nm]   flux\n500.00 1.0\n500.01 0.9\n500.02 0.8\n",
    "um": "wavelength (um), flux\n0.50000, 1.0\n0.50001, 0.9\n0.50002, 0.8\n",
    "decreasing": "5000.2 0.8\n5000.1 0.9\n5000.0 1.0\n",
    "semicolon": "wave;flux\n5000.0;1.0\n5000.1;0.9\n5000.2;0.8\n",
    "tabs": "5000.0\t1.0\n5000.1\t0.9\n5000.2\t0.8\n",
    "windows": "\ufeff5000.0 1.0\r\n5000.1 0.9\r\n5000.2 0.8\r\n",
    "fortran": "5.0000D+03 1.0D0\n5.0001D+03 9.0D-1\n5.0002D+03 8.0D-1\n",
    "columns by name": "flux,other,lambda\n1.0,3,5000.0\n0.9,3,5000.1\n0.8,3,5000.2\n",
}


@pytest.mark.filterwarnings("ignore:.*columns other are not understood")
@pytest.mark.parametrize("name", TEXT)
def test_text(tmp_path, read, name):
    path = tmp_path / "a"
    path.write_bytes(TEXT[name].encode())
    batch = read(path)
    assert batch.wavelength == pytest.approx([5000.0, 5000.1, 5000.2])
    assert batch.flux[0] == pytest.approx([1.0, 0.9, 0.8])
    assert np.isnan(batch.sigma).all() and batch.medium == "air"


def test_text_missing_values_are_masked(tmp_path, read):
    path = tmp_path / "a.csv"
    path.write_text(
        "wave,flux,err\n5000.0,1.0,0.1\n5000.1,,0.1\n5000.2,nan,0.1\n5000.3,0.7,0\n5000.4,0.6,0.1\n"
    )
    assert read(path).mask[0].tolist() == [False, True, True, True, False]


def test_text_says_vacuum(tmp_path, read):
    path = tmp_path / "a.txt"
    path.write_text("wavelength_vac flux\n5000.0 1.0\n5000.1 0.9\n")
    assert read(path).medium == "vacuum"
    path.write_text("# wavelengths in vacuum\n5000.0 1.0\n5000.1 0.9\n")
    assert read(path).medium == "vacuum"


def test_text_seams_are_merged_and_counted(tmp_path, read):
    wave, flux = np.insert(WAVE, 1000, WAVE[1000]), np.insert(FLUX, 1000, FLUX[1000] + 0.02)
    batch = read(files.write_text(tmp_path / "a.txt", wave, flux, np.full(N + 1, 0.01)))
    np.testing.assert_allclose(batch.wavelength, WAVE, rtol=1e-6)
    assert batch.flux[0, 1000] == pytest.approx(FLUX[1000] + 0.01)
    assert batch.sigma[0, 1000] == pytest.approx(0.01 / np.sqrt(2))
    assert batch.meta["merged_pixels"][0] == 1


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.floats(3500, 6000),
    step=st.floats(0.005, 0.2),
    flux=st.lists(st.floats(0.01, 1e6), min_size=3, max_size=40),
    delimiter=st.sampled_from([" ", ",", "\t"]),
    reverse=st.booleans(),
)
def test_text_round_trip(tmp_path, read, start, step, flux, delimiter, reverse):
    wave, flux = start + step * np.arange(len(flux)), np.array(flux)
    way = slice(None, None, -1 if reverse else 1)
    batch = read(
        files.write_text(tmp_path / "a", wave[way], flux[way], delimiter=delimiter, fmt=("%.17g", "%.17g"))
    )
    assert np.array_equal(batch.wavelength, wave) and np.array_equal(batch.flux[0], flux)


# -- specutils -------------------------------------------------------------------------------------


def test_files_that_specutils_writes(tmp_path, read):
    u = pytest.importorskip("astropy.units")
    from astropy.nddata import StdDevUncertainty
    from specutils import Spectrum

    spectrum = Spectrum(
        flux=FLUX * u.Jy, spectral_axis=WAVE / 10 * u.nm, uncertainty=StdDevUncertainty(SIGMA)
    )
    path = tmp_path / "a.fits"
    spectrum.write(path, format="tabular-fits")
    batch = read(path)
    np.testing.assert_allclose(batch.wavelength, WAVE, rtol=1e-7)
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)
    np.testing.assert_allclose(batch.sigma[0], SIGMA, rtol=1e-6)


def test_specutils_reads_what_it_is_asked_to(tmp_path, plugins, read):
    path = files.write_iraf_multispec(tmp_path / "a.fits", WAVE, FLUX)
    assert readers.find_format(path, plugins) == "iraf-multispec"
    for batch in (read(path), read(path, "specutils")):
        assert batch.wavelength == pytest.approx(WAVE, abs=1e-6)
        np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)


# -- bad files -------------------------------------------------------------------------------------


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def image(path, flux, **keys):
    fits.PrimaryHDU(flux, fits.Header(keys)).writeto(path)
    return path


def a_table(path, **columns):
    fits.BinTableHDU.from_columns([fits.Column(k, "D", array=v) for k, v in columns.items()]).writeto(path)
    return path


AXIS = {"CRVAL1": 5200.0, "CDELT1": 0.1}
BAD = {
    "missing": (lambda d: d / "none.fits", "no such file"),
    "folder": (lambda d: d, "is a folder"),
    "empty": (lambda d: write(d / "a", ""), "the file is empty"),
    "png": (lambda d: write(d / "a.fits", b"\x89PNG\r\n\x1a\n" + bytes(range(256))), "found a PNG image"),
    "random bytes": (lambda d: write(d / "a", np.random.default_rng(1).bytes(5000)), "found binary data"),
    "prose": (
        lambda d: write(d / "a.txt", "It was the best of times\n" * 20),
        "text without two columns of numbers",
    ),
    "one column": (lambda d: write(d / "a.txt", "1.0\n0.9\n0.8\n"), "text without two columns of numbers"),
    "catalogue": (lambda d: write(d / "a.csv", "star,teff\nSun,5771\nVega,9550\n"), "without two columns"),
    "six columns": (
        lambda d: write(d / "a.txt", "5000 1 2 3 4 5\n5001 1 2 3 4 5\n"),
        "6 columns without known names",
    ),
    "absolute flux": (
        lambda d: files.write_text(d / "a.spec", WAVE, FLUX, 1e6 * FLUX),
        "third column .* cannot be the error of the flux",
    ),
    "word among numbers": (
        lambda d: write(d / "a.txt", "5000 1\n5001 1\n5002 one\n"),
        "line 3 is not made of numbers",
    ),
    "cut line": (
        lambda d: write(d / "a.txt", "5000 1 .1\n5001 1 .1\n5002 1\n"),
        "line 3 has 2 columns.*truncated",
    ),
    "no unit": (lambda d: write(d / "a.txt", "1500 1\n1501 1\n1502 1\n"), "neither nm .* nor Angstrom"),
    "unknown unit": (
        lambda d: image(d / "a.fits", FLUX, **AXIS, CUNIT1="furlong"),
        "unknown wavelength unit 'furlong'",
    ),
    "no wavelength": (lambda d: image(d / "a.fits", FLUX), "no wavelength for .* lacks CRVAL1"),
    "pixels": (lambda d: image(d / "a.fits", FLUX, **AXIS, CTYPE1="PIXEL"), "no wavelength.*in pixels"),
    "a picture": (
        lambda d: image(d / "a.fits", np.ones((50, 60))),
        "found a FITS file with an image of 50 x 60",
    ),
    "the sky": (
        lambda d: image(d / "a.fits", np.ones((9, 9)), **AXIS, CTYPE1="RA---TAN"),
        r"CTYPE1 RA---TAN",
    ),
    "no data": (lambda d: image(d / "a.fits", None), "found a FITS file with no data"),
    "another table": (
        lambda d: a_table(d / "a.fits", RA=[1.0, 2.0], DEC=[3.0, 4.0]),
        "a table of columns RA, DEC",
    ),
    "an empty table": (lambda d: a_table(d / "a.fits", WAVE=[], FLUX=[]), "no rows"),
    "no wavelength column": (
        lambda d: files.write_qmost_multi(d / "a.fits", WAVE, FLUX[None], SIGMA[None], keys=None),
        "no wavelength: .*1CRVL1",
    ),
    "not a log": (
        lambda d: image(d / "a.fits", FLUX, **AXIS, **{"DC-FLAG": 1}),
        "log10 of wavelength, but CRVAL1 is 5200",
    ),
    "all NaN": (
        lambda d: image(d / "a.fits", np.full(N, np.nan), **AXIS),
        "all 2001 pixels are zero, not finite",
    ),
    "all zero": (
        lambda d: image(d / "a.fits", np.zeros(N), **AXIS),
        "all 2001 pixels are zero, not finite",
    ),
    "sigma of another length": (
        lambda d: files.write_linear_fits(d / "a.fits", WAVE, FLUX, SIGMA[:-1]),
        r"error extension has shape \(1, 2000\), flux \(1, 2001\)",
    ),
    "duplicates": (
        lambda d: files.write_text(d / "a.txt", np.repeat(WAVE, 2), np.repeat(FLUX, 2)),
        "2001 wavelengths do not increase",
    ),
    "one pixel on its neighbour": (
        lambda d: files.write_text(d / "a.txt", np.where(np.arange(N) == 9, WAVE[8], WAVE), FLUX),
        "1 wavelengths do not increase",
    ),
    "back and forth": (
        lambda d: files.write_text(d / "a.txt", WAVE[np.r_[0:900, 850:N]], FLUX[np.r_[0:900, 850:N]]),
        "do not increase",
    ),
    "truncated gzip": (
        lambda d: write(d / "a.fits.gz", gzip.compress(b"SIMPLE" * 999)[:40]),
        "gzip file is truncated",
    ),
    "a pickle": (lambda d: write(d / "a.npy", b"\x93NUMPY\x01\x00" + b"\0" * 80), "found a NumPy array"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_sentence(tmp_path, plugins, name):
    make, message = BAD[name]
    path = make(tmp_path)
    with pytest.raises(ReadError, match=message) as caught:
        list(readers.read(path, plugins))
    said = str(caught.value)
    assert said.startswith(str(path)) and said.count(str(path)) <= 2
    assert "\n" not in said and len(said) < 400 + 2 * len(str(path))


@pytest.mark.parametrize("name", FITS_WRITERS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_fits_is_never_read(tmp_path, plugins, name, share):
    """Cut anywhere: data are never returned short or as zeros."""
    whole = tmp_path / "whole"
    WRITERS[name][1](whole)
    content = whole.read_bytes()
    path = write(tmp_path / "cut.fits", content[: int(share * len(content))])
    with pytest.raises(ReadError, match=r"truncated|FITS header"):
        list(readers.read(path, plugins))


def test_missing_padding_at_the_end_is_harmless(tmp_path, read):
    content = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX).read_bytes()
    header = len(content) - 2880 * -(-8 * N // 2880)
    batch = read(write(tmp_path / "b.fits", content[: header + 8 * N]))
    np.testing.assert_allclose(batch.flux[0], FLUX, rtol=1e-6)
    with pytest.raises(ReadError, match="truncated"):
        read(write(tmp_path / "c.fits", content[: header + 8 * N - 1]))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission(tmp_path, read):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX)
    path.chmod(0)
    with pytest.raises(ReadError, match="cannot be opened: Permission denied"):
        read(path)


def test_wrong_format_by_name(tmp_path, plugins, read):
    path = files.write_text(tmp_path / "a.txt", WAVE, FLUX)
    for format in ("4most", "4most-multi", "eso", "fits-table", "fits-image"):
        with pytest.raises(ReadError, match=str(path)):
            read(path, format)
    with pytest.raises(PluginError, match="did you mean 'fits-image'"):
        read(path, "fits-imag")
    image = files.write_linear_fits(tmp_path / "a.fits", WAVE, FLUX)
    for format in ("text", "libre-esprit"):
        with pytest.raises(ReadError, match=r"binary data: expected text|not made of numbers"):
            read(image, format)


def test_readers_of_other_plugins(tmp_path):
    """A third party's reader goes first by priority; its exceptions become one sentence."""
    from specinn.plugins.hookspecs import ReaderRecord, hookimpl

    class Plugin:
        @hookimpl
        def specinn_instruments(self):
            good = ReaderRecord(name="mine", summary="", factory=f"{__name__}:Mine", priority=500)
            return [good, ReaderRecord(name="broken", summary="", factory="no.such:Thing", priority=600)]

    result = Plugins(entry=[], extra={"instruments": specinn_instruments, "mine": Plugin()})
    path = write(tmp_path / "a", "MINE\n5000 1\n5001 1\n")
    assert readers.find_format(path, result) == "mine"
    with pytest.raises(ReadError, match=r"cannot be read as mine \(ZeroDivisionError: oh\)"):
        list(readers.read(path, result))
    other = files.write_text(tmp_path / "b", WAVE, FLUX)
    assert readers.find_format(other, result) == "text"


class Mine:
    def recognises(self, path):
        if not path.read_bytes().startswith(b"MINE"):
            raise RuntimeError("a reader that trips")
        return True

    def read(self, path):
        raise ZeroDivisionError("oh")


# -- real files ------------------------------------------------------------------------------------

REAL = {
    "sun_uves.txt": ("text", 4835.0, 6723.5, []),
    "procyon_uvespop.fits": ("fits-image", 4800.0, 6799.99, [(5771.0, 5840.0)]),
    "alfcenb_harps.fits": ("fits-image", 4800.0, 6799.99, [(5305.0, 5337.9)]),
    "61cygb_espadons.fits": ("fits-image", 4800.0, 6799.99, []),
    "hd22879_narval.fits": ("fits-image", 4800.0, 6799.99, []),
    "arcturus_kpno.fits": ("fits-image", 3726.7, 9300.01, []),
    "hd122563_mike.fits": ("fits-image", 3400.03, 9164.01, []),
    "wasp120_uves.fits": ("fits-image", 4727.70, 6833.15, []),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(tmp_path, plugins, read, shared, name):
    format, low, high, gaps = REAL[name]
    source = shared / "data" / "spectra" / name
    path = shutil.copy(source, tmp_path / "without_suffix")
    assert readers.find_format(path, plugins) == format
    batch = read(path)
    assert batch.wavelength[[0, -1]] == pytest.approx([low, high], abs=0.01)
    assert (np.diff(batch.wavelength) > 0).all() and batch.medium == "air"
    good = ~batch.mask[0]
    assert np.isfinite(batch.flux[0, good]).all() and not (batch.flux[0, good] == 0).any()
    for start, end in gaps:
        inside = (batch.wavelength > start) & (batch.wavelength < end)
        assert inside.sum() > 1000 and batch.mask[0, inside].all()
    if format == "fits-image" and high < 6800:
        assert (batch.sigma[0, good] > 0).all()
    # runs of one value count: 13 pixels of 1.0 in the atlas, gaps filled with 4 and 11816.78 in the last
    expected = {"procyon_uvespop.fits": 7001, "alfcenb_harps.fits": 3300, "arcturus_kpno.fits": 29805,
                "wasp120_uves.fits": 14971}  # fmt: skip
    assert batch.mask.sum() == expected.get(name, batch.mask.sum())
    assert batch.mask.mean() < (0.08 if name == "wasp120_uves.fits" else 0.05)


def test_real_folder_listing_is_not_a_spectrum(plugins, shared):
    with pytest.raises(ReadError, match="text without two columns of numbers"):
        list(readers.read(shared / "data" / "spectra" / "stars.csv", plugins))
