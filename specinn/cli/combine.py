"""``specinn combine``: several spectra of one star as one row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from astropy.table import Table

_ENOUGH = 50  # degrees of freedom, from which the scatter of spectra says how wide posteriors should be
_NARROW = 0.7  # chi-square per degree of freedom, below which it is said


def combine(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="Catalogues, or files of samples (--save-samples), but not both.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The catalogue: .fits, .ecsv, .parquet or .h5.")
    ],
    by: Annotated[
        str, typer.Option(metavar="COLUMN", help="Rows with the same value there are of one star.")
    ] = "id",
    common: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Part of the posteriors' variance that all spectra of a star share, and that does not "
            "average out: 0 to below 1.",
        ),
    ] = 0.0,
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="File of a model that is not installed; may be given again."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same catalogue.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Combine spectra of one star, of several nights or instruments: the product of their posteriors.

    The prior counts once. Rows with a bad flag take no part, single ones pass unchanged. Spectra that do not
    agree (chi-square, p below 0.001) are flagged. Catalogues know no correlations between labels, files of
    samples do.
    """
    from specinn import catalogue
    from specinn.cli.context import plugins_of
    from specinn.combine import combine as work
    from specinn.output import check_output

    check_output(output, catalogue.WRITERS, overwrite=overwrite)
    table = work(files, plugins_of(ctx), by=by, model_files=model or (), common=common, seed=seed)
    catalogue.write(table, output, overwrite=overwrite)
    for line in sentences(table, common):
        print(line)
    print(output)


def sentences(table: Table, common: float) -> list[str]:
    """What is to be said of a combination."""
    import numpy as np

    from specinn.flags import Flag

    several = np.asarray(table["n_epochs"]) > 1
    apart = (np.asarray(table["flags"]) & np.uint32(Flag.EPOCHS_DISAGREE)) != 0
    lines = [
        f"{len(table)} stars: {several.sum()} of several spectra, of which {apart.sum()} disagree; "
        f"{(table['n_epochs'] == 0).sum()} without a usable spectrum"
    ]
    agree = several & ~apart
    dof = int(table["dof"][agree].sum())
    scatter = float(np.sum(table["chi2"][agree])) / dof if dof else 1.0
    if dof >= _ENOUGH and scatter < _NARROW:
        share = 1.0 - scatter * (1.0 - common)
        lines.append(
            f"spectra of one star scatter less than posteriors are wide (chi-square {scatter:.2f} per degree "
            f"of freedom): errors that they share do not average out; --common {share:.2f} allows for that"
        )
    return lines
