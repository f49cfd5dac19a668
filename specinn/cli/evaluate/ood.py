"""``specinn evaluate ood``: whether a model flags what is unlike its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from specinn.cli._console import bar, echo
from specinn.cli._options import AsJson, Device, ModelName, Overwrite, Samples, Seed, Split
from specinn.cli._tables import columns, figure
from specinn.cli.evaluate._task import AsObserved, GridFiles, Task

EXAMPLES = (
    "specinn evaluate ood 4most-hr grid.h5 -o ood.ecsv",
    "specinn evaluate ood 4most-hr grid.h5 --snr 100 --json",
)


def ood(
    ctx: typer.Context,
    model: ModelName,
    grid: GridFiles,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE.ecsv", help="The table to write.")
    ] = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(metavar="SNR", help="Per Angstrom; repeatable.  [default: 50 and 250]"),
    ] = None,
    split: Split = "test",
    as_observed: AsObserved = False,
    samples: Samples = 4096,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make spectra unlike those of the training, and count those that are flagged.

    They are made from held-out grid spectra. Some kinds are merely degraded, and a model must survive them:
    for these the fraction of truths inside its intervals is given, too.
    """
    from specinn.evaluation.ood import ood_table
    from specinn.grids import load

    task = Task.begin(
        ctx, model, output, device=device, samples=samples, seed=seed, overwrite=overwrite, as_json=as_json,
        folders=False,
    )  # fmt: skip
    spectra = load(grid, plugins=task.plugins)
    task.meta.update(grid=spectra.hash, models=len(spectra.split(split)), split=split, observed=as_observed)
    task.meta.update(disturbed=False)
    with bar("spectra") as progress:
        table = ood_table(
            task.estimator, spectra, task.plugins, snr or (50.0, 250.0), n_samples=samples, split=split,
            seed=seed, as_observed=as_observed, progress=progress,
        )  # fmt: skip
    table.meta |= task.meta
    task.write(table)
    rows = [{name: _plain(row[name]) for name in table.colnames} for row in table]
    task.show({"ood": rows}, lambda: _show(rows, split))


def _show(rows: Sequence[dict[str, Any]], split: str) -> None:
    """One table for each S/N."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for snr in dict.fromkeys(row["snr"] for row in rows):
        echo(f"S/N {snr:g} per Angstrom, {split} split")
        table = columns([""], ["bad", "ood", "score", "68 %", "95 %"])
        for row in (row for row in rows if row["snr"] == snr):
            fractions = [figure(row[name], ".3f") for name in ("bad", "ood")]
            inside = [figure(row[name], ".2f") for name in ("score", "inside_68", "inside_95")]
            table.add_row(row["kind"], *fractions, *inside)
        console.print(table)
    echo("\nbad: flagged; ood: flagged out_of_distribution; 68 %, 95 %: truths inside these intervals")


def _plain(value: Any) -> Any:
    """A cell of a table for JSON: None where it is masked."""
    return value.tolist() if hasattr(value, "tolist") else value
