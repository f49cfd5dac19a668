"""``specinn evaluate``: how good a model is on held-out grid spectra or on benchmark stars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from specinn.interfaces import Estimator
    from specinn.labels import Label

_UNITS = {"km s-1": "km/s", "dex(cm s-2)": "dex"}


def evaluate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Name or file of a model.")],
    grid: Annotated[
        list[Path] | None,
        typer.Option(
            help="Grid of synthetic spectra, of which the model has not seen the split; repeatable."
        ),
    ] = None,
    stars: Annotated[
        Path | None, typer.Option(metavar="STARS.csv", help="Table of benchmark stars and their spectra.")
    ] = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(help="S/N per Angstrom (default 250); may be repeated with --grid."),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the grid: test, validation or train.")] = "test",
    samples: Annotated[int, typer.Option(help="Posterior samples a spectrum.", min=2)] = 4096,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="Draws of the noise for each benchmark star.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, or cuda:N.")] = "cpu",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write (.ecsv).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare what a model infers with the truth: of held-out grid spectra (--grid) or of stars (--stars).

    Grid spectra are observed with the model's instrument, rotation and noise. Stars go the way of specinn
    run, with noise added down to the S/N; calibrators of the training are marked and do not count.
    """
    import specinn
    from specinn import benchmarks as observed
    from specinn import evaluate as work
    from specinn import models
    from specinn.cli.context import plugins_of, print_json
    from specinn.errors import ConfigError
    from specinn.grids import load

    levels = snr or [work.PUBLISHED_SNR]
    if bool(grid) == (stars is not None):
        raise ConfigError("say on what to evaluate the model: either --grid GRID or --stars STARS.csv")
    if stars is not None and len(levels) > 1:
        raise ConfigError("--stars takes one --snr: call it once for each")
    if output is not None:
        work.check(output, overwrite=overwrite)
    plugins = plugins_of(ctx)
    chosen = models.find(plugins, model)
    estimator = models.load(plugins, chosen, device)
    meta: dict[str, Any] = {
        "specinn": specinn.__version__, "model": chosen.name, "sha256": chosen.sha256(), "samples": samples,
        "seed": seed,
    }  # fmt: skip
    if grid:
        synthetic = load(grid, plugins=plugins)
        meta |= {"grid": synthetic.hash, "models": len(synthetic.split(split)), "split": split}
        with _bar("spectra") as progress:
            rows = work.grid_metrics(
                estimator, synthetic, snr=levels, split=split, n_samples=samples, seed=seed, plugins=plugins,
                progress=progress,
            )  # fmt: skip
        table = work.grid_table(rows, meta)
        report: dict[str, Any] = {"meta": meta, "metrics": rows}
    else:
        assert stars is not None
        catalogue = observed.read_benchmarks(stars, estimator.labels)
        meta |= {"stars": stars.name, "snr": levels[0], "seeds": seeds}
        with _bar("spectra") as progress:
            rows = observed.star_metrics(
                estimator, catalogue, snr=levels[0], seeds=seeds, n_samples=samples, seed=seed,
                plugins=plugins, progress=progress,
            )  # fmt: skip
        summary = observed.star_summary(rows)
        table = observed.star_table(rows, estimator.labels, {**meta, "summary": summary})
        report = {"meta": meta, "stars": rows, "summary": summary}
    if output is not None:
        work.write(table, output, overwrite=overwrite)
    if as_json:
        print_json(report)
    elif grid:
        _show_grid(rows, split)
    else:
        _show_stars(rows, estimator, report["summary"])
    if output is not None and not as_json:
        print(output)
    _fail_if_nothing_was_inferred(rows, bool(grid))


def _fail_if_nothing_was_inferred(rows: Sequence[dict[str, Any]], from_grid: bool) -> None:
    from specinn.errors import ModelError

    if from_grid and not any(row["n"] for row in rows):
        raise ModelError(
            "all samples of all stars lie outside the training bounds: the model does not suit the grid"
        )
    if not from_grid and all(row["flag_bad"] for row in rows):
        reason = next((row["message"] for row in rows if row["message"]), "see the flags")
        raise ModelError(f"none of the stars gave values: {reason}")


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show_grid(rows: Sequence[dict[str, Any]], split: str) -> None:
    """One table for each S/N and scope."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for snr, scope in dict.fromkeys((row["snr"], row["scope"]) for row in rows):
        mine = [row for row in rows if (row["snr"], row["scope"]) == (snr, scope)]
        published = any(row["published_std"] is not None for row in mine)
        first = mine[0]
        notes = [f"{first['n']} stars", f"{100 * first['rejected_fraction']:.1f} % of samples rejected"]
        notes += [f"{first['failed']} without a posterior"] if first["failed"] else []
        notes += [f"{first['outside']} stars outside the training bounds"] if first["outside"] else []
        console.print(f"S/N {snr:g} per Angstrom, {split} split, {scope}: {', '.join(notes)}")
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
        table = _columns([""], heads)
        for row in mine:
            style = _style(row["unit"], more=1)
            cells = [_figure(row["mean_residual"], f"+{style}")]
            cells += [_figure(row[key], style) for key in ("std", "robust_std", "posterior_std")]
            cells += [_figure(row["nrmse"], ".3f"), *(_figure(row[f"inside_{q}"], ".2f") for q in (68, 95))]
            cells += [_figure(row["published_std"], ".3g")] if published else []
            table.add_row(_with_unit(row["label"], row["unit"]), *cells)
        console.print(table)
        console.print()
    console.print("mean, std, robust: of MAP minus truth; width: median standard deviation of the posteriors")
    console.print("68 %, 95 %: fraction of truths within these intervals of the posterior")
    if any(row["published_std"] is not None for row in rows):
        console.print("published: standard deviation of Ksoll et al. 2026 (A&A 708, A118) on their test set")


def _show_stars(rows: Sequence[dict[str, Any]], estimator: Estimator, summary: dict[str, Any]) -> None:
    """A line for each star and label that has a literature value, and the summary."""
    from itertools import zip_longest

    from rich.console import Console

    from specinn.flags import names
    from specinn.labels import with_derived_labels

    labels = with_derived_labels(estimator.labels)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = _columns(["star", ""], ["inferred", "std", "literature", "difference"], ["flags"])
    for row in rows:
        head = [
            row["star"],
            row["role"] if row["role"] == "calibrator" or row["in_range"] else "out of range",
        ]
        known = [label for label in labels if f"{label.name}_literature" in row]
        cells = [[label.name, *_cells(row, label)] for label in known]
        for left, middle, flag in zip_longest(head, cells, names(row["flags"])):
            table.add_row(left or "", *(middle or [""] * 5), flag or "")
        table.add_row()
    console.print(table)
    for row in rows:
        if row["message"]:
            console.print(f"{row['star']}: {row['message']}")
    console.print("\nabsolute differences of the validation stars in range; calibrators are not counted")
    table = _columns([""], ["stars", "median", "maximum"], ["of"])
    for name, found in summary.items():
        style = _style(labels[name].unit)
        figures = (_figure(found[key], style) for key in ("median", "maximum"))
        table.add_row(_with_unit(name, labels[name].unit), str(found["n"]), *figures, found["worst"] or "-")
    console.print(table)
    failed = list(dict.fromkeys(star for found in summary.values() for star in found["failed"]))
    if failed:
        console.print(f"without values, and so not counted: {', '.join(failed)}")


def _columns(left: Sequence[str], right: Sequence[str], last: Sequence[str] = ()) -> Table:
    """A table without lines: columns of words, of numbers, of words."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in (*left, *right, *last):
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    return table


def _cells(row: dict[str, Any], label: Label) -> list[str]:
    """Inferred, std, literature and difference of one label."""
    style = _style(label.unit)
    cells = [_figure(row[f"{label.name}{end}"], style) for end in ("", "_std", "_literature")]
    return [*cells, _figure(row[f"{label.name}_difference"], f"+{style}")]


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({_UNITS.get(unit, unit)})"


def _style(unit: str, more: int = 0) -> str:
    """The decimals that the unit deserves, and some ``more``."""
    return f".{ {'K': 0, 'km s-1': 1}.get(unit, 2) + more }f"


def _figure(value: float | None, style: str) -> str:
    return "-" if value is None else f"{value:{style}}"
