"""Instruments and the readers of their files. Only records here: readers are imported when first used."""

from __future__ import annotations

from pathlib import Path

from specinn.plugins import InstrumentRecord, ReaderRecord, hookimpl

_TOML = Path(__file__).parent / "spectrographs"

INSTRUMENTS = {
    "4most-hr": "4MOST high-resolution spectrograph, three arms, R 20000",
    "elodie": "ELODIE at the OHP 1.93 m, R 42000",
    "espadons": "ESPaDOnS at the CFHT, R 68000 or 80000",
    "espresso": "ESPRESSO at the VLT, R 70000, 140000 or 190000",
    "feros": "FEROS at La Silla, R 48000",
    "fies": "FIES at the Nordic Optical Telescope, R 25000, 46000 or 67000 by fibre",
    "foces": "FOCES at Calar Alto and Wendelstein, R 40600 or 65000",
    "giraffe": "FLAMES/GIRAFFE at the VLT, R 7000 to 30000 by setup",
    "harps": "HARPS at the ESO 3.6 m, R 115000",
    "harps-n": "HARPS-N at the TNG, R 115000",
    "hermes-galah": "HERMES at the AAT (GALAH), four arms, R 28000",
    "hermes-mercator": "HERMES at Mercator, R 85000",
    "hires": "HIRES at Keck, R 45000 with a slit of 0.86 arcsec",
    "mike": "MIKE at Magellan, R 25000 and 19000 with a slit of 1 arcsec",
    "narval": "NARVAL and its twin ESPaDOnS, R 65000 to 80000",
    "pepsi": "PEPSI at the LBT, R 50000, 130000 or 250000",
    "sophie": "SOPHIE at the OHP 1.93 m, R 40000 or 75000",
    "uves": "UVES at the VLT, R 40000 to 110000",
}

# name: (priority, class, summary); of two that know a file, the one of higher priority reads it
READERS = {
    "4most-multi": (90, "qmost:MultiSpectrum", "4MOST level 1, one row per fibre, FITS table"),
    "4most": (80, "qmost:SingleSpectrum", "4MOST level 1, one spectrum, FITS table"),
    "eso": (70, "eso:EsoTable", "ESO Science Data Product, FITS table (UVES, HARPS, FEROS, GIRAFFE)"),
    "fits-table": (
        60,
        "tables:FitsTable",
        "FITS table with columns of wavelength and flux (PolarBase and others)",
    ),
    "iraf-multispec": (
        55,
        "multispec:IrafMultispec",
        "IRAF multispec image: echelle orders with their dispersions in WAT2, merged (MAKEE, CarPy, ARCES)",
    ),
    "fits-image": (
        50,
        "images:FitsImage",
        "FITS image with a linear or logarithmic wavelength axis (IRAF, iSpec)",
    ),
    "libre-esprit": (40, "esprit:LibreEsprit", "Libre-ESpRIT .s text (NARVAL, ESPaDOnS)"),
    "text": (30, "text:ColumnText", "text or CSV: wavelength, flux and, if there is one, its error"),
    "specutils": (-100, "fallback:Specutils", "any other format that specutils.Spectrum.read knows"),
}


@hookimpl
def specinn_instruments() -> list[InstrumentRecord | ReaderRecord]:
    instruments = [
        InstrumentRecord(name=name, summary=summary, toml=_TOML / f"{name}.toml")
        for name, summary in INSTRUMENTS.items()
    ]
    readers = [
        ReaderRecord(name=name, summary=summary, factory=f"specinn_instruments.{factory}", priority=priority)
        for name, (priority, factory, summary) in READERS.items()
    ]
    return [*instruments, *readers]
