"""Options that several commands have, and the names that a shell completes for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

Names = list[tuple[str, str]]  # with what each means


def offered(kind: str) -> Callable[[typer.Context], Names]:
    """Complete the names of what plugins offer of one kind."""

    def complete(ctx: typer.Context) -> Names:
        from specinn.cli._console import plugins_of

        offers = plugins_of(ctx, report=False).offers(kind)
        return [(offer.record.name, offer.record.summary) for offer in offers]

    return complete


def _models(ctx: typer.Context) -> Names:
    from specinn import models
    from specinn.cli._console import plugins_of

    available = models.installed(plugins_of(ctx, report=False))
    return [(model.name, f"{model.estimator}, {model.instrument}") for model in available]


def labels(ctx: typer.Context) -> Names:
    """Complete the labels of the installed models."""
    from specinn import models
    from specinn.cli._console import plugins_of

    available = models.installed(plugins_of(ctx, report=False))
    return list({label["name"]: label["unit"] for model in available for label in model.labels}.items())


def flags() -> Names:
    """Complete the flags of a catalogue."""
    from specinn.flags import FLAGS

    return [(str(info.flag.name).lower(), info.meaning) for info in FLAGS]


def splits() -> list[str]:
    from specinn.grids.grid import SPLITS

    return [*SPLITS, "all"]


def devices() -> Names:
    return [("cpu", "the processor"), ("cuda", "the first GPU"), ("cuda:0", "the GPU of this number")]


_AGAIN = "; repeatable"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Catalogue = Annotated[
    Path, typer.Argument(metavar="CATALOGUE", help="Written by specinn run, in any format.")
]
Cluster = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Run in jobs of a batch system.")]
Corrections = Annotated[
    list[str] | None, typer.Option(metavar="FILE.toml", help=f"Apply this correction{_AGAIN}.")
]
DegradeSNR = Annotated[
    float | None, typer.Option(metavar="SNR", help="Add noise down to this S/N per Angstrom.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, or cuda:N.", autocompletion=devices)]
Format = Annotated[
    str,
    typer.Option(metavar="NAME", help="Of the files.", autocompletion=offered("reader")),
]
Grids = Annotated[list[Path], typer.Option(metavar="GRID.h5", help=f"Grid of synthetic spectra{_AGAIN}.")]
Instrument = Annotated[
    str,
    typer.Option(
        "--instrument",
        "-i",
        metavar="NAME",
        help="Name or TOML file.",
        autocompletion=offered("instrument"),
    ),
]
MediumOption = Annotated[
    str | None,
    typer.Option("--medium", metavar="air|vacuum", help="Of the wavelengths, overriding the files."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Name or file of a model.", autocompletion=_models),
]
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name or file of a model.", autocompletion=_models)
]
ModelNameOrNone = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="Name or file; prints its card.", autocompletion=_models),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
Prior = Annotated[
    Path | None,
    typer.Option(metavar="TABLE", help="What is known of the stars: adds informed values."),
]
PriorRadius = Annotated[float, typer.Option(metavar="ARCSEC", help="Of a match by position.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress.")]
ResolvingPower = Annotated[
    float | None, typer.Option(metavar="R", help="Of the spectra, overriding the files.")
]
Samples = Annotated[int, typer.Option(metavar="N", help="Of each posterior.", min=2)]
SamplesFile = Annotated[
    Path | None, typer.Option(metavar="FILE.h5", help="From specinn run --save-samples; else drawn again.")
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Use the Dask cluster of this scheduler.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Same seed, same result.", min=0)]
Spectra = Annotated[
    list[Path] | None,
    typer.Argument(metavar="SPECTRA", help="Files; by default those of the catalogue."),
]
Split = Annotated[str, typer.Option(metavar="NAME", help="Part of the grid, or all.", autocompletion=splits)]
Synthesizer = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Code that computes model spectra.", autocompletion=offered("synthesizer")
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", help="Processes here.", min=1)]
