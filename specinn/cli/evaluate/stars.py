"""``specinn evaluate stars``: how good a model is on benchmark stars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._console import bar, echo
from specinn.cli._options import AsJson, Corrections, Device, ModelName, Overwrite, Samples, Seed
from specinn.cli._tables import columns, decimals, figure
from specinn.cli.evaluate._stars import Rows, fail_if_nothing_was_inferred, role, write_all
from specinn.cli.evaluate._task import Output, StarsFile, Task, wide_console

if TYPE_CHECKING:
    from specinn.labels import LabelSet

EXAMPLES = (
    "specinn evaluate stars 4most-hr benchmarks.csv --snr 100 --json",
    "specinn evaluate stars 4most-hr stars.csv --literature jofre.csv -o figures",
)


def stars(
    ctx: typer.Context,
    model: ModelName,
    stars: StarsFile,
    output: Output = None,
    snr: Annotated[
        list[float] | None, typer.Option(metavar="SNR", help="Per Angstrom.  [default: 250]")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Draws of the noise per star.", min=1)] = 3,
    literature: Annotated[
        Path | None,
        typer.Option(metavar="TABLE.csv", help="More of the stars by name, such as mg_fe or mg_h."),
    ] = None,
    correction: Corrections = None,
    samples: Samples = 4096,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare what a model infers from benchmark stars with the literature.

    Noise is added to their spectra down to the S/N. Reference stars of the
    training do not count.
    """
    from specinn.errors import ConfigError
    from specinn.evaluation import star_figures
    from specinn.evaluation import stars as work
    from specinn.evaluation.ksoll2026 import PUBLISHED_SNR
    from specinn.inference.corrections import load_correction

    if snr and len(snr) > 1:
        raise ConfigError("specinn evaluate stars takes one --snr: run it once for each S/N")
    task = Task.begin(
        ctx, model, output, device=device, samples=samples, seed=seed, overwrite=overwrite, as_json=as_json
    )
    meta, labels = task.meta, task.estimator.labels
    table = work.read_benchmarks(stars, labels)
    if literature is not None:
        table = work.with_literature(table, literature, labels)
        meta["literature"] = literature.name
    meta.update(stars=stars.name, snr=snr[0] if snr else PUBLISHED_SNR, seeds=seeds)
    corrections = [load_correction(task.plugins, path, meta["sha256"]) for path in correction or ()]
    with bar("spectra") as progress:
        rows = work.star_metrics(
            task.estimator, table, snr=meta["snr"], seeds=seeds, n_samples=samples, seed=seed,
            corrections=corrections, plugins=task.plugins, progress=progress,
        )  # fmt: skip
    summary = work.star_summary(rows)
    figures = {"stars": lambda: star_figures.against_literature(rows, labels)} if summary else {}
    write_all(task, {"stars": work.star_table(rows, labels, {**meta, "summary": summary})}, figures)
    task.show({"stars": rows, "summary": summary}, lambda: _show(rows, labels, summary))
    fail_if_nothing_was_inferred(rows)


def _show(rows: Rows, labels: LabelSet, summary: Mapping[str, Any]) -> None:
    """A line for each star and label that has a literature value, and the summary."""
    from itertools import zip_longest

    from specinn.flags import names
    from specinn.labels import with_derived_labels
    from specinn.posterior.display import with_unit
    from specinn.texts import shown

    labels = with_derived_labels(labels)
    corrected = any("raw" in errors for errors in summary.values())
    console = wide_console()
    # by heading, the column of the rows and whether it has a sign
    heads = {"inferred": ("", ""), "std": ("_std", ""), "literature": ("_literature", ""),
             "difference": ("_difference", "+")}  # fmt: skip
    if corrected:
        heads = {"raw": ("_raw", ""), "corrected": ("", ""), "std": ("_std", ""),
                 "literature": ("_literature", ""), "raw diff": ("_raw_difference", "+"),
                 "diff": ("_difference", "+")}  # fmt: skip
    table = columns(["star", ""], list(heads), ["flags"])
    for row in rows:
        cells = [
            [
                label.name,
                *(figure(row[label.name + end], sign + decimals(label.unit)) for end, sign in heads.values()),
            ]
            for label in labels
            if f"{label.name}_literature" in row
        ]
        empty = [""] * (1 + len(heads))
        for left, middle, flag in zip_longest([row["star"], role(row)], cells, names(row["flags"])):
            table.add_row(shown(left or ""), *(middle or empty), flag or "")
        table.add_row()
    console.print(table)
    for row in rows:
        if row["message"]:
            echo(f"{row['star']}: {row['message']}")
    echo("\nabsolute differences of the validation stars in range; reference stars are not counted")
    raw = ["raw median", "raw maximum"] if corrected else []
    table = columns([""], ["stars", *raw, "median", "maximum"], ["of"])
    for name, errors in summary.items():
        worst = shown(errors["worst"] or "-")
        style = decimals(labels[name].unit)
        of = [errors["raw"][key] for key in ("median", "maximum")] if corrected else []
        figures = (figure(value, style) for value in (*of, errors["median"], errors["maximum"]))
        table.add_row(with_unit(name, labels[name].unit), str(errors["n"]), *figures, worst)
    console.print(table)
    failed = list(dict.fromkeys(star for errors in summary.values() for star in errors["failed"]))
    if failed:
        echo(f"without values, and so not counted: {', '.join(failed)}")
