"""``specinn plot``: one spectrum as read, as prepared, and with the model spectrum of its MAP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specinn.cli._options import (
    Format,
    Instrument,
    MediumOption,
    Model,
    Overwrite,
    ResolvingPower,
    Synthesizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from specinn.spectra import SpectrumBatch

SUFFIXES = (".png", ".pdf", ".svg")

EXAMPLES = (
    "specinn plot star.fits                       # writes star.png",
    "specinn plot star.fits -i harps -o star.pdf",
    "specinn plot night.fits --star 12 -o 12.svg  # of a file of many spectra",
)


def plot(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of spectra.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=".png, .pdf or .svg; else named after the spectrum."
        ),
    ] = None,
    star: Annotated[
        str, typer.Option(metavar="ID|N", help="In a file of many spectra: id, or number from 0.")
    ] = "0",
    instrument: Instrument = "4most-hr",
    model: Model = None,
    synthesizer: Synthesizer = "emulator",
    format: Format = "auto",
    rv: Annotated[str | None, typer.Option(metavar="KM/S|auto", help="Radial velocity.")] = None,
    medium: MediumOption = None,
    resolving_power: ResolvingPower = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a spectrum as read, and as the network sees it with the model spectrum of the MAP.

    Where there is no result, the figure shows what there is and says why.
    """
    from specinn import plotting
    from specinn.cli._console import echo, note, plugins_of
    from specinn.files import check_not_input, check_output, replacing
    from specinn.inference.options import RunOptions
    from specinn.inference.run import check_given, prepare
    from specinn.resimulation import figures
    from specinn.resimulation.spectrum import follow
    from specinn.spectra.readers import read

    options = RunOptions(
        instrument=instrument,
        model=model,
        rv=rv,
        medium=medium,
        resolving_power=resolving_power,
        format=format,
    )
    plugins = plugins_of(ctx)
    check_given([file], format, plugins)
    path = Path(f"{file.stem}.png") if output is None else output
    check_output(path, SUFFIXES, overwrite=overwrite)
    check_not_input(path, [file])
    chosen = _choose(read(file, plugins, format, options.medium), star, file)
    as_read, resimulated = follow(prepare(plugins, options), chosen, plugins, synthesizer=synthesizer)
    kind = path.suffix.lower().lstrip(".")
    with plotting.style(), replacing(path) as temporary:
        plotting.save_as(figures.spectrum(as_read, resimulated), temporary, kind)
    if resimulated.note:
        note(resimulated.note)
    echo(path)


def _choose(batches: Iterable[SpectrumBatch], star: str, file: Path) -> SpectrumBatch:
    """The spectrum with this id, else with this number, as a batch."""
    from specinn.errors import ReadError

    first = 0
    by_number = None
    for batch in batches:
        ids = [str(name) for name in batch.meta["id"]]
        if star in ids:
            return batch[ids.index(star)]
        if star.isdigit() and first <= int(star) < first + len(batch):
            by_number = batch[int(star) - first]
        first += len(batch)
    if by_number is None:
        raise ReadError(f"{file} has no spectrum {star!r}: expected an id, or a number from 0 to {first - 1}")
    return by_number
