"""Instruments and the readers of their files. Only records here: readers are imported when first used."""

from __future__ import annotations

from pathlib import Path

from specinn.plugins.hookspecs import InstrumentRecord, ReaderRecord, hookimpl

_TOML = Path(__file__).parent / "spectrographs"

INSTRUMENTS = {
    "4most-hr": "4MOST high-resolution spectrograph, three arms, R 20000",
    "uves": "UVES at the VLT, R 40000 to 110000",
    "narval": "NARVAL and its twin ESPaDOnS, R 65000 to 80000",
    "foces": "FOCES at Calar Alto and Wendelstein, R 40600 or 65000",
}

# name: (priority, class, summary); of two that know a file, the one of higher priority reads it
READERS = {
    "4most-multi": (90, "qmost:MultiSpectrum", "4MOST level 1, one row a fibre, FITS table"),
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
