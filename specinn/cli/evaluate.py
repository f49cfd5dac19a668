"""``specinn evaluate``: how good a model is on held-out grid spectra or on benchmark stars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from specinn.cli.context import bar, plugins_of, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from specinn.evaluate import Comparison
    from specinn.grids import Grid
    from specinn.interfaces import Estimator
    from specinn.labels import Label
    from specinn.plugins import Plugins

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
    strangers: Annotated[
        bool,
        typer.Option(
            "--strangers",
            help="With --grid: make spectra unlike those of the training, and count those that are flagged.",
        ),
    ] = False,
    snr: Annotated[
        list[float] | None,
        typer.Option(
            help="S/N per Angstrom, repeatable with --grid; default 250, for a report the paper's 19 values."
        ),
    ] = None,
    as_observed: Annotated[
        bool,
        typer.Option(
            "--as-observed",
            help="With --grid: allow for errors of the physics, as in observed spectra.",
        ),
    ] = False,
    disturbed: Annotated[
        bool,
        typer.Option(
            "--disturbed",
            help="With --grid: with the errors of velocity, resolving power and continuum and the gaps that "
            "the training drew, so that posteriors can be as wide as they should be.",
        ),
    ] = False,
    split: Annotated[str, typer.Option(help="Part of the grid: test, validation or train.")] = "test",
    samples: Annotated[int, typer.Option(help="Posterior samples a spectrum.", min=2)] = 4096,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="Draws of the noise for each benchmark star.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, or cuda:N.")] = "cpu",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.ecsv|DIR",
            help="Table to write, or with --grid a folder for a report: a page, figures and tables.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare what a model infers with the truth: of held-out grid spectra (--grid) or of stars (--stars).

    Grid spectra are observed with the model's instrument, rotation and noise. Stars go the way of specinn
    run, with noise added down to the S/N; calibrators of the training are marked and do not count.
    """
    import specinn
    from specinn import evaluate as work
    from specinn import models, report
    from specinn.errors import ConfigError
    from specinn.grids import load
    from specinn.published import PUBLISHED_LEVELS, PUBLISHED_SNR

    if bool(grid) == (stars is not None):
        raise ConfigError("say on what to evaluate the model: either --grid GRID or --stars STARS.csv")
    if stars is not None and snr and len(snr) > 1:
        raise ConfigError("--stars takes one --snr: call it once for each")
    if (strangers or as_observed or disturbed) and not grid:
        raise ConfigError(
            "--strangers, --as-observed and --disturbed are for spectra of a grid: give --grid GRID"
        )
    if strangers and disturbed:
        raise ConfigError("--strangers are made in their own ways: leave --disturbed")
    path = Path(output) if output is not None else None
    is_folder = path is not None and (str(output).endswith("/") or not path.suffix)
    folder = is_folder and bool(grid) and not strangers
    if path is not None and folder:
        report.check(path, overwrite=overwrite)
    elif path is not None:
        work.check(path, overwrite=overwrite)
    levels = snr or (PUBLISHED_LEVELS if folder else [PUBLISHED_SNR])
    plugins = plugins_of(ctx)
    chosen = models.find(plugins, model)
    estimator = models.load(plugins, chosen, device)
    meta: dict[str, Any] = {
        "specinn": specinn.__version__, "model": chosen.name, "sha256": chosen.sha256(), "samples": samples,
        "seed": seed,
    }  # fmt: skip
    task = _Task(meta, plugins, path, overwrite, as_json)
    if stars is not None:
        meta |= {"stars": stars.name, "snr": levels[0], "seeds": seeds}
        _on_stars(task, estimator, stars)
        return
    models_of = load(grid or [], plugins=plugins)
    meta |= {"grid": models_of.hash, "models": len(models_of.split(split)), "split": split}
    meta |= {"observed": as_observed, "disturbed": disturbed}
    if strangers:
        _on_strangers(task, estimator, models_of, snr or (50.0, 250.0), as_observed)
        return
    with bar("spectra") as progress:
        comparison = work.compare(
            estimator, models_of, snr=levels, split=split, n_samples=samples, seed=seed, plugins=plugins,
            with_ranks=folder, as_observed=as_observed, disturbed=disturbed, progress=progress,
        )  # fmt: skip
    _on_grid(task, comparison, folder)


@attrs.frozen
class _Task:
    """What the ways to evaluate share: figures for the ``meta`` of the result, and where it goes."""

    meta: dict[str, Any]
    plugins: Plugins
    path: Path | None
    overwrite: bool
    as_json: bool

    def write(self, table: Any) -> None:
        from specinn.evaluate import write

        if self.path is not None:
            write(table, self.path, overwrite=self.overwrite)

    def show(self, found: dict[str, Any], display: Callable[[], None], page: str = "") -> None:
        """``found`` as JSON, or what ``display`` prints and the place of what was written."""
        if self.as_json:
            print_json({"meta": self.meta, **found})
            return
        display()
        if self.path is not None:
            print(self.path / page)


def _on_grid(task: _Task, comparison: Comparison, folder: bool) -> None:
    """Write a table or a report of what was inferred, and print it."""
    from specinn import evaluate as work
    from specinn import report
    from specinn.report import tables

    rows = {"metrics": comparison.metrics()}
    _fail_if_nothing_was_inferred(rows["metrics"], from_grid=True)
    bounds, why = tables.limits(comparison, task.plugins)
    if bounds is not None:
        rows["information"] = tables.information(comparison, bounds)
    if task.path is not None and folder:
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
        task.write(work.grid_table(rows["metrics"], task.meta))

    def display() -> None:
        shown = [tables.reference_level(comparison.snr)] if folder else list(comparison.snr)
        chosen = {name: [row for row in of if row["snr"] in shown] for name, of in rows.items()}
        _show_grid(chosen["metrics"], task.meta["split"])
        _show_information(chosen.get("information", []), why)

    task.show(rows, display, report.PAGE if folder else "")


def _on_strangers(
    task: _Task, estimator: Estimator, grid: Grid, snr: Sequence[float], as_observed: bool
) -> None:
    """Make strangers of the grid's split as ``meta`` says, write the table and print it."""
    from specinn.strangers import strangers_table

    meta = task.meta
    with bar("spectra") as progress:
        table = strangers_table(
            estimator, grid, task.plugins, snr, n_samples=meta["samples"], split=meta["split"],
            seed=meta["seed"], as_observed=as_observed, progress=progress,
        )  # fmt: skip
    table.meta |= meta
    task.write(table)
    rows = [{name: _plain(row[name]) for name in table.colnames} for row in table]
    task.show({"strangers": rows}, lambda: _show_strangers(rows, meta["split"]))


def _on_stars(task: _Task, estimator: Estimator, stars: Path) -> None:
    """Infer benchmark stars as ``meta`` says, write the table and print it."""
    from specinn import benchmarks as observed

    meta, catalogue = task.meta, observed.read_benchmarks(stars, estimator.labels)
    with bar("spectra") as progress:
        rows = observed.star_metrics(
            estimator, catalogue, snr=meta["snr"], seeds=meta["seeds"], n_samples=meta["samples"],
            seed=meta["seed"], plugins=task.plugins, progress=progress,
        )  # fmt: skip
    summary = observed.star_summary(rows)
    task.write(observed.star_table(rows, estimator.labels, {**meta, "summary": summary}))
    task.show({"stars": rows, "summary": summary}, lambda: _show_stars(rows, estimator, summary))
    _fail_if_nothing_was_inferred(rows, from_grid=False)


def _fail_if_nothing_was_inferred(rows: Sequence[dict[str, Any]], from_grid: bool) -> None:
    from specinn.errors import ModelError

    if from_grid and not any(row["n"] for row in rows):
        raise ModelError(
            "all samples of all stars lie outside the training bounds: the model does not suit the grid"
        )
    if not from_grid and all(row["flag_bad"] for row in rows):
        reason = next((row["message"] for row in rows if row["message"]), "see the flags")
        raise ModelError(f"none of the stars gave values: {reason}")


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


def _show_information(rows: Sequence[dict[str, Any]], why: str) -> None:
    """Errors over the Cramer-Rao bound, one table for each S/N."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not rows:
        console.print(f"no information limit: {why}")
        return
    scopes = list(dict.fromkeys(row["scope"] for row in rows))
    for snr in dict.fromkeys(row["snr"] for row in rows):
        console.print(
            f"\nS/N {snr:g} per Angstrom, errors and the information limit of {scopes[-1]}, and ratios"
        )
        table = _columns([""], ["error", "bound", "ratio", *(f"ratio, {scope}" for scope in scopes[:-1])])
        for name in dict.fromkeys(row["label"] for row in rows):
            mine = {row["scope"]: row for row in rows if (row["snr"], row["label"]) == (snr, name)}
            last = mine[scopes[-1]]
            style = _style(last["unit"], more=1)
            cells = [_figure(last[key], style) for key in ("error", "bound")]
            cells += [_figure(mine[scope]["ratio"], ".2f") for scope in (scopes[-1], *scopes[:-1])]
            table.add_row(_with_unit(name, last["unit"]), *cells)
        console.print(table)
    console.print("\nbound: median Cramer-Rao bound; error: median of |MAP - truth| over 0.6745")
    console.print("ratio: median of |MAP - truth| / bound over 0.6745, 1 at the information limit")


def _show_strangers(rows: Sequence[dict[str, Any]], split: str) -> None:
    """One table for each S/N."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for snr in dict.fromkeys(row["snr"] for row in rows):
        console.print(f"S/N {snr:g} per Angstrom, {split} split")
        table = _columns([""], ["bad", "stranger", "score", "68 %", "95 %"])
        for row in (row for row in rows if row["snr"] == snr):
            fractions = [_figure(row[name], ".3f") for name in ("bad", "stranger")]
            inside = [_figure(row[name], ".2f") for name in ("score", "inside_68", "inside_95")]
            table.add_row(row["kind"], *fractions, *inside)
        console.print(table)
    console.print("\nbad, stranger: fractions with these flags; 68 %, 95 %: truths inside these intervals")


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


def _plain(value: Any) -> Any:
    """A cell of a table for JSON: None where it is masked."""
    return value.tolist() if hasattr(value, "tolist") else value


def _figure(value: float | None, style: str) -> str:
    return "-" if value is None else f"{value:{style}}"
