"""Makes the example spectra: model spectra, observed by the simulator, in the layout of 4MOST level-1 files.

``python tools/make_examples.py FOLDER`` writes them anew; the same version gives the same files.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

import specinn.examples
from specinn.instruments import Instrument
from specinn.plugins import Plugins
from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.mock_survey import telescope
from specinn.wavelengths import doppler

# name, Teff/K, logg, [Fe/H], vmic, [alpha/Fe], A(Li), vbroad, radial velocity (km/s), S/N per Angstrom
STARS = (
    ("dwarf-g", 5790.0, 4.42, 0.03, 1.05, 0.02, 1.1, 2.5, 12.3, 200.0),
    ("dwarf-k", 4650.0, 4.60, -0.15, 0.85, 0.05, 0.0, 2.0, -35.8, 100.0),
    ("giant-clump", 4780.0, 2.45, -0.20, 1.50, 0.10, 0.8, 4.0, 61.4, 100.0),
    ("giant-metal-poor", 4900.0, 1.90, -1.90, 1.80, 0.38, 1.0, 5.0, -143.2, 60.0),
    ("turn-off-f", 6350.0, 4.05, -0.40, 1.60, 0.12, 2.4, 14.0, 5.1, 60.0),
)
_ALPHA = ("ca_fe", "mg_fe", "si_fe", "ti_fe", "o_fe")


def make(folder: Path) -> None:
    """Write one FITS file per star and ``truth.csv`` into ``folder``."""
    plugins = Plugins()
    instrument = Instrument.from_toml(plugins.record("instrument", "4most-hr").toml)
    emulator, observer = telescope(plugins, instrument)
    noise = Noise(instrument, Disturbances(gaps=0, arm_loss=0.0, snr_arm_scatter=0.0))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "truth.csv").open("w", newline="") as file:
        table = csv.writer(file)
        names = ["file", "teff", "logg", "fe_h", "vmic", "mg_fe", "ca_fe", "a_li", "vbroad", "rv", "snr"]
        table.writerow(names)
        for i, (name, teff, logg, fe_h, vmic, alpha, a_li, vbroad, rv, snr) in enumerate(STARS):
            values = {"teff": teff, "logg": logg, "fe_h": fe_h, "vmic": vmic, "a_li": a_li}
            values |= dict.fromkeys(_ALPHA, alpha)
            labels = torch.tensor([[values.get(label, 0.0) for label in emulator.labels]])
            generator = torch.Generator().manual_seed(i)
            with torch.no_grad():
                flux = observer(emulator(labels), torch.tensor([vbroad]))
                level = torch.full((1, len(instrument.arms)), snr)
                observed, sigma, mask, _ = noise(flux, generator, level)
            _write(folder / f"{name}.fits", name, doppler(instrument.wavelength, rv), observed[0].numpy(),
                   sigma[0].numpy(), (mask[0].numpy() | ~observer.inside), snr)  # fmt: skip
            table.writerow([f"{name}.fits", teff, logg, fe_h, vmic, alpha, alpha, a_li, vbroad, rv, snr])


def _write(
    path: Path,
    name: str,
    wavelength: np.ndarray,
    flux: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray,
    snr: float,
) -> None:
    """The layout of a 4MOST level-1 single spectrum: one row of vectors, in erg / (s cm2 Angstrom)."""
    unit, scale, n = "erg/(s*cm^2*Angstrom)", 3e-15, wavelength.size
    flux, sigma = np.where(mask, 0.0, flux) * scale, np.where(mask, 1.0, sigma) * scale
    columns = [
        fits.Column("WAVE", f"{n}D", unit="Angstrom", array=wavelength[None]),
        fits.Column("FLUX", f"{n}E", unit=unit, array=flux[None].astype(np.float32)),
        fits.Column("ERR_FLUX", f"{n}E", unit=unit, array=sigma[None].astype(np.float32)),
        fits.Column("QUAL", f"{n}J", array=mask[None].astype(np.int32), null=-1),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="PHASE3SPECTRUM")
    utypes = ("SpectralAxis.Value", "FluxAxis.Value", "FluxAxis.Accuracy.StatError", "FluxAxis.Quality")
    ucds = ("em.wl;obs.atmos", "phot.flux.density;em.wl;meta.main", "stat.error;phot.flux.density;meta.main",
            "meta.code.qual")  # fmt: skip
    for i, (utype, ucd) in enumerate(zip(utypes, ucds, strict=True), start=1):
        table.header[f"TUTYP{i}"] = f"Spectrum.Data.{utype}"
        table.header[f"TUCD{i}"] = ucd
    table.header["NELEM"] = n
    table.header["FIB_ROOT"] = (3, "1:LRSA 2:LRSB 3:HRS")
    primary = fits.PrimaryHDU()
    primary.header.update({"ORIGIN": "specinn", "INSTRUME": "QMOST", "OBJECT": name, "SPECSYS": "HELIOCEN",
                           "PRODCATG": "SCIENCE.SPECTRUM", "CONTNORM": False, "SPEC_RES": 20000.0,
                           "SNR": (snr, "per Angstrom, as simulated")})  # fmt: skip
    primary.header["COMMENT"] = "Simulated by specinn (tools/make_examples.py); not an observation."
    fits.HDUList([primary, table]).writeto(path, overwrite=True, output_verify="exception")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(specinn.examples.__file__).parent)
