"""``specinn grid``: make or import grids of synthetic spectra, and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from specinn.grids import Grid

app = typer.Typer(no_args_is_help=True, help="Make or import grids of synthetic spectra, and look at them.")

_MODELS_LISTED = 20  # of those left out, on the terminal; the file lists all


@app.command("import")
def import_(
    source: Annotated[list[Path], typer.Argument(help="Files or folders; several are joined to one grid.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The grid to write (HDF5).")],
    loader: Annotated[str | None, typer.Option(help="Layout of the source (default: recognised).")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave defective spectra out, and list them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    resolving_power: Annotated[float | None, typer.Option(help="Degrade to this R = lambda / FWHM.")] = None,
    step: Annotated[
        float | None, typer.Option(help="Pixels of the output in Angstrom (default: 4 to the FWHM).")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", help="Keep this range in Angstrom; may be repeated.", metavar="LO-HI"),
    ] = None,
    note: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE for the provenance, where the files do not tell.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Read synthetic spectra of any known layout and write them as one grid in HDF5.

    A defective spectrum (not finite, negative, above 1.2, truncated, in contradiction to the table of labels)
    ends the import with the name of the file, unless --skip-bad.
    """
    import attrs
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from specinn.degrade import degrade
    from specinn.errors import GridError
    from specinn.grids import Grid, load

    if output.exists() and not overwrite:  # before hours of work
        raise GridError(f"{output} exists: give another name or --overwrite")
    parts = [load([path], loader) for path in source]
    if (
        resolving_power is not None or step is not None or range_
    ):  # before joining: it makes wavelengths agree
        ranges = _ranges(range_ or [])
        parts = [degrade(part, resolving_power=resolving_power, step=step, ranges=ranges) for part in parts]
    grid = Grid.concatenate(parts, [str(path) for path in source]) if len(parts) > 1 else parts[0]
    notes = _notes(note or [], grid.provenance)
    grid = attrs.evolve(grid, provenance={**grid.provenance, **notes})
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("importing", total=len(grid))
        left_out = grid.save(
            output,
            overwrite=overwrite,
            block=32,
            skip_bad=skip_bad,
            progress=lambda done: bar.update(task, completed=done),
        )
    n_models = len(set(grid.ids.tolist()) - set(left_out))
    console.print(f"{output}: {n_models} models, {len(grid.labels)} labels, {grid.wavelength.size} pixels")
    missing = grid.provenance.get("missing", [])
    if missing:
        console.print(f"{len(missing)} spectra of an interrupted run do not exist: {_some(missing, ', ')}")
    if left_out:
        reasons = _some(list(left_out.values()), "\n  ")
        console.print(f"{len(left_out)} spectra were left out:\n  {reasons}")


@app.command("make")
def make(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="What to make: tables [grid], [[prior]] and [synthesizer].")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The grid to write (default: RECIPE.h5).")
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes on this machine, of one core each.", min=1)
    ] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster with this scheduler.")
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Run in jobs of a batch system; see the guide.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Going on, compute again what failed the last time.")
    ] = False,
    give_up: Annotated[
        int, typer.Option(metavar="N", help="Stop after N failures one after another.", min=1)
    ] = 20,
    show: Annotated[bool, typer.Option("--show", help="Only show what would be made.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Draw labels from a prior, compute their spectra, and write them as one grid in HDF5.

    Interrupt it at will: the same command goes on where it was. A spectrum that fails costs itself only, and
    is listed with its labels and the reason in RECIPE.failures.csv, beside the grid.
    """
    from specinn import gridmake
    from specinn.cli.context import plugins_of
    from specinn.cli.watch import Watch
    from specinn.cluster import check as check_cluster
    from specinn.gridrecipe import Recipe

    plugins = plugins_of(ctx)
    wanted = Recipe.read(recipe)
    if show:
        _show(recipe, describe(wanted.lazy(plugins)))
        return
    output = output or recipe.with_suffix(".h5")
    if scheduler is not None or cluster is not None:
        check_cluster(scheduler, cluster)
    with Watch(quiet, "spectra") as watch:
        try:
            made = gridmake.make(
                wanted, output, plugins, watch, workers=workers, scheduler=scheduler, cluster=cluster,
                overwrite=overwrite, retry=retry, give_up=give_up,
            )  # fmt: skip
        except KeyboardInterrupt:
            watch.say("stopped; the same command goes on")
            raise typer.Exit(130) from None
    rate = f", {60 * made.computed / made.seconds:.3g} spectra a minute" if made.computed else ""
    failed = f", {made.failed} more failed and are listed in {made.table}" if made.failed else ""
    print(f"{output}: {made.models} models{failed}{rate}")


@app.command("info")
def info(
    grid: Annotated[Path, typer.Argument(help="A grid, or any layout that can be imported.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a grid holds: models, labels, wavelengths, resolving power, provenance."""
    import json

    from specinn.grids import load

    about = describe(load([grid]))
    if json_:
        typer.echo(json.dumps(about, indent=2))
        return
    _show(grid, about)


def _show(path: Path, about: dict[str, Any]) -> None:
    """What :func:`describe` gives, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    splits = ", ".join(f"{name} {count}" for name, count in about["splits"].items())
    console.print(f"{path}: {about['n_models']} models ({splits}), hash {about['hash']}")
    console.print(f"R = {about['resolving_power']}, {about['medium']} wavelengths")
    arms = Table("arm", "from A", "to A", "step A", "pixels", box=None)
    for name, arm in about["arms"].items():
        arms.add_row(
            name, f"{arm['low']:.2f}", f"{arm['high']:.2f}", f"{arm['step']:.4g}", str(arm["pixels"])
        )
    console.print(arms)
    labels = Table("label", "unit", "min", "median", "max", box=None)
    for name, row in about["labels"].items():
        labels.add_row(name, row["unit"], *(f"{row[key]:.6g}" for key in ("min", "median", "max")))
    console.print(labels)
    for key, value in about["provenance"].items():
        shown = f"{len(value)}: {_some(value, ', ')}" if isinstance(value, list) and value else _plain(value)
        console.print(f"{key}: {shown}")
    for reason in about["defects"]:
        console.print(f"defect: {reason}")


def describe(grid: Grid) -> dict[str, Any]:
    """What ``specinn grid info --json`` prints; an infinite resolving power is the string ``inf``."""
    import numpy as np

    from specinn.grids import SPLITS
    from specinn.labels import make_label

    labels = {}
    for name, column in zip(grid.labels, grid.values.T, strict=True):
        unit = make_label(name, (0.1, 1.0)).unit
        stats = {"min": column.min(), "median": np.median(column), "max": column.max()}
        labels[name] = {"unit": unit, **{key: float(value) for key, value in stats.items()}}
    arms = {}
    for name, arm in grid.arms.items():
        wave = grid.wavelength[arm]
        arms[name] = {
            "low": float(wave[0]),
            "high": float(wave[-1]),
            "step": float(np.median(np.diff(wave))),
            "pixels": int(wave.size),
        }
    return {
        "n_models": len(grid),
        "splits": {name: len(grid.split(name)) for name in SPLITS},
        "hash": grid.hash,
        "resolving_power": float(grid.resolving_power) if np.isfinite(grid.resolving_power) else "inf",
        "medium": grid.medium,
        "arms": arms,
        "labels": labels,
        "provenance": dict(grid.provenance),
        "defects": list(grid.defects.values()),
    }


def _ranges(given: list[str]) -> list[tuple[float, float]]:
    """``LO-HI``, ``LO,HI`` or ``"LO HI"`` of each option."""
    from specinn.errors import GridError

    out = []
    for text in given:
        fields = text.replace("-", " ").replace(",", " ").split()
        try:
            low, high = (float(field) for field in fields)
        except ValueError:
            raise GridError(
                f"--range {text!r}: expected two wavelengths in Angstrom, such as 5148-5740"
            ) from None
        out.append((low, high))
    return out


def _notes(given: list[str], known: Any) -> dict[str, str]:
    from specinn.errors import GridError

    out = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise GridError(f"--note {text!r}: expected KEY=VALUE, such as atmospheres=MARCS")
        if key.strip() in known:
            raise GridError(f"--note {key.strip()}: the files state it already, as {known[key.strip()]!r}")
        out[key.strip()] = value.strip()
    return out


def _some(items: list[Any], separator: str) -> str:
    rest = len(items) - _MODELS_LISTED
    return separator.join(map(str, items[:_MODELS_LISTED])) + (
        f"{separator}and {rest} more" if rest > 0 else ""
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return str(value)
