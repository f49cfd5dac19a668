"""``specinn evaluate --stars``: how good a model is on benchmark stars, and how robust."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specinn.cli._console import bar
from specinn.cli._tables import columns, decimals, figure

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure
    from rich.console import Console

    from specinn.cli.evaluate.grid import Task
    from specinn.evaluation.stars import Benchmark
    from specinn.labels import LabelSet
    from specinn.plugins.interfaces import Correction, Estimator

Rows = Sequence[Mapping[str, Any]]
_WIDTH = 100


def on_stars(
    task: Task, estimator: Estimator, stars: Sequence[Benchmark], corrections: Sequence[Correction]
) -> None:
    """Infer benchmark stars as ``meta`` says, write table and figure and print them."""
    from specinn.evaluation import star_figures as report
    from specinn.evaluation import stars as work

    meta, labels = task.meta, estimator.labels
    with bar("spectra") as progress:
        rows = work.star_metrics(
            estimator, stars, snr=meta["snr"], seeds=meta["seeds"], n_samples=meta["samples"],
            seed=meta["seed"], corrections=corrections, plugins=task.plugins, progress=progress,
        )  # fmt: skip
    summary = work.star_summary(rows)
    table = work.star_table(rows, labels, {**meta, "summary": summary})
    drawn = {"stars": lambda: report.against_literature(rows, labels)} if summary else {}
    _write(task, {"stars": table}, drawn)
    task.show({"stars": rows, "summary": summary}, lambda: _show_stars(rows, labels, summary))
    _fail_if_nothing_was_inferred(rows)


def on_stars_in_many_ways(task: Task, estimator: Estimator, stars: Sequence[Benchmark]) -> None:
    """Infer every variant of benchmark stars, write tables and figure and print them."""
    from specinn.evaluation import robustness as work
    from specinn.evaluation import star_figures as report

    meta, labels = task.meta, estimator.labels
    with bar("groups of spectra") as progress:
        rows = work.robustness(
            estimator, stars, n_samples=meta["samples"], seed=meta["seed"], plugins=task.plugins,
            progress=progress,
        )  # fmt: skip
    summary = work.robustness_summary(rows)
    tables = {
        "robustness": work.robustness_table(rows, labels, meta),
        "summary": work.summary_table(summary, meta),
    }
    _write(task, tables, {"robustness": lambda: report.robustness(rows, labels)})
    found = {"robustness": rows, "summary": summary}
    task.show(found, lambda: _show_robustness(rows, labels, summary))
    _fail_if_nothing_was_inferred(rows)


def _write(task: Task, tables: Mapping[str, Table], figures: Mapping[str, Callable[[], Figure]]) -> None:
    """A folder of all, or the first table as a file."""
    from specinn.report.reference_stars import write

    if task.path is not None and task.folder:
        write(task.path, tables, figures, overwrite=task.overwrite)
    else:
        task.write(next(iter(tables.values())))


def _fail_if_nothing_was_inferred(rows: Rows) -> None:
    from specinn.errors import ModelError

    if all(row["flag_bad"] for row in rows):
        reason = next((row["message"] for row in rows if row["message"]), "see the flags")
        raise ModelError(f"none of the stars gave values: {reason}")


def _role(row: Mapping[str, Any]) -> str:
    return row["role"] if row["role"] == "calibrator" or row["in_range"] else "out of range"


def _show_stars(rows: Rows, labels: LabelSet, summary: Mapping[str, Any]) -> None:
    """A line for each star and label that has a literature value, and the summary."""
    from itertools import zip_longest

    from specinn.flags import names
    from specinn.labels import with_derived_labels
    from specinn.posterior.display import with_unit

    labels = with_derived_labels(labels)
    corrected = any("raw" in found for found in summary.values())
    console = _console()
    # by heading, the column of the rows and whether it has a sign
    shown = {"inferred": ("", ""), "std": ("_std", ""), "literature": ("_literature", ""),
             "difference": ("_difference", "+")}  # fmt: skip
    if corrected:
        shown = {"raw": ("_raw", ""), "corrected": ("", ""), "std": ("_std", ""),
                 "literature": ("_literature", ""), "raw diff": ("_raw_difference", "+"),
                 "diff": ("_difference", "+")}  # fmt: skip
    table = columns(["star", ""], list(shown), ["flags"])
    for row in rows:
        cells = [
            [
                label.name,
                *(figure(row[label.name + end], sign + decimals(label.unit)) for end, sign in shown.values()),
            ]
            for label in labels
            if f"{label.name}_literature" in row
        ]
        empty = [""] * (1 + len(shown))
        for left, middle, flag in zip_longest([row["star"], _role(row)], cells, names(row["flags"])):
            table.add_row(left or "", *(middle or empty), flag or "")
        table.add_row()
    console.print(table)
    for row in rows:
        if row["message"]:
            console.print(f"{row['star']}: {row['message']}")
    console.print("\nabsolute differences of the validation stars in range; calibrators are not counted")
    raw = ["raw median", "raw maximum"] if corrected else []
    table = columns([""], ["stars", *raw, "median", "maximum"], ["of"])
    for name, found in summary.items():
        style = decimals(labels[name].unit)
        of = [found["raw"][key] for key in ("median", "maximum")] if corrected else []
        figures = (figure(value, style) for value in (*of, found["median"], found["maximum"]))
        table.add_row(with_unit(name, labels[name].unit), str(found["n"]), *figures, found["worst"] or "-")
    console.print(table)
    failed = list(dict.fromkeys(star for found in summary.values() for star in found["failed"]))
    if failed:
        console.print(f"without values, and so not counted: {', '.join(failed)}")


def _console() -> Console:
    """Wide enough for every table: a terminal that is narrower breaks lines, but figures stay whole."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, _WIDTH)
    return console


def _show_robustness(rows: Rows, labels: LabelSet, summary: Rows) -> None:
    """A line for each star, and one for each comparison in each scope."""
    from specinn.evaluation.robustness import RV, SCOPES
    from specinn.evaluation.variants import LEVELS
    from specinn.labels import with_derived_labels

    console = _console()
    console.print(
        "velocity, largest |found - expected| in km/s of all shapes and shifts, by S/N per Angstrom"
    )
    table = columns(["star", ""], [f"{snr:g}" for snr in LEVELS], ["flagged bad"])
    for star, file in dict.fromkeys((row["star"], row["file"]) for row in rows):
        mine = [row for row in rows if (row["star"], row["file"]) == (star, file)]
        cells = []
        for snr in LEVELS:
            off = [row["rv_difference"] for row in mine if row["snr"] == snr]
            cells.append(figure(None if None in off else max(map(abs, off)), ".2f"))
        table.add_row(star, _role(mine[0]), *cells, f"{sum(row['flag_bad'] for row in mine)} of {len(mine)}")
    console.print(table)
    said = {row["star"]: row["message"] for row in reversed(rows) if row["message"]}  # the first of each
    for star in reversed(said):
        console.print(f"{star}: {said[star]}")
    known = [
        x.name for x in with_derived_labels(labels) if any(f"{x.name}_literature" in row for row in rows)
    ]
    for scope, words in SCOPES.items():
        lines: dict[tuple[str, str, float], list[str]] = {}
        for row in summary:
            if row["scope"] == scope and row["label"] in (RV, *known):
                cell = " ".join(figure(row[key], ".2f") for key in ("median", "maximum"))
                line = (row["factor"], _comparison(row), row["snr"])
                lines.setdefault(line, []).append(cell)
        console.print(f"\n{words}: median and maximum change; rv in km/s, others in half widths")
        table = columns(["", "S/N"], ["rv", *known])
        before = ""
        for (factor, comparison, snr), cells in lines.items():
            if before and factor != before:
                table.add_row()
            before = factor
            table.add_row(comparison, f"{snr:g}", *cells)
        console.print(table)
    lost = dict.fromkeys(star for row in summary for star in row["failed"])
    if lost:
        console.print(f"not counted where they have no values: {', '.join(lost)}")


def _comparison(row: Mapping[str, Any]) -> str:
    if row["factor"] == "velocity":
        return f"shift of {row['variant']}"
    return row["variant"] if row["factor"] == "all" else f"{row['variant']} - {row['against']}"
