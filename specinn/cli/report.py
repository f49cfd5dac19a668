"""``specinn report``: a catalogue as one page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specinn.cli._options import (
    Catalogue,
    Device,
    Format,
    Model,
    Overwrite,
    ResolvingPower,
    SamplesFile,
    Spectra,
    Synthesizer,
)

EXAMPLES = (
    "specinn report stars.fits -o stars.html",
    "specinn report stars.fits spectra/*.fits --stars 'alf Boo' --stars Sun",
    "specinn report stars.fits --most 0    # diagrams and table only",
)


def report(
    ctx: typer.Context,
    catalogue: Catalogue,
    files: Spectra = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page.")] = Path(
        "report.html"
    ),
    spectra: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Same as SPECTRA; repeatable.")
    ] = None,
    samples: SamplesFile = None,
    stars: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Star whose spectrum is shown; repeatable.")
    ] = None,
    most: Annotated[
        int, typer.Option(metavar="N", help="Without --stars: at most so many spectra.", min=0)
    ] = 24,
    synthesizer: Synthesizer = "emulator",
    model: Model = None,
    resolving_power: ResolvingPower = None,
    format: Format = "auto",
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Make one HTML page from a catalogue.

    It shows diagrams, histograms, a table, and the spectra of some stars (flagged ones and a diverse choice)
    with the model at the MAP, bands from posterior samples and a corner plot; where that is not possible, it
    says why. The page is self-contained and works for ten thousand stars.
    """
    from specinn import catalogue as tables
    from specinn.cli._console import bar, echo, note, plugins_of
    from specinn.errors import SpecinnError
    from specinn.inference.run import check_given
    from specinn.report.catalogue import page
    from specinn.texts import plural

    page.check(output, overwrite=overwrite)
    table = tables.read(catalogue)
    rows = page.choose(table, stars or (), most)
    paths = [*(spectra or []), *(files or [])]
    asked = bool(paths or samples or stars or model or resolving_power) or device != "cpu"
    plugins = plugins_of(ctx)
    plugins.record("synthesizer", synthesizer)
    check_given(paths, format, plugins)
    opened: dict[int, Any] = {}
    pixels: dict[str, Any] = {}
    why = "" if most or stars else "No spectra were asked for."
    if rows:
        from specinn.report.catalogue.embed import arms, open_stars
        from specinn.resimulation.simulator import Resimulator

        try:
            simulator = Resimulator(
                table, plugins=plugins, model=model, synthesizer=synthesizer, samples=samples,
                resolving_power=resolving_power, device=device,
            )  # fmt: skip
            with bar("spectra") as progress:
                opened = open_stars(simulator, rows, paths or None, format=format, progress=progress)
            pixels = arms(simulator)
        except SpecinnError as error:
            if asked:
                raise
            why = f"No spectra are shown: {error}."
    page.write(table, output, catalogue.name, opened=opened, pixels=pixels, why=why, overwrite=overwrite)
    without = [star["why"] for star in opened.values() if "why" in star]
    for reason in dict.fromkeys([*([why] if why and most else []), *without]):
        note(reason)
    echo(f"{plural(len(table), 'star')}, {len(opened) - len(without)} with spectra: {output}")
