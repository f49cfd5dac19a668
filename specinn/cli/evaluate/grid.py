"""``specinn evaluate grid``: how good a model is on held-out grid spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._console import bar, echo
from specinn.cli._options import AsJson, Device, ModelName, Overwrite, Samples, Seed, Split
from specinn.cli._tables import columns, decimals, figure
from specinn.cli.evaluate._task import AsObserved, GridFiles, Output, Task

if TYPE_CHECKING:
    from specinn.evaluation.comparison import Comparison

EXAMPLES = (
    "specinn evaluate grid 4most-hr grid.h5 -o report",
    "specinn evaluate grid 4most-hr grid.h5 --snr 250 --snr 50 -o metrics.ecsv",
    "specinn evaluate grid 4most-hr grid.h5 --arms red",
)


def grid(
    ctx: typer.Context,
    model: ModelName,
    grid: GridFiles,
    output: Output = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SNR", help="Per Angstrom; repeatable.  [default: 250; in a folder the paper's 19]"
        ),
    ] = None,
    split: Split = "test",
    as_observed: AsObserved = False,
    disturbed: Annotated[
        bool,
        typer.Option(
            "--disturbed",
            help="Add gaps and errors of velocity, resolution and continuum as in the training.",
        ),
    ] = False,
    arms: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Only these arms: the others are lost.  [default: all]")
    ] = "",
    samples: Samples = 4096,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare what a model infers from held-out grid spectra with the truth.

    They are observed with the model's instrument, rotation and noise.
    """
    from specinn.evaluation.comparison import compare
    from specinn.evaluation.ksoll2026 import PUBLISHED_LEVELS, PUBLISHED_SNR
    from specinn.grids import load

    task = Task.begin(
        ctx, model, output, device=device, samples=samples, seed=seed, overwrite=overwrite, as_json=as_json
    )
    spectra = load(grid, plugins=task.plugins)
    task.meta.update(grid=spectra.hash, models=len(spectra.split(split)), split=split)
    task.meta.update(observed=as_observed, disturbed=disturbed, arms=arms or "all")
    with bar("spectra") as progress:
        comparison = compare(
            task.estimator, spectra, snr=snr or (PUBLISHED_LEVELS if task.folder else [PUBLISHED_SNR]),
            split=split, n_samples=samples, seed=seed, plugins=task.plugins, with_ranks=task.folder,
            as_observed=as_observed, disturbed=disturbed, progress=progress,
            arms=[name.strip() for name in arms.split(",")] if arms else (),
        )  # fmt: skip
    _report(task, comparison)


def _report(task: Task, comparison: Comparison) -> None:
    """Write a table or a report of what was inferred, and print it."""
    from specinn.errors import ModelError
    from specinn.evaluation import tables
    from specinn.report.evaluation import folder as report

    rows = {"metrics": comparison.metrics()}
    if not any(row["n"] for row in rows["metrics"]):
        raise ModelError(
            "all samples of all stars lie outside the training bounds: the model does not suit the grid"
        )
    bounds, why = tables.limits(comparison, task.plugins)
    if bounds is not None:
        rows["information"] = tables.information(comparison, bounds)
    if task.path is not None and task.folder:
        with bar("figures") as progress:
            rows = report.write(
                comparison,
                task.path,
                task.meta,
                bounds=bounds,
                why_no_bounds=why,
                overwrite=task.overwrite,
                progress=progress,
            )
    else:
        task.write(tables.grid_table(rows["metrics"], task.meta))

    def display() -> None:
        shown = [tables.reference_level(comparison.snr)] if task.folder else list(comparison.snr)
        chosen = {name: [row for row in of if row["snr"] in shown] for name, of in rows.items()}
        _show_metrics(chosen["metrics"], task.meta["split"])
        _show_information(chosen.get("information", []), why)

    task.show(rows, display, report.PAGE if task.folder else "")


def _show_metrics(rows: Sequence[dict[str, Any]], split: str) -> None:
    """One table for each S/N and scope."""
    from rich.console import Console

    from specinn.posterior.display import with_unit

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for snr, scope in dict.fromkeys((row["snr"], row["scope"]) for row in rows):
        selected = [row for row in rows if (row["snr"], row["scope"]) == (snr, scope)]
        published = any(row["published_std"] is not None for row in selected)
        first = selected[0]
        notes = [f"{first['n']} stars", f"{100 * first['rejected_fraction']:.1f} % of samples rejected"]
        notes += [f"{first['failed']} without a posterior"] if first["failed"] else []
        notes += [f"{first['outside']} stars outside the training bounds"] if first["outside"] else []
        echo(f"S/N {snr:g} per Angstrom, {split} split, {scope}: {', '.join(notes)}")
        heads = [
            "mean",
            "std",
            "robust",
            "width",
            "NRMSE",
            "68 %",
            "95 %",
            *(["published"] if published else []),
        ]
        table = columns([""], heads)
        for row in selected:
            style = decimals(row["unit"], more=1)
            cells = [figure(row["mean_residual"], f"+{style}")]
            cells += [figure(row[key], style) for key in ("std", "robust_std", "posterior_std")]
            cells += [figure(row["nrmse"], ".3f"), *(figure(row[f"inside_{q}"], ".2f") for q in (68, 95))]
            cells += [figure(row["published_std"], ".3g")] if published else []
            table.add_row(with_unit(row["label"], row["unit"]), *cells)
        console.print(table)
        echo("")
    echo("mean, std, robust: of MAP minus truth; width: median standard deviation of the posteriors")
    echo("68 %, 95 %: fraction of truths within these intervals of the posterior")
    if any(row["published_std"] is not None for row in rows):
        echo("published: standard deviation of Ksoll et al. 2026 (A&A 708, A118) on their test set")


def _show_information(rows: Sequence[dict[str, Any]], why: str) -> None:
    """Errors over the Cramer-Rao bound, one table for each S/N."""
    from rich.console import Console

    from specinn.posterior.display import with_unit

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not rows:
        echo(f"no information limit: {why}")
        return
    scopes = list(dict.fromkeys(row["scope"] for row in rows))
    for snr in dict.fromkeys(row["snr"] for row in rows):
        echo(f"\nS/N {snr:g} per Angstrom, errors and the information limit of {scopes[-1]}, and ratios")
        table = columns([""], ["error", "bound", "ratio", *(f"ratio, {scope}" for scope in scopes[:-1])])
        for name in dict.fromkeys(row["label"] for row in rows):
            by_scope = {row["scope"]: row for row in rows if (row["snr"], row["label"]) == (snr, name)}
            last = by_scope[scopes[-1]]
            style = decimals(last["unit"], more=1)
            cells = [figure(last[key], style) for key in ("error", "bound")]
            cells += [figure(by_scope[scope]["ratio"], ".2f") for scope in (scopes[-1], *scopes[:-1])]
            table.add_row(with_unit(name, last["unit"]), *cells)
        console.print(table)
    echo("\nbound: median Cramer-Rao bound; error: median of |MAP - truth| over 0.6745")
    echo("ratio: median of |MAP - truth| / bound over 0.6745, 1 at the information limit")
