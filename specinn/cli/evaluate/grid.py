"""``specinn evaluate``: how good a model is on held-out grid spectra or on benchmark stars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from specinn.cli._console import bar, plugins_of, print_json
from specinn.cli._options import AsJson, Device, ModelName, Overwrite, Samples, Seed, splits
from specinn.cli._tables import columns, decimals, figure

if TYPE_CHECKING:
    from specinn.evaluation.comparison import Comparison
    from specinn.grids import Grid
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Estimator

ON_GRID, ON_STARS = "With --grid", "With --stars"  # panels of the help

EXAMPLES = (
    "specinn evaluate 4most-hr-gr --grid grid.h5 -o report",
    "specinn evaluate 4most-hr-gr --stars benchmarks.csv --snr 100 --json",
)


def evaluate(
    ctx: typer.Context,
    model: ModelName,
    grid: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="GRID.h5", help="Synthetic spectra, of which --split is new to the model; repeatable."
        ),
    ] = None,
    stars: Annotated[
        Path | None, typer.Option(metavar="STARS.csv", help="Table of benchmark stars and their spectra.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE.ecsv|DIR", help="A table, or a folder with figures, too."
        ),
    ] = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(metavar="SNR", help="Per Angstrom.  [default: 250; in a folder the paper's 19]"),
    ] = None,
    samples: Samples = 4096,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Part of the grid.", autocompletion=splits, rich_help_panel=ON_GRID
        ),
    ] = "test",
    as_observed: Annotated[
        bool,
        typer.Option("--as-observed", help="Allow for errors of the physics.", rich_help_panel=ON_GRID),
    ] = False,
    disturbed: Annotated[
        bool,
        typer.Option(
            "--disturbed",
            help="With the errors of velocity, resolution and continuum and the gaps that the training drew.",
            rich_help_panel=ON_GRID,
        ),
    ] = False,
    strangers: Annotated[
        bool,
        typer.Option(
            "--strangers",
            help="Make spectra unlike those of the training, and count those that are flagged.",
            rich_help_panel=ON_GRID,
        ),
    ] = False,
    correction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.toml", help="Correct by this file, too; repeatable.", rich_help_panel=ON_STARS
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Draws of the noise a star.  [default: 3]",
            min=1,
            rich_help_panel=ON_STARS,
        ),
    ] = None,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Every star in 60 ways: three shapes of the continuum, five velocities, four S/N.",
            rich_help_panel=ON_STARS,
        ),
    ] = False,
) -> None:
    """Compare what a model infers with the truth.

    That of held-out grid spectra (--grid), observed with the model's instrument, rotation and noise; or of
    benchmark stars (--stars), with noise added down to the S/N. Calibrators do not count.
    """
    import specinn
    from specinn import models
    from specinn.cli.evaluate.stars import on_stars, on_stars_in_many_ways
    from specinn.evaluation import comparison as work
    from specinn.evaluation.ksoll2026 import PUBLISHED_LEVELS, PUBLISHED_SNR
    from specinn.evaluation.stars import read_benchmarks
    from specinn.grids import load
    from specinn.inference.run import load_correction
    from specinn.report.evaluation import folder as report

    _check_calls(bool(grid), stars is not None, strangers, as_observed or disturbed, disturbed)
    _check_calls_on_stars(stars is not None, robustness, snr, seeds, correction)
    path = Path(output) if output is not None else None
    is_folder = path is not None and (str(output).endswith("/") or not path.suffix)
    folder = is_folder and not strangers
    if path is not None and folder:
        report.check(path, overwrite=overwrite)
    elif path is not None:
        work.check(path, overwrite=overwrite)
    levels = snr or (PUBLISHED_LEVELS if folder and grid else [PUBLISHED_SNR])
    plugins = plugins_of(ctx)
    chosen = models.find(plugins, model)
    estimator = models.load(plugins, chosen, device)
    meta: dict[str, Any] = {
        "specinn": specinn.__version__, "model": chosen.name, "sha256": chosen.sha256(), "samples": samples,
        "seed": seed,
    }  # fmt: skip
    task = Task(meta, plugins, path, folder, overwrite, as_json)
    if stars is not None:
        meta["stars"] = stars.name
        table = read_benchmarks(stars, estimator.labels)
        if robustness:
            on_stars_in_many_ways(task, estimator, table)
            return
        meta |= {"snr": levels[0], "seeds": seeds or 3}
        on_stars(
            task, estimator, table, [load_correction(plugins, c, meta["sha256"]) for c in correction or ()]
        )
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
    _on_grid(task, comparison)


def _check_calls(grid: bool, stars: bool, strangers: bool, observed: bool, disturbed: bool) -> None:
    """Raises ``ConfigError`` for options that do not go together."""
    from specinn.errors import ConfigError

    if grid == stars:
        raise ConfigError("say on what to evaluate the model: either --grid GRID or --stars STARS.csv")
    if (strangers or observed) and not grid:
        raise ConfigError(
            "--strangers, --as-observed and --disturbed are for spectra of a grid: give --grid GRID"
        )
    if strangers and disturbed:
        raise ConfigError("--strangers are made in their own ways: leave --disturbed")


def _check_calls_on_stars(
    stars: bool,
    robustness: bool,
    snr: Sequence[float] | None,
    seeds: int | None,
    correction: Sequence[str] | None,
) -> None:
    """Raises ``ConfigError`` for options that do not go together."""
    from specinn.errors import ConfigError

    if (robustness or correction) and not stars:
        raise ConfigError("--robustness and --correction are for benchmark stars: give --stars STARS.csv")
    if robustness and (snr or seeds or correction):
        raise ConfigError("--robustness has its own S/N and noise: leave --snr, --seeds and --correction")
    if stars and snr and len(snr) > 1:
        raise ConfigError("--stars takes one --snr: call it once for each")


@attrs.frozen
class Task:
    """What the ways to evaluate share: figures for the ``meta`` of the result, and where it goes."""

    meta: dict[str, Any]
    plugins: Plugins
    path: Path | None
    folder: bool
    overwrite: bool
    as_json: bool

    def write(self, table: Any) -> None:
        from specinn.evaluation.comparison import write

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


def _on_grid(task: Task, comparison: Comparison) -> None:
    """Write a table or a report of what was inferred, and print it."""
    from specinn.errors import ModelError
    from specinn.evaluation import comparison as work
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
        task.write(work.grid_table(rows["metrics"], task.meta))

    def display() -> None:
        shown = [tables.reference_level(comparison.snr)] if task.folder else list(comparison.snr)
        chosen = {name: [row for row in of if row["snr"] in shown] for name, of in rows.items()}
        _show_grid(chosen["metrics"], task.meta["split"])
        _show_information(chosen.get("information", []), why)

    task.show(rows, display, report.PAGE if task.folder else "")


def _on_strangers(
    task: Task, estimator: Estimator, grid: Grid, snr: Sequence[float], as_observed: bool
) -> None:
    """Make strangers of the grid's split as ``meta`` says, write the table and print it."""
    from specinn.evaluation.ood import strangers_table

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


def _show_grid(rows: Sequence[dict[str, Any]], split: str) -> None:
    """One table for each S/N and scope."""
    from rich.console import Console

    from specinn.posterior.display import with_unit

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
        table = columns([""], heads)
        for row in mine:
            style = decimals(row["unit"], more=1)
            cells = [figure(row["mean_residual"], f"+{style}")]
            cells += [figure(row[key], style) for key in ("std", "robust_std", "posterior_std")]
            cells += [figure(row["nrmse"], ".3f"), *(figure(row[f"inside_{q}"], ".2f") for q in (68, 95))]
            cells += [figure(row["published_std"], ".3g")] if published else []
            table.add_row(with_unit(row["label"], row["unit"]), *cells)
        console.print(table)
        console.print()
    console.print("mean, std, robust: of MAP minus truth; width: median standard deviation of the posteriors")
    console.print("68 %, 95 %: fraction of truths within these intervals of the posterior")
    if any(row["published_std"] is not None for row in rows):
        console.print("published: standard deviation of Ksoll et al. 2026 (A&A 708, A118) on their test set")


def _show_information(rows: Sequence[dict[str, Any]], why: str) -> None:
    """Errors over the Cramer-Rao bound, one table for each S/N."""
    from rich.console import Console

    from specinn.posterior.display import with_unit

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not rows:
        console.print(f"no information limit: {why}")
        return
    scopes = list(dict.fromkeys(row["scope"] for row in rows))
    for snr in dict.fromkeys(row["snr"] for row in rows):
        console.print(
            f"\nS/N {snr:g} per Angstrom, errors and the information limit of {scopes[-1]}, and ratios"
        )
        table = columns([""], ["error", "bound", "ratio", *(f"ratio, {scope}" for scope in scopes[:-1])])
        for name in dict.fromkeys(row["label"] for row in rows):
            mine = {row["scope"]: row for row in rows if (row["snr"], row["label"]) == (snr, name)}
            last = mine[scopes[-1]]
            style = decimals(last["unit"], more=1)
            cells = [figure(last[key], style) for key in ("error", "bound")]
            cells += [figure(mine[scope]["ratio"], ".2f") for scope in (scopes[-1], *scopes[:-1])]
            table.add_row(with_unit(name, last["unit"]), *cells)
        console.print(table)
    console.print("\nbound: median Cramer-Rao bound; error: median of |MAP - truth| over 0.6745")
    console.print("ratio: median of |MAP - truth| / bound over 0.6745, 1 at the information limit")


def _show_strangers(rows: Sequence[dict[str, Any]], split: str) -> None:
    """One table for each S/N."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for snr in dict.fromkeys(row["snr"] for row in rows):
        console.print(f"S/N {snr:g} per Angstrom, {split} split")
        table = columns([""], ["bad", "stranger", "score", "68 %", "95 %"])
        for row in (row for row in rows if row["snr"] == snr):
            fractions = [figure(row[name], ".3f") for name in ("bad", "stranger")]
            inside = [figure(row[name], ".2f") for name in ("score", "inside_68", "inside_95")]
            table.add_row(row["kind"], *fractions, *inside)
        console.print(table)
    console.print("\nbad, stranger: fractions with these flags; 68 %, 95 %: truths inside these intervals")


def _plain(value: Any) -> Any:
    """A cell of a table for JSON: None where it is masked."""
    return value.tolist() if hasattr(value, "tolist") else value
