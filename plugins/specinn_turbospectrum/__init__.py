"""Turbospectrum: the code as a synthesizer, and grids of spectra as it and its drivers write them."""

from __future__ import annotations

from specinn.plugins import Record, hookimpl


@hookimpl
def specinn_grid_loaders() -> list[Record]:
    package = "specinn_turbospectrum"
    return [
        Record(
            name="specinn",
            summary="specinn's own HDF5 layout, as specinn grid import writes it",
            factory=f"{package}.own:SpecinnGrid",
        ),
        Record(
            name="turbospectrum-library",
            summary="HDF5 shards of a Turbospectrum library: one file, or a folder of them",
            factory=f"{package}.library:TurbospectrumLibrary",
        ),
        Record(
            name="tsfitpy",
            summary="folder of TSFitPy's generate_synthetic_spectra (spectra_parameters.csv and .spec files)",
            factory=f"{package}.tsfitpy:TSFitPyFolder",
        ),
        Record(
            name="turbospectrum-raw",
            summary="folder of .spec files as bsyn_lu writes them, with labels in a .csv",
            factory=f"{package}.raw:RawTurbospectrum",
        ),
    ]


@hookimpl
def specinn_synthesizers() -> list[Record]:
    return [
        Record(
            name="turbospectrum",
            summary="Turbospectrum 2020 with MARCS models, seconds per spectrum (specinn synthesis setup)",
            factory="specinn_turbospectrum.synthesizer:Turbospectrum",
        )
    ]
