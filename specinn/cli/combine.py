"""``specinn combine``: several spectra of one star as one row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specinn.cli._options import AsJson, Overwrite, Seed

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table

_ENOUGH = 50  # degrees of freedom, from which the scatter of spectra says how wide posteriors should be
_NARROW = 0.7  # chi-square per degree of freedom, below which the user is warned


EXAMPLES = (
    "specinn combine night1.fits night2.fits -o stars.fits",
    "specinn combine uves.fits narval.fits --by object --common 0.3 -o stars.fits",
    "specinn combine night1.fits night2.fits --radius 1 -o stars.vot",
)


def combine(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="Catalogues, or files of samples; not both."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Catalogue: .fits, .ecsv, .vot, .csv, .parquet or .h5."
        ),
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="COLUMN|FILE",
            help="Rows with the same value there are of one star; or a table with columns path and star.",
        ),
    ] = "id",
    radius: Annotated[
        float | None, typer.Option(metavar="ARCSEC", help="Rows within this distance are of one star.")
    ] = None,
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
        typer.Option("--model", "-m", metavar="FILE", help="Model that is not installed; repeatable."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Combine spectra of one star into one row.

    The result is the product of the posteriors, with the prior counted once; spectra may come from several
    nights or instruments. Rows with a bad flag are left out, and single spectra pass unchanged. Spectra that
    disagree (chi-square, p below 0.001) are flagged. Files of samples preserve the correlations between
    labels, catalogues do not.
    """
    from specinn import catalogue
    from specinn.catalogue.combine import combine as work
    from specinn.catalogue.formats import WRITERS
    from specinn.cli._console import echo, plugins_of, print_json
    from specinn.files import check_output
    from specinn.texts import plural

    check_output(output, WRITERS, overwrite=overwrite)
    table = work(
        files, plugins_of(ctx), by=by, radius=radius, model_files=model or (), common=common, seed=seed
    )
    catalogue.write(table, output, overwrite=overwrite)
    numbers = counts(table)
    advice = shared_errors(table, common)
    if as_json:
        print_json({"catalogue": output, **numbers, "advice": advice})
        return
    echo(
        plural(numbers["stars"], "star")
        + ": {of_several_spectra} of several spectra, of which {disagree} disagree; "
        "{without_spectrum} without a usable spectrum".format(**numbers)
    )
    for line in (advice, output):
        if line:
            echo(line)


def _several(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """``(n_stars,)`` whether they have several spectra, and whether these disagree."""
    import numpy as np

    from specinn.flags import Flag

    apart = (np.asarray(table["flags"]) & np.uint32(Flag.EPOCHS_DISAGREE)) != 0
    return np.asarray(table["n_epochs"]) > 1, apart


def counts(table: Table) -> dict[str, int]:
    """How many stars of a combination are of each kind."""
    several, apart = _several(table)
    without = int((table["n_epochs"] == 0).sum())
    return {
        "stars": len(table),
        "of_several_spectra": int(several.sum()),
        "disagree": int(apart.sum()),
        "without_spectrum": without,
    }


def shared_errors(table: Table, common: float) -> str | None:
    """A sentence where spectra of one star scatter too little for their posteriors, else None."""
    several, apart = _several(table)
    agree = several & ~apart
    dof = int(table["dof"][agree].sum())
    scatter = float(table["chi2"][agree].sum()) / dof if dof else 1.0
    if dof < _ENOUGH or scatter >= _NARROW:
        return None
    share = min(0.99, 1.0 - scatter * (1.0 - common))  # 1 would mean that further spectra say nothing
    return (
        f"spectra of one star scatter less than their posteriors suggest (chi-square {scatter:.2f} per "
        f"degree of freedom): errors that they share do not average out; --common {share:.2f} allows for them"
    )
