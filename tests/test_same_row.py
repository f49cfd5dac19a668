"""One spectrum in every layout that can hold it gives the same catalogue row."""

from __future__ import annotations

import numpy as np
import pytest
import spectrum_files as files
from astropy.io import fits
from specutils import Spectrum

import specinn
from specinn.plugins import Plugins
from specinn.wavelengths import air_to_vacuum, doppler

pytestmark = pytest.mark.slow

LABELS = {"teff": 5300.0, "logg": 3.8, "fe_h": -0.4, "vmic": 1.2, "a_li": 1.0, "mg_fe": 0.2, "ca_fe": 0.15}
STEP = 0.02  # Angstrom
RV = 23.4


@pytest.fixture(scope="module")
def star():
    """A G subgiant at R = 60 000, 0.02 Angstrom a pixel, S/N 150 per Angstrom; 0 between the arms."""
    emulator = Plugins(None).load("synthesizer", "emulator").load()
    flux = emulator(np.array([[LABELS.get(name, 0.0) for name in emulator.labels]]))[0].astype(float)
    wavelength = 5150.0 + STEP * np.arange(82_100)
    out = np.zeros(wavelength.size)
    for arm in emulator.arms.values():
        source = emulator.wavelength[arm] * doppler(1.0, RV)
        covered = (wavelength > source[0] + 0.5) & (wavelength < source[-1] - 0.5)
        out[covered] = np.interp(wavelength[covered], source, flux[arm])
    sigma = np.full(wavelength.size, 1.0 / (150.0 * np.sqrt(STEP)))
    noise = sigma * np.random.default_rng(0).standard_normal(wavelength.size)
    return wavelength, np.where(out > 0, out + noise, 0.0), sigma


def writers(folder, wavelength, flux, sigma):
    """Every layout that keeps even sampling, a sigma and the given wavelengths."""
    orders = [(wavelength, flux, sigma)]
    multi = files.write_qmost_multi(folder / "multi.fits", wavelength, flux[None], sigma[None])
    return {
        "three columns": files.write_text(folder / "a.txt", wavelength, flux, sigma),
        "nanometres": files.write_text(
            folder / "nm.dat", wavelength, flux, sigma, unit=10.0, header="wavelength_nm flux err"
        ),
        "csv": files.write_csv(folder / "b.csv", wavelength, flux, sigma),
        "library text": files.write_benchmark_text(folder / "c.txt", wavelength, flux, sigma),
        "library FITS": files.write_benchmark_fits(folder / "d.fits", wavelength, flux, sigma),
        "image": files.write_linear_fits(folder / "e.fits", wavelength, flux, sigma),
        "ESO air": files.write_eso(folder / "f.fits", wavelength, flux, sigma),
        "ESO vacuum": files.write_eso(
            folder / "g.fits", air_to_vacuum(wavelength), flux, sigma, medium="vacuum"
        ),
        "4MOST": files.write_qmost(folder / "h.fits", wavelength, flux, sigma),
        "4MOST multi": multi,
        "ESpRIT": files.write_esprit(folder / "i.s", orders, columns=3),
        "PolarBase": files.write_polarbase(folder / "j.fits", wavelength, flux, sigma),
    }


def test_all_formats_give_the_same_row(tmp_path, star):
    wavelength, flux, sigma = star
    rows = {}
    for name, path in writers(tmp_path, wavelength, flux, sigma).items():
        rows[name] = specinn.infer(
            str(path), instrument="uves", resolving_power=60_000, samples=1024
        ).catalogue[0]
    spectrum = files.as_spectrum(wavelength, flux, sigma)
    assert isinstance(spectrum, Spectrum)
    rows["specutils"] = specinn.infer(
        spectrum, instrument="uves", resolving_power=60_000, samples=1024
    ).catalogue[0]

    reference = rows["three columns"]
    assert not reference["flag_bad"]
    assert float(reference["rv"].value) == pytest.approx(RV, abs=0.3)
    for name, row in rows.items():
        assert row["flags"] == reference["flags"], name
        for label in ("teff", "logg", "fe_h", "vmic", "mg_fe"):
            width = float(reference[f"{label}_std"].value)
            for suffix in ("_median", "_p16", "_p84", "_std"):
                difference = float((row[label + suffix] - reference[label + suffix]).value)
                assert abs(difference) < 0.1 * width, (
                    f"{name}: {label}{suffix} differs by {difference:g}, width {width:g}"
                )


@pytest.fixture(scope="module")
def merged(tmp_path_factory, shared):
    """Rows of alf Cen B as HARPS merged it, and cut into orders with a blaze, which we merge."""
    path = shared / "data" / "spectra2" / "alfcenb_harps_s1d.fits"
    (batch,) = specinn.read(path)
    wave, flux, good = batch.wavelength, batch.flux[0], ~batch.mask[0]
    length, apart = 85.0, 60.0  # Angstrom
    tables = []
    for i, start in enumerate(np.arange(wave[good][0], wave[good][-1] - length, apart)):
        covered = (wave >= start) & (wave < start + length) & good
        if np.count_nonzero(covered) < 1000:
            continue
        blaze = np.sinc((wave[covered] - start - 0.5 * length) / (0.62 * length)) ** 2
        level = (1.0 + 0.03 * (-1) ** i) * blaze
        columns = {"WAVE": wave[covered], "FLUX": flux[covered] * level}
        tables.append(
            fits.BinTableHDU.from_columns([fits.Column(k, "D", array=v) for k, v in columns.items()])
        )
    ours = tmp_path_factory.mktemp("orders") / "orders.fits"
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(ours)
    return [
        specinn.infer(str(file), instrument="uves", resolving_power=115_000, samples=2048).catalogue[0]
        for file in (ours, path)
    ]


def test_orders_merged_here_have_the_velocity_and_flags_of_the_observatory(merged):
    ours, theirs = merged
    assert not theirs["flag_bad"] and ours["flags"] == theirs["flags"]
    assert abs(float((ours["rv"] - theirs["rv"]).value)) < 0.5 * float(theirs["rv_error"].value)


@pytest.mark.parametrize(
    ("label", "allowed"),
    [
        ("teff", 3.0),
        ("logg", 0.008),
        ("fe_h", 0.0017),
        ("vmic", 0.003),
        ("mg_fe", 0.002),
        ("ca_fe", 0.0015),
        ("ti_fe", 0.0013),
    ],
)
def test_orders_merged_here_give_the_row_of_the_observatory(merged, label, allowed):
    """But for 0.3 % of the blaze that merging leaves."""
    ours, theirs = merged
    difference = float((ours[f"{label}_median"] - theirs[f"{label}_median"]).value)
    assert abs(difference) < allowed
