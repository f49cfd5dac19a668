"""``specinn evaluate robustness``: how much a model's answers depend on continuum, velocity and S/N."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from specinn.cli._console import bar, echo
from specinn.cli._options import AsJson, Device, ModelName, Overwrite, Samples, Seed
from specinn.cli._tables import columns, figure
from specinn.cli.evaluate._stars import Rows, fail_if_nothing_was_inferred, role, write_all
from specinn.cli.evaluate._task import Output, StarsFile, Task, wide_console

if TYPE_CHECKING:
    from specinn.labels import LabelSet

EXAMPLES = (
    "specinn evaluate robustness 4most-hr benchmarks.csv -o robustness",
    "specinn evaluate robustness 4most-hr benchmarks.csv --json",
)


def robustness(
    ctx: typer.Context,
    model: ModelName,
    stars: StarsFile,
    output: Output = None,
    samples: Samples = 4096,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Infer every benchmark star from 60 variants of its spectrum, and compare.

    The variants combine three shapes of the continuum, five velocities and four S/N.
    """
    from specinn.evaluation import robustness as work
    from specinn.evaluation import star_figures
    from specinn.evaluation.stars import read_benchmarks

    task = Task.begin(
        ctx, model, output, device=device, samples=samples, seed=seed, overwrite=overwrite, as_json=as_json
    )
    meta, labels = task.meta, task.estimator.labels
    meta["stars"] = stars.name
    table = read_benchmarks(stars, labels)
    with bar("groups of spectra") as progress:
        rows = work.robustness(
            task.estimator, table, n_samples=samples, seed=seed, plugins=task.plugins, progress=progress
        )
    summary = work.robustness_summary(rows)
    tables = {
        "robustness": work.robustness_table(rows, labels, meta),
        "summary": work.summary_table(summary, meta),
    }
    write_all(task, tables, {"robustness": lambda: star_figures.robustness(rows, labels)})
    task.show({"robustness": rows, "summary": summary}, lambda: _show(rows, labels, summary))
    fail_if_nothing_was_inferred(rows)


def _show(rows: Rows, labels: LabelSet, summary: Rows) -> None:
    """A line for each star, and one for each comparison in each scope."""
    from specinn.evaluation.robustness import RV, SCOPES
    from specinn.evaluation.variants import LEVELS
    from specinn.labels import with_derived_labels
    from specinn.texts import shown

    console = wide_console()
    echo("velocity, largest |found - expected| in km/s of all shapes and shifts, by S/N per Angstrom")
    table = columns(["star", ""], [f"{snr:g}" for snr in LEVELS], ["flagged bad"])
    for star, file in dict.fromkeys((row["star"], row["file"]) for row in rows):
        of_star = [row for row in rows if (row["star"], row["file"]) == (star, file)]
        cells = []
        for snr in LEVELS:
            off = [row["rv_difference"] for row in of_star if row["snr"] == snr]
            cells.append(figure(None if None in off else max(map(abs, off)), ".2f"))
        bad = sum(row["flag_bad"] for row in of_star)
        table.add_row(shown(star), role(of_star[0]), *cells, f"{bad} of {len(of_star)}")
    console.print(table)
    said = {row["star"]: row["message"] for row in reversed(rows) if row["message"]}  # the first of each
    for star in reversed(said):
        echo(f"{star}: {said[star]}")
    names = [
        x.name for x in with_derived_labels(labels) if any(f"{x.name}_literature" in row for row in rows)
    ]
    for scope, words in SCOPES.items():
        lines: dict[tuple[str, str, float], list[str]] = {}
        for row in summary:
            if row["scope"] == scope and row["label"] in (RV, *names):
                cell = " ".join(figure(row[key], ".2f") for key in ("median", "maximum"))
                line = (row["factor"], _comparison(row), row["snr"])
                lines.setdefault(line, []).append(cell)
        echo(f"\n{words}: median and maximum change; rv in km/s, others in half widths")
        table = columns(["", "S/N"], ["rv", *names])
        before = ""
        for (factor, comparison, snr), cells in lines.items():
            if before and factor != before:
                table.add_row()
            before = factor
            table.add_row(comparison, f"{snr:g}", *cells)
        console.print(table)
    lost = dict.fromkeys(star for row in summary for star in row["failed"])
    if lost:
        echo(f"not counted where they have no values: {', '.join(lost)}")


def _comparison(row: Mapping[str, Any]) -> str:
    if row["factor"] == "velocity":
        return f"shift of {row['variant']}"
    return row["variant"] if row["factor"] == "all" else f"{row['variant']} - {row['against']}"
