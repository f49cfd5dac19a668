"""``specinn resimulate``: model spectra of catalogued stars over the observed ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specinn.cli._options import (
    AsJson,
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

if TYPE_CHECKING:
    from specinn.report.resimulation import Outcome

_SHOWN = 20  # stars on the terminal


EXAMPLES = (
    "specinn resimulate stars.fits -o resimulation",
    "specinn resimulate stars.fits spectra/*.fits --samples samples.h5 --save-spectra",
)


def resimulate(
    ctx: typer.Context,
    catalogue: Catalogue,
    files: Spectra = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the table and the figures.")
    ] = Path("resimulation"),
    synthesizer: Synthesizer = "emulator",
    samples: SamplesFile = None,
    draws: Annotated[
        int, typer.Option(metavar="N", help="Posterior samples that make the bands.", min=0)
    ] = 300,
    model: Model = None,
    resolving_power: ResolvingPower = None,
    format: Format = "auto",
    figures: Annotated[int, typer.Option(metavar="N", help="Draw figures for at most N stars.", min=0)] = 24,
    save_spectra: Annotated[
        bool, typer.Option("--save-spectra", help="Write spectra and bands to DIR/spectra.h5.")
    ] = False,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw the model spectra of inferred labels over the observed spectra.

    DIR gets stars.ecsv, with the differences of each star, and figures (PDF and PNG): whole arms and windows
    around lines of each element, with 68 and 95 % bands from posterior samples; several stars side by side;
    the mean difference by wavelength. A star that fails has a row that says why.
    """
    import specinn
    from specinn import catalogue as tables
    from specinn.cli._console import bar, echo, plugins_of, print_json
    from specinn.inference.run import check_given
    from specinn.report import resimulation as work
    from specinn.resimulation.simulator import Resimulator

    work.check(output, overwrite=overwrite)
    plugins = plugins_of(ctx)
    check_given(files or (), format, plugins)
    table = tables.read(catalogue)
    simulator = Resimulator(
        table, plugins=plugins, model=model, synthesizer=synthesizer, samples=samples, draws=draws,
        resolving_power=resolving_power, device=device, respond=figures > 0,
    )  # fmt: skip
    n, estimator = len(table), simulator.estimator
    if n > figures > 0 and not files:
        print(
            f"specinn: figures are drawn for the first {figures} of {n} stars; see --figures", file=sys.stderr
        )
    meta = {
        "specinn": specinn.__version__, "model": simulator.model.name, "sha256": simulator.model.sha256(),
        "catalogue": catalogue.name, "synthesizer": synthesizer, "draws": draws,
    }  # fmt: skip
    with bar("stars") as progress:
        outcome = work.write(
            simulator(files, format=format), output, estimator.instrument, estimator.used_pixels, meta,
            drawn=figures, save_spectra=save_spectra, overwrite=overwrite,
            report=_report,
            progress=lambda done: progress(done, max(n, done)),
        )  # fmt: skip
    if as_json:
        print_json({"meta": meta, "stars": outcome.rows, "overall": outcome.total})
    else:
        _show(outcome)
        echo(output)
    if outcome.interrupted:
        print("specinn: stopped; what was done by then has been written", file=sys.stderr)
        raise typer.Exit(130)
    if outcome.failed == len(outcome.rows):
        print("specinn: no star could be resimulated", file=sys.stderr)
        raise typer.Exit(1)


def _report(name: str, message: str) -> None:
    from specinn.cli._console import note

    note(message if name in message else f"{name}: {message}")


def _show(outcome: Outcome) -> None:
    """A line for each star and one for all of them."""
    import shutil

    from rich.console import Console
    from rich.table import Table

    from specinn.texts import shown

    width = max(100, shutil.get_terminal_size((100, 24)).columns)
    console = Console(highlight=False, markup=False, soft_wrap=True, width=width)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    heads = ("mean |O-M| %", "(used)", "mean O-M %", "(used)", "noise %", "chi2 (used)")
    columns = ("mean_abs", "mean_abs_used", "mean", "mean_used", "noise", "chi2_used")
    for head in ("", "pixels", *heads):
        table.add_column(head, justify="right" if head else "left")
    done = [row for row in outcome.rows if "mean" in row]
    for row in [*done[:_SHOWN], {**outcome.total, "id": f"all {len(done)}"}]:
        cells = (f"{row[name]:.2f}" if row.get(name) is not None else "-" for name in columns)
        table.add_row(shown(str(row["id"])), f"{row['n_pixels']:.0f}", *cells)
    console.print(table)
    without = f", {outcome.failed} without a model spectrum" if outcome.failed else ""
    more = f" ({len(done) - _SHOWN} more in the table)" if len(done) > _SHOWN else ""
    console.print(
        f"O-M: observed minus model flux in per cent of the continuum; {len(done)} stars{more}{without}"
    )
